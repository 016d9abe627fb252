"""Drift of a live agent: each thing that is lost or changed comes back within one sweep and two seconds, and is told once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from scenario.kube import condition
from scenario.stage import CLUSTER_ID, METRICS_PORT, Stage
from scenario.wait import until

#: The stage sweeps every two seconds; EC2's lists and our own call take their time.
SWEEP, GRACE = 2.0, 2.0
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def probes() -> int:
    """How often this operator has asked a gateway."""
    text = requests.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=5).text
    counts = [line for line in text.splitlines() if line.startswith("koi_probe_duration_seconds_count")]
    return sum(int(line.rsplit(" ", 1)[1]) for line in counts)


class Live:
    """One agent that is well, and what AWS has of it."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage, self.name = stage, name
        status = stage.wait_ready(name)["status"]
        self.instance, self.volume = status["instance"]["id"], status["volume"]["id"]
        self.group, self.uid = status["securityGroupId"], stage.agent(name)["metadata"]["uid"]
        self.ec2, self.ssm = stage.cloud.boto("ec2"), stage.cloud.boto("ssm")

    def repairs(self) -> list[str]:
        """What Events of repairs say."""
        events = self.stage.kube.events(self.name)
        return [event["note"] for event in events if event["action"] == "Repair"]

    def mends(
        self,
        what: str,
        look: Callable[[], object],
        told: str,
        seconds: float = SWEEP + GRACE,
        ask: Callable[[], object] = lambda: None,
    ) -> None:
        """It is as it should be in time, and one Event says so. A busy machine is late with its sweeps: then they are counted. `ask`: what
        is done at once, and may be told before anybody looks."""
        cloud, before = self.stage.cloud, len([note for note in self.repairs() if told in note])
        ask()
        since, began = cloud.next_call(), time.monotonic()
        until(what, look, 60)
        took = time.monotonic() - began
        sweeps = len(cloud.calls(since, principal="operator", action="DescribeSecurityGroups"))
        notes = until("the Event", lambda: [note for note in self.repairs() if told in note][before:], 10)
        assert len(notes) == 1, notes
        assert took <= seconds or sweeps <= 2, f"{what}: {took:.1f} s, {sweeps} sweeps"

    def rests(self) -> None:
        """Three sweeps from now nothing was changed, and the agent is as it was."""
        cloud, before = self.stage.cloud, self.stage.agent(self.name)["status"]
        since = cloud.next_call()

        def sweeps() -> int:
            return len([call for call in cloud.calls(since, principal="operator") if call.action == "DescribeVolumes"])

        until("three sweeps", lambda: sweeps() >= 3, 30)
        assert cloud.calls(since, principal="operator", mutating=True) == []
        assert self.stage.agent(self.name)["status"] == before

    def tags(self, thing: str) -> dict[str, str]:
        found = self.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [thing]}])["Tags"]
        return {tag["Key"]: tag["Value"] for tag in found}

    def described(self) -> dict:
        (reservation,) = self.ec2.describe_instances(InstanceIds=[self.instance])["Reservations"]
        return reservation["Instances"][0]


@pytest.fixture(scope="module")
def _kept() -> dict[str, Live]:
    return {}


@pytest.fixture
def live(stage: Stage, operator: object, _kept: dict[str, Live]) -> Iterator[Live]:
    """The same agent for all of these: none of them may leave it unwell."""
    if not _kept:
        stage.kube.create_agent(
            {
                "apiVersion": "skykoi.io/v1alpha1",
                "kind": "KoiAgent",
                "metadata": {"name": "healed"},
                "spec": {"storage": {"deletionPolicy": "Delete", "dataVolumeGiB": 1}},
            }
        )
        _kept["agent"] = Live(stage, "healed")
    yield _kept["agent"]
    if stage.kube.agent("healed"):
        stage.wait_ready("healed", seconds=180)


def test_a_new_agent_is_made_and_not_repaired(live: Live) -> None:
    events = live.stage.kube.events(live.name)
    assert events and {event["action"] for event in events} <= {"Launch", "Report", "Wait"}, events


def test_an_opened_port(live: Live) -> None:
    def ports() -> set[int]:
        (group,) = live.ec2.describe_security_groups(GroupIds=[live.group])["SecurityGroups"]
        return {rule["FromPort"] for rule in group["IpPermissions"]}

    live.ec2.authorize_security_group_ingress(
        GroupId=live.group, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )
    live.mends("port 22 is closed", lambda: ports() == {443}, "Removed 1 rules")


def test_a_lost_tag(live: Live) -> None:
    wanted = live.tags(live.instance)
    for key in ("skykoi:agent-uid", "skykoi:cluster", "Name"):
        live.ec2.delete_tags(Resources=[live.instance], Tags=[{"Key": key}])
        live.mends(f"{key} is back", lambda: live.tags(live.instance) == wanted, f"the tags {key} of {live.instance}")
    live.ec2.create_tags(Resources=[live.volume], Tags=[{"Key": "skykoi:agent-uid", "Value": "another"}])
    live.mends(
        "the volume's claim is back",
        lambda: live.tags(live.volume).get("skykoi:agent-uid") == live.uid,
        f"skykoi:agent-uid of {live.volume}",
    )
    assert live.stage.agent(live.name)["status"]["instance"]["id"] == live.instance


def test_a_lost_claim_of_the_group(live: Live) -> None:
    """What agents share has no agent's tag; status names it, and what is left of its tags says that it was ours."""
    wanted = live.tags(live.group)
    live.ec2.delete_tags(Resources=[live.group], Tags=[{"Key": "skykoi:cluster"}])
    until("the claim is back", lambda: live.tags(live.group) == wanted, 30)


def test_a_profile_that_was_detached_or_exchanged(live: Live) -> None:
    filters = [{"Name": "instance-id", "Values": [live.instance]}]

    def there() -> dict:
        found = live.ec2.describe_iam_instance_profile_associations(Filters=filters)["IamInstanceProfileAssociations"]
        return next(one for one in found if one["State"] == "associated")

    arn = there()["IamInstanceProfile"]["Arn"]

    def back() -> bool:
        return live.described().get("IamInstanceProfile", {}).get("Arn") == arn

    live.ec2.disassociate_iam_instance_profile(AssociationId=there()["AssociationId"])
    live.mends("the profile is back", back, "its instance profile")
    iam, other = live.stage.cloud.boto("iam"), {"InstanceProfileName": "somebody"}
    iam.create_instance_profile(**other)
    iam.create_role(RoleName="somebody", AssumeRolePolicyDocument=json.dumps(TRUST))

    def exchanged() -> bool:
        live.ec2.replace_iam_instance_profile_association(
            AssociationId=there()["AssociationId"], IamInstanceProfile={"Name": "somebody"}
        )
        return True

    until("IAM knows the role", lambda: iam.add_role_to_instance_profile(**other, RoleName="somebody"), 20, every=0.5)
    until("EC2 knows the profile", exchanged, 20, every=0.5)
    live.mends("its own profile is back", back, "its instance profile")
    iam.remove_role_from_instance_profile(**other, RoleName="somebody")
    iam.delete_instance_profile(**other)
    iam.delete_role(RoleName="somebody")


def test_other_forms_of_the_same_rule(live: Live) -> None:
    """A rule that says the same in other words is no difference."""
    (group,) = live.ec2.describe_security_groups(GroupIds=[live.group])["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    words = [{**one, "Description": "who comes in"} for one in rule["IpRanges"]]
    live.ec2.update_security_group_rule_descriptions_ingress(
        GroupId=live.group, IpPermissions=[{**rule, "IpRanges": words}]
    )
    live.rests()


def test_what_a_listing_leaves_out_is_still_there(live: Live) -> None:
    """An empty page with a token is not the end of a list, and one list without the instance proves nothing."""
    for fault in ({"empty_page": True}, {"hide": 1.0}):
        live.stage.cloud.inject("DescribeInstances", principal="operator", **fault)
        until("the fault was met", lambda: live.stage.cloud.faults()[-1]["hits"], 30)
        live.stage.cloud.clear_faults()
        live.rests()


def test_a_deleted_bundle(live: Live) -> None:
    name = f"/koi/{CLUSTER_ID}/{live.uid}/{live.instance}"
    tags = live.ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=name)["TagList"]
    live.ssm.delete_parameter(Name=name)
    names = [{"Key": "Name", "Values": [name]}]
    live.mends(
        "the parameter is back",
        lambda: live.ssm.describe_parameters(ParameterFilters=names)["Parameters"],
        "Wrote the lost bundle",
    )
    again = live.ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=name)["TagList"]
    assert sorted(again, key=str) == sorted(tags, key=str), "without its tags the instance could not read it"


def test_a_failed_status_check(live: Live) -> None:
    """Failed for two minutes already: rebooted at once, one remedy for the episode."""
    since, began = live.stage.cloud.next_call(), time.monotonic()
    live.stage.cloud.impair(live.instance, "instance", ago=121)
    live.mends(
        "it is rebooted",
        lambda: live.stage.cloud.calls(since, action="RebootInstances"),
        f"Reboots instance {live.instance}",
    )

    def booted() -> bool:
        with live.stage.gateway(live.name) as gateway:
            return gateway.call("health")["uptimeMs"] < (time.monotonic() - began) * 1000

    # Ready may still be of the boot before: a probe that found the gateway away may be on its way, the one after it is not.
    until("the gateway of the new boot answers", booted, 180)
    asked = probes()
    until("it was probed twice since", lambda: probes() >= asked + 2, 60)
    agent = live.stage.wait_ready(live.name, seconds=180)
    assert agent["status"]["repair"]["remedy"] == "Reboot"
    assert len(live.stage.cloud.calls(since, action="RebootInstances")) == 1


def test_a_retirement_is_said_and_waits_for_the_budget(live: Live) -> None:
    """The last remedy was a moment ago: the next one is announced, not made."""
    live.stage.cloud.schedule_event(live.instance, "instance-retirement", within=3600)
    agent = until(
        "it is said",
        lambda: (
            (a := live.stage.agent(live.name))
            and condition(a, "InstanceReady")["reason"] == "MaintenanceScheduled"
            and a
        ),
        20,
    )
    assert "instance-retirement" in condition(agent, "InstanceReady")["message"]
    assert condition(agent, "InstanceReady")["status"] == condition(agent, "Ready")["status"] == "True", agent["status"]
    assert "stopped and started, not before" in condition(agent, "Reconciling")["message"]
    live.stage.cloud.clear_events(live.instance)


def test_a_volume_that_grows(live: Live) -> None:
    """The last of these, and the end of the agent: not every host of this world can make a mounted file system larger."""

    def grow() -> None:
        live.stage.kube.patch_agent(live.name, {"spec": {"storage": {"dataVolumeGiB": 2}}})

    def size() -> int:
        return live.ec2.describe_volumes(VolumeIds=[live.volume])["Volumes"][0]["Size"]

    live.mends("EC2 shows two GiB", lambda: size() == 2, "grow to 2 GiB", seconds=15, ask=grow)
    until(
        "status shows them",
        lambda: live.stage.agent(live.name)["status"]["volume"]["sizeGiB"] == 2,
        20,
    )
    live.stage.kube.delete_agent(live.name)
    live.stage.wait_gone(live.name, seconds=90)
    left = live.stage.cloud.leftovers()
    assert {kind: items for kind, items in left.items() if live.uid in str(items)} == {}
