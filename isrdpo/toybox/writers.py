"""Answers of fallible writers: guessed facts, false scenes, and pairs of a better and a worse answer.

Answers in the base model's training data come from two kinds of writers, as they do in real instruction data:
one looked at the video, the other wrote what such objects usually do (`imagine`). Elaborations are guessed
more often than what was asked.
"""

import copy
import random
from collections.abc import Sequence
from enum import StrEnum

from isrdpo.toybox import language
from isrdpo.toybox.facts import AXES, BACKGROUNDS, COLORS, MOTIONS, SHAPES, SIZES, Query, Scene

USUAL_COLOR = {"circle": "red", "square": "blue", "triangle": "yellow", "cross": "green"}
USUAL_MOTION = {"circle": "right", "square": "still", "triangle": "up", "cross": "left"}
USUAL_SIZE = {"circle": "large", "square": "large", "triangle": "small", "cross": "small"}
USUAL_MOTION_OF_COLOR = {
    "red": "right",
    "orange": "right",
    "yellow": "up",
    "green": "left",
    "blue": "still",
    "purple": "down",
}
USUAL_SHARE = 0.8  # how often a writer who did not look writes the usual value
# How often the asked sentence is guessed, for each kind of question; and each further sentence.
GUESSED = {"color": 0.30, "motion": 0.50, "size": 0.30, "action": 0.50, "position": 0.30, "other": 0.50}
GUESSED_EXTRA = 0.5
# How many further sentences an answer has, and how often.
EXTRA_COUNTS = (0, 1, 2, 3, 4)
EXTRA_SHARES = (0.50, 0.20, 0.12, 0.10, 0.08)


class Difference(StrEnum):
    """The truth by which two answers of a pair differ."""

    MAIN = "main"  # only the better one answers truly
    EXTRA = "extra"  # both answer alike, the worse one adds something false
    NONE = "none"  # equally true: their order means nothing


def imagine(scene: Scene, query: Query, rng: random.Random) -> Scene:
    """Return the scene as a writer imagines it who did not look.

    Colors, sizes and motions are mostly the usual ones; what the question gives away stays.
    """
    imagined = copy.deepcopy(scene)
    for index, thing in enumerate(imagined["objects"]):
        color_is_asked = query["kind"] == "action" and index == query["object"]
        shape = thing["shape"]
        motion = USUAL_MOTION_OF_COLOR[thing["color"]] if color_is_asked else USUAL_MOTION[shape]
        thing["motion"] = _usually(motion, MOTIONS, rng)
        thing["size"] = _usually(USUAL_SIZE[shape], SIZES, rng)
        if not color_is_asked:
            thing["color"] = _usually(USUAL_COLOR[shape], COLORS, rng)
    imagined["axis"] = "vertical" if rng.random() < USUAL_SHARE else "horizontal"
    imagined["flipped"] = rng.random() < 0.5
    imagined["background"] = _usually("black", BACKGROUNDS, rng)
    return imagined


def _usually(usual: str, values: Sequence[str], rng: random.Random) -> str:
    return usual if rng.random() < USUAL_SHARE else rng.choice(values)


def compose_answer(
    scene: Scene, query: Query, rng: random.Random, extra: int, main_guessed: bool, extra_guessed: float
) -> str:
    """Write an answer with `extra` further sentences.

    The asked sentence is guessed where `main_guessed`, each further one with probability `extra_guessed`; the
    others are true.
    """
    imagined = imagine(scene, query, rng)
    sentences = [language.statement(imagined if main_guessed else scene, query)]
    order = rng.getrandbits(
        64
    )  # true and guessed sentences are shuffled alike, so that one can stand for the other
    true = language.further_sentences(scene, query, random.Random(order))
    guessed = language.further_sentences(imagined, query, random.Random(order))
    for index in range(min(extra, len(true))):
        source = guessed if rng.random() < extra_guessed else true
        sentences.append(source[index])
    return " ".join(sentences)


def write_answer(scene: Scene, query: Query, rng: random.Random) -> str:
    """Write an answer as the training data of the base model have it."""
    extra = rng.choices(EXTRA_COUNTS, EXTRA_SHARES)[0]
    main_guessed = rng.random() < GUESSED[query["kind"]]
    return compose_answer(scene, query, rng, extra, main_guessed, GUESSED_EXTRA)


def false_scene(scene: Scene, query: Query, rng: random.Random) -> Scene:
    """Return a scene like this one of which another answer is true.

    The answer is the usual value, what is true of another object, or anything.
    """
    while True:
        candidates = (
            imagine(scene, query, rng),
            mix_up_objects(scene, rng),
            corrupt_scene(scene, 0.6, rng, shapes=False),
        )
        other = rng.choice(candidates)
        if query["kind"] == "action":  # the question names the color
            other["objects"][query["object"]]["color"] = scene["objects"][query["object"]]["color"]
        if _asked_value(other, query) != _asked_value(scene, query):
            return other


def _asked_value(scene: Scene, query: Query) -> str:
    """The value that a question asks for: a color, a size, a motion or a relation."""
    kind = query["kind"]
    if kind == "position":
        return language.relation(scene, query["object"], query["other"])
    slot = kind if kind in ("color", "size") else "motion"
    return scene["objects"][language.subject(query)][slot]


def answer_pair(
    scene: Scene, query: Query, rng: random.Random, better_longer: bool, difference: Difference | str
) -> tuple[str, str]:
    """Write two answers, the better one first.

    The better one has more sentences if `better_longer`; equally true ones have any number.
    """
    better_extra, worse_extra = _draw_lengths(rng, better_longer, difference)
    other_scene = false_scene(scene, query, rng)
    if difference == Difference.MAIN:
        better = compose_answer(scene, query, rng, better_extra, False, GUESSED_EXTRA / 2)
        worse = _compose_behind(other_scene, scene, query, rng, worse_extra, GUESSED_EXTRA)
        return better, worse
    main_scene = scene if rng.random() < 0.7 else other_scene
    better = _compose_behind(main_scene, scene, query, rng, better_extra, 0.0)
    if difference == Difference.NONE:
        return better, _compose_behind(main_scene, scene, query, rng, worse_extra, 0.0)
    for _ in range(20):
        worse = _compose_behind(main_scene, scene, query, rng, worse_extra, 0.7)
        bare = _compose_behind(main_scene, scene, query, rng, 0, 0.0)
        if worse != bare and _adds_false_sentence(worse, scene, query):
            return better, worse
    return answer_pair(scene, query, rng, better_longer, Difference.MAIN)


def _draw_lengths(rng: random.Random, better_longer: bool, difference: str) -> tuple[int, int]:
    """The numbers of further sentences of the better and the worse answer."""
    many = rng.choice((2, 3, 4))
    few = rng.choice((0, 1))
    if difference == Difference.EXTRA:
        many = rng.choice((3, 4))
        few = rng.choice((1, 2))
    if difference == Difference.NONE:
        first = rng.choice(EXTRA_COUNTS)
        second = rng.choice(EXTRA_COUNTS)
        return first, second
    return (many, few) if better_longer else (few, many)


def _adds_false_sentence(text: str, scene: Scene, query: Query) -> bool:
    """Whether a sentence behind the first one is not true of `scene`."""
    true = set(language.further_sentences(scene, query, random.Random(0)))
    sentences = text.rstrip(".").split(". ")
    return any(f"{sentence}." not in true for sentence in sentences[1:])


def _compose_behind(
    main_scene: Scene, scene: Scene, query: Query, rng: random.Random, extra: int, extra_guessed: float
) -> str:
    """The asked sentence as true of `main_scene`, and behind it further ones of `scene`, some guessed."""
    answer = compose_answer(scene, query, rng, extra, False, extra_guessed)
    further = answer.split(". ", 1)[1:]
    return " ".join([language.statement(main_scene, query), *further])


def corrupt_scene(scene: Scene, share: float, rng: random.Random, shapes: bool = True) -> Scene:
    """Return a copy in which each fact was drawn again with probability `share`; shapes half as often."""
    corrupted = copy.deepcopy(scene)
    for thing in corrupted["objects"]:
        for slot, values in (("color", COLORS), ("size", SIZES), ("motion", MOTIONS)):
            if rng.random() < share:
                thing[slot] = rng.choice(values)
        if shapes and rng.random() < share / 2:
            present = {other["shape"] for other in corrupted["objects"]}
            thing["shape"] = rng.choice([shape for shape in SHAPES if shape not in present])
    if rng.random() < share:
        corrupted["background"] = rng.choice(BACKGROUNDS)
    if rng.random() < share:
        corrupted["axis"] = rng.choice(AXES)
        corrupted["flipped"] = rng.random() < 0.5
    return corrupted


def mix_up_objects(scene: Scene, rng: random.Random) -> Scene:
    """Return a copy with reversed order in which every object has another one's color, size and motion."""
    mixed = copy.deepcopy(scene)
    objects = scene["objects"]
    shift = rng.randrange(1, max(2, len(objects)))
    for index, thing in enumerate(mixed["objects"]):
        source = objects[index - shift]
        thing.update(color=source["color"], size=source["size"], motion=source["motion"])
    mixed["flipped"] = not scene.get("flipped", False)
    return mixed
