"""The claims that a text makes about a scene, each true, false, or not checkable here. Pure functions.

A claim is an attribute, a motion, a relation, a background or a number that the text asserts of something. An
object that is not in the scene makes one false claim a sentence (a hallucinated object). Saying the same
thing twice is one claim. A sentence in which nothing is recognized is one claim that cannot be checked.
"""

import re
from dataclasses import asdict, dataclass

from isrdpo.core.replies import without_thoughts
from isrdpo.toybox import language
from isrdpo.toybox.facts import BACKGROUNDS, COLORS, SHAPES, Facts, Scene

# For each kind of fact, the words that are recognized and the value that each means.
WORDS = {
    "color": {color: color for color in COLORS} | {"violet": "purple"},
    "size": {
        "small": "small",
        "little": "small",
        "tiny": "small",
        "large": "large",
        "big": "large",
        "huge": "large",
    },
    "shape": {
        **{shape: shape for shape in SHAPES},
        "disc": "circle",
        "disk": "circle",
        "plus": "cross",
        **{f"{shape}s": shape for shape in SHAPES},
    },
    "background": {background: background for background in BACKGROUNDS} | {"grey": "gray"},
    "motion": {
        "left": "left",
        "leftward": "left",
        "leftwards": "left",
        "right": "right",
        "rightward": "right",
        "rightwards": "right",
        "up": "up",
        "upward": "up",
        "upwards": "up",
        "rises": "up",
        "rising": "up",
        "down": "down",
        "downward": "down",
        "downwards": "down",
        "falls": "down",
        "falling": "down",
        "still": "still",
        "motionless": "still",
        "stationary": "still",
    },
}
RELATION_WORDS = {
    "above": r"above|over|on top of",
    "below": r"below|under|underneath|beneath",
    "to the left of": r"(?:to|on) the left (?:side )?of|left of",
    "to the right of": r"(?:to|on) the right (?:side )?of|right of",
}
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
ADJECTIVES = "|".join([*WORDS["color"], *WORDS["size"]])
NOUNS = "|".join([*WORDS["shape"], "object", "objects", "shape", "thing", "one"])
COUNTING_NOUNS = ("one", "object", "objects")  # no mention of an object in a sentence that counts them

SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")
MENTION = re.compile(
    rf"\b(?:(?P<adjectives>(?:(?:{ADJECTIVES}),? (?:and )?)*)(?P<noun>{NOUNS})|(?P<pronoun>it))\b"
)
RELATION_GROUPS = "|".join(f"({words})" for words in RELATION_WORDS.values())
RELATION = re.compile(rf"\b(?:{RELATION_GROUPS})\b")
MOVING = re.compile(
    r"\b(?:mov\w*|go(?:es|ing)?|slid\w*|drift\w*|travel\w*|head(?:s|ing)|shift\w*|float\w*)\b"
)
MOVING_UP_OR_DOWN = re.compile(r"\b(?:rises|rising|falls|falling)\b")
COUNT = re.compile(
    r"\b(?:there are|there is|shows|contains) (?:only |exactly )?"
    rf"({'|'.join(NUMBERS)}) (?:objects?|shapes?|things?)\b"
)
NEGATION = re.compile(r"\b(?:not|no|never|isn't|doesn't|don't|aren't)\b")


@dataclass(frozen=True)
class Claim:
    """One assertion.

    `about` is the index of the object in the scene (None: the scene, or nothing there). `verdict` is None
    where this scene cannot tell.
    """

    text: str
    kind: str
    about: int | None
    value: str
    verdict: bool | None


@dataclass(frozen=True)
class Truth:
    """The counted claims of a text.

    `correct` says whether what was asked is stated once, and truly (always False without a question).
    `claims` counts those that can be checked, true and false. `by_kind` has [true, false] for each kind of
    claim.
    """

    correct: bool
    claims: int
    false: int
    uncheckable: int
    by_kind: dict[str, list[int]]

    def to_dict(self) -> dict:
        """Return the dictionary that rows carry."""
        return asdict(self)


def count(text: str, facts: dict | None) -> dict | None:
    """Return the counted claims of a text as rows carry them (see `Truth`); None where no facts are known."""
    return None if facts is None else truth(text, facts).to_dict()


def truth(text: str, facts: Facts) -> Truth:
    """Judge a text against a scene. Silence, nonsense and contradiction are never correct."""
    claims = distinct_claims(without_thoughts(text) or "", facts)
    by_kind: dict[str, list[int]] = {}
    uncheckable = 0
    for claim in claims:
        if claim.verdict is None:
            uncheckable += 1
        else:
            counts = by_kind.setdefault(claim.kind, [0, 0])
            counts[0 if claim.verdict else 1] += 1
    true = sum(counts[0] for counts in by_kind.values())
    false = sum(counts[1] for counts in by_kind.values())
    return Truth(_answers_truly(claims, facts), true + false, false, uncheckable, by_kind)


def compare_truths(first: Truth, second: Truth) -> int:
    """Return 1 if `first` is truer, -1 if `second` is, 0 if they tie.

    The asked claim decides, then the smaller number of false claims.
    """
    a = (first.correct, -first.false)
    b = (second.correct, -second.false)
    return (a > b) - (a < b)


def distinct_claims(text: str, facts: Facts) -> list[Claim]:
    """Return every distinct claim of a text, in order; saying a thing again makes no new one."""
    claims: dict[tuple, Claim] = {}
    for claim in all_claims(text, facts):
        claims.setdefault((claim.kind, claim.about, claim.value), claim)
    return list(claims.values())


def all_claims(text: str, facts: Facts) -> list[Claim]:
    """Return every claim of a text in order, repetitions too.

    "It" at the start means the object that was asked about.
    """
    query = facts.get("asked")
    subject = language.subject(query) if query else None
    claims: list[Claim] = []
    for part in SENTENCE_END.split(text.strip()):
        if not re.search(r"\w", part):
            continue
        sentence = _Sentence(part.strip(), facts["scene"], subject)
        claims += sentence.claims() or [
            Claim(sentence.original, "unknown", None, sentence.original.lower(), None)
        ]
        subject = sentence.subject
    return claims


def _answers_truly(claims: list[Claim], facts: Facts) -> bool:
    """Whether exactly one of the claims answers the question, and that one is true."""
    query = facts.get("asked")
    if query is None:
        return False
    kind = query["kind"] if query["kind"] in ("color", "size", "position") else "motion"
    about = language.subject(query)
    answers = [c for c in claims if c.kind == kind and c.about == about and not c.value.startswith("not ")]
    if kind == "position":
        other = facts["scene"]["objects"][query["other"]]["shape"]
        answers = [claim for claim in answers if claim.value.endswith(f" {other}")]
    return len(answers) == 1 and answers[0].verdict is True


class _Sentence:
    """One sentence that is read against a scene.

    `subject` is the index of the object that "it" means (None: not known): before the sentence, and after
    `claims` behind it.
    """

    def __init__(self, original: str, scene: Scene, subject: int | None) -> None:
        self.original = original
        self.scene = scene
        self.subject = subject
        words_only = re.sub(r"[^\w\s,']", " ", original.lower())
        self.text = re.sub(r"\s+", " ", words_only)
        self.negated = bool(NEGATION.search(self.text))

    def claims(self) -> list[Claim]:
        """The claims that the sentence makes."""
        if "background" in self.text:
            return self._background_claims() + self._number_claims()
        claims = self._number_claims()
        mentions = self._mentions()
        for place, mention in enumerate(mentions):
            following = mentions[place + 1 : place + 2]
            end = following[0].start() if following else len(self.text)
            claims += self._mention_claims(mention, end, first=place == 0)
        relation = RELATION.search(self.text)
        if relation and mentions:
            claims += self._relation_claims(relation, mentions)
        return claims

    def _background_claims(self) -> list[Claim]:
        claims = []
        for word in re.findall(r"\w+", self.text):
            if word in WORDS["background"] or word in WORDS["color"]:
                value = WORDS["background"].get(word, word)
                verdict = (value == self.scene["background"]) != self.negated
                claims.append(Claim(self.original, "background", None, value, verdict))
        return claims

    def _number_claims(self) -> list[Claim]:
        match = COUNT.search(self.text)
        if not match:
            return []
        verdict = NUMBERS[match[1]] == len(self.scene["objects"])
        return [Claim(self.original, "number", None, match[1], verdict)]

    def _mentions(self) -> list[re.Match]:
        """The places that name an object, by shape, by color or as "it"."""
        mentions = list(MENTION.finditer(self.text))
        if COUNT.search(self.text):
            mentions = [mention for mention in mentions if mention["noun"] not in COUNTING_NOUNS]
        return mentions

    def _mention_claims(self, mention: re.Match, end: int, first: bool) -> list[Claim]:
        """The claims of a mention's adjectives, and of what follows it up to position `end`."""
        about, absent = self._resolve(mention)
        if absent:
            return [Claim(self.original, "object", None, mention.group().strip(), self.negated)]
        if about is None:
            return []
        if first:
            self.subject = about
        adjectives = re.findall(r"[\w']+", mention["adjectives"] or "")
        claims = self._attributes(about, adjectives, negated=False)
        return claims + self._predicate_claims(about, self.text[mention.end() : end])

    def _resolve(self, mention: re.Match) -> tuple[int | None, bool]:
        """The index of the object that a mention names, and whether it names one that is not in the scene."""
        if mention["pronoun"]:
            return self.subject, False
        if mention["noun"] in WORDS["shape"]:
            slot = "shape"
            value = WORDS["shape"][mention["noun"]]
        else:
            adjectives = re.findall(r"\w+", mention["adjectives"] or "")
            colors = [WORDS["color"][word] for word in adjectives if word in WORDS["color"]]
            if not colors:
                return self.subject, False
            slot = "color"
            value = colors[0]
        matching = [index for index, thing in enumerate(self.scene["objects"]) if thing[slot] == value]
        return (matching[0], False) if matching else (None, True)

    def _predicate_claims(self, about: int, text: str) -> list[Claim]:
        """The claims behind an object's name: "is red", "is large", "moves left", "does not move"."""
        plain = RELATION.sub(" ", text)
        words = re.findall(r"[\w']+", plain)
        claims = self._attributes(about, words, self.negated)
        motions = [WORDS["motion"][word] for word in words if word in WORDS["motion"]]
        moving = MOVING.search(plain)
        if not moving:  # "left" alone is no motion
            vertical = MOVING_UP_OR_DOWN.search(plain)
            motions = [motion for motion in motions if motion == "still" or vertical]
        if moving and self.negated and not motions:
            return [*claims, self._attribute(about, "motion", "still", negated=False)]
        return claims + [self._attribute(about, "motion", motion, self.negated) for motion in motions]

    def _attributes(self, about: int, words: list[str], negated: bool) -> list[Claim]:
        """The claims that words make about an object's color, then those about its size."""
        claims = []
        for kind in ("color", "size"):
            values = [WORDS[kind][word] for word in words if word in WORDS[kind]]
            claims += [self._attribute(about, kind, value, negated) for value in values]
        return claims

    def _attribute(self, about: int, kind: str, value: str, negated: bool) -> Claim:
        verdict = (self.scene["objects"][about][kind] == value) != negated
        return Claim(self.original, kind, about, f"not {value}" if negated else value, verdict)

    def _relation_claims(self, relation: re.Match, mentions: list[re.Match]) -> list[Claim]:
        """The claim "first is RELATION second"; none unless both are in the scene."""
        before = [mention for mention in mentions if mention.end() <= relation.start()]
        behind = [mention for mention in mentions if mention.start() >= relation.end()]
        first = self._resolve(before[-1])[0] if before else self.subject
        second = self._resolve(behind[0])[0] if behind else None
        if first is None or second is None or first == second:
            return []
        name = list(RELATION_WORDS)[relation.lastindex - 1]
        verdict = (language.relation(self.scene, first, second) == name) != self.negated
        value = f"{name} {self.scene['objects'][second]['shape']}"
        return [Claim(self.original, "position", first, f"not {value}" if self.negated else value, verdict)]
