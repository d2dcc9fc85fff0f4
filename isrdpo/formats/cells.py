"""CSV and TSV files of questions as plain rows: text, but for lists and turns that a cell holds as JSON."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isrdpo.core.errors import RunError
from isrdpo.core.text_files import TextError, encoding_fault, open_text
from isrdpo.formats.rows import COLUMNS, DIALOGUE_COLUMNS, QUESTION_COLUMNS
from isrdpo.formats.turns import is_dialogue, parse_json

HEADERS = {  # a CSV's column, and how else it may be spelled; others are called as in rows.COLUMNS
    "id": ("row id",),
    "video": ("video path", "video file", "video name", "clip", "file", "path"),
    "answer": ("reference", "ground truth"),
    "caption": ("description",),
}
_LIST_AS_TEXT = re.compile(r"""\[\s*[\[{'"].*\]|\{\s*['"].*\}""", re.DOTALL)


def csv_rows(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield for each row below the header its name, where it stands, and its values or the ValueError that
    keeps them from being read.

    The cells are parted by comma, semicolon or tab, whichever the header has most of. Raises RunError
    where the header is not one of a data set.
    """
    with open_text(path, newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
        columns = _csv_columns(path, header.strip()[:80], reader)
        for number, cells in enumerate(_cells_or_errors(reader), 1):
            if isinstance(cells, csv.Error) or any(cell.strip() for cell in cells):
                where = f"{path}, row {number} (line {reader.line_num})"
                yield f"row {number}", where, _csv_values(columns, cells)


def _csv_values(columns: list[str], cells: list[str] | csv.Error) -> dict[str, Any] | ValueError:
    """The cells of a row under their columns, or the error that keeps them from being read."""
    if isinstance(cells, csv.Error):
        return ValueError(str(cells))
    if fault := encoding_fault(" ".join(cells)):
        return TextError(fault)
    if len(cells) != len(columns):
        return ValueError(f"{len(cells)} cells under {len(columns)} columns")
    try:
        return {name: _cell_value(cell.strip()) for name, cell in zip(columns, cells, strict=True) if name}
    except ValueError as error:
        return error


def _cell_value(cell: str) -> Any:
    """A cell as text, or as the list or the turns that it holds as JSON: a table has no other way for them.

    Raises ValueError for a list that is written as Python shows it.
    """
    if not _LIST_AS_TEXT.fullmatch(cell):
        return cell
    try:
        value = parse_json(cell)
    except (ValueError, RecursionError):
        raise ValueError(f"{cell[:40]!r} is a list as text, but no JSON; write it by json.dumps") from None
    return value if isinstance(value, list) or is_dialogue(value) else cell


def _cells_or_errors(reader: Any) -> Iterator[list[str] | csv.Error]:
    """Yield the cells of each row of a `csv.reader`, or the error in their place; it reads on after one."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield error


def _csv_columns(path: Path, header: str, reader: Any) -> list[str]:
    """The first row's cells as names of COLUMNS, empty for others; `header` is its text, for messages.

    Raises RunError where a column is missing or comes twice, and where the header is not UTF-8.
    """
    if fault := encoding_fault(header):
        raise RunError(f"{path}, line 1: {fault}")
    try:
        columns = [_column(cell) for cell in next(reader, [])]
    except csv.Error as error:
        raise RunError(f"{path}: its header ({header}) cannot be read ({error}); write it anew") from None
    choices = {"video": {"video", "videos"}, "question": {*QUESTION_COLUMNS, *DIALOGUE_COLUMNS}}
    missing = [name for name, names in choices.items() if not names & set(columns)]
    if missing:
        names = " or ".join(sorted(missing))
        raise RunError(
            f"{path}: no column {names} in its header ({header}); columns are {', '.join(COLUMNS)}"
        )
    repeated = {name for name in columns if name and columns.count(name) > 1}
    if repeated:
        raise RunError(f"{path}: two columns are {min(repeated)} in its header ({header}); rename one")
    return columns


def _column(cell: str) -> str:
    """The name in COLUMNS that a header's cell means. Case, spaces, hyphens and underscores do not matter."""
    plain = " ".join(cell.lower().replace("_", " ").replace("-", " ").split())
    for name, others in HEADERS.items():
        if plain in others:
            return name
    return next((name for name in COLUMNS if plain == name.replace("_", " ")), "")
