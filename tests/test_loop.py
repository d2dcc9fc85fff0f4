"""The loop as a user starts it: what it plans and says, and, slow, all of it on the shipped base."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from isrdpo import loop
from isrdpo.core import records
from isrdpo.reports import notebooks, pages
from isrdpo.toybox import world
from tests.conftest import SMALL

ROOT = Path(__file__).parent.parent


def isrdpo(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "isrdpo.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_plan() -> None:
    first = [("data", 1), ("evaluate", 0), ("respond", 1), ("judge", 1), ("train", 1), ("evaluate", 1)]
    second = [("data", 2), ("respond", 2), ("judge", 2), ("train", 2), ("evaluate", 2)]
    assert loop.plan(2) == first + second
    assert loop.plan(0) == [("data", 0), ("evaluate", 0)]


def test_stages_alone_are_run_in_order_and_scored_where_a_scorer_is_named(
    make_run: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls = []
    monkeypatch.setattr(loop, "run_stage", lambda run, name, t: calls.append((name, t)))
    monkeypatch.setattr(pages, "write_index", lambda run, state="": None)
    loop.run_loop(make_run("plain", "iterations=1"), stages_only=True)
    assert calls == loop.plan(1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and re.fullmatch(r"\[ 2/6\] iteration 0: evaluate +0 s", lines[1]), lines
    calls.clear()
    scorer = ("score.scorer=openai", "score.model=x", "score.base_url=http://localhost:1/v1")
    loop.run_loop(make_run("scored", "iterations=1", *scorer), stages_only=True)
    assert [call for call in calls if call[0] == "score"] == [("score", 0), ("score", 1)]
    assert calls.index(("score", 1)) == calls.index(("evaluate", 1)) + 1


def test_the_line_of_a_step_is_written_anew_on_a_screen_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 65.0, strftime=lambda _: "12:00:00")
    monkeypatch.setattr(loop, "time", clock)
    step = loop.Step(3, "judge", 2)
    label = "[ 3/11] iteration 2: 03_judging" + " " * 13
    line = loop.StepLine(step, 11, "about 9:00 left in all", on_screen=False, began=0.0)
    line.update("about 0:30 left")
    line.finish("")
    assert capsys.readouterr().out == f"{label}    1:05\n"
    line.on_screen = True
    line.update("about 0:30 left")
    line.update()
    line.finish("about 8:00 left in all")
    texts = [text.rstrip() for text in capsys.readouterr().out.split("\r")[1:]]
    notes = ("about 0:30 left", "about 9:00 left in all", "about 8:00 left in all")
    assert texts == [f"{label}    1:05  {note}" for note in notes]
    assert line.announcement() == (
        "Running: step 3 of 11, 03_judging of iteration 2, since 12:00:00; about 9:00 left in all. "
        "This page is written anew after each step."
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (notebooks.NotebookFailed("its kernel died\nas far as it came: x"), "its kernel died"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_the_index_says_why_a_run_stopped(
    make_run: Callable, monkeypatch: pytest.MonkeyPatch, error: BaseException, reason: str
) -> None:
    states = []

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(notebooks, "update_page", fail)
    monkeypatch.setattr(pages, "write_index", lambda run, state="": states.append(state))
    with pytest.raises(type(error)):
        loop.run_loop(make_run("stopped", "iterations=1"))
    assert states[0].startswith("Running: step 1 of 6, 01_data_prep of iteration 1, since ")
    where = "step 1 of 6, 01_data_prep of iteration 1"
    assert states[1:] == [f"Stopped in {where}: {reason}. The same command goes on from there."]


@pytest.mark.slow
def test_two_iterations_leave_every_page_and_number(small_loop: Path) -> None:
    terminal = (small_loop / "terminal.txt").read_text()
    assert "report.html" in terminal and "accuracy" in terminal
    lines = [line for line in terminal.splitlines() if line.startswith("[")]
    assert len(lines) == 11
    # once every stage was seen, each line says how long the rest takes
    assert all("left in all" in line for line in lines[5:10]), terminal
    table = pd.read_csv(small_loop / "summary.csv")
    assert table["iteration"].tolist() == [0, 1, 2]
    later = table[table["iteration"] > 0]
    for name in ("accuracy", "hallucination", "response_words"):
        assert table[name].notna().all()
        assert (table[f"{name}_low"] <= table[name] + 1e-9).all()
        assert (table[name] <= table[f"{name}_high"] + 1e-9).all()
    assert later["kept_share"].notna().all()
    assert table["prefers_longer"].isna().tolist() == [True, False, False]
    trained = later.dropna(subset=["dpo_loss_first"])
    assert trained["dpo_loss_first"].to_numpy() == pytest.approx(0.693147, abs=1e-4)
    names = sorted(str(path.relative_to(small_loop)) for path in small_loop.glob("iter_*/reports/*.html"))
    assert len(names) == 11
    # a library's warning, with a path of this machine
    assert all("site-packages" not in (small_loop / name).read_text() for name in names)
    index = (small_loop / "report.html").read_text()
    assert all(name in index for name in names) and "<script src=" not in index
    figures = {path.with_suffix("").name for path in small_loop.glob("iter_*/figures/*.png")}
    assert figures
    assert figures == {path.with_suffix("").name for path in small_loop.glob("iter_*/figures/*.csv")}


@pytest.mark.slow
def test_again_nothing_changes_and_it_takes_seconds(small_loop: Path) -> None:
    suffixes = (".jsonl", ".csv", ".html", ".ipynb")
    paths = [path for path in small_loop.rglob("*") if path.suffix in suffixes]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    began = time.monotonic()
    assert isrdpo("run", "params/toybox.yaml", f"run={small_loop}", *SMALL).returncode == 0
    assert time.monotonic() - began < 20
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}


@pytest.mark.slow
def test_changed_parameters_are_refused_by_name(small_loop: Path) -> None:
    changed = [*SMALL, "respond.temperature=0.5"]
    done = isrdpo("run", "params/toybox.yaml", f"run={small_loop}", *changed)
    assert done.returncode == 1
    assert "respond.temperature" in done.stderr and "Traceback" not in done.stderr


def write_data_of_ones_own(folder: Path) -> None:
    """Two clips, and four rows about them: two good ones, one without its video, one that leads out."""
    source = world.scenes("base", 77, world.Difficulty())
    scenes = [next(source) for _ in range(2)]
    names = world.write_clips(scenes, 77, world.Difficulty(), folder / "clips")
    chosen = {"from": "gpt", "value": "x"}
    turns = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A circle."}]
    stem = names[1].removesuffix(".mp4")
    rows = [
        {"id": "a", "video": names[0], "prompt": "What is there?<video>", "chosen": chosen, "rejected": "y"},
        {"idx": 7, "video": stem, "conversations": turns},
        {"id": "gone", "video": "not_there.mp4", "prompt": "<video>\nWhat?"},
        {"id": "out", "video": "../../../etc/passwd", "prompt": "<video>\nWhat?"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(text)
    held_out = text.replace('"id": "', '"id": "held out ').replace('"idx": 7', '"idx": 8')
    (folder / "test.qa.jsonl").write_text(held_out)


@pytest.mark.slow
def test_data_of_ones_own_with_a_missing_video(tmp_path: Path) -> None:
    write_data_of_ones_own(tmp_path / "mine")
    run = tmp_path / "real"
    arguments = ["params/toybox.yaml", f"run={run}", f"data={tmp_path / 'mine'}", "iterations=1"]
    refused = isrdpo("run", *arguments)
    assert refused.returncode == 1
    assert "max_bad_share" in refused.stderr and "gone" in refused.stderr
    done = isrdpo("run", *arguments, "max_bad_share=0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    bad = records.read_jsonl(run / "iter_01" / "bad_data.jsonl", dict)
    assert [row["id"] for row in bad] == ["gone", "out"] and "leads out" in bad[1]["detail"]
    samples = records.read_jsonl(run / "iter_01" / "samples.jsonl", dict)
    assert [row["id"] for row in samples] == ["a", "7"]


@pytest.mark.slow
def test_plain_papermill_names_the_missing_stage(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "alone"
    papermill = [sys.executable, "-m", "papermill"]
    sizes = ["-p", "samples", "8", "-p", "questions", "8"]
    first = [
        *papermill,
        "notebooks/01_data_prep.ipynb",
        str(tmp_path / "01.ipynb"),
        "-p",
        "run_dir",
        str(run),
    ]
    assert subprocess.run([*first, *sizes], capture_output=True, cwd=ROOT, check=False).returncode == 0
    third = [*papermill, "notebooks/03_judging.ipynb", str(tmp_path / "03.ipynb"), "-p", "run_dir", str(run)]
    done = subprocess.run(third, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode != 0 and "needs stage respond of iteration 1" in done.stderr
