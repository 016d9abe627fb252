"""SSM's Parameter Store: sizes, names, and what excludes what."""

from __future__ import annotations

import re
from typing import Any

from .call import Call
from .cloud import Cloud
from .errors import ApiError
from .native import invoke
from .registry import handles

SIZES = {"Standard": 4096, "Advanced": 8192, "Intelligent-Tiering": 8192}
NAME = re.compile(r"[a-zA-Z0-9_.\-/]+")


def _invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise _invalid(
            'Parameter name: can\'t be prefixed with "ssm" (case-insensitive). If formed as a path, it can '
            "consist of sub-paths divided by slash symbol; each sub-path can be formed as a mix of letters, numbers "
            "and the following 3 symbols .-_"
        )
    if len(name) > 1011:
        raise _invalid("Parameter name must not be longer than 1011 characters.")
    if "/" in name and not name.startswith("/"):
        raise _invalid("Parameter name must be a fully qualified name.")
    if name.endswith("/") or "//" in name:
        raise _invalid(f"Parameter name has an empty part: {name}")
    if name.strip("/").count("/") >= 15:
        raise ApiError("HierarchyLevelLimitExceededException", "A hierarchy can have a maximum of 15 levels.")


@handles("ssm", "PutParameter")
def put_parameter(cloud: Cloud, call: Call) -> Any:
    params = call.params
    _check_name(params.get("Name") or "")
    if params.get("Overwrite") and params.get("Tags"):
        raise _invalid(
            "Invalid request: tags and overwrite can't be used together. To create a parameter with tags, please "
            "remove overwrite flag. To update tags for an existing parameter, please use AddTagsToResource or "
            "RemoveTagsFromResource."
        )
    tier = params.get("Tier") or "Standard"
    if tier not in SIZES:
        raise _invalid(f"Value '{tier}' at 'tier' failed to satisfy constraint: one of {', '.join(SIZES)}")
    size = len((params.get("Value") or "").encode())
    if size > SIZES[tier]:
        raise _invalid(
            f"{tier} tier parameters support a maximum parameter value of {SIZES[tier]} characters. To create a larger "
            "parameter value, upgrade the parameter to use the advanced-parameter tier."
        )
    if len(params.get("Tags") or []) > 50:
        raise ApiError("TooManyTagsError", "The Targets parameter includes too many tags.")
    backend = cloud.ssm(call.account, call.region)
    if not backend._parameters.get(params["Name"]):
        backend._resource_tags["Parameter"].pop(params["Name"], None)  # the tags of a deleted namesake
    return invoke(call)


@handles("ssm", "DeleteParameter", "DeleteParameters")
def delete_parameters(cloud: Cloud, call: Call) -> Any:
    _seeded(cloud, call)
    if len(call.params.get("Names") or [""]) > 10:
        raise _invalid("At most 10 names are allowed.")
    return invoke(call)


@handles("ssm", "GetParameter", "GetParameterHistory", "DescribeParameters", "AddTagsToResource", "ListTagsForResource")
@handles("ssm", "RemoveTagsFromResource", "LabelParameterVersion", "UnlabelParameterVersion")
def plain(cloud: Cloud, call: Call) -> Any:
    _seeded(cloud, call)
    return _guarded(call)


@handles("ssm", "GetParameters")
def get_parameters(cloud: Cloud, call: Call) -> Any:
    _seeded(cloud, call)
    if not 1 <= len(call.params.get("Names") or []) <= 10:
        raise _invalid("1 validation error detected: Value at 'names' failed to satisfy constraint: 1 to 10 names")
    return invoke(call)


@handles("ssm", "GetParametersByPath")
def get_parameters_by_path(cloud: Cloud, call: Call) -> Any:
    _seeded(cloud, call)
    if not (call.params.get("Path") or "").startswith("/"):
        raise _invalid('The parameter path must start with "/".')
    size = call.params.get("MaxResults")
    if size is not None and not 1 <= int(size) <= 10:
        raise _invalid(f"Value '{size}' at 'maxResults' failed to satisfy constraint: 1 to 10")
    return _guarded(call)


def _seeded(cloud: Cloud, call: Call) -> None:
    cloud.ssm(call.account, call.region)


def _guarded(call: Call) -> Any:
    try:
        return invoke(call)
    except (ValueError, IndexError) as error:
        if call.params.get("NextToken"):
            raise ApiError("InvalidNextToken", "The specified token isn't valid.") from error
        raise
