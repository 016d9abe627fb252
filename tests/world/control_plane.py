"""A real Kubernetes control plane: etcd, API server with RBAC, and the controllers that tests rely on.

Everything listens on 127.0.0.1 of the network namespace that the processes are started in. There are no nodes: Pods
are stored and never run.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import subprocess
from pathlib import Path

from .certificates import Authority
from .network import HostNetwork, Namespace
from .paths import kube_program
from .processes import Recorded, spawn
from .shell import wait_for

CONTROLLERS = (
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
)


class ControlPlane:
    """Starts, stops and maims the control plane of one world.

    `network` is where its processes live; ports are the caller's choice, for only a namespace makes them private.
    """

    def __init__(self, state_dir: Path, network: Namespace | HostNetwork, api_port: int, etcd_port: int) -> None:
        self.state_dir, self.network = state_dir, network
        self.api_port, self.etcd_port = api_port, etcd_port
        self.pki = state_dir / "pki"
        self.kubeconfig = state_dir / "kubeconfig"
        self._etcd: Recorded | None = None
        self._api_server: Recorded | None = None
        self._controllers: Recorded | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    def start(self) -> None:
        """Returns when the API server answers and the default service account exists."""
        self._make_certificates()
        self._start_etcd()
        self.start_api_server()
        self._start_controllers()
        wait_for("the default service account", self._has_default_service_account, 30)

    def stop(self) -> None:
        for part in (self._controllers, self._api_server, self._etcd):
            if part:
                part.kill()

    # the API server, for tests that take it away

    def start_api_server(self) -> None:
        etcd = f"http://127.0.0.1:{self.etcd_port}"
        self._api_server = self._spawn(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.api_port}",
            f"--tls-cert-file={self.pki}/server.crt",
            f"--tls-private-key-file={self.pki}/server.key",
            f"--client-ca-file={self.pki}/ca.crt",
            "--authorization-mode=RBAC",
            f"--service-account-issuer={self.url}",
            f"--service-account-key-file={self.pki}/service-accounts.key",
            f"--service-account-signing-key-file={self.pki}/service-accounts.key",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            "--enable-priority-and-fairness=false",
            "--profiling=false",
        )
        self.wait_ready()

    def kill_api_server(self) -> None:
        """Power cut: connections break, etcd and the controllers stay."""
        if self._api_server:
            self._api_server.kill()

    def restart_api_server(self) -> None:
        self.kill_api_server()
        self.start_api_server()

    def wait_ready(self, timeout: float = 60) -> None:
        def ready() -> bool:
            if self._api_server:
                self._api_server.require()
            return self._answers_ready()

        wait_for("readiness of kube-apiserver", ready, timeout, interval=0.05)

    # access

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs kubectl as administrator and returns what it prints."""
        command = [*self.network.prefix(), str(kube_program("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def kubeconfig_for_service_account(self, namespace: str, name: str, server: str | None = None) -> Path:
        """A kubeconfig with a token of that service account, valid for a day."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h").strip()
        target = self.state_dir / f"kubeconfig-{namespace}-{name}"
        write_private(target, self._kubeconfig_text({"token": token}, server, namespace))
        return target

    def kubeconfig_through(self, server: str) -> Path:
        """The administrator's kubeconfig for callers that reach the API server at another address."""
        target = self.state_dir / "kubeconfig-outside"
        write_private(target, self._kubeconfig_text(self._admin_user(), server))
        return target

    # inside

    def _spawn(self, name: str, *flags: str) -> Recorded:
        return spawn(name, [*self.network.prefix(), kube_program(name), *flags], self.state_dir)

    def _start_etcd(self) -> None:
        url = f"http://127.0.0.1:{self.etcd_port}"
        self._etcd = self._spawn(
            "etcd",
            f"--data-dir={self.state_dir / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            "--listen-peer-urls=http://127.0.0.1:0",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_controllers(self) -> None:
        self._controllers = self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={self.pki}/service-accounts.key",
            f"--root-ca-file={self.pki}/ca.crt",
            "--use-service-account-credentials=false",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--secure-port=0",
        )

    def _make_certificates(self) -> None:
        self.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = Authority("world-ca")
        authority.write(self.pki / "ca.crt")
        authority.issue(self.pki / "server", "kube-apiserver", names=("localhost", "kubernetes.default.svc"))
        authority.issue(self.pki / "admin", "world-admin", organization="system:masters")
        authority.write_key(self.pki / "service-accounts.key")
        write_private(self.kubeconfig, self._kubeconfig_text(self._admin_user()))

    def _admin_user(self) -> dict[str, str]:
        return {
            "client-certificate-data": _base64(self.pki / "admin.crt"),
            "client-key-data": _base64(self.pki / "admin.key"),
        }

    def _kubeconfig_text(self, user: dict[str, str], server: str | None = None, namespace: str = "default") -> str:
        cluster = {"server": server or self.url, "certificate-authority-data": _base64(self.pki / "ca.crt")}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "world",
            "clusters": [{"name": "world", "cluster": cluster}],
            "users": [{"name": "world", "user": user}],
            "contexts": [{"name": "world", "context": {"cluster": "world", "user": "world", "namespace": namespace}}],
        }
        return json.dumps(document, indent=2)

    def _answers_ready(self) -> bool:
        status, _ = self._get("/readyz")
        return status == 200

    def _has_default_service_account(self) -> bool:
        if self._controllers:
            self._controllers.require()
        status, _ = self._get("/api/v1/namespaces/default/serviceaccounts/default")
        return status == 200

    def _get(self, path: str) -> tuple[int, bytes]:
        """Asks the API server as administrator, from inside the namespace; (0, b"") when it does not answer."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._get_or_raise(path)
        return 0, b""

    def _get_or_raise(self, path: str) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self.api_port, timeout=5, context=context)
        plain = self.network.connect("127.0.0.1", self.api_port)
        connection.sock = context.wrap_socket(plain, server_hostname="127.0.0.1")
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
