"""Root in a user namespace: how a world comes to network namespaces of its own where its user is not root.

The program starts itself anew under `unshare`; there it is root over a network and a /run that nobody else sees. Doors
from the user's own network are sockets that were opened before and handed over.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

from .paths import NotSetUp
from .shell import run

MARK = "KOI_PRIVATE_DOORS"  # in the environment of the program started anew: the descriptors of the doors
DOORS = 2  # cloud and API server
UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--mount")


def inside() -> bool:
    return MARK in os.environ


def enter() -> None:
    """Does not return, unless this is the program started anew: then everything is prepared."""
    if inside():
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        run("ip", "link", "set", "lo", "up")
        return
    if not possible():
        raise NotSetUp(
            "without root this needs Linux with user namespaces for everybody, and they are not to be had here: run it as "
            "root, or allow them (sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0)"
        )
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(DOORS)]
    for door in doors:
        door.set_inheritable(True)
    os.environ[MARK] = ",".join(str(door.fileno()) for door in doors)
    os.execvp(UNSHARE[0], [*UNSHARE, "--", *sys.orig_argv])


def possible() -> bool:
    if not sys.platform.startswith("linux") or not shutil.which("unshare"):
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


def door(index: int) -> socket.socket | None:
    """A listener in the user's own network; None where the program is in that network itself."""
    return socket.socket(fileno=int(os.environ[MARK].split(",")[index])) if inside() else None
