"""Changes: what may never change, what may only grow, and that all else may."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from api.cases import merged
from api.server import ApiServer, Document

KEY = "alias/koi"
SNAPSHOT = {"snapshotId": "snap-0123456789abcdef0"}


def agent(name: str, spec: Document) -> Document:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": metadata, "spec": spec}


BARE = agent("bare", {"power": "Running"})
STORED = agent("stored", {"storage": {"dataVolumeGiB": 20, "kmsKeyId": KEY, "restoreFrom": SNAPSHOT}})


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of an existing agent; without a field it is allowed."""

    name: str
    before: Document
    spec: dict[str, Any]
    field: str | None = None
    says: str = ""

    def __str__(self) -> str:
        return self.name


FIXED_KEY = "must not change once the agent exists, because a volume keeps its key"
FIXED_SNAPSHOT = "must not change once the agent exists, because it is read when the volume is made"
CHANGES = [
    Change("another key", STORED, {"storage": {"kmsKeyId": "alias/x"}}, "spec.storage.kmsKeyId", FIXED_KEY),
    Change("no key any more", STORED, {"storage": {"kmsKeyId": None}}, "spec.storage.kmsKeyId", FIXED_KEY),
    Change("a key later", BARE, {"storage": {"kmsKeyId": KEY}}, "spec.storage.kmsKeyId", FIXED_KEY),
    Change(
        "another snapshot",
        STORED,
        {"storage": {"restoreFrom": {"snapshotId": "snap-01234567"}}},
        "spec.storage.restoreFrom",
        FIXED_SNAPSHOT,
    ),
    Change("no snapshot", STORED, {"storage": {"restoreFrom": None}}, "spec.storage.restoreFrom", FIXED_SNAPSHOT),
    Change(
        "a snapshot later", BARE, {"storage": {"restoreFrom": SNAPSHOT}}, "spec.storage.restoreFrom", FIXED_SNAPSHOT
    ),
    Change(
        "a smaller volume",
        STORED,
        {"storage": {"dataVolumeGiB": 19}},
        "spec.storage.dataVolumeGiB",
        "must not shrink, because EBS volumes can only grow",
    ),
    Change("a larger volume", STORED, {"storage": {"dataVolumeGiB": 21}}),
    Change("the plan's volume", STORED, {"storage": {"dataVolumeGiB": None}}),
    Change("a volume later", BARE, {"storage": {"dataVolumeGiB": 5}}),
    Change("another policy", STORED, {"storage": {"deletionPolicy": "Retain"}}),
    Change("another type", BARE, {"instance": {"type": "t3.medium"}}),
    Change("another image", BARE, {"instance": {"image": {"id": "ami-01234567"}}}),
    Change("another plan", BARE, {"planRef": {"name": "large"}}),
    Change("at rest", BARE, {"power": "Suspended"}),
    Change("other networks", BARE, {"network": {"ingressCidrs": ["10.0.0.0/8"], "publicAddress": True}}),
    Change("another version", BARE, {"gateway": {"version": "2", "config": {"agents": {}}}}),
    Change("other files", BARE, {"workspace": {"files": {"AGENTS.md": "x"}}}),
    Change("another model", BARE, {"model": {"id": "amazon-bedrock/x"}}),
    Change("another owner", BARE, {"owner": {"displayName": "Bob"}}),
    Change("another pause", BARE, {"idle": {"after": "2h"}}),
    Change("a bad value", BARE, {"model": {"id": "x"}}, "spec.model.id", "must be amazon-bedrock/"),
]


@pytest.fixture(scope="module")
def existing(server: ApiServer) -> Iterator[ApiServer]:
    for manifest in (BARE, STORED):
        server.create(manifest)
    yield server
    for manifest in (BARE, STORED):
        server.delete(manifest)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_change(existing: ApiServer, change: Change) -> None:
    answer = existing.try_change(change.before, {"spec": change.spec})
    if change.field is None:
        before = {"power": "Running"} | change.before["spec"]
        assert answer.accepted()["spec"] == merged(before, change.spec)
    else:
        assert answer.code == 422, answer.body
        [cause] = answer.causes()
        assert (cause.field, change.says in cause.message) == (change.field, True), cause


def test_an_annotation_or_a_label_may_always_change(existing: ApiServer) -> None:
    patch = {"metadata": {"annotations": {"skykoi.io/paused": "true"}, "labels": {"a": "b"}}}
    metadata = existing.try_change(STORED, patch).accepted()["metadata"]
    assert (metadata["annotations"], metadata["labels"]) == (patch["metadata"]["annotations"], {"a": "b"})
    assert metadata["generation"] == 1
