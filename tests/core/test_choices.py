"""A verdict is what a reply decides: never the opposite, and unread where it only mentions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isrdpo.core import prompts
from isrdpo.core.choices import parse_choice

DECISIONS = [  # each for the response X
    "X",
    "(X)",
    "X.",
    "[[X]]",
    "Response X",
    "**Response X**",
    "Option X",
    '"X"',
    "My choice is X.",
    "My choice is X!",
    "Answer: X",
    "Final verdict: [[X]]",
    "**Final verdict:** X",
    "Final verdict:\n[[X]]",
    "The better response is X.",
    "The better response is Response X.",
    "THE BETTER RESPONSE IS X",
    "X is better",
    "Response X is better than Y.",
    "Response X is clearly the better one.",
    "X is better because it does not invent a dog.",
    "I choose X",
    "I prefer X over Y",
    "I would go with Response X.",
    "Therefore, Response X is better.",
    "X wins.",
    "[[X>Y]]",
    "\\boxed{X}",
    "<answer>X</answer>",
    '{"choice": "X"}',
    "X: because it names the dog",
    "Which is better, X or Y? X.",
    "Both name the dog. My choice is X.",
    "Response Y is worse. Response X is better.",
    "Response Y has errors; X.",
    "Not Y. X.",
    "X\n\nResponse X names the dog, while Y does not.",
    "Response Y misses the ball.\n\nMy choice is X.",
    "<think>Y, surely. My choice is Y.</think>X",
]
MENTIONS = [  # none decides for anything
    "Response X is inaccurate.",
    "Response X lacks detail.",
    "Response X does not answer the question.",
    "Response X fails to mention the ball.",
    "Neither response X nor Y is good.",
    "Both",
    "X or Y",
    "X and Y",
    "X/Y",
    "X = Y",
    "X\nY",
    "Not X",
    "X is not better",
    "X isn't better.",
    "X is hardly better.",
    "X is worse than Y.",
    "X is less accurate",
    "X is better than X",
    "X is better than nothing",
    "X is better if length counts.",
    "X is better at length but worse overall.",
    "Is X better?",
    "X? No.",
    "I doubt that X is better.",
    "It is not true that X is better.",
    "Some say X is better.",
    "I would not choose X.",
    "I don't choose X",
    "I would choose X if it were true.",
    "I would prefer X to be shorter.",
    "My choice is not X.",
    "My choice is X or Y.",
    "My choice is X. My choice is Y.",
    "My choice is X. No, Y is better: my choice is Y.",
    "My choice is X because it is longer, but Y is right.",
    "My choice is X.\nBut I was wrong.",
    "X. No, Y.",
    "X is better. Actually, Y.",
    "X is better... not!",
    "Which is worse? X.",
    "The worse response is:\nX",
    "Worse: X",
    "Less accurate\nX",
    "The only wrong answer is X",
    "Incorrect answer: X",
    "Response X:\nIt is wrong.",
    "Response X. It is inaccurate.",
    "X. This response is wrong.",
    "X\nThis response is wrong.",
    "X\nis worse than Y",
    "X: The dog runs.",
    "X better answer would mention the dog.",  # the article, where X is A
    "X dog is seen",
    "The answer is X dog",
    "X tie",
    "Grade: X",
    "I select X as the worse response",
    "I pick X because it is the worse one",
    "I favor X because Y is long... I mean Y.",
    "It is a tie. X",
    "X is better as a lie",
    "X is better for inaccuracy",
    "If forced, X.",
    "X wins nothing",
    "<think>My choice is X.",
]
FILLER = st.sampled_from(
    [
        "",
        "Both name a dog. ",
        "The clip shows a red circle.\n",
        "Response X is short. ",
        "Response Y is long.\n\n",
    ]
)


def spell(template: str, letter: str) -> str:
    """The template with X as this letter, and Y as the other."""
    return template.replace("X", letter).replace("Y", "B" if letter == "A" else "A")


@pytest.mark.parametrize("reply", DECISIONS)
def test_a_decision_is_read(reply: str) -> None:
    assert [parse_choice(spell(reply, letter)) for letter in "AB"] == [0, 1]


@pytest.mark.parametrize("reply", MENTIONS)
def test_a_mention_is_not_read(reply: str) -> None:
    assert [parse_choice(spell(reply, letter)) for letter in "AB"] == [None, None]


@pytest.mark.parametrize(
    "reply", ["", "C", "My choice is C.", "tie", "a", "choice a", "1", "[[C]]", "A cat sits."]
)
def test_other_replies_are_not_read(reply: str) -> None:
    assert parse_choice(reply) is None


def test_the_two_replies_of_the_prompts_are_read_as_what_they_say() -> None:
    assert [prompts.parse_choice(reply) for reply in prompts.REPLIES] == [0, 1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(before=FILLER, decision=st.sampled_from(DECISIONS), behind=FILLER)
def test_among_other_words_a_decision_is_right_or_unread(before: str, decision: str, behind: str) -> None:
    reply = f"{before}{decision} {behind}"
    choices = [parse_choice(spell(reply, letter)) for letter in "AB"]
    assert choices in ([0, 1], [None, None])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    first=st.sampled_from(MENTIONS),
    second=st.sampled_from(MENTIONS),
    sep=st.sampled_from([" ", "\n", "\n\n"]),
)
def test_mentions_do_not_add_up_to_their_opposite(first: str, second: str, sep: str) -> None:
    reply = f"{first}{sep}{second}"
    one, other = (parse_choice(spell(reply, letter)) for letter in "AB")
    assert (one, other) in ((None, None), (0, 1), (1, 0))
    assert (one is None) == (other is None), "swapping the letters swaps the verdict"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(decision=st.sampled_from(DECISIONS), mention=st.sampled_from(MENTIONS))
def test_two_decisions_or_a_denial_are_not_the_opposite(decision: str, mention: str) -> None:
    denied = parse_choice(spell(f"{decision}\nI was wrong: not X, my choice is Y.", "A"))
    assert denied in (None, 1)
    both = parse_choice(f"{spell(decision, 'A')}\n{spell(decision, 'B')}")
    assert both is None or "Y" in decision
    assert parse_choice(f"{spell(decision, 'A')}\n{spell(mention, 'B')}") in (None, 0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(reply=st.text(alphabet=" AB\n.:,?!;[]()*>'\"xis notbetterchoice", max_size=60))
def test_any_text_is_read_alike_with_the_letters_swapped(reply: str) -> None:
    swapped = reply.translate({ord("A"): "B", ord("B"): "A"})
    choice = parse_choice(reply)
    assert parse_choice(swapped) == (None if choice is None else 1 - choice)


def test_a_long_reply_is_read_at_once() -> None:
    assert parse_choice("My choice" + " " * 100_000 + "is" + "\n" * 1000 + "A (" * 10_000) is None
