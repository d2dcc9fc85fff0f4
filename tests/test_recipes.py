"""The recipes of CONTRIBUTING.md, executed as they stand there in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from isrdpo.core import records
from isrdpo.core.runs import Run
from tests import families

ROOT = Path(__file__).parents[1]
STEP = re.compile(
    r"New file `(?P<new>[^`]+)`:\n\n```\w+\n(?P<text>.*?)```"
    r"|In `(?P<file>[^`]+)`, replace:\n\n```\w+\n(?P<old>.*?)```\n\nwith:\n\n```\w+\n(?P<with>.*?)```"
    r"|```sh\n(?P<sh>.*?)```",
    re.DOTALL,
)


def recipe(title: str) -> list[re.Match]:
    """The steps of one recipe, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    start = text.index(f"### {title}\n")
    end = re.search(r"\n##", text[start + 4 :]).start() + start + 4
    return list(STEP.finditer(text[start:end]))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what a user clones, without environments and runs."""
    for name in ("isrdpo", "params", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run_command(project: Path, line: str) -> None:
    """Run one `isrdpo ...` line by the copy's own code; where it fails, show what it said."""
    assert line.startswith("isrdpo "), line
    command = line.replace("isrdpo ", f"{sys.executable} -m isrdpo ", 1)
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, shell=True, cwd=project, env=environment, capture_output=True, text=True)  # noqa: S602
    assert done.returncode == 0, done.stdout + done.stderr


def follow(project: Path, title: str) -> None:
    """Do what a recipe says."""
    steps = recipe(title)
    assert steps, title
    for step in steps:
        if step["new"]:
            (project / step["new"]).write_text(step["text"])
        elif step["file"]:
            path = project / step["file"]
            assert path.read_text().count(step["old"]) == 1, step["old"]
            path.write_text(path.read_text().replace(step["old"], step["with"]))
        else:
            for line in step["sh"].strip().splitlines():
                run_command(project, line)


@pytest.mark.slow
def test_change_the_judges_prompt(project: Path) -> None:
    follow(project, "Change the judge's prompt")
    run = Run.open(project / "outputs" / "my_judge")
    assert "The video shows: {context}" in run.params.prompts.judge
    assert run.done("evaluate", 1)


@pytest.mark.slow
def test_add_an_arm(project: Path) -> None:
    follow(project, "Add an arm")
    results = pd.read_csv(project / "outputs" / "my_study" / "results.csv")
    assert set(results["arm"]) == {"isr", "cautious"}
    assert Run.open(project / "outputs" / "my_study" / "cautious-0").params.arm == "cautious"


@pytest.mark.slow
def test_add_a_judge(project: Path) -> None:
    follow(project, "Add a judge")
    pairs = records.read_jsonl(
        project / "outputs" / "shorter" / "iter_01" / "preferences.jsonl", records.Preference
    )
    assert pairs
    assert all(len(pair.chosen.split()) < len(pair.rejected.split()) for pair in pairs)


@pytest.mark.slow
def test_add_a_model_family(project: Path) -> None:
    follow(project, "Add a model family")
    checkpoint = families.write("llava_next_video", project / "outputs" / "checkpoint")
    code = (
        "from pathlib import Path\n"
        "from isrdpo.core import params\n"
        "from isrdpo.models import local\n"
        "from isrdpo.toybox import world\n"
        "clips = Path('outputs/clips')\n"
        "name = world.samples('loop', 1, 0, world.Difficulty(), clips, 0)[0].video\n"
        f"policy = local.open_policy(params.load(Path('params/toybox.yaml')), {str(checkpoint)!r})\n"
        "ids = policy.processor.request_ids('What moves?', policy.encode([clips / name])[0])\n"
        "print(type(policy.processor).__name__, policy.processor.decode(ids))"
    )
    environment = os.environ | {"PYTHONPATH": str(project)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("TerseProcessor"), done.stderr
    assert "Answer in one sentence." in done.stdout


@pytest.mark.slow
def test_add_a_stage(project: Path) -> None:
    follow(project, "Add a stage")
    folder = project / "outputs" / "counted" / "iter_01"
    table = pd.read_csv(folder / "words.csv")
    assert len(table) == len(records.read_jsonl(folder / "preferences.jsonl", records.Preference))
    assert (folder / ".done" / "words.json").exists()


def test_every_recipe_is_tested() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    titles = re.findall(
        r"^### (.+)$", text[text.index("## Recipes") : text.index("## Promises")], re.MULTILINE
    )
    tests = Path(__file__).read_text()
    assert len(titles) == 5
    assert all(f'follow(project, "{title}")' in tests for title in titles)
