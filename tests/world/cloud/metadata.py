"""What the instance metadata service tells one machine."""

from __future__ import annotations

import datetime
from typing import Any

from world.machines.base import Metadata

from . import ingress, views
from .cloud import Cloud, Machine
from .principals import Principals, Session


def _json(**values: Any) -> dict[str, Any]:
    return {"__json__": True, **values}


def _stamp(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def credentials_document(session: Session) -> dict[str, Any]:
    return {
        "Code": "Success",
        "LastUpdated": _stamp(session.issued),
        "Type": "AWS-HMAC",
        "AccessKeyId": session.access_key,
        "SecretAccessKey": session.secret,
        "Token": session.token,
        "Expiration": _stamp(session.expires),
    }


def _iam_tree(cloud: Cloud, machine: Machine, principals: Principals) -> dict[str, Any]:
    session = principals.instance_session(machine)
    profile = machine.instance.iam_instance_profile
    if session is None or not profile:
        return {}
    info = _json(
        Code="Success",
        LastUpdated=_stamp(session.issued),
        InstanceProfileArn=profile["Arn"],
        InstanceProfileId=profile["Id"],
    )
    return {"info": info, "security-credentials": {session.role_name: _json(**credentials_document(session))}}


def _interface(machine: Machine, nic: Any) -> dict[str, str]:
    network = machine.instance.ec2_backend.vpcs[nic.subnet.vpc_id].cidr_block
    tree = {
        "device-number": str(nic.device_index),
        "interface-id": nic.id,
        "local-ipv4s": nic.private_ip_address,
        "mac": nic.mac_address,
        "owner-id": machine.account,
        "security-group-ids": "\n".join(g.id for g in ingress.groups_of(machine)),
        "security-groups": "\n".join(g.name for g in ingress.groups_of(machine)),
        "subnet-id": nic.subnet.id,
        "subnet-ipv4-cidr-block": nic.subnet.cidr_block,
        "vpc-id": nic.subnet.vpc_id,
        "vpc-ipv4-cidr-block": network,
        "vpc-ipv4-cidr-blocks": network,
    }
    if nic.public_ip:
        tree["public-ipv4s"] = nic.public_ip
    return tree


def _tree(cloud: Cloud, machine: Machine, principals: Principals) -> dict[str, Any]:
    instance, nic = machine.instance, machine.instance.nics[0]
    host = views.private_dns(nic.private_ip_address, machine.region)
    zone = instance._placement.zone
    tree: dict[str, Any] = {
        "ami-id": instance.image_id,
        "ami-launch-index": str(instance.ami_launch_index),
        "ami-manifest-path": "(unknown)",
        "hostname": host,
        "instance-action": "none",
        "instance-id": machine.id,
        "instance-life-cycle": "on-demand",
        "instance-type": instance.instance_type,
        "local-hostname": host,
        "local-ipv4": nic.private_ip_address,
        "mac": nic.mac_address,
        "network": {"interfaces": {"macs": {nic.mac_address: _interface(machine, nic)}}},
        "placement": {
            "availability-zone": zone,
            "availability-zone-id": f"use1-az{ord(zone[-1]) - ord('a') + 1}",
            "region": machine.region,
        },
        "profile": "default-hvm",
        "reservation-id": machine.reservation_id,
        "security-groups": "\n".join(g.name for g in ingress.groups_of(machine)),
        "services": {"domain": "amazonaws.com", "partition": "aws"},
    }
    if nic.public_ip:
        tree["public-ipv4"] = nic.public_ip
        tree["public-hostname"] = views.public_dns(nic.public_ip, machine.region)
    if iam := _iam_tree(cloud, machine, principals):
        tree["iam"] = iam
    if instance.metadata_options.instance_metadata_tags == "enabled":
        tree["tags"] = {"instance": dict(cloud.ec2(machine.account, machine.region).tags.get(machine.id, {}))}
    return tree


def _identity(machine: Machine) -> dict[str, Any]:
    instance = machine.instance
    return {
        "accountId": machine.account,
        "architecture": "x86_64",
        "availabilityZone": instance._placement.zone,
        "billingProducts": None,
        "imageId": instance.image_id,
        "instanceId": machine.id,
        "instanceType": instance.instance_type,
        "kernelId": None,
        "pendingTime": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "privateIp": instance.private_ip,
        "ramdiskId": None,
        "region": machine.region,
        "version": "2017-09-30",
    }


def describe(cloud: Cloud, machine: Machine, principals: Principals) -> Metadata:
    options = machine.instance.metadata_options
    return Metadata(
        http_endpoint=options.http_endpoint != "disabled",
        http_tokens_required=options.http_tokens == "required",
        hop_limit=int(options.http_put_response_hop_limit),
        tree=_tree(cloud, machine, principals),
        user_data=machine.user_data,
        identity_document=_identity(machine),
    )


def look_up(cloud: Cloud, principals: Principals, address: str) -> Metadata | None:
    """For the metadata service: the machine that asks is known by its address."""
    with cloud.lock:
        machine = cloud.machine_at(address)
        return describe(cloud, machine, principals) if machine and machine.instance.nics else None
