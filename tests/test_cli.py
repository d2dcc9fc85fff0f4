"""The command line: what it skips, checks and says."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isrdpo import cli, loop
from isrdpo.core import params, pipeline, records
from isrdpo.core.runs import Run
from isrdpo.reports import notebooks, pages

ROOT = Path(__file__).parent.parent
PRESET = ROOT / "params" / "toybox.yaml"


def isrdpo(*arguments: str | Path | int, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "isrdpo", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_a_notebook_by_any_of_its_names() -> None:
    names = ("03_judging", "03_judging.ipynb", "03", "3", "judge")
    assert {cli.stage_of_notebook(name) for name in names} == {"judge"}
    done = isrdpo("notebook", "09", "--run", "x", "--iteration", "1")
    assert done.returncode == 2
    assert "'09' is not one of 01_data_prep, 02_retrospection" in done.stderr


def test_help_lists_the_commands_in_order_and_explains_each() -> None:
    done = isrdpo("--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: isrdpo")
    names = list(cli.commands.commands)
    driving = ["run", "check", "study", "compare", "benchmark", "notebook", "stage"]
    assert names == [*driving, "score", "agreement", "report", "fetch", "export"]
    places = [done.stdout.index(f"\n  {name} ") for name in names]
    assert places == sorted(places) and "..." not in done.stdout.split("Commands:")[1]
    for name, command in cli.commands.commands.items():
        assert all(parameter.help for parameter in command.params), name
    assert isrdpo("run", "-h").stdout.startswith("Usage: isrdpo run [OPTIONS] PARAMS [KEY=VALUE]...")


def test_the_version_is_the_packages() -> None:
    import isrdpo as package

    assert isrdpo("--version").stdout == f"isrdpo, version {package.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn"], "isrdpo: No such command 'rn'. Did you mean 'run'? See `isrdpo --help`."),
        (["run"], "isrdpo run: Missing argument 'PARAMS'. See `isrdpo run --help`."),
        (["run", "x.yaml", "--rdo"], "isrdpo run: No such option '--rdo'. Did you mean '--redo'? See"),
        (["run", "x.yaml", "-x=1"], "isrdpo run: No such option '-x'"),
        (["stage", "jdge", "--run", "x", "--iteration", "1"], "'jdge' is not one of data, respond, judge"),
        (["stage", "judge", "--run", "x"], "isrdpo stage: Missing option '--iteration'"),
        (["stage", "judge", "--run", "x", "--iteration", "one"], "'one' is not a valid integer"),
        (["stage", "judge", "--run", "x", "--iteration", "1", "more"], "unexpected extra argument (more)"),
        (["stage", "judge", "--run", "x", "--iteration", "-1"], "-1 is not in the range 0<=x<=99"),
        (["study", "params/study.yaml", "--seeds", "0"], "0 is not in the range"),
        (["report", "x", "--bundle"], "Option '--bundle' requires an argument"),
        (
            ["export", "x", "--iteration", "1", "--to", "y"],
            "isrdpo export: Give either --format or --policy. See",
        ),
        (["export", "x", "--iteration", "1", "--to", "y", "--policy", "--format", "hf"], "Give either"),
        (["export", "x", "--iteration", "1", "--to", "y", "--format", "csv"], "'csv' is not one of"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = isrdpo(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "params/toybx.yaml"],
            "isrdpo: params/toybx.yaml: no such preset; did you mean params/toybox.yaml?\n",
        ),
        (
            ["run", "params/toybox.yaml", "sed=1", "iterations=-1"],
            "isrdpo: there is no key sed; did you mean seed?\n"
            "isrdpo: iterations: -1 is not a whole number, 0 or more\n",
        ),
        (
            ["run", "params/toybox.yaml", "run=params"],
            "isrdpo: params: not a run (it holds base.yaml, ",
        ),
        (
            ["report", "outputs/nothing"],
            "isrdpo: outputs/nothing: no run here; stage data of iteration 1 makes it: start with",
        ),
        (
            ["stage", "judge", "--run", "outputs/nothing", "--iteration", "1"],
            "isrdpo: outputs/nothing: no run here",
        ),
        (
            ["notebook", "03", "--run", "outputs/nothing", "--iteration", "1"],
            "isrdpo: outputs/nothing: no run here",
        ),
        (
            ["notebook", "03", "--run", "outputs/nothing", "--iteration", "1", "method"],
            "isrdpo: method: not key=value\n",
        ),
        (
            ["check", "params/toybox.yaml", "run=~nobody-here/x"],
            "isrdpo: ~nobody-here/x: ~nobody-here is no user's folder; write the path out",
        ),
        (
            ["run", "params/toybox.yaml", "model.device=cuda:999", "train.report_to=wandbb"],
            "isrdpo: model.device: cuda:999 is not here",
        ),
        (
            ["run", "params/toybox.yaml", "\x1b[31m=1"],
            "isrdpo: there is no key '\\x1b[31m'",
        ),
        (["report", "\x1b[31m"], "isrdpo: \\x1b[31m: no run here"),
        (["compare", "params", "--to", ""], "isrdpo: params: no run here"),
        (["report", ""], "isrdpo: an empty path; give a folder or a file"),
        (
            ["agreement", "here.jsonl", "there.jsonl"],
            "isrdpo: here.jsonl: No such file or directory\n",
        ),
    ],
)
def test_errors_are_lines_not_tracebacks(arguments: list[str], message: str) -> None:
    done = isrdpo(*arguments)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.startswith(message), done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith("isrdpo: ") for line in done.stderr.splitlines())


def test_ctrl_c_is_one_line_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(params, "load", interrupt)
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", str(PRESET)])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "\nisrdpo: interrupted; the same command goes on from here\n"


def finished_run(folder: Path) -> Run:
    """Markers and pages of a one-iteration run, without what is behind them."""
    run = Run.create(params.load(PRESET, [f"run={folder}", "iterations=1"]))
    for name, t in [("data", 0), *loop.plan(1)]:
        stages = (name, pipeline.BESIDE[name]) if name in pipeline.BESIDE else (name,)
        for stage in stages:
            with run.stage(stage, t):
                pass
        for path in (pages.executed_notebook(run, name, t), pages.page_path(run, name, t)):
            records.write_text(path, "x")
    values = {"iteration": 0} | dict.fromkeys(loop.COLUMNS, "") | {"accuracy": 0.51234, "seconds": 12.5}
    lines = [",".join(values), ",".join(map(str, values.values()))]
    records.write_text(run.folder / "summary.csv", "\n".join(lines) + "\n")
    records.write_text(run.folder / "report.html", "x")
    return run


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """The time and the size of every file below a folder, locks aside."""
    files = [path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def test_a_finished_run_changes_nothing_and_loads_nothing_heavy(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    before = state(run.folder)
    started = time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", "isrdpo", "run", str(PRESET)]
    command += [f"run={run.folder}", "iterations=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 5 and state(run.folder) == before
    heavy = r"\| +(torch|transformers|pandas|papermill|matplotlib)$"
    assert not re.search(heavy, done.stderr, re.MULTILINE)
    assert re.search(r"^accuracy +0\.512$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith(f"report: {run.folder / 'report.html'}\n")


def test_what_is_missing(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    assert not any(notebooks.is_outdated(run, *step) for step in loop.plan(1)) and pages.is_index_current(run)
    pages.page_path(run, "judge", 1).unlink()
    assert [step for step in loop.plan(1) if notebooks.is_outdated(run, *step)] == [("judge", 1)]
    os.utime(pages.page_path(run, "train", 1), ns=(1, 1))
    assert notebooks.is_outdated(run, "train", 1), "a page older than its stage shows other rows"
    run.marker_path("look", 1).unlink()
    assert notebooks.is_outdated(run, "judge", 1), "the page of notebook 03 shows what look leaves, too"
    later = time.time_ns() + 10**9
    os.utime(run.marker_path("train", 1), ns=(later, later))
    assert not pages.is_index_current(run)
    run.override("evaluate", {"batch_size": 1})
    assert not notebooks.is_outdated(run, "evaluate", 1)
    run.update(run.params.override("evaluate", {"max_new_tokens": 5}), redo=True)
    assert notebooks.is_outdated(run, "evaluate", 1) and notebooks.is_outdated(run, "evaluate", 0)


def test_key_value_may_stand_anywhere(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    place = f"run={tmp_path / 'run'}"
    done = isrdpo("run", place, "--redo", "iterations=1", cwd=tmp_path)
    assert done.returncode == 1 and "no such preset" in done.stderr
    assert isrdpo("run", PRESET, place, "--redo", "iterations=1").returncode == 0
    assert isrdpo("run", "--redo", PRESET, place, "iterations=1").returncode == 0
    assert isrdpo("run", PRESET, place, "--rdo").returncode == 2


def test_a_preset_is_found_from_notebooks_too(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    arguments = ["run", "params/toybox.yaml", f"run={tmp_path / 'run'}", "iterations=1"]
    assert isrdpo(*arguments, cwd=ROOT / "notebooks").returncode == 0


def test_a_failed_notebook_is_kept_under_another_name(tmp_path: Path) -> None:
    """03 alone names the missing stage."""
    run = Run.create(params.load(PRESET, [f"run={tmp_path / 'run'}"]))
    done = isrdpo("notebook", "03", "--run", run.folder, "--iteration", 1)
    assert done.returncode == 1 and done.stdout == ""
    first, second = done.stderr.splitlines()[-2:]  # a loaded machine may warn before
    assert first.startswith(
        f"isrdpo: 03_judging, iteration 1: {run.folder}: "
        f"stage judge of iteration 1 needs stage respond of iteration 1, which is not done"
    )
    failed = run.iteration(1) / "notebooks" / "03_judging.failed.ipynb"
    assert second == f"isrdpo: as far as it came: {failed}"
    assert [path.name for path in failed.parent.iterdir()] == [failed.name]
    assert "MissingStage" in failed.read_text()
    assert not pages.page_path(run, "judge", 1).exists()


def test_a_parameter_that_a_notebook_lacks_is_refused(tmp_path: Path) -> None:
    run = Run.create(params.load(PRESET, [f"run={tmp_path / 'run'}"]))
    done = isrdpo("notebook", "judge", "--run", run.folder, "--iteration", 1, "temprature=1.0")
    message = "isrdpo: 03_judging.ipynb: no parameter temprature; it has run_dir, iteration, method"
    assert done.returncode == 1 and done.stderr.startswith(message)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of two rows, one without its video."""
    data = tmp_path / "data"
    (data / "clips" / "one").mkdir(parents=True)  # a folder of frames
    (data / "clips" / "one" / "c01_0001.jpeg").write_bytes(b"never opened by check")
    rows = [{"id": n, "video": f"{n}.mp4", "prompt": "What?"} for n in ("one", "two")]
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "test.qa.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"0" * 1000)
    return tmp_path


def test_check(folder: Path) -> None:
    arguments = [PRESET, f"data={folder / 'data'}", f"model.path={folder / 'model'}", f"run={folder / 'run'}"]
    fine = isrdpo("check", *arguments, "max_bad_share=0.5")
    assert fine.returncode == 0 and fine.stderr == ""
    assert fine.stdout.endswith("parameters and data are fine\n")
    counts = "train rows: 2\nevaluation rows: 1\ndurations of 1 distinct videos: 0.5 / 0.5 / 0.5 s"
    assert counts in fine.stdout and "bad: 1 missing video; first: two: " in fine.stdout
    assert "space: about" in fine.stdout
    assert not (folder / "run").exists(), "check writes nothing"
    bad = isrdpo("check", *arguments)
    assert bad.returncode == 1 and "1 of 3 rows are bad, above max_bad_share=0.05" in bad.stderr
    assert "are fine" not in bad.stdout
    for override, message in (
        (f"model.path={folder / 'nowhere'}", "is neither toybox, a folder, nor a hub id"),
        (f"model.path={folder / 'data'}", "holds no weights"),
        (f"data={folder / 'model'}", "train.jsonl: no such dataset file"),
    ):
        done = isrdpo("check", *arguments, "max_bad_share=0.5", override)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_check_says_when_the_disk_is_too_small(folder: Path) -> None:
    with (folder / "model" / "model.safetensors").open("wb") as file:
        file.truncate(shutil.disk_usage(folder).free)  # a file of holes
    done = isrdpo("check", PRESET, f"model.path={folder / 'model'}", f"run={folder / 'run'}")
    pattern = r"the run needs about [\d.]+ GB, [\d.]+ GB are free; see keep_policies"
    assert done.returncode == 1 and re.search(pattern, done.stderr)
