"""Runs Helm on the chart, without a cluster."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import yaml
from world import paths

CHART = paths.ROOT / "charts" / "koi-operator"
EXAMPLES = paths.ROOT / "examples"
NAMESPACE = "koi-system"
RELEASE = "koi"


def helm(*args: str, kubeconfig: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs Helm with folders of its own, so that no setting of the person at the keyboard counts."""
    with tempfile.TemporaryDirectory(prefix="koi-helm-") as home:
        env = {"PATH": os.environ["PATH"], "HOME": home, "KUBECONFIG": str(kubeconfig or Path(home) / "none")}
        command = [str(paths.kube_program("helm")), *args]
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if check and done.returncode != 0:
        raise AssertionError(f"helm {' '.join(args)}\n{done.stdout}{done.stderr}")
    return done


def template(*args: str) -> str:
    """The manifests that the chart renders to."""
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *args).stdout


def objects(manifests: str) -> dict[tuple[str, str], dict]:
    """Rendered objects by kind and name."""
    found = [document for document in yaml.safe_load_all(manifests) if document]
    by_key = {(document["kind"], document["metadata"]["name"]): document for document in found}
    assert len(by_key) == len(found), "two objects of one kind and name"
    return by_key


def values_file(name: str) -> str:
    """The path of one of the chart's value files for tests."""
    return str(CHART / "ci" / f"{name}-values.yaml")
