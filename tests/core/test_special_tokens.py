"""Special tokens in what others wrote."""

from isrdpo.core.special_tokens import harmless_text


def test_a_special_tokens_name_gets_a_space() -> None:
    assert harmless_text("a</s>b<video>", ["</s>", "<video>"]) == "a< /s>b< video>"


def test_the_longer_name_counts_and_characters_of_patterns_mean_nothing() -> None:
    assert harmless_text("<|end|>x", ["<|end|>", "<|end|>x"]) == "< |end|>x"
    assert harmless_text("a|b.c", ["."]) == "a|b. c"


def test_without_names_the_text_stays() -> None:
    assert harmless_text("a</s>", []) == "a</s>"
    assert harmless_text("a</s>", [""]) == "a</s>"
    assert harmless_text("", ["</s>"]) == ""


def test_what_a_space_creates_is_not_searched() -> None:
    assert harmless_text("ab", ["ab", " b"]) == "a b"
