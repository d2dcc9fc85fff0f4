"""Parameters: frozen dataclasses a section, `base.yaml < preset < key=value`, strict types, all errors at once.

Every key stands once in params/base.yaml with its unit and source; the dataclasses give types and allowed values only.
"""

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path, PurePath
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from isrdpo.core import prompts, records, strict_yaml
from isrdpo.core.errors import IsrdpoError

BASE = Path(__file__).parents[2] / "params" / "base.yaml"
ABOVE_ZERO = {
    "batch_size", "max_new_tokens", "context_max_new_tokens", "epochs", "gradient_accumulation", "learning_rate",
    "beta", "max_length", "max_grad_norm", "save_steps", "lora_r", "lora_alpha", "top_p", "keep_surest", "frames", "max_pixels", "concurrency",
}  # fmt: skip
TEST_SETS = ("actnet", "vidal", "webvid", "msrvtt", "msvd", "tgif", "ssv2")  # ShareGPTVideo/test_video_and_instruction
OFFICIAL_SETS = ("msrvtt", "msvd", "tgif")
SOURCES = ("train", "test", *TEST_SETS)
SHARES = {"max_bad_share", "top_p", "warmup_ratio", "lora_dropout", "occlusion", "lookalike", "ld_alpha", "keep_surest"}
SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[a-z]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{12,}|AIza[\w-]{30,}|xox[a-z]-[\w-]{10,}"
    r"|-----BEGIN|://[^/\s:@]+:[^/\s@]+@|(?i:\bbearer\s+\S{8,})"
)
SECRET_NAME = re.compile(r"(?i)(?:^|[._-])(?:api_?key|access_?key|token|auth|secret|password|passwd|credentials?)$")


class ParamsError(IsrdpoError, ValueError):
    """Everything that is wrong with a set of parameters, a line each."""


@dataclass(frozen=True)
class Data:
    path: str
    source: str
    train: str
    test: str
    benchmark: Literal["none", "videohallucer", "eventhallusion", "vidhalluc"]
    videos: str
    samples: int
    reuse: bool
    questions: int
    fixed_pairs: int


@dataclass(frozen=True)
class Toybox:
    noise: float
    occlusion: float
    lookalike: float
    crf: int


@dataclass(frozen=True)
class Video:
    span: Literal["whole", "first_10s"]
    frames: int | None
    max_pixels: int | None
    cache: bool


@dataclass(frozen=True)
class Model:
    path: str
    dtype: Literal["float32", "bfloat16", "float16"]
    device: str
    quantize: Literal["none", "8bit", "4bit"]
    image_tower: str | None
    video_tower: str | None


@dataclass(frozen=True)
class Prompts:
    context: str
    retrospection: str
    judge: str
    judge_without_context: str


@dataclass(frozen=True)
class Respond:
    context: Literal["retrospective", "fresh", "none"]
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    context_temperature: float
    context_max_new_tokens: int
    batch_size: int


@dataclass(frozen=True)
class Judge:
    method: Literal["generate", "score", "truth", "random", "given"]
    orders: Literal[1, 2]
    max_new_tokens: int
    min_margin: float
    keep_surest: float
    balance_lengths: bool
    batch_size: int


@dataclass(frozen=True)
class Look:
    without_context: bool
    examples: int


@dataclass(frozen=True)
class Train:
    method: Literal["full", "lora"]
    beta: float
    learning_rate: float
    epochs: int
    batch_size: int
    gradient_accumulation: int
    schedule: Literal["linear", "cosine", "constant"]
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    max_length: int
    loss_type: Literal[
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero",
        "apo_down", "discopop", "sigmoid_norm",
    ]  # fmt: skip
    ld_alpha: float | None
    length_alpha: float | None
    bf16: Literal["auto", True, False]
    gradient_checkpointing: bool
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    save_steps: int
    report_to: str


@dataclass(frozen=True)
class Evaluate:
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True)
class Score:
    scorer: Literal["none", "openai", "local"]
    model: str
    base_url: str | None
    key_variable: str
    hallucination: bool
    max_new_tokens: int | None
    concurrency: int
    retries: int
    price_in: float | None
    price_out: float | None


@dataclass(frozen=True)
class Params:
    """One run's parameters. `run`: its folder; `seed`: of every draw; `iterations`: N."""

    run: str
    arm: str
    seed: int
    iterations: int
    max_bad_share: float
    keep_policies: str | int
    data: Data
    toybox: Toybox
    video: Video
    model: Model
    prompts: Prompts
    respond: Respond
    judge: Judge
    look: Look
    train: Train
    evaluate: Evaluate
    score: Score

    @classmethod
    def from_file(cls, path: Path) -> "Params":
        """The parameters that a run keeps: every key, nothing from base.yaml. Raises ParamsError."""
        return build({"arm": ""} | read_file(path), where=f"{path}: ")  # a run made before `arm` has none

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: Path) -> None:
        records.write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=1000))

    def override(self, section: str, values: dict[str, Any]) -> "Params":
        """A copy with some keys of one section ("" is the top level) changed; checked as strictly as a file."""
        changed = self.to_dict()
        (changed[section] if section else changed).update(values)
        return build(changed)


TrainParams = Train


def read_file(path: Path) -> dict:
    """A YAML file as plain values. Raises ParamsError."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1)
        raise ParamsError(f"{path}: no such preset" + (f"; did you mean {path.parent / near[0]}?" if near else ""))
    try:
        values = strict_yaml.parse(path.read_text(encoding="utf-8"), str(path))
    except (strict_yaml.YamlError, UnicodeDecodeError) as error:
        raise ParamsError(str(error) if isinstance(error, strict_yaml.YamlError) else f"{path}: not UTF-8 text") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: a preset is a mapping of keys to values")
    return values


def load(preset: Path, overrides: list[str] | tuple[str, ...] = ()) -> Params:
    """`base.yaml < preset < key=value`. Raises ParamsError with every error found."""
    merged, errors = read_file(BASE), []
    _merge(merged, read_file(preset), f"{preset}: ", "", errors)
    _override(merged, overrides, errors)
    return build(merged, errors)


def _override(merged: dict, overrides: list[str] | tuple[str, ...], errors: list[str]) -> None:
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            errors.append(f"{_shown(text)}: not key=value")
            continue
        *sections, name = ("data.path" if key == "data" else key).split(".")
        try:
            nested: Any = {name: _override_value(".".join([*sections, name]), value)}
        except strict_yaml.YamlError as error:
            errors.append(str(error))
            continue
        for section in reversed(sections):
            nested = {section: nested}
        _merge(merged, nested, "", "", errors)


def changed(made: Params, overrides: list[str]) -> Params:
    """A run's parameters with some changed by key=value. Raises ParamsError with every error found."""
    values, errors = made.to_dict(), []
    _override(values, overrides, errors)
    return build(values, errors)


def _override_value(name: str, value: str) -> Any:
    """What follows `key=`: YAML, but text as it stands where the key is text, so that a prompt or a path needs no quotes."""
    if _kind(name) is str and not re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL):
        return value
    return strict_yaml.parse(value, name)


def _kind(name: str) -> Any:
    """The type of a dotted key; None where there is no such key."""
    kind: Any = Params
    for part in name.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind


def _merge(into: dict, new: dict, where: str, prefix: str, errors: list[str]) -> None:
    for key, value in new.items():
        if key not in into:
            errors.append(f"{where}{_unknown(into, str(key), prefix)}")
        elif isinstance(into[key], dict):
            if isinstance(value, dict):
                _merge(into[key], value, where, f"{prefix}{key}.", errors)
            else:
                errors.append(f"{where}{prefix}{key} is a section; give {prefix}{key}.<key>")
        else:
            into[key] = value


def _unknown(known: dict, key: str, prefix: str) -> str:
    """The error for a key that does not exist, with the nearest one that does."""
    if SECRET_NAME.search(key):
        return f"{prefix}{key} looks like a secret; keep it in the environment, never in parameters (they are written into reports)"
    whole = {name: name.split(".")[-1] for name in [*dict(_leaves(known, prefix)), *(f"{prefix}{k}" for k in known)]}
    close = difflib.get_close_matches(key, list(whole.values()), 1, 0.6)
    found = [name for name in whole if close and whole[name] == close[0]]
    hint = f"did you mean {' or '.join(found)}?" if found else f"known here: {', '.join(known)}"
    return f"there is no key {prefix}{key}; {hint}"


def build(values: dict, errors: list[str] | None = None, where: str = "") -> Params:
    """Plain values to Params; types, ranges and rules checked, all errors in one ParamsError."""
    errors = list(errors or [])
    made = _section(Params, values, where, "", errors)
    errors += [f"{where}{problem}" for problem in _rules(made)]
    if errors:
        raise ParamsError("\n".join(errors))
    return made


def _section(kind: type, values: Any, where: str, prefix: str, errors: list[str]) -> Any:
    """One dataclass; a field that is wrong becomes None and an error."""
    if not isinstance(values, dict):
        errors.append(f"{where}{prefix[:-1]} is a section; give {prefix}<key>")
        values = {}
    hints, made = get_type_hints(kind), {}
    known = {field.name: None for field in fields(kind)}
    errors += [f"{where}{_unknown(known, str(key), prefix)}" for key in values if key not in known]
    for name, want in hints.items():
        if is_dataclass(want):
            made[name] = _section(want, values.get(name, {}), where, f"{prefix}{name}.", errors)
        elif name not in values:
            errors.append(f"{where}{prefix}{name} is missing")
        else:
            made[name], problem = _value(want, values[name], name)
            errors += [f"{where}{prefix}{name}: {problem}"] if problem else []
    return kind(**(known | made))


def _value(want: Any, value: Any, name: str) -> tuple[Any, str]:
    """(the value in its type, "") or (None, what is wrong with it)."""
    kinds = get_args(want) if get_origin(want) in (Union, UnionType) else (want,)
    for kind in kinds:
        if get_origin(kind) is Literal:
            allowed = get_args(kind)
            if any(value == a and type(value) is type(a) for a in allowed):
                return value, ""
            near = difflib.get_close_matches(str(value), [str(a) for a in allowed], 1, 0.4)
            return None, f"{_shown(value)} is not one of {', '.join(map(str, allowed))}" + (f"; did you mean {near[0]}?" if near else "")
        if kind is float and type(value) in (int, float) and math.isfinite(value):
            value = float(value)
        if type(value) is kind:
            problem = _range(name, value)
            return (None, problem) if problem else (value, "")
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return None, f"{_shown(value)} is not {' or '.join(names[k] for k in kinds)}"


def _shown(value: Any) -> str:
    """A value in an error message; never a secret."""
    return "(hidden)" if SECRET.search(str(value)) else repr(value)[:80]


def _range(name: str, value: Any) -> str:
    if isinstance(value, str) and SECRET.search(value):
        return "this looks like a key or token; keep it in the environment, never in parameters"
    if isinstance(value, (bool, str)) or value is None:
        return ""
    if name in ABOVE_ZERO and value <= 0:
        return f"{value} must be above 0"
    if name in SHARES and not 0 <= value <= 1:
        return f"{value} is a share; give 0 to 1"
    return f"{value} must not be negative" if value < 0 else ""


def _rules(made: Params) -> Iterator[str]:
    """Rules beyond types; a value that is wrong already is None here and says no more."""
    if made.run == "":
        yield "run: where does the run go? give a folder, such as outputs/run"
    keep = made.keep_policies
    if keep is not None and keep not in ("all", "last") and not (isinstance(keep, int) and keep > 0):
        yield f"keep_policies: {_shown(keep)} is not all, last or a number above 0"
    if made.model.device is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", made.model.device):
        yield f"model.device: {_shown(made.model.device)} is not auto, cpu, cuda, cuda:<number> or mps"
    wanted = {"context": set(), "retrospection": {"previous"}, "judge": {"context", "question", "first", "second"},
              "judge_without_context": {"question", "first", "second"}}  # fmt: skip
    for name, slots in wanted.items():
        template = getattr(made.prompts, name)
        if template is not None and prompts.slot_names(template) != slots:
            has = sorted(prompts.slot_names(template)) or "none"
            yield f"prompts.{name}: its slots are {has}; they must be {sorted(slots) or 'none'}"
    if made.judge.min_margin and made.judge.method == "generate":
        yield "judge.min_margin: a generated verdict has no margin; set judge.method=score, or leave it 0"
    if made.train.length_alpha and (made.train.loss_type != "sigmoid" or made.train.ld_alpha is not None):
        yield "train.length_alpha: R-DPO's margin goes with loss_type=sigmoid and ld_alpha=null; leave the others as they are, or this null"
    if made.model.quantize not in (None, "none") and made.train.method == "full":
        yield "model.quantize: quantized weights are trained under LoRA only; set train.method=lora, or model.quantize=none"
    if made.judge.method == "truth" and made.data.path not in ("toybox", None):
        yield "judge.method: truth needs known facts, which only data.path=toybox has; give generate or score"
    if made.judge.method == "given" and made.data.path == "toybox":
        yield "judge.method: given needs a data set's own chosen and rejected, which data.path=toybox has not; give data=FOLDER, or another judge.method"
    yield from _data_rules(made.data)
    yield from _score_rules(made.score)


def _data_rules(data: Data) -> Iterator[str]:
    if data.path == "":
        yield "data.path: where are the data? give toybox or a folder with train.jsonl and test.qa.jsonl"
    for name, given in (("train", [data.train]), ("test", (data.test or "").split(",")), ("videos", [data.videos])):
        for path in (PurePath((text or "").strip()) for text in given):
            if path.is_absolute() or ".." in path.parts:
                yield f"data.{name}: {_shown(str(path))} leads out of data.path; give a path inside it"
    if data.benchmark not in (None, "none") and data.path == "toybox":
        yield "data.benchmark: Toybox has questions of its own; give data=FOLDER with the benchmark's folder in it and data.test=that folder, or none"
    if data.test is not None and not data.test.replace(",", "").strip():
        yield "data.test: no file; give the test set's, or several with commas between"
    unknown = [name for name in (data.source or "").split(",") if name.strip() not in ("", *SOURCES)]
    if unknown:
        yield f"data.source: {_shown(unknown[0].strip())} is not one of {', '.join(SOURCES)}"


def _score_rules(score: Score) -> Iterator[str]:
    if score.base_url is not None and not re.match(r"https?://[^/]", score.base_url):
        yield f"score.base_url: {_shown(score.base_url)} is not an address; give one such as http://localhost:8000/v1"
    if score.key_variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", score.key_variable):
        yield "score.key_variable: not the name of an environment variable; give its name, such as OPENAI_API_KEY, never the key"
    if score.scorer in ("openai", "local") and score.model == "":
        yield "score.model: which model? give the endpoint's name for it, or a local model's folder"


def _leaves(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything that is not a section."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
