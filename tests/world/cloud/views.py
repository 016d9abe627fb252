"""Instances as DescribeInstances shows them."""

from __future__ import annotations

from typing import Any

from . import consistency
from .call import Principal
from .cloud import Cloud, Machine
from .ingress import groups_of


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def group_list(groups: list[Any]) -> list[dict[str, str]]:
    return [{"GroupId": group.id, "GroupName": group.name} for group in groups]


def public_dns(address: str, region: str) -> str:
    zone = "compute-1" if region == "us-east-1" else f"{region}.compute"
    return f"ec2-{address.replace('.', '-')}.{zone}.amazonaws.com"


def private_dns(address: str, region: str) -> str:
    zone = "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"
    return f"ip-{address.replace('.', '-')}.{zone}"


def reservation_view(cloud: Cloud, principal: Principal, machines: list[Machine]) -> dict[str, Any]:
    first = machines[0]
    return {
        "ReservationId": first.reservation_id,
        "OwnerId": first.account,
        "Groups": [],
        "Instances": [instance_view(cloud, principal, machine) for machine in machines],
    }


def instance_view(cloud: Cloud, principal: Principal, machine: Machine) -> dict[str, Any]:
    instance = machine.instance
    backend = cloud.ec2(machine.account, machine.region)
    tags = consistency.visible_tags(cloud, principal, backend, machine.id)
    view: dict[str, Any] = {
        "AmiLaunchIndex": instance.ami_launch_index,
        "ImageId": instance.image_id,
        "InstanceId": machine.id,
        "InstanceType": instance.instance_type,
        "LaunchTime": instance.launch_time,
        "Monitoring": {"State": instance.monitoring_state},
        "Placement": {"AvailabilityZone": instance._placement.zone, "GroupName": "", "Tenancy": "default"},
        "State": {"Code": instance._state.code, "Name": instance._state.name},
        "StateTransitionReason": instance._reason,
        "Architecture": instance.architecture,
        "BlockDeviceMappings": _mappings(instance),
        "ClientToken": machine.client_token or "",
        "EbsOptimized": bool(instance.ebs_optimized),
        "EnaSupport": True,
        "Hypervisor": "xen",
        "NetworkInterfaces": [_interface_view(machine, nic) for nic in instance.nics.values()],
        "RootDeviceName": instance.root_device_name,
        "RootDeviceType": "ebs",
        "SecurityGroups": group_list(groups_of(machine)),
        "SourceDestCheck": instance.source_dest_check,
        "VirtualizationType": "hvm",
        "MetadataOptions": _metadata_options(instance.metadata_options),
        "PlatformDetails": "Linux/UNIX",
        "UsageOperation": "RunInstances",
        "PrivateDnsName": "",
        "PublicDnsName": "",
    }
    if tags:
        view["Tags"] = tag_list(tags)
    if instance.key_name:
        view["KeyName"] = instance.key_name
    if instance.iam_instance_profile:
        view["IamInstanceProfile"] = instance.iam_instance_profile
    if instance.state_reason.code:
        view["StateReason"] = {"Code": instance.state_reason.code, "Message": instance.state_reason.message}
    if instance.nics:
        view.update(_addresses(machine))
    return view


def _addresses(machine: Machine) -> dict[str, Any]:
    primary = machine.instance.nics[0]
    found = {
        "SubnetId": primary.subnet.id,
        "VpcId": primary.subnet.vpc_id,
        "PrivateIpAddress": primary.private_ip_address,
        "PrivateDnsName": private_dns(primary.private_ip_address, machine.region),
    }
    if primary.public_ip:
        found["PublicIpAddress"] = primary.public_ip
        found["PublicDnsName"] = public_dns(primary.public_ip, machine.region)
    return found


def _mappings(instance: Any) -> list[dict[str, Any]]:
    return [
        {
            "DeviceName": device,
            "Ebs": {
                "VolumeId": block.volume_id,
                "Status": getattr(block, "world_status", None) or "attached",
                "AttachTime": block.attach_time,
                "DeleteOnTermination": bool(block.delete_on_termination),
            },
        }
        for device, block in instance.get_block_device_mapping
    ]


def _interface_view(machine: Machine, nic: Any) -> dict[str, Any]:
    address: dict[str, Any] = {
        "Primary": True,
        "PrivateIpAddress": nic.private_ip_address,
        "PrivateDnsName": private_dns(nic.private_ip_address, machine.region),
    }
    view: dict[str, Any] = {
        "NetworkInterfaceId": nic.id,
        "SubnetId": nic.subnet.id,
        "VpcId": nic.subnet.vpc_id,
        "Description": nic.description,
        "OwnerId": machine.account,
        "Status": "in-use",
        "MacAddress": nic.mac_address,
        "PrivateIpAddress": nic.private_ip_address,
        "PrivateDnsName": address["PrivateDnsName"],
        "SourceDestCheck": nic.source_dest_check,
        "InterfaceType": "interface",
        "Groups": group_list(groups_of(machine)),
        "PrivateIpAddresses": [address],
        "Attachment": {
            "AttachmentId": nic.attachment_id,
            "AttachTime": nic.attach_time,
            "DeleteOnTermination": not getattr(nic, "world_keep", False),
            "DeviceIndex": nic.device_index,
            "NetworkCardIndex": 0,
            "Status": "attached",
        },
    }
    if nic.public_ip:
        association = {
            "PublicIp": nic.public_ip,
            "PublicDnsName": public_dns(nic.public_ip, machine.region),
            "IpOwnerId": "amazon",
        }
        view["Association"] = address["Association"] = association
    return view


def _metadata_options(options: Any) -> dict[str, Any]:
    return {
        "State": "applied",
        "HttpTokens": options.http_tokens,
        "HttpPutResponseHopLimit": int(options.http_put_response_hop_limit),
        "HttpEndpoint": options.http_endpoint,
        "HttpProtocolIpv6": options.http_protocol_ipv6,
        "InstanceMetadataTags": options.instance_metadata_tags,
    }
