"""Faults that a test injects, and calls held until a test lets them go."""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
from typing import Any
from urllib.parse import unquote_plus

from .call import Call


@dataclasses.dataclass
class Fault:
    """One rule. It applies to calls that match all of service, action, principal and match."""

    id: str
    action: str = "*"
    service: str = "*"
    principal: str = "operator"  # "operator", "admin", "role" (any role session), a full name, or "*"
    match: str = ""  # part of the request's body, after URL decoding
    mutating: bool = False  # only calls that change something
    nth: int = 1  # the first matching call that it hits
    times: int = 1  # how many it hits; 0 means all from then on
    prob: float = 1.0
    seed: int = 0
    when: str = "before"  # or "after": the effect has happened, the answer is what fails
    code: str = ""
    status: int = 503
    message: str = "injected by the test"
    drop: bool = False  # cut the connection
    latency: float = 0.0
    hold: bool = False
    hide: Any = None  # listings: a share (0..1) of the items, or a list of ids, to leave out
    empty_page: bool = False  # listings: an empty page with a NextToken
    doom: list[str] | None = None  # RunInstances: [code, message] of a launch that is accepted and then dies
    seen: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        if self.when not in ("before", "after"):
            raise ValueError("a fault's `when` is before or after")

    @property
    def spent(self) -> bool:
        return self.times > 0 and self.hits >= self.times

    def concerns(self, call: Call) -> bool:
        if self.action not in ("*", call.action) or self.service not in ("*", call.service):
            return False
        if self.mutating and not call.mutating:
            return False
        if self.principal not in ("*", call.principal.name, call.principal.kind):
            return False
        return not self.match or self.match in unquote_plus(call.body.decode("utf-8", "replace"))

    def strikes(self, call: Call) -> bool:
        if self.spent or not self.concerns(call):
            return False
        self.seen += 1
        if self.seen < self.nth or self.dice.random() >= self.prob:
            return False
        self.hits += 1
        return True

    @property
    def label(self) -> str:
        what = self.code or ("drop" if self.drop else "hold" if self.hold else "partial" if self.shapes else "latency")
        return f"{self.id}:{self.when}:{what}"

    @property
    def shapes(self) -> bool:
        return self.hide is not None or self.empty_page or self.doom is not None

    def as_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass
class Hold:
    """A call that waits for the test."""

    id: str
    fault: str
    service: str
    action: str
    when: str
    request_id: str
    free: threading.Event = dataclasses.field(default_factory=threading.Event)
    drop: bool = False

    def as_dict(self) -> dict[str, Any]:
        names = ("id", "fault", "service", "action", "when", "request_id")
        return {name: getattr(self, name) for name in names}


class Faults:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Fault] = []
        self._holds: dict[str, Hold] = {}
        self._numbers = itertools.count(1)

    def add(self, rules: list[dict[str, Any]]) -> list[Fault]:
        known = {f.name for f in dataclasses.fields(Fault)} - {"seen", "hits"}
        made = []
        for rule in rules:
            if unknown := set(rule) - known:
                raise ValueError(f"unknown field of a fault: {', '.join(sorted(unknown))}; known: {sorted(known)}")
            made.append(Fault(**{"id": f"fault-{next(self._numbers)}", **rule}))
        with self._lock:
            self._rules.extend(made)
        return made

    def all(self) -> list[Fault]:
        with self._lock:
            return list(self._rules)

    def clear(self, fault_id: str | None = None) -> None:
        with self._lock:
            self._rules = [rule for rule in self._rules if fault_id is not None and rule.id != fault_id]

    def strike(self, call: Call) -> Fault | None:
        with self._lock:
            return next((rule for rule in self._rules if rule.strikes(call)), None)

    # holds

    def hold(self, fault: Fault, call: Call) -> Hold:
        """Waits until the test releases the call."""
        hold = Hold(f"hold-{next(self._numbers)}", fault.id, call.service, call.action, fault.when, call.request_id)
        with self._lock:
            self._holds[hold.id] = hold
        hold.free.wait()
        return hold

    def holds(self) -> list[Hold]:
        with self._lock:
            return list(self._holds.values())

    def release(self, hold_id: str, drop: bool = False) -> bool:
        with self._lock:
            hold = self._holds.pop(hold_id, None)
        if hold is None:
            return False
        hold.drop = drop
        hold.free.set()
        return True

    def release_all(self) -> None:
        for hold in self.holds():
            self.release(hold.id)
