"""The stage contract: markers, keys, resuming, bad samples, the lock; and what a run refuses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isrdpo.core import errors, folders, params, pipeline, provenance, records, runs
from isrdpo.core import pipeline as keys
from isrdpo.core.runs import Run

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"
STEPS = [("data", 0), ("data", 1), ("respond", 1), ("judge", 1), ("train", 1), ("evaluate", 0), ("evaluate", 1), ("data", 2), ("respond", 2)]


def settings(folder: Path, *overrides: str) -> params.Params:
    return params.load(PRESET, [f"run={folder}", *overrides])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(settings(tmp_path / "run"))


def finish(run: Run, *steps: tuple[str, int]) -> None:
    for name, t in steps:
        with run.stage(name, t) as stage:
            if stage is not None:
                for file in pipeline.TABLE[name].files:
                    if file in ("policy", "checkpoints"):
                        stage.path(file).mkdir()
                    else:
                        records.write_jsonl(stage.path(file), [{"made": stage.key}])


def test_a_run_is_made_once_and_opened_after(run: Run) -> None:
    assert Run.open(run.folder).params == run.params == Run.create(run.params).params
    assert sorted(p.name for p in run.folder.iterdir()) == [".lock", ".lock.pid", "params.yaml", "provenance.json"]
    with pytest.raises(errors.MissingStage, match="no run here; stage data of iteration 1 makes it: start with notebook 01"):
        Run.open(run.folder.parent / "other")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.RunError, match="not a run .it holds thesis.txt.; give a new or empty folder as run="):
        Run.create(settings(tmp_path))
    assert (tmp_path / "thesis.txt").exists() and len(list(tmp_path.iterdir())) == 1


def test_paths(run: Run) -> None:
    assert run.file(3, "samples.jsonl") == run.folder / "iter_03" / "samples.jsonl"
    assert run.policy(1) == "toybox" == run.policy_after(0)
    assert run.policy(3) == str(run.folder / "iter_02" / "policy") == run.policy_after(2)
    assert run.videos_folder() == run.folder.parent / ".cache" / "clips"


def test_clips_outside_the_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "clips").symlink_to(tmp_path / "elsewhere")
    made = Run.create(settings(tmp_path / "run", f"data={tmp_path / 'data'}"))
    with pytest.raises(errors.RunError, match="data.videos leads out of data.path"):
        made.videos_folder()


def test_relative_paths_count_from_the_project_root(monkeypatch: pytest.MonkeyPatch) -> None:
    root = PRESET.parent.parent
    monkeypatch.chdir(root / "notebooks")
    assert folders.project_root() == root and folders.resolve("outputs/x") == root / "outputs" / "x"
    assert folders.display_path(root / "outputs" / "x") == "outputs/x" and folders.display_path(Path("/elsewhere")) == "/elsewhere"


def test_marker_is_written_last_and_ends_the_stage(run: Run) -> None:
    with run.stage("data", 1) as stage:
        stage.total = 100
        stage.bad("7", "missing video", "clip.mp4")
        stage.count("samples", 99)
        stage.warn("one is gone")
        assert run.done("data", 1) is None
    marker = run.done("data", 1)
    assert (marker["total"], marker["counts"], marker["bad"], marker["warnings"]) == (100, {"samples": 99}, {"missing video": 1}, ["one is gone"])
    assert marker["params"]["data.samples"] == run.params.data.samples and "data.questions" not in marker["params"] and marker["peak_rss_mb"] > 1
    assert records.read_jsonl(run.file(1, "bad_data.jsonl"), dict) == [{"id": "7", "cause": "missing video", "detail": "clip.mp4"}]
    with run.stage("data", 1) as stage:
        assert stage is None


def test_an_exception_leaves_no_marker(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.stage("data", 1) as stage:
        records.write_jsonl(stage.path("samples.jsonl"), [])
        raise ZeroDivisionError
    assert run.done("data", 1) is None and run.file(1, "samples.jsonl").exists()


def test_too_many_bad_samples_fail_by_name(run: Run) -> None:
    says = r"bad_data.jsonl: 10% of 20 samples are bad \(2 missing video, 1 broken video\), above max_bad_share=0.05; .*first: a: a.mp4"
    with pytest.raises(errors.BadShare, match=says), run.stage("data", 1) as stage:
        stage.total = 20
        for bad in (("a", "missing video", "a.mp4"), ("a", "missing video", "again"), ("b", "broken video", "")):
            stage.bad(*bad)
    assert run.done("data", 1) is None and len(records.read_jsonl(run.file(1, "bad_data.jsonl"), dict)) == 3
    run.override("", {"max_bad_share": 0.5})
    with run.stage("data", 1) as stage:
        stage.total = 20
        stage.bad("a", "missing video")
    assert run.done("data", 1)


def test_a_missing_stage_is_named_with_its_command(run: Run) -> None:
    for (name, t), missing in (
        (("respond", 1), ("data", 1)), (("judge", 1), ("respond", 1)), (("train", 1), ("judge", 1)), (("evaluate", 0), ("data", 0)),
    ):  # fmt: skip
        says = rf"stage {name} of iteration {t} needs stage {missing[0]} of iteration {missing[1]}, .*`isrdpo stage {missing[0]} --run .* --iteration {missing[1]}`"
        with pytest.raises(errors.MissingStage, match=says), run.stage(name, t):
            pass
    for name, t in (("respond", 0), ("data", 4), ("train", -1)):
        with pytest.raises(errors.RunError, match=f"there is no {name} in iteration {t}; this run has iterations 1 to 3"), run.stage(name, t):
            pass


def test_upstream() -> None:
    plain = params.load(PRESET)
    assert keys.upstream(plain, "respond", 1) == [("data", 1)]
    assert keys.upstream(plain, "respond", 2) == [("data", 2), ("train", 1), ("respond", 1)]
    assert keys.upstream(plain.override("respond", {"context": "fresh"}), "respond", 2) == [("data", 2), ("train", 1)]
    parts = plain.override("data", {"reuse": False})
    assert keys.upstream(parts, "respond", 2) == keys.upstream(plain, "respond", 2) and ("train", 1) in keys.upstream(parts, "respond", 3)
    assert ("train", 1) not in keys.upstream(plain, "respond", 3)
    assert keys.upstream(plain, "evaluate", 0) == [("data", 0)] and keys.upstream(plain, "evaluate", 2) == [("data", 0), ("train", 2)]


@pytest.mark.parametrize(("override", "changed"), [
    ("respond.batch_size=1", ""), ("judge.batch_size=1", ""), ("evaluate.batch_size=1", ""), ("video.cache=false", ""), ("model.device=cpu", ""),
    ("keep_policies=all", ""), ("iterations=9", ""), ("max_bad_share=1", ""), ("train.save_steps=1", ""), ("train.report_to=wandb", ""),
    ("judge.method=truth", "judge train"),
    ("judge.method=generate", "judge train evaluate"),
    ("respond.temperature=0.5", "respond judge train"),
    ("train.beta=0.2", "train"),
    ("evaluate.max_new_tokens=9", "evaluate"),
    ("data.samples=9", "data respond judge train"),
    ("data.questions=9", "evaluate"),
    ("model.path=elsewhere", "respond judge train evaluate"),
    ("toybox.noise=1", "data respond judge train evaluate"),
    ("seed=1", "data respond judge train evaluate"),
])  # fmt: skip
def test_keys_change_with_what_matters_only(override: str, changed: str) -> None:
    """Of iteration 1; its evaluation, apart from what training brings along, is that of the base."""
    old, new = params.load(PRESET), params.load(PRESET, [override])
    at = {"data": 1, "respond": 1, "judge": 1, "train": 1, "evaluate": 0}
    assert {name for name, t in at.items() if keys.stage_key(old, name, t) != keys.stage_key(new, name, t)} == set(changed.split())


def test_keys_follow_upstream_and_iteration() -> None:
    old, new = params.load(PRESET), params.load(PRESET, ["train.beta=0.2"])
    assert keys.stage_key(old, "respond", 1) == keys.stage_key(new, "respond", 1) and keys.stage_key(old, "respond", 2) != keys.stage_key(new, "respond", 2)
    assert keys.stage_key(old, "evaluate", 1) != keys.stage_key(new, "evaluate", 1)
    assert len({keys.stage_key(old, stage, t) for stage in keys.STAGES for t in (1, 2, 3)}) == 15
    started = time.monotonic()
    keys.stage_key(params.load(PRESET, ["iterations=60", "seed=5"]), "respond", 60)
    assert time.monotonic() - started < 2, "keys must not take time exponential in the iteration"


def test_rows_under_an_old_key_go_before_new_ones_come(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt), run.stage("data", 1) as stage:
        log = stage.log("samples.jsonl", dict, 2)
        log.append([{"old": True}])
        (run.iteration(1) / ".eval.json.123.part").write_text("torn")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), run.stage("data", 1) as stage:
        assert stage.log("samples.jsonl", dict, 2).done == 1, "resumes under the same key"
        assert not list(run.iteration(1).glob(".*.part"))
        raise KeyboardInterrupt
    with pytest.raises(errors.RunError, match="data.samples changed, and stage data of iteration 1 made under the old value"):
        run.override("data", {"samples": 7})
    run.update(run.params.override("data", {"samples": 7}), redo=True)
    with run.stage("data", 1) as stage:
        assert stage.log("samples.jsonl", dict, 2).done == 0, "nothing of the old key is left"


def test_a_notebooks_value_is_recorded_before_its_stage(run: Run) -> None:
    run.override("respond", {"temperature": 1.0, "top_k": None})
    assert Run.open(run.folder).params.respond.temperature == 1.0
    finish(run, *STEPS[:3])
    before = (run.folder / "params.yaml").stat().st_mtime_ns
    run.override("respond", {"temperature": 1.0})
    run.override("respond", {"temperature": None})
    assert (run.folder / "params.yaml").stat().st_mtime_ns == before
    with pytest.raises(errors.RunError, match="respond.temperature changed, and stage respond of iteration 1 made under the old value"):
        run.override("respond", {"temperature": 0.5})
    run.override("judge", {"orders": 1})
    assert Run.open(run.folder).params.respond.temperature == 1.0
    with pytest.raises(params.ParamsError, match="respond.temperature: -1.0 must not be negative"):
        run.override("respond", {"temperature": -1.0})


def test_changed_parameters_of_a_run(run: Run) -> None:
    finish(run, *STEPS)
    assert run.finished() == run.started() == sorted(STEPS, key=lambda s: (s[1], pipeline.STAGES.index(s[0])))
    more = Run.create(settings(run.folder, "iterations=5", "respond.batch_size=1"))
    assert more.params.iterations == 5 and more.done("respond", 2)
    with pytest.raises(errors.RunError, match="iterations=1 is fewer than the 2 that are there"):
        Run.create(settings(run.folder, "iterations=1"))
    with pytest.raises(errors.RunError, match=r"iterations, respond.batch_size, train.beta changed, and stage train of iteration 1 and 2 more made"):
        Run.create(settings(run.folder, "train.beta=0.3"))
    assert Run.open(run.folder).params == more.params
    again = Run.create(settings(run.folder, "train.beta=0.3"), redo=True)
    assert again.finished() == [("data", 0), ("evaluate", 0), ("data", 1), ("respond", 1), ("judge", 1), ("data", 2)]
    assert Run.create(settings(run.folder, "train.beta=0.3", "iterations=4")).params.iterations == 4, "what is to do again does not refuse later"


def test_redoing_an_evaluation_trains_dropped_policies_again(run: Run) -> None:
    finish(run, *STEPS)
    run.file(1, "policy").rmdir()
    Run.create(settings(run.folder, "evaluate.max_new_tokens=7"), redo=True)
    assert ("train", 1) not in run.finished() and ("judge", 1) in run.finished() and ("evaluate", 0) not in run.finished()


def test_the_lock_is_reentrant_here_and_refuses_others_by_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"from isrdpo.core import folders, runs; from pathlib import Path; folders.LOCK_SECONDS = 0.3\nwith runs.Run(Path({str(run.folder)!r})).lock(): print('got it')"
    with run.lock(), run.lock(), Run.open(run.folder).lock():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"process {os.getpid()} works on this run; wait for it or stop it" in other.stderr and "got it" not in other.stdout
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "got it\n"


def test_a_killed_holder_frees_the_lock(run: Run) -> None:
    code = f"import time; from isrdpo.core import runs; from pathlib import Path\nwith runs.Run(Path({str(run.folder)!r})).lock(): print('got it', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "got it\n"
        holder.send_signal(signal.SIGKILL)
        with run.lock():
            pass


def test_draw_seeds_differ_by_everything_and_stay() -> None:
    seeds = {runs.draw_seed(s, t, i, d) for s in (0, 1) for t in (1, 2) for i in ("a", "b", "1", "11") for d in ("0", "1", "context")}
    assert len(seeds) == 48 and all(0 <= seed < 2**63 for seed in seeds)
    assert runs.draw_seed(0, 1, "a", "y1") == 1576008049986518146


def test_provenance_has_versions_and_no_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "z" * 30)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/isrdpo", "run", "x", "model.path=hf_" + "z" * 30])
    found = provenance.collect()
    assert found["packages"]["torch"] and found["decoder"] in ("decord", "PyAV") and found["threads"] >= 1
    assert found["command"] == "isrdpo run x 'model.path=(hidden)'" or found["command"] == "isrdpo run x model.path=(hidden)"
    assert "zzz" not in str(found) and "hf_" not in str(found)


def test_a_change_of_machine_is_noted_once(run: Run) -> None:
    path = run.folder / "provenance.json"
    run.note_machine()
    assert "later" not in records.read_json(path)
    records.write_json(path, records.read_json(path) | {"python": "3.99"})
    run.note_machine()
    run.note_machine()
    found = records.read_json(path)
    assert found["python"] == "3.99" and len(found["later"]) == 1 and "later" not in found["later"][0]


def test_only_our_own_errors_and_the_file_systems_are_one_line() -> None:
    for error in (errors.MissingStage("x"), params.ParamsError("x"), records.RecordError("x"), FileNotFoundError("x")):
        assert errors.is_expected(error)
    assert not errors.is_expected(ValueError("a programming error keeps its traceback")) and not errors.is_expected(KeyError("x"))


def test_a_stage_on_the_command_line_says_one_line(run: Run) -> None:
    for arguments, says in (
        (["--run", str(run.folder), "--iteration", "1"], f"isrdpo judge: {run.folder}: stage judge of iteration 1 needs stage respond"),
        (["--run", str(run.folder / "no"), "--iteration", "1"], f"isrdpo judge: {run.folder / 'no'}: no run here"),
    ):
        done = subprocess.run([sys.executable, "-m", "isrdpo.stages.judge", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith(says) and done.stderr.count("\n") == 1
