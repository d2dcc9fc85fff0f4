"""Folders and files: what a path counts from, how a file is written whole or not at all, and who may write
in a run.
"""

import errno
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import filelock

from isrdpo.core.errors import IsrdpoError, RunError, RunLocked

PACKAGE = Path(__file__).parents[1]
TOYBOX_BASE = PACKAGE / "toybox" / "base"  # the base model that ships with the package
LOCK_SECONDS = 10  # how long to wait for a lock: a killed kernel lives on for a moment
CLOCK_SECONDS = 5  # by how much a file's time and a process's may differ
PART = re.compile(r"\.[^/]+\.(\d+)(?:@([0-9a-f]*))?\.part")  # .name.PID@HOST.part
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO)
TORN_BY_TORCH = re.compile(r"PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+")  # no errno in it


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
    `path` is a folder or a device, which must not be replaced, and OSError, which names `path`, where the
    disk is full or may not be written.
    """
    if path.exists() and not path.is_file():
        raise RunError(f"{display_path(path)}: not a file, so nothing is written there; give another name")
    part = _part(path)
    with name_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead_parts_in(path.parent)
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

    The old folder stays until then. Raises OSError as `atomic_file` does.
    """
    part = _part(folder)
    _remove_dead_parts_in(folder.parent)
    with name_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
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


def _part(path: Path) -> Path:
    """The name under which this process writes `path`. It says whose it is, for `remove_dead_parts`."""
    return path.with_name(f".{path.name}.{os.getpid()}@{_host()}.part")


def _host() -> str:
    """A short name for this machine, fit for a file's name."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def remove_dead_parts(folder: Path) -> None:
    """Remove what processes of this machine that are dead left half-written in a folder and below it.

    What belongs to a live process, or to one of another machine, stays.
    """
    for here, below, files in os.walk(folder):
        for name in [name for name in (*files, *below) if PART.fullmatch(name)]:
            if _is_dead(Path(here, name)):
                _remove(Path(here, name))
        below[:] = [name for name in below if not PART.fullmatch(name)]


@cache  # once for each folder: that of encoded videos may hold many thousands
def _remove_dead_parts_in(folder: Path) -> None:
    """Remove what dead processes left half-written in a folder that is in no run, such as a cache."""
    for part in folder.glob(".*.part"):
        if _is_dead(part):
            _remove(part)


def _is_dead(part: Path) -> bool:
    """Whether the process that wrote a part is gone from this machine."""
    import psutil

    name = PART.fullmatch(part.name)
    if name is None or name[2] not in (None, _host()):
        return False
    pid = name[1]
    try:
        # A part that is older than the process of its number was left by an earlier one of the same number.
        return part.stat().st_mtime < psutil.Process(int(pid)).create_time() - CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return True
    except (OSError, psutil.Error, OverflowError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def name_disk_errors(path: Path) -> Iterator[None]:
    """Raise whatever a library raises on a full or read-only disk as an OSError that names `path`."""
    try:
        yield
    except Exception as error:
        number = disk_error(error)
        name = str(getattr(error, "filename", None) or "")
        if number is None or (name and not PART.search(name)):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def disk_error(error: BaseException) -> int | None:
    """The errno of an exception that says that a disk cannot be written; None of another one.

    safetensors and torch raise their own types, with the system's words or number only in their text.
    """
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return error.errno
    if isinstance(error, IsrdpoError):
        return None
    text = str(error)
    for number in DISK_ERRORS:
        if f"os error {number})" in text or os.strerror(number) in text:
            return number
    if TORN_BY_TORCH.search(text):
        return errno.ENOSPC
    return disk_error(error.__cause__) if error.__cause__ else None


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
