#!/usr/bin/env python3
"""Writes what is generated in the charts: the copies of the CRDs and the table of values in the README.

`--check` writes nothing, names what differs and exits 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "koi-operator"
CRDS = ROOT / "crds"
BEGIN = "<!-- values: generated from values.yaml by charts/generate.py -->"
END = "<!-- end of values -->"
KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?P<rest>.*)$")
COMMENT = re.compile(r"^ *# ?(?P<text>.*)$")


@dataclass(frozen=True)
class Value:
    """One value that people can set."""

    path: str
    default: object
    description: str


def documented(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path of each key of a values file, in order, with the comment that stands directly above it."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if found := COMMENT.match(line):
            comment.append(found["text"].strip())
        elif found := KEY.match(line):
            path[len(found["indent"]) // 2 :] = [found["key"]]
            yield tuple(path), " ".join(comment)
            comment = []
        else:
            comment = []


def values(text: str) -> list[Value]:
    """What can be set: everything with a comment of its own. What stands below such a value is its default."""
    tree = yaml.safe_load(text)
    found: list[Value] = []
    for path, comment in documented(text):
        inside = any(path[: len(v.path.split("."))] == tuple(v.path.split(".")) for v in found)
        default = tree
        for key in path:
            default = default[key]
        if comment and not inside:
            found.append(Value(".".join(path), default, comment))
        elif not comment and not inside and not (isinstance(default, dict) and default):
            raise ValueError(f"values.yaml: {'.'.join(path)} has no comment above it")
    return found


def table(rows: list[Value]) -> str:
    """The values as a Markdown table."""
    lines = ["| value | default | |", "|---|---|---|"]
    for row in rows:
        text = row.description.replace("|", "\\|")
        lines.append(f"| `{row.path}` | `{json.dumps(row.default)}` | {text} |")
    return "\n".join(lines)


def readme(text: str, rows: list[Value]) -> str:
    """The README with its table made anew."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md lacks the lines {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{table(rows)}\n\n{END}{tail}"


def generated() -> dict[Path, str | None]:
    """Each generated file and what must be in it; None for one that must not be there."""
    files: dict[Path, str | None] = {CHART / "crds" / crd.name: crd.read_text() for crd in sorted(CRDS.glob("*.yaml"))}
    files |= {stale: None for stale in (CHART / "crds").glob("*") if stale not in files}
    path = CHART / "README.md"
    files[path] = readme(path.read_text(), values((CHART / "values.yaml").read_text()))
    return files


def drift() -> list[Path]:
    """The generated files that are not what they should be."""
    return [path for path, text in generated().items() if (path.read_text() if path.exists() else None) != text]


def write() -> None:
    """Makes every generated file what it should be."""
    for path in drift():
        text = generated()[path]
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something differs")
    if not parser.parse_args().check:
        write()
        return 0
    differing = drift()
    for path in differing:
        print(f"{path.relative_to(ROOT)} is not what its source says: run `make generate`", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
