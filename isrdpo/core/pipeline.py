"""What a stage's rows depend on: stage order, versions, the parameters that matter, what it reads, and the key made of them.

Whatever does not change the rows (engine, device, batch size of inference, process count) is left out, so changing it invalidates nothing.
"""

import hashlib
import json
from functools import lru_cache
from typing import Any

from isrdpo.core.params import Params

STAGES = ("data", "respond", "judge", "train", "evaluate")
ORDER = ("data", "respond", "judge", "look", "train", "evaluate", "score")  # with those that notebooks 03 and 05 run beside their own
BESIDE = {"judge": "look", "evaluate": "score"}
NOTEBOOKS = {
    "data": "01_data_prep", "respond": "02_retrospection", "judge": "03_judging", "train": "04_dpo_training", "evaluate": "05_evaluation",
}  # fmt: skip
VERSIONS = {"data": 1, "respond": 1, "judge": 1, "train": 1, "evaluate": 1, "look": 1, "score": 1}  # raise one when its rows change meaning
MODEL = ("model.path", "model.dtype", "model.quantize", "model.image_tower", "model.video_tower", "video.frames", "video.max_pixels")
DEPENDS = {  # dotted keys, or whole sections
    "data": ("data", "toybox", "seed", "video.span"),
    "respond": ("seed", *MODEL, "video.span", "prompts.context", "prompts.retrospection", "respond"),
    "judge": ("prompts.judge", "prompts.judge_without_context", "judge"),
    "train": ("train",),
    "evaluate": ("evaluate", *MODEL, "video.span", "prompts.context", "prompts.judge", "prompts.judge_without_context", "judge.orders",
                 "judge.method", "judge.max_new_tokens", "respond.context_max_new_tokens"),
    "look": ("look", "prompts.judge_without_context"),
    "score": ("score.scorer", "score.model", "score.hallucination", "score.max_new_tokens"),
}  # fmt: skip
GIVEN = {  # all that matters where the pairs are the data set's own; what `train` rests on comes with `respond`
    "respond": ("seed", *MODEL, "video.span"), "judge": ("judge.method", "judge.keep_surest", "judge.balance_lengths"),
}  # fmt: skip
LEFT_OUT = {
    "data.source", "respond.batch_size", "judge.batch_size", "evaluate.batch_size", "train.gradient_checkpointing", "train.save_steps", "train.report_to",
}  # fmt: skip
TRAINING_DATA, HELD_OUT_DATA = {"data.train", "data.samples", "data.reuse"}, {"data.test", "data.benchmark", "data.questions", "data.fixed_pairs"}


def looks_back(params: Params, t: int) -> bool:
    """Whether the descriptions of iteration t look back at those of t - 1."""
    return t > 1 and params.respond.context == "retrospective" and params.judge.method != "given"


def describes_before(params: Params, t: int) -> bool:
    """Whether iteration t has videos of its own to look back at, which the policy before describes first (data.reuse: false)."""
    return looks_back(params, t) and not params.data.reuse


def upstream(params: Params, stage: str, t: int) -> list[tuple[str, int]]:
    """(stage, iteration) of everything whose files stage `stage` of iteration `t` reads."""
    if stage == "data":
        return []
    if stage == "evaluate":
        return [("data", 0)] + ([("train", t)] if t else [])
    if stage == "respond":
        before = [("train", t - 2)] if describes_before(params, t) and t > 2 else []
        return [("data", t)] + ([("train", t - 1)] if t > 1 else []) + before + ([("respond", t - 1)] if looks_back(params, t) else [])
    return [({"judge": "respond", "score": "evaluate"}.get(stage, "judge"), t)]  # train and look read the judge's


def depends(params: Params, stage: str, t: int | None = None) -> dict[str, Any]:
    """The values that a stage's rows depend on, by dotted name (`t`: only those of this iteration's rows)."""
    flat: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for inner in value:
                walk(value[inner], f"{name}.{inner}")
        elif name not in LEFT_OUT:
            flat[name] = value

    whole = params.to_dict()
    for name in (GIVEN if params.judge.method == "given" else {}).get(stage, DEPENDS[stage]):
        section, _, key = name.partition(".")
        walk(whole[section][key] if key else whole[section], name)
    if stage == "data":
        away = {name for name in flat if name.startswith("toybox.")} if params.data.path != "toybox" else set()
        away |= set() if t is None else TRAINING_DATA if t == 0 else HELD_OUT_DATA
        flat = {name: value for name, value in flat.items() if name not in away}
        if t and not params.data.reuse and not params.data.samples:
            flat["iterations"] = params.iterations  # the data are cut into so many parts
    if flat.get("judge.method") in ("truth", "random", "given") and stage == "evaluate":
        flat["judge.method"] = "score"  # the policy's own verdicts are what is evaluated, whoever judges the loop
    return flat


@lru_cache(maxsize=4096)
def key(params: Params, stage: str, t: int) -> str:
    """sha256 over stage version, the parameters that matter to it, iteration, and the keys of what it reads."""
    above = [key(params, other, at) for other, at in upstream(params, stage, t)]
    text = json.dumps([stage, VERSIONS[stage], depends(params, stage, t), t, above])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
