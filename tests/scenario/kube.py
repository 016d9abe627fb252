"""A small client for the API server of a world: plain HTTPS with the admin's certificate, quick enough to poll."""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import yaml

GROUP = "apis/skykoi.io/v1alpha1"


class Kube:
    """Reads and changes objects with the rights of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._files = tempfile.TemporaryDirectory(prefix="koi-kube-")
        self.base = cluster["server"]
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = self._file("ca.crt", cluster, "certificate-authority")
        if "token" in user:
            self.session.headers["Authorization"] = f"Bearer {user['token']}"
        else:
            self.session.cert = (
                self._file("tls.crt", user, "client-certificate"),
                self._file("tls.key", user, "client-key"),
            )

    def _file(self, name: str, section: dict, key: str) -> str:
        if path := section.get(key):
            return path
        target = Path(self._files.name, name)
        target.write_bytes(base64.b64decode(section[f"{key}-data"]))
        return str(target)

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
    ) -> dict:
        """One call; raises with the server's own message."""
        data = None if body is None else json.dumps(body)
        answer = self.session.request(
            method, f"{self.base}/{path}", data=data, params=query, headers={"Content-Type": content_type}, timeout=30
        )
        if answer.status_code >= 400:
            raise KubeError(answer.status_code, f"{method} {path}: {answer.json().get('message', answer.text)}")
        return answer.json()

    def agent(self, name: str, namespace: str = "default") -> dict | None:
        """The KoiAgent, or None when it is gone."""
        return self.get(f"{GROUP}/namespaces/{namespace}/koiagents/{name}")

    def get(self, path: str) -> dict | None:
        """The object at a path, or None."""
        try:
            return self.request("GET", path)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def patch_agent(self, name: str, patch: dict, namespace: str = "default") -> dict:
        """A merge patch of a KoiAgent, as a user makes it."""
        return self.request(
            "PATCH", f"{GROUP}/namespaces/{namespace}/koiagents/{name}", patch, "application/merge-patch+json"
        )

    def create_agent(self, manifest: dict, namespace: str = "default") -> dict:
        """Creates a KoiAgent."""
        return self.request("POST", f"{GROUP}/namespaces/{namespace}/koiagents", manifest)

    def delete_agent(self, name: str, namespace: str = "default") -> None:
        """Asks for deletion; the finalizer decides when it is done."""
        self.request("DELETE", f"{GROUP}/namespaces/{namespace}/koiagents/{name}")

    def secret(self, name: str, namespace: str = "default") -> dict[str, bytes] | None:
        """The decoded data of a Secret, or None."""
        found = self.get(f"api/v1/namespaces/{namespace}/secrets/{name}")
        return found and {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}

    def events(self, agent: str, namespace: str = "default") -> list[dict]:
        """The Events about a KoiAgent, oldest first."""
        items = self.request("GET", f"apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
        mine = [event for event in items if event.get("regarding", {}).get("name") == agent]
        return sorted(mine, key=lambda event: event["eventTime"] or event["metadata"]["creationTimestamp"])

    def watch_agents(self, namespace: str = "default", timeout: int = 600) -> Iterator[dict]:
        """KoiAgents as they change, until the time is over or the server goes; each item is {type, object}."""
        path = f"{self.base}/{GROUP}/namespaces/{namespace}/koiagents"
        with self.session.get(
            path, params={"watch": "true", "timeoutSeconds": str(timeout)}, stream=True, timeout=timeout + 30
        ) as answer:
            with contextlib.suppress(requests.exceptions.ChunkedEncodingError):
                for line in answer.iter_lines():
                    if line:
                        yield json.loads(line)


class KubeError(Exception):
    """A refusal of the API server."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def condition(agent: dict | None, kind: str) -> dict | None:
    """One condition of an agent."""
    conditions = ((agent or {}).get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry["type"] == kind), None)


def is_true(agent: dict | None, kind: str) -> bool:
    """Is this condition True?"""
    return (condition(agent, kind) or {}).get("status") == "True"
