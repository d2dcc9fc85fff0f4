"""The command line: what it plans, skips, checks and says; and, slow, a small loop that is killed on the way."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isrdpo import cli as launch
from isrdpo.core import params, records
from isrdpo.core import pipeline as keys
from isrdpo.core.runs import Run
from isrdpo.reports import notebooks, pages

ROOT = Path(__file__).parent.parent
PRESET = ROOT / "params" / "toybox.yaml"


def isrdpo(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "isrdpo", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)


def test_plan() -> None:
    assert launch.plan(2) == [
        ("data", 1), ("evaluate", 0), ("respond", 1), ("judge", 1), ("train", 1), ("evaluate", 1),
        ("data", 2), ("respond", 2), ("judge", 2), ("train", 2), ("evaluate", 2),
    ]  # fmt: skip


def test_a_notebook_by_any_of_its_names() -> None:
    assert {launch.stage_of(name) for name in ("03_judging", "03_judging.ipynb", "03", "3", "judge")} == {"judge"}
    found = isrdpo("notebook", "09", "--run", "x", "--iteration", "1")
    assert found.returncode == 2 and "'09' is not one of 01_data_prep, 02_retrospection" in found.stderr


@pytest.mark.parametrize(("arguments", "says"), [
    (["run", "params/toybx.yaml"], "isrdpo: params/toybx.yaml: no such preset; did you mean params/toybox.yaml?\n"),
    (["run", "params/toybox.yaml", "sed=1", "iterations=-1"], "isrdpo: there is no key sed; did you mean seed?\nisrdpo: iterations: -1 must not be negative\n"),
    (["run", "params/toybox.yaml", "run=params"], "isrdpo: params: not a run (it holds base.yaml, "),
    (["report", "outputs/nothing"], "isrdpo: outputs/nothing: no run here; stage data of iteration 1 makes it: start with notebook 01"),
    (["stage", "judge", "--run", "outputs/nothing", "--iteration", "1"], "isrdpo: outputs/nothing: no run here"),
    (["notebook", "03", "--run", "outputs/nothing", "--iteration", "1"], "isrdpo: outputs/nothing: no run here"),
    (["agreement", "here.jsonl", "there.jsonl"], "isrdpo: here.jsonl: No such file or directory\n"),
])  # fmt: skip
def test_errors_are_lines_not_tracebacks(arguments: list[str], says: str) -> None:
    done = isrdpo(*arguments)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.startswith(says), done.stderr
    assert "Traceback" not in done.stderr and all(line.startswith("isrdpo: ") for line in done.stderr.splitlines())


def finished_run(folder: Path) -> Run:
    """Markers and pages of a one-iteration run, without what is behind them."""
    run = Run.create(params.load(PRESET, [f"run={folder}", "iterations=1"]))
    for name, t in [("data", 0), *launch.plan(1)]:
        for begun in (name, keys.BESIDE[name]) if name in keys.BESIDE else (name,):
            with run.stage(begun, t):
                pass
        for path in (pages.executed(run, name, t), pages.page_of(run, name, t)):
            records.write_text(path, "x")
    columns = dict.fromkeys(("iteration", *launch.SUMMARY), "") | {"iteration": 0, "accuracy": 0.51234, "seconds": 12.5}
    records.write_text(run.folder / "summary.csv", ",".join(columns) + "\n" + ",".join(map(str, columns.values())) + "\n")
    records.write_text(run.folder / "report.html", "x")
    return run


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file() and "lock" not in p.name}


def test_a_finished_run_changes_nothing_and_loads_nothing_heavy(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    before, started = state(run.folder), time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", "isrdpo", "run", str(PRESET), f"run={run.folder}", "iterations=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 5 and state(run.folder) == before
    assert not re.search(r"\| +(torch|transformers|pandas|papermill|matplotlib)$", done.stderr, re.MULTILINE)
    assert re.search(r"^accuracy +0\.512$", done.stdout, re.MULTILINE) and done.stdout.endswith(f"report: {run.folder / 'report.html'}\n")


def test_what_is_missing(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    assert not any(notebooks.missing(run, *step) for step in launch.plan(1)) and pages.indexed(run)
    pages.page_of(run, "judge", 1).unlink()
    assert [step for step in launch.plan(1) if notebooks.missing(run, *step)] == [("judge", 1)]
    os.utime(pages.page_of(run, "train", 1), ns=(1, 1))
    assert notebooks.missing(run, "train", 1), "a page older than its stage shows other rows"
    run.marker_path("look", 1).unlink()
    assert notebooks.missing(run, "judge", 1), "the page of notebook 03 shows what look leaves, too"
    later = time.time_ns() + 10**9
    os.utime(run.marker_path("train", 1), ns=(later, later))
    assert not pages.indexed(run)
    run.override("evaluate", {"batch_size": 1})
    assert not notebooks.missing(run, "evaluate", 1)
    run.update(run.params.override("evaluate", {"max_new_tokens": 5}), redo=True)
    assert notebooks.missing(run, "evaluate", 1) and notebooks.missing(run, "evaluate", 0)


def test_key_value_may_stand_anywhere(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    done = isrdpo("run", f"run={tmp_path / 'run'}", "--redo", "iterations=1", cwd=tmp_path)
    assert done.returncode == 1 and "no such preset" in done.stderr
    assert isrdpo("run", PRESET, f"run={tmp_path / 'run'}", "--redo", "iterations=1").returncode == 0
    assert isrdpo("run", "--redo", PRESET, f"run={tmp_path / 'run'}", "iterations=1").returncode == 0
    assert isrdpo("run", PRESET, f"run={tmp_path / 'run'}", "--rdo").returncode == 2


def test_a_preset_is_found_from_notebooks_too(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    assert isrdpo("run", "params/toybox.yaml", f"run={tmp_path / 'run'}", "iterations=1", cwd=ROOT / "notebooks").returncode == 0


def test_a_failed_notebook_is_kept_under_another_name(tmp_path: Path) -> None:
    """03 alone names the missing stage."""
    run = Run.create(params.load(PRESET, [f"run={tmp_path / 'run'}"]))
    done = isrdpo("notebook", "03", "--run", run.folder, "--iteration", 1)
    assert done.returncode == 1 and done.stdout == ""
    first, second = done.stderr.splitlines()[-2:]  # a loaded machine may warn before
    assert first.startswith(f"isrdpo: 03_judging, iteration 1: {run.folder}: stage judge of iteration 1 needs stage respond of iteration 1, which is not done")
    assert second == f"isrdpo: as far as it came: {run.iteration(1) / 'notebooks' / '03_judging.failed.ipynb'}"
    assert [p.name for p in (run.iteration(1) / "notebooks").iterdir()] == ["03_judging.failed.ipynb"]
    assert "MissingStage" in (run.iteration(1) / "notebooks" / "03_judging.failed.ipynb").read_text()
    assert not pages.page_of(run, "judge", 1).exists()


def test_a_parameter_that_a_notebook_lacks_is_refused(tmp_path: Path) -> None:
    run = Run.create(params.load(PRESET, [f"run={tmp_path / 'run'}"]))
    done = isrdpo("notebook", "judge", "--run", run.folder, "--iteration", 1, "temprature=1.0")
    assert done.returncode == 1 and done.stderr.startswith("isrdpo: 03_judging.ipynb: no parameter temprature; it has run_dir, iteration, method")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of two rows, one without its video."""
    (tmp_path / "data" / "clips" / "one").mkdir(parents=True)  # a folder of frames
    (tmp_path / "data" / "clips" / "one" / "c01_0001.jpeg").write_bytes(b"never opened by check")
    rows = [{"id": n, "video": f"{n}.mp4", "prompt": "What?"} for n in ("one", "two")]
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "data" / "test.qa.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"0" * 1000)
    return tmp_path


def test_check(folder: Path) -> None:
    given = ["check", PRESET, f"data={folder / 'data'}", f"model.path={folder / 'model'}", f"run={folder / 'run'}"]
    fine = isrdpo(*given, "max_bad_share=0.5")
    assert fine.returncode == 0 and fine.stderr == "" and fine.stdout.endswith("parameters and data are fine\n")
    assert "train rows: 2\nevaluation rows: 1\ndurations of 1 distinct videos: 0.5 / 0.5 / 0.5 s" in fine.stdout and "bad: 1 missing video; first: two: " in fine.stdout
    assert "space: about" in fine.stdout
    assert not (folder / "run").exists(), "check writes nothing"
    bad = isrdpo(*given)
    assert bad.returncode == 1 and "1 of 3 rows are bad, above max_bad_share=0.05" in bad.stderr and "are fine" not in bad.stdout
    for override, says in (
        (f"model.path={folder / 'nowhere'}", "is neither toybox, a folder, nor a hub id"), (f"model.path={folder / 'data'}", "holds no weights"),
        (f"data={folder / 'model'}", "train.jsonl: no such dataset file"),
    ):  # fmt: skip
        done = isrdpo(*given, "max_bad_share=0.5", override)
        assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr


def test_check_says_when_the_disk_is_too_small(folder: Path) -> None:
    with (folder / "model" / "model.safetensors").open("wb") as file:
        file.truncate(shutil.disk_usage(folder).free)  # a file of holes
    done = isrdpo("check", PRESET, f"model.path={folder / 'model'}", f"run={folder / 'run'}")
    assert done.returncode == 1 and re.search(r"the run needs about [\d.]+ GB, [\d.]+ GB are free; see keep_policies", done.stderr)


def loop(run: Path) -> list[str]:
    small = ["data.samples=48", "data.questions=32", "data.fixed_pairs=16", "iterations=2", "judge.orders=1", "max_bad_share=1.0"]
    return [sys.executable, "-m", "isrdpo", "run", str(PRESET), f"run={run}", *small]


def rows_of(run: Path) -> dict[str, bytes]:
    """Every JSONL and CSV and policy of a run; summary.csv and what is drawn from it without times."""
    found = {}
    for path in sorted([*run.rglob("*.jsonl"), *run.rglob("*.csv"), *run.rglob("*.safetensors")]):
        if path.parts[-1] == "summary.csv" or path.parent == run / "figures":
            with path.open(newline="") as file:
                table = [{k: v for k, v in row.items() if k not in ("seconds", "peak_rss_mb")} for row in csv.DictReader(file)]
            found[str(path.relative_to(run))] = json.dumps(table).encode()
        else:
            found[str(path.relative_to(run))] = path.read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_small_loop_killed_on_the_way_ends_with_the_same_bytes(tmp_path: Path) -> None:
    subprocess.run(loop(tmp_path / "whole" / "run"), cwd=ROOT, check=True)
    whole = rows_of(tmp_path / "whole" / "run")
    assert len(whole) > 30 and len(whole["iter_01/preferences.jsonl"].splitlines()) > 8
    killed = tmp_path / "killed" / "run"
    for number in range(6):
        with subprocess.Popen(loop(killed), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(timeout=7 + 5 * number)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
    subprocess.run(loop(killed), cwd=ROOT, check=True)
    again = rows_of(killed)
    assert again.keys() == whole.keys()
    assert [name for name in whole if again[name] != whole[name]] == []
    for t, name in ((0, "05_evaluation"), *((t, keys.NOTEBOOKS[s]) for t in (1, 2) for s in keys.STAGES)):
        assert (killed / f"iter_{t:02d}" / "reports" / f"{name}.html").stat().st_size > 1000
    before, started = state(killed), time.monotonic()
    subprocess.run(loop(killed), cwd=ROOT, check=True)
    assert state(killed) == before and time.monotonic() - started < 20
