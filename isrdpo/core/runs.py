"""A run: the paths under `outputs/<run>/`, the contract of its stages (markers, resuming, bad samples), and
its lock.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isrdpo.core import changes, clips, inputs, provenance, records
from isrdpo.core import params as parameters
from isrdpo.core.errors import MissingStage, RunError, is_expected, message_of
from isrdpo.core.folders import create_run_folder, display_path, hold_lock, remove_dead_parts, resolve
from isrdpo.core.pipeline import BESIDE, NOTEBOOKS, ORDER, TABLE, stage_key, upstream
from isrdpo.core.stage import Marker, Stage


def draw_seed(run_seed: int, iteration: int, sample_id: str, draw: str) -> int:
    """The seed of one draw: 63 bits of a digest, so that no draw depends on the order or the number of the
    others.
    """
    text = json.dumps([run_seed, iteration, sample_id, draw])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Run:
    """One folder under outputs/: made by `create`, opened by `open`.

    A run that was moved or copied is where it lies, whatever `run:` in its params.yaml says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        params = parameters.Params.from_file(self.folder / "params.yaml")
        is_here = resolve(params.run) == self.folder
        self.params = params if is_here else params.override("", {"run": display_path(self.folder)})

    @classmethod
    def create(cls, params: parameters.Params, redo: bool = False) -> "Run":
        """The run of these parameters: made new, or opened and updated where it exists (see `update`)."""
        folder = resolve(params.run)
        if not (folder / "params.yaml").exists():
            create_run_folder(folder)
            with hold_lock(folder / ".lock"):
                if not (folder / "params.yaml").exists():
                    records.write_json(folder / "provenance.json", provenance.collect())
                    params.save(folder / "params.yaml")
        run = cls(folder)
        for place in (folder, run.cache):
            remove_dead_parts(place)
        run.update(params, redo)
        changes.follow_inputs(run, redo)
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in `folder`. Raises MissingStage where there is none."""
        folder = resolve(folder)
        if not (folder / "params.yaml").is_file():
            where = display_path(folder)
            raise MissingStage(
                f"{where}: no run here; stage data of iteration 1 makes it: start with notebook 01, "
                f"or `isrdpo run params/toybox.yaml run={where}`"
            )
        return cls(folder)

    def update(self, params: parameters.Params, redo: bool = False) -> None:
        """Take over changed parameters.

        Raises RunError for a change under which rows on disk were made, unless `redo`: then their stages
        are to be done again.
        """
        if params != self.params:
            changes.take_over(self, params, redo)

    def take_parameters(self, params: parameters.Params) -> None:
        """Use these parameters from now on, and keep them in params.yaml."""
        params.save(self.folder / "params.yaml")
        self.params = params

    def override(self, section: str, values: dict[str, Any]) -> None:
        """Record a notebook's parameters (None: as in params.yaml) before its stage starts.

        Raises ParamsError for a bad value, RunError as `update` does.
        """
        changes = {name: value for name, value in values.items() if value is not None}
        if changes:
            self.update(self.params.override(section, changes))

    def note_machine(self) -> None:
        """Add to provenance.json where a run goes on with other versions or on another machine."""
        path = self.folder / "provenance.json"
        now = provenance.collect()
        if not path.exists():
            records.write_json(path, now)
            return
        record = provenance.read(path)
        latest = (record.get("later") or [record])[-1]
        if not provenance.same_machine(latest, now):
            records.write_json(path, record | {"later": [*record.get("later", []), now]})

    @property
    def cache(self) -> Path:
        """The folder that runs beside each other share: Toybox clips, encoded videos."""
        return self.folder.parent / ".cache"

    def videos_folder(self, held_out: bool = False) -> Path:
        """The folder that `Sample.video` counts from.

        `held_out` asks for the evaluation questions' folder. Raises RunError where it leads out of data.path.
        """
        if self.params.data.is_toybox:
            return self.cache / "clips"
        return clips.videos_folder(self.params.data, held_out)

    def clip(self, name: str, held_out: bool = False) -> Path:
        """The file or folder of frames that a row's `video` names.

        Raises VideoError where it is missing or leads outside.
        """
        data = self.params.data
        boundary = None if data.is_toybox else clips.link_boundary(data)
        return clips.find_clip(self.videos_folder(held_out), name, boundary)

    def iteration(self, t: int) -> Path:
        """The folder of iteration t."""
        return self.folder / f"iter_{t:02d}"

    def file(self, t: int, name: str) -> Path:
        """A file of iteration t."""
        return self.iteration(t) / name

    def policy(self, t: int) -> str:
        """Locate pi_t, the model that responds and judges in iteration t:

        `model.path`, or a folder of the run.
        """
        return self.params.model.path if t <= 1 else str(self.file(t - 1, "policy"))

    def policy_after(self, t: int) -> str:
        """Locate pi_{t+1}, the policy that training t made (t = 0: the base)."""
        return self.policy(t + 1)

    def has_policy(self, t: int) -> bool:
        """Whether pi_t is there: `keep_policies` may have dropped it."""
        return t <= 1 or Path(self.policy(t)).is_dir()

    def marker_path(self, stage: str, t: int) -> Path:
        """The file that says that a stage is done."""
        return self.iteration(t) / ".done" / f"{stage}.json"

    def done(self, stage: str, t: int) -> dict | None:
        """The stage's marker, if it was made under today's parameters."""
        path = self.marker_path(stage, t)
        if not path.exists():
            return None
        advice = f"remove it, and stage {stage} of iteration {t} is done again"
        marker = records.read_json(path, Marker, advice)
        return marker if marker["key"] == stage_key(self.params, stage, t) else None

    def finished(self) -> list[tuple[str, int]]:
        """(stage, iteration) of every marker on disk, in order."""
        return [(s, t) for s, t in self._steps() if self.marker_path(s, t).exists()]

    def done_markers(self) -> list[dict]:
        """The markers of everything that is done under today's parameters, in order."""
        return [marker for stage, t in self.finished() if (marker := self.done(stage, t))]

    def started(self) -> list[tuple[str, int]]:
        """(stage, iteration) of everything that has rows on disk, finished or not, in order."""
        begun = [(s, t) for s, t in self._steps() if self.file(t, f".{s}.key").exists()]
        return [(s, t) for s, t in begun if any(self.file(t, name).exists() for name in TABLE[s].files)]

    def _steps(self) -> list[tuple[str, int]]:
        """(stage, iteration) of all that the folders on disk may hold, in order."""
        names = [path.name.removeprefix("iter_") for path in self.folder.glob("iter_*")]
        numbers = sorted(int(name) for name in names if re.fullmatch(r"[0-9]{2,6}", name))
        return [(stage, t) for t in numbers for stage in ORDER]

    def key_on_disk(self, stage: str, t: int) -> str:
        """The key under which the rows on disk were begun; empty where none were.

        Raises RecordError for a torn file: rows of unknown parameters are neither kept nor removed.
        """
        path = self.file(t, f".{stage}.key")
        if not path.exists():
            return ""
        key = path.read_bytes().strip()
        if not re.fullmatch(rb"[0-9a-f]{32}", key):
            raise records.RecordError(
                f"{path}: torn or edited, so what the rows beside it were made under is not known; "
                f"remove it, and stage {stage} of iteration {t} is done again from its begin"
            )
        return key.decode()

    @contextmanager
    def lock(self, name: str = "") -> Iterator[None]:
        """Let one process at a time work on the run, or on what `name` stands for.

        Raises RunLocked after ten seconds.
        """
        with hold_lock(self.folder / f".{name}lock"):
            yield

    @contextmanager
    def stage(self, name: str, t: int) -> Iterator["Stage | None"]:
        """The contract of a stage: None where it is done; else a Stage whose marker is written when the
        block ends well.

        Raises RunError for an iteration that the run does not have, MissingStage where the stage's input is
        not there.
        """
        if not TABLE[name].first <= t <= self.params.iterations:
            raise RunError(
                f"{display_path(self.folder)}: there is no {name} in iteration {t}; "
                f"this run has iterations 1 to {self.params.iterations} (0: the base's evaluation); "
                f"more: `isrdpo run PARAMS iterations=...`"
            )
        with self.lock():
            inputs.require_unchanged(self, name, t)
            if self.done(name, t):
                yield None
                return
            self._require_upstream(name, t)
            stage = Stage(self, name, t)
            stage.begin()
            yield stage
            stage.finish()

    def _require_upstream(self, name: str, t: int) -> None:
        where = display_path(self.folder)
        for other, at in upstream(self.params, name, t):
            if not self.done(other, at):
                raise MissingStage(
                    f"{where}: stage {name} of iteration {t} needs stage {other} of iteration {at}, "
                    f"which is not done; run `isrdpo stage {other} --run {where} --iteration {at}` "
                    f"or notebook {NOTEBOOKS[other]} first"
                )


def is_complete(run: Run, stage: str, t: int) -> bool:
    """Whether a stage is done, and the scoring beside it where a scorer is asked for."""
    if not run.done(stage, t):
        return False
    needs_scoring = BESIDE.get(stage) == "score" and run.params.score.scorer != "none"
    return not needs_scoring or run.done("score", t) is not None


def own_folder(preset: Path, overrides: Sequence[str]) -> list[str]:
    """The override by which a run's own params.yaml stands for the run where the file lies.

    None where `overrides` say run=..., and for a preset. A run that was moved, or copied, is thereby not
    mistaken for the one that its file names.
    """
    folder = preset.parent.resolve()
    is_run = preset.name == "params.yaml" and (
        (folder / "provenance.json").exists() or any(folder.glob("iter_*"))
    )
    is_named = any(text.startswith("run=") for text in overrides)
    return [f"run={display_path(folder)}"] if is_run and not is_named else []


def open_or_create(run_dir: str | Path, preset: str | Path) -> Run:
    """The run in `run_dir`, made from a preset where there is none (notebook 01)."""
    if (resolve(run_dir) / "params.yaml").exists():
        return Run.open(run_dir)
    return Run.create(parameters.load(resolve(preset), [f"run={run_dir}"]))


def stage_main(name: str, stage: Callable[[Run, int], None], arguments: list[str] | None = None) -> None:
    """`python -m isrdpo.stages.<name> --run outputs/toybox --iteration 3`: exit 0 if and only if the marker
    is written.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog=f"python -m isrdpo.stages.{name}",
        description=f"Stage {name} of one iteration; does nothing where it is done.",
    )
    parser.add_argument("--run", required=True, help="the run's folder")
    parser.add_argument(
        "--iteration", type=int, required=True, help="1 to N; 0: the base and the evaluation set"
    )
    options = parser.parse_args(arguments)
    try:
        stage(Run.open(options.run), options.iteration)
    except KeyboardInterrupt:
        print(f"isrdpo {name}: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not is_expected(error):
            raise
        sys.exit(f"isrdpo {name}: {message_of(error)}")
