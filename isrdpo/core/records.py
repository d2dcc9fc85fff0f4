"""The rows that stages hand to each other, and how they are kept on disk: JSONL, atomic or resumable by whole batches."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")


class RecordError(ValueError):
    """A row that cannot be read; one line that says where and why."""


@dataclass(frozen=True)
class Sample:
    """A question about a clip. `video`: path below the run's video root. `facts`: what is known to be true (Toybox only)."""

    id: str
    video: str
    question: str
    answer: str = ""
    kind: str = ""
    caption: str = ""
    chosen: str = ""
    rejected: str = ""
    facts: dict | None = None


@dataclass(frozen=True)
class BadRow:
    """A row that is left out: its id (or `line N`, where it has none), the cause it is counted under, and where it stands."""

    id: str
    cause: str
    detail: str


@dataclass(frozen=True)
class Responses:
    """Two sampled responses, and the context c_t with the c_{t-1} it looked back at (None where there is none)."""

    id: str
    responses: list[str]
    context: str | None
    previous_context: str | None


def given(samples: Iterable[Sample]) -> list[Responses]:
    """Each sample's own chosen and rejected (empty where it lacks them), in the place of responses."""
    return [Responses(sample.id, [sample.chosen, sample.rejected], None, None) for sample in samples]


def no_pair(chosen: str, rejected: str) -> str:
    """Why two given answers are no preference; empty where they are one."""
    return "no chosen or no rejected" if not (chosen.strip() and rejected.strip()) else "chosen equals rejected" if chosen.strip() == rejected.strip() else ""


@dataclass(frozen=True)
class Judgment:
    """One verdict. `order` 0: the first response was shown first. `choice`: index into `responses`, None when the reply could not
    be read. `scores`: log-probabilities of choosing response 0 and 1 (score method)."""

    id: str
    order: int
    choice: int | None
    reply: str
    scores: list[float] | None


@dataclass(frozen=True)
class Preference:
    """A kept pair. `margin`: mean log-odds of the verdict over the orders, None for generated verdicts."""

    id: str
    video: str
    question: str
    chosen: str
    rejected: str
    margin: float | None


@dataclass(frozen=True)
class Answer:
    """A greedy answer to an evaluation question; `truth`: its claims, counted (Toybox only)."""

    id: str
    question: str
    kind: str
    reference: str
    response: str
    words: int
    truth: dict | None


@dataclass(frozen=True)
class Score:
    """A scorer's reply about one answer. `set`: the test set; `protocol`: hound, hound.official or claims; `scorer`: the name it was asked under, `version`: what
    answered. The others as protocol.Verdict has them. `words`: of the whole answer; `asked`: a digest of
    the whole request, which no other answer has."""

    id: str
    set: str
    protocol: str
    asked: str
    scorer: str
    version: str
    score: float | None
    correct: bool | None
    parsed_by: str
    claims: int | None
    unsupported: int | None
    words: int
    reply: str


@dataclass(frozen=True)
class FixedPair:
    """A held-out pair of answers of which `responses[truer]` is the truer."""

    id: str
    video: str
    question: str
    responses: list[str]
    truer: int
    facts: dict


def line(row: Any) -> str:
    """One row as a line of JSONL (dataclass or dict)."""
    return json.dumps(row if isinstance(row, dict) else asdict(row), ensure_ascii=False) + "\n"


def parse(text: str, row_type: type[Row], where: str) -> Row:
    """A line back to its row. Raises RecordError naming `where` and the field that is missing or too many."""
    try:
        values = json.loads(text)
        return row_type(**values) if row_type is not dict else values
    except (ValueError, TypeError) as error:
        names = ", ".join(f.name for f in fields(row_type)) if row_type is not dict else "any"
        raise RecordError(f"{where}: not a {row_type.__name__} row ({error}); its fields are: {names}") from None


def read(path: Path, row_type: type[Row]) -> list[Row]:
    """All rows of a finished file. Raises RecordError (a row that cannot be read) or FileNotFoundError."""
    with path.open(encoding="utf-8") as file:
        return [parse(text, row_type, f"{path}:{number}") for number, text in enumerate(file, 1) if text.strip()]


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside its place, flushed, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, rows: list[Any]) -> None:
    """All rows, atomically."""
    write_text(path, "".join(map(line, rows)))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def batches(rows: list[Row], size: int) -> list[list[Row]]:
    """Rows cut by position, as a BatchLog counts them; the last batch may be smaller."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]


class BatchLog:
    """An output file that grows by whole batches of input rows and survives being killed.

    A journal beside it (`.name.journal`) has a line a batch: the batch size and the file's bytes after it. What lies beyond the last
    whole journal line (a torn row, a torn batch) is cut off on opening; batches of another size are dropped, since they would be
    other rows. `done`: how many batches of input rows are on disk. One writer at a time (the run's lock)."""

    def __init__(self, path: Path, row_type: type, batch_size: int) -> None:
        self.path, self.row_type, self.batch_size = path, row_type, batch_size
        self.journal = path.with_name(f".{path.name}.journal")
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes = self._sizes()
        self.done = len(sizes)
        write_text(self.journal, "".join(f"{batch_size} {size}\n" for size in sizes))
        with path.open("ab") as file:
            file.truncate(sizes[-1] if sizes else 0)

    def _sizes(self) -> list[int]:
        """The file's size after each whole batch of ours, as far as the journal can be believed."""
        if not self.journal.exists() or not self.path.exists():
            return []
        sizes, present = [0], self.path.stat().st_size
        for text in self.journal.read_bytes().splitlines(keepends=True):
            parts = text.split()
            if not text.endswith(b"\n") or len(parts) != 2 or not all(part.isdigit() for part in parts):
                break
            batch_size, size = map(int, parts)
            if batch_size != self.batch_size or not sizes[-1] <= size <= present:
                break
            sizes.append(size)
        return sizes[1:]

    def append(self, rows: list[Any]) -> None:
        """One batch of input rows is done; `rows` are its output rows (any number, none too)."""
        with self.path.open("ab") as file:
            file.write("".join(map(line, rows)).encode())
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        with self.journal.open("a") as file:
            file.write(f"{self.batch_size} {size}\n")
            file.flush()
            os.fsync(file.fileno())
        self.done += 1

    def rows(self) -> list[Any]:
        """Everything on disk."""
        return read(self.path, self.row_type)
