"""The metadata service answers as EC2's does; loopback addresses stand for machines."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from world import imds
from world.machines.base import Metadata

ONE, OTHER, STRANGER = "127.0.0.11", "127.0.0.12", "127.0.0.13"
TREE = {
    "instance-id": "i-1",
    "iam": {
        "info": {"__json__": True, "Code": "Success"},
        "security-credentials": {"role": {"__json__": True, "Token": "t"}},
    },
    "placement": {"region": "us-east-1"},
}
Answer = tuple[int, bytes]


@pytest.fixture
def service() -> Iterator[tuple[dict[str, Metadata], int]]:
    machines = {
        ONE: Metadata(True, True, 1, TREE, b"#!/bin/sh\n\x00\xff", {"region": "us-east-1"}),
        OTHER: Metadata(True, False, 1, {"instance-id": "i-2"}, None, {}),
    }
    server = imds.serve(machines.get, "127.0.0.1", 0)
    yield machines, server.server_port
    server.shutdown()
    server.server_close()


def ask(port: int, source: str, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=(source, 0))
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def token(port: int, source: str, ttl: str = "60", **headers: str) -> Answer:
    return ask(port, source, "/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds=ttl, **headers)


def test_tokens_are_required_and_belong_to_one_machine(service: tuple[dict, int]) -> None:
    _, port = service
    path = "/latest/meta-data/instance-id"
    mine = token(port, ONE)[1].decode()
    assert ask(port, ONE, path) == (401, b"")
    assert ask(port, ONE, path, X_aws_ec2_metadata_token="made-up") == (401, b"")
    assert ask(port, ONE, path, X_aws_ec2_metadata_token=mine) == (200, b"i-1")
    assert ask(port, OTHER, path) == (200, b"i-2"), "version 1 where it is allowed"
    assert ask(port, OTHER, path, X_aws_ec2_metadata_token=mine) == (401, b""), "a bad token is worse than none"
    assert ask(port, STRANGER, path, X_aws_ec2_metadata_token=mine) == (404, b"")


@pytest.mark.parametrize("ttl", ["0", "21601", "-1", "ten", "", "٣"])
def test_bad_lifetimes_are_refused(service: tuple[dict, int], ttl: str) -> None:
    _, port = service
    if ttl.isascii():
        assert token(port, ONE, ttl) == (400, b"")
    assert imds._ttl(ttl) is None


def test_proxies_get_no_token(service: tuple[dict, int]) -> None:
    assert token(service[1], ONE, X_Forwarded_For="10.0.0.1") == (403, b"")


def test_a_switched_off_endpoint_refuses_everything(service: tuple[dict, int]) -> None:
    machines, port = service
    machines[OTHER] = Metadata(False, False, 1, {}, None, {})
    assert (token(port, OTHER)[0], ask(port, OTHER, "/latest/meta-data/")[0]) == (403, 403)


def test_tokens_expire() -> None:
    now = 100.0
    tokens = imds.Tokens(lambda: now)
    issued = tokens.issue(ONE, 10)
    assert tokens.valid(issued, ONE) and not tokens.valid(issued, OTHER)
    now = 110.0
    assert not tokens.valid(issued, ONE)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/", 200, "\n".join(imds.VERSIONS).encode()),
        ("/latest/", 200, b"dynamic\nmeta-data\nuser-data"),
        ("/2021-03-23/user-data", 200, b"#!/bin/sh\n\x00\xff"),
        ("/latest/meta-data/", 200, b"instance-id\niam/\nplacement/"),
        ("/latest/meta-data/iam/", 200, b"info\nsecurity-credentials/"),
        ("/latest/meta-data/iam/security-credentials/", 200, b"role"),
        ("/latest/meta-data/iam/security-credentials/role", 200, b'{\n  "Token": "t"\n}'),
        ("/latest/meta-data/iam/info/Code", 404, b""),
        ("/latest/meta-data/tags/instance", 404, b""),
        ("/latest/meta-data/instance-id/x", 404, b""),
        ("/latest/dynamic/", 200, b"instance-identity/"),
        ("/latest/dynamic/instance-identity/document", 200, b'{\n  "region": "us-east-1"\n}'),
        ("/1999-01-01/meta-data/", 404, b""),
    ],
)
def test_paths(service: tuple[dict, int], path: str, status: int, body: bytes) -> None:
    _, port = service
    mine = token(port, ONE)[1].decode()
    assert ask(port, ONE, path, X_aws_ec2_metadata_token=mine) == (status, body)


def test_no_user_data_is_not_found(service: tuple[dict, int]) -> None:
    _, port = service
    assert ask(port, OTHER, "/latest/user-data")[0] == 404
    assert ask(port, OTHER, "/latest/") == (200, b"dynamic\nmeta-data")
