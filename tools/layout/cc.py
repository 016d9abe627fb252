#!/usr/bin/env python3
"""The linker of release binaries: `cc`, told to lay the functions of a list next to one another.

    cargo rustc --profile slim --bin koi-gateway -- -C linker=tools/layout/cc.py -C link-arg=--layout=tools/layout/koi-gateway.txt

What is resident of a program is pages, and the kernel maps sixteen around each that is touched. One function in ten runs in a
process at rest, and they lie all over the file, so that most of it is resident; side by side they are a tenth of it. In a list
(`python -m bench.layout` writes it) each line has a name as people read it, and what the compiler appended to tell the functions
of that name apart that ran. Another compiler appends something else: then all of that name are taken. Names that are not found are
passed over, and where the linker is not lld, which alone knows such an order, there is none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

OPTION = "--layout="
#: What the compiler appends to tell functions of one name apart.
HASH = re.compile(r"::h([0-9a-f]{16})(?:\.llvm\.\d+)?$")
#: What tells two builds apart, and parts of a function.
NOISE = re.compile(r"(\.llvm\.\d+|\.cold|\.part\.\d+)+$|\[[0-9a-f]{8,16}\]")
#: A list of which less is found than that is of another program, or too old.
ENOUGH = 0.5

#: Functions of one name: symbols by what was appended to it.
Namesakes = dict[str, list[str]]


def by_name(symbols: list[str]) -> dict[str, Namesakes]:
    """Symbols by the name that people read."""
    filt = subprocess.run(
        ("c++filt", "-s", "rust"), input="\n".join(symbols), check=True, capture_output=True, text=True
    )
    found: dict[str, Namesakes] = {}
    for symbol, shown in zip(symbols, filt.stdout.splitlines(), strict=True):
        appended = HASH.search(shown)
        name = NOISE.sub("", HASH.sub("", shown))
        found.setdefault(name, {}).setdefault(appended[1] if appended else "", []).append(symbol)
    return found


def functions(files: Iterable[str]) -> list[str]:
    """The functions that object files and archives define."""
    command = ("nm", "--defined-only", "--format=posix", *files)
    rows = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    fields = (row.split() for row in rows.stdout.splitlines())
    return list(dict.fromkeys(row[0] for row in fields if len(row) > 2 and row[1] in "tTwW"))


def ordered(wanted: list[str], there: dict[str, Namesakes]) -> list[str]:
    """The symbols of the functions in a list's lines, in their order."""
    order, missing = [], 0
    for line in wanted:
        name, _, appended = line.partition("\t")
        namesakes = there.get(name, {})
        missing += not namesakes
        ran = [symbols for suffix, symbols in namesakes.items() if suffix in appended.split()]
        order += [symbol for symbols in ran or namesakes.values() for symbol in symbols]
    if missing > len(wanted) * (1 - ENOUGH):
        told = (
            f"{missing} of the {len(wanted)} functions to be laid out are not there: record the list anew (make layout)"
        )
        print(f"warning: {told}", file=sys.stderr)
    return order


def main() -> int:
    """Links; the exit code is the linker's."""
    # After the colon is what tells cargo that the list is another.
    given = [word.removeprefix(OPTION).partition(":")[0] for word in sys.argv[1:] if word.startswith(OPTION)]
    layouts = [Path(path) for path in given]
    words = [word for word in sys.argv[1:] if not word.startswith(OPTION)]
    if not layouts or "-fuse-ld=lld" not in words:
        os.execvp("cc", ["cc", *words])
    wanted = [name for layout in layouts for name in layout.read_text().splitlines()]
    inputs = [word for word in words if word.endswith((".o", ".rlib", ".a")) and Path(word).is_file()]
    with tempfile.NamedTemporaryFile("w", suffix=".order") as order:
        order.write("\n".join(ordered(wanted, by_name(functions(inputs)))) + "\n")
        order.flush()
        options = (f"-Wl,--symbol-ordering-file={order.name}", "-Wl,--no-warn-symbol-ordering")
        return subprocess.run(["cc", *words, *options]).returncode


if __name__ == "__main__":
    sys.exit(main())
