"""Notebooks executed by papermill: one a stage and iteration, each once, and what is out of date again; how long it takes, and will take.

`iter_NN/notebooks/03_judging.ipynb` is there only when it ran to its end; one that failed is `03_judging.failed.ipynb`.
"""

import builtins
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isrdpo.core import errors, folders, records
from isrdpo.core.pipeline import BESIDE, NOTEBOOKS
from isrdpo.core.runs import Run
from isrdpo.reports import pages

START = 6.0  # seconds that a kernel and a page take beside the stage
CHILDREN = {  # a kernel's environment: figures into files, this interpreter's own kernel rather than one in the user's home
    "MPLBACKEND": "Agg", "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
}  # fmt: skip


class NotebookFailed(errors.RunError):
    """A notebook that did not run to its end: the stage's own line, and where the executed copy lies."""


def _current(run: Run, stage: str, t: int, path: Path) -> bool:
    """Whether `path` was made after the rows that it shows."""
    shown = (stage, BESIDE[stage]) if stage in BESIDE else (stage,)
    if not path.exists() or any(run.done(name, t) is None for name in shown):
        return False
    return path.stat().st_mtime_ns >= max(run.marker_path(name, t).stat().st_mtime_ns for name in shown)


def missing(run: Run, stage: str, t: int) -> bool:
    """Whether the stage, or the page that shows it, is still to make."""
    return not _current(run, stage, t, pages.page_of(run, stage, t))


def make(run: Run, stage: str, t: int, say: Callable[[str], None] = lambda text: None) -> None:
    """What is missing of a stage: its notebook executed (which runs the stage), its page. `say` hears how far it is, twice a second."""
    if not _current(run, stage, t, pages.executed(run, stage, t)):
        began = time.monotonic()
        execute(run, stage, t, tick=lambda: say(_within(run, stage, t, time.monotonic() - began)))
    pages.page(run, stage, t)


def _within(run: Run, stage: str, t: int, took: float) -> str:
    """How long the rest of a running stage will take, from the batches that its journals list."""
    done, total = progressed(run, stage, t)
    return f"about {format_duration(took * (total - done) / done)} left" if 0 < done < total else ""


def progressed(run: Run, stage: str, t: int) -> tuple[int, int]:
    """(batches on disk, batches in all) of a stage that writes rows by batches; (0, 0) of another, or before it began."""
    logs = {
        "respond": [("contexts.jsonl", t, "samples.jsonl"), ("responses.jsonl", t, "samples.jsonl")],
        "judge": [("judgments.jsonl", t, "responses.jsonl")],
        "evaluate": [("answers.jsonl", 0, "samples.jsonl"), ("fixed_contexts.jsonl", 0, "fixed_pairs.jsonl"), ("fixed_judgments.jsonl", 0, "fixed_pairs.jsonl")],
    }.get(stage, [])
    done = total = 0
    for name, at, rows in logs:
        journal, source, size = run.file(t, f".{name}.journal"), run.file(at, rows), getattr(run.params, stage).batch_size
        if source.exists():
            total += -(-_lines(source) // size)
            done += _lines(journal) if journal.exists() else 0
    return done, total


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def format_duration(seconds: float) -> str:
    """Minutes and seconds, hours before them where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Clock:
    """How long the steps that are left will take: each as long as the same stage took before, in this call or (by its marker) in the run."""

    def __init__(self, run: Run) -> None:
        self.took: dict[str, float] = {}
        for stage, t in run.finished():
            self.took[stage] = (run.done(stage, t) or {"seconds": 0})["seconds"] + START

    def left(self, steps: list[tuple[str, int]]) -> float | None:
        """Seconds; None while a stage among them has never been seen."""
        return sum(self.took[stage] for stage, _ in steps) if all(stage in self.took for stage, _ in steps) else None


def execute(run: Run, stage: str, t: int, values: dict[str, Any] | None = None, tick: Callable[[], None] = lambda: None) -> None:
    """Run a stage's notebook from the project root, in this interpreter's kernel. Raises NotebookFailed."""
    root, title, target = folders.project_root(), NOTEBOOKS[stage], pages.executed(run, stage, t)
    source = root / "notebooks" / f"{title}.ipynb"
    if not source.is_file():
        raise errors.RunError(f"{folders.display_path(source)}: no such notebook")
    part, failed = (target.with_name(f"{title}.{state}.ipynb") for state in ("running", "failed"))
    log = run.iteration(t) / "logs" / f"{title}.log"
    for folder in (target.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    given = {"run_dir": folders.display_path(run.folder), "iteration": t, **(values or {})}
    _known(source, given)
    for old in (target, pages.page_of(run, stage, t), part):
        old.unlink(missing_ok=True)
    reason = _papermill(source, part, given, root, log, tick)
    if not reason and not Run.open(run.folder).done(stage, t):
        reason = f"it ran to its end, but stage {stage} is not done"
    if reason:
        if part.exists():
            os.replace(part, failed)
        raise NotebookFailed(f"{title}, iteration {t}: {reason}\nas far as it came: {folders.display_path(failed if failed.exists() else log)}")
    os.replace(part, target)
    failed.unlink(missing_ok=True)


def compare(runs: list[Path], target: Path) -> Path:
    """Notebook 06 over runs: `<target>/06_comparison.ipynb`, its figures, and the page `<target>/comparison.html`. Raises NotebookFailed."""
    made = alone("06_comparison", {"runs": [str(run) for run in runs]}, target)
    links = [(os.path.relpath(run / "report.html", target), run.name) for run in runs if (run / "report.html").exists()]
    return pages.convert(made, target / "comparison.html", f"comparison of {len(runs)} runs", links)


def alone(title: str, values: dict[str, Any], target: Path) -> Path:
    """A notebook that belongs to no run, executed into the folder `target` (its parameter `out`). Raises NotebookFailed."""
    root, made = folders.project_root(), target / f"{title}.ipynb"
    target.mkdir(parents=True, exist_ok=True)
    part, log = made.with_name(f"{title}.running.ipynb"), target / f"{title}.log"
    reason = _papermill(root / "notebooks" / made.name, part, {**values, "out": str(target)}, root, log, lambda: None)
    if reason:
        raise NotebookFailed(f"{title}: {reason}\nas far as it came: {folders.display_path(part if part.exists() else log)}")
    os.replace(part, made)
    return made


def benchmark(preset: Path, overrides: list[str], clips: int, repeats: int, target: Path) -> Path:
    """Notebook 07 over a preset's model: `<target>/07_benchmark.ipynb`, its table and figure, and the page `<target>/benchmark.html`."""
    values = {"preset": str(preset.resolve()), "overrides": overrides, "clips": clips, "repeats": repeats}
    return pages.convert(alone("07_benchmark", values, target), target / "benchmark.html", "what sharing saves", [])


def compared(runs: list[Path], target: Path) -> bool:
    """Whether the comparison of just these runs is there, and younger than all their stages."""
    page, made = target / "comparison.html", target / "06_comparison.ipynb"
    if not page.exists() or not made.exists():
        return False
    given = records.read_json(made)["metadata"].get("papermill", {}).get("parameters", {}).get("runs")
    newest = max((marker.stat().st_mtime_ns for run in runs for marker in run.glob("iter_*/.done/*.json")), default=0)
    return given == [str(run) for run in runs] and page.stat().st_mtime_ns >= newest


def _known(source: Path, values: dict[str, Any]) -> None:
    """Refuses a parameter that the notebook lacks: papermill only warns."""
    import papermill

    known = papermill.inspect_notebook(str(source))
    if strange := [name for name in values if name not in known]:
        raise errors.RunError(f"{source.name}: no parameter {', '.join(strange)}; it has {', '.join(known)}")


def _papermill(source: Path, target: Path, values: dict[str, Any], root: Path, log: Path, tick: Callable[[], None]) -> str:
    """What went wrong, or "". A kernel's output goes into `log` too, while it runs."""
    import papermill

    os.environ.update(CHILDREN)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with log.open("w", encoding="utf-8") as file:
                papermill.execute_notebook(
                    str(source), str(target), values, kernel_name="python3", cwd=str(root), progress_bar=False,
                    stdout_file=file, stderr_file=file, start_timeout=180,
                    extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # its word at start and end is not for the terminal
                )  # fmt: skip
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failures.append(error)

    _in_thread(work, tick)
    return _reason(failures[0]) if failures else ""


def _in_thread(work: Callable[[], None], tick: Callable[[], None]) -> None:
    """`work` in a thread, so that Ctrl-C comes here (nbclient takes the main thread's signals) and ends the kernel at once."""
    import psutil

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.5)
            tick()
    except BaseException:
        for kernel in psutil.Process().children():
            kernel.kill()
        thread.join(5)
        raise


def _reason(error: BaseException) -> str:
    """A notebook's failure in one line; the project's own errors say everything themselves."""
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError

    if isinstance(error, DeadKernelError):
        return "its kernel died; where memory ran out, lower the batch sizes"
    if not isinstance(error, PapermillExecutionError):
        raise error
    if error.ename == "AssertionError":
        return f"a check failed: {error.evalue}"
    return error.evalue if error.evalue and not hasattr(builtins, error.ename) else f"{error.ename}: {error.evalue}"
