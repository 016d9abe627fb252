"""What may reach a machine, computed from its security groups and given to the driver."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from world.machines.base import IngressRule

from .cloud import Cloud, Machine


def groups_of(machine: Machine) -> list[Any]:
    """The groups of the primary interface: those of the launch and those of the interface itself."""
    found = {group.id: group for group in machine.instance.security_groups}
    for nic in machine.instance.nics.values():
        found.update({group.id: group for group in nic._group_set})
    return list(found.values())


def effective(groups: list[Any], members: dict[str, list[str]]) -> tuple[IngressRule, ...]:
    """One rule for each allowed source; a group as source becomes the addresses of its members."""
    rules: set[IngressRule] = set()
    for group in groups:
        for rule in group.ingress_rules:
            for cidr in _sources(rule, members):
                rules.add(IngressRule(str(rule.ip_protocol), _port(rule.from_port), _port(rule.to_port), cidr))
    return tuple(sorted(rules, key=lambda r: (r.protocol, r.from_port or 0, r.to_port or 0, r.cidr)))


def _sources(rule: Any, members: dict[str, list[str]]) -> list[str]:
    if rule.ip_range:
        cidr = rule.ip_range.get("CidrIp") or rule.ip_range.get("CidrIpv6")
        return [cidr] if cidr else []
    if rule.source_group:
        return [f"{address}/32" for address in members.get(rule.source_group.get("GroupId", ""), [])]
    return []


def _port(value: Any) -> int | None:
    return None if value is None or int(value) == -1 else int(value)


def _members(machines: list[Machine]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for machine in machines:
        for group in groups_of(machine):
            if machine.instance.private_ip:
                members[group.id].append(machine.instance.private_ip)
    return members


def _give(cloud: Cloud, machine: Machine, rules: tuple[IngressRule, ...]) -> None:
    if machine.ingress == rules or machine.doom:
        return
    machine.ingress = rules
    cloud.lanes.submit(machine.id, lambda: _set(cloud, machine, rules))


def _set(cloud: Cloud, machine: Machine, rules: tuple[IngressRule, ...]) -> None:
    if machine.state != "terminated":
        cloud.driver.set_ingress(machine.id, rules)


def refresh(cloud: Cloud, account: str, region: str) -> None:
    """After a change of rules or membership: every machine whose effective rules changed is told."""
    machines = cloud.live_machines_in(account, region)
    members = _members(machines)
    for machine in machines:
        _give(cloud, machine, effective(groups_of(machine), members))


def refresh_one(cloud: Cloud, machine: Machine) -> None:
    """Before the launch of one machine; others are looked at only when they may refer to its groups."""
    backend = cloud.ec2(machine.account, machine.region)
    mine = {group.id for group in groups_of(machine)}
    referenced = {
        rule.source_group.get("GroupId")
        for groups in backend.groups.values()
        for group in groups.values()
        for rule in group.ingress_rules
        if rule.source_group
    }
    if mine & referenced:
        refresh(cloud, machine.account, machine.region)
    else:
        _give(cloud, machine, effective(groups_of(machine), {}))
