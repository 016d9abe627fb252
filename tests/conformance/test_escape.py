"""What whoever has the operator's keys can make of them by taking a role: nothing of others, and with a boundary nothing at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import EC2_TRUST, refused
from world.paths import ROOT

ACCOUNT, CLUSTER = "123456789012", "demo"
OPERATOR = f"arn:aws:iam::{ACCOUNT}:user/koi-operator"
FILES = ROOT / "charts" / "koi-operator" / "files"
CLAIM = [{"Key": "skykoi:cluster", "Value": CLUSTER}]
EVERYTHING = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})


def document(name: str) -> dict[str, Any]:
    """A policy of the chart with its placeholders filled in, as its README says."""
    text = (FILES / name).read_text()
    facts = {"partition": "aws", "account": ACCOUNT, "cluster_id": CLUSTER, "cluster_id_24": CLUSTER}
    for placeholder, value in facts.items():
        text = text.replace(f"${{{placeholder}}}", value)
    return json.loads(text)


def bounded(boundary: str) -> dict[str, Any]:
    """The operator's policy with the boundary demanded, as the README describes it."""
    policy = document("iam-policy.json")
    for sid, action in (("MakeIdentity", "iam:CreateRole"), ("HandleIdentity", "iam:PutRolePolicy")):
        (whole,) = [statement for statement in policy["Statement"] if statement["Sid"] == sid]
        whole["Action"].remove(action)
        equal = {**whole["Condition"]["StringEquals"], "iam:PermissionsBoundary": boundary}
        policy["Statement"].append(
            {**whole, "Sid": f"{sid}Bounded", "Action": action, "Condition": {"StringEquals": equal}}
        )
    return policy


def trusting(principal: str) -> str:
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture(autouse=True)
def at_once(world) -> None:
    """What was just made is there for everybody."""
    world.settings(iam_lag=0, iam_flicker=0)


@pytest.fixture
def boundary(iam, fresh) -> str:
    return iam.create_policy(PolicyName=fresh(), PolicyDocument=json.dumps(document("agent-boundary.json")))["Policy"][
        "Arn"
    ]


def test_a_role_that_trusts_the_account_is_not_the_operators_to_take(world, op_sts, iam, fresh):
    """An administrator's role, as accounts have them; and one that is made for the operator's own agents."""
    world.operator_policy(document("iam-policy.json"))
    for name in (fresh("admin"), fresh(f"koi-{CLUSTER}")):
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusting(f"arn:aws:iam::{ACCOUNT}:root"))["Role"][
            "Arn"
        ]
        with refused("AccessDenied", 403, says="sts:AssumeRole"):
            op_sts.assume_role(RoleArn=arn, RoleSessionName="thief")
    agents = iam.create_role(RoleName=fresh(f"koi-{CLUSTER}"), AssumeRolePolicyDocument=EC2_TRUST)["Role"]["Arn"]
    with refused("AccessDenied", 403, says="sts:AssumeRole"):
        op_sts.assume_role(RoleArn=agents, RoleSessionName="thief")


def test_what_others_trust_cannot_be_turned_to_the_operator(world, op_iam, iam, fresh):
    world.operator_policy(document("iam-policy.json"))
    for name in (fresh("admin"), fresh(f"koi-{CLUSTER}")):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)
        with refused("AccessDenied", 403):
            op_iam.update_assume_role_policy(RoleName=name, PolicyDocument=trusting(OPERATOR))
        with refused("AccessDenied", 403):
            op_iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=EVERYTHING)
        with refused("AccessDenied", 403):
            op_iam.attach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    with refused("AccessDenied", 403):
        op_iam.create_role(RoleName=fresh("mine"), AssumeRolePolicyDocument=trusting(OPERATOR), Tags=CLAIM)


def test_without_a_boundary_the_keys_are_worth_a_role_of_their_own(world, op_iam, op_sts, iam, fresh):
    """What the README warns of: nothing in IAM says what a policy may say."""
    world.operator_policy(document("iam-policy.json"))
    name = fresh(f"koi-{CLUSTER}")
    arn = op_iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusting(OPERATOR), Tags=CLAIM)["Role"]["Arn"]
    op_iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=EVERYTHING)
    keys = op_sts.assume_role(RoleArn=arn, RoleSessionName="thief")["Credentials"]
    thief = world.boto_with("iam", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    assert thief.list_users()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_with_a_boundary_a_role_of_their_own_is_worth_nothing(world, op_iam, op_sts, iam, boundary, fresh):
    world.operator_policy(bounded(boundary))
    name = fresh(f"koi-{CLUSTER}")
    with refused("AccessDenied", 403, says="iam:CreateRole"):
        op_iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusting(OPERATOR), Tags=CLAIM)
    other = iam.create_policy(PolicyName=fresh(), PolicyDocument=EVERYTHING)["Policy"]["Arn"]
    with refused("AccessDenied", 403, says="iam:CreateRole"):
        op_iam.create_role(
            RoleName=name, AssumeRolePolicyDocument=trusting(OPERATOR), Tags=CLAIM, PermissionsBoundary=other
        )
    # One from before the boundary was demanded.
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusting(OPERATOR), Tags=CLAIM)
    with refused("AccessDenied", 403, says="iam:PutRolePolicy"):
        op_iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=EVERYTHING)

    own = fresh(f"koi-{CLUSTER}")
    arn = op_iam.create_role(
        RoleName=own, AssumeRolePolicyDocument=trusting(OPERATOR), Tags=CLAIM, PermissionsBoundary=boundary
    )["Role"]["Arn"]
    op_iam.put_role_policy(RoleName=own, PolicyName="p", PolicyDocument=EVERYTHING)
    with refused("AccessDenied", 403):
        op_iam.delete_role_permissions_boundary(RoleName=own)
    keys = op_sts.assume_role(RoleArn=arn, RoleSessionName="thief")["Credentials"]
    thief = {
        service: world.boto_with(service, keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
        for service in ("iam", "ec2", "ssm")
    }
    with refused("AccessDenied", 403):
        thief["iam"].list_users()
    with refused("UnauthorizedOperation"):
        thief["ec2"].describe_instances()
    world.boto("ssm").put_parameter(Name=f"/koi/{CLUSTER}/uid/i-1", Value="v", Type="String", Overwrite=True)
    with refused("AccessDeniedException"):
        thief["ssm"].get_parameter(Name=f"/koi/{CLUSTER}/uid/i-1")


def test_within_the_boundary_agents_read_their_bundles(world, ssm, launch, profile, boundary):
    own = f"arn:aws:ssm:*:*:parameter/koi/{CLUSTER}/*"
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ssm:GetParameter", "Resource": own}]}
    instance = launch.running(IamInstanceProfile={"Name": profile(allow, boundary=boundary)})
    ssm.put_parameter(Name=f"/koi/{CLUSTER}/uid/{instance}", Value="v", Type="SecureString")
    client = world.boto_of_instance("ssm", instance)
    assert client.get_parameter(Name=f"/koi/{CLUSTER}/uid/{instance}")["Parameter"]["Name"]
