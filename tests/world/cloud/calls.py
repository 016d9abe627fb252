"""The log of calls: in memory for tests, as JSON lines for people."""

from __future__ import annotations

import json
import pathlib
import threading
from typing import Any

from .call import Call

SECRET_PARAMETERS = {
    "Value",
    "UserData",
    "SecretAccessKey",
    "SessionToken",
    "WebIdentityToken",
    "Plaintext",
    "ExternalId",
}
MASKED_SERVICES = {"Value": {"ssm"}}  # elsewhere a parameter called Value is a tag's or an attribute's


def masked(service: str, params: Any) -> Any:
    """The parameters without anything secret: what is hidden shows only its length."""
    if isinstance(params, dict):
        return {key: _mask_one(service, key, value) for key, value in params.items()}
    if isinstance(params, list):
        return [masked(service, item) for item in params]
    return params if isinstance(params, (str, int, float, bool, type(None))) else str(params)


def _mask_one(service: str, key: str, value: Any) -> Any:
    hidden = key in SECRET_PARAMETERS and service in MASKED_SERVICES.get(key, {service})
    if hidden and isinstance(value, (str, bytes)):
        return f"<{len(value)} hidden>"
    if hidden and isinstance(value, dict) and isinstance(value.get("Value"), (str, bytes)):
        return {"Value": f"<{len(value['Value'])} hidden>"}
    return masked(service, value)


class CallLog:
    def __init__(self, path: pathlib.Path) -> None:
        self._lock = threading.Lock()
        self._records: list[dict[str, Any]] = []
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def append(self, call: Call, time: float, status: int, code: str, fault: str) -> None:
        record: dict[str, Any] = {
            "index": 0,
            "time": round(time, 3),
            "service": call.service,
            "action": call.action,
            "principal": call.principal.name,
            "account": call.account,
            "region": call.region,
            "mutating": call.mutating,
            "status": status,
            "code": code,
            "fault": fault,
            "request_id": call.request_id,
            "parameters": masked(call.service, call.params),
        }
        with self._lock:
            record["index"] = len(self._records)
            self._records.append(record)
            self._file.write(json.dumps(record) + "\n")

    def since(self, index: int) -> list[dict[str, Any]]:
        with self._lock:
            return self._records[max(index, 0) :]

    @property
    def next_index(self) -> int:
        with self._lock:
            return len(self._records)
