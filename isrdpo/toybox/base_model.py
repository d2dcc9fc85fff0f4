"""The Toybox base model: a miniature LLaVA-Hound, trained from scratch on the world's own text and clips.

    python -m isrdpo.toybox.base_model outputs/base      # under 90 minutes on two CPU cores
    python -m isrdpo.toybox.figures outputs/base/model   # the held-out figures of the model card

Training that was interrupted goes on when the command is repeated. The phases are in `recipe`, the texts in
`training_texts`, their batches in `training_batches`, the losses in `losses`.
"""

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from isrdpo.core import records
from isrdpo.core.folders import atomic_file
from isrdpo.core.progress import progress_bar
from isrdpo.formats import video
from isrdpo.models import hound
from isrdpo.toybox import world
from isrdpo.toybox.facts import Scene
from isrdpo.toybox.losses import Learner, make_optimizers, step_loss
from isrdpo.toybox.patches import patch_labels
from isrdpo.toybox.recipe import SEEING, Recipe, learning_rate_share
from isrdpo.toybox.training_batches import TextBatch, TowerBatch, TrainingSteps
from isrdpo.toybox.training_texts import write_tokenizer


def new_model(recipe: Recipe, vocabulary: int) -> hound.HoundForConditionalGeneration:
    """Return the miniature, freshly initialized from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    text = {
        "hidden_size": recipe.width,
        "intermediate_size": 3 * recipe.width,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
    }
    tower = {
        "hidden_size": recipe.tower_width,
        "intermediate_size": 3 * recipe.tower_width,
        "num_hidden_layers": recipe.tower_layers,
        "num_attention_heads": 4,
        "image_size": recipe.image_size,
        "patch_size": recipe.patch_size,
    }
    return hound.build(vocabulary, text, tower, recipe.frames)


def clip_pixels(recipe: Recipe, scenes: list[Scene], folder: Path, processor: hound.HoundProcessor) -> Tensor:
    """Return the scenes' clips as the model sees them, read back from mp4: float16 [clips, T, 3, S, S]."""
    names = world.write_clips(scenes, recipe.seed, world.Difficulty(), folder)

    def read_pixels(name: str) -> Tensor:
        """One clip: float16 [T, 3, S, S]."""
        return processor.pixels(video.read_clip(folder / name, recipe.frames, limits=None).frames).half()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.stack(list(pool.map(read_pixels, names)))


class Training:
    """A training under way: the learner, its optimizers and the log. The file `path` holds all three.

    A row of the log has the step, its loss, the seconds since the start, and of each task the loss and the
    share of reply tokens (or patches) that are right.
    """

    def __init__(self, recipe: Recipe, vocabulary: int, device: str, path: Path) -> None:
        self.recipe = recipe
        self.path = path
        self.learner = Learner(new_model(recipe, vocabulary)).to(device).train()
        self.optimizers = make_optimizers(self.learner, recipe)
        self.full_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.log: list[dict] = []
        if path.exists():
            self._load(device)
        self.started = time.monotonic() - (self.log[-1]["seconds"] if self.log else 0)

    def _load(self, device: str) -> None:
        state = torch.load(self.path, map_location=device, weights_only=True)
        self.learner.load_state_dict(state["model"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.log = state["log"]

    def save(self) -> None:
        """Write everything that a later process needs to go on."""
        state = {
            "step": len(self.log),
            "model": self.learner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "log": self.log,
        }
        with atomic_file(self.path) as part:
            torch.save(state, part)

    def step(self, batch: TowerBatch | TextBatch, pixels: Tensor | None, labels: Tensor | None) -> None:
        """Learn from one batch (see `losses.step_loss`) and add its row to the log."""
        number = len(self.log)
        self._set_rates(learning_rate_share(self.recipe, number))
        loss, figures = step_loss(self.learner, batch, pixels, labels)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        seconds = round(time.monotonic() - self.started, 1)
        self.log.append({"step": number, "loss": loss.item(), "tasks": figures, "seconds": seconds})

    def _set_rates(self, share: float) -> None:
        for optimizer, rates in zip(self.optimizers, self.full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share


def train(
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
    stop: int | None = None,
    workers: int = 0,
    save_every: int = 100,
) -> list[dict]:
    """Run the recipe in `folder`, or go on with it, and return the log (see `Training`).

    At the end `model/` is written in the original layout.     `stop` ends it after so many steps; `workers`
    processes make the batches; it is saved every `save_every` steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processor = _make_processor(recipe, folder / "tokenizer.model")
    scenes = list(islice(world.scenes("base", recipe.seed, world.Difficulty()), recipe.clips))
    training = Training(recipe, processor.vocab_size, device, folder / "training.pt")
    steps = TrainingSteps(recipe, scenes, processor)
    first = len(training.log)
    last = min(len(steps), stop or len(steps))
    ahead = steps.phases[first:last]
    pixels = None
    labels = None
    if any(phase.tasks for phase in ahead):
        pixels = clip_pixels(recipe, scenes, folder.parent / ".cache" / "clips", processor)
    if any(phase.tasks == SEEING for phase in ahead):
        labels = patch_labels(recipe, scenes)
    loader = torch.utils.data.DataLoader(
        steps, batch_size=None, sampler=range(first, last), num_workers=workers
    )
    for batch in progress_bar(loader, last - first, "training the base model"):
        training.step(batch, pixels, labels)
        if len(training.log) % save_every == 0:
            training.save()
    if last == len(steps):
        _write_model(training, processor, folder / "model")
    return training.log


def _make_processor(recipe: Recipe, tokenizer: Path) -> hound.HoundProcessor:
    """The processor of the tokenizer's file, which is written where it is missing."""
    if not tokenizer.exists():
        write_tokenizer(tokenizer)
    return hound.HoundProcessor.from_tokenizer(tokenizer, recipe.frames, recipe.image_size, recipe.patch_size)


def _write_model(training: Training, processor: hound.HoundProcessor, folder: Path) -> None:
    """Write the checkpoint in LLaVA-Hound's own layout, with its recipe and its log."""
    hound.save_original(training.learner.model, processor, folder, torch.float16)
    records.write_text(folder / "recipe.json", json.dumps(asdict(training.recipe), indent=1))
    records.write_jsonl(folder / "training_log.jsonl", training.log)


def main() -> None:
    """Train a base model from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to train; the model is written to FOLDER/model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    train(Recipe(seed=arguments.seed), arguments.folder, arguments.device)


if __name__ == "__main__":
    main()
