"""The rows that stages hand to each other, and how they lie on disk: JSONL and CSV files that are whole or
not there.

A file that grows by batches and survives being killed is a `BatchLog`.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from isrdpo.core.folders import atomic_file, name_disk_errors
from isrdpo.core.text_files import encoding_fault, open_text
from isrdpo.core.typed_json import RecordError, parse_json, reason

if TYPE_CHECKING:
    import pandas as pd

Row = TypeVar("Row")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Sample:
    """A question about a clip.

    `video` is a path below the run's folder of videos. `facts` is what is known to be true of the clip
    (Toybox only).
    """

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
    """A row that is left out: its id (`line N` where it has none), the cause it is counted under, and where
    it stands.
    """

    id: str
    cause: str
    detail: str


@dataclass(frozen=True)
class Context:
    """The description c_t of a video, and the c_{t-1} that it looked back at (None where there was none)."""

    video: str
    context: str
    previous_context: str | None


@dataclass(frozen=True)
class Responses:
    """Two sampled responses, with the context c_t that judges them and the c_{t-1} it looked back at (None
    where there is none).
    """

    id: str
    responses: list[str]
    context: str | None
    previous_context: str | None


@dataclass(frozen=True)
class Judgment:
    """One verdict.

    `order` is 0 where the first response was shown first, else 1. `choice` is an index into `responses`, or
    None when the reply could not be read. `scores` are the log-probabilities of choosing response 0 and
    response 1 (method `score` only).
    """

    id: str
    order: int
    choice: int | None
    reply: str
    scores: list[float] | None


@dataclass(frozen=True)
class Preference:
    """A pair to train on.

    `margin` is the mean log-odds of its verdicts over the orders; None for generated verdicts.
    """

    id: str
    video: str
    question: str
    chosen: str
    rejected: str
    margin: float | None


@dataclass(frozen=True)
class Answer:
    """A greedy answer to an evaluation question. `truth` counts its claims (Toybox only)."""

    id: str
    question: str
    kind: str
    reference: str
    response: str
    words: int
    truth: dict | None


@dataclass(frozen=True)
class Score:
    """A scorer's reply about one answer.

    `set` is the test set, `protocol` one of hound, hound.official and claims. `scorer` is the name that was
    asked for, `version` the name of what answered. `words` counts the whole answer. `asked` is a digest of
    the whole request, which no other answer has. `cut`: whether the reply ended at a limit on its length.
    The other fields are those of `protocol.Verdict`.
    """

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
    cut: bool = False


@dataclass(frozen=True)
class FixedPair:
    """A held-out pair of answers of which `responses[truer]` is the truer."""

    id: str
    video: str
    question: str
    responses: list[str]
    truer: int
    facts: dict


@dataclass(frozen=True)
class PreviousContext:
    """The description c_{t-1} of a video that iteration t - 1 did not have."""

    video: str
    context: str


@dataclass(frozen=True)
class PairContext:
    """The description of a fixed pair's video, by the pair's id."""

    id: str
    context: str


@dataclass(frozen=True)
class PairJudgment(Judgment):
    """A verdict on a fixed pair, `with_context` or without."""

    with_context: bool


ROWS = {  # the rows of each file that stages write
    "samples.jsonl": Sample,
    "fixed_pairs.jsonl": FixedPair,
    "previous_contexts.jsonl": PreviousContext,
    "contexts.jsonl": Context,
    "responses.jsonl": Responses,
    "judgments.jsonl": Judgment,
    "judgments_no_context.jsonl": Judgment,
    "preferences.jsonl": Preference,
    "answers.jsonl": Answer,
    "fixed_contexts.jsonl": PairContext,
    "fixed_judgments.jsonl": PairJudgment,
    "scores.jsonl": Score,
    "bad_data.jsonl": BadRow,
}


def data_set_responses(samples: Iterable[Sample]) -> list[Responses]:
    """Each sample's own chosen and rejected (empty where it lacks them), as if they were responses."""
    return [Responses(sample.id, [sample.chosen, sample.rejected], None, None) for sample in samples]


def why_no_pair(chosen: str, rejected: str) -> str:
    """Why two answers of a data set are no preference; empty where they are one."""
    if not (chosen.strip() and rejected.strip()):
        return "no chosen or no rejected"
    return "chosen equals rejected" if chosen.strip() == rejected.strip() else ""


def to_line(row: Any) -> str:
    """One row (a dataclass or a dict) as a line of JSONL."""
    return json.dumps(row if isinstance(row, dict) else asdict(row), ensure_ascii=False) + "\n"


def parse_line(text: str | bytes, row_type: type[Row], where: str) -> Row:
    """A line back to its row. Raises RecordError, which names `where` and the fields that a row has."""
    if isinstance(text, str) and "\0" not in text and (fault := encoding_fault(text)):
        raise RecordError(f"{where}: {fault}")
    try:
        values = parse_json(text, row_type)
        return row_type(**values) if row_type is not dict else values
    except (ValueError, TypeError) as error:
        names = ", ".join(f.name for f in fields(row_type)) if row_type is not dict else "any"
        raise RecordError(
            f"{where}: not a {row_type.__name__} row ({reason(error)}); its fields are: {names}"
        ) from None


def read_jsonl(path: Path, row_type: type[Row]) -> list[Row]:
    """All rows of a finished file.

    Raises RecordError for a row that cannot be read, FileNotFoundError without the file.
    """
    with open_text(path) as file:
        return [parse_line(text, row_type, f"{path}:{n}") for n, text in enumerate(file, 1) if text.strip()]


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """All rows, as a file that is whole or not there."""
    write_text(path, "".join(map(to_line, rows)))


ADVICE = "restore it, or remove it and give the same command again"


def read_json(path: Path, kind: Any = Any, advice: str = ADVICE) -> Any:
    """The value in a JSON file, which has the type `kind`: for an object a dataclass of what it has at least.

    Raises RecordError for a torn or edited file, with the `advice` what to do then.
    """
    try:
        return parse_json(path.read_bytes(), kind)
    except ValueError as error:
        raise RecordError(f"{path}: torn, or not what isrdpo writes ({reason(error)}); {advice}") from None


def read_csv(path: Path, columns: Iterable[str], advice: str = ADVICE) -> "pd.DataFrame":
    """A table with at least these columns, the numbers in it as numbers.

    Raises RecordError for a torn or edited file, with the `advice` what to do then.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise RecordError(f"{path}: not readable as CSV ({str(error).strip()}); {advice}") from None
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise RecordError(f"{path}: no column {', '.join(absent)}; {advice}")
    return table


def write_json(path: Path, value: Any) -> None:
    """A value as an indented JSON file that is whole or not there."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: Path, frame: "pd.DataFrame") -> None:
    """A table as a CSV file that is whole or not there: a header, no index, full precision."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """A text file (UTF-8) that is whole or not there."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def cut_batches(rows: Sequence[Item], size: int) -> list[list[Item]]:
    """Rows cut by position into batches of `size`; the last one may be smaller."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


class BatchLog:
    """An output file that grows by whole batches of input rows and survives being killed.

    A journal beside it (`.name.journal`) has one line for each batch: the batch size, and the size of the
    file in bytes after the batch. What lies beyond the last whole line of the journal (a torn row, a torn
    batch) is cut off on opening. Batches of another size are dropped, since they could be other rows;
    `dropped` counts them. There is one writer at a time.
    """

    def __init__(self, path: Path, row_type: type, batch_size: int) -> None:
        self.path = path
        self.row_type = row_type
        self.batch_size = batch_size
        self.journal = path.with_name(f".{path.name}.journal")
        self.dropped = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keep(self._believable_sizes())

    def keep(self, batches: int) -> None:
        """Drop all batches but the first ones; they are to be done again."""
        self._keep(self._believable_sizes()[:batches])

    def _keep(self, sizes: list[int]) -> None:
        """Cut the file and its journal behind the batches that end at these sizes."""
        self.done = len(sizes)
        write_text(self.journal, "".join(f"{self.batch_size} {size}\n" for size in sizes))
        with self.path.open("ab") as file:
            file.truncate(sizes[-1] if sizes else 0)

    def _believable_sizes(self) -> list[int]:
        """The size of the file after each whole batch of `batch_size`, as far as the journal can be
        believed.
        """
        if not self.journal.exists() or not self.path.exists():
            return []
        sizes = [0]
        present = self.path.stat().st_size
        lines = self.journal.read_bytes().splitlines(keepends=True)
        for text in lines:
            parts = text.split()
            if not text.endswith(b"\n") or len(parts) != 2 or not all(map(_is_number, parts)):
                break
            batch_size, size = map(int, parts)
            if batch_size != self.batch_size:
                self.dropped = len(lines) - len(sizes) + 1
                break
            if not sizes[-1] <= size <= present or not self._is_line_end(size):
                break
            sizes.append(size)
        return sizes[1:]

    def _is_line_end(self, size: int) -> bool:
        """Whether a line of the file ends after `size` bytes, so that no row is cut in two."""
        with self.path.open("rb") as file:
            file.seek(max(size - 1, 0))
            return size == 0 or file.read(1) == b"\n"

    def append(self, rows: list[Any]) -> None:
        """Note that one batch of input rows is done. `rows` are its output rows: any number, also none."""
        with name_disk_errors(self.path), self.path.open("ab") as file:
            file.write("".join(map(to_line, rows)).encode())
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        with name_disk_errors(self.journal), self.journal.open("a") as file:
            file.write(f"{self.batch_size} {size}\n")
            file.flush()
            os.fsync(file.fileno())
        self.done += 1

    def rows(self) -> list[Any]:
        """All rows on disk."""
        return read_jsonl(self.path, self.row_type)


def _is_number(text: bytes) -> bool:
    """Whether a word of a journal is a number of bytes or rows."""
    return text.isdigit() and len(text) < 20
