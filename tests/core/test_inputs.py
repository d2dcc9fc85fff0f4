"""Files outside a run: a change of their content is named; a new time or a missing file is none."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo.core import changes, errors, inputs, params, records
from isrdpo.core.runs import Run
from isrdpo.stages import data, judge, respond

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
ROWS = [
    {
        "id": f"r{number}",
        "video": f"{{{number}}}.mp4",
        "question": f"What is at the top? ({number})",
        "answer": "a blue bnad",
        "chosen": "a blue bnad",
        "rejected": "a red band",
    }
    for number in range(3)
]


@pytest.fixture
def folder(own_data: Callable) -> Path:
    return own_data(ROWS)[0]


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> params.Params:
    overrides = ["judge.method=given", "iterations=1", "data.fixed_pairs=0", "max_bad_share=0.5"]
    return params.load(PRESET, [f"data={folder}", f"run={tmp_path / 'run'}", *overrides])


@pytest.fixture
def run(settings: params.Params) -> Run:
    """A run of the folder with its data, its (empty) responses and its preferences."""
    run = Run.create(settings)
    for stage in (data, respond, judge):
        stage.run(run, 1)
    return run


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def refusal(run: Run) -> str:
    """What opening the run for work says; empty where it opens."""
    try:
        Run.create(run.params)
    except errors.RunError as error:
        return str(error)
    return ""


def answers(run: Run) -> set[str]:
    return {row.answer for row in records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)}


def test_a_mended_dataset_file_is_named_and_redo_reads_it(run: Run, folder: Path) -> None:
    finished = run.finished()
    edit(folder / "train.jsonl", "bnad", "band")
    message = refusal(run)
    assert f"{folder / 'train.jsonl'} changed since stage data of iteration 1 read it" in message
    assert "--redo" in message
    assert "test.qa.jsonl" not in message
    with pytest.raises(errors.RunError, match="train.jsonl changed since"):
        data.run(Run.open(run.folder), 1)
    with pytest.raises(errors.RunError, match="train.jsonl changed since"):
        judge.run(Run.open(run.folder), 1)
    assert run.finished() == finished
    assert answers(run) == {"a blue bnad"}

    again = Run.create(run.params, redo=True)
    assert again.finished() == [("data", 0)], "what was made from the file is done again, nothing else"
    for stage in (data, respond, judge):
        stage.run(again, 1)
    assert answers(again) == {"a blue band"}
    preferences = records.read_jsonl(again.file(1, "preferences.jsonl"), records.Preference)
    assert {row.chosen for row in preferences} == {"a blue band"}
    assert refusal(again) == ""


def test_an_edit_that_keeps_size_and_time_is_noticed(run: Run, folder: Path) -> None:
    path = folder / "train.jsonl"
    before = path.stat()
    edit(path, "bnad", "band")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert "train.jsonl changed" in refusal(run)


def test_a_copied_or_touched_data_set_is_the_same(run: Run, folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)
    (folder / "train.jsonl").touch()
    (folder / "notes.txt").write_text("of no stage")
    assert refusal(run) == ""


def test_a_run_may_travel_without_its_data(run: Run, folder: Path) -> None:
    shutil.rmtree(folder)
    assert refusal(run) == ""
    assert data.run(run, 1) is None


def test_another_clip_under_the_same_name_is_named(run: Run, folder: Path) -> None:
    first, second, _ = sorted((folder / "clips").iterdir())
    shutil.copy(second, first)
    assert f"{first} changed since stage data of iteration 0" in refusal(run)


def test_a_clip_that_was_missing_and_came_is_named(settings: params.Params, folder: Path) -> None:
    first = sorted((folder / "clips").iterdir())[0]
    elsewhere = first.rename(folder / first.name)
    run = Run.create(settings)
    data.run(run, 1)
    assert len(answers(run)) == 1
    assert run.done("data", 1)["bad"] == {"missing video": 1}
    assert refusal(run) == ""
    elsewhere.rename(first)
    assert f"{first.name.removesuffix('.mp4')}" in refusal(run)
    again = Run.create(settings, redo=True)
    data.run(again, 1)
    assert again.done("data", 1)["counts"]["samples"] == 3


def test_a_frame_of_a_folder_of_frames_is_content(run: Run, tmp_path: Path) -> None:
    frames = Path(run.params.data.path) / "clips" / "frames"
    frames.mkdir()
    for number in range(3):
        (frames / f"{number}.png").write_bytes(b"picture %d" % number)
    before = inputs.fingerprint(run, "clips", "frames")
    assert before.size == 27
    assert inputs.changed_inputs(run, [("data", 1)], {("data", 1): {before.key: before}}) == {}
    (frames / "1.png").write_bytes(b"picture 7")
    changed = inputs.changed_inputs(run, [("data", 1)], {("data", 1): {before.key: before}})
    assert changed == {("data", 1): [str(frames)]}


def test_large_files_are_sampled_but_data_never(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "SAMPLED_ABOVE", 1000)
    monkeypatch.setattr(inputs, "SAMPLE_SIZE", 2)
    for name in ("clips/large.mp4", "large.jsonl"):
        (folder / name).write_bytes(bytes(100_000))
    clip = inputs.fingerprint(run, "clips", "large.mp4")
    rows = inputs.fingerprint(run, "data", "large.jsonl")
    for name in ("clips/large.mp4", "large.jsonl"):
        content = bytearray(100_000)
        content[5] = 1  # between two samples
        (folder / name).write_bytes(content)
    assert inputs.fingerprint(run, "clips", "large.mp4").digest == clip.digest
    assert inputs.fingerprint(run, "data", "large.jsonl").digest != rows.digest
    (folder / "clips/large.mp4").write_bytes(bytes(99_999) + b"\1")
    assert inputs.fingerprint(run, "clips", "large.mp4").digest != clip.digest


def test_a_file_that_changes_while_it_is_read_leaves_no_marker(
    settings: params.Params, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(settings)
    read_source = data.read_source

    def read_then_edit(source: data.Source, clips: Path) -> list:
        rows = list(read_source(source, clips))
        edit(source.path, "bnad", "band")
        return rows

    monkeypatch.setattr(data, "read_source", read_then_edit)
    with pytest.raises(errors.RunError, match=r"test.qa.jsonl changed since stage data of iteration 0"):
        data.run(run, 1)
    assert run.finished() == []
    monkeypatch.undo()
    data.run(run, 1)
    assert run.finished() == [("data", 0), ("data", 1)]


def test_a_removed_marker_does_not_mix_new_data_under_old_rows(run: Run, folder: Path) -> None:
    edit(folder / "train.jsonl", "bnad", "band")
    run.marker_path("data", 1).unlink()
    assert "train.jsonl changed" in refusal(run)
    with pytest.raises(errors.RunError, match="train.jsonl changed"):
        data.run(run, 1)


def test_a_run_made_before_opens_as_done_with_a_warning(
    run: Run, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    for record in run.folder.glob("iter_*/.*.inputs"):
        record.unlink()
    edit(folder / "train.jsonl", "bnad", "band")
    finished = run.finished()
    assert refusal(run) == ""
    assert run.finished() == finished
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "made before runs recorded what they read" in lines[0]


def test_readers_are_warned_and_nothing_is_refused(
    run: Run, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    changes.warn_of_changes(run)
    assert capsys.readouterr().err == ""
    edit(folder / "train.jsonl", "bnad", "band")
    changes.warn_of_changes(run)
    assert "warning:" in capsys.readouterr().err


@pytest.mark.slow
def test_a_changed_base_is_named_and_its_rows_are_not_gone_on_with(
    make_run: Callable, random_base: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(random_base, tmp_path / "base")
    run = make_run("run", f"model.path={base}")
    data.run(run, 1)
    respond.run(run, 1)
    run.marker_path("respond", 1).unlink()  # as if it had been killed after its last batch
    begun = run.file(1, "contexts.jsonl").read_bytes()
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(errors.RunError, match=r"base/model.safetensors changed since stage respond"):
        respond.run(run, 1)
    assert run.file(1, "contexts.jsonl").read_bytes() == begun
    again = Run.create(run.params, redo=True)
    assert again.finished() == [("data", 0), ("data", 1)]
    respond.run(again, 1)
    assert again.done("respond", 1)
    (base / "adapter_model.safetensors").write_bytes(b"new")
    assert "a file is new" in refusal(again)


def test_params_edited_by_hand_do_not_drop_rows_without_a_word(run: Run) -> None:
    edit(run.folder / "params.yaml", "keep_surest: 0.4", "keep_surest: 0.25")
    edited = Run.open(run.folder)
    assert edited.params != run.params
    assert "params.yaml changed, and stage judge of iteration 1" in refusal(edited)
    assert run.finished() == [("data", 0), ("data", 1), ("respond", 1), ("judge", 1)]
