"""Arms x seeds: isrdpo study params/study.yaml

A study file names what its runs share (`preset`, `set`), the arms (each changes a few keys), the seeds, and
how many runs go at a time. Each run is a folder `<run>/<arm>-<seed>`; its stages run in one process, without
notebooks. The runs of a study share clips, features and the base's evaluation.
"""

import difflib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from isrdpo.core import params, records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import atomic_folder, display_path, project_root, resolve
from isrdpo.core.parent_process import child_environment
from isrdpo.core.pipeline import STAGES, stage_key
from isrdpo.core.progress import format_duration, format_time_left
from isrdpo.core.provenance import cpu_count
from isrdpo.core.runs import Run, is_complete
from isrdpo.core.secrets import printable

KEYS = ("preset", "run", "seeds", "parallel", "set", "arms")
REQUIRED = ("preset", "run", "seeds", "arms")
MOST_PARALLEL = 1000  # runs at a time
POLL = 1.0  # seconds between looks at what is on disk


class Cell(NamedTuple):
    """One run of a study: an arm with one of its seeds."""

    arm: str
    params: params.Params


@dataclass(frozen=True)
class Study:
    """A study file as it is to be run.

    `folder` holds the runs; `parallel` of them go at a time, in the order of `cells`.
    """

    folder: Path
    parallel: int
    cells: tuple[Cell, ...]


def load(
    path: Path, seeds: int | None = None, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Study:
    """Read a study file. Raises ParamsError with every error found.

    `seeds` takes only the first so many of each arm, `only` some of the arms. `overrides` (key=value) count
    for every run, and `run=` among them for the study's folder.
    """
    raw = params.read_file(path)
    for text in overrides:
        if text.startswith("run="):
            raw["run"] = text.removeprefix("run=")
    if problems := _problems(raw, only):
        raise params.ParamsError("\n".join(f"{path}: {problem}" for problem in problems))
    cells: list[Cell] = []
    for arm, keys in raw["arms"].items():
        if only and arm not in only:
            continue
        try:
            cells += _cells_of_arm(raw, arm, keys, overrides, seeds)
        except params.ParamsError as error:
            lines = [f"{path}: {arm}: {line}" for line in str(error).splitlines()]
            raise params.ParamsError("\n".join(lines)) from None
    return Study(resolve(raw["run"]), raw.get("parallel", 1), tuple(cells))


def _problems(raw: dict[str, Any], only: Sequence[str]) -> list[str]:
    """Return a line for each thing that is wrong in a study file."""
    problems = []
    for name in raw:
        if name not in KEYS:
            problems.append(f"there is no key {name}; known here: {', '.join(KEYS)}{_hint(name, KEYS)}")
    problems += [f"{name} is missing" for name in REQUIRED if name not in raw]
    for name in ("preset", "run"):
        if name in raw and not (isinstance(raw[name], str) and raw[name]):
            problems.append(f"{name}: {printable(raw[name])} is not a path")
    arms = raw.get("arms") or {}
    if not isinstance(arms, dict) or not arms or not all(isinstance(keys, dict) for keys in arms.values()):
        problems.append(
            "arms maps each arm's name to its keys, such as `self_reward: {respond.context: none}`; "
            "isr: {} has none"
        )
        arms = {}
    for arm in arms:
        if not re.fullmatch(r"\w[\w.+-]*", arm):
            problems.append(f"arms: {printable(arm)} is no word, and names a folder; give one such as isr")
    if not isinstance(raw.get("set") or {}, dict):
        problems.append("set maps keys to values, such as `iterations: 5`")
    parallel = raw.get("parallel", 1)
    if type(parallel) is not int or not 1 <= parallel <= MOST_PARALLEL:
        problems.append(f"parallel: {printable(parallel)} is not a number of runs, 1 to {MOST_PARALLEL}")
    for name in only:
        if name not in arms:
            problems.append(f"there is no arm {name}; it has {', '.join(arms)}{_hint(name, arms)}")
    return problems


def _hint(name: str, names: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _cells_of_arm(
    raw: dict[str, Any], arm: str, keys: dict[str, Any], overrides: Sequence[str], count: int | None
) -> list[Cell]:
    """The runs of one arm, the first `count` of its seeds. Raises ParamsError."""
    seeds = keys.get("seeds", raw["seeds"])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise params.ParamsError(f"seeds: {printable(seeds)} is not a list of whole numbers")
    if len(set(seeds)) < len(seeds):
        raise params.ParamsError(f"seeds: {printable(seeds)} has one twice; each seed is a run of its own")
    values = (raw.get("set") or {}) | {name: value for name, value in keys.items() if name != "seeds"}
    texts = [f"{name}={_yaml_text(value)}" for name, value in values.items()]
    cells = []
    for seed in seeds[:count]:
        place = [f"arm={arm}", f"seed={seed}", f"run={raw['run']}/{arm}-{seed}"]
        cells.append(Cell(arm, params.load(resolve(raw["preset"]), [*texts, *overrides, *place])))
    return cells


def _yaml_text(value: Any) -> str:
    """A YAML value as `key=value` takes it: text in quotes, so that it stays text."""
    return json.dumps(value, ensure_ascii=False)


@dataclass
class Slot:
    """A place for one run at a time: its share of the machine, and the run that is in it."""

    environment: dict[str, str]
    run: Run | None = None
    process: subprocess.Popen | None = field(default=None, repr=False)

    def start(self, run: Run) -> None:
        """Start a run's stages in a process that ends with this one; its output goes to study.log."""
        command = [sys.executable, "-m", "isrdpo", "run", str(run.folder / "params.yaml"), "--stages"]
        with (run.folder / "study.log").open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment | child_environment(),
                cwd=project_root(),
            )
        self.run = run

    def has_ended(self) -> bool:
        """Whether the process in the slot is over."""
        return self.process is not None and self.process.poll() is not None

    def clear(self) -> None:
        """Make room for the next run."""
        self.run = None
        self.process = None


def run_study(study: Study, redo: bool = False) -> list[Run]:
    """Do every run of a study, `parallel` at a time, and print a line per iteration.

    What is done is skipped. Raises RunError when the others are through, with a line for each run that
    failed. Whatever ends this process ends all; the same command goes on from there.
    """
    runs = [Run.create(cell.params, redo) for cell in study.cells]
    waiting = deque(run for run in runs if not is_finished(run))
    slots = open_slots(study.parallel) if waiting else []
    watch = Watch(runs)
    failures: list[str] = []
    try:
        while waiting or any(slot.run for slot in slots):
            for slot in slots:
                if slot.run is None and waiting:
                    run = waiting.popleft()
                    adopt_base_evaluation(run, runs)
                    slot.start(run)
            time.sleep(POLL)
            for slot in slots:
                failures += _look_at(slot, watch)
            watch.show(sum(slot.run is not None for slot in slots))
    finally:
        _stop(slots)
    if failures:
        raise RunError("\n".join(failures))
    return runs


def _look_at(slot: Slot, watch: "Watch") -> list[str]:
    """Report the iterations that a slot's run has done, and clear the slot where its process is over.

    Returns the reason where the run failed.
    """
    run = slot.run
    if run is None:
        return []
    has_ended = slot.has_ended()  # before the look, which is then the last one
    watch.look(run)
    if not has_ended:
        return []
    slot.clear()
    if is_finished(run):
        return []
    return [f"{display_path(run.folder)}: {last_line(run.folder / 'study.log')}"]


def _stop(slots: Sequence[Slot]) -> None:
    """End the processes that still run."""
    processes = [slot.process for slot in slots if slot.process]
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def is_finished(run: Run) -> bool:
    """Whether all stages of a run are done."""
    steps = itertools.product(STAGES, range(1, run.params.iterations + 1))
    return all(is_complete(run, stage, t) for stage, t in [("evaluate", 0), *steps])


def open_slots(parallel: int) -> list[Slot]:
    """Empty slots for `parallel` runs at a time."""
    devices = visible_gpus() if parallel > 1 else []
    return [Slot(slot_environment(slot, parallel, devices)) for slot in range(parallel)]


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them; none where there is no CUDA."""
    import torch

    count = torch.cuda.device_count()
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    names = [name for name in names if name] or [str(number) for number in range(count)]
    return names[:count]


def slot_environment(slot: int, parallel: int, devices: Sequence[str]) -> dict[str, str]:
    """The environment of the runs in slot 0 to parallel - 1: a share of the cores, and one of several GPUs.

    Where there are fewer GPUs than slots, some share theirs.
    """
    environment = {}
    if parallel > 1 and "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, cpu_count() // parallel))
    if len(devices) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return environment


def last_line(log: Path) -> str:
    """The last line of a log, which says why a run failed."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


def adopt_base_evaluation(run: Run, others: Sequence[Run]) -> None:
    """Copy the base's evaluation from a run that has the same one (by its key), if there is one."""
    if run.done("evaluate", 0):
        return
    key = stage_key(run.params, "evaluate", 0)
    for other in others:
        marker = other.done("evaluate", 0)
        if other is not run and marker and marker["key"] == key:
            break
    else:
        return
    with atomic_folder(run.iteration(0)) as part:
        shutil.copytree(other.iteration(0), part, dirs_exist_ok=True)
    model_note = run.folder / "model.json"
    if not model_note.exists() and (other.folder / "model.json").exists():
        records.write_json(model_note, records.read_json(other.folder / "model.json"))


class Watch:
    """Counts the iterations on disk, and says how long the rest takes at the pace of this call."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.total = sum(run.params.iterations for run in runs)
        self.counts = {run.folder: _evaluated(run) for run in runs}
        self.done_before = self.done
        self.began = time.monotonic()

    @property
    def done(self) -> int:
        """Iterations on disk, over all runs."""
        return sum(self.counts.values())

    def look(self, run: Run) -> None:
        """Print a line for each iteration that came since the last look."""
        for t in range(self.counts[run.folder] + 1, _evaluated(run) + 1):
            self.counts[run.folder] = t
            start = "\r" if sys.stdout.isatty() else ""
            place = f"[{self.done}/{self.total}]"
            print(f"{start}{place} {run.folder.name}: iteration {t:<4}{self.time_left()}", flush=True)

    def time_left(self) -> str:
        """Say how long the rest takes; empty until this call has done an iteration."""
        done = self.done - self.done_before
        text = format_time_left(time.monotonic() - self.began, done, self.total - self.done_before)
        return f"{text} in all" if text else ""

    def show(self, working: int) -> None:
        """Write the line at the bottom of a screen anew."""
        if sys.stdout.isatty():
            state = f"{self.done}/{self.total} iterations, {working} runs at work"
            elapsed = format_duration(time.monotonic() - self.began)
            print(f"\r{state}, {elapsed}  {self.time_left():<40}", end="", flush=True)


def _evaluated(run: Run) -> int:
    """Count the iterations of a run whose evaluation is done."""
    return sum(run.done("evaluate", t) is not None for t in range(1, run.params.iterations + 1))
