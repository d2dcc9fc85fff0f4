"""Claims: what a text asserts of a scene, and whether it holds."""

import itertools
import random

import pytest

from isrdpo.toybox import claims, language, world

SCENE = {
    "background": "gray", "axis": "vertical",
    "objects": [
        {"shape": "circle", "color": "red", "size": "small", "motion": "left"},
        {"shape": "square", "color": "blue", "size": "large", "motion": "still"},
    ],
}  # fmt: skip
COLOR = {"scene": SCENE, "asked": {"kind": "color", "object": 0, "other": None}}
MOTION = {"scene": SCENE, "asked": {"kind": "motion", "object": 0, "other": None}}
POSITION = {"scene": SCENE, "asked": {"kind": "position", "object": 0, "other": 1}}
OTHER = {"scene": SCENE, "asked": {"kind": "other", "object": 0, "other": 1}}


def scenes(count: int) -> list[dict]:
    return list(itertools.islice(world.scenes("base", 5, world.Difficulty()), count))


def test_everything_true_that_the_world_can_say_is_found_true() -> None:
    rng = random.Random(0)
    for scene in scenes(400):
        asked = language.ask(scene, rng)
        facts = {"scene": scene, "asked": asked}
        extras = language.extras(scene, asked, rng)
        truth = claims.truth(" ".join([language.statement(scene, asked), *extras]), facts)
        assert truth.correct and truth.false == truth.uncheckable == 0 and truth.claims >= len(extras)
        assert claims.truth(language.description(scene), facts).false == 0


def test_a_wrong_main_claim_is_found_false() -> None:
    rng = random.Random(0)
    for scene in scenes(400):
        asked = language.ask(scene, rng)
        truth = claims.truth(language.statement(language.wrong(scene, asked, rng), asked), {"scene": scene, "asked": asked})
        assert not truth.correct and truth.false >= 1


def test_mixed_up_facts_are_all_there_but_of_other_objects() -> None:
    rng = random.Random(0)
    for scene in scenes(200):
        mixed = language.mix_up(scene, rng)
        facts, wrong = ([(o["color"], o["size"], o["motion"]) for o in s["objects"]] for s in (scene, mixed))
        assert sorted(facts) == sorted(wrong) and (len(facts) == 1 or all(a != b for a, b in zip(facts, wrong, strict=True)))
        assert [o["shape"] for o in mixed["objects"]] == [o["shape"] for o in scene["objects"]]


@pytest.mark.parametrize("better_longer", [True, False])
@pytest.mark.parametrize(("differ", "order"), [("main", 1), ("extra", 1), ("none", 0)])
def test_pairs_differ_in_truth_as_they_say(differ: str, order: int, better_longer: bool) -> None:
    rng = random.Random(1)
    for scene in scenes(200):
        asked = language.ask(scene, rng)
        first, second = (claims.truth(t, {"scene": scene, "asked": asked}) for t in language.pair(scene, asked, rng, better_longer, differ))
        assert claims.better(first, second) == order and claims.better(second, first) == -order


@pytest.mark.parametrize(
    ("text", "facts", "correct", "false"),
    [
        ("It is red.", COLOR, True, 0),
        ("The circle in the video is red!", COLOR, True, 0),
        ("the CIRCLE is red", COLOR, True, 0),
        ("A tiny red disc.", COLOR, True, 0),
        ("The circle is not blue. The circle is red.", COLOR, True, 0),
        ("The circle is not red.", COLOR, False, 1),
        ("The circle is red. The circle is blue.", COLOR, False, 1),
        ("The circle is red and blue.", COLOR, False, 1),
        ("The square is blue.", COLOR, False, 0),
        ("The circle is drifting to the left.", MOTION, True, 0),
        ("It moves leftwards.", MOTION, True, 0),
        ("The circle does not move.", MOTION, False, 1),
        ("The circle moves left. The circle moves right.", MOTION, False, 1),
        ("The circle is over the square.", POSITION, True, 0),
        ("The circle is to the left of the square.", POSITION, False, 1),
        ("The square is below the circle.", POSITION, False, 0),
        ("The large blue square is motionless.", OTHER, True, 0),
        ("The square does not move.", OTHER, True, 0),
        ("The green triangle moves up.", OTHER, False, 1),
        ("There are two objects.", COLOR, False, 0),
        ("There are three objects.", COLOR, False, 1),
        ("The background is grey.", COLOR, False, 0),
        ("The background is white.", COLOR, False, 1),
    ],
)
def test_paraphrase_negation_contradiction(text: str, facts: dict, correct: bool, false: int) -> None:
    truth = claims.truth(text, facts)
    assert (truth.correct, truth.false) == (correct, false), claims.find(text, facts)


def test_an_object_that_is_not_there_is_one_false_claim() -> None:
    (claim,) = claims.find("A large green triangle moves up.", COLOR)
    assert claim.kind == "object" and claim.verdict is False


@pytest.mark.parametrize("text", ["", "   ", "...", "\n"])
def test_silence_claims_nothing_and_is_wrong(text: str) -> None:
    truth = claims.truth(text, COLOR)
    assert not truth.correct and truth.claims == truth.uncheckable == 0


@pytest.mark.parametrize("text", ["banana banana banana", "!!! ??? red?", "\x00\x01 � <script>alert(1)</script>", "The circle is happy."])
def test_nonsense_is_wrong_and_uncheckable(text: str) -> None:
    truth = claims.truth(text, COLOR)
    assert not truth.correct and truth.claims == 0 and truth.uncheckable == 1


def test_repetition_counts_once() -> None:
    once, often = (claims.truth("The circle is blue. " * n, COLOR) for n in (1, 50))
    assert once == often and once.false == once.claims == 1


def test_claims_do_not_depend_on_the_order_of_full_sentences() -> None:
    rng = random.Random(2)
    for scene in scenes(100):
        asked = language.ask(scene, rng)
        sentences = [language.statement(scene, asked), *language.extras(scene, asked, rng)]
        forward, backward = (claims.truth(" ".join(s), {"scene": scene, "asked": asked}) for s in (sentences, sentences[::-1]))
        assert (forward.claims, forward.false, forward.correct) == (backward.claims, backward.false, backward.correct)
