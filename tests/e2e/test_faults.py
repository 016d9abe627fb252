"""Crashes, outside changes and refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenario.kube import condition
from scenario.stage import CLUSTER_ID, Operator, Stage
from scenario.wait import until


def claimed(stage: Stage, uid: str, *states: str) -> list[dict]:
    """Instances with the claim of an agent, as the cloud lists them."""
    filters = [{"Name": "tag:skykoi:agent-uid", "Values": [uid]}]
    if states:
        filters.append({"Name": "instance-state-name", "Values": list(states)})
    found = stage.cloud.boto("ec2").describe_instances(Filters=filters)
    return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]


@pytest.mark.parametrize("when", ["after", "before"])
def test_a_crash_at_the_launch_makes_one_instance(stage: Stage, operator: Operator, new_agent, when: str) -> None:
    """kill -9 between the effect of RunInstances and its answer (and just before the effect), then a new operator."""
    stage.cloud.inject("RunInstances", when=when, hold=True, times=1)
    name = new_agent()
    hold = stage.cloud.wait_hold("RunInstances", seconds=60)
    operator.kill()
    stage.cloud.release(hold.id, drop=True)
    recorded = stage.agent(name)["status"]["launch"]
    assert "instance" not in stage.agent(name)["status"], "the answer never came: nothing about it may be recorded"
    stage.start_operator()
    agent = stage.wait_ready(name, seconds=90)
    assert agent["status"]["launch"]["clientToken"] == recorded["clientToken"]
    ever = claimed(stage, agent["metadata"]["uid"])
    assert [instance["InstanceId"] for instance in ever] == [agent["status"]["instance"]["id"]]


def test_a_lost_answer_makes_one_instance(stage: Stage, new_agent) -> None:
    stage.cloud.inject("RunInstances", when="after", drop=True, times=1)
    agent = stage.wait_ready(new_agent(), seconds=90)
    assert len(claimed(stage, agent["metadata"]["uid"])) == 1


def test_a_stopped_instance_is_started_again(stage: Stage, new_agent) -> None:
    name = new_agent()
    instance = stage.wait_ready(name)["status"]["instance"]["id"]
    stage.cloud.boto("ec2").stop_instances(InstanceIds=[instance])
    until("the stop was noticed", lambda: condition(stage.agent(name), "Ready")["status"] == "False", 30)
    assert stage.wait_ready(name, seconds=90)["status"]["instance"]["id"] == instance


def test_a_terminated_instance_is_replaced_and_the_data_stays(stage: Stage, new_agent) -> None:
    name = new_agent()
    before = stage.wait_ready(name)
    stage.machine(name).sh("echo kept > /home/ubuntu/koi/treasure && sync")
    stage.cloud.boto("ec2").terminate_instances(InstanceIds=[before["status"]["instance"]["id"]])
    until("the loss was noticed", lambda: condition(stage.agent(name), "Ready")["status"] == "False", 30)
    after = stage.wait_ready(name, seconds=120)
    assert after["status"]["instance"]["id"] != before["status"]["instance"]["id"]
    assert after["status"]["volume"]["id"] == before["status"]["volume"]["id"]
    assert after["status"]["launch"]["epoch"] == 2
    assert stage.machine(name).sh("cat /home/ubuntu/koi/treasure") == "kept\n"
    assert stage.machine(name).sh("stat -c %U /home/ubuntu/koi/treasure").strip() == "root"


def test_an_opened_port_is_closed_again(stage: Stage, new_agent) -> None:
    group = stage.wait_ready(new_agent())["status"]["securityGroupId"]
    ec2 = stage.cloud.boto("ec2")
    ec2.authorize_security_group_ingress(GroupId=group, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0")

    def ports() -> set[int]:
        rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
        return {rule["FromPort"] for rule in rules}

    until("port 22 is closed", lambda: ports() == {443}, 20, seen=ports)


def test_a_retained_volume_stays_and_nothing_else(stage: Stage, new_agent) -> None:
    name = new_agent(storage={"deletionPolicy": "Retain"})
    agent = stage.wait_ready(name)
    volume = agent["status"]["volume"]["id"]
    stage.kube.delete_agent(name)
    stage.wait_gone(name, seconds=90)
    ec2 = stage.cloud.boto("ec2")
    assert ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] == "available"
    assert claimed(stage, agent["metadata"]["uid"], "pending", "running", "stopping", "stopped") == []
    ec2.delete_volume(VolumeId=volume)


def test_deletion_leaves_nothing(stage: Stage, new_agent) -> None:
    name = new_agent()
    uid = stage.wait_ready(name)["metadata"]["uid"]
    stage.kube.delete_agent(name)
    stage.wait_gone(name, seconds=90)
    left = stage.cloud.leftovers()
    mine = {kind: items for kind, items in left.items() if uid in str(items)}
    assert mine == {}
    until("the Secret is collected", lambda: stage.kube.secret(f"{name}-gateway") is None, 30)


def test_deletion_before_anything_was_made(stage: Stage, new_agent) -> None:
    name = new_agent(planRef={"name": "no-such-plan"})
    stage.wait_condition(name, "Stalled", reason="PlanNotFound")
    stage.kube.delete_agent(name)
    stage.wait_gone(name, seconds=20)


def test_deletion_while_the_operator_crashes(stage: Stage, operator: Operator, new_agent) -> None:
    name = new_agent()
    uid = stage.wait_ready(name)["metadata"]["uid"]
    stage.cloud.inject("TerminateInstances", when="after", hold=True, times=1)
    stage.kube.delete_agent(name)
    hold = stage.cloud.wait_hold("TerminateInstances", seconds=30)
    operator.kill()
    stage.cloud.release(hold.id, drop=True)
    assert stage.kube.agent(name), "the finalizer holds the object until the cloud says gone"
    stage.start_operator()
    stage.wait_gone(name, seconds=90)
    assert claimed(stage, uid, "pending", "running", "stopping", "stopped") == []


STALLED: tuple[tuple[str, dict, str, str], ...] = (
    ("missing plan", {"planRef": {"name": "no-such-plan"}}, "PlanNotFound", "no-such-plan"),
    (
        "missing subnet",
        {"instance": {"subnetId": "subnet-0123456789abcdef0"}},
        "SubnetNotFound",
        "subnet-0123456789abcdef0",
    ),
    (
        "missing image",
        {"instance": {"image": {"id": "ami-0123456789abcdef0"}}},
        "ImageNotFound",
        "ami-0123456789abcdef0",
    ),
    (
        "missing snapshot",
        {"storage": {"deletionPolicy": "Delete", "restoreFrom": {"snapshotId": "snap-0123456789abcdef0"}}},
        "SnapshotNotFound",
        "snap-0123456789abcdef0",
    ),
    (
        "missing config map",
        {"workspace": {"configMapRef": {"name": "no-such-map"}}},
        "ConfigMapNotFound",
        "no-such-map",
    ),
    (
        "unknown config key",
        {"gateway": {"config": {"agents": {"defaults": {"modle": "x"}}}}},
        "ConfigRejected",
        "agents.defaults.modle",
    ),
)


@pytest.mark.parametrize(("spec", "reason", "word"), [pytest.param(*case[1:], id=case[0]) for case in STALLED])
def test_what_cannot_work_is_stalled_with_a_reason(
    stage: Stage, new_agent: Callable[..., str], spec: dict, reason: str, word: str
) -> None:
    name = new_agent(**spec)
    agent = stage.wait_condition(name, "Stalled", reason=reason, seconds=45)
    stalled = condition(agent, "Stalled")
    assert word in stalled["message"], stalled["message"]
    assert condition(agent, "Ready")["status"] == "False"
    assert claimed(stage, agent["metadata"]["uid"]) == []


def test_a_config_map_that_appears_lets_the_agent_go_on(stage: Stage, new_agent) -> None:
    name = new_agent(workspace={"configMapRef": {"name": "late-files"}})
    stage.wait_condition(name, "Stalled", reason="ConfigMapNotFound", seconds=45)
    data = {"AGENTS.md": "# From the map\n"}
    stage.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "late-files", "namespace": "default"},
            "data": data,
        }
    )
    stage.wait_ready(name, seconds=60)
    assert stage.machine(name).sh("cat /home/ubuntu/koi/AGENTS.md") == "# From the map\n"


def test_denied_launches_say_which_permission_is_missing(stage: Stage, new_agent) -> None:
    stage.cloud.inject(
        "RunInstances",
        code="UnauthorizedOperation",
        status=403,
        message="You are not authorized to perform this operation. User: arn:aws:sts::1:x is not authorized to perform: ec2:RunInstances on resource: arn:aws:ec2:us-east-1::instance/*",
        times=100,
    )
    name = new_agent()
    agent = stage.wait_condition(name, "Stalled", reason="Unauthorized", seconds=45)
    assert "ec2:RunInstances" in condition(agent, "Stalled")["message"]
    assert len([call for call in stage.cloud.calls(action="RunInstances") if call.fault]) <= 4


def test_a_boot_that_fails_says_why(stage: Stage, new_agent) -> None:
    """The gateway's binary is not what the plan pinned: the end of the console is in the message."""
    plan = {
        "apiVersion": "skykoi.io/v1alpha1",
        "kind": "KoiPlan",
        "metadata": {"name": "broken-artifact"},
        "spec": {
            "boot": {"deadline": "20s"},
            "gateway": {"artifact": {"url": "http://172.31.0.1:4566/_world/artifacts/koi-gateway", "sha256": "0" * 64}},
        },
    }
    stage.apply(plan)
    name = new_agent(planRef={"name": "broken-artifact"})
    agent = stage.wait_condition(name, "Ready", status="False", reason="BootTimeout", seconds=60)
    assert "sha256" in condition(agent, "Ready")["message"].lower()


def test_another_cluster_with_the_same_id_is_refused(stage: Stage, new_agent) -> None:
    ssm = stage.cloud.boto("ssm")
    stage.wait_ready(new_agent())
    record = ssm.get_parameter(Name=f"/koi/{CLUSTER_ID}/owner")["Parameter"]["Value"]
    namespace = stage.kube.get("api/v1/namespaces/kube-system")
    assert namespace and namespace["metadata"]["uid"] in record


@pytest.mark.parametrize("nth", [0, 1, 2], ids=["between calls", "in a sweep", "after a sweep"])
def test_another_account_is_noticed_and_nothing_is_made_there(stage: Stage, new_agent, nth: int) -> None:
    """The credentials change under a running operator: Stalled, no changing call, and back again without a restart.

    A sweep asks where it is at its beginning and at its end: held after either answer, all that is listed next is another account's."""
    name = new_agent()
    instance = stage.wait_ready(name)["status"]["instance"]["id"]
    home, since = stage.cloud.ready().account, stage.cloud.next_call()
    if nth:
        stage.cloud.inject("GetCallerIdentity", hold=True, when="after", nth=nth)
        hold = stage.cloud.wait_hold("GetCallerIdentity")
    stage.cloud.switch_account("210987654321")
    try:
        if nth:
            stage.cloud.release(hold.id)
        agent = stage.wait_condition(name, "Stalled", reason="AccountChanged", seconds=30)
        assert home in condition(agent, "Stalled")["message"]
        assert stage.cloud.calls(since, principal="operator", mutating=True) == []
    finally:
        stage.cloud.switch_account(home)
    assert stage.wait_ready(name, seconds=60)["status"]["instance"]["id"] == instance
    assert stage.cloud.calls(since, principal="operator", mutating=True) == []


def test_sigterm_ends_the_operator_in_order(stage: Stage, operator: Operator, new_agent) -> None:
    name = new_agent()
    stage.wait_ready(name)
    assert operator.stop() == 0
    lease = stage.kube.get("apis/coordination.k8s.io/v1/namespaces/koi-system/leases/koi-operator")
    assert lease and not lease["spec"].get("holderIdentity"), "the Lease is released"
    since = stage.cloud.next_call()
    second = stage.start_operator()
    until(
        "the second operator swept",
        lambda: [c for c in stage.cloud.calls(since, principal="operator") if c.action == "DescribeInstances"],
        30,
    )
    stage.wait_ready(name)
    assert stage.cloud.calls(since, principal="operator", mutating=True) == [], "a restart changes nothing"
    assert second.process.poll() is None
