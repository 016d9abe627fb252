"""Worlds do not meet, end without a trace, and are cleaned up after when they were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from world import worlds
from world.network import NAMESPACES, Namespace
from world.paths import ROOT, kube_program
from world.shell import run, wait_for
from world.world import World

from .conftest import Ground

VICTIM = """
import sys, signal
from world.world import World
from world.tests.conftest import Ground
world = World(sys.argv[1]).start(control_plane=False, cloud=False)
world.spawn("bystander", "sleep", "1000")
ground = Ground(world)
guest = ground.boot(volumes=(ground.new_volume(),))
guest.sh("mkfs.ext4 -q /dev/nvme1n1 && mount /dev/nvme1n1 /mnt")
print("ready", flush=True)
signal.pause()
"""


def traces(name: str) -> dict[str, list[str]]:
    """Everything of a world that the machine still has."""
    folder = str(worlds.folder(name))
    listed = run("losetup", "--list", "--json", "--output", "NAME,BACK-FILE").strip()
    loops = [loop["back-file"] for loop in json.loads(listed)["loopdevices"]] if listed else []
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "namespaces": [entry.name for entry in NAMESPACES.iterdir() if entry.name.split(".")[0] == f"koi-{name}"],
        "mounts": [mount for mount in mounts if mount.startswith(folder + "/")],
        "loops": [loop for loop in loops if loop.startswith(folder + "/")],
        "groups": [str(group) for group in Path("/sys/fs/cgroup").rglob(f"koi-{name}.*")],
        "processes": [entry for entry in os.listdir("/proc") if entry.isdigit() and mentions(entry, f"/{name}/")],
        "files": [entry.name for entry in worlds.folder(name).glob("*") if entry.name != "logs"],
    }


def mentions(pid: str, text: str) -> bool:
    try:
        return text in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


NOTHING = {"namespaces": [], "mounts": [], "loops": [], "groups": [], "processes": [], "files": []}


def test_what_a_killed_world_left_is_removed_at_the_next_start(new_world: Callable[[str], World]) -> None:
    name = new_world("victim").name
    command = [sys.executable, "-c", VICTIM, name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as victim:
        assert victim.stdout and victim.stdout.readline() == "ready\n"
        assert worlds.holder(name) == victim.pid
        before = traces(name)
        assert all(found for kind, found in before.items() if kind != "processes"), before
        assert name not in worlds.reap(), "a living world is left alone"
        victim.send_signal(signal.SIGKILL)
    assert traces(name)["namespaces"] == before["namespaces"], "machines outlive the process that started them"
    with new_world("next") as world:
        world.start(control_plane=False, cloud=False)
        assert traces(name) == NOTHING


def test_two_worlds_with_the_same_addresses_do_not_meet(new_world: Callable[[str], World]) -> None:
    with new_world("east") as east, new_world("west") as west:
        grounds = [Ground(world.start(control_plane=False, cloud=False)) for world in (east, west)]
        guests = [ground.boot(f"#!/bin/sh\necho {n} > /root/which\n") for n, ground in enumerate(grounds)]
        assert guests[0].address == guests[1].address
        guests[0].listen(443)
        assert [ground.reaches(guests[0].address, 443) for ground in grounds] == [True, False]
        assert [guest.sh("cat /root/which") for guest in guests] == ["0", "1"]
        grounds[0].close()
        assert guests[1].sh("systemctl is-system-running") == "running", "the end of one leaves the other alone"
        grounds[1].close()
    assert (traces(east.name), traces(west.name)) == (NOTHING, NOTHING)


def test_a_world_has_one_owner(new_world: Callable[[str], World]) -> None:
    with new_world("owned") as world:
        world.start(control_plane=False, cloud=False)
        with pytest.raises(worlds.WorldInUse, match=f"process {os.getpid()}"):
            World(world.name).start(control_plane=False, cloud=False)
        assert Namespace(f"koi-{world.name}").exists(), "the second one did not touch the first"


def test_a_failed_start_leaves_nothing(new_world: Callable[[str], World]) -> None:
    world = new_world("broken")
    with pytest.raises(RuntimeError, match="no-such-option"):
        world.start(control_plane=False, driver="none", cloud_arguments=("--no-such-option",))
    assert traces(world.name) == NOTHING


def test_a_network_that_fails_half_way_leaves_nothing(
    new_world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world("torn")
    monkeypatch.setattr("world.network._FIREWALL", "no such thing")
    with pytest.raises(RuntimeError, match="no such thing"):
        world.start(control_plane=False, cloud=False)
    assert traces(world.name) == NOTHING


@pytest.mark.parametrize("name", ["", "Up", "a" * 21, "a/b", "a.b", "1st"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(worlds.BadName):
        World(name)


def test_the_command_line_keeps_a_world_that_outside_shells_can_use(new_world: Callable[[str], World]) -> None:
    name = new_world("cli").name

    def world(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "world", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
        return subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)

    up = world("up", "--name", name, "--driver", "none")
    assert up.returncode == 0, up.stderr
    assert all(line.startswith("export ") for line in up.stdout.splitlines())
    script = f"{up.stdout}\n{kube_program('kubectl')} get namespace default -o name; curl -s -o /dev/null -w '%{{http_code}}' $AWS_ENDPOINT_URL/_world/ready"
    shell = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60)
    assert (shell.stdout, shell.returncode) == ("namespace/default\n200", 0), shell.stderr
    assert world("up", "--name", name).stdout == up.stdout, "up again says the same"
    inside = world("exec", "--name", name, "--", "sh", "-c", "ip -br addr show br0; echo $AWS_ENDPOINT_URL; exit 7")
    assert "172.31.0.1/16" in inside.stdout and "http://127.0.0.1:4566" in inside.stdout and inside.returncode == 7
    assert f"{name} " in world("ls").stdout
    assert world("down", "--name", name).returncode == 0
    wait_for("the last trace to go", lambda: traces(name) == NOTHING, 5)
    assert world("exec", "--name", name, "--", "true").returncode == 1


#: Root as a plain container has it.
POWERLESS = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


def test_root_without_power_gets_processes_and_is_told(new_world: Callable[[str], World]) -> None:
    name = new_world("weak").name

    def ask(*command: object) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
        words = [str(word) for word in (*POWERLESS, sys.executable, *command)]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)

    refused = ask(ROOT / "tools" / "setup.py", "check")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "this root may neither mount nor make namespaces" in refused.stderr
    refused = ask("-m", "world", "up", "--name", name, "--driver", "nspawn")
    assert refused.returncode != 0 and "ask for the driver `process`" in refused.stderr, refused.stderr
    up = ask("-m", "world", "up", "--name", name)
    assert up.returncode == 0 and "plain processes here, not booted ones: this root" in up.stderr, up.stderr
    inside = ask("-m", "world", "exec", "--name", name, "--", "ip", "-br", "addr", "show", "br0")
    assert "172.31.0.1/16" in inside.stdout, inside.stderr
    assert ask("-m", "world", "down", "--name", name).returncode == 0
    wait_for("the last trace to go", lambda: traces(name) == NOTHING, 5)
