"""Texts from outside, as any file, page and terminal can hold them."""

import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Halves of surrogate pairs, which no UTF-8 file can hold, and control characters, by which a text could
# end a string or steer a terminal. Tabs and line breaks stay.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Return a text in which a replacement character stands for each one that cannot be written safely."""
    return _UNWRITABLE.sub(REPLACEMENT, text)


def one_line(text: str, length: int = 200) -> str:
    """Return a text cleaned, with its blanks and line breaks joined, and cut to `length` characters."""
    return " ".join(clean_text(text).split())[:length]
