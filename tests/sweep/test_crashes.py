"""kill -9 of the operator at calls of the cloud and writes of the cluster, before and after their effect: what follows is as if nothing
had happened.

`--every-index` goes through all of them; without it a sample is taken that differs from run to run of the commit, never within it.
"""

from __future__ import annotations

import dataclasses
import subprocess
import zlib
from collections.abc import Callable

import pytest
from conftest import Ground
from scenario.kube import condition
from scenario.wait import until
from world.paths import ROOT

#: More than any of these takes: whoever asks for an index that never comes has seen them all.
CALLS = {"create": 9, "replace": 5, "suspend": 2, "resume": 2, "delete": 8}
WRITES = {"create": 8, "replace": 8, "suspend": 4, "resume": 5, "delete": 4}
#: One of so many is in the sample.
SAMPLE = 12


@dataclasses.dataclass(frozen=True)
class Way:
    """Something that people ask for: how the agent is made ready, what is asked, and how the end looks."""

    before: Callable[[Ground], str]
    ask: Callable[[Ground, str], None]
    after: Callable[[Ground, str], None]


def _wished(ground: Ground) -> str:
    """An agent with an identity and a rule set of its own, so that all that can be made is made for it."""
    name = ground.agent(power="Suspended", planRef={"name": "own"}, network={"ingressCidrs": [ground.fresh_cidr()]})
    ground.stage.wait_condition(name, "Suspended", seconds=30)
    return name


def _whole(ground: Ground) -> str:
    name = _wished(ground)
    _power(ground, name, "Running")
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
    until("the loss was noticed", lambda: condition(ground.stage.agent(name), "Ready")["status"] == "False", 30)


def _settled(ground: Ground, name: str) -> None:
    ground.stage.wait_ready(name, 90)
    live = instances(ground, name, "pending", "running", "stopping", "stopped")
    assert [instance["InstanceId"] for instance in live] == [ground.stage.agent(name)["status"]["instance"]["id"]]


def _at_rest(ground: Ground, name: str) -> None:
    ground.stage.wait_condition(name, "Suspended", seconds=60)
    live = instances(ground, name, "pending", "running", "stopping", "stopped")
    assert [instance["State"]["Name"] for instance in live] == ["stopped"]


def _gone(ground: Ground, name: str) -> None:
    ground.stage.wait_gone(name, 90)


WAYS = {
    "create": Way(_wished, lambda g, n: _power(g, n, "Running"), _settled),
    "replace": Way(_ready, _terminate, _settled),
    "suspend": Way(_ready, lambda g, n: _power(g, n, "Suspended"), _at_rest),
    "resume": Way(_suspended, lambda g, n: _power(g, n, "Running"), _settled),
    "delete": Way(_whole, lambda g, n: g.stage.kube.delete_agent(n), _gone),
}


def instances(ground: Ground, name: str, *states: str) -> list[dict]:
    """Instances with the claim of an agent."""
    uid = ground.stage.agent(name)["metadata"]["uid"]
    filters = [
        {"Name": "tag:skykoi:agent-uid", "Values": [uid]},
        {"Name": "instance-state-name", "Values": list(states)},
    ]
    found = ground.stage.cloud.boto("ec2").describe_instances(Filters=filters)
    return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]


def leftovers(ground: Ground, uid: str) -> list[str]:
    """What is left in the cloud of an agent that is gone."""
    mine = [{"Name": "tag:skykoi:agent-uid", "Values": [uid]}]
    ec2, ssm = ground.stage.cloud.boto("ec2"), ground.stage.cloud.boto("ssm")
    found = ec2.describe_instances(Filters=mine)["Reservations"]
    live = [i["InstanceId"] for r in found for i in r["Instances"] if i["State"]["Name"] != "terminated"]
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
            return True
        return False

    return died


def crash_at_write(ground: Ground, index: int, when: str) -> Callable[[], bool]:
    """The same at its `index`th write to the cluster."""
    operator = ground.operator()
    ground.proxy.stop_at(index, when, operator.kill)
    return lambda: operator.process.poll() is not None


def run(ground: Ground, way: Way, aim: Callable[[], Callable[[], bool]]) -> None:
    """From before to after, with a crash in between, then away without a trace."""
    ground.operator()
    name = way.before(ground)
    uid = ground.stage.agent(name)["metadata"]["uid"]
    died = aim()
    way.ask(ground, name)
    until("the crash, or the end of it all", lambda: died() or finished(ground, name, way), 60, every=0.05)
    ground.stage.cloud.clear_faults()
    ground.proxy.forget()
    ground.operator()
    way.after(ground, name)
    if ground.stage.kube.agent(name):
        ground.stage.kube.delete_agent(name)
        ground.stage.wait_gone(name, 90)
    assert leftovers(ground, uid) == []


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
    return current and entry["status"] == "True"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("kind", "index"), [(kind, index) for kind, last in CALLS.items() for index in range(1, last + 1)]
)
def test_crash_at_a_call(request: pytest.FixtureRequest, ground: Ground, kind: str, index: int, when: str) -> None:
    if not chosen(request, "call", kind, index, when):
        pytest.skip("not in this commit's sample")
    run(ground, WAYS[kind], lambda: crash_at_call(ground, index, when))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("kind", "index"), [(kind, index) for kind, last in WRITES.items() for index in range(1, last + 1)]
)
def test_crash_at_a_write(request: pytest.FixtureRequest, ground: Ground, kind: str, index: int, when: str) -> None:
    if not chosen(request, "write", kind, index, when):
        pytest.skip("not in this commit's sample")
    run(ground, WAYS[kind], lambda: crash_at_write(ground, index, when))
