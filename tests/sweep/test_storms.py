"""Storms over a fleet: refusals, a slow cloud, no API server, no capacity. Calls stay bounded and everything converges afterwards.

`--every-index` makes them as large and as long as they are promised to be; without it they are small.
"""

from __future__ import annotations

import collections
import time

import pytest
from conftest import Ground
from scenario.kube import is_true
from scenario.wait import until

PATH = "apis/skykoi.io/v1alpha1/namespaces/default/koiagents"


@pytest.fixture
def size(request: pytest.FixtureRequest) -> tuple[int, float]:
    """How many agents, and how many seconds a storm lasts."""
    return (200, 120.0) if request.config.getoption("--every-index") else (6, 8.0)


def all_ready(ground: Ground, names: list[str], seconds: float) -> None:
    """Waits until all of them are well."""

    def missing() -> list[str]:
        items = {item["metadata"]["name"]: item for item in ground.stage.kube.request("GET", PATH)["items"]}
        return [name for name in names if not is_true(items.get(name), "Ready")]

    until("all are ready", lambda: not missing(), seconds, every=0.5, seen=missing)


def launches(ground: Ground, since: int) -> collections.Counter[str]:
    """Answers to RunInstances since a call, by code; success is an empty one."""
    return collections.Counter(call.code for call in ground.stage.cloud.calls(since, action="RunInstances"))


def pass_by(seconds: float) -> None:
    """A storm lasts: nothing is waited for but its end."""
    end = time.monotonic() + seconds
    until("the storm is over", lambda: time.monotonic() >= end, seconds + 5, every=0.25)


def test_half_of_all_calls_are_throttled(ground: Ground, size: tuple[int, float]) -> None:
    count, seconds = size
    cloud, since = ground.stage.cloud, ground.stage.cloud.next_call()
    cloud.inject("*", service="ec2", code="RequestLimitExceeded", status=503, prob=0.5, times=0, seed=7)
    names = [ground.agent() for _ in range(count)]
    pass_by(seconds)
    cloud.clear_faults()
    all_ready(ground, names, 60 + 2 * count)
    answers = launches(ground, since)
    assert answers[""] == count, answers
    assert answers.total() <= 6 * count, f"tries are bounded: {answers}"


def test_every_call_is_slow(ground: Ground, size: tuple[int, float]) -> None:
    cloud, since = ground.stage.cloud, ground.stage.cloud.next_call()
    cloud.inject("*", latency=5.0, times=0)
    names = [ground.agent() for _ in range(max(2, size[0] // 10))]
    pass_by(size[1])
    cloud.clear_faults()
    all_ready(ground, names, 90 + size[0])
    assert launches(ground, since)[""] == len(names)


def test_the_api_server_is_away(ground: Ground, size: tuple[int, float]) -> None:
    """Nobody is interrupted by it, and what was asked before is done after."""
    control_plane = ground.stage.world.control_plane
    assert control_plane
    steady, late = ground.agent(), ground.agent()
    all_ready(ground, [steady], 60)
    before = ground.stage.agent(steady)["status"]["instance"]
    control_plane.kill_api_server()
    pass_by(size[1] / 2)
    control_plane.start_api_server()
    all_ready(ground, [steady, late], 90)
    assert ground.stage.agent(steady)["status"]["instance"] == before


def test_a_zone_without_capacity(ground: Ground, size: tuple[int, float]) -> None:
    """Other subnets of the plan are taken, and where there are none the tries stay few."""
    cloud, ec2 = ground.stage.cloud, ground.stage.cloud.boto("ec2")
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]]
    plan = {"network": {"subnetIds": subnets}}
    ground.stage.apply(
        {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": {"name": "zones"}, "spec": plan}
    )
    since = cloud.next_call()
    full = cloud.inject("RunInstances", match=subnets[0], code="InsufficientInstanceCapacity", status=500, times=0)
    names = [ground.agent(planRef={"name": "zones"}) for _ in range(max(3, size[0] // 10))]
    all_ready(ground, names, 60 + size[0])
    answers = launches(ground, since)
    cloud.clear_faults(full)
    assert answers[""] == len(names), answers
    assert answers.total() <= 3 * len(names) + 3, f"what is full is remembered: {answers}"
