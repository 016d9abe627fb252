"""What this machine lets this user do: boot machines, or only run plain processes in namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

#: What a world of booted machines does all the time: a network of its own, and a mount.
TRIAL = ("unshare", "--net", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/tmp")


def rules_here() -> bool:
    """Root that may make namespaces and mount; the root of a plain container may not."""
    if os.geteuid() != 0 or not shutil.which(TRIAL[0]):
        return False
    return subprocess.run(TRIAL, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def why_no_boot() -> str:
    """Why no machine can boot here, whatever is installed; empty where one can."""
    if not sys.platform.startswith("linux"):
        return "booting needs Linux"
    if os.geteuid() != 0:
        return "booting needs root (namespaces, mounts, loop devices)"
    if not rules_here():
        return "this root may neither mount nor make namespaces, as in a plain container"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlayfs (`modprobe overlay`)"
    for node in ("/proc/self/ns/net", "/dev/loop-control"):
        if not os.path.exists(node):
            return f"{node} does not exist: the kernel needs network namespaces and loop devices (`modprobe loop`)"
    return ""
