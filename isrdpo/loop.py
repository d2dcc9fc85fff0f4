"""The loop: which stages of a run are left, and doing them in order, with their notebooks or without.

    data -> [ respond -> judge -> train -> evaluate ] once per iteration

A stage is a module of `isrdpo.stages` with a function `run(run, iteration)`; `run_stage` calls it. Within
`isrdpo run` a notebook makes that call, so that figures and checks stand beside it; `--stages` leaves the
notebooks away.
"""

import csv
import importlib
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isrdpo.core import strict_yaml
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path
from isrdpo.core.params import Params
from isrdpo.core.pipeline import BESIDE, NOTEBOOKS, STAGES
from isrdpo.core.progress import format_duration
from isrdpo.core.records import RecordError
from isrdpo.core.runs import Run, is_complete
from isrdpo.reports import notebooks, pages

LOCK = "launch."  # one process at a time drives a run; its stages lock the run by themselves
COLUMNS = (
    "accuracy",
    "hallucination",
    "false_claims",
    "claims_per_answer",
    "response_words",
    "prefers_longer",
    "judge_accuracy",
    "fixed_judge_accuracy",
    "fixed_judge_accuracy_no_context",
    "context_accuracy",
    "kept_share",
    "seconds",
)  # of summary.csv, for the terminal


@dataclass(frozen=True)
class Step:
    """A stage of an iteration that is left to do, and its number in the plan."""

    number: int
    stage: str
    t: int

    @property
    def title(self) -> str:
        """The step as a sentence names it."""
        return f"{NOTEBOOKS[self.stage]} of iteration {self.t}"


def plan(iterations: int) -> list[tuple[str, int]]:
    """Return (stage, iteration) of all steps of a run, in order.

    The data and the base's evaluation come first, then the stages of every iteration. A run of no iterations
    is the evaluation alone.
    """
    steps = [("data", min(iterations, 1)), ("evaluate", 0)]
    for t in range(1, iterations + 1):
        steps += [(stage, t) for stage in STAGES if (stage, t) not in steps]
    return steps


def run_stage(run: Run, name: str, t: int) -> None:
    """Run one stage in this process; it does nothing where it is done."""
    importlib.import_module(f"isrdpo.stages.{name}").run(run, t)


def run_loop(run: Run, stages_only: bool = False) -> None:
    """Do what is left of a run, one line on the terminal for each step, and bring its index up to date.

    `stages_only` leaves out the notebooks and their pages.
    """
    steps = [Step(number, stage, t) for number, (stage, t) in enumerate(plan(run.params.iterations), 1)]
    with run.lock(LOCK):
        if stages_only:
            remaining = [step for step in steps if not is_complete(run, step.stage, step.t)]
        else:
            remaining = [step for step in steps if notebooks.is_outdated(run, step.stage, step.t)]
        if remaining:
            run.note_machine()
        if stages_only:
            _run_stages(run, remaining, len(steps))
        else:
            _run_notebooks(run, remaining, len(steps))
        if remaining or not pages.is_index_current(run):
            pages.write_index(run)


def _run_stages(run: Run, remaining: Sequence[Step], total: int) -> None:
    """Run stages in this process, and beside the evaluation the scoring that the run asks for."""
    for step in remaining:
        began = time.monotonic()
        try:
            run_stage(run, step.stage, step.t)
            if BESIDE.get(step.stage) == "score" and run.params.score.scorer != "none":
                run_stage(run, "score", step.t)
        except Exception as error:
            with suppress(OSError):  # where the disk is full, the first error is the one to read
                pages.write_index(run, _stop_notice(step, total, error))
            raise
        seconds = time.monotonic() - began
        print(f"[{step.number:2}/{total}] iteration {step.t}: {step.stage:<12}{seconds:6.0f} s", flush=True)


def _run_notebooks(run: Run, remaining: Sequence[Step], total: int) -> None:
    """Execute the notebooks that are left, each of which runs its stage, and make their pages.

    report.html says before each step what is running, and at the end why it stopped.
    """
    clock = notebooks.Clock(run)
    for place, step in enumerate(remaining):
        line = StepLine(step, total, _time_left(clock, remaining[place:]))
        pages.write_index(run, line.announcement())
        try:
            notebooks.update_page(run, step.stage, step.t, line.update)
        except BaseException as error:
            line.abort()
            with suppress(OSError):  # a full disk is why the step stopped, too
                pages.write_index(run, _stop_notice(step, total, error))
            raise
        clock.took[step.stage] = line.seconds
        line.finish(_time_left(clock, remaining[place + 1 :]))


def _time_left(clock: notebooks.Clock, steps: Sequence[Step]) -> str:
    """Say how long these steps will take; empty while a stage among them has never been timed."""
    seconds = clock.left([(step.stage, step.t) for step in steps])
    return f"about {format_duration(seconds)} left in all" if seconds else ""


def _stop_notice(step: Step, total: int, error: BaseException) -> str:
    """Return the sentence at the top of report.html where a step did not end well."""
    if isinstance(error, KeyboardInterrupt):
        reason = "interrupted"
    else:
        reason = (str(error) or type(error).__name__).splitlines()[0]
    where = f"step {step.number} of {total}, {step.title}"
    return f"Stopped in {where}: {reason}. The same command goes on from there."


@dataclass
class StepLine:
    """The terminal's line about one step.

    On a screen it is written anew while the step runs; in a pipe or a log only its last state is written.
    `time_left` is that of the whole run, before the step.
    """

    step: Step
    total: int
    time_left: str
    on_screen: bool = field(default_factory=lambda: sys.stdout.isatty())
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The time since the step began."""
        return time.monotonic() - self.began

    def announcement(self) -> str:
        """Return the sentence at the top of report.html while the step runs."""
        rest = f"; {self.time_left}" if self.time_left else ""
        return (
            f"Running: step {self.step.number} of {self.total}, {self.step.title}, "
            f"since {time.strftime('%H:%M:%S')}{rest}. This page is written anew after each step."
        )

    def update(self, step_left: str = "") -> None:
        """Show how far the step is; `step_left` says how long the rest of it takes, where that is known."""
        if self.on_screen:
            print(f"\r{self._text(step_left or self.time_left)}", end="", flush=True)

    def finish(self, time_left: str) -> None:
        """End the line with the time that the step took; `time_left` is that of the whole run from here."""
        text = self._text(time_left)
        print(f"\r{text}" if self.on_screen else text.rstrip(), flush=True)

    def abort(self) -> None:
        """End the line of a step that failed, so that the error begins a line of its own."""
        if self.on_screen:
            print()

    def _text(self, note: str) -> str:
        label = f"[{self.step.number:2}/{self.total}] iteration {self.step.t}: {NOTEBOOKS[self.step.stage]}"
        return f"{label:<44}{format_duration(self.seconds):>8}  {note:<40}"


def notebook_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of a notebook that were typed as `key=value`. Raises RunError, YamlError."""
    values = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise RunError(f"{text}: not key=value")
        values[key] = strict_yaml.parse(value, key)
    return values


def run_notebook(run: Run, stage: str, t: int, values: dict[str, Any]) -> Path:
    """Execute one notebook, whether its stage is done or not; returns its page."""
    with run.lock(LOCK):
        notebooks.execute_notebook(run, stage, t, values)
        changed = Run.open(run.folder)  # the notebook may have recorded parameters
        page = pages.write_page(changed, stage, t)
        pages.write_index(changed)
    return page


def score_again(run: Run, params: Params, t: int, redo: bool) -> None:
    """Score an iteration under changed parameters, and make the pages anew that show it."""
    from isrdpo.stages import score

    with run.lock(LOCK):
        score.score_again(run, params, t, redo)
        if pages.page_path(run, "evaluate", t).exists():
            notebooks.update_page(Run.open(run.folder), "evaluate", t)
        pages.write_index(run)


def rebuild_pages(run: Run, bundle: Path | None) -> list[Path]:
    """Make the pages and the index anew from the executed notebooks, and the zip file `bundle` of them.

    Returns the index and the bundle.
    """
    with run.lock(LOCK):
        for stage, t in run.finished():
            if stage in NOTEBOOKS and pages.executed_notebook(run, stage, t).exists():
                pages.write_page(run, stage, t)
        paths = [pages.write_index(run)]
        if bundle:
            paths.append(pages.write_bundle(run, bundle))
    return paths


def summary_table(path: Path) -> str:
    """Return summary.csv for a terminal: a line per measure that has values, a column per iteration.

    Raises RecordError for a torn or edited file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return _table_lines(list(csv.DictReader(file)))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        advice = f"remove it, and `isrdpo report {display_path(path.parent)}` writes it anew"
        raise RecordError(f"{path}: torn or edited ({error}); {advice}") from None


def _table_lines(rows: list[dict[str, str]]) -> str:
    width = max(map(len, COLUMNS))
    lines = [f"{'iteration':<{width}}" + "".join(f"{row['iteration']:>9}" for row in rows)]
    for name in COLUMNS:
        cells = [_cell(row.get(name), 0 if name == "seconds" else 3) for row in rows]
        if any(cells):
            lines.append(f"{name:<{width}}" + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def warning_lines(run: Run) -> str:
    """Return the warnings of a run's stages for a terminal, each once, with the stage that said it first."""
    places: dict[str, list[str]] = {}
    for marker in run.done_markers():
        for warning in marker["warnings"]:
            places.setdefault(warning, []).append(f"{marker['stage']} of iteration {marker['iteration']}")
    lines = []
    for warning, where in places.items():
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        lines.append(f"warning: {where[0]}{more}: {warning}")
    return "\n".join(lines)


def _cell(text: str | None, digits: int) -> str:
    return f"{float(text):.{digits}f}" if text else ""
