"""STS: who am I, and roles that their trust policy lets one assume."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

from . import policy
from .call import Call
from .cloud import Cloud
from .errors import ApiError
from .principals import Principals
from .registry import handles

ROLE_ARN = re.compile(r"arn:aws:iam::(\d{12}):role(/[\w+=,.@/-]*)")
_principals: dict[int, Principals] = {}


def attach(cloud: Cloud, principals: Principals) -> None:
    """Tells the handlers of this cloud where sessions are made."""
    _principals[id(cloud)] = principals


@handles("sts", "GetCallerIdentity")
def get_caller_identity(cloud: Cloud, call: Call) -> Any:
    principal = call.principal
    return {"UserId": principal.user_id, "Account": principal.account, "Arn": principal.arn}


def _denied(call: Call, arn: str) -> ApiError:
    return ApiError(
        "AccessDenied", f"User: {call.principal.arn} is not authorized to perform: sts:AssumeRole on resource: {arn}"
    )


@handles("sts", "AssumeRole")
def assume_role(cloud: Cloud, call: Call) -> Any:
    arn, name = call.params.get("RoleArn") or "", call.params.get("RoleSessionName") or ""
    found = ROLE_ARN.fullmatch(arn)
    if not found:
        raise ApiError("ValidationError", f"{arn} is invalid")
    if not re.fullmatch(r"[\w+=,.@-]{2,64}", name):
        raise ApiError("ValidationError", f"Value '{name}' at 'roleSessionName' failed to satisfy constraint")
    role = next((r for r in cloud.iam(found[1]).roles.values() if r.arn == arn), None)
    if role is None or not _trusted(call, role):
        raise _denied(call, arn)
    seconds = _duration(call, role)
    policies = (json.loads(call.params["Policy"]),) if call.params.get("Policy") else ()
    session = _principals[id(cloud)].new_session(found[1], role, name, seconds, policies=policies)
    expires = datetime.datetime.fromtimestamp(session.expires, datetime.UTC)
    return {
        "Credentials": {
            "AccessKeyId": session.access_key,
            "SecretAccessKey": session.secret,
            "SessionToken": session.token,
            "Expiration": expires,
        },
        "AssumedRoleUser": {"AssumedRoleId": session.principal.user_id, "Arn": session.principal.arn},
        "PackedPolicySize": 6 if policies else None,
    }


def _trusted(call: Call, role: Any) -> bool:
    principal = call.principal
    names = {principal.arn, principal.account, f"arn:aws:iam::{principal.account}:root"}
    if principal.role_name:
        names.add(f"arn:aws:iam::{principal.account}:role/{principal.role_name}")
    context = policy.lower_keys(
        {
            "sts:ExternalId": call.params.get("ExternalId"),
            "sts:RoleSessionName": call.params.get("RoleSessionName"),
            "aws:PrincipalArn": principal.arn,
            "aws:PrincipalAccount": principal.account,
        }
    )
    return policy.trusts(json.loads(role.assume_role_policy_document), "sts:AssumeRole", names, None, context)


def _duration(call: Call, role: Any) -> int:
    seconds = int(call.params.get("DurationSeconds") or 3600)
    longest = int(role.max_session_duration or 3600)
    if call.principal.kind == "role":
        longest = min(longest, 3600)
    if not 900 <= seconds <= longest:
        raise ApiError(
            "ValidationError",
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
            if seconds > longest
            else f"Value '{seconds}' at 'durationSeconds' failed to satisfy constraint: at least 900",
        )
    return seconds


@handles("sts", "DecodeAuthorizationMessage")
def decode_authorization_message(cloud: Cloud, call: Call) -> Any:
    from .authorize import decode_message

    return {"DecodedMessage": decode_message(call.params.get("EncodedMessage") or "")}


@handles("sts", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetSessionToken", "GetFederationToken")
def not_modelled(cloud: Cloud, call: Call) -> Any:
    raise ApiError("AccessDenied", f"This world does not model {call.action}.")
