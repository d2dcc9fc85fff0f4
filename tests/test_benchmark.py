"""What notebook 07 times: both sides do the same work, the shared one less of it, and the page says so."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from isrdpo import benchmark as speed
from isrdpo.models import hound


def test_both_sides_give_the_same_and_the_shared_one_encodes_less(make_run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run, encoded = make_run("speed"), []
    whole = hound.HoundProcessor.encode
    monkeypatch.setattr(hound.HoundProcessor, "encode", lambda self, *given: encoded.append(1) or whole(self, *given))
    counts = {}
    for case in speed.cases(run.params, speed.clips(run.params, 2)):
        for side in ("apart", "shared"):
            encoded.clear()
            getattr(case, side)()
            counts[case.name, side] = len(encoded)
        gap = speed.difference(case.apart(), case.shared())
        assert gap < 1e-3 if case.name == "judge" else gap == 0, case.name
    assert counts["encode", "apart"] == 8 and counts["encode", "shared"] == 2 and counts["train", "apart"] == 8 and counts["train", "shared"] == 0


def test_a_summary_is_of_medians_with_the_extremes() -> None:
    rows = [{"case": "x", "turn": t, "apart_seconds": a, "shared_seconds": 1.0, "ratio": a, "difference": 0.0} for t, a in enumerate((3.0, 1.0, 2.0))]
    assert speed.summary(rows) == [{"case": "x", "apart_seconds": 2.0, "shared_seconds": 1.0, "ratio": 2.0, "ratio_min": 1.0, "ratio_max": 3.0, "turns": 3, "difference": 0.0}]


def test_texts_that_differ_are_a_share() -> None:
    assert speed.difference(["a", "b"], ["a", "c"]) == 0.5


@pytest.mark.slow
def test_the_notebook_ends_in_its_page(random_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "isrdpo", "benchmark", "params/toybox.yaml", f"model.path={random_base}", "--clips", "2", "--repeats", "2", "--to", str(tmp_path / "out")]
    made = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "apart / shared" in (tmp_path / "out/benchmark.html").read_text()
    table = pd.read_csv(tmp_path / "out/turns.csv")
    assert list(table.groupby("case", sort=False).size()) == [2] * 4 and (table["ratio"] > 0).all()


def test_the_readmes_ratios_are_those_of_the_published_csv() -> None:
    root = Path(__file__).parent.parent
    found = speed.summary(pd.read_csv(root / "outputs/published/benchmark.csv").to_dict("records"))
    text = (root / "README.md").read_text()
    rows = [line.split("|")[2].strip() for line in text[text.index("| | apart / shared |") :].splitlines()[2:6]]
    assert rows == [f"{row['ratio']:.1f} ({row['ratio_min']:.1f}, {row['ratio_max']:.1f})" for row in found]
