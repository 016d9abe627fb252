"""Token buckets for each action, account and region, with the sizes that AWS documents."""

from __future__ import annotations

import threading
import time

from .call import Call, is_mutating
from .errors import ApiError
from .settings import Settings

Bucket = tuple[float, float]  # capacity, tokens for each second

READ: Bucket = (100, 20)
READ_ALL: Bucket = (50, 10)  # a listing with neither filter nor page size
WRITE: Bucket = (50, 5)
EC2: dict[str, Bucket] = {
    "RunInstances": (5, 2),
    "StartInstances": (5, 2),
    "StopInstances": (100, 5),
    "TerminateInstances": (100, 5),
    "CreateTags": (100, 10),
    "DeleteTags": (100, 10),
    "CreateVolume": (100, 5),
    "DeleteVolume": (100, 5),
    "ModifyVolume": (100, 5),
    "AttachVolume": (100, 5),
    "DetachVolume": (100, 5),
    "CreateSnapshot": (100, 5),
    "DeleteSnapshot": (100, 5),
    "CreateSecurityGroup": (50, 5),
}
RESOURCES: dict[str, Bucket] = {  # a second bucket that counts instances instead of requests
    "RunInstances": (1000, 2),
    "StartInstances": (1000, 2),
    "StopInstances": (1000, 20),
    "TerminateInstances": (1000, 20),
}
SSM: dict[str, tuple[str, Bucket]] = {
    "GetParameter": ("get", (40, 40)),
    "GetParameters": ("get", (40, 40)),
    "GetParametersByPath": ("get", (40, 40)),
    "PutParameter": ("put", (10, 3)),
    "DeleteParameter": ("delete", (10, 5)),
    "DeleteParameters": ("delete", (10, 5)),
}
IAM_READ: Bucket = (60, 20)  # IAM publishes no figures: these are in the order of what people report
IAM_WRITE: Bucket = (20, 5)
STS: Bucket = (600, 600)


def _instances(call: Call) -> int:
    if call.action == "RunInstances":
        return int(call.params.get("MaxCount") or 1)
    return len(call.params.get("InstanceIds") or [])


def _narrowed(call: Call) -> bool:
    named = any(name.endswith("Ids") and value for name, value in call.params.items())
    return bool(named or call.params.get("Filters") or call.params.get("MaxResults"))


def _requirements(call: Call) -> list[tuple[str, Bucket, float]]:
    """Each bucket that the call draws from: its name, its measure, how many tokens."""
    action = call.action
    if call.service == "ec2":
        if not is_mutating("ec2", action):
            bucket = READ if _narrowed(call) or not action.startswith("Describe") else READ_ALL
            return [(action if bucket is READ else f"{action}/all", bucket, 1)]
        drawn = [(action, EC2.get(action, WRITE), 1.0)]
        if action in RESOURCES:
            drawn.append((f"{action}/instances", RESOURCES[action], float(_instances(call))))
        return drawn
    if call.service == "ssm":
        name, bucket = SSM.get(action, (action, (20, 10)))
        return [(name, bucket, 1)]
    if call.service == "iam":
        writing = is_mutating("iam", action)
        return [("write" if writing else "read", IAM_WRITE if writing else IAM_READ, 1)]
    return [("all", STS, 1)]


class Throttle:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._levels: dict[tuple[str, ...], tuple[float, float]] = {}

    def check(self, call: Call) -> None:
        if not self._settings.throttle or call.principal.exempt:
            return
        now, scale = time.monotonic(), self._settings.throttle_scale
        with self._lock:
            drawn = []
            for name, (capacity, rate), tokens in _requirements(call):
                key = (call.service, call.account, call.region, name)
                level, then = self._levels.get(key, (capacity * scale, now))
                level = min(capacity * scale, level + (now - then) * rate * scale)
                self._levels[key] = (level, now)
                if level < tokens:
                    raise refusal(call)
                drawn.append((key, level - tokens))
            for key, level in drawn:
                self._levels[key] = (level, now)

    def refill(self) -> None:
        with self._lock:
            self._levels.clear()


def refusal(call: Call) -> ApiError:
    if call.service == "ec2":
        return ApiError("RequestLimitExceeded", "Request limit exceeded.", 503)
    if call.service in ("iam", "sts"):
        return ApiError("Throttling", "Rate exceeded", 400)
    return ApiError("ThrottlingException", "Rate exceeded", 400)
