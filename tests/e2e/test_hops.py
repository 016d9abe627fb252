"""Ready is False while anything between the operator and the gateway's hello-ok is broken, and GatewayHealthy names the hop."""

from __future__ import annotations

import base64
import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator

import pytest
import requests
from scenario.kube import Kube, condition
from scenario.machine import Machine
from scenario.stage import Stage
from scenario.wait import until

Break = Callable[[Stage, str, Machine], None]


def stop_nginx(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh("systemctl stop nginx")


def start_nginx(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh("systemctl start nginx")


def stop_gateway(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh("systemctl stop skykoi-gateway")


def start_gateway(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh("systemctl start skykoi-gateway")


def swap_certificate(stage: Stage, name: str, machine: Machine) -> None:
    """Another certificate for the same name: valid by itself, but not the pinned one."""
    uid = stage.agent(name)["metadata"]["uid"]
    machine.sh(
        "cp -a /run/skykoi-tls /run/kept-tls && cd /run/skykoi-tls && files=$(grep -rhoE '/run/skykoi-tls/[^; ]+' /etc/nginx) && "
        'crt=$(echo "$files" | grep -vi key | head -1) && key=$(echo "$files" | grep -i key | head -1) && '
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=x -addext subjectAltName=DNS:{uid}.koi.internal "
        "-keyout $key -out $crt 2>/dev/null && systemctl reload nginx"
    )


def restore_certificate(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh("cp -a /run/kept-tls/. /run/skykoi-tls/ && systemctl reload nginx")


def rotate_token(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh(
        f"cp -a /run/skykoi /run/kept && find /run/skykoi -name 'token*' -exec sh -c 'printf {secrets.token_hex(32)} > \"$1\"' _ {{}} \\; && systemctl restart skykoi-gateway"
    )


def restore_token(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh("cp -a /run/kept/. /run/skykoi/ && systemctl restart skykoi-gateway")


def drop_packets(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh(
        "nft add table inet fault && nft add chain inet fault input '{ type filter hook input priority -10 ; }' && nft add rule inet fault input tcp dport 443 drop"
    )


def let_packets_through(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh("nft delete table inet fault")


CASES = (
    pytest.param(stop_nginx, start_nginx, "GatewayUnreachable", ("connect", "443", "nginx"), id="nginx stopped"),
    pytest.param(stop_gateway, start_gateway, "GatewayUnreachable", ("502", "gateway"), id="gateway stopped"),
    pytest.param(
        swap_certificate, restore_certificate, "CertificateMismatch", ("certificate",), id="certificate swapped"
    ),
    pytest.param(rotate_token, restore_token, "GatewayUnauthorized", ("token",), id="token rotated behind our back"),
    pytest.param(drop_packets, let_packets_through, "GatewayUnreachable", ("connect", "443"), id="packets dropped"),
)


@pytest.fixture(scope="module")
def settled(stage: Stage) -> str:
    """One agent for all hops: each case repairs what it broke."""
    if not [operator for operator in stage.operators if operator.process.poll() is None]:
        stage.start_operator()
    name = "hops"
    stage.kube.create_agent(
        {
            "apiVersion": "skykoi.io/v1alpha1",
            "kind": "KoiAgent",
            "metadata": {"name": name},
            "spec": {"storage": {"deletionPolicy": "Delete"}},
        }
    )
    stage.wait_ready(name)
    yield name
    stage.kube.delete_agent(name)
    stage.wait_gone(name)


@pytest.mark.parametrize(("breaking", "mending", "reason", "words"), CASES)
def test_a_broken_hop_is_named(
    stage: Stage, settled: str, breaking: Break, mending: Break, reason: str, words: tuple[str, ...]
) -> None:
    machine = stage.machine(settled)
    breaking(stage, settled, machine)
    try:
        agent = stage.wait_condition(settled, "Ready", status="False", reason=reason, seconds=30)
        healthy = condition(agent, "GatewayHealthy")
        assert healthy["status"] == "False" and healthy["reason"] == reason
        missing = [word for word in words if word.lower() not in healthy["message"].lower()]
        assert not missing, f"{missing} not in: {healthy['message']}"
        assert condition(agent, "InstanceReady")["status"] == "True"
    finally:
        mending(stage, settled, machine)
    stage.wait_ready(settled, seconds=30)


def test_what_comes_and_goes_is_one_event_that_is_counted(stage: Stage, settled: str) -> None:
    def told(reason: str) -> list[int]:
        """How often each Event of this reason was told."""
        found = [event for event in stage.kube.events(settled) if event["reason"] == reason]
        return [(event.get("series") or {"count": 1})["count"] for event in found]

    machine, before = stage.machine(settled), sum(told("GatewayUnreachable"))
    for _ in range(2):
        stop_nginx(stage, settled, machine)
        try:
            stage.wait_condition(settled, "Ready", status="False", reason="GatewayUnreachable", seconds=30)
        finally:
            start_nginx(stage, settled, machine)
        stage.wait_ready(settled, seconds=30)
    until(
        "both are told",
        lambda: sum(told("GatewayUnreachable")) >= before + 2,
        15,
        seen=lambda: told("GatewayUnreachable"),
    )
    assert len(told("GatewayUnreachable")) == 1 and len(told("Ready")) <= 2, stage.kube.events(settled)


def silence(stage: Stage, name: str, machine: Machine) -> None:
    """A listener that accepts and never answers takes the place of nginx."""
    machine.sh(
        "systemctl stop nginx && systemd-run --quiet --unit=mute python3 -c "
        "'import signal, socket; s = socket.create_server((\"\", 443)); signal.pause()'"
    )


def end_silence(stage: Stage, name: str, machine: Machine) -> None:
    machine.sh("systemctl stop mute; systemctl start nginx")


def test_a_listener_that_is_silent_is_not_called_another(stage: Stage, settled: str) -> None:
    machine = stage.machine(settled)
    silence(stage, settled, machine)
    try:
        agent = stage.wait_condition(settled, "GatewayHealthy", status="False", reason="GatewayUnreachable", seconds=30)
        until(
            "the hop is named",
            lambda: "no TLS handshake" in condition(stage.agent(settled), "GatewayHealthy")["message"],
            15,
            seen=lambda: condition(agent, "GatewayHealthy"),
        )
    finally:
        end_silence(stage, settled, machine)
    stage.wait_ready(settled, seconds=30)


def refreshes(machine: Machine) -> int:
    """How often the gateway was told to fetch its bundle anew."""
    return int(machine.sh("journalctl --unit=skykoi-gateway --output=cat | grep -c 'bundle refresh asked for' || true"))


def is_calm(machine: Machine) -> bool:
    """Nothing on the machine is fetching the bundle, or about to."""
    return (
        machine.sh("test -e /run/skykoi/refresh || systemctl is-active skykoi-refresh.service || true").strip()
        == "inactive"
    )


def test_a_wrong_token_is_seen_right_after_an_edit_and_mended_without_a_reboot(stage: Stage, settled: str) -> None:
    before = condition(stage.agent(settled), "ConfigSynced")["observedGeneration"]
    since = stage.cloud.next_call()

    def synced() -> bool:
        told = condition(stage.agent(settled), "ConfigSynced")
        return told["observedGeneration"] > before and told["status"] == "True"

    machine = stage.machine(settled)
    asked_before = refreshes(machine)
    stage.kube.patch_agent(settled, {"spec": {"gateway": {"config": {"logging": {"level": "debug"}}}}})
    until("the edit is there", synced, 30, seen=lambda: stage.agent(settled)["status"])
    # The machine fetches its bundle anew after an edit, its token with it: that is not to mend what is broken now.
    until("the machine has the edited bundle", lambda: refreshes(machine) > asked_before and is_calm(machine), 30)
    rotate_token(stage, settled, machine)
    try:
        stage.wait_condition(settled, "Ready", status="False", reason="GatewayUnauthorized", seconds=15)
        message = condition(stage.agent(settled), "GatewayHealthy")["message"]
        assert "AUTH_TOKEN_MISMATCH" in message, message
    finally:
        restore_token(stage, settled, machine)
    stage.wait_ready(settled, seconds=25)
    asked = {call.action for call in stage.cloud.calls(since, principal="operator", mutating=True)}
    assert "RebootInstances" not in asked, asked


def test_an_edited_secret_reaches_the_gateway(stage: Stage, settled: str) -> None:
    """The operator pushes the edited token (api.md); users come in with it, and the agent is Ready."""
    agent = stage.agent(settled)
    secret, token = agent["status"]["gateway"]["tokenSecretName"], secrets.token_urlsafe(32)
    patch = {"data": {"token": base64.b64encode(token.encode()).decode()}}
    path = f"api/v1/namespaces/default/secrets/{secret}"
    stage.kube.request("PATCH", path, patch, "application/merge-patch+json")

    def greeted() -> bool:
        with stage.gateway(settled) as gateway:
            return gateway.call("health")["ok"]

    until("the gateway takes the new token", greeted, 30)
    stage.wait_ready(settled, seconds=30)


def test_ready_is_never_told_of_the_boot_before(stage: Stage, settled: str) -> None:
    before = stage.agent(settled)["status"]["instance"]
    machine = stage.machine(settled)
    machine.sh("systemctl mask nginx")  # the next boot stays without its front until this is taken back
    seen: list[dict] = []
    # One by one: the list is read while it grows.
    threading.Thread(target=lambda: [seen.append(agent) for agent in watched(stage)], daemon=True).start()
    stage.cloud.boto("ec2").stop_instances(InstanceIds=[before["id"]])

    def booted_anew() -> bool:
        agent = stage.agent(settled)
        healthy = condition(agent, "GatewayHealthy")
        return (agent["status"].get("instance") or {}).get("launchTime") not in (None, before["launchTime"]) and (
            healthy["reason"] in ("Booting", "GatewayUnreachable")
        )

    until("the instance boots anew, without an answer", booted_anew, 60, seen=lambda: stage.agent(settled)["status"])
    told = [
        agent["status"]["instance"]["launchTime"]
        for agent in seen
        if agent["metadata"]["name"] == settled
        and (condition(agent, "Ready") or {}).get("status") == "True"
        and agent["status"]["instance"]["launchTime"] != before["launchTime"]
    ]
    assert told == []
    stage.machine(settled).sh("systemctl unmask nginx")
    stage.wait_ready(settled)


def watched(stage: Stage) -> Iterator[dict]:
    """Every state of the agents that the API server shows, until the world ends."""
    kube = Kube(stage.world.kubeconfig)
    with contextlib.suppress(requests.RequestException, OSError):
        for change in kube.watch_agents():
            yield change["object"]
