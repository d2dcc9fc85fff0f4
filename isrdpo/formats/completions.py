"""Chat completions of every shape that servers send, read as a text or as the reason why there is none."""

import json
from dataclasses import dataclass
from typing import Any

from isrdpo.core.errors import IsrdpoError

TEXT_PARTS = ("text", "output_text")  # types of the parts of a content that are spoken
CUT_REASONS = ("length", "max_tokens", "max_output_tokens")


class ReplyError(IsrdpoError):
    """A server's reply that cannot be used: too late, too large, or no JSON."""


@dataclass(frozen=True)
class Completion:
    """What a completion's first choice says.

    `model` is the server's name for what answered (empty where it gives none). `problem` says why there is
    no text. `cut`: whether it ended at a limit on its length.
    """

    text: str = ""
    model: str = ""
    problem: str = ""
    cut: bool = False


def parse_json(body: bytes) -> Any:
    """Return a body as JSON. Raises ReplyError, which says how it begins."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        start = body[:60].decode(errors="replace")
        raise ReplyError(f"the reply is no JSON: {start!r}" if body else "the reply is empty") from None


def read_completion(body: Any) -> Completion:
    """Return what a completion (parsed JSON of any shape) says.

    Thoughts in fields of their own (`reasoning_content`, `reasoning`) and in parts of other types are not
    answers, and are left out.
    """
    if not isinstance(body, dict):
        return Completion(problem="the reply is no JSON object")
    name = body.get("model")
    model = name.strip() if isinstance(name, str) else ""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        return Completion(model=model, problem="the reply has no choices")
    choice = choices[0]
    if not isinstance(choice, dict):
        return Completion(model=model, problem="the reply's choice is empty")
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else ""
    cut = reason in CUT_REASONS
    message = choice.get("message")
    if not isinstance(message, dict):
        return Completion(model=model, problem=f"the reply has no message{_because(reason)}", cut=cut)
    text = _spoken(message.get("content"))
    if not text.strip():
        return Completion(model=model, problem=_why_silent(message) + _because(reason), cut=cut)
    return Completion(text, model, cut=cut)


def _spoken(content: Any) -> str:
    """The text of a message's content, which is a text or a list of parts."""
    if isinstance(content, str):
        return content
    spoken = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS:
            part = part.get("text")
        if isinstance(part, str):
            spoken.append(part)
    return "".join(spoken)


def _why_silent(message: dict[str, Any]) -> str:
    """The reason why a message has no text."""
    refusal = message.get("refusal")
    if refusal:
        words = f": {refusal[:100]}" if isinstance(refusal, str) else ""
        return f"the model refused to reply{words}"
    if message.get("tool_calls") or message.get("function_call"):
        return "the reply asks for a tool and has no text"
    if message.get("reasoning_content") or message.get("reasoning"):
        return "the reply holds thoughts only and has no text"
    return "the reply has no text"


def _because(reason: str) -> str:
    return f" (finish_reason: {reason[:40]})" if reason else ""
