"""Arms x seeds: isrdpo study params/study.yaml

A study file names what its runs share (`preset`, `set`), the arms (each a few keys), the seeds, and how many runs go at a time. Each run is a folder
`<run>/<arm>-<seed>`; its stages run in one process, without notebooks. Runs of a study share clips, features and the base's evaluation.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isrdpo.core import errors, folders, params, records
from isrdpo.core.pipeline import STAGES, stage_key
from isrdpo.core.runs import Run, is_complete

KEYS = ("preset", "run", "seeds", "parallel", "set", "arms")
POLL = 1.0  # seconds between looks at what is on disk


@dataclass(frozen=True)
class Study:
    """folder: of the runs; parallel: runs at a time; cells: (arm, the run's parameters), in the order in which they go."""

    folder: Path
    parallel: int
    cells: tuple[tuple[str, params.Params], ...]


def load(path: Path, seeds: int | None = None, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> Study:
    """A study file; `seeds`: only so many of each arm's; `only`: these arms. `overrides` (key=value) count for every run, `run=` for the study's
    folder. Raises ParamsError with every error found."""
    raw, errors = params.read_file(path), []
    for text in overrides:
        if text.startswith("run="):
            raw["run"] = text.removeprefix("run=")
    errors += [f"{path}: there is no key {name}; known here: {', '.join(KEYS)}" for name in raw if name not in KEYS]
    errors += [f"{path}: {name} is missing" for name in ("preset", "run", "seeds", "arms") if name not in raw]
    arms, parallel = raw.get("arms") or {}, raw.get("parallel", 1)
    if not isinstance(arms, dict) or not arms or not all(isinstance(keys, dict) for keys in arms.values()):
        errors.append(f"{path}: arms maps each arm's name to its keys, such as `self_reward: {{respond.context: none}}`; isr: {{}} has none")
        arms = {}
    if not isinstance(parallel, int) or parallel < 1:
        errors.append(f"{path}: parallel: {parallel!r} is not a number of runs")
    errors += [f"{path}: there is no arm {name}; it has {', '.join(arms)}" for name in only if name not in arms]
    if errors:
        raise params.ParamsError("\n".join(errors))
    cells = []
    for arm, keys in arms.items():
        if only and arm not in only:
            continue
        given = keys.get("seeds", raw["seeds"])
        if not isinstance(given, list) or not given or not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in given):
            raise params.ParamsError(f"{path}: {arm}: seeds: {given!r} is not a list of whole numbers")
        common = (raw.get("set") or {}) | {name: value for name, value in keys.items() if name != "seeds"}
        for seed in given[:seeds]:
            texts = [f"{name}={_text(value)}" for name, value in common.items()]
            try:
                made = params.load(folders.resolve(raw["preset"]), [*texts, *overrides, f"seed={seed}", f"run={raw['run']}/{arm}-{seed}"])
            except params.ParamsError as error:
                raise params.ParamsError("\n".join(f"{path}: {arm}: {line}" for line in str(error).splitlines())) from None
            cells.append((arm, made))
    return Study(folders.resolve(raw["run"]), parallel, tuple(cells))


def _text(value: Any) -> str:
    """A YAML value as `key=value` takes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def go(study: Study, redo: bool = False) -> list[Run]:
    """Every run to its end, `parallel` at a time; what is done is skipped. Prints a line an iteration. A run that fails is named at the end
    (RunError) when the others are through; Ctrl-C stops all, and the same command goes on from there."""
    runs = [Run.create(settings, redo) for _, settings in study.cells]
    waiting, working, failed = [run for run in runs if not ended(run)], {}, []
    watch, slots, devices = Watch(runs), list(range(study.parallel)), gpus() if waiting and study.parallel > 1 else []
    try:
        while waiting or working:
            while waiting and slots:
                run, slot = waiting.pop(0), slots.pop(0)
                adopt(run, runs)
                working[run.folder] = (run, slot, start(run, share(slot, study.parallel, devices)))
            time.sleep(POLL)
            for folder, (run, slot, child) in list(working.items()):
                watch.look(run)
                if child.poll() is not None:
                    del working[folder]
                    slots.append(slot)
                    if not ended(run):
                        failed.append(f"{folders.display_path(folder)}: {last_line(folder / 'study.log')}")
            watch.show(len(working))
    finally:
        for _, _, child in working.values():
            child.terminate()
        for _, _, child in working.values():
            child.wait()
    if failed:
        raise errors.RunError("\n".join(failed))
    return runs


def ended(run: Run) -> bool:
    last = run.params.iterations
    return all(is_complete(run, stage, t) for t in range(1, last + 1) for stage in STAGES) and is_complete(run, "evaluate", 0)


def gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them; none where there is no CUDA."""
    import torch

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(n) for n in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


def share(slot: int, parallel: int, devices: Sequence[str]) -> dict[str, str]:
    """The environment of the run in a slot (0 to parallel - 1): its share of the cores and, of several GPUs, one; where there are fewer GPUs than slots, some
    share theirs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores // parallel))} if parallel > 1 and "OMP_NUM_THREADS" not in os.environ else {}
    return threads | ({"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if len(devices) > 1 else {})


def start(run: Run, environment: dict[str, str]) -> subprocess.Popen:
    """A run's stages in a process of its own; what it says goes to study.log."""
    command = [sys.executable, "-m", "isrdpo", "run", str(run.folder / "params.yaml"), "--stages"]
    with (run.folder / "study.log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | environment, cwd=folders.project_root())  # noqa: S603


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


def adopt(run: Run, others: Sequence[Run]) -> None:
    """Takes the base's evaluation from a run that has the same (by its key), instead of making it again."""
    mine, wanted = run.iteration(0), stage_key(run.params, "evaluate", 0)
    found = next((o for o in others if o is not run and (m := o.done("evaluate", 0)) and m["key"] == wanted), None)
    if run.done("evaluate", 0) or found is None:
        return
    part = mine.with_name(".iter_00.part")
    for old in (part, mine):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(found.iteration(0), part)
    os.replace(part, mine)
    if not (run.folder / "model.json").exists() and (found.folder / "model.json").exists():
        records.write_json(run.folder / "model.json", records.read_json(found.folder / "model.json"))


class Watch:
    """Counts iterations on disk, and says how long the rest will take at the pace of this call."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.total = sum(run.params.iterations for run in runs)
        self.seen = {run.folder: self._count(run) for run in runs}
        self.before, self.began = sum(self.seen.values()), time.monotonic()

    @staticmethod
    def _count(run: Run) -> int:
        return sum(run.done("evaluate", t) is not None for t in range(1, run.params.iterations + 1))

    def look(self, run: Run) -> None:
        """Prints a line for each iteration that has come."""
        for t in range(self.seen[run.folder] + 1, self._count(run) + 1):
            self.seen[run.folder] = t
            print(f"{chr(13) if sys.stdout.isatty() else ''}[{self.done}/{self.total}] {run.folder.name}: iteration {t:<4}{self.left()}", flush=True)

    @property
    def done(self) -> int:
        return sum(self.seen.values())

    def left(self) -> str:
        from isrdpo.reports.notebooks import format_duration

        here = self.done - self.before
        return f"about {format_duration((time.monotonic() - self.began) * (self.total - self.done) / here)} left in all" if here and self.done < self.total else ""

    def show(self, working: int) -> None:
        from isrdpo.reports.notebooks import format_duration

        if sys.stdout.isatty():
            print(f"\r{self.done}/{self.total} iterations, {working} runs at work, {format_duration(time.monotonic() - self.began)}  {self.left():<40}", end="", flush=True)
