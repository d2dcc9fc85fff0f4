"""Dataset files of any format as plain rows.

python -c "from isrdpo.formats.files import dataset_rows; print(next(dataset_rows(PATH, CLIPS)))"   (two
`pathlib.Path`)

The formats are JSONL and JSON arrays (LLaVA-Hound's), Parquet, Arrow and folders of `datasets.save_to_disk`
(TRL's preference data sets), CSV, and a text file of questions about every clip. A row is what the file
says, not yet judged: `rows.sample_from_row` reads it. Nothing in a data set is executed or unpickled: Arrow
files are opened by pyarrow itself and validated, never through `datasets`. Layout of a saved folder
(`state.json`, Arrow streams):
https://huggingface.co/docs/datasets/en/package_reference/main_classes#datasets.Dataset.save_to_disk
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from isrdpo.core.clips import PICTURES, SUFFIXES
from isrdpo.core.errors import RunError
from isrdpo.core.text_files import TextError, encoding_fault, open_text, read_text
from isrdpo.formats.cells import csv_rows
from isrdpo.formats.rows import COLUMNS
from isrdpo.formats.turns import parse_json

ENDINGS = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".txt")
BATCH = 64  # rows of Arrow held as Python values at once


@dataclass(frozen=True)
class DatasetRow:
    """A row as it stands in its file.

    `name` is what it is called where it has no id (line 3, row 3), `where` the same with its file. `values`
    is what was read, or the ValueError that kept it from being read.
    """

    name: str
    where: str
    values: Any


def dataset_rows(path: Path, clips: Path) -> Iterator[DatasetRow]:
    """Iterate over every row of a dataset file or saved folder; `clips` is the folder of videos.

    Raises RunError where the file as a whole cannot be read.
    """
    if not path.exists():
        folder = "data.path is a folder with the files that data.train and data.test name"
        raise RunError(f"{path}: no such dataset file; {folder}")
    if path.is_dir():
        return _arrow_rows(_saved_files(path))
    with path.open("rb") as file:
        begin = file.read(4096)
    suffix = path.suffix.lower()
    if begin.startswith((b"PAR1", b"ARROW1")) or suffix in (".parquet", ".arrow"):
        return _arrow_rows([path])
    if suffix in (".csv", ".tsv"):
        return (DatasetRow(*row) for row in csv_rows(path))
    if suffix == ".txt":
        return _rows_of_questions(path, clips)
    with open_text(path) as file:
        is_array = file.read(4096).lstrip().startswith("[")
    array = _json_array(path) if is_array else None
    return _jsonl_rows(path) if array is None else _array_rows(path, array)


def _jsonl_rows(path: Path) -> Iterator[DatasetRow]:
    """A row a line; blank lines are none."""
    with open_text(path) as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield DatasetRow(f"line {number}", f"{path}, line {number}", _json_or_error(text))


def _json_or_error(text: str) -> Any:
    """The value of a line, or the ValueError that keeps it from being read."""
    if fault := encoding_fault(text):
        return TextError(fault)
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        return ValueError(str(error))


def _array_rows(path: Path, array: list[Any]) -> Iterator[DatasetRow]:
    for number, values in enumerate(array, 1):
        fault = encoding_fault(json.dumps(values, ensure_ascii=False))
        yield DatasetRow(f"row {number}", f"{path}, row {number}", TextError(fault) if fault else values)


def _json_array(path: Path) -> list[Any] | None:
    """The JSON array that a file is; None where it is JSONL: its first line is a value of its own.

    Raises RunError where it is torn, TextError where it is no text.
    """
    with open_text(path) as file:
        text = file.read()
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        if encoding_fault(text):
            read_text(path)  # raises, and names the line
        if _is_json(text.lstrip().partition("\n")[0]):
            return None
        what = f"begins as a JSON array, but is not a whole one ({error})"
        raise RunError(f"{path}: {what}; fetch or write it anew") from None


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _rows_of_questions(path: Path, clips: Path) -> Iterator[DatasetRow]:
    """Each line's question about each clip."""
    with open_text(path) as file:
        questions = [(number, text.strip()) for number, text in enumerate(file, 1) if text.strip()]
    names = list(video_names(clips))
    if not names:
        what = f"no video below it to ask the questions of {path.name} about"
        raise RunError(f"{clips}: {what}; data.videos is the folder of clips")
    for number, question in questions:
        if fault := encoding_fault(question):
            yield DatasetRow(f"line {number}", f"{path}, line {number}", TextError(fault))
    readable = [(number, question) for number, question in questions if not encoding_fault(question)]
    for name, (number, question) in product(names, readable):
        where = f"{path}, line {number}, of {name}"
        yield DatasetRow(f"line {number}, of {name}", where, {"video": name, "question": question})


def video_names(root: Path) -> Iterator[str]:
    """Yield every video file and folder of frames below `root`, by its path from there, in order.

    Links to folders are not followed, and what begins with a dot is passed over.
    """
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(folder).relative_to(root)
        names = sorted(name for name in files if not name.startswith("."))
        if here.parts and any(name.lower().endswith(PICTURES) for name in names):
            yield here.as_posix()
        yield from ((here / name).as_posix() for name in names if name.lower().endswith(SUFFIXES))


def _saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `datasets.save_to_disk` wrote, in its order.

    Raises RunError where it is no such folder, and where a file's name leads out of it.
    """
    state = folder / "state.json"
    splits = folder / "dataset_dict.json"
    try:
        if splits.is_file():
            parts = json.loads(read_text(splits))["splits"]
            names = ", ".join(f"{folder.name}/{name}" for name in parts)
            raise RunError(f"{folder}: a saved data set of several splits; name one: {names}")
        if not state.is_file():
            what = "a folder, but none that `datasets.save_to_disk` wrote (it has no state.json)"
            raise RunError(f"{folder}: {what}; name a file, or such a folder")
        entries = json.loads(read_text(state))["_data_files"]
        names = [entry["filename"] for entry in entries]
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                what = f"names {str(name)[:80]!r}, which is no file beside it"
                raise RunError(f"{state}: {what}; save the data set anew")
    except (ValueError, KeyError, TypeError) as error:
        what = f"its state.json or dataset_dict.json cannot be read ({type(error).__name__})"
        raise RunError(f"{folder}: {what}; save the data set anew") from None
    return [folder / name for name in names]


def _arrow_rows(paths: list[Path]) -> Iterator[DatasetRow]:
    """The rows of files that are Parquet, Arrow or an Arrow stream, by their first bytes.

    Only COLUMNS are read. Rows are counted through all files. Raises RunError where one is damaged, or no
    such file.
    """
    import pyarrow

    number = 0
    for path in paths:
        try:
            for batch in _arrow_batches(path):
                batch.validate(full=True)  # offsets of a crafted file may lead anywhere
                for values in batch.to_pylist():
                    number += 1
                    yield DatasetRow(f"row {number}", f"{path}, row {number}", values)
        except (pyarrow.ArrowException, OSError) as error:
            why = next(iter(str(error).splitlines()), type(error).__name__)[:120]
            what = f"not readable as Parquet or Arrow after row {number} ({why})"
            raise RunError(f"{path}: {what}; fetch or write it anew") from None


def _arrow_batches(path: Path) -> Iterator[Any]:
    """pyarrow record batches of up to BATCH rows, with only those columns that are among COLUMNS."""
    import pyarrow
    import pyarrow.parquet

    with path.open("rb") as file:
        begin = file.read(6)
    if begin.startswith(b"PAR1"):
        with pyarrow.parquet.ParquetFile(path) as parquet:
            columns = [name for name in parquet.schema_arrow.names if name in COLUMNS]
            yield from parquet.iter_batches(BATCH, columns=columns)
        return
    with pyarrow.OSFile(str(path)) as source:
        if begin == b"ARROW1":
            reader = pyarrow.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = pyarrow.ipc.open_stream(source)
        for batch in batches:
            part = batch.select([name for name in batch.schema.names if name in COLUMNS])
            yield from (part.slice(start, BATCH) for start in range(0, part.num_rows, BATCH))
