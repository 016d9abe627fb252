"""Good manifests: accepted without a warning, and given back as they were sent."""

from __future__ import annotations

import pytest
import yaml
from world.paths import ROOT

from api.cases import SCHEMAS, Case, part, table, used
from api.server import ApiServer

CASES = table("good_agents") + table("good_plans")

#: places that only a refusal can use
REFUSED = {("gateway", "config", "gateway", field) for field in ("auth", "bind", "mode", "port", "trustedProxies")} | {
    ("gateway", "config", "gateway", "trustedProxies", "[]")
}
REFUSED_IN_PLANS = {("workspace", "configMapRef"), ("workspace", "configMapRef", "name")}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_sent_comes_back(server: ApiServer, case: Case) -> None:
    assert server.try_create(case.manifest).accepted()["spec"] == case.manifest["spec"]


def test_every_field_is_used_by_a_good_manifest() -> None:
    expected, seen = set(), set()
    for kind in SCHEMAS:
        expected |= {(kind, *node.path) for node in part(kind, "spec")}
    for case in CASES:
        kind = case.manifest["kind"]
        schema = SCHEMAS[kind]["properties"]["spec"]
        seen |= {(kind, *path) for path in used(schema, case.manifest["spec"], ("spec",))}
    never = {("KoiAgent", "spec", *path) for path in REFUSED}
    never |= {("KoiPlan", "spec", "defaults", *path) for path in REFUSED | REFUSED_IN_PLANS}
    assert expected - seen == never


EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
OURS = [
    document
    for path in EXAMPLES
    for document in yaml.safe_load_all(path.read_text())
    if document and document["apiVersion"].startswith("skykoi.io/")
]


@pytest.mark.parametrize("manifest", OURS, ids=lambda manifest: f"{manifest['kind']}/{manifest['metadata']['name']}")
def test_the_examples_are_good(server: ApiServer, manifest: dict) -> None:
    if manifest["kind"] == "KoiAgent":
        manifest = manifest | {"metadata": manifest["metadata"] | {"namespace": "default"}}
    accepted = server.try_create(manifest).accepted()["spec"]
    assert {key: accepted[key] for key in manifest["spec"]} == manifest["spec"]
