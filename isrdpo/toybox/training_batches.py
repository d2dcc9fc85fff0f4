"""Batches for training the base model: several branches behind one prefix, packed into a row.

Each branch sees the prefix and itself only, and has the positions that it would have alone. So a step trains
every task, and the video (or the description) that the branches share is paid for once.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isrdpo.models.packing import Packed, pack
from isrdpo.toybox.facts import Scene
from isrdpo.toybox.recipe import MAX_BRANCHES, SEEING, TASKS, Phase, Recipe
from isrdpo.toybox.training_texts import Tokens, TokenSequence

if TYPE_CHECKING:
    from isrdpo.models.hound import HoundProcessor

NO_LABEL = -100  # of a token that is not learned


@dataclass(frozen=True)
class TowerBatch:
    """A step of the tower alone: the clips [B] whose patches it learns."""

    clips: Tensor


@dataclass(frozen=True)
class TextBatch:
    """A step of the language model."""

    packed: Packed
    labels: Tensor  # int [B, L]: the replies' tokens, NO_LABEL elsewhere
    weights: Tensor  # float [B, L]: of each reply token within its task
    task: Tensor  # int [B, L]: the index in TASKS, -1 outside of the branches
    clips: Tensor | None  # int [B]; None where the step is text only


def text_batch(
    sequences: list[TokenSequence], tasks: list[tuple[str, ...]], clips: Tensor | None, pad: int
) -> TextBatch:
    """Pack sequences with the labels and weights of their replies.

    `tasks[b]` are the tasks of sequence b's branches, `clips` int [B] the videos (None: text only).
    """
    branches = [[branch.prompt + branch.reply for branch in row.branches] for row in sequences]
    prefixes = [row.prefix for row in sequences]
    packed = pack(list(zip(prefixes, branches, strict=True)), pad)
    labels = [[[NO_LABEL] * len(b.prompt) + list(b.reply) for b in row.branches] for row in sequences]
    weights = [[[0.0] * len(b.prompt) + list(b.weights) for b in row.branches] for row in sequences]
    numbers = torch.full((len(tasks), 1 + MAX_BRANCHES), -1)
    for row, names in enumerate(tasks):
        numbers[row, 1 : 1 + len(names)] = torch.tensor([TASKS.index(name) for name in names])
    task = numbers.gather(1, packed.part.clamp(min=0))
    return TextBatch(packed, packed.lay_out(labels, NO_LABEL), packed.lay_out(weights, 0.0), task, clips)


class TrainingSteps(torch.utils.data.Dataset):
    """The batch of each step: a pure function of the recipe, so that training resumes anywhere."""

    def __init__(self, recipe: Recipe, scenes: list[Scene], processor: "HoundProcessor") -> None:
        self.recipe = recipe
        self.scenes = scenes
        self.tokens = Tokens(processor)
        self.phases: list[Phase] = []  # of each step
        for phase in recipe.phases:
            self.phases += [phase] * phase.steps

    def __len__(self) -> int:
        return len(self.phases)

    def __getitem__(self, step: int) -> TowerBatch | TextBatch:
        phase = self.phases[step]
        rng = random.Random(f"base-{self.recipe.seed}-{step}")
        text_only = phase.text_every > 0 and step % phase.text_every == 0
        clips = [rng.randrange(len(self.scenes)) for _ in range(phase.batch)]
        if phase.tasks == SEEING:
            return TowerBatch(torch.tensor(clips))
        tasks = [phase.tasks] * len(clips)
        if text_only:
            tasks = [phase.texts[row % len(phase.texts)] for row in range(len(clips))]
        sequences = []
        for clip, names in zip(clips, tasks, strict=True):
            sequences.append(self.tokens.sequence(self.scenes[clip], names, rng, phase.longer, not text_only))
        videos = None if text_only else torch.tensor(clips)
        return text_batch(sequences, tasks, videos, self.tokens.processor.pad_id)
