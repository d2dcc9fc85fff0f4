"""The sections of params/base.yaml: one frozen model each, with the type and the range of every key."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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
    if value in ("all", "last") or (type(value) is int and value > 0):
        return value
    raise ValueError("not a choice of policies")


Count = Annotated[int, BeforeValidator(_refuse_bool), Field(ge=0, description="a whole number, 0 or more")]
PositiveCount = Annotated[
    int, BeforeValidator(_refuse_bool), Field(gt=0, description="a whole number above 0")
]
Amount = Annotated[
    float, BeforeValidator(_refuse_bool), Field(ge=0, allow_inf_nan=False, description="a number, 0 or more")
]
PositiveAmount = Annotated[
    float, BeforeValidator(_refuse_bool), Field(gt=0, allow_inf_nan=False, description="a number above 0")
]
Share = Annotated[
    float,
    BeforeValidator(_refuse_bool),
    Field(ge=0, le=1, allow_inf_nan=False, description="a share, 0 to 1"),
]
PositiveShare = Annotated[
    float,
    BeforeValidator(_refuse_bool),
    Field(gt=0, le=1, allow_inf_nan=False, description="a share above 0, at most 1"),
]
Text = Annotated[str, Field(description="text")]
Switch = Annotated[bool, Field(description="true or false")]
Device = Annotated[
    str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:<number> or mps")
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
    path: Text
    source: Text
    train: Text
    test: Text
    benchmark: Literal["none", "videohallucer", "eventhallusion", "vidhalluc"]
    videos: Text
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
    noise: Amount
    occlusion: Share
    lookalike: Share
    crf: Count


class Video(Section):
    span: Literal["whole", "first_10s"]
    frames: PositiveCount | None
    max_pixels: PositiveCount | None
    cache: Switch
    decode_seconds: PositiveAmount = 120.0  # runs made before have no limits
    decode_memory: PositiveAmount = 4.0


class Model(Section):
    path: Text
    dtype: Literal["float32", "bfloat16", "float16"]
    device: Device
    quantize: Literal["none", "8bit", "4bit"]
    image_tower: Text | None
    video_tower: Text | None


class Prompts(Section):
    context: Text
    retrospection: Text
    judge: Text
    judge_without_context: Text


class Respond(Section):
    context: Literal["retrospective", "fresh", "none"]
    temperature: Amount
    top_p: PositiveShare
    top_k: Count
    max_new_tokens: PositiveCount
    context_temperature: Amount
    context_max_new_tokens: PositiveCount
    batch_size: PositiveCount


class Judge(Section):
    method: Literal[tuple(JUDGES)]
    orders: Annotated[Literal[1, 2], BeforeValidator(_refuse_bool)]
    max_new_tokens: PositiveCount
    min_margin: Amount
    keep_surest: PositiveShare
    balance_lengths: Switch
    batch_size: PositiveCount


class Look(Section):
    without_context: Switch
    examples: Count


class Train(Section):
    method: Literal["full", "lora"]
    beta: PositiveAmount
    learning_rate: PositiveAmount
    epochs: PositiveCount
    batch_size: PositiveCount
    gradient_accumulation: PositiveCount
    schedule: Literal["linear", "cosine", "constant"]
    warmup_ratio: Share
    weight_decay: Amount
    max_grad_norm: PositiveAmount
    max_length: PositiveCount
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
    lora_r: PositiveCount
    lora_alpha: PositiveCount
    lora_dropout: Share
    save_steps: PositiveCount
    report_to: Text


class Evaluate(Section):
    max_new_tokens: PositiveCount
    batch_size: PositiveCount


class Score(Section):
    scorer: Literal["none", "openai", "local"]
    model: Text
    base_url: Text | None
    key_variable: Text
    hallucination: Switch
    max_new_tokens: PositiveCount | None
    concurrency: PositiveCount
    retries: Count
    timeout: PositiveAmount = 120.0  # runs made before it was a parameter have no other
    price_in: Amount | None
    price_out: Amount | None
