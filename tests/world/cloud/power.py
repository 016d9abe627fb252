"""The power states of instances, made true by the driver."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

from moto.ec2.models.instances import InstanceState, StateReason

from world.machines.base import Attachment, MachineSpec

from . import ingress
from .cloud import Cloud, Machine
from .errors import ApiError

log = logging.getLogger("world.cloud.power")

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
USER_STOP = ("Client.UserInitiatedShutdown", "User initiated shutdown")
GUEST_STOP = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")


def _set(machine: Machine, state: str) -> None:
    machine.instance._state = InstanceState(state, CODES[state])


def _explain(cloud: Cloud, machine: Machine, reason: tuple[str, str]) -> None:
    code, message = reason
    machine.instance.state_reason = StateReason(f"{code}: {message}", code)
    who = "User initiated" if code.startswith("Client.") else message
    machine.instance._reason = f"{who} ({cloud.clock.utc():%Y-%m-%d %H:%M:%S} GMT)"


def _clear_reason(machine: Machine) -> None:
    machine.instance.state_reason = StateReason()
    machine.instance._reason = ""


def previous_state(machine: Machine) -> InstanceState:
    return copy.copy(machine.instance._state)


def is_root(machine: Machine, device: str) -> bool:
    return device == machine.instance.root_device_name


def data_attachments(machine: Machine) -> tuple[Attachment, ...]:
    return tuple(
        Attachment(block.volume_id, device)
        for device, block in machine.instance.get_block_device_mapping
        if not is_root(machine, device)
    )


def _refuse(machine: Machine, verb: str) -> ApiError:
    return ApiError(
        "IncorrectInstanceState",
        f"The instance '{machine.id}' is not in a state from which it can be {verb}.",
    )


# launch and start


def launch(cloud: Cloud, machine: Machine) -> None:
    """First boot; the caller holds the lock, the machine is recorded and in state pending."""
    backend = cloud.ec2(machine.account, machine.region)
    _set(machine, "pending")
    _clear_reason(machine)
    attachments = data_attachments(machine)
    volumes = [(a.volume_id, backend.volumes[a.volume_id]) for a in attachments]
    spec = MachineSpec(
        instance_id=machine.id,
        image_id=machine.instance.image_id,
        private_ip=machine.instance.private_ip,
        user_data=machine.user_data or b"",
        attachments=attachments,
    )

    def deed() -> None:
        for volume_id, volume in volumes:
            cloud.driver.create_volume(volume_id, volume.size, volume.snapshot_id or None)
        if not machine.doom:
            cloud.driver.set_public_ip(machine.id, machine.instance.public_ip)
            cloud.driver.launch(spec)
            machine.launched = True

    ingress.refresh_one(cloud, machine)
    _boot(cloud, machine, deed)


def start(cloud: Cloud, machine: Machine) -> InstanceState:
    before = previous_state(machine)
    if before.name in ("pending", "running"):
        return before
    if before.name != "stopped":
        raise _refuse(machine, "started")
    _set(machine, "pending")
    _clear_reason(machine)
    machine.instance.launch_time = cloud.clock.utc().replace(tzinfo=None)
    for nic in machine.instance.nics.values():
        nic.start()

    def deed() -> None:
        cloud.driver.set_public_ip(machine.id, machine.instance.public_ip)
        cloud.driver.start(machine.id)

    _boot(cloud, machine, deed)
    return before


def _boot(cloud: Cloud, machine: Machine, deed: Callable[[], None]) -> None:
    machine.epoch += 1
    machine.running_since = None
    epoch, since = machine.epoch, cloud.clock.now()

    def run() -> None:
        try:
            deed()
        except Exception as error:
            log.exception("machine %s does not boot", machine.id)
            with cloud.lock:
                _boot_failed(cloud, machine, epoch, str(error))
            return
        cloud.after_transit(since, lambda: _running(cloud, machine, epoch))

    cloud.lanes.submit(machine.id, run)


def _running(cloud: Cloud, machine: Machine, epoch: int) -> None:
    if machine.epoch != epoch or machine.state != "pending":
        return
    if machine.doom:
        die(cloud, machine, machine.doom)
    else:
        _set(machine, "running")
        machine.running_since = cloud.clock.now()
        # another host: what was wrong with, or planned for, the old one is left behind
        machine.impaired.clear()
        machine.events = []


def _boot_failed(cloud: Cloud, machine: Machine, epoch: int, error: str) -> None:
    if machine.epoch != epoch or machine.state != "pending":
        return
    reason = ("Server.InternalError", f"Internal error on launch ({error[:120]})")
    if machine.launched:
        _set(machine, "stopped")
        _explain(cloud, machine, reason)
    else:
        die(cloud, machine, reason)


# stop


def stop(cloud: Cloud, machine: Machine, force: bool = False) -> InstanceState:
    before = previous_state(machine)
    if before.name == "stopping" and force:
        cloud.lanes.submit(f"{machine.id}/force", lambda: cloud.driver.stop(machine.id, force=True))
    if before.name in ("stopping", "stopped"):
        return before
    if before.name != "running":
        raise _refuse(machine, "stopped")
    if machine.instance.disable_api_stop:
        raise ApiError(
            "OperationNotPermitted",
            f"The instance '{machine.id}' may not be stopped. Modify its 'disableApiStop' instance attribute and "
            "try again.",
        )
    _stopping(cloud, machine, USER_STOP, force)
    return before


def _stopping(cloud: Cloud, machine: Machine, reason: tuple[str, str], force: bool) -> None:
    machine.epoch += 1
    machine.running_since = None
    epoch, since = machine.epoch, cloud.clock.now()
    _set(machine, "stopping")
    _explain(cloud, machine, reason)

    def run() -> None:
        try:
            cloud.driver.stop(machine.id, force=force)
            cloud.driver.set_public_ip(machine.id, None)
        except Exception:
            log.exception("machine %s does not stop", machine.id)
        cloud.after_transit(since, lambda: _stopped(machine, epoch))

    cloud.lanes.submit(machine.id, run)


def _stopped(machine: Machine, epoch: int) -> None:
    if machine.epoch == epoch and machine.state == "stopping":
        for nic in machine.instance.nics.values():
            nic.stop()  # an address that was assigned automatically goes back to Amazon
        _set(machine, "stopped")


def guest_poweroff(cloud: Cloud, instance_id: str) -> None:
    """The machine switched itself off: it stops or, when it was launched so, terminates."""
    with cloud.lock:
        machine = cloud.machines.get(instance_id)
        if machine is None or machine.state not in ("running", "pending"):
            return
        if machine.instance.instance_initiated_shutdown_behavior == "terminate":
            _shutting_down(cloud, machine, GUEST_STOP)
        else:
            _stopping(cloud, machine, GUEST_STOP, force=False)


def system_stop(cloud: Cloud, machine: Machine, code: str, message: str) -> None:
    """AWS itself stops the instance (retirement, a failed host)."""
    if machine.state == "running":
        _stopping(cloud, machine, (code, message), force=True)


# reboot


def reboot(cloud: Cloud, machine: Machine) -> None:
    if machine.state != "running":
        raise _refuse(machine, "rebooted")
    machine.running_since = cloud.clock.now()
    machine.impaired.pop("instance", None)

    def run() -> None:
        try:
            cloud.driver.reboot(machine.id)
        except Exception:
            log.exception("machine %s does not come back", machine.id)
            with cloud.lock:
                machine.impaired["instance"] = cloud.clock.now()

    cloud.lanes.submit(machine.id, run)


# termination


def terminate(cloud: Cloud, machine: Machine) -> InstanceState:
    before = previous_state(machine)
    if before.name in ("shutting-down", "terminated"):
        return before
    if machine.instance.disable_api_termination:
        raise ApiError(
            "OperationNotPermitted",
            f"The instance '{machine.id}' may not be terminated. Modify its 'disableApiTermination' instance attribute "
            "and try again.",
        )
    _shutting_down(cloud, machine, USER_STOP)
    return before


def die(cloud: Cloud, machine: Machine, reason: tuple[str, str]) -> None:
    """An accepted launch that AWS takes back."""
    if machine.state not in ("shutting-down", "terminated"):
        _shutting_down(cloud, machine, reason)


def _shutting_down(cloud: Cloud, machine: Machine, reason: tuple[str, str]) -> None:
    machine.epoch += 1
    machine.running_since = None
    since = cloud.clock.now()
    _set(machine, "shutting-down")
    _explain(cloud, machine, reason)

    def run() -> None:
        try:
            if not machine.doom:
                cloud.driver.terminate(machine.id)
        except Exception:
            log.exception("machine %s does not go away", machine.id)
        cloud.after_transit(since, lambda: _terminated(cloud, machine))

    cloud.lanes.submit(machine.id, run)


def _terminated(cloud: Cloud, machine: Machine) -> None:
    if machine.state != "shutting-down":
        return
    _set(machine, "terminated")
    machine.gone_at = cloud.clock.now()
    backend = cloud.ec2(machine.account, machine.region)
    _release_volumes(cloud, machine, backend)
    _release_network(machine, backend)
    backend.iam_instance_profile_associations.pop(machine.id, None)
    ingress.refresh(cloud, machine.account, machine.region)


def _release_volumes(cloud: Cloud, machine: Machine, backend: Any) -> None:
    for device, block in machine.instance.get_block_device_mapping:
        volume = backend.volumes.get(block.volume_id)
        machine.instance.block_device_mapping.pop(device, None)
        if volume is None:
            continue
        volume.attachment = None
        volume.world_phase = None
        if not block.delete_on_termination:
            continue
        backend.volumes.pop(volume.id, None)
        backend.tags.pop(volume.id, None)
        if not is_root(machine, device):
            cloud.lanes.submit(volume.id, lambda v=volume.id: cloud.driver.delete_volume(v))


def _release_network(machine: Machine, backend: Any) -> None:
    instance = machine.instance
    for nic in list(instance.nics.values()):
        nic.stop()
        instance.detach_eni(nic)
        if getattr(nic, "world_keep", False):
            continue
        backend.enis.pop(nic.id, None)
        backend.tags.pop(nic.id, None)
        nic.subnet.del_subnet_ip(nic.private_ip_address)
    instance.nics = {}
    instance._subnet_id = None
    instance.security_groups = []
    instance.iam_instance_profile = None
