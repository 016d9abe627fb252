"""The definitions themselves, and what people see of them through kubectl."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from world.control_plane import ControlPlane

from api.cases import DEFINITIONS
from api.server import DEFINITIONS as PATH
from api.server import ApiServer, Document

ADA: Document = {
    "apiVersion": "skykoi.io/v1alpha1",
    "kind": "KoiAgent",
    "metadata": {"name": "shown", "namespace": "default"},
    "spec": {},
}
STATUS: Document = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "Booting",
            "message": "",
            "lastTransitionTime": "2026-11-20T10:00:00Z",
        }
    ],
    "resolved": {"plan": "small"},
    "instance": {"id": "i-0123456789abcdef0"},
    "gateway": {"endpoint": "wss://203.0.113.9", "version": "0.3.1"},
}


@pytest.fixture(scope="module")
def shown(server: ApiServer) -> Iterator[ApiServer]:
    server.create(ADA)
    server.apply_status(ADA, STATUS, "test").accepted()
    yield server
    server.delete(ADA)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition["spec"]["names"]["kind"])
def test_a_definition_is_accepted_without_a_complaint(server: ApiServer, definition: Document) -> None:
    found = server.ask("GET", f"{PATH}/{definition['metadata']['name']}").accepted()
    conditions = {item["type"]: item["status"] for item in found["status"]["conditions"]}
    assert conditions == {
        "Established": "True",
        "NamesAccepted": "True",
    }, "no NonStructuralSchema, no conflict of names"
    assert found["status"]["storedVersions"] == ["v1alpha1"]


def test_kubectl_applies_the_files_strictly_and_twice(plane: ControlPlane, server: ApiServer) -> None:
    for definition in DEFINITIONS:
        text = json.dumps(definition)
        for _ in range(2):
            said = plane.kubectl(
                "apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-", stdin=text
            )
            assert "serverside-applied" in said


def test_columns_of_an_agent(plane: ControlPlane, shown: ApiServer) -> None:
    header, row = plane.kubectl("get", "koi", "shown").splitlines()
    assert header.split() == ["NAME", "POWER", "READY", "REASON", "INSTANCE", "ADDRESS", "VERSION", "AGE"]
    assert row.split()[:-1] == [
        "shown",
        "Running",
        "False",
        "Booting",
        "i-0123456789abcdef0",
        "wss://203.0.113.9",
        "0.3.1",
    ]
    header, row = plane.kubectl("get", "koi", "shown", "-o", "wide").splitlines()
    assert (header.split()[-1], row.split()[-1]) == ("PLAN", "small")


def test_short_names_and_the_category(plane: ControlPlane, shown: ApiServer) -> None:
    plan = {
        "apiVersion": "skykoi.io/v1alpha1",
        "kind": "KoiPlan",
        "metadata": {"name": "shown"},
        "spec": {"default": True},
    }
    shown.create(plan)
    try:
        names = {word: plane.kubectl("get", word, "-o", "name").split() for word in ("koi", "koiagents", "koiplan")}
        assert names == {
            "koi": ["koiagent.skykoi.io/shown"],
            "koiagents": ["koiagent.skykoi.io/shown"],
            "koiplan": ["koiplan.skykoi.io/shown"],
        }
        both = plane.kubectl("get", "skykoi", "-o", "name").split()
        assert sorted(both) == ["koiagent.skykoi.io/shown", "koiplan.skykoi.io/shown"]
        header, row = plane.kubectl("get", "koiplan", "shown").splitlines()
        assert header.split() == ["NAME", "DEFAULT", "READY", "REASON", "AGENTS", "REGION", "AGE"]
        assert row.split()[:2] == ["shown", "true"]
    finally:
        shown.delete(plan)


def test_nothing_of_ours_hides_behind_get_all(plane: ControlPlane, shown: ApiServer) -> None:
    """`all` is for workloads; `kubectl delete all --all` must not delete people's agents."""
    assert "koi" not in plane.kubectl("get", "all", "--ignore-not-found", "-o", "name")


EXPLAINED = [
    ("koi", "lives on an EC2 instance of its own"),
    ("koi.spec.storage.dataVolumeGiB", "Size of the data volume in GiB, 1 to 16384"),
    ("koi.spec.model.id", "amazon-bedrock/us.anthropic.claude-opus-4-6-v1"),
    ("koi.status.launch", "written before the call"),
    ("koiplan.spec.identity", "With which AWS identity the instances act"),
    ("koiplan.spec.defaults.network.ingressCidrs", "IPv4 and IPv6 blocks that may reach port 443"),
]


@pytest.mark.parametrize(("path", "says"), EXPLAINED, ids=[path for path, _ in EXPLAINED])
def test_kubectl_explains(plane: ControlPlane, server: ApiServer, path: str, says: str) -> None:
    assert says in " ".join(plane.kubectl("explain", path).split())


def test_kubectl_waits_for_conditions(plane: ControlPlane, shown: ApiServer) -> None:
    said = plane.kubectl("wait", "--for=condition=Ready=False", "koi/shown", "--timeout=5s")
    assert "condition met" in said
