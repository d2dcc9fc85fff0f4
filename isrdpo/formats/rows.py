"""One row of a data set, in any of its spellings, as a Sample. LLaVA-Hound's (`prompt` or `conversations`, {from, value}) and TRL's preference data
(https://huggingface.co/docs/trl/dataset_formats): explicit and implicit prompts, {role, content}, content as typed parts, `videos`.
"""

from typing import Any

from isrdpo.core import records
from isrdpo.core.errors import IsrdpoError

HUMAN, GPT = ("human", "user"), ("gpt", "assistant")


class RowError(IsrdpoError, ValueError):
    """A dataset row that cannot be used; its text is the cause, as it is counted."""


def identity(row: Any) -> str:
    """A row's `id`, or its `idx`; empty where it has neither."""
    found = [row[name] for name in ("id", "idx") if row.get(name) not in (None, "")] if isinstance(row, dict) else []
    return str(found[0]).encode(errors="replace").decode() if found else ""


def sample(row: dict[str, Any], spare: str = "") -> records.Sample:
    """One row: `prompt`, `question`, `conversations`, or a question within `chosen` and `rejected`; text, {from, value} or {role, content}, content also as
    typed parts; `id`, `idx`, or the spare one; the <video> tag anywhere. RowError says what lacks."""
    question, name = asked(row).replace("<video>", "").replace("<image>", "").strip(), video_name(row)
    if not question:
        raise RowError("empty question")
    if not name.strip():
        raise RowError("no video named")
    if not (identity(row) or spare):
        raise RowError("no id")
    gpt = [said(t) for t in row.get("conversations") or [] if speaker(t) in GPT]
    found = records.Sample(
        id=identity(row) or spare, video=name, question=question, answer=reply(row.get("answer")) or (gpt[0] if gpt else ""), kind=said(row.get("kind") or ""),
        caption=said(row.get("caption") or ""), chosen=reply(row.get("chosen")), rejected=reply(row.get("rejected")),
    )  # fmt: skip
    "".join(text for text in vars(found).values() if text).encode()  # half a surrogate pair, which JSON may hold, cannot be written: a ValueError of this row
    return found


def asked(row: dict[str, Any]) -> str:
    """A row's question. TRL's explicit prompts are turns; where the prompt is implicit, chosen and rejected both begin with it."""
    prompt = row.get("prompt") or row.get("question")
    if prompt:
        return only_question(prompt) if is_turns(prompt) else said(prompt)
    if turns := row.get("conversations"):
        return next((said(turn) for turn in turns if speaker(turn) in HUMAN), "")
    both = {only_question(row[name]) for name in ("chosen", "rejected") if is_turns(row.get(name))}
    if len(both) > 1:
        raise RowError("chosen and rejected answer different questions")
    return both.pop() if both else ""


def only_question(turns: list[Any]) -> str:
    """The one human turn of a dialogue (system turns are left out); the last turn's text where nobody is named human."""
    human = [said(turn) for turn in turns if speaker(turn) in HUMAN]
    if len(human) > 1:
        raise RowError("more than one question")
    return human[0] if human else ""


def reply(value: Any) -> str:
    """An answer's text; of turns the last one's, where it is not a question."""
    return "" if not value or is_turns(value) and speaker(value[-1]) in HUMAN else said(value)


def is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and speaker(turn) for turn in value)


def video_name(row: dict[str, Any]) -> str:
    """The path of `video`, of the one entry of `videos`, or of a typed part of the question; a video's bytes are not written out, and refused."""
    value = row.get("video") or row.get("videos") or [part.get("video") or part.get("path") for part in parts(row) if part.get("type") == "video"]
    if isinstance(value, list):
        if len(value) > 1:
            raise RowError("more than one video")
        value = value[0] if value else ""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        raise RowError("video given as bytes, not as a path")
    return value if isinstance(value, str) else ""


def parts(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The typed parts of the turns that ask."""
    turns = next((row[name] for name in ("prompt", "conversations", "chosen") if is_turns(row.get(name))), [])
    contents = [turn.get("content") for turn in turns if speaker(turn) in HUMAN]
    return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]


def speaker(turn: Any) -> str:
    return str(turn.get("from") or turn.get("role") or "")


def said(value: Any) -> str:
    """Text, or the text of {from, value} / {role, content}, of the last turn of a list of them, or of a content's text parts together."""
    if isinstance(value, list) and value and all(isinstance(part, dict) and part.get("type") for part in value):
        if strange := [part["type"] for part in value if part["type"] not in ("text", "video")]:
            raise ValueError(f"a part of type {str(strange[0])[:60]!r}; only text and video are read")
        return " ".join(part.get("text") or "" for part in value if part["type"] == "text")
    if isinstance(value, list):
        value = value[-1] if value else ""
    if isinstance(value, dict):
        return said(value.get("value") or value.get("content") or "")
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:60]!r} is not text")
    return value
