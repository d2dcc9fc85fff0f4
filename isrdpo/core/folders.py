"""Folders and who may write there: where paths count from, the lock of a run, and the errors that are one line to their reader."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
TOYBOX_BASE = PACKAGE / "toybox" / "base"  # the base model that ships with the package
PATIENCE = 10  # seconds to wait for a lock: a killed kernel lives on for a moment
_held: dict[Path, tuple[int, Any]] = {}


class RunError(RuntimeError):
    """An expected failure: one line that says what is wrong, where, and what to do."""


class MissingStage(RunError):
    """A stage was asked for whose input is not there yet."""


class BadShare(RunError):
    """Too many bad samples."""


class RunLocked(RunError):
    """Another process works on this run."""


def expected(error: BaseException) -> bool:
    """Whether an error is one line to its reader (the project's own, or the file system's), not a traceback."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] == "isrdpo"


def told(error: BaseException) -> str:
    """What an expected error says: the file system's begin with the file, as ours do."""
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename and error.strerror else str(error)


def project_root() -> Path:
    """The folder that holds params/ and notebooks/: above the package, else above the working directory."""
    for folder in (Path(__file__).parents[2], Path.cwd(), *Path.cwd().parents):
        if (folder / "params" / "base.yaml").is_file():
            return folder.resolve()
    raise RunError(f"{Path.cwd()}: no project here (a folder with params/base.yaml and notebooks/); run from inside a clone")


def resolve(path: str | Path) -> Path:
    """A path as a user gives it; a relative one counts from the project root, since a kernel starts in notebooks/."""
    path = Path(path).expanduser()
    return path.resolve() if path.is_absolute() else (project_root() / path).resolve()


def shown(path: Path) -> str:
    """A path for a message or a command: relative where it lies below the project root."""
    root = Path(__file__).parents[2].resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def usable(folder: Path) -> None:
    """Refuses a folder that holds something else: a stage removes old rows, and would not know theirs from ours."""
    ours = {"provenance.json"}
    strange = [p.name for p in folder.iterdir() if p.name not in ours and not p.name.startswith(".")] if folder.is_dir() else []
    if strange or folder.is_file():
        raise RunError(f"{shown(folder)}: not a run (it holds {', '.join(sorted(strange)[:3]) or 'a file'}); give a new or empty folder as run=...")
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    depth, file = _held.get(path, (0, None))
    if depth == 0:
        file = path.open("a+")
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    holder = file.read().strip() or "unknown"
                    file.close()
                    raise RunLocked(f"{shown(path.parent)}: process {holder} works on this run; wait for it or stop it") from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    _held[path] = (depth + 1, file)
    try:
        yield
    finally:
        depth, file = _held.pop(path)
        if depth > 1:
            _held[path] = (depth - 1, file)
        else:
            file.close()
