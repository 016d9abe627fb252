"""Mixed load for long: the gateway's memory must stay flat.

python -m bench.soak                 an hour
python -m bench.soak --minutes 5     a look
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from websockets.sync.client import ClientConnection
from world.paths import ROOT

from . import gateway

#: How much more the last quarter may weigh than the second one.
MOST_GROWTH = 0.05

#: Conversations at the same time.
SESSIONS = 50

SCOPES = ["operator.read", "operator.write", "operator.admin"]


class Client:
    """One socket with all scopes."""

    def __init__(self, running: gateway.Running) -> None:
        self.socket: ClientConnection = gateway.shake(running.port, running.token, SCOPES)
        self.ids = itertools.count()

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """One request and its answer; events on the way are read and dropped."""
        number = str(next(self.ids))
        self.socket.send(json.dumps({"type": "req", "id": number, "method": method, "params": params}))
        while True:
            frame = json.loads(self.socket.recv(timeout=30))
            if frame.get("id") == number:
                assert frame["ok"], (method, frame)
                return frame["payload"]

    def say(self, key: str, text: str, run: str) -> None:
        """A message, up to the end of its run."""
        params = {"sessionKey": key, "message": text, "idempotencyKey": run}
        self.socket.send(json.dumps({"type": "req", "id": run, "method": "chat.send", "params": params}))
        while True:
            frame = json.loads(self.socket.recv(timeout=30))
            payload = frame.get("payload") or {}
            ended = frame.get("event") == "chat" and payload.get("state") in ("final", "error", "aborted")
            if ended and payload.get("runId") == run:
                assert payload["state"] == "final", frame
                return


def rounds(running: gateway.Running) -> Iterator[int]:
    """One round after the other: somebody comes, talks, looks around, changes something, and goes."""
    for number in itertools.count():
        key = f"agent:main:soak:group:{number % SESSIONS}"
        client = Client(running)
        for turn in range(4):
            client.say(key, f"{number}.{turn}: " + "word " * 200, f"soak-{number}-{turn}")
        client.call("chat.history", {"sessionKey": key, "limit": 50})
        client.call("sessions.list", {"limit": 20})
        for _ in range(20):
            client.call("health")
        job = client.call(
            "cron.add",
            {
                "name": f"job {number}",
                "schedule": {"kind": "every", "everyMs": 86_400_000},
                "sessionTarget": "main",
                "wakeMode": "next-heartbeat",
                "payload": {"kind": "systemEvent", "text": "x"},
            },
        )
        client.call("cron.remove", {"id": job["id"]})
        # Deleted now and then: how much there is to know stays as it is.
        if number // SESSIONS % 4 == 3:
            client.call("sessions.delete", {"key": key})
        client.socket.close()
        yield number


def main() -> int:
    """Prints what it weighed; exit 1 when that grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--debug", action="store_true", help="the development build")
    args = parser.parse_args()
    if args.debug:
        gateway.BINARY = ROOT / "target" / "debug" / "koi-gateway"
    weights: list[tuple[float, float]] = []
    with gateway.running() as running:
        begin = time.monotonic()
        for _ in rounds(running):
            share = (time.monotonic() - begin) / (args.minutes * 60)
            weights.append((share, running.rss_mib()))
            if share >= 1:
                break
    quarter = [[weight for share, weight in weights if part / 4 <= share < (part + 1) / 4] for part in range(4)]
    early, late = statistics.median(quarter[1]), statistics.median(quarter[3])
    growth = late / early - 1
    shown = weights[:: max(1, len(weights) // 20)]
    print("MiB over time: " + " ".join(f"{weight:.1f}" for _, weight in shown))
    print(
        f"{len(weights)} rounds in {args.minutes} min: {early:.1f} MiB in the second quarter, {late:.1f} MiB in the last, {growth:+.1%}"
    )
    return int(growth > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
