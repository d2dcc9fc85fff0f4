"""What made a run: versions, commit, machine, command. Never environment variables."""

import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from isrdpo.core.params import SECRET

PACKAGES = (
    "isrdpo", "torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "papermill", "decord", "av", "numpy",
    "pandas", "openai", "jupyterlab",
)  # fmt: skip


def collect() -> dict[str, Any]:
    """One flat record; `packages` maps a name to its version, None where it is not installed."""
    versions = {package: _version(package) for package in PACKAGES}
    return {
        "created": time.strftime("%Y-%m-%d %H:%M:%S%z"), "command": _command(), "commit": _commit(), "python": platform.python_version(),
        "platform": platform.platform(), "cpus": _cpus(), "threads": _threads(),
        "decoder": "decord" if versions["decord"] else "PyAV", "packages": versions,
    }  # fmt: skip


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records promise equal bytes: everything but the time and the command is equal."""
    return all(one.get(name) == other.get(name) for name in {*one, *other} - {"created", "command", "later"})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, `-dirty` with changes; None outside one (an enclosing other repository does not count)."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None


def _command() -> str:
    program = Path(sys.argv[0]).name
    if "ipykernel" in sys.argv[0]:
        return "a notebook"
    return SECRET.sub("(hidden)", shlex.join([program, *sys.argv[1:]]))


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    """Threads of a matrix product: results are equal to the byte under one number of them only."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else _cpus()
