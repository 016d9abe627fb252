"""Client tokens: the same token with the same parameters is the same call."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from .call import Call
from .cloud import Cloud
from .errors import ApiError


@dataclasses.dataclass(frozen=True)
class Remembered:
    digest: str
    result: Any  # what the handler needs to answer again


def _digest(call: Call) -> str:
    rest = {name: value for name, value in call.params.items() if name not in ("ClientToken", "DryRun")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()


def _key(call: Call) -> tuple[str, ...] | None:
    token = call.params.get("ClientToken")
    if not token:
        return None
    if len(token) > 64 or not token.isascii():
        raise ApiError(
            "InvalidParameterValue",
            f"Value ({token}) for parameter clientToken is invalid. At most 64 ASCII characters are allowed.",
        )
    return (call.action, call.account, call.region, token)


def replay(cloud: Cloud, call: Call) -> Any | None:
    """What the first call with this token made, or None when this is the first."""
    key = _key(call)
    remembered = cloud.tokens.get(key) if key else None
    if remembered is None:
        return None
    if remembered.digest != _digest(call):
        raise ApiError(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        )
    return remembered.result


def remember(cloud: Cloud, call: Call, result: Any) -> None:
    key = _key(call)
    if key:
        cloud.tokens[key] = Remembered(_digest(call), result)
