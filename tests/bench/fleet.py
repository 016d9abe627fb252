"""Figures of the operator: what N agents cost in calls, writes, time and memory. Machines are switched off; the rest is real."""

from __future__ import annotations

import collections
import os
import time
from pathlib import Path

from scenario.kube import is_true
from scenario.stage import Operator, Stage, world_name
from scenario.wait import until


def writes(stage: Stage) -> collections.Counter[str]:
    """Writes that the API server has answered, by resource: ours, and those of the cluster's own controllers."""
    counts: collections.Counter[str] = collections.Counter()
    text = stage.kube.session.get(f"{stage.kube.base}/metrics", timeout=30).text
    for line in text.splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        labels = dict(
            part.split("=", 1)
            for part in line[line.index("{") + 1 : line.rindex("}")].replace('"', "").split(",")
            if "=" in part
        )
        if labels.get("verb") in ("POST", "PUT", "PATCH", "APPLY") and labels.get("resource") in (
            "koiagents",
            "secrets",
            "events",
        ):
            counts[labels["resource"]] += int(float(line.rsplit(" ", 1)[1]))
    return counts


def cpu_and_rss(operator: Operator) -> tuple[float, float]:
    """CPU seconds and resident MiB of the operator."""
    pid = operator.process.pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(line.split()[1]) / 1024


def measure(count: int) -> dict[str, float]:
    """N agents until EC2 says that all run; the gateway never answers here, so Ready stays away."""
    figures: dict[str, float] = {}
    with Stage(world_name("bench"), driver="none", KOI_SWEEP_INTERVAL="5s", KOI_PROBE_INTERVAL="60s") as stage:
        stage.install_chart()
        operator = stage.start_operator()
        path = "apis/skykoi.io/v1alpha1/namespaces/default/koiagents"
        before, begin = writes(stage), time.monotonic()
        for number in range(count):
            manifest = {
                "apiVersion": "skykoi.io/v1alpha1",
                "kind": "KoiAgent",
                "metadata": {"name": f"a{number}"},
                "spec": {"storage": {"deletionPolicy": "Delete"}},
            }
            stage.kube.create_agent(manifest)

        def running() -> bool:
            return sum(is_true(item, "InstanceReady") for item in stage.kube.request("GET", path)["items"]) == count

        until(f"{count} instances run", running, 60 + 3 * count, every=0.5)
        figures["seconds to all running"] = time.monotonic() - begin
        calls = stage.cloud.calls(principal="operator")
        for action, number in sorted(collections.Counter(call.action for call in calls if call.mutating).items()):
            figures[f"AWS {action} per agent"] = number / count
        figures["AWS reads in all"] = sum(not call.mutating for call in calls)
        figures["AWS calls refused"] = sum(call.status >= 400 for call in calls)
        for resource, number in (writes(stage) - before).items():
            made = count if resource == "koiagents" else 0
            figures[f"Kubernetes writes per agent, {resource}"] = (number - made) / count
        figures["operator CPU seconds"], figures["operator RSS MiB"] = cpu_and_rss(operator)
        begin = time.monotonic()
        for number in range(count):
            stage.kube.delete_agent(f"a{number}")
        until("all are gone", lambda: not stage.kube.request("GET", path)["items"], 60 + 3 * count, every=0.5)
        figures["seconds to all deleted"] = time.monotonic() - begin
    return figures
