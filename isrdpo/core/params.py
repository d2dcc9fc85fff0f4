"""Parameters: one frozen model a section, read as `base.yaml < preset < key=value`, with all errors said at
once.

Every key stands once in params/base.yaml, with its unit and its source; the models below give its type and
its range.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from isrdpo.core import records, strict_yaml
from isrdpo.core.errors import IsrdpoError
from isrdpo.core.folders import PACKAGE
from isrdpo.core.rules import broken_rules
from isrdpo.core.schema import (
    Data,
    Evaluate,
    Iterations,
    Judge,
    Line,
    Look,
    Model,
    Policies,
    Prompts,
    Respond,
    Score,
    Section,
    Seed,
    Share,
    Toybox,
    Train,
    Video,
)
from isrdpo.core.secrets import SECRET_NAME, is_secret, printable

BASE = PACKAGE.parent / "params" / "base.yaml"


class ParamsError(IsrdpoError, ValueError):
    """Everything that is wrong with a set of parameters, one line each."""


class Params(Section):
    """The parameters of one run.

    `run` is its folder, `seed` that of every draw, `iterations` the paper's N.
    """

    run: Line
    arm: Line
    seed: Seed
    iterations: Iterations
    max_bad_share: Share
    keep_policies: Policies
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
        values = read_file(path)
        return build({"arm": ""} | values, where=f"{path}: ")  # runs made before `arm` existed lack it

    def to_dict(self) -> dict[str, Any]:
        """The parameters as plain values, sections as dicts, in the order of the file."""
        return self.model_dump()

    def save(self, path: Path) -> None:
        """Write the parameters to a YAML file that `from_file` reads."""
        records.write_text(path, strict_yaml.dump(self.to_dict()))

    def override(self, section: str, values: dict[str, Any]) -> "Params":
        """A copy with some keys of one section ("" is the top level) changed; checked as strictly as a
        file.
        """
        changed = self.to_dict()
        target = changed[section] if section else changed
        target.update(values)
        return build(changed)


SECTIONS = {
    name: field.annotation
    for name, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


def read_file(path: Path) -> dict:
    """A YAML file as plain values. Raises ParamsError, which names the nearest file where there is none."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ParamsError(f"{path}: no such preset{hint}")
    if path.stat().st_size > 4 * strict_yaml.MAX_CHARACTERS:  # UTF-8 takes at most 4 bytes for each
        raise ParamsError(f"{path}: more than the {strict_yaml.MAX_CHARACTERS} characters that are read")
    try:
        values = strict_yaml.parse(path.read_text(encoding="utf-8"), str(path))
    except strict_yaml.YamlError as error:
        raise ParamsError(str(error)) from None
    except UnicodeDecodeError:
        raise ParamsError(f"{path}: not UTF-8 text") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: a preset is a mapping of keys to values")
    return values


def load(preset: Path, overrides: Sequence[str] = ()) -> Params:
    """The parameters of `base.yaml < preset < key=value`. Raises ParamsError with every error."""
    errors: list[str] = []
    merged = read_file(BASE)
    _merge(merged, read_file(preset), f"{preset}: ", "", errors)
    _merge_overrides(merged, overrides, errors)
    return build(merged, errors)


def change(params: Params, overrides: Sequence[str]) -> Params:
    """A run's parameters with some changed by key=value. Raises ParamsError with every error."""
    errors: list[str] = []
    values = params.to_dict()
    _merge_overrides(values, overrides, errors)
    return build(values, errors)


def _merge_overrides(merged: dict, overrides: Sequence[str], errors: list[str]) -> None:
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            errors.append(f"{printable(text)}: not key=value")
            continue
        key = "data.path" if key == "data" else key
        *sections, name = key.split(".")
        try:
            nested: Any = {name: _override_value(key, value)}
        except strict_yaml.YamlError as error:
            errors.append(str(error))
            continue
        for section in reversed(sections):
            nested = {section: nested}
        _merge(merged, nested, "", "", errors)


def _override_value(key: str, value: str) -> Any:
    """The YAML value behind `key=`; where the key is text, the text as it stands, so that a prompt or a
    path needs no quotes.
    """
    kind = _annotation(key)
    may_be_null = type(None) in get_args(kind)
    is_text = kind is str or (may_be_null and get_args(get_args(kind)[0])[:1] == (str,))
    is_quoted = re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL)
    if is_text and not is_quoted and not (may_be_null and value in ("null", "~", "")):
        return value
    return strict_yaml.parse(value, _word(key))


def _annotation(key: str) -> Any:
    """The type of a dotted key; None where there is no such key."""
    kind: Any = Params
    for part in key.split("."):
        fields = getattr(kind, "model_fields", {})
        kind = fields[part].annotation if part in fields else None
    return kind


def _merge(into: dict, new: dict, where: str, prefix: str, errors: list[str]) -> None:
    for key, value in new.items():
        if key not in into:
            errors.append(f"{where}{_unknown_key(into, str(key), prefix)}")
        elif not isinstance(into[key], dict):
            into[key] = value
        elif isinstance(value, dict):
            _merge(into[key], value, where, f"{prefix}{key}.", errors)
        else:
            errors.append(f"{where}{prefix}{key} is a section; give {prefix}{key}.<key>")


def _word(key: str) -> str:
    """A key for a message: as it stands where it is a short word, else quoted and cut."""
    return key if re.fullmatch(r"[\w.-]{1,80}", key) and not is_secret(key) else printable(key)


def _unknown_key(section: dict, key: str, prefix: str) -> str:
    """The error for a key that does not exist, with the nearest one that does."""
    prefix = prefix and f"{_word(prefix.removesuffix('.'))}."
    if SECRET_NAME.search(key):
        return (
            f"{prefix}{_word(key)} looks like a secret; keep it in the environment, "
            f"never in parameters, which reports show"
        )
    names = [*_leaf_names(section, prefix), *(f"{prefix}{name}" for name in section)]
    last_parts = {name: name.split(".")[-1] for name in names}
    close = difflib.get_close_matches(key, list(last_parts.values()), 1, 0.6)
    nearest = [name for name, last in last_parts.items() if last in close]
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known here: {', '.join(section)}"
    return f"there is no key {prefix}{_word(key)}; {hint}"


def _leaf_names(values: dict, prefix: str) -> Iterator[str]:
    """The dotted names of everything that is no section."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaf_names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def build(values: dict, errors: Sequence[str] = (), where: str = "") -> Params:
    """Plain values as Params.

    Raises ParamsError with all that is wrong: `errors`, types, ranges, and rules between keys.
    """
    problems = list(errors)
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        messages = _messages(error, values)
        problems += [f"{where}{message}" for message in messages.values()]
        params = _with_gaps(values, set(messages))
    problems += [f"{where}{problem}" for problem in (*_secrets(values), *broken_rules(params))]
    if problems:
        raise ParamsError("\n".join(problems))
    return params


def _messages(error: ValidationError, values: dict) -> dict[str, str]:
    """One message for each key that is refused, by dotted key."""
    messages: dict[str, str] = {}
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        inside = path[0] in SECTIONS and len(path) > 1
        section = SECTIONS[path[0]] if inside else Params
        prefix = f"{path[0]}." if inside else ""
        name = path[1] if inside else path[0]
        value = values[path[0]].get(name) if inside else values.get(name)
        key = f"{prefix}{name}"
        if key in messages:  # of another type that the key may have
            continue
        if problem["type"] == "extra_forbidden":
            messages[key] = _unknown_key(dict.fromkeys(section.model_fields), name, prefix)
        elif problem["type"] == "missing":
            messages[key] = f"{key} is missing"
        elif problem["type"] == "model_type":
            messages[key] = f"{key} is a section; give {key}.<key>"
        else:
            too_large = problem["type"] == "less_than_equal"
            reason = _limit(section.model_fields[name]) if too_large else ""
            reason = reason or f"not {_expected(section.model_fields[name], value)}"
            messages[key] = f"{key}: {printable(value)} is {reason}"
    return messages


def _expected(field: FieldInfo, value: Any) -> str:
    """Say what a field takes: its description, or the choices it has with the nearest one to
    `value`.
    """
    if get_origin(field.annotation) is Literal:
        choices = [_yaml_word(choice) for choice in get_args(field.annotation)]
        near = difflib.get_close_matches(str(value), choices, 1, 0.4)
        return f"one of {', '.join(choices)}" + (f"; did you mean {near[0]}?" if near else "")
    expected = _description(field).partition("; at most ")[0]
    return expected if field.description else f"{expected}, or null"


def _limit(field: FieldInfo) -> str:
    """Say what is the most that a field takes, and why; empty where its description does not."""
    limit = _description(field).partition("; at most ")[2]
    return f"too large; at most {limit}" if limit else ""


def _description(field: FieldInfo) -> str:
    """The description of a field, or of the type that it may have beside null."""
    if field.description:
        return field.description
    inner = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    return get_args(inner[0])[-1].description


def _yaml_word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_gaps(values: dict, bad: set[str]) -> Params:
    """The parameters unchecked, with None for each key that is missing or in `bad`, so that rules can look
    at the others.
    """
    top = {name: None if name in bad else values.get(name) for name in Params.model_fields}
    for section, kind in SECTIONS.items():
        inside = values.get(section) if isinstance(values.get(section), dict) else {}
        fields = {n: None if f"{section}.{n}" in bad else inside.get(n) for n in kind.model_fields}
        top[section] = kind.model_construct(**fields)
    return Params.model_construct(**top)


def _secrets(values: dict, prefix: str = "") -> Iterator[str]:
    """A line for each value that looks like a key or a token."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _secrets(value, f"{prefix}{name}.")
        elif is_secret(value):
            yield (
                f"{prefix}{name}: this looks like a key or token; "
                f"keep it in the environment, never in parameters"
            )
