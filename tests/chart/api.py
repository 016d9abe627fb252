"""Requests to the API server, as the admin or as a service account."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import requests
from world.control_plane import ControlPlane
from world.shell import wait_for


@dataclasses.dataclass
class Api:
    """Speaks to one API server as one user."""

    server: str
    session: requests.Session

    @classmethod
    def admin(cls, plane: ControlPlane) -> Api:
        """The administrator."""
        api = cls(plane.url, trusting(str(plane.pki / "ca.crt")))
        api.session.cert = (str(plane.pki / "admin.crt"), str(plane.pki / "admin.key"))
        return api

    def as_service_account(self, namespace: str, name: str) -> Api:
        """The same server, with a fresh token of the account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = self.create(path, request)["status"]["token"]
        api = Api(self.server, trusting(str(self.session.verify)))
        api.session.headers["Authorization"] = f"Bearer {token}"
        return api

    def call(
        self, method: str, path: str, body: dict | None = None, patch: str = "merge-patch+json"
    ) -> requests.Response:
        """One request, whatever the answer."""
        kind = f"application/{patch}" if method == "PATCH" else "application/json"
        return self.session.request(method, self.server + path, json=body, headers={"Content-Type": kind}, timeout=10)

    def get(self, path: str) -> dict | None:
        """An object, or None where there is none."""
        answer = self.call("GET", path)
        if answer.status_code == 404:
            return None
        assert answer.ok, answer.text
        return answer.json()

    def create(self, path: str, body: dict) -> dict:
        """Makes an object, which must succeed."""
        answer = self.call("POST", path, body)
        assert answer.ok, answer.text
        return answer.json()

    def may(self, verb: str, attributes: dict[str, str], user: str | None = None) -> bool:
        """Whether RBAC lets this user (or the given one) do it."""
        kind = "SubjectAccessReview" if user else "SelfSubjectAccessReview"
        review = {"resourceAttributes": {"verb": verb, **attributes}, **({"user": user} if user else {})}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": review}
        return self.create(f"/apis/authorization.k8s.io/v1/{kind.lower()}s", body)["status"]["allowed"]


def trusting(authority: str) -> requests.Session:
    """A session that trusts one certificate authority and no setting of the environment."""
    session = requests.Session()
    session.trust_env = False
    session.verify = authority
    return session


def eventually(what: str, holds: Callable[[], bool]) -> None:
    """RBAC, discovery and admission policies reach the API server's caches a moment after they are written."""
    wait_for(what, holds, timeout=20, interval=0.05)
