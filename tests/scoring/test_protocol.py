"""Protocol hound: what is asked, and how replies are read, rule by rule as LLaVA-Hound's evaluation does
it.
"""

import pytest

from isrdpo.core.metrics import kappa
from isrdpo.scoring.protocol import (
    CLAIMS,
    OFFICIAL,
    OWN,
    REFERENCE,
    Verdict,
    cut_answer,
    read_reply,
    score_request,
)


@pytest.mark.parametrize(
    ("reply", "score", "by"),
    [
        ("Explanation: fine.\nScore: 4", 4.0, "pattern"),
        ("Score: 3.5 of 5", 3.5, "pattern"),
        ("Score: 2\nScore: 5", 2.0, "first"),  # as the reference reads it, but counted
        ("Score: 2\nTherefore, Score: 2", 2.0, "pattern"),
        ("I would not give 5; Score: 2", 2.0, "pattern"),
        ("<think>At first sight Score: 4, but no.</think>\nScore: 1", 1.0, "pattern"),
        ("Score: 4.", 4.0, "pattern"),
        ("Score:4, or 4 at least, not 1", 4.0, "majority"),  # no space behind the colon
        ("**Score**: 5", 5.0, "majority"),
        ("between 2 and 4", 3.0, "mean"),
        ("1 2 2 3 3", 2.5, "mean"),
        ("I cannot say.", 1.0, "none"),
        ("", 1.0, "none"),
        ("It earns 45 points", 45.0, "majority"),  # nothing keeps it within 1 to 5 there
        ("score4", 1.0, "none"),  # no word begins at the digit
    ],
)
def test_own_sets(reply: str, score: float, by: str) -> None:
    assert read_reply(OWN, reply) == Verdict(score, score >= 3.0, by)


@pytest.mark.parametrize(
    ("reply", "score", "correct", "by"),
    [
        ("{'pred': 'yes', 'score': 4.8}", 4.0, True, "pattern"),
        ('{"pred": "no", "score": 0}', 0.0, False, "pattern"),
        ("{'pred':'no','score':2}", 2.0, False, "pattern"),
        ("{'pred': 'no', 'score': 1} yes, really", 1.0, True, "anywhere"),  # against its own dictionary
        ("<think>yes or no?</think>{'pred': 'no', 'score': 0}", 0.0, False, "pattern"),
        ("Yes. The score is 5", None, True, "anywhere"),
        ("{'pred': 'yes', 'score': '4'}", None, True, "anywhere"),
        ("I do not know", None, False, "anywhere"),  # `no` within another word
        ("4", None, None, "none"),
    ],
)
def test_official_sets(reply: str, score: float | None, correct: bool | None, by: str) -> None:
    assert read_reply(OFFICIAL, reply) == Verdict(score, correct, by)


@pytest.mark.parametrize(
    ("reply", "claims", "unsupported"),
    [
        ("supported: a cube\nunsupported: it is red", 2, 1),
        ("- Supported: a\n2. **unsupported**: b\n* UNSUPPORTED: c", 3, 2),
        ("The claim is supported: yes", None, None),
        ("", None, None),
    ],
)
def test_claims(reply: str, claims: int | None, unsupported: int | None) -> None:
    verdict = read_reply(CLAIMS, reply)
    assert (verdict.claims, verdict.unsupported) == (claims, unsupported)
    assert verdict.parsed_by == ("none" if claims is None else "pattern")


@pytest.mark.parametrize("kind", [OWN, OFFICIAL, CLAIMS])
def test_an_unfinished_thought_says_nothing_and_is_counted(kind: str) -> None:
    reply = "<think>Score: 5, {'pred': 'yes', 'score': 5}\nsupported: a cube"
    assert read_reply(kind, reply) == Verdict(parsed_by="thought")


@pytest.mark.parametrize(("kind", "absent"), [(OWN, ""), (OFFICIAL, "caption"), (CLAIMS, "answer")])
def test_prompts_hold_everything_and_braces_in_answers_are_text(kind: str, absent: str) -> None:
    texts = {
        "question": "What {caption}?",
        "answer": "{answer} {",
        "prediction": "{0} %s",
        "caption": "A {question}",
    }
    *system, user = score_request(kind, **texts)
    assert [turn["role"] for turn in system] == ["system"] * (kind == OFFICIAL)
    assert user["role"] == "user"
    assert all(text in user["content"] for name, text in texts.items() if name != absent)


def test_the_official_prompt_shows_the_dictionary() -> None:
    request = score_request(OFFICIAL, question="Q", answer="A", prediction="P", caption="")
    assert "{'pred': 'yes', 'score': 4.8}" in request[1]["content"]


def test_an_answer_is_cut_to_256_words_and_a_shorter_one_stays_as_it_is() -> None:
    assert cut_answer("a\n b") == "a\n b"
    assert cut_answer("w  " * 257) == " ".join(["w"] * 256)


def test_published_means_are_those_of_the_readme() -> None:
    means = {}
    for version, models in REFERENCE.items():
        means[version] = [round(sum(values) / 3, 2) for values in models.values()]
    assert means == {
        "gpt-3.5-turbo-0301": [71.02, 74.83, 82.03],
        "gpt-3.5-turbo-0613": [59.7, 62.65, 70.75],
        "gpt-3.5-turbo-1106": [62.9, 67.76, 77.61],
    }


def test_kappa_by_hand() -> None:
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15  # both 20, neither 15, chance 0.5
    interval = kappa(first, second)
    assert interval.value == pytest.approx(0.4)
    assert interval.low < 0.4 < interval.high <= 1
    assert kappa([True] * 4, [True] * 4).value is None
    assert kappa([], []).value is None
