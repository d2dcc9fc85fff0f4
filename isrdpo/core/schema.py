"""The sections of params/base.yaml: one frozen model each, with the type and the range of every key.

A description is the end of an error message: up to its semicolon of what has the wrong type or is too
small, behind it of what is too large.
"""

import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from isrdpo.core.judges import JUDGES


def _refuse_bool(value: Any) -> Any:
    """Python counts True as 1; a parameter does not."""
    if isinstance(value, bool):
        raise ValueError("a boolean is no number")
    return value


def _refuse_number(value: Any) -> Any:
    """Python counts 1 as True; a parameter does not."""
    if type(value) in (int, float):
        raise ValueError("a number is no boolean")
    return value


def _require_policies(value: Any) -> Any:
    """all, last, or how many."""
    if value in ("all", "last") or (type(value) is int and 0 < value <= LARGEST):
        return value
    raise ValueError("not a choice of policies")


def _require_printing_text(value: str) -> str:
    """Text with no control character but line breaks and tabs, and no half of a surrogate pair."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in _WHITE.sub("", value)):
        raise ValueError("a control character")
    return value


def _require_line(value: str) -> str:
    """Text in one line, which a file name, an address or a legend can hold."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        raise ValueError("a control character")
    return value


def _whole(low: int, high: int, description: str) -> Any:
    """A whole number from `low` to `high`; `description` ends its error messages."""
    field = Field(ge=low, le=high, description=description)
    return Annotated[int, BeforeValidator(_refuse_bool), field]


def _number(description: str, **limits: float) -> Any:
    """A finite number within pydantic's `limits` (ge, gt, le, lt); `description` ends its error messages."""
    field = Field(allow_inf_nan=False, description=description, **limits)
    return Annotated[float, BeforeValidator(_refuse_bool), field]


_WHITE = re.compile(r"[\n\r\t]")
LARGEST = 10**9  # of a number that nothing else limits: far above all use, far below where 32 bits end

Count = _whole(0, LARGEST, "a whole number, 0 or more; at most 10^9")
PositiveCount = _whole(1, LARGEST, "a whole number above 0; at most 10^9")
Seed = _whole(0, 2**63 - 1, "a whole number, 0 or more; at most 2^63 - 1, as generators take it")
Iterations = _whole(0, 99, "a whole number, 0 or more; at most 99, since folders have two digits")
Passes = _whole(1, 1000, "a whole number above 0; at most 1000, since training has to end")
BatchSize = _whole(1, 65_536, "a whole number above 0; at most 65536, since a batch has to fit into memory")
Tokens = _whole(1, 1_000_000, "a whole number above 0; at most 1000000, since a text has to end")
Frames = _whole(1, 4096, "a whole number above 0; at most 4096, since a clip has to fit into memory")
Rank = _whole(1, 65_536, "a whole number above 0; at most 65536, since no layer is wider")
Requests = _whole(1, 1000, "a whole number above 0; at most 1000, since each is a connection of its own")
Retries = _whole(0, 100, "a whole number, 0 or more; at most 100, since a stage has to end")
Examples = _whole(0, 1000, "a whole number, 0 or more; at most 1000, since a page has to load")
Crf = _whole(0, 51, "a whole number, 0 or more; at most 51, as x264 takes it")
Amount = _number("a number, 0 or more; at most 10^9", ge=0, le=LARGEST)
PositiveAmount = _number("a number above 0; at most 10^9", gt=0, le=LARGEST)
Noise = _number("a number, 0 or more; at most 255, the range of a pixel", ge=0, le=255)
LearningRate = _number("a number above 0; at most 1, since weights explode above", gt=0, le=1)
Beta = _number("a number above 0; at most 1000, since the loss overflows above", gt=0, le=1000)
Temperature = _number("a number, 0 or more; at most 100, which is noise already", ge=0, le=100)
Share = _number("a share, 0 to 1", ge=0, le=1)
PartialShare = _number("a share, 0 or more, below 1", ge=0, lt=1)
PositiveShare = _number("a share above 0, at most 1", gt=0, le=1)
Text = Annotated[
    str,
    AfterValidator(_require_printing_text),
    Field(description="text without control characters, in quotes where it looks like something else"),
]
Line = Annotated[
    str,
    AfterValidator(_require_line),
    Field(description="text in one line, in quotes where it looks like something else"),
]
Switch = Annotated[bool, Field(description="true or false")]
Device = Annotated[
    str,
    Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$", description="auto, cpu, cuda, cuda:<number> or mps"),
]
Policies = Annotated[
    str | int, BeforeValidator(_require_policies), Field(description="all, last or a whole number above 0")
]


class Section(BaseModel):
    """Parameters that belong together: strict types, no unknown key, no change after."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        protected_namespaces=(),
        defer_build=True,  # sections are only read inside Params, which then builds them once
    )


class Data(Section):
    path: Line
    source: Line
    train: Line
    test: Line
    benchmark: Literal["none", "videohallucer", "eventhallusion", "vidhalluc"]
    videos: Line
    follow_links: Switch = False  # runs made before have no such key
    samples: Count
    reuse: Switch
    questions: Count
    fixed_pairs: Count

    @property
    def is_toybox(self) -> bool:
        """Whether the data are the embedded world's, not those of a folder."""
        return self.path == "toybox"


class Toybox(Section):
    noise: Noise
    occlusion: Share
    lookalike: Share
    crf: Crf


class Video(Section):
    span: Literal["whole", "first_10s"]
    frames: Frames | None
    max_pixels: PositiveCount | None
    cache: Switch
    decode_seconds: PositiveAmount = 120.0  # runs made before have no limits
    decode_memory: PositiveAmount = 4.0


class Model(Section):
    path: Line
    dtype: Literal["float32", "bfloat16", "float16"]
    device: Device
    quantize: Literal["none", "8bit", "4bit"]
    image_tower: Line | None
    video_tower: Line | None


class Prompts(Section):
    context: Text
    retrospection: Text
    judge: Text
    judge_without_context: Text


class Respond(Section):
    context: Literal["retrospective", "fresh", "none"]
    temperature: Temperature
    top_p: PositiveShare
    top_k: Count
    max_new_tokens: Tokens
    context_temperature: Temperature
    context_max_new_tokens: Tokens
    batch_size: BatchSize


class Judge(Section):
    method: Literal[tuple(JUDGES)]
    orders: Annotated[Literal[1, 2], BeforeValidator(_refuse_bool)]
    max_new_tokens: Tokens
    min_margin: Amount
    keep_surest: PositiveShare
    balance_lengths: Switch
    batch_size: BatchSize


class Look(Section):
    without_context: Switch
    examples: Examples


class Train(Section):
    method: Literal["full", "lora"]
    beta: Beta
    learning_rate: LearningRate
    epochs: Passes
    batch_size: BatchSize
    gradient_accumulation: BatchSize
    schedule: Literal["linear", "cosine", "constant"]
    warmup_ratio: Share
    weight_decay: Amount
    max_grad_norm: PositiveAmount
    max_length: Tokens
    loss_type: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sigmoid_norm",
    ]
    ld_alpha: Share | None
    length_alpha: Amount | None
    bf16: Annotated[Literal["auto", True, False], BeforeValidator(_refuse_number)]
    gradient_checkpointing: Switch
    lora_r: Rank
    lora_alpha: PositiveCount
    lora_dropout: PartialShare
    save_steps: PositiveCount
    report_to: Line


class Evaluate(Section):
    max_new_tokens: Tokens
    batch_size: BatchSize


class Score(Section):
    scorer: Literal["none", "openai", "local"]
    model: Line
    base_url: Line | None
    key_variable: Line
    hallucination: Switch
    max_new_tokens: Tokens | None
    concurrency: Requests
    retries: Retries
    timeout: PositiveAmount = 120.0  # runs made before it was a parameter have no other
    price_in: Amount | None
    price_out: Amount | None
