"""A study's runs know their arms, its pool starts and ends processes, and its clock counts iterations.

How a study file is read, and a whole study, are tested beside the comparison of its runs.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo import study
from isrdpo.core import params, records
from isrdpo.core.pipeline import STAGES
from isrdpo.core.runs import Run

TEXT = """\
preset: params/toybox.yaml
run: {folder}
seeds: [0, 1]
set: {{iterations: 2}}
arms:
  isr: {{}}
  hot: {{respond.temperature: 1.5, seeds: [4]}}
"""


def study_file(folder: Path, text: str = TEXT) -> Path:
    path = folder / "study.yaml"
    path.write_text(text.format(folder=folder / "runs"))
    return path


def test_each_run_has_its_arm_in_its_parameters(tmp_path: Path) -> None:
    cells = study.load(study_file(tmp_path)).cells
    assert [(cell.arm, cell.params.seed) for cell in cells] == [("isr", 0), ("isr", 1), ("hot", 4)]
    assert [cell.params.arm for cell in cells] == ["isr", "isr", "hot"]
    assert [cell.params.respond.temperature == 1.5 for cell in cells] == [False, False, True]


def test_a_run_made_before_arms_were_recorded_goes_on(tmp_path: Path) -> None:
    cell = study.load(study_file(tmp_path)).cells[0]
    Run.create(cell.params.override("", {"arm": ""}))
    run = Run.create(cell.params)
    with run.stage("data", 0):
        pass
    assert run.params.arm == "isr" and run.done("data", 0)
    Run.create(cell.params.override("", {"arm": "other"}))  # an arm's name changes no row
    assert Run.open(run.folder).done("data", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("arms:", "sedes: 3\narms:"), "there is no key sedes; known here: preset, run, seeds, parallel, "),
        (("arms:", "sedes: 3\narms:"), "set, arms; did you mean seeds?"),
        (("set: {{iterations: 2}}", "set: 3"), "study.yaml: set maps keys to values"),
        (("seeds: [0, 1]", "seeds: [true]"), "isr: seeds: [True] is not a list of whole numbers"),
    ],
)
def test_a_wrong_study_names_the_nearest_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = study_file(tmp_path, TEXT.replace(*change))
    with pytest.raises(params.ParamsError) as error:
        study.load(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    with pytest.raises(params.ParamsError, match="there is no arm hott; it has isr, hot; did you mean hot?"):
        study.load(study_file(tmp_path), only=["hott"])


def test_a_failed_run_is_named_with_the_last_line_that_it_said(tmp_path: Path) -> None:
    text = TEXT.replace(
        "iterations: 2", "iterations: 1, model.path: nowhere/at all, data.samples: 4, data.questions: 4"
    )
    with pytest.raises(study.RunError) as error:
        study.run_study(study.load(study_file(tmp_path, text), only=["hot"]))
    assert str(error.value).startswith(f"{tmp_path / 'runs' / 'hot-4'}: isrdpo: ")


def finish_iterations(run: Run, last: int) -> None:
    """Markers of the stages of iterations up to `last`, without what is behind them."""
    for t in range(last + 1):
        for stage in STAGES if t else ("data", "evaluate"):
            with run.stage(stage, t):
                pass


def test_the_watch_counts_iterations_and_says_how_long_the_rest_takes(
    make_run: Callable, capsys: pytest.CaptureFixture
) -> None:
    runs = [make_run("isr-0", "iterations=2"), make_run("isr-1", "iterations=2", "seed=1")]
    finish_iterations(runs[0], 1)
    watch = study.Watch(runs)
    assert (watch.done, watch.total, watch.time_left()) == (1, 4, "")
    finish_iterations(runs[1], 2)
    assert study.is_finished(runs[1]) and not study.is_finished(runs[0])
    watch.began = time.monotonic() - 60
    watch.look(runs[1])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[2/4] isr-1: iteration 1   about 2:00 left in all")
    assert second.startswith("[3/4] isr-1: iteration 2   about 0:30 left in all")
    watch.look(runs[1])
    assert capsys.readouterr().out == ""


def test_slots_share_the_machine_and_end_their_processes(
    make_run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    slots = study.open_slots(2)
    assert all(int(slot.environment["OMP_NUM_THREADS"]) >= 1 for slot in slots)
    run = make_run("isr-0")
    slots[0].start(run)
    process = slots[0].process
    assert process and not slots[0].has_ended() and not slots[1].has_ended()
    study._stop(slots)
    assert process.returncode != 0 and slots[0].has_ended()
    slots[0].clear()
    assert slots[0].run is None and not slots[0].has_ended()
    records.write_text(run.folder / "study.log", "first\nisrdpo: last\n")
    assert study.last_line(run.folder / "study.log") == "isrdpo: last"
    assert study.last_line(run.folder / "nothing.log") == "it said nothing"
