"""Running commands of the operating system, and waiting for conditions."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

from .paths import system_program

T = TypeVar("T")


class CommandFailed(RuntimeError):
    """A command ended with a status other than 0; the message holds the command line and what it said."""


class TimedOut(TimeoutError):
    """A condition did not come true in time; the message names it."""


def run(*command: object, stdin: str | None = None, check: bool = True, timeout: float = 60) -> str:
    """The standard output of `command`."""
    words = [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in command]
    words[0] = system_program(words[0])
    done = subprocess.run(words, input=stdin or "", capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise CommandFailed(
            f"{' '.join(words)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}"
        )
    return done.stdout


def wait_for(what: str, condition: Callable[[], T | None], timeout: float, interval: float = 0.02) -> T:
    """The first true value of `condition`, asked every `interval` seconds; TimedOut after `timeout`."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimedOut(f"{what}: not within {timeout:.0f} s")
        time.sleep(interval)
