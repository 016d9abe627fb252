"""EBS volumes: their own rules, and their way on and off machines."""

from __future__ import annotations

import logging
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.models.block_device import BlockDeviceType
from moto.ec2.models.elastic_block_store import VolumeAttachment, VolumeModification

from world.machines.base import Attachment, VolumeBusy

from . import consistency, ids, paging, power, tags, tokens
from .call import Call
from .cloud import Cloud, Machine
from .errors import ApiError
from .native import translated
from .registry import handles

log = logging.getLogger("world.cloud.volumes")

SIZES = {
    "gp2": (1, 16384),
    "gp3": (1, 65536),
    "io1": (4, 16384),
    "io2": (4, 65536),
    "st1": (125, 16384),
    "sc1": (125, 16384),
    "standard": (1, 1024),
}


def check_specification(size: int, kind: str, iops: Any, throughput: Any) -> None:
    if kind not in SIZES:
        raise ApiError("UnknownVolumeType", f"Unknown volume type: {kind}")
    low, high = SIZES[kind]
    if not low <= size <= high:
        raise ApiError(
            "InvalidParameterValue", f"Volume of {size}GiB is invalid for volume type {kind}; allowed: {low} to {high}."
        )
    if kind in ("io1", "io2") and not iops:
        raise ApiError("MissingParameter", f"The parameter iops must be specified for {kind} volumes.")
    if iops and kind not in ("gp3", "io1", "io2"):
        raise ApiError("InvalidParameterCombination", f"The parameter iops is not supported for {kind} volumes.")
    if throughput and kind != "gp3":
        raise ApiError("InvalidParameterCombination", f"The parameter throughput is not supported for {kind} volumes.")


def check_limit(cloud: Cloud, call: Call, more: int) -> None:
    limit = cloud.settings.volume_limit
    if limit and len(cloud.ec2_of(call).volumes) + more > limit:
        raise ApiError("VolumeLimitExceeded", "You have exceeded your maximum gp2 storage limit in this region.")


def key_arn(call: Call, key: str) -> str:
    return key if key.startswith("arn:") else f"arn:aws:kms:{call.region}:{call.account}:key/{key}"


def find(cloud: Cloud, call: Call, volume_id: str) -> Any:
    volume = cloud.ec2_of(call).volumes.get(volume_id)
    if volume is None or not consistency.visible(cloud, call.principal, volume_id):
        raise ids.VOLUME.missing_error([volume_id])
    return volume


def find_snapshot(cloud: Cloud, call: Call, snapshot_id: str) -> Any:
    snapshot = cloud.ec2_of(call).snapshots.get(snapshot_id)
    if snapshot is None or not consistency.visible(cloud, call.principal, snapshot_id):
        raise ids.SNAPSHOT.missing_error([snapshot_id])
    return snapshot


def usable_snapshot(cloud: Cloud, call: Call, backend: Any, snapshot_id: str) -> Any:
    if not ids.SNAPSHOT.well_formed(snapshot_id):
        raise ids.SNAPSHOT.malformed_error(snapshot_id)
    snapshot = find_snapshot(cloud, call, snapshot_id)
    if snapshot.status != "completed":
        raise ApiError("IncorrectState", f"Snapshot is in invalid state - {snapshot.status}")
    return snapshot


# creation and deletion


@handles("ec2", "CreateVolume")
def create_volume(cloud: Cloud, call: Call) -> Any:
    backend, params = cloud.ec2_of(call), call.params
    named = tags.specifications(call)
    size, kind = params.get("Size"), params.get("VolumeType") or "gp2"
    if size is None and not params.get("SnapshotId"):
        raise ApiError("MissingParameter", "The request must contain the parameter size or snapshotId")
    if (made := tokens.replay(cloud, call)) is not None:
        return find(cloud, call, made)
    zone = params.get("AvailabilityZone")
    if zone not in {z.name for z in backend.describe_availability_zones()}:
        raise ApiError("InvalidZone.NotFound", f"The zone '{zone}' does not exist.")
    size = _size_with_snapshot(cloud, call, backend, size)
    check_specification(size, kind, params.get("Iops"), params.get("Throughput"))
    check_limit(cloud, call, 1)
    encrypted = bool(params.get("Encrypted"))
    if params.get("KmsKeyId") and not encrypted:
        raise ApiError(
            "InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set."
        )
    volume = translated(
        backend.create_volume,
        size,
        zone,
        params.get("SnapshotId"),
        encrypted,
        key_arn(call, params["KmsKeyId"]) if params.get("KmsKeyId") else None,
        kind,
        params.get("Iops"),
        params.get("Throughput"),
    )
    consistency.remember_birth(cloud, volume.id)
    tags.put(cloud, backend, volume.id, named.get("volume", {}))
    tokens.remember(cloud, call, volume.id)
    _bring_up(cloud, volume)
    return volume


def _size_with_snapshot(cloud: Cloud, call: Call, backend: Any, size: Any) -> int:
    if not call.params.get("SnapshotId"):
        return int(size)
    smallest = usable_snapshot(cloud, call, backend, call.params["SnapshotId"]).volume_size
    if size is not None and int(size) < smallest:
        raise ApiError("InvalidParameterValue", f"The volume size is smaller than the snapshot's, {smallest} GiB.")
    return int(size) if size is not None else smallest


def _bring_up(cloud: Cloud, volume: Any) -> None:
    volume.world_phase = "creating"
    since = cloud.clock.now()

    def run() -> None:
        try:
            cloud.driver.create_volume(volume.id, volume.size, volume.snapshot_id or None)
            phase = None
        except Exception:
            log.exception("volume %s cannot be made", volume.id)
            phase = "error"
        cloud.after_transit(since, lambda: setattr(volume, "world_phase", phase))

    cloud.lanes.submit(volume.id, run)


@handles("ec2", "DeleteVolume")
def delete_volume(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    volume = find(cloud, call, call.params.get("VolumeId", ""))
    if volume.attachment:
        raise ApiError("VolumeInUse", f"Volume {volume.id} is currently attached to {volume.attachment.instance.id}")
    if volume.status not in ("available", "error"):
        raise ApiError("IncorrectState", f"The volume '{volume.id}' is in state '{volume.status}', not 'available'.")
    backend.volumes.pop(volume.id)
    backend.tags.pop(volume.id, None)
    cloud.lanes.submit(volume.id, lambda: cloud.driver.delete_volume(volume.id))
    return None


# listings

VOLUME_FILTERS: dict[str, paging.Values] = {
    "attachment.attach-time": lambda v: [a.attach_time for a in v.attachments],
    "attachment.delete-on-termination": lambda v: [_delete_on_termination(v)] if v.attachment else [],
    "attachment.device": lambda v: [a.device for a in v.attachments],
    "attachment.instance-id": lambda v: [a.instance.id for a in v.attachments],
    "attachment.status": lambda v: [a.status for a in v.attachments],
    "availability-zone": lambda v: [v.zone.name],
    "create-time": lambda v: [v.create_time],
    "encrypted": lambda v: [bool(v.encrypted)],
    "multi-attach-enabled": lambda v: [False],
    "size": lambda v: [v.size],
    "snapshot-id": lambda v: [v.snapshot_id],
    "status": lambda v: [v.status],
    "volume-id": lambda v: [v.id],
    "volume-type": lambda v: [v.volume_type],
}


def _delete_on_termination(volume: Any) -> bool:
    block = volume.attachment.instance.block_device_mapping.get(volume.attachment.device)
    return bool(block and block.delete_on_termination)


def _tag_values(cloud: Cloud, call: Call) -> paging.Values:
    backend = cloud.ec2_of(call)
    return lambda item: consistency.visible_tags(cloud, call.principal, backend, item.id).items()


def _volume_view(cloud: Cloud, call: Call, volume: Any) -> dict[str, Any]:
    backend = cloud.ec2_of(call)
    view: dict[str, Any] = {
        "VolumeId": volume.id,
        "Size": volume.size,
        "AvailabilityZone": volume.zone.name,
        "State": volume.status,
        "CreateTime": volume.create_time,
        "Encrypted": bool(volume.encrypted),
        "SnapshotId": volume.snapshot_id or "",
        "VolumeType": volume.volume_type,
        "MultiAttachEnabled": False,
        "Attachments": [_attachment_view(volume, a) for a in volume.attachments],
    }
    for key, value in (("KmsKeyId", volume.kms_key_id), ("Iops", volume.iops), ("Throughput", volume.throughput)):
        if value:
            view[key] = value
    if found := consistency.visible_tags(cloud, call.principal, backend, volume.id):
        view["Tags"] = [{"Key": k, "Value": v} for k, v in sorted(found.items())]
    return view


def _attachment_view(volume: Any, attachment: VolumeAttachment) -> dict[str, Any]:
    return {
        "VolumeId": volume.id,
        "InstanceId": attachment.instance.id,
        "Device": attachment.device,
        "State": attachment.status,
        "AttachTime": attachment.attach_time,
        "DeleteOnTermination": _delete_on_termination(volume),
    }


@handles("ec2", "DescribeVolumes")
def describe_volumes(cloud: Cloud, call: Call) -> Any:
    paging.refuse_ids_with_size(call, "VolumeIds", "volumesSet")
    backend = cloud.ec2_of(call)
    if wanted := call.params.get("VolumeIds"):
        volumes = [find(cloud, call, volume_id) for volume_id in wanted]
    else:
        volumes = [v for v in backend.volumes.values() if consistency.visible(cloud, call.principal, v.id)]
    volumes = paging.keep(volumes, paging.parse_filters(call), VOLUME_FILTERS, _tag_values(cloud, call))
    volumes, token = paging.page(call, volumes, lambda v: v.id)
    return {"Volumes": [_volume_view(cloud, call, v) for v in volumes], "NextToken": token}


# attach and detach


@handles("ec2", "AttachVolume")
def attach_volume(cloud: Cloud, call: Call) -> Any:
    params = call.params
    device = params.get("Device")
    if not device:
        raise ApiError("MissingParameter", "The request must contain the parameter device")
    volume = find(cloud, call, params.get("VolumeId", ""))
    machine = consistency.named_machine(cloud, call)
    if volume.attachment:
        raise ApiError("VolumeInUse", f"{volume.id} is already attached to an instance")
    if machine.state not in ("running", "stopped"):
        raise ApiError("IncorrectState", f"Instance '{machine.id}' is not 'running' or 'stopped'.")
    if volume.status != "available":
        raise ApiError("IncorrectState", f"Volume '{volume.id}' is in state '{volume.status}', not 'available'.")
    if volume.zone.name != machine.instance._placement.zone:
        raise ApiError(
            "InvalidVolume.ZoneMismatch",
            f"The volume '{volume.id}' is not in the same availability zone as instance '{machine.id}'",
        )
    if device in machine.instance.block_device_mapping:
        raise ApiError(
            "InvalidParameterValue",
            f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use",
        )
    return _attachment_view(volume, _attach(cloud, machine, volume, device))


def _attach(cloud: Cloud, machine: Machine, volume: Any, device: str) -> VolumeAttachment:
    attachment = volume.attachment = VolumeAttachment(volume, machine.instance, device, "attaching")
    block = BlockDeviceType(volume_id=volume.id, status="in-use", size=volume.size, attach_time=utcnow())
    block.world_status = "attaching"  # type: ignore[attr-defined]
    machine.instance.block_device_mapping[device] = block
    since = cloud.clock.now()

    def attached() -> None:
        if volume.attachment is attachment and attachment.status == "attaching":
            attachment.status = block.world_status = "attached"  # type: ignore[attr-defined]

    def run() -> None:
        try:
            cloud.driver.attach(machine.id, Attachment(volume.id, device))
        except Exception:
            log.exception("volume %s does not go on %s", volume.id, machine.id)
            return
        cloud.after_transit(since, attached)

    cloud.lanes.submit(machine.id, run)
    return attachment


@handles("ec2", "DetachVolume")
def detach_volume(cloud: Cloud, call: Call) -> Any:
    params = call.params
    volume = find(cloud, call, params.get("VolumeId", ""))
    attachment = volume.attachment
    if attachment is None:
        raise ApiError("IncorrectState", f"Volume '{volume.id}' is in the 'available' state.")
    if params.get("InstanceId") and params["InstanceId"] != attachment.instance.id:
        raise ApiError(
            "InvalidAttachment.NotFound",
            f"The volume '{volume.id}' is not attached to the instance '{params['InstanceId']}'",
        )
    if params.get("Device") and params["Device"] != attachment.device:
        raise ApiError("InvalidAttachment.NotFound", f"The volume '{volume.id}' is not attached at {params['Device']}")
    machine = cloud.machines[attachment.instance.id]
    if power.is_root(machine, attachment.device) and machine.state != "stopped":
        raise ApiError(
            "OperationNotPermitted", f"Unable to detach root volume '{volume.id}' from instance '{machine.id}'"
        )
    if attachment.status not in ("detaching", "busy") or params.get("Force"):
        _detach(cloud, machine, volume, attachment, bool(params.get("Force")))
    return _attachment_view(volume, attachment)


def _detach(cloud: Cloud, machine: Machine, volume: Any, attachment: VolumeAttachment, force: bool) -> None:
    since = cloud.clock.now()
    _show(machine, attachment, "detaching")

    def detached() -> None:
        if volume.attachment is attachment:
            volume.attachment = None
            machine.instance.block_device_mapping.pop(attachment.device, None)

    def busy() -> None:
        """The guest has the volume mounted: EC2 says so and goes on waiting."""
        if volume.attachment is attachment and machine.state not in ("shutting-down", "terminated"):
            _show(machine, attachment, "busy")
            cloud.lanes.submit(machine.id, run)

    def run() -> None:
        if volume.attachment is not attachment:
            return
        try:
            cloud.driver.detach(machine.id, volume.id, force)
        except VolumeBusy:
            cloud.after_transit(cloud.clock.now(), busy)
            return
        except Exception:
            log.exception("volume %s does not come off %s", volume.id, machine.id)
            return
        cloud.after_transit(since, detached)

    cloud.lanes.submit(machine.id, run)


def _show(machine: Machine, attachment: VolumeAttachment, status: str) -> None:
    attachment.status = status
    if block := machine.instance.block_device_mapping.get(attachment.device):
        block.world_status = status


# modification


@handles("ec2", "ModifyVolume")
def modify_volume(cloud: Cloud, call: Call) -> Any:
    volume, params = find(cloud, call, call.params.get("VolumeId", "")), call.params
    if volume.status not in ("available", "in-use"):
        raise ApiError("IncorrectState", f"Volume '{volume.id}' is in state '{volume.status}'.")
    size, kind = params.get("Size"), params.get("VolumeType")
    if not any(params.get(name) for name in ("Size", "VolumeType", "Iops", "Throughput")):
        raise ApiError("InvalidParameterValue", "Must specify at least one of size, volume type, iops or throughput")
    if size is not None and int(size) < volume.size:
        raise ApiError(
            "InvalidParameterValue",
            f"New size cannot be smaller than existing size: {volume.size} GiB > {size} GiB",
        )
    final = kind or volume.volume_type
    check_specification(int(size or volume.size), final, params.get("Iops"), params.get("Throughput"))
    _check_cooldown(cloud, volume)
    return {"VolumeModification": _modify(cloud, volume, params)}


def _check_cooldown(cloud: Cloud, volume: Any) -> None:
    last = getattr(volume, "world_modified", None)
    if last is None:
        return
    if volume.modifications and volume.modifications[-1].modification_state != "completed":
        raise ApiError("IncorrectModificationState", f"Volume {volume.id} is already being modified.")
    if cloud.clock.now() - last < cloud.settings.volume_cooldown:
        raise ApiError(
            "VolumeModificationRateExceeded",
            "You've reached the maximum modification rate per volume limit. Wait at least 6 hours between "
            "modifications per EBS volume.",
        )


def _modify(cloud: Cloud, volume: Any, params: dict[str, Any]) -> VolumeModification:
    modification = VolumeModification(
        volume,
        target_size=int(params.get("Size") or volume.size),
        target_volume_type=params.get("VolumeType") or volume.volume_type,
        target_iops=params.get("Iops"),
        target_throughput=params.get("Throughput"),
    )
    modification.world_state = "modifying"  # type: ignore[attr-defined]
    volume.modifications.append(modification)
    volume.world_modified = since = cloud.clock.now()

    def optimizing() -> None:
        volume.size = modification.target_size
        volume.volume_type = modification.target_volume_type
        modification.world_state = "optimizing"  # type: ignore[attr-defined]
        cloud.after_transit(cloud.clock.now(), lambda: setattr(modification, "world_state", "completed"))

    def run() -> None:
        cloud.driver.grow_volume(volume.id, modification.target_size or volume.size)
        cloud.after_transit(since, optimizing)

    cloud.lanes.submit(volume.id, run)
    return modification


@handles("ec2", "DescribeVolumesModifications")
def describe_modifications(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    wanted = call.params.get("VolumeIds")
    volumes = [find(cloud, call, v) for v in wanted] if wanted else list(backend.volumes.values())
    latest = [v.modifications[-1] for v in volumes if v.modifications]
    if wanted and len(latest) < len(volumes):
        bare = next(v.id for v in volumes if not v.modifications)
        raise ApiError("InvalidVolumeModification.NotFound", f"Modification for volume '{bare}' does not exist.")
    known: dict[str, paging.Values] = {
        "modification-state": lambda m: [m.modification_state],
        "volume-id": lambda m: [m.volume.id],
        "target-size": lambda m: [m.target_size],
        "original-size": lambda m: [m.original_size],
    }
    latest = paging.keep(latest, paging.parse_filters(call), known, lambda _: [])
    latest, token = paging.page(call, latest, lambda m: m.volume.id, low=1, high=500)
    return {"VolumesModifications": latest, "NextToken": token}


# snapshots


@handles("ec2", "CreateSnapshot")
def create_snapshot(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    named = tags.specifications(call)
    volume = find(cloud, call, call.params.get("VolumeId", ""))
    if volume.status not in ("available", "in-use"):
        raise ApiError("IncorrectState", f"Volume '{volume.id}' is in state '{volume.status}'.")
    last = getattr(volume, "world_snapshot", None)
    if last is not None and cloud.clock.now() - last < cloud.settings.snapshot_interval:
        raise ApiError(
            "SnapshotCreationPerVolumeRateExceeded",
            "The maximum per volume CreateSnapshot request rate has been exceeded. Use an increasing or variable sleep "
            "interval between requests.",
        )
    snapshot = translated(backend.create_snapshot, volume.id, call.params.get("Description") or "")
    volume.world_snapshot = since = cloud.clock.now()
    snapshot.status, snapshot.world_size = "pending", volume.size
    consistency.remember_birth(cloud, snapshot.id)
    tags.put(cloud, backend, snapshot.id, named.get("snapshot", {}))

    def run() -> None:
        try:
            cloud.driver.create_snapshot(snapshot.id, volume.id)
            state = "completed"
        except Exception:
            log.exception("snapshot %s fails", snapshot.id)
            state = "error"
        cloud.after_transit(since, lambda: setattr(snapshot, "status", state))

    cloud.lanes.submit(volume.id, run)
    return _snapshot_view(cloud, call, snapshot)


def _snapshot_view(cloud: Cloud, call: Call, snapshot: Any) -> dict[str, Any]:
    found = consistency.visible_tags(cloud, call.principal, cloud.ec2_of(call), snapshot.id)
    view = {
        "SnapshotId": snapshot.id,
        "VolumeId": snapshot.volume.id,
        "VolumeSize": snapshot.volume_size,
        "State": snapshot.status,
        "Progress": snapshot.progress,
        "StartTime": snapshot.start_time,
        "OwnerId": snapshot.owner_id,
        "Description": snapshot.description,
        "Encrypted": bool(snapshot.encrypted),
        "StorageTier": "standard",
    }
    if found:
        view["Tags"] = [{"Key": k, "Value": v} for k, v in sorted(found.items())]
    return view


SNAPSHOT_FILTERS: dict[str, paging.Values] = {
    "description": lambda s: [s.description],
    "encrypted": lambda s: [bool(s.encrypted)],
    "owner-alias": lambda s: [],
    "owner-id": lambda s: [s.owner_id],
    "progress": lambda s: [s.progress],
    "snapshot-id": lambda s: [s.id],
    "start-time": lambda s: [s.start_time],
    "status": lambda s: [s.status],
    "storage-tier": lambda s: [s.storage_tier],
    "volume-id": lambda s: [s.volume.id],
    "volume-size": lambda s: [s.volume_size],
}


@handles("ec2", "DescribeSnapshots")
def describe_snapshots(cloud: Cloud, call: Call) -> Any:
    paging.refuse_ids_with_size(call, "SnapshotIds", "snapshotsSet")
    backend = cloud.ec2_of(call)
    if wanted := call.params.get("SnapshotIds"):
        snapshots = [find_snapshot(cloud, call, s) for s in wanted]
    else:
        snapshots = [s for s in backend.snapshots.values() if consistency.visible(cloud, call.principal, s.id)]
    owners = {call.account if o == "self" else o for o in call.params.get("OwnerIds") or []}
    if owners:
        snapshots = [s for s in snapshots if s.owner_id in owners]
    snapshots = paging.keep(snapshots, paging.parse_filters(call), SNAPSHOT_FILTERS, _tag_values(cloud, call))
    snapshots, token = paging.page(call, snapshots, lambda s: s.id)
    return {"Snapshots": [_snapshot_view(cloud, call, s) for s in snapshots], "NextToken": token}


@handles("ec2", "DeleteSnapshot")
def delete_snapshot(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    snapshot = find_snapshot(cloud, call, call.params.get("SnapshotId", ""))
    translated(backend.delete_snapshot, snapshot.id)
    backend.tags.pop(snapshot.id, None)
    cloud.lanes.submit(snapshot.volume.id, lambda: cloud.driver.delete_snapshot(snapshot.id))
    return None
