"""Figures of the operator: what N agents cost in calls, writes, time and memory.

API server, operator and cloud are real programs; machines are switched off, and one listener plays the gateways of all of them. The
cloud is the test world's, with AWS's token buckets or without.
"""

from __future__ import annotations

import collections
import os
import time
from pathlib import Path

from scenario.gateways import Gateways
from scenario.kube import is_true
from scenario.stage import CLUSTER_ID, Operator, Stage, world_name
from scenario.wait import until

PATH = "apis/skykoi.io/v1alpha1/namespaces/default/koiagents"
WRITES = ("POST", "PUT", "PATCH", "APPLY")
#: Asked for once and remembered for all agents.
SHARED = ("CreateRole", "PutRolePolicy", "CreateInstanceProfile", "AddRoleToInstanceProfile")
SHARED += ("CreateSecurityGroup", "AuthorizeSecurityGroupIngress")
SWEEP_SECONDS = 10


def writes(stage: Stage) -> collections.Counter[str]:
    """Writes that the API server has answered, by resource: ours, and those of the cluster's own controllers."""
    counts: collections.Counter[str] = collections.Counter()
    text = stage.kube.session.get(f"{stage.kube.base}/metrics", timeout=30).text
    for line in text.splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        parts = line[line.index("{") + 1 : line.rindex("}")].replace('"', "").split(",")
        labels = dict(part.split("=", 1) for part in parts if "=" in part)
        resource = labels.get("resource", "")
        if labels.get("verb") in WRITES and resource in ("koiagents", "secrets", "events"):
            subresource = f"/{labels['subresource']}" if labels.get("subresource") else ""
            counts[resource + subresource] += int(float(line.rsplit(" ", 1)[1]))
    return counts


def cpu_and_rss(operator: Operator) -> tuple[float, float]:
    """CPU seconds and resident MiB of the operator."""
    pid = operator.process.pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(line.split()[1]) / 1024


class Fleet:
    """N agents in a world of their own, measured from the first apply to the last farewell."""

    def __init__(self, stage: Stage, count: int, buckets: bool) -> None:
        self.stage, self.count, self.figures = stage, count, dict[str, float]()
        stage.install_chart()
        stage.cloud.settings(throttle=buckets)
        self.gateways = Gateways(stage.cloud, CLUSTER_ID)
        self.operator = stage.start_operator()

    def items(self) -> list[dict]:
        return self.stage.kube.request("GET", PATH)["items"]

    def ready(self) -> bool:
        return sum(is_true(item, "Ready") for item in self.items()) == self.count

    def converge(self) -> None:
        """From apply to all ready."""
        since, before, begin = self.stage.cloud.next_call(), writes(self.stage), time.monotonic()
        for number in range(self.count):
            metadata = {"name": f"a{number}"}
            spec = {"storage": {"deletionPolicy": "Delete"}}
            kind = {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent"}
            self.stage.kube.create_agent({**kind, "metadata": metadata, "spec": spec})
        until(f"{self.count} agents are ready", self.ready, 90 + 3 * self.count, every=0.5)
        self.figures["converge: seconds"] = time.monotonic() - begin
        self.count_calls("converge", since)
        made = writes(self.stage) - before
        made["koiagents"] -= self.count
        for resource, number in sorted(made.items()):
            self.figures[f"converge: writes per agent, {resource}"] = number / self.count
        self.figures["converge: writes per agent"] = sum(made.values()) / self.count
        self.figures["converge: CPU seconds"], self.figures["converge: RSS MiB"] = cpu_and_rss(self.operator)

    def count_calls(self, phase: str, since: int) -> None:
        """Calls by action; refused tries count, and are counted apart, too."""
        calls = self.stage.cloud.calls(since, principal="operator")
        changes = collections.Counter(call.action for call in calls if call.mutating)
        own = sum(number for action, number in changes.items() if action not in SHARED)
        self.figures[f"{phase}: AWS changes per agent, shared things aside"] = own / self.count
        for action, number in sorted(changes.items()):
            self.figures[f"{phase}: {action} per agent"] = number / self.count
        self.figures[f"{phase}: AWS reads in all"] = sum(not call.mutating for call in calls)
        refused = [call.code for call in calls if call.status >= 400]
        self.figures[f"{phase}: AWS calls refused"] = len(refused)
        self.figures[f"{phase}: AWS calls throttled"] = sum(
            code in ("RequestLimitExceeded", "Throttling", "ThrottlingException") for code in refused
        )

    def rest(self) -> None:
        """Four sweeps of a settled fleet."""
        since, before = self.stage.cloud.next_call(), writes(self.stage)
        begin, cpu = time.monotonic(), cpu_and_rss(self.operator)[0]
        shaken = self.gateways.handshakes
        until("sweeps went by", lambda: time.monotonic() - begin > 4 * SWEEP_SECONDS, 60, every=0.5)
        minutes = (time.monotonic() - begin) / 60
        calls = self.stage.cloud.calls(since, principal="operator")
        self.figures["rest: AWS calls a minute"] = len(calls) / minutes
        for action, number in sorted(collections.Counter(call.action for call in calls).items()):
            self.figures[f"rest: {action} a minute"] = number / minutes
        self.figures["rest: AWS changes"] = sum(call.mutating for call in calls)
        self.figures["rest: writes"] = sum((writes(self.stage) - before).values())
        after, self.figures["rest: RSS MiB"] = cpu_and_rss(self.operator)
        self.figures["rest: % of a core, probes included"] = (after - cpu) / minutes / 60 * 100
        self.figures["rest: probes a minute"] = (self.gateways.handshakes - shaken) / minutes

    def drift(self) -> None:
        """An instance is stopped by hand: seen, and repaired."""
        agent = self.items()[0]
        name, instance = agent["metadata"]["name"], agent["status"]["instance"]["id"]
        begin = time.monotonic()
        self.stage.cloud.boto("ec2").stop_instances(InstanceIds=[instance])
        until("seen", lambda: not is_true(self.stage.agent(name), "Ready"), 60, every=0.2)
        self.figures["drift: seconds until seen"] = time.monotonic() - begin
        until("repaired", lambda: is_true(self.stage.agent(name), "Ready"), 60, every=0.2)
        self.figures["drift: seconds until ready again"] = time.monotonic() - begin

    def leave(self) -> None:
        """All are deleted at once."""
        since, begin = self.stage.cloud.next_call(), time.monotonic()
        for item in self.items():
            self.stage.kube.delete_agent(item["metadata"]["name"])
        until("all are gone", lambda: not self.items(), 90 + 3 * self.count, every=0.5)
        self.figures["delete: seconds"] = time.monotonic() - begin
        self.count_calls("delete", since)


def measure(count: int, buckets: bool) -> dict[str, float]:
    """All figures of a fleet of this size."""
    timing = {"KOI_SWEEP_INTERVAL": f"{SWEEP_SECONDS}s", "KOI_PROBE_INTERVAL": "60s"}
    with Stage(world_name("bench"), driver="none", **timing) as stage:
        fleet = Fleet(stage, count, buckets)
        fleet.converge()
        fleet.rest()
        fleet.drift()
        fleet.leave()
        fleet.gateways.close()
        return fleet.figures
