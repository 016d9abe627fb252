"""Reads lag behind writes for the operator, and IAM behind itself."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError
from conftest import EC2_TRUST, refused
from world.cloud.client import wait_for


def test_new_instance_is_not_found_and_not_listed(op_launch, op_ec2, launch, frozen):
    pass_time = frozen()
    instance_id = op_launch()
    with refused("InvalidInstanceID.NotFound", 400):
        op_ec2.describe_instances(InstanceIds=[instance_id])
    listed = [i["InstanceId"] for r in op_ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    assert instance_id not in listed
    with refused("InvalidInstanceID.NotFound"):
        op_ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "a", "Value": "b"}])
    with refused("InvalidInstanceID.NotFound"):
        op_ec2.terminate_instances(InstanceIds=[instance_id])
    assert launch.look(instance_id)["InstanceId"] == instance_id  # the admin sees it at once

    pass_time()
    assert op_launch.look(instance_id)["InstanceId"] == instance_id


def test_new_volume_and_group_lag_too(op_ec2, subnets, fresh, frozen):
    pass_time = frozen()
    volume = op_ec2.create_volume(Size=1, AvailabilityZone=subnets[0]["AvailabilityZone"])["VolumeId"]
    with refused("InvalidVolume.NotFound"):
        op_ec2.describe_volumes(VolumeIds=[volume])
    group = op_ec2.create_security_group(GroupName=fresh(), Description="d")["GroupId"]
    with refused("InvalidGroup.NotFound"):
        op_ec2.describe_security_groups(GroupIds=[group])
    with refused("InvalidGroup.NotFound"):
        op_ec2.authorize_security_group_ingress(
            GroupId=group,
            IpPermissions=[
                {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
            ],
        )
    pass_time()
    assert op_ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
    assert op_ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]


def test_group_just_made_is_unknown_to_a_launch(op_ec2, op_launch, fresh, frozen):
    frozen()
    group = op_ec2.create_security_group(GroupName=fresh(), Description="d")["GroupId"]
    with refused("InvalidGroup.NotFound"):
        op_launch(SecurityGroupIds=[group])


def test_changed_tags_lag(op_ec2, launch, frozen):
    instance_id = launch.running()
    pass_time = frozen()
    pass_time()
    op_ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "colour", "Value": "red"}])
    assert _seen(op_ec2, instance_id) == {}
    pass_time()
    assert _seen(op_ec2, instance_id) == {"colour": "red"}
    op_ec2.delete_tags(Resources=[instance_id], Tags=[{"Key": "colour"}])
    assert _seen(op_ec2, instance_id) == {"colour": "red"}
    pass_time()
    assert _seen(op_ec2, instance_id) == {}


def _seen(client, instance_id):
    found = client.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    return {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}


def test_new_profile_is_unknown_to_ec2(op_iam, op_launch, world, fresh):
    world.settings(iam_flicker=0, iam_lag=600)
    name = fresh("profile")
    op_iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)
    op_iam.create_instance_profile(InstanceProfileName=name)
    with refused("InvalidParameterValue", 400, says="Invalid IAM Instance Profile name"):
        op_launch(IamInstanceProfile={"Name": name})
    op_iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    arn = op_iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Arn"]
    with refused("InvalidParameterValue", says="Invalid IAM Instance Profile ARN"):
        op_launch(IamInstanceProfile={"Arn": arn})
    world.advance_clock(601)
    assert op_launch(IamInstanceProfile={"Arn": arn})


def test_profile_without_role(op_iam, op_launch, world, fresh):
    name = fresh("profile")
    op_iam.create_instance_profile(InstanceProfileName=name)
    world.advance_clock(10)
    with refused("InvalidParameterValue", says="no associated IAM Roles"):
        op_launch(IamInstanceProfile={"Name": name})


def test_iam_does_not_find_what_was_just_made(op_iam, world, fresh):
    world.settings(iam_flicker=1.0, read_lag=600)
    name = fresh("role")
    op_iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)
    with refused("NoSuchEntity", 404):
        op_iam.get_role(RoleName=name)
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}
    with refused("NoSuchEntity"):
        op_iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(document))
    world.advance_clock(601)
    assert op_iam.get_role(RoleName=name)["Role"]["RoleName"] == name


@pytest.mark.parametrize("seconds", [0, 30])
def test_terminated_stay_as_long_as_set(launch, world, seconds):
    world.settings(terminated_ttl=seconds)
    instance_id = launch.running()
    launch.client.terminate_instances(InstanceIds=[instance_id])
    if seconds:
        launch.wait(instance_id, "terminated")
        world.advance_clock(seconds + 1)

    def vanished():
        try:
            launch.look(instance_id)
        except ClientError as error:
            return error.response["Error"]["Code"] == "InvalidInstanceID.NotFound"
        return False

    wait_for("the instance vanishes", vanished)
