"""SSM's Parameter Store."""

from __future__ import annotations

import pytest
from conftest import refused


def _put(ssm, name, value="v", **more):
    return ssm.put_parameter(**{"Name": name, "Value": value, "Type": "SecureString", **more})


def test_secure_string(ssm, fresh):
    name = f"/koi/{fresh()}"
    assert _put(ssm, name, "secret")["Version"] == 1
    assert ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"] == "secret"
    assert ssm.get_parameter(Name=name)["Parameter"]["Value"] != "secret"


def test_standard_tier_takes_4096_bytes(ssm, fresh):
    _put(ssm, f"/koi/{fresh()}", "x" * 4096)
    with refused("ValidationException", 400, says="4096"):
        _put(ssm, f"/koi/{fresh()}", "x" * 4097)
    with refused("ValidationException"):
        _put(ssm, f"/koi/{fresh()}", "ü" * 2049)
    _put(ssm, f"/koi/{fresh()}", "x" * 8192, Tier="Advanced")


def test_overwrite(ssm, fresh):
    name = f"/koi/{fresh()}"
    _put(ssm, name)
    with refused("ParameterAlreadyExists", 400):
        _put(ssm, name)
    assert _put(ssm, name, "new", Overwrite=True)["Version"] == 2
    assert ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"] == "new"


def test_tags_and_overwrite_exclude_each_other(ssm, fresh):
    name, tags = f"/koi/{fresh()}", [{"Key": "InstanceId", "Value": "i-1"}]
    with refused("ValidationException", 400, says="overwrite"):
        _put(ssm, name, Tags=tags, Overwrite=True)
    _put(ssm, name, Tags=tags)
    _put(ssm, name, Overwrite=True)
    assert ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=name)["TagList"] == tags


def test_tags_come_and_go(ssm, fresh):
    name = f"/koi/{fresh()}"
    _put(ssm, name)
    ssm.add_tags_to_resource(ResourceType="Parameter", ResourceId=name, Tags=[{"Key": "a", "Value": "b"}])
    assert ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=name)["TagList"] == [
        {"Key": "a", "Value": "b"}
    ]
    ssm.delete_parameter(Name=name)
    with refused("InvalidResourceId"):
        ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=name)
    _put(ssm, name)
    assert ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=name)["TagList"] == []


@pytest.mark.parametrize(
    "name",
    [
        "/koi/with space",
        "koi/relative",
        "/koi//double",
        "/koi/end/",
        "/ssm/x/y",
        "ssmthing",
        "/" + "a/" * 16 + "a",
        "x" * 1012,
    ],
)
def test_names(ssm, name):
    with pytest.raises(ssm.exceptions.ClientError) as caught:
        _put(ssm, name)
    assert caught.value.response["Error"]["Code"] in ("ValidationException", "HierarchyLevelLimitExceededException")


def test_reserved_names(ssm):
    with refused("AccessDeniedException"):
        _put(ssm, "/aws/service/mine")


def test_missing(ssm, fresh):
    with refused("ParameterNotFound", 400):
        ssm.get_parameter(Name=f"/koi/{fresh()}")
    with refused("ParameterNotFound", 400):
        ssm.delete_parameter(Name=f"/koi/{fresh()}")


def test_several(ssm, fresh):
    path = f"/koi/{fresh()}"
    for leaf in ("a", "b", "c/d"):
        _put(ssm, f"{path}/{leaf}")
    answer = ssm.get_parameters(Names=[f"{path}/a", f"{path}/z"])
    assert ([p["Name"] for p in answer["Parameters"]], answer["InvalidParameters"]) == ([f"{path}/a"], [f"{path}/z"])
    flat = ssm.get_parameters_by_path(Path=path)["Parameters"]
    assert [p["Name"] for p in flat] == [f"{path}/a", f"{path}/b"]
    pages = ssm.get_paginator("get_parameters_by_path").paginate(
        Path=path, Recursive=True, PaginationConfig={"PageSize": 2}
    )
    assert [p["Name"] for page in pages for p in page["Parameters"]] == [f"{path}/a", f"{path}/b", f"{path}/c/d"]
    with refused("ValidationException"):
        ssm.get_parameters_by_path(Path=path, MaxResults=11)
    filters = [{"Key": "Path", "Option": "Recursive", "Values": [path]}]
    described = ssm.describe_parameters(ParameterFilters=filters)["Parameters"]
    assert sorted(p["Name"] for p in described) == [f"{path}/a", f"{path}/b", f"{path}/c/d"]
    gone = ssm.delete_parameters(Names=[f"{path}/a", f"{path}/z"])
    assert (gone["DeletedParameters"], gone["InvalidParameters"]) == ([f"{path}/a"], [f"{path}/z"])
