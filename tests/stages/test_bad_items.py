"""One bad item is one bad sample in every stage: listed with its cause; the others' rows stay the same."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isrdpo.core import records, runs
from isrdpo.core.errors import BadShare
from isrdpo.core.left_out import BadItem, left_out_path
from isrdpo.models import local
from isrdpo.models.hound_processor import HoundProcessor
from isrdpo.models.resources import ResourceError
from isrdpo.stages import data, evaluate, judge, look, policies, respond, train
from tests import families

GOOD = [
    {"id": "a", "video": "{0}", "prompt": "What color is the circle?", "answer": "red"},
    {"id": "b", "video": "{1}", "prompt": "What moves?", "answer": "a circle"},
    {"id": "c", "video": "{0}", "prompt": "<video> Where is it? " + "<video>" * 50, "answer": "left"},
]
LONG = {"id": "long", "video": "{1}", "prompt": "What color is the circle? " * 2000, "answer": "red"}
OWN = ("data.samples=0", "data.questions=0", "data.fixed_pairs=0", "data.videos=clips")
LOOP = ((data, 1), (evaluate, 0), (respond, 1), (judge, 1), (look, 1), (train, 1), (evaluate, 1))
ROWS = {
    0: ("answers.jsonl", "eval.json"),
    1: (
        "contexts.jsonl",
        "responses.jsonl",
        "judgments.jsonl",
        "preferences.jsonl",
        "judgments_no_context.jsonl",
        "looks.jsonl",
        "train.csv",
        "policy/model.safetensors",
        "answers.jsonl",
    ),
}


@pytest.fixture
def run_on(own_data: Callable, make_run: Callable) -> Callable:
    """`run_on(rows, "name", "key=value", ...)`: a run whose questions are these rows."""

    def make(rows: list[dict], name: str, *overrides: str) -> runs.Run:
        folder, _ = own_data(rows)
        copy = folder.with_name(f"data of {name}")
        shutil.copytree(folder, copy)
        return make_run(name, f"data={copy}", *OWN, "max_bad_share=0.3", "look.examples=1", *overrides)

    return make


def bad_rows(run: runs.Run, stage: str, t: int) -> list[tuple[str, str]]:
    rows = records.read_jsonl(run.file(t, f"bad_{stage}.jsonl"), dict)
    return [(row["id"], row["cause"]) for row in rows]


def rows_on_disk(run: runs.Run, t: int) -> dict[str, bytes]:
    return {name: run.file(t, name).read_bytes() for name in ROWS[t]}


@pytest.mark.slow
def test_a_question_too_long_is_left_out_and_the_others_stay_the_same(run_on: Callable) -> None:
    whole = run_on(GOOD, "whole")
    run = run_on([*GOOD, LONG], "long")
    for stage, t in LOOP:
        stage.run(whole, t)
        stage.run(run, t)
    for t in (0, 1):
        assert rows_on_disk(run, t) == rows_on_disk(whole, t)
    for stage, t in (("evaluate", 0), ("respond", 1), ("evaluate", 1)):
        assert bad_rows(run, stage, t) == [("long", "too long for the model")]
        marker = run.done(stage, t)
        assert marker["bad"] == {"too long for the model": 1}
        assert marker["counts"]["left_out"] == 1
        assert marker["total"] == 4
    for stage in ("judge", "look", "train"):
        assert bad_rows(run, stage, 1) == [], "what was left out before is not counted again"
    (row,) = records.read_jsonl(run.file(1, "bad_respond.jsonl"), dict)
    assert "8 new tokens (respond.max_new_tokens)" in row["detail"]
    assert row["detail"].endswith("the model has 2048 positions")


def test_interrupted_behind_a_bad_item_it_ends_with_the_same_bytes(
    run_on: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [GOOD[0], LONG, *GOOD[1:]]
    names = ("contexts.jsonl", "responses.jsonl", "bad_respond.jsonl", ".responses.jsonl.left_out.jsonl")
    append = records.BatchLog.append
    finished = {}
    for name, stop_before in (("whole", 0), ("before", 2), ("after", 3)):
        run = run_on(rows, name, "respond.batch_size=1")
        data.run(run, 1)

        def append_or_stop(log: records.BatchLog, new: list, stop: int = stop_before) -> None:
            if log.path.name == "responses.jsonl" and log.done + 1 == stop:
                raise KeyboardInterrupt
            append(log, new)

        if stop_before:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(records.BatchLog, "append", append_or_stop)
                respond.run(run, 1)
        respond.run(run, 1)
        finished[name] = [run.file(1, file).read_bytes() for file in names]
    assert finished["before"] == finished["whole"]
    assert finished["after"] == finished["whole"]
    assert b'"id": "long"' in finished["whole"][2]


def test_above_max_bad_share_the_stage_fails_and_names_the_first(run_on: Callable) -> None:
    run = run_on([*GOOD, LONG], "share", "max_bad_share=0.2")
    data.run(run, 1)
    with pytest.raises(
        BadShare, match=r"25% of 4 samples are bad \(1 too long for the model\).*first: long: "
    ):
        respond.run(run, 1)
    assert not run.done("respond", 1)


@pytest.mark.slow
def test_a_clip_that_comes_back_is_tried_again(run_on: Callable) -> None:
    """A folder of videos that was unmounted for a while must not stay bad for ever."""
    whole = run_on(GOOD, "whole", "respond.batch_size=1")
    run = run_on(GOOD, "gone", "respond.batch_size=1")
    for one in (whole, run):
        data.run(one, 1)
    respond.run(whole, 1)
    clip = run.clip(records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[1].video)
    hidden = clip.with_name("hidden")
    clip.rename(hidden)
    with pytest.raises(BadShare, match=rf"33% of 3 samples are bad \(1 broken video\).*{clip.name}: no such"):
        respond.run(run, 1)
    assert bad_rows(run, "respond", 1) == [("b", "broken video")]
    hidden.rename(clip)
    respond.run(run, 1)
    for name in ("contexts.jsonl", "responses.jsonl", "bad_respond.jsonl"):
        assert run.file(1, name).read_bytes() == whole.file(1, name).read_bytes()
    assert left_out_path(run.file(1, "responses.jsonl")).read_bytes() == b""


@pytest.mark.slow
def test_a_clip_that_is_gone_is_left_out_of_each_stage(run_on: Callable) -> None:
    run = run_on(GOOD, "gone", "max_bad_share=0.4")
    for stage, t in LOOP[:3]:
        stage.run(run, t)
    clip = run.clip(records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[1].video)
    clip.rename(clip.with_name("hidden"))
    judge.run(run, 1)
    assert bad_rows(run, "judge", 1) == [("b", "broken video")]
    judgments = records.read_jsonl(run.file(1, "judgments.jsonl"), records.Judgment)
    assert {call.id for call in judgments} == {"a", "c"}
    counts = run.done("judge", 1)["counts"]
    assert sum(counts.values()) - counts["left_out"] == 2
    for stage in (look, train, evaluate):
        stage.run(run, 1)
    assert bad_rows(run, "evaluate", 1) == [("b", "broken video")]
    answers = records.read_jsonl(run.file(1, "answers.jsonl"), records.Answer)
    assert [answer.id for answer in answers] == ["a", "c"]


@pytest.mark.slow
def test_what_was_left_out_cannot_be_looked_back_at(run_on: Callable) -> None:
    """Its video has no c_1: iteration 2 leaves it out, and does not describe it afresh in silence."""
    run = run_on(GOOD, "back", "max_bad_share=0.4", "iterations=2")
    data.run(run, 1)
    clip = run.clip(records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[1].video)
    clip.rename(clip.with_name("hidden"))
    for stage in (respond, judge, train):
        stage.run(run, 1)
    clip.with_name("hidden").rename(clip)
    for stage in (data, respond):
        stage.run(run, 2)
    assert bad_rows(run, "respond", 2) == [("b", "no earlier description")]
    responses = records.read_jsonl(run.file(2, "responses.jsonl"), records.Responses)
    assert [row.id for row in responses] == ["a", "c"]
    assert all(row.previous_context is not None for row in responses)


def test_a_device_out_of_memory_stops_the_stage_in_one_line(
    run_on: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    run = run_on(GOOD, "memory", "respond.batch_size=1", "video.cache=false")
    data.run(run, 1)
    generate = local.LocalPolicy.generate
    calls: list[int] = []

    def generate_until_full(policy: local.LocalPolicy, *args: list, **options: int) -> list[str]:
        calls.append(1)
        if len(calls) == 5:  # the first sample's responses are on disk
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return generate(policy, *args, **options)

    monkeypatch.setattr(local.LocalPolicy, "generate", generate_until_full)
    with pytest.raises(
        ResourceError, match=r"respond: the device is out of memory .*lower respond.batch_size"
    ):
        respond.run(run, 1)
    assert not run.done("respond", 1)
    assert [row.id for row in records.read_jsonl(run.file(1, "responses.jsonl"), records.Responses)] == ["a"]
    monkeypatch.undo()

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(HoundProcessor, "encode", fail)
    with pytest.raises(ResourceError, match="device is out of memory"):
        respond.run(run, 1)
    assert not left_out_path(run.file(1, "responses.jsonl")).exists(), "it is no fault of a clip"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write("qwen3_vl", tmp_path_factory.mktemp("qwen"))


def write_frames(folder: Path, width: int, height: int, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((height, width, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def test_a_clip_that_the_family_refuses_is_one_bad_sample(
    qwen: Path, make_run: Callable, tmp_path: Path
) -> None:
    """The processor of Qwen-VL refuses sides of a ratio above 200; its first line stands in the list."""
    shapes = {"strip": (500, 2, 4), "band": (64, 32, 4), "dot": (1, 1, 2), "still": (32, 32, 1)}
    rows = []
    for name, shape in shapes.items():
        write_frames(tmp_path / "data" / "clips" / name, *shape)
        rows.append({"id": f"of {name}", "video": name, "question": "What is it?", "answer": "A band."})
    for file in ("train.jsonl", "test.qa.jsonl"):
        (tmp_path / "data" / file).write_text("".join(map(records.to_line, rows)))
    run = make_run("qwen", f"data={tmp_path / 'data'}", *OWN, f"model.path={qwen}", "iterations=0")
    data.run(run, 0)
    evaluate.run(run, 0)
    bad = {row["id"]: row for row in records.read_jsonl(run.file(0, "bad_evaluate.jsonl"), dict)}
    answers = records.read_jsonl(run.file(0, "answers.jsonl"), records.Answer)
    assert [answer.id for answer in answers] == [row["id"] for row in rows if row["id"] not in bad]
    assert {"of band", "of still"} <= {answer.id for answer in answers}
    assert bad["of strip"]["cause"] == "broken video"
    detail = bad["of strip"]["detail"]
    assert detail.startswith(f"{tmp_path / 'data' / 'clips' / 'strip'}: the processor of qwen3_vl refuses")
    assert "aspect ratio must be smaller than 200" in detail


def test_the_last_position_may_be_used_and_no_more(run_on: Callable) -> None:
    run = run_on(GOOD, "edge")
    data.run(run, 1)
    policy = local.open_policy(run.params, run.policy(1))
    video = policies.encode_clip(
        run, policy, records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)[0].video
    )
    room = policy.room("What moves?", video)
    policies.require_room(policy, "What moves?", video, policies.NewTokens("x", room))
    with pytest.raises(
        BadItem, match=rf"{room + 1} new tokens \(x\): 2049 tokens, the model has 2048"
    ) as caught:
        policies.require_room(policy, "What moves?", video, policies.NewTokens("x", room + 1))
    assert caught.value.cause == "too long for the model"


def test_half_of_the_answers_empty_is_a_warning(run_on: Callable) -> None:
    run = run_on(GOOD, "mute")
    data.run(run, 1)
    rows = [records.Answer(str(n), "?", "", "", text, 0, None) for n, text in enumerate(("red", "", " \n"))]
    with run.stage("evaluate", 0) as stage:
        evaluate.count_empty(stage, rows)
    marker = run.done("evaluate", 0)
    assert marker["counts"]["empty"] == 2
    assert marker["warnings"] == ["2 of 3 answers are empty: the policy must be broken"]
