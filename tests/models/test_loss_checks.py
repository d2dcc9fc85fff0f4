"""Losses that cannot be right are found in the log."""

import math

import pytest

from isrdpo.models.loss_checks import TrainError, check_losses

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
