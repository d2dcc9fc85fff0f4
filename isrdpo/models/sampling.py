"""Sampling in which a draw depends on its row's own seed alone."""

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class KeyedNoise(LogitsProcessor):
    """Gumbel-max sampling: argmax(scores + noise) is a draw from softmax(scores).

    Each row has a generator of its own: its draw depends neither on its batch mates nor on their number.
    """

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add noise to the scores [B, V]."""
        vocabulary = scores.shape[1]
        rows = [torch.rand(vocabulary, generator=g, dtype=torch.float64) for g in self.generators]
        uniform = torch.stack(rows).clamp(1e-300, 1 - 1e-16)
        gumbel = -torch.log(-torch.log(uniform))
        return scores + gumbel.to(scores.device, scores.dtype)


def warpers(temperature: float, top_p: float, top_k: int) -> LogitsProcessorList:
    """Return what shapes the distribution to draw from: temperature, top-k (0: none), top-p (1: none)."""
    steps = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    return steps
