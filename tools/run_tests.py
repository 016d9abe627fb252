"""Runs every stage of the test suite in order, shows its output, and ends with a summary and one line that counts."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "--durations=5")
#: Scenarios wait more than they work (two worlds leave half of two cores idle): four side by side, each file in one of them.
WORLDS = "--numprocesses=4"
SIDE_BY_SIDE = (*PYTEST, WORLDS, "--dist=loadfile", "--no-loadscope-reorder")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command of the suite."""

    name: str
    command: tuple[str, ...]
    #: What the long tier adds to it.
    more: tuple[str, ...] = ()
    #: It belongs to the long tier alone.
    long: bool = False
    env: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
    """How a stage ended."""

    name: str
    ok: bool
    seconds: float
    passed: int
    failed: int


#: Clippy as the compiler of our own crates, which it is: what `cargo clippy` does, but with the dependencies that are compiled already,
#: where `cargo clippy` has all of them checked once more (three minutes of a first run).
CLIPPY = {"RUSTC_WORKSPACE_WRAPPER": "clippy-driver", "CLIPPY_ARGS": "-Dwarnings__CLIPPY_HACKERY__"}
RUFF = (sys.executable, "-m", "ruff")
STAGES = (
    Stage("format", ("cargo", "fmt", "--all", "--check")),
    Stage("python", (*RUFF, "format", "--check", "tests", "tools", "charts")),
    Stage("python-lint", (*RUFF, "check", "tests", "tools", "charts")),
    Stage("lint", ("cargo", "test", "--workspace", "--no-run"), env=CLIPPY),
    Stage("unit", ("cargo", "test", "--workspace", "--quiet"), env=CLIPPY),
    Stage("build", ("cargo", "build", "--workspace", "--bins", "--example", "crds")),
    Stage("generated", (sys.executable, "tools/generate.py", "--check")),
    Stage("tools", (*PYTEST, "tests/tools")),
    Stage("conformance", (*SIDE_BY_SIDE, "tests/conformance")),
    Stage("api", (*PYTEST, "tests/api")),
    Stage("chart", (*PYTEST, "tests/chart")),
    Stage("page", (*PYTEST, "tests/page")),
    Stage("world", (*SIDE_BY_SIDE, "tests/world/tests")),
    Stage("scenarios", (*SIDE_BY_SIDE, "tests/e2e")),
    # These work more than they wait, and count calls, of which a crowded machine makes more.
    Stage("crashes", (*PYTEST, "--numprocesses=2", "tests/sweep"), more=("--every-index",)),
    # A gigabyte of history; alone in its process, whose memory it looks at.
    Stage(
        "scale",
        ("cargo", "test", "--workspace", "--bin", "koi-gateway", "--", "--ignored", "ten_thousand"),
        long=True,
        env=CLIPPY,
    ),
    Stage("traces", ("cargo", "test", "-p", "koi-operator", "--features", "otlp", "--lib", "log::"), long=True),
    Stage("breaches", (sys.executable, "tools/breaches.py"), long=True),
    Stage("mutants", (sys.executable, "tools/mutation"), long=True),
)

COUNTS = (
    re.compile(r"(?P<passed>\d+) passed"),
    re.compile(r"(?P<failed>\d+) failed"),
)


def count(line: str) -> tuple[int, int]:
    """Passed and failed tests that a closing line of cargo or pytest names."""
    if not (line.startswith("test result:") or re.search(r"\bin \d+\.\d+s", line)):
        return 0, 0
    passed, failed = (pattern.search(line) for pattern in COUNTS)
    return int(passed["passed"]) if passed else 0, int(failed["failed"]) if failed else 0


def run(stage: Stage, env: dict[str, str]) -> Result:
    """Runs one stage, its output shown as it comes."""
    print(
        f"\n=== {stage.name}: {' '.join(Path(part).name if part == sys.executable else part for part in stage.command)}",
        flush=True,
    )
    begin = time.monotonic()
    passed = failed = 0
    try:
        process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env=env | stage.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        print(f"{stage.command[0]} is not installed", flush=True)
        return Result(stage.name, False, 0.0, 0, 1)
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        ok, bad = count(line)
        passed, failed = passed + ok, failed + bad
    success = process.wait() == 0
    return Result(stage.name, success, time.monotonic() - begin, passed or int(success), failed or int(not success))


def main() -> int:
    """Runs the chosen stages; all of them even when one fails, so that one run shows everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="more seeds and cases")
    parser.add_argument("stages", nargs="*", help=f"some of: {', '.join(s.name for s in STAGES)}; default all")
    args = parser.parse_args()
    unknown = set(args.stages) - {s.name for s in STAGES}
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    env = {**os.environ, "PYTHONPATH": "tests", "PYTHONUNBUFFERED": "1"}
    if args.long:
        env |= {
            "PROPTEST_CASES": "20000",
            "KOI_SCHEDULES": "20000",
            "KOI_KILLED_TURNS": "1000",
            "KOI_SOAK_SECONDS": "3600",
        }
    stages = [
        stage for stage in STAGES if stage.name in args.stages or not args.stages and (args.long or not stage.long)
    ]
    if args.long:
        stages = [dataclasses.replace(stage, command=stage.command + stage.more) for stage in stages]
    results = [run(stage, env) for stage in stages]
    print("\n=== summary")
    for result in results:
        print(
            f"{'ok  ' if result.ok else 'FAIL'} {result.name:12} {result.seconds:7.1f} s  {result.passed:5} passed {result.failed:3} failed"
        )
    print(f"{sum(r.passed for r in results)} passed, {sum(r.failed for r in results)} failed")
    return 0 if all(r.ok for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
