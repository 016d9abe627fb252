"""Breaks each promise of docs/promises.md once in a copy of the code; its first test must notice.

    tools/breaches.py [NUMBER ...]

The copy is built in the usual place, so that dependencies are there already. Ends with 1 when a breach goes unnoticed, or does not build.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "target" / "breaches" / "tree"
PAGE = ROOT / "docs" / "promises.md"
PLAN = "crates/core/src/plan"
PROGRAMS = ("koi-operator", "koi-gateway")


@dataclasses.dataclass(frozen=True)
class Breach:
    """A few words of a file, and what stands there instead."""

    file: str
    old: str
    new: str


BREACHES = {
    1: Breach(f"{PLAN}/launch.rs", "unseen.reads >= 2 && now", "unseen.reads >= 1 || now"),
    2: Breach(
        f"{PLAN}/present/herd.rs",
        "let Some(token) = &instance.client_token else {\n        return false;",
        "let Some(token) = instance.client_token.as_ref().filter(|_| false) else {\n        return true;",
    ),
    3: Breach(f"{PLAN}/absent.rs", "(Some(seen), Some(changed)) => seen <= changed,", "(Some(_), Some(_)) => false,"),
    4: Breach(
        "charts/koi-operator/templates/guard.yaml",
        "oldObject != null && has(object.spec) ==",
        "true || oldObject != null && has(object.spec) ==",
    ),
    5: Breach(f"{PLAN}/present/instance.rs", "        if current {\n", "        if current && !overwrite {\n"),
    6: Breach(
        "src/controller/secret.rs",
        "let data = [(TOKEN, token()?), (CERTIFICATE, certificate), (KEY, key)];",
        'let data = [(TOKEN, token()?), (CERTIFICATE, certificate), (KEY, key)];\n    tracing::info!("{data:?}");',
    ),
    7: Breach(f"{PLAN}/present/network.rs", "if !foreign.is_empty() {", "if foreign.len() > 100 {"),
    8: Breach(
        "crates/core/src/change.rs",
        "recorded.is_some_and(|recorded| {",
        "self.waiting_for.is_none() || recorded.is_some_and(|recorded| {",
    ),
}


def copy_tree() -> None:
    """The workspace as it is on disk, and the tools that stand beside it."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            target = TREE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # What is the same stays as old as it is: cargo looks at times.
            if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
                shutil.copyfile(ROOT / name, target)
    cache = TREE / ".cache"
    if not cache.is_symlink():
        cache.symlink_to(ROOT / ".cache")


def first_tests() -> dict[int, str]:
    """Of each promise the test that is named first."""
    rows = re.findall(r"^\| (\d) \| [^|]* \| `([^`]+)`", PAGE.read_text(), re.MULTILINE)
    return {int(number): test for number, test in rows}


def run(*command: str | Path) -> tuple[int, str]:
    """A command in the copy; its exit code and all that it said."""
    env = {**os.environ, "PYTHONPATH": "tests", "KOI_SCHEDULES": "2000", "KOI_SHRINK": "0"}
    done = subprocess.run(command, cwd=TREE, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def cargo(*arguments: str) -> tuple[int, str]:
    head, separator, tail = arguments, (), ()
    if "--" in arguments:
        at = arguments.index("--")
        head, separator, tail = arguments[:at], ("--",), arguments[at + 1 :]
    return run("cargo", *head, "--target-dir", ROOT / "target", *separator, *tail)


def needs_programs(test: str) -> bool:
    """Whether the operator itself takes part."""
    return test.startswith(("tests/e2e/", "tests/sweep/"))


def build_programs() -> tuple[int, str]:
    """The programs of the copy, where its scenarios look for them."""
    code, said = cargo("build", "--workspace", "--bins", "--example", "crds")
    for program in PROGRAMS:
        built = TREE / "target" / "debug" / program
        built.parent.mkdir(parents=True, exist_ok=True)
        built.unlink(missing_ok=True)
        if code == 0:
            shutil.copyfile(ROOT / "target" / "debug" / program, built)
            built.chmod(0o755)
    return code, said


def ask(test: str) -> tuple[bool, str]:
    """Runs a test; whether it ran and failed, and what was said."""
    file, name = test.split("::")
    if file.endswith(".py"):
        code, said = build_programs() if needs_programs(test) else (0, "")
        if code == 0:
            code, said = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{file}::{name}")
        return code == 1 and " failed" in said, said
    which = ("--test", Path(file).stem) if file.startswith("crates/core/tests/") else ("--lib",)
    code, said = cargo("test", "--quiet", "-p", "koi-core", *which, "--", name)
    return code != 0 and "test result: FAILED" in said, said


def try_one(number: int, test: str) -> bool:
    """Whether the test notices the breach, and is content without it."""
    breach = BREACHES[number]
    file = TREE / breach.file
    whole = file.read_text()
    if whole.count(breach.old) != 1:
        print(f"promise {number}: {breach.file} does not have once: {breach.old}", flush=True)
        return False
    file.write_text(whole.replace(breach.old, breach.new))
    try:
        noticed, said = ask(test)
    finally:
        file.write_text(whole)
    print(f"promise {number}: {test} {'fails, as it must' if noticed else 'DOES NOT NOTICE'}", flush=True)
    if not noticed:
        print(said[-3000:], flush=True)
    return noticed


def main() -> int:
    chosen = [int(word) for word in sys.argv[1:]] or sorted(BREACHES)
    copy_tree()
    tests = first_tests()
    missed = [number for number in chosen if not try_one(number, tests[number])]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} breaches are noticed")
    if any(needs_programs(tests[number]) for number in chosen):
        # The programs in the usual place are those of the copy now.
        subprocess.run(
            ["cargo", "build", "--workspace", "--bins", "--example", "crds", "--quiet"], cwd=ROOT, check=True
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
