"""Where the things that `tools/setup.py` makes live, and how their cache keys are computed. Standard library only."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Resolved, for the kernel tells of mounts by their real place.
CACHE = (ROOT / ".cache").resolve()
WORLDS = CACHE / "worlds"
VENV = CACHE / "venv"
#: the Node.js that runs the stock client of the gateway's protocol
NODE = CACHE / "node"
REQUIREMENTS = ROOT / "tests" / "world" / "requirements.txt"
ROOTFS_SCRIPT = ROOT / "tests" / "world" / "rootfs" / "build.sh"
KUBE_MODULE = ROOT / "tools" / "kube"

#: program -> package of tools/kube that builds it
KUBE_PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "helm": "helm.sh/helm/v4/cmd/helm",
}


class NotSetUp(RuntimeError):
    """Something that `tools/setup.py` provides is absent; the message says which part to run."""


def key(*files: Path) -> str:
    """A short hash of the contents of `files`."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def kube_dir() -> Path:
    """The folder of the binaries built from tools/kube as it is now."""
    return CACHE / "kube" / key(KUBE_MODULE / "go.mod", KUBE_MODULE / "go.sum")


def rootfs_dir() -> Path:
    """The folder of the root file systems that rootfs/build.sh, as it is now, makes."""
    return CACHE / "rootfs" / key(ROOTFS_SCRIPT)


def kube_program(name: str) -> Path:
    """A program of the control plane: built here, or a link to a fit one that setup found."""
    program = kube_dir() / name
    if not os.access(program, os.X_OK):
        raise NotSetUp(f"{name} is not there: run `tools/setup.py kube`")
    return program


#: browsers that the tests of the control page can drive, under the names that distributions give them
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def system_program(name: str) -> str:
    """A program of the operating system; /usr/sbin is searched even where the PATH leaves it out."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if not found:
        raise NotSetUp(f"{name} is not installed: run `tools/setup.py debs`")
    return found
