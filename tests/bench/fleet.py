"""Figures of the operator: what N agents cost in calls, writes, time and memory.

API server, operator and cloud are real programs; machines are switched off, and one listener plays the gateways of all of them. The
cloud is the test world's, with AWS's token buckets or without.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from scenario.gateways import Gateways
from scenario.kube import is_true
from scenario.stage import CLUSTER_ID, METRICS_PORT, Operator, Stage, world_name
from scenario.wait import until

PATH = "apis/skykoi.io/v1alpha1/namespaces/default/koiagents"
WRITES = ("POST", "PUT", "PATCH", "APPLY")
#: Made once and used by all agents.
SHARED = ("CreateRole", "PutRolePolicy", "CreateInstanceProfile", "AddRoleToInstanceProfile")
SHARED += ("CreateSecurityGroup", "AuthorizeSecurityGroupIngress")
THROTTLED = ("RequestLimitExceeded", "Throttling", "ThrottlingException")
SWEEP_SECONDS = 10
#: AWS's bucket of RunInstances: how many at once, and how many more each second.
LAUNCH_BUCKET = (5, 2)
#: So many agents are looked at, twice each, for what a look at a settled one costs.
LOOKED_AT = 200
#: Refusals by a bucket are part of finding out how much it gives, until then.
WARM_UP_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Size:
    """A group of figures."""

    agents: int
    buckets: bool = False
    #: Every agent has an identity of its own.
    own_identity: bool = False
    deletion_policy: str = "Delete"

    @property
    def title(self) -> str:
        extras = [
            "with token buckets" if self.buckets else "",
            "identity for each agent" if self.own_identity else "",
            f"last {self.deletion_policy.lower()}" if self.deletion_policy != "Delete" else "",
        ]
        return ", ".join([f"fleet of {self.agents}", *filter(None, extras)])

    @property
    def patience(self) -> float:
        """Seconds within which it must have converged, or be gone."""
        return 180 + self.agents * (4 if self.buckets else 3)


def writes(stage: Stage) -> collections.Counter[str]:
    """Writes that the API server has answered, by resource: ours, and those of the cluster's own controllers."""
    counts: collections.Counter[str] = collections.Counter()
    text = stage.kube.session.get(f"{stage.kube.base}/metrics", timeout=30).text
    for name, labels, value in series(text):
        resource = labels.get("resource", "")
        if name != "apiserver_request_total" or labels.get("verb") not in WRITES:
            continue
        if resource in ("koiagents", "secrets", "events"):
            subresource = f"/{labels['subresource']}" if labels.get("subresource") else ""
            counts[resource + subresource] += int(value)
    return counts


def series(text: str) -> Iterable[tuple[str, dict[str, str], float]]:
    """The series of a metrics page: name, labels, value. No label of ours has a comma in it."""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, rest = line.partition("{")
        inside, _, value = rest.rpartition("}") if rest else ("", "", line.partition(" ")[2])
        pairs = (part.split("=", 1) for part in inside.replace('"', "").split(",") if "=" in part)
        yield name.split(" ")[0], dict(pairs), float(value.split()[0])


def cpu_and_rss(operator: Operator) -> tuple[float, float]:
    """CPU seconds and resident MiB of the operator."""
    fields = Path(f"/proc/{operator.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), resident(operator, "VmRSS")


@contextmanager
def sampled(operator: Operator) -> Iterator[list[tuple[float, float]]]:
    """MiB that are resident, and how much of that is no file's, looked at four times a second until the end."""
    over, samples = threading.Event(), []

    def look() -> None:
        while True:
            samples.append((resident(operator, "VmRSS"), resident(operator, "RssAnon")))
            if over.wait(0.25):
                return

    looker = threading.Thread(target=look)
    looker.start()
    try:
        yield samples
    finally:
        over.set()
        looker.join()


def resident(operator: Operator, what: str) -> float:
    """MiB that are resident: VmRSS all, RssAnon without the pages of the program's file."""
    rows = Path(f"/proc/{operator.process.pid}/status").read_text().splitlines()
    return int(next(row for row in rows if row.startswith(f"{what}:")).split()[1]) / 1024


class Fleet:
    """N agents in a world of their own, measured from the first apply to the last farewell."""

    def __init__(self, stage: Stage, size: Size) -> None:
        self.stage, self.size, self.count, self.figures = stage, size, size.agents, dict[str, float]()
        stage.install_chart()
        self.gateways, self.operator = self.begin()
        identity = {"mode": "PerAgent"} if size.own_identity else {"mode": "Shared"}
        plan = {"spec": {"identity": identity}, "metadata": {"name": "bench"}}
        stage.apply({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", **plan})

    def begin(self) -> tuple[Gateways, Operator]:
        """Gateways and operator, on the world's cloud."""
        self.stage.cloud.settings(throttle=self.size.buckets)
        gateways = Gateways(self.stage.cloud, CLUSTER_ID)
        return gateways, self.stage.start_operator(env=self.pace())

    def pace(self) -> dict[str, str]:
        """Without buckets the operator does not hold its calls back either: then the cloud's own rate binds."""
        return {} if self.size.buckets else {"KOI_AWS_RATE": "off"}

    # what is asked of cloud, cluster and operator

    def items(self, limit: int = 0) -> list[dict]:
        return self.stage.kube.request("GET", f"{PATH}?limit={limit}" if limit else PATH)["items"]

    def metrics(self) -> list[tuple[str, dict[str, str], float]]:
        """What the operator tells of itself."""
        return list(series(requests.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=30).text))

    def ready(self) -> bool:
        return self.count_ready() == self.count + 1

    def count_ready(self) -> float:
        return sum(value for name, _, value in self.metrics() if name == "koi_agent_ready")

    def make(self, name: str) -> None:
        """One agent."""
        spec = {"planRef": {"name": "bench"}, "storage": {"deletionPolicy": self.size.deletion_policy}}
        kind = {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent"}
        self.stage.kube.create_agent({**kind, "metadata": {"name": name}, "spec": spec})

    def mark(self) -> int:
        """A place in the log of calls."""
        return self.stage.cloud.next_call()

    def calls(self, since: int) -> list[tuple[str, bool, str, float]]:
        """The operator's calls since a mark: action, whether it changes anything, AWS's code, when."""
        calls = self.stage.cloud.calls(since, principal="operator")
        return [(call.action, call.mutating, call.code, call.time) for call in calls]

    def somebody_stops(self, instance: str) -> None:
        """An instance is stopped by hand."""
        self.stage.cloud.boto("ec2").stop_instances(InstanceIds=[instance])

    # what is measured

    def converge(self) -> None:
        """From apply to all ready, beside one agent for which everything that is shared was made."""
        self.make("first")
        until("the first agent is ready", lambda: self.count_ready() == 1, 120, every=0.5)
        since, before, begin = self.mark(), writes(self.stage), time.monotonic()
        for number in range(self.count):
            self.make(f"a{number}")
        until(f"{self.count} agents are ready", self.ready, self.size.patience, every=0.5)
        self.figures["converge: seconds"] = time.monotonic() - begin
        self.await_writes()
        self.count_calls("converge", since)
        made = writes(self.stage) - before
        made["koiagents"] -= self.count
        for resource, number in sorted(made.items()):
            self.figures[f"converge: writes per agent, {resource}"] = number / self.count
        self.figures["converge: writes per agent"] = sum(made.values()) / self.count
        self.figures["converge: CPU seconds"], self.figures["converge: RSS MiB"] = cpu_and_rss(self.operator)

    def count_calls(self, phase: str, since: int) -> None:
        """Calls by action; refused tries count, and are counted apart, too."""
        calls = self.calls(since)
        changes = collections.Counter(action for action, changing, _, _ in calls if changing)
        shared = () if self.size.own_identity else SHARED
        own = sum(number for action, number in changes.items() if action not in shared)
        self.figures[f"{phase}: AWS calls per agent, sweeps and shared things aside"] = own / self.count
        for action, number in sorted(changes.items()):
            self.figures[f"{phase}: {action} per agent"] = number / self.count
        self.figures[f"{phase}: AWS reads in all"] = sum(not changing for _, changing, _, _ in calls)
        self.figures[f"{phase}: AWS calls refused"] = sum(code != "" for _, _, code, _ in calls)
        self.figures[f"{phase}: AWS calls throttled"] = sum(code in THROTTLED for _, _, code, _ in calls)
        if self.size.buckets and phase == "converge":
            self.use_of_bucket(calls)

    def use_of_bucket(self, calls: list[tuple[str, bool, str, float]]) -> None:
        """How much of what the bucket of RunInstances gave was taken, between the first launch and the last."""
        times = [when for action, _, code, when in calls if action == "RunInstances" and code not in THROTTLED]
        late = [when for _, _, code, when in calls if code in THROTTLED and when - calls[0][3] > WARM_UP_SECONDS]
        capacity, rate = LAUNCH_BUCKET
        given = capacity + rate * (max(times) - min(times))
        self.figures["converge: % of the RunInstances bucket"] = 100 * len(times) / given
        self.figures["converge: AWS calls throttled after a minute"] = len(late)

    def rest(self, title: str = "rest", sweeps: int = 4) -> None:
        """Some sweeps of a settled fleet."""
        self.await_sweeps(1)
        since, before, rounds = self.mark(), writes(self.stage), self.rounds()
        begin, cpu = time.monotonic(), cpu_and_rss(self.operator)[0]
        shaken = self.gateways.handshakes
        with sampled(self.operator) as samples:
            self.await_sweeps(sweeps)
        minutes = (time.monotonic() - begin) / 60
        after = cpu_and_rss(self.operator)[0]
        # A sweep's answer is in memory for a moment: most of the time it is not.
        of_all, of_own = zip(*samples, strict=True)
        self.figures[f"{title}: RSS MiB"] = statistics.median(of_all)
        self.figures[f"{title}: RSS at most, while a sweep is read MiB"] = max(of_all)
        self.figures[f"{title}: RSS without the program's own pages MiB"] = statistics.median(of_own)
        self.figures[f"{title}: RSS at its highest so far MiB"] = resident(self.operator, "VmHWM")
        calls = self.calls(since)
        self.figures[f"{title}: AWS calls a minute"] = len(calls) / minutes
        for action, number in sorted(collections.Counter(action for action, _, _, _ in calls).items()):
            self.figures[f"{title}: {action} for each sweep"] = number / sweeps
        self.figures[f"{title}: seconds from sweep to sweep"] = minutes * 60 / sweeps
        self.figures[f"{title}: AWS changes"] = sum(changing for _, changing, _, _ in calls)
        self.figures[f"{title}: writes"] = sum((writes(self.stage) - before).values())
        self.figures[f"{title}: % of a core"] = (after - cpu) / minutes / 60 * 100
        self.figures[f"{title}: probes a minute"] = (self.gateways.handshakes - shaken) / minutes
        seconds_then, cpu_then, count_then = rounds
        seconds_now, cpu_now, count_now = self.rounds()
        self.figures[f"{title}: reconciles a minute"] = (count_now - count_then) / minutes
        if (count := count_now - count_then) > 0:
            self.figures[f"{title}: microseconds of a reconcile, wall clock"] = (
                (seconds_now - seconds_then) / count * 1e6
            )
            self.figures[f"{title}: microseconds of CPU of a reconcile"] = (cpu_now - cpu_then) / count * 1e6

    def await_writes(self) -> None:
        """Waits until nothing more is written: the last Event comes after the status that it is about."""
        seen = [writes(self.stage), time.monotonic()]

        def still() -> bool:
            if (now := writes(self.stage)) != seen[0]:
                seen[:] = [now, time.monotonic()]
            return time.monotonic() - seen[1] > 3

        until("nothing is written", still, 120, every=0.5)

    def await_sweeps(self, count: int) -> None:
        """Waits for the end of so many whole sweeps from now on."""

        def swept() -> float:
            of = (
                value
                for name, labels, value in self.metrics()
                if name == "koi_fleet_sweeps_total" and labels["result"] == "ok"
            )
            return sum(of)

        before = swept()
        until(f"{count} sweeps", lambda: swept() - before >= count, 300 * count, every=0.2)

    def look(self) -> None:
        """Settled agents are looked at for something that is none of the operator's business: a finalizer of somebody else comes and goes."""
        names = [agent["metadata"]["name"] for agent in self.items(LOOKED_AT)]
        begin = self.rounds()
        for finalizers in (["skykoi.io/instance", "example.com/somebody"], ["skykoi.io/instance"]):
            before = self.rounds()[2]
            for name in names:
                self.stage.kube.patch_agent(name, {"metadata": {"finalizers": finalizers}})
            until("all were looked at", lambda: self.rounds()[2] - before >= len(names), 60, every=0.5)  # noqa: B023
        seconds, cpu, count = (now - then for now, then in zip(self.rounds(), begin, strict=True))
        self.figures["look: rounds of settled agents"] = count
        self.figures["look: microseconds of CPU of one"] = cpu / count * 1e6
        self.figures["look: microseconds of one, wall clock"] = seconds / count * 1e6

    def rounds(self) -> tuple[float, float, float]:
        """Seconds that reconciles took so far, on the clock and of CPU, and how many there were."""
        totals = collections.Counter[str]()
        for name, _, value in self.metrics():
            totals[name] += value
        kinds = ("duration_seconds_sum", "cpu_seconds_sum", "duration_seconds_count")
        seconds, cpu, count = (totals[f"koi_reconcile_{kind}"] for kind in kinds)
        return seconds, cpu, count

    def restart(self) -> None:
        """A new operator takes over a settled fleet, with the sweeps of the defaults and without probes worth mentioning."""
        self.operator.stop()
        since, before, begin = self.mark(), writes(self.stage), time.monotonic()
        self.operator = self.again()
        until("all are ready again", self.ready, 180 + self.count / 20, every=0.5)
        self.figures["restart: seconds until all are known"] = time.monotonic() - begin
        self.figures["restart: AWS changes"] = sum(changing for _, changing, _, _ in self.calls(since))
        self.figures["restart: writes"] = sum((writes(self.stage) - before).values())
        self.quiet()
        self.rest("rest without probes")

    def again(self) -> Operator:
        """The operator as it is by default, which probes once."""
        return self.stage.start_operator(env={**self.pace(), "KOI_SWEEP_INTERVAL": "30s", "KOI_PROBE_INTERVAL": "24h"})

    def quiet(self) -> None:
        """Waits until nobody is probed any more: after a start everybody is, once."""
        seen = [self.gateways.handshakes, time.monotonic()]

        def still() -> bool:
            if self.gateways.handshakes != seen[0]:
                seen[:] = [self.gateways.handshakes, time.monotonic()]
            return time.monotonic() - seen[1] > 5

        until("no gateway is asked", still, 300, every=0.5)

    def drift(self) -> None:
        """An instance is stopped by hand: seen, and repaired."""
        agent = self.items(1)[0]
        name, instance = agent["metadata"]["name"], agent["status"]["instance"]["id"]
        begin = time.monotonic()
        self.somebody_stops(instance)
        until("seen", lambda: not is_true(self.stage.agent(name), "Ready"), 60, every=0.2)
        self.figures["drift: seconds until seen"] = time.monotonic() - begin
        until("repaired", lambda: is_true(self.stage.agent(name), "Ready"), 60, every=0.2)
        self.figures["drift: seconds until ready again"] = time.monotonic() - begin

    def leave(self) -> None:
        """All are deleted at once."""
        since, begin = self.mark(), time.monotonic()
        for number in range(self.count):
            self.stage.kube.delete_agent(f"a{number}")
        until("all but the first are gone", lambda: len(self.items(2)) == 1, self.size.patience, every=0.5)
        self.figures["delete: seconds"] = time.monotonic() - begin
        self.count_calls("delete", since)
        self.figures["delete: RSS MiB"] = cpu_and_rss(self.operator)[1]

    def own_rate(self) -> None:
        """How many calls of a launch the world's cloud answers in a second when nobody has to think: the bound of `converge`."""
        ec2, ssm, count, threads = self.stage.cloud.boto("ec2"), self.stage.cloud.boto("ssm"), 200, 4
        image = self.stage.cloud.ready().ubuntu

        def launch(number: int) -> None:
            ec2.run_instances(ImageId=image, InstanceType="t3.small", MinCount=1, MaxCount=1, UserData="x" * 2048)
            ssm.put_parameter(Name=f"/rate/{number}", Value="x" * 2048, Type="SecureString")

        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(launch, range(count)))
        rate = 2 * count / (time.monotonic() - begin)
        self.figures["the cloud's own rate, calls of a launch a second"] = rate
        calls = self.figures["converge: AWS calls per agent, sweeps and shared things aside"] * self.count
        self.figures["converge: seconds that it may take at that rate"] = calls / rate * 1.25


def measure(size: Size, kind: Callable[[Stage, Size], Fleet] = Fleet) -> dict[str, float]:
    """All figures of a fleet of this size."""
    timing = {"KOI_SWEEP_INTERVAL": f"{SWEEP_SECONDS}s", "KOI_PROBE_INTERVAL": "60s"}
    with Stage(world_name(f"bench{size.agents}"), driver="none", **timing) as stage:
        fleet = kind(stage, size)
        fleet.converge()
        if not size.own_identity:
            fleet.rest()
            fleet.look()
            fleet.drift()
            if not size.buckets:
                fleet.restart()
        fleet.leave()
        if not size.buckets:
            fleet.own_rate()
        fleet.gateways.close()
        return fleet.figures
