"""What notebook 07 times: both sides do the same work, the shared one less of it, and the page says so."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from isrdpo import benchmark
from isrdpo.models import hound

ROOT = Path(__file__).parent.parent


def test_both_sides_give_the_same_and_the_shared_one_encodes_less(
    make_run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("speed")
    encoded = []
    encode = hound.HoundProcessor.encode

    def count_and_encode(self: hound.HoundProcessor, *arguments: object) -> object:
        encoded.append(1)
        return encode(self, *arguments)

    monkeypatch.setattr(hound.HoundProcessor, "encode", count_and_encode)
    counts = {}
    for case in benchmark.cases(run.params, benchmark.clips(run.params, 2)):
        for side in ("apart", "shared"):
            encoded.clear()
            getattr(case, side)()
            counts[case.name, side] = len(encoded)
        gap = benchmark.difference(case.apart(), case.shared())
        assert gap < 1e-3 if case.name == "judge" else gap == 0, case.name
    assert counts["encode", "apart"] == 8 and counts["encode", "shared"] == 2
    assert counts["train", "apart"] == 8 and counts["train", "shared"] == 0


class CountingCase:
    """A case that notes the order in which its sides are called."""

    name = "counting"
    what = "nothing"

    def __init__(self) -> None:
        self.calls = ""

    def apart(self) -> list[str]:
        self.calls += "a"
        return ["same", "other"]

    def shared(self) -> list[str]:
        self.calls += "s"
        return ["same", "another"]


def test_both_sides_take_turns_in_going_first() -> None:
    case = CountingCase()
    turns = benchmark.measure([case], 3)
    assert case.calls == "as" + "as" + "sa" + "as"
    assert [turn["turn"] for turn in turns] == [1, 2, 3]
    for turn in turns:
        assert turn["ratio"] == turn["apart_seconds"] / turn["shared_seconds"] and turn["difference"] == 0.5


def test_a_summary_is_of_medians_with_the_extremes() -> None:
    turns = [
        benchmark.Turn(
            case="x", turn=number, apart_seconds=seconds, shared_seconds=1.0, ratio=seconds, difference=0.0
        )
        for number, seconds in enumerate((3.0, 1.0, 2.0))
    ]
    summary = {
        "case": "x",
        "apart_seconds": 2.0,
        "shared_seconds": 1.0,
        "ratio": 2.0,
        "ratio_min": 1.0,
        "ratio_max": 3.0,
        "turns": 3,
        "difference": 0.0,
    }
    assert benchmark.summarize(turns) == [summary]


def test_a_difference_is_a_share_of_texts_or_the_largest_of_numbers() -> None:
    assert benchmark.difference(["a", "b"], ["a", "c"]) == 0.5
    assert (
        benchmark.difference(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.5], [3, 4]]))
        == 0.5
    )


@pytest.mark.slow
def test_the_notebook_ends_in_its_page(random_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "isrdpo", "benchmark", "params/toybox.yaml", f"model.path={random_base}"]
    command += ["--clips", "2", "--repeats", "2", "--to", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "apart / shared" in (tmp_path / "out/benchmark.html").read_text()
    table = pd.read_csv(tmp_path / "out/turns.csv")
    assert list(table.groupby("case", sort=False).size()) == [2] * 4 and (table["ratio"] > 0).all()
