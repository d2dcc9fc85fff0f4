"""Checks of a DPO training: losses and weights are finite, the first loss is that of equal models."""

import math
from typing import TYPE_CHECKING

from isrdpo.core.errors import RunError

if TYPE_CHECKING:
    from torch.nn import Module

# The loss of identical policy and reference, by loss type.
FIRST_LOSS = {"sigmoid": math.log(2), "sigmoid_norm": math.log(2)}
TOLERANCE = 1e-4


class TrainError(RunError):
    """Training must not go on; the line says what is wrong and what to do."""


def check_losses(step: int, log: dict[str, float], loss_types: list[str]) -> None:
    """Check what the trainer logged at a step. Raises TrainError."""
    loss = log["loss"]
    norm = log.get("grad_norm")
    if not math.isfinite(loss) or not math.isfinite(norm or 0.0):
        raise TrainError(f"step {step}: loss {loss}, gradient norm {norm}; lower train.learning_rate")
    if step == 1:
        _check_first_loss(log, loss_types)


def check_weights(model: "Module", learning_rate: float) -> None:
    """Check that all weights are finite: the last step may wreck them, and no loss is logged after it.

    Raises TrainError.
    """
    tensors = dict(model.named_parameters())
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise TrainError(
            f"{len(broken)} of {len(tensors)} tensors of the trained policy are not finite "
            f"(the first is {broken[0]}); lower train.learning_rate={learning_rate:g}"
        )


def check_final_loss(loss: float, learning_rate: float) -> None:
    """Check the loss of a batch under the trained policy. Raises TrainError where it is not finite."""
    if not math.isfinite(loss):
        raise TrainError(f"loss {loss} after the last step; lower train.learning_rate={learning_rate:g}")


def _check_first_loss(log: dict[str, float], loss_types: list[str]) -> None:
    """Before any update the policy is the reference: the margin is 0, and so the loss is known (FIRST_LOSS).

    With a length margin the loss depends on the answers' lengths, and the rewards hold the margin.
    """
    loss = log["loss"]
    margin = log["rewards/margins"] - log.get("length_margin", 0.0)
    expected = loss
    if len(loss_types) == 1 and "length_margin" not in log:
        expected = FIRST_LOSS.get(loss_types[0], loss)
    if abs(loss - expected) > TOLERANCE or abs(margin) > 2 * TOLERANCE:
        raise TrainError(
            f"first loss {loss:.6f} with margin {margin:.6f}, not {expected:.6f} with 0: policy and "
            "reference differ before the first update; one of them is not this iteration's policy"
        )
