"""Who may do what: signatures, sessions, policies, the bundle of an instance."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError
from conftest import EC2_TRUST, refused

ANY_INSTANCE = "*/${aws:ResourceTag/InstanceId}"
BUNDLES = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "ssm:GetParameter",
            "Resource": "arn:aws:ssm:us-east-1:123456789012:parameter/koi/demo/*",
            "Condition": {"StringLike": {"ec2:SourceInstanceARN": ANY_INSTANCE}},
        }
    ],
}


def _keys(world, name="operator"):
    found = json.loads((world.state_dir / "credentials.json").read_text())[name]
    return found["accessKeyId"], found["secretAccessKey"]


# signatures


def test_who_am_i(op_sts, world):
    identity = op_sts.get_caller_identity()
    assert identity["Account"] == "123456789012"
    assert identity["Arn"] == "arn:aws:iam::123456789012:user/koi-operator"


@pytest.mark.parametrize(
    ("service", "call", "unknown", "wrong"),
    [
        ("ec2", "describe_vpcs", ("AuthFailure", 401), ("AuthFailure", 401)),
        ("iam", "list_roles", ("InvalidClientTokenId", 403), ("SignatureDoesNotMatch", 403)),
        ("sts", "get_caller_identity", ("InvalidClientTokenId", 403), ("SignatureDoesNotMatch", 403)),
        ("ssm", "describe_parameters", ("UnrecognizedClientException", 400), ("InvalidSignatureException", 400)),
    ],
)
def test_wrong_keys(world, service, call, unknown, wrong):
    key, secret = _keys(world)
    with refused(*unknown):
        getattr(world.boto_with(service, "AKIANOBODYNOBODY0000", secret, None), call)()
    with refused(*wrong):
        getattr(world.boto_with(service, key, "wrong" + secret, None), call)()
    with refused(*unknown):
        getattr(world.boto_with(service, key, secret, "a token where none belongs"), call)()


def test_a_changed_body_does_not_pass(world):
    client = world.boto("ec2", "operator")

    def tamper(request, **_):
        request.body = request.body.replace("DescribeVpcs", "DescribeTags")

    client.meta.events.register("before-send", tamper)
    with pytest.raises(ClientError) as caught:
        client.describe_vpcs()
    assert caught.value.response["Error"]["Code"] == "AuthFailure"


def test_switched_off_and_switched_account(world, op_sts, op_ec2, launch):
    instance_id = launch.running()
    world.advance_clock(1)
    world.enable_operator(False)
    with refused("InvalidClientTokenId"):
        op_sts.get_caller_identity()
    world.enable_operator(True)
    world.switch_account("210987654321")
    assert op_sts.get_caller_identity()["Account"] == "210987654321"
    assert op_ec2.describe_instances()["Reservations"] == []
    with refused("InvalidInstanceID.NotFound"):
        op_ec2.describe_instances(InstanceIds=[instance_id])
    other = world.boto("ec2", "admin-other").describe_vpcs()["Vpcs"][0]
    assert other["OwnerId"] == "210987654321"
    world.switch_account("123456789012")
    assert op_ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]


# the operator's own policy


def test_operator_policy(world, op_ec2, op_iam, op_ssm, op_launch, fresh):
    allowed = {"Effect": "Allow", "Action": ["ec2:Describe*", "ssm:GetParameter"], "Resource": "*"}
    world.operator_policy({"Version": "2012-10-17", "Statement": [allowed]})
    op_ec2.describe_vpcs()
    with refused("UnauthorizedOperation", 403, says="ec2:RunInstances") as refusal:
        op_launch()
    assert "Encoded authorization failure message: " in refusal.message
    encoded = refusal.message.rsplit(": ", 1)[1]
    decoded = json.loads(world.boto("sts").decode_authorization_message(EncodedMessage=encoded)["DecodedMessage"])
    assert decoded["context"]["action"] == "ec2:RunInstances"
    with refused("AccessDenied", 403, says="iam:CreateRole"):
        op_iam.create_role(RoleName=fresh(), AssumeRolePolicyDocument=EC2_TRUST)
    with refused("AccessDeniedException", 400, says="ssm:PutParameter"):
        op_ssm.put_parameter(Name=f"/koi/{fresh()}", Value="v", Type="String")


def test_pass_role(world, op_launch, launch, op_ec2, profile):
    name = profile()
    base = [{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}]
    world.operator_policy({"Version": "2012-10-17", "Statement": base})
    with refused("UnauthorizedOperation", says="iam:PassRole"):
        op_launch(IamInstanceProfile={"Name": name})
    instance_id = launch.running()
    world.advance_clock(1)
    with refused("UnauthorizedOperation", says="iam:PassRole"):
        op_ec2.associate_iam_instance_profile(InstanceId=instance_id, IamInstanceProfile={"Name": name})
    other = {"Effect": "Allow", "Action": "iam:PassRole", "Resource": "arn:aws:iam::123456789012:role/someone-else"}
    world.operator_policy({"Version": "2012-10-17", "Statement": [*base, other]})
    with refused("UnauthorizedOperation", says="iam:PassRole"):
        op_launch(IamInstanceProfile={"Name": name})
    right = {
        "Effect": "Allow",
        "Action": "iam:PassRole",
        "Resource": f"arn:aws:iam::123456789012:role/{name}",
        "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
    }
    world.operator_policy({"Version": "2012-10-17", "Statement": [*base, right]})
    op_launch(IamInstanceProfile={"Name": name})


def test_claims_decide(world, op_ec2, op_launch, launch, fresh):
    """Create only with the claim tag, change only what carries it."""
    mine = {"StringEquals": {"aws:ResourceTag/skykoi:cluster": "demo"}}
    claim = {"StringEquals": {"aws:RequestTag/skykoi:cluster": "demo"}}
    created = ["arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:volume/*"]
    used = [f"arn:aws:ec2:*:*:{kind}/*" for kind in ("network-interface", "subnet", "security-group")]
    statements = [
        {"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"},
        {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": created, "Condition": claim},
        {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": [*used, "arn:aws:ec2:*::image/*"]},
        {
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": created,
            "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        },
        {"Effect": "Allow", "Action": "ec2:TerminateInstances", "Resource": "*", "Condition": mine},
    ]
    world.operator_policy({"Version": "2012-10-17", "Statement": statements})
    tags = [{"Key": "skykoi:cluster", "Value": "demo"}]
    both = [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")]
    with refused("UnauthorizedOperation"):
        op_launch()
    with refused("UnauthorizedOperation"):
        op_launch(TagSpecifications=both[:1])  # the volume lacks the claim
    instance_id = op_launch(TagSpecifications=both)
    foreign = launch.running()
    launch.wait(instance_id, "running")
    world.advance_clock(1)
    with refused("UnauthorizedOperation"):
        op_ec2.create_tags(Resources=[instance_id], Tags=tags)
    with refused("UnauthorizedOperation"):
        op_ec2.terminate_instances(InstanceIds=[foreign])
    with refused("UnauthorizedOperation"):
        op_ec2.terminate_instances(InstanceIds=[instance_id, foreign])
    op_ec2.terminate_instances(InstanceIds=[instance_id])


# instances and their bundles


def _bundle(ssm, instance_id, path="/koi/demo/uid"):
    name = f"{path}/{instance_id}"
    tags = [{"Key": "InstanceId", "Value": instance_id}]
    ssm.put_parameter(Name=name, Value="bundle", Type="SecureString", Tags=tags)
    return name


def test_an_instance_reads_its_own_bundle_and_no_other(world, launch, ssm, profile):
    name = profile(BUNDLES)
    mine, other = (launch.running(IamInstanceProfile={"Name": name}) for _ in range(2))
    bundle, foreign = _bundle(ssm, mine), _bundle(ssm, other)
    client = world.boto_of_instance("ssm", mine)
    assert client.get_parameter(Name=bundle, WithDecryption=True)["Parameter"]["Value"] == "bundle"
    for call in (
        lambda: client.get_parameter(Name=foreign, WithDecryption=True),
        lambda: client.get_parameter(Name="/koi/other/uid/x"),
        lambda: client.get_parameters(Names=[bundle]),
        lambda: client.get_parameters_by_path(Path="/koi/demo", Recursive=True),
        lambda: client.put_parameter(Name=bundle, Value="x", Type="SecureString", Overwrite=True),
        lambda: client.add_tags_to_resource(
            ResourceType="Parameter", ResourceId=foreign, Tags=[{"Key": "InstanceId", "Value": mine}]
        ),
    ):
        with refused("AccessDeniedException", 400):
            call()
    with refused("UnauthorizedOperation"):
        world.boto_of_instance("ec2", mine).describe_instances()


def test_a_parameter_that_is_not_there_is_denied_too(world, launch, profile):
    """Without the tag the condition does not hold: the instance cannot tell "not yet" from "not mine"."""
    instance_id = launch.running(IamInstanceProfile={"Name": profile(BUNDLES)})
    with refused("AccessDeniedException"):
        world.boto_of_instance("ssm", instance_id).get_parameter(Name=f"/koi/demo/uid/{instance_id}")


def test_the_same_role_outside_an_instance_reads_nothing(world, ssm, iam, launch, profile, fresh):
    name = profile(BUNDLES)
    instance_id = launch.running(IamInstanceProfile={"Name": name})
    bundle = _bundle(ssm, instance_id)
    trust = json.loads(EC2_TRUST)
    account = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "sts:AssumeRole"}
    trust["Statement"].append(account)
    iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust))
    arn = iam.get_role(RoleName=name)["Role"]["Arn"]
    keys = world.boto("sts", "operator").assume_role(RoleArn=arn, RoleSessionName="thief")["Credentials"]
    thief = world.boto_with("ssm", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    with refused("AccessDeniedException"):
        thief.get_parameter(Name=bundle)


def test_explicit_deny_and_boundary(world, launch, ssm, iam, profile, fresh):
    everything = {"Effect": "Allow", "Action": "ssm:*", "Resource": "*"}
    deny = {"Effect": "Deny", "Action": "ssm:GetParameter", "Resource": "arn:aws:ssm:*:*:parameter/*/secret"}
    ssm.put_parameter(Name="/boundary/open", Value="o", Type="String")
    ssm.put_parameter(Name="/boundary/secret", Value="s", Type="String")
    name = profile({"Version": "2012-10-17", "Statement": [everything, deny]})
    client = world.boto_of_instance("ssm", launch.running(IamInstanceProfile={"Name": name}))
    client.get_parameter(Name="/boundary/open")
    with refused("AccessDeniedException", says="explicit deny"):
        client.get_parameter(Name="/boundary/secret")
    only_put = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ssm:Put*", "Resource": "*"}]}
    boundary = iam.create_policy(PolicyName=fresh(), PolicyDocument=json.dumps(only_put))["Policy"]["Arn"]
    bounded = profile({"Version": "2012-10-17", "Statement": [everything]}, boundary=boundary)
    client = world.boto_of_instance("ssm", launch.running(IamInstanceProfile={"Name": bounded}))
    with refused("AccessDeniedException"):
        client.get_parameter(Name="/boundary/open")
    client.put_parameter(Name="/boundary/new", Value="n", Type="String")


def test_policies_of_a_role_propagate(world, launch, iam, ssm, profile):
    world.settings(iam_lag=30)
    ssm.put_parameter(Name="/propagation/x", Value="v", Type="String")
    name = profile()
    world.advance_clock(31)
    instance_id = launch.running(IamInstanceProfile={"Name": name})
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ssm:*", "Resource": "*"}]}
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(allow))
    client = world.boto_of_instance("ssm", instance_id)
    with refused("AccessDeniedException"):
        client.get_parameter(Name="/propagation/x")
    world.advance_clock(31)
    client.get_parameter(Name="/propagation/x")


def test_role_credentials_expire_and_are_renewed(world, launch, profile):
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    instance_id = launch.running(IamInstanceProfile={"Name": profile(allow)})
    clients = {service: world.boto_of_instance(service, instance_id) for service in ("ssm", "ec2", "sts")}
    arn = clients["sts"].get_caller_identity()["Arn"]
    assert arn.startswith("arn:aws:sts::123456789012:assumed-role/") and arn.endswith(f"/{instance_id}")
    world.advance_clock(6 * 3600 + 1)
    with refused("ExpiredTokenException"):
        clients["ssm"].describe_parameters()
    with refused("RequestExpired"):
        clients["ec2"].describe_vpcs()
    with refused("ExpiredToken"):
        clients["sts"].get_caller_identity()
    world.boto_of_instance("ssm", instance_id).describe_parameters()


def test_role_credentials_need_their_token(world, launch, profile):
    instance_id = launch.running(IamInstanceProfile={"Name": profile()})
    keys = world.metadata(instance_id)["tree"]["iam"]["security-credentials"]
    document = next(iter(keys.values()))
    for token in (None, "wrong"):
        client = world.boto_with("sts", document["AccessKeyId"], document["SecretAccessKey"], token)
        with refused("InvalidClientTokenId"):
            client.get_caller_identity()


# assuming roles


def test_assume_role_needs_trust(world, op_sts, iam, fresh):
    name = fresh("assumed")
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)["Role"]["Arn"]
    with refused("AccessDenied", 403, says="sts:AssumeRole"):
        op_sts.assume_role(RoleArn=arn, RoleSessionName="koi")
    with refused("AccessDenied"):
        op_sts.assume_role(RoleArn=arn + "-missing", RoleSessionName="koi")
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::123456789012:user/koi-operator"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": "right"}},
    }
    iam.update_assume_role_policy(
        RoleName=name, PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    for more in ({}, {"ExternalId": "wrong"}):
        with refused("AccessDenied"):
            op_sts.assume_role(RoleArn=arn, RoleSessionName="koi", **more)
    with refused("ValidationError"):
        op_sts.assume_role(RoleArn=arn, RoleSessionName="koi", ExternalId="right", DurationSeconds=7200)
    keys = op_sts.assume_role(RoleArn=arn, RoleSessionName="koi", ExternalId="right")["Credentials"]
    client = world.boto_with("sts", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    assert client.get_caller_identity()["Arn"] == f"arn:aws:sts::123456789012:assumed-role/{name}/koi"


def test_assume_role_in_another_account(world, op_sts, fresh):
    name = fresh("cross")
    trust = {"Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"}
    other_iam = world.boto("iam", "admin-other")
    role = other_iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )["Role"]
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}]}
    other_iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(allow))
    world.advance_clock(1)
    keys = op_sts.assume_role(RoleArn=role["Arn"], RoleSessionName="koi")["Credentials"]
    client = world.boto_with("ec2", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    assert client.describe_vpcs()["Vpcs"][0]["OwnerId"] == "210987654321"
    narrow = {"Version": "2012-10-17", "Statement": [{**allow["Statement"][0], "Action": "ec2:DescribeSubnets"}]}
    session = op_sts.assume_role(RoleArn=role["Arn"], RoleSessionName="koi", Policy=json.dumps(narrow))["Credentials"]
    client = world.boto_with("ec2", session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])
    client.describe_subnets()
    with refused("UnauthorizedOperation"):
        client.describe_vpcs()


def test_public_parameters_belong_to_no_account(world, op_ssm):
    canonical = "arn:aws:ssm:*::parameter/aws/service/canonical/ubuntu/*"
    statement = {"Effect": "Allow", "Action": "ssm:GetParameter", "Resource": canonical}
    world.operator_policy({"Version": "2012-10-17", "Statement": [statement]})
    name = world.ready().ssm_parameters[0]
    assert op_ssm.get_parameter(Name=name)["Parameter"]["Value"] == world.ready().ubuntu
    with refused("AccessDeniedException"):
        op_ssm.get_parameter(Name="/koi/demo/owner")
