"""A test world: a Kubernetes control plane, an AWS stand-in and machines, in a network namespace of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import worlds
from .ability import why_no_boot
from .control_plane import ControlPlane
from .network import HostNetwork, WorldNetwork
from .paths import ROOT, NotSetUp, kube_program, rootfs_dir
from .processes import Recorded, spawn
from .shell import wait_for

CLOUD_PORT, API_PORT, ETCD_PORT = 4566, 6443, 2379
REGION = "us-east-1"
DRIVERS = ("nspawn", "process", "none")
INOTIFY_INSTANCES = 1024  # each machine takes several; the usual 128 stop at about 20 machines
INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")


class World:
    """Use it as a context manager, or call `start` and `stop`. Never falls back to a lesser kind of world by itself.

    As root it lives in the network namespace `koi-NAME`; otherwise on 127.0.0.1 with ports of its own choice.
    """

    def __init__(self, name: str = "default", progress: Callable[[str], None] = lambda _text: None) -> None:
        self.name = worlds.check_name(name)
        self.state_dir = worlds.folder(name)
        self.network: WorldNetwork | HostNetwork = WorldNetwork(name) if os.geteuid() == 0 else HostNetwork()
        self.driver = "nspawn"
        self.control_plane: ControlPlane | None = None
        self.cloud: Recorded | None = None
        self.cloud_port = CLOUD_PORT
        self._cloud_arguments: tuple[str, ...] = ()
        self._lock = worlds.Lock(name)
        self._progress = progress
        self._children: list[Recorded] = []

    # life

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(
        self,
        control_plane: bool = True,
        cloud: bool = True,
        driver: str = "nspawn",
        artifacts: Mapping[str, Path] | None = None,
        cloud_arguments: Sequence[str] = (),
    ) -> World:
        """Returns when all that was asked for answers. `artifacts` are files that machines can download by name."""
        self.driver = driver
        self._require(control_plane, cloud)
        for name in worlds.reap():
            self._progress(f"removed what the world {name} had left")
        self._lock.acquire()
        try:
            self._start_parts(control_plane, cloud, artifacts or {}, tuple(cloud_arguments))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends everything; only the logs stay, until the next start."""
        if self._lock.held:
            for child in self._children:
                child.stop(grace=2)
            if self.cloud:
                self.cloud.stop(grace=15)
            if self.control_plane:
                self.control_plane.stop()
            worlds.remove(self.name)
            self._lock.release()
        self._children.clear()

    # use

    @property
    def artifacts_dir(self) -> Path:
        """Files that machines download from http://172.31.0.1:4566/_world/artifacts/."""
        return self.state_dir / "artifacts"

    def publish(self, name: str, source: Path) -> None:
        """Offers a file to machines; they see the old one or the new one, never half of it."""
        unfinished = self.artifacts_dir / f".{name}"
        shutil.copyfile(source, unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(self.artifacts_dir / name)

    @property
    def kubeconfig(self) -> Path:
        return self.state_dir / "kubeconfig"

    @property
    def endpoint(self) -> str:
        """Where the operator and tests find AWS."""
        return f"http://127.0.0.1:{self.cloud_port}"

    def env(self, principal: str = "operator") -> dict[str, str]:
        """The variables of the world alone, for programs inside it; AWS keys are those of `principal`."""
        variables = {"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": self.endpoint}
        variables["AWS_EC2_METADATA_DISABLED"] = "true"
        if self.control_plane:
            variables["KUBECONFIG"] = str(self.kubeconfig)
        keys = self.credentials(principal)
        variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"] = (
            keys["accessKeyId"],
            keys["secretAccessKey"],
        )
        return variables

    def credentials(self, principal: str = "operator") -> dict[str, str]:
        """A key pair that the cloud knows."""
        try:
            return json.loads((self.state_dir / "credentials.json").read_text())[principal]
        except OSError:
            return {"accessKeyId": "none", "secretAccessKey": "none"}  # a world without a cloud

    def command(self, *words: object) -> list[str]:
        """`words` as a command line that runs inside the world."""
        return [*self.network.prefix(), *(str(word) for word in words)]

    def run(self, *words: object, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess:
        """Runs a command inside the world, with the world's variables, and waits for it."""
        return subprocess.run(self.command(*words), env=self._environment(env), **options)

    def popen(self, *words: object, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen:
        """Starts a command inside the world; the caller ends it."""
        return subprocess.Popen(self.command(*words), env=self._environment(env), **options)

    def spawn(self, name: str, *words: object, env: Mapping[str, str] | None = None) -> Recorded:
        """Starts a command inside the world, logged to logs/NAME.log, that ends with the world (or is reaped)."""
        child = spawn(name, self.command(*words), self.state_dir, self._environment(env))
        self._children.append(child)
        return child

    def enter(self) -> None:
        """Moves the calling thread into the world's network; for a test process, before it makes threads."""
        if isinstance(self.network, WorldNetwork):
            self.network.enter()

    def connect(self, host: str, port: int, timeout: float = 5) -> socket.socket:
        """A TCP connection made inside the world, from wherever the caller is."""
        return self.network.connect(host, port, timeout)

    def restart_cloud(self) -> None:
        """Kills the cloud's process and starts a new one; its machines and its memory are gone."""
        if self.cloud:
            self.cloud.kill()
        self._start_cloud()

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "driver": self.driver, "netns": self.network.name, "env": self.env()}

    # inside

    def _require(self, control_plane: bool, cloud: bool) -> None:
        if self.driver not in DRIVERS:
            raise ValueError(f"no such driver: {self.driver!r}; there are: {', '.join(DRIVERS)}")
        if cloud and self.driver == "nspawn":
            if why := why_no_boot():
                raise NotSetUp(f"{why}: run as root on Linux, or ask for the driver `process`")
            if not (rootfs_dir() / "complete").exists():
                raise NotSetUp("the root file systems of machines are not there: run `tools/setup.py rootfs`")
        if cloud and self.driver == "process" and os.geteuid() != 0:
            raise NotSetUp("machines that are processes need network namespaces: call world.private.enter() first")
        if control_plane:
            for program in ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"):
                kube_program(program)

    def _start_parts(
        self, control_plane: bool, cloud: bool, artifacts: Mapping[str, Path], cloud_arguments: tuple[str, ...]
    ) -> None:
        shutil.rmtree(self.state_dir, ignore_errors=True)
        self.artifacts_dir.mkdir(parents=True)
        for name, source in artifacts.items():
            self.publish(name, source)
        if isinstance(self.network, WorldNetwork):
            self.network.require_free()
            # Recorded before it is there: what ends half-way through is removed too.
            (self.state_dir / worlds.NETNS_RECORD).write_text(self.network.name)
            self.network.create()
            raise_inotify_limit()
        self._cloud_arguments = cloud_arguments
        self.cloud_port = self._port(CLOUD_PORT)
        if cloud:
            self._launch_cloud()
        if control_plane:
            self._progress("starting the control plane")
            ports = self._port(API_PORT), self._port(ETCD_PORT)
            self.control_plane = ControlPlane(self.state_dir, self.network, *ports)
            self.control_plane.start()
        if cloud:
            self._await_cloud()
        (self.state_dir / "world.json").write_text(json.dumps(self.describe()))

    def _port(self, usual: int) -> int:
        if isinstance(self.network, WorldNetwork):
            return usual
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def _start_cloud(self) -> None:
        self._launch_cloud()
        self._await_cloud()

    def _launch_cloud(self) -> None:
        self._progress(f"starting the cloud (machines: {self.driver})")
        command = [sys.executable, "-m", "world.cloud", "--name", self.name, "--state", self.state_dir]
        command += ["--port", self.cloud_port, "--driver", self.driver]
        command += ["--imds"] if isinstance(self.network, WorldNetwork) else ["--host", "127.0.0.1"]
        command += self._cloud_arguments
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTHONUNBUFFERED": "1"}
        self.cloud = spawn("cloud", self.command(*command), self.state_dir, environment)

    def _await_cloud(self) -> None:
        def ready() -> bool:
            if self.cloud:
                self.cloud.require()
            return self._asks_cloud("/_world/ready") == 200

        wait_for("readiness of the cloud", ready, 60, interval=0.05)

    def _asks_cloud(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.cloud_port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.sock = self.connect("127.0.0.1", self.cloud_port)
            connection.request("GET", path)
            return connection.getresponse().status
        return 0

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AWS_") and "proxy" not in name.lower()
        }
        return {**clean, **self.env(), **(extra or {})}


def raise_inotify_limit() -> None:
    """Many machines need more inotify instances than most kernels allow one user."""
    with contextlib.suppress(OSError, ValueError):
        if int(INOTIFY_LIMIT.read_text()) < INOTIFY_INSTANCES:
            INOTIFY_LIMIT.write_text(str(INOTIFY_INSTANCES))
