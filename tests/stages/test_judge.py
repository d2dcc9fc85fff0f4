"""Stage 3: what is kept, what is counted and left out, and a stage that survives being killed."""

from collections.abc import Callable

import pytest

from isrdpo.core import records, runs
from isrdpo.models import local as vlmm
from isrdpo.models import verdicts
from isrdpo.stages import data, judge, respond

FILES = ("judgments.jsonl", "preferences.jsonl")


@pytest.fixture
def responded(make_run: Callable) -> Callable:
    def made(name: str, *overrides: str) -> runs.Run:
        run = make_run(name, *overrides)
        data.run(run, 1)
        respond.run(run, 1)
        return run

    return made


def judgments(run: runs.Run) -> list[records.Judgment]:
    return records.read_jsonl(run.file(1, "judgments.jsonl"), records.Judgment)


def preferences(run: runs.Run) -> list[records.Preference]:
    return records.read_jsonl(run.file(1, "preferences.jsonl"), records.Preference)


@pytest.mark.slow
def test_killed_after_a_batch_it_ends_with_the_same_bytes(responded: Callable, kill_at: Callable) -> None:
    whole, broken = (responded(name, "judge.batch_size=1") for name in ("whole", "broken"))
    judge.run(whole, 1)
    kill_at(broken, "judge", 1, "judgments.jsonl", 2)
    judge.run(broken, 1)
    for name in FILES:
        assert whole.file(1, name).read_bytes() == broken.file(1, name).read_bytes()


def test_every_sample_is_accounted_for_once(responded: Callable) -> None:
    run = responded("sum")
    rows = records.read_jsonl(run.file(1, "responses.jsonl"), records.Responses)
    changed = [
        records.Responses(rows[0].id, ["Same.", "Same. "], rows[0].context, None), records.Responses(rows[1].id, ["", "b"], rows[1].context, None),
        records.Responses(rows[2].id, ["a", "b"], " ", None), *rows[3:],
    ]  # fmt: skip
    records.write_jsonl(run.file(1, "responses.jsonl"), changed)
    judge.run(run, 1)
    counts, calls, kept = run.done("judge", 1)["counts"], judgments(run), preferences(run)
    assert (
        sum(counts.values()) == 10
        and (counts["ties"], counts["empty"]) == (1, 2)
        and counts["kept"] == len(kept)
    )
    assert [c.id for c in calls] == [r.id for r in rows[3:] for _ in range(2)] and [
        c.order for c in calls
    ] == [0, 1] * 7
    for pair in kept:
        mine, texts = (
            [c for c in calls if c.id == pair.id],
            next(r.responses for r in rows if r.id == pair.id),
        )
        assert {c.choice for c in mine} == {texts.index(pair.chosen)} and pair.rejected == texts[
            1 - texts.index(pair.chosen)
        ]


def test_one_order_decides_alone(responded: Callable) -> None:
    run = responded("single", "judge.orders=1")
    judge.run(run, 1)
    assert [c.order for c in judgments(run)] == [0] * 10 and run.done("judge", 1)["counts"]["kept"] == 10


def test_a_weak_margin_is_no_verdict(responded: Callable) -> None:
    run = responded("weak", "judge.orders=1", "judge.min_margin=100.0")
    judge.run(run, 1)
    assert run.done("judge", 1)["counts"]["weak"] == 10 and preferences(run) == []


def test_the_context_is_shown_to_the_judge_only_where_there_is_one(responded: Callable) -> None:
    run = responded("shown", "judge.orders=1")
    sample = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[0]
    model = vlmm.open_policy(run.params, run.policy(1))
    videos = model.encode([run.clip(sample.video)])
    scores = [
        verdicts.ask_policy(
            model, run.params, [sample.id], videos, [sample.question], [["Red.", "Blue."]], [context]
        )[0][0].scores
        for context in (None, "", "The background is black.", "The background is white.")
    ]
    assert len({tuple(score) for score in scores}) == 4


@pytest.mark.parametrize("method", ["score", "generate"])
def test_what_is_too_long_to_read_is_not_asked(responded: Callable, method: str) -> None:
    run = responded(f"long_{method}", f"judge.method={method}")
    rows = records.read_jsonl(run.file(1, "responses.jsonl"), records.Responses)
    records.write_jsonl(
        run.file(1, "responses.jsonl"),
        [records.Responses(rows[0].id, ["red " * 3000, "blue"], rows[0].context, None), *rows[1:]],
    )
    judge.run(run, 1)
    first = [c for c in judgments(run) if c.id == rows[0].id]
    assert [(c.choice, c.reply, c.scores) for c in first] == [(None, verdicts.TOO_LONG, None)] * 2
    listed = {row["id"]: row["detail"] for row in records.read_jsonl(run.file(1, "bad_judge.jsonl"), dict)}
    assert listed[rows[0].id] == verdicts.TOO_LONG and rows[0].id not in {p.id for p in preferences(run)}
    assert {c.id for c in judgments(run)} == {r.id for r in rows}  # the others were asked all the same


def test_equal_scores_are_undecided_not_unparsed() -> None:
    even, torn = records.Judgment("x", 0, None, "", [-1.0, -1.0]), records.Judgment("x", 1, None, "Hm.", None)
    sure = records.Judgment("x", 1, 0, "", [-1.0, -2.0])
    assert verdicts.decide([even, sure]) == (None, "undecided")
    assert verdicts.decide([even, torn]) == (None, "unparsed")


def test_the_margin_is_the_mean_log_odds() -> None:
    calls = [records.Judgment("x", 0, 0, "", [-1.0, -2.0]), records.Judgment("x", 1, 0, "", [-0.5, -2.5])]
    assert verdicts.margin(calls) == 1.5 and verdicts.margin([records.Judgment("x", 0, 0, "", None)]) is None
    assert verdicts.decide(calls, 1.5) == (0, "kept") and verdicts.decide(calls, 1.51) == (None, "weak")


def pair(number: int, longer: int, margin: float | None) -> records.Preference:
    return records.Preference(str(number), "v", "q", "a " * (5 + longer), "a " * 5, margin)


def test_balanced_lengths_lose_the_weakest_of_the_more_numerous() -> None:
    pairs = [pair(0, 3, 0.5), pair(1, 3, 2.0), pair(2, -2, 0.1), pair(3, 0, 0.0), pair(4, 1, 1.0)]
    assert [p.id for p in judge.balance_lengths(pairs)] == ["1", "2", "3"]
    assert [
        p.id for p in judge.balance_lengths([pair(n, 2, None) for n in range(3)] + [pair(9, -1, None)])
    ] == ["0", "9"]
    assert judge.balance_lengths([pair(0, 2, 1.0)]) == [] and judge.balance_lengths([]) == []


def test_balanced_pairs_are_counted(responded: Callable) -> None:
    run = responded("balanced", "judge.orders=1", "judge.balance_lengths=true")
    judge.run(run, 1)
    counts, kept = run.done("judge", 1)["counts"], preferences(run)
    longer = [len(p.chosen.split()) - len(p.rejected.split()) for p in kept]
    assert (
        sum(x > 0 for x in longer) == sum(x < 0 for x in longer)
        and counts["kept"] == len(kept)
        and counts["unbalanced"] > 0
    )
    assert sum(counts.values()) == 10


def test_a_coin_knows_nothing_and_asks_nobody(responded: Callable) -> None:
    one, again, other = (
        responded(name, "judge.method=random", *more)
        for name, more in (("one", []), ("again", []), ("other", ["seed=5"]))
    )
    for run in (one, again, other):
        judge.run(run, 1)
    assert [c.choice for c in judgments(one)] == [c.choice for c in judgments(again)] and {
        c.choice for c in judgments(one)
    } == {0, 1}
    assert one.done("judge", 1)["counts"]["kept"] == len(judgments(one)) and [
        c.choice for c in judgments(one)
    ] != [c.choice for c in judgments(other)]


def test_the_surest_are_kept_in_their_order() -> None:
    pairs = [pair(n, 1, margin) for n, margin in enumerate((0.5, 2.0, 0.1, 3.0, 1.0))]
    assert [p.id for p in judge.keep_surest(pairs, 0.4)] == ["1", "3"] and [
        p.id for p in judge.keep_surest(pairs, 0.41)
    ] == ["1", "3", "4"]
    assert judge.keep_surest(pairs, 1.0) == pairs and judge.keep_surest([], 0.5) == []
    assert [p.id for p in judge.keep_surest([pair(n, 1, None) for n in range(3)], 0.5)] == ["0", "1"]


def test_what_was_not_sure_enough_is_counted(responded: Callable) -> None:
    run = responded("sure", "judge.orders=1", "judge.method=score", "judge.keep_surest=0.5")
    judge.run(run, 1)
    counts, margins = run.done("judge", 1)["counts"], {c.id: verdicts.margin([c]) for c in judgments(run)}
    kept = [margins[p.id] for p in preferences(run)]
    assert (
        counts["kept"] == 5
        and counts["unsure"] == 5
        and min(kept) >= max(m for i, m in margins.items() if i not in {p.id for p in preferences(run)})
    )
