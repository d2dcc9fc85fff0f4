"""Rules between parameters, beyond the type and the range of each."""

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from isrdpo.core import prompts
from isrdpo.core.judges import JUDGES
from isrdpo.core.schema import Data, Prompts, Score
from isrdpo.core.secrets import printable

if TYPE_CHECKING:
    from isrdpo.core.params import Params

TEST_SETS = (
    "actnet",
    "vidal",
    "webvid",
    "msrvtt",
    "msvd",
    "tgif",
    "ssv2",
)  # ShareGPTVideo/test_video_and_instruction
OFFICIAL_SETS = ("msrvtt", "msvd", "tgif")
MIN_TEMPERATURE = 0.001  # logits divided by less overflow
MAX_CLIPS = 1_000_000  # drawn for one iteration of Toybox: days of work
SOURCES = ("train", "test", *TEST_SETS)


def broken_rules(params: "Params") -> Iterator[str]:
    """A line for each rule between keys that is broken.

    A value that is wrong by itself is None here, and breaks no rule.
    """
    if params.run == "":
        yield "run: where does the run go? give a folder, such as outputs/run"
    for name, text in (("run", params.run), ("arm", params.arm)):
        if text is not None and text != text.strip():
            yield f"{name}: {printable(text)} begins or ends with a blank; leave it out"
    yield from _prompt_rules(params.prompts)
    yield from _judge_rules(params)
    yield from _sampling_rules(params)
    yield from _train_rules(params)
    yield from _data_rules(params.data)
    yield from _score_rules(params.score)


def _prompt_rules(templates: Prompts) -> Iterator[str]:
    for name, slots in prompts.SLOTS.items():
        template = getattr(templates, name)
        if template is not None and prompts.slot_names(template) != slots:
            present = sorted(prompts.slot_names(template)) or "none"
            yield f"prompts.{name}: its slots are {present}; they must be {sorted(slots) or 'none'}"


def _judge_rules(params: "Params") -> Iterator[str]:
    judge = JUDGES.get(params.judge.method)
    if judge is None:
        return
    method = params.judge.method
    is_toybox = params.data.is_toybox or params.data.path is None
    if params.judge.min_margin and judge.asks_policy and not judge.has_margin:
        yield "judge.min_margin: a generated verdict has no margin; set judge.method=score, or leave it 0"
    if judge.needs_facts and not is_toybox:
        yield (
            f"judge.method: {method} needs known facts, which only data.path=toybox has; "
            f"give generate or score"
        )
    if not judge.needs_responses and params.data.is_toybox:
        yield (
            f"judge.method: {method} needs a data set's own chosen and rejected, "
            f"which data.path=toybox has not; give data=FOLDER, or another judge.method"
        )


def _sampling_rules(params: "Params") -> Iterator[str]:
    """Logits divided by a temperature near 0 leave the range of float32, and nothing can be drawn."""
    for name, temperature in (
        ("temperature", params.respond.temperature),
        ("context_temperature", params.respond.context_temperature),
    ):
        if temperature and temperature < MIN_TEMPERATURE:
            yield (
                f"respond.{name}: {temperature} is too close to 0 to divide by; "
                f"give 0 (greedy) or at least {MIN_TEMPERATURE}"
            )


def _train_rules(params: "Params") -> Iterator[str]:
    train = params.train
    if train.length_alpha and (train.loss_type != "sigmoid" or train.ld_alpha is not None):
        yield (
            "train.length_alpha: R-DPO's margin goes with loss_type=sigmoid and ld_alpha=null; "
            "leave the others as they are, or this null"
        )
    if params.model.quantize not in (None, "none") and train.method == "full":
        yield (
            "model.quantize: quantized weights are trained under LoRA only; "
            "set train.method=lora, or model.quantize=none"
        )


def _data_rules(data: Data) -> Iterator[str]:
    if data.path == "":
        yield "data.path: where are the data? give toybox or a folder with train.jsonl and test.qa.jsonl"
    names = {"train": [data.train], "test": (data.test or "").split(","), "videos": [data.videos]}
    for key, texts in names.items():
        for path in (PurePath((text or "").strip()) for text in texts):
            if path.is_absolute() or ".." in path.parts:
                yield f"data.{key}: {printable(str(path))} leads out of data.path; give a path inside it"
    clips = sum(count or 0 for count in (data.samples, data.questions, data.fixed_pairs))
    if data.is_toybox and clips > MAX_CLIPS:
        yield (
            f"data.samples: Toybox would draw {clips} clips, for data.samples, questions and fixed_pairs; "
            f"give at most {MAX_CLIPS} in all"
        )
    if data.benchmark not in (None, "none") and data.is_toybox:
        yield (
            "data.benchmark: Toybox has questions of its own; "
            "give data=FOLDER with the benchmark's folder in it and data.test=that folder, or none"
        )
    if data.test is not None and not data.test.replace(",", "").strip():
        yield "data.test: no file; give the test set's, or several with commas between"
    sources = [name.strip() for name in (data.source or "").split(",")]
    unknown = [name for name in sources if name not in ("", *SOURCES)]
    if unknown:
        yield f"data.source: {printable(unknown[0])} is not one of {', '.join(SOURCES)}"


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_whole = parts.hostname is not None and parts.port != 0  # a port that is no number raises, too
    except ValueError:
        return False
    return is_whole and parts.scheme in ("http", "https") and not re.search(r"\s", text)


def _score_rules(score: Score) -> Iterator[str]:
    if score.base_url is not None and not _is_address(score.base_url):
        yield (
            f"score.base_url: {printable(score.base_url)} is not an address; "
            f"give one such as http://localhost:8000/v1"
        )
    elif score.base_url is not None and re.search(r"@|[?#]|[^\x21-\x7e]", score.base_url):
        yield (
            "score.base_url: holds a user, a query or letters beyond ASCII; give the plain address, "
            "and keep the key in the environment variable that score.key_variable names"
        )
    if score.key_variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", score.key_variable):
        yield (
            "score.key_variable: not the name of an environment variable; "
            "give its name, such as OPENAI_API_KEY, never the key"
        )
    if score.scorer in ("openai", "local") and score.model == "":
        yield "score.model: which model? give the endpoint's name for it, or a local model's folder"
