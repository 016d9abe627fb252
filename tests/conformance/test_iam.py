"""IAM: names, documents, order of deletion; profiles on instances."""

from __future__ import annotations

import json

import pytest
from conftest import EC2_TRUST, refused
from world.cloud.client import wait_for

ALLOW = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}


def test_duplicates(iam, fresh):
    name = fresh()
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)
    with refused("EntityAlreadyExists", 409):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)
    iam.create_instance_profile(InstanceProfileName=name)
    with refused("EntityAlreadyExists", 409):
        iam.create_instance_profile(InstanceProfileName=name)


@pytest.mark.parametrize("name", ["x" * 65, "with space", "slash/name"])
def test_role_names(iam, name):
    with refused("ValidationError", 400):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)


@pytest.mark.parametrize(
    "document",
    [
        "not json",
        "{}",
        json.dumps(ALLOW),
        json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Perhaps", "Principal": "*", "Action": "*"}]}),
    ],
)
def test_trust_documents(iam, fresh, document):
    with refused("MalformedPolicyDocument", 400):
        iam.create_role(RoleName=fresh(), AssumeRolePolicyDocument=document)


def test_role_policies(iam, fresh):
    name = fresh()
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)
    with refused("MalformedPolicyDocument"):
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument="{")
    large = {
        **ALLOW,
        "Statement": [{**ALLOW["Statement"][0], "Resource": [f"arn:aws:s3:::{i:050}" for i in range(200)]}],
    }
    with refused("LimitExceeded", 409):
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(large))
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(ALLOW))
    assert iam.get_role_policy(RoleName=name, PolicyName="p")["PolicyDocument"] == ALLOW
    with refused("NoSuchEntity", 404):
        iam.get_role_policy(RoleName=name, PolicyName="q")


def test_deletion_has_an_order(iam, fresh):
    name = fresh()
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(ALLOW))
    policy = iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(ALLOW))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=name, PolicyArn=policy)
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    with refused("DeleteConflict", 409):
        iam.delete_role(RoleName=name)
    with refused("DeleteConflict", 409):
        iam.delete_instance_profile(InstanceProfileName=name)
    with refused("DeleteConflict", 409):
        iam.delete_policy(PolicyArn=policy)
    iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
    iam.delete_instance_profile(InstanceProfileName=name)
    with refused("DeleteConflict", 409):
        iam.delete_role(RoleName=name)
    iam.detach_role_policy(RoleName=name, PolicyArn=policy)
    with refused("DeleteConflict", 409):
        iam.delete_role(RoleName=name)
    iam.delete_role_policy(RoleName=name, PolicyName="p")
    iam.delete_role(RoleName=name)
    iam.delete_policy(PolicyArn=policy)
    for call in (
        lambda: iam.get_role(RoleName=name),
        lambda: iam.delete_role(RoleName=name),
        lambda: iam.get_instance_profile(InstanceProfileName=name),
        lambda: iam.delete_instance_profile(InstanceProfileName=name),
    ):
        with refused("NoSuchEntity", 404):
            call()


def test_one_role_in_a_profile(iam, fresh):
    name, other = fresh(), fresh()
    iam.create_instance_profile(InstanceProfileName=name)
    for role in (name, other):
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=EC2_TRUST)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    with refused("LimitExceeded", 409):
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=other)
    with refused("NoSuchEntity", 404):
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=other)
    assert [r["RoleName"] for r in iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]] == [
        name
    ]


def test_tags_and_boundary(iam, fresh):
    name = fresh()
    boundary = iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(ALLOW))["Policy"]["Arn"]
    claim = [{"Key": "skykoi:cluster", "Value": "c"}]
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST, Tags=claim, PermissionsBoundary=boundary)
    role = iam.get_role(RoleName=name)["Role"]
    assert role["Tags"] == claim
    assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary
    iam.create_instance_profile(InstanceProfileName=name, Tags=claim)
    assert iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Tags"] == claim


def test_managed_policies_exist(iam, fresh):
    name = fresh()
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)
    iam.attach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore")
    attached = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    assert [p["PolicyName"] for p in attached] == ["AmazonSSMManagedInstanceCore"]
    with refused("NoSuchEntity", 404):
        iam.attach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/NoSuchPolicy")


# profiles on instances


def _association(ec2, instance_id):
    filters = [{"Name": "instance-id", "Values": [instance_id]}]
    found = ec2.describe_iam_instance_profile_associations(Filters=filters)["IamInstanceProfileAssociations"]
    return found[0] if found else None


def test_replace(launch, ec2, iam, profile):
    first, second = profile(), profile()
    instance_id = launch.running(IamInstanceProfile={"Name": first})
    association = _association(ec2, instance_id)
    answer = ec2.replace_iam_instance_profile_association(
        AssociationId=association["AssociationId"], IamInstanceProfile={"Name": second}
    )["IamInstanceProfileAssociation"]
    assert answer["State"] == "associating" and answer["AssociationId"] != association["AssociationId"]
    wait_for("associated", lambda: _association(ec2, instance_id)["State"] == "associated")
    known = iam.get_instance_profile(InstanceProfileName=second)["InstanceProfile"]
    expected = {"Arn": known["Arn"], "Id": known["InstanceProfileId"]}
    assert launch.look(instance_id)["IamInstanceProfile"] == expected
    assert _association(ec2, instance_id)["IamInstanceProfile"] == expected


def test_disassociate_and_associate(launch, ec2, profile):
    name = profile()
    instance_id = launch.running(IamInstanceProfile={"Name": name})
    association = _association(ec2, instance_id)["AssociationId"]
    with refused("IncorrectState"):
        ec2.associate_iam_instance_profile(InstanceId=instance_id, IamInstanceProfile={"Name": name})
    answer = ec2.disassociate_iam_instance_profile(AssociationId=association)["IamInstanceProfileAssociation"]
    assert answer["State"] == "disassociating"
    assert "IamInstanceProfile" not in launch.look(instance_id)
    assert _association(ec2, instance_id) is None
    with refused("InvalidAssociationID.NotFound"):
        ec2.disassociate_iam_instance_profile(AssociationId=association)
    ec2.associate_iam_instance_profile(InstanceId=instance_id, IamInstanceProfile={"Name": name})
    assert launch.look(instance_id)["IamInstanceProfile"]["Arn"].endswith(name)


def test_association_states(launch, ec2, profile):
    name = profile()
    instance_id = launch(IamInstanceProfile={"Name": name})
    with refused("InvalidParameterValue", says="Invalid IAM Instance Profile"):
        launch(IamInstanceProfile={"Name": "nobody"})
    launch.wait(instance_id, "running")
    ec2.stop_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "stopped")
    association = _association(ec2, instance_id)["AssociationId"]
    with refused("IncorrectInstanceState"):
        ec2.replace_iam_instance_profile_association(AssociationId=association, IamInstanceProfile={"Name": name})
    ec2.disassociate_iam_instance_profile(AssociationId=association)
    ec2.associate_iam_instance_profile(InstanceId=instance_id, IamInstanceProfile={"Name": name})
    launch.gone(instance_id)
    assert _association(ec2, instance_id) is None
    with refused("IncorrectInstanceState"):
        ec2.associate_iam_instance_profile(InstanceId=instance_id, IamInstanceProfile={"Name": name})


def test_lists_are_paged_and_tell_no_tags(iam, fresh):
    """Whose a role is, a list does not say: its tags must be asked for one by one."""
    names = [fresh() for _ in range(3)]
    tags = [{"Key": "skykoi:cluster", "Value": "c"}]
    for name in names:
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST, Tags=tags)
        iam.create_instance_profile(InstanceProfileName=name, Tags=tags)
    for operation, field, key in (
        ("list_roles", "Roles", "RoleName"),
        ("list_instance_profiles", "InstanceProfiles", "InstanceProfileName"),
    ):
        found, more = [], {}
        while True:
            page = getattr(iam, operation)(MaxItems=2, **more)
            assert len(page[field]) <= 2
            found += page[field]
            if not page["IsTruncated"]:
                break
            more = {"Marker": page["Marker"]}
        assert set(names) <= {item[key] for item in found}
        assert [item for item in found if item.get("Tags")] == []
    wait_for("its tags are told", lambda: iam.get_role(RoleName=names[0])["Role"].get("Tags") == tags, 5)
