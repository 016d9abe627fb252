"""The stock client of the protocol family, through TLS with the certificate pinned: what a person who has one would use."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from world.paths import NODE, ROOT

SCRIPT = ROOT / "crates" / "gateway" / "tests" / "contract" / "stock-pipe.mjs"
#: runs that have ended
TERMINAL = ("final", "aborted", "error")


class StockClient:
    """One client; a context manager. It comes back by itself when the machine does."""

    def __init__(self, url: str, token: str, sha256: str, seconds: float = 20.0) -> None:
        assert (SCRIPT.parent / "node_modules").is_dir(), "run tools/setup.py contract"
        self.seconds = seconds
        self.process = subprocess.Popen(
            (NODE, SCRIPT, url, token, sha256), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.told: list[dict] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._numbers = itertools.count(1)
        threading.Thread(target=self._listen, daemon=True).start()
        self.wait("the connection", lambda line: "hello" in line)

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait(self, what: str, fits: Callable[[dict], bool], since: int = 0, seconds: float | None = None) -> dict:
        """The first line of what it told, from that one on, that fits."""
        deadline, at = time.monotonic() + (seconds or self.seconds), since
        while True:
            for at in range(at, len(self.told)):  # noqa: B020 - goes on where it was
                if fits(self.told[at]):
                    return self.told[at]
            at = len(self.told)
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise AssertionError(f"{what}: not in time; the last it told: {self.told[-3:]}") from None
            assert line, f"{what}: the client ended; the last it told: {self.told[-3:]}"
            self.told.append(json.loads(line))

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict:
        """A request and its answer."""
        number, since = next(self._numbers), len(self.told)
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"id": number, "method": method, "params": params or {}}) + "\n")
        answer = self.wait(f"the answer to {method}", lambda line: line.get("id") == number, since)
        assert answer["ok"], f"{method}: {answer['error']}"
        return answer["payload"]

    def send(self, text: str, key: str = "main", **more: Any) -> str:
        """A message; it is acknowledged when this returns. Gives the run."""
        run = f"run-{next(self._numbers)}-{time.monotonic_ns():x}"
        sent = self.call("chat.send", {"sessionKey": key, "message": text, "idempotencyKey": run, **more})
        assert sent["status"] == "started", sent
        return run

    def chat(self, run: str) -> list[dict]:
        """What was told of a run so far."""
        events = [line["payload"] for line in self.told if line.get("event") == "chat"]
        return [payload for payload in events if payload.get("runId") == run]

    def ended(self, run: str, seconds: float | None = None) -> dict:
        """Waits for the end of a run."""
        ends = lambda p: p.get("runId") == run and p.get("state") in TERMINAL  # noqa: E731
        fits = lambda line: line.get("event") == "chat" and ends(line["payload"])  # noqa: E731
        return self.wait(f"the end of {run}", fits, seconds=seconds)["payload"]

    def history(self, key: str = "main") -> list[dict]:
        """What was said in a session."""
        return self.call("chat.history", {"sessionKey": key, "limit": 100})["messages"]

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait(10)

    def __enter__(self) -> StockClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def words(message: dict) -> str:
    """What a message says."""
    content = message.get("content") or []
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
