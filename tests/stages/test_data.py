"""Stage 1: every spelling of LLaVA-Hound's rows, and every way in which a row can be bad."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from isrdpo import checks
from isrdpo.core import errors, params, records, runs
from isrdpo.formats.rows import sample_from_row
from isrdpo.stages import data

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
TURNS = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A circle."}]


def create_run(folder: Path, *overrides: str) -> runs.Run:
    """Create a run in this folder from the Toybox preset."""
    return runs.Run.create(params.load(PRESET, [f"run={folder}", *overrides]))


def create_data_run(dataset: Path, tmp_path: Path, *overrides: str) -> runs.Run:
    """Create a run on this data set that tolerates nearly any share of bad rows."""
    return create_run(tmp_path / "run", f"data={dataset}", "max_bad_share=0.9", *overrides)


def read_samples(run: runs.Run, iteration: int) -> list[records.Sample]:
    return records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample)


def read_fixed_pairs(run: runs.Run) -> list[records.FixedPair]:
    return records.read_jsonl(run.file(0, "fixed_pairs.jsonl"), records.FixedPair)


def run_data_stage(run: runs.Run, iteration: int = 1) -> tuple[list[records.Sample], list[tuple[str, str]]]:
    """Run the stage, and return its samples and the (id, cause) of each bad row."""
    data.run(run, iteration)
    bad_rows = records.read_jsonl(run.file(iteration, "bad_data.jsonl"), dict)
    causes = [(row["id"], row["cause"]) for row in bad_rows]
    return read_samples(run, iteration), causes


def numbered_rows(count: int) -> list[dict | str]:
    """Return rows with the ids "0", "1", ..., spread over the three clips."""
    return [{"id": f"{n}", "video": f"{{{n % 3}}}", "prompt": f"What is {n}?"} for n in range(count)]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "a", "prompt": "<video>\nWhat moves?", "answer": "A circle."},
        {"id": "a", "prompt": "What moves?<video>", "answer": {"from": "gpt", "value": "A circle."}},
        {"id": "a", "prompt": {"from": "human", "value": "What <video>moves?"}, "answer": "A circle."},
        {"idx": "a", "conversations": TURNS},
        {
            "id": None,
            "idx": "a",
            "conversations": [
                {"role": "user", "content": "What moves?\n<video>"},
                {"role": "assistant", "content": "A circle."},
            ],
        },
        {"id": "a", "prompt": [TURNS[0]], "answer": [TURNS[1]]},
        {"id": "a", "prompt": "", "conversations": TURNS},
    ],
)
def test_every_spelling_is_the_same_sample(row: dict) -> None:
    expected = records.Sample("a", "v.mp4", "What moves?", "A circle.")
    assert sample_from_row(row | {"video": "v.mp4"}) == expected


def test_preferences_of_the_released_data_are_kept() -> None:
    row = {
        "id": 7,
        "video": "v",
        "prompt": "What?",
        "chosen": {"from": "gpt", "value": "x"},
        "rejected": [{"role": "assistant", "content": "y"}],
        "chosen_score": 5,
        "rejected_score": 1.0,
    }
    sample = sample_from_row(row)
    assert sample.id == "7"
    assert sample.chosen == "x"
    assert sample.rejected == "y"


def test_bad_rows_are_listed_by_cause_and_line(own_data: Callable, tmp_path: Path) -> None:
    rows = [
        {"id": "good", "video": "{0}.mp4", "prompt": "What?"},
        "",
        "{torn",
        "[1, 2]",
        {"id": "silent", "video": "{0}.mp4", "prompt": "<video>\n"},
        {"id": "blind", "prompt": "What?"},
        {"id": "odd", "video": "{0}.mp4", "prompt": True},
        {"id": "good", "video": "{1}.mp4", "prompt": "Again?"},
        {"id": "gone", "video": "nowhere.mp4", "prompt": "What?"},
        {"id": "out", "video": "../../secret.mp4", "prompt": "What?"},
    ]
    folder, _ = own_data(rows)
    samples, causes = run_data_stage(create_data_run(folder, tmp_path, "max_bad_share=1.0"))
    assert [sample.id for sample in samples] == ["good"]
    assert causes == [
        ("line 3", "unreadable row"),
        ("line 4", "unreadable row"),
        ("silent", "empty question"),
        ("blind", "no video named"),
        ("odd", "unreadable row"),
        ("good", "duplicate id"),
        ("gone", "missing video"),
        ("out", "missing video"),
    ]


def test_bad_rows_are_not_fatal_below_the_share_and_stop_the_stage_above(
    own_data: Callable, tmp_path: Path
) -> None:
    rows = [{"id": f"{n}", "video": "{0}.mp4", "prompt": "What?"} for n in range(3)]
    rows.append({"id": "gone", "video": "x", "prompt": "What?"})
    folder, _ = own_data(rows)
    run = create_data_run(folder, tmp_path, "max_bad_share=0.25")
    samples, _ = run_data_stage(run)
    assert len(samples) == 3
    assert run.done("data", 1)["bad"] == {"missing video": 1}
    assert run.done("data", 1)["total"] == 4
    strict = create_run(tmp_path / "strict", f"data={folder}", "max_bad_share=0.24")
    message = r"25% of 4 samples are bad \(1 missing video\).*max_bad_share=0.24.*gone"
    with pytest.raises(errors.BadShare, match=message):
        data.run(strict, 1)
    assert not strict.done("data", 0)
    assert not strict.done("data", 1)


def test_a_video_whose_second_half_is_damaged_is_found_here(own_data: Callable, tmp_path: Path) -> None:
    rows = [
        {"id": "whole", "video": "{0}", "prompt": "What?"},
        {"id": "torn", "video": "{1}", "prompt": "What?"},
    ]
    folder, names = own_data(rows)
    clip = folder / "clips" / f"{names[1]}.mp4"
    content = bytearray(clip.read_bytes())
    begin = content.find(b"mdat")
    end = begin - 4 + int.from_bytes(content[begin - 4 : begin], "big")
    middle = (begin + end) // 2
    content[middle:end] = bytes(end - middle)  # zeros where pictures were: its first frame still decodes
    clip.write_bytes(content)
    samples, causes = run_data_stage(create_data_run(folder, tmp_path))
    assert [sample.id for sample in samples] == ["whole"]
    assert causes == [("torn", "broken video")]


def test_one_clip_has_one_name_however_it_is_spelled(own_data: Callable, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "video": "{0}", "prompt": "What?"},
        {"id": "b", "video": "{0}.mp4", "prompt": "Where?"},
        {"id": "c", "video": "frames", "prompt": "Why?"},
    ]
    folder, names = own_data(rows)
    frames = folder / "clips" / "frames"
    frames.mkdir()
    for number in range(3):
        picture = Image.new("RGB", (64, 48), (number * 80, 0, 0))
        picture.save(frames / f"c01_{number:04d}.jpeg")
    samples, causes = run_data_stage(create_data_run(folder, tmp_path))
    assert [sample.video for sample in samples] == [f"{names[0]}.mp4", f"{names[0]}.mp4", "frames"]
    assert not causes


def test_a_subset_is_the_same_every_iteration_and_iteration_zero_is_the_test_set(
    own_data: Callable, tmp_path: Path
) -> None:
    folder, _ = own_data(numbered_rows(12))
    run = create_data_run(folder, tmp_path, "data.samples=5", "data.questions=4")
    first, _ = run_data_stage(run, 1)
    second, _ = run_data_stage(run, 2)
    assert first == second
    assert len(first) == 5
    ids = [sample.id for sample in first]
    assert ids == sorted(ids, key=int)
    test_samples, _ = run_data_stage(run, 0)
    assert len(test_samples) == 4
    assert read_fixed_pairs(run) == []


@pytest.mark.parametrize(("samples", "size"), [(0, 4), (3, 3)])
def test_without_reuse_every_iteration_has_questions_of_its_own(
    own_data: Callable, tmp_path: Path, samples: int, size: int
) -> None:
    folder, _ = own_data(numbered_rows(13))
    run = create_data_run(folder, tmp_path, "data.reuse=false", f"data.samples={samples}", "iterations=3")
    parts = []
    for t in (1, 2, 3):
        part, _ = run_data_stage(run, t)
        parts.append({sample.id for sample in part})
    assert [len(part) for part in parts] == [size] * 3
    assert len(set.union(*parts)) == 3 * size


def test_without_reuse_too_few_rows_are_refused(own_data: Callable, tmp_path: Path) -> None:
    folder, _ = own_data(numbered_rows(13))
    run = create_data_run(folder, tmp_path, "data.reuse=false", "data.samples=5", "iterations=3")
    message = (
        "data.reuse=false: data.samples=5 in each of 3 iterations is more than the 13 rows there are; "
        "lower them, or set data.reuse=true"
    )
    with pytest.raises(errors.RunError, match=re.escape(message)):
        data.run(run, 1)
    assert message in checks.inspect(run.params)[1]


def toybox_samples(folder: Path, *overrides: str) -> list[list[records.Sample]]:
    """Return the samples of two iterations of a Toybox run in this folder."""
    run = create_run(folder, "data.samples=5", "data.questions=3", *overrides)
    for t in (1, 2):
        data.run(run, t)
    return [read_samples(run, t) for t in (1, 2)]


def test_toybox_has_new_clips_without_reuse(tmp_path: Path) -> None:
    first, second = toybox_samples(tmp_path / "same")
    new_first, new_second = toybox_samples(tmp_path / "new", "data.reuse=false")
    assert first == second
    assert first == new_first
    assert {s.video for s in new_first}.isdisjoint({s.video for s in new_second})
    assert {s.id for s in new_first}.isdisjoint({s.id for s in new_second})


def test_toybox_keeps_its_videos_and_holds_its_evaluation_out(tmp_path: Path) -> None:
    run = create_run(tmp_path / "toy", "data.samples=6", "data.questions=5", "data.fixed_pairs=4")
    for t in (1, 2):
        data.run(run, t)
    assert run.file(1, "samples.jsonl").read_bytes() == run.file(2, "samples.jsonl").read_bytes()
    training_videos = {sample.video for sample in read_samples(run, 1)}
    test_videos = {sample.video for sample in read_samples(run, 0)}
    pair_videos = {pair.video for pair in read_fixed_pairs(run)}
    assert len(training_videos) == 6
    assert len(test_videos) == 5
    assert len(pair_videos) == 4
    assert training_videos.isdisjoint(test_videos | pair_videos)
    assert test_videos.isdisjoint(pair_videos)
    for name in training_videos | test_videos | pair_videos:
        assert (run.videos_folder() / name).is_file(), name


def test_a_folder_without_its_file_and_one_without_a_usable_row_say_so(
    own_data: Callable, tmp_path: Path
) -> None:
    folder, _ = own_data([{"id": "gone", "video": "nowhere", "prompt": "What?"}])
    run = create_data_run(folder, tmp_path, "max_bad_share=1.0")
    with pytest.raises(errors.RunError, match="no usable sample.*bad_data.jsonl"):
        data.run(run, 1)
    (folder / "test.qa.jsonl").unlink()
    other = create_run(tmp_path / "other", f"data={folder}")
    with pytest.raises(errors.RunError, match=re.escape(f"{folder / 'test.qa.jsonl'}: no such dataset file")):
        data.run(other, 1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("msvd.qa.jsonl", "msvd"),
        ("tgif.qa.official.jsonl", "tgif.official"),
        ("test.qa.jsonl", ""),
        ("mine.jsonl", ""),
    ],
)
def test_one_test_file_of_the_references_names_its_kind(
    own_data: Callable, tmp_path: Path, name: str, kind: str
) -> None:
    rows = [
        {"id": "a", "video": "{0}", "prompt": "What?"},
        {"id": "b", "video": "{0}", "prompt": "What?", "kind": "own"},
    ]
    folder, _ = own_data(rows)
    (folder / "test.qa.jsonl").rename(folder / name)
    samples, _ = run_data_stage(create_data_run(folder, tmp_path, f"data.test={name}"), 0)
    assert [(sample.id, sample.kind) for sample in samples] == [("a", kind), ("b", "own")]


def test_several_test_files_are_read_together_under_their_sets_names(
    own_data: Callable, tmp_path: Path
) -> None:
    folder, _ = own_data([*numbered_rows(6), "{torn"])
    (folder / "sets").mkdir()
    for name in ("msvd.qa.jsonl", "sets/msrvtt.qa.official.jsonl"):
        (folder / name).write_text((folder / "test.qa.jsonl").read_text())
    both = "data.test=msvd.qa.jsonl, sets/msrvtt.qa.official.jsonl"
    samples, causes = run_data_stage(create_data_run(folder, tmp_path, both, "data.questions=4"), 0)
    assert [sample.kind for sample in samples] == ["msvd"] * 4 + ["msrvtt.official"] * 4
    assert all(sample.id.startswith(f"{sample.kind}/") for sample in samples)
    assert len({sample.id for sample in samples}) == 8
    assert causes == [
        ("msvd/line 7", "unreadable row"),
        ("msrvtt.official/line 7", "unreadable row"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("msvd.qa.jsonl,../x.jsonl", "data.test: '../x.jsonl' leads out of data.path"),
        (" , ", "data.test: no file"),
    ],
)
def test_test_files_outside_the_folder_or_none_at_all_are_refused(
    tmp_path: Path, files: str, message: str
) -> None:
    with pytest.raises(params.ParamsError, match=message):
        params.load(PRESET, [f"data={tmp_path}", f"data.test={files}"])


def test_two_test_files_of_one_set_are_refused(tmp_path: Path) -> None:
    settings = params.load(PRESET, [f"data={tmp_path}", "data.test=msvd.qa.jsonl,sets/msvd.jsonl"])
    with pytest.raises(errors.RunError, match="two of its files are the set 'msvd'"):
        data.iteration_sources(settings, 0)
