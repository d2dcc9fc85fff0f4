"""Stage 1: every spelling of LLaVA-Hound's rows, and every way in which a row can be bad."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from isrdpo import checks
from isrdpo.core import errors, params, records, runs
from isrdpo.formats import rows as spellings
from isrdpo.stages import data

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
TURNS = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A circle."}]


def opened(folder: Path, tmp_path: Path, *overrides: str) -> runs.Run:
    return runs.Run.create(
        params.load(PRESET, [f"run={tmp_path / 'run'}", f"data={folder}", "max_bad_share=0.9", *overrides])
    )


def found(run: runs.Run, iteration: int = 1) -> tuple[list[records.Sample], list[tuple[str, str]]]:
    """(samples, (id, cause) of the bad ones) of an iteration."""
    data.run(run, iteration)
    bad = records.read_jsonl(run.file(iteration, "bad_data.jsonl"), dict)
    return records.read_jsonl(run.file(iteration, "samples.jsonl"), records.Sample), [
        (row["id"], row["cause"]) for row in bad
    ]


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
    assert spellings.sample_from_row(row | {"video": "v.mp4"}) == records.Sample(
        "a", "v.mp4", "What moves?", "A circle."
    )


def test_preferences_of_the_released_data_are_kept() -> None:
    row = {"id": 7, "video": "v", "prompt": "What?", "chosen": {"from": "gpt", "value": "x"}, "rejected": [{"role": "assistant", "content": "y"}],
           "chosen_score": 5, "rejected_score": 1.0}  # fmt: skip
    made = spellings.sample_from_row(row)
    assert (made.id, made.chosen, made.rejected) == ("7", "x", "y")


def test_bad_rows_are_listed_by_cause_and_line(own_data: Callable, tmp_path: Path) -> None:
    folder, _ = own_data([
        {"id": "good", "video": "{0}.mp4", "prompt": "What?"}, "", "{torn", "[1, 2]",
        {"id": "silent", "video": "{0}.mp4", "prompt": "<video>\n"},
        {"id": "blind", "prompt": "What?"},
        {"video": "{0}.mp4", "prompt": "What?"},
        {"id": "odd", "video": "{0}.mp4", "prompt": 5},
        {"id": "good", "video": "{1}.mp4", "prompt": "Again?"},
        {"id": "gone", "video": "nowhere.mp4", "prompt": "What?"},
        {"id": "out", "video": "../../secret.mp4", "prompt": "What?"},
    ])  # fmt: skip
    samples, bad = found(opened(folder, tmp_path, "max_bad_share=1.0"))
    assert [s.id for s in samples] == ["good"]
    assert bad == [
        ("line 3", "unreadable row"), ("line 4", "unreadable row"), ("silent", "empty question"), ("blind", "no video named"),
        ("line 7", "no id"), ("odd", "unreadable row"), ("good", "duplicate id"), ("gone", "missing video"), ("out", "missing video"),
    ]  # fmt: skip


def test_bad_rows_are_not_fatal_below_the_share_and_stop_the_stage_above(
    own_data: Callable, tmp_path: Path
) -> None:
    rows = [{"id": f"{n}", "video": "{0}.mp4", "prompt": "What?"} for n in range(3)] + [
        {"id": "gone", "video": "x", "prompt": "What?"}
    ]
    folder, _ = own_data(rows)
    run = opened(folder, tmp_path, "max_bad_share=0.25")
    assert (
        len(found(run)[0]) == 3
        and run.done("data", 1)["bad"] == {"missing video": 1}
        and run.done("data", 1)["total"] == 4
    )
    strict = runs.Run.create(
        params.load(PRESET, [f"run={tmp_path / 'strict'}", f"data={folder}", "max_bad_share=0.24"])
    )
    with pytest.raises(
        errors.BadShare, match=r"25% of 4 samples are bad \(1 missing video\).*max_bad_share=0.24.*gone"
    ):
        data.run(strict, 1)
    assert not strict.done("data", 0) and not strict.done("data", 1)


def test_a_video_whose_second_half_is_damaged_is_found_here(own_data: Callable, tmp_path: Path) -> None:
    folder, names = own_data(
        [
            {"id": "whole", "video": "{0}", "prompt": "What?"},
            {"id": "torn", "video": "{1}", "prompt": "What?"},
        ]
    )
    clip = folder / "clips" / f"{names[1]}.mp4"
    content = bytearray(clip.read_bytes())
    begin = content.find(b"mdat")
    end = begin - 4 + int.from_bytes(content[begin - 4 : begin], "big")
    middle = (begin + end) // 2
    content[middle:end] = bytes(end - middle)  # zeros where pictures were: its first frame still decodes
    clip.write_bytes(content)
    samples, bad = found(opened(folder, tmp_path))
    assert [s.id for s in samples] == ["whole"] and bad == [("torn", "broken video")]


def test_one_clip_has_one_name_however_it_is_spelled(own_data: Callable, tmp_path: Path) -> None:
    folder, names = own_data([{"id": "a", "video": "{0}", "prompt": "What?"}, {"id": "b", "video": "{0}.mp4", "prompt": "Where?"},
                              {"id": "c", "video": "frames", "prompt": "Why?"}])  # fmt: skip
    (folder / "clips" / "frames").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (number * 80, 0, 0)).save(
            folder / "clips" / "frames" / f"c01_{number:04d}.jpeg"
        )
    samples, bad = found(opened(folder, tmp_path))
    assert [s.video for s in samples] == [f"{names[0]}.mp4"] * 2 + ["frames"] and not bad


def test_a_subset_is_the_same_every_iteration_and_iteration_zero_is_the_test_set(
    own_data: Callable, tmp_path: Path
) -> None:
    folder, _ = own_data(
        [{"id": f"{n}", "video": f"{{{n % 3}}}", "prompt": f"What is {n}?"} for n in range(12)]
    )
    run = opened(folder, tmp_path, "data.samples=5", "data.questions=4")
    first, second = found(run, 1)[0], found(run, 2)[0]
    assert (
        first == second
        and len(first) == 5
        and [s.id for s in first] == sorted((s.id for s in first), key=int)
    )
    assert (
        len(found(run, 0)[0]) == 4
        and records.read_jsonl(run.file(0, "fixed_pairs.jsonl"), records.FixedPair) == []
    )


def test_without_reuse_every_iteration_has_questions_of_its_own(own_data: Callable, tmp_path: Path) -> None:
    folder, _ = own_data(
        [{"id": f"{n}", "video": f"{{{n % 3}}}", "prompt": f"What is {n}?"} for n in range(13)]
    )
    for samples, size in ((0, 4), (3, 3)):
        run = opened(
            folder, tmp_path / f"{samples}", "data.reuse=false", f"data.samples={samples}", "iterations=3"
        )
        parts = [{s.id for s in found(run, t)[0]} for t in (1, 2, 3)]
        assert [len(part) for part in parts] == [size] * 3 and len(set.union(*parts)) == 3 * size
    few = opened(folder, tmp_path / "few", "data.reuse=false", "data.samples=5", "iterations=3")
    says = "data.reuse=false: data.samples=5 in each of 3 iterations is more than the 13 rows there are; lower them, or set data.reuse=true"
    with pytest.raises(errors.RunError, match=re.escape(says)):
        data.run(few, 1)
    assert says in checks.inspect(few.params)[1]


def test_toybox_has_new_clips_without_reuse(tmp_path: Path) -> None:
    runs_of = [
        runs.Run.create(
            params.load(PRESET, [f"run={tmp_path / name}", "data.samples=5", "data.questions=3", *more])
        )
        for name, more in (("same", []), ("new", ["data.reuse=false"]))
    ]
    for run in runs_of:
        for t in (1, 2):
            data.run(run, t)
    same, new = (
        [records.read_jsonl(run.file(t, "samples.jsonl"), records.Sample) for t in (1, 2)] for run in runs_of
    )
    assert (
        same[0] == same[1] == new[0]
        and not {s.video for s in new[1]} & {s.video for s in new[0]}
        and not {s.id for s in new[1]} & {s.id for s in new[0]}
    )


def test_toybox_keeps_its_videos_and_holds_its_evaluation_out(tmp_path: Path) -> None:
    run = runs.Run.create(
        params.load(
            PRESET, [f"run={tmp_path / 'toy'}", "data.samples=6", "data.questions=5", "data.fixed_pairs=4"]
        )
    )
    for t in (1, 2):
        data.run(run, t)
    loop, again, held_out = (run.file(t, "samples.jsonl") for t in (1, 2, 0))
    assert loop.read_bytes() == again.read_bytes()
    seen = {s.video for s in records.read_jsonl(loop, records.Sample)}
    asked = {s.video for s in records.read_jsonl(held_out, records.Sample)}
    pairs = {p.video for p in records.read_jsonl(run.file(0, "fixed_pairs.jsonl"), records.FixedPair)}
    assert (
        (len(seen), len(asked), len(pairs)) == (6, 5, 4) and not seen & (asked | pairs) and not asked & pairs
    )
    assert all((run.videos_folder() / name).is_file() for name in seen | asked | pairs)


def test_a_folder_without_its_file_and_one_without_a_usable_row_say_so(
    own_data: Callable, tmp_path: Path
) -> None:
    folder, _ = own_data([{"id": "gone", "video": "nowhere", "prompt": "What?"}])
    with pytest.raises(errors.RunError, match="no usable sample.*bad_data.jsonl"):
        data.run(opened(folder, tmp_path, "max_bad_share=1.0"), 1)
    (folder / "test.qa.jsonl").unlink()
    other = runs.Run.create(params.load(PRESET, [f"run={tmp_path / 'other'}", f"data={folder}"]))
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
    folder, _ = own_data(
        [
            {"id": "a", "video": "{0}", "prompt": "What?"},
            {"id": "b", "video": "{0}", "prompt": "What?", "kind": "own"},
        ]
    )
    (folder / "test.qa.jsonl").rename(folder / name)
    assert [(s.id, s.kind) for s in found(opened(folder, tmp_path, f"data.test={name}"), 0)[0]] == [
        ("a", kind),
        ("b", "own"),
    ]


def test_several_test_files_are_read_together_under_their_sets_names(
    own_data: Callable, tmp_path: Path
) -> None:
    folder, _ = own_data(
        [{"id": f"{n}", "video": f"{{{n % 3}}}", "prompt": f"What is {n}?"} for n in range(6)] + ["{torn"]
    )
    (folder / "sets").mkdir()
    for name in ("msvd.qa.jsonl", "sets/msrvtt.qa.official.jsonl"):
        (folder / name).write_text((folder / "test.qa.jsonl").read_text())
    both = "data.test=msvd.qa.jsonl, sets/msrvtt.qa.official.jsonl"
    samples, bad = found(opened(folder, tmp_path, both, "data.questions=4"), 0)
    assert [s.kind for s in samples] == ["msvd"] * 4 + ["msrvtt.official"] * 4 and all(
        s.id.startswith(f"{s.kind}/") for s in samples
    )
    assert len({s.id for s in samples}) == 8 and bad == [
        ("msvd/line 7", "unreadable row"),
        ("msrvtt.official/line 7", "unreadable row"),
    ]
    for wrong, says in (
        ("msvd.qa.jsonl,../x.jsonl", "data.test: '../x.jsonl' leads out of data.path"),
        (" , ", "data.test: no file"),
    ):
        with pytest.raises(params.ParamsError, match=says):
            params.load(PRESET, [f"data={folder}", f"data.test={wrong}"])
    with pytest.raises(errors.RunError, match="two of its files are the set 'msvd'"):
        data.iteration_sources(
            params.load(PRESET, [f"data={folder}", "data.test=msvd.qa.jsonl,sets/msvd.jsonl"]), 0
        )
