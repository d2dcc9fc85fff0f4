"""YAML 1.2 without surprises: 5e-7 is a number; `no`, `1:30` and `2026-11-27` are text.

A file of parameters is a small tree of plain values. What it does not need is refused with its line: a key
that is given twice, tags, aliases, directives, several documents, nesting deeper than MAX_DEPTH, and a text
longer than MAX_CHARACTERS, since a few bytes of these can name a Python object or fill any memory.
"""

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, DocumentStartEvent, Event
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter

from isrdpo.core.errors import IsrdpoError
from isrdpo.core.secrets import printable

MAX_DEPTH = 32  # base.yaml has two levels
MAX_CHARACTERS = 100_000  # base.yaml has a tenth of it; its reader takes seconds over so many
MAX_DIGITS = 100  # of a whole number; Python takes minutes over millions of them


class YamlError(IsrdpoError, ValueError):
    """Text that is not YAML, or YAML that is refused; the line names the file and the place in it."""


def parse(text: str, where: str) -> Any:
    """Text to plain values. Raises YamlError, which names `where` and the line."""
    if len(text) > MAX_CHARACTERS:
        raise YamlError(
            f"{where}: {len(text)} characters, more than the {MAX_CHARACTERS} that are read; "
            f"is this a file of parameters?"
        )
    try:
        values = _reader().load(text)
        _require_text_keys(values, where)
        return values
    except YamlError:
        raise
    except DuplicateKeyError as error:
        key = str(error.problem).split('"')[1]
        raise YamlError(f"{where}, line {_line(error)}: {_word(key)} is given twice; keep one") from None
    except _Refusal as error:
        raise YamlError(f"{where}, line {_line(error)}: {error.problem}") from None
    except MarkedYAMLError as error:
        raise YamlError(f"{where}, line {_line(error)}: not YAML ({_one_line(error.problem)})") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(
            f"{where}, line {line}: not YAML (the character U+{int(error.character):04X} is not allowed)"
        ) from None
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise YamlError(f"{where}: not YAML ({_one_line(error)})") from None


def dump(values: Any) -> str:
    """Plain values as YAML text, in their order, a key a line."""
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _TextRepresenter
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.allow_unicode = True
    writer.width = 1000
    text = io.StringIO()
    writer.dump(values, text)
    return text.getvalue()


class _Refusal(MarkedYAMLError):
    """YAML that a file of parameters does not need."""


class _PlainComposer(Composer):
    """Composes one document of plain nodes, and refuses everything else as soon as it is read."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False  # nothing may refer to an anchor

    def compose_document(self) -> Node:
        start = self.parser.peek_event()
        if start.version or start.tags:
            raise _refusal(start, "a directive (%); leave it out")
        node = super().compose_document()
        following = self.parser.peek_event()
        if isinstance(following, DocumentStartEvent):
            raise _refusal(following, "a second document (---); keep one")
        return node

    def compose_node(self, parent: Node | None, index: Any) -> Node:
        event = self.parser.peek_event()
        if isinstance(event, AliasEvent):
            raise _refusal(event, f"*{_word(event.anchor)} is an alias; write the value out")
        if event.ctag is not None:
            tag = str(event.ctag).replace("tag:yaml.org,2002:", "!!")
            raise _refusal(event, f"{_word(tag)} is a tag; write the plain value")
        if self.depth >= MAX_DEPTH:
            raise _refusal(event, "not YAML (nested too deeply)")
        return super().compose_node(parent, index)


class _PlainConstructor(SafeConstructor):
    """Builds null, booleans, numbers, text, lists and mappings; what looks like a date is text."""

    def flatten_mapping(self, node: MappingNode) -> None:
        """Leave `<<` the key that it is: nothing is merged."""

    def whole_number(self, node: ScalarNode) -> int | str:
        """A whole number of at most MAX_DIGITS digits; text where it only looks like one, as `0x_`."""
        if len(node.value) > MAX_DIGITS:
            problem = f"a number of {len(node.value)} digits"
            raise ConstructorError(None, None, problem, node.start_mark)
        try:
            return self.construct_yaml_int(node)
        except (ValueError, IndexError):
            return node.value

    def decimal_number(self, node: ScalarNode) -> float | str:
        """A number, or text where it only looks like one, as `._`."""
        try:
            return self.construct_yaml_float(node)
        except (ValueError, IndexError):
            return node.value


for _tag in ("timestamp", "merge", "value"):
    _PlainConstructor.add_constructor(f"tag:yaml.org,2002:{_tag}", SafeConstructor.construct_yaml_str)
_PlainConstructor.add_constructor("tag:yaml.org,2002:int", _PlainConstructor.whole_number)
_PlainConstructor.add_constructor("tag:yaml.org,2002:float", _PlainConstructor.decimal_number)


class _TextRepresenter(SafeRepresenter):
    """Writes text with a line break or another character that does not print in double quotes, escaped.

    In single quotes some of them (U+0085) would come back as spaces.
    """

    def text(self, value: str) -> ScalarNode:
        """The node of a text."""
        style = None if value.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_TextRepresenter.add_representer(str, _TextRepresenter.text)


def _reader() -> YAML:
    reader = YAML(typ="safe", pure=True)
    reader.Composer = _PlainComposer
    reader.Constructor = _PlainConstructor
    return reader


def _refusal(event: Event, problem: str) -> _Refusal:
    return _Refusal(problem=problem, problem_mark=event.start_mark)


def _line(error: MarkedYAMLError) -> int:
    return error.problem_mark.line + 1 if error.problem_mark else 1


def _one_line(problem: object) -> str:
    """The first line of what a library says, cut to 120 characters."""
    lines = str(problem).splitlines() or [type(problem).__name__]
    return _word(lines[0][:120])


def _word(text: str) -> str:
    """A text as it stands where it is short and prints, else quoted and cut."""
    return text if text.isprintable() and len(text) <= 120 else printable(text)


def _require_text_keys(values: Any, where: str) -> None:
    """Raise YamlError where a key is no word."""
    if isinstance(values, list):
        for value in values:
            _require_text_keys(value, where)
    if isinstance(values, dict):
        for key, value in values.items():
            if not isinstance(key, str):
                raise YamlError(f"{where}: a key must be a word, not {printable(key)}")
            _require_text_keys(value, where)
