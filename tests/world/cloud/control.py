"""The control API under `/_world/`: for the test, not for the operator (README.md lists it)."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from world.machines.base import DriverError

from . import images, inventory, metadata, power
from .accounts import HOME_REGION
from .cloud import Machine

if TYPE_CHECKING:
    from .server import Handler, Incoming, Shell

LOCAL = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


class BadRequest(Exception):
    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


def serve(shell: Shell, incoming: Incoming, handler: Handler) -> None:
    parts = [unquote(part) for part in incoming.path.split("/") if part][1:]
    if parts[:1] == ["artifacts"] and incoming.method == "GET" and len(parts) == 2:
        _artifact(shell, parts[1], handler)
        return
    if incoming.source_ip not in LOCAL:
        handler.send_json(403, b'{"error": "the control API answers only to 127.0.0.1"}\n')
        return
    try:
        body = json.loads(incoming.body) if incoming.body.strip() else None
        query = {key: values[-1] for key, values in parse_qs(incoming.query).items()}
        answer = _route(shell, incoming.method, parts, query, body)
        status, content = 200, json.dumps(answer, default=_plain).encode() + b"\n"
    except BadRequest as error:
        status, content = error.status, json.dumps({"error": str(error)}).encode() + b"\n"
    except (ValueError, TypeError, KeyError, DriverError) as error:
        status, content = 400, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n"
    handler.send_json(status, content)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, set):
        return sorted(value)
    return str(value)


def _artifact(shell: Shell, name: str, handler: Handler) -> None:
    """A file for machines, for example the gateway's binary."""
    path = shell.cloud.state_dir / "artifacts" / name
    if "/" in name or name.startswith(".") or not path.is_file():
        handler.send_json(404, b'{"error": "no such artifact"}\n')
        return
    with path.open("rb") as file:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/octet-stream")
        handler.send_header("Content-Length", str(path.stat().st_size))
        handler.end_headers()
        shutil.copyfileobj(file, handler.wfile)


Route = Callable[["Shell", list[str], dict[str, str], Any], Any]
ROUTES: dict[tuple[str, str], Route] = {}


def route(method: str, name: str) -> Callable[[Route], Route]:
    def register(function: Route) -> Route:
        ROUTES[(method, name)] = function
        return function

    return register


def _route(shell: Shell, method: str, parts: list[str], query: dict[str, str], body: Any) -> Any:
    function = ROUTES.get((method, parts[0] if parts else ""))
    if function is None:
        raise BadRequest(f"no such path: {method} /_world/{'/'.join(parts)}", 404)
    return function(shell, parts[1:], query, body)


@route("GET", "ready")
def ready(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    return {
        "ready": True,
        "name": shell.cloud.name,
        "account": shell.principals.operator_account,
        "region": HOME_REGION,
        "images": {"ubuntu": images.UBUNTU_AMI, "baked": images.BAKED_AMI},
        "ssmParameters": list(images.UBUNTU_PARAMETERS),
        "settings": shell.cloud.settings.as_dict(),
    }


@route("GET", "settings")
def get_settings(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    return shell.cloud.settings.as_dict()


@route("POST", "settings")
def set_settings(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    with shell.cloud.lock:
        shell.cloud.settings.change(body or {})
    return shell.cloud.settings.as_dict()


@route("POST", "clock")
def advance(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    shell.cloud.clock.advance(float(body["advance"]))
    return {"now": shell.cloud.clock.now()}


@route("POST", "throttle")
def refill(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    shell.throttle.refill()
    return {}


# models


@route("POST", "models")
def play(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    if rest[:1] == ["release"]:
        shell.bedrock.release(rest[1])
    else:
        shell.bedrock.play(body)
    return {}


@route("GET", "models")
def asked(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    return shell.bedrock.asked()


# faults, holds, calls


@route("GET", "faults")
def list_faults(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    return [fault.as_dict() for fault in shell.faults.all()]


@route("POST", "faults")
def add_faults(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    return [fault.as_dict() for fault in shell.faults.add(body if isinstance(body, list) else [body])]


@route("DELETE", "faults")
def clear_faults(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    shell.faults.clear(rest[0] if rest else None)
    return {}


@route("GET", "holds")
def list_holds(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    return [hold.as_dict() for hold in shell.faults.holds()]


@route("POST", "holds")
def release_hold(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    if len(rest) != 2 or rest[1] != "release":
        raise BadRequest("use POST /_world/holds/<id>/release", 404)
    if not shell.faults.release(rest[0], bool((body or {}).get("drop"))):
        raise BadRequest(f"no hold {rest[0]}", 404)
    return {}


@route("GET", "calls")
def list_calls(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    found = shell.calls.since(int(query.get("since", 0)))
    for field in ("action", "service", "principal"):
        if wanted := query.get(field):
            found = [record for record in found if record[field] == wanted]
    if "mutating" in query:
        found = [record for record in found if record["mutating"] == (query["mutating"] == "true")]
    return {"next": shell.calls.next_index, "calls": found}


# the account


@route("GET", "account")
def get_account(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    return {"operator": shell.principals.operator_account, "enabled": shell.principals.operator_enabled}


@route("POST", "account")
def switch_account(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    account = (body or {}).get("operator")
    if account is not None:
        if not (isinstance(account, str) and len(account) == 12 and account.isdigit()):
            raise BadRequest("`operator` is an account id of 12 digits")
        shell.principals.operator_account = account
    if "enabled" in (body or {}):
        shell.principals.operator_enabled = bool(body["enabled"])
    return get_account(shell, rest, query, None)


@route("POST", "policy")
def operator_policy(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    """Replaces the operator's policy; `null` brings back the one of --operator-policy."""
    shell.authorizer.override_operator_policy(body)
    return {}


@route("GET", "leftovers")
def get_leftovers(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    with shell.cloud.lock:
        return inventory.leftovers(shell.cloud)


# machines


def _machine_view(machine: Machine) -> dict[str, Any]:
    return {
        "id": machine.id,
        "account": machine.account,
        "region": machine.region,
        "state": machine.state,
        "privateIp": machine.instance.private_ip,
        "publicIp": machine.instance.public_ip,
        "impaired": sorted(machine.impaired),
        "events": machine.events,
        "ingress": [dataclasses.asdict(rule) for rule in machine.ingress or ()],
    }


@route("GET", "instances")
def list_instances(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    with shell.cloud.lock:
        if not rest:
            return [_machine_view(machine) for machine in shell.cloud.machines.values()]
        machine = _machine(shell, rest[0])
        what = rest[1] if len(rest) > 1 else ""
        if what == "metadata":
            return dataclasses.asdict(metadata.describe(shell.cloud, machine, shell.principals))
        if what == "credentials":
            session = shell.principals.instance_session(machine)
            if session is None:
                raise BadRequest(f"{machine.id} has no role", 404)
            return metadata.credentials_document(session)
        return _machine_view(machine)


def _machine(shell: Shell, instance_id: str) -> Machine:
    machine = shell.cloud.machines.get(instance_id)
    if machine is None:
        raise BadRequest(f"no instance {instance_id}", 404)
    return machine


@route("POST", "instances")
def act_on_instance(shell: Shell, rest: list[str], query: dict[str, str], body: Any) -> Any:
    if len(rest) != 2 or rest[1] not in DEEDS:
        raise BadRequest(f"use POST /_world/instances/<id>/<deed>, deeds: {', '.join(sorted(DEEDS))}", 404)
    with shell.cloud.lock:
        machine = _machine(shell, rest[0])
        DEEDS[rest[1]](shell, machine, body or {})
        return _machine_view(machine)


def _impair(shell: Shell, machine: Machine, body: dict[str, Any]) -> None:
    check = body.get("check", "instance")
    if check not in ("system", "instance"):
        raise BadRequest("`check` is system or instance")
    ago = float(body.get("ago", 0))
    if ago < 0:
        raise BadRequest("`ago` is in seconds, not negative")
    machine.impaired[check] = shell.cloud.clock.now() - ago


def _recover(shell: Shell, machine: Machine, body: dict[str, Any]) -> None:
    if "check" in body:
        machine.impaired.pop(body["check"], None)
    else:
        machine.impaired.clear()


def _event(shell: Shell, machine: Machine, body: dict[str, Any]) -> None:
    """Schedules an event as AWS does (instance-retirement, instance-stop, system-reboot ...)."""
    begin = shell.cloud.clock.utc() + datetime.timedelta(seconds=float(body.get("in", 86400)))
    event = {
        "InstanceEventId": f"instance-event-{machine.id[2:]}{len(machine.events)}",
        "Code": body["code"],
        "Description": body.get("description", "The instance is running on degraded hardware"),
        "NotBefore": begin,
    }
    machine.events = [*machine.events, event]


def _clear_events(shell: Shell, machine: Machine, body: dict[str, Any]) -> None:
    machine.events = []


def _poweroff(shell: Shell, machine: Machine, body: dict[str, Any]) -> None:
    power.guest_poweroff(shell.cloud, machine.id)


def _system_stop(shell: Shell, machine: Machine, body: dict[str, Any]) -> None:
    code = body.get("code", "Server.ScheduledStop")
    power.system_stop(shell.cloud, machine, code, body.get("message", "Stopped due to a scheduled retirement"))


def _lose(shell: Shell, machine: Machine, body: dict[str, Any]) -> None:
    """AWS terminates the instance by itself."""
    code = body.get("code", "Server.InternalError")
    power.die(shell.cloud, machine, (code, body.get("message", "Internal error")))


def _cut(shell: Shell, machine: Machine, body: dict[str, Any]) -> None:
    """Every packet to and from the machine is dropped while cut."""
    shell.cloud.driver.set_network_cut(machine.id, bool(body.get("cut", True)))


def _forget(shell: Shell, machine: Machine, body: dict[str, Any]) -> None:
    """A terminated instance vanishes from the listings at once."""
    if machine.state != "terminated":
        raise BadRequest(f"{machine.id} is {machine.state}, not terminated", 409)
    machine.gone_at = float("-inf")
    shell.cloud.forget_old_terminated()


DEEDS: dict[str, Callable[[Any, Machine, dict[str, Any]], None]] = {
    "clear-events": _clear_events,
    "cut": _cut,
    "event": _event,
    "forget": _forget,
    "impair": _impair,
    "lose": _lose,
    "poweroff": _poweroff,
    "recover": _recover,
    "system-stop": _system_stop,
}
