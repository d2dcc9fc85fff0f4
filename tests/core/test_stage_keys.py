"""What a stage reads, and the keys that follow: they change with what matters, and with nothing else."""

import time
from pathlib import Path

import pytest

from isrdpo.core import params
from isrdpo.core.pipeline import STAGES, stage_key, upstream

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"


def test_upstream() -> None:
    plain = params.load(PRESET)
    assert upstream(plain, "respond", 1) == [("data", 1)]
    assert upstream(plain, "respond", 2) == [("data", 2), ("train", 1), ("respond", 1)]
    fresh = plain.override("respond", {"context": "fresh"})
    assert upstream(fresh, "respond", 2) == [("data", 2), ("train", 1)]
    parts = plain.override("data", {"reuse": False})
    assert upstream(parts, "respond", 2) == upstream(plain, "respond", 2)
    assert ("train", 1) in upstream(parts, "respond", 3)
    assert ("train", 1) not in upstream(plain, "respond", 3)
    assert upstream(plain, "evaluate", 0) == [("data", 0)]
    assert upstream(plain, "evaluate", 2) == [("data", 0), ("train", 2)]


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("respond.batch_size=1", ""),
        ("judge.batch_size=1", ""),
        ("evaluate.batch_size=1", ""),
        ("video.cache=false", ""),
        ("model.device=cpu", ""),
        ("keep_policies=all", ""),
        ("iterations=9", ""),
        ("max_bad_share=1", ""),
        ("train.save_steps=1", ""),
        ("train.report_to=wandb", ""),
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
    ],
)
def test_keys_change_with_what_matters_only(override: str, stages: str) -> None:
    """Of iteration 1; its evaluation, apart from what training brings along, is that of the base."""
    old = params.load(PRESET)
    new = params.load(PRESET, [override])
    steps = {"data": 1, "respond": 1, "judge": 1, "train": 1, "evaluate": 0}
    different = {name for name, t in steps.items() if stage_key(old, name, t) != stage_key(new, name, t)}
    assert different == set(stages.split())


def test_keys_follow_upstream_and_iteration() -> None:
    old = params.load(PRESET)
    new = params.load(PRESET, ["train.beta=0.2"])
    assert stage_key(old, "respond", 1) == stage_key(new, "respond", 1)
    assert stage_key(old, "respond", 2) != stage_key(new, "respond", 2)
    assert stage_key(old, "evaluate", 1) != stage_key(new, "evaluate", 1)
    keys = set()
    for stage in STAGES:
        keys |= {stage_key(old, stage, iteration) for iteration in (1, 2, 3)}
    assert len(keys) == 15


def test_keys_take_no_time_exponential_in_the_iteration() -> None:
    started = time.monotonic()
    stage_key(params.load(PRESET, ["iterations=60", "seed=5"]), "respond", 60)
    assert time.monotonic() - started < 2
