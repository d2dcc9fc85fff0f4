"""The command line: one function for each command.

    isrdpo run params/toybox.yaml [key=value ...]

Nothing heavy is imported before a command needs it, so `--help` and a finished run answer at once.
"""

import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import argument, option

import isrdpo
from isrdpo.core.errors import IsrdpoError, RunError, is_expected, message_of
from isrdpo.core.folders import display_path, resolve
from isrdpo.core.parent_process import end_with_parent

if TYPE_CHECKING:
    from isrdpo.core.params import Params

INTERRUPTED = 130  # a shell's exit code after Ctrl-C
AT_LEAST_ONE = click.IntRange(1, 1_000_000)
ITERATION = click.IntRange(0, 99)
FORMATS = click.Choice(["llava-hound", "hf", "llama-factory", "ms-swift"])


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 when all of it is done, 1 with the reason in a line, 2 for a wrong command
    line, 130 after Ctrl-C.
    """
    end_with_parent()  # with the study that has started this command, if one has
    try:
        commands.main(arguments, prog_name="isrdpo", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        print(_usage_line(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except click.Abort:
        print("isrdpo: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not is_expected(error):
            raise
        for line in message_of(error).splitlines():
            print(f"isrdpo: {_without_controls(line)}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, IsrdpoError) else 1)


def _without_controls(line: str) -> str:
    """Escape what a terminal would obey, which a file's name or a server's reply may hold."""
    return "".join(letter if unicodedata.category(letter) != "Cc" else repr(letter)[1:-1] for letter in line)


def _usage_line(error: click.ClickException) -> str:
    """Say in one line what is wrong with a command line; click's own message may have several."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "isrdpo"
    text = " ".join(error.format_message().split())
    stop = "" if text.endswith((".", "?")) else "."
    return f"{command}: {_without_controls(text)}{stop} See `{command} --help`."


class InOrder(click.Group):
    """Commands that `--help` lists in the order of this file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)


SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


@click.group(cls=InOrder, context_settings=SETTINGS)
@click.version_option(isrdpo.__version__, prog_name="isrdpo")
def commands() -> None:
    """Iterative self-retrospective DPO for video language models."""


def stage_name(name: str) -> str:
    """Check the name of a stage."""
    from isrdpo.core.pipeline import ORDER

    if name not in ORDER:
        raise click.BadParameter(f"{name!r} is not one of {', '.join(ORDER)}")
    return name


def stage_of_notebook(name: str) -> str:
    """Return the stage that a notebook drives, by the notebook's name, its number, or the stage's name."""
    from isrdpo.core.pipeline import NOTEBOOKS

    for stage, title in NOTEBOOKS.items():
        if name.removesuffix(".ipynb") in (stage, title, title[:2], title[1:2]):
            return stage
    raise click.BadParameter(f"{name!r} is not one of {', '.join(NOTEBOOKS.values())}")


def preset_path(name: str) -> Path:
    """Return a preset's file as it was typed, else from the project's root, for a command typed in
    notebooks/.
    """
    path = Path(name)
    return path if path.exists() or not resolve(name).exists() else resolve(name)


preset_argument = argument("preset", metavar="PARAMS", help="a preset, such as params/toybox.yaml")
run_argument = argument("run_dir", metavar="RUN", help="the run's folder")
run_option = option("--run", "run_dir", required=True, metavar="RUN", help="the run's folder")
ITERATION_HELP = "1 to N; 0: the base and the evaluation set"
iteration_option = option("--iteration", type=ITERATION, required=True, metavar="N", help=ITERATION_HELP)
REDO_HELP = "where parameters or data changed, do again what was made under the old ones"
redo_flag = option("--redo", is_flag=True, help=REDO_HELP)


def overrides_argument(text: str, metavar: str = "[KEY=VALUE]...") -> Callable:
    """Return the decorator for the positional arguments that end most commands."""
    return argument("overrides", nargs=-1, metavar=metavar, help=text)


@commands.command()
@preset_argument
@overrides_argument("such as respond.temperature=0.7")
@option("--stages", is_flag=True, help="only the stages, in this process: no notebooks, no pages of theirs")
@redo_flag
def run_command(preset: str, overrides: tuple[str, ...], stages: bool, redo: bool) -> None:
    """Make a run or go on with it.

    Every notebook is executed once per iteration, then the report is made. What is done is skipped.
    """
    from isrdpo import loop
    from isrdpo.core import params
    from isrdpo.core.runs import Run, own_folder

    path = preset_path(preset)
    place = own_folder(path, overrides)
    settings = params.load(path, [*overrides, *place])
    if place and resolve(params.load(path).run) != resolve(settings.run):
        print(f"isrdpo: {settings.run}: moved or copied; it goes on where it is", file=sys.stderr)
    _require_ready([settings])
    run = Run.create(settings, redo=redo)
    loop.run_loop(run, stages_only=stages)
    print(loop.summary_table(run.folder / "summary.csv"))
    if warnings := loop.warning_lines(run):
        print(f"\n{warnings}")
    print(f"\nreport: {run.folder / 'report.html'}")


def _require_ready(settings: Iterable["Params"]) -> None:
    """Raise RunError for what would stop these runs on this machine: before hours of work, not after."""
    from isrdpo.core import readiness
    from isrdpo.scoring import scorers

    problems: dict[str, None] = {}
    for one in settings:
        problems |= dict.fromkeys([*readiness.obstacles(one), scorers.missing_setting(one.score)])
    if text := "\n".join(filter(None, problems)):
        raise RunError(text)


@commands.command()
@preset_argument
@overrides_argument("such as data=FOLDER")
def check_command(preset: str, overrides: tuple[str, ...]) -> None:
    """Validate parameters and data without loading a model."""
    from isrdpo import checks
    from isrdpo.core import params

    lines, problems = checks.inspect(params.load(preset_path(preset), overrides))
    print("\n".join(lines))
    for problem in problems:
        print(f"isrdpo check: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print("parameters and data are fine")


@commands.command()
@argument("file", metavar="STUDY", help="such as params/study.yaml")
@overrides_argument("for every run, such as iterations=2")
@option("--seeds", type=AT_LEAST_ONE, metavar="N", help="only the first N seeds of each arm")
@option("--arms", default="", metavar="ARM,ARM", help="only these arms")
@redo_flag
def study_command(file: str, overrides: tuple[str, ...], seeds: int | None, arms: str, redo: bool) -> None:
    """Run arms x seeds as a study file says, then compare them."""
    from isrdpo import study
    from isrdpo.core.folders import hold_lock

    plan = study.load(preset_path(file), seeds, overrides, arms.split(",") if arms else [])
    _require_ready(cell.params for cell in plan.cells)
    plan.folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(plan.folder / ".lock"):
        runs = study.run_study(plan, redo)
        _print_comparison([run.folder for run in runs], plan.folder)


@commands.command()
@argument("runs", nargs=-1, required=True, metavar="RUN...", help="folders of runs, or a folder of folders")
@option("--to", "target", default="outputs/comparison", metavar="FOLDER", help="where the page goes")
def compare_command(runs: tuple[str, ...], target: str) -> None:
    """Compare runs: notebook 06 and its page."""
    from isrdpo.core import changes
    from isrdpo.reports import compare

    opened = compare.open_runs(runs)
    for run in opened:
        changes.warn_of_changes(run)
    _print_comparison([run.folder for run in opened], resolve(target))


def _print_comparison(folders: list[Path], target: Path) -> None:
    """Compare runs, unless that was done since they last changed, and say where the page is."""
    from isrdpo.reports import notebooks

    page = target / "comparison.html"
    if not notebooks.is_comparison_current(folders, target):
        page = notebooks.write_comparison(folders, target)
    print(f"comparison: {page}")


@commands.command()
@preset_argument
@overrides_argument("such as model.path=FOLDER")
@option("--clips", type=AT_LEAST_ONE, default=16, metavar="N", help="clips per call")
@option("--repeats", type=AT_LEAST_ONE, default=7, metavar="N", help="turns per case")
@option("--to", "target", default="outputs/benchmark", metavar="FOLDER", help="where the page goes")
def benchmark_command(preset: str, overrides: tuple[str, ...], clips: int, repeats: int, target: str) -> None:
    """Time what sharing work between calls saves: notebook 07.

    The calls are those about the same video. The page shows each case's times, apart and shared.
    """
    from isrdpo.core import params, readiness
    from isrdpo.reports import notebooks

    path = preset_path(preset)
    settings = params.load(path, overrides)  # so that this command, not a notebook, says what is wrong
    if problem := readiness.missing_device(settings.model.device):
        raise RunError(problem)
    print(f"benchmark: {notebooks.write_benchmark(path, list(overrides), clips, repeats, resolve(target))}")


@commands.command()
@argument("stage", metavar="NOTEBOOK", type=stage_of_notebook, help="such as 03_judging, 03 or judge")
@overrides_argument("its parameters, as `papermill --help-notebook` lists them")
@run_option
@iteration_option
def notebook_command(stage: str, overrides: tuple[str, ...], run_dir: str, iteration: int) -> None:
    """Execute one notebook of a run, and make its page."""
    from isrdpo import loop
    from isrdpo.core import runs

    values = loop.notebook_values(overrides)
    if stage == "data":
        run = runs.open_or_create(run_dir, values.get("preset", "params/toybox.yaml"))
    else:
        run = runs.Run.open(run_dir)
    print(loop.run_notebook(run, stage, iteration, values))


@commands.command()
@argument("stage", type=stage_name, help="data, respond, judge, look, train, evaluate or score")
@run_option
@iteration_option
def stage_command(stage: str, run_dir: str, iteration: int) -> None:
    """Run one stage in this process, without its notebook."""
    from isrdpo import loop
    from isrdpo.core.runs import Run

    loop.run_stage(Run.open(run_dir), stage, iteration)


@commands.command()
@argument("what", metavar="RUN|FILE", help="a run's folder, or a prediction file (with --test and --to)")
@overrides_argument("such as score.scorer=openai score.model=gpt-4o-mini (score. may be left out)")
@option("--iteration", type=ITERATION, metavar="N", help="of a run: 0 (the base) to N")
@option("--test", metavar="SET.qa.jsonl", help="the test file that a prediction file answers")
@option("--to", "target", metavar="FOLDER", help="where the scores of one or more prediction files go")
@option("--dry-run", is_flag=True, help="only estimate the requests that it takes, their tokens and dollars")
@option("--redo", is_flag=True, help="of a run: score anew what another scorer has scored")
def score_command(
    what: str, overrides: tuple[str, ...], iteration: int | None, redo: bool, **options: Any
) -> None:
    """Score answers by a language model.

    The answers are those of an iteration of a run, or of a prediction file in LLaVA-Hound's format.
    """
    changes = [
        text if text.startswith(("score.", "max_bad_share=")) else f"score.{text}" for text in overrides
    ]
    if resolve(what).is_file():
        print(_score_file(what, changes, **options))
    elif iteration is None:
        raise RunError(f"score {what}: which iteration? give --iteration 0 (the base) to N")
    else:
        print(_score_run(what, changes, iteration, options["dry_run"], redo))


def _score_file(what: str, changes: list[str], test: str | None, target: str | None, dry_run: bool) -> str:
    """Score a prediction file into the folder `target`; returns what came out, or the estimate."""
    from isrdpo.core import params
    from isrdpo.stages import score

    if not test or not (target or dry_run):
        places = "--test SET.qa.jsonl --to FOLDER"
        raise RunError(f"score {what}: a prediction file needs its test file and a place: {places}")
    settings = params.load(params.BASE, ["data=toybox", *changes])
    if not dry_run:
        _require_scorer(what, settings.score.scorer)
    return score.score_file(resolve(what), Path(test), resolve(target or "."), settings, dry_run)


def _score_run(what: str, changes: list[str], iteration: int, dry_run: bool, redo: bool) -> str:
    """Score an iteration of a run into its own files and pages; returns what came out, or the estimate."""
    from isrdpo import loop
    from isrdpo.core import params
    from isrdpo.core.runs import Run
    from isrdpo.stages import score

    run = Run.open(what)
    settings = params.change(run.params, changes)
    _require_scorer(what, settings.score.scorer)
    if dry_run:
        requests = score.make_requests(score.read_answers(run, iteration).rows, settings.score)
        return score.estimate(requests, settings.score)
    loop.score_again(run, settings, iteration, redo)
    return score.summary(run, iteration)


def _require_scorer(what: str, scorer: str) -> None:
    if scorer == "none":
        raise RunError(f"score {what}: by whom? give scorer=openai or scorer=local, and model=...")


@commands.command()
@argument(
    "first", type=click.Path(path_type=Path), metavar="SCORES.jsonl", help="such as iter_03/scores.jsonl"
)
@argument("second", type=click.Path(path_type=Path), metavar="SCORES.jsonl", help="of the same answers")
@option("--to", "target", metavar="FILE.csv", help="write the table here, too")
def agreement_command(first: Path, second: Path, target: str | None) -> None:
    """Compare two scorers on the same answers: a line per test set."""
    from isrdpo.core import records
    from isrdpo.scoring import scores

    rows = records.read_jsonl(first, records.Score)
    other_rows = records.read_jsonl(second, records.Score)
    table = scores.agreement_table(rows, other_rows)
    print(scores.agreement_lines(table))
    if target:
        records.write_csv(Path(target), table)


@commands.command()
@run_argument
@option("--bundle", metavar="FILE.zip", help="pack the pages and the clips they show, for somebody else")
def report_command(run_dir: str, bundle: str | None) -> None:
    """Rebuild a run's pages and index from its files."""
    from isrdpo import loop
    from isrdpo.core import changes
    from isrdpo.core.runs import Run

    run = Run.open(run_dir)
    changes.warn_of_changes(run)
    for path in loop.rebuild_pages(run, Path(bundle) if bundle else None):
        print(path)


@commands.command()
@argument("what", metavar="PARAMS|SET", help="a preset, or train, test, or a test set such as msvd")
@overrides_argument("more sets; for a preset such as model.path=...", metavar="[SET|KEY=VALUE]...")
@option("--to", "target", metavar="FOLDER", help="where the data go; by default a preset's own data.path")
@option("--yes", is_flag=True, help="fetch without being asked")
@option("--keep", is_flag=True, help="keep the archives, in FOLDER/archives")
def fetch_command(what: str, overrides: tuple[str, ...], target: str | None, yes: bool, keep: bool) -> None:
    """Fetch data sets and models from the Hugging Face hub.

    Give a preset for what it needs, or data sets by name.
    """
    from isrdpo.core import params
    from isrdpo.formats import fetch

    models = []
    if what.endswith((".yaml", ".yml")):
        settings = params.load(preset_path(what), overrides)
        sets, models = fetch.needs(settings)
        target = target or settings.data.path
        if not (sets or models):
            print(f"{what}: needs nothing from the hub (data.source is empty, the model is local)")
            return
        if sets and target == "toybox":
            wish = "give data.path=FOLDER or --to FOLDER"
            raise RunError(f"{what}: data.source goes with a folder as data.path; {wish}")
    else:
        sets = fetch.sets([what, *overrides])
    if not target:
        raise RunError(f"fetch {what}: where to? give --to FOLDER")
    plan = fetch.plan(sets, models)
    fetch.fetch(plan, resolve(target), yes, keep)
    if sets:
        print(f"a run of it: data={display_path(resolve(target))} {fetch.parameters(plan)}")
    else:
        print("the model is in the hub's cache")


@commands.command()
@run_argument
@option("--iteration", type=ITERATION, required=True, metavar="N", help="1 to N")
@option("--to", "target", required=True, metavar="FOLDER", help="a new or empty folder")
@option("--format", "layout", type=FORMATS, help="of the preferences")
@option("--policy", is_flag=True, help="the trained policy instead of preferences")
@option("--copy-videos", is_flag=True, help="copy the videos beside the preferences, into videos/")
@option("--push", metavar="REPO", help="then upload to this hub repository, a new one as private (HF_TOKEN)")
@option("--public", is_flag=True, help="a new repository is public")
def export_command(
    run_dir: str,
    iteration: int,
    target: str,
    layout: str | None,
    policy: bool,
    copy_videos: bool,
    push: str | None,
    public: bool,
) -> None:
    """Write one iteration's preferences or policy for other tools.

    Preferences go into one of four formats, the policy into LLaVA-Hound's layout.
    """
    from isrdpo.core import changes
    from isrdpo.core.runs import Run
    from isrdpo.reports import export

    if policy == bool(layout):
        raise click.UsageError("Give either --format or --policy", click.get_current_context())
    run = Run.open(run_dir)
    changes.warn_of_changes(run)
    if push:
        export.check_push(push)
    if layout:
        print(export.export_preferences(run, iteration, resolve(target), layout, copy_videos))
    else:
        print(export.export_policy(run, iteration, resolve(target)))
    if push:
        print(export.push_folder(resolve(target), push, "model" if policy else "dataset", public))


if __name__ == "__main__":
    main()
