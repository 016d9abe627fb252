"""What the operator is held to: a goal for each figure, and whether it is met."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from .fleet import SWEEP_SECONDS, Size

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One figure of one fleet beside its goal."""

    group: str
    figure: str
    seen: float
    goal: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.seen >= self.goal if self.at_least else self.seen <= self.goal

    def __str__(self) -> str:
        sign, word = (">=" if self.at_least else "<="), ("met" if self.met else "MISSED")
        return f"{self.group:40} {self.figure:55} {self.seen:10.2f} {sign} {self.goal:8.2f}  {word}"


def goals(size: Size, figures: Figures) -> dict[str, float]:
    """At most this, by the names of figures."""
    own, settled, kept = size.own_identity, not size.own_identity, size.deletion_policy == "Snapshot"
    found: dict[str, float] = {
        "converge: AWS calls per agent, sweeps and shared things aside": 8 if own else 4,
        "delete: AWS calls per agent, sweeps and shared things aside": (9 if own else 5) + 2 * kept,
    }
    if settled:
        found["converge: writes per agent"] = 8
        # An agent has one instance and two volumes.
        for kind, each in (("Instances", 1), ("Volumes", 2)):
            found[f"rest: Describe{kind} for each sweep"] = math.ceil(each * (size.agents + 1) / 1000)
        found |= {"rest: AWS changes": 0, "rest: writes": 0}
        found |= {"look: microseconds of CPU of one": 100}
        found |= {"drift: seconds until seen": SWEEP_SECONDS + 2}
    if size.agents >= 1000:
        found |= {"rest: RSS MiB": 30 if size.agents == 1000 else 100, "rest without probes: % of a core": 2}
    if size.buckets:
        found["converge: AWS calls throttled after a minute"] = 0
    if (may_take := figures.get("converge: seconds that it may take at that rate")) and size.agents == 200:
        found["converge: seconds"] = may_take
    return found


def verdicts(size: Size, figures: Figures) -> Iterator[Verdict]:
    """What was measured of it."""
    for figure, goal in goals(size, figures).items():
        if (seen := figures.get(figure)) is not None:
            # The account that lives in the operator's own memory is none of its weight.
            beside = figures.get("the account in memory alone: MiB", 0) if figure.endswith("RSS MiB") else 0
            yield Verdict(size.title, figure, seen - beside, goal)
    bucket = "converge: % of the RunInstances bucket"
    if size.agents >= 1000 and bucket in figures:
        yield Verdict(size.title, bucket, figures[bucket], 95, at_least=True)
