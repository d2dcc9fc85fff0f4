"""Errors of servers that refuse a parameter of a request: which one?"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_REFUSAL = re.compile(
    r"unsupported|not (?:be )?(?:supported|permitted|allowed|recogni[sz]ed|available|enabled|implemented)"
    r"|(?:n't|not) (?:support|allow|accept|recogni[sz]e)|unknown|unrecogni[sz]ed|unexpected|deprecated"
    r"|only the default|extra (?:inputs|fields)|extra_forbidden|no longer|incompatible"
    r"|cannot both|mutually exclusive|cannot be (?:used|set|specified)",
    re.IGNORECASE,
)
_EXCLUSION = re.compile(r"\bboth\b|together|mutually exclusive", re.IGNORECASE)
_OUT_OF_RANGE = re.compile(
    r"too (?:large|long|small|high|many)|maximum|at most|exceed|context length", re.IGNORECASE
)


def refused_parameter(body: Any, message: str, sent: Sequence[str]) -> str:
    """Return the one of the `sent` parameters that an error refuses; empty where it refuses none of them.

    Servers name it in `param` (OpenAI), in `loc` (pydantic, FastAPI) or in the message. A value that is out
    of range is no such refusal: to leave it out would ask for something else.
    """
    details = _error_details(body)
    words = " ".join([message, *details.words])
    if _OUT_OF_RANGE.search(words) or not _REFUSAL.search(words):
        return ""
    if details.names:
        return next((name for name in sent if name in details.names), "")
    places = {name: re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words) for name in sent}
    named = sorted((place.start(), name) for name, place in places.items() if place)
    if not named:
        return ""
    # Of two that exclude each other, the later one goes; else the first is the one that is refused:
    # "'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    return named[-1 if _EXCLUSION.search(words) else 0][1]


def error_words(body: Any) -> list[str]:
    """Return what an error's body says beside its message."""
    return _error_details(body).words


@dataclass(frozen=True)
class _ErrorDetails:
    """What an error's body says: `names` of parameters in fields made for that, and other `words`."""

    names: set[str]
    words: list[str]


def _error_details(body: Any) -> _ErrorDetails:
    if not isinstance(body, dict):
        return _ErrorDetails(set(), [body[:1000]] if isinstance(body, str) else [])
    names: list[Any] = [body.get("param")]
    words: list[Any] = [body.get("code"), body.get("type"), body.get("detail")]
    details = body.get("detail")
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict):
            location = detail.get("loc")
            names += location if isinstance(location, list) else []
            words += [detail.get("type"), detail.get("msg")]
    return _ErrorDetails(
        {name for name in names if isinstance(name, str) and name},
        [word[:1000] for word in words if isinstance(word, str)],
    )
