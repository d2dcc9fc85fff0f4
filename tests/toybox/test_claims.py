"""Claims: what a text asserts of a scene, and whether it holds."""

import itertools
import random

import pytest

from isrdpo.toybox import claims, language, world, writers
from isrdpo.toybox.facts import Scene

SCENE = {
    "background": "gray",
    "axis": "vertical",
    "objects": [
        {"shape": "circle", "color": "red", "size": "small", "motion": "left"},
        {"shape": "square", "color": "blue", "size": "large", "motion": "still"},
    ],
}
COLOR = {"scene": SCENE, "asked": {"kind": "color", "object": 0, "other": None}}
MOTION = {"scene": SCENE, "asked": {"kind": "motion", "object": 0, "other": None}}
POSITION = {"scene": SCENE, "asked": {"kind": "position", "object": 0, "other": 1}}
OTHER = {"scene": SCENE, "asked": {"kind": "other", "object": 0, "other": 1}}


def draw_scenes(count: int) -> list[Scene]:
    return list(itertools.islice(world.scenes("base", 5, world.Difficulty()), count))


def test_everything_true_that_the_world_can_say_is_found_true() -> None:
    rng = random.Random(0)
    for scene in draw_scenes(400):
        query = language.draw_query(scene, rng)
        facts = {"scene": scene, "asked": query}
        further = language.further_sentences(scene, query, rng)
        truth = claims.truth(" ".join([language.statement(scene, query), *further]), facts)
        assert truth.correct
        assert truth.false == truth.uncheckable == 0
        assert truth.claims >= len(further)
        assert claims.truth(language.description(scene), facts).false == 0


def test_a_wrong_main_claim_is_found_false() -> None:
    rng = random.Random(0)
    for scene in draw_scenes(400):
        query = language.draw_query(scene, rng)
        text = language.statement(writers.false_scene(scene, query, rng), query)
        truth = claims.truth(text, {"scene": scene, "asked": query})
        assert not truth.correct
        assert truth.false >= 1


def test_mixed_up_facts_are_all_there_but_of_other_objects() -> None:
    rng = random.Random(0)
    for scene in draw_scenes(200):
        mixed = writers.mix_up_objects(scene, rng)
        facts = [(o["color"], o["size"], o["motion"]) for o in scene["objects"]]
        others = [(o["color"], o["size"], o["motion"]) for o in mixed["objects"]]
        assert sorted(facts) == sorted(others)
        assert len(facts) == 1 or all(a != b for a, b in zip(facts, others, strict=True))
        assert [o["shape"] for o in mixed["objects"]] == [o["shape"] for o in scene["objects"]]


@pytest.mark.parametrize("better_longer", [True, False])
@pytest.mark.parametrize(("difference", "order"), [("main", 1), ("extra", 1), ("none", 0)])
def test_pairs_differ_in_truth_as_they_say(difference: str, order: int, better_longer: bool) -> None:
    rng = random.Random(1)
    for scene in draw_scenes(200):
        query = language.draw_query(scene, rng)
        facts = {"scene": scene, "asked": query}
        pair = writers.answer_pair(scene, query, rng, better_longer, writers.Difference(difference))
        first, second = (claims.truth(text, facts) for text in pair)
        assert claims.compare_truths(first, second) == order
        assert claims.compare_truths(second, first) == -order


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
    assert (truth.correct, truth.false) == (correct, false), claims.distinct_claims(text, facts)


@pytest.mark.parametrize(("text", "relation"), [("on top of", "above"), ("beneath", "below")])
def test_a_relation_is_named_by_its_plain_word(text: str, relation: str) -> None:
    (claim,) = claims.distinct_claims(f"The circle is {text} the square.", POSITION)
    assert (claim.kind, claim.value) == ("position", f"{relation} square")


def test_an_object_that_is_not_there_is_one_false_claim() -> None:
    (claim,) = claims.distinct_claims("A large green triangle moves up.", COLOR)
    assert claim.kind == "object"
    assert claim.verdict is False


@pytest.mark.parametrize("text", ["", "   ", "...", "\n"])
def test_silence_claims_nothing_and_is_wrong(text: str) -> None:
    truth = claims.truth(text, COLOR)
    assert not truth.correct
    assert truth.claims == truth.uncheckable == 0


NONSENSE = [
    "banana banana banana",
    "!!! ??? red?",
    "\x00\x01 � <script>alert(1)</script>",
    "The circle is happy.",
]


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_wrong_and_uncheckable(text: str) -> None:
    truth = claims.truth(text, COLOR)
    assert not truth.correct
    assert truth.claims == 0
    assert truth.uncheckable == 1


def test_repetition_counts_once() -> None:
    sentence = "The circle is blue. "
    once = claims.truth(sentence, COLOR)
    assert once == claims.truth(sentence * 50, COLOR)
    assert once.false == once.claims == 1
    assert len(claims.all_claims(sentence * 50, COLOR)) == 50


def test_claims_do_not_depend_on_the_order_of_full_sentences() -> None:
    rng = random.Random(2)
    for scene in draw_scenes(100):
        query = language.draw_query(scene, rng)
        facts = {"scene": scene, "asked": query}
        sentences = [language.statement(scene, query), *language.further_sentences(scene, query, rng)]
        forward = claims.truth(" ".join(sentences), facts)
        backward = claims.truth(" ".join(sentences[::-1]), facts)
        assert forward.claims == backward.claims
        assert forward.false == backward.false
        assert forward.correct == backward.correct


def test_a_count_is_the_dictionary_that_rows_carry() -> None:
    assert claims.count("The circle is red. It moves up. It is happy.", COLOR) == {
        "correct": True,
        "claims": 2,
        "false": 1,
        "uncheckable": 1,
        "by_kind": {"color": [1, 0], "motion": [0, 1]},
    }
    assert claims.count("The circle is red.", {"scene": SCENE})["correct"] is False, "nothing was asked"
    assert claims.count("The circle is red.", None) is None
