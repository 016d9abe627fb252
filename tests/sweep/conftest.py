"""One world without machines for crashes and storms: a real API server, the strict cloud, and gateways that answer for all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from scenario.api_proxy import ApiProxy
from scenario.gateways import Gateways
from scenario.kube import GROUP
from scenario.stage import CLUSTER_ID, NAMESPACE, Operator, Stage, world_name
from scenario.wait import until

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-index", action="store_true", help="crash at every index instead of a sample")


class Ground:
    """The world, the doors through which its operator speaks, and the agents of one test."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.made = stage, list[str]()
        self.survived, self.unreached = list[str](), list[str]()
        self.gateways = Gateways(stage.cloud, CLUSTER_ID)
        assert stage.world.control_plane
        self.original = stage.world.control_plane.kubeconfig_for_service_account(NAMESPACE, "koi-operator")
        self.proxy = ApiProxy(self.original)
        stage.apply(
            {
                "apiVersion": "skykoi.io/v1alpha1",
                "kind": "KoiPlan",
                "metadata": {"name": "own"},
                "spec": {"identity": {"mode": "PerAgent"}},
            }
        )
        # What agents share stays while this one is there, so that a run takes seconds.
        self.operator()
        self.keeper = self.agent()
        stage.wait_ready(self.keeper, 60)

    def fresh_cidr(self) -> str:
        """A network that no other agent names."""
        return f"10.{next(_numbers) % 250}.0.0/16"

    def operator(self) -> Operator:
        """The running operator; a new one when none runs."""
        running = [operator for operator in self.stage.operators if operator.process.poll() is None]
        if running:
            return running[-1]
        kubeconfig = str(self.proxy.kubeconfig(self.original))
        return self.stage.start_operator("--leader-election=false", env={"KUBECONFIG": kubeconfig})

    def fresh_name(self) -> str:
        """A name that no other agent has or had."""
        return f"s{next(_numbers)}"

    def count(self, case: str, crashed: bool) -> None:
        """Keeps the books of crashes that were survived, and of indices that were never reached."""
        print(f"{case} {'crashed' if crashed else 'never reached'}")
        (self.survived if crashed else self.unreached).append(case)

    def agent(self, name: str | None = None, **spec: object) -> str:
        """Makes an agent."""
        name = name or self.fresh_name()
        spec.setdefault("storage", {"deletionPolicy": "Delete"})
        metadata = {"name": name}
        self.stage.kube.create_agent(
            {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": metadata, "spec": spec}
        )
        self.made.append(name)
        return name

    def tidy(self) -> None:
        """Waits until what agents before had for themselves alone is gone, so that its removal is not counted."""
        ours = [{"Name": "tag:skykoi:cluster", "Values": [CLUSTER_ID]}]
        ec2 = self.stage.cloud.boto("ec2")
        until("one group is left", lambda: len(ec2.describe_security_groups(Filters=ours)["SecurityGroups"]) == 1, 60)

    def plan_is_told(self) -> None:
        """Waits until the plan says how many agents it has: what is still to be said of the one before is no write of the next."""

        def told() -> bool:
            plan = self.stage.kube.get(f"{GROUP}/koiplans/own") or {}
            agents = self.stage.kube.request("GET", f"{GROUP}/koiagents")["items"]
            mine = [agent for agent in agents if agent["spec"].get("planRef", {}).get("name") == "own"]
            return (plan.get("status") or {}).get("agents") == len(mine)

        until("the plan says how many agents it has", told, 30)

    def end(self) -> None:
        """Everything is taken back."""
        self.stage.cloud.clear_faults()
        for hold in self.stage.cloud.holds():
            self.stage.cloud.release(hold.id)
        self.proxy.forget()
        self.operator()
        left = [name for name in self.made if name != self.keeper and self.stage.kube.agent(name)]
        for name in left:
            self.stage.kube.delete_agent(name)
        for name in left:
            self.stage.wait_gone(name, 90)
        self.made = [self.keeper]


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    with Stage(world_name("sweep"), driver="none", KOI_SWEEP_INTERVAL="1s", KOI_PROBE_INTERVAL="2s") as stage:
        stage.install_chart()
        yield stage


@pytest.fixture(scope="session")
def whole_ground(stage: Stage) -> Iterator[Ground]:
    ground = Ground(stage)
    steady = stage.agent(ground.keeper)["status"]["instance"]["id"]
    yield ground
    print(f"\n{len(ground.survived)} crashes survived; never reached: {', '.join(ground.unreached) or 'none'}")
    assert stage.wait_ready(ground.keeper)["status"]["instance"]["id"] == steady, "a bystander was touched"
    ground.proxy.close()
    ground.gateways.close()


@pytest.fixture
def ground(whole_ground: Ground) -> Iterator[Ground]:
    yield whole_ground
    whole_ground.end()
