"""What others do behind the operator's back while something is amiss anyway: groups, ports, words in status."""

from __future__ import annotations

import datetime

import pytest
from conftest import Ground
from scenario.kube import GROUP, condition
from scenario.wait import until
from test_costs import Bill, settled, sweeps
from test_crashes import leftovers
from test_wishes import apply_plan, write_status

WORLD = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
DENIAL = "You are not authorized to perform: "


def instance_of(ground: Ground, name: str) -> str:
    return ground.stage.agent(name)["status"]["instance"]["id"]


def shown(ground: Ground, instance: str) -> dict:
    """What EC2 says of an instance."""
    (reservation,) = ground.stage.cloud.boto("ec2").describe_instances(InstanceIds=[instance])["Reservations"]
    return reservation["Instances"][0]


def live(ground: Ground, uid: str) -> list[dict]:
    """The agent's instances that are not gone."""
    by_uid = [{"Name": "tag:skykoi:agent-uid", "Values": [uid]}]
    found = ground.stage.cloud.boto("ec2").describe_instances(Filters=by_uid)["Reservations"]
    instances = [instance for reservation in found for instance in reservation["Instances"]]
    return [instance for instance in instances if instance["State"]["Name"] not in ("shutting-down", "terminated")]


def test_whatever_keeps_a_wish_from_being_met_nothing_stays_open_and_nobody_stays_down(ground: Ground) -> None:
    stage, cloud, ec2 = ground.stage, ground.stage.cloud, ground.stage.cloud.boto("ec2")
    for plan in ("gone", "small"):
        apply_plan(stage, plan, limits={"instanceTypes": ["t3.small"]})
    plans = {"unplanned": "gone", "limited": "small"}
    names = {}
    for trouble in ("conflict", "secret", "subnet", "denied", "unplanned", "limited", "suspended"):
        plan = {"planRef": {"name": plans[trouble]}} if trouble in plans else {}
        names[trouble] = ground.agent(network={"ingressCidrs": [ground.fresh_cidr()]}, **plan)
    group, instance = {}, {}
    for trouble, name in names.items():
        status = settled(ground, name)["status"]
        group[trouble], instance[trouble] = status["securityGroupId"], status["instance"]["id"]
    vpc = shown(ground, instance["denied"])["VpcId"]

    # A name that somebody else has: the one of a rule set that an agent had before.
    passing, taken = ground.agent(network={"ingressCidrs": ["10.251.0.0/16"]}), [{"Name": "group-name", "Values": []}]
    (found,) = ec2.describe_security_groups(GroupIds=[settled(ground, passing)["status"]["securityGroupId"]])[
        "SecurityGroups"
    ]
    taken[0]["Values"] = [found["GroupName"]]
    stage.kube.delete_agent(passing)
    until("nobody uses it", lambda: not ec2.describe_security_groups(Filters=taken)["SecurityGroups"], 60)
    foreign = ec2.create_security_group(GroupName=found["GroupName"], Description="x", VpcId=vpc)["GroupId"]

    refuse = {"code": "UnauthorizedOperation", "status": 403, "times": 0}
    ingress = "AuthorizeSecurityGroupIngress"
    cloud.inject(ingress, match=group["denied"], message=f"{DENIAL}ec2:{ingress}", **refuse)
    ec2.revoke_security_group_ingress(
        GroupId=group["denied"],
        IpPermissions=ec2.describe_security_groups(GroupIds=[group["denied"]])["SecurityGroups"][0]["IpPermissions"],
    )
    protected = "The instance may not be stopped. Modify its 'disableApiStop' instance attribute and try again."
    stop = {"code": "OperationNotPermitted", "status": 400, "times": 0, "message": protected}
    cloud.inject("StopInstances", match=instance["suspended"], principal="operator", **stop)
    stage.kube.patch_agent(names["conflict"], {"spec": {"network": {"ingressCidrs": ["10.251.0.0/16"]}}})
    secret = f"api/v1/namespaces/default/secrets/{names['secret']}-gateway"
    stage.kube.request("PATCH", secret, {"data": {"tls.crt": "bm9wZQ=="}}, "application/merge-patch+json")
    stage.kube.patch_agent(names["subnet"], {"spec": {"instance": {"subnetId": "subnet-0123456789abcdef0"}}})
    stage.kube.request("DELETE", f"{GROUP}/koiplans/gone")
    stage.kube.patch_agent(names["limited"], {"spec": {"instance": {"type": "m5.large"}}})
    stage.kube.patch_agent(names["suspended"], {"spec": {"power": "Suspended"}})
    reasons = {
        "conflict": "NameConflict",
        "secret": "InvalidSpec",
        "subnet": "SubnetNotFound",
        "denied": "Unauthorized",
        "unplanned": "PlanNotFound",
        "limited": "NotAllowedByPlan",
        "suspended": "TerminationProtected",
    }
    for trouble, reason in reasons.items():
        stage.wait_condition(names[trouble], "Stalled", reason=reason, seconds=45)

    opened = ec2.create_security_group(GroupName="opened-by-hand", Description="x", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=opened, IpPermissions=WORLD)
    for trouble in names:
        ec2.authorize_security_group_ingress(GroupId=group[trouble], IpPermissions=WORLD)
        ec2.modify_instance_attribute(InstanceId=instance[trouble], Groups=[group[trouble], opened])

    def open_to_the_world() -> list[str]:
        worn = {trouble: shown(ground, instance[trouble])["SecurityGroups"] for trouble in names}
        rules = {
            trouble: ec2.describe_security_groups(GroupIds=[group[trouble]])["SecurityGroups"] for trouble in names
        }
        still = [trouble for trouble in names if [wears["GroupId"] for wears in worn[trouble]] != [group[trouble]]]
        ports = [rule["FromPort"] for groups in rules.values() for rule in groups[0]["IpPermissions"]]
        return still + [str(port) for port in ports if port != 443]

    until("nothing is open", lambda: open_to_the_world() == [], 15, seen=open_to_the_world)

    stopped = [trouble for trouble in names if trouble != "suspended"]
    ec2.stop_instances(InstanceIds=[instance[trouble] for trouble in stopped])

    def down() -> list[str]:
        return [trouble for trouble in stopped if cloud.instance(instance[trouble]).state != "running"]

    until("all run again", lambda: down() == [], 30, seen=down)
    for trouble, reason in reasons.items():
        # What is being started is told first.
        stage.wait_condition(names[trouble], "Stalled", reason=reason, seconds=45)
    bill = Bill(ground)
    sweeps(ground, 4)
    assert cloud.calls(bill.since, principal="operator", mutating=True) == []
    apply_plan(stage, "gone")
    for security_group in (foreign, opened):
        ec2.delete_security_group(GroupId=security_group)


def test_power_needs_no_plan(ground: Ground) -> None:
    """The plan is deleted in the middle of a change, of a suspension, and while agents rest."""
    stage, cloud = ground.stage, ground.stage.cloud
    apply_plan(stage, "passing")
    changing, resting, waking = (ground.agent(planRef={"name": "passing"}) for _ in range(3))
    instance = {name: settled(ground, name)["status"]["instance"]["id"] for name in (changing, resting, waking)}
    stage.kube.patch_agent(waking, {"spec": {"power": "Suspended"}})
    stage.wait_condition(waking, "Suspended", "True", 60)

    def policy() -> str:
        volume = stage.agent(waking)["status"]["volume"]["id"]
        tags = cloud.boto("ec2").describe_volumes(VolumeIds=[volume])["Volumes"][0]["Tags"]
        return next(tag["Value"] for tag in tags if tag["Key"] == "skykoi:deletion-policy")

    stage.kube.patch_agent(waking, {"spec": {"storage": {"deletionPolicy": "Snapshot"}}})
    until("who rests has its word on the data on the volume", lambda: policy() == "Snapshot", 20)
    # The machine is down for its new type when the plan goes.
    cloud.inject("ModifyInstanceAttribute", match="t3.large", when="before", hold=True, times=1)
    stage.kube.patch_agent(changing, {"spec": {"instance": {"type": "t3.large"}}})
    hold = cloud.wait_hold("ModifyInstanceAttribute", seconds=60)
    stage.kube.request("DELETE", f"{GROUP}/koiplans/passing")
    stage.wait_condition(resting, "Stalled", reason="PlanNotFound", seconds=30)
    cloud.release(hold.id)
    until("it runs with the type that it has", lambda: cloud.instance(instance[changing]).state == "running", 30)
    agent = stage.wait_condition(changing, "GatewayHealthy", "True", 30)
    assert condition(agent, "Stalled")["reason"] == "PlanNotFound"
    stage.kube.patch_agent(resting, {"spec": {"power": "Suspended"}})
    agent = stage.wait_condition(resting, "Suspended", "True", 60)
    assert cloud.instance(instance[resting]).state == "stopped"
    assert condition(agent, "Ready") is None
    assert condition(agent, "Stalled")["reason"] == "PlanNotFound"
    stage.kube.patch_agent(waking, {"spec": {"power": "Running"}})
    until("it runs again", lambda: cloud.instance(instance[waking]).state == "running", 30)
    assert condition(stage.wait_condition(waking, "GatewayHealthy", "True", 30), "Suspended")["status"] == "False"
    stage.kube.patch_agent(waking, {"spec": {"storage": {"deletionPolicy": "Retain"}}})
    until("its own word on the data is on the volume", lambda: policy() == "Retain", 20)
    stage.kube.patch_agent(waking, {"spec": {"storage": {"deletionPolicy": "Delete"}}})
    apply_plan(stage, "passing")
    stage.wait_ready(waking, 60)
    assert stage.wait_ready(changing, 90)["status"]["instance"]["type"] == "t3.large"


#: What somebody writes into status while EC2 refuses the launch: into its record, or over where it was to be.
FORGED = [
    {"launch": {"type": "p5.48xlarge"}},
    {"launch": {"type": "p5.48xlarge", "insteadOf": "t3.small"}},
    {"launch": {"image": "ami-0123456789abcdef0"}},
    {"launch": {"profile": "somebody-elses"}},
    {"launch": {"securityGroupIds": ["sg-0123456789abcdef0"]}},
    {"launch": {"dataVolume": {"sizeGiB": 16000}}},
    {"launch": {"artifact": {"url": "https://evil.example/koi-gateway", "sha256": "ab" * 32}}},
    {"launch": {"tags": {"skykoi:agent-uid": "somebody-elses"}}},
    {"launch": {"recordedAt": "2999-01-01T00:00:00Z"}},
    {"cloud": None},
]


def test_no_launch_is_made_of_what_somebody_wrote_into_its_record(ground: Ground) -> None:
    stage, cloud = ground.stage, ground.stage.cloud
    first = shown(ground, instance_of(ground, ground.keeper))
    full = "We currently do not have sufficient t3.small capacity."
    cloud.inject("RunInstances", code="InsufficientInstanceCapacity", status=500, message=full, times=0)
    apply_plan(stage, "narrow", limits={"instanceTypes": ["t3.small"], "maxDataVolumeGiB": 50})
    names = [ground.agent(planRef={"name": "narrow"}) for _ in FORGED]
    uids = [stage.agent(name)["metadata"]["uid"] for name in names]
    for name in names:
        until("its launch is recorded", lambda name=name: (stage.agent(name).get("status") or {}).get("launch"), 60)
    ground.operator().kill()
    since = cloud.next_call()
    for name, forged in zip(names, FORGED, strict=True):
        write_status(ground, name, forged)
    cloud.clear_faults()
    ground.operator()
    for name, uid, forged in zip(names, uids, FORGED, strict=True):
        # Before another attempt it is made sure that the first one left nothing.
        agent = stage.wait_ready(name, 120)
        (instance,) = live(ground, uid)
        assert agent["status"]["instance"]["id"] == instance["InstanceId"], forged
        assert (instance["InstanceType"], instance["ImageId"]) == ("t3.small", first["ImageId"]), forged
        assert agent["status"]["volume"]["sizeGiB"] == 20, forged
    calls = cloud.calls(since, principal="operator", action="RunInstances")
    assert {call.parameters["InstanceType"] for call in calls} == {"t3.small"}
    assert not [call for call in calls if "evil" in str(call) or "somebody-elses" in str(call)]


def test_an_own_type_is_taken_back_at_once_and_the_start_is_tried_on_where_there_is_no_way_back(ground: Ground) -> None:
    stage, cloud = ground.stage, ground.stage.cloud
    back, stuck = ground.agent(), ground.agent()
    instances = {name: settled(ground, name)["status"]["instance"]["id"] for name in (back, stuck)}
    # Its gateway does not come up on the new type: it is taken back before it was ever well.
    with ground.gateways.silenced(instances[back]):
        stage.kube.patch_agent(back, {"spec": {"instance": {"type": "t3.large"}}})
        until("it has the new type", lambda: shown(ground, instances[back])["InstanceType"] == "t3.large", 60)
        until("and runs", lambda: cloud.instance(instances[back]).state == "running", 30)
        stage.kube.patch_agent(back, {"spec": {"instance": {"type": "t3.small"}}})
        until("it has its own back", lambda: shown(ground, instances[back])["InstanceType"] == "t3.small", 60)
    stage.wait_ready(back, 60)

    full = {"code": "InsufficientInstanceCapacity", "status": 500, "message": "We do not have sufficient capacity."}
    cloud.inject("StartInstances", match=instances[stuck], principal="operator", times=1, **full)
    invalid = {"code": "InvalidParameterValue", "status": 400, "message": "Invalid value 't3.small' for InstanceType."}
    cloud.inject("ModifyInstanceAttribute", match="t3.small", times=0, **invalid)
    stage.kube.patch_agent(stuck, {"spec": {"instance": {"type": "t3.large"}}})
    until("it runs as what it is to be", lambda: shown(ground, instances[stuck])["InstanceType"] == "t3.large", 60)
    agent = stage.wait_ready(stuck, 120)
    assert agent["status"]["instance"]["type"] == "t3.large"


@pytest.mark.parametrize("remedy", ["Reboot", "StopStart", "Replace"])
def test_a_remedy_that_somebody_wrote_is_carried_out_on_nobody_who_is_well(ground: Ground, remedy: str) -> None:
    name, cloud = ground.agent(), ground.stage.cloud
    instance = settled(ground, name)["status"]["instance"]["id"]
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    for at in (soon.strftime("%Y-%m-%dT%H:%M:%SZ"), "2999-01-01T00:00:00Z", "2021-01-01T00:00:00Z"):
        bill = Bill(ground)
        repair = {"instanceId": instance, "cause": "GatewayUnreachable", "remedy": remedy, "at": at, "count": 1}
        write_status(ground, name, {"repair": repair, "instance": {"bootingSince": at}})
        sweeps(ground, 4)
        assert cloud.calls(bill.since, principal="operator", mutating=True) == [], at
    assert instance_of(ground, name) == instance
    ground.stage.wait_ready(name, 30)


def test_who_leaves_without_a_plan_is_looked_for_where_it_is_and_keeps_what_its_volume_says(ground: Ground) -> None:
    stage, cloud = ground.stage, ground.stage.cloud
    apply_plan(stage, "careful", defaults={"storage": {"deletionPolicy": "Retain"}})
    names = [ground.agent(storage={}, planRef={"name": "careful"}) for _ in range(3)]
    before = {name: settled(ground, name) for name in names}
    elsewhere, abroad, kept = names
    stage.kube.request("DELETE", f"{GROUP}/koiplans/careful")
    stage.wait_condition(kept, "Stalled", reason="PlanNotFound", seconds=30)
    ground.operator().kill()
    since = cloud.next_call()
    write_status(ground, elsewhere, {"cloud": {"region": "us-east-2"}})
    write_status(ground, abroad, {"cloud": {"roleArn": "arn:aws:iam::999999999999:role/evil"}})
    write_status(ground, kept, {"resolved": {"deletionPolicy": "Delete"}})
    for name in names:
        stage.kube.delete_agent(name)
    ground.operator()
    for name in names:
        stage.wait_gone(name, 90)
        assert live(ground, before[name]["metadata"]["uid"]) == [], name
        volume = before[name]["status"]["volume"]["id"]
        assert cloud.boto("ec2").describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] == "available", name
    assert [call for call in cloud.calls(since, principal="operator", action="AssumeRole") if "evil" in str(call)] == []
    for name in names:
        cloud.boto("ec2").delete_volume(VolumeId=before[name]["status"]["volume"]["id"])
        assert leftovers(ground, before[name]["metadata"]["uid"]) == []


def test_a_deletion_does_not_believe_one_list_without_the_volume(ground: Ground) -> None:
    name, cloud = ground.agent(), ground.stage.cloud
    agent = settled(ground, name)
    volume = agent["status"]["volume"]["id"]
    cloud.inject("DescribeVolumes", times=0, hide=[volume])
    ground.stage.kube.delete_agent(name)
    until("its instance is gone", lambda: live(ground, agent["metadata"]["uid"]) == [], 30)
    sweeps(ground, 4)
    assert volume in condition(ground.stage.agent(name), "Ready")["message"]
    cloud.clear_faults()
    ground.stage.wait_gone(name, 30)
    assert leftovers(ground, agent["metadata"]["uid"]) == []


def test_a_record_of_a_launch_that_is_lost_is_rebuilt_and_later_changes_are_seen(ground: Ground) -> None:
    name, stage = ground.agent(), ground.stage
    before = settled(ground, name)["status"]
    write_status(ground, name, {"launch": None})

    def launch() -> dict:
        return stage.agent(name)["status"].get("launch") or {}

    until("it is told again", lambda: launch().get("clientToken") == before["launch"]["clientToken"], 30)
    told = ("epoch", "attempt", "image", "type", "subnetId", "securityGroupIds", "profile", "tags", "userDataSha256")
    assert {key: launch().get(key) for key in told} == {key: before["launch"].get(key) for key in told}
    stage.kube.patch_agent(name, {"spec": {"network": {"publicAddress": False}}})
    until("it is replaced", lambda: instance_of(ground, name) != before["instance"]["id"], 90)
    agent = stage.wait_ready(name, 60)
    assert agent["status"]["volume"]["id"] == before["volume"]["id"]


def test_a_volume_that_status_names_wrongly_gives_way_to_the_agents_own(ground: Ground) -> None:
    name, other, cloud = ground.agent(), ground.agent(), ground.stage.cloud
    before, theirs = settled(ground, name)["status"], settled(ground, other)["status"]
    since = cloud.next_call()
    write_status(ground, name, {"volume": {"id": theirs["volume"]["id"]}})
    cloud.boto("ec2").terminate_instances(InstanceIds=[before["instance"]["id"]])
    until("a new instance comes", lambda: instance_of(ground, name) != before["instance"]["id"], 90)
    agent = ground.stage.wait_ready(name, 90)
    assert agent["status"]["volume"]["id"] == before["volume"]["id"]
    mutating = cloud.calls(since, principal="operator", mutating=True)
    assert [call for call in mutating if theirs["volume"]["id"] in str(call)] == []


def test_who_has_no_wish_keeps_its_claim_and_takes_no_place(ground: Ground) -> None:
    """What needs no plan to be seen and undone; what is refused meanwhile is told, and so is a Secret that is gone."""
    stage, cloud, ec2 = ground.stage, ground.stage.cloud, ground.stage.cloud.boto("ec2")
    one_by_one = {"disruption": {"maxConcurrent": 1}}
    apply_plan(stage, "rollout", defaults={"instance": {"type": "t3.small"}}, **one_by_one)
    consent = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    names = [ground.agent(planRef={"name": "rollout"}) for _ in range(2)]
    instance = {name: settled(ground, name)["status"]["instance"]["id"] for name in names}
    for name in names:
        stage.kube.patch_agent(name, {"metadata": {"annotations": {"skykoi.io/allow-disruption-until": consent}}})

    # A typing error in the middle of a rollout keeps nobody else from it.
    apply_plan(stage, "rollout", defaults={"instance": {"type": "t3.medium"}}, **one_by_one)
    down = until("one stops", lambda: [name for name in names if cloud.instance(instance[name]).state != "running"], 60)
    broken, other = down[0], next(name for name in names if name != down[0])
    stage.kube.patch_agent(broken, {"spec": {"gateway": {"config": {"nonsense": 1}}}})
    stage.wait_condition(broken, "Stalled", reason="ConfigRejected", seconds=30)

    def is_rolled_out() -> bool:
        return shown(ground, instance[other])["InstanceType"] == "t3.medium"

    until("the rollout goes on", is_rolled_out, 90)
    assert "plannedAction" not in stage.agent(broken)["status"]

    agent = stage.wait_condition(broken, "GatewayHealthy", "True", 60)
    uid, volume = agent["metadata"]["uid"], agent["status"]["volume"]["id"]
    ec2.delete_tags(Resources=[instance[broken], volume], Tags=[{"Key": "skykoi:agent-uid"}])
    (resting,) = ec2.describe_instances(InstanceIds=[instance[broken]])["Reservations"]
    like = resting["Instances"][0]
    tags = [{"ResourceType": "instance", "Tags": [*like["Tags"], {"Key": "skykoi:agent-uid", "Value": uid}]}]
    launched = ec2.run_instances(
        ImageId=like["ImageId"], InstanceType="t3.micro", MinCount=1, MaxCount=1, TagSpecifications=tags
    )
    copy = launched["Instances"][0]["InstanceId"]
    until("the copy is stopped", lambda: cloud.instance(copy).state == "stopped", 60)

    def claimed() -> int:
        by_uid = [
            {"Name": "key", "Values": ["skykoi:agent-uid"]},
            {"Name": "resource-id", "Values": [instance[broken], volume]},
        ]
        return len(ec2.describe_tags(Filters=by_uid)["Tags"])

    until("its claim is whole again", lambda: claimed() == 2, 30)
    assert cloud.instance(instance[broken]).state == "running"

    stage.kube.request("DELETE", f"api/v1/namespaces/default/secrets/{broken}-gateway")
    agent = stage.wait_condition(broken, "GatewayHealthy", "False", 30)
    assert f'there is no Secret "{broken}-gateway"' in condition(agent, "GatewayHealthy")["message"]

    cloud.inject("StopInstances", code="OperationNotPermitted", match=instance[broken], times=0)
    stage.kube.patch_agent(broken, {"spec": {"power": "Suspended"}})

    def told() -> bool:
        stalled = condition(stage.agent(broken), "Stalled") or {}
        return stalled.get("reason") == "ConfigRejected" and "OperationNotPermitted" in stalled["message"]

    until("what is refused is told beside it", told, 30)
    ec2.terminate_instances(InstanceIds=[copy])


def test_a_machine_that_halts_by_itself_is_started_in_measure_also_without_a_wish(ground: Ground) -> None:
    stage, cloud = ground.stage, ground.stage.cloud
    apply_plan(stage, "halting")
    name = ground.agent(planRef={"name": "halting"})
    instance = settled(ground, name)["status"]["instance"]["id"]
    stage.kube.request("DELETE", f"{GROUP}/koiplans/halting")
    stage.wait_condition(name, "Stalled", reason="PlanNotFound", seconds=30)
    with ground.gateways.silenced(instance):
        since = cloud.next_call()
        cloud.guest_poweroff(instance)
        until("it is started", lambda: cloud.instance(instance).state == "running", 30)
        sweeps(ground, 2)
        cloud.guest_poweroff(instance)
        until("it is down", lambda: cloud.instance(instance).state == "stopped", 30)
        sweeps(ground, 6)
        starts = cloud.calls(since, principal="operator", action="StartInstances")
        assert len(starts) == 1, starts


@pytest.mark.parametrize("restarted", [False, True], ids=["known", "just started"])
def test_who_is_let_go_by_force_leaves_the_last_word_on_its_data(ground: Ground, restarted: bool) -> None:
    """The reaper goes by the volume's tag: what the spec said at the end is written there first."""
    stage, cloud = ground.stage, ground.stage.cloud
    ec2 = cloud.boto("ec2")
    name = ground.agent()
    agent = settled(ground, name)
    volume, instance = agent["status"]["volume"]["id"], agent["status"]["instance"]["id"]
    stage.kube.patch_agent(name, {"metadata": {"annotations": {"skykoi.io/paused": "true"}}})
    stage.wait_condition(name, "Reconciling", "False", 30, reason="Paused")
    if restarted:
        ground.operator().kill()
    stage.kube.patch_agent(name, {"spec": {"storage": {"deletionPolicy": "Retain"}}})
    stage.kube.delete_agent(name)
    forced = {"skykoi.io/paused": None, "skykoi.io/force-delete": "true"}
    stage.kube.patch_agent(name, {"metadata": {"annotations": forced}})
    if restarted:
        # The first answers of a cloud may be anything: of the sweep, and of the look-ups that come after it.
        for operation in ("DescribeVolumes", "GetParameter"):
            cloud.inject(operation, code="RequestLimitExceeded", times=2)
        ground.operator()
    stage.wait_gone(name, 60)
    assert not restarted or all(fault["hits"] == 2 for fault in cloud.faults()), cloud.faults()
    tags = ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Tags"]
    assert {"Key": "skykoi:deletion-policy", "Value": "Retain"} in tags
    ec2.terminate_instances(InstanceIds=[instance])
    until(
        "the volume is free", lambda: ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] == "available", 60
    )
    ec2.delete_volume(VolumeId=volume)


def test_a_tag_that_is_refused_wakes_nobody(ground: Ground) -> None:
    stage, cloud = ground.stage, ground.stage.cloud
    name = ground.agent(power="Running")
    volume = settled(ground, name)["status"]["volume"]["id"]
    stage.kube.patch_agent(name, {"spec": {"power": "Suspended"}})
    stage.wait_condition(name, "Suspended", "True", 60)
    cloud.inject("CreateTags", code="UnauthorizedOperation", match=volume, times=0)
    stage.kube.patch_agent(name, {"spec": {"storage": {"deletionPolicy": "Snapshot"}}})
    agent = stage.wait_condition(name, "Stalled", "True", 30)
    assert condition(agent, "Suspended")["status"] == "True"
    assert condition(agent, "Ready") is None
    stage.kube.patch_agent(name, {"spec": {"storage": {"deletionPolicy": "Delete"}}})
