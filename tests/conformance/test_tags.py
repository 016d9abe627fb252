"""Tags: limits, reserved names, what may be tagged where."""

from __future__ import annotations

import pytest
from conftest import refused


def _spec(kind, **tags):
    return [{"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]


def test_fifty(ec2, group):
    ec2.create_tags(Resources=[group], Tags=[{"Key": f"k{i}", "Value": ""} for i in range(50)])
    ec2.create_tags(Resources=[group], Tags=[{"Key": "k1", "Value": "changed"}])
    with refused("TagLimitExceeded"):
        ec2.create_tags(Resources=[group], Tags=[{"Key": "one more", "Value": ""}])


def test_fifty_at_creation(launch):
    tags = {f"k{i}": "" for i in range(51)}
    with refused("TagLimitExceeded"):
        launch(TagSpecifications=_spec("instance", **tags))


@pytest.mark.parametrize(("key", "value"), [("aws:mine", ""), ("k" * 129, ""), ("k", "v" * 257)])
def test_bad_tags(ec2, group, launch, key, value):
    with refused("InvalidParameterValue", 400):
        ec2.create_tags(Resources=[group], Tags=[{"Key": key, "Value": value}])
    with refused("InvalidParameterValue", 400):
        launch(TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value}]}])


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        ("i-00000000000000000", "InvalidInstanceID.NotFound"),
        ("vol-00000000000000000", "InvalidVolume.NotFound"),
        ("sg-00000000000000000", "InvalidGroup.NotFound"),
        ("i-nonsense", "InvalidInstanceID.Malformed"),
        ("nonsense", "InvalidID"),
    ],
)
def test_unknown_resources(ec2, group, resource, code):
    with refused(code, 400):
        ec2.create_tags(Resources=[group, resource], Tags=[{"Key": "k", "Value": "v"}])
    assert _tags(ec2, group) == {}  # none or all


@pytest.mark.parametrize("spec", [_spec("volume-of-sound", a="b"), _spec("security-group", a="b"), _spec("instance")])
def test_specifications_of_a_launch(launch, spec):
    with refused("InvalidParameterValue", 400):
        launch(TagSpecifications=spec)


def test_key_twice(launch):
    tags = [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]
    with refused("InvalidParameterValue", says="Duplicate"):
        launch(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])


def test_keys_that_metadata_cannot_serve(launch, ec2):
    options = {"InstanceMetadataTags": "enabled"}
    with refused("InvalidParameterValue", says="'skykoi.io/name' is not a valid tag key"):
        launch(MetadataOptions=options, TagSpecifications=_spec("instance", **{"skykoi.io/name": "x"}))
    instance_id = launch(MetadataOptions=options, TagSpecifications=_spec("instance", **{"skykoi:name": "x"}))
    with refused("InvalidParameterValue"):
        ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "a/b", "Value": ""}])
    slashed = launch(TagSpecifications=_spec("instance", **{"skykoi.io/name": "x"}))
    with refused("InvalidParameterValue"):
        ec2.modify_instance_metadata_options(InstanceId=slashed, InstanceMetadataTags="enabled")


def _tags(ec2, group):
    found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0].get("Tags", [])
    return {t["Key"]: t["Value"] for t in found}


def test_deleting(ec2, group):
    ec2.create_tags(Resources=[group], Tags=[{"Key": k, "Value": "v"} for k in "abc"])
    ec2.delete_tags(Resources=[group], Tags=[{"Key": "a", "Value": "other"}])
    assert _tags(ec2, group) == {"a": "v", "b": "v", "c": "v"}
    ec2.delete_tags(Resources=[group], Tags=[{"Key": "a", "Value": "v"}, {"Key": "b"}, {"Key": "nobody"}])
    assert _tags(ec2, group) == {"c": "v"}
    ec2.delete_tags(Resources=[group])
    assert _tags(ec2, group) == {}


def test_describe_tags(ec2, group):
    ec2.create_tags(Resources=[group], Tags=[{"Key": "a", "Value": "v"}])
    found = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [group]}])["Tags"]
    assert found == [{"Key": "a", "ResourceId": group, "ResourceType": "security-group", "Value": "v"}]
