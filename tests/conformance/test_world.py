"""The control API itself: settings, metadata, leftovers, artifacts."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

import pytest
from world.cloud.client import CloudClient, ControlError, wait_for


def test_settings(world):
    assert world.settings(transit=0.1)["transit"] == 0.1
    for change in ({"nonsense": 1}, {"transit": "fast"}, {"throttle": 1}, {"read_lag": -1}):
        with pytest.raises(ControlError):
            world.settings(**change)
    assert world.settings()["transit"] == 0.1


def test_unknown_paths(world):
    for method, path in (("GET", "nonsense"), ("DELETE", "ready"), ("POST", "instances/i-0/explode")):
        with pytest.raises(ControlError, match="404"):
            world._call(method, path)


def test_metadata(world, launch, profile, group, ec2, fresh):
    name = profile()
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "skykoi:agent", "Value": "ns/koi"}]}]
    options = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "InstanceMetadataTags": "enabled"}
    instance_id = launch.running(
        IamInstanceProfile={"Name": name},
        SecurityGroupIds=[group],
        UserData="#!/bin/sh\n",
        MetadataOptions=options,
        TagSpecifications=tags,
    )
    seen, told = launch.look(instance_id), world.metadata(instance_id)
    tree = told["tree"]
    assert (told["http_tokens_required"], told["http_endpoint"], told["hop_limit"]) == (True, True, 2)
    assert told["user_data"] == "#!/bin/sh\n"
    assert tree["instance-id"] == instance_id
    assert tree["placement"] == {
        "availability-zone": seen["Placement"]["AvailabilityZone"],
        "availability-zone-id": "use1-az1",
        "region": "us-east-1",
    }
    assert (tree["local-ipv4"], tree["public-ipv4"]) == (seen["PrivateIpAddress"], seen["PublicIpAddress"])
    assert tree["iam"]["info"]["InstanceProfileArn"] == seen["IamInstanceProfile"]["Arn"]
    assert list(tree["iam"]["security-credentials"]) == [name]
    assert tree["tags"] == {"instance": {"skykoi:agent": "ns/koi"}}
    macs = tree["network"]["interfaces"]["macs"]
    assert macs[tree["mac"]]["security-group-ids"] == group
    assert told["identity_document"]["instanceId"] == instance_id
    association = ec2.describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [instance_id]}]
    )["IamInstanceProfileAssociations"][0]["AssociationId"]
    ec2.disassociate_iam_instance_profile(AssociationId=association)
    ec2.modify_instance_metadata_options(
        InstanceId=instance_id, InstanceMetadataTags="disabled", HttpEndpoint="disabled"
    )
    later = world.metadata(instance_id)
    assert "iam" not in later["tree"] and "tags" not in later["tree"] and later["http_endpoint"] is False


def test_leftovers(world, launch, ec2, iam, ssm, group, profile, subnets):
    """Everything made shows, under its kind; when it is gone, it is gone there too."""
    name = profile({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ssm:*", "Resource": "*"}]})
    before = world.leftovers()
    instance_id = launch.running(IamInstanceProfile={"Name": name}, SecurityGroupIds=[group])
    ssm.put_parameter(Name="/left/over", Value="v", Type="String", Tags=[{"Key": "a", "Value": "b"}])
    found = world.leftovers()
    assert instance_id in {item["id"] for item in found["instances"]}
    assert group in {item["id"] for item in found["security-groups"]}
    assert name in {item["id"] for item in found["roles"]} & {item["id"] for item in found["instance-profiles"]}
    (parameter,) = (item for item in found["parameters"] if item["id"] == "/left/over")
    assert parameter["tags"] == {"a": "b"}
    for kind in ("volumes", "network-interfaces", "profile-associations"):
        assert len(found[kind]) == len(before.get(kind, [])) + 1, kind
    launch.gone(instance_id)
    ssm.delete_parameter(Name="/left/over")
    ec2.delete_security_group(GroupId=group)
    iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
    iam.delete_instance_profile(InstanceProfileName=name)
    iam.delete_role_policy(RoleName=name, PolicyName="main")
    iam.delete_role(RoleName=name)
    after = json.dumps(world.leftovers())
    assert not any(f'"{gone}"' in after for gone in (instance_id, group, name, "/left/over"))


def test_a_fresh_account_has_no_leftovers(world):
    world.boto("ec2", "admin-other", region="eu-west-1").describe_vpcs()
    found = [item for items in world.leftovers().values() for item in items if item.get("region") == "eu-west-1"]
    assert found == []


def _fetch(url):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return answer.read()


def test_artifacts(world):
    content = bytes(range(256)) * 1000
    (world.state_dir / "artifacts" / "program").write_bytes(content)
    assert _fetch(f"{world.endpoint}/_world/artifacts/program") == content
    for path in ("artifacts/missing", "artifacts/..%2Fcredentials.json", "artifacts/.hidden"):
        with pytest.raises(urllib.error.HTTPError):
            _fetch(f"{world.endpoint}/_world/{path}")


def test_broken_requests_do_no_harm(world):
    host, port = world.endpoint.removeprefix("http://").split(":")
    for text in (b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n\xff\xfe\xfd\xfc\xfb"):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65536)
    assert world.ready().account == "123456789012"


def test_an_unknown_action_and_service(world, op_ec2):
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        world.boto("secretsmanager", "operator").list_secrets()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501


def test_client_waits_with_a_deadline():
    with pytest.raises(TimeoutError, match="never"):
        wait_for("never", lambda: False, seconds=0.2)
    assert CloudClient("http://127.0.0.1:1/", None).endpoint == "http://127.0.0.1:1"  # type: ignore[arg-type]
