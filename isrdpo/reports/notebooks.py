"""Notebooks executed by papermill, one for each stage and iteration: which are out of date, running them,
and how long it takes.

`iter_NN/notebooks/03_judging.ipynb` is there only when it ran to its end; one that failed is
`03_judging.failed.ipynb`.
"""

import builtins
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isrdpo.core import records
from isrdpo.core.errors import RunError
from isrdpo.core.folders import display_path, name_disk_errors, project_root
from isrdpo.core.pipeline import BESIDE, NOTEBOOKS
from isrdpo.core.progress import format_time_left
from isrdpo.core.runs import Run
from isrdpo.reports import pages

KERNEL_SECONDS = 6.0  # what a kernel and a page take beside the stage
POLL_SECONDS = 0.5  # how often a running notebook is looked at

Values = dict[str, Any]  # a notebook's parameters, by name


class NotebookFailed(RunError):
    """A notebook did not run to its end: why, and where the executed copy lies."""


def is_outdated(run: Run, stage: str, t: int) -> bool:
    """Whether the stage, or the page that shows it, is still to make."""
    return not _is_current(run, stage, t, pages.page_path(run, stage, t))


def update_page(run: Run, stage: str, t: int, report: Callable[[str], None] = lambda text: None) -> None:
    """Make what is missing of a stage: its executed notebook (which runs the stage), then its page.

    While the notebook runs, `report` receives the time that is left, twice a second; the text is empty
    while it is not known.
    """
    if not _is_current(run, stage, t, pages.executed_notebook(run, stage, t)):
        began = time.monotonic()

        def tick() -> None:
            """Report the time that is left."""
            done, total = count_batches(run, stage, t)
            report(format_time_left(time.monotonic() - began, done, total))

        execute_notebook(run, stage, t, tick=tick)
    pages.write_page(run, stage, t)


def _is_current(run: Run, stage: str, t: int, path: Path) -> bool:
    """Whether `path` was made after the rows that it shows, those of the stage beside it included."""
    stages = (stage, BESIDE[stage]) if stage in BESIDE else (stage,)
    if not path.exists() or any(run.done(name, t) is None for name in stages):
        return False
    newest = max(run.marker_path(name, t).stat().st_mtime_ns for name in stages)
    return path.stat().st_mtime_ns >= newest


def count_batches(run: Run, stage: str, t: int) -> tuple[int, int]:
    """(batches on disk, batches in all) of a stage that writes rows by batches; (0, 0) of another one, or
    before it began.
    """
    done = 0
    total = 0
    for name, source in _batched_files(run, stage, t):
        journal = run.file(t, f".{name}.journal")
        if source.exists():
            total += -(-_count_lines(source) // getattr(run.params, stage).batch_size)
            done += _count_lines(journal) if journal.exists() else 0
    return done, total


def _batched_files(run: Run, stage: str, t: int) -> list[tuple[str, Path]]:
    """(name, input) of each file that a stage writes by batches: a batch holds so many rows of its input."""
    match stage:
        case "respond":
            samples = run.file(t, "samples.jsonl")
            if run.params.respond.context == "none":
                return [("responses.jsonl", samples)]
            return [("contexts.jsonl", samples), ("responses.jsonl", samples)]
        case "judge":
            return [("judgments.jsonl", run.file(t, "responses.jsonl"))]
        case "evaluate":
            pairs = run.file(0, "fixed_pairs.jsonl")
            return [
                ("answers.jsonl", run.file(0, "samples.jsonl")),
                ("fixed_contexts.jsonl", pairs),
                ("fixed_judgments.jsonl", pairs),
            ]
        case _:
            return []


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


class Clock:
    """How long the steps that are left will take: each as long as the same stage took last, in this call or
    in the run.

    `took` holds the seconds by stage.
    """

    def __init__(self, run: Run) -> None:
        self.took: dict[str, float] = {}
        for stage, t in run.finished():
            marker = run.done(stage, t) or {"seconds": 0}
            self.took[stage] = marker["seconds"] + KERNEL_SECONDS

    def left(self, steps: list[tuple[str, int]]) -> float | None:
        """Seconds for these steps of (stage, iteration); None while a stage among them has never run."""
        if not all(stage in self.took for stage, _ in steps):
            return None
        return sum(self.took[stage] for stage, _ in steps)


def execute_notebook(
    run: Run,
    stage: str,
    t: int,
    values: Values | None = None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Execute a stage's notebook of iteration t, with `values` for its parameters. `tick` is called twice a
    second meanwhile.

    Raises NotebookFailed where it does not run to its end, RunError for a parameter that the notebook
    lacks.
    """
    title = NOTEBOOKS[stage]
    source = project_root() / "notebooks" / f"{title}.ipynb"
    if not source.is_file():
        raise RunError(f"{display_path(source)}: no such notebook")
    parameters = {"run_dir": display_path(run.folder), "iteration": t, **(values or {})}
    _require_parameters(source, parameters)
    target = pages.executed_notebook(run, stage, t)
    part = target.with_name(f"{title}.running.ipynb")
    failed = target.with_name(f"{title}.failed.ipynb")
    log = run.iteration(t) / "logs" / f"{title}.log"
    target.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    for old in (target, pages.page_path(run, stage, t), part):
        old.unlink(missing_ok=True)
    problem = _run_papermill(source, part, parameters, log, tick)
    if not problem and not Run.open(run.folder).done(stage, t):
        problem = f"it ran to its end, but stage {stage} is not done"
    if problem:
        if part.exists():
            os.replace(part, failed)
        copy = display_path(failed if failed.exists() else log)
        raise NotebookFailed(f"{title}, iteration {t}: {problem}\nas far as it came: {copy}")
    os.replace(part, target)
    failed.unlink(missing_ok=True)


def _require_parameters(source: Path, values: Values) -> None:
    """Raise RunError for a parameter that the notebook lacks: papermill only warns."""
    import papermill

    names = papermill.inspect_notebook(str(source))
    unknown = [name for name in values if name not in names]
    if unknown:
        raise RunError(f"{source.name}: no parameter {', '.join(unknown)}; it has {', '.join(names)}")


def write_comparison(runs: list[Path], target: Path) -> Path:
    """Execute notebook 06 over runs: `<target>/06_comparison.ipynb`, its figures, and the page
    `<target>/comparison.html`.

    Raises NotebookFailed.
    """
    notebook = _execute_into(target, "06_comparison", {"runs": [str(run) for run in runs]})
    indexes = [(run / "report.html", run.name) for run in runs]
    links = [(os.path.relpath(path, target), name) for path, name in indexes if path.exists()]
    return pages.convert_notebook(
        notebook, target / "comparison.html", f"comparison of {len(runs)} runs", links
    )


def is_comparison_current(runs: list[Path], target: Path) -> bool:
    """Whether the comparison of exactly these runs is there, and younger than all their stages."""
    page = target / "comparison.html"
    notebook = target / "06_comparison.ipynb"
    if not page.exists() or not notebook.exists():
        return False
    try:
        parameters = records.read_json(notebook)["metadata"]["papermill"]["parameters"]
        recorded = parameters["runs"]
    except (records.RecordError, KeyError, TypeError):
        return False
    newest = 0
    for run in runs:
        # A folder's own time is younger where a marker was taken away.
        for marker in (*run.glob("iter_*/.done"), *run.glob("iter_*/.done/*.json")):
            newest = max(newest, marker.stat().st_mtime_ns)
    return recorded == [str(run) for run in runs] and page.stat().st_mtime_ns >= newest


def write_benchmark(preset: Path, overrides: list[str], clips: int, repeats: int, target: Path) -> Path:
    """Execute notebook 07 over a preset's model: `<target>/07_benchmark.ipynb`, its table and figure, and
    `<target>/benchmark.html`.

    Raises NotebookFailed.
    """
    values = {"preset": str(preset.resolve()), "overrides": overrides, "clips": clips, "repeats": repeats}
    notebook = _execute_into(target, "07_benchmark", values)
    return pages.convert_notebook(notebook, target / "benchmark.html", "what sharing saves")


def _execute_into(folder: Path, title: str, values: Values) -> Path:
    """Execute a notebook that belongs to no run into `folder`, which is its parameter `out`.

    Raises NotebookFailed.
    """
    target = folder / f"{title}.ipynb"
    part = folder / f"{title}.running.ipynb"
    log = folder / f"{title}.log"
    folder.mkdir(parents=True, exist_ok=True)
    source = project_root() / "notebooks" / target.name
    problem = _run_papermill(source, part, {**values, "out": str(folder)}, log, lambda: None)
    if problem:
        copy = display_path(part if part.exists() else log)
        raise NotebookFailed(f"{title}: {problem}\nas far as it came: {copy}")
    os.replace(part, target)
    return target


def _run_papermill(source: Path, target: Path, values: Values, log: Path, tick: Callable[[], None]) -> str:
    """Execute a notebook from the project root, and return what went wrong: empty where it ran to its end.

    What the kernel prints goes into `log` too, while it runs.
    """
    import papermill

    from isrdpo.reports.kernels import OwnKernelManager

    failures: list[BaseException] = []

    def work() -> None:
        """Execute the notebook; a failure goes into `failures`."""
        try:
            with log.open("w", encoding="utf-8") as file:
                papermill.execute_notebook(
                    str(source),
                    str(target),
                    values,
                    kernel_name="python3",
                    kernel_manager_class=OwnKernelManager,
                    cwd=str(project_root()),
                    progress_bar=False,
                    stdout_file=file,
                    stderr_file=file,
                    start_timeout=180,
                    # the kernel says nothing in the terminal when it starts and ends
                    extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
                )
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failures.append(error)

    _wait_in_thread(work, tick)
    with name_disk_errors(target):
        return _explain(failures[0]) if failures else ""


def _wait_in_thread(work: Callable[[], None], tick: Callable[[], None]) -> None:
    """Do `work` in a thread, so that Ctrl-C comes here (nbclient takes the main thread's signals) and ends
    the kernel at once.
    """
    import psutil

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            tick()
    except BaseException:
        for kernel in psutil.Process().children():
            kernel.kill()
        thread.join(5)
        raise


def _explain(error: BaseException) -> str:
    """A notebook's failure in one line; the project's own errors say everything themselves.

    Other errors are raised again.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError

    if isinstance(error, DeadKernelError):
        return "its kernel died; where memory ran out, lower the batch sizes"
    if not isinstance(error, PapermillExecutionError):
        raise error
    if error.ename == "AssertionError":
        return f"a check failed: {error.evalue}"
    if error.evalue and not hasattr(builtins, error.ename):
        return error.evalue
    return f"{error.ename}: {error.evalue}"
