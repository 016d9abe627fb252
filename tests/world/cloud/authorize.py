"""What a call needs to be allowed: its actions, resources and condition keys, checked against the caller's policies."""

from __future__ import annotations

import base64
import json
import pathlib
import zlib
from typing import Any

from . import ids, tags
from .call import Call
from .cloud import Cloud
from .errors import ApiError
from .policy import Context, Effect, Request, decide, lower_keys, trusts
from .principals import Principals

FREE = {("sts", "GetCallerIdentity")}


class Authorizer:
    def __init__(self, cloud: Cloud, principals: Principals, operator_policy: pathlib.Path | None) -> None:
        self._cloud = cloud
        self._principals = principals
        self._operator_policy = operator_policy
        self._override: Any = None

    def override_operator_policy(self, document: Any) -> None:
        """A policy of the test's own for the operator, until it is taken away with None."""
        self._override = document

    def check(self, call: Call) -> None:
        if call.principal.exempt or (call.service, call.action) in FREE:
            return
        documents = self._documents(call)
        if documents is None:
            return
        identity, boundary, session = documents
        for request in self._requests(call):
            effect = decide(identity, boundary, session, request)
            if effect is Effect.IMPLICIT_DENY and self._is_named_by_trust(call):
                continue
            if effect is not Effect.ALLOW:
                raise denial(call, request, effect)

    def _is_named_by_trust(self, call: Call) -> bool:
        """A role's trust policy that names a user of its own account is enough: no policy of the user has to allow it."""
        principal = call.principal
        if (call.service, call.action) != ("sts", "AssumeRole") or principal.kind == "role":
            return False
        roles = self._cloud.iam(principal.account).roles.values()
        role = next((role for role in roles if role.arn == call.params.get("RoleArn")), None)
        document = _parsed(role.assume_role_policy_document) if role else {}
        context = lower_keys({"sts:ExternalId": call.params.get("ExternalId")})
        return trusts(document, "sts:AssumeRole", {principal.arn}, None, context)

    # policies of the caller

    def _documents(self, call: Call) -> tuple[list[Any], list[Any] | None, list[Any] | None] | None:
        principal = call.principal
        if principal.kind == "operator":
            document = self._override or self._read_operator_policy()
            return None if document is None else ([document], None, None)
        iam = self._cloud.iam(principal.account)
        if principal.kind == "user":
            user = next(u for u in iam.users.values() if u.arn == principal.arn)
            inline = [_parsed(document) for document in user.policies.values()]
            return inline + [managed_document(p) for p in user.managed_policies.values()], None, None
        role = next((r for r in iam.roles.values() if r.name == principal.role_name), None)
        if role is None:
            return [], None, None
        session = list(principal.session_policies) or None
        return role_documents(self._cloud, principal.account, role), _boundary(iam, role), session

    def _read_operator_policy(self) -> Any:
        if self._operator_policy is None or not self._operator_policy.exists():
            return None
        return json.loads(self._operator_policy.read_text())

    # what the call asks for

    def _requests(self, call: Call) -> list[Request]:
        common = self._common(call)
        if call.service == "ec2":
            return _ec2_requests(self._cloud, call, common)
        if call.service == "iam":
            return _iam_requests(self._cloud, call, common)
        if call.service == "ssm":
            return _ssm_requests(self._cloud, call, common)
        if call.service == "bedrock":
            return _bedrock_requests(call, common)
        resource = call.params.get("RoleArn") or "*"
        return [Request(f"{call.service}:{call.action}", resource, common)]

    def _common(self, call: Call) -> Context:
        principal = call.principal
        return lower_keys(
            {
                "aws:PrincipalArn": _principal_arn(self._cloud, call),
                "aws:PrincipalAccount": principal.account,
                "aws:PrincipalType": "AssumedRole" if principal.kind == "role" else "User",
                "aws:userid": principal.user_id,
                "aws:SourceIp": call.source_ip,
                "aws:CurrentTime": self._cloud.clock.utc().isoformat(),
                "aws:RequestedRegion": call.region,
                "aws:SecureTransport": "false",
                "ec2:Region": call.region if call.service == "ec2" else None,
                "ec2:SourceInstanceARN": principal.instance_arn,
                "ec2:RoleDelivery": "2.0" if principal.instance_arn else None,
            }
        )


def _principal_arn(cloud: Cloud, call: Call) -> str:
    principal = call.principal
    if principal.kind != "role":
        return principal.arn
    role = next((r for r in cloud.iam(principal.account).roles.values() if r.name == principal.role_name), None)
    return role.arn if role else principal.arn


def _parsed(document: Any) -> Any:
    return json.loads(document) if isinstance(document, str) else document


def role_documents(cloud: Cloud, account: str, role: Any) -> list[Any]:
    """The role's policies as far as they have propagated."""
    changes = cloud.role_changes.get((account, role.id), [])
    limit = cloud.clock.now() - cloud.settings.iam_lag
    young = [documents for moment, documents in changes if moment > limit]
    return young[0] if young else current_role_documents(role)


def managed_document(policy: Any) -> Any:
    """The default version of a managed policy."""
    return _parsed(next(v.document for v in policy.versions if v.version_id == policy.default_version_id))


def current_role_documents(role: Any) -> list[Any]:
    documents = [_parsed(text) for text in role.policies.values()]
    return documents + [managed_document(policy) for policy in role.managed_policies.values()]


def _boundary(iam: Any, role: Any) -> list[Any] | None:
    arn = getattr(role, "permissions_boundary_arn", None)
    if not arn:
        return None
    policy = iam.managed_policies.get(arn)
    return [managed_document(policy)] if policy else []


def _tag_context(prefixes: tuple[str, ...], found: dict[str, str]) -> Context:
    return lower_keys({f"{prefix}/{key}": value for prefix in prefixes for key, value in found.items()})


# Bedrock


def _bedrock_requests(call: Call, common: Context) -> list[Request]:
    """A model through an inference profile takes both: the profile, and the model by way of it."""
    action, model = f"bedrock:{call.action}", call.params["modelId"]
    area, _, rest = model.partition(".")
    if area not in ("us", "eu", "apac", "global"):
        return [Request(action, f"arn:aws:bedrock:{call.region}::foundation-model/{model}", common)]
    profile = f"arn:aws:bedrock:{call.region}:{call.account}:inference-profile/{model}"
    through = {**common, **lower_keys({"bedrock:InferenceProfileArn": profile})}
    return [
        Request(action, profile, common),
        Request(action, f"arn:aws:bedrock:{call.region}::foundation-model/{rest}", through),
    ]


# EC2


def _ec2_arn(call: Call, kind: str, resource_id: str) -> str:
    account = "" if kind in ("image", "snapshot") else call.account
    return f"arn:aws:ec2:{call.region}:{account}:{kind}/{resource_id}"


def _ec2_existing(cloud: Cloud, call: Call, kind: ids.Kind, resource_id: str) -> tuple[str, Context]:
    found = cloud.ec2_of(call).tags.get(resource_id, {})
    return _ec2_arn(call, kind.resource, resource_id), _tag_context(("aws:ResourceTag", "ec2:ResourceTag"), found)


def _request_tags(found: dict[str, str]) -> Context:
    return {**_tag_context(("aws:RequestTag",), found), **(lower_keys({"aws:TagKeys": list(found)}) if found else {})}


def _ec2_requests(cloud: Cloud, call: Call, common: Context) -> list[Request]:
    action = f"ec2:{call.action}"
    if call.action.startswith("Describe"):
        return [Request(action, "*", common)]
    if call.action == "RunInstances":
        return _run_instances_requests(cloud, call, common)
    if call.action in ("CreateTags", "DeleteTags"):
        wanted = {t.get("Key", ""): t.get("Value") or "" for t in call.params.get("Tags") or []}
        resources = [(ids.kind_of(r), r) for r in call.params.get("Resources") or []]
        pairs = [_ec2_existing(cloud, call, k, r) if k else ("*", {}) for k, r in resources]
        return [Request(action, arn, {**common, **context, **_request_tags(wanted)}) for arn, context in pairs]
    requests = _new_resources(call, common)
    pairs = [_ec2_existing(cloud, call, kind, value) for kind, value in _existing_ids(cloud, call)]
    requests += [Request(action, arn, {**common, **context}) for arn, context in pairs]
    requests += _pass_role(cloud, call, common)
    return requests or [Request(action, "*", common)]


def _existing_ids(cloud: Cloud, call: Call) -> list[tuple[ids.Kind, str]]:
    if call.action in ("DisassociateIamInstanceProfile", "ReplaceIamInstanceProfileAssociation"):
        wanted = call.params.get("AssociationId")
        associations = cloud.ec2_of(call).iam_instance_profile_associations.values()
        return [(ids.INSTANCE, a.instance_id) for a in associations if a.association_id == wanted]
    return ids.ids_in(call.params)


NEW = {"CreateVolume": "volume", "CreateSnapshot": "snapshot", "CreateSecurityGroup": "security-group"}


def _new_resources(call: Call, common: Context) -> list[Request]:
    """The thing that a creating call makes has no id yet: its ARN ends in a star."""
    kind = NEW.get(call.action)
    requests = []
    specs = tags.specifications(call) if call.action in tags.CREATABLE else {}
    if kind:
        arn = _ec2_arn(call, kind, "*")
        requests.append(Request(f"ec2:{call.action}", arn, {**common, **_request_tags(specs.get(kind, {}))}))
    return requests + _create_tags(call, common, specs)


def _create_tags(call: Call, common: Context, specs: dict[str, dict[str, str]]) -> list[Request]:
    marked = {**common, **lower_keys({"ec2:CreateAction": call.action})}
    return [
        Request("ec2:CreateTags", _ec2_arn(call, kind, "*"), {**marked, **_request_tags(found)})
        for kind, found in specs.items()
    ]


def _run_instances_requests(cloud: Cloud, call: Call, common: Context) -> list[Request]:
    action, params = "ec2:RunInstances", call.params
    specs = tags.specifications(call)
    options = params.get("MetadataOptions") or {}
    instance = lower_keys(
        {
            "ec2:InstanceType": params.get("InstanceType") or "m1.small",
            "ec2:MetadataHttpTokens": options.get("HttpTokens") or "optional",
            "ec2:MetadataHttpPutResponseHopLimit": options.get("HttpPutResponseHopLimit"),
            "ec2:InstanceProfile": _profile_arn(cloud, call),
        }
    )
    requests = [
        Request(
            action, _ec2_arn(call, "instance", "*"), {**common, **instance, **_request_tags(specs.get("instance", {}))}
        )
    ]
    for kind in ("volume", "network-interface"):
        context = {**common, **_request_tags(specs.get(kind, {}))}
        requests.append(Request(action, _ec2_arn(call, kind, "*"), {**context, **_volume_keys(call, kind)}))
    interface = (params.get("NetworkInterfaces") or [{}])[0]
    named = [(ids.IMAGE, params.get("ImageId")), (ids.SUBNET, params.get("SubnetId") or interface.get("SubnetId"))]
    named += [(ids.GROUP, g) for g in params.get("SecurityGroupIds") or interface.get("Groups") or []]
    devices = [item.get("Ebs") or {} for item in params.get("BlockDeviceMappings") or []]
    named += [(ids.SNAPSHOT, ebs.get("SnapshotId")) for ebs in devices]
    for kind, value in named:
        if value:
            arn, context = _ec2_existing(cloud, call, kind, value)
            requests.append(Request(action, arn, {**common, **context}))
    return requests + _create_tags(call, common, specs) + _pass_role(cloud, call, common)


def _volume_keys(call: Call, kind: str) -> Context:
    if kind != "volume":
        return {}
    devices = [item.get("Ebs") or {} for item in call.params.get("BlockDeviceMappings") or []]
    encrypted = bool(devices) and all(ebs.get("Encrypted") for ebs in devices)
    return lower_keys({"ec2:Encrypted": str(encrypted).lower()})


def _wanted_profile(cloud: Cloud, call: Call) -> Any:
    wanted = call.params.get("IamInstanceProfile") or {}
    values = [value for value in (wanted.get("Name"), wanted.get("Arn")) if value]
    return next((p for p in cloud.iam(call.account).instance_profiles.values() if {p.name, p.arn} & set(values)), None)


def _profile_arn(cloud: Cloud, call: Call) -> str | None:
    profile = _wanted_profile(cloud, call)
    return profile.arn if profile else None


def _pass_role(cloud: Cloud, call: Call, common: Context) -> list[Request]:
    """A launch or association hands the profile's role to EC2: the caller must be allowed to pass it."""
    profile = _wanted_profile(cloud, call)
    context = {**common, **lower_keys({"iam:PassedToService": "ec2.amazonaws.com"})}
    return [Request("iam:PassRole", role.arn, context) for role in (profile.roles if profile else [])]


# IAM


def _role_arn(cloud: Cloud, call: Call, name: str) -> tuple[str, Any]:
    role = next((r for r in cloud.iam(call.account).roles.values() if r.name == name), None)
    path = role.path if role else call.params.get("Path") or "/"
    return f"arn:aws:iam::{call.account}:role{path}{name}", role


def _iam_requests(cloud: Cloud, call: Call, common: Context) -> list[Request]:
    params, action = call.params, f"iam:{call.action}"
    new_tags = {t.get("Key", ""): t.get("Value", "") for t in params.get("Tags") or [] if isinstance(t, dict)}
    extra = {**common, **_request_tags(new_tags)}
    extra.update(lower_keys({"iam:PermissionsBoundary": params.get("PermissionsBoundary")}))
    extra.update(lower_keys({"iam:PolicyARN": params.get("PolicyArn")}))
    if name := params.get("InstanceProfileName"):
        return _profile_requests(cloud, call, name, {**common, **extra})
    if name := params.get("RoleName"):
        arn, role = _role_arn(cloud, call, name)
        if role is not None:
            extra.update(_tag_context(("aws:ResourceTag", "iam:ResourceTag"), _iam_tags(role)))
            if boundary := getattr(role, "permissions_boundary_arn", None):
                extra.update(lower_keys({"iam:PermissionsBoundary": boundary}))
        requests = [Request(action, arn, extra)]
        if call.action == "CreateRole" and new_tags:
            requests.append(Request("iam:TagRole", arn, extra))
        return requests
    if arn := params.get("PolicyArn"):
        return [Request(action, arn, extra)]
    if name := params.get("PolicyName"):
        return [Request(action, f"arn:aws:iam::{call.account}:policy{params.get('Path') or '/'}{name}", extra)]
    if name := params.get("UserName"):
        return [Request(action, f"arn:aws:iam::{call.account}:user/{name}", extra)]
    return [Request(action, "*", extra)]


def _profile_requests(cloud: Cloud, call: Call, name: str, extra: Context) -> list[Request]:
    profile = next((p for p in cloud.iam(call.account).instance_profiles.values() if p.name == name), None)
    path = profile.path if profile else call.params.get("Path") or "/"
    arn = f"arn:aws:iam::{call.account}:instance-profile{path}{name}"
    if profile is not None:
        extra = {**extra, **_tag_context(("aws:ResourceTag", "iam:ResourceTag"), _iam_tags(profile))}
    requests = [Request(f"iam:{call.action}", arn, extra)]
    if call.action == "CreateInstanceProfile" and call.params.get("Tags"):
        requests.append(Request("iam:TagInstanceProfile", arn, extra))
    if call.action == "AddRoleToInstanceProfile":
        role_arn, _ = _role_arn(cloud, call, call.params.get("RoleName", ""))
        context = {**extra, **lower_keys({"iam:PassedToService": "ec2.amazonaws.com"})}
        requests.append(Request("iam:PassRole", role_arn, context))
    return requests


def _iam_tags(entity: Any) -> dict[str, str]:
    found = getattr(entity, "tags", None) or {}
    if isinstance(found, dict):
        return {key: value.get("Value", "") if isinstance(value, dict) else value for key, value in found.items()}
    return {item["Key"]: item["Value"] for item in found}


# SSM


def parameter_arn(call: Call, name: str) -> str:
    if name.startswith("arn:"):
        return name
    owner = "" if name.startswith("/aws/") else call.account  # public parameters belong to no account
    return f"arn:aws:ssm:{call.region}:{owner}:parameter/{name.lstrip('/')}"


def parameter_tags(cloud: Cloud, call: Call, name: str) -> dict[str, str]:
    """The tags of a parameter; a version or label selector is not part of the name."""
    plain = name.split(":parameter", 1)[1] if name.startswith("arn:") else name
    plain = plain.split(":", 1)[0]
    found = cloud.ssm(call.account, call.region).list_tags_for_resource
    try:
        return dict(found("Parameter", plain))
    except Exception:  # no such parameter: no tags
        return {}


def _ssm_requests(cloud: Cloud, call: Call, common: Context) -> list[Request]:
    params, action = call.params, f"ssm:{call.action}"
    names = params.get("Names") or [params.get("Name") or params.get("Path") or params.get("ResourceId")]
    if call.action == "DescribeParameters" or names == [None]:
        return [Request(action, "*", common)]
    new_tags = {t.get("Key", ""): t.get("Value", "") for t in params.get("Tags") or []}
    requests = []
    for name in names:
        found = parameter_tags(cloud, call, name)
        context = {**common, **_tag_context(("aws:ResourceTag", "ssm:resourceTag"), found), **_request_tags(new_tags)}
        if call.action == "PutParameter":
            context.update(lower_keys({"ssm:Overwrite": str(bool(params.get("Overwrite"))).lower()}))
        arn = parameter_arn(call, name.split(":")[0] if not name.startswith("arn:") else name)
        requests.append(Request(action, arn, context))
        if call.action == "PutParameter" and new_tags:
            requests.append(Request("ssm:AddTagsToResource", arn, context))
    return requests


# refusals


def denial(call: Call, request: Request, effect: Effect) -> ApiError:
    because = (
        "with an explicit deny in an identity-based policy"
        if effect is Effect.EXPLICIT_DENY
        else f"because no identity-based policy allows the {request.action} action"
    )
    who = f"User: {call.principal.arn} is not authorized to perform: {request.action}"
    where = "" if request.resource == "*" else f" on resource: {request.resource}"
    if call.service == "ec2":
        encoded = _encoded(call, request, effect)
        return ApiError(
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. {who}{where} {because}. "
            f"Encoded authorization failure message: {encoded}",
            403,
        )
    code = "AccessDenied" if call.service in ("iam", "sts") else "AccessDeniedException"
    return ApiError(code, f"{who}{where} {because}", 403 if code == "AccessDenied" else 400)


def _encoded(call: Call, request: Request, effect: Effect) -> str:
    document = {
        "allowed": False,
        "explicitDeny": effect is Effect.EXPLICIT_DENY,
        "context": {"principal": call.principal.arn, "action": request.action, "resource": request.resource},
    }
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(document).encode())).decode()


def decode_message(encoded: str) -> str:
    try:
        return zlib.decompress(base64.urlsafe_b64decode(encoded)).decode()
    except (ValueError, zlib.error) as error:
        raise ApiError("InvalidAuthorizationMessageException", "The message cannot be decoded") from error
