"""Bad manifests: the API server names the exact field and says what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from api.cases import SCHEMAS, Case, Node, part, table
from api.server import ApiServer, Cause

CASES = table("bad_agents") + table("bad_plans")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_fault_gives_one_cause_with_its_path(server: ApiServer, case: Case) -> None:
    answer = server.try_create(case.manifest)
    assert answer.code == 422, answer.body
    causes = answer.causes()
    assert [cause.field for cause in causes] == [case.field], causes
    assert case.says in causes[0].message


def test_the_table_is_as_long_as_promised_and_names_each_case_once() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 90


def test_every_rule_of_the_specs_is_broken_by_a_case(server: ApiServer) -> None:
    """A rule that no case reaches could be wrong unseen. Rules about changes have tests of their own."""
    said = {(case.manifest["kind"], cause) for case in CASES for cause in server.try_create(case.manifest).causes()}
    missed = [
        f"{kind} {node}: {rule['message']}"
        for kind in SCHEMAS
        for node in part(kind, "spec")
        for rule in node.schema.get("x-kubernetes-validations", [])
        if "oldSelf" not in rule["rule"]
        and not is_inherited(kind, node)
        and not any(of == kind and speaks(cause, rule) for of, cause in said)
    ]
    assert missed == []


def is_inherited(kind: str, node: Node) -> bool:
    """A plan's defaults are the agent's own types; the agent's table covers their rules."""
    return kind == "KoiPlan" and node.path[:2] == ("spec", "defaults") and len(node.path) > 2


def speaks(cause: Cause, rule: dict[str, Any]) -> bool:
    """Whether the cause is this rule's. What a computed message starts with is known."""
    computed = rule.get("messageExpression", "")
    start = computed.split("'")[1].split("%s")[0].split('\\"')[0].strip() if computed else rule["message"]
    return start in cause.message


UNKNOWN = [
    ("KoiAgent", {"spec": {"colour": "red"}}, "spec.colour"),
    ("KoiAgent", {"spec": {"model": {"name": "x"}}}, "spec.model.name"),
    ("KoiAgent", {"spec": {"network": {"ports": [22]}}}, "spec.network.ports"),
    (
        "KoiAgent",
        {"spec": {"storage": {"restoreFrom": {"snapshotId": "snap-01234567", "volume": "x"}}}},
        "spec.storage.restoreFrom.volume",
    ),
    ("KoiPlan", {"spec": {"defaults": {"planRef": {"name": "x"}}}}, "spec.defaults.planRef"),
    ("KoiPlan", {"spec": {"defaults": {"power": "Running"}}}, "spec.defaults.power"),
    ("KoiPlan", {"spec": {"limits": {"regions": []}}}, "spec.limits.regions"),
]


@pytest.mark.parametrize(("kind", "body", "field"), UNKNOWN, ids=[field for _, _, field in UNKNOWN])
def test_a_field_that_is_not_there_is_refused_by_name(
    server: ApiServer, kind: str, body: dict[str, Any], field: str
) -> None:
    metadata = {"name": "ada"} | ({"namespace": "default"} if kind == "KoiAgent" else {})
    answer = server.try_create({"apiVersion": "skykoi.io/v1alpha1", "kind": kind, "metadata": metadata} | body)
    assert (answer.code, answer.body["reason"]) == (400, "BadRequest")
    assert f'unknown field "{field}"' in answer.body["message"]


def test_a_spec_is_required_of_no_field_but_must_be_there(server: ApiServer) -> None:
    metadata = {"name": "ada", "namespace": "default"}
    answer = server.try_create({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": metadata})
    assert [(cause.field, cause.message) for cause in answer.causes()] == [("spec", "Required value")]


def test_null_says_nothing(server: ApiServer) -> None:
    """An optional field that is null is as good as absent, and comes back absent."""
    manifest = table("good_agents")[0].manifest
    nulls = {"power": "Running", "model": None, "storage": {"deletionPolicy": None, "dataVolumeGiB": 7}}
    found = server.try_create(manifest | {"spec": nulls}).accepted()
    assert found["spec"] == {"power": "Running", "storage": {"dataVolumeGiB": 7}}


# Every bound of the schema, without exception: one step beyond it.


def beyond(schema: dict[str, Any]) -> list[Any]:
    """Values that break exactly one bound each."""
    values: list[Any] = []
    if "maxLength" in schema and schema.get("type") == "string":
        values.append("x" * (schema["maxLength"] + 1))
    if "maxItems" in schema:
        values.append([beyond_item(schema["items"], number) for number in range(schema["maxItems"] + 1)])
    if "maxProperties" in schema:
        values.append({f"key{number}": beyond_item({}, number) for number in range(schema["maxProperties"] + 1)})
    if "minimum" in schema:
        values.append(int(schema["minimum"]) - 1)
    if "maximum" in schema:
        values.append(int(schema["maximum"]) + 1)
    if "enum" in schema:
        values.append("Nonsense")
    return values


def beyond_item(schema: dict[str, Any], number: int) -> Any:
    return {"number": number} if schema.get("type") == "object" else f"x{number}"


def wrapped(path: tuple[str, ...], value: Any) -> Any:
    """The value at its place, and nothing around it."""
    for step in reversed(path):
        value = [value] if step == "[]" else {"key" if step == "{}" else step: value}
    return value


def field_name(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[]", "[0]").replace("{}", "key")


BOUNDS = [(kind, node, value) for kind in SCHEMAS for node in part(kind, "spec") for value in beyond(node.schema)]


@pytest.mark.parametrize(("kind", "node", "value"), BOUNDS, ids=[f"{kind} {node}" for kind, node, _ in BOUNDS])
def test_one_step_beyond_a_bound(server: ApiServer, kind: str, node: Node, value: Any) -> None:
    metadata = {"name": "ada"} | ({"namespace": "default"} if kind == "KoiAgent" else {})
    manifest = {"apiVersion": "skykoi.io/v1alpha1", "kind": kind, "metadata": metadata} | wrapped(node.path, value)
    answer = server.ask(
        "POST",
        "/apis/skykoi.io/v1alpha1/" + ("koiplans" if kind == "KoiPlan" else "namespaces/default/koiagents"),
        manifest,
        dryRun="All",
    )
    assert answer.code == 422, answer.body
    words = ("may not be more than", "must have at most", "should be", "supported values")
    told = [cause for cause in answer.causes() if cause.field == field_name(node.path)]
    assert any(word in cause.message for cause in told for word in words), answer.causes()


def test_the_bounds_are_many() -> None:
    assert len(BOUNDS) > 100
