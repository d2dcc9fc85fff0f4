"""Respond, judge, evaluate: what they promise, on real clips and a real (random) model."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isrdpo.core import errors, prompts, records, runs
from isrdpo.models import local as vlmm
from isrdpo.models import verdicts
from isrdpo.stages import data, evaluate, judge, respond, train

STAGES = {"data": data, "respond": respond, "judge": judge, "train": train, "evaluate": evaluate}


def go(run: runs.Run, iteration: int, *names: str) -> None:
    for name in names or STAGES:
        STAGES[name].run(run, iteration)


def rows_on_disk(run: runs.Run) -> dict[str, bytes]:
    """Every JSONL and CSV of a run."""
    return {str(p.relative_to(run.folder)): p.read_bytes() for p in sorted(run.folder.rglob("*")) if p.suffix in (".jsonl", ".csv")}


@pytest.fixture
def opened(make_run: Callable) -> tuple[runs.Run, vlmm.VideoModel, list[records.Sample], list[vlmm.Video]]:
    run = make_run("one")
    go(run, 1, "data")
    samples = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)
    model = vlmm.open_model(run.params, run.policy(1))
    return run, model, samples, model.encode([run.clip(s.video) for s in samples])


def test_a_draw_does_not_depend_on_its_batch(opened) -> None:
    _, model, samples, videos = opened
    asked = [s.question for s in samples]
    how = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "max_new_tokens": 8}
    together = model.generate(videos, asked, seeds=list(range(10)), **how)
    alone = [model.generate([v], [a], seeds=[n], **how)[0] for n, (v, a) in enumerate(zip(videos, asked, strict=True))]
    assert together == alone and len(set(together)) > 5
    assert together != model.generate(videos, asked, seeds=list(range(10, 20)), **how)


def test_keyed_noise_draws_from_the_softmax() -> None:
    scores = torch.log(torch.tensor([[0.6, 0.3, 0.1]])).expand(4000, 3)
    drawn = vlmm.KeyedNoise(list(range(4000)))(torch.zeros(4000, 1), scores).argmax(-1).bincount(minlength=3) / 4000
    assert torch.allclose(drawn, torch.tensor([0.6, 0.3, 0.1]), atol=0.03)


def test_greedy_is_what_transformers_generates(opened) -> None:
    _, model, samples, videos = opened
    prompt = samples[0].question
    inputs = model._inputs(videos[:1], [model.processor.request_ids(prompt)])
    made = model.model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=2, pad_token_id=0)
    assert model.generate(videos[:1], [prompt], max_new_tokens=8) == [model.processor.decode(made[0, inputs["input_ids"].shape[1] :])]


def test_the_video_reaches_the_judge(opened) -> None:
    _, model, samples, videos = opened
    request = prompts.judge_request(prompts.JUDGE_WITHOUT_CONTEXT, "What?", "Red.", "Blue.", None)
    same, other = model.choose([videos[0], videos[1]], [request] * 2)
    assert not torch.allclose(same, other)


def test_a_cached_feature_is_the_encoded_one(opened) -> None:
    run, model, samples, videos = opened
    fresh = vlmm.VideoModel(model.model, model.processor)
    paths = [run.clip(s.video) for s in samples]
    assert all(torch.equal(a["features"], b["features"]) for a, b in zip(videos, model.encode(paths), strict=True))
    assert all(torch.allclose(a["features"], b["features"], atol=1e-5) for a, b in zip(videos, fresh.encode(paths), strict=True))


def test_swapping_the_responses_swaps_the_verdict(opened) -> None:
    run, model, samples, videos = opened
    pairs = [["The circle is red.", "It moves left."], ["A square.", "Nothing."]]
    given = [run.params, ["a", "b"], videos[:2], [s.question for s in samples[:2]]]
    forward = verdicts.ask(model, *given, pairs, [None, "A red circle."])
    backward = verdicts.ask(model, *given, [p[::-1] for p in pairs], [None, "A red circle."])
    for one, two in zip(forward, backward, strict=True):
        assert [c.choice for c in one] == [1 - c.choice for c in two[::-1]]
        assert one[0].scores == pytest.approx(two[1].scores[::-1], abs=1e-4)


@pytest.mark.parametrize(
    ("choices", "scores", "least", "decided"),
    [
        ([1, 1], [[-2.0, -1.0], [-2.0, -1.0]], 0.0, (1, "kept")),
        ([1, 0], [[-2.0, -1.0], [-1.0, -2.0]], 0.0, (None, "disagreement")),
        ([1, None], [None, None], 0.0, (None, "unparsed")),
        ([0], [[-1.0, -1.2]], 0.5, (None, "weak")),
        ([0, 0], [None, None], 0.0, (0, "kept")),
    ],
)
def test_a_verdict_needs_every_order(choices: list, scores: list, least: float, decided: tuple) -> None:
    calls = [records.Judgment("x", n, c, "", s) for n, (c, s) in enumerate(zip(choices, scores, strict=True))]
    assert verdicts.decide(calls, least) == decided


@pytest.mark.parametrize(
    ("reply", "choice"),
    [("My choice is A.", 0), ("My choice is B!", 1), ("B", 1), ("(A)", 0), ("Response B is better.", 1), ("A or B", None), ("", None),
     ("A cat sits there.", None), ("My choice is A. My choice is B.", None), ("I cannot say.", None), ("Response A is worse.", None),
     ("Response A is worse. Response B is better.", 1), ("I would not choose A.", None)],
)  # fmt: skip
def test_replies_are_read_or_not_but_never_guessed(reply: str, choice: int | None) -> None:
    assert prompts.parse_choice(reply) == choice


def test_a_template_is_filled_in_one_pass() -> None:
    assert prompts.fill_slots("{question} {first}", question="{first}", first="<video>{x}") == "{first} <video>{x}"
    assert prompts.conversation("<video> what? <image>").count("<video>") == 1


@pytest.mark.parametrize("context", ["retrospective", "fresh", "none"])
def test_a_context_is_of_its_kind(make_run: Callable, context: str) -> None:
    run = make_run(context, f"respond.context={context}")
    for t in (1, 2):
        go(run, t, "data", "respond", "judge", "train")
    first, second = ({r["video"]: r for r in records.read_jsonl(run.file(t, "contexts.jsonl"), dict)} for t in (1, 2))
    if context == "none":
        assert not first and not second
    else:
        assert len(first) == 10 and all(r["previous_context"] is None for r in first.values())
        looked = {v: r["previous_context"] for v, r in second.items()}
        assert looked == ({v: r["context"] for v, r in first.items()} if context == "retrospective" else dict.fromkeys(first))


def test_looking_back_at_nothing_fails_by_name(make_run: Callable) -> None:
    run = make_run("back")
    go(run, 1, "data", "respond", "judge", "train")
    path = run.file(1, "contexts.jsonl")
    rows = records.read_jsonl(path, dict)
    records.write_jsonl(path, rows[1:])
    with pytest.raises(errors.RunError, match=re.escape(rows[0]["video"]) + "|loop-0-00000"):
        go(run, 2, "data", "respond")
    assert not run.done("respond", 2)


def test_identical_responses_are_ties_and_need_no_call(make_run: Callable) -> None:
    run = make_run("ties", "respond.temperature=0.0")
    go(run, 1, "data", "respond", "judge")
    counts = run.done("judge", 1)["counts"]
    assert counts["ties"] + counts["empty"] == 10 and counts["kept"] == 0 and not records.read_jsonl(run.file(1, "judgments.jsonl"), records.Judgment)


def test_unreadable_verdicts_are_counted_and_left_out(make_run: Callable) -> None:
    run = make_run("generate", "judge.method=generate")
    go(run, 1, "data", "respond", "judge")
    marker, calls = run.done("judge", 1), records.read_jsonl(run.file(1, "judgments.jsonl"), records.Judgment)
    unreadable = {c.id for c in calls if c.choice is None}
    assert calls and all(prompts.parse_choice(c.reply) is None for c in calls if c.choice is None)
    assert marker["counts"]["unparsed"] == len(unreadable) and marker["bad"].get("unparsed verdict", 0) == len(unreadable)
    assert not unreadable & {p.id for p in records.read_jsonl(run.file(1, "preferences.jsonl"), records.Preference)}


def test_too_many_bad_samples_stop_the_stage(make_run: Callable) -> None:
    run = make_run("strict", "judge.method=generate", "max_bad_share=0.0")
    go(run, 1, "data")
    run.file(1, "samples.jsonl")
    with pytest.raises(errors.BadShare, match="max_bad_share"):
        go(run, 1, "respond", "judge")


def test_the_base_is_row_zero_and_judges_the_fixed_pairs_both_ways(make_run: Callable) -> None:
    run = make_run("zero")
    go(run, 1)
    assert run.done("evaluate", 0) and run.done("evaluate", 1)
    for t in (0, 1):
        calls = records.read_jsonl(run.file(t, "fixed_judgments.jsonl"), dict)
        assert len(calls) == 4 * 2 * 2 and sum(c["with_context"] for c in calls) == 8
        figures = records.read_json(run.file(t, "eval.json"))
        assert figures["questions"] == 6 and figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]


def test_perfect_verdicts_prefer_the_truer(make_run: Callable) -> None:
    from isrdpo.toybox import claims

    run = make_run("truth", "judge.method=truth")
    go(run, 1, "data", "respond", "judge")
    facts = {s.id: s.facts for s in records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)}
    for pair in records.read_jsonl(run.file(1, "preferences.jsonl"), records.Preference):
        assert claims.better(*(claims.truth(t, facts[pair.id]) for t in (pair.chosen, pair.rejected))) == 1


@pytest.mark.slow
def test_killed_anywhere_a_run_ends_with_the_same_bytes(make_run: Callable, tmp_path: Path) -> None:
    whole, again, broken = make_run("whole"), make_run("again"), make_run("broken")
    for t in (1, 2):
        go(whole, t)
        go(again, t)
    code = (
        "import sys; from isrdpo.stages import data, respond, judge, train, evaluate; from isrdpo.core import runs; run = runs.Run.open(sys.argv[1])\n"
        "for t in (1, 2):\n    for stage in (data, respond, judge, train, evaluate): stage.run(run, t)"
    )
    kills = 0
    for patience in (4.0, 5.0, 6.0, 7.0, 8.5, 10.0, 14.0, 600.0):
        child = subprocess.Popen([sys.executable, "-c", code, str(broken.folder)], env=os.environ | {"MPLBACKEND": "Agg"})  # noqa: S603
        began = time.monotonic()
        while child.poll() is None and time.monotonic() - began < patience:
            time.sleep(0.05)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.wait()
        if child.returncode == 0:
            break
    assert kills and rows_on_disk(whole) == rows_on_disk(again) == rows_on_disk(broken)
