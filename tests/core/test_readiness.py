"""What this machine lacks is said before the run, and a run of another machine opens all the same."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from isrdpo.core import params, readiness

PRESET = Path(__file__).parents[2] / "params" / "toybox.yaml"


def obstacles(*overrides: str) -> list[str]:
    return readiness.obstacles(params.load(PRESET, list(overrides)))


def test_the_toy_run_meets_no_obstacle() -> None:
    assert obstacles() == []


def test_a_device_that_is_not_here_is_named_with_those_that_are() -> None:
    import torch

    count = torch.cuda.device_count()
    present = ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
    (problem,) = obstacles("model.device=cuda:999")
    assert problem == f"model.device: cuda:999 is not here; this machine has {present} (auto finds it)"
    assert bool(obstacles("model.device=cuda")) == (count == 0)
    assert obstacles("model.device=cpu") == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wandbb", "train.report_to: 'wandbb' is not one of none, all, "),
        ("wandbb", "; did you mean wandb?"),
        ("wandb,tensorboard", "is not one of none"),
        ("", "train.report_to: '' is not one of none"),
    ],
)
def test_a_tracker_that_does_not_exist(name: str, says: str) -> None:
    (problem,) = obstacles(f"train.report_to={name}")
    assert says in problem
    assert obstacles(f"train.report_to={name}", "iterations=0") == [], "nothing is trained"


def test_trackers_are_those_of_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(readiness.TRACKERS) == set(INTEGRATION_TO_CALLBACK)
    for name, packages in readiness.TRACKERS.items():
        is_there = any(find_spec(package) for package in packages)
        assert bool(readiness.missing_tracker(name)) != is_there


def test_two_greedy_responses_are_no_pair() -> None:
    (problem,) = obstacles("respond.temperature=0")
    assert problem.startswith("respond.temperature: at 0 both responses are the same")
    for override in ("iterations=0", "respond.temperature=0.7"):
        assert obstacles("respond.temperature=0", override) == []
