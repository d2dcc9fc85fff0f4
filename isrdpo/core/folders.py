"""Folders and files: what a path counts from, how a file is written whole or not at all, and who may write
in a run.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from isrdpo.core.errors import RunError, RunLocked

PACKAGE = Path(__file__).parents[1]
TOYBOX_BASE = PACKAGE / "toybox" / "base"  # the base model that ships with the package
LOCK_SECONDS = 10  # how long to wait for a lock: a killed kernel lives on for a moment


def project_root() -> Path:
    """The folder that holds `params/` and `notebooks/`: the one above the package, else one above the
    working directory.

    Raises RunError where there is none.
    """
    for folder in (PACKAGE.parent, Path.cwd(), *Path.cwd().parents):
        if (folder / "params" / "base.yaml").is_file():
            return folder.resolve()
    raise RunError(
        f"{Path.cwd()}: no folder here holds params/base.yaml and notebooks/; run from inside a clone"
    )


def resolve(path: str | Path) -> Path:
    """The absolute path of what a user gives.

    A relative one counts from the project's root, since kernels start in notebooks/. Raises RunError for
    what can be no path.
    """
    if path == "":
        raise RunError("an empty path; give a folder or a file")
    try:
        path = Path(path).expanduser()
        return path.resolve() if path.is_absolute() else (project_root() / path).resolve()
    except RuntimeError:
        user = Path(path).parts[0]
        raise RunError(f"{path}: {user} is no user's folder; write the path out, or ./{path}") from None
    except ValueError as error:  # a null character, half of a surrogate pair
        raise RunError(f"{str(path)!r}: no path ({error})") from None


def display_path(path: Path) -> str:
    """A path for a message or a command: relative where it lies below the project's root."""
    root = PACKAGE.parent.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def checkpoint_path(name: str) -> str:
    """Resolve `model.path`: the shipped base for `toybox`, the folder where there is one, else a
    hub id as it is.
    """
    if name == "toybox":
        return str(TOYBOX_BASE)
    folder = resolve(name)
    return str(folder) if folder.exists() else name


def nearest_folder(path: Path) -> Path:
    """The path itself where it is a folder, else the nearest folder above it that exists."""
    return path if path.is_dir() else nearest_folder(path.parent)


def create_run_folder(folder: Path) -> None:
    """Make a folder for a run. Raises RunError as `require_free_folder` does."""
    require_free_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)


def require_free_folder(folder: Path) -> None:
    """Raise RunError where a new run's folder holds files of something else, which a stage could remove."""
    if folder.is_file():
        raise RunError(f"{display_path(folder)}: a file, not a folder; give a new or empty folder as run=...")
    others = [p.name for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []
    others = sorted(name for name in others if name != "provenance.json")
    if others:
        names = ", ".join(others[:3])
        raise RunError(
            f"{display_path(folder)}: not a run (it holds {names}); give a new or empty folder as run=..."
        )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to.

    It is flushed to disk and renamed to `path` when the block ends well, else removed. Raises RunError where
    `path` is a folder or a device, which must not be replaced.
    """
    if path.exists() and not path.is_file():
        raise RunError(f"{display_path(path)}: not a file, so nothing is written there; give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        flush(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` to fill. It is flushed to disk and takes the place of `folder` when
    the block ends well.

    The old folder stays until then. What a killed process left of an earlier try is removed first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for path in [*part.rglob("*"), part]:
            flush(path)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def flush(path: Path) -> None:
    """Make the system write a file or a folder to disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; again and again within one process. Raises RunLocked after LOCK_SECONDS.

    The holder's process number stands in a file beside the lock, for the message of whoever waits in vain.
    """
    lock = filelock.FileLock(path, is_singleton=True, thread_local=False)
    holder = path.with_name(f"{path.name}.pid")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout:
        pid = holder.read_text().strip() if holder.exists() else "unknown"
        where = display_path(path.parent)
        raise RunLocked(f"{where}: process {pid} works on this run; wait for it or stop it") from None
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
