"""EBS volumes and snapshots."""

from __future__ import annotations

import pytest
from conftest import refused
from world.cloud.client import wait_for


@pytest.fixture
def zone(subnets):
    return subnets[0]["AvailabilityZone"]


def _volume(ec2, volume_id):
    return ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]


def _wait(ec2, volume_id, state):
    wait_for(f"{volume_id} is {state}", lambda: _volume(ec2, volume_id)["State"] == state)
    return volume_id


@pytest.fixture
def volume(ec2, zone):
    return _wait(ec2, ec2.create_volume(Size=2, AvailabilityZone=zone)["VolumeId"], "available")


@pytest.fixture
def instance(launch, subnets):
    return launch.running(SubnetId=subnets[0]["SubnetId"])


def _attach(ec2, volume, instance, device="/dev/sdf"):
    ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device=device)
    wait_for("attached", lambda: [a["State"] for a in _volume(ec2, volume)["Attachments"]] == ["attached"])


def test_creation_passes_through_creating(ec2, zone, frozen):
    pass_time = frozen()
    made = ec2.create_volume(Size=1, AvailabilityZone=zone, VolumeType="gp3", Encrypted=True)
    assert made["State"] == _volume(ec2, made["VolumeId"])["State"] == "creating"
    pass_time()
    seen = _volume(ec2, _wait(ec2, made["VolumeId"], "available"))
    assert (seen["Size"], seen["VolumeType"], seen["Encrypted"], seen["Iops"]) == (1, "gp3", True, 3000)
    assert seen["KmsKeyId"].startswith("arn:aws:kms:")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"AvailabilityZone": "us-east-1z"}, "InvalidZone.NotFound"),
        ({"Size": 0}, "InvalidParameterValue"),
        ({"Size": 20000, "VolumeType": "gp2"}, "InvalidParameterValue"),
        ({"VolumeType": "io2", "Size": 4}, "MissingParameter"),
        ({"VolumeType": "gp2", "Throughput": 200}, "InvalidParameterCombination"),
        ({"KmsKeyId": "k"}, "InvalidParameterDependency"),
        ({"SnapshotId": "snap-00000000000000000"}, "InvalidSnapshot.NotFound"),
        (
            {"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]},
            "InvalidParameterValue",
        ),
    ],
)
def test_refused_creations(ec2, zone, change, code):
    with refused(code, 400):
        ec2.create_volume(**{"Size": 1, "AvailabilityZone": zone, **change})


def test_client_token(ec2, zone, fresh):
    token = fresh("token")
    first = ec2.create_volume(Size=1, AvailabilityZone=zone, ClientToken=token)["VolumeId"]
    assert ec2.create_volume(Size=1, AvailabilityZone=zone, ClientToken=token)["VolumeId"] == first
    with refused("IdempotentParameterMismatch"):
        ec2.create_volume(Size=2, AvailabilityZone=zone, ClientToken=token)


def test_quota(ec2, zone, world):
    world.settings(volume_limit=1)
    ec2.describe_volumes()
    with refused("VolumeLimitExceeded"):
        for _ in range(2):
            ec2.create_volume(Size=1, AvailabilityZone=zone)


def test_attach_and_detach_pass_through_transit_states(ec2, launch, volume, instance, frozen):
    pass_time = frozen()
    assert ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf")["State"] == "attaching"
    assert _volume(ec2, volume)["State"] == "in-use"
    pass_time()
    wait_for("attached", lambda: _volume(ec2, volume)["Attachments"][0]["State"] == "attached")
    mapping = {m["DeviceName"]: m["Ebs"] for m in launch.look(instance)["BlockDeviceMappings"]}["/dev/sdf"]
    assert (mapping["VolumeId"], mapping["DeleteOnTermination"]) == (volume, False)
    assert ec2.detach_volume(VolumeId=volume)["State"] == "detaching"
    assert _volume(ec2, volume)["State"] == "in-use"
    pass_time()
    _wait(ec2, volume, "available")
    assert "/dev/sdf" not in [m["DeviceName"] for m in launch.look(instance)["BlockDeviceMappings"]]


def test_attach_rules(ec2, launch, volume, instance, subnets, zone, frozen):
    other_zone = launch.running(SubnetId=subnets[1]["SubnetId"])
    pass_time = frozen()
    with refused("InvalidVolume.ZoneMismatch"):
        ec2.attach_volume(VolumeId=volume, InstanceId=other_zone, Device="/dev/sdf")
    pending = launch(SubnetId=subnets[0]["SubnetId"])
    with refused("IncorrectState"):
        ec2.attach_volume(VolumeId=volume, InstanceId=pending, Device="/dev/sdf")
    creating = ec2.create_volume(Size=1, AvailabilityZone=zone)["VolumeId"]
    with refused("IncorrectState"):
        ec2.attach_volume(VolumeId=creating, InstanceId=instance, Device="/dev/sdf")
    pass_time()
    _wait(ec2, creating, "available")
    ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    with refused("VolumeInUse"):
        ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdg")
    with refused("InvalidParameterValue", says="/dev/sdf"):
        ec2.attach_volume(VolumeId=creating, InstanceId=instance, Device="/dev/sdf")


def test_attach_to_a_stopped_instance(ec2, launch, volume, subnets):
    instance_id = launch.stopped(SubnetId=subnets[0]["SubnetId"])
    _attach(ec2, volume, instance_id)
    launch.gone(instance_id)
    _wait(ec2, volume, "available")


def test_detach_rules(ec2, launch, volume, instance):
    with refused("IncorrectState"):
        ec2.detach_volume(VolumeId=volume)
    _attach(ec2, volume, instance)
    with refused("InvalidAttachment.NotFound"):
        ec2.detach_volume(VolumeId=volume, InstanceId="i-00000000000000000")
    root = launch.look(instance)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    with refused("OperationNotPermitted"):
        ec2.detach_volume(VolumeId=root)


def test_delete_rules(ec2, zone, volume, instance, frozen):
    _attach(ec2, volume, instance)
    pass_time = frozen()
    creating = ec2.create_volume(Size=1, AvailabilityZone=zone)["VolumeId"]
    with refused("IncorrectState"):
        ec2.delete_volume(VolumeId=creating)
    with refused("VolumeInUse"):
        ec2.delete_volume(VolumeId=volume)
    ec2.detach_volume(VolumeId=volume)
    with refused("VolumeInUse"):
        ec2.delete_volume(VolumeId=volume)
    pass_time()
    _wait(ec2, volume, "available")
    ec2.delete_volume(VolumeId=volume)
    with refused("InvalidVolume.NotFound"):
        ec2.delete_volume(VolumeId=volume)


def test_delete_on_termination_can_be_changed(ec2, launch, volume, instance):
    _attach(ec2, volume, instance)
    mapping = [{"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}}]
    ec2.modify_instance_attribute(InstanceId=instance, BlockDeviceMappings=mapping)
    assert _volume(ec2, volume)["Attachments"][0]["DeleteOnTermination"] is True
    launch.gone(instance)
    with refused("InvalidVolume.NotFound"):
        _volume(ec2, volume)


def _modification(ec2, volume):
    return ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"][0]["ModificationState"]


def test_growth(ec2, volume, world, frozen):
    pass_time = frozen()
    with refused("InvalidParameterValue", says="smaller"):
        ec2.modify_volume(VolumeId=volume, Size=1)
    assert ec2.modify_volume(VolumeId=volume, Size=4)["VolumeModification"]["ModificationState"] == "modifying"
    assert _volume(ec2, volume)["Size"] == 2
    with refused("IncorrectModificationState"):
        ec2.modify_volume(VolumeId=volume, Size=5)
    pass_time()
    wait_for("optimizing", lambda: _modification(ec2, volume) == "optimizing")
    assert _volume(ec2, volume)["Size"] == 4
    pass_time()
    wait_for("completed", lambda: _modification(ec2, volume) == "completed")
    with refused("VolumeModificationRateExceeded"):
        ec2.modify_volume(VolumeId=volume, Size=5)
    world.advance_clock(6 * 3600)
    ec2.modify_volume(VolumeId=volume, Size=5)


def test_modification_of_an_untouched_volume(ec2, volume):
    with refused("InvalidVolumeModification.NotFound"):
        ec2.describe_volumes_modifications(VolumeIds=[volume])


def _snapshot(ec2, snapshot_id):
    return ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]


def test_snapshots(ec2, volume, zone, fresh, frozen):
    pass_time = frozen()
    value = fresh("snap")
    spec = [{"ResourceType": "snapshot", "Tags": [{"Key": "made-by", "Value": value}]}]
    made = ec2.create_snapshot(VolumeId=volume, TagSpecifications=spec)
    assert (made["State"], made["VolumeSize"]) == ("pending", 2)
    snapshot_id = made["SnapshotId"]
    with refused("SnapshotCreationPerVolumeRateExceeded"):
        ec2.create_snapshot(VolumeId=volume)
    with refused("IncorrectState"):
        ec2.create_volume(AvailabilityZone=zone, SnapshotId=snapshot_id)
    pass_time()
    wait_for("completed", lambda: _snapshot(ec2, snapshot_id)["State"] == "completed")
    ec2.modify_volume(VolumeId=volume, Size=8)
    found = ec2.describe_snapshots(OwnerIds=["self"], Filters=[{"Name": "tag:made-by", "Values": [value]}])["Snapshots"]
    assert [(s["SnapshotId"], s["VolumeSize"], s["Progress"]) for s in found] == [(snapshot_id, 2, "100%")]
    with refused("InvalidParameterValue"):
        ec2.create_volume(AvailabilityZone=zone, SnapshotId=snapshot_id, Size=1)
    copy = ec2.create_volume(AvailabilityZone=zone, SnapshotId=snapshot_id)
    assert (copy["Size"], copy["SnapshotId"]) == (2, snapshot_id)
    ec2.delete_snapshot(SnapshotId=snapshot_id)
    with refused("InvalidSnapshot.NotFound"):
        ec2.delete_snapshot(SnapshotId=snapshot_id)


def test_launch_from_a_snapshot(ec2, launch, volume):
    snapshot_id = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    wait_for("completed", lambda: _snapshot(ec2, snapshot_id)["State"] == "completed")
    device = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": snapshot_id, "DeleteOnTermination": False}}
    instance_id = launch.running(BlockDeviceMappings=[device])
    made = {m["DeviceName"]: m["Ebs"]["VolumeId"] for m in launch.look(instance_id)["BlockDeviceMappings"]}["/dev/sdf"]
    assert (_volume(ec2, made)["Size"], _volume(ec2, made)["SnapshotId"]) == (2, snapshot_id)


def test_snapshot_of_an_image_is_in_use(ec2):
    owned = ec2.describe_images(Owners=["self"])["Images"][0]
    snapshot_id = owned["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    with refused("InvalidSnapshot.InUse"):
        ec2.delete_snapshot(SnapshotId=snapshot_id)
