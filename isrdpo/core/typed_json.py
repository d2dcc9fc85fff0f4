"""JSON of a run read back with its types checked: what a crash of the machine tears, or a hand edits, is
refused in a line.
"""

import json
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from isrdpo.core.errors import IsrdpoError


class RecordError(IsrdpoError, ValueError):
    """A row or a file of a run that cannot be read; the line says where and why."""


def parse_json(text: str | bytes, kind: Any) -> Any:
    """The value of a JSON text (UTF-8), which has the type `kind`.

    For an object, `kind` is a dataclass of what it has at least. Raises ValueError.
    """
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("brackets in brackets without end") from None
    _checker(kind).validate_json(text, strict=True)  # it only looks: the value stays as it was read
    return value


@lru_cache
def _checker(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def reason(error: Exception) -> str:
    """Say in a few words why a text is refused."""
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        return f"{place}: {problem['msg']}" if place else problem["msg"]
    is_text = not isinstance(error, UnicodeDecodeError) and "\0" not in getattr(error, "doc", "")
    return str(error) if is_text else "no text, as a crash of the machine may leave it"
