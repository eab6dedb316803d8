"""YAML whose every value knows its line, so that a mistake can be shown where it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

# Keys and list positions from the root down, as pydantic's `loc` has them.
Place = tuple[str | int, ...]
_DEEPEST = 20
_MOST = 20_000


class NotYamlError(ValueError):
    """Raised for text that is no YAML; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its value, the line of every place in it (that of the key, where there is one), repeated keys."""

    value: Any
    lines: Mapping[Place, int] = field(default_factory=dict)
    repeated: tuple[Place, ...] = ()

    def line(self, place: Place) -> int:
        """The line of a place, or of what it would be in; a file's first line is 1."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def parse(text: str) -> Document:
    """Parses one YAML document; raises NotYamlError."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None)
        value = loader.construct_document(node)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        what = " ".join(part for part in (exc.context, exc.problem) if part)
        raise NotYamlError(what, mark.line + 1 if mark else 1) from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise NotYamlError(" ".join(str(exc).split()) or type(exc).__name__, 1) from exc
    lines: dict[Place, int] = {}
    repeated: list[Place] = []
    # An alias may hold itself, or multiply what it stands for.
    _walk(node, (), lines, repeated)
    return Document(value, lines, tuple(repeated))


def _walk(node: yaml.Node, place: Place, lines: dict[Place, int], repeated: list[Place]) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if len(place) > _DEEPEST or len(lines) > _MOST:
        raise NotYamlError(f"nested deeper than {_DEEPEST}, or more than {_MOST:,} values", node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            if inner in lines:
                repeated.append(inner)
            lines[inner] = key.start_mark.line + 1
            _walk(value, inner, lines, repeated)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _walk(value, (*place, number), lines, repeated)
