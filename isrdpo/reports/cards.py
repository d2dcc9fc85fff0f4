"""Cards: an example with its clip and its texts, in which new words and claims are marked."""

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from isrdpo.reports import html
from isrdpo.reports.clip_views import ClipView

SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")  # as the toy world's claims are cut into sentences
SIGNS = {True: ("✓", "true"), False: ("✗", "false"), None: ("?", "not checkable")}


@dataclass(frozen=True)
class Mark:
    """The sign before a sentence for a claim in it: ✓, ✗ or ?, what it stands for, and the kind of claim."""

    sign: str
    verdict: str
    kind: str


@dataclass(frozen=True)
class Word:
    """A word of a text, or several in a row.

    `is_new`: it is not in the text that this one is compared with.
    """

    text: str
    is_new: bool


@dataclass(frozen=True)
class Sentence:
    """A sentence, with a mark for each kind of claim and verdict in it."""

    words: list[Word]
    marks: list[Mark]

    @property
    def phrases(self) -> list[Word]:
        """The words, with neighbors joined that are all new or all old."""
        groups = itertools.groupby(self.words, key=lambda word: word.is_new)
        return [Word(" ".join(word.text for word in group), is_new) for is_new, group in groups]

    @property
    def is_false(self) -> bool:
        """Whether a claim in it is false."""
        return any(mark.verdict == "false" for mark in self.marks)


@dataclass(frozen=True)
class CardText:
    """A text on a card.

    `tag` is the HTML element that new words stand in. `has_facts` says whether its claims could be checked.
    """

    label: str
    sentences: list[Sentence]
    tag: Literal["ins", "del"]
    has_facts: bool

    @property
    def word_count(self) -> int:
        """Length in words."""
        return sum(len(sentence.words) for sentence in self.sentences)


@dataclass(frozen=True)
class Card:
    """An example: why it was chosen, its title, its clip, and where it has them a question, texts, and a
    line of facts.
    """

    why: str
    title: str
    clip: ClipView
    question: str = ""
    texts: list[CardText] = field(default_factory=list)
    facts: str = ""


def render_cards(cards: Sequence[Card], explanation: str) -> html.Html:
    """Cards side by side under the sentence that says how they were chosen."""
    has_facts = bool(cards and cards[0].texts and cards[0].texts[0].has_facts)
    return html.render(
        "cards.html.j2",
        cards=cards,
        explanation=explanation if cards else "Nothing to show.",
        has_facts=has_facts,
    )


def mark_text(
    label: str,
    text: str,
    facts: dict | None = None,
    other: str | None = None,
    tag: Literal["ins", "del"] = "ins",
) -> CardText:
    """A text for a card. Words that are not in `other` are new; claims are marked where `facts` are known."""
    words = _compare_words(text, other)
    marks = _marks_by_sentence(text, facts) if facts else {}
    sentences = []
    start = 0
    for sentence in SENTENCE_END.split(text.strip()):
        end = start + len(sentence.split())
        sentences.append(Sentence(words[start:end], marks.get(sentence.strip(), [])))
        start = end
    return CardText(label, sentences, tag, has_facts=facts is not None)


def _compare_words(text: str, other: str | None) -> list[Word]:
    """The words of `text`, of which those are new that have no counterpart in `other`; none is where there
    is no other text.
    """
    words = text.split()
    new_places: set[int] = set()
    if other:
        matcher = difflib.SequenceMatcher(None, other.split(), words, autojunk=False)
        for operation, _, _, start, end in matcher.get_opcodes():
            if operation != "equal":
                new_places.update(range(start, end))
    return [Word(word, place in new_places) for place, word in enumerate(words)]


def _marks_by_sentence(text: str, facts: dict) -> dict[str, list[Mark]]:
    """The marks of each sentence of `text`; a claim that is repeated in a sentence has one mark there."""
    from isrdpo.toybox import claims

    marks: dict[str, list[Mark]] = {}
    for claim in claims.all_claims(text, facts):
        mark = Mark(*SIGNS[claim.verdict], claim.kind)
        sentence_marks = marks.setdefault(claim.text, [])
        if mark not in sentence_marks:
            sentence_marks.append(mark)
    return marks
