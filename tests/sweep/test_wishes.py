"""What people and their tools do to objects: plans that change, pauses, re-applies, deletions without plan and Secret."""

from __future__ import annotations

import datetime
import re
import threading
from collections.abc import Iterator

import pytest
import requests
from conftest import Ground
from scenario.kube import GROUP, condition
from scenario.stage import METRICS_PORT, Stage, readyz
from scenario.wait import until
from test_costs import Bill, settled, sweeps
from test_crashes import leftovers


def apply_plan(stage: Stage, name: str, **spec: object) -> None:
    stage.apply({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": {"name": name}, "spec": spec})


def annotate(ground: Ground, name: str, key: str, value: str | None) -> None:
    ground.stage.kube.patch_agent(name, {"metadata": {"annotations": {f"skykoi.io/{key}": value}}})


def write_status(ground: Ground, name: str, status: dict) -> None:
    """Writes into an agent's status as somebody else than the operator."""
    path = f"{GROUP}/namespaces/default/koiagents/{name}/status"
    ground.stage.kube.request("PATCH", path, {"status": status}, "application/merge-patch+json")


class Watch:
    """How many of some agents are interrupted at a time, as status tells it."""

    def __init__(self, ground: Ground, names: list[str]) -> None:
        self.kinds: dict[str, str] = {}
        self.most, self._end = 0, False
        self._stage, self._names = ground.stage, set(names)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        for change in self._stage.kube.watch_agents(timeout=90):
            agent = change["object"]
            if self._end or agent["metadata"]["name"] not in self._names:
                continue
            planned = (agent.get("status") or {}).get("plannedAction") or {}
            under_way = planned and "waitingFor" not in planned
            self.kinds[agent["metadata"]["name"]] = planned["kind"] if under_way else ""
            self.most = max(self.most, sum(bool(kind) for kind in self.kinds.values()))

    def end(self) -> int:
        self._end = True
        return self.most


@pytest.fixture
def rolled(ground: Ground) -> Iterator[list[str]]:
    """Three agents of a plan that interrupts one at a time."""
    apply_plan(ground.stage, "rolled", disruption={"maxConcurrent": 1}, defaults={"instance": {"type": "t3.small"}})
    names = [ground.agent(planRef={"name": "rolled"}) for _ in range(3)]
    for name in names:
        ground.stage.wait_ready(name, 60)
    yield names


def test_a_plans_change_interrupts_one_agent_at_a_time(ground: Ground, rolled: list[str]) -> None:
    apply_plan(ground.stage, "rolled", disruption={"maxConcurrent": 1}, defaults={"instance": {"type": "t3.medium"}})
    until(
        "all say that they wait",
        lambda: all(
            (ground.stage.agent(name)["status"].get("plannedAction") or {}).get("waitingFor") for name in rolled
        ),
        20,
    )
    since = ground.stage.cloud.next_call()
    sweeps(ground, 2)
    assert ground.stage.cloud.calls(since, principal="operator", mutating=True) == [], "nobody consented"
    watch = Watch(ground, rolled)
    for name in rolled:
        annotate(ground, name, "allow-disruption-until", "2100-01-01T00:00:00Z")

    def done() -> bool:
        agents = [ground.stage.agent(name) for name in rolled]
        types = [agent["status"]["instance"].get("type") for agent in agents]
        ready = [(condition(agent, "Ready") or {}).get("status") for agent in agents]
        return types == ["t3.medium"] * 3 and ready == ["True"] * 3

    until("all have the new type", done, 90, every=0.3)
    assert watch.end() == 1, "one at a time, and each of them was told"


def test_a_pause_changes_nothing_until_it_ends(ground: Ground) -> None:
    name = ground.agent()
    agent = settled(ground, name)
    instance = agent["status"]["instance"]["id"]
    annotate(ground, name, "paused", "true")
    ground.stage.wait_condition(name, "Reconciling", "False", 20, reason="Paused")
    bill = Bill(ground)
    ground.stage.kube.delete_agent(name)
    until(
        "the deletion says that it waits",
        lambda: "deletion waits" in condition(ground.stage.agent(name), "Reconciling")["message"],
        20,
    )
    assert condition(ground.stage.agent(name), "Ready")["status"] == "True", "the gateway answers as before"
    ground.stage.cloud.boto("ec2").stop_instances(InstanceIds=[instance])
    ground.stage.wait_condition(name, "Ready", "False", 30)
    ground.stage.kube.patch_agent(name, {"spec": {"instance": {"type": "t3.large"}}})
    sweeps(ground, 3)
    assert ground.stage.cloud.calls(bill.since, principal="operator", mutating=True) == []
    assert ground.stage.cloud.instance(instance).state == "stopped"
    annotate(ground, name, "paused", None)
    ground.stage.wait_gone(name, 60)
    assert leftovers(ground, agent["metadata"]["uid"]) == []


def test_whoever_applies_again_and_again_flaps_with_nobody(ground: Ground) -> None:
    """As Flux and Argo CD do it: server-side apply of the same manifest, with force, under a name of their own."""
    name = ground.agent()
    agent = settled(ground, name)
    bill = Bill(ground)
    manifest = {
        "apiVersion": "skykoi.io/v1alpha1",
        "kind": "KoiAgent",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"power": "Running", "storage": {"deletionPolicy": "Delete"}},
    }
    for _ in range(20):
        answer = ground.stage.kube.request(
            "PATCH",
            f"{GROUP}/namespaces/default/koiagents/{name}",
            manifest,
            "application/apply-patch+yaml",
            fieldManager="flux",
            force="true",
        )
        assert answer["metadata"]["generation"] == agent["metadata"]["generation"]
    sweeps(ground, 2)
    assert bill.writes() == []
    after = ground.stage.agent(name)
    assert after["status"] == agent["status"]
    ours = [entry for entry in after["metadata"]["managedFields"] if entry["manager"].startswith("koi-operator")]
    assert ours and all("f:spec" not in entry["fieldsV1"] for entry in ours), "no field has two writers"


def test_deletion_needs_neither_plan_nor_secret_nor_the_operator_that_made_it(ground: Ground) -> None:
    apply_plan(ground.stage, "leaving", identity={"mode": "PerAgent"})
    name = ground.agent(planRef={"name": "leaving"})
    agent = ground.stage.wait_ready(name, 60)
    operator = ground.operator()
    operator.kill()
    kube = ground.stage.kube
    kube.request("DELETE", f"{GROUP}/koiplans/leaving")
    kube.request("DELETE", f"api/v1/namespaces/default/secrets/{agent['status']['gateway']['tokenSecretName']}")
    kube.delete_agent(name)
    ground.operator()
    ground.stage.wait_gone(name, 90)
    assert leftovers(ground, agent["metadata"]["uid"]) == []
    roles = ground.stage.cloud.boto("iam").list_roles()["Roles"]
    assert agent["status"]["instanceProfile"] not in [role["RoleName"] for role in roles]


def test_a_role_that_somebody_deleted_is_made_anew_and_not_told_as_a_lost_permission(ground: Ground) -> None:
    """What may be done to a role hangs on its tags: IAM denies a change of one that has gone."""
    apply_plan(ground.stage, "alone", identity={"mode": "PerAgent"})
    name = ground.agent(planRef={"name": "alone"})
    role = ground.stage.wait_ready(name, 60)["status"]["instanceProfile"]
    iam, cloud = ground.stage.cloud.boto("iam"), ground.stage.cloud
    iam.remove_role_from_instance_profile(InstanceProfileName=role, RoleName=role)
    for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        iam.delete_role_policy(RoleName=role, PolicyName=policy)
    iam.delete_role(RoleName=role)
    since = cloud.next_call()
    ground.stage.kube.patch_agent(name, {"spec": {"model": {"id": "amazon-bedrock/us.anthropic.claude-haiku-4-5"}}})

    def whole() -> bool:
        (held,) = iam.get_instance_profile(InstanceProfileName=role)["InstanceProfile"]["Roles"]
        (policy,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
        document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        return held["RoleName"] == role and "claude-haiku-4-5" in str(document)

    until("the role is there with the new policy", whole, 40)
    (first, *_) = cloud.calls(since, principal="operator", action="PutRolePolicy")
    assert first.code == "AccessDenied", "what this is about"
    ground.stage.wait_ready(name, 60)
    told = {event["reason"] for event in ground.stage.kube.events(name)}
    assert "Unauthorized" not in told and "Ready" in told, told


def lose_status(ground: Ground, name: str) -> None:
    path = f"{GROUP}/namespaces/default/koiagents/{name}/status"
    ground.stage.kube.request("PATCH", path, {"status": None}, "application/merge-patch+json")


def test_what_status_does_not_say_any_more_is_found_by_its_claim(ground: Ground) -> None:
    """An instance that the first list leaves out, and then a data volume that no instance holds: nothing new beside them."""
    name, cloud = ground.agent(), ground.stage.cloud
    before = ground.stage.wait_ready(name, 60)["status"]
    ground.operator().kill()
    lose_status(ground, name)
    cloud.inject("DescribeInstances", principal="operator", hide=1.0, times=1)
    since = cloud.next_call()
    ground.operator()
    after = ground.stage.wait_ready(name, 60)["status"]
    assert cloud.faults()[-1]["hits"], "what this is about"
    cloud.clear_faults()
    assert (after["instance"]["id"], after["volume"]["id"]) == (before["instance"]["id"], before["volume"]["id"])
    assert cloud.calls(since, action="RunInstances") == []

    ground.operator().kill()
    instance = before["instance"]["id"]
    cloud.boto("ec2").terminate_instances(InstanceIds=[instance])
    until("it is gone", lambda: cloud.instance(instance).state == "terminated", 30)
    cloud.forget(instance)
    lose_status(ground, name)
    ground.operator()
    again = ground.stage.wait_ready(name, 90)["status"]
    assert again["instance"]["id"] != instance and again["volume"]["id"] == before["volume"]["id"]


class Readiness:
    """Every word of an agent's Ready condition, as a watch shows them."""

    def __init__(self, ground: Ground, name: str) -> None:
        self.words: set[str] = set()
        self._stage, self._name = ground.stage, name
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        for change in self._stage.kube.watch_agents(timeout=60):
            agent = change["object"]
            if agent["metadata"]["name"] == self._name:
                self.words.add((condition(agent, "Ready") or {}).get("status", ""))


def test_a_list_that_is_short_right_after_a_start_is_not_believed(ground: Ground) -> None:
    name, cloud = ground.agent(), ground.stage.cloud
    before = settled(ground, name)
    ground.operator().kill()
    cloud.inject("DescribeInstances", principal="operator", hide=1.0, times=1)
    readiness = Readiness(ground, name)
    until("the watch shows it", lambda: readiness.words == {"True"}, 20)
    ground.operator()
    until("a list was short", lambda: cloud.faults()[-1]["hits"], 30)
    sweeps(ground, 3)
    assert readiness.words == {"True"}
    after = ground.stage.agent(name)["status"]
    assert after["instance"]["id"] == before["status"]["instance"]["id"]


def test_what_the_operator_may_not_see_is_told_to_who_waits_for_it(ground: Ground) -> None:
    settled_one = ground.agent()
    settled(ground, settled_one)
    cloud = ground.stage.cloud
    told = "is not authorized to perform: ec2:DescribeInstances because no identity-based policy allows it. Encoded authorization failure message: c2VjcmV0"
    denial = f"You are not authorized to perform this operation. User: arn:aws:sts::1:x {told}"
    cloud.inject("DescribeInstances", code="UnauthorizedOperation", status=403, message=denial, times=0)
    # The sweep that is under way may still have its answer.
    until("a sweep is refused", lambda: cloud.faults()[-1]["hits"] >= 2, 20)
    since = cloud.next_call()
    name = ground.agent()
    agent = ground.stage.wait_condition(name, "Stalled", reason="Unauthorized", seconds=45)
    message = condition(agent, "Stalled")["message"]
    assert "ec2:DescribeInstances" in message and "c2VjcmV0" not in message
    page = readyz()
    assert "ec2:DescribeInstances" in page and "c2VjcmV0" not in page, page
    assert cloud.calls(since, principal="operator", action="RunInstances") == []
    assert (condition(ground.stage.agent(settled_one), "Ready") or {})["status"] == "True"
    cloud.clear_faults()
    ground.stage.wait_ready(name, 60)


def nested(levels: int) -> dict:
    """A config as deep as that."""
    config: dict = {}
    for _ in range(levels):
        config = {"a": config}
    return config


def test_an_object_that_is_nested_without_end_stops_nobody(ground: Ground) -> None:
    other, deep = ground.agent(), ground.agent(gateway={"config": nested(200)})
    apply_plan(ground.stage, "deep", defaults={"gateway": {"config": nested(200)}})
    try:
        agent = ground.stage.wait_condition(deep, "Stalled", reason="InvalidSpec", seconds=30)
        assert "nested" in condition(agent, "Stalled")["message"]
        ground.stage.wait_ready(other, 60)
        ground.operator().kill()
        instance = ground.stage.agent(other)["status"]["instance"]["id"]
        ground.stage.cloud.boto("ec2").stop_instances(InstanceIds=[instance])
        since = ground.stage.cloud.next_call()
        ground.operator()
        until(
            "it is started again",
            lambda: ground.stage.cloud.calls(since, principal="operator", action="StartInstances"),
            40,
        )
        ground.stage.wait_ready(other, 60)
    finally:
        ground.stage.kube.request("DELETE", f"{GROUP}/koiplans/deep")


def test_who_waits_for_what_cannot_be_read_is_told_once(ground: Ground) -> None:
    name = ground.agent(instance={"image": {"ssmParameter": "/nobody/has/this"}})
    ground.stage.wait_condition(name, "Stalled", reason="Unauthorized", seconds=45)
    bill = Bill(ground)
    sweeps(ground, 8)
    assert [write for write in bill.writes() if name in write] == []


def probes_that_went_well() -> int:
    """So far, by the operator that runs."""
    text = requests.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=5).text
    found = dict(re.findall(r'koi_probe_duration_seconds_count\{result="(\w+)"\} (\d+)', text))
    return int(found.get("ok", 0))


def test_a_start_while_the_cloud_cannot_be_asked_leaves_everything_as_it_was_told(ground: Ground) -> None:
    awake, asleep = ground.agent(), ground.agent()
    settled(ground, awake)
    ground.stage.wait_ready(asleep, 60)
    ground.stage.kube.patch_agent(asleep, {"spec": {"power": "Suspended"}})
    ground.stage.wait_condition(asleep, "Suspended", "True", 60)
    before = {name: ground.stage.agent(name)["status"] for name in (awake, asleep)}
    cloud = ground.stage.cloud
    for code, status in (("UnauthorizedOperation", 403), ("ServiceUnavailable", 503)):
        ground.operator().kill()
        cloud.inject("DescribeInstances", code=code, status=status, times=0)
        bill = Bill(ground)
        ground.operator()
        until("reads are refused", lambda: cloud.faults()[-1]["hits"] >= 2, 40)
        # Whether a gateway answers no cloud has to tell.
        until("the gateway is asked all the same", probes_that_went_well, 30)
        assert [write for write in bill.writes() if any(name in write for name in before)] == []
        cloud.clear_faults()
        sweeps(ground, 2)
        assert {name: ground.stage.agent(name)["status"] for name in before} == before


def test_a_gateway_that_is_silent_stays_told_over_a_restart(ground: Ground) -> None:
    """What was true when the operator went is true until the gateway itself says otherwise."""
    name = ground.agent()
    settled(ground, name)
    instance = ground.stage.agent(name)["status"]["instance"]["id"]
    with ground.gateways.silenced(instance):
        silent = ground.stage.wait_condition(name, "Ready", "False", 60, reason="GatewayUnreachable")
        began = condition(silent, "Ready")["lastTransitionTime"]
        for _ in range(2):
            ground.operator().kill()
            ground.operator()
            sweeps(ground, 3)
            now = condition(ground.stage.agent(name), "Ready")
            assert (now["status"], now["reason"], now["lastTransitionTime"]) == ("False", "GatewayUnreachable", began)
    ground.stage.wait_ready(name, 60)


#: After so long a gateway that alone is silent is rebooted.
DUE = datetime.timedelta(seconds=125)


def test_most_gateways_silent_at_once_over_a_restart_reboot_nothing_and_one_alone_is_rebooted(ground: Ground) -> None:
    """They answer the call and break off in the handshake, which a proxy or a wrong clock of the operator's does to all of them."""
    names = [ground.agent() for _ in range(3)]
    machines = [settled(ground, name)["status"]["instance"]["id"] for name in names]
    cloud = ground.stage.cloud

    def reboots(since: int) -> list[str]:
        return [str(call.parameters) for call in cloud.calls(since, principal="operator", action="RebootInstances")]

    with ground.gateways.silenced(machines[0]):
        with ground.gateways.silenced(machines[1]), ground.gateways.silenced(machines[2]):
            for name in names:
                ground.stage.wait_condition(name, "Ready", "False", 60, reason="GatewayUnreachable")
            ground.operator().kill()
            since = cloud.next_call()
            ground.operator()

            def word(name: str) -> str:
                return condition(ground.stage.agent(name), "Ready")["message"]

            for name in names:
                until("it is told", lambda name=name: "Most gateways fell silent together" in word(name), 30)
            # By then a remedy of one alone is due.
            now = datetime.datetime.now(datetime.UTC)
            until("two minutes went by", lambda: datetime.datetime.now(datetime.UTC) > now + DUE, 150)
            assert reboots(since) == []
        for name in names[1:]:
            ground.stage.wait_ready(name, 60)
        until("the one that stays silent is rebooted", lambda: reboots(since), 60)
        assert machines[0] in reboots(since)[0]
    ground.stage.wait_ready(names[0], 60)


def test_an_outage_that_is_over_is_told_to_nobody(ground: Ground) -> None:
    """The first sweep that works wakes everybody: what else could not be asked is asked then, too, and not in its own time."""
    awake, asleep = ground.agent(), ground.agent()
    ground.stage.wait_ready(awake, 60)
    ground.stage.wait_ready(asleep, 60)
    ground.stage.kube.patch_agent(asleep, {"spec": {"power": "Suspended"}})
    ground.stage.wait_condition(asleep, "Suspended", "True", 60)
    settled(ground, awake)
    cloud = ground.stage.cloud
    ground.operator().kill()
    cloud.inject("*", principal="operator", code="ServiceUnavailable", status=503, times=0)
    bill = Bill(ground)
    ground.operator()
    # Somebody who is not there yet asks for everything.
    newcomer = ground.agent()

    def asked() -> int:
        return len(cloud.calls(bill.since, principal="operator", action="GetCallerIdentity"))

    until("it was asked in vain, with growing pauses", lambda: asked() >= 12, 90)
    cloud.clear_faults()
    ground.stage.wait_ready(newcomer, 60)
    sweeps(ground, 2)
    assert [write for write in bill.writes() if awake in write or asleep in write] == []


def test_a_group_that_a_plan_names_and_nobody_has_is_told_and_costs_little(ground: Ground) -> None:
    missing = {"operatorAccess": {"securityGroupIds": ["sg-0123456789abcdef0"]}}
    apply_plan(ground.stage, "nobody", network={"operatorAccess": {"cidrs": ["172.31.0.0/16"]}})
    running = ground.agent(planRef={"name": "nobody"})
    group = settled(ground, running)["status"]["securityGroupId"]
    apply_plan(ground.stage, "nobody", network=missing)
    try:
        name = ground.agent(planRef={"name": "nobody"})
        agent = ground.stage.wait_condition(name, "Stalled", reason="InvalidSpec", seconds=45)
        told = condition(agent, "Stalled")["message"]
        assert "sg-0123456789abcdef0" in told and "network.operatorAccess.securityGroupIds" in told, told
        bill = Bill(ground)
        sweeps(ground, 8)
        assert len(ground.stage.cloud.calls(bill.since, principal="operator", mutating=True)) <= 1
        assert "instance" not in ground.stage.agent(name)["status"]
        # Who runs keeps the group that lets people in.
        agent = ground.stage.wait_condition(running, "Stalled", reason="InvalidSpec", seconds=30)
        assert condition(agent, "Ready")["status"] == "True"
        instance = agent["status"]["instance"]["id"]
        (reservation,) = ground.stage.cloud.boto("ec2").describe_instances(InstanceIds=[instance])["Reservations"]
        assert [worn["GroupId"] for worn in reservation["Instances"][0]["SecurityGroups"]] == [group]
    finally:
        ground.stage.kube.request("DELETE", f"{GROUP}/koiplans/nobody")


def test_what_somebody_else_writes_into_status_is_put_right(ground: Ground) -> None:
    name, other = ground.agent(), ground.agent()
    theirs = settled(ground, other)["status"]
    ours = settled(ground, name)["status"]
    cloud = ground.stage.cloud
    since = cloud.next_call()

    def essence() -> tuple:
        status = ground.stage.agent(name)["status"]
        instance, volume = status.get("instance") or {}, status.get("volume") or {}
        return instance.get("id"), volume.get("id"), status.get("plannedAction")

    before = essence()
    time = "2026-01-01T00:00:00Z"
    edits = [
        {"instance": None},
        {"volume": None},
        {"plannedAction": {"kind": "Replace", "reason": "r", "since": time, "waitingFor": "somebody"}},
        {"instance": {"id": theirs["instance"]["id"]}},
        {"volume": {"id": theirs["volume"]["id"]}},
        # What a launch was is asked for by nobody while its instance lives: its tag tells what comes next.
        {"launch": None, "instance": None, "volume": None},
    ]
    # A part of a record that makes no sense with the rest of ours.
    write_status(ground, name, {"launch": {"clientToken": "koi-x"}})
    until(
        "the strange token is gone",
        lambda: (ground.stage.agent(name)["status"].get("launch") or {}).get("clientToken") != "koi-x",
        30,
    )
    for edit in edits:
        write_status(ground, name, edit)
        assert essence() != before
        until(f"it is put right: {edit}", lambda: essence() == before, 30)
    # A list of parameters that comes while status names another instance has the bundle written once more.
    calls = cloud.calls(since, principal="operator", mutating=True)
    assert [call for call in calls if call.action != "PutParameter" or before[0] not in call.parameters["Name"]] == []
    ground.stage.wait_ready(name, 30)
    assert ground.stage.agent(other)["status"] == theirs
    assert ours["instance"]["id"] == before[0]


def test_a_group_that_was_in_the_way_is_looked_for_until_it_is_gone(ground: Ground) -> None:
    ec2, network = ground.stage.cloud.boto("ec2"), {"ingressCidrs": ["10.99.0.0/16"]}
    first = ground.agent(network=network)
    group_id = settled(ground, first)["status"]["securityGroupId"]
    (group,) = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    by_name = [{"Name": "group-name", "Values": [group["GroupName"]]}]
    ground.stage.kube.delete_agent(first)
    until("nobody uses it", lambda: not ec2.describe_security_groups(Filters=by_name)["SecurityGroups"], 60)
    foreign = ec2.create_security_group(GroupName=group["GroupName"], Description="x", VpcId=group["VpcId"])["GroupId"]
    name = ground.agent(network=network)
    ground.stage.wait_condition(name, "Stalled", reason="NameConflict", seconds=30)
    bill = Bill(ground)
    sweeps(ground, 4)
    assert ground.stage.cloud.calls(bill.since, principal="operator", mutating=True) == []
    ec2.delete_security_group(GroupId=foreign)
    ground.stage.wait_ready(name, 75)


def test_a_status_that_is_another_agents_while_nobody_looks_is_put_right(ground: Ground) -> None:
    """The whole of it, over an agent that stays, one that leaves, and one whose instance died meanwhile."""
    stays, leaves, died, other = (ground.agent() for _ in range(4))
    before = {name: settled(ground, name) for name in (stays, leaves, died, other)}
    theirs, cloud = before[other]["status"], ground.stage.cloud
    ground.operator().kill()
    since = cloud.next_call()
    for name in (stays, leaves, died):
        write_status(ground, name, theirs)
    ground.stage.kube.delete_agent(leaves)
    cloud.boto("ec2").terminate_instances(InstanceIds=[before[died]["status"]["instance"]["id"]])
    ground.operator()
    ground.stage.wait_gone(leaves, 90)
    assert leftovers(ground, before[leaves]["metadata"]["uid"]) == []

    def told(name: str) -> tuple:
        status = ground.stage.agent(name)["status"]
        launch, instance, volume = (status.get(part) or {} for part in ("launch", "instance", "volume"))
        return launch.get("clientToken"), instance.get("id"), volume.get("id")

    def ours(name: str) -> tuple:
        status = before[name]["status"]
        return status["launch"]["clientToken"], status["instance"]["id"], status["volume"]["id"]

    until("who stays is told, its launch too", lambda: told(stays) == ours(stays), 30)
    until("a new instance has the old volume", lambda: told(died)[1] not in (ours(died)[1], ours(other)[1], None), 90)
    assert ground.stage.wait_ready(died, 60)["status"]["volume"]["id"] == ours(died)[2]
    ground.stage.wait_ready(stays, 30)
    touched = [call for call in cloud.calls(since, principal="operator", mutating=True) if ours(other)[1] in str(call)]
    assert touched == [], "nothing of the other is touched"
    assert told(other) == ours(other)
    sweeps(ground, 3)
    bill = Bill(ground)
    sweeps(ground, 4)
    assert cloud.calls(bill.since, principal="operator", mutating=True) == []
    assert bill.writes() == []


def test_an_instance_stays_until_its_successor_can_come(ground: Ground) -> None:
    """An image that nobody has, then a launch that the operator may not make: the agent goes on with what it has."""
    name, cloud = ground.agent(), ground.stage.cloud
    instance = settled(ground, name)["status"]["instance"]["id"]
    ground.stage.kube.patch_agent(name, {"spec": {"instance": {"image": {"id": "ami-0123456789abcdeff"}}}})
    agent = ground.stage.wait_condition(name, "Stalled", reason="ImageNotFound", seconds=45)
    assert condition(agent, "Ready")["status"] == "True"
    assert agent["status"]["plannedAction"]["waitingFor"] == "a launch of the new instance that EC2 takes"
    bill = Bill(ground)
    sweeps(ground, 4)
    assert len(cloud.calls(bill.since, principal="operator", action="RunInstances")) <= 1
    assert bill.writes() == []
    # Another wish is tried at once; nobody waits for the pause of the last one.
    denial = "You are not authorized to perform: ec2:RunInstances"
    cloud.inject("RunInstances", code="UnauthorizedOperation", status=403, message=denial, times=0)
    image = agent["status"]["instance"]["imageId"]
    ground.stage.kube.patch_agent(name, {"spec": {"instance": {"image": {"id": image}, "subnetId": None}}})
    ground.stage.wait_condition(name, "Stalled", "False", 30)
    ground.stage.kube.patch_agent(name, {"spec": {"network": {"publicAddress": False}}})
    agent = ground.stage.wait_condition(name, "Stalled", reason="Unauthorized", seconds=45)
    assert "ec2:RunInstances" in condition(agent, "Stalled")["message"]
    assert agent["status"]["instance"]["id"] == instance and cloud.instance(instance).state == "running"
    cloud.clear_faults()
    volume = agent["status"]["volume"]["id"]
    ground.stage.kube.patch_agent(name, {"spec": {"network": {"publicAddress": False, "ingressCidrs": ["10.0.0.0/8"]}}})
    until("it is replaced", lambda: ground.stage.agent(name)["status"]["instance"]["id"] != instance, 90)
    agent = ground.stage.wait_ready(name, 90)
    assert agent["status"]["volume"]["id"] == volume


def test_a_type_that_only_the_start_refuses_is_taken_back(ground: Ground) -> None:
    name, cloud = ground.agent(), ground.stage.cloud
    instance = settled(ground, name)["status"]["instance"]["id"]
    told = "The requested configuration is currently not supported. Please check the documentation."
    cloud.inject("StartInstances", code="Unsupported", status=400, message=told, times=1)
    bill = Bill(ground)
    ground.stage.kube.patch_agent(name, {"spec": {"instance": {"type": "t3.large"}}})
    until(
        "it was made larger, and as it was again",
        lambda: len(cloud.calls(bill.since, principal="operator", action="ModifyInstanceAttribute")) >= 2,
        60,
    )
    until("it runs again", lambda: cloud.instance(instance).state == "running", 30)
    agent = ground.stage.wait_condition(name, "GatewayHealthy", "True", 60)
    assert agent["status"]["instance"]["type"] == "t3.small"
    assert agent["status"]["plannedAction"]["waitingFor"] == "EC2 to take the new type"
    bill = Bill(ground)
    sweeps(ground, 4)
    assert cloud.calls(bill.since, principal="operator", mutating=True) == []


def test_a_type_that_is_refused_keeps_nobody_down(ground: Ground) -> None:
    name, cloud = ground.agent(), ground.stage.cloud
    instance = settled(ground, name)["status"]["instance"]["id"]
    denial = "You are not authorized to perform: ec2:ModifyInstanceAttribute"
    cloud.inject("ModifyInstanceAttribute", code="UnauthorizedOperation", status=403, message=denial, times=0)
    ground.stage.kube.patch_agent(name, {"spec": {"instance": {"type": "t3.large"}}})
    ground.stage.wait_condition(name, "Stalled", reason="Unauthorized", seconds=45)
    until("it runs again", lambda: cloud.instance(instance).state == "running", 30)
    told = condition(ground.stage.wait_condition(name, "GatewayHealthy", "True", 60), "Stalled")["message"]
    assert "ec2:ModifyInstanceAttribute" in told and told.endswith("works with its old type t3.small."), told
    bill = Bill(ground)
    sweeps(ground, 6)
    assert cloud.calls(bill.since, principal="operator", mutating=True) == []
    ec2 = cloud.boto("ec2")

    def now() -> dict:
        (reservation,) = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
        return reservation["Instances"][0]

    def groups() -> list[str]:
        return [group["GroupId"] for group in now()["SecurityGroups"]]

    # The same operation of AWS gives it its groups: what is refused to the type is not refused to them.
    cloud.clear_faults()
    worn = groups()
    opened = ec2.create_security_group(GroupName=f"opened-{name}", Description="x", VpcId=now()["VpcId"])["GroupId"]
    ec2.modify_instance_attribute(InstanceId=instance, Groups=[*worn, opened])
    until("it wears its own group alone", lambda: groups() == worn, 20)
    assert now()["InstanceType"] == "t3.small", "an hour has not passed"
    ec2.delete_security_group(GroupId=opened)
    ground.stage.kube.patch_agent(name, {"spec": {"instance": {"type": "t3.medium"}}})
    until("it has the new type", lambda: now()["InstanceType"] == "t3.medium", 60)
    ground.stage.wait_ready(name, 60)
