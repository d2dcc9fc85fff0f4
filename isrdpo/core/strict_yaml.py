"""YAML without surprises: 5e-7 is a number, `no` and `1:30` are text, a key given twice is an error.

PyYAML (YAML 1.1) reads 5e-7 as text, `no` as False and 1:30 as 90, and lets the last of two equal keys win silently.
"""

import re
from typing import Any

import yaml

from isrdpo.core.errors import IsrdpoError


class YamlError(IsrdpoError, ValueError):
    """Text that is not YAML, or a key given twice; one line that names the file and the line."""


class _Strict(yaml.SafeLoader):
    pass


_Strict.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false|True|False)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9][0-9_]*\.[0-9]*|[0-9]+(?=[eE])|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _Strict.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _mapping(loader: _Strict, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise YamlError(f"line {key.start_mark.line + 1}: a key must be a word")
        if key.value in seen:
            raise YamlError(f"line {key.start_mark.line + 1}: {key.value} is given twice; keep one")
        seen.add(key.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(text: str, where: str) -> Any:
    """Text to plain values. Raises YamlError naming `where` and the line."""
    try:
        return yaml.load(text, Loader=_Strict)  # noqa: S506 - a SafeLoader
    except YamlError as error:
        raise YamlError(f"{where}, {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise YamlError(f"{where}{line}: not YAML ({getattr(error, 'problem', None) or error})") from None
