"""The control plane is a real one: it authorizes, collects garbage, and survives the loss of its API server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from world.control_plane import ControlPlane
from world.paths import kube_program
from world.shell import wait_for
from world.world import World


@pytest.fixture(scope="module")
def world(new_world: Callable[[str], World]) -> Iterator[World]:
    with new_world("plane") as world:
        yield world.start(cloud=False)


@pytest.fixture(scope="module")
def plane(world: World) -> ControlPlane:
    assert world.control_plane
    return world.control_plane


def gone(plane: ControlPlane, kind: str, name: str, namespace: str = "default") -> bool:
    return plane.kubectl("get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "name") == ""


def test_a_service_account_may_what_its_role_says_and_no_more(world: World, plane: ControlPlane) -> None:
    plane.kubectl("create", "serviceaccount", "reader")
    kubeconfig = plane.kubeconfig_for_service_account("default", "reader")
    assert kubeconfig.stat().st_mode & 0o077 == 0

    def as_reader(*arguments: str) -> subprocess.CompletedProcess:
        command = (kube_program("kubectl"), f"--kubeconfig={kubeconfig}", *arguments)
        return world.run(*command, capture_output=True, text=True, timeout=30)

    refused = as_reader("get", "configmaps")
    assert refused.returncode == 1 and 'User "system:serviceaccount:default:reader" cannot list' in refused.stderr
    plane.kubectl("create", "role", "reader", "--verb=get,list", "--resource=configmaps")
    plane.kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader")
    wait_for("the role to hold", lambda: as_reader("get", "configmaps").returncode == 0, 10)
    assert "cannot delete" in as_reader("delete", "configmap", "kube-root-ca.crt").stderr
    assert "cannot list" in as_reader("get", "secrets").stderr


def test_dependents_of_a_deleted_owner_are_collected(plane: ControlPlane) -> None:
    plane.kubectl("create", "configmap", "owner")
    uid = plane.kubectl("get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}")
    reference = f'[{{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "{uid}"}}]'
    plane.kubectl("create", "secret", "generic", "dependent", "--from-literal=a=b")
    plane.kubectl("patch", "secret", "dependent", "--patch", f'{{"metadata": {{"ownerReferences": {reference}}}}}')
    plane.kubectl("create", "secret", "generic", "bystander")
    plane.kubectl("delete", "configmap", "owner")
    wait_for("the dependent to be collected", lambda: gone(plane, "secret", "dependent"), 20)
    assert not gone(plane, "secret", "bystander")


def test_a_namespace_goes_with_its_content(plane: ControlPlane) -> None:
    plane.kubectl("create", "namespace", "short-lived")
    plane.kubectl("create", "configmap", "inside", "-n", "short-lived")
    plane.kubectl("delete", "namespace", "short-lived", "--wait=true", "--timeout=30s")
    assert gone(plane, "namespace", "short-lived")


def test_each_namespace_gets_a_service_account_and_the_root_certificate(plane: ControlPlane) -> None:
    plane.kubectl("create", "namespace", "furnished")
    for kind, name in (("serviceaccount", "default"), ("configmap", "kube-root-ca.crt")):
        wait_for(f"{kind} {name}", lambda k=kind, n=name: not gone(plane, k, n, "furnished"), 20)


def test_the_api_server_dies_and_comes_back_with_its_data(plane: ControlPlane) -> None:
    plane.kubectl("create", "configmap", "survivor")
    plane.kill_api_server()
    with pytest.raises(RuntimeError, match="refused"):
        plane.kubectl("get", "configmap", "survivor")
    plane.start_api_server()
    assert not gone(plane, "configmap", "survivor")
