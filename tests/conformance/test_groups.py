"""Security groups: rules, holders, and what reaches the machine."""

from __future__ import annotations

import pytest
from conftest import refused
from world.cloud.client import wait_for


def _tcp(port, *cidrs, groups=()):
    permission = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
    if cidrs:
        permission["IpRanges"] = [{"CidrIp": c} for c in cidrs]
    if groups:
        permission["UserIdGroupPairs"] = [{"GroupId": g} for g in groups]
    return [permission]


def _ingress(world, instance_id):
    return sorted((r["protocol"], r["from_port"], r["cidr"]) for r in world.instance(instance_id).ingress)


def test_duplicate_name(ec2, fresh):
    name = fresh()
    ec2.create_security_group(GroupName=name, Description="d")
    with refused("InvalidGroup.Duplicate"):
        ec2.create_security_group(GroupName=name, Description="d")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"GroupName": "sg-mine"}, "InvalidParameterValue"),
        ({"GroupName": "x" * 256}, "InvalidParameterValue"),
        ({"Description": "ümlaut"}, "InvalidParameterValue"),
        ({"VpcId": "vpc-00000000000000000"}, "InvalidVpcID.NotFound"),
    ],
)
def test_refused_creations(ec2, fresh, change, code):
    with refused(code):
        ec2.create_security_group(**{"GroupName": fresh(), "Description": "d", **change})


def test_new_group_lets_everything_out_and_nothing_in(ec2, group):
    seen = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    assert seen["IpPermissions"] == []
    assert [p["IpProtocol"] for p in seen["IpPermissionsEgress"]] == ["-1"]


def test_rules_twice_and_missing(ec2, group):
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=_tcp(443, "10.0.0.0/8"))
    with refused("InvalidPermission.Duplicate"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=_tcp(443, "192.168.0.0/16", "10.0.0.0/8"))
    seen = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert [r["CidrIp"] for p in seen for r in p["IpRanges"]] == ["10.0.0.0/8"]  # all or nothing
    with refused("InvalidPermission.NotFound"):
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=_tcp(22, "10.0.0.0/8"))
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=_tcp(443, "10.0.0.0/8"))
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"] == []


@pytest.mark.parametrize("permission", [_tcp(443, "10.0.0.0/33"), _tcp(70000, "10.0.0.0/8"), [{"IpProtocol": "tcp"}]])
def test_bad_rules(ec2, group, permission):
    with refused("InvalidParameterValue", 400):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permission)


def test_host_bits_are_cut(ec2, group):
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=_tcp(443, "10.1.2.3/8"))
    seen = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert [r["CidrIp"] for r in seen[0]["IpRanges"]] == ["10.0.0.0/8"]


def test_group_in_use_cannot_be_deleted(ec2, launch, group, frozen):
    instance_id = launch.running(SecurityGroupIds=[group])
    with refused("DependencyViolation", 400):
        ec2.delete_security_group(GroupId=group)
    ec2.stop_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "stopped")
    with refused("DependencyViolation"):
        ec2.delete_security_group(GroupId=group)
    pass_time = frozen()
    ec2.terminate_instances(InstanceIds=[instance_id])
    with refused("DependencyViolation"):  # still shutting down
        ec2.delete_security_group(GroupId=group)
    pass_time()
    launch.wait(instance_id, "terminated")
    ec2.delete_security_group(GroupId=group)


def test_group_named_by_a_rule_cannot_be_deleted(ec2, group, fresh):
    other = ec2.create_security_group(GroupName=fresh(), Description="d")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=_tcp(443, groups=[group]))
    with refused("DependencyViolation", says=group):
        ec2.delete_security_group(GroupId=group)
    ec2.revoke_security_group_ingress(GroupId=other, IpPermissions=_tcp(443, groups=[group]))
    ec2.delete_security_group(GroupId=group)


def test_default_group_stays(ec2):
    default = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}])["SecurityGroups"][0]
    with refused("CannotDelete"):
        ec2.delete_security_group(GroupId=default["GroupId"])


def test_deleted_group_is_gone(ec2, group):
    ec2.delete_security_group(GroupId=group)
    with refused("InvalidGroup.NotFound"):
        ec2.delete_security_group(GroupId=group)


def test_rules_reach_the_machine(ec2, launch, world, group):
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=_tcp(443, "10.0.0.0/8"))
    instance_id = launch.running(SecurityGroupIds=[group])
    assert _ingress(world, instance_id) == [("tcp", 443, "10.0.0.0/8")]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=_tcp(22, "0.0.0.0/0"))
    assert _ingress(world, instance_id) == [("tcp", 22, "0.0.0.0/0"), ("tcp", 443, "10.0.0.0/8")]
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=_tcp(22, "0.0.0.0/0"))
    assert _ingress(world, instance_id) == [("tcp", 443, "10.0.0.0/8")]


def test_other_groups_on_a_running_instance(ec2, launch, world, group, fresh):
    other = ec2.create_security_group(GroupName=fresh(), Description="d")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=_tcp(8443, "10.0.0.0/8"))
    instance_id = launch.running(SecurityGroupIds=[group])
    ec2.modify_instance_attribute(InstanceId=instance_id, Groups=[other])
    assert [g["GroupId"] for g in launch.look(instance_id)["SecurityGroups"]] == [other]
    assert _ingress(world, instance_id) == [("tcp", 8443, "10.0.0.0/8")]
    ec2.delete_security_group(GroupId=group)
    nic = launch.look(instance_id)["NetworkInterfaces"][0]["NetworkInterfaceId"]
    third = ec2.create_security_group(GroupName=fresh(), Description="d")["GroupId"]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=nic, Groups=[third])
    assert [g["GroupId"] for g in launch.look(instance_id)["SecurityGroups"]] == [third]
    holders = ec2.describe_network_interfaces(Filters=[{"Name": "group-id", "Values": [third]}])["NetworkInterfaces"]
    assert [n["NetworkInterfaceId"] for n in holders] == [nic]


def test_a_group_as_source_means_its_members(ec2, launch, world, group, fresh):
    callers = ec2.create_security_group(GroupName=fresh(), Description="d")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=_tcp(443, groups=[callers]))
    server = launch.running(SecurityGroupIds=[group])
    assert _ingress(world, server) == []
    caller = launch.running(SecurityGroupIds=[callers])
    address = launch.look(caller)["PrivateIpAddress"]
    assert _ingress(world, server) == [("tcp", 443, f"{address}/32")]
    launch.gone(caller)
    wait_for("the member has left", lambda: _ingress(world, server) == [])


def test_tags_at_creation(ec2, fresh):
    value = fresh("claim")
    spec = [{"ResourceType": "security-group", "Tags": [{"Key": "skykoi:cluster", "Value": value}]}]
    made = ec2.create_security_group(GroupName=fresh(), Description="d", TagSpecifications=spec)["GroupId"]
    found = ec2.describe_security_groups(Filters=[{"Name": "tag:skykoi:cluster", "Values": [value]}])["SecurityGroups"]
    assert [g["GroupId"] for g in found] == [made]
    assert found[0]["Tags"] == [{"Key": "skykoi:cluster", "Value": value}]
