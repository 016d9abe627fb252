"""RunInstances: what it refuses, client tokens, what it makes."""

from __future__ import annotations

import base64

import pytest
from botocore.exceptions import ClientError
from conftest import refused


def test_user_data_limit_is_of_raw_bytes(launch, ec2):
    instance_id = launch(UserData="x" * 16384)
    encoded = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")["UserData"]["Value"]
    assert base64.b64decode(encoded) == b"x" * 16384
    with refused("InvalidParameterValue", 400, says="16384"):
        launch(UserData="x" * 16385)


def test_bad_base64(launch, ec2):
    """boto3 encodes by itself; the broken text goes in behind its back."""

    def break_it(params, **_):
        params["body"]["UserData"] = "!!!no base64!!!"

    ec2.meta.events.register_last("before-call.ec2.RunInstances", break_it, unique_id="break")
    try:
        with refused("InvalidUserData.Malformed"):
            launch(UserData="x")
    finally:
        ec2.meta.events.unregister("before-call.ec2.RunInstances", unique_id="break")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ImageId": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "ami-nonsense"}, "InvalidAMIID.Malformed"),
        ({"InstanceType": "t3.gigantic"}, "InvalidParameterValue"),
        ({"SubnetId": "subnet-00000000000000000"}, "InvalidSubnetID.NotFound"),
        ({"SubnetId": "nonsense"}, "InvalidSubnetID.Malformed"),
        ({"SecurityGroupIds": ["sg-00000000000000000"]}, "InvalidGroup.NotFound"),
        ({"SecurityGroupIds": ["nonsense"]}, "InvalidGroupId.Malformed"),
        ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
        ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
        ({"IamInstanceProfile": {"Arn": "arn:aws:iam::123456789012:instance-profile/nobody"}}, "InvalidParameterValue"),
        ({"LaunchTemplate": {"LaunchTemplateName": "x"}}, "Unsupported"),
        ({"InstanceMarketOptions": {"MarketType": "spot"}}, "Unsupported"),
        ({"MinCount": 0}, "InvalidParameterValue"),
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpTokens": "banana"}}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpPutResponseHopLimit": 65}}, "InvalidParameterValue"),
        ({"InstanceInitiatedShutdownBehavior": "explode"}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        ({"Placement": {"AvailabilityZone": "us-east-1z"}}, "InvalidParameterValue"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "Ebs": {}}]}, "MissingParameter"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 1}}]}, "InvalidBlockDeviceMapping"),
        (
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-00000000000000000"}}]},
            "InvalidSnapshot.NotFound",
        ),
        (
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 4, "VolumeType": "gp9"}}]},
            "UnknownVolumeType",
        ),
        (
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 4, "KmsKeyId": "k"}}]},
            "InvalidParameterDependency",
        ),
    ],
)
def test_refusals(launch, ec2, change, code):
    before = len(ec2.describe_instances()["Reservations"])
    with refused(code, 400):
        launch(**change)
    assert len(ec2.describe_instances()["Reservations"]) == before


def test_interface_and_top_level_network_exclude_each_other(launch, subnets, group):
    nic = {"DeviceIndex": 0, "SubnetId": subnets[0]["SubnetId"], "Groups": [group]}
    with refused("InvalidParameterCombination"):
        launch(NetworkInterfaces=[nic], SubnetId=subnets[0]["SubnetId"])


def test_group_of_another_network(launch, ec2, fresh, subnets):
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    other = ec2.create_security_group(GroupName=fresh(), Description="d", VpcId=vpc)["GroupId"]
    with refused("InvalidParameter", says="different networks"):
        launch(SubnetId=subnets[0]["SubnetId"], SecurityGroupIds=[other])


def test_more_than_five_groups(launch, ec2, fresh):
    groups = [ec2.create_security_group(GroupName=fresh(), Description="d")["GroupId"] for _ in range(6)]
    with refused("SecurityGroupsPerInterfaceLimitExceeded"):
        launch(SecurityGroupIds=groups)


def test_dry_run(launch, ec2):
    before = len(ec2.describe_instances()["Reservations"])
    with refused("DryRunOperation", 412):
        launch(DryRun=True)
    assert len(ec2.describe_instances()["Reservations"]) == before
    with refused("InvalidAMIID.NotFound"):
        launch(DryRun=True, ImageId="ami-0123456789abcdeff")
    with refused("InvalidParameterValue", says="IAM Instance Profile"):
        launch(DryRun=True, IamInstanceProfile={"Name": "nobody-has-this"})


def test_quota(launch, world):
    running = sum(instance.state in ("pending", "running") for instance in world.instances())
    world.settings(instance_limit=running + 1)
    launch()
    with refused("VcpuLimitExceeded"):
        launch()


# client tokens


def test_same_token_same_instance(op_launch, fresh):
    token = fresh("token")
    first = op_launch(ClientToken=token, UserData="a")
    assert op_launch(ClientToken=token, UserData="a") == first
    assert op_launch(ClientToken=token.upper(), UserData="a") != first


def test_token_with_other_parameters(launch, fresh):
    token = fresh("token")
    launch(ClientToken=token, UserData="a")
    for change in ({"UserData": "b"}, {"UserData": "a", "InstanceType": "t3.medium"}, {}):
        with refused("IdempotentParameterMismatch", 400):
            launch(ClientToken=token, **change)


def test_token_of_a_terminated_instance(launch, fresh, world):
    token = fresh("token")
    instance_id = launch(ClientToken=token)
    launch.gone(instance_id)
    with refused("IdempotentInstanceTerminated"):
        launch(ClientToken=token)
    world.forget(instance_id)
    with refused("IdempotentInstanceTerminated"):
        launch(ClientToken=token)


def test_refused_launch_does_not_use_up_the_token(launch, fresh):
    token = fresh("token")
    with refused("InvalidGroup.NotFound"):
        launch(ClientToken=token, SecurityGroupIds=["sg-00000000000000000"])
    launch(ClientToken=token)


def test_token_works_while_the_instance_changes_state(launch, ec2, fresh):
    token = fresh("token")
    instance_id = launch.running(ClientToken=token)
    ec2.stop_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "stopped")
    assert launch(ClientToken=token) == instance_id


def test_token_survives_the_loss_of_what_it_named(launch, ec2, fresh):
    token, group = fresh("token"), ec2.create_security_group(GroupName=fresh(), Description="d")["GroupId"]
    other = ec2.create_security_group(GroupName=fresh(), Description="d")["GroupId"]
    instance_id = launch(ClientToken=token, SecurityGroupIds=[group])
    ec2.modify_instance_attribute(InstanceId=instance_id, Groups=[other])
    ec2.delete_security_group(GroupId=group)
    assert launch(ClientToken=token, SecurityGroupIds=[group]) == instance_id


def test_lost_answer_and_retry_make_one_instance(world, launch, fresh):
    """The connection breaks after the effect; boto3 tries again with the same token."""
    world.inject("RunInstances", when="after", drop=True)
    token = fresh("token")
    operator = world.boto("ec2", "operator", retries=3)
    instance_id = operator.run_instances(**launch.request(ClientToken=token))["Instances"][0]["InstanceId"]
    found = launch.client.describe_instances(Filters=[{"Name": "client-token", "Values": [token]}])["Reservations"]
    assert [i["InstanceId"] for r in found for i in r["Instances"]] == [instance_id]
    assert [call.fault != "" for call in world.calls(action="RunInstances")[-2:]] == [True, False]


# what is made


def test_all_that_is_asked_for_arrives(launch, ec2, subnets, group, profile, fresh):
    name, key = profile(), fresh("key")
    spec = [
        {"ResourceType": kind, "Tags": [{"Key": "skykoi:agent-uid", "Value": key}]}
        for kind in ("instance", "volume", "network-interface")
    ]
    device = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 4, "Encrypted": True, "DeleteOnTermination": False}}
    instance_id = launch.running(
        SubnetId=subnets[1]["SubnetId"],
        SecurityGroupIds=[group],
        IamInstanceProfile={"Name": name},
        BlockDeviceMappings=[device],
        TagSpecifications=spec,
        EbsOptimized=True,
    )
    seen = launch.look(instance_id)
    assert seen["SubnetId"] == subnets[1]["SubnetId"]
    assert seen["Placement"]["AvailabilityZone"] == subnets[1]["AvailabilityZone"]
    assert [g["GroupId"] for g in seen["SecurityGroups"]] == [group]
    assert seen["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{name}")
    assert seen["IamInstanceProfile"]["Id"].startswith("AIPA")
    devices = {m["DeviceName"]: m["Ebs"]["DeleteOnTermination"] for m in seen["BlockDeviceMappings"]}
    assert devices == {"/dev/sda1": True, "/dev/sdf": False}
    tagged = ec2.describe_volumes(Filters=[{"Name": "tag:skykoi:agent-uid", "Values": [key]}])["Volumes"]
    assert {v["Attachments"][0]["Device"]: v["Encrypted"] for v in tagged} == {"/dev/sda1": False, "/dev/sdf": True}
    nics = ec2.describe_network_interfaces(Filters=[{"Name": "tag:skykoi:agent-uid", "Values": [key]}])
    assert [n["Attachment"]["InstanceId"] for n in nics["NetworkInterfaces"]] == [instance_id]


def test_speed_of_a_volume(launch, ec2):
    ebs = {"VolumeSize": 4, "VolumeType": "gp3", "Iops": 4000, "Throughput": 250}
    instance_id = launch(BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": ebs}])
    filters = [{"Name": "attachment.instance-id", "Values": [instance_id]}, {"Name": "volume-type", "Values": ["gp3"]}]
    (volume,) = ec2.describe_volumes(Filters=filters)["Volumes"]
    assert (volume["Iops"], volume["Throughput"], volume["Size"]) == (4000, 250, 4)


def test_data_volume_survives_termination_as_asked(launch, ec2):
    devices = [
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}},
        {"DeviceName": "/dev/sdg", "Ebs": {"VolumeSize": 1}},
    ]
    instance_id = launch.running(BlockDeviceMappings=devices)
    found = {m["DeviceName"]: m["Ebs"]["VolumeId"] for m in launch.look(instance_id)["BlockDeviceMappings"]}
    launch.gone(instance_id)
    assert ec2.describe_volumes(VolumeIds=[found["/dev/sdf"]])["Volumes"][0]["State"] == "available"
    for device in ("/dev/sda1", "/dev/sdg"):
        with refused("InvalidVolume.NotFound"):
            ec2.describe_volumes(VolumeIds=[found[device]])


def test_several_at_once_each_with_profile_and_index(launch, ec2, profile):
    answer = ec2.run_instances(**launch.request(MinCount=2, MaxCount=3, IamInstanceProfile={"Name": profile()}))
    made = answer["Instances"]
    assert [i["AmiLaunchIndex"] for i in made] == [0, 1, 2]
    assert len({i["PrivateIpAddress"] for i in made}) == 3
    assert all(i["IamInstanceProfile"]["Arn"] for i in made)
    associations = ec2.describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [i["InstanceId"] for i in made]}]
    )
    assert len(associations["IamInstanceProfileAssociations"]) == 3


def test_addresses_lie_in_the_world(launch):
    address = launch.look(launch())["PrivateIpAddress"]
    assert address.startswith("172.31.") and address != "172.31.0.1"


def test_images_and_their_parameter(ec2, ssm, world):
    ready = world.ready()
    named = {ssm.get_parameter(Name=name)["Parameter"]["Value"] for name in ready.ssm_parameters}
    assert named == {ready.ubuntu}
    stock = ec2.describe_images(ImageIds=[ready.ubuntu])["Images"][0]
    assert (stock["OwnerId"], stock["State"], stock["RootDeviceName"]) == ("099720109477", "available", "/dev/sda1")
    assert [i["ImageId"] for i in ec2.describe_images(Owners=["self"])["Images"]] == [ready.baked]
    by_name = ec2.describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": ["koi-baked"]}])["Images"]
    assert [i["ImageId"] for i in by_name] == [ready.baked]
    with refused("InvalidAMIID.NotFound"):
        ec2.describe_images(ImageIds=["ami-00000000000000000"])


def test_raw_errors_are_xml_that_every_sdk_reads(world, launch):
    """A refusal is parsed by botocore; the bare text must also carry the request id as EC2 spells it."""
    with pytest.raises(ClientError) as caught:
        launch(ImageId="ami-00000000000000000")
    assert len(caught.value.response["ResponseMetadata"]["RequestId"]) == 32


def test_instance_appears_with_its_tags_for_the_operator(op_launch, op_ec2, fresh, frozen):
    pass_time = frozen()
    value = fresh("uid")
    tags = [{"Key": "skykoi:agent-uid", "Value": value}]
    op_launch(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])
    filters = [{"Name": "tag:skykoi:agent-uid", "Values": [value]}]
    assert op_ec2.describe_instances(Filters=filters)["Reservations"] == []
    pass_time()
    assert len(op_ec2.describe_instances(Filters=filters)["Reservations"]) == 1
