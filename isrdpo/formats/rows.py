"""One row of a data set, in any of its spellings, as a Sample.

The spellings are LLaVA-Hound's (`prompt` or `conversations`, turns as {from, value}) and those of TRL's
preference data (https://huggingface.co/docs/trl/dataset_formats): explicit and implicit prompts, turns as
{role, content}, content as typed parts, `videos`. This is where the text of a data set loses its <video>
and <image> tags.
"""

from typing import Any

from isrdpo.core.errors import IsrdpoError
from isrdpo.core.records import Sample

HUMAN = ("human", "user")
GPT = ("gpt", "assistant")


class RowError(IsrdpoError, ValueError):
    """A dataset row that cannot be used; its text is the cause, as it is counted."""


def row_id(row: Any) -> str:
    """Return a row's `id`, or its `idx`; empty where it has neither, or is no object."""
    if not isinstance(row, dict):
        return ""
    for name in ("id", "idx"):
        if row.get(name) not in (None, ""):
            return str(row[name]).encode(errors="replace").decode()
    return ""


def sample_from_row(row: dict[str, Any], spare_id: str = "") -> Sample:
    """Return one row of a data set as a Sample.

    The question stands in `prompt`, `question` or `conversations`, or begins `chosen` and `rejected`.
    `spare_id` is the id of a row that has neither `id` nor `idx`.

    Raises RowError where something is missing, and ValueError, TypeError or AttributeError where the row
    has another form.
    """
    question = _without_tags(_question(row))
    video = _video_name(row)
    identity = row_id(row) or spare_id
    if not question:
        raise RowError("empty question")
    if not video.strip():
        raise RowError("no video named")
    if not identity:
        raise RowError("no id")
    turns = row.get("conversations") or []
    replies = [_text(turn) for turn in turns if _speaker(turn) in GPT]
    answer = _answer(row.get("answer"))
    if not answer and replies:
        answer = replies[0]
    sample = Sample(
        id=identity,
        video=video,
        question=question,
        answer=answer,
        kind=_text(row.get("kind") or ""),
        caption=_text(row.get("caption") or ""),
        chosen=_answer(row.get("chosen")),
        rejected=_answer(row.get("rejected")),
    )
    refuse_unwritable_text(sample)
    return sample


def refuse_unwritable_text(sample: Sample) -> None:
    """Raise ValueError where a text holds half of a surrogate pair:

    JSON may hold one, a UTF-8 file may not.
    """
    "".join(text for text in vars(sample).values() if text).encode()


def _without_tags(text: str) -> str:
    return text.replace("<video>", "").replace("<image>", "").strip()


def _question(row: dict[str, Any]) -> str:
    """The question as it is written.

    TRL's implicit prompts are what both `chosen` and `rejected` begin with.
    """
    prompt = row.get("prompt") or row.get("question")
    if prompt:
        return _only_question(prompt) if _is_dialogue(prompt) else _text(prompt)
    if turns := row.get("conversations"):
        return next((_text(turn) for turn in turns if _speaker(turn) in HUMAN), "")
    questions = {_only_question(row[name]) for name in ("chosen", "rejected") if _is_dialogue(row.get(name))}
    if len(questions) > 1:
        raise RowError("chosen and rejected answer different questions")
    return questions.pop() if questions else ""


def _only_question(turns: list[Any]) -> str:
    """The text of the one human turn of a dialogue; empty where there is none. System turns do not count."""
    questions = [_text(turn) for turn in turns if _speaker(turn) in HUMAN]
    if len(questions) > 1:
        raise RowError("more than one question")
    return questions[0] if questions else ""


def _answer(value: Any) -> str:
    """The text of an answer; of a dialogue that of its last turn, empty where that is a question."""
    if not value:
        return ""
    if _is_dialogue(value) and _speaker(value[-1]) in HUMAN:
        return ""
    return _text(value)


def _video_name(row: dict[str, Any]) -> str:
    """The path in `video`, in `videos` (of one entry), or in a typed part of the question; else empty.

    Raises RowError for several videos, and for a video's bytes, which are not written to a file.
    """
    value = row.get("video") or row.get("videos")
    if not value:
        videos = [part for part in _question_parts(row) if part.get("type") == "video"]
        value = [part.get("video") or part.get("path") for part in videos]
    if isinstance(value, list):
        if len(value) > 1:
            raise RowError("more than one video")
        value = value[0] if value else ""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        raise RowError("video given as bytes, not as a path")
    return value if isinstance(value, str) else ""


def _question_parts(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The typed parts of the human turns."""
    turns: list[Any] = []
    for name in ("prompt", "conversations", "chosen"):
        if _is_dialogue(row.get(name)):
            turns = row[name]
            break
    parts: list[dict[str, Any]] = []
    for turn in turns:
        content = turn.get("content")
        if _speaker(turn) in HUMAN and isinstance(content, list):
            parts += [part for part in content if isinstance(part, dict)]
    return parts


def _is_dialogue(value: Any) -> bool:
    """Whether a value is a list of turns, each with a speaker."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, dict) and _speaker(turn) for turn in value)


def _speaker(turn: Any) -> str:
    return str(turn.get("from") or turn.get("role") or "")


def _text(value: Any) -> str:
    """The text of a value: a text, a turn, the last of several turns, or a content's text parts together.

    Raises ValueError where it is none of these, and for a part that is neither text nor video.
    """
    if isinstance(value, list):
        if value and all(isinstance(part, dict) and part.get("type") for part in value):
            return _text_of_parts(value)
        value = value[-1] if value else ""
    if isinstance(value, dict):
        return _text(value.get("value") or value.get("content") or "")
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:60]!r} is not text")
    return value


def _text_of_parts(parts: list[dict[str, Any]]) -> str:
    for part in parts:
        if part["type"] not in ("text", "video"):
            raise ValueError(f"a part of type {str(part['type'])[:60]!r}; only text and video are read")
    return " ".join(part.get("text") or "" for part in parts if part["type"] == "text")
