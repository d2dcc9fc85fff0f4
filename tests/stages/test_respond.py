"""Stage 2: contexts that look back, responses that can be drawn again.

A stage that is killed goes on where it stopped.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo.core import errors, records, replies, runs
from isrdpo.models import local
from isrdpo.stages import data, evaluate, judge, respond, train

FILES = ("contexts.jsonl", "responses.jsonl")
NEW_VIDEOS = (
    "data.reuse=false",
    "data.samples=6",
    "iterations=3",
    "keep_policies=last",
    "respond.batch_size=2",
)


def read_responses(run: runs.Run, t: int = 1) -> list[records.Responses]:
    return records.read_jsonl(run.file(t, "responses.jsonl"), records.Responses)


def read_contexts(
    run: runs.Run, t: int, column: str = "context", name: str = "contexts.jsonl"
) -> dict[str, str]:
    """Return a column of a file of contexts, by video."""
    return {row["video"]: row[column] for row in records.read_jsonl(run.file(t, name), dict)}


def run_until_second(run: runs.Run) -> None:
    """Run the stages that come before iteration 2 responds."""
    for stage in (data, respond, judge, train):
        stage.run(run, 1)
    data.run(run, 2)


def run_iteration(run: runs.Run, t: int) -> None:
    for stage in (data, respond, judge, train, evaluate):
        stage.run(run, t)


def test_killed_after_a_batch_it_ends_with_the_same_bytes(make_run: Callable, kill_at: Callable) -> None:
    whole = make_run("whole", "respond.batch_size=1")
    broken = make_run("broken", "respond.batch_size=1")
    for run in (whole, broken):
        data.run(run, 1)
    respond.run(whole, 1)
    kill_at(broken, "respond", 1, "responses.jsonl", 2)
    before = broken.file(1, "responses.jsonl").read_bytes()
    whole_lines = before[: before.rfind(b"\n") + 1]
    respond.run(broken, 1)
    for name in FILES:
        assert whole.file(1, name).read_bytes() == broken.file(1, name).read_bytes()
    assert broken.file(1, "responses.jsonl").read_bytes().startswith(whole_lines)


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
    run_until_second(run)
    respond.run(run, 2)
    samples = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)
    ids = [sample.id for sample in samples]
    first = read_responses(run, 1)
    second = read_responses(run, 2)
    assert [row.id for row in first] == ids
    assert [row.id for row in second] == ids
    assert all(row.responses[0] != row.responses[1] for row in first), "two draws, not one"
    assert [row.responses for row in first] != [row.responses for row in second]


def test_one_description_a_video_shared_by_its_questions(own_data: Callable, make_run: Callable) -> None:
    rows = []
    for n in range(7):
        suffix = ".mp4" if n > 3 else ""
        rows.append({"id": f"{n}", "video": f"{{{n % 2}}}{suffix}", "prompt": f"What is {n}?"})
    folder, names = own_data(rows)
    run = make_run("shared", f"data={folder}", "data.samples=0")
    data.run(run, 1)
    respond.run(run, 1)
    contexts = read_contexts(run, 1)
    assert list(contexts) == [f"{name}.mp4" for name in names[:2]]
    assert run.done("respond", 1)["counts"]["described"] == 2
    expected = [contexts[f"{names[n % 2]}.mp4"] for n in range(7)]
    assert [row.context for row in read_responses(run)] == expected


def test_a_missing_description_names_the_samples_and_what_to_do(make_run: Callable) -> None:
    run = make_run("back")
    run_until_second(run)
    path = run.file(1, "contexts.jsonl")
    records.write_jsonl(path, records.read_jsonl(path, dict)[3:])
    message = (
        f"{path}: 3 of 10 samples have no description of iteration 1 to look back at "
        f"(loop-0-00000, loop-0-00001, loop-0-00002); remove {run.iteration(1)} "
    )
    with pytest.raises(errors.RunError, match=re.escape(message) + ".*respond.context=fresh"):
        respond.run(run, 2)
    path.unlink()
    with pytest.raises(errors.RunError, match=r"10 of 10 samples .*loop-0-00004, \.\.\.\)"):
        respond.run(run, 2)
    assert not run.done("respond", 2)
    assert not run.file(2, "responses.jsonl").exists()


def test_an_empty_description_is_looked_back_at_and_said(make_run: Callable) -> None:
    run = make_run("empty")
    run_until_second(run)
    path = run.file(1, "contexts.jsonl")
    rows = records.read_jsonl(path, dict)
    records.write_jsonl(path, [rows[0] | {"context": " "}, *rows[1:]])
    respond.run(run, 2)
    marker = run.done("respond", 2)
    second = records.read_jsonl(run.file(2, "contexts.jsonl"), dict)
    assert second[0]["previous_context"] == " "
    assert marker["counts"]["empty_previous"] == 1
    assert marker["warnings"] == ["1 of 10 descriptions looked back at an empty one"]


def test_empty_responses_and_contexts_are_bad_samples(make_run: Callable, tmp_path: Path) -> None:
    run = make_run("bad")
    data.run(run, 1)
    rows = [
        records.Responses("fine", ["a", "b"], "c", None),
        records.Responses("mute", ["a", " \n"], "", None),
        records.Responses("blind", ["a", "b"], " ", None),
        records.Responses("without", ["a", "b"], None, None),
    ]
    with run.stage("respond", 1) as stage:
        stage.total = 4
        respond.count_empty(stage, rows, [])
    assert records.read_jsonl(run.file(1, "bad_respond.jsonl"), dict) == [
        {"id": "mute", "cause": "empty response", "detail": ""},
        {"id": "blind", "cause": "empty context", "detail": ""},
    ]


def test_an_unfinished_thought_is_a_bad_sample_of_its_own_cause(make_run: Callable) -> None:
    run = make_run("thoughts")
    data.run(run, 1)
    rows = [
        records.Responses("a", [replies.spoken("<think>Red?</think>Blue."), "Red."], None, None),
        records.Responses("b", [replies.spoken("<think>Red? Or"), "Red."], None, None),
        records.Responses("c", ["Red.", "Blue."], replies.spoken("A <think>circle"), None),
        records.Responses("d", ["", "Blue."], None, None),
    ]
    assert rows[0].responses == ["Blue.", "Red."]
    with run.stage("respond", 1) as stage:
        stage.total = 100
        respond.count_empty(stage, rows, [])
    assert run.done("respond", 1)["bad"] == {"unfinished thought": 2, "empty response": 1}


@pytest.fixture
def run_on_new_videos(make_run: Callable) -> runs.Run:
    """Three iterations, each on videos of its own (data.reuse=false)."""
    run = make_run("parts", *NEW_VIDEOS)
    for t in (1, 2, 3):
        run_iteration(run, t)
    return run


def test_new_videos_are_described_first_by_the_policy_before(
    run_on_new_videos: runs.Run, make_run: Callable, kill_at: Callable
) -> None:
    """With data.reuse=false, pi_t looks back at a description of its new videos by pi_{t-1}.

    Iteration t - 1 had other videos, so their c_{t-1} is drawn first.
    """
    run = run_on_new_videos
    policies = [run.file(t, "policy").is_dir() for t in (1, 2, 3)]
    assert policies == [False, True, True], "the one that was needed in iteration 3 was kept until then"
    videos = []
    for t in (1, 2, 3):
        samples = records.read_jsonl(run.file(t, "samples.jsonl"), records.Sample)
        videos.append([sample.video for sample in samples])
    assert [len(part) for part in videos] == [6, 6, 6]
    assert len(set().union(*videos)) == 18
    assert not run.file(1, "previous_contexts.jsonl").exists()
    previous = read_contexts(run, 2, name="previous_contexts.jsonl")
    assert list(previous) == videos[1]
    assert read_contexts(run, 2, column="previous_context") == previous
    base = local.open_policy(run.params, run.policy(1))
    features = base.encode([run.videos_folder() / name for name in videos[1]])
    prompts = [run.params.prompts.context] * 6
    assert list(previous.values()) == base.generate(features, prompts, max_new_tokens=8)
    broken = make_run("broken", *NEW_VIDEOS)
    run_iteration(broken, 1)
    data.run(broken, 2)
    kill_at(broken, "respond", 2, "previous_contexts.jsonl", 1)
    respond.run(broken, 2)
    for name in ("previous_contexts.jsonl", *FILES):
        assert run.file(2, name).read_bytes() == broken.file(2, name).read_bytes(), name
