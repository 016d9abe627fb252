"""Mutation check of koi-core: how many small faults its unit tests and its simulation notice.

    tools/mutation [--shard 1/8] [--built] [--only TEXT] [--since COMMIT] [--show]

All faults are built into one copy of the workspace, each behind a switch. Faults that do not compile are not viable and do not count.
The rest is tried in three passes, each of what the one before left: with few cases, with more, with many. What survives all must stand in docs/mutants.md
with a reason; ends with 1 when less than 95 % are caught or a survivor has none.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from instrument import Mutant, Source

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "mutation"
TREE = WORK / "tree"
#: Of its own: cargo names programs of both trees alike, and one would take the other's place.
BUILT = WORK / "build"
CORE = Path("crates/core")
STATE = WORK / "state.json"
LISTED = ROOT / "docs" / "mutants.md"
GOAL = 95.0
#: Cases of properties, schedules of the simulation.
PASSES = ((16, 100), (256, 400), (256, 2000))
SWITCH = """
/// Whether this fault is switched on; keeps a list of those that were asked for.
#[doc(hidden)]
pub fn koi_mutant(number: u32) -> bool {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    static CHOSEN: OnceLock<u32> = OnceLock::new();
    static REACHED: OnceLock<Option<(String, Vec<AtomicBool>)>> = OnceLock::new();
    let reached = REACHED.get_or_init(|| {
        let file = std::env::var("KOI_REACHED").ok()?;
        Some((file, (0..COUNT).map(|_| AtomicBool::new(false)).collect()))
    });
    if let Some((file, seen)) = reached
        && !seen[number as usize].swap(true, Ordering::Relaxed)
    {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        // In one write: another thread's number may follow at once.
        file.write_all(format!("{number}\n").as_bytes()).unwrap();
    }
    *CHOSEN.get_or_init(|| std::env::var("KOI_MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)) == number
}
"""


def copy_tree() -> None:
    """The workspace as it is on disk, without what is built."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            target = TREE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
                shutil.copyfile(ROOT / name, target)
    manifest = TREE / CORE / "Cargo.toml"
    manifest.write_text(manifest.read_text().replace("[lints]\nworkspace = true\n", ""))


def sources() -> list[Source]:
    """Every file of the crate that is no test."""
    found, number = [], 0
    for path in sorted((ROOT / CORE / "src").rglob("*.rs")):
        name = path.relative_to(ROOT / CORE / "src").as_posix()
        if is_test(name):
            continue
        source = Source(name, path.read_text(), number)
        number = source.next
        found.append(source)
    return found


def is_test(name: str) -> bool:
    """Whether a file of the crate is a test."""
    return name.endswith("tests.rs") or "/tests/" in name


def names_at(commit: str) -> set[tuple[str, str]]:
    """The faults that the sources of a commit have: file, and what it is in there."""
    root = (CORE / "src").as_posix()

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    files = [path for path in git("ls-tree", "-r", "--name-only", commit, root).splitlines() if path.endswith(".rs")]
    files = [path for path in files if not is_test(path.removeprefix(f"{root}/"))]
    texts = [(path.removeprefix(f"{root}/"), git("show", f"{commit}:{path}")) for path in files]
    return {(name, inner(mutant)) for name, text in texts for mutant in Source(name, text, 0).mutants}


def inner(mutant: Mutant) -> str:
    """What a fault is called within its file."""
    return f"{mutant.function}: {mutant.change}"


def newer(mutants: list[Mutant], commit: str) -> set[int]:
    """The faults that a commit did not have; a function that only moved to another file is no newer than it was."""
    before = names_at(commit)
    now = {(mutant.file, inner(mutant)) for mutant in mutants}
    moved = {name for file, name in before - now}
    return {
        mutant.number for mutant in mutants if (mutant.file, inner(mutant)) not in before and inner(mutant) not in moved
    }


def write(found: list[Source]) -> None:
    """The instrumented files."""
    count = found[-1].next
    for source in found:
        alive = {mutant.number for mutant in source.mutants if mutant.viable}
        text = source.text(alive)
        if source.file == "lib.rs":
            text = "#![allow(warnings)]\n" + text + SWITCH.replace("COUNT", str(count))
        target = TREE / CORE / "src" / source.file
        if target.read_text() != text:
            target.write_text(text)


def cargo(*arguments: str) -> tuple[bool, list[dict]]:
    """A build of the copy; its messages."""
    command = ["cargo", *arguments, "--manifest-path", str(TREE / "Cargo.toml"), "--target-dir", str(BUILT)]
    done = subprocess.run([*command, "--message-format=json"], cwd=TREE, capture_output=True, text=True, check=False)
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode and not any(message["reason"] == "compiler-message" for message in messages):
        raise SystemExit(done.stderr)
    return done.returncode == 0, messages


def bury(found: list[Source], messages: list[dict]) -> int:
    """Faults that the compiler refuses are not viable; answers how many."""
    by_number = {mutant.number: mutant for source in found for mutant in source.mutants}
    texts: dict[str, bytes] = {}
    count, lost = 0, []
    for message in messages:
        if message["reason"] != "compiler-message" or message["message"]["level"] != "error":
            continue
        spans = message["message"]["spans"]
        numbers = {number for span in spans for number in _faults_at(span, texts)}
        for number in numbers:
            count += by_number[number].viable
            by_number[number].viable = False
        if spans and not numbers:
            lost.append(message["message"]["rendered"])
    if lost and not count:
        raise SystemExit("errors that belong to no fault:\n" + "\n".join(lost[:5]))
    return count


def _faults_at(span: dict, texts: dict[str, bytes]) -> set[int]:
    name = span["file_name"]
    if name not in texts:
        texts[name] = (TREE / name).read_bytes()
    text, start, end = texts[name], span["byte_start"], span["byte_end"]
    found = set()
    for match in re.finditer(rb"/\*<(\d+)\*/.*?/\*\1>\*/", text[max(0, start - 20_000) : end + 20_000], re.DOTALL):
        shift = max(0, start - 20_000)
        if match.start() + shift <= start and end <= match.end() + shift:
            found.add(int(match[1]))
    return found


@dataclasses.dataclass
class Program:
    """One test program, and which faults it comes by."""

    name: str
    path: str
    reached: set[int] = dataclasses.field(default_factory=set)
    seconds: float = 0.0


def build(found: list[Source]) -> list[Program]:
    """Builds until only viable faults are left."""
    for _ in range(12):
        write(found)
        fine, messages = cargo("check", "-p", "koi-core")
        if fine:
            break
        print(f"{bury(found, messages)} faults do not compile", flush=True)
    fine, messages = cargo("test", "-p", "koi-core", "--no-run")
    if not fine:
        raise SystemExit(
            "the tests do not build:\n" + "\n".join(m["message"]["rendered"] for m in messages if "message" in m)[:4000]
        )
    made = [message for message in messages if message.get("executable") and message.get("profile", {}).get("test")]
    return [Program(message["target"]["name"], message["executable"]) for message in made]


def start(program: Program, cases: int, schedules: int, seconds: float | None, **variables: str) -> int | None:
    """Runs a test program; None when it took too long."""
    env = {
        **os.environ,
        "PROPTEST_CASES": str(cases),
        "PROPTEST_MAX_SHRINK_ITERS": "0",
        "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "true",
        "KOI_SCHEDULES": str(schedules),
        "KOI_SHRINK": "0",
        "RUST_BACKTRACE": "0",
        **variables,
    }
    try:
        done = subprocess.run(
            [program.path, "-q"],
            cwd=TREE / CORE,
            env=env,
            timeout=seconds,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def baseline(programs: list[Program]) -> None:
    """All tests pass without a fault; which faults they come by is noted."""
    for program in programs:
        log = WORK / f"reached-{program.name}"
        log.unlink(missing_ok=True)
        begin = time.monotonic()
        cases, schedules = PASSES[-1]
        if start(program, cases, schedules, None, KOI_REACHED=str(log)) != 0:
            raise SystemExit(f"{program.name} fails without any fault")
        program.seconds = time.monotonic() - begin
        program.reached = {int(line) for line in log.read_text().split()} if log.exists() else set()
    programs.sort(key=lambda program: program.seconds)


def caught_by(mutant: Mutant, programs: list[Program], cases: int, schedules: int) -> str | None:
    """The test program that notices a fault."""
    for program in programs:
        if mutant.number in program.reached:
            code = start(program, cases, schedules, program.seconds * 4 + 20, KOI_MUTANT=str(mutant.number))
            if code != 0:
                return program.name if code is not None else f"{program.name} (too long)"
    return None


def survivors(mutants: list[Mutant], programs: list[Program]) -> list[Mutant]:
    """Those that nobody notices."""
    left = mutants
    for number, (cases, schedules) in enumerate(PASSES, start=1):

        def look(mutant: Mutant, cases: int = cases, schedules: int = schedules) -> str | None:
            return caught_by(mutant, programs, cases, schedules)

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            fates = list(pool.map(look, left))
        left = [mutant for mutant, fate in zip(left, fates, strict=True) if fate is None]
        print(f"pass {number}: {len(left)} of {len(mutants)} survive", flush=True)
        keep(f"pass-{number}", left)
    return left


def keep(name: str, left: list[Mutant]) -> None:
    """Writes down who survived; a pass takes long, and what it found is there also when the next one is ended."""
    (WORK / f"survivors-{name}.json").write_text(
        json.dumps([dataclasses.asdict(mutant) for mutant in left], indent=1) + "\n"
    )


def make(found: list[Source]) -> list[Program]:
    """Builds, and keeps what was learned."""
    copy_tree()
    programs = build(found)
    baseline(programs)
    state = {
        "dead": [mutant.number for source in found for mutant in source.mutants if not mutant.viable],
        "names": [mutant.name for source in found for mutant in source.mutants],
        "programs": [dataclasses.asdict(program) | {"reached": sorted(program.reached)} for program in programs],
    }
    STATE.write_text(json.dumps(state))
    return programs


def read_state(found: list[Source]) -> list[Program]:
    """What the last build learned."""
    state = json.loads(STATE.read_text())
    mutants = [mutant for source in found for mutant in source.mutants]
    if state["names"] != [mutant.name for mutant in mutants]:
        raise SystemExit("the sources have changed since the last build")
    for number in state["dead"]:
        mutants[number].viable = False
    return [Program(**program | {"reached": set(program["reached"])}) for program in state["programs"]]


def main() -> int:
    """Builds, tries, compares with the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", default="1/1", help="K/N: every Nth fault, beginning with the Kth")
    parser.add_argument("--build", action="store_true", help="build, note which tests come by which faults, and end")
    parser.add_argument("--built", action="store_true", help="try what was built before")
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    parser.add_argument("--since", metavar="COMMIT", help="faults that the sources of this commit did not have")
    parser.add_argument("--show", action="store_true", help="list the faults and end")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    found = sources()
    everything = [mutant for source in found for mutant in source.mutants]
    wanted = newer(everything, args.since) if args.since else {mutant.number for mutant in everything}
    wanted = {mutant.number for mutant in everything if mutant.number in wanted and args.only in mutant.name}
    if args.show:
        print(*(mutant.name for mutant in everything if mutant.number in wanted), sep="\n")
        return 0
    programs = read_state(found) if args.built else make(found)
    viable = [mutant for mutant in everything if mutant.viable]
    print(
        f"{len(everything)} faults, {len(viable)} viable; "
        + ", ".join(f"{program.name} {program.seconds:.1f} s" for program in programs),
        flush=True,
    )
    if args.build:
        return 0
    which, of = map(int, args.shard.split("/"))
    chosen = [mutant for mutant in viable if mutant.number in wanted][which - 1 :: of]
    left, tried = survivors(chosen, programs), len(chosen)
    listed = LISTED.read_text() if LISTED.exists() else ""
    fresh = [mutant for mutant in left if f"`{mutant.name}`" not in listed]
    share = 100 * (tried - len(left)) / max(1, tried)
    for mutant in left:
        unreached = "" if any(mutant.number in program.reached for program in programs) else " (no test comes by)"
        print(f"{'survives' if mutant in fresh else 'listed  '} {mutant.name}  [line {mutant.line}]{unreached}")
    print(
        f"{tried - len(left)} of {tried} caught, {share:.1f} %; {len(fresh)} survivors are not in {LISTED.relative_to(ROOT)}"
    )
    keep(f"{which}-of-{of}", left)
    return 0 if share >= GOAL and not fresh else 1


if __name__ == "__main__":
    sys.exit(main())
