"""Every format of a data set gives the same samples; what cannot be read is one line, and no file leads
anywhere.
"""

import csv
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from isrdpo.core import params, records
from isrdpo.core.errors import RunError
from isrdpo.core.records import BadRow, Sample
from isrdpo.core.runs import Run
from isrdpo.formats.files import dataset_rows
from isrdpo.formats.rows import sample_from_row
from isrdpo.stages import data

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
SAMPLES = [
    Sample(f"r{n}", "v.mp4", f"What is {n}?", chosen=f"Good {n}.", rejected=f"Bad {n}.") for n in range(3)
]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


FLAT = [
    {"id": s.id, "video": s.video, "prompt": s.question, "chosen": s.chosen, "rejected": s.rejected}
    for s in SAMPLES
]
EXPLICIT = [
    {
        "id": s.id,
        "videos": [s.video],
        "prompt": [user(f"<video>{s.question}")],
        "chosen": [assistant(s.chosen)],
        "rejected": [assistant(s.rejected)],
    }
    for s in SAMPLES
]
IMPLICIT = [
    {
        "id": s.id,
        "videos": [s.video],
        "chosen": [user(s.question), assistant(s.chosen)],
        "rejected": [user(s.question), assistant(s.rejected)],
    }
    for s in SAMPLES
]
TYPED = [
    {
        "id": s.id,
        "video": s.video,
        "prompt": [{"role": "user", "content": [{"type": "video", "text": None}, text_part(s.question)]}],
        "chosen": [{"role": "assistant", "content": [text_part(s.chosen)]}],
        "rejected": [{"role": "assistant", "content": [text_part(s.rejected)]}],
    }
    for s in SAMPLES
]


def read(path: Path, **source: str) -> list[Sample | BadRow]:
    return list(data.read_source(data.Source(path, **source), path.parent / "clips"))


def causes(rows: list[Sample | BadRow]) -> list[tuple[str, str]]:
    return [(row.id, row.cause) for row in rows]


@pytest.mark.parametrize(
    "shape", [FLAT, EXPLICIT, IMPLICIT, TYPED], ids=["flat", "explicit", "implicit", "typed"]
)
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
    assert read(path) == SAMPLES


def test_rows_without_an_id_get_one_by_their_content_in_every_format(tmp_path: Path) -> None:
    import datasets

    parquet = tmp_path / "pairs.parquet"
    without_id = [{name: value for name, value in row.items() if name != "id"} for row in EXPLICIT]
    datasets.Dataset.from_list(without_id).to_parquet(parquet)
    ids = [row.id for row in read(parquet)]
    assert len(set(ids)) == 3

    data_set = datasets.Dataset.from_parquet(str(parquet), cache_dir=str(tmp_path / "cache"))
    data_set.save_to_disk(tmp_path / "saved", num_shards=2)
    (tmp_path / "rows.json").write_text(json.dumps(without_id))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(without_id)))
    assert [row.id for row in read(tmp_path / "saved")] == ids
    assert [row.id for row in read(tmp_path / "rows.json")] == ids
    assert [row.id for row in read(tmp_path / "rows.jsonl")] == ids[::-1], "the content's, not the place's"

    (tmp_path / "twice.json").write_text(json.dumps([without_id[0], FLAT[0] | {"id": None}]))
    assert causes(read(tmp_path / "twice.json")[1:]) == [(ids[0], "duplicate id")]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"video": {"bytes": b"\0\0ftyp", "path": None}}, "video given as bytes, not as a path"),
        ({"videos": [{"bytes": b"\0\0ftyp", "path": "v.mp4"}]}, "video given as bytes, not as a path"),
        ({"videos": ["a.mp4", "b.mp4"]}, "more than one video"),
        ({"videos": []}, "no video named"),
        ({"prompt": [user("What?"), assistant("This."), user("And?")]}, "more than one question"),
        (
            {
                "prompt": None,
                "chosen": [user("What?"), assistant("x")],
                "rejected": [user("Who?"), assistant("y")],
            },
            "chosen and rejected answer different questions",
        ),
        ({"prompt": [user("<video>\n")]}, "empty question"),
    ],
)
def test_a_bad_row_has_one_cause(tmp_path: Path, row: dict, cause: str) -> None:
    import datasets

    good = {
        "id": "a",
        "video": None if "videos" in row else "v",
        "videos": None,
        "prompt": [user("What?")],
        "chosen": [assistant("x")],
    }
    datasets.Dataset.from_list([good | row]).to_parquet(tmp_path / "bad.parquet")
    assert causes(read(tmp_path / "bad.parquet")) == [("a", cause)]


def test_the_path_may_stand_in_a_typed_part_and_a_picture_is_not_read_over() -> None:
    parts = [{"type": "video", "video": "v.mp4"}, text_part("What moves?")]
    row = {"id": 1, "prompt": [{"role": "user", "content": parts}]}
    assert sample_from_row(row) == Sample("1", "v.mp4", "What moves?")
    row = {"id": 1, "video": {"path": "v.mp4", "bytes": None}, "question": "What moves?"}
    assert sample_from_row(row).video == "v.mp4"
    with_picture = [{"role": "user", "content": [{"type": "image"}, *parts]}]
    with pytest.raises(ValueError, match="a part of type 'image'"):
        sample_from_row({"id": 1, "video": "v", "prompt": with_picture})


def test_a_csvs_header_may_be_spelled_otherwise_and_its_bad_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "asked.csv"
    path.write_text(
        '\ufeffVideo_Path; Prompt ;Answer;Note\nv.mp4;"What; exactly,\nmoves?";A circle.;x\nw.mp4;;;\n\n'
        "u.mp4;What?\nt.mp4;Where?;Left.;\n"
    )
    first, empty, short, last = read(path)
    assert replace(first, id="") == Sample("", "v.mp4", "What; exactly,\nmoves?", "A circle.")
    assert len({first.id, last.id}) == 2
    assert causes([empty, short]) == [("row 2", "empty question"), ("row 4", "unreadable row")]
    assert "row 4 (line 6): 2 cells under 4 columns" in short.detail
    path.write_text('id,video,question\na,v,"What?\nb,v,Where?\n')  # a quote that never closes
    assert causes(read(path)) == [("row 1", "unreadable row")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,answer\n", "no column question in its header"),
        ("video,clip,question\n", "two columns are video"),
        ("", "no column question or video"),
        ('id,"video,question\na,v,What?\n', "its header .* cannot be read"),
    ],
)
def test_a_csv_without_a_usable_header_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "asked.csv").write_text(text)
    with pytest.raises(RunError, match=message):
        read(tmp_path / "asked.csv")


def test_a_csv_written_by_csv_is_read(tmp_path: Path) -> None:
    names = ["id", "video", "question", "chosen", "rejected"]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({name: getattr(sample, name) for name in names} for sample in SAMPLES)
    assert read(tmp_path / "pairs.csv") == SAMPLES


def test_a_text_of_questions_is_asked_of_every_video(own_data: Callable, tmp_path: Path) -> None:
    folder, names = own_data([])
    frames = folder / "clips" / "more" / "frames"
    frames.mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(frames / "c01_0001.jpeg")
    (folder / "questions.txt").write_text("What moves?\n\nWhere is it?\n")
    (folder / "exam.txt").write_text("Which color?\n")
    overrides = [f"data={folder}", "data.train=questions.txt", "data.test=exam.txt"]
    run = Run.create(params.load(PRESET, [f"run={tmp_path / 'run'}", *overrides]))
    data.run(run, 1)

    samples = records.read_jsonl(run.file(1, "samples.jsonl"), Sample)
    clips = [*sorted(f"{name}.mp4" for name in names), "more/frames"]
    questions = ["What moves?", "Where is it?"]
    assert [(s.video, s.question) for s in samples] == list(product(clips, questions))
    held_out = records.read_jsonl(run.file(0, "samples.jsonl"), Sample)
    assert len(held_out) == 4
    assert not {s.id for s in samples} & {s.id for s in held_out}
    with pytest.raises(RunError, match=r"no video below it to ask the questions of questions\.txt about"):
        list(dataset_rows(folder / "questions.txt", tmp_path / "nowhere"))


def test_a_file_that_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    import datasets

    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    data_set = datasets.Dataset.from_list(FLAT)
    data_set.save_to_disk(tmp_path / "out")
    arrow = tmp_path / "out" / "data-00000-of-00001.arrow"
    (tmp_path / "secret.arrow").write_bytes(arrow.read_bytes())
    state = tmp_path / "out" / "state.json"
    state.write_text(state.read_text().replace(arrow.name, "../secret.arrow"))
    datasets.DatasetDict(train=data_set, test=data_set).save_to_disk(tmp_path / "both")
    data_set.to_parquet(tmp_path / "torn.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "torn.parquet").read_bytes()[:-40])
    (tmp_path / "torn.json").write_text(json.dumps(FLAT, indent=1)[:-30])
    (tmp_path / "pickle.arrow").write_bytes(pickle.dumps(Harm()))
    (tmp_path / "plain").mkdir()

    messages = {
        "out": "'../secret.arrow', which is no file beside it",
        "both": "several splits; name one: both/train, both/test",
        "torn.parquet": "not readable as Parquet or Arrow",
        "torn.json": "begins as a JSON array, but is not a whole one",
        "pickle.arrow": "not readable as Parquet or Arrow",
        "plain": "it has no state.json",
    }
    for name, message in messages.items():
        with pytest.raises(RunError, match=message) as raised:
            read(tmp_path / name)
        assert "\n" not in str(raised.value) and name in str(raised.value)
    assert not (tmp_path / "executed").exists()
    assert read(tmp_path / "both" / "train") == SAMPLES


def test_deep_nesting_and_half_surrogates_are_bad_rows_not_a_crash(tmp_path: Path) -> None:
    lines = [
        '{"id": "\\ud800", "video": "v", "prompt": "What?"}',
        "[" * 100_000,
        '{"id": "b", "video": "v", "prompt": "\\ud800?"}',
    ]
    (tmp_path / "odd.jsonl").write_text("\n".join(lines) + "\n")
    rows = read(tmp_path / "odd.jsonl")
    assert causes(rows) == [(name, "unreadable row") for name in ("\\ud800", "line 2", "b")]
    records.write_jsonl(tmp_path / "written.jsonl", rows)
