"""Every prompt template, and every parser of a reply. Pure functions; nothing here knows a model.

The paper's own prompts for context, retrospection and judging are not known to us; the templates below are parameters
(section `prompts` of params/base.yaml) and these constants are their defaults.
"""

import re

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CONTEXT = "Describe the video in detail."
RETROSPECTION = "An earlier description of the video, which may be wrong: {previous} Look again and describe the video in detail."
JUDGE = (
    "Description of the video: {context} Question: {question} Response A: {first} Response B: {second} "
    "Which response is better, A or B?"
)
JUDGE_WITHOUT_CONTEXT = (
    "Question: {question} Response A: {first} Response B: {second} Which response is better, A or B?"
)
REPLIES = ("My choice is A.", "My choice is B.")  # after the paper's overview figure: "My choice is ... y1!"
_REJECTED = r"(?!\)?\s+is\s+(?i:not|worse|wrong|incorrect|false|less)\b)"
_CHOICE = re.compile(rf"(?<!not )\b(?i:choice is|choose|response|answer is)\s*:?\s*\(?([AB])\b{_REJECTED}")
_ALONE = re.compile(r"^\W*([AB])\b(?!\s+\w)")


def conversation(request: str, video: bool = True) -> str:
    """The reference's one-turn prompt (LLaVA-Hound, conversation template `v1`); the tag comes first, on its own line."""
    request = request.replace("<video>", "").replace("<image>", "").strip()
    return f"{SYSTEM} USER: {'<video>' + chr(10) if video else ''}{request} ASSISTANT:"


def retrospection_request(template: str, previous: str) -> str:
    """The request for c_t given c_{t-1} (`previous`)."""
    return fill_slots(template, previous=previous.strip())


def judge_request(template: str, question: str, first: str, second: str, context: str | None) -> str:
    """A pairwise question; `template` must have {context} if and only if `context` is given."""
    return fill_slots(template, question=question.strip(), first=first.strip(), second=second.strip(), context=(context or "").strip())


def fill_slots(template: str, **values: str) -> str:
    """Fill `{name}` slots in one pass: braces inside a value (untrusted model text) are never read as slots."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def slot_names(template: str) -> set[str]:
    """The names a template asks for."""
    return set(re.findall(r"\{(\w+)\}", template))


def parse_choice(reply: str) -> int | None:
    """The verdict in a generated reply: 0 for A, 1 for B, None when it names neither or both. Never a guess."""
    found = {match.upper() for match in _CHOICE.findall(reply)} or {match.upper() for match in _ALONE.findall(reply.strip())}
    return "AB".index(found.pop()) if len(found) == 1 else None
