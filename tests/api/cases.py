"""The tables of manifests, and the definitions that they are held against."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from world.paths import ROOT

from .server import Document

TABLES = Path(__file__).parent / "tables"
DEFINITIONS: list[Document] = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
SCHEMAS: dict[str, Document] = {
    definition["spec"]["names"]["kind"]: definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for definition in DEFINITIONS
}


class Loader(yaml.SafeLoader):
    """YAML with two tags for values that are too long to write down."""


def _repeat(loader: Loader, node: yaml.SequenceNode) -> str:
    """`!repeat [text, times]`"""
    text, times = loader.construct_sequence(node)
    return str(text) * int(times)


def _each(loader: Loader, node: yaml.SequenceNode) -> list[str]:
    """`!each [format, count]`: a list of different values."""
    template, count = loader.construct_sequence(node)
    return [template % number for number in range(int(count))]


def _keys(loader: Loader, node: yaml.SequenceNode) -> dict[str, str]:
    """`!keys [format, count, value]`: a map with different keys."""
    template, count, value = loader.construct_sequence(node, deep=True)
    return {template % number: value for number in range(int(count))}


Loader.add_constructor("!repeat", _repeat)
Loader.add_constructor("!each", _each)
Loader.add_constructor("!keys", _keys)


@dataclasses.dataclass(frozen=True)
class Case:
    """A manifest, made from its table's base and a patch."""

    name: str
    manifest: Document
    field: str = ""
    says: str = ""

    def __str__(self) -> str:
        return self.name


def table(name: str) -> list[Case]:
    """The cases of a table."""
    document = yaml.load((TABLES / f"{name}.yaml").read_text(), Loader)
    return [_case(document["base"], row) for row in document["cases"]]


def _case(base: Document, row: Document) -> Case:
    patch = {key: value for key, value in row.items() if key in ("metadata", "spec")}
    return Case(row["name"], merged(base, patch), row.get("field", ""), row.get("says", ""))


def merged(base: Any, patch: Any) -> Any:
    """RFC 7386: what `patch` makes of `base`."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return copy.deepcopy(result)


@dataclasses.dataclass(frozen=True)
class Node:
    """A place in a schema: `path` holds field names, `[]` for list elements and `{}` for map values."""

    path: tuple[str, ...]
    schema: Document

    def __str__(self) -> str:
        return ".".join(self.path).replace(".[]", "[]").replace(".{}", "{}")


def nodes(schema: Document, path: tuple[str, ...]) -> Iterator[Node]:
    """The schema and everything below it."""
    yield Node(path, schema)
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, (*path, name))
    if "items" in schema:
        yield from nodes(schema["items"], (*path, "[]"))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], (*path, "{}"))


def part(kind: str, name: str) -> list[Node]:
    """All places in the spec or the status of a kind."""
    return list(nodes(SCHEMAS[kind]["properties"][name], (name,)))


def used(schema: Document, value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The places of the schema that a value touches."""
    yield path
    if isinstance(value, list) and "items" in schema:
        for item in value:
            yield from used(schema["items"], item, (*path, "[]"))
    if isinstance(value, dict):
        for name, field in value.items():
            below = schema.get("properties", {}).get(name)
            if below is not None:
                yield from used(below, field, (*path, name))
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from used(schema["additionalProperties"], field, (*path, "{}"))
