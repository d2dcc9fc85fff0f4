"""Batches for training the base model: several branches behind one prefix, packed into a row.

Each branch sees the prefix and itself only, and has the positions that it would have alone. So a step trains
every task, and the video (or the description) that the branches share is paid for once.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isrdpo.toybox.facts import Scene
from isrdpo.toybox.recipe import MAX_BRANCHES, SEEING, TASKS, Phase, Recipe
from isrdpo.toybox.training_texts import Tokens, TokenSequence

if TYPE_CHECKING:
    from isrdpo.models.hound import HoundProcessor

NO_LABEL = -100  # of a token that is not learned
PADDING = -1  # in `PackedBranches.part`


@dataclass(frozen=True)
class PackedBranches:
    """Rows of tokens [B, L], each a prefix with branches side by side behind it."""

    input_ids: Tensor  # int [B, L]
    position_ids: Tensor  # int [B, L]: of each branch, those that it would have directly behind the prefix
    part: Tensor  # int [B, L]: 0 the prefix, 1, 2, ... its branches, PADDING
    attention_mask: Tensor  # bool [B, 1, L, L]: query, key


@dataclass(frozen=True)
class TowerBatch:
    """A step of the tower alone: the clips [B] whose patches it learns."""

    clips: Tensor


@dataclass(frozen=True)
class TextBatch:
    """A step of the language model."""

    packed: PackedBranches
    labels: Tensor  # int [B, L]: the replies' tokens, NO_LABEL elsewhere
    weights: Tensor  # float [B, L]: of each reply token within its task
    task: Tensor  # int [B, L]: the index in TASKS, -1 outside of the branches
    clips: Tensor | None  # int [B]; None where the step is text only


def pack_branches(prefixes: list[list[int]], branches: list[list[list[int]]], pad: int) -> PackedBranches:
    """Pack B prefixes and the branches behind each into rows of one length L.

    `prefixes[b]` are token ids, `branches[b]` any number of lists of token ids.
    """
    rows = [prefix + sum(parts, []) for prefix, parts in zip(prefixes, branches, strict=True)]
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad)
    positions = torch.zeros_like(ids)
    part = torch.full_like(ids, PADDING)
    for row, (prefix, parts) in enumerate(zip(prefixes, branches, strict=True)):
        start = len(prefix)
        ids[row, : len(rows[row])] = torch.tensor(rows[row])
        positions[row, :start] = torch.arange(start)
        part[row, :start] = 0
        for number, branch in enumerate(parts, 1):
            end = start + len(branch)
            positions[row, start:end] = torch.arange(len(prefix), len(prefix) + len(branch))
            part[row, start:end] = number
            start = end
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    visible = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    present = (part != PADDING)[:, None, :]
    itself = torch.eye(length, dtype=torch.bool)  # padding sees itself, since a row of nothing has no softmax
    mask = (causal & visible & present) | itself
    return PackedBranches(ids, positions, part, mask[:, None])


def text_batch(
    sequences: list[TokenSequence], tasks: list[tuple[str, ...]], clips: Tensor | None, pad: int
) -> TextBatch:
    """Pack sequences with the labels and weights of their replies.

    `tasks[b]` are the tasks of sequence b's branches, `clips` int [B] the videos (None: text only).
    """
    prefixes = [sequence.prefix for sequence in sequences]
    branches = [[branch.prompt + branch.reply for branch in sequence.branches] for sequence in sequences]
    packed = pack_branches(prefixes, branches, pad)
    labels = torch.full_like(packed.input_ids, NO_LABEL)
    weights = torch.zeros(labels.shape)
    for row, sequence in enumerate(sequences):
        end = len(sequence.prefix)
        for branch in sequence.branches:
            start = end + len(branch.prompt)
            end = start + len(branch.reply)
            labels[row, start:end] = torch.tensor(branch.reply)
            weights[row, start:end] = torch.tensor(branch.weights)
    numbers = torch.full((len(tasks), 1 + MAX_BRANCHES), -1)
    for row, names in enumerate(tasks):
        numbers[row, 1 : 1 + len(names)] = torch.tensor([TASKS.index(name) for name in names])
    task = numbers.gather(1, packed.part.clamp(min=0))
    return TextBatch(packed, labels, weights, task, clips)


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
