"""Losses that cannot be right are found in the log, and weights that are not finite after it."""

import math

import pytest
import torch

from isrdpo.models.loss_checks import TrainError, check_final_loss, check_losses, check_weights

DIFFER = "policy and reference differ before the first update"


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    log = {"loss": math.nan, "rewards/margins": 0.0, "grad_norm": 1.0}
    with pytest.raises(TrainError, match=r"step 4: loss nan.*learning_rate"):
        check_losses(4, log, ["sigmoid"])


def test_a_gradient_that_is_not_finite_stops_the_run() -> None:
    log = {"loss": 0.5, "rewards/margins": 0.0, "grad_norm": math.inf}
    with pytest.raises(TrainError, match="step 4: loss 0.5, gradient norm inf; lower train.learning_rate"):
        check_losses(4, log, ["sigmoid"])


def test_the_first_loss_is_that_of_equal_models() -> None:
    check_losses(1, {"loss": math.log(2), "rewards/margins": 0.0}, ["sigmoid"])
    with pytest.raises(
        TrainError, match=f"first loss 0.700000 with margin 0.000000, not 0.693147 with 0: {DIFFER}"
    ):
        check_losses(1, {"loss": 0.7, "rewards/margins": 0.0}, ["sigmoid"])
    with pytest.raises(TrainError, match=DIFFER):
        check_losses(1, {"loss": math.log(2), "rewards/margins": 0.1}, ["sigmoid"])


def test_later_losses_may_be_any() -> None:
    check_losses(2, {"loss": 0.1, "rewards/margins": 3.0}, ["sigmoid"])


def test_of_other_loss_types_the_margin_alone_is_known() -> None:
    check_losses(1, {"loss": 25.0, "rewards/margins": 0.0}, ["ipo"])
    check_losses(1, {"loss": 3.0, "rewards/margins": 0.0}, ["sigmoid", "sft"])
    with pytest.raises(TrainError, match=DIFFER):
        check_losses(1, {"loss": 25.0, "rewards/margins": 0.5}, ["ipo"])


def test_a_length_margin_is_no_difference() -> None:
    check_losses(1, {"loss": 0.7, "rewards/margins": 0.1, "length_margin": 0.1}, ["sigmoid"])
    with pytest.raises(TrainError, match=DIFFER):
        check_losses(1, {"loss": 0.7, "rewards/margins": 0.5, "length_margin": 0.1}, ["sigmoid"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_weight_that_is_not_finite_is_enough(value: float) -> None:
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    check_weights(model, 1e-6)
    with torch.no_grad():
        model.bias[1] = value
    message = r"1 of 2 tensors of the trained policy are not finite \(the first is bias\); lower .*=5e-07$"
    with pytest.raises(TrainError, match=message):
        check_weights(model, 5e-7)


def test_a_cast_that_overflows_is_seen() -> None:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, 1e6)
    check_weights(model, 1.0)
    with pytest.raises(TrainError, match=r"first is weight"):
        check_weights(model.half(), 1.0)


def test_the_loss_after_the_last_step_is_finite() -> None:
    check_final_loss(12.5, 1.0)
    with pytest.raises(TrainError, match=r"loss nan after the last step; lower train.learning_rate=0.01"):
        check_final_loss(math.nan, 0.01)
