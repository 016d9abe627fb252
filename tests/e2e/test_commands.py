"""What the programs say without a cluster or a cloud."""

from __future__ import annotations

import json
import subprocess

import pytest
import yaml
from scenario.stage import GATEWAY, OPERATOR
from world.paths import ROOT


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """Runs a program with next to no environment."""
    words = [str(word) for word in command]
    return subprocess.run(
        words,
        env={"HOME": "/nonexistent"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )


BAD_FLAGS = (
    ((), "--cluster-id"),
    (("--cluster-id", "Bad_ID"), "a-z, 0-9"),
    (("--cluster-id", "a", "--sweep-interval", "0"), "--sweep-interval"),
    (("--cluster-id", "a", "--probe-interval", "soon"), "--probe-interval"),
    (("--cluster-id", "a", "--reap", "maybe"), "report, delete, off"),
    (("--cluster-id", "a", "--metrics-addr", "nowhere"), "--metrics-addr"),
    (("--cluster-id", "a", "--no-such-flag"), "--no-such-flag"),
    (("--cluster-id", "a", "--otlp-endpoint", "http://collector:4318"), "--features otlp"),
)


@pytest.mark.parametrize(("flags", "word"), BAD_FLAGS)
def test_bad_flags_are_exit_2_and_one_line(flags: tuple[str, ...], word: str) -> None:
    done = run(OPERATOR, "run", *flags)
    assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (2, "", 1)
    assert word in done.stderr


def test_crds_are_those_of_the_repository() -> None:
    printed = list(yaml.safe_load_all(run(OPERATOR, "crds").stdout))
    kept = [yaml.safe_load(file.read_text()) for file in sorted((ROOT / "crds").glob("*.yaml"))]
    assert sorted(crd["metadata"]["name"] for crd in printed) == sorted(crd["metadata"]["name"] for crd in kept)
    assert {crd["metadata"]["name"]: crd for crd in printed} == {crd["metadata"]["name"]: crd for crd in kept}


def test_render_shows_what_would_be_made() -> None:
    done = run(OPERATOR, "render", "-f", "examples/quickstart.yaml")
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["userData"]["bytes"] == len(shown["userData"]["text"].encode()) <= 16_384
    assert shown["config"]["gateway"]["bind"] == "loopback"
    assert shown["tags"]["skykoi:agent"] == "default/quickstart"
    assert {statement["Sid"] for statement in shown["rolePolicy"]["Statement"]} >= {"InvokeModels", "ReadOwnBundle"}


BAD_FILES = (
    (
        "{apiVersion: skykoi.io/v1alpha1, kind: KoiAgent, metadata: {name: ada}, spec: {power: 5}}",
        "KoiAgent ada: spec.power: ",
    ),
    (
        "{apiVersion: skykoi.io/v1alpha1, kind: KoiAgent, metadata: {name: ada}, spec: {instance: {image: {id: []}}}}",
        "1:99: KoiAgent ada: spec.instance.image.id: must be of type string",
    ),
    (
        "{apiVersion: skykoi.io/v1alpha1, kind: KoiAgent, metadata: {name: ada}, spec: {colour: red}}",
        "1:80: KoiAgent ada: spec.colour: unknown field",
    ),
    (
        "{apiVersion: skykoi.io/v1alpha1, kind: KoiAgent, metadata: {name: ada}, spec: {storage: {dataVolumeGiB: .nan}}}",
        "spec.storage.dataVolumeGiB: is not a number (.nan)",
    ),
    (
        "{apiVersion: skykoi.io/v1alpha1, kind: KoiAgent, metadata: {name: ada}, spec: {model: {fallbacks: [a, -.inf]}}}",
        "spec.model.fallbacks[1]: is not a number (.nan) or has no end (.inf)",
    ),
    (
        "{apiVersion: skykoi.io/v1alpha1, kind: KoiPlan, metadata: {name: p}, spec: {default: often}}",
        "1:77: KoiPlan p: spec.default: must be of type boolean",
    ),
    (
        "{apiVersion: skykoi.io/v1alpha1, kind: KoiPlan, metadata: {name: p}, spec: {}}",
        "none of the files holds a KoiAgent",
    ),
    ("- 1\n", "1:1: an object needs apiVersion and kind"),
    ("{kind: KoiAgent, metadata: {name: ada}}", "1:1: an object needs apiVersion and kind"),
    ("a: [1", "2:1: is not YAML: "),
    ("{a: " * 2000 + "1" + "}" * 2000, "recursion limit"),
)


@pytest.mark.parametrize(("text", "word"), BAD_FILES)
def test_a_bad_file_is_told_with_its_field_in_one_line(tmp_path, text: str, word: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    done = run(OPERATOR, "render", "-f", file)
    assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (1, "", 1)
    assert word in done.stderr


def test_the_rendered_config_is_what_the_gateway_takes(tmp_path) -> None:
    """One document: what the operator writes passes the gateway's own check."""
    config = yaml.safe_load(run(OPERATOR, "render", "-f", "examples/quickstart.yaml").stdout)["config"]
    file = tmp_path / "skykoi.json"
    file.write_text(json.dumps(config))
    done = run(GATEWAY, "check", "--config", file)
    assert done.returncode == 0, done.stderr


def test_a_bad_config_is_exit_78_with_its_place(tmp_path) -> None:
    file = tmp_path / "skykoi.json"
    file.write_text("{\n  gateway: {\n    prot: 1,\n  },\n}\n")
    for command in ("check", "run"):
        done = run(GATEWAY, command, "--config", file)
        assert done.returncode == 78
        assert f"{file}:3:5: gateway.prot" in done.stderr and "port" in done.stderr
