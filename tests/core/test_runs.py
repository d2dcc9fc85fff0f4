"""The stage contract: markers, resuming, bad samples, the lock; and what a run refuses."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isrdpo.core import errors, folders, params, pipeline, records, runs
from isrdpo.core.runs import Run

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
STEPS = [
    ("data", 0),
    ("data", 1),
    ("respond", 1),
    ("judge", 1),
    ("train", 1),
    ("evaluate", 0),
    ("evaluate", 1),
    ("data", 2),
    ("respond", 2),
]
HOLD_BRIEFLY = """
import sys
from pathlib import Path
from isrdpo.core import folders, runs

folders.LOCK_SECONDS = 0.3
with runs.Run(Path(sys.argv[1])).lock():
    print("got it")
"""
HOLD_LONG = """
import sys, time
from pathlib import Path
from isrdpo.core import runs

with runs.Run(Path(sys.argv[1])).lock():
    print("got it", flush=True)
    time.sleep(60)
"""


def settings(folder: Path, *overrides: str) -> params.Params:
    return params.load(PRESET, [f"run={folder}", *overrides])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(settings(tmp_path / "run"))


def finish(run: Run, *steps: tuple[str, int]) -> None:
    """Make stages done, with files that hold next to nothing."""
    for name, iteration in steps:
        with run.stage(name, iteration) as stage:
            if stage is None:
                continue
            for file in pipeline.TABLE[name].files:
                if file in ("policy", "checkpoints"):
                    stage.path(file).mkdir()
                else:
                    records.write_jsonl(stage.path(file), [{"made": stage.key}])


def test_a_run_is_made_once_and_opened_after(run: Run) -> None:
    assert Run.open(run.folder).params == run.params == Run.create(run.params).params
    names = sorted(path.name for path in run.folder.iterdir())
    assert names == [".lock", ".lock.pid", "params.yaml", "provenance.json"]
    says = "no run here; stage data of iteration 1 makes it: start with notebook 01"
    with pytest.raises(errors.MissingStage, match=says):
        Run.open(run.folder.parent / "other")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    says = "not a run .it holds thesis.txt.; give a new or empty folder as run="
    with pytest.raises(errors.RunError, match=says):
        Run.create(settings(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_paths(run: Run) -> None:
    assert run.file(3, "samples.jsonl") == run.folder / "iter_03" / "samples.jsonl"
    assert run.policy(1) == "toybox" == run.policy_after(0)
    assert run.policy(3) == str(run.folder / "iter_02" / "policy") == run.policy_after(2)
    assert run.videos_folder() == run.folder.parent / ".cache" / "clips"


def test_clips_outside_the_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "clips").symlink_to(tmp_path / "elsewhere")
    run = Run.create(settings(tmp_path / "run", f"data={tmp_path / 'data'}"))
    with pytest.raises(errors.RunError, match="data.videos leads out of data.path"):
        run.videos_folder()


def test_relative_paths_count_from_the_project_root(monkeypatch: pytest.MonkeyPatch) -> None:
    root = PRESET.parent.parent
    monkeypatch.chdir(root / "notebooks")
    assert folders.project_root() == root
    assert folders.resolve("outputs/x") == root / "outputs" / "x"
    assert folders.display_path(root / "outputs" / "x") == "outputs/x"
    assert folders.display_path(Path("/elsewhere")) == "/elsewhere"


def test_marker_is_written_last_and_ends_the_stage(run: Run) -> None:
    with run.stage("data", 1) as stage:
        stage.total = 100
        stage.bad("7", "missing video", "clip.mp4")
        stage.count("samples", 99)
        stage.warn("one is gone")
        assert run.done("data", 1) is None
    marker = run.done("data", 1)
    assert marker["total"] == 100
    assert marker["counts"] == {"samples": 99}
    assert marker["bad"] == {"missing video": 1}
    assert marker["warnings"] == ["one is gone"]
    assert marker["params"]["data.samples"] == run.params.data.samples
    assert "data.questions" not in marker["params"]
    assert marker["peak_rss_mb"] > 1
    bad_rows = records.read_jsonl(run.file(1, "bad_data.jsonl"), dict)
    assert bad_rows == [{"id": "7", "cause": "missing video", "detail": "clip.mp4"}]
    with run.stage("data", 1) as stage:
        assert stage is None


def test_an_exception_leaves_no_marker(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.stage("data", 1) as stage:
        records.write_jsonl(stage.path("samples.jsonl"), [])
        raise ZeroDivisionError
    assert run.done("data", 1) is None
    assert run.file(1, "samples.jsonl").exists()


def test_too_many_bad_samples_fail_by_name(run: Run) -> None:
    says = (
        r"bad_data.jsonl: 10% of 20 samples are bad \(2 missing video, 1 broken video\), "
        r"above max_bad_share=0.05; .*first: a: a.mp4"
    )
    with pytest.raises(errors.BadShare, match=says), run.stage("data", 1) as stage:
        stage.total = 20
        stage.bad("a", "missing video", "a.mp4")
        stage.bad("a", "missing video", "again")
        stage.bad("b", "broken video", "")
    assert run.done("data", 1) is None
    assert len(records.read_jsonl(run.file(1, "bad_data.jsonl"), dict)) == 3
    run.override("", {"max_bad_share": 0.5})
    with run.stage("data", 1) as stage:
        stage.total = 20
        stage.bad("a", "missing video")
    assert run.done("data", 1)


@pytest.mark.parametrize(
    ("step", "missing"),
    [
        (("respond", 1), ("data", 1)),
        (("judge", 1), ("respond", 1)),
        (("train", 1), ("judge", 1)),
        (("evaluate", 0), ("data", 0)),
    ],
)
def test_a_missing_stage_is_named_with_its_command(
    run: Run, step: tuple[str, int], missing: tuple[str, int]
) -> None:
    says = (
        rf"stage {step[0]} of iteration {step[1]} needs stage {missing[0]} of iteration {missing[1]}, .*"
        rf"`isrdpo stage {missing[0]} --run .* --iteration {missing[1]}`"
    )
    with pytest.raises(errors.MissingStage, match=says), run.stage(*step):
        pass


@pytest.mark.parametrize(("name", "iteration"), [("respond", 0), ("data", 4), ("train", -1)])
def test_an_iteration_that_a_run_does_not_have_is_refused(run: Run, name: str, iteration: int) -> None:
    says = f"there is no {name} in iteration {iteration}; this run has iterations 1 to 3"
    with pytest.raises(errors.RunError, match=says), run.stage(name, iteration):
        pass


def test_rows_under_an_old_key_go_before_new_ones_come(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt), run.stage("data", 1) as stage:
        log = stage.batches("samples.jsonl", dict, [], 2, "rows").log
        log.append([{"old": True}])
        (run.iteration(1) / ".eval.json.123.part").write_text("torn")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), run.stage("data", 1) as stage:
        assert stage.batches("samples.jsonl", dict, [], 2, "rows").log.done == 1, "resumes under the same key"
        assert not list(run.iteration(1).glob(".*.part"))
        raise KeyboardInterrupt
    says = "data.samples changed, and stage data of iteration 1 made under the old value"
    with pytest.raises(errors.RunError, match=says):
        run.override("data", {"samples": 7})
    run.update(run.params.override("data", {"samples": 7}), redo=True)
    with run.stage("data", 1) as stage:
        assert stage.batches("samples.jsonl", dict, [], 2, "rows").log.done == 0, (
            "nothing of the old key is left"
        )


def test_a_notebooks_value_is_recorded_before_its_stage(run: Run) -> None:
    run.override("respond", {"temperature": 1.0, "top_k": None})
    assert Run.open(run.folder).params.respond.temperature == 1.0
    finish(run, *STEPS[:3])
    before = (run.folder / "params.yaml").stat().st_mtime_ns
    run.override("respond", {"temperature": 1.0})
    run.override("respond", {"temperature": None})
    assert (run.folder / "params.yaml").stat().st_mtime_ns == before
    says = "respond.temperature changed, and stage respond of iteration 1 made under the old value"
    with pytest.raises(errors.RunError, match=says):
        run.override("respond", {"temperature": 0.5})
    run.override("judge", {"orders": 1})
    assert Run.open(run.folder).params.respond.temperature == 1.0
    with pytest.raises(params.ParamsError, match="respond.temperature: -1.0 is not a number, 0 or more"):
        run.override("respond", {"temperature": -1.0})


def test_changed_parameters_of_a_run(run: Run) -> None:
    finish(run, *STEPS)
    in_order = sorted(STEPS, key=lambda step: (step[1], pipeline.STAGES.index(step[0])))
    assert run.finished() == run.started() == in_order
    more = Run.create(settings(run.folder, "iterations=5", "respond.batch_size=1"))
    assert more.params.iterations == 5
    assert more.done("respond", 2)
    with pytest.raises(errors.RunError, match="iterations=1 is fewer than the 2 that are there"):
        Run.create(settings(run.folder, "iterations=1"))
    says = (
        "iterations, respond.batch_size, train.beta changed, and stage train of iteration 1 and 2 more made"
    )
    with pytest.raises(errors.RunError, match=says):
        Run.create(settings(run.folder, "train.beta=0.3"))
    assert Run.open(run.folder).params == more.params
    again = Run.create(settings(run.folder, "train.beta=0.3"), redo=True)
    finished = [("data", 0), ("evaluate", 0), ("data", 1), ("respond", 1), ("judge", 1), ("data", 2)]
    assert again.finished() == finished
    later = Run.create(settings(run.folder, "train.beta=0.3", "iterations=4"))
    assert later.params.iterations == 4, "what is to do again does not refuse later"


def test_redoing_an_evaluation_trains_dropped_policies_again(run: Run) -> None:
    finish(run, *STEPS)
    run.file(1, "policy").rmdir()
    Run.create(settings(run.folder, "evaluate.max_new_tokens=7"), redo=True)
    assert ("train", 1) not in run.finished()
    assert ("judge", 1) in run.finished()
    assert ("evaluate", 0) not in run.finished()


def test_the_lock_is_reentrant_here_and_refuses_others_by_name(run: Run) -> None:
    command = [sys.executable, "-c", HOLD_BRIEFLY, str(run.folder)]
    with run.lock(), run.lock(), Run.open(run.folder).lock():
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"process {os.getpid()} works on this run; wait for it or stop it" in other.stderr
        assert "got it" not in other.stdout
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout == "got it\n"


def test_a_killed_holder_frees_the_lock(run: Run) -> None:
    command = [sys.executable, "-c", HOLD_LONG, str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "got it\n"
        holder.send_signal(signal.SIGKILL)
        with run.lock():
            pass


def test_draw_seeds_differ_by_everything_and_stay() -> None:
    seeds = set()
    for run_seed in (0, 1):
        for iteration in (1, 2):
            for sample in ("a", "b", "1", "11"):
                seeds |= {runs.draw_seed(run_seed, iteration, sample, draw) for draw in ("0", "1", "context")}
    assert len(seeds) == 48
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert runs.draw_seed(0, 1, "a", "y1") == 1576008049986518146


def test_only_our_own_errors_and_the_file_systems_are_one_line() -> None:
    expected = (
        errors.MissingStage("x"),
        params.ParamsError("x"),
        records.RecordError("x"),
        FileNotFoundError("x"),
    )
    assert all(errors.is_expected(error) for error in expected)
    assert not errors.is_expected(ValueError("a programming error keeps its traceback"))
    assert not errors.is_expected(KeyError("x"))


def test_a_stage_on_the_command_line_says_one_line(run: Run) -> None:
    nothing = run.folder / "no"
    expected = {
        run.folder: f"isrdpo judge: {run.folder}: stage judge of iteration 1 needs stage respond",
        nothing: f"isrdpo judge: {nothing}: no run here",
    }
    for folder, says in expected.items():
        command = [sys.executable, "-m", "isrdpo.stages.judge", "--run", str(folder), "--iteration", "1"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode == 1
        assert process.stderr.startswith(says)
        assert process.stderr.count("\n") == 1


def test_a_moved_run_is_where_it_lies(run: Run, tmp_path: Path) -> None:
    finish(run, *STEPS[:3])
    moved = Run.open(run.folder.rename(tmp_path / "moved"))
    assert moved.params.run == str(tmp_path / "moved")
    assert moved.policy(2) == str(tmp_path / "moved" / "iter_01" / "policy")
    assert moved.done("respond", 1)
    preset = moved.folder / "params.yaml"
    assert runs.own_folder(preset, []) == [f"run={tmp_path / 'moved'}"]
    assert runs.own_folder(preset, ["run=elsewhere"]) == []
    assert runs.own_folder(PRESET, []) == []
    again = Run.create(params.load(preset, runs.own_folder(preset, [])))
    assert again.folder == tmp_path / "moved"
    moved.override("judge", {"orders": 1})
    assert f"run: {tmp_path / 'moved'}" in preset.read_text()
    assert not run.folder.exists()


def test_a_torn_key_neither_keeps_nor_drops_rows(run: Run) -> None:
    finish(run, *STEPS[:2])
    key = run.file(1, ".data.key")
    for content in (b"", b"\0" * 32, b"\xff", b"abc"):
        key.write_bytes(content)
        with pytest.raises(
            records.RecordError, match=r"\.data\.key: torn or edited.*stage data of iteration 1"
        ):
            run.update(run.params.override("data", {"samples": 7}))
    key.unlink()
    assert run.file(1, "samples.jsonl").exists()
    with run.stage("data", 1) as stage:
        assert stage is None


def test_a_torn_marker_says_what_to_remove(run: Run) -> None:
    finish(run, *STEPS[:3])
    path = run.marker_path("respond", 1)
    whole = records.read_json(path)
    for damage in ({"key": 1}, {"counts": {"a": "b"}}, {"warnings": None}, {"seconds": "long"}):
        records.write_json(path, whole | damage)
        with pytest.raises(
            records.RecordError, match=r"respond\.json: .*stage respond of iteration 1 is done"
        ):
            run.done("respond", 1)
    path.unlink()
    assert run.done("respond", 1) is None


def test_folders_of_a_users_own_beside_the_iterations_are_passed_over(run: Run) -> None:
    finish(run, *STEPS[:2])
    for name in ("iter_old", "iter_1", "iter_01 (copy)"):
        (run.folder / name / ".done").mkdir(parents=True)
        (run.folder / name / ".done" / "data.json").write_text("{}")
    (run.iteration(1) / ".done" / "data (copy).json").write_text("{}")
    (run.iteration(1) / ".mine.key").write_text("x")
    assert run.finished() == run.started() == STEPS[:2]


def test_provenance_that_was_removed_is_written_anew(run: Run) -> None:
    path = run.folder / "provenance.json"
    path.write_text("{")
    with pytest.raises(
        records.RecordError, match=r"provenance\.json: torn.*the next `isrdpo run` writes a new one"
    ):
        run.note_machine()
    path.unlink()
    run.note_machine()
    assert records.read_json(path)["packages"]["torch"]
