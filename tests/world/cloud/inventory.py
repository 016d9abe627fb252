"""Everything that exists in an account, by kind, from the cloud's own records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moto.backends import get_backend

if TYPE_CHECKING:
    from .cloud import Cloud

Item = dict[str, Any]


def ids(found: dict[str, list[Item]]) -> set[str]:
    return {f"{kind}/{item['id']}" for kind, items in found.items() for item in items}


def _item(backend: Any, thing_id: str, **more: Any) -> Item:
    return {"id": thing_id, "tags": dict(backend.tags.get(thing_id, {})), **more}


def regional(cloud: Cloud, account: str, region: str) -> dict[str, list[Item]]:
    backend = get_backend("ec2")[account][region]
    machines = [m for m in cloud.machines_in(account, region) if m.state != "terminated"]
    groups = [g for by_vpc in backend.groups.values() for g in by_vpc.values()]
    subnets = [s for by_zone in backend.subnets.values() for s in by_zone.values()]
    return {
        "instances": [_item(backend, m.id, state=m.state) for m in machines],
        "volumes": [_item(backend, v.id, state=v.status) for v in backend.volumes.values()],
        "snapshots": [_item(backend, s.id, state=s.status) for s in backend.snapshots.values()],
        "security-groups": [_item(backend, g.id, name=g.name) for g in groups],
        "network-interfaces": [_item(backend, e.id) for e in backend.enis.values()],
        "addresses": [_item(backend, a.allocation_id) for by_ip in [backend.addresses] for a in by_ip],
        "key-pairs": [{"id": name, "tags": {}} for name in backend.key_pairs],
        "images": [_item(backend, i) for i in backend.amis],
        "launch-templates": [_item(backend, t) for t in backend.launch_templates],
        "vpcs": [_item(backend, v) for v in backend.vpcs],
        "subnets": [_item(backend, s.id) for s in subnets],
        "profile-associations": [
            {"id": a.association_id, "tags": {}, "instance": a.instance_id}
            for a in backend.iam_instance_profile_associations.values()
        ],
        "parameters": _parameters(account, region),
    }


def _parameters(account: str, region: str) -> list[Item]:
    backend = get_backend("ssm")[account][region]
    found = []
    for name, versions in dict.items(backend._parameters):
        if versions and not name.startswith("/aws/"):
            found.append({"id": name, "tags": dict(backend._resource_tags["Parameter"].get(name, {}))})
    return found


def _flat(found: Any) -> dict[str, str]:
    if isinstance(found, dict):
        return {k: v.get("Value", "") if isinstance(v, dict) else v for k, v in found.items()}
    return {item["Key"]: item["Value"] for item in found or []}


def of_account(cloud: Cloud, account: str) -> dict[str, list[Item]]:
    iam = cloud.iam(account)
    own = [p for p in iam.managed_policies.values() if p.arn.startswith(f"arn:aws:iam::{account}:")]
    return {
        "roles": [{"id": r.name, "tags": _flat(r.tags)} for r in iam.roles.values()],
        "instance-profiles": [{"id": p.name, "tags": _flat(p.tags)} for p in iam.instance_profiles.values()],
        "policies": [{"id": p.arn, "tags": _flat(getattr(p, "tags", None))} for p in own],
        "users": [{"id": u.name, "tags": {}} for u in iam.users.values()],
    }


def leftovers(cloud: Cloud) -> dict[str, list[Item]]:
    """What there is beyond a fresh account; each item says in which account and region."""
    found: dict[str, list[Item]] = {}
    for account, region in sorted(cloud.seeded):
        fresh = cloud.baseline.get((account, region), set())
        for kind, items in regional(cloud, account, region).items():
            more = [item for item in items if f"{kind}/{item['id']}" not in fresh]
            found.setdefault(kind, []).extend({**item, "account": account, "region": region} for item in more)
    for account in sorted({account for account, _ in cloud.seeded}):
        for kind, items in of_account(cloud, account).items():
            found.setdefault(kind, []).extend({**item, "account": account} for item in items)
    return found
