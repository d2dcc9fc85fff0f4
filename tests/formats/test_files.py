"""Every format a data set comes in gives the same samples; what cannot be read is one line, and nothing in a file leads anywhere."""

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from isrdpo.core import errors, params, records, runs
from isrdpo.formats import files as formats
from isrdpo.formats import rows as spellings
from isrdpo.stages import data

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
WANTED = [records.Sample(f"r{n}", "v.mp4", f"What is {n}?", chosen=f"Good {n}.", rejected=f"Bad {n}.") for n in range(3)]
FLAT = [{"id": s.id, "video": s.video, "prompt": s.question, "chosen": s.chosen, "rejected": s.rejected} for s in WANTED]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


EXPLICIT = [{"id": s.id, "videos": [s.video], "prompt": [user(f"<video>{s.question}")], "chosen": [said(s.chosen)], "rejected": [said(s.rejected)]} for s in WANTED]
IMPLICIT = [
    {"id": s.id, "videos": [s.video], "chosen": [user(s.question), said(s.chosen)], "rejected": [user(s.question), said(s.rejected)]} for s in WANTED
]  # fmt: skip
TYPED = [
    {"id": s.id, "video": s.video, "prompt": [{"role": "user", "content": [{"type": "video", "text": None}, {"type": "text", "text": s.question}]}],
     "chosen": [{"role": "assistant", "content": [{"type": "text", "text": s.chosen}]}],
     "rejected": [{"role": "assistant", "content": [{"type": "text", "text": s.rejected}]}]} for s in WANTED
]  # fmt: skip


def read(path: Path, **how: str) -> list[records.Sample | data.BadRow]:
    return list(data.read_rows(data.Source(path, **how), path.parent / "clips"))


@pytest.mark.parametrize("shape", [FLAT, EXPLICIT, IMPLICIT, TYPED], ids=["flat", "explicit", "implicit", "typed"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "rows.arrow", "saved"])
def test_every_format_and_shape_gives_the_same_samples(tmp_path: Path, name: str, shape: list[dict]) -> None:
    import datasets
    import pyarrow

    path = tmp_path / name
    if name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in shape))
    elif name.endswith("json"):
        path.write_text("\ufeff" + json.dumps(shape, indent=1))
    elif name.endswith("parquet"):
        datasets.Dataset.from_list(shape).to_parquet(path)
    elif name.endswith("arrow"):
        table = pyarrow.Table.from_pylist(shape)
        with pyarrow.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    else:
        datasets.Dataset.from_list(shape).save_to_disk(path)
    assert read(path) == WANTED


def test_rows_without_an_id_get_a_stable_one_where_the_format_has_none(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{k: v for k, v in row.items() if k != "id"} for row in EXPLICIT]).to_parquet(tmp_path / "pairs.parquet")
    assert [row.id for row in read(tmp_path / "pairs.parquet")] == ["pairs-1", "pairs-2", "pairs-3"]
    datasets.Dataset.from_parquet(str(tmp_path / "pairs.parquet"), cache_dir=str(tmp_path / "cache")).save_to_disk(tmp_path / "saved", num_shards=2)
    assert [row.id for row in read(tmp_path / "saved")] == ["saved-1", "saved-2", "saved-3"], "two files, one count"
    (tmp_path / "rows.json").write_text(json.dumps([{"video": "v", "prompt": "What?"}]))
    assert [(row.id, row.cause) for row in read(tmp_path / "rows.json")] == [("row 1", "no id")]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"video": {"bytes": b"\0\0ftyp", "path": None}}, "video given as bytes, not as a path"),
        ({"videos": [{"bytes": b"\0\0ftyp", "path": "v.mp4"}]}, "video given as bytes, not as a path"),
        ({"videos": ["a.mp4", "b.mp4"]}, "more than one video"),
        ({"videos": []}, "no video named"),
        ({"prompt": [user("What?"), said("This."), user("And?")]}, "more than one question"),
        ({"prompt": None, "chosen": [user("What?"), said("x")], "rejected": [user("Who?"), said("y")]}, "chosen and rejected answer different questions"),
        ({"prompt": [user("<video>\n")]}, "empty question"),
    ],
)
def test_a_bad_row_has_one_cause(tmp_path: Path, row: dict, cause: str) -> None:
    import datasets

    datasets.Dataset.from_list([{"id": "a", "video": None, "videos": None, "prompt": [user("What?")], "chosen": [said("x")]} | {"video": "v"} | row
                                | ({"video": None} if "videos" in row else {})]).to_parquet(tmp_path / "bad.parquet")  # fmt: skip
    assert [(found.id, found.cause) for found in read(tmp_path / "bad.parquet")] == [("a", cause)]


def test_the_path_may_stand_in_a_typed_part_and_a_picture_is_not_read_over() -> None:
    parts = [{"type": "video", "video": "v.mp4"}, {"type": "text", "text": "What moves?"}]
    assert spellings.sample({"id": 1, "prompt": [{"role": "user", "content": parts}]}) == records.Sample("1", "v.mp4", "What moves?")
    assert spellings.sample({"id": 1, "video": {"path": "v.mp4", "bytes": None}, "question": "What moves?"}).video == "v.mp4"
    with pytest.raises(ValueError, match="a part of type 'image'"):
        spellings.sample({"id": 1, "video": "v", "prompt": [{"role": "user", "content": [{"type": "image"}, *parts]}]})


def test_a_csvs_header_may_be_spelled_otherwise_and_its_bad_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "asked.csv"
    path.write_text('\ufeffVideo_Path; Prompt ;Answer;Note\nv.mp4;"What; exactly,\nmoves?";A circle.;x\nw.mp4;;;\n\nu.mp4;What?\nt.mp4;Where?;Left.;\n')
    first, empty, short, last = read(path)
    assert first == records.Sample("asked-1", "v.mp4", "What; exactly,\nmoves?", "A circle.") and last.id == "asked-5"
    assert [(row.id, row.cause) for row in (empty, short)] == [("asked-2", "empty question"), ("asked-4", "unreadable row")]
    assert "row 4 (line 6): 2 cells under 4 columns" in short.detail
    path.write_text('id,video,question\na,v,"What?\nb,v,Where?\n')  # a quote that never closes
    assert [(row.id, row.cause) for row in read(path)] == [("row 1", "unreadable row")]
    for text, says in (("clip,answer\n", "no column question in its header"), ("video,clip,question\n", "two columns are video"), ("", "no column question or video")):
        path.write_text(text)
        with pytest.raises(errors.RunError, match=says):
            read(path)


def test_a_csv_written_by_csv_is_read(tmp_path: Path) -> None:
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "video", "question", "chosen", "rejected"])
        writer.writeheader()
        writer.writerows({"id": s.id, "video": s.video, "question": s.question, "chosen": s.chosen, "rejected": s.rejected} for s in WANTED)
    assert read(tmp_path / "pairs.csv") == WANTED


def test_a_text_of_questions_is_asked_of_every_video(own_data: Callable, tmp_path: Path) -> None:
    folder, names = own_data([])
    frames = folder / "clips" / "more" / "frames"
    frames.mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(frames / "c01_0001.jpeg")
    (folder / "questions.txt").write_text("What moves?\n\nWhere is it?\n")
    (folder / "exam.txt").write_text("Which color?\n")
    run = runs.Run.create(params.load(PRESET, [f"run={tmp_path / 'run'}", f"data={folder}", "data.train=questions.txt", "data.test=exam.txt"]))
    data.run(run, 1)
    found = records.read_jsonl(run.file(1, "samples.jsonl"), records.Sample)
    clips = [*sorted(f"{name}.mp4" for name in names), "more/frames"]
    assert [(s.video, s.question, s.id) for s in found] == [
        (clip, text, f"questions-{line}/{clip}") for clip in clips for line, text in ((1, "What moves?"), (3, "Where is it?"))
    ]
    held_out = records.read_jsonl(run.file(0, "samples.jsonl"), records.Sample)
    assert len(held_out) == 4 and not {s.id for s in found} & {s.id for s in held_out}
    with pytest.raises(errors.RunError, match=r"no video below it to ask the questions of questions\.txt about"):
        list(formats.rows(folder / "questions.txt", tmp_path / "nowhere"))


def test_what_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    import datasets

    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    made = datasets.Dataset.from_list(FLAT)
    made.save_to_disk(tmp_path / "out")
    state = tmp_path / "out" / "state.json"
    (tmp_path / "secret.arrow").write_bytes((tmp_path / "out" / "data-00000-of-00001.arrow").read_bytes())
    datasets.DatasetDict(train=made, test=made).save_to_disk(tmp_path / "both")
    made.to_parquet(tmp_path / "torn.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "torn.parquet").read_bytes()[:-40])
    (tmp_path / "torn.json").write_text(json.dumps(FLAT, indent=1)[:-30])
    (tmp_path / "pickle.arrow").write_bytes(pickle.dumps(Harm()))
    (tmp_path / "plain").mkdir()
    state.write_text(state.read_text().replace("data-00000-of-00001.arrow", "../secret.arrow"))
    for name, says in {
        "out": "'../secret.arrow', which is no file beside it", "both": "several splits; name one: both/train, both/test", "torn.parquet": "not readable as Parquet or Arrow",
        "torn.json": "begins as a JSON array, but is not a whole one", "pickle.arrow": "not readable as Parquet or Arrow", "plain": "it has no state.json",
    }.items():  # fmt: skip
        with pytest.raises(errors.RunError, match=says) as raised:
            read(tmp_path / name)
        assert "\n" not in str(raised.value) and name in str(raised.value)
    assert not (tmp_path / "executed").exists() and read(tmp_path / "both" / "train") == WANTED


def test_deep_nesting_and_half_surrogates_are_bad_rows_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"id": "\\ud800", "video": "v", "prompt": "What?"}\n' + "[" * 100_000 + '\n{"id": "b", "video": "v", "prompt": "\\ud800?"}\n')
    found = read(tmp_path / "odd.jsonl")
    assert [row.cause for row in found if isinstance(row, data.BadRow)] == ["unreadable row", "unreadable row"]
    records.write_jsonl(tmp_path / "written.jsonl", found)
