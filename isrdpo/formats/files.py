"""Dataset files as plain rows, whatever they are: python -c "from isrdpo import formats; print(next(formats.rows(PATH, CLIPS)))"

JSONL and JSON arrays (LLaVA-Hound's), Parquet, Arrow and folders of `datasets.save_to_disk` (TRL's preference data sets), CSV, and a text of questions that
are asked of every clip. A row is what the file says, not yet judged: `data.sample` reads it. Nothing in a data set is executed or unpickled: Arrow files
are opened by pyarrow itself and validated, never through `datasets`. Layout of a saved folder (`state.json`, Arrow streams):
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

COLUMNS = ("id", "idx", "video", "videos", "prompt", "question", "conversations", "answer", "caption", "chosen", "rejected", "kind")  # those read of Arrow
HEADERS = {  # a CSV's column, and how else it is called
    "id": ("idx", "row id"), "video": ("video path", "video file", "video name", "clip", "file", "path"), "question": ("prompt", "query", "instruction"),
    "answer": ("reference", "ground truth"), "caption": ("description",), "chosen": (), "rejected": (), "kind": (),
}  # fmt: skip
ENDINGS = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".txt")
BATCH = 64  # rows of Arrow held as Python values at once


@dataclass(frozen=True)
class Row:
    """A row as it stands. `name`: what it is called where it has no id (line 3, row 3); `where`: the same with its file; `values`: what was read, or the
    error that kept it from being read; `id`: a stable one for formats whose rows need none."""

    name: str
    where: str
    values: Any
    id: str = ""


def rows(path: Path, clips: Path) -> Iterator[Row]:
    """Every row of a dataset file or saved folder; `clips`: the folder of videos. Raises RunError where the whole cannot be read."""
    if not path.exists():
        raise RunError(f"{path}: no such dataset file; data.path is a folder with the files that data.train and data.test name")
    if path.is_dir():
        yield from _arrow(_saved(path), path.name)
        return
    with path.open("rb") as file:
        begin = file.read(4096)
    if begin.startswith((b"PAR1", b"ARROW1")) or path.suffix.lower() in (".parquet", ".arrow"):
        yield from _arrow([path], path.stem)
    elif path.suffix.lower() in (".csv", ".tsv"):
        yield from _csv(path)
    elif path.suffix.lower() == ".txt":
        yield from _questions(path, clips)
    elif begin.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[") and (found := _array(path)) is not None:
        yield from (Row(f"row {number}", f"{path}, row {number}", values) for number, values in enumerate(found, 1))
    else:
        yield from _lines(path)


def _lines(path: Path) -> Iterator[Row]:
    """JSONL; blank lines are none."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                try:
                    values = json.loads(text)
                except (ValueError, RecursionError) as error:
                    values = ValueError(str(error))
                yield Row(f"line {number}", f"{path}, line {number}", values)


def _array(path: Path) -> list[Any] | None:
    """The rows of a JSON array; None where its first line is a value of its own, so that the file is JSONL. Raises RunError where it is torn."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            json.loads(text.lstrip().partition("\n")[0])
        except (ValueError, RecursionError):
            raise RunError(f"{path}: begins as a JSON array, but is not a whole one ({error}); fetch or write it anew") from None
    return None


def _csv(path: Path) -> Iterator[Row]:
    """A header and a row a question; comma, semicolon or tab, whichever the header has most of; spaces, case and underscores of the header do not matter."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
        names = [_column(text) for text in next(reader, [])]
        if missing := {"video", "question"} - set(names):
            raise RunError(f"{path}: no column {' or '.join(sorted(missing))} in its header ({header.strip()[:80]}); columns are {', '.join(HEADERS)}")
        if twice := {name for name in names if name and names.count(name) > 1}:
            raise RunError(f"{path}: two columns are {sorted(twice)[0]} in its header ({header.strip()[:80]}); rename one")
        number = 0
        while True:
            number += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(f"row {number}", f"{path}, row {number} (line {reader.line_num})", ValueError(str(error)))
                continue
            if any(cell.strip() for cell in cells):
                values: Any = {name: cell.strip() for name, cell in zip(names, cells, strict=False) if name}
                if len(cells) != len(names):
                    values = ValueError(f"{len(cells)} cells under {len(names)} columns")
                yield Row(f"row {number}", f"{path}, row {number} (line {reader.line_num})", values, f"{path.stem}-{number}")


def _column(text: str) -> str:
    """A header's cell as one of HEADERS; empty where it is none of them."""
    plain = " ".join(text.lower().replace("_", " ").replace("-", " ").split())
    return next((name for name, others in HEADERS.items() if plain == name or plain in others), "")


def _questions(path: Path, clips: Path) -> Iterator[Row]:
    """A question a line, each asked of every clip; ids are `<file>-<line>/<clip>`, so that they stay when clips are added."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        asked = [(number, text.strip()) for number, text in enumerate(file, 1) if text.strip()]
    if not (found := list(videos(clips))):
        raise RunError(f"{clips}: no video below it to ask the questions of {path.name} about; data.videos is the folder of clips")
    for name in found:
        for number, question in asked:
            yield Row(f"line {number}", f"{path}, line {number}, of {name}", {"video": name, "question": question}, f"{path.stem}-{number}/{name}")


def videos(root: Path) -> Iterator[str]:
    """Every video file and folder of frames below `root`, by its path from there, in order; links to folders are not followed."""
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(folder).relative_to(root)
        seen = sorted(name for name in files if not name.startswith("."))
        if here.parts and any(name.lower().endswith(PICTURES) for name in seen):
            yield here.as_posix()
        yield from ((here / name).as_posix() for name in seen if name.lower().endswith(SUFFIXES))


def _saved(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `datasets.save_to_disk` wrote, in its order. Raises RunError; a file's name may not lead out of the folder."""
    state, splits = folder / "state.json", folder / "dataset_dict.json"
    try:
        if splits.is_file():
            names = ", ".join(f"{folder.name}/{name}" for name in json.loads(splits.read_text(encoding="utf-8"))["splits"])
            raise RunError(f"{folder}: a saved data set of several splits; name one: {names}")
        if not state.is_file():
            raise RunError(f"{folder}: a folder, but none that `datasets.save_to_disk` wrote (it has no state.json); name a file, or such a folder")
        names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
        if strange := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
            raise RunError(f"{state}: names {str(strange[0])[:80]!r}, which is no file beside it; save the data set anew")
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: its state.json or dataset_dict.json cannot be read ({type(error).__name__}); save the data set anew") from None
    return [folder / name for name in names]


def _arrow(paths: list[Path], name: str) -> Iterator[Row]:
    """Files that are Parquet, Arrow or an Arrow stream, by their first bytes; ids are `<name>-<row number>`, counted through all of them. Only COLUMNS are
    read. Raises RunError where one is no such thing, or damaged."""
    import pyarrow

    number = 0
    for path in paths:
        try:
            for batch in _batches(path):
                batch.validate(full=True)  # offsets of a crafted file may lead anywhere
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", f"{path}, row {number}", values, f"{name}-{number}")
        except (pyarrow.ArrowException, OSError) as error:
            why = next(iter(str(error).splitlines()), type(error).__name__)[:120]
            raise RunError(f"{path}: not readable as Parquet or Arrow after row {number} ({why}); fetch or write it anew") from None


def _batches(path: Path) -> Iterator[Any]:
    """pyarrow record batches of up to BATCH rows with the columns that count."""
    import pyarrow
    import pyarrow.parquet

    with path.open("rb") as file:
        begin = file.read(6)
    if begin.startswith(b"PAR1"):
        with pyarrow.parquet.ParquetFile(path) as opened:
            yield from opened.iter_batches(BATCH, columns=[name for name in opened.schema_arrow.names if name in COLUMNS])
        return
    with pyarrow.OSFile(str(path)) as source:
        reader = pyarrow.ipc.open_file(source) if begin == b"ARROW1" else pyarrow.ipc.open_stream(source)
        whole = (reader.get_batch(n) for n in range(reader.num_record_batches)) if begin == b"ARROW1" else reader
        for batch in whole:
            wanted = batch.select([name for name in batch.schema.names if name in COLUMNS])
            yield from (wanted.slice(at, BATCH) for at in range(0, wanted.num_rows, BATCH))
