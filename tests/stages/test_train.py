"""The train stage on disk: policies, train.csv, resuming, pruning."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from isrdpo import loop
from isrdpo.core import params, records
from isrdpo.core.errors import RunError
from isrdpo.core.runs import Run
from isrdpo.models import checkpoints, dpo, hound
from isrdpo.models.interface import EncodedVideo
from isrdpo.models.local import open_policy
from isrdpo.models.loss_checks import TrainError
from isrdpo.stages import train
from tests.miniature import PROCESSOR, make_model, preferences

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips (frame folders) and a tiny base model."""
    folder = tmp_path_factory.mktemp("world")
    for number, name in enumerate(("one", "two", "three")):
        (folder / "clips" / name).mkdir(parents=True)
        for frame in range(3):
            pixels = np.random.default_rng([number, frame]).integers(0, 255, (16, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "clips" / name / f"c01_{frame:04d}.jpeg")
    PROCESSOR.save(make_model(), folder / "base")
    return folder


def make_run(world: Path, folder: Path, *overrides: str) -> Run:
    fixed = [
        f"run={folder}",
        f"data={world}",
        f"model.path={world / 'base'}",
        "model.device=cpu",
        "train.batch_size=4",
        "train.learning_rate=1e-3",
        "train.lora_r=4",
    ]
    return Run.create(params.load(PRESET, [*fixed, *overrides]))


def finish(run: Run, iteration: int, rows: list[records.Preference] | None = None) -> None:
    """Finish every stage before train, as if it had run, with these preferences."""
    if rows is None:
        rows = preferences()
    for name in ("data", "respond"):
        with run.stage(name, iteration):
            pass
    with run.stage("judge", iteration) as stage:
        records.write_jsonl(stage.path("preferences.jsonl"), rows)


def read_table(run: Run, iteration: int) -> list[dict[str, float]]:
    with run.file(iteration, "train.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def weights(run: Run, iteration: int) -> dict[str, torch.Tensor]:
    return load_file(run.file(iteration, "policy") / "model.safetensors")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_each_iteration_starts_at_ln_2_from_the_policy_before(
    world: Path, tmp_path: Path, method: str
) -> None:
    run = make_run(world, tmp_path / "run", f"train.method={method}", "train.epochs=4")
    for iteration in (1, 2):
        finish(run, iteration)
        train.run(run, iteration)
    first = read_table(run, 1)
    second = read_table(run, 2)
    assert list(first[0]) == list(train.COLUMNS)
    assert [row["step"] for row in first] == list(range(1, 9))
    for rows in (first, second):
        assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert rows[-1]["loss"] < rows[0]["loss"]
        assert rows[-1]["margins"] > 0
    assert all(row["chosen_words"] > 0 for row in first)
    assert all(row["rejected_words"] > 0 for row in first)
    assert first[0]["logps_chosen"] != second[0]["logps_chosen"], "the same pairs, another reference"
    assert not run.file(1, "checkpoints").exists()
    assert not run.file(1, "policy.tmp").exists()
    assert run.done("train", 2)["counts"] == {"pairs": 8, "too_long": 0}
    model, processor = hound.load(run.policy_after(2))
    assert processor.vocab_size == PROCESSOR.vocab_size
    assert model.dtype == torch.float32


def test_two_runs_are_equal_and_a_finished_one_is_left_alone(world: Path, tmp_path: Path) -> None:
    first = make_run(world, tmp_path / "first")
    second = make_run(world, tmp_path / "second")
    for run in (first, second):
        finish(run, 1)
        train.run(run, 1)
    for name in ("train.csv", "policy/model.safetensors"):
        assert first.file(1, name).read_bytes() == second.file(1, name).read_bytes(), name
    policy = first.file(1, "policy/model.safetensors")
    before = policy.stat()
    train.run(first, 1)
    after = policy.stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_ino == before.st_ino


def test_killed_and_started_again_it_ends_with_the_same_bytes(world: Path, tmp_path: Path) -> None:
    settings = ("train.epochs=8", "train.save_steps=2", "train.method=full")
    whole = make_run(world, tmp_path / "whole", *settings)
    killed = make_run(world, tmp_path / "killed", *settings)
    for run in (whole, killed):
        finish(run, 1)
    command = [sys.executable, "-m", "isrdpo.stages.train", "--run", str(killed.folder), "--iteration", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(command, cwd=PRESET.parent.parent, env=environment)
    trainer_folder = killed.file(1, "checkpoints")
    while child.poll() is None and not list(trainer_folder.glob(f"checkpoint-*/{checkpoints.SEAL}")):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not killed.done("train", 1)
    newest = max(trainer_folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    torn = trainer_folder / "checkpoint-15"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:1000])
    for run in (whole, killed):
        train.run(run, 1)
    names = [f"policy/{path.name}" for path in whole.file(1, "policy").iterdir()]
    for name in ("train.csv", *names):
        assert whole.file(1, name).read_bytes() == killed.file(1, name).read_bytes(), name
    assert len(read_table(killed, 1)) == 16


def test_it_goes_on_from_a_checkpoint_of_its_own_rows_only(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run", "train.save_steps=1")
    finish(run, 1)
    fit = dpo.fit

    def fit_then_interrupt(trainer: dpo.VideoDPOTrainer, key: str) -> list[dict]:
        fit(trainer, key)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dpo, "fit", fit_then_interrupt)
        train.run(run, 1)
    assert [path.name for path in run.file(1, "checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]
    records.write_jsonl(run.file(1, "preferences.jsonl"), preferences(7))
    train.run(run, 1)
    assert len(read_table(run, 1)) == 4
    assert run.done("train", 1)["counts"]["pairs"] == 7


def test_without_a_pair_the_policy_stays_as_it_is(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run")
    finish(run, 1, rows=[])
    train.run(run, 1)
    assert run.file(1, "train.csv").read_text() == ",".join(train.COLUMNS) + "\n"
    assert run.done("train", 1)["warnings"] == ["no pair to train on: the policy stays as it is"]
    base = load_file(world / "base" / "model.safetensors")
    assert all(torch.equal(tensor, base[name]) for name, tensor in weights(run, 1).items())


def test_longer_pairs_are_left_out_and_counted_never_cut(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run", "train.max_length=200", "train.epochs=1")
    long = records.Preference("long", "one", "What moves?", "cat " * 300, "dog", None)
    finish(run, 1, rows=[*preferences(4), long])
    train.run(run, 1)
    assert run.done("train", 1)["counts"] == {"pairs": 4, "too_long": 1}
    assert len(read_table(run, 1)) == 1


def test_where_all_pairs_are_too_long_the_marker_says_that_nothing_was_trained(
    world: Path, tmp_path: Path
) -> None:
    run = make_run(world, tmp_path / "run", "train.max_length=5")
    finish(run, 1, rows=preferences(4))
    train.run(run, 1)
    marker = run.done("train", 1)
    assert marker["counts"] == {"pairs": 0, "too_long": 4}
    assert marker["warnings"] == [
        "no pair to train on (of 4, 4 longer than train.max_length=5): the policy stays as it is"
    ]
    assert loop.warning_lines(run) == f"warning: train of iteration 1: {marker['warnings'][0]}"


def test_bad_pairs_are_left_out_by_cause_and_the_others_train_as_without_them(
    world: Path, tmp_path: Path
) -> None:
    whole = make_run(world, tmp_path / "whole")
    run = make_run(world, tmp_path / "run", "train.max_length=100000", "max_bad_share=0.5")
    bad = [
        records.Preference("gone", "four", "What moves?", "cat", "dog", None),
        records.Preference("long", "one", "What moves?", "cat", "dog " * 5000, None),
        records.Preference("same", "one", "What moves?", "red  cat", "red cat", None),
    ]
    first, *others = preferences(6)
    finish(whole, 1, rows=[first, *others])
    finish(run, 1, rows=[first, *bad, *others])
    for one in (whole, run):
        train.run(one, 1)
    causes = {row["id"]: row["cause"] for row in records.read_jsonl(run.file(1, "bad_train.jsonl"), dict)}
    assert causes == {
        "gone": "broken video",
        "long": "too long for the model",
        "same": "chosen equals rejected",
    }
    assert run.done("train", 1)["counts"] == {"pairs": 6, "too_long": 0}
    for name in ("train.csv", "policy/model.safetensors"):
        assert run.file(1, name).read_bytes() == whole.file(1, name).read_bytes()


def test_one_pair_and_a_batch_larger_than_that(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run", "train.epochs=2", "train.batch_size=64")
    finish(run, 1, rows=preferences(1))
    train.run(run, 1)
    assert [row["step"] for row in read_table(run, 1)] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("rate", "problem"), [("1e300", r"\d+ of \d+ tensors .* not finite"), ("1e25", "")])
def test_a_last_step_that_wrecks_the_weights_fails_before_there_is_a_policy(
    world: Path, tmp_path: Path, method: str, rate: str, problem: str
) -> None:
    """The only step is the last one: its loss is ln 2, and no loss is logged after it."""
    settings = (f"train.method={method}", "train.epochs=1", "train.schedule=constant", "train.warmup_ratio=0")
    run = make_run(world, tmp_path / "run", *settings)
    wild = run.params.train.model_copy(update={"learning_rate": float(rate)})  # parameters refuse such a rate
    run.params = run.params.model_copy(update={"train": wild})
    finish(run, 1, rows=preferences(4))
    for _ in range(2):  # the second time from the checkpoint
        with pytest.raises(TrainError, match=rf"{problem}.*lower train.learning_rate=1e\+"):
            train.run(run, 1)
        assert not run.done("train", 1)
        assert not run.file(1, "policy").exists()


def test_training_reads_the_videos_and_tokens_that_generation_reads(world: Path, tmp_path: Path) -> None:
    """The judge's next-token scores of two replies differ as the trainer's log-probabilities of them do."""
    run = make_run(world, tmp_path / "run")
    policy = open_policy(run.params, run.policy(1))
    preference = preferences()[0]
    replies = ("red cat", "red dogs")
    videos = policy.encode([world / "clips" / "one"])
    scores = policy.choose(videos, [preference.question], replies)[0]

    chosen = policy.processor.answer_ids(replies[0])
    rejected = policy.processor.answer_ids(replies[1])
    token_pairs = zip(chosen, rejected, strict=False)
    end = 1 + next(place for place, (one, other) in enumerate(token_pairs) if one != other)
    row = dpo.training_row(preference, policy.processor, {})
    row |= {"chosen_ids": chosen[:end], "rejected_ids": rejected[:end]}
    features = train.clip_features(lambda name: world / "clips" / name, policy.encode, ["one"])
    trainer = dpo.make_trainer(
        policy.model, policy.processor, [row], features, run.params.train, tmp_path / "new", seed=0
    )
    first, second = trainer.compute_ref_log_probs(trainer.model, trainer.data_collator([row]))
    assert (first - second).item() == pytest.approx((scores[0] - scores[1]).item(), abs=1e-4)


def test_each_clip_is_encoded_once_and_held_only_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def encode(paths: list[Path]) -> list[EncodedVideo]:
        encoded.extend(path.name for path in paths)
        return [EncodedVideo(torch.full((2, 3), float(len(path.name)))) for path in paths]

    features = train.clip_features(Path, encode, ["a", "bb", "a", "bb"])
    assert features("bb").features.eq(2).all()
    assert features("a").features.eq(1).all()
    assert encoded == ["a", "bb"]
    monkeypatch.setattr(train, "FEATURE_MEMORY", 0)
    features = train.clip_features(Path, encode, ["a", "bb"])
    assert features("bb").features.eq(2).all()
    assert encoded == ["a", "bb", "bb"]


def policies_on_disk(run: Run) -> list[int]:
    """List the iterations, of the first three, whose trained policy is there."""
    return [iteration for iteration in (1, 2, 3) if run.file(iteration, "policy").exists()]


def test_older_policies_go_once_they_are_evaluated(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run", "keep_policies=last")
    with run.stage("data", 0):
        pass
    for iteration in (1, 2, 3):
        finish(run, iteration, rows=[])
        train.run(run, iteration)
        if iteration == 1:
            with run.stage("evaluate", 1):
                pass
    assert policies_on_disk(run) == [2, 3], "evaluate(2) has not run: its policy is needed still"
    with run.stage("evaluate", 2):
        pass
    train.run(run, 3)
    assert policies_on_disk(run) == [3]
    run.marker_path("train", 3).unlink()
    message = r"the policy that is to be trained is gone.*run the train stage of iteration 2 again"
    with pytest.raises(RunError, match=message):
        train.run(run, 3)


@pytest.mark.parametrize(("keep", "iterations"), [("all", [1, 2, 3]), ("2", [2, 3])])
def test_as_many_policies_stay_as_asked(
    world: Path, tmp_path: Path, keep: str, iterations: list[int]
) -> None:
    run = make_run(world, tmp_path / "run", f"keep_policies={keep}")
    with run.stage("data", 0):
        pass
    for iteration in (1, 2, 3):
        finish(run, iteration, rows=[])
        train.run(run, iteration)
        with run.stage("evaluate", iteration):
            pass
    assert policies_on_disk(run) == iterations


def test_without_verdicts_it_names_the_missing_stage(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="needs stage judge of iteration 1"):
        train.run(make_run(world, tmp_path / "run"), 1)
