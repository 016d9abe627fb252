"""A few requests to the API server, as the admin or as a service account."""

from __future__ import annotations

import base64
import dataclasses
import tempfile
from pathlib import Path

import requests
import yaml


@dataclasses.dataclass
class Api:
    """Speaks to one API server as one user."""

    server: str
    session: requests.Session

    @classmethod
    def admin(cls, kubeconfig: Path) -> Api:
        """The user of a kubeconfig that holds a client certificate."""
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        session = requests.Session()
        session.trust_env = False
        session.verify = as_file(cluster, "certificate-authority")
        session.cert = (as_file(user, "client-certificate"), as_file(user, "client-key"))
        return cls(cluster["server"], session)

    def as_service_account(self, namespace: str, name: str) -> Api:
        """The same server, with a fresh token of the account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = self.create(path, request)["status"]["token"]
        session = requests.Session()
        session.trust_env = False
        session.verify = self.session.verify
        session.headers["Authorization"] = f"Bearer {token}"
        return Api(self.server, session)

    def call(self, method: str, path: str, body: dict | None = None, patch: str = "merge-patch") -> requests.Response:
        """One request, whatever the answer."""
        kind = f"application/{patch}+{'yaml' if patch == 'apply-patch' else 'json'}" if method == "PATCH" else "application/json"
        return self.session.request(method, self.server + path, json=body, headers={"Content-Type": kind}, timeout=10)

    def get(self, path: str) -> dict | None:
        """An object, or None where there is none."""
        answer = self.call("GET", path)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
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


def as_file(holder: dict, key: str) -> str:
    """The path of a kubeconfig's certificate or key, whether it is named or embedded."""
    if key in holder:
        return holder[key]
    with tempfile.NamedTemporaryFile(prefix="koi-chart-", suffix=".pem", delete=False) as file:
        file.write(base64.b64decode(holder[f"{key}-data"]))
    return file.name
