"""Security groups: who still needs one, and the machines that a change of rules reaches."""

from __future__ import annotations

import ipaddress
from typing import Any

from . import consistency, ids, ingress, paging, tags
from .call import Call
from .cloud import Cloud
from .errors import ApiError
from .native import invoke
from .registry import handles


def find(cloud: Cloud, call: Call, group_id: str) -> Any:
    group = cloud.ec2_of(call).get_security_group_from_id(group_id)
    if group is None or not consistency.visible(cloud, call.principal, group_id):
        raise ids.GROUP.missing_error([group_id])
    return group


@handles("ec2", "CreateSecurityGroup")
def create_group(cloud: Cloud, call: Call) -> Any:
    backend, params = cloud.ec2_of(call), call.params
    named = tags.specifications(call)
    name, description = params.get("GroupName") or "", params.get("Description") or ""
    _check_text("GroupName", name)
    _check_text("GroupDescription", description)
    if name.startswith("sg-"):
        raise ApiError("InvalidParameterValue", "Value for parameter GroupName must not start with 'sg-'")
    vpc_id = params.get("VpcId") or backend.default_vpc.id
    if vpc_id not in backend.vpcs:
        raise ids.VPC.missing_error([vpc_id])
    if backend.get_security_group_from_name(name, vpc_id):
        raise ApiError("InvalidGroup.Duplicate", f"The security group '{name}' already exists for VPC '{vpc_id}'")
    if len(backend.groups[vpc_id]) >= 2500:
        raise ApiError("SecurityGroupLimitExceeded", "The maximum number of security groups has been reached.")
    group = backend.create_security_group(name, description, vpc_id=vpc_id, force=True)
    consistency.remember_birth(cloud, group.id)
    tags.put(cloud, backend, group.id, named.get("security-group", {}))
    listed = [{"Key": k, "Value": v} for k, v in named.get("security-group", {}).items()]
    return {
        "GroupId": group.id,
        "Tags": listed,
        "SecurityGroupArn": f"arn:aws:ec2:{call.region}:{call.account}:security-group/{group.id}",
    }


def _check_text(parameter: str, value: str) -> None:
    if not value:
        raise ApiError("MissingParameter", f"The request must contain the parameter {parameter}")
    allowed = set(" ._-:/()#,@[]+=&;{}!$*")
    if len(value) > 255 or not all(c.isascii() and (c.isalnum() or c in allowed) for c in value):
        raise ApiError(
            "InvalidParameterValue",
            f"Value ({value}) for parameter {parameter} is invalid. Up to 255 characters of "
            "a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*",
        )


@handles("ec2", "DeleteSecurityGroup")
def delete_group(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    group_id = call.params.get("GroupId")
    if not group_id:
        group = backend.get_security_group_from_name(call.params.get("GroupName", ""), backend.default_vpc.id)
        if group is None:
            raise ids.GROUP.missing_error([str(call.params.get("GroupName"))])
    else:
        group = find(cloud, call, group_id)
    if group.is_default:
        raise ApiError("CannotDelete", f'the specified group: "{group.id}" name: "default" cannot be deleted by a user')
    if holder := _holder(backend, group):
        raise ApiError("DependencyViolation", f"resource {group.id} has a dependent object ({holder})")
    backend.groups[group.vpc_id].pop(group.id)
    backend.tags.pop(group.id, None)
    return {"Return": True, "GroupId": group.id}


def _holder(backend: Any, group: Any) -> str | None:
    """What still needs the group: an interface that wears it, or a rule of another group that names it."""
    for eni in backend.enis.values():
        worn = {g.id for g in eni._group_set} | (
            {g.id for g in eni.instance.security_groups} if eni.instance else set()
        )
        if group.id in worn:
            return eni.id
    for groups in backend.groups.values():
        for other in groups.values():
            if other.id != group.id and any(
                (rule.source_group or {}).get("GroupId") == group.id
                for rule in other.ingress_rules + other.egress_rules
            ):
                return other.id
    return None


FILTERS: dict[str, paging.Values] = {
    "description": lambda g: [g.description],
    "egress.ip-permission.cidr": lambda g: [r.ip_range.get("CidrIp") for r in g.egress_rules if r.ip_range],
    "group-id": lambda g: [g.id],
    "group-name": lambda g: [g.name],
    "ip-permission.cidr": lambda g: [r.ip_range.get("CidrIp") for r in g.ingress_rules if r.ip_range],
    "ip-permission.from-port": lambda g: [r.from_port for r in g.ingress_rules],
    "ip-permission.group-id": lambda g: [r.source_group.get("GroupId") for r in g.ingress_rules if r.source_group],
    "ip-permission.ipv6-cidr": lambda g: [r.ip_range.get("CidrIpv6") for r in g.ingress_rules if r.ip_range],
    "ip-permission.protocol": lambda g: [r.ip_protocol for r in g.ingress_rules],
    "ip-permission.to-port": lambda g: [r.to_port for r in g.ingress_rules],
    "owner-id": lambda g: [g.owner_id],
    "vpc-id": lambda g: [g.vpc_id],
}


@handles("ec2", "DescribeSecurityGroups")
def describe_groups(cloud: Cloud, call: Call) -> Any:
    paging.refuse_ids_with_size(call, "GroupIds", "groupIds")
    backend = cloud.ec2_of(call)
    everything = [g for groups in backend.groups.values() for g in groups.values()]
    if wanted := call.params.get("GroupIds"):
        groups = [find(cloud, call, group_id) for group_id in wanted]
    else:
        groups = [g for g in everything if consistency.visible(cloud, call.principal, g.id)]
    if names := call.params.get("GroupNames"):
        known = {g.name for g in groups if g.vpc_id == backend.default_vpc.id}
        for name in names:
            if name not in known:
                raise ids.GROUP.missing_error([name])
        groups = [g for g in groups if g.name in names and g.vpc_id == backend.default_vpc.id]

    def tag_values(group: Any) -> Any:
        return consistency.visible_tags(cloud, call.principal, backend, group.id).items()

    groups = paging.keep(groups, paging.parse_filters(call), FILTERS, tag_values)
    groups, token = paging.page(call, groups, lambda g: g.id)
    return {"SecurityGroups": groups, "NextToken": token}


@handles(
    "ec2",
    "AuthorizeSecurityGroupIngress",
    "AuthorizeSecurityGroupEgress",
    "RevokeSecurityGroupIngress",
    "RevokeSecurityGroupEgress",
    "ModifySecurityGroupRules",
)
def change_rules(cloud: Cloud, call: Call) -> Any:
    tags.specifications(call)
    group = None
    if group_id := call.params.get("GroupId"):
        group = find(cloud, call, group_id)
    _check_permissions(call)
    before = _rules(group)
    try:
        answer = invoke(call)
    except Exception:
        _restore(group, before)  # EC2 applies all rules of a call or none
        raise
    if group is not None:
        _normalise(group)
    ingress.refresh(cloud, call.account, call.region)
    return answer


def _rules(group: Any) -> Any:
    return (list(group.ingress_rules), list(group.egress_rules)) if group is not None else None


def _restore(group: Any, before: Any) -> None:
    if group is not None:
        group.ingress_rules, group.egress_rules = before


def _check_permissions(call: Call) -> None:
    permissions = call.params.get("IpPermissions") or []
    for permission in permissions:
        protocol = str(permission.get("IpProtocol", ""))
        low, high = permission.get("FromPort"), permission.get("ToPort")
        if not protocol:
            raise ApiError("MissingParameter", "The request must contain the parameter ipProtocol")
        if protocol in ("tcp", "udp", "6", "17"):
            if low is None or high is None:
                raise ApiError(
                    "InvalidParameterValue",
                    "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.",
                )
            if not 0 <= int(low) <= int(high) <= 65535:
                raise ApiError("InvalidParameterValue", f"Invalid TCP/UDP port range ({low}:{high})")


def _normalise(group: Any) -> None:
    """EC2 stores a network without its host bits."""
    for rule in group.ingress_rules + group.egress_rules:
        for key in ("CidrIp", "CidrIpv6"):
            if rule.ip_range and rule.ip_range.get(key):
                rule.ip_range[key] = str(ipaddress.ip_network(rule.ip_range[key], strict=False))


@handles("ec2", "ModifyNetworkInterfaceAttribute")
def modify_interface(cloud: Cloud, call: Call) -> Any:
    from . import instances

    wanted = call.params.get("Groups")
    if wanted is None:
        return invoke(call)
    eni = cloud.ec2_of(call).enis.get(call.params.get("NetworkInterfaceId", ""))
    if eni is None:
        raise ids.INTERFACE.missing_error([str(call.params.get("NetworkInterfaceId"))])
    if eni.instance is None:
        eni._group_set = [find(cloud, call, group_id) for group_id in wanted]
        return None
    instances.set_groups(cloud, call, cloud.machines[eni.instance.id], wanted)
    return None


@handles("ec2", "ReleaseAddress")
def release_address(cloud: Cloud, call: Call) -> Any:
    wanted = call.params.get("AllocationId")
    for address in cloud.ec2_of(call).addresses:
        if address.allocation_id == wanted and (address.instance or address.eni):
            raise ApiError("InvalidIPAddress.InUse", f"Address {address.public_ip} is in use.")
    return invoke(call)
