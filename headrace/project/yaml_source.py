"""Reads YAML into plain data that remembers its lines. Refuses what a project file never needs: bombs, tags, duplicate keys."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.constructor import SafeConstructor

from cluster.errors import BadInput, NotFound

MAX_FILE_BYTES = 256 * 1024
MAX_NODES = 50_000
MAX_DEPTH = 64

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """One YAML document: its data and the line (from 1) on which each field stands. The empty path is the document itself."""

    file: Path
    data: dict[str, Any]
    lines: dict[FieldPath, int]

    def where(self, path: FieldPath) -> str:
        """`stream.yaml:12: input.topic`, by the line of the nearest field that the file has."""
        known = path
        while known not in self.lines:
            known = known[:-1]
        place = f"{self.file}:{self.lines[known]}"
        return f"{place}: {dotted(path)}" if path else place


def dotted(path: FieldPath) -> str:
    """`rollout.steps[2].weight`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_sources(file: Path) -> tuple[Source, ...]:
    """All documents of a file; empty ones are left out. Raises NotFound or BadInput, with file and line."""
    text = _read_text(file)
    try:
        roots = [root for root in yaml.compose_all(text, Loader=yaml.SafeLoader) if root is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadInput(
            f"not valid YAML: {error.problem or error.context}",
            where=f"{file}:{mark.line + 1}" if mark else str(file),
            remedy="check the indentation, quotes and colons around this line",
        ) from error
    except yaml.YAMLError as error:
        raise BadInput(f"not valid YAML: {error}", where=str(file), remedy="save the file as plain UTF-8 text") from error
    except RecursionError:
        raise BadInput(f"nested deeper than {MAX_DEPTH} levels", where=str(file), remedy="flatten the document") from None
    return tuple(_Reader(file).source(root) for root in roots if not _is_empty(root))


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound("there is no such file", where=str(file), remedy="check the path given to -f") from error
    except OSError as error:
        raise BadInput(
            f"can't be read: {error.strerror}", where=str(file), remedy="check the path and its permissions"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise BadInput(
            f"larger than {MAX_FILE_BYTES // 1024} KiB", where=str(file), remedy="split the project into several files"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput("not UTF-8 text", where=f"{file}:{line}", remedy="save the file as UTF-8") from error


def _is_empty(root: yaml.Node) -> bool:
    return isinstance(root, yaml.ScalarNode) and root.tag == "tag:yaml.org,2002:null"


class _Reader:
    """Turns one document's nodes into data. Aliases are followed, and every visit counts, so a bomb runs into the bound."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lines: dict[FieldPath, int] = {}
        self._visited = 0
        self._scalars = SafeConstructor()

    def source(self, root: yaml.Node) -> Source:
        if not isinstance(root, yaml.MappingNode):
            self._refuse(root, (), "a document is a mapping of fields", "begin with `kind: Model`, Stream or Batch")
        data: dict[str, Any] = self._value(root, (), root.start_mark.line + 1)
        return Source(self._file, data, self._lines)

    def _value(self, node: yaml.Node, path: FieldPath, line: int) -> Any:
        self._lines[path] = line
        self._visited += 1
        if self._visited > MAX_NODES:
            self._refuse(node, path, f"more than {MAX_NODES} values once aliases are followed", "write fewer aliases (`*name`)")
        if len(path) > MAX_DEPTH:
            self._refuse(node, path, f"nested deeper than {MAX_DEPTH} levels", "flatten the document; an alias can't hold itself")
        if isinstance(node, yaml.MappingNode):
            return {key: self._value(value, (*path, key), at) for key, value, at in self._fields(node, path)}
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _fields(self, node: yaml.MappingNode, path: FieldPath) -> Iterator[tuple[str, yaml.Node, int]]:
        seen: dict[str, int] = {}
        for key_node, value in node.value:
            key = key_node.value
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str):
                self._refuse(key_node, path, "a field's name is plain text", "write `name: value`")
            if key in seen:
                self._refuse(key_node, (*path, key), f"written twice; first on line {seen[key]}", "keep one of the two")
            seen[key] = line
            yield key, value, line

    def _scalar(self, node: yaml.Node, path: FieldPath) -> Any:
        try:
            value = self._scalars.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
            self._refuse(node, path, f"can't be read as a value: {problem}", "use plain text, numbers, true, false or null")
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(node, path, f"{node.value} is not a finite number", "write a number")
        if value is not None and not isinstance(value, str | int | float | bool):
            return str(node.value)  # dates, times and bytes: JSON has none, so they stay the text that was written
        return value

    def _refuse(self, node: yaml.Node, path: FieldPath, what: str, remedy: str) -> NoReturn:
        where = f"{self._file}:{node.start_mark.line + 1}"
        raise BadInput(what, where=f"{where}: {dotted(path)}" if path else where, remedy=remedy)
