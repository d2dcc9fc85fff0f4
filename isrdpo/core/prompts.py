"""Prompt templates. Pure functions; nothing here knows a model. `choices` parses what a judge replies.

The paper's own prompts for context, retrospection and judging are not known to us. A run uses those of its
parameters (section `prompts` of params/base.yaml), whose slots are checked against SLOTS. The four constants
below hold the same texts as base.yaml: the Toybox base model was trained on exactly this wording, so its
descriptions and verdicts get worse under another.
"""

import re

from isrdpo.core.choices import parse_choice as parse_choice
from isrdpo.core.special_tokens import harmless_text

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CONTEXT = "Describe the video in detail."
RETROSPECTION = (
    "An earlier description of the video, which may be wrong: {previous} "
    "Look again and describe the video in detail."
)
JUDGE = (
    "Description of the video: {context} Question: {question} Response A: {first} Response B: {second} "
    "Which response is better, A or B?"
)
JUDGE_WITHOUT_CONTEXT = (
    "Question: {question} Response A: {first} Response B: {second} Which response is better, A or B?"
)
SLOTS = {
    "context": set(),
    "retrospection": {"previous"},
    "judge": {"context", "question", "first", "second"},
    "judge_without_context": {"question", "first", "second"},
}
# The two replies that a judge chooses from, after the paper's overview figure ("My choice is ... y1!"). They
# belong to the judge's prompt: a template that asks for other words needs others here, and another grammar in
# `choices`.
REPLIES = ("My choice is A.", "My choice is B.")


def conversation(request: str, video: bool = True) -> str:
    """The reference's prompt of one turn (LLaVA-Hound, conversation template `v1`), the video's tag on a
    line of its own.
    """
    request = request.replace("<video>", "").replace("<image>", "").strip()
    request = harmless_text(request, ["<video>"])  # what was left of a tag around a tag
    tag = "<video>\n" if video else ""
    return f"{SYSTEM} USER: {tag}{request} ASSISTANT:"


def retrospection_request(template: str, previous: str) -> str:
    """The request for c_t, given the text of c_{t-1}."""
    return fill_slots(template, previous=previous.strip())


def judge_request(template: str, question: str, first: str, second: str, context: str | None) -> str:
    """The question which of two responses is better.

    The template has {context} if and only if there is a context.
    """
    return fill_slots(
        template,
        question=question.strip(),
        first=first.strip(),
        second=second.strip(),
        context=(context or "").strip(),
    )


def fill_slots(template: str, **values: str) -> str:
    """Fill `{name}` slots in one pass, so that braces inside a value (untrusted model text) are never read
    as slots.
    """
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def slot_names(template: str) -> set[str]:
    """The names in braces of a template."""
    return set(re.findall(r"\{(\w+)\}", template))
