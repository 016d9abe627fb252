"""Faults, holds, and the log of calls."""

from __future__ import annotations

import json
import threading
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import refused
from world.cloud.client import ControlError


def test_error_before_the_effect(world, op_ec2, ec2, fresh):
    world.inject("CreateSecurityGroup", code="InternalError", status=500, message="made up")
    name = fresh()
    with refused("InternalError", 500, says="made up"):
        op_ec2.create_security_group(GroupName=name, Description="d")
    assert ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])["SecurityGroups"] == []
    op_ec2.create_security_group(GroupName=name, Description="d")


def test_error_after_the_effect(world, op_ec2, ec2, fresh):
    world.inject("CreateSecurityGroup", code="Unavailable", status=503, when="after")
    name = fresh()
    with refused("Unavailable", 503):
        op_ec2.create_security_group(GroupName=name, Description="d")
    assert len(ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])["SecurityGroups"]) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_lost_connection(world, op_ec2, ec2, fresh, when):
    world.inject("CreateSecurityGroup", drop=True, when=when)
    name = fresh()
    with pytest.raises(BotoCoreError):
        op_ec2.create_security_group(GroupName=name, Description="d")
    found = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])["SecurityGroups"]
    assert len(found) == (when == "after")


def test_in_the_words_of_each_service(world, op_iam, op_ssm, op_sts):
    world.inject("ListRoles", code="ServiceFailure", status=500)
    world.inject("GetParameter", code="InternalServerError", status=500)
    world.inject("*", service="sts", code="ExpiredToken", status=403)
    with refused("ServiceFailure", 500):
        op_iam.list_roles()
    with refused("InternalServerError", 500):
        op_ssm.get_parameter(Name="/x")
    with refused("ExpiredToken", 403):
        op_sts.get_caller_identity()


def _codes(call, times):
    codes = []
    for _ in range(times):
        try:
            call()
            codes.append("")
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])
    return codes


def test_nth_and_times(world, op_ec2):
    world.inject("DescribeVpcs", nth=2, times=2, code="Unavailable")
    assert _codes(op_ec2.describe_vpcs, 5) == ["", "Unavailable", "Unavailable", "", ""]


def test_for_ever_until_cleared(world, op_ec2):
    fault = world.inject("DescribeVpcs", times=0, code="Unavailable")
    assert _codes(op_ec2.describe_vpcs, 3) == ["Unavailable"] * 3
    world.clear_faults(fault)
    assert _codes(op_ec2.describe_vpcs, 1) == [""]


def test_probability_has_a_seed(world, op_ec2):
    def run():
        world.clear_faults()
        world.inject("DescribeVpcs", times=0, prob=0.5, seed=7, code="Unavailable")
        return _codes(op_ec2.describe_vpcs, 12)

    first = run()
    assert first == run() and {"", "Unavailable"} == set(first)


def test_match_on_the_body(world, op_ec2, fresh):
    name = fresh("victim")
    world.inject("CreateSecurityGroup", match=f"GroupName={name}", code="Unavailable")
    op_ec2.create_security_group(GroupName=fresh(), Description="d")
    with refused("Unavailable"):
        op_ec2.create_security_group(GroupName=name, Description="d")


def test_principals(world, op_ec2, ec2):
    world.inject("DescribeVpcs", code="Unavailable")
    ec2.describe_vpcs()
    with refused("Unavailable"):
        op_ec2.describe_vpcs()


def test_latency(world, op_ec2):
    world.inject("DescribeVpcs", latency=0.3)
    began = time.monotonic()
    op_ec2.describe_vpcs()
    assert time.monotonic() - began >= 0.3


def test_unknown_fields_are_refused(world):
    with pytest.raises(ControlError, match="colour"):
        world.inject("DescribeVpcs", colour="red")
    with pytest.raises(ControlError, match="before or after"):
        world.inject("DescribeVpcs", when="sometimes")


def test_held_after_the_effect(world, op_launch, ec2, fresh):
    """The window between the effect and the answer, as wide as the test wants it."""
    token = fresh("token")
    world.inject("RunInstances", hold=True, when="after")
    result = []
    caller = threading.Thread(target=lambda: result.append(op_launch(ClientToken=token)))
    caller.start()
    hold = world.wait_hold("RunInstances")
    assert result == []
    found = ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [token]}])["Reservations"]
    assert len(found) == 1
    assert world.calls(action="RunInstances")[-1].parameters["ClientToken"] == token  # logged with its effect
    world.release(hold.id)
    caller.join(10)
    assert result == [found[0]["Instances"][0]["InstanceId"]]
    with pytest.raises(ControlError, match="no hold"):
        world.release(hold.id)


def test_held_before_the_effect_and_dropped(world, op_ec2, ec2, fresh):
    name = fresh()
    world.inject("CreateSecurityGroup", hold=True)
    errors = []

    def call():
        try:
            op_ec2.create_security_group(GroupName=name, Description="d")
        except BotoCoreError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    hold = world.wait_hold("CreateSecurityGroup")
    filters = [{"Name": "group-name", "Values": [name]}]
    assert ec2.describe_security_groups(Filters=filters)["SecurityGroups"] == []
    world.release(hold.id, drop=True)
    caller.join(10)
    assert len(errors) == 1
    assert ec2.describe_security_groups(Filters=filters)["SecurityGroups"] == []


# the log


def test_log(world, op_ec2, op_ssm, op_launch, fresh):
    start = world.next_call()
    op_ec2.describe_vpcs()
    op_ssm.put_parameter(Name=f"/log/{fresh()}", Value="a secret value", Type="SecureString")
    with refused("InvalidAMIID.NotFound"):
        op_launch(ImageId="ami-00000000000000000", UserData="a secret value")
    world.inject("DescribeVpcs", code="Unavailable", status=503)
    with refused("Unavailable"):
        op_ec2.describe_vpcs()
    seen = world.calls(start)
    assert [(c.service, c.action, c.principal, c.mutating, c.status, c.code) for c in seen] == [
        ("ec2", "DescribeVpcs", "operator", False, 200, ""),
        ("ssm", "PutParameter", "operator", True, 200, ""),
        ("ec2", "RunInstances", "operator", True, 400, "InvalidAMIID.NotFound"),
        ("ec2", "DescribeVpcs", "operator", False, 503, "Unavailable"),
    ]
    assert [c.index for c in seen] == list(range(start, start + 4))
    assert seen[3].fault.endswith(":before:Unavailable")
    assert {(c.account, c.region) for c in seen} == {("123456789012", "us-east-1")}
    text = (world.state_dir / "calls.jsonl").read_text()
    assert "a secret value" not in text and "a secret value" not in repr(seen)
    assert len([json.loads(line) for line in text.splitlines()]) == start + 4
    assert world.calls(start, mutating=True, action="PutParameter") == [seen[1]]


def test_a_dry_run_is_not_mutating(world, op_launch):
    start = world.next_call()
    with refused("DryRunOperation"):
        op_launch(DryRun=True)
    assert [c.mutating for c in world.calls(start)] == [False]
