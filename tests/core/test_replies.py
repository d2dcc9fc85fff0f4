"""Thoughts are taken out of a reply before anything reads it."""

import pytest

from isrdpo.core.replies import without_thoughts

HARMONY = "<|channel|>analysis<|message|>"


@pytest.mark.parametrize(
    ("reply", "spoken"),
    [
        ("My choice is A.", "My choice is A."),
        ("  kept as it is\n", "  kept as it is\n"),
        ("<think>\nA or B? A.\n</think>\n\nMy choice is B.", "My choice is B."),
        ("Is it A? Yes, A.</think>My choice is B.", "My choice is B."),
        ("<THINKING>A</THINKING> B", "B"),
        ("<think>a <think>b</think> c</think>B", "B"),
        ("<think>one</think>B<think>two</think>", "B"),
        ("<think></think>", ""),
        ("[THINK]A[/THINK]B", "B"),
        (f"{HARMONY}A?<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>", "B"),
        ("A mouse sits < think > on the mat.", "A mouse sits < think > on the mat."),
    ],
)
def test_what_stands_outside_of_the_thoughts_is_left(reply: str, spoken: str) -> None:
    assert without_thoughts(reply) == spoken


@pytest.mark.parametrize(
    "reply",
    ["<think>My choice is A.", "<think>a</think>B <think>but", f"{HARMONY}My choice is A."],
)
def test_a_thought_that_does_not_end_leaves_nothing_to_read(reply: str) -> None:
    assert without_thoughts(reply) is None
