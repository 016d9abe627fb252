"""A config on its way to a gateway that runs: hot, with a start where a key takes one, and back again when somebody else changed it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from scenario.gateway import Gateway
from scenario.kube import condition
from scenario.stage import Stage
from scenario.wait import until

MODEL = "amazon-bedrock/us.anthropic.claude-haiku-4-5"
CONFIG = "/home/ubuntu/.skykoi/skykoi.json"


@contextlib.contextmanager
def told(stage: Stage, name: str) -> Iterator[list[tuple[str, str]]]:
    """What status says meanwhile, each time that it is written: the planned action and Ready."""
    seen: list[tuple[str, str]] = []
    end = threading.Event()

    def follow() -> None:
        for change in stage.kube.watch_agents(timeout=120):
            if end.is_set():
                return
            agent = change["object"]
            if agent["metadata"]["name"] == name and "status" in agent:
                planned = agent["status"].get("plannedAction") or {}
                seen.append((planned.get("kind", ""), (condition(agent, "Ready") or {}).get("status", "")))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    until("the watch began", lambda: seen, 10)
    yield seen
    end.set()


def main_pid(stage: Stage, name: str) -> str:
    """The gateway's process: another one after each of its starts."""
    return stage.machine(name).sh("systemctl show -p MainPID --value skykoi-gateway").strip()


def has_config(stage: Stage, name: str) -> bool:
    """The gateway's own word is the wished hash, and nothing is under way."""
    agent = stage.agent(name)
    current = agent["status"]["observedGeneration"] == agent["metadata"]["generation"]
    synced = condition(agent, "ConfigSynced")["status"] == "True"
    return current and synced and "plannedAction" not in agent["status"]


def model_of(client: Gateway) -> str:
    return client.call("config.get")["config"]["agents"]["defaults"]["model"]["primary"]


def test_a_config_reaches_the_gateway_while_it_runs(stage: Stage, new_agent: Callable[..., str]) -> None:
    name = new_agent()
    before = stage.wait_ready(name)
    pid = main_pid(stage, name)
    with told(stage, name) as seen, stage.gateway(name) as client:
        assert model_of(client) != MODEL
        stage.kube.patch_agent(name, {"spec": {"model": {"id": MODEL}}})
        until("the gateway has the model", lambda: model_of(client) == MODEL, 20)
        until("status says so", lambda: has_config(stage, name), 20, seen=lambda: stage.agent(name)["status"])
        assert MODEL.removeprefix("amazon-bedrock/") in str(client.call("models.list"))
        assert ("HotPush", "True") in seen, "announced before it was done"
        assert {ready for _, ready in seen} == {"True"}, "Ready never turned"
    assert main_pid(stage, name) == pid, "nothing was restarted, and the client's connection stayed"
    after = stage.agent(name)
    assert condition(after, "Ready")["lastTransitionTime"] == condition(before, "Ready")["lastTransitionTime"]
    assert after["status"]["gateway"]["configSha256"] != before["status"]["gateway"]["configSha256"]

    # Somebody on the machine changes it, keeping the file's owner: it is put back.
    machine = stage.machine(name)
    file = machine.sh(f"stat -c %i {CONFIG}")
    machine.sh(f"sed 's,{MODEL},amazon-bedrock/mine,' {CONFIG} > /root/mine && cat /root/mine > {CONFIG}")
    # A file of the gateway's own writing is another one. The next probe may be a minute away.
    until("it is written anew", lambda: machine.sh(f"stat -c %i {CONFIG}") != file, 75, every=0.5)
    with stage.gateway(name) as client:
        until("the wished one is back", lambda: model_of(client) == MODEL, 20)
    assert main_pid(stage, name) == pid

    # A key that takes a start: the gateway starts anew, the machine does not.
    boot = stage.machine(name).sh("stat -c %Y /proc/1")
    with told(stage, name) as seen:
        stage.kube.patch_agent(name, {"spec": {"gateway": {"config": {"logging": {"level": "debug"}}}}})
        until("another process", lambda: main_pid(stage, name) not in (pid, "0"), 30)
        until("status says so", lambda: has_config(stage, name), 30, seen=lambda: stage.agent(name)["status"])
        assert "Restart" in {kind for kind, _ in seen}
    assert '"level": "debug"' in stage.machine(name).sh(f"cat {CONFIG}")
    assert stage.machine(name).sh("stat -c %Y /proc/1") == boot
    # The machine finds everything as it is to be, and restarts nothing.
    pid = main_pid(stage, name)
    stage.machine(name).sh("systemctl restart skykoi-bootstrap.service", seconds=60)
    assert main_pid(stage, name) == pid
