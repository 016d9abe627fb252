"""A fleet that is too large for the world's cloud: the operator runs with an account in its own memory, on a real API server.

The account counts into the operator's own memory; what it weighs is measured apart and told beside.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from scenario import stage
from scenario.gateways import Bundle, Gateways, serve_all
from scenario.stage import Operator

from .fleet import Fleet

#: `cargo build --example memory`, in the profile of the other programs.
PROGRAM = Path("examples") / "memory"
#: Seconds after which idle connections to the API server are closed.
SETTLED = 100
READS = ("Describe", "Get", "List")


class FileGateways(Gateways):
    """Gateways whose bundles are files, named by the agent's UID."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._bundles = {}
        self.handshakes = 0
        self._server = serve_all(self._choose, self._talk)

    def _bundle(self, address: str, uid: str) -> Bundle:
        with self._lock:
            if known := self._bundles.get((address, uid)):
                return known
        bundle = Bundle((self.folder / uid).read_text())
        with self._lock:
            self._bundles[address, uid] = bundle
        return bundle


class LargeFleet(Fleet):
    """The same figures, from the operator's own books."""

    def begin(self) -> tuple[Gateways, Operator]:
        self.folder = Path(tempfile.mkdtemp(prefix="bundles-", dir=self.stage.scratch.name))
        # `make release` copies the programs from the folder of their profile; examples stay there.
        profile = "slim" if stage.OPERATOR.parent.name == "release" else stage.OPERATOR.parent.name
        self.program = stage.OPERATOR.parent.with_name(profile) / PROGRAM
        weight = subprocess.run([self.program, "weigh", str(self.count)], capture_output=True, text=True, check=True)
        resident, live = map(int, weight.stdout.split())
        self.figures["the account in memory alone: MiB"] = resident / 1024
        self.figures["the account in memory alone: bytes on the heap for each agent"] = live / self.count
        gateways = FileGateways(self.folder)
        self.marks: list[dict[tuple[str, str], float]] = []
        return gateways, self.start({**self.pace(), "KOI_PROBE_INTERVAL": "600s"})

    def start(self, env: dict[str, str]) -> Operator:
        own = {"KOI_MEMORY_BUNDLES": str(self.folder), "KOI_MEMORY_BUCKETS": str(self.size.buckets).lower()}
        before, stage.OPERATOR = stage.OPERATOR, self.program
        try:
            return self.stage.start_operator(env={**os.environ, **own, **env})
        finally:
            stage.OPERATOR = before

    def requests(self) -> dict[tuple[str, str], float]:
        """Requests so far by operation and result."""
        rows = [(labels, value) for name, labels, value in self.metrics() if name == "koi_aws_requests_total"]
        return {(labels["operation"], labels["result"]): value for labels, value in rows}

    def mark(self) -> int:
        self.marks.append(self.requests())
        return len(self.marks) - 1

    def calls(self, since: int) -> list[tuple[str, bool, str, float]]:
        found = []
        codes = {"ok": "", "throttled": "RequestLimitExceeded"}
        for (operation, result), value in self.requests().items():
            count = int(value - self.marks[since].get((operation, result), 0))
            call = (operation, not operation.startswith(READS), codes.get(result, result), time.time())
            found += [call] * count
        return found

    def live(self) -> int:
        """Bytes that live on the heap of the program, as its last sweep saw them."""
        return int(self.folder.with_suffix(".live").read_text())

    def converge(self) -> None:
        super().converge()
        # Connections of the rush are closed by and by: what stays is what is kept.
        time.sleep(SETTLED)
        self.figures["settled: MiB on the heap, the account's own aside"] = (
            self.live() - self.figures["the account in memory alone: bytes on the heap for each agent"] * self.count
        ) / 2**20

    def restart(self) -> None:
        """The account lives and dies with the operator."""

    def drift(self) -> None:
        """Nobody else has the account."""

    def own_rate(self) -> None:
        """It answers as quickly as it is asked."""
