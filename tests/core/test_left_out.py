"""Items without a row: the list beside a file survives being killed, and what was mended is tried again."""

import os
from pathlib import Path

import pytest

from isrdpo.core import left_out, records
from isrdpo.core.left_out import BadItem, LeftOut, LeftOutLog


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "responses.jsonl"


def test_it_is_on_disk_as_soon_as_it_is_noted(file: Path) -> None:
    log = LeftOutLog(file)
    assert log.items == []
    log.add(1, "a", BadItem("too long for the model", "9 tokens too many"))
    log.add(3, "ü", BadItem("broken video", "gone", Path("no/such/clip")))
    expected = [
        LeftOut(1, "a", "too long for the model", "9 tokens too many"),
        LeftOut(3, "ü", "broken video", "gone", "no/such/clip", "missing"),
    ]
    assert log.items == expected
    assert LeftOutLog(file).items == expected


def test_a_torn_line_and_the_items_of_a_torn_batch_are_forgotten(file: Path) -> None:
    log = LeftOutLog(file)
    for batch in (1, 2, 2, 3):
        log.add(batch, f"item of {batch}", BadItem("broken video", "x"))
    path = left_out.left_out_path(file)
    path.write_bytes(path.read_bytes()[:-9])
    again = LeftOutLog(file)
    assert [item.batch for item in again.items] == [1, 2, 2]
    again.keep(1)
    assert [item.batch for item in LeftOutLog(file).items] == [1]


def test_without_a_bad_item_no_file_is_written(file: Path) -> None:
    LeftOutLog(file).keep(0)
    assert not left_out.left_out_path(file).exists()


@pytest.mark.parametrize("kind", ["file", "folder of frames"])
def test_a_clip_is_tried_again_only_when_it_has_changed(file: Path, tmp_path: Path, kind: str) -> None:
    clip = tmp_path / "clip"
    frame = clip
    if kind != "file":
        clip.mkdir()
        frame = clip / "c01_0001.png"
    frame.write_bytes(b"torn")
    log = LeftOutLog(file)
    log.add(1, "a", BadItem("broken video", "torn", clip))
    log.add(1, "b", BadItem("too long for the model", "no clip is to blame"))
    assert [item.is_outdated for item in LeftOutLog(file).items] == [False, False]
    before = frame.stat()
    frame.write_bytes(b"TORN")
    os.utime(frame, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert [item.is_outdated for item in LeftOutLog(file).items] == [True, False]
    frame.unlink()
    assert LeftOutLog(file).items[0].is_outdated


def test_batches_behind_the_kept_ones_are_done_again(tmp_path: Path) -> None:
    log = records.BatchLog(tmp_path / "rows.jsonl", dict, 1)
    for number in range(4):
        log.append([{"n": number}])
    log.keep(2)
    assert log.done == 2
    assert log.rows() == [{"n": 0}, {"n": 1}]
    log.append([{"n": 9}])
    assert records.BatchLog(tmp_path / "rows.jsonl", dict, 1).rows() == [{"n": 0}, {"n": 1}, {"n": 9}]
