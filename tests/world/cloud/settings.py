"""Settings of the cloud that a test may change while it runs."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class Settings:
    """Durations are seconds."""

    transit: float = 0.5  # pending, stopping, shutting-down, attaching, creating ... last at least this long
    status_checks: float = 1.0  # status checks say "initializing" this long after an instance runs
    read_lag: float = 0.3  # a new thing stays invisible this long
    tag_lag: float = 0.3  # a changed tag stays invisible to tag filters this long
    iam_lag: float = 2.0  # EC2 does not know a new instance profile, or its new role, this long
    iam_flicker: float = 0.25  # chance that IAM answers NoSuchEntity for an entity younger than read_lag
    terminated_ttl: float = 3600.0  # terminated instances stay listed this long
    volume_cooldown: float = 6 * 3600.0  # between two modifications of one volume
    snapshot_interval: float = 15.0  # between two snapshots of one volume
    credentials_ttl: float = 6 * 3600.0  # of the role credentials that IMDS gives out
    throttle: bool = True
    throttle_scale: float = 1.0  # multiplies bucket sizes and refill rates
    volume_limit: int = 0  # volumes per region; 0 means no limit
    instance_limit: int = 0  # running instances per region; 0 means no limit

    def change(self, values: dict[str, Any]) -> None:
        """Sets the named settings; unknown names and wrong types are refused before anything changes."""
        known = {field.name: field for field in dataclasses.fields(self)}
        clean: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"unknown setting {name!r}; known: {', '.join(sorted(known))}")
            clean[name] = _typed(name, getattr(self, name), value)
        for name, value in clean.items():
            setattr(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _typed(name: str, old: Any, value: Any) -> Any:
    if isinstance(old, bool):
        if not isinstance(value, bool):
            raise ValueError(f"setting {name!r} takes true or false")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"setting {name!r} takes a number of at least 0")
    return type(old)(value)
