"""Writes every file that is generated, or with --check says which ones drifted.

Each entry of OUTPUTS is a function from nothing to {path: text}; the paths are written as a whole.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRDS = Path("crds")
CHART = Path("charts/koi-operator")


def cargo(*arguments: str) -> str:
    """What a program of the workspace prints."""
    command = ("cargo", "run", "--quiet", *arguments)
    return subprocess.run(
        command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ).stdout


def custom_resources() -> dict[Path, str]:
    """The CRDs, and the chart's copies of them."""
    with tempfile.TemporaryDirectory() as folder:
        cargo("-p", "koi-core", "--example", "crds", "--", folder)
        texts = {file.name: file.read_text() for file in sorted(Path(folder).iterdir())}
    return {base / name: text for base in (CRDS, CHART / "crds") for name, text in texts.items()}


def config_schema() -> dict[Path, str]:
    """The JSON Schema of the gateway's config."""
    return {Path("docs/gateway-config.schema.json"): cargo("-p", "koi-gateway", "--", "schema")}


def chart_readme() -> dict[Path, str]:
    """The chart's README, with the table of its values."""
    made = runpy.run_path(str(ROOT / "charts" / "generate.py"))["generated"]()
    return {path.relative_to(ROOT): text for path, text in made.items() if path.name == "README.md"}


OUTPUTS: tuple[Callable[[], dict[Path, str]], ...] = (custom_resources, config_schema, chart_readme)


def main() -> int:
    """Writes, or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a file is not what would be written"
    )
    args = parser.parse_args()
    wanted = {path: text for output in OUTPUTS for path, text in output().items()}
    drifted = [path for path, text in wanted.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    for path in drifted:
        print(f"{path} {'is out of date: run make generate' if args.check else 'written'}")
        if not args.check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(wanted[path])
    print(f"{len(wanted)} generated files, {len(drifted)} {'out of date' if args.check else 'written'}")
    return 1 if args.check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())
