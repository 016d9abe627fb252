"""kill -9 of the operator at changes of the cloud and writes to the cluster, before and after their effect: what follows is as if
nothing had happened.

`--every-index` goes through all of them; without it a sample is taken that differs from commit to commit, never between runs of one.
"""

from __future__ import annotations

import dataclasses
import subprocess
import zlib
from collections.abc import Callable

import pytest
from conftest import Ground
from scenario.kube import condition, is_true
from scenario.wait import until
from world.paths import ROOT

#: One more than any of these takes: the last index must never come, or not all of them were tried. Where the machine is slow, a boot that takes
#: its time is told, too, by a write and an Event.
CALLS = {"create": 11, "replace": 5, "suspend": 2, "resume": 2, "delete": 9}
WRITES = {"create": 16, "replace": 12, "suspend": 7, "resume": 8, "delete": 8}
#: How many instances each of them has made when it is over, whatever happened on the way.
LAUNCHES = {"create": 1, "replace": 2, "suspend": 1, "resume": 1, "delete": 1}
#: One of so many is in the sample.
SAMPLE = 12


@dataclasses.dataclass(frozen=True)
class Way:
    """Something that people ask for: how the agent is made ready, what is asked, and how the end looks."""

    before: Callable[[Ground], str]
    ask: Callable[[Ground, str], None]
    after: Callable[[Ground, str], None]


def _wished(ground: Ground) -> str:
    return ground.fresh_name()


def _create(ground: Ground, name: str) -> None:
    """An agent with an identity and a rule set of its own, so that all that can be made is made for it."""
    ground.agent(name, planRef={"name": "own"}, network={"ingressCidrs": [ground.fresh_cidr()]})


def _whole(ground: Ground) -> str:
    name = _wished(ground)
    _create(ground, name)
    ground.stage.wait_ready(name, 60)
    return name


def _ready(ground: Ground) -> str:
    name = ground.agent()
    ground.stage.wait_ready(name, 60)
    return name


def _suspended(ground: Ground) -> str:
    name = _ready(ground)
    _power(ground, name, "Suspended")
    ground.stage.wait_condition(name, "Suspended", seconds=60)
    return name


def _power(ground: Ground, name: str, power: str) -> None:
    ground.stage.kube.patch_agent(name, {"spec": {"power": power}})


def _terminate(ground: Ground, name: str) -> None:
    instance = ground.stage.agent(name)["status"]["instance"]["id"]
    ground.stage.cloud.boto("ec2").terminate_instances(InstanceIds=[instance])


def _settled(ground: Ground, name: str) -> None:
    """Ready, and the one instance that lives is the one that status names."""

    def one_lives() -> bool:
        live = instances(ground, name, "pending", "running", "stopping", "stopped")
        agent = ground.stage.agent(name)
        ids = [instance["InstanceId"] for instance in live]
        return is_true(agent, "Ready") and ids == [agent["status"]["instance"]["id"]]

    until("ready with one instance", one_lives, 90, every=0.25, seen=lambda: ground.stage.agent(name)["status"])


def _at_rest(ground: Ground, name: str) -> None:
    ground.stage.wait_condition(name, "Suspended", seconds=60)
    live = instances(ground, name, "pending", "running", "stopping", "stopped")
    assert [instance["State"]["Name"] for instance in live] == ["stopped"]


def _gone(ground: Ground, name: str) -> None:
    ground.stage.wait_gone(name, 90)


WAYS = {
    "create": Way(_wished, _create, _settled),
    "replace": Way(_ready, _terminate, _settled),
    "suspend": Way(_ready, lambda g, n: _power(g, n, "Suspended"), _at_rest),
    "resume": Way(_suspended, lambda g, n: _power(g, n, "Running"), _settled),
    "delete": Way(_whole, lambda g, n: g.stage.kube.delete_agent(n), _gone),
}


def claimed(ground: Ground, uid: str) -> list[dict]:
    """Instances with the claim of an agent: EC2 lists terminated ones, too."""
    filters = [{"Name": "tag:skykoi:agent-uid", "Values": [uid]}]
    found = ground.stage.cloud.boto("ec2").describe_instances(Filters=filters)
    return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]


def instances(ground: Ground, name: str, *states: str) -> list[dict]:
    """Those of an agent that are in one of these states."""
    uid = ground.stage.agent(name)["metadata"]["uid"]
    return [instance for instance in claimed(ground, uid) if instance["State"]["Name"] in states]


def leftovers(ground: Ground, uid: str) -> list[str]:
    """What is left in the cloud of an agent that is gone."""
    mine = [{"Name": "tag:skykoi:agent-uid", "Values": [uid]}]
    ec2, ssm = ground.stage.cloud.boto("ec2"), ground.stage.cloud.boto("ssm")
    live = [found["InstanceId"] for found in claimed(ground, uid) if found["State"]["Name"] != "terminated"]
    volumes = [volume["VolumeId"] for volume in ec2.describe_volumes(Filters=mine)["Volumes"]]
    parameters = ssm.get_parameters_by_path(Path="/koi", Recursive=True)["Parameters"]
    return live + volumes + [item["Name"] for item in parameters if uid in item["Name"]]


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def chosen(request: pytest.FixtureRequest, *what: object) -> bool:
    """Whether this crash is in the sample."""
    every = request.config.getoption("--every-index")
    return every or zlib.crc32(f"{commit()} {what}".encode()) % SAMPLE == 0


def crash_at_call(ground: Ground, index: int, when: str) -> Callable[[], bool]:
    """The operator dies at its `index`th change of the cloud; answers whether it came to that."""
    operator = ground.operator()
    fault = ground.stage.cloud.inject("*", mutating=True, nth=index, when=when, hold=True)

    def died() -> bool:
        for hold in ground.stage.cloud.holds():
            operator.kill()
            ground.stage.cloud.release(hold.id, drop=True)
            ground.stage.cloud.clear_faults(fault)
        return operator.process.poll() is not None

    return died


def crash_at_write(ground: Ground, index: int, when: str) -> Callable[[], bool]:
    """The same at its `index`th write to the cluster."""
    operator = ground.operator()
    ground.proxy.stop_at(index, when, operator.kill)
    return lambda: operator.process.poll() is not None


def run(ground: Ground, kind: str, aim: Callable[[], Callable[[], bool]]) -> bool:
    """From before to after, with a crash in between, then away without a trace. Answers whether it came to the crash."""
    way = WAYS[kind]
    ground.operator()
    ground.tidy()
    name = way.before(ground)
    ground.plan_is_told()
    died = aim()
    known = ground.stage.kube.agent(name)
    way.ask(ground, name)
    uid = (known or ground.stage.agent(name))["metadata"]["uid"]
    until("the crash, or the end of it all", lambda: died() or finished(ground, name, way), 60, every=0.05)
    # Events are told last, and what an agent had for itself alone goes after it.
    crashed = died() or comes(died, seconds=5 if kind == "delete" else 1.5)
    ground.stage.cloud.clear_faults()
    ground.proxy.forget()
    ground.operator()
    way.after(ground, name)
    if ground.stage.kube.agent(name):
        ground.stage.kube.delete_agent(name)
        ground.stage.wait_gone(name, 90)
    assert leftovers(ground, uid) == []
    assert len(claimed(ground, uid)) == LAUNCHES[kind], "launched once for each launch"
    return crashed


def comes(died: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes to the crash after all."""
    try:
        return until("a late crash", died, seconds, every=0.05)
    except AssertionError:
        return False


def finished(ground: Ground, name: str, way: Way) -> bool:
    """The index was never reached: it all went well without a crash."""
    agent = ground.stage.kube.agent(name)
    if agent is None:
        return True
    if way is WAYS["delete"]:
        return False
    kind = "Suspended" if way is WAYS["suspend"] else "Ready"
    entry = condition(agent, kind) or {"status": "Absent"}
    current = agent["status"]["observedGeneration"] == agent["metadata"]["generation"]
    if way is WAYS["replace"]:
        current = current and agent["status"]["launch"]["epoch"] > 1
    return current and entry["status"] == "True"


def indices(last: dict[str, int]) -> list[tuple[str, int]]:
    """Every index of every kind."""
    return [(kind, index) for kind, end in last.items() for index in range(1, end + 1)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("kind", "index"), indices(CALLS))
def test_crash_at_a_call(request: pytest.FixtureRequest, ground: Ground, kind: str, index: int, when: str) -> None:
    if not chosen(request, "call", kind, index, when):
        pytest.skip("not in this commit's sample")
    crashed = run(ground, kind, lambda: crash_at_call(ground, index, when))
    ground.count(request.node.name, crashed)
    assert not (crashed and index == CALLS[kind]), "it takes more calls than are tried: raise CALLS"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("kind", "index"), indices(WRITES))
def test_crash_at_a_write(request: pytest.FixtureRequest, ground: Ground, kind: str, index: int, when: str) -> None:
    if not chosen(request, "write", kind, index, when):
        pytest.skip("not in this commit's sample")
    begin = 0

    def aim() -> Callable[[], bool]:
        nonlocal begin
        begin = len(ground.proxy.writes)
        return crash_at_write(ground, index, when)

    crashed = run(ground, kind, aim)
    ground.count(request.node.name, crashed)
    seen = "\n".join(ground.proxy.writes[begin : begin + index])
    assert not (crashed and index == WRITES[kind]), f"it takes more writes than are tried: raise WRITES\n{seen}"
