"""A row is read whole or refused by name, in every spelling; numbers are values, and text is text."""

import csv
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from isrdpo.core.records import BadRow, Sample
from isrdpo.formats.rows import COLUMNS, row_id, sample_from_row
from isrdpo.formats.turns import RowError
from isrdpo.stages import data

QUESTION = {"from": "human", "value": "<video>What moves?"}
ANSWER = {"from": "gpt", "value": "A disc."}
SECOND = {"role": "user", "content": "And then?"}
PAIR = Sample("a", "v.mp4", "What moves?", chosen="A disc.", rejected="A square.")


def read(path: Path) -> list[Sample | BadRow]:
    return list(data.read_source(data.Source(path), path.parent / "clips"))


def turn(role: str, text: str) -> dict:
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [turn("user", "<video>What moves?"), turn("assistant", "A disc.")],
            "rejected_response": "A square.",
        },
        {
            "messages": [turn("user", "What moves?"), turn("assistant", "A disc.")],
            "rejected_response": [turn("assistant", "A square.")],
        },
        {
            "messages": [turn("user", "What moves?"), turn("assistant", "A disc.")],
            "rejected_messages": [turn("user", "What moves?"), turn("assistant", "A square.")],
        },
        {"query": "<video>What moves?", "response": "A disc.", "rejected_response": "A square."},
        {"conversations": [QUESTION], "chosen": ANSWER, "rejected": {"from": "gpt", "value": "A square."}},
        {"instruction": "<video>What moves?", "input": "", "chosen": "A disc.", "rejected": "A square."},
        {"instruction": "<video>", "input": "What moves?", "chosen": "A disc.", "rejected": "A square."},
        {
            "prompt": [turn("system", "Be brief."), turn("user", "What moves?")],
            "chosen": ["A disc."],
            "rejected": [turn("assistant", "A square.")],
        },
        {
            "prompt": "What moves?",
            "question": "<video>\nWhat moves?",
            "chosen": "A disc.",
            "rejected": "A square.",
        },
    ],
)
def test_the_tools_spellings_are_one_pair(row: dict) -> None:
    assert sample_from_row(row | {"id": "a", "videos": ["v.mp4"]}) == PAIR


def test_llama_factorys_question_is_the_instruction_and_its_input() -> None:
    row = {"id": 1, "video": "v", "instruction": "Answer.", "input": "What moves?", "output": "A disc."}
    assert sample_from_row(row) == Sample("1", "v", "Answer.\nWhat moves?", "A disc.")


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"conversations": [QUESTION, ANSWER, SECOND], "chosen": ANSWER}, "more than one question"),
        ({"messages": [QUESTION, ANSWER, SECOND, ANSWER]}, "more than one question"),
        ({"prompt": [QUESTION, ANSWER, SECOND]}, "more than one question"),
        ({"chosen": [QUESTION, ANSWER, SECOND, ANSWER]}, "more than one question"),
        ({"prompt": "What?", "history": [["Who?", "Me."]]}, "more than one question"),
        ({"conversations": [QUESTION, ANSWER, ANSWER]}, "more than one answer"),
        ({"conversations": [ANSWER, QUESTION]}, "an answer before its question"),
        ({"prompt": "What?", "question": "Who?"}, "prompt and question hold different texts of the question"),
        (
            {"prompt": "What?", "conversations": [QUESTION]},
            "prompt and conversations hold different texts of the question",
        ),
        (
            {"prompt": "What?", "answer": "x", "output": "y"},
            "answer and output hold different texts of the answer",
        ),
        (
            {"prompt": "What?", "rejected": "x", "rejected_response": "y"},
            "rejected and rejected_response hold different texts of the rejected",
        ),
        ({"prompt": "What?", "caption": ["One.", "Two."]}, "several texts where one is read"),
        ({"prompt": "What?", "answer": ["x", "y"]}, "several texts where one is read"),
        ({"prompt": ["What?", "Who?"]}, "several texts where one is read"),
        ({"prompt": "What?", "videos": ["v.mp4", "w.mp4"]}, "more than one video"),
        ({"prompt": "What?", "videos": ["w.mp4"]}, "more than one video"),
        ({"prompt": "What?", "images": ["p.png"]}, "pictures beside the video"),
        ({"prompt": "What?", "answer": json.dumps([ANSWER])}, "turns written as text"),
        ({"prompt": str([QUESTION])}, "turns written as text"),
        (
            {"prompt": "What?", "answer": {"from": "gpt", "value": "x", "content": "y"}},
            "a turn with two texts",
        ),
    ],
)
def test_what_would_be_lost_is_refused_by_name(row: dict, cause: str) -> None:
    with pytest.raises(RowError) as raised:
        sample_from_row({"id": "a", "video": "v.mp4"} | row)
    assert str(raised.value) == cause


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2, "2"), (2.0, "2"), (0.0, "0"), (2.5, "2.5"), (Decimal("3.50"), "3.50"), (-1, "-1")],
)
def test_numbers_are_values(value: Any, text: str) -> None:
    row = {
        "id": value,
        "video": "v",
        "question": "How many?",
        "answer": value,
        "chosen": value,
        "kind": value,
    }
    sample = sample_from_row(row)
    assert (sample.id, sample.answer, sample.chosen, sample.kind) == (text, text, text, text)


@pytest.mark.parametrize("value", [None, math.nan, "", "  ", [], {}, {"from": "gpt", "value": None}])
def test_absence_is_no_text(value: Any) -> None:
    row = {"id": "a", "idx": 7, "video": "v", "question": "How many?", "answer": value, "caption": value}
    assert sample_from_row(row) == Sample("a", "v", "How many?")


@pytest.mark.parametrize("value", [True, False, math.inf, b"x", {"x": 1}, [1, 2], "half \ud800", "a\0b"])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        sample_from_row({"id": "a", "video": "v", "question": "How many?", "answer": value})


def test_whole_numbers_and_gaps_of_a_table_are_read(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"id": [0, 1], "video": "v", "question": "How many?", "answer": [0, None]})
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    for name in ("rows.parquet", "rows.jsonl"):
        assert [(s.id, s.answer) for s in read(tmp_path / name)] == [("0", "0"), ("1", "")]


def write_table(path: Path, row: dict) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    return path


def test_turns_and_lists_in_a_tables_cells_are_read_or_refused(tmp_path: Path) -> None:
    row = {"id": "a", "videos": '["v.mp4"]', "conversations": json.dumps([QUESTION])}
    row |= {"chosen": json.dumps(ANSWER), "rejected": "A square."}
    assert read(write_table(tmp_path / "turns.csv", row)) == [PAIR]
    for cell in (json.dumps([QUESTION, ANSWER, SECOND]), str([QUESTION]), '["x", "y"]', "['x', 'y']"):
        (bad,) = read(write_table(tmp_path / "bad.csv", {"id": "a", "video": "v", "question": cell}))
        assert isinstance(bad, BadRow), cell
    text = 'It says ["x"] and {"y": 1}; [1, 2].'
    (sample,) = read(write_table(tmp_path / "text.csv", {"id": "a", "video": "v", "question": text}))
    assert sample.question == text


def test_a_name_twice_in_an_object_is_refused(tmp_path: Path) -> None:
    line = '{"id": "a", "video": "v", "question": "What?", "question": "Who?"}'
    (tmp_path / "rows.jsonl").write_text(line)
    (bad,) = read(tmp_path / "rows.jsonl")
    assert "an object has 'question' twice" in bad.detail


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_row_that_is_not_utf8_is_named_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    rows = [
        {"id": "a", "video": "v.mp4", "question": "What?"},
        {"id": "b", "video": "v.mp4", "question": "Où ?"},
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if name == "rows.json":
        text = json.dumps(rows, ensure_ascii=False)
    elif name == "rows.csv":
        text = "id,video,question\na,v.mp4,What?\nb,v.mp4,Où ?\n"
    elif name == "rows.txt":
        text = "What?\nOù ?\n"
        (tmp_path / "clips").mkdir()
        (tmp_path / "clips/v.mp4").touch()
    (tmp_path / name).write_bytes(text.encode("cp1252"))
    bad, good = sorted(read(tmp_path / name), key=lambda row: isinstance(row, Sample))
    assert (good.video, good.question) == ("v.mp4", "What?")
    assert "not UTF-8, perhaps WINDOWS-1252" in bad.detail
    (tmp_path / name).write_bytes(text.encode("utf-16"))
    assert [row.question for row in read(tmp_path / name)] == ["What?", "Où ?"]


def test_a_list_of_frames_is_the_whole_folder_or_refused(tmp_path: Path) -> None:
    frames = [f"deep/frames/c01_{n:04d}.jpeg" for n in (1, 2, 3)]
    for frame in frames:
        (tmp_path / frame).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / frame)
    row = {"id": "a", "prompt": "What?"}
    assert sample_from_row(row | {"videos": [frames]}, tmp_path).video == "deep/frames"
    for other in (frames[:2], frames[::-1], [*frames[:2], "else/c01_0003.jpeg"]):
        with pytest.raises(RowError, match="frames that are not"):
            sample_from_row(row | {"videos": [other]}, tmp_path)


TEXTS = st.text(max_size=6)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
TURNS = st.fixed_dictionaries(
    {}, optional={name: SCALARS for name in ("from", "role", "value", "content")}
) | st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXTS})
VALUES = st.recursive(
    SCALARS | TURNS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["from", "role", "value", "content", "type", "text", "path"]), inner
        )
    ),
    max_leaves=4,
)


def leaves(value: Any) -> list[str]:
    """All texts and numbers in a value, as text."""
    if isinstance(value, dict):
        return [text for part in value.values() for text in leaves(part)]
    if isinstance(value, list):
        return [text for part in value for text in leaves(part)]
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return [str(value), str(int(value))]
    return [] if value is None or isinstance(value, bool) else [str(value)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(row=st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=4), base=st.booleans())
def test_any_row_is_a_sample_of_whole_texts_or_refused(row: dict, base: bool) -> None:
    row = ({"video": "v.mp4", "question": "What?"} if base else {}) | row
    assert row_id(row).encode() is not None
    try:
        sample = sample_from_row(row)
    except ValueError as error:
        assert str(error)
        return
    whole = leaves(row)
    for text in (sample.answer, sample.chosen, sample.rejected, sample.caption, sample.kind):
        assert not text or text in whole or all(part in whole for part in text.split(" "))
    assert sample.question and sample.id and sample.video


@settings(max_examples=100, deadline=None, derandomize=True)
@given(values=st.lists(st.sampled_from(["One.", "Two.", "Three.", None, ""]), min_size=2, max_size=4))
def test_no_part_of_a_list_is_lost(values: list) -> None:
    texts = {text for text in values if text}
    row = {"id": "a", "video": "v", "prompt": "What?", "answer": values}
    try:
        answer = sample_from_row(row).answer
    except RowError:
        return
    assert texts <= {answer}
