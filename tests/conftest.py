"""A tiny random base model in the world's own words, and runs of it that take seconds."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

PRESET = Path(__file__).parent.parent / "params" / "toybox.yaml"


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained miniature in the original layout: it talks nonsense, but everything runs."""
    import torch

    from isrdpo import hound
    from isrdpo.toybox import base_model

    folder = tmp_path_factory.mktemp("base")
    recipe = dataclasses.replace(base_model.Recipe(), width=32, tower_width=32, layers=2, tower_layers=2)
    base_model.make_tokenizer(folder / "tokenizer.model")
    processor = hound.HoundProcessor.from_tokenizer(folder / "tokenizer.model", recipe.frames, recipe.image_size, recipe.patch_size)
    hound.save_original(base_model.new_model(recipe, processor.vocab_size), processor, folder / "model", torch.float16)
    return folder / "model"


@pytest.fixture
def make_run(random_base: Path, tmp_path: Path) -> Callable:
    """`make_run("name", "key=value", ...)`: a Toybox run of the random base: 10 questions, 6 held out, 4 fixed pairs."""
    from isrdpo import params
    from isrdpo.runs import Run

    def made(name: str, *overrides: str) -> Run:
        small = [
            f"run={tmp_path / name}", f"model.path={random_base}", "data.samples=10", "data.questions=6", "data.fixed_pairs=4", "max_bad_share=1.0",
            "respond.max_new_tokens=8", "respond.context_max_new_tokens=8", "evaluate.max_new_tokens=8", "respond.batch_size=4",
            "judge.batch_size=4", "evaluate.batch_size=4", "train.batch_size=4", "train.epochs=1", "respond.temperature=1.5",
        ]  # fmt: skip
        return Run.create(params.load(PRESET, [*small, *overrides]))

    return made
