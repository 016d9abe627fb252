"""Status: never mistaken for health before the first look, whole, bounded, and shared by several writers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from api.cases import SCHEMAS, TABLES, part, used
from api.server import ApiServer, Document, path_of

FULL: dict[str, Document] = yaml.safe_load((TABLES / "status.yaml").read_text())
AGENT: Document = {
    "apiVersion": "skykoi.io/v1alpha1",
    "kind": "KoiAgent",
    "metadata": {"name": "status", "namespace": "default"},
    "spec": {},
}
PLAN: Document = {
    "apiVersion": "skykoi.io/v1alpha1",
    "kind": "KoiPlan",
    "metadata": {"name": "status"},
    "spec": {},
}
KINDS = {"KoiAgent": AGENT, "KoiPlan": PLAN}


@pytest.fixture
def objects(server: ApiServer) -> Iterator[ApiServer]:
    for manifest in KINDS.values():
        server.create(manifest)
    yield server
    for manifest in KINDS.values():
        server.delete(manifest)


def condition(name: str, status: str = "True", **more: Any) -> Document:
    found = {
        "type": name,
        "status": status,
        "reason": "AsWanted",
        "message": "",
        "lastTransitionTime": "2026-11-20T10:00:00Z",
    }
    return found | more


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_object_says_that_nobody_has_looked(objects: ApiServer, kind: str) -> None:
    assert objects.read(KINDS[kind])["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_writes_the_object_does_not_write_its_status(server: ApiServer, kind: str) -> None:
    answer = server.try_create(KINDS[kind] | {"status": FULL[kind]}).accepted()
    assert answer.get("status", {"observedGeneration": -1}) == {"observedGeneration": -1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_status_is_kept_whole_and_uses_every_field(objects: ApiServer, kind: str) -> None:
    objects.apply_status(KINDS[kind], FULL[kind], "test").accepted()
    assert objects.read(KINDS[kind])["status"] == FULL[kind]
    seen = set(used(SCHEMAS[kind]["properties"]["status"], FULL[kind], ("status",)))
    assert {node.path for node in part(kind, "status")} - seen == set()


def test_a_status_does_not_change_the_spec_and_its_generation(objects: ApiServer) -> None:
    objects.apply_status(AGENT, FULL["KoiAgent"], "test").accepted()
    found = objects.read(AGENT)
    assert (found["spec"], found["metadata"]["generation"]) == ({"power": "Running"}, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_a_map_by_type_for_server_side_apply(objects: ApiServer, kind: str) -> None:
    objects.apply_status(KINDS[kind], {"conditions": [condition("Ready")]}, "one").accepted()
    objects.apply_status(KINDS[kind], {"conditions": [condition("Suspended")]}, "two").accepted()
    objects.apply_status(KINDS[kind], {"conditions": [condition("Ready", "False")]}, "one").accepted()
    found = objects.read(KINDS[kind])["status"]["conditions"]
    assert {item["type"]: item["status"] for item in found} == {"Ready": "False", "Suspended": "True"}
    objects.apply_status(KINDS[kind], {"conditions": []}, "one").accepted()
    assert [item["type"] for item in objects.read(KINDS[kind])["status"]["conditions"]] == ["Suspended"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_type_has_one_condition(objects: ApiServer, kind: str) -> None:
    found = objects.read(KINDS[kind])
    found["status"] = {"conditions": [condition("Ready"), condition("Ready", "False")]}
    answer = objects.ask("PUT", path_of(KINDS[kind]) + "/status", found)
    assert [cause.field for cause in answer.causes()] == ["status.conditions[1]"]
    assert "Duplicate value" in answer.causes()[0].message


BAD = [
    (
        {"conditions": [condition("Ready", "Maybe")]},
        "status.conditions[0].status",
        'supported values: "True", "False", "Unknown"',
    ),
    ({"conditions": [{"type": "Ready", "status": "True"}]}, "status.conditions[0].reason", "Required value"),
    ({"observedGeneration": -2}, "status.observedGeneration", "should be greater than or equal to -1"),
    ({"securityGroupId": "x" * 129}, "status.securityGroupId", "may not be more than 128 bytes"),
    ({"launch": {"epoch": 1}}, "status.launch.clientToken", "Required value"),
    (
        {"plannedAction": {"kind": "Nothing", "reason": "x", "since": "2026-11-20T10:00:00Z"}},
        "status.plannedAction.kind",
        '"Replace"',
    ),
    ({"gateway": {"lastProbeTime": "yesterday"}}, "status.gateway.lastProbeTime", "date-time"),
    (
        {"launch": FULL["KoiAgent"]["launch"] | {"epoch": 0}},
        "status.launch.epoch",
        "should be greater than or equal to 1",
    ),
    (
        {"conditions": [condition(f"C{number}") for number in range(33)]},
        "status.conditions",
        "must have at most 32 items",
    ),
]


@pytest.mark.parametrize(("status", "field", "says"), BAD, ids=[field for _, field, _ in BAD])
def test_a_status_out_of_bounds_is_refused(objects: ApiServer, status: Document, field: str, says: str) -> None:
    found = objects.read(AGENT)
    answer = objects.ask("PUT", path_of(AGENT) + "/status", found | {"status": status})
    assert answer.code == 422, answer.body
    assert any(cause.field == field and says in cause.message for cause in answer.causes()), answer.causes()


def test_status_is_written_with_a_precondition(objects: ApiServer) -> None:
    """A recorded intent to launch must not overwrite what another operator recorded meanwhile."""
    stale = objects.read(AGENT)
    objects.apply_status(AGENT, {"observedGeneration": 1}, "other").accepted()
    answer = objects.ask("PUT", path_of(AGENT) + "/status", stale | {"status": FULL["KoiAgent"]})
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
