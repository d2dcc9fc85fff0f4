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

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isrdpo.core.clips import PICTURES, SUFFIXES
from isrdpo.core.errors import RunError

COLUMNS = (  # those read of an Arrow file; others may be large
    "id",
    "idx",
    "video",
    "videos",
    "prompt",
    "question",
    "conversations",
    "answer",
    "caption",
    "chosen",
    "rejected",
    "kind",
)
HEADERS = {  # a CSV's column, and how else it may be spelled
    "id": ("idx", "row id"),
    "video": ("video path", "video file", "video name", "clip", "file", "path"),
    "question": ("prompt", "query", "instruction"),
    "answer": ("reference", "ground truth"),
    "caption": ("description",),
    "chosen": (),
    "rejected": (),
    "kind": (),
}
ENDINGS = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".txt")
BATCH = 64  # rows of Arrow held as Python values at once


@dataclass(frozen=True)
class DatasetRow:
    """A row as it stands in its file.

    `name` is what it is called where it has no id (line 3, row 3), `where` the same with its file. `values`
    is what was read, or the ValueError that kept it from being read. `id` is a stable one, for formats
    whose rows need none.
    """

    name: str
    where: str
    values: Any
    id: str = ""


def dataset_rows(path: Path, clips: Path) -> Iterator[DatasetRow]:
    """Iterate over every row of a dataset file or saved folder; `clips` is the folder of videos.

    Raises RunError where the file as a whole cannot be read.
    """
    if not path.exists():
        folder = "data.path is a folder with the files that data.train and data.test name"
        raise RunError(f"{path}: no such dataset file; {folder}")
    if path.is_dir():
        return _arrow_rows(_saved_files(path), path.name)
    with path.open("rb") as file:
        begin = file.read(4096)
    suffix = path.suffix.lower()
    if begin.startswith((b"PAR1", b"ARROW1")) or suffix in (".parquet", ".arrow"):
        return _arrow_rows([path], path.stem)
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path)
    if suffix == ".txt":
        return _rows_of_questions(path, clips)
    if begin.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        array = _json_array(path)
        if array is not None:
            return _array_rows(path, array)
    return _jsonl_rows(path)


def _jsonl_rows(path: Path) -> Iterator[DatasetRow]:
    """A row a line; blank lines are none."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                values = json.loads(text)
            except (ValueError, RecursionError) as error:
                values = ValueError(str(error))
            yield DatasetRow(f"line {number}", f"{path}, line {number}", values)


def _array_rows(path: Path, array: list[Any]) -> Iterator[DatasetRow]:
    for number, values in enumerate(array, 1):
        yield DatasetRow(f"row {number}", f"{path}, row {number}", values)


def _json_array(path: Path) -> list[Any] | None:
    """The JSON array that a file is; None where it is JSONL: its first line is a value of its own.

    Raises RunError where it is torn.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if _is_json(text.lstrip().partition("\n")[0]):
            return None
        what = f"begins as a JSON array, but is not a whole one ({error})"
        raise RunError(f"{path}: {what}; fetch or write it anew") from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _csv_rows(path: Path) -> Iterator[DatasetRow]:
    """A row a question below a header.

    The cells are parted by comma, semicolon or tab, whichever the header has most of.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
        columns = _csv_columns(path, header.strip()[:80], reader)
        for number, cells in enumerate(_cells_or_errors(reader), 1):
            name = f"row {number}"
            where = f"{path}, row {number} (line {reader.line_num})"
            if isinstance(cells, csv.Error):
                yield DatasetRow(name, where, ValueError(str(cells)))
                continue
            if not any(cell.strip() for cell in cells):
                continue
            identity = f"{path.stem}-{number}"
            if len(cells) != len(columns):
                error = ValueError(f"{len(cells)} cells under {len(columns)} columns")
                yield DatasetRow(name, where, error, identity)
                continue
            pairs = zip(columns, cells, strict=True)
            yield DatasetRow(
                name, where, {column: cell.strip() for column, cell in pairs if column}, identity
            )


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
    """The first row's cells as names of HEADERS, empty for others; `header` is its text, for messages.

    Raises RunError where a column is missing or comes twice.
    """
    try:
        columns = [_column(cell) for cell in next(reader, [])]
    except csv.Error as error:
        raise RunError(f"{path}: its header ({header}) cannot be read ({error}); write it anew") from None
    missing = {"video", "question"} - set(columns)
    if missing:
        names = " or ".join(sorted(missing))
        raise RunError(
            f"{path}: no column {names} in its header ({header}); columns are {', '.join(HEADERS)}"
        )
    repeated = {name for name in columns if name and columns.count(name) > 1}
    if repeated:
        raise RunError(f"{path}: two columns are {min(repeated)} in its header ({header}); rename one")
    return columns


def _column(cell: str) -> str:
    """The name in HEADERS that a header's cell means. Case, spaces, hyphens and underscores do not matter."""
    plain = " ".join(cell.lower().replace("_", " ").replace("-", " ").split())
    return next((name for name, others in HEADERS.items() if plain == name or plain in others), "")


def _rows_of_questions(path: Path, clips: Path) -> Iterator[DatasetRow]:
    """Each line's question about each clip.

    Ids are `<file>-<line>/<clip>`, so that they stay when clips are added.
    """
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        questions = [(number, text.strip()) for number, text in enumerate(file, 1) if text.strip()]
    names = list(video_names(clips))
    if not names:
        what = f"no video below it to ask the questions of {path.name} about"
        raise RunError(f"{clips}: {what}; data.videos is the folder of clips")
    for name in names:
        for number, question in questions:
            where = f"{path}, line {number}, of {name}"
            values = {"video": name, "question": question}
            yield DatasetRow(f"line {number}", where, values, f"{path.stem}-{number}/{name}")


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
            parts = json.loads(splits.read_text(encoding="utf-8"))["splits"]
            names = ", ".join(f"{folder.name}/{name}" for name in parts)
            raise RunError(f"{folder}: a saved data set of several splits; name one: {names}")
        if not state.is_file():
            what = "a folder, but none that `datasets.save_to_disk` wrote (it has no state.json)"
            raise RunError(f"{folder}: {what}; name a file, or such a folder")
        entries = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        names = [entry["filename"] for entry in entries]
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                what = f"names {str(name)[:80]!r}, which is no file beside it"
                raise RunError(f"{state}: {what}; save the data set anew")
    except (ValueError, KeyError, TypeError) as error:
        what = f"its state.json or dataset_dict.json cannot be read ({type(error).__name__})"
        raise RunError(f"{folder}: {what}; save the data set anew") from None
    return [folder / name for name in names]


def _arrow_rows(paths: list[Path], name: str) -> Iterator[DatasetRow]:
    """The rows of files that are Parquet, Arrow or an Arrow stream, by their first bytes.

    Only COLUMNS are read. Ids are `<name>-<row number>`, counted through all files. Raises RunError where
    one is damaged, or no such file.
    """
    import pyarrow

    number = 0
    for path in paths:
        try:
            for batch in _arrow_batches(path):
                batch.validate(full=True)  # offsets of a crafted file may lead anywhere
                for values in batch.to_pylist():
                    number += 1
                    yield DatasetRow(f"row {number}", f"{path}, row {number}", values, f"{name}-{number}")
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
