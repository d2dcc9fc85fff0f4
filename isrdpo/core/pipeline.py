"""The table of stages: order, notebook, files, and what the rows of each depend on. Everything that lists
stages reads it.

A stage's key is a digest of all that its rows depend on. What does not change the rows is left out (engine,
device, number of processes, and the batch size of inference, but for rounding), so a change of it makes no
finished stage stale.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from isrdpo.core.judges import JUDGES, OWN_METHOD
from isrdpo.core.params import Params

MODEL = (
    "model.path",
    "model.dtype",
    "model.quantize",
    "model.image_tower",
    "model.video_tower",
    "video.frames",
    "video.max_pixels",
)


@dataclass(frozen=True)
class StageSpec:
    """One row of the table.

    `version` is raised when the rows change their meaning. `files` are those that the stage writes into its
    iteration's folder; they are removed before it starts under another key. `depends` names parameters by
    dotted key, or whole sections. `notebook` shows the stage; a stage without one stands in the notebook of
    the stage `beside` it. `first` is the first iteration that has the stage: 0 is the base's evaluation.
    A stage that `resumes` goes on from its rows on disk; another one begins again.
    """

    version: int
    files: tuple[str, ...]
    depends: tuple[str, ...]
    notebook: str = ""
    beside: str = ""
    first: int = 1
    resumes: bool = True


TABLE = {
    "data": StageSpec(
        version=1,
        notebook="01_data_prep",
        first=0,
        resumes=False,
        files=("samples.jsonl", "fixed_pairs.jsonl"),
        depends=("data", "toybox", "seed", "video.span"),
    ),
    "respond": StageSpec(
        version=1,
        notebook="02_retrospection",
        files=("previous_contexts.jsonl", "contexts.jsonl", "responses.jsonl"),
        depends=("seed", *MODEL, "video.span", "prompts.context", "prompts.retrospection", "respond"),
    ),
    "judge": StageSpec(
        version=1,
        notebook="03_judging",
        files=("judgments.jsonl", "preferences.jsonl"),
        depends=("prompts.judge", "prompts.judge_without_context", "judge"),
    ),
    "look": StageSpec(
        version=1,
        beside="judge",
        files=("judgments_no_context.jsonl", "looks.jsonl"),
        depends=("look", "prompts.judge_without_context"),
    ),
    "train": StageSpec(
        version=1,
        notebook="04_dpo_training",
        files=("train.csv", "policy", "checkpoints"),
        depends=("train",),
    ),
    "evaluate": StageSpec(
        version=1,
        notebook="05_evaluation",
        first=0,
        files=(
            "answers.jsonl",
            "fixed_contexts.jsonl",
            "fixed_judgments.jsonl",
            "eval.json",
            "predictions",
            "benchmark.csv",
        ),
        depends=(
            "evaluate",
            *MODEL,
            "video.span",
            "prompts.context",
            "prompts.judge",
            "prompts.judge_without_context",
            "judge.orders",
            "judge.method",
            "judge.max_new_tokens",
            "respond.context_max_new_tokens",
        ),
    ),
    "score": StageSpec(
        version=1,
        beside="evaluate",
        first=0,
        files=("scores.jsonl", "scores.csv", "scorer.json"),
        depends=("score.scorer", "score.model", "score.hallucination", "score.max_new_tokens"),
    ),
}
ORDER = tuple(TABLE)
STAGES = tuple(name for name, spec in TABLE.items() if spec.notebook)
NOTEBOOKS = {name: spec.notebook for name, spec in TABLE.items() if spec.notebook}
BESIDE = {spec.beside: name for name, spec in TABLE.items() if spec.beside}

NO_DEPENDENCY = {
    "data.source",
    "video.decode_seconds",
    "video.decode_memory",
    "respond.batch_size",
    "judge.batch_size",
    "evaluate.batch_size",
    "train.gradient_checkpointing",
    "train.save_steps",
    "train.report_to",
}
# Parameters that came later: at these values they are in no key, so that runs made before stay done.
ABSENT_BEFORE = {"data.follow_links": False}
TRAINING_DATA = {"data.train", "data.samples", "data.reuse"}
HELD_OUT_DATA = {"data.test", "data.benchmark", "data.questions", "data.fixed_pairs"}


def looks_back(params: Params, t: int) -> bool:
    """Whether the descriptions of iteration t look back at those of iteration t - 1."""
    needs_responses = JUDGES[params.judge.method].needs_responses
    return t > 1 and params.respond.context == "retrospective" and needs_responses


def needs_previous_contexts(params: Params, t: int) -> bool:
    """Whether iteration t has videos of its own to look back at, which the policy before describes first
    (data.reuse: false).
    """
    return looks_back(params, t) and not params.data.reuse


def upstream(params: Params, stage: str, t: int) -> list[tuple[str, int]]:
    """(stage, iteration) of everything whose files stage `stage` of iteration `t` reads."""
    match stage:
        case "data":
            return []
        case "respond":
            return _upstream_of_respond(params, t)
        case "judge":
            return [("respond", t)]
        case "evaluate":
            return [("data", 0)] + ([("train", t)] if t else [])
        case "score":
            return [("evaluate", t)]
        case _:  # train and look
            return [("judge", t)]


def ancestors(params: Params, stage: str, t: int) -> set[tuple[str, int]]:
    """(stage, iteration) of everything that a stage's rows come from, however far above it."""
    above: set[tuple[str, int]] = set()
    waiting = upstream(params, stage, t)
    while waiting:
        step = waiting.pop()
        if step not in above:
            above.add(step)
            waiting += upstream(params, *step)
    return above


def _upstream_of_respond(params: Params, t: int) -> list[tuple[str, int]]:
    stages = [("data", t)]
    if t > 1:
        stages.append(("train", t - 1))
    if needs_previous_contexts(params, t) and t > 2:
        stages.append(("train", t - 2))
    if looks_back(params, t):
        stages.append(("respond", t - 1))
    return stages


def dependencies(params: Params, stage: str, t: int | None = None) -> dict[str, Any]:
    """The values that a stage's rows depend on, by dotted name; with `t`, only those of that iteration's
    rows.
    """
    whole = params.to_dict()
    values: dict[str, Any] = {}
    for name in _names(params, stage):
        section, _, key = name.partition(".")
        value = whole[section][key] if key else whole[section]
        values |= {dotted: leaf for dotted, leaf in _leaves(value, name) if _matters(dotted, leaf)}
    if stage == "data":
        values = _data_dependencies(params, values, t)
    if stage == "evaluate" and not JUDGES[values["judge.method"]].asks_policy:
        values["judge.method"] = (
            OWN_METHOD  # the policy's own verdicts are evaluated, whoever judges the loop
        )
    return values


def _names(params: Params, stage: str) -> tuple[str, ...]:
    """The parameters that a stage depends on.

    Where pairs are the data set's own, fewer matter; what training rests on stays.
    """
    judge = JUDGES[params.judge.method]
    if stage == "respond" and not judge.needs_responses:
        return ("seed", *MODEL, "video.span")
    if stage == "judge" and judge.parameters is not None:
        return judge.parameters
    return TABLE[stage].depends


def _matters(name: str, value: Any) -> bool:
    """Whether a parameter's value stands in the keys of the stages that depend on it."""
    if name in ABSENT_BEFORE and value == ABSENT_BEFORE[name]:
        return False
    return name not in NO_DEPENDENCY


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything below `value` that is no section."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}")


def _data_dependencies(params: Params, values: dict[str, Any], t: int | None) -> dict[str, Any]:
    """Toybox's difficulty matters to Toybox only, test files to iteration 0 only, and training files to the
    others only.
    """
    ignored = set()
    if not params.data.is_toybox:
        ignored |= {name for name in values if name.startswith("toybox.")}
    if t is not None:
        ignored |= TRAINING_DATA if t == 0 else HELD_OUT_DATA
    relevant = {name: value for name, value in values.items() if name not in ignored}
    if t and not params.data.reuse and not params.data.samples:
        relevant["iterations"] = params.iterations  # the rows are cut into so many parts
    return relevant


@lru_cache(maxsize=4096)
def stage_key(params: Params, stage: str, t: int) -> str:
    """Hex digest of a stage's version, the parameters that matter to it, its iteration, and the keys of
    what it reads.
    """
    above = [stage_key(params, other, at) for other, at in upstream(params, stage, t)]
    text = json.dumps([stage, TABLE[stage].version, dependencies(params, stage, t), t, above])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
