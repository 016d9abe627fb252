"""A stage: a world with the chart installed, and the operator run the way the chart says it runs, with its ServiceAccount's token."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from botocore.exceptions import BotoCoreError, ClientError
from world.cloud.client import CloudClient
from world.paths import ROOT, kube_program
from world.processes import spawn
from world.world import World

from .gateway import Gateway
from .kube import Kube, condition, is_true
from .machine import Machine
from .wait import until

NAMESPACE = "koi-system"
CLUSTER_ID = "demo"
OPERATOR = ROOT / "target" / "debug" / "koi-operator"
GATEWAY = ROOT / "target" / "debug" / "koi-gateway"
METRICS_PORT = 8080


def world_name(purpose: str) -> str:
    """A name for the world of this purpose that is this checkout's own: what a crashed run left is found again.

    Tests that run side by side have a world for each worker.
    """
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]
    return "-".join(filter(None, (purpose, checkout, os.environ.get("PYTEST_XDIST_WORKER"))))


def readyz(port: int = METRICS_PORT) -> str:
    """What the operator says is missing; `ok` when nothing is."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.read().decode().strip()
    except OSError as error:
        return f"no answer: {error}"


class Operator:
    """One running operator process."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process, self.log = process, log

    def kill(self) -> None:
        """As a node that loses power."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, seconds: float = 12) -> int:
        """As Kubernetes does it: SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def text(self) -> str:
        """Everything that it logged so far."""
        return self.log.read_text(errors="replace")


class Stage:
    """Owns a world and what runs in it; a context manager."""

    def __init__(
        self, name: str, driver: str = "nspawn", progress: Callable[[str], None] = lambda _text: None, **timing: str
    ) -> None:
        self.driver, self.progress = driver, progress
        # Quicker than the defaults, so that scenarios take seconds; intervals are the operator's own flags.
        self.timing = {"KOI_SWEEP_INTERVAL": "2s", "KOI_PROBE_INTERVAL": "2s", **timing}
        self.world = World(name, progress)
        self.operators: list[Operator] = []
        self.scratch = tempfile.TemporaryDirectory(prefix="koi-stage-")

    def __enter__(self) -> Stage:
        self.world.start(driver=self.driver, artifacts={"koi-gateway": GATEWAY})
        self.world.enter()
        self.kube = Kube(self.world.kubeconfig)
        self.cloud = CloudClient(self.world.endpoint, self.world.state_dir)
        return self

    def __exit__(self, *_error: object) -> None:
        for operator in self.operators:
            if operator.process.poll() is None:
                operator.kill()
        self.world.stop()
        self.scratch.cleanup()

    # what is installed

    def install_chart(self, *settings: str) -> None:
        """`helm install` with the gateway that this world serves to its machines."""
        digest = hashlib.sha256(GATEWAY.read_bytes()).hexdigest()
        values = {
            "clusterId": CLUSTER_ID,
            "aws.region": "us-east-1",
            "aws.endpointUrl": self.world.endpoint,
            "gateway.artifact.url": "http://172.31.0.1:4566/_world/artifacts/koi-gateway",
            "gateway.artifact.sha256": digest,
        }
        sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
        self.helm(
            "install",
            "koi",
            str(ROOT / "charts" / "koi-operator"),
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            *sets,
            *settings,
        )

        self.cloud.operator_policy(self.iam_policy())

    def iam_policy(self) -> dict:
        """The chart's IAM policy for this account and cluster id: the cloud holds the operator to it."""
        text = (ROOT / "charts" / "koi-operator" / "files" / "iam-policy.json").read_text()
        facts = {
            "partition": "aws",
            "account": self.cloud.ready().account,
            "cluster_id": CLUSTER_ID,
            "cluster_id_24": CLUSTER_ID[:24],
        }
        for name, value in facts.items():
            text = text.replace(f"${{{name}}}", value)
        return json.loads(text)

    def helm(self, *arguments: str) -> str:
        """Runs Helm inside the world as its administrator."""
        return self._tool("helm", *arguments)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs kubectl inside the world as its administrator."""
        return self._tool("kubectl", *arguments, stdin=stdin)

    def _tool(self, name: str, *arguments: str, stdin: str | None = None) -> str:
        env = {"HOME": self.scratch.name, "PATH": os.environ["PATH"], "KUBECONFIG": str(self.world.kubeconfig)}
        done = subprocess.run(
            [kube_program(name), *arguments], env=env, input=stdin or "", capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise AssertionError(f"{name} {' '.join(arguments[:4])}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, manifest: dict | Path) -> None:
        """`kubectl apply` of a file or a manifest."""
        text = manifest.read_text() if isinstance(manifest, Path) else yaml.safe_dump(manifest)
        self.kubectl("apply", "-f", "-", stdin=text)

    # the operator

    def start_operator(self, *arguments: str, env: Mapping[str, str] | None = None) -> Operator:
        """Starts the operator with the environment of the chart's Deployment and the rights of its ServiceAccount."""
        assert self.world.control_plane
        kubeconfig = self.world.control_plane.kubeconfig_for_service_account(NAMESPACE, "koi-operator")
        keys = self.world.credentials("operator")
        variables = {
            **self.deployment_env(),
            **self.timing,
            "KUBECONFIG": str(kubeconfig),
            "PATH": os.environ["PATH"],
            "KOI_LOG_FORMAT": "text",
            "AWS_ACCESS_KEY_ID": keys["accessKeyId"],
            "AWS_SECRET_ACCESS_KEY": keys["secretAccessKey"],
            "AWS_EC2_METADATA_DISABLED": "true",
            **(env or {}),
        }
        name = f"operator-{len(self.operators)}"
        # recorded on disk, so that the next world ends it should this process be killed
        started = spawn(name, [OPERATOR, "run", *arguments], self.world.state_dir, variables)
        operator = Operator(started.child, started.log)
        self.operators.append(operator)
        # Its first line comes when it can be told to stop.
        until("the operator speaks", lambda: operator.text() or operator.process.poll() is not None, 10, every=0.02)
        return operator

    def deployment_env(self) -> dict[str, str]:
        """The variables that the chart gives the operator."""
        deployment = self.kube.get(f"apis/apps/v1/namespaces/{NAMESPACE}/deployments/koi-operator")
        assert deployment, "the chart is not installed"
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        return {**env, "KOI_NAMESPACE": NAMESPACE}

    # the agent

    def agent(self, name: str, namespace: str = "default") -> dict:
        """The KoiAgent; it must be there."""
        found = self.kube.agent(name, namespace)
        assert found, f"koi/{name} is not there"
        return found

    def wait_condition(
        self,
        name: str,
        kind: str,
        status: str = "True",
        seconds: float = 60,
        reason: str | None = None,
        namespace: str = "default",
    ) -> dict:
        """Waits for a condition (absent counts as status `Absent`) and returns the agent."""

        def look() -> dict | None:
            agent = self.kube.agent(name, namespace)
            entry = condition(agent, kind) or {"status": "Absent", "reason": ""}
            fits = entry["status"] == status and (reason is None or entry["reason"] == reason)
            current = agent and (agent.get("status") or {}).get("observedGeneration") == agent["metadata"]["generation"]
            return agent if fits and current else None

        what = f"koi/{name} {kind}={status}" + (f" reason {reason}" if reason else "")
        return until(what, look, seconds, seen=lambda: self.told_of(name, namespace))

    def wait_ready(self, name: str, seconds: float = 60, namespace: str = "default") -> dict:
        """Waits for Ready=True."""
        return self.wait_condition(name, "Ready", seconds=seconds, namespace=namespace)

    def wait_gone(self, name: str, seconds: float = 60, namespace: str = "default") -> None:
        """Waits until the object is gone."""
        until(
            f"koi/{name} is gone",
            lambda: self.kube.agent(name, namespace) is None,
            seconds,
            seen=lambda: self.told_of(name, namespace),
        )

    def told_of(self, name: str, namespace: str = "default") -> str:
        """What status says of an agent that something was waited for in vain; what was done for it goes to standard error."""
        agent = self.kube.agent(name, namespace)
        uid = agent["metadata"]["uid"] if agent else f'"{name}"'
        logged = [line for operator in self.operators for line in operator.text().splitlines() if uid in line]
        parts = {"status": [json.dumps((agent or {}).get("status"))], "log of the operator": logged[-20:]}
        with contextlib.suppress(OSError, BotoCoreError, ClientError):
            parts["calls"] = [call for call in self.cloud.calls(principal="operator") if uid in str(call)][-12:]
            claimed = [{"Name": "tag:skykoi:agent-uid", "Values": [uid]}]
            parts["instances"] = self.cloud.boto("ec2").describe_instances(Filters=claimed)["Reservations"]
        for part, found in parts.items():
            print(f"--- {namespace}/{name}, {part}:", *found, sep="\n", file=sys.stderr)
        return summary(agent)

    def machine(self, name: str, namespace: str = "default") -> Machine:
        """The machine of an agent."""
        return Machine(self.world.state_dir, self.agent(name, namespace)["status"]["instance"]["id"])

    def gateway(self, name: str, namespace: str = "default") -> Gateway:
        """A user's connection to the gateway of an agent, through 443, with what status and Secret say."""
        agent = self.agent(name, namespace)
        secret = self.kube.secret(agent["status"]["gateway"]["tokenSecretName"], namespace)
        assert secret, "the agent's Secret is not there"
        address, _, port = agent["status"]["gateway"]["endpoint"].removeprefix("wss://").rstrip("/").partition(":")
        uid = agent["metadata"]["uid"]
        return Gateway(
            address, secret["token"].decode(), secret["tls.crt"].decode(), f"{uid}.koi.internal", port=int(port or 443)
        )


def summary(agent: dict | None) -> str:
    """One line for each condition, for failures."""
    if agent is None:
        return "gone"
    entries = ((agent.get("status") or {}).get("conditions")) or []
    return (
        "; ".join(f"{entry['type']}={entry['status']} {entry['reason']}: {entry['message']}" for entry in entries)
        or "no conditions yet"
    )


__all__ = ["CLUSTER_ID", "NAMESPACE", "Operator", "Stage", "condition", "is_true", "summary", "world_name"]
