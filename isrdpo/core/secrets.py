"""Keys and tokens, which never stand in parameters, logs, pages or provenance."""

import base64
import json
import re
from typing import Any
from urllib.parse import quote

SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[a-z]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{12,}|AIza[\w-]{30,}"
    r"|xox[a-z]-[\w-]{10,}|-----BEGIN|://[^/\s:@]+:[^/\s@]+@|(?i:\bbearer\s+\S{8,})"
)
SECRET_NAME = re.compile(
    r"(?i)(?:^|[._-])(?:api_?key|access_?key|token|auth|secret|password|passwd|credentials?)$"
)
HIDDEN = "(hidden)"
MIN_KEY = 8  # characters; shorter keys ("EMPTY", "none") are words that replies may well contain


def is_secret(value: Any) -> bool:
    """Whether a value is text that holds something like a key or a token."""
    return isinstance(value, str) and SECRET.search(value) is not None


def printable(value: Any) -> str:
    """A value for a message: cut to 80 characters, and "(hidden)" where it holds a key or a token."""
    try:
        return HIDDEN if SECRET.search(str(value)) else repr(value)[:80]
    except ValueError:  # Python does not write whole numbers of more than 4300 digits
        return "a number of thousands of digits"


def hide_key(text: str, key: str) -> str:
    """Return what a server sent without the key that it was sent.

    Hidden are the key, its encodings for URLs, JSON and Base64 (as servers write them), and every piece of
    it of half its length or more. A key below MIN_KEY characters is hidden behind `Bearer` only.
    """
    if not key:
        return text
    if len(key) < MIN_KEY:
        return re.sub(rf"(?i)\b(bearer\s+){re.escape(key)}(?!\w)", rf"\1{HIDDEN}", text)
    for form in _forms(key):
        text = text.replace(form, HIDDEN)
    return _hide_pieces(text, key)


def _forms(key: str) -> list[str]:
    """The key as servers may write it, the longest form first."""
    forms = {key, quote(key, safe=""), json.dumps(key)[1:-1], key.lower(), key.upper()}
    for encoding in (base64.b64encode, base64.urlsafe_b64encode):
        forms |= {encoding(text.encode()).decode().rstrip("=") for text in (key, f":{key}", f"Bearer {key}")}
    forms.add(key.encode().hex())
    return sorted(forms, key=len, reverse=True)


def _hide_pieces(text: str, key: str) -> str:
    """Hide runs of the key's characters, such as the beginning that an error message quotes."""
    size = max(MIN_KEY, len(key) // 2)
    pieces = {key[start : start + size] for start in range(len(key) - size + 1)}
    shortest = re.compile("|".join(map(re.escape, sorted(pieces))))
    parts: list[str] = []
    position = 0
    while match := shortest.search(text, position):
        end = match.end()
        while end < len(text) and text[match.start() : end + 1] in key:
            end += 1
        parts += [text[position : match.start()], HIDDEN]
        position = end
    return "".join([*parts, text[position:]])
