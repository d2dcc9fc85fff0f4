"""Executed notebooks and their pages: one a stage and iteration, each made once, and what is out of date made again.

`iter_NN/notebooks/03_judging.ipynb` is there only when it ran to its end; one that failed is `03_judging.failed.ipynb`.
"""

import builtins
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isrdpo import folders
from isrdpo.keys import NOTEBOOKS
from isrdpo.runs import Run

CHILDREN = {  # a kernel's environment: figures into files, this interpreter's own kernel rather than one in the user's home
    "MPLBACKEND": "Agg", "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
}  # fmt: skip


class NotebookFailed(folders.RunError):
    """A notebook that did not run to its end: the stage's own line, and where the executed copy lies."""


def executed(run: Run, stage: str, t: int) -> Path:
    return run.iteration(t) / "notebooks" / f"{NOTEBOOKS[stage]}.ipynb"


def page_of(run: Run, stage: str, t: int) -> Path:
    return run.iteration(t) / "reports" / f"{NOTEBOOKS[stage]}.html"


def _current(run: Run, stage: str, t: int, path: Path) -> bool:
    """Whether `path` was made after the stage's rows."""
    marker = run.marker(stage, t)
    return run.done(stage, t) is not None and path.exists() and path.stat().st_mtime_ns >= marker.stat().st_mtime_ns


def missing(run: Run, stage: str, t: int) -> bool:
    """Whether the stage, or the page that shows it, is still to make."""
    return not _current(run, stage, t, page_of(run, stage, t))


def make(run: Run, stage: str, t: int, label: str) -> None:
    """What is missing of a stage: its notebook executed (which runs the stage), its page. Prints one line."""
    began = time.monotonic()

    def tick(end: str = "") -> None:
        if end or sys.stdout.isatty():
            print(f"{chr(13) if sys.stdout.isatty() else ''}{label:<44}{time.monotonic() - began:6.0f} s", end=end, flush=True)

    try:
        if not _current(run, stage, t, executed(run, stage, t)):
            execute(run, stage, t, tick=tick)
        page(run, stage, t)
    finally:
        tick("\n")


def page(run: Run, stage: str, t: int) -> None:
    from isrdpo import report

    report.page(run, t, NOTEBOOKS[stage])


def index(run: Run) -> Path:
    """report.html and summary.csv, from what is there."""
    from isrdpo import report

    return report.index(run)


def indexed(run: Run) -> bool:
    """Whether report.html and summary.csv are younger than every stage and page."""
    tops = [run.folder / "report.html", run.folder / "summary.csv"]
    below = [*run.folder.glob("iter_*/.done/*.json"), *run.folder.glob("iter_*/reports/*.html")]
    newest = max((path.stat().st_mtime_ns for path in below), default=0)
    return all(path.exists() and path.stat().st_mtime_ns >= newest for path in tops)


def execute(run: Run, stage: str, t: int, values: dict[str, Any] | None = None, tick: Callable[[], None] = lambda: None) -> None:
    """Run a stage's notebook from the project root, in this interpreter's kernel. Raises NotebookFailed."""
    root, title, target = folders.project_root(), NOTEBOOKS[stage], executed(run, stage, t)
    source = root / "notebooks" / f"{title}.ipynb"
    if not source.is_file():
        raise folders.RunError(f"{folders.shown(source)}: no such notebook")
    part, failed = (target.with_name(f"{title}.{state}.ipynb") for state in ("running", "failed"))
    log = run.iteration(t) / "logs" / f"{title}.log"
    for folder in (target.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    given = {"run_dir": folders.shown(run.folder), "iteration": t, **(values or {})}
    _known(source, given)
    for old in (target, page_of(run, stage, t), part):
        old.unlink(missing_ok=True)
    reason = _papermill(source, part, given, root, log, tick)
    if not reason and not Run.open(run.folder).done(stage, t):
        reason = f"it ran to its end, but stage {stage} is not done"
    if reason:
        if part.exists():
            os.replace(part, failed)
        raise NotebookFailed(f"{title}, iteration {t}: {reason}\nas far as it came: {folders.shown(failed if failed.exists() else log)}")
    os.replace(part, target)
    failed.unlink(missing_ok=True)


def _known(source: Path, values: dict[str, Any]) -> None:
    """Refuses a parameter that the notebook lacks: papermill only warns."""
    import papermill

    known = papermill.inspect_notebook(str(source))
    if strange := [name for name in values if name not in known]:
        raise folders.RunError(f"{source.name}: no parameter {', '.join(strange)}; it has {', '.join(known)}")


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
