"""Runs the demo and ends with PASS or FAIL: a world, the chart, the operator, `examples/quickstart.yaml`, a break and its healing, deletion.

make demo            (or: PYTHONPATH=tests .cache/venv/bin/python -m demo [--driver nspawn|process])
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
import traceback

import requests
from scenario.kube import Kube, condition
from scenario.stage import Stage, summary, world_name
from scenario.wait import until
from world.__main__ import STOP_SIGNALS, choose_driver
from world.paths import ROOT
from world.worlds import WorldInUse

AGENT = "quickstart"
#: what stays in the account on purpose: it binds the cluster id to the cluster; the notes of the chart say how to release it
OWNER_RECORD = "/koi/demo/owner"


class Screen:
    """Prints with the seconds since the start."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.lock = threading.Lock()
        self.bold, self.plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")

    def say(self, text: str) -> None:
        """A line of what goes on."""
        with self.lock:
            print(f"{time.monotonic() - self.begin:6.1f} s  {text}", flush=True)

    def head(self, text: str) -> None:
        """What comes next."""
        with self.lock:
            print(f"\n{self.bold}{text}{self.plain}", flush=True)

    def block(self, text: str) -> None:
        """The output of a command, as it is."""
        with self.lock:
            print("\n".join(f"          {line}" for line in text.rstrip().splitlines()), flush=True)


class ConditionWatcher(threading.Thread):
    """Shows conditions of the agent as they turn."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        super().__init__(daemon=True)
        self.kube, self.screen = Kube(stage.world.kubeconfig), screen
        self.seen: dict[str, tuple[str, str]] = {}

    def run(self) -> None:
        try:
            while True:
                for change in self.kube.watch_agents():
                    if change.get("type") in ("ADDED", "MODIFIED"):
                        self.show(change["object"])
                time.sleep(0.2)  # the server ended the watch: a fresh definition makes it do so
        except (requests.RequestException, OSError):
            return  # the world goes away under it at the end

    def show(self, agent: dict) -> None:
        """Prints what turned."""
        for entry in (agent.get("status") or {}).get("conditions") or []:
            now = (entry["status"], entry["reason"])
            if self.seen.get(entry["type"]) != now:
                self.seen[entry["type"]] = now
                self.screen.say(
                    f"  {entry['type']:14} {entry['status']:8} {entry['reason']:20} {entry['message'][:90]}"
                )


def play(stage: Stage, screen: Screen) -> None:
    """The whole play; an AssertionError is a failed demo."""
    screen.head("The operator, installed from its chart")
    stage.install_chart()
    operator = stage.start_operator()
    screen.say("helm install done; koi-operator runs with the chart's ServiceAccount, environment and RBAC")
    begin = apply(stage, screen)
    ready(stage, screen, begin)
    heal(stage, screen)
    delete(stage, screen)
    code = operator.stop()
    assert code == 0, f"the operator ended with exit code {code}"
    screen.say("operator stopped with SIGTERM: exit 0")


def apply(stage: Stage, screen: Screen) -> float:
    """`kubectl apply` of the quickstart."""
    screen.head("kubectl apply -f examples/quickstart.yaml")
    ConditionWatcher(stage, screen).start()
    begin = time.monotonic()
    stage.apply(ROOT / "examples" / "quickstart.yaml")
    return begin


def ready(stage: Stage, screen: Screen, begin: float) -> None:
    """Ready, and a user's handshake."""
    stage.wait_ready(AGENT, seconds=180)
    screen.say(f"Ready {time.monotonic() - begin:.1f} s after apply")
    screen.block(stage.kubectl("get", "koi"))
    calls = [call for call in stage.cloud.calls(principal="operator") if call.mutating]
    screen.say(f"changing AWS calls so far: {', '.join(call.action for call in calls)}")
    screen.head("A user speaks to the agent's gateway through 443")
    with stage.gateway(AGENT) as gateway:
        health = gateway.call("health")
        screen.say(
            f"hello-ok: protocol {gateway.hello['protocol']}, server {gateway.hello['server']['version']}; health ok={health['ok']}"
        )
        assert health["ok"] is True, health


def heal(stage: Stage, screen: Screen) -> None:
    """Somebody stops the instance in the console."""
    screen.head("Somebody stops the instance from outside")
    instance = stage.agent(AGENT)["status"]["instance"]["id"]
    begin = time.monotonic()
    stage.cloud.boto("ec2").stop_instances(InstanceIds=[instance])
    until(
        "Ready turns away from True", lambda: (condition(stage.agent(AGENT), "Ready") or {}).get("status") != "True", 60
    )
    stage.wait_ready(AGENT, seconds=180)
    assert stage.agent(AGENT)["status"]["instance"]["id"] == instance, "the instance was replaced, not started"
    screen.say(f"healed: the same instance is Ready again {time.monotonic() - begin:.1f} s after the stop")


def delete(stage: Stage, screen: Screen) -> None:
    """Deletion to the end, and the cloud's own word for it."""
    screen.head(f"kubectl delete koi {AGENT}")
    begin = time.monotonic()
    stage.kube.delete_agent(AGENT)
    stage.wait_gone(AGENT, seconds=120)
    screen.say(
        f"the object is gone {time.monotonic() - begin:.1f} s after delete; shared things follow two sweeps after their last user"
    )
    until("nothing is left in the account", lambda: not leftovers(stage), 60, every=0.5, seen=lambda: leftovers(stage))
    screen.say(
        "the cloud's own listing: nothing is left but the owner record, which binds the cluster id to this cluster"
    )
    secret = stage.kube.secret(f"{AGENT}-gateway")
    until(
        "the agent's Secret is collected",
        lambda: stage.kube.secret(f"{AGENT}-gateway") is None,
        30,
        seen=lambda: secret and sorted(secret),
    )
    screen.say("the agent's Secret is gone with it")


def leftovers(stage: Stage) -> dict[str, list]:
    """What exists beyond a fresh account, the owner record aside."""
    left = stage.cloud.leftovers()
    rest = {
        kind: [item for item in items if OWNER_RECORD not in map(str, item.values())] for kind, items in left.items()
    }
    return {kind: items for kind, items in rest.items() if items}


def tell(stage: Stage, screen: Screen) -> None:
    """What a failure needs: the agent's words and the end of the operator's log."""
    screen.say(f"the agent says: {summary(stage.kube.agent(AGENT))}")
    for operator in stage.operators[-1:]:
        screen.block(operator.text()[-3000:])
    for console in sorted((stage.world.state_dir / "machines").glob("*/console.log")):
        screen.block(f"console of {console.parent.name}: ..." + console.read_text(errors="replace")[-1500:])


def interrupt(*_signal: object) -> None:
    """Ends the play from wherever it is, once: what it started is taken down on the way out, undisturbed."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    print("\ninterrupted: the world is taken down", flush=True)
    raise KeyboardInterrupt


def main() -> int:
    """Exit code 0 for PASS, 1 for FAIL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", default="auto", choices=("auto", "nspawn", "process"))
    args = parser.parse_args()
    for number in STOP_SIGNALS:
        signal.signal(number, interrupt)
    screen = Screen()
    driver = choose_driver(args.driver)
    screen.head(
        f"A test world: etcd, kube-apiserver, a strict EC2 double; machines: {'booted with systemd' if driver == 'nspawn' else 'plain processes'}"
    )
    try:
        with Stage(world_name("demo"), driver=driver, progress=screen.say) as stage:
            try:
                play(stage, screen)
            except Exception:
                tell(stage, screen)
                raise
        screen.say("the world is taken down; nothing is left running")
    except KeyboardInterrupt:
        print("\nFAIL: interrupted", flush=True)
        return 1
    except WorldInUse as error:
        print(f"\nFAIL: another demo of this folder is at work ({error}): wait for it, or end that process", flush=True)
        return 1
    except Exception as error:  # noqa: BLE001 - whatever broke, the demo says so in its last line
        traceback.print_exc()
        print(f"\nFAIL: {error}", flush=True)
        return 1
    print(f"\nPASS: apply, Ready, healed and deleted in {time.monotonic() - screen.begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
