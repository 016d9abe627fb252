"""RunInstances: every check that EC2 makes, then the launch."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from typing import Any

from moto.core.types import Base64EncodedString
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS

from . import consistency, ids, power, profiles, tags, tokens, views, volumes
from .call import Call
from .cloud import Cloud, Machine
from .errors import ApiError, dry_run
from .images import ROOT_GIB
from .registry import handles

USER_DATA_LIMIT = 16384
OPTIONS = {
    "HttpTokens": ("optional", "required"),
    "HttpEndpoint": ("enabled", "disabled"),
    "InstanceMetadataTags": ("enabled", "disabled"),
    "HttpProtocolIpv6": ("enabled", "disabled"),
}


@dataclasses.dataclass
class Placement:
    """Where an instance goes: an existing interface is not supported, a specification for a new one is."""

    subnet: Any
    groups: list[Any]
    private_ip: str | None
    public_ip: bool | None
    keep_interface: bool


@handles("ec2", "RunInstances")
def run_instances(cloud: Cloud, call: Call) -> Any:
    count = _count(call)
    _unsupported(call)
    user_data = decode_user_data(call.params.get("UserData"))
    options = check_metadata_options(call.params.get("MetadataOptions") or {})
    named = tags.specifications(call)
    if options.get("InstanceMetadataTags") == "enabled":
        tags.check_metadata_keys(named.get("instance", {}))
    _shutdown_behavior(call)
    only_asked = call.params.get("DryRun")
    if not only_asked and (made := tokens.replay(cloud, call)) is not None:
        return _replayed(cloud, call, made)

    backend = cloud.ec2_of(call)
    image = _image(backend, call)
    _instance_type(call)
    _key_pair(backend, call)
    placement = _placement(cloud, call, backend)
    profile = profiles.usable_profile(cloud, call, call.params.get("IamInstanceProfile"))
    mappings = _mappings(cloud, call, backend, image)
    if only_asked:
        raise dry_run()  # what is free now it does not tell
    _limits(cloud, call, count, len(mappings))

    reservation = backend_run(backend, call, count, user_data, placement, mappings, named)
    machines = []
    for instance in reservation.instances:
        _set_performance(backend, instance, mappings)
        machines.append(_record(cloud, call, backend, instance, reservation.id, user_data, placement, named))
        if profile:
            profiles.associate(cloud, backend, machines[-1], profile)
    tokens.remember(cloud, call, [machine.id for machine in machines])
    for machine in machines:
        power.launch(cloud, machine)
    return views.reservation_view(cloud, dataclasses.replace(call.principal, kind="admin"), machines)


def _replayed(cloud: Cloud, call: Call, made: list[str]) -> Any:
    machines = [cloud.machines.get(instance_id) for instance_id in made]
    gone = [m for m in machines if m is None or m.state in ("shutting-down", "terminated")]
    if gone:
        raise ApiError(
            "IdempotentInstanceTerminated",
            "The client token belongs to an instance that has been terminated: use a new token to launch again.",
        )
    see_all = dataclasses.replace(call.principal, kind="admin")
    return views.reservation_view(cloud, see_all, [m for m in machines if m is not None])


# checks


def _count(call: Call) -> int:
    low, high = call.params.get("MinCount"), call.params.get("MaxCount")
    for name, value in (("MinCount", low), ("MaxCount", high)):
        if value is None:
            raise ApiError("MissingParameter", f"The request must contain the parameter {name}")
        if int(value) < 1:
            raise ApiError("InvalidParameterValue", f"Value ({value}) for parameter {name} must be at least 1")
    if int(high) < int(low):
        raise ApiError("InvalidParameterValue", f"The MaxCount {high} is lower than the MinCount {low}")
    return int(high)


def _unsupported(call: Call) -> None:
    """What this world does not model is refused rather than ignored."""
    for name in ("LaunchTemplate", "InstanceMarketOptions", "HibernationOptions", "LicenseSpecifications"):
        if call.params.get(name):
            raise ApiError("Unsupported", f"This world does not model {name} in RunInstances.")


def decode_user_data(encoded: str | None) -> bytes | None:
    if not encoded:
        return None
    try:
        raw = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from error
    check_user_data(raw)
    return raw


def check_user_data(raw: bytes) -> None:
    if len(raw) > USER_DATA_LIMIT:
        raise ApiError("InvalidParameterValue", f"User data is limited to {USER_DATA_LIMIT} bytes")


def check_metadata_options(options: dict[str, Any]) -> dict[str, Any]:
    for name, allowed in OPTIONS.items():
        value = options.get(name)
        if value is not None and value not in allowed:
            raise ApiError(
                "InvalidParameterValue", f"Value ({value}) for parameter {name} is invalid. Valid: {', '.join(allowed)}"
            )
    limit = options.get("HttpPutResponseHopLimit")
    if limit is not None and not 1 <= int(limit) <= 64:
        raise ApiError(
            "InvalidParameterValue", f"Value ({limit}) for parameter HttpPutResponseHopLimit must be between 1 and 64"
        )
    return options


def _shutdown_behavior(call: Call) -> None:
    value = call.params.get("InstanceInitiatedShutdownBehavior")
    if value is not None and value not in ("stop", "terminate"):
        raise ApiError(
            "InvalidParameterValue", f"Value ({value}) for parameter instanceInitiatedShutdownBehavior is invalid."
        )


def _image(backend: Any, call: Call) -> Any:
    image_id = call.params.get("ImageId")
    if not image_id:
        raise ApiError("MissingParameter", "The request must contain the parameter ImageId")
    image = backend.amis.get(image_id)
    if image is None:
        raise ApiError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    if image.state != "available":
        raise ApiError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available")
    return image


def known_types(region: str) -> set[str]:
    return {offering["InstanceType"] for offering in INSTANCE_TYPE_OFFERINGS["region"].get(region, [])}


def check_instance_type(region: str, name: str) -> None:
    if name not in known_types(region):
        raise ApiError("InvalidParameterValue", f"Invalid value '{name}' for InstanceType.")


def _instance_type(call: Call) -> None:
    check_instance_type(call.region, call.params.get("InstanceType") or "m1.small")


def _key_pair(backend: Any, call: Call) -> None:
    name = call.params.get("KeyName")
    if name and name not in backend.key_pairs:
        raise ApiError("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")


def _interface(call: Call) -> dict[str, Any]:
    interfaces = call.params.get("NetworkInterfaces") or []
    if not interfaces:
        return {}
    if call.params.get("SubnetId") or call.params.get("SecurityGroupIds") or call.params.get("SecurityGroups"):
        raise ApiError(
            "InvalidParameterCombination",
            "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same "
            "request",
        )
    if len(interfaces) > 1 or interfaces[0].get("NetworkInterfaceId"):
        raise ApiError("Unsupported", "This world supports one new network interface in RunInstances")
    if int(interfaces[0].get("DeviceIndex") or 0) != 0:
        raise ApiError("InvalidParameterCombination", "The primary network interface must have device index 0")
    return interfaces[0]


def _placement(cloud: Cloud, call: Call, backend: Any) -> Placement:
    interface = _interface(call)
    zone = (call.params.get("Placement") or {}).get("AvailabilityZone")
    subnet = _subnet(backend, interface.get("SubnetId") or call.params.get("SubnetId"), zone)
    group_ids = interface.get("Groups") or call.params.get("SecurityGroupIds") or []
    groups = [_group(cloud, call, backend, subnet, group_id) for group_id in group_ids]
    for name in call.params.get("SecurityGroups") or []:
        group = backend.get_security_group_from_name(name, subnet.vpc_id)
        if group is None:
            raise ApiError("InvalidGroup.NotFound", f"The security group '{name}' does not exist in default VPC")
        groups.append(group)
    if len(groups) > 5:
        raise ApiError(
            "SecurityGroupsPerInterfaceLimitExceeded", "You have exceeded the number of security groups per interface."
        )
    return Placement(
        subnet=subnet,
        groups=groups,
        private_ip=interface.get("PrivateIpAddress") or call.params.get("PrivateIpAddress"),
        public_ip=interface.get("AssociatePublicIpAddress"),
        keep_interface=interface.get("DeleteOnTermination") is False,
    )


def _subnet(backend: Any, subnet_id: str | None, zone: str | None) -> Any:
    subnets = {s.id: s for by_zone in backend.subnets.values() for s in by_zone.values()}
    if subnet_id:
        if not ids.SUBNET.well_formed(subnet_id):
            raise ids.SUBNET.malformed_error(subnet_id)
        subnet = subnets.get(subnet_id)
        if subnet is None:
            raise ids.SUBNET.missing_error([subnet_id])
        if zone and subnet.availability_zone != zone:
            raise ApiError(
                "InvalidParameterValue",
                f"Value ({zone}) for parameter availabilityZone is invalid. Subnet is elsewhere.",
            )
        return subnet
    defaults = {s.availability_zone: s for s in subnets.values() if s.default_for_az}
    if not defaults:
        raise ApiError(
            "VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for default VPC."
        )
    if zone and zone not in defaults:
        raise ApiError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
    return defaults[zone or min(defaults)]


def _group(cloud: Cloud, call: Call, backend: Any, subnet: Any, group_id: str) -> Any:
    if not ids.GROUP.well_formed(group_id):
        raise ids.GROUP.malformed_error(group_id)
    group = backend.get_security_group_from_id(group_id)
    if group is None or not consistency.visible(cloud, call.principal, group_id):
        raise ids.GROUP.missing_error([group_id])
    if group.vpc_id != subnet.vpc_id:
        raise ApiError(
            "InvalidParameter",
            f"Security group {group_id} and subnet {subnet.id} belong to different networks.",
        )
    return group


def _mappings(cloud: Cloud, call: Call, backend: Any, image: Any) -> list[dict[str, Any]]:
    """The block devices of the launch, the root first, with EC2's defaults filled in."""
    wanted = call.params.get("BlockDeviceMappings") or []
    devices = [item.get("DeviceName") for item in wanted]
    if len(set(devices)) != len(devices):
        raise ApiError("InvalidBlockDeviceMapping", "The device name is used more than once in the mapping")
    root = {"DeviceName": image.root_device_name, "Ebs": {}}
    complete = [] if image.root_device_name in devices else [root]
    for item in wanted:
        if not item.get("DeviceName"):
            raise ApiError("MissingParameter", "The request must contain the parameter blockDeviceMapping.deviceName")
        if item.get("NoDevice") is not None or item.get("VirtualName"):
            continue
        complete.append(item)
    return [_mapping(cloud, call, backend, item, item["DeviceName"] == image.root_device_name) for item in complete]


def _mapping(cloud: Cloud, call: Call, backend: Any, item: dict[str, Any], root: bool) -> dict[str, Any]:
    ebs = dict(item.get("Ebs") or {})
    size, snapshot_id = ebs.get("VolumeSize"), ebs.get("SnapshotId")
    smallest = ROOT_GIB if root else 1
    if snapshot_id:
        smallest = volumes.usable_snapshot(cloud, call, backend, snapshot_id).volume_size
    elif size is None and not root:
        raise ApiError("MissingParameter", "The request must contain the parameter size or snapshotId")
    size = int(size) if size is not None else smallest
    if size < smallest:
        raise ApiError(
            "InvalidBlockDeviceMapping",
            f"Volume of size {size}GB is smaller than snapshot '{snapshot_id or 'of the image'}', "
            f"expect size >= {smallest}GB",
        )
    volumes.check_specification(size, ebs.get("VolumeType") or "gp2", ebs.get("Iops"), ebs.get("Throughput"))
    if ebs.get("KmsKeyId") and not ebs.get("Encrypted"):
        raise ApiError(
            "InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set."
        )
    return {
        "DeviceName": item["DeviceName"],
        "NoDevice": None,
        "Ebs": {
            "SnapshotId": snapshot_id,
            "VolumeSize": size,
            "VolumeType": ebs.get("VolumeType") or "gp2",
            "Iops": ebs.get("Iops"),
            "Throughput": ebs.get("Throughput"),
            "Encrypted": bool(ebs.get("Encrypted")),
            "KmsKeyId": volumes.key_arn(call, ebs["KmsKeyId"]) if ebs.get("KmsKeyId") else None,
            "DeleteOnTermination": ebs.get("DeleteOnTermination") is not False,
        },
    }


def _limits(cloud: Cloud, call: Call, count: int, devices: int) -> None:
    live = [m for m in cloud.live_machines_in(call.account, call.region) if m.state in ("pending", "running")]
    limit = cloud.settings.instance_limit
    if limit and len(live) + count > limit:
        raise ApiError(
            "VcpuLimitExceeded",
            f"You have requested more vCPU capacity than your current vCPU limit of {limit * 2} allows for the "
            "instance bucket that the specified instance type belongs to.",
        )
    volumes.check_limit(cloud, call, count * devices)


# the launch itself


def backend_run(
    backend: Any,
    call: Call,
    count: int,
    user_data: bytes | None,
    placement: Placement,
    mappings: list[dict[str, Any]],
    named: dict[str, dict[str, str]],
) -> Any:
    from .native import translated

    public_ip = placement.public_ip
    nic = {
        "DeviceIndex": 0,
        "SubnetId": placement.subnet.id,
        "Groups": [group.id for group in placement.groups],
        "AssociatePublicIpAddress": placement.subnet.map_public_ip_on_launch is True
        if public_ip is None
        else public_ip,
    }
    if placement.private_ip:
        nic["PrivateIpAddress"] = placement.private_ip
    params = call.params
    encoded = Base64EncodedString(base64.b64encode(user_data).decode()) if user_data else None
    return translated(
        backend.run_instances,
        params["ImageId"],
        count,
        encoded,
        [],
        instance_type=params.get("InstanceType") or "m1.small",
        is_instance_type_default=True,  # the type has been checked
        region_name=call.region,
        key_name=params.get("KeyName"),
        security_group_ids=[],
        nics=[nic],
        tags={},  # ours go on afterwards, under the read lag
        ebs_optimized=bool(params.get("EbsOptimized")),
        disable_api_stop=bool(params.get("DisableApiStop")),
        disable_api_termination=bool(params.get("DisableApiTermination")),
        instance_initiated_shutdown_behavior=params.get("InstanceInitiatedShutdownBehavior"),
        monitoring_state="enabled" if (params.get("Monitoring") or {}).get("Enabled") else "disabled",
        metadata_options=params.get("MetadataOptions") or {},
        client_token=params.get("ClientToken"),
        block_device_mappings=mappings,
    )


def _set_performance(backend: Any, instance: Any, mappings: list[dict[str, Any]]) -> None:
    """moto's launch forgets how fast a volume is to be."""
    for item in mappings:
        volume = backend.volumes[instance.block_device_mapping[item["DeviceName"]].volume_id]
        volume.iops = item["Ebs"]["Iops"] or volume.iops
        volume.throughput = item["Ebs"]["Throughput"]


def _record(
    cloud: Cloud,
    call: Call,
    backend: Any,
    instance: Any,
    reservation_id: str,
    user_data: bytes | None,
    placement: Placement,
    named: dict[str, dict[str, str]],
) -> Machine:
    cloud.launches += 1
    consistency.remember_birth(cloud, instance.id)
    tags.put(cloud, backend, instance.id, named.get("instance", {}))
    for _, block in instance.get_block_device_mapping:
        consistency.remember_birth(cloud, block.volume_id)
        tags.put(cloud, backend, block.volume_id, named.get("volume", {}))
    for nic in instance.nics.values():
        nic.world_keep = placement.keep_interface
        tags.put(cloud, backend, nic.id, named.get("network-interface", {}))
    machine = Machine(
        id=instance.id,
        account=call.account,
        region=call.region,
        number=cloud.launches,
        instance=instance,
        reservation_id=reservation_id,
        born=cloud.clock.now(),
        user_data=user_data,
        client_token=call.params.get("ClientToken"),
        doom=(call.partial or {}).get("doom"),
    )
    cloud.machines[machine.id] = machine
    return machine
