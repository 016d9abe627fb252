"""The cloud's clock: real time plus what a test has skipped, and jobs that wait for a moment of it."""

from __future__ import annotations

import datetime
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger("world.cloud.clock")


class Clock:
    def __init__(self) -> None:
        self._offset = 0.0
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)
        self._thread.start()

    def now(self) -> float:
        return time.time() + self._offset

    def utc(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.now(), datetime.UTC)

    def advance(self, seconds: float) -> None:
        """Skips time; jobs that became due run at once."""
        with self._wake:
            self._offset += seconds
            self._wake.notify()

    def at(self, moment: float, job: Callable[[], None]) -> None:
        with self._wake:
            heapq.heappush(self._jobs, (moment, next(self._order), job))
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closed and (not self._jobs or self._jobs[0][0] > self.now()):
                    self._wake.wait(self._jobs[0][0] - self.now() if self._jobs else None)
                if self._closed:
                    return
                job = heapq.heappop(self._jobs)[2]
            try:
                job()
            except Exception:
                log.exception("a timed job failed")


class Lanes:
    """Runs blocking jobs in threads; jobs of the same lane run one after the other, in order."""

    def __init__(self, workers: int = 32) -> None:
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="lane")
        self._queues: dict[str, list[Callable[[], None]]] = {}
        self._lock = threading.Lock()

    def submit(self, lane: str, job: Callable[[], None]) -> None:
        with self._lock:
            busy = lane in self._queues
            self._queues.setdefault(lane, []).append(job)
        if not busy:
            self._pool.submit(self._drain, lane)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _drain(self, lane: str) -> None:
        while True:
            with self._lock:
                queue = self._queues[lane]
                if not queue:
                    del self._queues[lane]
                    return
                job = queue.pop(0)
            try:
                job()
            except Exception:
                log.exception("a job of lane %s failed", lane)
