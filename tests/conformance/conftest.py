"""One cloud without machines for the whole session; every test makes its own things."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from world.cloud.client import CloudClient, wait_for

TESTS = pathlib.Path(__file__).resolve().parents[1]
TRANSIT, IAM_LAG, READ_LAG = 0.2, 0.6, 0.3
EC2_TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
        ],
    }
)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudClient]:
    state = tmp_path_factory.mktemp("cloud")
    command = [sys.executable, "-m", "world.cloud", "--name", "conformance", "--state", str(state), "--port", "0"]
    command += ["--host", "127.0.0.1", "--driver", "none", "--no-throttle", "--transit", str(TRANSIT)]
    command += ["--iam-lag", str(IAM_LAG), "--read-lag", str(READ_LAG)]
    with (state / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=TESTS, env={"PYTHONPATH": str(TESTS)}, stdout=log, stderr=log)
    try:
        port = wait_for("the cloud says its port", lambda: _port(process, state), 30)
        client = CloudClient(f"http://127.0.0.1:{port}", state)
        client.wait_ready()
        yield client
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0, (state / "log").read_text()[-3000:]


def _port(process: subprocess.Popen[bytes], state: pathlib.Path) -> str | None:
    if process.poll() is not None:
        raise RuntimeError((state / "log").read_text())
    path = state / "port"
    return path.read_text().strip() if path.exists() and path.read_text().strip() else None


@pytest.fixture(autouse=True)
def restored(world: CloudClient) -> Iterator[None]:
    """Whatever a test sets, injects or switches ends with it."""
    settings = world.settings()
    yield
    for hold in world.holds():
        world.release(hold.id)
    world.clear_faults()
    world.operator_policy(None)
    world.switch_account("123456789012")
    world.enable_operator(True)
    world.settings(**settings)
    world.refill_throttle()


class Refusal:
    """What a refused call said."""

    code = message = ""
    status = 0


@contextlib.contextmanager
def refused(code: str, status: int | None = None, says: str = "") -> Iterator[Refusal]:
    """The call inside must be refused with this code (and status, and words)."""
    refusal = Refusal()
    with pytest.raises(ClientError) as caught:
        yield refusal
    error = caught.value.response
    refusal.code, refusal.message = error["Error"]["Code"], error["Error"].get("Message", "")
    refusal.status = error["ResponseMetadata"]["HTTPStatusCode"]
    assert refusal.code == code, f"{refusal.code}: {refusal.message}"
    if status is not None:
        assert refusal.status == status, f"{refusal.code} came with {refusal.status}"
    assert says.lower() in refusal.message.lower(), refusal.message


# clients


@pytest.fixture(scope="session")
def ec2(world: CloudClient) -> Any:
    """The admin's: no lag, no throttling."""
    return world.boto("ec2")


@pytest.fixture(scope="session")
def unchecked_ec2(world: CloudClient) -> Any:
    """The admin's, without boto3's own look at the parameters."""
    return world.boto("ec2", check=False)


@pytest.fixture(scope="session")
def iam(world: CloudClient) -> Any:
    return world.boto("iam")


@pytest.fixture(scope="session")
def ssm(world: CloudClient) -> Any:
    return world.boto("ssm")


@pytest.fixture(scope="session")
def op_ec2(world: CloudClient) -> Any:
    """The operator's: lag and throttling as in AWS."""
    return world.boto("ec2", "operator")


@pytest.fixture(scope="session")
def op_iam(world: CloudClient) -> Any:
    return world.boto("iam", "operator")


@pytest.fixture(scope="session")
def op_ssm(world: CloudClient) -> Any:
    return world.boto("ssm", "operator")


@pytest.fixture(scope="session")
def op_sts(world: CloudClient) -> Any:
    return world.boto("sts", "operator")


@pytest.fixture
def frozen(world: CloudClient) -> Any:
    """From its call on, what is in transit stays so until the test moves time with what the call returned."""

    def freeze() -> Any:
        world.settings(transit=600, read_lag=600, tag_lag=600, status_checks=600)
        return lambda: world.advance_clock(601)

    return freeze


# things


_numbers = itertools.count(1)


@pytest.fixture
def fresh() -> Any:
    """A name that no other test has."""
    return lambda prefix="thing": f"{prefix}-{next(_numbers)}"


@pytest.fixture(scope="session")
def ami(world: CloudClient) -> str:
    return world.ready().ubuntu


@pytest.fixture(scope="session")
def subnets(ec2: Any) -> list[dict[str, Any]]:
    return sorted(ec2.describe_subnets()["Subnets"], key=lambda s: s["AvailabilityZone"])


@pytest.fixture
def group(ec2: Any, fresh: Any) -> str:
    return ec2.create_security_group(GroupName=fresh("group"), Description="of a test")["GroupId"]


class Launcher:
    """Launches, looks and waits as one principal."""

    def __init__(self, client: Any, defaults: dict[str, Any]) -> None:
        self.client = client
        self.defaults = defaults

    def request(self, **more: Any) -> dict[str, Any]:
        return {**self.defaults, **more}

    def __call__(self, **more: Any) -> str:
        return self.client.run_instances(**self.request(**more))["Instances"][0]["InstanceId"]

    def running(self, **more: Any) -> str:
        return self.wait(self(**more), "running")

    def stopped(self, **more: Any) -> str:
        instance_id = self.running(**more)
        self.client.stop_instances(InstanceIds=[instance_id])
        return self.wait(instance_id, "stopped")

    def look(self, instance_id: str) -> dict[str, Any]:
        return self.client.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]

    def state(self, instance_id: str) -> str:
        return self.look(instance_id)["State"]["Name"]

    def wait(self, instance_id: str, state: str) -> str:
        wait_for(f"{instance_id} is {state}", lambda: self.state(instance_id) == state)
        return instance_id

    def gone(self, *instance_ids: str) -> None:
        self.client.terminate_instances(InstanceIds=list(instance_ids))
        for instance_id in instance_ids:
            self.wait(instance_id, "terminated")


@pytest.fixture
def launch(ec2: Any, ami: str) -> Launcher:
    return Launcher(ec2, {"ImageId": ami, "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1})


@pytest.fixture
def op_launch(op_ec2: Any, launch: Launcher) -> Launcher:
    return Launcher(op_ec2, launch.defaults)


@pytest.fixture
def profile(iam: Any, fresh: Any, world: CloudClient) -> Any:
    """Makes an instance profile with a role (and policy) that EC2 knows already."""

    def make(document: dict[str, Any] | None = None, boundary: str | None = None) -> str:
        name = fresh("profile")
        more = {"PermissionsBoundary": boundary} if boundary else {}
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST, **more)
        if document:
            iam.put_role_policy(RoleName=name, PolicyName="main", PolicyDocument=json.dumps(document))
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        world.advance_clock(world.settings()["iam_lag"] + 0.1)
        return name

    return make
