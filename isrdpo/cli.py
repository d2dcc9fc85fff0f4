"""The command line: a run, one notebook, one stage, a report, a check.

    isrdpo run params/toybox.yaml [key=value ...]

Nothing heavy is imported before it is needed: `--help` and a finished run answer at once.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from isrdpo.core import errors, folders
from isrdpo.core import pipeline as keys

if TYPE_CHECKING:
    from isrdpo.core import runs

SUMMARY = (
    "accuracy", "hallucination", "false_claims", "claims_per_answer", "response_words", "prefers_longer", "judge_accuracy",
    "fixed_judge_accuracy", "fixed_judge_accuracy_no_context", "context_accuracy", "kept_share", "seconds",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Exit code 0 when everything asked for is done, 1 with the reason in one line, 130 after Ctrl-C."""
    made = parser()
    given, more = made.parse_known_args(arguments)
    if any(text.startswith("-") for text in more) or more and "overrides" not in given:
        made.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        given.overrides += more  # argparse gives up on key=value behind an option
    try:
        sys.exit(given.function(given))
    except KeyboardInterrupt:
        print("\nisrdpo: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not errors.is_expected(error):
            raise
        sys.exit("\n".join(f"isrdpo: {line}" for line in errors.message_of(error).splitlines()))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="isrdpo", description="Iterative self-retrospective DPO for video language models.")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(function, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(function.__name__, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(function=function)
        return added

    for added in (
        command(run, "make a run or go on with it: every notebook once an iteration, then the report"),
        command(check, "validate parameters and data without loading a model"),
    ):
        added.add_argument("preset", metavar="PARAMS", help="a preset, such as params/toybox.yaml")
        added.add_argument("overrides", nargs="*", metavar="key=value", help="such as respond.temperature=0.7")
        if added.prog.endswith("run"):
            added.add_argument("--stages", action="store_true", help="only the stages, in this process: no notebooks, no pages of theirs")
            added.add_argument("--redo", action="store_true", help="where parameters changed, do again what was made under the old ones")
    many = command(study, "run arms x seeds as a study file says, then compare them")
    many.add_argument("file", metavar="STUDY", type=Path, help="such as params/study.yaml")
    many.add_argument("overrides", nargs="*", metavar="key=value", help="for every run, such as iterations=2")
    many.add_argument("--seeds", type=int, metavar="N", help="only the first N seeds of each arm")
    many.add_argument("--arms", type=lambda text: text.split(","), default=[], metavar="ARM,ARM", help="only these arms")
    many.add_argument("--redo", action="store_true", help="where parameters changed, do again what was made under the old ones")
    side = command(compare, "compare runs: notebook 06 and its page")
    side.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or a folder that holds runs")
    side.add_argument("--to", type=Path, default=Path("outputs/comparison"), metavar="FOLDER", help="where the page goes")
    fast = command(benchmark, "time what sharing work between calls about the same video saves: notebook 07 and its page")
    fast.add_argument("preset", metavar="PARAMS", help="a preset, such as params/toybox.yaml")
    fast.add_argument("overrides", nargs="*", metavar="key=value", help="such as model.path=FOLDER")
    fast.add_argument("--clips", type=int, default=16, metavar="N", help="clips a call")
    fast.add_argument("--repeats", type=int, default=7, metavar="N", help="turns a case")
    fast.add_argument("--to", type=Path, default=Path("outputs/benchmark"), metavar="FOLDER", help="where the page goes")
    one = command(notebook, "execute one notebook of a run with papermill, and make its page")
    one.add_argument("name", metavar="NOTEBOOK", type=stage_of, help="such as 03_judging, 03 or judge")
    one.add_argument("overrides", nargs="*", metavar="key=value", help="its parameters, as `papermill --help-notebook` lists them")
    alone = command(stage, "run one stage in this process, without its notebook")
    alone.add_argument("name", metavar="STAGE", choices=keys.ORDER, help=", ".join(keys.ORDER))
    for added in (one, alone):
        added.add_argument("--run", required=True, help="the run's folder")
        added.add_argument("--iteration", type=int, required=True, help="1 to N; 0: the base and the evaluation set")
    asked = command(score, "score answers by a language model: an iteration of a run, or prediction files in LLaVA-Hound's format")
    asked.add_argument("what", metavar="RUN|FILE", help="a run's folder, or a prediction file (with --test and --to)")
    asked.add_argument("overrides", nargs="*", metavar="key=value", help="such as score.scorer=openai score.model=gpt-4o-mini (score. may be left out)")
    asked.add_argument("--iteration", type=int, help="of a run: 0 (the base) to N")
    asked.add_argument("--test", type=Path, metavar="SET.qa.jsonl", help="the test file that a prediction file answers")
    asked.add_argument("--to", metavar="FOLDER", help="where the scores of a prediction file go; several files may share it")
    asked.add_argument("--dry-run", action="store_true", help="only say how many requests it takes, and about how many tokens and dollars")
    asked.add_argument("--redo", action="store_true", help="of a run: score anew what another scorer has scored")
    both = command(agreement, "compare two scorers on the same answers")
    both.add_argument("first", type=Path, metavar="SCORES.jsonl", help="such as outputs/mine/iter_03/scores.jsonl")
    both.add_argument("second", type=Path, metavar="SCORES.jsonl")
    both.add_argument("--to", type=Path, metavar="FILE.csv", help="write the table here, too")
    again = command(report, "rebuild a run's pages and index from its files")
    again.add_argument("run", help="the run's folder")
    again.add_argument("--bundle", metavar="FILE.zip", type=Path, help="pack the pages with the clips they show, to be sent to somebody who has nothing else")
    got = command(fetch, "fetch what a preset needs, or data sets by name, from the Hugging Face hub")
    got.add_argument("what", metavar="PARAMS|SET", help="a preset, or train, test, or a test set such as msvd")
    got.add_argument("overrides", nargs="*", metavar="SET|key=value", help="more sets; for a preset such as model.path=...")
    got.add_argument("--to", metavar="FOLDER", help="where the data go; a preset's own data.path if not given")
    got.add_argument("--yes", action="store_true", help="fetch without being asked")
    got.add_argument("--keep", action="store_true", help="keep the archives, in FOLDER/archives")
    out = command(export, "write one iteration's preferences for other tools, or its policy in LLaVA-Hound's layout")
    out.add_argument("run", help="the run's folder")
    out.add_argument("--iteration", type=int, required=True, help="1 to N")
    out.add_argument("--to", required=True, metavar="FOLDER", help="a new or empty folder")
    what = out.add_mutually_exclusive_group(required=True)
    what.add_argument("--format", choices=("llava-hound", "hf", "llama-factory", "ms-swift"), help="of the preferences")
    what.add_argument("--policy", action="store_true", help="the trained policy instead of preferences")
    out.add_argument("--copy-videos", action="store_true", help="copy the videos beside the preferences, into videos/")
    out.add_argument("--push", metavar="REPO", help="then upload the folder to this hub repository, a new one as private (token: HF_TOKEN)")
    out.add_argument("--public", action="store_true", help="a new repository is public")
    return made


def stage_of(name: str) -> str:
    """The stage that a notebook drives, by the notebook's name, its number, or the stage's."""
    for found, title in keys.NOTEBOOKS.items():
        if name.removesuffix(".ipynb") in (found, title, title[:2], title[1:2]):
            return found
    raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(keys.NOTEBOOKS.values())}")


def preset_path(given: str) -> Path:
    """A preset as given, else from the project root, for a command typed in notebooks/."""
    return folders.resolve(given) if not Path(given).exists() and folders.resolve(given).exists() else Path(given)


def plan(iterations: int) -> list[tuple[str, int]]:
    """(stage, iteration) in order: the data, the base's evaluation, then every iteration; of none, the evaluation alone."""
    steps = [("data", min(iterations, 1)), ("evaluate", 0)]
    return steps + [(s, t) for t in range(1, iterations + 1) for s in keys.STAGES if (s, t) not in steps]


def run(given: argparse.Namespace) -> None:
    """Skips what is done and has its page; ends with where the report is, and the summary."""
    from isrdpo.core import params, runs
    from isrdpo.reports import notebooks, pages
    from isrdpo.scoring import scorers

    settings = params.load(preset_path(given.preset), given.overrides)
    if problem := scorers.missing(settings.score):
        raise errors.RunError(problem)  # before hours of work, not after
    made = runs.Run.create(settings, redo=given.redo)
    with made.lock("launch."):
        steps = plan(made.params.iterations)
        todo = [(number, step) for number, step in enumerate(steps, 1) if notebooks.missing(made, *step)]
        if given.stages:
            alone(made, [(number, (name, t)) for number, (name, t) in enumerate(steps, 1) if not runs.is_complete(made, name, t)], len(steps))
            todo = []
        if todo:
            made.note_machine()
        work(made, todo, len(steps))
        if todo or not pages.indexed(made):
            pages.index(made)
    print(summary_table(made.folder / "summary.csv"))
    print(f"\nreport: {made.folder / 'report.html'}")


def alone(made: "runs.Run", todo: list[tuple[int, tuple[str, int]]], steps: int) -> None:
    """The stages that are left, in this process, a line each."""
    if todo:
        made.note_machine()
    for number, (name, t) in todo:
        began = time.monotonic()
        importlib.import_module(f"isrdpo.stages.{name}").run(made, t)
        if name == "evaluate" and made.params.score.scorer != "none":
            importlib.import_module("isrdpo.stages.score").run(made, t)
        print(f"[{number:2}/{steps}] iteration {t}: {name:<12}{time.monotonic() - began:6.0f} s", flush=True)


def work(made: "runs.Run", todo: list[tuple[int, tuple[str, int]]], steps: int) -> None:
    """The steps that are left, one line each; report.html says before each what is running, and at the end why it stopped."""
    from isrdpo.reports import notebooks, pages

    watch, screen = notebooks.Clock(made), sys.stdout.isatty()
    for place, (number, (name, t)) in enumerate(todo):
        label, began = f"[{number:2}/{steps}] iteration {t}: {keys.NOTEBOOKS[name]}", time.monotonic()
        left = watch.left([step for _, step in todo[place:]])
        whole = f"about {notebooks.format_duration(left)} left in all" if left is not None else ""
        pages.index(made, f"Running: step {number} of {steps}, {keys.NOTEBOOKS[name]} of iteration {t}, since {time.strftime('%H:%M:%S')}"
                          f"{'; ' + whole if whole else ''}. This page is written anew after each step.")  # fmt: skip

        def say(within: str, label: str = label, began: float = began, whole: str = whole) -> None:
            if screen:
                print(f"\r{label:<44}{notebooks.format_duration(time.monotonic() - began):>8}  {within or whole:<40}", end="", flush=True)

        try:
            notebooks.make(made, name, t, say)
        except BaseException as error:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error).splitlines()[0]
            pages.index(made, f"Stopped in step {number} of {steps}, {keys.NOTEBOOKS[name]} of iteration {t}: {why}. The same command goes on from there.")
            if screen:
                print()
            raise
        watch.took[name] = time.monotonic() - began
        rest = watch.left([step for _, step in todo[place + 1 :]])
        told = f"about {notebooks.format_duration(rest)} left in all" if rest else ""
        print(f"{chr(13) if screen else ''}{label:<44}{notebooks.format_duration(watch.took[name]):>8}  {told:<40}".rstrip(), flush=True)


def study(given: argparse.Namespace) -> None:
    """Every run of a study, then results.csv, questions.csv and the comparison in its folder."""
    from isrdpo import study as studies

    path = preset_path(str(given.file))
    wanted = studies.load(path, given.seeds, given.overrides, given.arms)
    wanted.folder.mkdir(parents=True, exist_ok=True)
    with folders.hold_lock(wanted.folder / ".lock"):
        made = studies.go(wanted, given.redo)
        side_by_side([run.folder for run in made], wanted.folder)


def compare(given: argparse.Namespace) -> None:
    from isrdpo.reports import compare as comparison

    side_by_side([run.folder for run in comparison.opened(given.runs)], folders.resolve(given.to))


def benchmark(given: argparse.Namespace) -> None:
    from isrdpo.core import params
    from isrdpo.reports import notebooks

    preset = preset_path(given.preset)
    params.load(preset, given.overrides)
    print(f"benchmark: {notebooks.benchmark(preset, given.overrides, given.clips, given.repeats, folders.resolve(given.to))}")


def side_by_side(made: list[Path], target: Path) -> None:
    """The comparison of some runs, made only where it is not there or older than they are."""
    from isrdpo.reports import notebooks

    print(f"comparison: {target / 'comparison.html' if notebooks.compared(made, target) else notebooks.compare(made, target)}")


def notebook(given: argparse.Namespace) -> None:
    from isrdpo.core import runs, strict_yaml
    from isrdpo.reports import notebooks, pages

    values = {}
    for text in given.overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise errors.RunError(f"{text}: not key=value")
        values[key] = strict_yaml.parse(value, key)
    if given.name == "data":
        made = runs.open_or_create(given.run, values.get("preset", "params/toybox.yaml"))
    else:
        made = runs.Run.open(given.run)
    with made.lock("launch."):
        notebooks.execute(made, given.name, given.iteration, values)
        made = runs.Run.open(made.folder)  # the notebook may have recorded parameters
        pages.page(made, given.name, given.iteration)
        pages.index(made)
    print(pages.page_of(made, given.name, given.iteration))


def stage(given: argparse.Namespace) -> None:
    from isrdpo.core import runs

    importlib.import_module(f"isrdpo.stages.{given.name}").run(runs.Run.open(given.run), given.iteration)


def score(given: argparse.Namespace) -> None:
    """A run's iteration, into its own files and pages; or a prediction file, into --to."""
    from isrdpo.core import params, runs
    from isrdpo.reports import notebooks, pages
    from isrdpo.stages import score as scoring

    overrides = [text if text.startswith("score.") or text.startswith("max_bad_share=") else f"score.{text}" for text in given.overrides]
    path = folders.resolve(given.what)
    if path.is_file():
        if not given.test or not (given.to or given.dry_run):
            raise errors.RunError(f"score {given.what}: a prediction file needs its test file and a place: --test SET.qa.jsonl --to FOLDER")
        settings = params.load(params.BASE, ["data=toybox", *overrides])
        if settings.score.scorer == "none" and not given.dry_run:
            raise errors.RunError(f"score {given.what}: by whom? give scorer=openai or scorer=local, and model=...")
        return print(scoring.file(path, given.test, folders.resolve(given.to or "."), settings, given.dry_run))
    if given.iteration is None:
        raise errors.RunError(f"score {given.what}: which iteration? give --iteration 0 (the base) to N")
    made = runs.Run.open(given.what)
    settings = params.change(made.params, overrides)
    if settings.score.scorer == "none":
        raise errors.RunError(f"score {given.what}: by whom? give scorer=openai or scorer=local, and model=...")
    if given.dry_run:
        return print(scoring.estimate(scoring.requests(scoring.answered(made, given.iteration), settings.score), settings.score))
    with made.lock("launch."):
        scoring.again(made, settings, given.iteration, given.redo)
        if pages.page_of(made, "evaluate", given.iteration).exists():
            notebooks.make(runs.Run.open(made.folder), "evaluate", given.iteration)
        pages.index(made)
    return print(scoring.told(made, given.iteration))


def agreement(given: argparse.Namespace) -> None:
    """A line a set; the whole table with --to."""
    from isrdpo.core import records
    from isrdpo.scoring import scores

    one, other = (records.read_jsonl(path, records.Score) for path in (given.first, given.second))
    table = scores.agreement(one, other)
    print(scores.agreed(table))
    if given.to:
        scores.write(table, given.to)


def report(given: argparse.Namespace) -> None:
    from isrdpo.core import runs
    from isrdpo.reports import pages

    made = runs.Run.open(given.run)
    with made.lock("launch."):
        for name, t in made.finished():
            if name in keys.NOTEBOOKS and pages.executed(made, name, t).exists():
                pages.page(made, name, t)
        print(pages.index(made))
        if given.bundle:
            print(pages.bundle(made, given.bundle))


def check(given: argparse.Namespace) -> int:
    """0 when parameters, data, model and disk are fine; 1 with every complaint."""
    from isrdpo import checks
    from isrdpo.core import params

    settings = params.load(preset_path(given.preset), given.overrides)
    lines, problems = checks.inspect(settings)
    print("\n".join(lines))
    for problem in problems:
        print(f"isrdpo check: {problem}", file=sys.stderr)
    if not problems:
        print("parameters and data are fine")
    return 1 if problems else 0


def fetch(given: argparse.Namespace) -> None:
    """Ends with the parameters that a run of the data is given."""
    from isrdpo.core import params
    from isrdpo.formats import fetch as fetching

    target, models = given.to, []
    if given.what.endswith((".yaml", ".yml")):
        settings = params.load(preset_path(given.what), given.overrides)
        wanted, models = fetching.needs(settings)
        target = target or settings.data.path
        if not (wanted or models):
            return print(f"{given.what}: needs nothing from the hub (data.source is empty, the model is local)")
        if wanted and target == "toybox":
            raise errors.RunError(f"{given.what}: data.source goes with a folder as data.path; give data.path=FOLDER or --to FOLDER")
    else:
        wanted = fetching.sets([given.what, *given.overrides])
        if not target:
            raise errors.RunError(f"fetch {given.what}: where to? give --to FOLDER")
    made = fetching.plan(wanted, models)
    folder = folders.resolve(target)
    fetching.fetch(made, folder, given.yes, given.keep)
    return print(f"a run of it: data={folders.display_path(folder)} {fetching.parameters(made)}" if wanted else "the model is in the hub's cache")


def export(given: argparse.Namespace) -> None:
    from isrdpo.core import runs
    from isrdpo.reports import export as exporting

    made, target = runs.Run.open(given.run), folders.resolve(given.to)
    if given.push:
        exporting.may_push(given.push)
    if given.policy:
        said = exporting.policy(made, given.iteration, target)
    else:
        said = exporting.preferences(made, given.iteration, target, given.format, given.copy_videos)
    print(said)
    if given.push:
        print(exporting.push(target, given.push, "model" if given.policy else "dataset", given.public))


def summary_table(path: Path) -> str:
    """summary.csv for a terminal: a column an iteration."""
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    width = max(map(len, SUMMARY))
    lines = [f"{'iteration':<{width}}" + "".join(f"{row['iteration']:>9}" for row in rows)]
    for name in SUMMARY:
        cells = [f"{float(row[name]):.{0 if name == 'seconds' else 3}f}" if row.get(name) else "" for row in rows]
        lines += [f"{name:<{width}}" + "".join(f"{cell:>9}" for cell in cells)] if any(cells) else []
    return "\n".join(lines)


if __name__ == "__main__":
    main()
