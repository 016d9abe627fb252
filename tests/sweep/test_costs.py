"""What one more agent costs: calls of the cloud that name it, refused tries included, and writes to the cluster."""

from __future__ import annotations

import collections
import json

import pytest
from conftest import Ground
from scenario.kube import condition, is_true
from scenario.wait import until


class Bill:
    """What was called and written since it was opened."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.since, self.written = ground.stage.cloud.next_call(), len(ground.proxy.writes)

    def calls(self, agent: dict) -> list[str]:
        """The operator's calls that name something of this agent; sweeps and look-ups for all name nothing of it."""
        status, uid = agent["status"], agent["metadata"]["uid"]
        marks = [uid, status["instance"]["id"], status["volume"]["id"]]
        if status["instanceProfile"] != self.shared_profile():
            marks.append(status["instanceProfile"])
        calls = self.ground.stage.cloud.calls(self.since, principal="operator")
        return [call.action for call in calls if any(mark in json.dumps(call.parameters) for mark in marks)]

    def shared_profile(self) -> str:
        return self.ground.stage.agent(self.ground.keeper)["status"]["instanceProfile"]

    def writes(self) -> list[str]:
        """All writes."""
        return self.ground.proxy.writes[self.written :]

    def writes_for(self, name: str) -> list[str]:
        """Writes for this agent: to itself, its Secret, and its Events; those of the agent that was there already are not its own."""
        own = [write for write in self.writes() if f"/koiagents/{name}" in write or "/secrets" in write]
        return own + [f"Event {event['reason']}" for event in self.ground.stage.kube.events(name)]


def sweeps(ground: Ground, count: int) -> None:
    """So many sweeps go by."""
    since = ground.stage.cloud.next_call()

    def seen() -> bool:
        calls = ground.stage.cloud.calls(since, principal="operator", action="DescribeVolumes")
        return len(calls) >= count

    until(f"{count} sweeps", seen, 30)


def settled(ground: Ground, name: str) -> dict:
    """The agent, ready, and nothing about it is under way; two sweeps later, so that what comes late is counted too."""

    def rests() -> bool:
        agent = ground.stage.agent(name)
        return is_true(agent, "Ready") and (condition(agent, "Reconciling") or {}).get("status") == "False"

    until(f"{name} is settled", rests, 60)
    sweeps(ground, 2)
    return ground.stage.agent(name)


@pytest.mark.parametrize(
    ("plan", "policy", "up", "down"),
    [("", "Delete", 4, 5), ("", "Snapshot", 4, 7), ("own", "Delete", 8, 9)],
    ids=["shared identity", "shared identity, last snapshot", "own identity"],
)
def test_one_more_agent_is_cheap(ground: Ground, plan: str, policy: str, up: int, down: int) -> None:
    more = {"planRef": {"name": plan}} if plan else {}
    # How often a replica of IAM does not know yet what was just made is a matter of chance, and no cost of ours.
    ground.stage.cloud.settings(iam_flicker=0)
    bill = Bill(ground)
    name = ground.agent(storage={"deletionPolicy": policy}, **more)
    agent = settled(ground, name)
    calls, writes = bill.calls(agent), bill.writes_for(name)
    assert len(calls) <= up, collections.Counter(calls)
    # The bound is one of agents that share an identity; with one of its own there is more to wait for, and to say.
    assert plan or len(writes) <= 8, "\n".join(writes)

    bill = Bill(ground)
    ground.stage.kube.delete_agent(name)
    ground.stage.wait_gone(name, 60)
    calls = bill.calls(agent)
    assert len(calls) <= down, collections.Counter(calls)


def test_a_settled_agent_costs_nothing(ground: Ground) -> None:
    """A round of sweeps and probes: no changing call, none that names it, no write."""
    agent = settled(ground, ground.agent())
    bill, shaken = Bill(ground), ground.gateways.handshakes
    sweeps(ground, 4)
    until("it was asked", lambda: ground.gateways.handshakes > shaken, 20)
    changes = ground.stage.cloud.calls(bill.since, principal="operator", mutating=True)
    assert (changes, bill.calls(agent), bill.writes()) == ([], [], [])
