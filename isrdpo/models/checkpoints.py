"""Sealed checkpoints of the trainer: a checkpoint counts only once every one of its files is on disk.

transformers writes `checkpoint-<step>` folders file by file and resumes from the highest number, torn or
not. So each of them is sealed when it is complete: a file with the digests of all others is written last.
"""

import hashlib
import shutil
from pathlib import Path

from isrdpo.core import records
from isrdpo.core.folders import flush

SEAL = "whole.json"
_PREFIX = "checkpoint-"


def seal_checkpoint(folder: Path, key: str) -> None:
    """Flush a checkpoint's files to disk, then write their digests beside them.

    `key` names the run and the rows that the checkpoint belongs to.
    """
    names = _file_names(folder)
    for name in names:
        flush(folder / name)
    digests = {name: _digest(folder / name) for name in names}
    records.write_json(folder / SEAL, {"key": key, "files": digests})


def newest_sealed_checkpoint(folder: Path, key: str) -> Path | None:
    """Return the last checkpoint in `folder` that is complete and has this `key`, or None.

    Those after it, torn or of another key, are removed.
    """
    for checkpoint in _newest_first(folder):
        if _is_sealed(checkpoint, key):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def remove_other_checkpoints(checkpoint: Path) -> None:
    """Remove all checkpoints that lie beside this one."""
    for other in _newest_first(checkpoint.parent):
        if other != checkpoint:
            shutil.rmtree(other)


def _is_sealed(checkpoint: Path, key: str) -> bool:
    """Whether the seal has this key, and exactly the checkpoint's files with their digests."""
    try:
        seal = records.read_json(checkpoint / SEAL)
        names = [name for name in _file_names(checkpoint) if name != SEAL]
        digests = {name: _digest(checkpoint / name) for name in names}
    except (OSError, ValueError):
        return False
    return seal == {"key": key, "files": digests}


def _newest_first(folder: Path) -> list[Path]:
    """The numbered checkpoints in a folder, the highest step first."""
    numbered = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True)


def _file_names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
