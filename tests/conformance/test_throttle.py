"""Token buckets for each action."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from conftest import EC2_TRUST, refused
from world.cloud.client import wait_for


@pytest.fixture(autouse=True)
def throttled(world, restored):
    world.refill_throttle()
    world.settings(throttle=True)


def _until_refused(call, most):
    """How many calls pass before one is refused."""
    for count in range(most):
        try:
            call()
        except ClientError as error:
            return count, error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    return most, None, None


def test_launches(op_launch):
    passed, code, status = _until_refused(op_launch, 12)
    assert (code, status) == ("RequestLimitExceeded", 503)
    assert 5 <= passed <= 9


def test_other_actions_have_their_own_bucket(op_launch, op_ec2):
    _until_refused(op_launch, 12)
    op_ec2.describe_vpcs()
    op_ec2.describe_instances(MaxResults=1000)


def test_bare_listings_cost_more(op_ec2, world):
    # Buckets of one and two that take five seconds to fill by one: however slow a listing is, it empties them.
    world.settings(throttle_scale=0.02)
    world.refill_throttle()
    bare, code, _ = _until_refused(op_ec2.describe_instances, 30)
    assert code == "RequestLimitExceeded"
    paged, _, _ = _until_refused(lambda: op_ec2.describe_instances(MaxResults=1000), 30)
    assert paged > bare


def test_instances_count_too(op_launch, world):
    """One request for more instances than the resource bucket holds."""
    world.settings(throttle_scale=0.001)
    with refused("RequestLimitExceeded", 503):
        op_launch(MinCount=2, MaxCount=2)


def test_iam_and_ssm_have_their_own_words(op_iam, op_ssm, world, fresh):
    world.settings(throttle_scale=0.1)
    world.refill_throttle()

    def role():
        op_iam.create_role(RoleName=fresh("role"), AssumeRolePolicyDocument=EC2_TRUST)

    def put():
        op_ssm.put_parameter(Name=f"/throttle/{fresh()}", Value="v", Type="String")

    assert _until_refused(role, 10)[1:] == ("Throttling", 400)
    assert _until_refused(put, 10)[1:] == ("ThrottlingException", 400)


def test_buckets_refill(op_launch):
    assert _until_refused(op_launch, 12)[1] == "RequestLimitExceeded"

    def again():
        try:
            return op_launch()
        except ClientError:
            return None

    wait_for("a launch passes again", again)


def test_the_admin_is_never_throttled(launch, world, ec2):
    world.settings(throttle_scale=0.01)
    for _ in range(10):
        ec2.describe_instances()


def test_it_can_be_switched_off(op_ec2, world):
    world.settings(throttle=False, throttle_scale=0.001)
    for _ in range(5):
        op_ec2.describe_instances()
