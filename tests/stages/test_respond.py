"""Stage 2: contexts that look back, responses that can be drawn again, and a stage that survives being killed."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo.core import errors, records, runs
from isrdpo.models import local as vlmm
from isrdpo.stages import data, evaluate, judge, respond, train

FILES = ("contexts.jsonl", "responses.jsonl")


def answered(run: runs.Run, t: int = 1) -> list[records.Responses]:
    return records.read_jsonl(run.file(t, "responses.jsonl"), records.Responses)


def until_second(run: runs.Run) -> None:
    for stage in (data, respond, judge, train):
        stage.run(run, 1)
    data.run(run, 2)


def test_killed_after_a_batch_it_ends_with_the_same_bytes(make_run: Callable, kill_at: Callable) -> None:
    whole, broken = (make_run(name, "respond.batch_size=1") for name in ("whole", "broken"))
    for run in (whole, broken):
        data.run(run, 1)
    respond.run(whole, 1)
    kill_at(broken, "respond", 1, "responses.jsonl", 2)
    kept = broken.file(1, "responses.jsonl").read_bytes()
    respond.run(broken, 1)
    for name in FILES:
        assert whole.file(1, name).read_bytes() == broken.file(1, name).read_bytes()
    assert broken.file(1, "responses.jsonl").read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])


@pytest.mark.parametrize("lost", FILES)
def test_either_file_lost_is_made_again(make_run: Callable, lost: str) -> None:
    run = make_run("lost")
    data.run(run, 1)
    respond.run(run, 1)
    before = {name: run.file(1, name).read_bytes() for name in FILES}
    run.marker_path("respond", 1).unlink()
    run.file(1, lost).unlink()
    respond.run(run, 1)
    assert before == {name: run.file(1, name).read_bytes() for name in FILES}


def test_rows_are_in_the_samples_order_and_new_each_iteration(make_run: Callable) -> None:
    run = make_run("order", "respond.context=fresh")
    until_second(run)
    respond.run(run, 2)
    samples = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)
    first, second = answered(run, 1), answered(run, 2)
    assert [r.id for r in first] == [s.id for s in samples] == [r.id for r in second]
    assert all(r.responses[0] != r.responses[1] for r in first)  # two draws, not one
    assert [r.responses for r in first] != [r.responses for r in second]


def test_one_description_a_video_shared_by_its_questions(own_data: Callable, make_run: Callable) -> None:
    rows = [
        {"id": f"{n}", "video": f"{{{n % 2}}}" + (".mp4" if n > 3 else ""), "prompt": f"What is {n}?"}
        for n in range(7)
    ]
    folder, names = own_data(rows)
    run = make_run("shared", f"data={folder}", "data.samples=0")
    data.run(run, 1)
    respond.run(run, 1)
    contexts = {
        row["video"]: row["context"] for row in records.read_jsonl(run.file(1, "contexts.jsonl"), dict)
    }
    assert (
        list(contexts) == [f"{name}.mp4" for name in names[:2]]
        and run.done("respond", 1)["counts"]["described"] == 2
    )
    assert [r.context for r in answered(run)] == [contexts[f"{names[n % 2]}.mp4"] for n in range(7)]


def test_a_missing_description_names_the_samples_and_what_to_do(make_run: Callable) -> None:
    run = make_run("back")
    until_second(run)
    path = run.file(1, "contexts.jsonl")
    records.write_jsonl(path, records.read_jsonl(path, dict)[3:])
    wanted = f"{path}: 3 of 10 samples have no description of iteration 1 to look back at (loop-0-00000, loop-0-00001, loop-0-00002); remove {run.iteration(1)} "
    with pytest.raises(errors.RunError, match=re.escape(wanted) + ".*respond.context=fresh"):
        respond.run(run, 2)
    path.unlink()
    with pytest.raises(errors.RunError, match=r"10 of 10 samples .*loop-0-00004, \.\.\.\)"):
        respond.run(run, 2)
    assert not run.done("respond", 2) and not run.file(2, "responses.jsonl").exists()


def test_an_empty_description_is_looked_back_at_and_said(make_run: Callable) -> None:
    run = make_run("empty")
    until_second(run)
    path = run.file(1, "contexts.jsonl")
    rows = records.read_jsonl(path, dict)
    records.write_jsonl(path, [rows[0] | {"context": " "}, *rows[1:]])
    respond.run(run, 2)
    marker, second = run.done("respond", 2), records.read_jsonl(run.file(2, "contexts.jsonl"), dict)
    assert second[0]["previous_context"] == " " and marker["counts"]["empty_previous"] == 1
    assert marker["warnings"] == ["1 of 10 descriptions looked back at an empty one"]


def test_empty_responses_and_contexts_are_bad_samples(make_run: Callable, tmp_path: Path) -> None:
    run = make_run("bad")
    data.run(run, 1)
    rows = [
        records.Responses("fine", ["a", "b"], "c", None), records.Responses("mute", ["a", " \n"], "", None),
        records.Responses("blind", ["a", "b"], " ", None), records.Responses("without", ["a", "b"], None, None),
    ]  # fmt: skip
    with run.stage("respond", 1) as stage:
        stage.total = 4
        respond.count_empty(stage, rows, [])
    assert records.read_jsonl(run.file(1, "bad_respond.jsonl"), dict) == [
        {"id": "mute", "cause": "empty response", "detail": ""}, {"id": "blind", "cause": "empty context", "detail": ""},
    ]  # fmt: skip


def test_new_videos_are_described_first_by_the_policy_before(make_run: Callable, kill_at: Callable) -> None:
    """data.reuse=false: c_{t-1} of videos that iteration t - 1 had not is what pi_{t-1} says of them, and pi_t looks back at it."""
    run, broken = (
        make_run(
            name,
            "data.reuse=false",
            "data.samples=6",
            "iterations=3",
            "keep_policies=last",
            "respond.batch_size=2",
        )
        for name in ("parts", "broken")
    )
    for t in (1, 2, 3):
        for stage in (data, respond, judge, train, evaluate):
            stage.run(run, t)
    assert [run.file(t, "policy").is_dir() for t in (1, 2, 3)] == [False, True, True], (
        "the one that was needed in iteration 3 was kept until then"
    )
    videos = [
        [s.video for s in records.read_jsonl(run.file(t, "samples.jsonl"), records.Sample)] for t in (1, 2, 3)
    ]
    assert all(len(part) == 6 for part in videos) and len({name for part in videos for name in part}) == 18
    assert not run.file(1, "previous_contexts.jsonl").exists()
    before = {
        row["video"]: row["context"]
        for row in records.read_jsonl(run.file(2, "previous_contexts.jsonl"), dict)
    }
    assert list(before) == videos[1]
    assert {
        row["video"]: row["previous_context"]
        for row in records.read_jsonl(run.file(2, "contexts.jsonl"), dict)
    } == before
    base = vlmm.open_policy(run.params, run.policy(1))
    said = base.generate(
        base.encode([run.videos_folder() / name for name in videos[1]]),
        [run.params.prompts.context] * 6,
        max_new_tokens=8,
    )
    assert list(before.values()) == said
    for stage in (data, respond, judge, train, evaluate):
        stage.run(broken, 1)
    data.run(broken, 2)
    kill_at(broken, "respond", 2, "previous_contexts.jsonl", 1)
    respond.run(broken, 2)
    for name in ("previous_contexts.jsonl", *FILES):
        assert run.file(2, name).read_bytes() == broken.file(2, name).read_bytes(), name
