"""What the chart renders to, and what it refuses to render."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from rendering import CHART, helm, objects, template, values_file
from world import paths

GOLDEN = Path(__file__).parent / "golden"
DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize("values", ["default", "full"])
def test_lint_is_clean(values: str) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", values_file(values), check=False)
    assert (done.returncode, "[WARNING]" in done.stdout, "[ERROR]" in done.stdout) == (0, False, False), done.stdout


@pytest.mark.parametrize("values", ["default", "full"])
def test_golden(values: str) -> None:
    """After a wanted change: KOI_WRITE_GOLDEN=1 pytest tests/chart, then read the diff."""
    rendered = template("--values", values_file(values))
    golden = GOLDEN / f"{values}.yaml"
    if os.environ.get("KOI_WRITE_GOLDEN"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def test_every_value_is_used_by_the_full_file() -> None:
    """A value that the full file leaves at its default is not tested by the golden file."""

    def leaves(tree: object, path: str = "") -> dict[str, object]:
        if isinstance(tree, dict) and tree:
            return {k: v for key, child in tree.items() for k, v in leaves(child, f"{path}.{key}".lstrip(".")).items()}
        return {path: tree}

    defaults = leaves(yaml.safe_load((CHART / "values.yaml").read_text()))
    full = leaves(yaml.safe_load((CHART / "ci" / "full-values.yaml").read_text()))
    changed = {
        path
        for path in defaults
        if any(p == path or p.startswith(f"{path}.") for p in full if full[p] != defaults.get(p))
    }
    # What is on by default stays on there: turning it off would leave less to look at.
    stays = {path for path, value in defaults.items() if path.endswith((".create", ".enabled")) and value is True}
    assert set(defaults) - changed - stays == {"resources.limits.memory"} - changed


BAD_VALUES = [
    ("clusterId=", "clusterId is required: an id for this installation"),
    ("clusterId=Prod_EU", "'/clusterId': 'Prod_EU' does not match pattern"),
    (f"clusterId={'x' * 64}", "'/clusterId'"),
    ("region=us-east-1", "additional properties 'region' not allowed"),
    ("operator.sweepintervall=1s", "'/operator': additional properties 'sweepintervall' not allowed"),
    ("operator.sweepInterval=30", "'/operator/sweepInterval': got number, want string"),
    ("operator.probeInterval=1 minute", "'/operator/probeInterval': '1 minute' does not match pattern"),
    ("operator.sweepInterval=0s", "'/operator/sweepInterval': 'not' failed"),
    (
        "gateway.artifact.url=ftp://example.com/x",
        "'/gateway/artifact/url': 'ftp://example.com/x' does not match pattern",
    ),
    ("gateway.artifact.sha256=ABC", "'/gateway/artifact/sha256': 'ABC' does not match pattern"),
    ("gateway.artifact.url=https://example.com/x", "gateway.artifact.url and gateway.artifact.sha256 go together"),
    ("operator.reap=yes", "'/operator/reap': value must be one of 'report', 'delete', 'off', false"),
    ("operator.awsRate=fast", "'/operator/awsRate'"),
    ("operator.awsRate=0", "'/operator/awsRate'"),
    ("operator.otlpEndpoint=collector:4318", "'/operator/otlpEndpoint': 'collector:4318' does not match pattern"),
    ("operator.logFormat=xml", "'/operator/logFormat': value must be one of 'json', 'text'"),
    ("operator.leaderElection=maybe", "'/operator/leaderElection': got string, want boolean"),
    ("watchNamespace=Team_A", "'/watchNamespace': 'Team_A' does not match pattern"),
    ("replicaCount=-1", "'/replicaCount': minimum: got -1, want 0"),
    ("image.pullPolicy=Sometimes", "'/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"),
    ("image.digest=sha256:abc", "'/image/digest'"),
    ("image.repository=", "'/image/repository'"),
    ("aws.region=Frankfurt", "'/aws/region': 'Frankfurt' does not match pattern"),
    ("aws.endpointUrl=localhost:4566", "'/aws/endpointUrl'"),
    ("aws.accessKeyId=AKIA", "'/aws': additional properties 'accessKeyId' not allowed"),
    ("metrics.port=80", "'/metrics/port': minimum: got 80, want 1,024"),
    ("extraEnv[0].name=KOI_CLUSTER_ID", "'/extraEnv/0/name': 'not' failed"),
    ("podDisruptionBudget.maxUnavailable=half", "'/podDisruptionBudget/maxUnavailable': 'oneOf' failed"),
    ("networkPolicy.apiServerPorts[0]=0", "'/networkPolicy/apiServerPorts/0': minimum: got 0, want 1"),
    ("defaultPlan.name=Default Plan", "'/defaultPlan/name'"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_VALUES, ids=[bad[:40] for bad, _ in BAD_VALUES])
def test_bad_values_are_refused(bad: str, message: str) -> None:
    done = helm("template", "koi", str(CHART), "--set", "clusterId=golden", "--set", bad, check=False)
    assert done.returncode != 0
    assert message in done.stderr


def test_a_service_monitor_without_its_service_is_refused() -> None:
    sets = ("--set", "clusterId=a,metrics.serviceMonitor.enabled=true,metrics.service.enabled=false")
    done = helm("template", "koi", str(CHART), *sets, check=False)
    assert done.returncode != 0
    assert "metrics.serviceMonitor.enabled needs metrics.service.enabled" in done.stderr


def container(*args: str) -> dict:
    deployment = objects(template(*args))["Deployment", "koi-operator"]
    return deployment["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("sets", "image"),
    [
        ("image.tag=", "ghcr.io/skykoi/koi-operator:0.1.0"),
        ("image.tag=v2", "ghcr.io/skykoi/koi-operator:v2"),
        (f"image.tag=v2,image.digest={DIGEST}", f"ghcr.io/skykoi/koi-operator@{DIGEST}"),
    ],
)
def test_image(sets: str, image: str) -> None:
    assert container("--set", f"clusterId=a,{sets}")["image"] == image


@pytest.mark.parametrize("given", ["off", "false"])
def test_a_bare_off_is_off(given: str) -> None:
    """YAML reads `reap: off` as false."""
    sets = f"clusterId=a,operator.reap={given},operator.awsRate={given}"
    env = {e["name"]: e.get("value") for e in container("--set", sets)["env"]}
    assert (env["KOI_REAP"], env["KOI_AWS_RATE"]) == ("off", "off")


def test_the_environment_is_the_operators_flags() -> None:
    """Every flag of `koi-operator run` has a value, and the chart sets no variable that the operator does not know."""
    flags = set(re.findall(r'env = "(KOI_\w+)"', (paths.ROOT / "src" / "args.rs").read_text()))
    deployment = objects(template("--values", values_file("full")))["Deployment", "koi-full"]
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {entry["name"] for entry in env if entry["name"].startswith("KOI_")} == flags


def test_minimal_is_nothing_but_the_deployment() -> None:
    off = (
        "serviceAccount.create=false,rbac.create=false,rbac.userRoles=false,guard.enabled=false,"
        "defaultPlan.create=false,metrics.service.enabled=false"
    )
    assert list(objects(template("--set", f"clusterId=a,{off}"))) == [("Deployment", "koi-operator")]


def test_a_plan_that_is_told_not_to_be_default_is_not() -> None:
    def spec(extra: str) -> dict:
        return objects(template("--set", f"clusterId=a{extra}"))["KoiPlan", "default"]["spec"]

    assert (spec(""), spec(",defaultPlan.spec.default=false")) == ({"default": True}, {"default": False})


def test_two_releases_share_no_cluster_scoped_name() -> None:
    def names(namespace: str) -> set[tuple[str, str]]:
        sets = "clusterId=a,defaultPlan.create=false,rbac.userRoles=false"
        found = objects(template("--set", sets, "--namespace", namespace))
        return {key for key, document in found.items() if "namespace" not in document["metadata"]}

    first, second = names("one"), names("two")
    assert len(first) == 6
    assert first & second == set()


def test_values_have_a_schema_for_each_key() -> None:
    """Strict all the way down: a key of values.yaml that the schema does not know, or the other way round."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(value: dict, node: dict, path: str) -> list[str]:
        known = node["properties"]
        wrong = [f"{path}.{key}" for key in set(value) ^ (set(known) - {"global", "claims"})]
        for key, child in value.items():
            below = known.get(key, {})
            if isinstance(child, dict) and "properties" in below and key != "resources":
                wrong += [] if below.get("additionalProperties") is False else [f"{path}.{key} is open"]
                wrong += compare(child, below, f"{path}.{key}")
        return wrong

    assert compare(values, schema, "") == []
