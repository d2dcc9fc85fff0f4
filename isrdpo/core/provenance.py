"""What made a run: versions, commit, machine, command. Never environment variables."""

import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from isrdpo.core import records
from isrdpo.core.folders import PACKAGE
from isrdpo.core.secrets import SECRET

PACKAGES = (
    "isrdpo",
    "torch",
    "torchvision",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "papermill",
    "av",
    "numpy",
    "pandas",
    "openai",
    "jupyterlab",
)


@dataclass
class Entry:
    """Where a run went on with other versions or on another machine; at least this."""

    created: str
    commit: str | None
    platform: str


@dataclass
class Record(Entry):
    """What provenance.json holds at least."""

    command: str
    packages: dict[str, str | None]
    later: list[Entry] = field(default_factory=list)


def read(path: Path) -> dict[str, Any]:
    """A record on disk. Raises RecordError for a torn or edited file."""
    return records.read_json(path, Record, "restore it, or remove it: the next `isrdpo run` writes a new one")


def collect() -> dict[str, Any]:
    """One flat record; `packages` maps a name to its version, None where it is not installed."""
    versions = {package: _version(package) for package in PACKAGES}
    return {
        "created": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "command": _command(),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": cpu_count(),
        "threads": _threads(),
        "decoder": "PyAV",
        "packages": versions,
    }


def same_machine(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two records promise equal bytes: all but the time and the command is equal."""
    names = {*first, *second} - {"created", "command", "later"}
    return all(first.get(name) == second.get(name) for name in names)


def cpu_count() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with `-dirty` where files changed; None outside one (a repository around it
    does not count).
    """
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _command() -> str:
    if "ipykernel" in sys.argv[0]:
        return "a notebook"
    return SECRET.sub("(hidden)", shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def _threads() -> int:
    """Threads of a matrix product: results are equal to the byte under one number of them only."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdigit() else cpu_count()
