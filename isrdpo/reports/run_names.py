"""Names of compared runs: only runs that differ in nothing but their seed share one, and are pooled.

Runs of one arm are told apart by the parameters in which they differ, and where they differ in none (a run
and its copy) by their folders.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path
from isrdpo.core.pipeline import STAGES, dependencies
from isrdpo.core.runs import Run
from isrdpo.reports.arms import arm_of

MOST_KEYS = 2  # parameters that a name spells out; runs that differ in more are named by their folders


def arm_names(runs: Sequence[Run]) -> list[str]:
    """Return the arm of each run and what tells it from others of the arm, as in "isr (train.beta=0.2)".

    No two runs of one seed share a name.
    """
    arms = [arm_of(run) for run in runs]
    details: list[list[str]] = [[] for _ in runs]
    for arm in dict.fromkeys(arms):
        members = [number for number, name in enumerate(arms) if name == arm]
        for number, text in zip(members, _differences([runs[number] for number in members]), strict=True):
            details[number] += [text] if text else []
    seeds = [(_name(arms[n], details[n]), run.params.seed) for n, run in enumerate(runs)]
    counts = Counter(seeds)
    for number, label in enumerate(_folder_labels(runs)):
        if counts[seeds[number]] > 1 and label not in details[number]:
            details[number].append(label)
    return [_name(arm, detail) for arm, detail in zip(arms, details, strict=True)]


def _name(arm: str, details: Sequence[str]) -> str:
    return f"{arm} ({', '.join(details)})" if details else arm


def _differences(runs: Sequence[Run]) -> list[str]:
    """Return what tells each run of an arm from others by its parameters; empty where nothing does.

    It is `key=value` for a few keys, else the folder of the first run with these parameters.
    """
    settings = [_settings(run) for run in runs]
    keys = {key for one in settings for key in one}
    differing = sorted(key for key in keys if len({repr(one.get(key)) for one in settings}) > 1)
    if not differing:
        return [""] * len(runs)
    values = [", ".join(f"{key}={one.get(key)}" for key in differing) for one in settings]
    if len(differing) <= MOST_KEYS:
        return values
    labels = _folder_labels(runs)
    return [labels[values.index(value)] for value in values]


def _settings(run: Run) -> dict[str, Any]:
    """Return the parameters that a run's rows depend on, without its seed."""
    values: dict[str, Any] = {}
    for stage in STAGES:
        values |= dependencies(run.params, stage)
    values.pop("seed")
    return values


def _folder_labels(runs: Sequence[Run]) -> list[str]:
    """Return each run's folder, with as many folders above it as tell it from the others."""
    return [_folder_label(run.folder, [other.folder for other in runs]) for run in runs]


def _folder_label(folder: Path, folders: Sequence[Path]) -> str:
    for length in range(1, len(folder.parts)):
        tail = folder.parts[-length:]
        if sum(other.parts[-length:] == tail for other in folders) == 1:
            return "/".join(tail)
    return str(folder)


def require_same_questions(runs: Sequence[Run]) -> None:
    """Raise RunError where runs of one seed were evaluated on different questions.

    Ids alone do not tell: two data sets may number their rows alike.
    """
    first: dict[int, tuple[Run, set]] = {}
    for run in runs:
        path = run.file(0, "samples.jsonl")
        if not run.done("data", 0) or not path.exists():
            continue
        rows = records.read_jsonl(path, records.Sample)
        questions = {(row.id, row.video, row.question, row.answer) for row in rows}
        other, others = first.setdefault(run.params.seed, (run, questions))
        if questions != others:
            raise RunError(
                f"{display_path(other.folder)} and {display_path(run.folder)} (seed {run.params.seed}) were "
                f"evaluated on different questions ({len(others - questions)} of {len(others)} differ), "
                f"so their figures do not compare; compare runs of the same evaluation set"
            )
