"""A tiny random base model in the world's own words, runs of it that take seconds, and data of a user's own."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = ("iterations=2", "data.samples=48", "data.questions=48", "data.fixed_pairs=16", "judge.keep_surest=1.0")
PRESET = Path(__file__).parent.parent / "params" / "toybox.yaml"


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained miniature in the original layout: it talks nonsense, but everything runs."""
    import torch

    from isrdpo.models import hound
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
    from isrdpo.core import params
    from isrdpo.core.runs import Run

    def made(name: str, *overrides: str) -> Run:
        small = [
            f"run={tmp_path / name}", f"model.path={random_base}", "data.samples=10", "data.questions=6", "data.fixed_pairs=4", "max_bad_share=1.0",
            "respond.max_new_tokens=8", "respond.context_max_new_tokens=8", "evaluate.max_new_tokens=8", "respond.batch_size=4",
            "judge.batch_size=4", "judge.keep_surest=1.0", "evaluate.batch_size=4", "train.batch_size=4", "train.epochs=1", "respond.temperature=1.5",
        ]  # fmt: skip
        return Run.create(params.load(PRESET, [*small, *overrides]))

    return made


@pytest.fixture(scope="session")
def small_loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product's own loop on the shipped base, small: two iterations by `isrdpo run`, with every page and a comparison. Slow: minutes."""
    folder = tmp_path_factory.mktemp("outputs") / "loop"
    command = [sys.executable, "-m", "isrdpo.cli", "run", str(PRESET), f"run={folder}", *SMALL]
    made = subprocess.run(command, capture_output=True, text=True, cwd=PRESET.parent.parent, check=False)  # noqa: S603
    assert made.returncode == 0, made.stdout + made.stderr
    (folder / "terminal.txt").write_text(made.stdout)
    command = [sys.executable, "-m", "isrdpo", "compare", str(folder), "--to", str(folder / "comparison")]
    subprocess.run(command, cwd=PRESET.parent.parent, check=True)  # noqa: S603
    return folder


@pytest.fixture
def own_data(tmp_path: Path) -> Callable:
    """`own_data(rows)`: a folder with three clips, and the rows as train.jsonl and test.qa.jsonl. A row is a dictionary or a raw line;
    "{0}", "{1}", "{2}" in it become the clips' names without `.mp4`. Returns the folder and those names."""
    from isrdpo.toybox import world

    def made(rows: list[dict | str]) -> tuple[Path, list[str]]:
        folder, difficulty = tmp_path / "mine", world.Difficulty()
        source = world.scenes("base", 5, difficulty)
        names = [name.removesuffix(".mp4") for name in world.write_clips([next(source) for _ in range(3)], 5, difficulty, folder / "clips")]
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        for number, name in enumerate(names):
            text = text.replace(f"{{{number}}}", name)
        for file in ("train.jsonl", "test.qa.jsonl"):
            (folder / file).write_text(text)
        return folder, names

    return made


@pytest.fixture
def kill_at() -> Callable:
    """`kill_at(run, "respond", 1, "responses.jsonl", 2)`: starts the stage in a process of its own and kills it (-9) when two batches
    of the file are on disk."""
    import torch

    def killed(run, stage: str, iteration: int, name: str, batches: int) -> None:
        command = [sys.executable, "-m", f"isrdpo.{stage}", "--run", str(run.folder), "--iteration", str(iteration)]
        journal = run.file(iteration, f".{name}.journal")
        with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}) as child:  # noqa: S603
            while child.poll() is None:
                if journal.exists() and journal.read_bytes().count(b"\n") >= batches:
                    child.kill()
                time.sleep(0.002)
        assert child.returncode == -9 and not run.done(stage, iteration), "the stage was over before it could be killed"

    return killed
