"""A run: every path under `outputs/<run>/`, the stage contract (done-markers, resuming, bad samples), the lock, provenance."""

import argparse
import hashlib
import importlib
import json
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from isrdpo.core import params as parameters
from isrdpo.core import provenance, records
from isrdpo.core.folders import BadShare, MissingStage, RunError, RunLocked, expected, locked, project_root, resolve, shown, told, usable
from isrdpo.core.pipeline import NOTEBOOKS, ORDER, STAGES, VERSIONS, depends, key, upstream

__all__ = [
    "NOTEBOOKS", "STAGES", "BadShare", "MissingStage", "Run", "RunError", "RunLocked", "Stage", "depends", "draw_seed", "key",
    "open_or_create", "progress", "project_root", "resolve", "shown", "stage_main", "upstream",
]  # fmt: skip
T = TypeVar("T")
FILES = {  # what a stage writes into iter_NN: removed before it starts under another key
    "data": ("samples.jsonl", "fixed_pairs.jsonl"),
    "respond": ("previous_contexts.jsonl", "contexts.jsonl", "responses.jsonl"),
    "judge": ("judgments.jsonl", "preferences.jsonl"),
    "look": ("judgments_no_context.jsonl", "looks.jsonl"),
    "train": ("train.csv", "policy", "checkpoints"),
    "evaluate": ("answers.jsonl", "fixed_contexts.jsonl", "fixed_judgments.jsonl", "eval.json", "predictions", "benchmark.csv"),
    "score": ("scores.jsonl", "scores.csv"),
}


def draw_seed(run_seed: int, iteration: int, sample_id: str, draw: str) -> int:
    """The seed of one draw: 63 bits of sha256, so no draw depends on the order or the number of others."""
    text = json.dumps([run_seed, iteration, sample_id, draw])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def progress(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    """A progress bar on stderr (`total` None: a count only); quiet when that is not a terminal."""
    from tqdm import tqdm

    return iter(tqdm(iterable, total=total, desc=label, file=sys.stderr, disable=not sys.stderr.isatty()))


class Run:
    """One folder under outputs/. Made by `create`, opened by `open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.params = parameters.Params.from_file(self.folder / "params.yaml")

    @classmethod
    def create(cls, params: parameters.Params, redo: bool = False) -> "Run":
        """The run of these parameters: made, or opened and updated when it is there (see `update`)."""
        folder = resolve(params.run)
        if not (folder / "params.yaml").exists():
            usable(folder)
            with locked(folder / ".lock"):
                if not (folder / "params.yaml").exists():
                    records.write_json(folder / "provenance.json", provenance.collect())
                    params.save(folder / "params.yaml")
        run = cls(folder)
        run.update(params, redo)
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in `folder`. Raises MissingStage where there is none."""
        folder = resolve(folder)
        if not (folder / "params.yaml").is_file():
            raise MissingStage(
                f"{shown(folder)}: no run here; stage data of iteration 1 makes it: start with notebook 01, "
                f"or `isrdpo run params/toybox.yaml run={shown(folder)}`"
            )
        return cls(folder)

    def update(self, params: parameters.Params, redo: bool = False) -> None:
        """Take over changed parameters. Refuses a change under which rows were made, unless `redo`: then those stages are to do again."""
        if params == self.params:
            return
        with self.lock():
            last = max((t for _, t in self.finished()), default=0)
            if params.iterations < last:
                raise RunError(
                    f"{shown(self.folder)}: iterations={params.iterations} is fewer than the {last} that are there; choose another run=..."
                )
            stale = [(s, t) for s, t in self.started() if self._key_of(s, t) != key(params, s, t)]
            if stale and not redo:
                names = ", ".join(_differences(self.params.to_dict(), params.to_dict()))
                rows = f"stage {stale[0][0]} of iteration {stale[0][1]}" + (f" and {len(stale) - 1} more" if len(stale) > 1 else "")
                raise RunError(
                    f"{shown(self.folder)}: {names} changed, and {rows} made under the old value; "
                    f"choose another run=..., or have it done again with `isrdpo run PARAMS --redo`"
                )
            params.save(self.folder / "params.yaml")
            self.params = params
            for stage, t in stale:
                self.marker(stage, t).unlink(missing_ok=True)
                self.file(t, f".{stage}.key").unlink(missing_ok=True)  # so its rows go when it starts
                if stage == "evaluate":
                    self._forget_dropped_policies(t)

    def _forget_dropped_policies(self, t: int) -> None:
        """Evaluating iteration t again needs its policy; where `keep_policies` dropped it, training has to make it again."""
        if t and not self.file(t, "policy").exists():
            for earlier in range(1, t + 1):
                if not self.file(earlier, "policy").exists():
                    self.marker("train", earlier).unlink(missing_ok=True)

    def override(self, section: str, values: dict[str, Any]) -> None:
        """Record a notebook's parameters (None: as it is) before its stage starts. Raises ParamsError, or RunError as `update` does."""
        given = {name: value for name, value in values.items() if value is not None}
        if given:
            self.update(self.params.override(section, given))

    def note_machine(self) -> None:
        """Add to provenance.json where a run goes on under other versions or on another machine."""
        path, now = self.folder / "provenance.json", provenance.collect()
        found = records.read_json(path) if path.exists() else now
        if not provenance.same_machine((found.get("later") or [found])[-1], now):
            records.write_json(path, found | {"later": [*found.get("later", []), now]})

    @property
    def cache(self) -> Path:
        return self.folder.parent / ".cache"

    def video_root(self, held_out: bool = False) -> Path:
        """The folder that `Sample.video` counts from; `held_out`: that of the evaluation questions, which is the benchmark's where there is one."""
        data = self.params.data
        if data.path == "toybox":
            return self.cache / "clips"
        name = "test" if held_out and data.benchmark != "none" else "videos"
        root, folder = resolve(data.path), (resolve(data.path) / getattr(data, name)).resolve()
        if not folder.is_relative_to(root):
            raise RunError(f"{root / getattr(data, name)}: data.{name} leads out of data.path; put the clips (or a folder of links to them) inside")
        return folder

    def iteration(self, t: int) -> Path:
        return self.folder / f"iter_{t:02d}"

    def file(self, t: int, name: str) -> Path:
        return self.iteration(t) / name

    def policy(self, t: int) -> str:
        """Where pi_t is: the model that responds and judges in iteration t."""
        return self.params.model.path if t <= 1 else str(self.file(t - 1, "policy"))

    def policy_after(self, t: int) -> str:
        """pi_{t+1}: the policy that training t made (t = 0: the base)."""
        return self.policy(t + 1)

    def marker(self, stage: str, t: int) -> Path:
        return self.iteration(t) / ".done" / f"{stage}.json"

    def done(self, stage: str, t: int) -> dict | None:
        """The stage's marker, if it was made under today's parameters."""
        path = self.marker(stage, t)
        found = records.read_json(path) if path.exists() else None
        return found if found and found["key"] == key(self.params, stage, t) else None

    def finished(self) -> list[tuple[str, int]]:
        """(stage, iteration) of every marker on disk, in order."""
        found = [(p.stem, int(p.parent.parent.name[5:])) for p in self.folder.glob("iter_*/.done/*.json")]
        return sorted(found, key=lambda at: (at[1], ORDER.index(at[0])))

    def started(self) -> list[tuple[str, int]]:
        """(stage, iteration) of everything that has rows on disk, finished or not, in order."""
        found = [(p.name.split(".")[1], int(p.parent.name[5:])) for p in self.folder.glob("iter_*/.*.key")]
        rows = [(s, t) for s, t in found if any(self.file(t, name).exists() for name in FILES[s])]
        return sorted(rows, key=lambda at: (at[1], ORDER.index(at[0])))

    def _key_of(self, stage: str, t: int) -> str:
        """The key under which the rows on disk were begun."""
        return self.file(t, f".{stage}.key").read_text()

    @contextmanager
    def lock(self, name: str = "") -> Iterator[None]:
        """One process at a time; re-entrant within it. Raises RunLocked after 10 s. `name`: another lock of the same run."""
        with locked(self.folder / f".{name}lock"):
            yield

    @contextmanager
    def stage(self, name: str, t: int) -> Iterator["Stage | None"]:
        """The stage contract: None when it is done already; else a Stage whose marker is written when the block ends well."""
        if not (0 if name in ("data", "evaluate", "score") else 1) <= t <= self.params.iterations:
            raise RunError(
                f"{shown(self.folder)}: there is no {name} in iteration {t}; this run has iterations 1 to {self.params.iterations} "
                f"(0: the base's evaluation); more: `isrdpo run PARAMS iterations=...`"
            )
        with self.lock():
            if self.done(name, t):
                yield None
                return
            for other, at in upstream(self.params, name, t):
                if not self.done(other, at):
                    raise MissingStage(
                        f"{shown(self.folder)}: stage {name} of iteration {t} needs stage {other} of iteration {at}, which is not done; run "
                        f"`isrdpo stage {other} --run {shown(self.folder)} --iteration {at}` or notebook {NOTEBOOKS[other]} first"
                    )
            stage = Stage(self, name, t)
            stage.begin()
            yield stage
            stage.finish()


class Stage:
    """A running stage: where it writes, what it counts."""

    def __init__(self, run: Run, name: str, t: int) -> None:
        self.run, self.name, self.t = run, name, t
        self.key, self.total, self.began = key(run.params, name, t), 0, time.monotonic()
        self.counts: dict[str, int] = {}
        self.warnings: list[str] = []
        self.bads: list[dict] = []

    @property
    def params(self) -> parameters.Params:
        return self.run.params

    def path(self, name: str) -> Path:
        return self.run.file(self.t, name)

    def log(self, name: str, row_type: type, batch_size: int) -> records.BatchLog:
        return records.BatchLog(self.path(name), row_type, batch_size)

    def bad(self, sample: str, cause: str, detail: str = "") -> None:
        self.bads.append({"id": sample, "cause": cause, "detail": detail})

    def count(self, name: str, n: int) -> None:
        self.counts[name] = n

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def begin(self) -> None:
        """Rows made under another key are never mixed in: they go, with the marker."""
        started = self.path(f".{self.name}.key")
        self.run.marker(self.name, self.t).unlink(missing_ok=True)
        for torn in self.path("").glob(".*.part"):
            torn.unlink()
        if not started.exists() or started.read_text() != self.key:
            for name in (*FILES[self.name], f"bad_{self.name}.jsonl"):
                path = self.path(name)
                path.with_name(f".{name}.journal").unlink(missing_ok=True)
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            records.write_text(started, self.key)

    def finish(self) -> None:
        causes = dict(Counter(bad["cause"] for bad in self.bads))
        listed = self.path(f"bad_{self.name}.jsonl")
        records.write(listed, self.bads)
        share, allowed = len({bad["id"] for bad in self.bads}) / max(self.total, 1), self.params.max_bad_share
        if share > allowed:
            first, kinds = self.bads[0], ", ".join(f"{n} {cause}" for cause, n in causes.items())
            raise BadShare(
                f"{shown(listed)}: {share:.0%} of {self.total} samples are bad ({kinds}), above max_bad_share={allowed}; "
                f"mend them, or raise max_bad_share; first: {first['id']}: {first['detail'] or first['cause']}"
            )
        records.write_json(self.run.marker(self.name, self.t), {
            "stage": self.name, "iteration": self.t, "key": self.key, "version": VERSIONS[self.name],
            "params": depends(self.params, self.name, self.t),
            "upstream": upstream(self.params, self.name, self.t), "total": self.total, "counts": self.counts, "bad": causes,
            "warnings": self.warnings, "seconds": round(time.monotonic() - self.began, 1),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform != "darwin" else 1024**2),
        })  # fmt: skip


def complete(run: Run, stage: str, t: int) -> bool:
    """Whether a stage is done, and the scoring beside it where a scorer is asked for."""
    scoring = stage == "evaluate" and run.params.score.scorer != "none"
    return bool(run.done(stage, t)) and (not scoring or bool(run.done("score", t)))


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    names = []
    for name in new:
        if isinstance(new[name], dict):
            names += _differences(old[name], new[name], f"{prefix}{name}.")
        elif old[name] != new[name]:
            names.append(f"{prefix}{name}")
    return names


def open_or_create(run_dir: str | Path, preset: str | Path) -> Run:
    """Notebook 01: the run in `run_dir`, made from a preset when there is none."""
    if (resolve(run_dir) / "params.yaml").exists():
        return Run.open(run_dir)
    return Run.create(parameters.load(resolve(preset), [f"run={run_dir}"]))


def stage_main(name: str, arguments: list[str] | None = None) -> None:
    """`python -m isrdpo.stages.<stage> --run outputs/toybox --iteration 3`: exit 0 if and only if the stage's marker is written."""
    parser = argparse.ArgumentParser(prog=f"python -m isrdpo.{name}", description=f"Stage {name} of one iteration; nothing when it is done.")
    parser.add_argument("--run", required=True, help="the run's folder")
    parser.add_argument("--iteration", type=int, required=True, help="1 to N; 0: the base and the evaluation set")
    given = parser.parse_args(arguments)
    try:
        importlib.import_module(f"isrdpo.stages.{name}").run(Run.open(given.run), given.iteration)
    except KeyboardInterrupt:
        print(f"isrdpo {name}: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not expected(error):
            raise
        sys.exit(f"isrdpo {name}: {told(error)}")
