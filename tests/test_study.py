"""Studies: arms x seeds from one file, resumed, compared, with one clear line for what is wrong."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from isrdpo import study
from isrdpo.core import params, records
from isrdpo.core.runs import Run
from isrdpo.reports import compare, summary
from isrdpo.stages import data, evaluate

ROOT = Path(__file__).parents[1]
STUDY = """preset: params/toybox.yaml
run: {run}
seeds: [0, 1]
parallel: 2
set: {{iterations: 1}}
arms:
  isr: {{}}
  self_reward: {{respond.context: none, seeds: [1]}}
"""


def study_file(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.yaml"
    path.write_text(text.format(run=folder / "runs"))
    return path


def test_a_study_is_its_arms_times_its_seeds(tmp_path: Path) -> None:
    loaded = study.load(study_file(tmp_path), overrides=["train.epochs=1"])
    names = [(arm, cell.seed, Path(cell.run).name) for arm, cell in loaded.cells]
    assert names == [("isr", 0, "isr-0"), ("isr", 1, "isr-1"), ("self_reward", 1, "self_reward-1")]
    assert loaded.cells[2][1].respond.context == "none"
    assert all(cell.train.epochs == 1 and cell.iterations == 1 for _, cell in loaded.cells)


def test_a_study_runs_fewer_seeds_or_only_some_arms(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    assert len(study.load(path, seeds=1).cells) == 2
    elsewhere = tmp_path / "elsewhere"
    some = study.load(path, overrides=[f"run={elsewhere}"], only=["self_reward"])
    assert {arm for arm, _ in some.cells} == {"self_reward"}
    assert some.folder == elsewhere
    assert all(cell.run.startswith(str(elsewhere)) for _, cell in some.cells)
    with pytest.raises(params.ParamsError, match="there is no arm isrr; it has"):
        study.load(path, only=["isrr"])


def test_the_shipped_study_runs_two_at_a_time() -> None:
    assert study.load(ROOT / "params" / "study.yaml").parallel == 2


def test_the_sensitivity_changes_one_thing_at_a_time_for_both_arms() -> None:
    loaded = study.load(ROOT / "params" / "sensitivity.yaml", seeds=1)
    cells = {arm: cell.to_dict() | {"run": "", "arm": ""} for arm, cell in loaded.cells}
    for name in {arm.removeprefix("isr") for arm in cells if arm.startswith("isr")}:
        isr = cells[f"isr{name}"]
        assert differing_keys(isr, cells[f"self_reward{name}"]) == ["respond.context"], "both arms alike"
        assert len(differing_keys(cells["isr"], isr)) == (1 if name else 0)


def differing_keys(one: dict, two: dict, prefix: str = "") -> list[str]:
    """Return the dotted keys whose values differ."""
    keys: list[str] = []
    for key, value in one.items():
        if isinstance(value, dict):
            keys += differing_keys(value, two[key], f"{prefix}{key}.")
        elif value != two[key]:
            keys.append(f"{prefix}{key}")
    return keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset: x\n", "run is missing"),
        (STUDY + "sedes: 3\n", "there is no key sedes; known here: preset, run"),
        (STUDY.replace("isr: {{}}", "isr: 3"), "arms maps each arm's name to its keys"),
        (
            STUDY.replace("respond.context: none", "respond.contxt: none"),
            "self_reward: there is no key respond.contxt; did you mean respond.context?",
        ),
        (STUDY.replace("seeds: [0, 1]", "seeds: 3"), "isr: seeds: 3 is not a list of whole numbers"),
        (STUDY.replace("parallel: 2", "parallel: no"), "parallel: 'no' is not a number of runs"),
    ],
)
def test_a_wrong_study_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(params.ParamsError) as error:
        study.load(study_file(tmp_path, text))
    assert message in str(error.value)
    assert str(tmp_path / "study.yaml") in str(error.value)


def test_the_bases_evaluation_is_made_once(make_run: Callable) -> None:
    one = make_run("isr-0")
    two = make_run("self_reward-0", "respond.context=none")
    other = make_run("isr-1", "seed=1")
    evaluate_base(one)
    for run in (two, other):
        study.adopt_base_evaluation(run, [one, two, other])
    assert two.done("evaluate", 0)
    assert two.file(0, "answers.jsonl").read_bytes() == one.file(0, "answers.jsonl").read_bytes()
    assert not other.done("evaluate", 0), "other questions"
    assert not other.iteration(0).exists(), "other questions"


def evaluate_base(run: Run) -> None:
    data.run(run, 1)
    evaluate.run(run, 0)


def test_runs_at_a_time_share_the_cores_and_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert study.slot_environment(0, 1, []) == {}
    assert study.slot_environment(0, 1, ["0", "1"]) == {"CUDA_VISIBLE_DEVICES": "0"}
    gpus = [study.slot_environment(slot, 3, ["4", "6"])["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert gpus == ["4", "6", "4"]
    assert set(study.slot_environment(1, 2, ["0"])) == {"OMP_NUM_THREADS"}, "the only GPU needs no name"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert study.slot_environment(1, 2, []) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    import torch

    assert study.visible_gpus() == ["5", "7"][: torch.cuda.device_count()]


@pytest.mark.slow
def test_a_study_runs_resumes_and_names_what_failed(random_base: Path, tmp_path: Path) -> None:
    overrides = [
        "data.samples=8",
        "data.questions=6",
        "data.fixed_pairs=4",
        "max_bad_share=1.0",
        "respond.max_new_tokens=8",
        "respond.context_max_new_tokens=8",
        "evaluate.max_new_tokens=8",
        f"model.path={random_base}",
        "judge.orders=1",
    ]
    command = [sys.executable, "-m", "isrdpo", "study", str(study_file(tmp_path)), *overrides]

    def start(*more: str) -> subprocess.CompletedProcess:
        line = [*command, *more]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603

    first = start()
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count(": iteration 1") == 3
    assert "[3/3]" in first.stdout
    runs = tmp_path / "runs"
    page = runs / "comparison.html"
    text = page.read_text()
    assert "Warning" not in text
    assert "<script" not in text
    assert "isr (seeds 0, 1); self_reward (seed 1)" in text
    assert "isr against self_reward after 1 iterations" in text
    assert text.count("<svg") >= 10
    results = pd.read_csv(runs / "results.csv")
    assert results["arm"].value_counts().to_dict() == {"isr": 4, "self_reward": 2}

    page_time = page.stat().st_mtime_ns
    assert start().returncode == 0
    assert page.stat().st_mtime_ns == page_time, "nothing new, nothing made"

    answers = runs / "isr-0" / "iter_01" / "answers.jsonl"
    answers_time = answers.stat().st_mtime_ns
    began = time.monotonic()
    (runs / "isr-1" / "iter_01" / ".done" / "evaluate.json").unlink()
    again = start()
    assert again.returncode == 0
    assert time.monotonic() - began < 120
    assert "isr-1: iteration 1" in again.stdout
    assert "isr-0: iteration" not in again.stdout
    assert answers.stat().st_mtime_ns == answers_time

    records.write_text(runs / "isr-1" / "iter_01" / "samples.jsonl", "")
    (runs / "isr-1" / "iter_01" / ".done" / "respond.json").unlink()
    broken = start("data.samples=9")
    assert broken.returncode == 1
    assert "data.samples changed" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert summary.table(compare.open_runs(str(runs / "isr-0"))[0])["iteration"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("preset: 3\nrun: r\nseeds: [0]\narms: {isr: {}}", "preset: 3 is not a path"),
        ("preset: p\nrun: [1]\nseeds: [0]\narms: {isr: {}}", "run: [1] is not a path"),
        ("preset: p\nrun: r\nseeds: [0]\narms: {../x: {}}", "arms: '../x' is no word, and names a folder"),
        ("preset: p\nrun: r\nseeds: [0]\nparallel: true\narms: {isr: {}}", "parallel: True is not a number"),
        ("preset: p\nrun: r\nseeds: [0, 0]\narms: {isr: {}}", "seeds: [0, 0] has one twice"),
        ("preset: p\nrun: r\nseeds: {a: 0}\narms: {isr: {}}", "seeds: {'a': 0} is not a list"),
    ],
)
def test_a_study_that_cannot_be_run_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(params.ParamsError) as error:
        study.load(tmp_path / "study.yaml")
    assert says in str(error.value)


def test_text_of_a_study_stays_text(tmp_path: Path) -> None:
    text = "preset: params/toybox.yaml\nrun: r\nseeds: [0]\n"
    text += "arms: {isr: {model.image_tower: '2e3', data.source: 'null', prompts.context: '\"Why?\"'}}"
    (tmp_path / "study.yaml").write_text(text)
    loaded = study.load(tmp_path / "study.yaml", overrides=["data.source=train"]).cells[0].params
    assert (loaded.model.image_tower, loaded.prompts.context) == ("2e3", '"Why?"')
