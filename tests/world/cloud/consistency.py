"""Eventual consistency: what is too new for a caller to see."""

from __future__ import annotations

from typing import Any

from . import ids
from .call import Call, Principal
from .cloud import Cloud, Machine


def remember_birth(cloud: Cloud, key: str) -> None:
    cloud.born[key] = cloud.clock.now()


def visible(cloud: Cloud, principal: Principal, key: str) -> bool:
    """Whether the thing is old enough to be seen by this caller."""
    if principal.exempt or cloud.settings.read_lag <= 0:
        return True
    born = cloud.born.get(key)
    return born is None or cloud.clock.now() - born >= cloud.settings.read_lag


def seen_machine(cloud: Cloud, call: Call, instance_id: str) -> Machine | None:
    """The machine, if it is in the caller's account and region and old enough to be seen."""
    machine = cloud.machines.get(instance_id)
    if machine is None or (machine.account, machine.region) != (call.account, call.region):
        return None
    return machine if visible(cloud, call.principal, instance_id) else None


def named_machine(cloud: Cloud, call: Call) -> Machine:
    """The machine that the parameter InstanceId names."""
    instance_id = call.params.get("InstanceId") or ""
    machine = seen_machine(cloud, call, instance_id)
    if machine is None:
        raise ids.INSTANCE.missing_error([instance_id])
    return machine


def record_tag_change(cloud: Cloud, resource_id: str, before: dict[str, str]) -> None:
    cloud.tag_changes.setdefault(resource_id, []).append((cloud.clock.now(), dict(before)))


def visible_tags(cloud: Cloud, principal: Principal | None, backend: Any, resource_id: str) -> dict[str, str]:
    """The resource's tags, as they were before any change that is younger than the lag."""
    current = backend.tags.get(resource_id, {})
    changes = cloud.tag_changes.get(resource_id)
    if not changes or principal is None or principal.exempt:
        return current
    limit = cloud.clock.now() - cloud.settings.tag_lag
    young = [change for change in changes if change[0] > limit]
    if not young:
        del cloud.tag_changes[resource_id]
        return current
    cloud.tag_changes[resource_id] = young
    return young[0][1]


def tag_view(cloud: Cloud, call: Call) -> Any:
    return lambda backend, resource_id: visible_tags(cloud, call.principal, backend, resource_id)


def iam_flickers(cloud: Cloud, principal: Principal, key: str) -> bool:
    """IAM answers from replicas: just after a creation some reads and writes do not find the entity."""
    return not visible(cloud, principal, key) and cloud.random.random() < cloud.settings.iam_flicker
