"""Listings: filters, pages, identifiers, partial answers."""

from __future__ import annotations

import time

import pytest
from conftest import refused
from world.cloud.client import wait_for


def _ids(answer):
    return [i["InstanceId"] for r in answer["Reservations"] for i in r["Instances"]]


@pytest.fixture
def tagged(launch, fresh):
    """Three instances with one tag of their own."""
    value = fresh("fleet")
    spec = [{"ResourceType": "instance", "Tags": [{"Key": "fleet", "Value": value}]}]
    made = [launch(TagSpecifications=spec, ClientToken=fresh("token")) for _ in range(7)]
    return value, [launch.wait(instance_id, "running") for instance_id in made]


def _tag(value):
    return [{"Name": "tag:fleet", "Values": [value]}]


def test_filters(launch, ec2, tagged, profile):
    value, made = tagged
    assert sorted(_ids(ec2.describe_instances(Filters=_tag(value)))) == sorted(made)
    assert sorted(_ids(ec2.describe_instances(Filters=_tag(value[:-1] + "?")))) >= sorted(made)
    one = launch.look(made[0])
    for name, wanted in (
        ("client-token", one["ClientToken"]),
        ("instance-id", made[0]),
        ("private-ip-address", one["PrivateIpAddress"]),
        ("network-interface.addresses.private-ip-address", one["PrivateIpAddress"]),
        ("reservation-id", ec2.describe_instances(InstanceIds=[made[0]])["Reservations"][0]["ReservationId"]),
        ("ip-address", one["PublicIpAddress"]),
    ):
        assert _ids(ec2.describe_instances(Filters=[{"Name": name, "Values": [wanted]}])) == [made[0]], name
    running = [{"Name": "instance-state-name", "Values": ["running"]}, *_tag(value)]
    assert len(_ids(ec2.describe_instances(Filters=running))) == 7
    codes = [{"Name": "instance-state-code", "Values": ["80", "48"]}, *_tag(value)]
    assert _ids(ec2.describe_instances(Filters=codes)) == []
    assert sorted(
        _ids(ec2.describe_instances(Filters=[*_tag(value), {"Name": "tag-key", "Values": ["fl*"]}]))
    ) == sorted(made)


def test_filter_by_profile(launch, ec2, profile):
    name = profile()
    instance_id = launch.running(IamInstanceProfile={"Name": name})
    arn = launch.look(instance_id)["IamInstanceProfile"]["Arn"]
    assert _ids(ec2.describe_instances(Filters=[{"Name": "iam-instance-profile.arn", "Values": [arn]}])) == [
        instance_id
    ]


@pytest.mark.parametrize(
    "method",
    [
        "describe_instances",
        "describe_instance_status",
        "describe_volumes",
        "describe_security_groups",
        "describe_snapshots",
        "describe_subnets",
        "describe_network_interfaces",
        "describe_iam_instance_profile_associations",
    ],
)
def test_unknown_filter(ec2, method):
    with refused("InvalidParameterValue", 400):
        getattr(ec2, method)(Filters=[{"Name": "no-such-filter", "Values": ["x"]}])


def test_pages_are_complete_and_without_repetition(ec2, tagged):
    value, made = tagged
    seen, token, pages = [], None, 0
    while True:
        more = {"NextToken": token} if token else {}
        answer = ec2.describe_instances(Filters=_tag(value), MaxResults=5, **more)
        seen += _ids(answer)
        pages += 1
        token = answer.get("NextToken")
        if not token:
            break
    assert (pages, sorted(seen)) == (2, sorted(made)) and len(set(seen)) == 7


def test_page_goes_on_when_its_last_item_vanished(ec2, launch, tagged, world):
    value, made = tagged
    first = ec2.describe_instances(Filters=_tag(value), MaxResults=5)
    gone = _ids(first)[-1]
    launch.gone(gone)
    world.forget(gone)
    rest = _ids(ec2.describe_instances(Filters=_tag(value), MaxResults=5, NextToken=first["NextToken"]))
    assert sorted(_ids(first) + rest) == sorted(made)


@pytest.mark.parametrize("size", [4, 1001])
def test_page_size_bounds(unchecked_ec2, size):
    for method in ("describe_instances", "describe_volumes", "describe_security_groups", "describe_instance_status"):
        with refused("InvalidParameterValue", says="maxResults"):
            getattr(unchecked_ec2, method)(MaxResults=size)


def test_page_size_and_ids_exclude_each_other(ec2, launch, group):
    instance_id = launch()
    volume = launch.look(instance_id)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    for call, ids in (
        (ec2.describe_instances, {"InstanceIds": [instance_id]}),
        (ec2.describe_instance_status, {"InstanceIds": [instance_id]}),
        (ec2.describe_volumes, {"VolumeIds": [volume]}),
        (ec2.describe_security_groups, {"GroupIds": [group]}),
    ):
        with refused("InvalidParameterCombination"):
            call(MaxResults=10, **ids)


@pytest.mark.parametrize("method", ["describe_instances", "describe_volumes", "describe_security_groups"])
def test_bogus_token(ec2, method):
    with refused("InvalidParameterValue", 400):
        getattr(ec2, method)(NextToken="bogus", MaxResults=5)


def test_token_of_another_request(ec2, tagged):
    token = ec2.describe_instances(Filters=_tag(tagged[0]), MaxResults=5)["NextToken"]
    with refused("InvalidParameterValue"):
        ec2.describe_instances(MaxResults=5, NextToken=token)


def test_ids(ec2, launch):
    instance_id = launch()
    with refused("InvalidInstanceID.Malformed"):
        ec2.describe_instances(InstanceIds=["i-xyz"])
    with refused("InvalidInstanceID.NotFound", says="i-00000000000000000"):
        ec2.describe_instances(InstanceIds=[instance_id, "i-00000000000000000"])
    assert _ids(ec2.describe_instances(InstanceIds=[instance_id, instance_id])) == [instance_id]
    for call, code in (
        (lambda: ec2.describe_volumes(VolumeIds=["vol-xyz"]), "InvalidVolumeID.Malformed"),
        (lambda: ec2.describe_security_groups(GroupIds=["sg-xyz"]), "InvalidGroupId.Malformed"),
        (lambda: ec2.describe_subnets(SubnetIds=["subnet-xyz"]), "InvalidSubnetID.Malformed"),
        (lambda: ec2.describe_snapshots(SnapshotIds=["snap-xyz"]), "InvalidSnapshotID.Malformed"),
        (lambda: ec2.describe_volumes(VolumeIds=["vol-00000000000000000"]), "InvalidVolume.NotFound"),
        (lambda: ec2.describe_security_groups(GroupIds=["sg-00000000000000000"]), "InvalidGroup.NotFound"),
        (lambda: ec2.describe_subnets(SubnetIds=["subnet-00000000000000000"]), "InvalidSubnetID.NotFound"),
        (lambda: ec2.start_instances(InstanceIds=["i-xyz"]), "InvalidInstanceID.Malformed"),
        (lambda: ec2.terminate_instances(InstanceIds=["i-00000000000000000"]), "InvalidInstanceID.NotFound"),
    ):
        with refused(code):
            call()


def test_empty_page_with_a_token(ec2, tagged, world):
    value, made = tagged
    world.inject("DescribeInstances", principal="admin", empty_page=True)
    first = ec2.describe_instances(Filters=_tag(value))
    assert (_ids(first), bool(first["NextToken"])) == ([], True)
    rest = ec2.describe_instances(Filters=_tag(value), NextToken=first["NextToken"])
    assert sorted(_ids(rest)) == sorted(made)
    world.inject("DescribeInstances", principal="admin", empty_page=True)
    pages = list(ec2.get_paginator("describe_instances").paginate(Filters=_tag(value)))
    assert sorted(i for page in pages for i in _ids(page)) == sorted(made)


def test_partial_listing(ec2, tagged, world):
    value, made = tagged
    world.inject("DescribeInstances", principal="admin", hide=[made[2]])
    assert sorted(_ids(ec2.describe_instances(Filters=_tag(value)))) == sorted(set(made) - {made[2]})
    world.inject("DescribeInstances", principal="admin", hide=1.0)
    assert _ids(ec2.describe_instances(Filters=_tag(value))) == []
    assert len(_ids(ec2.describe_instances(Filters=_tag(value)))) == 7


def test_listing_a_thousand_stays_usable(world, launch, ec2, fresh):
    """Not a benchmark: a quadratic look-up of tags would take minutes here."""
    world.settings(transit=0.01)
    value = fresh("many")
    spec = [{"ResourceType": "instance", "Tags": [{"Key": "fleet", "Value": value}, {"Key": "n", "Value": "1"}]}]
    for _ in range(4):
        ec2.run_instances(**launch.request(MinCount=250, MaxCount=250, TagSpecifications=spec))
    began = time.monotonic()
    pages = ec2.get_paginator("describe_instances").paginate(Filters=_tag(value), PaginationConfig={"PageSize": 1000})
    made = [i for page in pages for i in _ids(page)]
    assert len(made) == 1000
    assert time.monotonic() - began < 15
    assert [i.id for i in world.instances() if i.id in set(made)] == made
    for start in range(0, 1000, 250):
        ec2.terminate_instances(InstanceIds=made[start : start + 250])
    world.settings(terminated_ttl=0)
    wait_for("they have vanished", lambda: not _ids(ec2.describe_instances(Filters=_tag(value))))
