"""The commands that the kill harness kills: every stage, scoring, fetching, a run with notebooks, a study."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from isrdpo.core import params
from isrdpo.core.runs import Run
from tests.formats.test_fetch import (
    MODEL,
    TEST,
    TRAIN,
    evaluation_repository,
    model_repository,
    train_repository,
)
from tests.hub_server import Hub
from tests.kill_processes import ROOT
from tests.scorer_server import serving

PRESET = "params/toybox.yaml"
SMALL = (
    "iterations=1",
    "data.samples=24",
    "data.questions=8",
    "data.fixed_pairs=8",
    "respond.max_new_tokens=24",
    "respond.context_max_new_tokens=24",
    "respond.batch_size=4",
    "judge.batch_size=4",
    "judge.keep_surest=1.0",
    "look.examples=1",
    "train.batch_size=4",
    "train.save_steps=2",
    "evaluate.max_new_tokens=24",
    "evaluate.batch_size=2",
)
SCORER = ("score.scorer=openai", "score.model=gpt-test", "score.concurrency=2")
PREDICTIONS = 12
ANSWER_SECONDS = 0.03  # of the scorer's server


@dataclass(frozen=True)
class Case:
    """A command line of isrdpo; {work}, {run} and the servers' addresses in it are filled in.

    `prepare` fills the empty work folder, and is given the scorer's address; without it, the command goes on
    from where the case before it ended. `only_moments`: much of the command happens in processes of its own,
    whose steps are not counted. `refusal`: what it says instead of doing finished work again.
    """

    name: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path, str], None] | None = None
    weight: int = 3
    longest_chain: int = 3
    only_moments: bool = False
    refusal: str = ""

    def with_addresses(self, addresses: dict[str, str]) -> "Case":
        """The case with its arguments filled in."""
        return replace(self, arguments=tuple(text.format(**addresses) for text in self.arguments))

    def is_before(self, chosen: Sequence["Case"]) -> bool:
        """Whether a chosen case goes on from where this one ends, at once or by others."""
        following = CASES[CASES.index(self) + 1 :]
        for case in following:
            if case.prepare:
                return False
            if case in chosen:
                return True
        return False


def stage(name: str, t: int, title: str = "", **more: int) -> Case:
    arguments = ("stage", name, "--run", "{run}", "--iteration", str(t))
    return Case(title or name, arguments, **more)


def create_run(work: Path, scorer: str) -> None:
    """A run of nothing but its parameters, whose answers are to be scored by the server `scorer`."""
    overrides = [f"run={work / 'run'}", f"score.base_url={scorer}", *SMALL, *SCORER]
    Run.create(params.load(ROOT / PRESET, overrides))


def write_predictions(work: Path, _: str) -> None:
    """A prediction file, and the test file with the captions of its videos."""
    predictions = []
    questions = []
    for number in range(PREDICTIONS):
        row = {"id": str(number), "modal_path": f"/a/v{number}", "query": "What falls?", "answer": "A cube."}
        message = {"status": "success", "message": f"A cube falls {number} times."}
        predictions.append(row | {"model_prediction": message})
        turns = [{"from": "human", "value": "<video>\nWhat falls?"}, {"from": "gpt", "value": "A cube."}]
        caption = {"caption": f"Cube {number} falls."}
        questions.append(
            {"id": str(number), "video": f"test/msvd/v{number}", "conversations": turns} | caption
        )
    for name, rows in (("predictions.jsonl", predictions), ("msvd.qa.jsonl", questions)):
        (work / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_study(work: Path, _: str) -> None:
    """A study of two arms."""
    text = f"preset: {ROOT / PRESET}\nrun: {work / 'study'}\nseeds: [0]\nparallel: 2\n"
    settings = "\n".join(f"  {setting.replace('=', ': ')}" for setting in SMALL)
    arms = "arms:\n  isr: {}\n  self_reward: {respond.context: none}\n"
    (work / "study.yaml").write_text(f"{text}set:\n{settings}\n{arms}")


def nothing(_: Path, __: str) -> None:
    """Leave the work folder empty."""


TO_HUB = ("--to", "{work}/hound", "--yes")
CASES = (
    stage("data", 1, prepare=create_run, weight=4),
    stage("evaluate", 0, "evaluate base"),
    stage("score", 0, "score base", weight=2),
    stage("respond", 1, weight=4),
    stage("judge", 1),
    stage("look", 1),
    stage("train", 1, weight=6),
    stage("evaluate", 1),
    stage("score", 1),
    Case(
        "export policy",
        ("export", "{run}", "--iteration", "1", "--to", "{work}/policy", "--policy"),
        weight=2,
        refusal="something is there already",
    ),
    Case(
        "export rows",
        ("export", "{run}", "--iteration", "1", "--to", "{work}/rows", "--format", "hf", "--copy-videos"),
        weight=2,
        refusal="something is there already",
    ),
    Case(
        "score FILE",
        (
            "score",
            "{work}/predictions.jsonl",
            "--test",
            "{work}/msvd.qa.jsonl",
            "--to",
            "{work}/scores",
            *(setting for setting in SCORER),
            "score.base_url={scorer}",
        ),
        prepare=write_predictions,
    ),
    Case("fetch", ("fetch", "msvd", "tgif", "ssv2", "train", *TO_HUB), prepare=nothing),
    Case("fetch model", ("fetch", PRESET, "model.path=someone/tiny", "--yes"), prepare=nothing, weight=2),
    Case(
        "run",
        ("run", PRESET, "run={run}", *SMALL),
        prepare=nothing,
        weight=4,
        longest_chain=4,
        only_moments=True,
    ),
    Case("study", ("study", "{work}/study.yaml"), prepare=write_study, only_moments=True),
)


def answer(body: dict) -> str:
    """A scorer's reply that follows from the request alone, after a moment."""
    time.sleep(ANSWER_SECONDS)
    text = body["messages"][-1]["content"]
    if "unsupported" in text:
        return "supported: a\nunsupported: b"
    return f"Explanation: x\nScore: {hashlib.sha256(text.encode()).digest()[0] % 6}"


@contextmanager
def servers(work: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """A scorer and a hub on this machine.

    Yields the environment of commands, and what `{...}` in their arguments stands for.
    """
    hub = Hub({TEST: evaluation_repository(), TRAIN: train_repository(), MODEL: model_repository()})
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(work / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OPENAI_API_KEY": "sk-of-no-use",
    }
    try:
        with serving(answer) as scorer:
            addresses = {"work": str(work), "run": str(work / "run"), "scorer": scorer.url}
            yield environment, addresses
    finally:
        hub.close()
