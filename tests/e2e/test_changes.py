"""Changes of agents that are there, rotation, last snapshots, and what is left over."""

from __future__ import annotations

import base64
import datetime
import ssl
import threading
from collections.abc import Callable

import pytest
import requests
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scenario.gateway import Gateway, GatewayRefusal
from scenario.kube import condition
from scenario.stage import CLUSTER_ID, METRICS_PORT, Operator, Stage
from scenario.wait import until

SHARED_TEARDOWN = {
    "DeleteSecurityGroup",
    "RemoveRoleFromInstanceProfile",
    "DeleteInstanceProfile",
    "DeleteRolePolicy",
    "DeleteRole",
}
TREASURE = "/home/ubuntu/koi/treasure"


def apply_plan(stage: Stage, name: str, **spec: object) -> None:
    stage.apply({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": {"name": name}, "spec": spec})


def planned(stage: Stage, name: str) -> dict:
    return stage.agent(name)["status"].get("plannedAction") or {}


def annotate(stage: Stage, name: str, **annotations: str | None) -> None:
    named = {f"skykoi.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    stage.kube.patch_agent(name, {"metadata": {"annotations": named}})


def data_of(stage: Stage, agent: dict) -> dict[str, bytes]:
    secret = stage.kube.secret(agent["status"]["gateway"]["tokenSecretName"])
    assert secret
    return secret


def test_what_a_plan_changes_waits_and_a_suspension_brings_it(stage: Stage, new_agent: Callable[..., str]) -> None:
    """The plan's new type waits for consent; the next start has it, with the same machine, token, certificate and data."""
    apply_plan(stage, "types", defaults={"instance": {"type": "t3.small"}})
    name = new_agent(planRef={"name": "types"})
    before = stage.wait_ready(name)
    secret = data_of(stage, before)
    stage.machine(name).sh(f"echo kept > {TREASURE} && sync")
    apply_plan(stage, "types", defaults={"instance": {"type": "t3.medium"}})
    until("the change is announced", lambda: planned(stage, name).get("kind") == "StopStart", 20)
    assert "allow-disruption-until" in planned(stage, name)["waitingFor"]
    assert condition(stage.agent(name), "Ready")["status"] == "True"
    assert condition(stage.agent(name), "Reconciling")["reason"] == "WaitingForDisruption"

    stage.kube.patch_agent(name, {"spec": {"power": "Suspended"}})
    agent = stage.wait_condition(name, "Suspended", seconds=60)
    assert condition(agent, "Ready") is None, "an agent at rest is neither ready nor not"
    assert stage.cloud.instance(agent["status"]["instance"]["id"]).state == "stopped"
    stage.kube.patch_agent(name, {"spec": {"power": "Running"}})
    after = stage.wait_ready(name, seconds=90)
    assert after["status"]["instance"]["id"] == before["status"]["instance"]["id"]
    assert after["status"]["instance"]["type"] == "t3.medium"
    assert data_of(stage, after) == secret
    assert stage.machine(name).sh(f"cat {TREASURE}") == "kept\n"
    until("the plan is carried out", lambda: not planned(stage, name), 20)


def test_the_agents_own_image_replaces_it_at_once_and_keeps_the_volume(
    stage: Stage, new_agent: Callable[..., str]
) -> None:
    images = stage.cloud.ready()
    name = new_agent(instance={"image": {"id": images.ubuntu}})
    before = stage.wait_ready(name)
    stage.machine(name).sh(f"echo kept > {TREASURE} && sync")
    stage.kube.patch_agent(name, {"spec": {"instance": {"image": {"id": images.baked}}}})
    seen = until("the replacement is announced", lambda: planned(stage, name).get("kind") and planned(stage, name), 20)
    assert seen["kind"] == "Replace" and images.baked in seen["reason"] and "waitingFor" not in seen
    until("it began", lambda: condition(stage.agent(name), "Ready")["status"] == "False", 30)
    after = stage.wait_ready(name, seconds=120)
    assert after["status"]["instance"]["id"] != before["status"]["instance"]["id"]
    assert after["status"]["instance"]["imageId"] == images.baked
    assert after["status"]["volume"]["id"] == before["status"]["volume"]["id"]
    assert data_of(stage, after) == data_of(stage, before)
    assert stage.machine(name).sh(f"cat {TREASURE}") == "kept\n"
    until("the plan is carried out", lambda: not planned(stage, name), 20)


def test_a_suspended_agent_is_not_launched(stage: Stage, new_agent: Callable[..., str]) -> None:
    since = stage.cloud.next_call()
    agent = stage.wait_condition(new_agent(power="Suspended"), "Suspended", seconds=20)
    assert condition(agent, "Ready") is None and "instance" not in agent["status"]
    assert not stage.cloud.calls(since, action="RunInstances")


class Hammer:
    """A user who reads the Secret and connects with what it says, again and again; and one who keeps the first token."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage, self.name, self.tries, self.failures = stage, name, 0, []
        self.agent = stage.agent(name)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def connect(self, token: bytes | None = None) -> None:
        secret = data_of(self.stage, self.agent)
        address = self.agent["status"]["gateway"]["endpoint"].removeprefix("wss://")
        used = (token or secret["token"]).decode()
        name = f"{self.agent['metadata']['uid']}.koi.internal"
        Gateway(address, used, secret["tls.crt"].decode(), name).close()

    def _run(self) -> None:
        while not self._end.wait(0.05):
            self.tries += 1
            try:
                self.connect()
            except Exception as error:
                self.failures.append(f"try {self.tries}: {error!r}")

    def __enter__(self) -> Hammer:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join(20)


def patch_secret(stage: Stage, agent: dict, patch: dict) -> None:
    name = agent["status"]["gateway"]["tokenSecretName"]
    stage.kube.request("PATCH", f"api/v1/namespaces/default/secrets/{name}", patch, "application/merge-patch+json")


def certificate(uid: str, days_old: int, days_left: int) -> tuple[str, str]:
    """A certificate for an agent, with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"{uid}.koi.internal"
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "worn")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=days_old))
        .not_valid_after(now + datetime.timedelta(days=days_left))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_token_and_a_certificate_rotate_and_nobody_is_shut_out(stage: Stage, new_agent: Callable[..., str]) -> None:
    name = new_agent()
    agent = stage.wait_ready(name)
    ready = condition(agent, "Ready")
    first = data_of(stage, agent)
    long_ago = {"metadata": {"annotations": {"skykoi.io/rotated-at": "2020-01-01T00:00:00Z"}}}
    with Hammer(stage, name) as hammer:
        annotate(stage, name, rotate_token="once")
        until("the new token took over", lambda: data_of(stage, agent)["token"] != first["token"], 40)
        second = data_of(stage, agent)
        assert second["previousToken"] == first["token"]
        hammer.connect(first["token"])
        patch_secret(stage, agent, long_ago)
        until("the old token is dropped", lambda: "previousToken" not in data_of(stage, agent), 40)

        # A certificate past two thirds of its time, put there as a renewal would: the one that is presented stands behind it.
        worn, key = certificate(agent["metadata"]["uid"], days_old=300, days_left=65)
        both = encoded(worn + first["tls.crt"].decode())
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        notes = {"annotations": {"skykoi.io/rotated-at": now}}
        patch_secret(stage, agent, {"metadata": notes, "data": {"tls.crt": both, "tls.key": encoded(key)}})
        address = hammer.agent["status"]["gateway"]["endpoint"].removeprefix("wss://")

        def presented() -> str:
            return ssl.get_server_certificate((address, 443))

        until("the worn certificate is presented", lambda: presented().split() == worn.split(), 40)
        patch_secret(stage, agent, {"metadata": {"annotations": {"skykoi.io/rotated-at": None}}})
        until("it is renewed", lambda: data_of(stage, agent)["tls.crt"].decode().endswith(worn), 40)
        until("the new one is presented", lambda: presented().split() != worn.split(), 40)
        patch_secret(stage, agent, long_ago)
        until("the old one is dropped", lambda: worn not in data_of(stage, agent)["tls.crt"].decode(), 40)
        tries = hammer.tries
        until("a few more tries", lambda: hammer.tries > tries + 5, 20)
    assert hammer.failures == [] and hammer.tries > 20
    assert condition(stage.agent(name), "Ready") == ready, "Ready never turned"
    assert stage.agent(name)["status"]["gateway"]["observedTokenRotation"] == "once"

    # Few failures: a gateway locks out who fails too often, and here everybody comes from one address.
    with pytest.raises(GatewayRefusal):
        hammer.connect(first["token"])

    def taken() -> bool:
        return stage.machine(name).sh("cat /run/skykoi/token").strip().encode() == data_of(stage, agent)["token"]

    # Edited by hand: the operator pushes it. Deleted: made anew. Ready stays.
    patch_secret(stage, agent, {"data": {"token": encoded("a-token-of-my-own-choice")}})
    until("the edited token is pushed", taken, 40)
    hammer.connect(b"a-token-of-my-own-choice")
    stage.kube.request("DELETE", f"api/v1/namespaces/default/secrets/{agent['status']['gateway']['tokenSecretName']}")
    made = until("it is made anew", lambda: stage.kube.secret(agent["status"]["gateway"]["tokenSecretName"]), 20)
    assert made["token"] != b"a-token-of-my-own-choice" and made["tls.crt"] != first["tls.crt"]
    until("the new token is pushed", taken, 40)
    until("the new certificate is presented", lambda: presented().split() == made["tls.crt"].decode().split(), 20)
    hammer.connect()
    assert condition(stage.agent(name), "Ready")["lastTransitionTime"] == ready["lastTransitionTime"]


def test_a_certificate_that_ended_while_the_agent_slept_is_renewed_before_it_wakes(
    stage: Stage, new_agent: Callable[..., str]
) -> None:
    name = new_agent()
    agent = stage.wait_ready(name)
    stage.kube.patch_agent(name, {"spec": {"power": "Suspended"}})
    stage.wait_condition(name, "Suspended", "True", 60)
    ended, key = certificate(agent["metadata"]["uid"], days_old=365, days_left=-1)
    patch_secret(stage, agent, {"data": {"tls.crt": encoded(ended), "tls.key": encoded(key)}})
    since = stage.cloud.next_call()
    stage.kube.patch_agent(name, {"spec": {"power": "Running"}})
    awake = stage.wait_ready(name)
    certificates = data_of(stage, agent)["tls.crt"].decode()
    assert certificates.endswith(ended) and certificates != ended
    address = awake["status"]["gateway"]["endpoint"].removeprefix("wss://")
    assert certificates.startswith(ssl.get_server_certificate((address, 443)).strip())
    assert stage.cloud.calls(since, principal="operator", action="RebootInstances") == []


def test_the_last_snapshot_is_known_by_name_and_a_new_agent_starts_from_it(
    stage: Stage, new_agent: Callable[..., str]
) -> None:
    name = new_agent(storage={"deletionPolicy": "Snapshot"})
    agent = stage.wait_ready(name)
    volume, uid = agent["status"]["volume"]["id"], agent["metadata"]["uid"]
    stage.machine(name).sh(f"echo kept > {TREASURE} && sync")
    stage.kube.delete_agent(name)
    stage.wait_gone(name, seconds=90)
    ec2 = stage.cloud.boto("ec2")
    found = ec2.describe_snapshots(OwnerIds=["self"], Filters=[{"Name": "volume-id", "Values": [volume]}])["Snapshots"]
    assert [snapshot["State"] for snapshot in found] == ["completed"]
    tags = {tag["Key"]: tag["Value"] for tag in found[0]["Tags"]}
    assert (tags["skykoi:agent-uid"], tags["skykoi:last-snapshot"]) == (uid, "true")
    assert any(found[0]["SnapshotId"] in (event.get("note") or "") for event in stage.kube.events(name))
    with pytest.raises(ClientError, match=r"InvalidVolume\.NotFound"):
        ec2.describe_volumes(VolumeIds=[volume])
    restored = new_agent(
        storage={"deletionPolicy": "Delete", "restoreFrom": {"snapshotId": found[0]["SnapshotId"]}},
    )
    stage.wait_ready(restored, seconds=90)
    assert stage.machine(restored).sh(f"cat {TREASURE}") == "kept\n"
    ec2.delete_snapshot(SnapshotId=found[0]["SnapshotId"])


def orphans() -> dict[str, int]:
    text = requests.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=5).text
    lines = [line for line in text.splitlines() if line.startswith("koi_orphans{")]
    return {line.split('"')[1]: int(line.rsplit(" ", 1)[1]) for line in lines}


def free_volume(stage: Stage, uid: str, policy: str | None) -> str:
    """A volume that looks as if an agent had left it."""
    tags = {"skykoi:cluster": CLUSTER_ID, "skykoi:agent-uid": uid, "skykoi:agent": "default/gone"}
    tags |= {"skykoi:deletion-policy": policy} if policy else {}
    zone = stage.cloud.boto("ec2").describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    made = stage.cloud.boto("ec2").create_volume(
        AvailabilityZone=zone, Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": listed}]
    )
    return made["VolumeId"]


def test_force_leaves_things_that_are_told_and_then_reaped(
    stage: Stage, operator: Operator, new_agent: Callable[..., str]
) -> None:
    name = new_agent()
    agent = stage.wait_ready(name)
    instance, volume = agent["status"]["instance"]["id"], agent["status"]["volume"]["id"]
    bundle = f"/koi/{CLUSTER_ID}/{agent['metadata']['uid']}/{instance}"
    annotate(stage, name, force_delete="true")
    stage.kube.delete_agent(name)
    stage.wait_gone(name, seconds=20)
    note = next(event["note"] for event in stage.kube.events(name) if event["action"] == "Abandon")
    assert instance in note and volume in note and bundle in note
    assert stage.cloud.instance(instance).state == "running", "force touches nothing"
    kept = free_volume(stage, "0-gone", "Retain")
    silent = free_volume(stage, "0-gone", None)
    saved = free_volume(stage, "0-gone", "Snapshot")
    until("the orphans are counted", lambda: orphans()["instance"] == 1 and orphans()["volume"] == 2, 30, seen=orphans)
    since = stage.cloud.next_call()

    operator.stop()
    stage.start_operator("--reap", "delete", "--reap-grace", "3s")
    ec2 = stage.cloud.boto("ec2")

    def left() -> set[str]:
        found = ec2.describe_volumes(
            Filters=[{"Name": "tag:skykoi:agent-uid", "Values": ["0-gone", agent["metadata"]["uid"]]}]
        )
        return {item["VolumeId"] for item in found["Volumes"]}

    until("what may go is gone", lambda: left() == {kept, silent}, 90, seen=left)
    assert stage.cloud.instance(instance).state in ("shutting-down", "terminated")
    until(
        "the bundle is gone",
        lambda: (
            not stage.cloud.boto("ssm").describe_parameters(ParameterFilters=[{"Key": "Name", "Values": [bundle]}])[
                "Parameters"
            ]
        ),
        30,
    )
    snapshots = ec2.describe_snapshots(OwnerIds=["self"], Filters=[{"Name": "volume-id", "Values": [saved]}])
    assert [snapshot["State"] for snapshot in snapshots["Snapshots"]] == ["completed"]
    assert len([event for event in stage.kube.events(name) if event["reason"] == "Orphaned"]) >= 1
    touched = {call.action for call in stage.cloud.calls(since, principal="operator", mutating=True)}
    # What agents share has no user any more, which has nothing to do with orphans.
    assert touched - SHARED_TEARDOWN == {"TerminateInstances", "CreateSnapshot", "DeleteVolume", "DeleteParameter"}
    for made in (kept, silent):
        ec2.delete_volume(VolumeId=made)
    ec2.delete_snapshot(SnapshotId=snapshots["Snapshots"][0]["SnapshotId"])
    stage.operators[-1].stop()
