"""Processes that a world starts, recorded on disk so that a later run can end them even if this one is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .shell import TimedOut, wait_for


@dataclasses.dataclass(frozen=True)
class ProcessId:
    """A process beyond doubt: numbers are used again, a number with its start time is not."""

    pid: int
    start_time: int  # clock ticks since boot, field 22 of /proc/PID/stat

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        started = start_time(pid)
        return None if started is None else cls(pid, started)

    def alive(self) -> bool:
        return start_time(self.pid) == self.start_time


def start_time(pid: int) -> int | None:
    """When the process started; None for one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Recorded:
    """A child in a session of its own, with a record file while it lives."""

    def __init__(self, name: str, child: subprocess.Popen, record: Path, log: Path) -> None:
        self.name, self.child, self.record, self.log = name, child, record, log

    def running(self) -> bool:
        return self.child.poll() is None

    def require(self) -> None:
        """Raises with the end of its log when the process is gone."""
        if not self.running():
            raise RuntimeError(f"{self.name} ended with status {self.child.returncode}: {log_tail(self.log)}")

    def stop(self, signal_number: int = signal.SIGTERM, grace: float = 10) -> None:
        """Ends the whole session: asks, waits, then kills."""
        if self.running():
            _signal_group(self.child.pid, signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(grace)
        if self.running():
            _signal_group(self.child.pid, signal.SIGKILL)
            self.child.wait(10)
        self.record.unlink(missing_ok=True)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)


def spawn(
    name: str,
    command: Sequence[object],
    state_dir: Path,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Recorded:
    """Starts `command` with its output in logs/NAME.log and its record in pids/NAME.json below `state_dir`."""
    log, record = state_dir / "logs" / f"{name}.log", state_dir / "pids" / f"{name}.json"
    for file in (log, record):
        file.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(environment) if environment is not None else None,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    identity = ProcessId.of(child.pid)
    if identity:
        record.write_text(json.dumps(dataclasses.asdict(identity)))
    return Recorded(name, child, record, log)


def end_recorded(state_dir: Path) -> list[str]:
    """Kills what records in `state_dir` name, if it still is the same process; returns the names of those it met."""
    ended = []
    for record in sorted((state_dir / "pids").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            identity = ProcessId(**json.loads(record.read_text()))
            if identity.alive():
                _signal_group(identity.pid, signal.SIGKILL)
                ended.append(record.stem)
                with contextlib.suppress(TimedOut):
                    wait_for(f"the end of {record.stem}", lambda i=identity: not i.alive(), 5)
        record.unlink(missing_ok=True)
    return ended


def log_tail(log: Path, lines: int = 12) -> str:
    """The end of a log, for messages."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
