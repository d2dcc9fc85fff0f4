"""Names of special tokens in text that others wrote: made harmless before the text enters a prompt."""

import re
from collections.abc import Iterable
from functools import lru_cache


def harmless_text(text: str, tokens: Iterable[str]) -> str:
    """Return the text with a space after the first character of each special token's name in it.

    Such text cannot end a turn, begin one or stand for a video. `tokens` are the names, in any order; where
    one name begins with another, the longer one counts. The text is read once: what a space creates is not
    searched.
    """
    names = frozenset(filter(None, tokens))
    if not names:
        return text
    return _pattern(names).sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


@lru_cache(maxsize=16)
def _pattern(names: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
