"""One call as it goes through the shell."""

from __future__ import annotations

import dataclasses
from typing import Any

READ_PREFIXES = ("Describe", "Get", "List", "Simulate", "Decode")


@dataclasses.dataclass(frozen=True)
class Principal:
    """Who calls. `arn` is what GetCallerIdentity says."""

    name: str  # "operator", "admin", "role/NAME" ... as the call log shows it
    kind: str  # "operator", "admin", "user" or "role"
    account: str
    arn: str
    user_id: str
    role_name: str | None = None
    instance_arn: str | None = None  # of a role session that IMDS gave to an instance
    session_policies: tuple[Any, ...] = ()  # as passed to AssumeRole

    @property
    def exempt(self) -> bool:
        """The admin is the test's own hand: never throttled, sees no lag, may do everything."""
        return self.kind == "admin"


@dataclasses.dataclass
class Call:
    service: str
    action: str
    params: dict[str, Any]
    principal: Principal
    account: str
    region: str
    body: bytes
    headers: dict[str, str]
    source_ip: str
    request_id: str
    partial: dict[str, Any] | None = None  # set by a fault: what a listing leaves out

    @property
    def mutating(self) -> bool:
        return is_mutating(self.service, self.action) and not self.params.get("DryRun")


def is_mutating(service: str, action: str) -> bool:
    return service != "sts" and not action.startswith(READ_PREFIXES)
