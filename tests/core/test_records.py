"""Rows on disk: whole or not at all, resumable by whole batches."""

from pathlib import Path

import pytest

from isrdpo.core import records
from isrdpo.core.records import BatchLog, Judgment, Responses, Sample

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
    says = rf"rows.jsonl:2: not a Responses row .*its fields are: {fields}"
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
