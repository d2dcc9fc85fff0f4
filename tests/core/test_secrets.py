"""Keys are hidden by their value, in every form in which a server may repeat them."""

import base64
import json
import time
from urllib.parse import quote

import pytest

from isrdpo.core.secrets import HIDDEN, hide_key
from isrdpo.core.texts import REPLACEMENT, clean_text, one_line

KEY = "Key/with+signs:0123456789"


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        quote(KEY, safe=""),
        KEY.lower(),
        KEY.encode().hex(),
        base64.b64encode(KEY.encode()).decode().rstrip("="),
        base64.urlsafe_b64encode(f"Bearer {KEY}".encode()).decode().rstrip("="),
        KEY[:12],
        KEY[5:20],
        json.dumps('"quoted-key-01234"')[1:-1],
    ],
)
def test_a_key_is_hidden_in_every_form(form: str) -> None:
    key = '"quoted-key-01234"' if "quoted" in form else KEY
    assert hide_key(f"before {form} after", key) == f"before {HIDDEN} after"


def test_words_stay() -> None:
    text = "Explanation: the answer has 0123 signs. Score: 4"
    assert hide_key(text, KEY) == text
    assert hide_key("The box is EMPTY.", "EMPTY") == "The box is EMPTY."
    assert hide_key("with Bearer EMPTY", "EMPTY") == f"with Bearer {HIDDEN}"
    assert hide_key(text, "") == text


def test_a_long_text_takes_no_long_time() -> None:
    started = time.monotonic()
    hidden = hide_key((KEY[:14] + " ") * 100_000, KEY)
    assert time.monotonic() - started < 2
    assert hidden == f"{HIDDEN} " * 100_000


def test_texts_that_any_file_and_terminal_can_hold() -> None:
    assert clean_text("a\ud800b\0c\x1b[1md\x9be").replace(REPLACEMENT, "?") == "a?b?c?[1md?e"
    assert clean_text("tab\tline\nünï \N{GRINNING FACE}") == "tab\tline\nünï \N{GRINNING FACE}"
    assert one_line(" a\n\tb\r\n c ", 4) == "a b "
