"""Tags of EC2: what may be written, TagSpecifications, CreateTags and DeleteTags."""

from __future__ import annotations

import re
from typing import Any

from . import consistency, ids
from .call import Call
from .cloud import Cloud
from .errors import ApiError
from .registry import handles

LIMIT = 50
METADATA_KEY = re.compile(r"[0-9a-zA-Z\-_+=,.@:]{1,255}")
METADATA_RESERVED = (".", "..", "_index")

CREATABLE = {
    "RunInstances": {"instance", "volume", "network-interface", "spot-instances-request", "elastic-gpu"},
    "CreateVolume": {"volume"},
    "CreateSnapshot": {"snapshot"},
    "CreateSnapshots": {"snapshot"},
    "CreateSecurityGroup": {"security-group"},
    "AuthorizeSecurityGroupIngress": {"security-group-rule"},
    "AuthorizeSecurityGroupEgress": {"security-group-rule"},
    "CreateNetworkInterface": {"network-interface"},
    "AllocateAddress": {"elastic-ip"},
    "CreateKeyPair": {"key-pair"},
    "ImportKeyPair": {"key-pair"},
    "CreateSubnet": {"subnet"},
    "CreateVpc": {"vpc"},
    "CreateImage": {"image", "snapshot"},
}


def check_tags(tags: dict[str, str], existing: int = 0) -> None:
    for key, value in tags.items():
        if not key:
            raise ApiError("InvalidParameterValue", "Tag keys must have a length of at least 1")
        if key.lower().startswith("aws:"):
            raise ApiError("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
        if len(key) > 128:
            raise ApiError("InvalidParameterValue", f"Tag key exceeds the maximum length of 128 characters: {key}")
        if len(value or "") > 256:
            raise ApiError("InvalidParameterValue", "Tag value exceeds the maximum length of 256 characters")
    if existing + len(tags) > LIMIT:
        raise ApiError("TagLimitExceeded", f"The maximum number of Tags for a resource has been reached: {LIMIT}")


def specifications(call: Call) -> dict[str, dict[str, str]]:
    """The tags of the creating call by kind of resource, checked."""
    allowed = CREATABLE.get(call.action, set())
    found: dict[str, dict[str, str]] = {}
    for spec in call.params.get("TagSpecifications") or []:
        kind = spec.get("ResourceType")
        if not kind:
            raise ApiError("InvalidParameter", "Tag specification resource type must have a value")
        if kind not in allowed:
            raise ApiError(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        if kind in found:
            raise ApiError("InvalidParameterValue", f"Duplicate tag specification for resource type '{kind}'")
        tags = spec.get("Tags") or []
        if not tags:
            raise ApiError("InvalidParameterValue", "Tag specification must have at least one tag")
        keys = [tag.get("Key", "") for tag in tags]
        if len(set(keys)) != len(keys):
            raise ApiError("InvalidParameterValue", f"Duplicate tag key '{max(keys, key=keys.count)}' specified.")
        found[kind] = {tag.get("Key", ""): tag.get("Value") or "" for tag in tags}
        check_tags(found[kind])
    return found


def check_metadata_keys(keys: Any) -> None:
    """Instance metadata serves tags as paths: a slash cannot be part of a key there."""
    for key in keys:
        if not METADATA_KEY.fullmatch(key) or key in METADATA_RESERVED:
            raise ApiError(
                "InvalidParameterValue",
                f"'{key}' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{{1,255}}), "
                "and must not be a reserved name ('.', '..', '_index')",
            )


def put(cloud: Cloud, backend: Any, resource_id: str, tags: dict[str, str]) -> None:
    if not tags:
        return
    consistency.record_tag_change(cloud, resource_id, backend.tags.get(resource_id, {}))
    backend.tags[resource_id] = {**backend.tags.get(resource_id, {}), **tags}


def _must_exist(cloud: Cloud, call: Call, backend: Any, resource_id: str) -> None:
    kind = ids.kind_of(resource_id)
    if kind is None:
        if re.fullmatch(r"[a-z]+(-[a-z]+)*-[0-9a-f]{8,17}", resource_id):
            return  # a kind that we do not model; moto's own record decides
        raise ApiError("InvalidID", f"The ID '{resource_id}' is not valid")
    if not kind.well_formed(resource_id):
        raise kind.malformed_error(resource_id)
    known = resource_id in cloud.machines or any(
        resource_id in store
        for store in (
            backend.volumes,
            backend.snapshots,
            backend.vpcs,
            backend.amis,
            backend.enis,
            *backend.groups.values(),
            *backend.subnets.values(),
        )
    )
    machine = cloud.machines.get(resource_id)
    if machine and (machine.account, machine.region) != (call.account, call.region):
        known = False
    if not known or not consistency.visible(cloud, call.principal, resource_id):
        raise kind.missing_error([resource_id])


@handles("ec2", "CreateTags")
def create_tags(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    resources = call.params.get("Resources") or []
    wanted = {tag.get("Key", ""): tag.get("Value") or "" for tag in call.params.get("Tags") or []}
    if not resources:
        raise ApiError("MissingParameter", "The request must contain the parameter resourceIdSet")
    if not wanted:
        raise ApiError("MissingParameter", "The request must contain the parameter tagSet")
    for resource_id in resources:
        _must_exist(cloud, call, backend, resource_id)
        old = backend.tags.get(resource_id, {})
        check_tags(wanted, existing=len([k for k in old if k not in wanted and not k.startswith("aws:")]))
        machine = cloud.machines.get(resource_id)
        if machine and machine.instance.metadata_options.instance_metadata_tags == "enabled":
            check_metadata_keys(wanted)
    for resource_id in resources:
        put(cloud, backend, resource_id, wanted)
    return None


@handles("ec2", "DeleteTags")
def delete_tags(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    resources = call.params.get("Resources") or []
    if not resources:
        raise ApiError("MissingParameter", "The request must contain the parameter resourceIdSet")
    for resource_id in resources:
        _must_exist(cloud, call, backend, resource_id)
    for resource_id in resources:
        old = backend.tags.get(resource_id, {})
        consistency.record_tag_change(cloud, resource_id, old)
        backend.tags[resource_id] = _without(old, call.params.get("Tags"))
    return None


def _without(old: dict[str, str], wanted: list[dict[str, str]] | None) -> dict[str, str]:
    """No tags named: all go. A key alone: that key goes. A key with a value: it goes when the value is that."""
    if not wanted:
        return {key: value for key, value in old.items() if key.startswith("aws:")}
    kept = dict(old)
    for tag in wanted:
        key = tag.get("Key", "")
        if "Value" not in tag or tag["Value"] is None or kept.get(key) == tag["Value"]:
            kept.pop(key, None)
    return kept
