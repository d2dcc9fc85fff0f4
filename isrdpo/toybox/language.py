"""True sentences about a scene: questions, their answers, what else could be said, and full descriptions.

Every fact has one sentence, in the same words everywhere; `isrdpo.toybox.writers` says how such sentences go
wrong.
"""

import random

from isrdpo.toybox.facts import COLORS, MOTIONS, SIZES, Query, Scene, Thing

# A question names its object by shape, except for `action`, which names a color.
QUESTIONS = {
    "color": "What color is the {shape}?",
    "motion": "How does the {shape} move?",
    "size": "How big is the {shape}?",
    "action": "What does the {color} object do?",
    "position": "Where is the {shape}, seen from the {other}?",
    "other": "What happens to the other object, the one that is not the {shape}?",
}
KINDS = tuple(QUESTIONS)
KINDS_OF_TWO = ("position", "other")  # a second object takes part in these
RELATIONS = {
    "vertical": ("above", "below"),
    "horizontal": ("to the left of", "to the right of"),
}
# What follows the name of an object in a sentence; the tokenizer has a piece for each.
PREDICATES = (
    *(f"is {value}" for value in (*COLORS, *SIZES)),
    *(f"moves {motion}" for motion in MOTIONS if motion != "still"),
    "stays still",
    "is above the",
    "is below the",
    "is to the left of the",
    "is to the right of the",
    "The background is",
)


def relation(scene: Scene, first: int, second: int) -> str:
    """Return the position of object `first` as seen from object `second`, such as "above"."""
    before, after = RELATIONS[scene["axis"]]
    stands_before = (first < second) != scene.get("flipped", False)
    return before if stands_before else after


def draw_query(scene: Scene, rng: random.Random) -> Query:
    """Draw a question that can be asked about a scene."""
    count = len(scene["objects"])
    kinds = [kind for kind in KINDS if count > 1 or kind not in KINDS_OF_TWO]
    kinds = [
        kind for kind in kinds if count == 2 or kind != "other"
    ]  # of three objects, "the other one" names none
    kind = rng.choice(kinds)
    first = rng.randrange(count)
    second = None
    if kind in KINDS_OF_TWO:
        second = rng.choice([index for index in range(count) if index != first])
    return {"kind": kind, "object": first, "other": second}


def question(scene: Scene, query: Query) -> str:
    """Return a question's text."""
    thing = scene["objects"][query["object"]]
    other = "" if query["other"] is None else scene["objects"][query["other"]]["shape"]
    return QUESTIONS[query["kind"]].format(shape=thing["shape"], color=thing["color"], other=other)


def subject(query: Query) -> int:
    """Return the index of the object that the answer is about."""
    if query["kind"] == "other" and query["other"] is not None:
        return query["other"]
    return query["object"]


def statement(scene: Scene, query: Query) -> str:
    """Return the one sentence that answers a question, true of `scene`."""
    kind = query["kind"]
    about = subject(query)
    thing = scene["objects"][about]
    if kind in ("color", "size"):
        return _attribute_sentence(thing, kind)
    if kind == "motion":
        return _motion_sentence(thing)
    if kind == "position":
        return _relation_sentence(scene, about, query["other"])
    return f"The {thing['color']} {thing['shape']} {_motion_phrase(thing['motion'])}."


def further_sentences(scene: Scene, query: Query, rng: random.Random) -> list[str]:
    """Return all sentences that an answer could add, true of `scene`, in random order."""
    kind = query["kind"]
    about = subject(query)
    thing = scene["objects"][about]
    sentences = []
    if kind in ("color", "size", "position"):
        sentences.append(_motion_sentence(thing))
    if kind != "size":
        sentences.append(_attribute_sentence(thing, "size"))
    if kind in ("motion", "size", "position"):
        sentences.append(_attribute_sentence(thing, "color"))
    sentences.append(_background_sentence(scene))
    for index, other in enumerate(scene["objects"]):
        if index == about:
            continue
        sentences += _sentences_about(other)
        if kind != "position":
            sentences.append(_relation_sentence(scene, about, index))
    rng.shuffle(sentences)
    return sentences


def description(scene: Scene) -> str:
    """Return the full description: every object, how neighbors stand to each other, the background."""
    sentences = []
    for thing in scene["objects"]:
        sentences += _sentences_about(thing)
    for index in range(len(scene["objects"]) - 1):
        sentences.append(_relation_sentence(scene, index, index + 1))
    sentences.append(_background_sentence(scene))
    return " ".join(sentences)


def _sentences_about(thing: Thing) -> list[str]:
    """One sentence for each fact of one object."""
    return [_attribute_sentence(thing, "color"), _attribute_sentence(thing, "size"), _motion_sentence(thing)]


def _attribute_sentence(thing: Thing, slot: str) -> str:
    return f"The {thing['shape']} is {thing[slot]}."


def _motion_sentence(thing: Thing) -> str:
    return f"The {thing['shape']} {_motion_phrase(thing['motion'])}."


def _motion_phrase(motion: str) -> str:
    return "stays still" if motion == "still" else f"moves {motion}"


def _relation_sentence(scene: Scene, first: int, second: int) -> str:
    shapes = [thing["shape"] for thing in scene["objects"]]
    return f"The {shapes[first]} is {relation(scene, first, second)} the {shapes[second]}."


def _background_sentence(scene: Scene) -> str:
    return f"The background is {scene['background']}."
