"""Stage 3: what is kept, what is counted and left out, and a stage that survives being killed."""

from collections.abc import Callable

import pytest

from isrdpo.core import records, runs
from isrdpo.models import local, verdicts
from isrdpo.stages import data, judge, respond

FILES = ("judgments.jsonl", "preferences.jsonl")


@pytest.fixture
def run_with_responses(make_run: Callable) -> Callable:
    """`run_with_responses("name", "key=value", ...)`: a small run whose next stage is to judge."""

    def make(name: str, *overrides: str) -> runs.Run:
        run = make_run(name, *overrides)
        data.run(run, 1)
        respond.run(run, 1)
        return run

    return make


def read_responses(run: runs.Run) -> list[records.Responses]:
    return records.read_jsonl(run.file(1, "responses.jsonl"), records.Responses)


def read_judgments(run: runs.Run) -> list[records.Judgment]:
    return records.read_jsonl(run.file(1, "judgments.jsonl"), records.Judgment)


def read_preferences(run: runs.Run) -> list[records.Preference]:
    return records.read_jsonl(run.file(1, "preferences.jsonl"), records.Preference)


def ids(pairs: list[records.Preference]) -> list[str]:
    return [pair.id for pair in pairs]


@pytest.mark.slow
def test_killed_after_a_batch_it_ends_with_the_same_bytes(
    run_with_responses: Callable, kill_at: Callable
) -> None:
    whole = run_with_responses("whole", "judge.batch_size=1")
    broken = run_with_responses("broken", "judge.batch_size=1")
    judge.run(whole, 1)
    kill_at(broken, "judge", 1, "judgments.jsonl", 2)
    judge.run(broken, 1)
    for name in FILES:
        assert whole.file(1, name).read_bytes() == broken.file(1, name).read_bytes()


def test_every_sample_is_accounted_for_once(run_with_responses: Callable) -> None:
    run = run_with_responses("sum")
    rows = read_responses(run)
    changed_rows = [
        records.Responses(rows[0].id, ["Same.", "Same. "], rows[0].context, None),
        records.Responses(rows[1].id, ["", "b"], rows[1].context, None),
        records.Responses(rows[2].id, ["a", "b"], " ", None),
        *rows[3:],
    ]
    records.write_jsonl(run.file(1, "responses.jsonl"), changed_rows)
    judge.run(run, 1)
    counts = run.done("judge", 1)["counts"]
    judgments = read_judgments(run)
    pairs = read_preferences(run)
    assert sum(counts.values()) == 10
    assert counts["ties"] == 1
    assert counts["empty"] == 2
    assert counts["kept"] == len(pairs)
    expected_ids = []
    for row in rows[3:]:
        expected_ids += [row.id, row.id]
    assert [judgment.id for judgment in judgments] == expected_ids
    assert [judgment.order for judgment in judgments] == [0, 1] * 7
    responses = {row.id: row.responses for row in rows}
    for pair in pairs:
        choices = {judgment.choice for judgment in judgments if judgment.id == pair.id}
        chosen = responses[pair.id].index(pair.chosen)
        assert choices == {chosen}
        assert pair.rejected == responses[pair.id][1 - chosen]


def test_one_order_decides_alone(run_with_responses: Callable) -> None:
    run = run_with_responses("single", "judge.orders=1")
    judge.run(run, 1)
    assert [judgment.order for judgment in read_judgments(run)] == [0] * 10
    assert run.done("judge", 1)["counts"]["kept"] == 10


def test_a_weak_margin_is_no_verdict(run_with_responses: Callable) -> None:
    run = run_with_responses("weak", "judge.orders=1", "judge.min_margin=100.0")
    judge.run(run, 1)
    assert run.done("judge", 1)["counts"]["weak"] == 10
    assert read_preferences(run) == []


def test_the_context_is_shown_to_the_judge_only_where_there_is_one(run_with_responses: Callable) -> None:
    run = run_with_responses("shown", "judge.orders=1")
    sample = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[0]
    model = local.open_policy(run.params, run.policy(1))
    videos = model.encode([run.clip(sample.video)])
    responses = [["Red.", "Blue."]]
    scores = set()
    for context in (None, "", "The background is black.", "The background is white."):
        judgments = verdicts.ask_policy(
            model, run.params, [sample.id], videos, [sample.question], responses, [context]
        )
        scores.add(tuple(judgments[0][0].scores))
    assert len(scores) == 4


@pytest.mark.parametrize("method", ["score", "generate"])
def test_what_is_too_long_to_read_is_not_asked(run_with_responses: Callable, method: str) -> None:
    run = run_with_responses(f"long_{method}", f"judge.method={method}")
    rows = read_responses(run)
    too_long = records.Responses(rows[0].id, ["red " * 3000, "blue"], rows[0].context, None)
    records.write_jsonl(run.file(1, "responses.jsonl"), [too_long, *rows[1:]])
    judge.run(run, 1)
    judgments = read_judgments(run)
    verdicts_on_it = [(j.choice, j.reply, j.scores) for j in judgments if j.id == too_long.id]
    assert verdicts_on_it == [(None, verdicts.TOO_LONG, None)] * 2
    bad_rows = records.read_jsonl(run.file(1, "bad_judge.jsonl"), dict)
    details = {row["id"]: row["detail"] for row in bad_rows}
    assert details[too_long.id] == verdicts.TOO_LONG
    assert too_long.id not in ids(read_preferences(run))
    # The others were asked all the same.
    assert {judgment.id for judgment in judgments} == {row.id for row in rows}


def test_equal_scores_are_undecided_not_unparsed() -> None:
    even = records.Judgment("x", 0, None, "", [-1.0, -1.0])
    torn = records.Judgment("x", 1, None, "Hm.", None)
    sure = records.Judgment("x", 1, 0, "", [-1.0, -2.0])
    assert verdicts.decide([even, sure]) == (None, "undecided")
    assert verdicts.decide([even, torn]) == (None, "unparsed")


def test_the_margin_is_the_mean_log_odds() -> None:
    judgments = [records.Judgment("x", 0, 0, "", [-1.0, -2.0]), records.Judgment("x", 1, 0, "", [-0.5, -2.5])]
    assert verdicts.margin(judgments) == 1.5
    assert verdicts.margin([records.Judgment("x", 0, 0, "", None)]) is None
    assert verdicts.decide(judgments, 1.5) == (0, "kept")
    assert verdicts.decide(judgments, 1.51) == (None, "weak")


def make_pair(number: int, longer: int, margin: float | None) -> records.Preference:
    """Return a pair whose chosen response is so many words longer than the rejected one."""
    return records.Preference(str(number), "v", "q", "a " * (5 + longer), "a " * 5, margin)


def test_balanced_lengths_lose_the_weakest_of_the_more_numerous() -> None:
    pairs = [
        make_pair(0, 3, 0.5),
        make_pair(1, 3, 2.0),
        make_pair(2, -2, 0.1),
        make_pair(3, 0, 0.0),
        make_pair(4, 1, 1.0),
    ]
    assert ids(judge.balance_lengths(pairs)) == ["1", "2", "3"]
    without_margins = [make_pair(n, 2, None) for n in range(3)] + [make_pair(9, -1, None)]
    assert ids(judge.balance_lengths(without_margins)) == ["0", "9"]
    assert judge.balance_lengths([make_pair(0, 2, 1.0)]) == []
    assert judge.balance_lengths([]) == []


def test_balanced_pairs_are_counted(run_with_responses: Callable) -> None:
    run = run_with_responses("balanced", "judge.orders=1", "judge.balance_lengths=true")
    judge.run(run, 1)
    counts = run.done("judge", 1)["counts"]
    pairs = read_preferences(run)
    differences = [len(pair.chosen.split()) - len(pair.rejected.split()) for pair in pairs]
    longer = sum(difference > 0 for difference in differences)
    shorter = sum(difference < 0 for difference in differences)
    assert longer == shorter
    assert counts["kept"] == len(pairs)
    assert counts["unbalanced"] > 0
    assert sum(counts.values()) == 10


def test_a_coin_knows_nothing_and_asks_nobody(run_with_responses: Callable) -> None:
    one = run_with_responses("one", "judge.method=random")
    again = run_with_responses("again", "judge.method=random")
    other = run_with_responses("other", "judge.method=random", "seed=5")
    choices = {}
    for run in (one, again, other):
        judge.run(run, 1)
        choices[run] = [judgment.choice for judgment in read_judgments(run)]
    assert choices[one] == choices[again]
    assert set(choices[one]) == {0, 1}
    assert one.done("judge", 1)["counts"]["kept"] == len(choices[one])
    assert choices[one] != choices[other]


def test_the_surest_are_kept_in_their_order() -> None:
    pairs = [make_pair(n, 1, margin) for n, margin in enumerate((0.5, 2.0, 0.1, 3.0, 1.0))]
    assert ids(judge.keep_surest(pairs, 0.4)) == ["1", "3"]
    assert ids(judge.keep_surest(pairs, 0.41)) == ["1", "3", "4"]
    assert judge.keep_surest(pairs, 1.0) == pairs
    assert judge.keep_surest([], 0.5) == []
    without_margins = [make_pair(n, 1, None) for n in range(3)]
    assert ids(judge.keep_surest(without_margins, 0.5)) == ["0", "1"]


def test_what_was_not_sure_enough_is_counted(run_with_responses: Callable) -> None:
    run = run_with_responses("sure", "judge.orders=1", "judge.method=score", "judge.keep_surest=0.5")
    judge.run(run, 1)
    counts = run.done("judge", 1)["counts"]
    assert counts["kept"] == 5
    assert counts["unsure"] == 5
    margins = {judgment.id: verdicts.margin([judgment]) for judgment in read_judgments(run)}
    sure_ids = ids(read_preferences(run))
    sure_margins = [margins[sample_id] for sample_id in sure_ids]
    other_margins = [margin for sample_id, margin in margins.items() if sample_id not in sure_ids]
    assert min(sure_margins) >= max(other_margins)
