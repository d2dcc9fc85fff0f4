"""Items of a batched file that have no row, because they cannot be used: why each is left out, kept on disk.

The list lies beside the file (`.name.left_out.jsonl`), so that a stage that was killed lists the same items.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from isrdpo.core.errors import VideoError
from isrdpo.core.records import RecordError, parse_line, to_line, write_text

# The causes that they are counted under.
BROKEN_VIDEO = "broken video"
TOO_LONG = "too long for the model"
NO_EARLIER_DESCRIPTION = "no earlier description"
UNREADABLE = "unreadable request"
CAUSES = (BROKEN_VIDEO, TOO_LONG, NO_EARLIER_DESCRIPTION, UNREADABLE)


class BadItem(Exception):
    """One item cannot be used, whatever becomes of the others.

    `cause` is one of CAUSES; the text is the detail. `clip` is the file or folder of frames that is to blame,
    if one is.
    """

    def __init__(self, cause: str, detail: str, clip: Path | None = None) -> None:
        super().__init__(detail)
        self.cause = cause
        self.clip = clip


@dataclass(frozen=True)
class LeftOut:
    """An item without a row. `batch` is the number of its batch, from 1.

    `clip` is the path of the clip that cannot be used, and `stamp` the state in which it was tried; both are
    empty where no clip is to blame.
    """

    batch: int
    id: str
    cause: str
    detail: str
    clip: str = ""
    stamp: str = ""

    @property
    def is_outdated(self) -> bool:
        """Whether its clip has changed since it was tried."""
        return bool(self.clip) and clip_stamp(Path(self.clip)) != self.stamp


class LeftOutLog:
    """The items that a batched file leaves out. It is on disk before the rows of the item's batch are."""

    def __init__(self, file: Path) -> None:
        self.path = left_out_path(file)
        self.items = self._read()

    def _read(self) -> list[LeftOut]:
        """The items on disk, up to the first line that was torn."""
        items: list[LeftOut] = []
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        for line in lines:
            try:
                items.append(parse_line(line.decode(), LeftOut, str(self.path)))
            except (RecordError, UnicodeDecodeError):
                break
        return items

    def keep(self, batches: int) -> None:
        """Forget the items of all batches but the first ones."""
        self.items = [item for item in self.items if item.batch <= batches]
        if self.path.exists():
            write_text(self.path, "".join(map(to_line, self.items)))

    def add(self, batch: int, item_id: str, error: BadItem) -> None:
        """Note an item of the batch in progress."""
        clip = "" if error.clip is None else str(error.clip)
        stamp = "" if error.clip is None else clip_stamp(error.clip)
        item = LeftOut(batch, item_id, error.cause, str(error), clip, stamp)
        with self.path.open("ab") as file:
            file.write(to_line(item).encode())
            file.flush()
            os.fsync(file.fileno())
        self.items.append(item)


def left_out_path(file: Path) -> Path:
    """The list that belongs to a batched file."""
    return file.with_name(f".{file.name}.left_out.jsonl")


def clip_stamp(path: Path) -> str:
    """The state of a clip on disk: files, bytes, and when they were last changed; `missing` without it."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [file.stat() for file in files]
    except (OSError, ValueError):
        return "missing"
    newest = max((state.st_mtime_ns for state in states), default=0)
    return f"{len(states)} {sum(state.st_size for state in states)} {newest}"


def bad_clip(error: VideoError, clip: Path) -> BadItem:
    """A clip that cannot be read or encoded, as a bad item."""
    return BadItem(BROKEN_VIDEO, str(error), clip)
