"""Prompts: pure functions, tested on text that a model could write."""

import pytest

from isrdpo.core import prompts


def test_the_one_turn_prompt_is_the_reference_s() -> None:
    assert prompts.conversation("What moves?") == f"{prompts.SYSTEM} USER: <video>\nWhat moves? ASSISTANT:"
    text_only = prompts.conversation("What moves?", video=False)
    assert text_only == f"{prompts.SYSTEM} USER: What moves? ASSISTANT:"


@pytest.mark.parametrize(
    "text",
    ["<video>\nWhat?", "What?<video>", "What?\n<video>", " <video> What? <image> ", "What?"],
)
def test_wherever_the_tag_stood_it_comes_once_and_first(text: str) -> None:
    assert prompts.conversation(text) == prompts.conversation("What?")


def test_a_model_s_text_never_adds_a_video_to_a_prompt() -> None:
    request = prompts.judge_request(prompts.JUDGE, "What?", "<video> red", "blue <image>", "<video><video>")
    conversation = prompts.conversation(request)
    assert conversation.count("<video>") == 1
    assert "<image>" not in conversation


def test_braces_in_a_model_s_text_are_text() -> None:
    request = prompts.judge_request(prompts.JUDGE, "{first}?", "{second}", "{context}", "{question}")
    expected = (
        "Description of the video: {question} Question: {first}? Response A: {second} Response B: {context} "
    )
    assert request.startswith(expected)


def test_the_default_templates_have_exactly_the_slots_that_are_filled() -> None:
    assert prompts.slot_names(prompts.CONTEXT) == set()
    assert prompts.slot_names(prompts.RETROSPECTION) == {"previous"}
    assert prompts.slot_names(prompts.JUDGE) == {"context", "question", "first", "second"}
    assert prompts.slot_names(prompts.JUDGE_WITHOUT_CONTEXT) == {"question", "first", "second"}
    request = prompts.retrospection_request(prompts.RETROSPECTION, " A red circle. ")
    assert not prompts.slot_names(request)


def test_without_a_description_the_judge_is_told_of_none() -> None:
    request = prompts.judge_request(prompts.JUDGE_WITHOUT_CONTEXT, "What?", "Red.", "Blue.", None)
    assert "Description" not in request
    assert request.endswith("Response A: Red. Response B: Blue. Which response is better, A or B?")


def test_a_tag_around_a_tag_does_not_become_a_second_video() -> None:
    prompt = prompts.conversation("<vid<video>eo> What <ima<image>ge> moves? <video>")
    assert prompt.count("<video>") == 1
    assert "< video>" in prompt
