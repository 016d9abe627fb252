"""A typed client for the control API of the cloud, and boto3 clients for its principals."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlencode

T = TypeVar("T")


class ControlError(RuntimeError):
    """The control API refused; the message says why."""


@dataclasses.dataclass(frozen=True)
class Ready:
    name: str
    account: str
    region: str
    ubuntu: str
    baked: str
    ssm_parameters: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LoggedCall:
    index: int
    time: float
    service: str
    action: str
    principal: str
    account: str
    region: str
    mutating: bool
    status: int
    code: str
    fault: str
    request_id: str
    parameters: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Hold:
    id: str
    fault: str
    service: str
    action: str
    when: str
    request_id: str


@dataclasses.dataclass(frozen=True)
class Instance:
    id: str
    account: str
    region: str
    state: str
    private_ip: str | None
    public_ip: str | None
    impaired: tuple[str, ...]
    ingress: tuple[dict[str, Any], ...]


def wait_for(what: str, probe: Callable[[], T | None], seconds: float = 10.0, pause: float = 0.05) -> T:
    """Asks until the answer is true; says what it waited for when it never is."""
    end = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s (last answer: {answer!r})")
        time.sleep(pause)


class CloudClient:
    """Speaks to `/_world/` of one cloud. Only from the world's own network namespace."""

    def __init__(self, endpoint: str, state_dir: pathlib.Path) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.state_dir = state_dir

    # AWS clients

    def boto(
        self, service: str, principal: str = "admin", region: str = "us-east-1", retries: int = 0, check: bool = True
    ) -> Any:
        """A boto3 client; principals are those of credentials.json: admin, admin-other, operator."""
        keys = json.loads((self.state_dir / "credentials.json").read_text())[principal]
        return self.boto_with(service, keys["accessKeyId"], keys["secretAccessKey"], None, region, retries, check)

    def boto_with(
        self,
        service: str,
        key: str,
        secret: str,
        token: str | None,
        region: str = "us-east-1",
        retries: int = 0,
        check: bool = True,
    ) -> Any:
        """A boto3 client with these keys; `check=False` sends parameters that boto3 itself would refuse."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=region,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=Config(retries={"max_attempts": retries}, max_pool_connections=32, parameter_validation=check),
        )

    def boto_of_instance(self, service: str, instance_id: str, region: str = "us-east-1") -> Any:
        """A client with the role credentials that the instance gets from its metadata service."""
        keys = self._call("GET", f"instances/{instance_id}/credentials")
        return self.boto_with(service, keys["AccessKeyId"], keys["SecretAccessKey"], keys["Token"], region)

    # the world

    def ready(self) -> Ready:
        found = self._call("GET", "ready")
        images = found["images"]
        return Ready(
            found["name"],
            found["account"],
            found["region"],
            images["ubuntu"],
            images["baked"],
            tuple(found["ssmParameters"]),
        )

    def wait_ready(self, seconds: float = 30.0) -> Ready:
        def probe() -> Ready | None:
            try:
                return self.ready()
            except OSError:
                return None

        return wait_for("the cloud answers", probe, seconds)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Changes the named settings; returns all of them."""
        return self._call("POST", "settings", changes) if changes else self._call("GET", "settings")

    def advance_clock(self, seconds: float) -> None:
        self._call("POST", "clock", {"advance": seconds})

    def refill_throttle(self) -> None:
        self._call("POST", "throttle")

    # faults and holds

    def inject(self, action: str, **fields: Any) -> str:
        """Adds a fault (fields: see faults.Fault); returns its id."""
        return self._call("POST", "faults", {"action": action, **fields})[0]["id"]

    def faults(self) -> list[dict[str, Any]]:
        return self._call("GET", "faults")

    def clear_faults(self, fault_id: str | None = None) -> None:
        self._call("DELETE", f"faults/{fault_id}" if fault_id else "faults")

    def holds(self) -> list[Hold]:
        return [Hold(**item) for item in self._call("GET", "holds")]

    def wait_hold(self, action: str, seconds: float = 10.0) -> Hold:
        """Waits until a call of this action is held."""
        return wait_for(
            f"{action} is held", lambda: next((h for h in self.holds() if h.action == action), None), seconds
        )

    def release(self, hold_id: str, drop: bool = False) -> None:
        self._call("POST", f"holds/{hold_id}/release", {"drop": drop})

    # calls

    def calls(self, since: int = 0, **where: Any) -> list[LoggedCall]:
        """The log from an index on; `where`: action, service, principal, mutating."""
        wanted = {key: str(value).lower() if isinstance(value, bool) else value for key, value in where.items()}
        found = self._call("GET", f"calls?{urlencode({'since': since, **wanted})}")
        return [LoggedCall(**record) for record in found["calls"]]

    def next_call(self) -> int:
        """The index that the next call will have: remember it, act, then ask for `calls(since=...)`."""
        return self._call("GET", "calls?since=1000000000")["next"]

    # models

    def models_say(self, *rules: dict[str, Any]) -> None:
        """What models answer from now on (rules: see bedrock.py); what they were asked until now is forgotten."""
        self._call("POST", "models", list(rules))

    def models_asked(self) -> list[dict[str, Any]]:
        """Every question: model, body, caller, state (open, answered, hung up, cut), held."""
        return self._call("GET", "models")

    def model_goes_on(self, hold: str) -> None:
        """Releases a hold of this name."""
        self._call("POST", f"models/release/{hold}")

    # account and policy

    def switch_account(self, account: str) -> None:
        self._call("POST", "account", {"operator": account})

    def enable_operator(self, enabled: bool) -> None:
        self._call("POST", "account", {"enabled": enabled})

    def operator_policy(self, document: dict[str, Any] | None) -> None:
        self._call("POST", "policy", document)

    # what exists

    def leftovers(self) -> dict[str, list[dict[str, Any]]]:
        """Everything beyond a fresh account, by kind; kinds of which there is nothing are left out."""
        return {kind: items for kind, items in self._call("GET", "leftovers").items() if items}

    def instances(self) -> list[Instance]:
        return [_instance(item) for item in self._call("GET", "instances")]

    def instance(self, instance_id: str) -> Instance:
        return _instance(self._call("GET", f"instances/{instance_id}"))

    def metadata(self, instance_id: str) -> dict[str, Any]:
        return self._call("GET", f"instances/{instance_id}/metadata")

    # outside changes

    def impair(self, instance_id: str, check: str = "instance", ago: float = 0) -> None:
        """A status check fails, and has for so many seconds."""
        self._call("POST", f"instances/{instance_id}/impair", {"check": check, "ago": ago})

    def recover(self, instance_id: str) -> None:
        self._call("POST", f"instances/{instance_id}/recover")

    def schedule_event(self, instance_id: str, code: str, within: float = 86400.0) -> None:
        self._call("POST", f"instances/{instance_id}/event", {"code": code, "in": within})

    def clear_events(self, instance_id: str) -> None:
        self._call("POST", f"instances/{instance_id}/clear-events")

    def guest_poweroff(self, instance_id: str) -> None:
        self._call("POST", f"instances/{instance_id}/poweroff")

    def system_stop(self, instance_id: str, code: str = "Server.ScheduledStop") -> None:
        self._call("POST", f"instances/{instance_id}/system-stop", {"code": code})

    def lose(self, instance_id: str, code: str = "Server.InternalError") -> None:
        """AWS terminates the instance by itself."""
        self._call("POST", f"instances/{instance_id}/lose", {"code": code})

    def cut_network(self, instance_id: str, cut: bool = True) -> None:
        """Drops every packet to and from the machine, until called again with False."""
        self._call("POST", f"instances/{instance_id}/cut", {"cut": cut})

    def forget(self, instance_id: str) -> None:
        """A terminated instance vanishes from the listings."""
        self._call("POST", f"instances/{instance_id}/forget")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None or method == "POST" else None
        request = urllib.request.Request(f"{self.endpoint}/_world/{path}", data=data, method=method)
        request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ControlError(f"{method} /_world/{path}: {error.status} {error.read().decode().strip()}") from error


def _instance(item: dict[str, Any]) -> Instance:
    return Instance(
        id=item["id"],
        account=item["account"],
        region=item["region"],
        state=item["state"],
        private_ip=item["privateIp"],
        public_ip=item["publicIp"],
        impaired=tuple(item["impaired"]),
        ingress=tuple(item["ingress"]),
    )
