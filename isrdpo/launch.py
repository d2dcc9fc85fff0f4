"""How anything starts: a run, a notebook under papermill, a stage, a report, a check.

    isrdpo run params/toybox.yaml [key=value ...]
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from isrdpo import params as parameters
from isrdpo import runs

NOTEBOOKS = {"data": "01_data_prep", "respond": "02_retrospection", "judge": "03_judging", "train": "04_dpo_training", "evaluate": "05_evaluation"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="isrdpo", description="Iterative self-retrospective DPO for video language models.")
    commands = parser.add_subparsers(dest="command", required=True)
    made = {name: commands.add_parser(name, help=text, description=text) for name, text in {
        "run": "make or continue a run: every notebook once an iteration, then the report",
        "notebook": "execute one notebook of a run by papermill and make its page",
        "stage": "run one stage in this process, without its notebook",
        "report": "rebuild a run's pages and index from its files",
        "check": "validate parameters and data without loading a model",
    }.items()}  # fmt: skip
    for name in ("run", "check"):
        made[name].add_argument("preset", type=Path, metavar="PARAMS", help="a preset, as params/toybox.yaml")
        made[name].add_argument("overrides", nargs="*", metavar="key=value", help="e.g. respond.temperature=1.0")
    for name in ("notebook", "stage"):
        made[name].add_argument("stage", choices=runs.STAGES)
        made[name].add_argument("--run", required=True, help="the run's folder")
        made[name].add_argument("--iteration", type=int, required=True)
    made["report"].add_argument("run", help="the run's folder")
    given = parser.parse_args(arguments)
    try:
        {"run": run, "notebook": one_notebook, "stage": stage, "report": report, "check": check}[given.command](given)
    except runs.EXPECTED as error:
        sys.exit(f"isrdpo: {error}")
    except KeyboardInterrupt:
        sys.exit("isrdpo: interrupted; the same command goes on from here")


def plan(iterations: int) -> list[tuple[str, int]]:
    """(stage, iteration) in order: the data, the base's evaluation, then every iteration."""
    return [("data", 1), ("evaluate", 0)] + [(s, t) for t in range(1, iterations + 1) for s in runs.STAGES if (s, t) != ("data", 1)]


def run(given: argparse.Namespace) -> None:
    """Skips what is done and has its page; ends with where the report is, and the summary."""
    made = runs.Run.create(parameters.load(given.preset, given.overrides))
    steps = plan(made.params.iterations)
    todo = [(stage, t) for stage, t in steps if not (made.done(stage, t) and page_of(made, stage, t).exists())]
    began = time.monotonic()
    for number, (name, t) in enumerate(todo, 1):
        left = (time.monotonic() - began) / (number - 1) * (len(todo) - number + 1) if number > 1 else None
        print(f"[{number}/{len(todo)}] iteration {t}: {name}" + (f", about {left / 60:.0f} min left" if left else ""), flush=True)
        notebook(made, name, t)
        if name == "evaluate":
            reported(made)
    from isrdpo import report

    if todo or not (made.folder / "report.html").exists():
        reported(made)
    print(report.summary_table(made))
    print(f"report: {made.folder / 'report.html'}")


def reported(made: runs.Run) -> None:
    from isrdpo import report

    report.index(made)


def page_of(made: runs.Run, stage: str, t: int) -> Path:
    return made.iteration(t) / "reports" / f"{NOTEBOOKS[stage]}.html"


def notebook(made: runs.Run, name: str, t: int) -> None:
    """Execute a stage's notebook (a process of its own, so a crash there is one line here), then make its page."""
    from isrdpo import report

    title = NOTEBOOKS[name]
    folder = made.iteration(t) / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    part, log = folder / f"{title}.part.ipynb", made.iteration(t) / "logs" / f"{title}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", str(runs.project_root() / "notebooks" / f"{title}.ipynb"), str(part), "--no-progress-bar",
               "--kernel", "python3", "--cwd", str(runs.project_root()), "-r", "run_dir", str(made.folder), "-p", "iteration", str(t)]  # fmt: skip
    environment = os.environ | {"MPLBACKEND": "Agg", "HF_HUB_DISABLE_TELEMETRY": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_DISABLE": "1"}
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)  # noqa: S603
    if done.returncode or not made.done(name, t):
        failed = folder / f"{title}.failed.ipynb"
        if part.exists():
            part.replace(failed)
        raise runs.RunError(f"{title} of iteration {t} failed: {reason(log)} (all of it: {failed if failed.exists() else log})")
    part.replace(folder / f"{title}.ipynb")
    (folder / f"{title}.failed.ipynb").unlink(missing_ok=True)
    report.page(made, t, title)


def reason(log: Path) -> str:
    """The last line of a log that names an error."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if ": " in line and line.split(":")[0].replace(".", "").isidentifier()]
    return (named or lines or ["no output"])[-1]


def one_notebook(given: argparse.Namespace) -> None:
    made = runs.Run.open(given.run)
    notebook(made, given.stage, given.iteration)
    reported(made)
    print(page_of(made, given.stage, given.iteration))


def stage(given: argparse.Namespace) -> None:
    import importlib

    importlib.import_module(f"isrdpo.{given.stage}").run(runs.Run.open(given.run), given.iteration)


def report(given: argparse.Namespace) -> None:
    from isrdpo import report

    made = runs.Run.open(given.run)
    for name, t in made.finished():
        if (made.iteration(t) / "notebooks" / f"{NOTEBOOKS[name]}.ipynb").exists():
            report.page(made, t, NOTEBOOKS[name])
    print(report.index(made))


def check(given: argparse.Namespace) -> None:
    """Prints what the data hold and what is wrong; exit code 1 when more is bad than max_bad_share allows."""
    from isrdpo import data

    settings = parameters.load(given.preset, given.overrides)
    found = data.inspect(settings)
    bad = found.pop("bad")
    for name, value in found.items():
        print(f"{name}: {value}")
    for cause, details in bad.items():
        print(f"{cause}: {len(details)}; first: {details[0]}")
    total = sum(v for v in found.values() if isinstance(v, int))
    if sum(map(len, bad.values())) > settings.max_bad_share * total:
        sys.exit(f"isrdpo check: more than max_bad_share={settings.max_bad_share} of {total} rows are bad")
    print("parameters and data are fine")


if __name__ == "__main__":
    main()
