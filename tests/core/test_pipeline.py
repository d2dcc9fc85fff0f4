"""Respond, judge, evaluate: what they promise, on real clips and a real (random) model."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from isrdpo.core import errors, prompts, records, runs
from isrdpo.models import local, verdicts
from isrdpo.stages import data, evaluate, judge, respond, train

STAGES = {"data": data, "respond": respond, "judge": judge, "train": train, "evaluate": evaluate}
TWO_ITERATIONS = """
import sys
from isrdpo.core import runs
from isrdpo.stages import data, respond, judge, train, evaluate

run = runs.Run.open(sys.argv[1])
for iteration in (1, 2):
    for stage in (data, respond, judge, train, evaluate):
        stage.run(run, iteration)
"""
KILL_AFTER = (4.0, 5.0, 6.0, 7.0, 8.5, 10.0, 14.0, 600.0)  # seconds


def run_stages(run: runs.Run, iteration: int, *names: str) -> None:
    """Do the stages of these names, or all, in this process."""
    for name in names or STAGES:
        STAGES[name].run(run, iteration)


def rows_on_disk(run: runs.Run) -> dict[str, bytes]:
    """Every JSONL and CSV file of a run."""
    paths = [path for path in sorted(run.folder.rglob("*")) if path.suffix in (".jsonl", ".csv")]
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in paths}


class Opened(NamedTuple):
    """A run with its questions, the policy that answers them, and their encoded clips."""

    run: runs.Run
    model: local.LocalPolicy
    samples: list[records.Sample]
    videos: list[local.EncodedVideo]


@pytest.fixture
def opened(make_run: Callable) -> Opened:
    run = make_run("one")
    run_stages(run, 1, "data")
    samples = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)
    model = local.open_policy(run.params, run.policy(1))
    return Opened(run, model, samples, model.encode([run.clip(sample.video) for sample in samples]))


def test_a_draw_does_not_depend_on_its_batch(opened: Opened) -> None:
    _, model, samples, videos = opened
    questions = [sample.question for sample in samples]
    sampling = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "max_new_tokens": 8}
    together = model.generate(videos, questions, seeds=list(range(10)), **sampling)
    alone = []
    for number, (video, question) in enumerate(zip(videos, questions, strict=True)):
        alone += model.generate([video], [question], seeds=[number], **sampling)
    assert together == alone
    assert len(set(together)) > 5
    assert together != model.generate(videos, questions, seeds=list(range(10, 20)), **sampling)


def test_keyed_noise_draws_from_the_softmax() -> None:
    probabilities = torch.tensor([[0.6, 0.3, 0.1]])
    scores = torch.log(probabilities).expand(4000, 3)
    noisy = local.KeyedNoise(list(range(4000)))(torch.zeros(4000, 1), scores)
    frequencies = noisy.argmax(-1).bincount(minlength=3) / 4000
    assert torch.allclose(frequencies, probabilities[0], atol=0.03)


def test_greedy_is_what_transformers_generates(opened: Opened) -> None:
    _, model, samples, videos = opened
    prompt = samples[0].question
    inputs = model._inputs(videos[:1], [model.processor.request_ids(prompt)])
    ids = model.model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=2, pad_token_id=0)
    expected = model.processor.decode(ids[0, inputs["input_ids"].shape[1] :])
    assert model.generate(videos[:1], [prompt], max_new_tokens=8) == [expected]


def test_the_video_reaches_the_judge(opened: Opened) -> None:
    _, model, _, videos = opened
    request = prompts.judge_request(prompts.JUDGE_WITHOUT_CONTEXT, "What?", "Red.", "Blue.", None)
    one, other = model.choose([videos[0], videos[1]], [request] * 2)
    assert not torch.allclose(one, other)


def test_a_cached_feature_is_the_encoded_one(opened: Opened) -> None:
    run, model, samples, videos = opened
    fresh = local.LocalPolicy(model.model, model.processor)
    paths = [run.clip(sample.video) for sample in samples]
    for video, cached, encoded in zip(videos, model.encode(paths), fresh.encode(paths), strict=True):
        assert torch.equal(video.features, cached.features)
        assert torch.allclose(video.features, encoded.features, atol=1e-5)


def test_swapping_the_responses_swaps_the_verdict(opened: Opened) -> None:
    run, model, samples, videos = opened
    pairs = [["The circle is red.", "It moves left."], ["A square.", "Nothing."]]
    swapped = [pair[::-1] for pair in pairs]
    contexts = [None, "A red circle."]
    rows = (run.params, ["a", "b"], videos[:2], [sample.question for sample in samples[:2]])
    forward = verdicts.ask_policy(model, *rows, pairs, contexts)
    backward = verdicts.ask_policy(model, *rows, swapped, contexts)
    for one, two in zip(forward, backward, strict=True):
        assert [call.choice for call in one] == [1 - call.choice for call in two[::-1]]
        assert one[0].scores == pytest.approx(two[1].scores[::-1], abs=1e-4)


@pytest.mark.parametrize(
    ("choices", "scores", "min_margin", "decision"),
    [
        ([1, 1], [[-2.0, -1.0], [-2.0, -1.0]], 0.0, (1, "kept")),
        ([1, 0], [[-2.0, -1.0], [-1.0, -2.0]], 0.0, (None, "disagreement")),
        ([1, None], [None, None], 0.0, (None, "unparsed")),
        ([0], [[-1.0, -1.2]], 0.5, (None, "weak")),
        ([0, 0], [None, None], 0.0, (0, "kept")),
    ],
)
def test_a_verdict_needs_every_order(
    choices: list, scores: list, min_margin: float, decision: tuple[int | None, str]
) -> None:
    calls = []
    for order, (choice, pair) in enumerate(zip(choices, scores, strict=True)):
        calls.append(records.Judgment("x", order, choice, "", pair))
    assert verdicts.decide(calls, min_margin) == decision


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("My choice is A.", 0),
        ("My choice is B!", 1),
        ("B", 1),
        ("(A)", 0),
        ("Response B is better.", 1),
        ("A or B", None),
        ("", None),
        ("A cat sits there.", None),
        ("My choice is A. My choice is B.", None),
        ("I cannot say.", None),
        ("Response A is worse.", None),
        ("Response A is worse. Response B is better.", 1),
        ("I would not choose A.", None),
    ],
)
def test_replies_are_read_or_not_but_never_guessed(reply: str, choice: int | None) -> None:
    assert prompts.parse_choice(reply) == choice


def test_a_template_is_filled_in_one_pass() -> None:
    text = prompts.fill_slots("{question} {first}", question="{first}", first="<video>{x}")
    assert text == "{first} <video>{x}"
    assert prompts.conversation("<video> what? <image>").count("<video>") == 1


def contexts_by_video(run: runs.Run, iteration: int) -> dict[str, dict[str, Any]]:
    rows = records.read_jsonl(run.file(iteration, "contexts.jsonl"), dict)
    return {row["video"]: row for row in rows}


@pytest.mark.parametrize("context", ["retrospective", "fresh", "none"])
def test_a_context_is_of_its_kind(make_run: Callable, context: str) -> None:
    run = make_run(context, f"respond.context={context}")
    for iteration in (1, 2):
        run_stages(run, iteration, "data", "respond", "judge", "train")
    first = contexts_by_video(run, 1)
    second = contexts_by_video(run, 2)
    if context == "none":
        assert not first
        assert not second
        return
    assert len(first) == 10
    assert all(row["previous_context"] is None for row in first.values())
    expected = dict.fromkeys(first)
    if context == "retrospective":
        expected = {video: row["context"] for video, row in first.items()}
    assert {video: row["previous_context"] for video, row in second.items()} == expected


def test_looking_back_at_nothing_fails_by_name(make_run: Callable) -> None:
    run = make_run("back")
    run_stages(run, 1, "data", "respond", "judge", "train")
    path = run.file(1, "contexts.jsonl")
    rows = records.read_jsonl(path, dict)
    records.write_jsonl(path, rows[1:])
    with pytest.raises(errors.RunError, match=re.escape(rows[0]["video"]) + "|loop-0-00000"):
        run_stages(run, 2, "data", "respond")
    assert not run.done("respond", 2)


def test_identical_responses_are_ties_and_need_no_call(make_run: Callable) -> None:
    run = make_run("ties", "respond.temperature=0.0")
    run_stages(run, 1, "data", "respond", "judge")
    counts = run.done("judge", 1)["counts"]
    assert counts["ties"] + counts["empty"] == 10
    assert counts["kept"] == 0
    assert not records.read_jsonl(run.file(1, "judgments.jsonl"), records.Judgment)


def test_unreadable_verdicts_are_counted_and_left_out(make_run: Callable) -> None:
    run = make_run("generate", "judge.method=generate")
    run_stages(run, 1, "data", "respond", "judge")
    marker = run.done("judge", 1)
    calls = records.read_jsonl(run.file(1, "judgments.jsonl"), records.Judgment)
    assert calls
    unreadable = [call for call in calls if call.choice is None]
    assert all(prompts.parse_choice(call.reply) is None for call in unreadable)
    ids = {call.id for call in unreadable}
    assert marker["counts"]["unparsed"] == len(ids)
    assert marker["bad"].get("unparsed verdict", 0) == len(ids)
    preferences = records.read_jsonl(run.file(1, "preferences.jsonl"), records.Preference)
    assert not ids & {row.id for row in preferences}


def test_too_many_bad_samples_stop_the_stage(make_run: Callable) -> None:
    run = make_run("strict", "judge.method=generate", "max_bad_share=0.0")
    run_stages(run, 1, "data")
    with pytest.raises(errors.BadShare, match="max_bad_share"):
        run_stages(run, 1, "respond", "judge")


def test_the_base_is_row_zero_and_judges_the_fixed_pairs_both_ways(make_run: Callable) -> None:
    run = make_run("zero")
    run_stages(run, 1)
    for iteration in (0, 1):
        assert run.done("evaluate", iteration)
        calls = records.read_jsonl(run.file(iteration, "fixed_judgments.jsonl"), dict)
        assert len(calls) == 4 * 2 * 2
        assert sum(call["with_context"] for call in calls) == 8
        figures = records.read_json(run.file(iteration, "eval.json"))
        assert figures["questions"] == 6
        assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]


def test_perfect_verdicts_prefer_the_truer(make_run: Callable) -> None:
    from isrdpo.toybox import claims

    run = make_run("truth", "judge.method=truth")
    run_stages(run, 1, "data", "respond", "judge")
    samples = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)
    facts = {sample.id: sample.facts for sample in samples}
    for pair in records.read_jsonl(run.file(1, "preferences.jsonl"), records.Preference):
        chosen = claims.truth(pair.chosen, facts[pair.id])
        rejected = claims.truth(pair.rejected, facts[pair.id])
        assert claims.compare_truths(chosen, rejected) == 1


@pytest.mark.slow
def test_killed_anywhere_a_run_ends_with_the_same_bytes(make_run: Callable) -> None:
    whole = make_run("whole")
    again = make_run("again")
    broken = make_run("broken")
    for iteration in (1, 2):
        run_stages(whole, iteration)
        run_stages(again, iteration)
    kills = 0
    for patience in KILL_AFTER:
        command = [sys.executable, "-c", TWO_ITERATIONS, str(broken.folder)]
        child = subprocess.Popen(command, env=os.environ | {"MPLBACKEND": "Agg"})
        began = time.monotonic()
        while child.poll() is None and time.monotonic() - began < patience:
            time.sleep(0.05)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.wait()
        if child.returncode == 0:
            break
    assert kills
    assert rows_on_disk(whole) == rows_on_disk(again) == rows_on_disk(broken)
