"""The product as a user starts it: the command, the notebooks, the report, on the shipped base and on data of one's own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from isrdpo.core import records
from isrdpo.toybox import world
from tests.conftest import SMALL

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


def isrdpo(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "isrdpo.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603


def test_two_iterations_leave_every_page_and_number(small_loop: Path) -> None:
    told = (small_loop / "terminal.txt").read_text()
    assert "report.html" in told and "accuracy" in told
    lines = [line for line in told.splitlines() if line.startswith("[")]
    assert len(lines) == 11 and all("left in all" in line for line in lines[5:10]), told  # once every stage was seen, how long the rest takes
    table = pd.read_csv(small_loop / "summary.csv")
    assert table["iteration"].tolist() == [0, 1, 2]
    later = table[table["iteration"] > 0]
    for name in ("accuracy", "hallucination", "response_words"):
        assert table[name].notna().all() and (table[f"{name}_low"] <= table[name] + 1e-9).all() and (table[name] <= table[f"{name}_high"] + 1e-9).all()
    assert later["kept_share"].notna().all() and table["prefers_longer"].isna().tolist() == [True, False, False]
    trained = later.dropna(subset=["dpo_loss_first"])
    assert trained["dpo_loss_first"].to_numpy() == pytest.approx(0.693147, abs=1e-4)
    pages = sorted(str(p.relative_to(small_loop)) for p in small_loop.glob("iter_*/reports/*.html"))
    assert len(pages) == 11
    assert all("site-packages" not in (small_loop / p).read_text() for p in pages)  # a library's warning, with a path of this machine
    index = (small_loop / "report.html").read_text()
    assert all(page in index for page in pages) and "<script src=" not in index
    figures = {p.with_suffix("").name for p in small_loop.glob("iter_*/figures/*.png")}
    assert figures and figures == {p.with_suffix("").name for p in small_loop.glob("iter_*/figures/*.csv")}


def test_again_nothing_changes_and_it_takes_seconds(small_loop: Path) -> None:
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in small_loop.rglob("*") if p.suffix in (".jsonl", ".csv", ".html", ".ipynb")}
    began = time.monotonic()
    assert isrdpo("run", "params/toybox.yaml", f"run={small_loop}", *SMALL).returncode == 0
    assert time.monotonic() - began < 20
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before}


def test_changed_parameters_are_refused_by_name(small_loop: Path) -> None:
    made = isrdpo("run", "params/toybox.yaml", f"run={small_loop}", *SMALL, "respond.temperature=0.5")
    assert made.returncode == 1 and "respond.temperature" in made.stderr and "Traceback" not in made.stderr


def test_data_of_ones_own_with_a_missing_video(tmp_path: Path) -> None:
    folder, clips = tmp_path / "mine", tmp_path / "mine" / "clips"
    source = world.scenes("base", 77, world.Difficulty())
    names = world.write_clips([next(source) for _ in range(2)], 77, world.Difficulty(), clips)
    turns = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A circle."}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [
        {"id": "a", "video": names[0], "prompt": "What is there?<video>", "chosen": {"from": "gpt", "value": "x"}, "rejected": "y"},
        {"idx": 7, "video": names[1].removesuffix(".mp4"), "conversations": turns},
        {"id": "gone", "video": "not_there.mp4", "prompt": "<video>\nWhat?"},
        {"id": "out", "video": "../../../etc/passwd", "prompt": "<video>\nWhat?"},
    ]))  # fmt: skip
    held_out = (folder / "train.jsonl").read_text().replace('"id": "', '"id": "held out ').replace('"idx": 7', '"idx": 8')
    (folder / "test.qa.jsonl").write_text(held_out)
    mine = ["params/toybox.yaml", f"run={tmp_path / 'real'}", f"data={folder}", "iterations=1"]
    refused = isrdpo("run", *mine)
    assert refused.returncode == 1 and "max_bad_share" in refused.stderr and "gone" in refused.stderr
    made = isrdpo("run", *mine, "max_bad_share=0.5")
    assert made.returncode == 0, made.stdout + made.stderr
    bad = records.read_jsonl(tmp_path / "real" / "iter_01" / "bad_data.jsonl", dict)
    assert [row["id"] for row in bad] == ["gone", "out"] and "leads out" in bad[1]["detail"]
    assert [row["id"] for row in records.read_jsonl(tmp_path / "real" / "iter_01" / "samples.jsonl", dict)] == ["a", "7"]


def test_plain_papermill_names_the_missing_stage(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "alone"
    first = [sys.executable, "-m", "papermill", "notebooks/01_data_prep.ipynb", str(tmp_path / "01.ipynb"), "-p", "run_dir", str(run), "-p", "samples", "8",
             "-p", "questions", "8"]  # fmt: skip
    assert subprocess.run(first, capture_output=True, cwd=ROOT, check=False).returncode == 0  # noqa: S603
    third = [sys.executable, "-m", "papermill", "notebooks/03_judging.ipynb", str(tmp_path / "03.ipynb"), "-p", "run_dir", str(run)]
    made = subprocess.run(third, capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603
    assert made.returncode != 0 and "needs stage respond of iteration 1" in made.stderr
