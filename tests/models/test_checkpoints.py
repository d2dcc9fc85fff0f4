"""The trainer's checkpoints: sealed when they are complete, and resumed from only then."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isrdpo.models import checkpoints, dpo
from tests.miniature import PROCESSOR, VIDEOS, make_model, preferences, train_settings


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`make_checkpoint(step, key)` makes a sealed checkpoint."""

    def make(step: int, key: str = "key") -> Path:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
        (folder / "trainer_state.json").write_text("{}")
        checkpoints.seal_checkpoint(folder, key)
        return folder

    return make


def test_only_a_whole_checkpoint_of_this_key_is_resumed_from(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    assert checkpoints.newest_sealed_checkpoint(tmp_path / "none", "key") is None
    whole = make_checkpoint(2)
    (make_checkpoint(4) / "model.safetensors").write_bytes(b"weights" * 50)
    (make_checkpoint(6) / checkpoints.SEAL).unlink()
    (make_checkpoint(8) / checkpoints.SEAL).write_text('{"key": "k')
    (make_checkpoint(10) / "model.safetensors").write_bytes(b"wEights" * 100)
    (make_checkpoint(12) / "trainer_state.json").unlink()
    make_checkpoint(14, "another key")
    (tmp_path / "checkpoint-last").mkdir()
    assert checkpoints.newest_sealed_checkpoint(tmp_path, "key") == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-last"]


def test_the_others_are_removed(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    make_checkpoint(2)
    middle = make_checkpoint(4)
    make_checkpoint(16)
    checkpoints.remove_other_checkpoints(middle)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_each_save_is_sealed_and_replaces_the_one_before(tmp_path: Path) -> None:
    rows = [dpo.training_row(pair, PROCESSOR, VIDEOS[pair.video]) for pair in preferences()]
    settings = train_settings(batch_size=2, save_steps=2)
    trainer = dpo.make_trainer(make_model(), PROCESSOR, rows, VIDEOS.__getitem__, settings, tmp_path, seed=3)
    dpo.fit(trainer, "key")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    seal = json.loads((tmp_path / "checkpoint-4" / checkpoints.SEAL).read_text())
    assert seal["key"] == "key"
    assert {"optimizer.pt", "trainer_state.json", "rng_state.pth"} < seal["files"].keys()
