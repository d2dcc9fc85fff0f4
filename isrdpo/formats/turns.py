"""Values of a dataset row as text: scalars, typed parts, dialogues of turns, and JSON that holds them.

A value is read whole or refused. Numbers are values, 0 too; None, NaN, blank text and empty lists are absent.
"""

import json
import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from isrdpo.core.errors import IsrdpoError

SPEAKERS = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "model": "gpt",
    "system": "system",
}
# A list of turns, or one turn, that was written as text into a text: by `json.dumps`, or as Python shows it.
_TURNS_AS_TEXT = re.compile(
    r"""\s*\[?\s*\{(?=[^}]*['"](?:from|role)['"]\s*:)(?=[^}]*['"](?:value|content)['"]\s*:)"""
)


class RowError(IsrdpoError, ValueError):
    """A dataset row that cannot be used; its text is the cause, as it is counted."""


@dataclass(frozen=True)
class Dialogue:
    """One round: a question and its answer, empty where there is none.

    `videos` are the values of the question's typed parts that name a video.
    """

    question: str = ""
    answer: str = ""
    videos: list[Any] = field(default_factory=list)


def is_absent(value: Any) -> bool:
    """Whether a value says nothing: None, NaN, blank text, an empty list or object. 0 and False say."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float | Decimal):
        return math.isnan(value)
    return value is None or (isinstance(value, list | dict) and not value)


def scalar_text(value: Any) -> str:
    """A text as it is, or a number as text: 0 as "0", and 2.0, as tables keep whole numbers, as "2".

    Raises ValueError for anything else; true and false too, since nobody says what they are called.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise ValueError("true or false is not text; write the words of the answer")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal) and math.isfinite(value):
        is_whole = value == int(value) and abs(value) < 2**53
        return str(int(value)) if is_whole else str(value)
    raise ValueError(f"{str(value)[:60]!r} is not text")


def text_of(value: Any) -> str:
    """The text of a value: of a scalar, one turn, typed parts together, or a list of one of these.

    It is empty where the value is absent. Raises RowError for several texts, and for turns that were written
    into one; ValueError where it is no text, and for a part that is neither text nor video.
    """
    if is_absent(value):
        return ""
    if isinstance(value, list):
        if is_typed_parts(value):
            return _text_of_parts(value)
        if len(value) > 1:
            raise RowError("several texts where one is read")
        return text_of(value[0])
    if isinstance(value, dict):
        return _text_of_object(value)
    text = scalar_text(value)
    if _TURNS_AS_TEXT.match(text):
        raise RowError("turns written as text")
    return text


def is_typed_parts(value: Any) -> bool:
    """Whether a value is a list of parts, each with its type."""
    return isinstance(value, list) and all(isinstance(part, dict) and part.get("type") for part in value)


def _text_of_parts(parts: list[dict[str, Any]]) -> str:
    for part in parts:
        if part["type"] not in ("text", "video"):
            raise ValueError(f"a part of type {str(part['type'])[:60]!r}; only text and video are read")
    return " ".join(text_of(part.get("text")) for part in parts if part["type"] == "text")


def _text_of_object(value: dict[Any, Any]) -> str:
    if is_typed_parts([value]):
        return _text_of_parts([value])
    contents = [value[name] for name in ("value", "content") if not is_absent(value.get(name))]
    if len(contents) > 1 and contents[0] != contents[1]:
        raise RowError("a turn with two texts")
    if not contents and not {"value", "content"} & set(value):
        raise ValueError(f"{str(value)[:60]!r} is not text")
    return text_of(contents[0]) if contents else ""


def is_dialogue(value: Any) -> bool:
    """Whether a value is a turn with a speaker, or a list of such turns."""
    if isinstance(value, dict):
        return not (is_absent(value.get("from")) and is_absent(value.get("role")))
    return (
        isinstance(value, list) and bool(value) and all(isinstance(t, dict) and is_dialogue(t) for t in value)
    )


def read_dialogue(value: Any) -> Dialogue:
    """A turn, or a list of turns, as the one round that it is. Turns of the system do not count.

    Raises RowError for several questions or answers, and for an answer that comes before its question:
    whatever stood between would be lost. Raises ValueError for another speaker.
    """
    turns = [value] if isinstance(value, dict) else value
    speakers = [_speaker(turn) for turn in turns]
    if speakers.count("human") > 1:
        raise RowError("more than one question")
    if speakers.count("gpt") > 1:
        raise RowError("more than one answer")
    spoken = {speaker: turn for speaker, turn in zip(speakers, turns, strict=True) if speaker != "system"}
    if list(spoken) == ["gpt", "human"]:
        raise RowError("an answer before its question")
    question = spoken.get("human")
    return Dialogue(text_of(question), text_of(spoken.get("gpt")), _video_parts(question))


def _speaker(turn: dict[str, Any]) -> str:
    """Who speaks a turn: human, gpt or system. Raises ValueError for anybody else."""
    names = [turn[name] for name in ("from", "role") if not is_absent(turn.get(name))]
    speakers = {SPEAKERS.get(str(name).lower()) for name in names}
    if len(speakers) > 1 or None in speakers:
        raise ValueError(
            f"a turn of {' and '.join(map(str, names))[:60]!r}; only user and assistant are read"
        )
    return str(speakers.pop())


def _video_parts(turn: dict[str, Any] | None) -> list[Any]:
    """The videos that the typed parts of a question name."""
    content = turn.get("content") if turn else None
    if not is_typed_parts(content):
        return []
    videos = [part.get("video") or part.get("path") for part in content or [] if part["type"] == "video"]
    return [video for video in videos if not is_absent(video)]


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises ValueError, also where an object has a name twice: one of its values would be lost.
    """
    return json.loads(text, object_pairs_hook=_object_of_pairs)


def _object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has {repeated[:60]!r} twice")
    return values
