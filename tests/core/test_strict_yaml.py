"""YAML: plain values and nothing else, each refusal with its line, and text that comes back as it was."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isrdpo.core import strict_yaml

FEW = settings(max_examples=80, deadline=None, derandomize=True)
SYNTAX = "0123456789_.+-eExXob:~nulyso \t\n'\"#&*!%@`{}[],|>?-=<\\"
TEXTS = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.text(SYNTAX), st.text("ab \n"))
LOOK_LIKE_SOMETHING_ELSE = (
    *("2e3", "1_000", "0x10", "0o17", "0x_", "+1", ".5", "._", "1:30", "2026-11-27", ".nan", "-.inf"),
    *("no", "null", "true", "~", "", "=", "<<", "- a", "a: b", "a #b", "[1]", "{a}", "? a", "!!int 1"),
    *("*a", "&a", "---", "...", "%YAML", " a ", "\ta", "a\n---\nb", "\r", "\x85", "\u2028", "\ufeffa"),
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: !!timestamp abc", "line 1: !!timestamp is a tag; write the plain value"),
        ('a: 1\nb: !!int ""', "line 2: !!int is a tag"),
        ("a: !!bool x", "line 1: !!bool is a tag"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: !!python/object/apply:os.system is a tag"),
        ("a: ! 3", "line 1: ! is a tag"),
        ("a: &x [1]\nb: *x", "line 2: *x is an alias; write the value out"),
        ("%YAML 1.1\n---\na: no", "a directive (%); leave it out"),
        ("a: 1\n---\nb: 2", "line 2: a second document (---); keep one"),
        ("{a: " * 3000 + "1" + "}" * 3000, "line 1: not YAML (nested too deeply)"),
        ("- " * 3000, "line 1: not YAML (nested too deeply)"),
        ("a: " + "9" * 5000, "line 1: not YAML (a number of 5000 digits)"),
        ("a: 0x" + "f" * 5000, "line 1: not YAML (a number of 5002 digits)"),
        ("a: 1\nb: \x00", "line 2: not YAML (the character U+0000 is not allowed)"),
        ("a: \x1b[31m", "line 1: not YAML (the character U+001B is not allowed)"),
        ("a:\n\t- b", "line 2: not YAML"),
        ('"a\\nb": 1\n"a\\nb": 2', "line 2: 'a\\nb' is given twice; keep one"),
        ("x" * 100_001, "100001 characters, more than the 100000 that are read"),
    ],
)
def test_what_parameters_do_not_need_is_one_line(text: str, says: str) -> None:
    with pytest.raises(strict_yaml.YamlError) as error:
        strict_yaml.parse(text, "here")
    message = str(error.value)
    assert says in message and message.startswith("here") and "\n" not in message


def test_a_few_bytes_fill_no_memory() -> None:
    layers = ["a0: &a0 [x, x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    started = time.monotonic()
    with pytest.raises(strict_yaml.YamlError, match="line 2: .a0 is an alias"):
        strict_yaml.parse("\n".join(layers), "here")
    assert time.monotonic() - started < 2


def test_dates_merges_and_halves_of_numbers_are_text() -> None:
    text = "{a: 2026-11-27, b: 2026-13-45, c: <<, d: 0x_, e: ._, <<: {f: 1}}"
    values = {"a": "2026-11-27", "b": "2026-13-45", "c": "<<", "d": "0x_", "e": "._", "<<": {"f": 1}}
    assert strict_yaml.parse(text, "here") == values


def test_a_byte_order_mark_is_no_letter() -> None:
    assert strict_yaml.parse("\ufeffa: 1", "here") == {"a": 1}


@pytest.mark.parametrize("text", LOOK_LIKE_SOMETHING_ELSE)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    values = {"a": text, "b": {"c": text}, "d": [text]}
    assert strict_yaml.parse(strict_yaml.dump(values), "here") == values


@FEW
@given(TEXTS)
@example("word " * 400)
@example("x" * 3000)
@example("a line\n" * 300)
def test_any_text_comes_back_as_it_was(text: str) -> None:
    values = {"a": text, "b": {"c": text}}
    assert strict_yaml.parse(strict_yaml.dump(values), "here") == values


@FEW
@given(
    st.one_of(
        st.text(max_size=40), st.text(SYNTAX, max_size=40), st.text("{}[]:,-?&*!|>'\"%#a1 \n", max_size=40)
    )
)
def test_any_input_is_plain_values_or_one_line(text: str) -> None:
    try:
        values = strict_yaml.parse(text, "here")
    except strict_yaml.YamlError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 300
    else:
        assert_plain(values)


def assert_plain(values: object) -> None:
    """Raise AssertionError for anything but null, booleans, numbers, text, lists, and mappings of words."""
    assert values is None or type(values) in (bool, int, float, str, list, dict)
    if isinstance(values, dict):
        assert all(isinstance(key, str) for key in values)
        values = list(values.values())
    for value in values if isinstance(values, list) else []:
        assert_plain(value)
