"""From any text to its checkable claims about a scene, each true, false, or not checkable here. Pure functions.

A claim is an attribute, a motion, a relation, a background or a number that the text asserts of something. An object that is not
in the scene makes one false claim a sentence (a hallucinated object). Saying the same thing twice is one claim. A sentence in
which nothing is recognised is one uncheckable claim.
"""

import re
from dataclasses import asdict, dataclass

from isrdpo.toybox import language

WORDS = {
    "color": {c: c for c in language.COLORS} | {"violet": "purple"},
    "size": {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large", "huge": "large"},
    "shape": {s: s for s in language.SHAPES} | {"disc": "circle", "disk": "circle", "plus": "cross"} | {f"{s}s": s for s in language.SHAPES},
    "background": {b: b for b in language.BACKGROUNDS} | {"grey": "gray"},
    "motion": {
        "left": "left", "leftward": "left", "leftwards": "left", "right": "right", "rightward": "right", "rightwards": "right",
        "up": "up", "upward": "up", "upwards": "up", "rises": "up", "rising": "up", "down": "down", "downward": "down",
        "downwards": "down", "falls": "down", "falling": "down", "still": "still", "motionless": "still", "stationary": "still",
    },
}  # fmt: skip
MOVING = re.compile(r"\b(?:mov\w*|go(?:es|ing)?|slid\w*|drift\w*|travel\w*|head(?:s|ing)|shift\w*|float\w*)\b")
RELATION = re.compile(
    r"\b(?:(above|over|on top of)|(below|under|underneath|beneath)|((?:to|on) the left (?:side )?of|left of)|((?:to|on) the right (?:side )?of|right of))\b"
)
RELATIONS = ("above", "below", "to the left of", "to the right of")
ADJECTIVES = "|".join([*WORDS["color"], *WORDS["size"]])
MENTION = re.compile(
    rf"\b(?:(?P<adjectives>(?:(?:{ADJECTIVES}),? (?:and )?)*)(?P<noun>{'|'.join(WORDS['shape'])}|object|objects|shape|thing|one)|(?P<pronoun>it))\b"
)
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
COUNT = re.compile(rf"\b(?:there are|there is|shows|contains) (?:only |exactly )?({'|'.join(NUMBERS)}) (?:objects?|shapes?|things?)\b")
NEGATION = re.compile(r"\b(?:not|no|never|isn't|doesn't|don't|aren't)\b")


@dataclass(frozen=True)
class Claim:
    """One assertion. `about`: index of the object in the scene (None: the scene, or nothing there); `verdict`: True, False,
    or None where this scene can't tell."""

    text: str
    kind: str
    about: int | None
    value: str
    verdict: bool | None


@dataclass(frozen=True)
class Truth:
    """A text's claims, counted. `correct`: the asked slot is stated, once, and truly (always False without a question)."""

    correct: bool
    claims: int  # checkable: true + false
    false: int
    uncheckable: int
    by_kind: dict[str, list[int]]  # kind -> [true, false]

    def to_dict(self) -> dict:
        return asdict(self)


def find(text: str, facts: dict) -> list[Claim]:
    """Every distinct claim of `text`, in order; saying a thing again makes no new one."""
    claims: dict[tuple, Claim] = {}
    for claim in said(text, facts):
        claims.setdefault((claim.kind, claim.about, claim.value), claim)
    return list(claims.values())


def said(text: str, facts: dict) -> list[Claim]:
    """Every claim of `text` in order, said again or not. `facts`: `{"scene", "asked"?}`; "it" at the start is the asked object."""
    scene, asked = facts["scene"], facts.get("asked")
    claims: list[Claim] = []
    subject = language.subject(asked) if asked else None
    for sentence in re.split(r"(?<=[.!?;])\s+|\n+", text.strip()):
        if not re.search(r"\w", sentence):
            continue
        found, subject = _sentence(sentence.strip(), scene, subject)
        claims += found or [Claim(sentence.strip(), "unknown", None, sentence.strip().lower(), None)]
    return claims


def truth(text: str, facts: dict) -> Truth:
    """Judge a text against a scene. Silence, nonsense and contradiction are never correct."""
    found = find(text, facts)
    by_kind: dict[str, list[int]] = {}
    for claim in found:
        if claim.verdict is not None:
            by_kind.setdefault(claim.kind, [0, 0])[0 if claim.verdict else 1] += 1
    true, false = (sum(pair[i] for pair in by_kind.values()) for i in (0, 1))
    return Truth(_answers(found, facts), true + false, false, sum(c.verdict is None for c in found), by_kind)


def better(first: Truth, second: Truth) -> int:
    """1 if `first` is truer, -1 if `second` is, 0 if they tie: the asked claim decides, then the fewer false claims."""
    a, b = ((t.correct, -t.false) for t in (first, second))
    return (a > b) - (a < b)


def _answers(found: list[Claim], facts: dict) -> bool:
    asked = facts.get("asked")
    if asked is None:
        return False
    kind = {"color": "color", "size": "size", "position": "position"}.get(asked["kind"], "motion")
    about = language.subject(asked)
    said = [c for c in found if c.kind == kind and c.about == about and not c.value.startswith("not ")]
    if kind == "position":
        other = facts["scene"]["objects"][asked["other"]]["shape"]
        said = [c for c in said if c.value.endswith(f" {other}")]
    return len(said) == 1 and said[0].verdict is True


def _sentence(sentence: str, scene: dict, subject: int | None) -> tuple[list[Claim], int | None]:
    """The claims of one sentence, and what "it" means after it."""
    text = re.sub(r"[^\w\s,']", " ", sentence.lower())
    text = re.sub(r"\s+", " ", text)
    claims = _whole_scene(sentence, text, scene)
    if "background" in text:
        return claims, subject
    mentions = [m for m in MENTION.finditer(text) if not (m["noun"] in ("one", "object", "objects") and COUNT.search(text))]
    if not mentions:
        return claims, subject
    negated = bool(NEGATION.search(text))
    related = RELATION.search(text)
    for place, mention in enumerate(mentions):
        about, absent = _resolve(mention, scene, subject)
        if absent:
            claims.append(Claim(sentence, "object", None, mention.group().strip(), negated))
            continue
        if place == 0 or about is None:
            subject = about if about is not None else subject
        if about is None:
            continue
        for kind in ("color", "size"):
            for word in re.findall(r"[\w']+", mention["adjectives"] or ""):
                if word in WORDS[kind]:
                    claims.append(_attribute(sentence, scene, about, kind, WORDS[kind][word], False))
        end = mentions[place + 1].start() if place + 1 < len(mentions) else len(text)
        claims += _predicates(sentence, text[mention.end() : end], scene, about, negated)
    if related:
        claims += _relation(sentence, related, mentions, scene, subject, negated)
    return claims, subject


def _whole_scene(sentence: str, text: str, scene: dict) -> list[Claim]:
    claims = []
    if "background" in text:
        for word in re.findall(r"\w+", text):
            if word in WORDS["background"] or word in WORDS["color"]:
                value = WORDS["background"].get(word, word)
                claims.append(Claim(sentence, "background", None, value, (value == scene["background"]) != bool(NEGATION.search(text))))
    if counted := COUNT.search(text):
        claims.append(Claim(sentence, "number", None, counted[1], NUMBERS[counted[1]] == len(scene["objects"])))
    return claims


def _resolve(mention: re.Match, scene: dict, subject: int | None) -> tuple[int | None, bool]:
    """(index of the object a mention names, whether it names one that is not there)."""
    if mention["pronoun"]:
        return subject, False
    if mention["noun"] in WORDS["shape"]:
        slot, value = "shape", WORDS["shape"][mention["noun"]]
    else:
        colors = [w for w in re.findall(r"\w+", mention["adjectives"] or "") if w in WORDS["color"]]
        if not colors:
            return subject, False
        slot, value = "color", WORDS["color"][colors[0]]
    matching = [i for i, thing in enumerate(scene["objects"]) if thing[slot] == value]
    return (matching[0], False) if matching else (None, True)


def _attribute(sentence: str, scene: dict, about: int, kind: str, value: str, negated: bool) -> Claim:
    verdict = (scene["objects"][about][kind] == value) != negated
    return Claim(sentence, kind, about, f"not {value}" if negated else value, verdict)


def _predicates(sentence: str, text: str, scene: dict, about: int, negated: bool) -> list[Claim]:
    """What is said of one object after it was named: "is red", "is large", "moves left", "does not move"."""
    claims, plain = [], RELATION.sub(" ", text)
    words = re.findall(r"[\w']+", plain)
    for kind in ("color", "size"):
        claims += [_attribute(sentence, scene, about, kind, WORDS[kind][w], negated) for w in words if w in WORDS[kind]]
    motions = [WORDS["motion"][w] for w in words if w in WORDS["motion"]]
    if not MOVING.search(plain):
        motions = [m for m in motions if m == "still" or re.search(r"\b(?:rises|rising|falls|falling)\b", plain)]
    if not motions and negated and MOVING.search(plain):
        return [*claims, _attribute(sentence, scene, about, "motion", "still", False)]
    return claims + [_attribute(sentence, scene, about, "motion", m, negated) for m in motions]


def _relation(sentence: str, related: re.Match, mentions: list, scene: dict, subject: int | None, negated: bool) -> list[Claim]:
    """The claim "first is RELATION second"; both must be there to be checked."""
    before = [m for m in mentions if m.end() <= related.start()]
    after = [m for m in mentions if m.start() >= related.end()]
    first = _resolve(before[-1], scene, subject)[0] if before else subject
    second = _resolve(after[0], scene, subject)[0] if after else None
    if first is None or second is None or first == second:
        return []
    said = RELATIONS[next(i for i, group in enumerate(related.groups()) if group)]
    verdict = (language.relation(scene, first, second) == said) != negated
    value = f"{said} {scene['objects'][second]['shape']}"
    return [Claim(sentence, "position", first, f"not {value}" if negated else value, verdict)]
