"""YAML 1.2 without surprises: 5e-7 is a number, `no` and `1:30` are text, and a key that is given twice is
an error.
"""

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from isrdpo.core.errors import IsrdpoError


class YamlError(IsrdpoError, ValueError):
    """Text that is not YAML, or that gives a key twice; the line names the file and the place in it."""


def parse(text: str, where: str) -> Any:
    """Text to plain values. Raises YamlError, which names `where` and the line."""
    try:
        _refuse_aliases(text, where)
        values = YAML(typ="safe", pure=True).load(text)
        _require_text_keys(values, where)
        return values
    except YamlError:
        raise
    except DuplicateKeyError as error:
        key = str(error.problem).split('"')[1]
        raise YamlError(f"{where}, line {_line(error)}: {key} is given twice; keep one") from None
    except MarkedYAMLError as error:
        raise YamlError(f"{where}, line {_line(error)}: not YAML ({error.problem})") from None
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise YamlError(f"{where}: not YAML ({reason})") from None


def dump(values: Any) -> str:
    """Plain values as YAML text, in their order, a key a line."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.allow_unicode = True
    writer.width = 1000
    text = io.StringIO()
    writer.dump(values, text)
    return text.getvalue()


def _line(error: MarkedYAMLError) -> int:
    return error.problem_mark.line + 1 if error.problem_mark else 1


def _refuse_aliases(text: str, where: str) -> None:
    """Raise YamlError for `*name`: parameters need no copies, and a few nested ones fill any memory."""
    if "*" not in text:
        return
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent):
            raise YamlError(
                f"{where}, line {event.start_mark.line + 1}: *{event.anchor} is an alias; write the value out"
            )


def _require_text_keys(values: Any, where: str) -> None:
    """Raise YamlError where a key is no word."""
    if isinstance(values, list):
        for value in values:
            _require_text_keys(value, where)
    if isinstance(values, dict):
        for key, value in values.items():
            if not isinstance(key, str):
                raise YamlError(f"{where}: a key must be a word, not {key!r}")
            _require_text_keys(value, where)
