"""The command line of test worlds: `python -m world up | down | reap | exec | ls`, with tests/ on the PYTHONPATH."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import ability, private, worlds
from .paths import ROOT, NotSetUp, rootfs_dir
from .relay import Relay
from .shell import TimedOut, wait_for
from .world import World

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    try:
        return options.command(options)
    except (NotSetUp, worlds.WorldInUse, worlds.BadName) as error:
        say(str(error))
        return 2
    except (RuntimeError, OSError) as error:
        say(str(error))
        return 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m world", description="Test worlds for koi.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up_parser = commands.add_parser("up", help="start a world, keep it, and print export lines to eval")
    keep_parser = commands.add_parser("keep", help="start a world and run it until SIGTERM (what `up` leaves running)")
    down_parser = commands.add_parser("down", help="end a world that `up` started")
    exec_parser = commands.add_parser("exec", help="run a command inside a world")
    for command, function in ((up_parser, up), (keep_parser, keep), (down_parser, down), (exec_parser, execute)):
        command.add_argument("--name", default="default")
        command.set_defaults(command=function)
    for command in (up_parser, keep_parser):
        command.add_argument("--driver", default="auto", choices=("auto", "nspawn", "process", "none"))
        command.add_argument(
            "--artifact", action="append", default=[], type=Path, help="a file that machines can download"
        )
    exec_parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    commands.add_parser("reap", help="remove what dead worlds left").set_defaults(command=reap)
    commands.add_parser("ls", help="list worlds").set_defaults(command=list_worlds)
    return parser.parse_args(arguments)


def say(text: str) -> None:
    print(f"world: {text}", file=sys.stderr, flush=True)


def choose_driver(asked: str) -> str:
    """`auto` takes booted machines where they are possible, and says so where they are not.

    A world of plain processes has network namespaces too: without a root that may make them, this starts the program anew where
    it is root over namespaces of its own, and does not return here.
    """
    if private.inside():
        private.enter()
        return "process"
    driver, why = asked, ""
    if asked == "auto":
        driver, why = likely_driver()
        if why:
            say(f"machines are plain processes here, not booted ones: {why}")
    if driver == "process" and not ability.rules_here():
        private.enter()
    return driver


def likely_driver() -> tuple[str, str]:
    """What `auto` means here, and why it is less than it could be."""
    if why := ability.why_no_boot():
        return "process", why
    if not (rootfs_dir() / "complete").exists():
        return "process", "there are no root file systems; `tools/setup.py rootfs` makes them"
    return "nspawn", ""


# commands


def up(options: argparse.Namespace) -> int:
    """Starts a keeper in the background and prints what it says when the world is ready."""
    name = worlds.check_name(options.name)
    if pid := worlds.holder(name):
        say(f"{name} is up already (process {pid})")
        return print_exports(worlds.description(name))
    command = [sys.executable, "-m", "world", "keep", "--name", name, "--driver", options.driver]
    for artifact in options.artifact:
        command += ["--artifact", str(artifact.resolve())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    keeper = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, start_new_session=True, text=True
    )
    assert keeper.stdout
    description = keeper.stdout.readline()
    if not description:
        return keeper.wait() or 1
    return print_exports(json.loads(description))


def print_exports(description: dict) -> int:
    for name, value in description.get("outside", {}).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0 if description else 1


def keep(options: argparse.Namespace) -> int:
    """Runs the world in this process until SIGTERM or SIGINT."""
    for number in STOP_SIGNALS:
        signal.signal(number, end)
    began = time.monotonic()
    driver = choose_driver(options.driver)
    with World(options.name, progress=say) as world:
        artifacts = {artifact.name: artifact for artifact in options.artifact}
        world.start(driver=driver, artifacts=artifacts)
        description = {
            **world.describe(),
            "keeper": os.getpid(),
            "private": private.inside(),
            "outside": outside(world),
        }
        (world.state_dir / "world.json").write_text(json.dumps(description))
        say(f"{world.name} is up after {time.monotonic() - began:.1f} s; logs: {world.state_dir / 'logs'}")
        print(json.dumps(description), flush=True)
        log_from_now_on(world.state_dir / "logs" / "keeper.log")
        while True:
            signal.pause()


def end(*_signal: object) -> None:
    """Leaves `keep` from wherever it is, once: what it started is ended on the way out, undisturbed."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def outside(world: World) -> dict[str, str]:
    """Variables for shells that are not in the world's network namespace."""
    variables = world.env()
    if world.network.name is None:
        return variables
    cloud = Relay(world.network, world.cloud_port, private.door(0))
    variables["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{cloud.port}"
    if world.control_plane:
        api = Relay(world.network, world.control_plane.api_port, private.door(1))
        variables["KUBECONFIG"] = str(world.control_plane.kubeconfig_through(f"https://127.0.0.1:{api.port}"))
    return variables


def log_from_now_on(file: Path) -> None:
    """Lets go of the terminal: whoever started the keeper has all that it needs."""
    with file.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def down(options: argparse.Namespace) -> int:
    name = worlds.check_name(options.name)
    pid = worlds.holder(name)
    if pid is None:
        worlds.reap()
        say(f"{name} is not running")
        return 0
    if pid != worlds.description(name).get("keeper"):
        say(f"{name} belongs to process {pid}, which was not started by `up`: end that one")
        return 1
    os.kill(pid, signal.SIGTERM)
    with contextlib.suppress(TimedOut):
        wait_for(f"the end of {name}", lambda: worlds.holder(name) is None, 60, interval=0.05)
        say(f"{name} is down")
        return 0
    say(f"{name} does not end; see {worlds.folder(name) / 'logs' / 'keeper.log'}")
    return 1


def execute(options: argparse.Namespace) -> int:
    """Becomes the command, inside the world, with the world's variables."""
    name = worlds.check_name(options.name)
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    description = worlds.description(name)
    if not words:
        say("what shall run? python -m world exec --name NAME -- COMMAND ...")
        return 2
    if not description or worlds.holder(name) is None:
        say(f"{name} is not running")
        return 1
    command = [*way_into(description), *words]
    os.execvpe(command[0], command, {**os.environ, **description["env"]})


def way_into(description: dict) -> list[str]:
    """What to put before a command that shall run in the world."""
    prefix = []
    if description.get("private"):
        prefix += ["nsenter", f"--target={description['keeper']}", "--user", "--preserve-credentials", "--mount", "--"]
    if description["netns"]:
        prefix += ["nsenter", f"--net=/run/netns/{description['netns']}", "--"]
    return prefix


def reap(_options: argparse.Namespace) -> int:
    for name in worlds.reap():
        say(f"removed what {name} had left")
    return 0


def list_worlds(_options: argparse.Namespace) -> int:
    for name in worlds.names():
        pid = worlds.holder(name)
        driver = worlds.description(name).get("driver", "?") if pid else "-"
        state = f"up (process {pid}, machines: {driver})" if pid else "down, logs only"
        print(f"{name:<20} {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
