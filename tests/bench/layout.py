"""Writes down which functions of the delivered programs run: tools/layout/*.txt, by which their linker lays them out.

python -m bench.layout [gateway] [operator]

The programs must have their symbols still: `make layout` sees to that. Callgrind runs them, fifty times slower than they are, through
what they do all day. Those that run at rest come first, then those that more work needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scenario import stage, wait
from scenario.stage import Stage, world_name
from scenario.wait import until
from world.paths import ROOT

from . import agent, gateway
from .fleet import Fleet, Size

sys.path.insert(0, str(ROOT / "tools" / "layout"))
import cc  # noqa: E402

#: How much slower a program is under callgrind, and more.
SLOWER = 20
RELEASE = ROOT / "target" / "release"
NAME = re.compile(r"c?fn=\(\d+\) (\S.*)")


class Recorder:
    """A program under callgrind, started by the path `wrapper` as if that were it."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.folder = folder
        self.wrapper = folder / program.name
        options = f"--tool=callgrind --demangle=no --callgrind-out-file={folder}/%p.out"
        self.wrapper.write_text(f'#!/bin/sh\nexec valgrind {options} {program} "$@" 2>>{folder}/valgrind.log\n')
        self.wrapper.chmod(0o755)
        self._own = cc.functions([str(program)])
        self._seen: dict[str, None] = {}

    def note(self, pid: int, first: bool = False) -> None:
        """What has run in this process since it was last asked, after what is noted already, or before it."""
        known = set(self.folder.glob(f"{pid}.out.*"))
        subprocess.run(("callgrind_control", "--dump", str(pid)), check=True, stdout=subprocess.DEVNULL)
        # A dump is there before it is whole; its last line is the sum.
        fresh = until("a dump", lambda: whole(set(self.folder.glob(f"{pid}.out.*")) - known), 60)
        ran = {match[1].partition("'")[0] for match in map(NAME.fullmatch, fresh.read_text().splitlines()) if match}
        fresh_names = dict.fromkeys(sorted(ran))
        self._seen = fresh_names | self._seen if first else self._seen | fresh_names

    def write(self, layout: Path) -> None:
        """The list, without what belongs to shared libraries."""
        own = set(self._own)
        ran = cc.by_name([symbol for symbol in self._seen if symbol in own])
        lines = (f"{name}\t{' '.join(sorted(filter(None, namesakes)))}".rstrip() for name, namesakes in ran.items())
        layout.write_text("".join(f"{line}\n" for line in lines))
        print(f"{layout.relative_to(ROOT)}: {len(ran)} names")


def whole(dumps: set[Path]) -> Path | None:
    """A dump that is written to its end."""
    return next((dump for dump in dumps if "\ntotals:" in dump.read_text()), None)


@contextmanager
def recording(program: Path) -> Iterator[Recorder]:
    """A recorder whose list is written in the end."""
    with tempfile.TemporaryDirectory(prefix="koi-layout-") as folder:
        recorder = Recorder(program, Path(folder))
        yield recorder
        recorder.write(ROOT / "tools" / "layout" / f"{program.name}.txt")


def record_gateway() -> None:
    """At rest; handshakes, requests and turns; a turn with tools."""
    with recording(RELEASE / "koi-gateway") as recorder:
        gateway.BINARY = recorder.wrapper
        with gateway.running() as running:
            recorder.note(running.pid)
            running.load("calls", connections=2, count=20)
            running.load("handshakes", count=20)
            running.load("chat", count=20)
            recorder.note(running.pid)
        script = [agent.say({"text": "A file. "}, agent.call(1)), agent.say({"text": "Done."})]
        with gateway.running(lambda folder: agent.scripted(folder, script), more=agent.config()) as running:
            running.load("chat", count=5)
            recorder.note(running.pid)


def record_operator() -> None:
    """Some agents: what a new operator does with settled ones, then what it takes to make, repair and delete them."""
    with recording(RELEASE / "koi-operator") as recorder, Stage(world_name("layout"), driver="none") as world:
        stage.OPERATOR = recorder.wrapper
        fleet = Fleet(world, Size(2))
        fleet.converge()
        fleet.drift()
        recorder.note(fleet.operator.process.pid)
        fleet.operator.kill()
        fleet.operator = world.start_operator()
        until("all are known", fleet.ready, 60)
        fleet.await_sweeps(2)
        fleet.look()
        recorder.note(fleet.operator.process.pid, first=True)
        fleet.leave()
        recorder.note(fleet.operator.process.pid)
        fleet.gateways.close()


def main() -> int:
    """Both, or those that are named."""
    wait.patience = SLOWER
    for name in sys.argv[1:] or ("gateway", "operator"):
        {"gateway": record_gateway, "operator": record_operator}[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
