"""A tiny random base model in the world's own words, short runs of it, and data of a user's own."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRESET = ROOT / "params" / "toybox.yaml"
SMALL = (
    "iterations=2",
    "data.samples=48",
    "data.questions=48",
    "data.fixed_pairs=16",
    "judge.keep_surest=1.0",
)
TINY = (
    "data.samples=10",
    "data.questions=6",
    "data.fixed_pairs=4",
    "max_bad_share=1.0",
    "respond.max_new_tokens=8",
    "respond.context_max_new_tokens=8",
    "respond.batch_size=4",
    "respond.temperature=1.5",
    "judge.batch_size=4",
    "judge.keep_surest=1.0",
    "train.batch_size=4",
    "train.epochs=1",
    "evaluate.max_new_tokens=8",
    "evaluate.batch_size=4",
)


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained miniature in the original layout: it talks nonsense, but everything runs."""
    import torch

    from isrdpo.models import hound
    from isrdpo.toybox import base_model, training_texts

    folder = tmp_path_factory.mktemp("base")
    tokenizer = folder / "tokenizer.model"
    recipe = dataclasses.replace(base_model.Recipe(), width=32, tower_width=32, layers=2, tower_layers=2)
    training_texts.write_tokenizer(tokenizer)
    processor = hound.HoundProcessor.from_tokenizer(
        tokenizer, recipe.frames, recipe.image_size, recipe.patch_size
    )
    model = base_model.new_model(recipe, processor.vocab_size)
    hound.save_original(model, processor, folder / "model", torch.float16)
    return folder / "model"


@pytest.fixture
def make_run(random_base: Path, tmp_path: Path) -> Callable:
    """`make_run("name", "key=value", ...)`: a Toybox run of the random base, with TINY numbers."""
    from isrdpo.core import params
    from isrdpo.core.runs import Run

    def make(name: str, *overrides: str) -> Run:
        where = (f"run={tmp_path / name}", f"model.path={random_base}")
        return Run.create(params.load(PRESET, [*where, *TINY, *overrides]))

    return make


@pytest.fixture(scope="session")
def small_loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product's own loop on the shipped base: two small iterations, with every page and a comparison.

    Slow: minutes. What `isrdpo run` printed is in `terminal.txt`.
    """
    folder = tmp_path_factory.mktemp("outputs") / "loop"
    command = [sys.executable, "-m", "isrdpo.cli", "run", str(PRESET), f"run={folder}", *SMALL]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    (folder / "terminal.txt").write_text(process.stdout)
    command = [sys.executable, "-m", "isrdpo", "compare", str(folder), "--to", str(folder / "comparison")]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture
def own_data(tmp_path: Path) -> Callable:
    """`own_data(rows)`: a folder with three clips, and the rows as train.jsonl and test.qa.jsonl.

    A row is a dictionary or a raw line; "{0}", "{1}", "{2}" in it become the clips' names without `.mp4`.
    Returns the folder and those names.
    """
    from isrdpo.toybox import world

    def write_data(rows: list[dict | str]) -> tuple[Path, list[str]]:
        folder = tmp_path / "mine"
        difficulty = world.Difficulty()
        scenes = list(itertools.islice(world.scenes("base", 5, difficulty), 3))
        files = world.write_clips(scenes, 5, difficulty, folder / "clips")
        names = [file.removesuffix(".mp4") for file in files]
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        text = "".join(f"{line}\n" for line in lines)
        for number, name in enumerate(names):
            text = text.replace(f"{{{number}}}", name)
        for file in ("train.jsonl", "test.qa.jsonl"):
            (folder / file).write_text(text)
        return folder, names

    return write_data


@pytest.fixture
def kill_at() -> Callable:
    """`kill_at(run, "respond", 1, "responses.jsonl", 2)`: start a stage, and kill it after two batches.

    The stage runs in a process of its own, which is killed (-9) when so many batches of the file are on disk.
    """
    import torch

    from isrdpo.core.runs import Run

    def kill(run: Run, stage: str, iteration: int, name: str, batches: int) -> None:
        command = [sys.executable, "-m", f"isrdpo.stages.{stage}"]
        command += ["--run", str(run.folder), "--iteration", str(iteration)]
        journal = run.file(iteration, f".{name}.journal")
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        with subprocess.Popen(command, env=environment) as child:
            while child.poll() is None:
                if journal.exists() and journal.read_bytes().count(b"\n") >= batches:
                    child.kill()
                time.sleep(0.002)
        assert child.returncode == -9, "the stage was over before it could be killed"
        assert not run.done(stage, iteration)

    return kill
