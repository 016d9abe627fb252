"""From apply to Ready: what is made, what it costs, and what it looks like from outside."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator

import pytest
import requests
from botocore.exceptions import ClientError
from scenario.kube import condition
from scenario.stage import CLUSTER_ID, METRICS_PORT, Operator, Stage
from scenario.wait import until

DOMAIN_CONDITIONS = ("IdentityReady", "NetworkReady", "StorageReady", "InstanceReady", "ConfigSynced", "GatewayHealthy")


@pytest.fixture(scope="module")
def made(stage: Stage) -> Iterator[str]:
    """One agent for all that only look; nothing here harms it."""
    if not [operator for operator in stage.operators if operator.process.poll() is None]:
        stage.start_operator()
    owner = {"displayName": "Grace Hopper", "timeZone": "America/New_York"}
    spec = {"owner": owner, "storage": {"deletionPolicy": "Delete"}}
    manifest = {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": {"name": "looked-at"}, "spec": spec}
    stage.kube.create_agent(manifest)
    yield "looked-at"
    stage.kube.delete_agent("looked-at")
    stage.wait_gone("looked-at")


@pytest.fixture
def agent(stage: Stage, made: str) -> dict:
    """That agent, Ready, as it is now."""
    return stage.wait_ready(made)


def described(stage: Stage, agent: dict) -> dict:
    instance = agent["status"]["instance"]["id"]
    return stage.cloud.boto("ec2").describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]


def tags_of(item: dict) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in item["Tags"]}


def test_conditions_are_complete_and_kubectl_can_wait_for_them(stage: Stage, agent: dict) -> None:
    name = agent["metadata"]["name"]
    for kind in ("Ready", "InstanceReady"):
        stage.kubectl("wait", f"--for=condition={kind}", f"koi/{name}", "--timeout=10s")
    states = {entry["type"]: entry["status"] for entry in agent["status"]["conditions"]}
    assert states == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        **dict.fromkeys(DOMAIN_CONDITIONS, "True"),
        "Suspended": "False",
    }
    assert {entry["observedGeneration"] for entry in agent["status"]["conditions"]} == {agent["metadata"]["generation"]}
    columns = stage.kubectl("get", "koi", name).splitlines()
    assert columns[0].split() == ["NAME", "POWER", "READY", "REASON", "INSTANCE", "ADDRESS", "VERSION", "AGE"]
    assert columns[1].split()[:4] == [name, "Running", "True", "Ready"]


def test_the_instance_is_as_promised(stage: Stage, agent: dict) -> None:
    instance, launch = described(stage, agent), agent["status"]["launch"]
    assert instance["ClientToken"] == launch["clientToken"]
    assert instance["ImageId"] == stage.cloud.ready().ubuntu == launch["image"]
    assert instance["InstanceType"] == "t3.small"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["IamInstanceProfile"]["Arn"].endswith("/skykoi-tenant-agent-profile")
    assert instance["NetworkInterfaces"][0]["PrivateIpAddress"] == agent["status"]["instance"]["privateIp"]
    behaviour = stage.cloud.boto("ec2").describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "stop"


def test_every_resource_carries_the_claim_from_the_creating_call(stage: Stage, agent: dict) -> None:
    uid, name = agent["metadata"]["uid"], agent["metadata"]["name"]
    claim = {"skykoi:cluster": CLUSTER_ID, "skykoi:agent-uid": uid, "skykoi:agent": f"default/{name}"}
    ec2, instance = stage.cloud.boto("ec2"), described(stage, agent)
    assert claim.items() <= tags_of(instance).items()
    assert tags_of(instance)["skykoi:launch"] == "1-1"
    volume = ec2.describe_volumes(VolumeIds=[agent["status"]["volume"]["id"]])["Volumes"][0]
    assert claim.items() <= tags_of(volume).items()
    assert volume["Encrypted"] is True
    group = ec2.describe_security_groups(GroupIds=[agent["status"]["securityGroupId"]])["SecurityGroups"][0]
    assert tags_of(group)["skykoi:cluster"] == CLUSTER_ID and "skykoi:agent-uid" not in tags_of(group)
    made = (instance["InstanceId"], volume["VolumeId"], group["GroupId"])
    calls = [call for call in stage.cloud.calls(principal="operator") if call.action == "CreateTags"]
    tagging = [call for call in calls if any(one in str(call) for one in made)]
    assert tagging == [], "tags must be put on in the creating call"


def test_only_443_is_open(stage: Stage, agent: dict) -> None:
    group = stage.cloud.boto("ec2").describe_security_groups(GroupIds=[agent["status"]["securityGroupId"]])[
        "SecurityGroups"
    ][0]
    assert {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in group["IpPermissions"]} == {
        ("tcp", 443, 443)
    }
    address = agent["status"]["instance"]["privateIp"]
    with socket.create_connection((address, 443), timeout=5):
        pass
    for port in (22, 80, 8080, 18789):
        with pytest.raises(OSError):
            socket.create_connection((address, port), timeout=0.3)


def test_user_data_is_small_and_holds_no_secret(stage: Stage, agent: dict) -> None:
    instance = agent["status"]["instance"]["id"]
    answer = stage.cloud.boto("ec2").describe_instance_attribute(InstanceId=instance, Attribute="userData")
    raw = base64.b64decode(answer["UserData"]["Value"])
    assert len(raw) <= 16_384
    secret = stage.kube.secret(agent["status"]["gateway"]["tokenSecretName"])
    assert secret and secret["token"] not in raw and b"PRIVATE KEY" not in raw


def test_no_secret_is_anywhere_but_in_the_secret(stage: Stage, agent: dict, operator: Operator) -> None:
    secret = stage.kube.secret(agent["status"]["gateway"]["tokenSecretName"])
    assert secret
    key_line = secret["tls.key"].decode().splitlines()[1]
    machine = stage.machine(agent["metadata"]["name"])
    places = {
        "the object": json.dumps(agent),
        "Events": json.dumps(stage.kube.events(agent["metadata"]["name"])),
        "the operator's log": operator.text(),
        "the console": machine.console(),
        "the journal": machine.sh("journalctl --no-pager"),
        "command lines": machine.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"),
        "the data volume": machine.sh(
            f"grep -rlF -e '{secret['token'].decode()}' -e '{key_line}' /home/ubuntu || true"
        ),
        "the root disk": machine.sh(
            f"grep -rlF -e '{secret['token'].decode()}' -e '{key_line}' /etc /var /usr/local /root || true"
        ),
    }
    for where, text in places.items():
        assert secret["token"].decode() not in text and key_line not in text, where
    assert places["the data volume"] == "" and places["the root disk"] == ""


def test_settled_means_silent(stage: Stage, agent: dict) -> None:
    """Two sweeps and several probes later: no changing call, no write, no Event."""
    name, since = agent["metadata"]["name"], stage.cloud.next_call()
    before, events = stage.agent(name), stage.kube.events(name)
    until(
        "three sweeps",
        lambda: len([c for c in stage.cloud.calls(since, principal="operator") if c.action == "DescribeVolumes"]) >= 3,
        30,
    )
    assert stage.cloud.calls(since, principal="operator", mutating=True) == []
    assert stage.agent(name)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert stage.kube.events(name) == events


def test_the_spec_is_never_written(stage: Stage, agent: dict) -> None:
    managers = {entry["manager"]: entry for entry in agent["metadata"]["managedFields"]}
    ours = [entry for name, entry in managers.items() if name.startswith("koi-operator")]
    assert ours and all("f:spec" not in entry["fieldsV1"] for entry in ours)
    assert agent["metadata"]["generation"] == 1


def test_an_instance_reads_its_own_bundle_and_no_other(stage: Stage, agent: dict, new_agent) -> None:
    other = stage.wait_ready(new_agent())
    own = stage.cloud.boto_of_instance("ssm", agent["status"]["instance"]["id"])

    def bundle(of: dict) -> str:
        return f"/koi/{CLUSTER_ID}/{of['metadata']['uid']}/{of['status']['instance']['id']}"

    assert own.get_parameter(Name=bundle(agent), WithDecryption=True)["Parameter"]["Type"] == "SecureString"
    with pytest.raises(ClientError, match="AccessDenied"):
        own.get_parameter(Name=bundle(other), WithDecryption=True)
    with pytest.raises(ClientError, match="AccessDenied"):
        own.put_parameter(Name=bundle(agent), Value="x", Type="SecureString", Overwrite=True)


def test_the_machine_is_set_up_as_promised(stage: Stage, agent: dict) -> None:
    machine = stage.machine(agent["metadata"]["name"])
    assert machine.sh("stat -c '%U %a' /home/ubuntu/.skykoi/skykoi.json").split() == ["skykoi", "600"]
    assert machine.sh("findmnt -no FSTYPE --target /run/skykoi").strip() == "tmpfs"
    assert "nvme" in machine.sh("findmnt -no SOURCE /home/ubuntu")
    assert machine.sh("systemctl is-active skykoi-gateway skykoi-tools nginx").split() == ["active"] * 3
    assert sorted(machine.sh("ps -o user= -C koi-gateway").split()) == ["skykoi", "ubuntu"], (
        "the gateway, and its tools"
    )
    assert "Grace Hopper" in machine.sh("cat /home/ubuntu/koi/USER.md")
    for name in ("AGENTS.md", "SOUL.md", "USER.md", "TOOLS.md", "IDENTITY.md"):
        assert machine.sh(f"stat -c %U /home/ubuntu/koi/{name}").strip() == "ubuntu", name
    denied = machine.run("cat", "/run/skykoi/token", user="ubuntu", check=False)
    assert denied.returncode != 0
    assert machine.sh("stat -c '%U:%G %a' /home/ubuntu /home/ubuntu/.skykoi").split() == [
        "root:ubuntu",
        "1770",
        "skykoi:skykoi",
        "700",
    ]
    moved = machine.run("mv", "/home/ubuntu/.skykoi", "/home/ubuntu/stolen", user="ubuntu", check=False)
    assert moved.returncode != 0
    in_a_world_of_his_own = machine.run(
        "unshare", "-Urm", "--propagation", "private", "/bin/sh", "-c", ESCAPE, user="ubuntu", check=False
    )
    assert "root of that world" in in_a_world_of_his_own.stdout, in_a_world_of_his_own.stderr
    assert "moved" not in in_a_world_of_his_own.stdout
    assert machine.sh("stat -c %U /home/ubuntu/.skykoi").strip() == "skykoi"


# Without mount points in the way: a root directory of his own, everything else unmounted, the home reached by a kept descriptor.
ESCAPE = """
exec 9</home/ubuntu
umount /home/ubuntu/.skykoi
mount -t tmpfs none /mnt && mkdir /mnt/old && cd /mnt && mkdir bin lib lib64 usr proc
for each in /bin /lib /lib64 /usr /proc; do mount --rbind $each /mnt$each; done
echo "root of that world: $(id -u)"
pivot_root . old && umount -l /old
cd /proc/self/fd/9 && mv .skykoi gone && echo moved
cd /proc/self/fd/9 && rm -rf .skykoi && [ ! -e .skykoi ] && echo moved
chmod 777 /proc/self/fd/9 && echo moved
"""


IMDS_TOKEN = 'curl -s -m 2 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" http://169.254.169.254/latest/api/token'


def test_the_user_of_the_agent_is_neither_root_nor_the_machine(stage: Stage, agent: dict) -> None:
    machine = stage.machine(agent["metadata"]["name"])
    for user in ("ubuntu", "skykoi"):
        assert machine.run("sudo", "-n", "true", user=user, check=False).returncode != 0
    assert machine.run("/bin/sh", "-c", IMDS_TOKEN, user="ubuntu", check=False).returncode == 28, (
        "curl's exit for a time-out"
    )
    assert len(machine.run("/bin/sh", "-c", IMDS_TOKEN, user="skykoi").stdout) > 20, (
        "the gateway asks models with the role"
    )
    assert len(machine.sh(IMDS_TOKEN)) > 20, "root still has it: the set-up needs it"
    groups = set(machine.run("id", "-nG", "ubuntu").stdout.split())
    assert groups.isdisjoint({"sudo", "admin", "wheel", "lxd", "docker", "disk"})


def test_links_of_the_agent_lead_bootstrap_nowhere(stage: Stage, new_agent) -> None:
    name = new_agent()
    stage.wait_ready(name)
    machine = stage.machine(name)
    before = machine.sh("stat -c '%n %a %U' /etc /etc/shadow; ls -A /etc")
    machine.sh("cd /home/ubuntu && mv koi mine && ln -s /etc koi", user="ubuntu")
    machine.sh("systemctl restart skykoi-bootstrap.service", seconds=60)
    assert machine.sh("stat -c '%n %a %U' /etc /etc/shadow; ls -A /etc") == before
    assert machine.sh("stat -c '%F %U %a' /home/ubuntu/koi").strip() == "directory ubuntu 2775"
    assert "koi was a symbolic link: moved aside" in machine.console()
    assert stage.wait_ready(name)


def test_bootstrap_twice_changes_nothing(stage: Stage, agent: dict) -> None:
    machine = stage.machine(agent["metadata"]["name"])
    look = "cd / && stat -c '%n %i %Y %a %U %s' /home/ubuntu/.skykoi/* /home/ubuntu/koi/* $(grep -rl skykoi-tls /etc/nginx) /etc/systemd/system/skykoi*.service; systemctl show -p MainPID --value skykoi-gateway"
    before = machine.sh(look)
    machine.sh("systemctl restart skykoi-bootstrap.service", seconds=60)
    assert machine.sh(look) == before


# What a crontab or a lingering service of the agent is: something of its own that the next boot starts as early as it can.
EAGER = f"""
cat >/etc/systemd/system/eager.service <<'END'
[Unit]
DefaultDependencies=no
After=sysinit.target
[Service]
Type=oneshot
User=ubuntu
ExecStart=/bin/sh -c '{{ {IMDS_TOKEN}; echo " $$?"; }} >/var/tmp/asked'
[Install]
WantedBy=basic.target
END
systemctl enable --quiet eager.service
"""


def test_workspace_files_are_seeded_once_and_a_reboot_opens_nothing(stage: Stage, new_agent) -> None:
    name = new_agent(workspace={"files": {"AGENTS.md": "# House rules\nBe brief.\n", "notes/first.md": "hello\n"}})
    stage.wait_ready(name)
    machine = stage.machine(name)
    assert machine.sh("cat /home/ubuntu/koi/AGENTS.md") == "# House rules\nBe brief.\n"
    assert machine.sh("cat /home/ubuntu/koi/notes/first.md") == "hello\n"
    machine.sh("echo mine > /home/ubuntu/koi/AGENTS.md")
    machine.sh(EAGER)
    stage.cloud.boto("ec2").reboot_instances(InstanceIds=[machine.instance_id])
    asked = until(
        "the machine to go through a reboot, and what the agent left there to ask",
        lambda: machine.sh("cat /var/tmp/asked 2>/dev/null; true").split(),
        60,
    )
    stage.wait_ready(name)
    assert machine.sh("cat /home/ubuntu/koi/AGENTS.md") == "mine\n"
    assert asked == ["28"], "no answer to the agent, however early it asks"


def test_events_tell_the_changes_of_verdict(stage: Stage, agent: dict) -> None:
    name = agent["metadata"]["name"]
    reasons = until(
        "the Ready event",
        lambda: (
            [r for r in (e["reason"] for e in stage.kube.events(name))]
            if any(e["reason"] == "Ready" for e in stage.kube.events(name))
            else None
        ),
        10,
    )
    assert reasons.count("Ready") == 1
    assert all(event["regarding"]["uid"] == agent["metadata"]["uid"] for event in stage.kube.events(name))


def test_metrics_and_probes_of_the_operator(stage: Stage, agent: dict) -> None:
    base = f"http://127.0.0.1:{METRICS_PORT}"
    assert requests.get(f"{base}/healthz", timeout=5).status_code == 200
    assert requests.get(f"{base}/readyz", timeout=5).status_code == 200
    text = requests.get(f"{base}/metrics", timeout=5).text
    for metric in (
        "koi_aws_requests_total",
        "koi_reconcile_duration_seconds",
        "koi_agents",
        "koi_agent_ready",
        "koi_probe_duration_seconds",
        "koi_fleet_sweep_age_seconds",
        "koi_orphans",
        "koi_build_info",
    ):
        assert f"\n{metric}" in text, metric
    name = agent["metadata"]["name"]
    assert any(
        line.startswith("koi_agent_ready{") and f'name="{name}"' in line and line.endswith(" 1")
        for line in text.splitlines()
    )


def test_apply_to_ready_is_quick_enough(stage: Stage, new_agent) -> None:
    """Not a benchmark: a bound far above what is measured, which catches a missing wake-up or a fixed pause."""
    begin = time.monotonic()
    stage.wait_ready(new_agent(), seconds=45)
    assert time.monotonic() - begin < 45


def test_baked_image_needs_no_artifact_server(stage: Stage, new_agent) -> None:
    agent = stage.wait_ready(new_agent(instance={"image": {"id": stage.cloud.ready().baked}}))
    assert described(stage, agent)["ImageId"] == stage.cloud.ready().baked
    assert condition(agent, "GatewayHealthy")["status"] == "True"
