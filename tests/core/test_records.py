"""Rows on disk: whole or not at all, resumable by whole batches."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isrdpo.core import records
from isrdpo.core.records import BatchLog, Judgment, Responses, Sample
from isrdpo.core.stage import Marker

DAMAGE = ["", "{", '{"id": 1', "[]", "null", "\0" * 40, "[" * 100_000, "\xff\xfe", '{"id": "a"}', "NaN"]
BYTES = [text.encode("latin-1") for text in DAMAGE]
FIELDS = ("id", "order", "choice", "reply", "scores", "more")
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.floats() | st.text())
)

ODD = 'a "quote", a \\ backslash, é, \u2028, a tab\t, a \n newline, {"json": 1}'


def test_round_trip(tmp_path: Path) -> None:
    rows = [Sample("1", "a.mp4", ODD, facts={"n": [1, None]}), Sample("2", "b.mp4", "?")]
    records.write_jsonl(tmp_path / "deep" / "rows.jsonl", rows)
    assert records.read_jsonl(tmp_path / "deep" / "rows.jsonl", Sample) == rows
    assert len((tmp_path / "deep" / "rows.jsonl").read_bytes().splitlines()) == 2
    records.write_json(tmp_path / "x.json", {"a": [1, ODD]})
    assert records.read_json(tmp_path / "x.json") == {"a": [1, ODD]}


def test_a_row_that_cannot_be_read_says_where(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"id": "1", "responses": ["a", "b"], "context": null, "previous_context": null}\n{"id": "2"}\n'
    )
    fields = "id, responses, context, previous_context"
    says = rf"rows.jsonl:2: not (a |UTF-8)Responses row .*its fields are: {fields}"
    with pytest.raises(records.RecordError, match=says):
        records.read_jsonl(path, Responses)
    path.write_text("{torn")
    with pytest.raises(records.RecordError, match=r"rows.jsonl:1: not a Sample row"):
        records.read_jsonl(path, Sample)
    path.write_text("[1]\n")
    with pytest.raises(records.RecordError, match=r"rows.jsonl:1: not a Sample row"):
        records.read_jsonl(path, Sample)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    records.write_jsonl(path, [{"a": 1}])
    with pytest.raises(UnicodeEncodeError):
        records.write_text(path, "half\ud800")
    assert records.read_jsonl(path, dict) == [{"a": 1}]
    assert list(tmp_path.iterdir()) == [path]


def batch_of(number: int, size: int) -> list[Judgment]:
    return [Judgment(f"{number}{row}", 0, row, ODD, [0.1, -2.5]) for row in range(size)]


BATCHES = [batch_of(number, size) for number, size in enumerate((3, 0, 2, 3))]


def write_whole(path: Path) -> bytes:
    """The bytes of a log that nothing disturbed."""
    log = BatchLog(path, Judgment, 3)
    for batch in BATCHES:
        log.append(batch)
    assert log.done == 4
    assert log.rows() == sum(BATCHES, [])
    return path.read_bytes()


def test_a_log_torn_anywhere_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """The file cut at every byte of its tail, the journal whole or torn: what is not sure is made again."""
    whole = write_whole(tmp_path / "whole.jsonl")
    journal = (tmp_path / ".whole.jsonl.journal").read_bytes()
    path = tmp_path / "log.jsonl"
    beside = tmp_path / ".log.jsonl.journal"
    for file_end in [*range(0, len(whole), 151), len(whole)]:
        for journal_end in range(0, len(journal) + 1, 3):
            path.write_bytes(whole[:file_end])
            beside.write_bytes(journal[:journal_end])
            log = BatchLog(path, Judgment, 3)
            for batch in BATCHES[log.done :]:
                log.append(batch)
            assert path.read_bytes() == whole


def test_lines_beyond_the_last_whole_batch_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = BatchLog(path, Judgment, 3)
    log.append(BATCHES[0])
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"id": "whole", "order": 0, "choice": 0, "reply": "", "scores": null}\n{"id": "to')
    again = BatchLog(path, Judgment, 3)
    assert again.done == 1
    assert path.stat().st_size == size
    assert again.rows() == BATCHES[0]


def test_another_batch_size_starts_again(tmp_path: Path) -> None:
    write_whole(tmp_path / "log.jsonl")
    log = BatchLog(tmp_path / "log.jsonl", Judgment, 2)
    assert log.done == 0
    assert log.rows() == []


@pytest.mark.parametrize("journal", ["", "x y\n", "3 -5\n", "3 99999999\n", "3\n", "3 1 1\n", "\xff\n"])
def test_a_journal_that_makes_no_sense_starts_again(tmp_path: Path, journal: str) -> None:
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n')
    (tmp_path / ".log.jsonl.journal").write_text(journal, encoding="latin-1")
    assert BatchLog(tmp_path / "log.jsonl", dict, 3).done == 0


@pytest.mark.parametrize("content", BYTES, ids=range(len(BYTES)))
def test_a_torn_json_file_is_one_line_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(content)
    with pytest.raises(records.RecordError) as caught:
        records.read_json(path, Marker, "remove it")
    message = str(caught.value)
    assert message.startswith(f"{path}: torn, or not what isrdpo writes (")
    assert message.endswith("; remove it")
    assert "\n" not in message


@pytest.mark.parametrize("content", [text for text in BYTES if text], ids=range(len(BYTES) - 1))
@pytest.mark.parametrize("row_type", sorted(set(records.ROWS.values()), key=str))
def test_a_torn_row_is_one_line_with_its_file_and_number(
    tmp_path: Path, row_type: type, content: bytes
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n" + content + b"\n")
    with pytest.raises(records.RecordError, match=r"rows.jsonl:2: not (a |UTF-8)") as caught:
        records.read_jsonl(path, row_type)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_a_row_of_other_values_is_read_as_it_stands_or_refused(values: dict) -> None:
    row = {"id": "a", "order": 0, "choice": 1, "reply": "A", "scores": [0.5, -1.5]} | values
    line = json.dumps(row, ensure_ascii=False)
    try:
        read = records.parse_line(line, records.Judgment, "here")
    except records.RecordError:
        return
    assert records.to_line(read) == line + "\n"
    assert type(read.id) is str
    assert type(read.order) is int
    assert type(read.reply) is str
    assert read.choice is None or type(read.choice) is int


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1", b"\0\0\0", b"loss\n\xff", b'loss\n"1', b"loss\n1,2,3\n4"]
)
def test_a_torn_table_is_one_line_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with pytest.raises(records.RecordError, match=r"train.csv: ") as caught:
        records.read_csv(path, ["loss", "step"])
    assert "\n" not in str(caught.value)


def test_a_log_whose_journal_cuts_a_row_in_two_goes_back_to_the_last_whole_batch(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    log = records.BatchLog(path, dict, 2)
    for number in range(3):
        log.append([{"n": number}])
    size = path.stat().st_size
    log.journal.write_text(f"2 9\n2 {size - 3}\n2 {'9' * 5000}\n")
    again = records.BatchLog(path, dict, 2)
    assert (again.done, again.rows()) == (1, [{"n": 0}])
