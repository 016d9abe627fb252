"""IAM: names and documents that IAM refuses, replicas that lag, deletions in the right order."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from . import authorize, consistency, profiles
from .call import Call
from .cloud import Cloud
from .errors import ApiError
from .native import invoke
from .registry import handles

NAME = re.compile(r"[\w+=,.@-]+")
LIMITS = {"RoleName": 64, "InstanceProfileName": 128, "PolicyName": 128, "UserName": 64}
INLINE_LIMIT = 10240


def _check_names(call: Call) -> None:
    for parameter, limit in LIMITS.items():
        value = call.params.get(parameter)
        if value is None:
            continue
        field = parameter[0].lower() + parameter[1:]
        if len(value) > limit:
            raise ApiError(
                "ValidationError",
                f"1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: Member "
                f"must have length less than or equal to {limit}",
            )
        if not NAME.fullmatch(value):
            raise ApiError(
                "ValidationError",
                f"The specified value for {field} is invalid. It must contain only alphanumeric characters and/or the "
                "following: +=,.@_-",
            )
    path = call.params.get("Path")
    if path is not None and not (len(path) <= 512 and re.fullmatch(r"/|/[!-~]+/", path)):
        raise ApiError("ValidationError", f"The specified value for path is invalid: {path}")


def _check_trust(text: str | None) -> None:
    malformed = ApiError("MalformedPolicyDocument", "This policy contains invalid Json")
    if not text:
        raise ApiError("ValidationError", "1 validation error detected: Value at 'assumeRolePolicyDocument' is missing")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise malformed from error
    statements = document.get("Statement") if isinstance(document, dict) else None
    statements = statements if isinstance(statements, list) else [statements]
    if len(text) > 2048 * 4:
        raise ApiError("LimitExceeded", "Cannot exceed quota for ACLSizePerRole: 2048")
    for statement in statements:
        if not isinstance(statement, dict) or statement.get("Effect") not in ("Allow", "Deny"):
            raise ApiError("MalformedPolicyDocument", "Syntax errors in policy.")
        if "Principal" not in statement and "NotPrincipal" not in statement:
            raise ApiError("MalformedPolicyDocument", "Missing required field Principal")
        if "Action" not in statement and "NotAction" not in statement:
            raise ApiError("MalformedPolicyDocument", "Missing required field Action")
        if "Resource" in statement:
            raise ApiError("MalformedPolicyDocument", "Has prohibited field Resource")


def _key(call: Call, kind: str, name: str) -> str:
    return f"iam-{kind}/{call.account}/{name}"


def _role(cloud: Cloud, call: Call, name: str) -> Any | None:
    return next((r for r in cloud.iam(call.account).roles.values() if r.name == name), None)


def _must_be_replicated(cloud: Cloud, call: Call) -> None:
    """A read or a write that names a new entity may land on a replica that has not heard of it."""
    for kind, parameter in (("role", "RoleName"), ("profile", "InstanceProfileName")):
        name = call.params.get(parameter)
        if name and consistency.iam_flickers(cloud, call.principal, _key(call, kind, name)):
            noun = "role" if kind == "role" else "Instance Profile"
            raise ApiError("NoSuchEntity", f"The {noun} with name {name} cannot be found.")


@handles("iam", "CreateRole")
def create_role(cloud: Cloud, call: Call) -> Any:
    _check_names(call)
    _check_trust(call.params.get("AssumeRolePolicyDocument"))
    if _role(cloud, call, call.params["RoleName"]):
        raise ApiError("EntityAlreadyExists", f"Role with name {call.params['RoleName']} already exists.")
    if len(call.params.get("Tags") or []) > 50:
        raise ApiError("LimitExceeded", "Cannot exceed quota for TagsPerRole: 50")
    answer = invoke(call)
    consistency.remember_birth(cloud, _key(call, "role", call.params["RoleName"]))
    return answer


@handles("iam", "CreateInstanceProfile")
def create_profile(cloud: Cloud, call: Call) -> Any:
    _check_names(call)
    name = call.params.get("InstanceProfileName", "")
    if any(p.name == name for p in cloud.iam(call.account).instance_profiles.values()):
        raise ApiError("EntityAlreadyExists", f"Instance Profile {name} already exists.")
    answer = invoke(call)
    made = next(p for p in cloud.iam(call.account).instance_profiles.values() if p.name == name)
    made.id = "AIPA" + made.id[:17].upper()
    consistency.remember_birth(cloud, _key(call, "profile", name))
    consistency.remember_birth(cloud, profiles.fresh_key(call.account, name))
    return answer


@handles("iam", "AddRoleToInstanceProfile")
def add_role(cloud: Cloud, call: Call) -> Any:
    _check_names(call)
    _must_be_replicated(cloud, call)
    _must_exist(cloud, call)
    answer = invoke(call)
    consistency.remember_birth(cloud, profiles.fresh_key(call.account, call.params["InstanceProfileName"]))
    return answer


@handles("iam", "RemoveRoleFromInstanceProfile")
def remove_role(cloud: Cloud, call: Call) -> Any:
    _must_be_replicated(cloud, call)
    _must_exist(cloud, call)
    name = call.params["InstanceProfileName"]
    profile = next(p for p in cloud.iam(call.account).instance_profiles.values() if p.name == name)
    if call.params.get("RoleName") not in [role.name for role in profile.roles]:
        raise ApiError("NoSuchEntity", f"The role with name {call.params.get('RoleName')} cannot be found.")
    answer = invoke(call)
    consistency.remember_birth(cloud, profiles.fresh_key(call.account, name))
    return answer


def _must_exist(cloud: Cloud, call: Call) -> None:
    name = call.params.get("InstanceProfileName")
    if name is not None and all(p.name != name for p in cloud.iam(call.account).instance_profiles.values()):
        raise ApiError("NoSuchEntity", f"Instance Profile {name} cannot be found.")
    name = call.params.get("RoleName")
    if name is not None and _role(cloud, call, name) is None:
        raise ApiError("NoSuchEntity", f"The role with name {name} cannot be found.")


@handles("iam", "GetInstanceProfile", "DeleteInstanceProfile", "TagInstanceProfile", "UntagInstanceProfile")
@handles("iam", "GetRole", "ListRolePolicies", "ListAttachedRolePolicies", "GetRolePolicy", "DeleteRole", "TagRole")
@handles("iam", "UntagRole", "UpdateRole", "ListInstanceProfilesForRole", "ListRoleTags")
def named_entity(cloud: Cloud, call: Call) -> Any:
    _check_names(call)
    _must_be_replicated(cloud, call)
    _must_exist(cloud, call)
    return invoke(call)


@handles("iam", "UpdateAssumeRolePolicy")
def update_trust(cloud: Cloud, call: Call) -> Any:
    _must_be_replicated(cloud, call)
    _must_exist(cloud, call)
    _check_trust(call.params.get("PolicyDocument"))
    return invoke(call)


@handles("iam", "PutRolePolicy", "DeleteRolePolicy", "AttachRolePolicy", "DetachRolePolicy")
def change_role_policies(cloud: Cloud, call: Call) -> Any:
    _check_names(call)
    _must_be_replicated(cloud, call)
    _must_exist(cloud, call)
    role = _role(cloud, call, call.params["RoleName"])
    if call.action == "PutRolePolicy":
        _check_inline_size(call, role)
    arn = call.params.get("PolicyArn")
    if arn and arn not in cloud.iam(call.account).managed_policies:
        raise ApiError("NoSuchEntity", f"Policy {arn} does not exist or is not attachable.")
    before = authorize.current_role_documents(role)
    answer = invoke(call)
    limit = cloud.clock.now() - cloud.settings.iam_lag
    changes = [c for c in cloud.role_changes.get((call.account, role.id), []) if c[0] > limit]
    cloud.role_changes[(call.account, role.id)] = [*changes, (cloud.clock.now(), before)]
    return answer


def _check_inline_size(call: Call, role: Any) -> None:
    new = call.params.get("PolicyDocument") or ""
    others = [text for name, text in role.policies.items() if name != call.params.get("PolicyName")]
    if sum(len("".join(text.split())) for text in [*others, new]) > INLINE_LIMIT:
        raise ApiError("LimitExceeded", f"Maximum policy size of {INLINE_LIMIT} bytes exceeded for role {role.name}")


@handles("iam", "DeletePolicy")
def delete_policy(cloud: Cloud, call: Call) -> Any:
    arn = call.params.get("PolicyArn")
    for role in cloud.iam(call.account).roles.values():
        if any(policy.arn == arn for policy in role.managed_policies.values()):
            raise ApiError("DeleteConflict", "Cannot delete a policy attached to entities.")
    return invoke(call)


@handles("iam", "ListInstanceProfiles")
def list_profiles(cloud: Cloud, call: Call) -> Any:
    """Pages like IAM's, without tags; moto answers with everything."""
    size = int(call.params.get("MaxItems") or 100)
    if not 1 <= size <= 1000:
        raise ApiError("ValidationError", f"Value '{size}' at 'maxItems' failed to satisfy constraint: 1 to 1000")
    answer = invoke(call)
    after = call.params.get("Marker") or ""
    profiles = sorted(answer["InstanceProfiles"], key=lambda profile: profile.name)
    rest = [profile for profile in profiles if profile.name > after]
    more = len(rest) > size
    page = {"InstanceProfiles": [_untagged(profile) for profile in rest[:size]], "IsTruncated": more}
    return {**page, "Marker": rest[size - 1].name} if more else page


def _untagged(profile: Any) -> Any:
    bare = copy.copy(profile)
    bare.tags = {} if isinstance(profile.tags, dict) else []
    return bare
