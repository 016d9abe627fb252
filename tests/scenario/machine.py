"""A booted machine of a world, entered from outside: what an engineer would see with a serial console."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from world.machines.nspawn import is_init


class Machine:
    """Runs commands as root inside one machine."""

    def __init__(self, state_dir: Path, instance_id: str) -> None:
        self.instance_id = instance_id
        self.directory = state_dir / "machines" / instance_id

    def leader(self) -> int:
        """PID 1 of the machine, as numbered out here."""
        groups = json.loads((self.directory / "machine.json").read_text())["groups"]
        for group in groups:
            for procs in Path(group).rglob("cgroup.procs"):
                for pid in map(int, procs.read_text().split()):
                    if is_init(pid):
                        return pid
        raise AssertionError(f"{self.instance_id} does not run")

    def run(
        self, *command: str, check: bool = True, seconds: float = 30, user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside; its output is kept. `user` steps down from root first."""
        inner = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *command) if user else command
        line = ("nsenter", "-t", str(self.leader()), "-m", "-u", "-i", "-n", "-p", "-C", "--", *inner)
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
        if check and done.returncode:
            raise AssertionError(
                f"{self.instance_id}: {' '.join(command)}: exit {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done

    def sh(self, script: str, check: bool = True, seconds: float = 30, user: str | None = None) -> str:
        """Runs a shell script inside and returns what it printed."""
        return self.run("/bin/sh", "-c", script, check=check, seconds=seconds, user=user).stdout

    def console(self) -> str:
        """What the machine wrote to its console."""
        return (self.directory / "console.log").read_text(errors="replace")
