"""Texts that come from outside, made harmless before they enter a prompt."""

import re
from collections.abc import Iterable


def harmless_text(text: str, tokens: Iterable[str]) -> str:
    """The text with a space after the first character of each special token's name in it.

    Such a text cannot end a turn, begin one, or stand for a video, which the tokenizer would otherwise read into it.
    """
    longest_first = sorted(set(tokens), key=len, reverse=True)
    if not longest_first:
        return text
    pattern = "|".join(map(re.escape, longest_first))
    return re.sub(pattern, lambda match: f"{match[0][0]} {match[0][1:]}", text)
