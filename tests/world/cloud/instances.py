"""Instances after their launch: listings, power, attributes, console."""

from __future__ import annotations

import base64
import datetime
from typing import Any

from world.machines.base import DriverError

from . import consistency, ids, ingress, launch, paging, power, views
from .call import Call
from .cloud import Cloud, Machine
from .errors import ApiError
from .native import invoke
from .registry import handles


def find(cloud: Cloud, call: Call, instance_id: str) -> Machine:
    return find_all(cloud, call, [instance_id])[0]


def find_all(cloud: Cloud, call: Call, wanted: list[str]) -> list[Machine]:
    """The named machines; one that is missing or too new fails the whole call, as in EC2."""
    cloud.forget_old_terminated()
    missing, found = [], []
    for instance_id in dict.fromkeys(wanted):
        machine = consistency.seen_machine(cloud, call, instance_id)
        if machine is None:
            missing.append(instance_id)
        else:
            found.append(machine)
    if missing:
        raise ids.INSTANCE.missing_error(missing)
    return found


def _listed(cloud: Cloud, call: Call) -> list[Machine]:
    wanted = call.params.get("InstanceIds")
    if wanted:
        return find_all(cloud, call, wanted)
    cloud.forget_old_terminated()
    machines = cloud.machines_in(call.account, call.region)
    return [m for m in machines if consistency.visible(cloud, call.principal, m.id)]


def _tags(cloud: Cloud, call: Call) -> paging.Values:
    backend = cloud.ec2_of(call)
    return lambda m: consistency.visible_tags(cloud, call.principal, backend, m.id).items()


FILTERS: dict[str, paging.Values] = {
    "architecture": lambda m: [m.instance.architecture],
    "availability-zone": lambda m: [m.instance._placement.zone],
    "block-device-mapping.attach-time": lambda m: [b.attach_time for _, b in m.instance.get_block_device_mapping],
    "block-device-mapping.delete-on-termination": lambda m: [
        bool(b.delete_on_termination) for _, b in m.instance.get_block_device_mapping
    ],
    "block-device-mapping.device-name": lambda m: [d for d, _ in m.instance.get_block_device_mapping],
    "block-device-mapping.status": lambda m: ["attached" for _ in m.instance.get_block_device_mapping],
    "block-device-mapping.volume-id": lambda m: [b.volume_id for _, b in m.instance.get_block_device_mapping],
    "client-token": lambda m: [m.client_token],
    "dns-name": lambda m: [m.instance.public_dns_name],
    "ebs-optimized": lambda m: [bool(m.instance.ebs_optimized)],
    "hypervisor": lambda m: ["xen"],
    "iam-instance-profile.arn": lambda m: [(m.instance.iam_instance_profile or {}).get("Arn")],
    "iam-instance-profile.id": lambda m: [(m.instance.iam_instance_profile or {}).get("Id")],
    "image-id": lambda m: [m.instance.image_id],
    "instance-id": lambda m: [m.id],
    "instance-initiated-shutdown-behavior": lambda m: [m.instance.instance_initiated_shutdown_behavior],
    "instance-state-code": lambda m: [m.instance._state.code],
    "instance-state-name": lambda m: [m.state],
    "instance-type": lambda m: [m.instance.instance_type],
    "instance.group-id": lambda m: [g.id for g in ingress.groups_of(m)],
    "instance.group-name": lambda m: [g.name for g in ingress.groups_of(m)],
    "ip-address": lambda m: [m.instance.public_ip],
    "key-name": lambda m: [m.instance.key_name],
    "launch-time": lambda m: [m.instance.launch_time.strftime("%Y-%m-%dT%H:%M:%S.000Z")],
    "metadata-options.http-endpoint": lambda m: [m.instance.metadata_options.http_endpoint],
    "metadata-options.http-tokens": lambda m: [m.instance.metadata_options.http_tokens],
    "monitoring-state": lambda m: [m.instance.monitoring_state],
    "network-interface.addresses.private-ip-address": lambda m: [m.instance.private_ip],
    "network-interface.group-id": lambda m: [g.id for g in ingress.groups_of(m)],
    "network-interface.network-interface-id": lambda m: [n.id for n in m.instance.nics.values()],
    "network-interface.subnet-id": lambda m: [n.subnet.id for n in m.instance.nics.values()],
    "network-interface.vpc-id": lambda m: [n.subnet.vpc_id for n in m.instance.nics.values()],
    "owner-id": lambda m: [m.account],
    "private-ip-address": lambda m: [m.instance.private_ip],
    "reason": lambda m: [m.instance._reason],
    "requester-id": lambda m: [],
    "reservation-id": lambda m: [m.reservation_id],
    "root-device-name": lambda m: [m.instance.root_device_name],
    "root-device-type": lambda m: ["ebs"],
    "source-dest-check": lambda m: [m.instance.source_dest_check],
    "state-reason-code": lambda m: [m.instance.state_reason.code],
    "subnet-id": lambda m: [n.subnet.id for n in m.instance.nics.values()],
    "tenancy": lambda m: ["default"],
    "virtualization-type": lambda m: ["hvm"],
    "vpc-id": lambda m: [n.subnet.vpc_id for n in m.instance.nics.values()],
}


def _order(machine: Machine) -> str:
    return f"{machine.number:012d}/{machine.id}"


@handles("ec2", "DescribeInstances")
def describe_instances(cloud: Cloud, call: Call) -> Any:
    paging.refuse_ids_with_size(call, "InstanceIds", "instancesSet")
    machines = paging.keep(_listed(cloud, call), paging.parse_filters(call), FILTERS, _tags(cloud, call))
    machines, token = paging.page(call, machines, _order)
    reservations: dict[str, list[Machine]] = {}
    for machine in machines:
        reservations.setdefault(machine.reservation_id, []).append(machine)
    return {
        "Reservations": [views.reservation_view(cloud, call.principal, group) for group in reservations.values()],
        "NextToken": token,
    }


# status checks


def _check(cloud: Cloud, machine: Machine, which: str) -> dict[str, Any]:
    if machine.state != "running" or machine.running_since is None:
        return {"Status": "not-applicable"}
    since = machine.impaired.get(which)
    if since is not None:
        moment = datetime.datetime.fromtimestamp(since, datetime.UTC)
        details = {"Name": "reachability", "Status": "failed", "ImpairedSince": moment}
        return {"Status": "impaired", "Details": [details]}
    if cloud.clock.now() - machine.running_since < cloud.settings.status_checks:
        return {"Status": "initializing", "Details": [{"Name": "reachability", "Status": "initializing"}]}
    return {"Status": "ok", "Details": [{"Name": "reachability", "Status": "passed"}]}


def _status_filters(cloud: Cloud) -> dict[str, paging.Values]:
    return {
        "availability-zone": FILTERS["availability-zone"],
        "event.code": lambda m: [event["Code"] for event in m.events],
        "event.instance-event-id": lambda m: [event["InstanceEventId"] for event in m.events],
        "instance-state-code": FILTERS["instance-state-code"],
        "instance-state-name": FILTERS["instance-state-name"],
        "instance-status.status": lambda m: [_check(cloud, m, "instance")["Status"]],
        "instance-status.reachability": lambda m: [
            d["Status"] for d in _check(cloud, m, "instance").get("Details", [])
        ],
        "system-status.status": lambda m: [_check(cloud, m, "system")["Status"]],
        "system-status.reachability": lambda m: [d["Status"] for d in _check(cloud, m, "system").get("Details", [])],
    }


@handles("ec2", "DescribeInstanceStatus")
def describe_instance_status(cloud: Cloud, call: Call) -> Any:
    paging.refuse_ids_with_size(call, "InstanceIds", "instancesSet")
    machines = paging.keep(_listed(cloud, call), paging.parse_filters(call), _status_filters(cloud), _tags(cloud, call))
    if not call.params.get("IncludeAllInstances"):
        machines = [m for m in machines if m.state == "running"]
    machines, token = paging.page(call, machines, _order)
    return {"InstanceStatuses": [_status_view(cloud, m) for m in machines], "NextToken": token}


def _status_view(cloud: Cloud, machine: Machine) -> dict[str, Any]:
    return {
        "InstanceId": machine.id,
        "AvailabilityZone": machine.instance._placement.zone,
        "InstanceState": {"Code": machine.instance._state.code, "Name": machine.state},
        "InstanceStatus": _check(cloud, machine, "instance"),
        "SystemStatus": _check(cloud, machine, "system"),
        "Events": machine.events,
    }


# power


def _changes(key: str, machines: list[Machine], before: list[Any]) -> dict[str, Any]:
    return {
        key: [
            {
                "InstanceId": machine.id,
                "CurrentState": {"Code": machine.instance._state.code, "Name": machine.state},
                "PreviousState": {"Code": old.code, "Name": old.name},
            }
            for machine, old in zip(machines, before, strict=True)
        ]
    }


def _named(cloud: Cloud, call: Call) -> list[Machine]:
    wanted = call.params.get("InstanceIds") or []
    if not wanted:
        raise ApiError("MissingParameter", "The request must contain the parameter InstanceId")
    return find_all(cloud, call, wanted)


@handles("ec2", "StartInstances")
def start_instances(cloud: Cloud, call: Call) -> Any:
    machines = _named(cloud, call)
    for machine in machines:
        if machine.state not in ("stopped", "pending", "running"):
            power.start(cloud, machine)  # refuses before anything has changed
    before = [power.start(cloud, machine) for machine in machines]
    return _changes("StartingInstances", machines, before)


@handles("ec2", "StopInstances")
def stop_instances(cloud: Cloud, call: Call) -> Any:
    machines = _named(cloud, call)
    if call.params.get("Hibernate"):
        raise ApiError(
            "UnsupportedHibernationConfiguration", "The instances were not launched with hibernation enabled."
        )
    for machine in machines:
        if machine.state not in ("running", "stopping", "stopped"):
            power.stop(cloud, machine)  # refuses before anything has changed
    before = [power.stop(cloud, machine, bool(call.params.get("Force"))) for machine in machines]
    return _changes("StoppingInstances", machines, before)


@handles("ec2", "RebootInstances")
def reboot_instances(cloud: Cloud, call: Call) -> Any:
    for machine in _named(cloud, call):
        power.reboot(cloud, machine)
    return None


@handles("ec2", "TerminateInstances")
def terminate_instances(cloud: Cloud, call: Call) -> Any:
    machines = _named(cloud, call)
    before = [power.terminate(cloud, machine) for machine in machines]
    return _changes("TerminatingInstances", machines, before)


# attributes


def _value(call: Call, name: str) -> Any:
    """An attribute's new value, in either of the two ways that the call can be spelled."""
    structure = call.params.get(name[0].upper() + name[1:])
    if isinstance(structure, dict) and "Value" in structure:
        return structure["Value"]
    if call.params.get("Attribute") == name:
        return call.params.get("Value")
    return None


def _must_be_stopped(machine: Machine) -> None:
    if machine.state != "stopped":
        raise ApiError("IncorrectInstanceState", f"The instance '{machine.id}' is not in the 'stopped' state.")


def _flag(value: Any) -> bool:
    return value is True or str(value).lower() == "true"


@handles("ec2", "ModifyInstanceAttribute")
def modify_instance_attribute(cloud: Cloud, call: Call) -> Any:
    machine = find(cloud, call, call.params.get("InstanceId", ""))
    if machine.state in ("shutting-down", "terminated"):
        raise ApiError("IncorrectInstanceState", f"The instance '{machine.id}' is not in a valid state for this call.")
    attributes = [name for name in ATTRIBUTES if _value(call, name) is not None]
    attributes += [name for name in ("Groups", "BlockDeviceMappings") if call.params.get(name)]
    if not attributes:
        raise ApiError("InvalidParameterCombination", "No attributes specified.")
    if len(attributes) > 1:
        raise ApiError("InvalidParameterCombination", "Fields for multiple attribute types specified")
    _modify_stopped(call, machine)
    _modify_flags(call, machine)
    _modify_devices(call, machine)
    if call.params.get("Groups"):
        set_groups(cloud, call, machine, call.params["Groups"])
    return None


FLAGS = {
    "disableApiTermination": "disable_api_termination",
    "disableApiStop": "disable_api_stop",
    "sourceDestCheck": "source_dest_check",
    "ebsOptimized": "ebs_optimized",
}
ATTRIBUTES = ("instanceType", "userData", "instanceInitiatedShutdownBehavior", *FLAGS)


def _modify_stopped(call: Call, machine: Machine) -> None:
    kind, data = _value(call, "instanceType"), _value(call, "userData")
    if kind is not None:
        _must_be_stopped(machine)
        launch.check_instance_type(call.region, str(kind))
        machine.instance.instance_type = str(kind)
    if data is not None:
        raw = data if isinstance(data, bytes) else launch.decode_user_data(str(data)) or b""
        launch.check_user_data(raw)
        _must_be_stopped(machine)
        machine.user_data = raw or None


def _modify_flags(call: Call, machine: Machine) -> None:
    for name, field in FLAGS.items():
        if (value := _value(call, name)) is not None:
            if name == "ebsOptimized":
                _must_be_stopped(machine)
            setattr(machine.instance, field, _flag(value))
    if (behavior := _value(call, "instanceInitiatedShutdownBehavior")) is not None:
        if behavior not in ("stop", "terminate"):
            raise ApiError(
                "InvalidParameterValue", f"Invalid value '{behavior}' for instanceInitiatedShutdownBehavior."
            )
        machine.instance.instance_initiated_shutdown_behavior = behavior


def set_groups(cloud: Cloud, call: Call, machine: Machine, wanted: list[str]) -> None:
    backend = cloud.ec2_of(call)
    subnet = machine.instance.nics[0].subnet
    groups = [launch._group(cloud, call, backend, subnet, group_id) for group_id in wanted]
    if not groups:
        raise ApiError("InvalidParameterValue", "You must specify at least one security group")
    if len(groups) > 5:
        raise ApiError(
            "SecurityGroupsPerInterfaceLimitExceeded", "You have exceeded the number of security groups per interface."
        )
    machine.instance.security_groups = []
    machine.instance.nics[0]._group_set = groups
    ingress.refresh(cloud, call.account, call.region)


def _modify_devices(call: Call, machine: Machine) -> None:
    for item in call.params.get("BlockDeviceMappings") or []:
        block = machine.instance.block_device_mapping.get(item.get("DeviceName"))
        if block is None:
            raise ApiError(
                "InvalidInstanceAttributeValue", f"No device is currently mapped at {item.get('DeviceName')}"
            )
        keep = (item.get("Ebs") or {}).get("DeleteOnTermination")
        block.delete_on_termination = keep is not False


@handles("ec2", "DescribeInstanceAttribute")
def describe_instance_attribute(cloud: Cloud, call: Call) -> Any:
    machine = find(cloud, call, call.params.get("InstanceId", ""))
    name = call.params.get("Attribute")
    if name == "userData":
        encoded = base64.b64encode(machine.user_data).decode() if machine.user_data else None
        return {"InstanceId": machine.id, "UserData": {"Value": encoded} if encoded else {}}
    if name == "groupSet":
        return {"InstanceId": machine.id, "Groups": views.group_list(ingress.groups_of(machine))}
    if name == "blockDeviceMapping":
        return {"InstanceId": machine.id, "BlockDeviceMappings": views._mappings(machine.instance)}
    return invoke(call)


@handles("ec2", "ModifyInstanceMetadataOptions")
def modify_metadata_options(cloud: Cloud, call: Call) -> Any:
    machine = find(cloud, call, call.params.get("InstanceId", ""))
    if machine.state in ("shutting-down", "terminated"):
        raise ApiError("IncorrectInstanceState", f"The instance '{machine.id}' is not in a valid state for this call.")
    launch.check_metadata_options(call.params)
    options = machine.instance.metadata_options
    if call.params.get("InstanceMetadataTags") == "enabled":
        launch.tags.check_metadata_keys(cloud.ec2_of(call).tags.get(machine.id, {}))
    for name, field in (
        ("HttpTokens", "http_tokens"),
        ("HttpPutResponseHopLimit", "http_put_response_hop_limit"),
        ("HttpEndpoint", "http_endpoint"),
        ("HttpProtocolIpv6", "http_protocol_ipv6"),
        ("InstanceMetadataTags", "instance_metadata_tags"),
    ):
        if call.params.get(name) is not None:
            setattr(options, field, call.params[name])
    view = views._metadata_options(options)
    return {"InstanceId": machine.id, "InstanceMetadataOptions": {**view, "State": "pending"}}


@handles("ec2", "GetConsoleOutput")
def get_console_output(cloud: Cloud, call: Call) -> Any:
    machine = find(cloud, call, call.params.get("InstanceId", ""))
    try:
        output = cloud.driver.console(machine.id)
    except (DriverError, OSError):  # not there yet, or gone and its console with it
        output = b""
    return {
        "InstanceId": machine.id,
        "Output": base64.b64encode(output[-65536:]).decode() if output else None,
        "Timestamp": cloud.clock.utc(),
    }
