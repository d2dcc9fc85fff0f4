"""What is said about a scene: questions, answers from terse to elaborate, descriptions, and the ways they go wrong.

Answers in the base model's training data come from two kinds of writers, as they do in real instruction data: one looked at the
video, the other wrote what such objects usually do (`guess`). Elaborations are guessed more often than what was asked.
"""

import copy
import random

KINDS = ("color", "motion", "size", "action", "position", "other")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
MOTIONS = ("left", "right", "up", "down", "still")
BACKGROUNDS = ("black", "white", "gray")
USUAL_COLOR = {"circle": "red", "square": "blue", "triangle": "yellow", "cross": "green"}
USUAL_MOTION = {"circle": "right", "square": "still", "triangle": "up", "cross": "left"}
USUAL_SIZE = {"circle": "large", "square": "large", "triangle": "small", "cross": "small"}
USUAL_MOTION_OF_COLOR = {"red": "right", "orange": "right", "yellow": "up", "green": "left", "blue": "still", "purple": "down"}
GUESSED = {"color": 0.30, "motion": 0.50, "size": 0.30, "action": 0.50, "position": 0.30, "other": 0.50}
GUESSED_EXTRA = 0.5
PREDICATES = (
    *(f"is {value}" for value in (*COLORS, *SIZES)), *(f"moves {value}" for value in MOTIONS[:4]), "stays still",
    "is above the", "is below the", "is to the left of the", "is to the right of the", "The background is",
)  # fmt: skip


def relation(scene: dict, first: int, second: int) -> str:
    """Where object `first` is, seen from object `second` (`flipped` marks an imagined scene whose order is the reverse)."""
    before, after = ("above", "below") if scene["axis"] == "vertical" else ("to the left of", "to the right of")
    return before if (first < second) != scene.get("flipped", False) else after


def ask(scene: dict, rng: random.Random) -> dict:
    """Choose what is asked: `{"kind", "object", "other"}` (`other` is None where the kind needs no second object)."""
    count = len(scene["objects"])
    kinds = [k for k in KINDS if count > 1 or k not in ("position", "other")]
    kinds = [k for k in kinds if count == 2 or k != "other"]  # with three objects "the other one" names nothing
    kind, first = rng.choice(kinds), rng.randrange(count)
    second = rng.choice([i for i in range(count) if i != first]) if kind in ("position", "other") else None
    return {"kind": kind, "object": first, "other": second}


def question(scene: dict, asked: dict) -> str:
    """The question in words. Objects are named by shape, except for `action`, which names a color."""
    thing = scene["objects"][asked["object"]]
    match asked["kind"]:
        case "color":
            return f"What color is the {thing['shape']}?"
        case "motion":
            return f"How does the {thing['shape']} move?"
        case "size":
            return f"How big is the {thing['shape']}?"
        case "action":
            return f"What does the {thing['color']} object do?"
        case "position":
            return f"Where is the {thing['shape']}, seen from the {scene['objects'][asked['other']]['shape']}?"
    return f"What happens to the other object, the one that is not the {thing['shape']}?"


def moves(motion: str) -> str:
    return "stays still" if motion == "still" else f"moves {motion}"


def subject(asked: dict) -> int:
    """The object that the answer is about."""
    return asked["other"] if asked["kind"] == "other" else asked["object"]


def statement(scene: dict, asked: dict) -> str:
    """The one sentence that answers, true of `scene`."""
    thing, kind = scene["objects"][subject(asked)], asked["kind"]
    if kind in ("color", "size"):
        return f"The {thing['shape']} is {thing[kind]}."
    if kind == "motion":
        return f"The {thing['shape']} {moves(thing['motion'])}."
    if kind == "position":
        where = relation(scene, asked["object"], asked["other"])
        return f"The {thing['shape']} is {where} the {scene['objects'][asked['other']]['shape']}."
    return f"The {thing['color']} {thing['shape']} {moves(thing['motion'])}."


def told(thing: dict) -> list[str]:
    """What is said of one object: a sentence a fact, in the same words everywhere."""
    name = f"The {thing['shape']}"
    return [f"{name} is {thing['color']}.", f"{name} is {thing['size']}.", f"{name} {moves(thing['motion'])}."]


def extras(scene: dict, asked: dict, rng: random.Random) -> list[str]:
    """All further sentences one could add, true of `scene`, in random order."""
    about, kind = subject(asked), asked["kind"]
    thing = scene["objects"][about]
    name = f"The {thing['shape']}"
    facts = [f"{name} {moves(thing['motion'])}."] if kind in ("color", "size", "position") else []
    facts += [f"{name} is {thing['size']}."] if kind != "size" else []
    facts += [f"{name} is {thing['color']}."] if kind not in ("color", "action", "other") else []
    facts += [f"The background is {scene['background']}."]
    for i, other in enumerate(scene["objects"]):
        if i != about:
            facts += told(other)
            facts += [f"{name} is {relation(scene, about, i)} the {other['shape']}."] if kind != "position" else []
    rng.shuffle(facts)
    return facts


def guess(scene: dict, asked: dict, rng: random.Random) -> dict:
    """The scene as a writer imagines it who did not look: usual colors and motions, what the question gives away kept."""
    imagined = copy.deepcopy(scene)
    for i, thing in enumerate(imagined["objects"]):
        known_color = asked["kind"] == "action" and i == asked["object"]
        usual = USUAL_MOTION_OF_COLOR[thing["color"]] if known_color else USUAL_MOTION[thing["shape"]]
        thing["motion"] = usual if rng.random() < 0.8 else rng.choice(MOTIONS)
        thing["size"] = USUAL_SIZE[thing["shape"]] if rng.random() < 0.8 else rng.choice(SIZES)
        if not known_color:
            thing["color"] = USUAL_COLOR[thing["shape"]] if rng.random() < 0.8 else rng.choice(COLORS)
    imagined["axis"], imagined["flipped"] = "vertical" if rng.random() < 0.8 else "horizontal", rng.random() < 0.5
    imagined["background"] = "black" if rng.random() < 0.8 else rng.choice(BACKGROUNDS)
    return imagined


def compose(scene: dict, asked: dict, rng: random.Random, extra: int, main_guessed: bool, extra_guessed: float) -> str:
    """An answer of `extra` further sentences; the asked sentence is looked up or guessed, each extra guessed by chance."""
    imagined = guess(scene, asked, rng)
    text = [statement(imagined if main_guessed else scene, asked)]
    order = rng.getrandbits(64)
    seen, dreamt = (extras(source, asked, random.Random(order)) for source in (scene, imagined))
    text += [dreamt[i] if rng.random() < extra_guessed else seen[i] for i in range(min(extra, len(seen)))]
    return " ".join(text)


def answer(scene: dict, asked: dict, rng: random.Random) -> str:
    """An answer as the training data of the base model has them."""
    extra = rng.choices((0, 1, 2, 3, 4), (0.50, 0.20, 0.12, 0.10, 0.08))[0]
    return compose(scene, asked, rng, extra, rng.random() < GUESSED[asked["kind"]], GUESSED_EXTRA)


def wrong(scene: dict, asked: dict, rng: random.Random) -> dict:
    """A scene like this one in which the asked sentence is another: the usual thing, what is true of another object, or anything."""
    while True:
        other = rng.choice((guess(scene, asked, rng), mix_up(scene, rng), corrupt(scene, 0.6, rng, shapes=False)))
        if asked["kind"] == "action":
            other["objects"][asked["object"]]["color"] = scene["objects"][asked["object"]]["color"]
        if _main(other, asked) != _main(scene, asked):
            return other


def _main(scene: dict, asked: dict) -> str:
    slot = {"color": "color", "size": "size"}.get(asked["kind"], "motion")
    if asked["kind"] == "position":
        return relation(scene, asked["object"], asked["other"])
    return scene["objects"][subject(asked)][slot]


def pair(scene: dict, asked: dict, rng: random.Random, better_longer: bool, differ: str) -> tuple[str, str]:
    """Two answers, the better first. `differ`: "main" (only the first answers truly), "extra" (equal there, the second adds
    something false), "none" (equally true; order means nothing). The better one has more sentences if `better_longer`."""
    many, few = rng.choice((2, 3, 4)), rng.choice((0, 1))
    if differ == "extra":
        many, few = rng.choice((3, 4)), rng.choice((1, 2))
    lengths = (many, few) if better_longer else (few, many)
    if differ == "none":
        lengths = tuple(rng.choice((0, 1, 2, 3, 4)) for _ in range(2))
    false_main = wrong(scene, asked, rng)
    if differ == "main":
        good = compose(scene, asked, rng, lengths[0], False, GUESSED_EXTRA / 2)
        return good, _on_top(false_main, scene, asked, rng, lengths[1], GUESSED_EXTRA)
    main_scene = scene if rng.random() < 0.7 else false_main
    good = _on_top(main_scene, scene, asked, rng, lengths[0], 0.0)
    if differ == "none":
        return good, _on_top(main_scene, scene, asked, rng, lengths[1], 0.0)
    for _ in range(20):
        bad = _on_top(main_scene, scene, asked, rng, lengths[1], 0.7)
        if bad != _on_top(main_scene, scene, asked, rng, 0, 0.0) and _has_false(bad, scene, asked):
            return good, bad
    return pair(scene, asked, rng, better_longer, "main")


def _has_false(text: str, scene: dict, asked: dict) -> bool:
    true = set(extras(scene, asked, random.Random(0)))
    return any(f"{part}." not in true for part in text.rstrip(".").split(". ")[1:])


def _on_top(main_scene: dict, scene: dict, asked: dict, rng: random.Random, extra: int, guessed: float) -> str:
    """The asked sentence as true of `main_scene`, the extras of `scene` (or guessed)."""
    rest = compose(scene, asked, rng, extra, False, guessed).split(". ", 1)
    return " ".join([statement(main_scene, asked), *rest[1:]])


def corrupt(scene: dict, share: float, rng: random.Random, shapes: bool = True) -> dict:
    """A copy in which each fact was drawn again with probability `share`; every kind of fact can change."""
    changed = copy.deepcopy(scene)
    for thing in changed["objects"]:
        for slot, values in (("color", COLORS), ("size", SIZES), ("motion", MOTIONS)):
            if rng.random() < share:
                thing[slot] = rng.choice(values)
        if shapes and rng.random() < share / 2:
            taken = {o["shape"] for o in changed["objects"]}
            thing["shape"] = rng.choice([s for s in SHAPES if s not in taken])
    if rng.random() < share:
        changed["background"] = rng.choice(BACKGROUNDS)
    if rng.random() < share:
        changed["axis"], changed["flipped"] = rng.choice(("vertical", "horizontal")), rng.random() < 0.5
    return changed


def mix_up(scene: dict, rng: random.Random) -> dict:
    """A copy in which every object has another one's color, size and motion, in reversed order."""
    changed, by = copy.deepcopy(scene), rng.randrange(1, max(2, len(scene["objects"])))
    for i, thing in enumerate(changed["objects"]):
        thing.update({slot: scene["objects"][i - by][slot] for slot in ("color", "size", "motion")})
    return changed | {"flipped": not scene.get("flipped", False)}


def description(scene: dict) -> str:
    """The full description: every object, how they stand, the background."""
    text = [sentence for thing in scene["objects"] for sentence in told(thing)]
    for i in range(len(scene["objects"]) - 1):
        text.append(f"The {scene['objects'][i]['shape']} is {relation(scene, i, i + 1)} the {scene['objects'][i + 1]['shape']}.")
    return " ".join([*text, f"The background is {scene['background']}."])
