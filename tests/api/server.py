"""What the tests say to the API server: plain HTTP, no client library in between that would hide an answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from world.shell import wait_for

Document = dict[str, Any]

GROUP = "/apis/skykoi.io/v1alpha1"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVER_SIDE_APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"


@dataclasses.dataclass(frozen=True)
class Cause:
    """One reason of a refusal: the exact field, and what the API server says about it."""

    field: str
    message: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer of the API server."""

    code: int
    body: Document
    warnings: tuple[str, ...]

    def causes(self) -> list[Cause]:
        """The reasons of a refusal, without remarks about no field (that rules were left out because of others)."""
        causes = (self.body.get("details") or {}).get("causes") or []
        found = [Cause(cause.get("field", ""), cause.get("message", "")) for cause in causes]
        return [cause for cause in found if cause.field != "<nil>"]

    def accepted(self) -> Document:
        """The object; a refusal or a warning fails the test with what was said."""
        assert self.code in (200, 201), self.body.get("message")
        assert not self.warnings, self.warnings
        return self.body


class ApiServer:
    """A session as administrator."""

    def __init__(self, url: str, pki: Path) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(pki / "ca.crt")
        self._session.cert = (str(pki / "admin.crt"), str(pki / "admin.key"))

    def __enter__(self) -> ApiServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def ask(
        self, method: str, path: str, body: Document | None = None, kind: str = "application/json", **query: str
    ) -> Answer:
        headers = {"Content-Type": kind}
        answer = self._session.request(method, self._url + path, json=body, headers=headers, params=query, timeout=30)
        warning = answer.headers.get("Warning")
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        document = answer.json() if is_json else {"message": answer.text}
        return Answer(answer.status_code, document, (warning,) if warning else ())

    # objects of our kinds

    def try_create(self, manifest: Document) -> Answer:
        """All checks and defaults of a creation, without keeping the object; unknown fields are errors."""
        return self.ask("POST", collection(manifest), manifest, dryRun="All", fieldValidation="Strict")

    def create(self, manifest: Document) -> Document:
        return self.ask("POST", collection(manifest), manifest, fieldValidation="Strict").accepted()

    def read(self, manifest: Document) -> Document:
        return self.ask("GET", path_of(manifest)).accepted()

    def try_change(self, manifest: Document, patch: Document) -> Answer:
        """A merge patch, without keeping it."""
        return self.ask("PATCH", path_of(manifest), patch, MERGE_PATCH, dryRun="All", fieldValidation="Strict")

    def apply_status(self, manifest: Document, status: Document, manager: str) -> Answer:
        """Server-side apply to the status subresource."""
        body = {key: manifest[key] for key in ("apiVersion", "kind", "metadata")} | {"status": status}
        path = path_of(manifest) + "/status"
        return self.ask("PATCH", path, body, SERVER_SIDE_APPLY, fieldManager=manager, fieldValidation="Strict")

    def delete(self, manifest: Document) -> None:
        answer = self.ask("DELETE", path_of(manifest))
        assert answer.code in (200, 202, 404), answer.body

    # definitions

    def install(self, definition: Document) -> Document:
        """Creates a definition, without a warning, and waits until it serves."""
        self.ask("POST", DEFINITIONS, definition, fieldValidation="Strict").accepted()
        name = definition["metadata"]["name"]
        return wait_for(f"{name} to be established", lambda: self._established(name), 20)

    def _established(self, name: str) -> Document | None:
        found = self.ask("GET", f"{DEFINITIONS}/{name}").accepted()
        conditions = {item["type"]: item["status"] for item in (found["status"]["conditions"] or [])}
        plural = found["spec"]["names"]["plural"]
        served = self.ask("GET", f"{GROUP}/{plural}").code == 200
        return found if conditions.get("Established") == "True" and served else None


def collection(manifest: Document) -> str:
    """Where objects of this kind are created."""
    if manifest["kind"] == "KoiPlan":
        return f"{GROUP}/koiplans"
    return f"{GROUP}/namespaces/{manifest['metadata']['namespace']}/koiagents"


def path_of(manifest: Document) -> str:
    return f"{collection(manifest)}/{manifest['metadata']['name']}"
