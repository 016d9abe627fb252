"""The stand-ins of machines that are plain processes. The whole way, with a gateway, is what `python -m demo --driver process` walks."""

from __future__ import annotations

import gzip
import socket

import pytest

from world.machines.appliance import read_head, with_forwarded
from world.machines.base import DriverError
from world.machines.process import identity_in

IDENTITY = b'{"agentUid":"8f0c-1","cluster":"demo","region":"us-east-1"}'
SCRIPT = b"#!/bin/bash\ncat > /etc/skykoi/bootstrap.json <<'E'\n" + IDENTITY + b"\nE\n"


@pytest.mark.parametrize("user_data", [SCRIPT, gzip.compress(SCRIPT)])
def test_the_identity_is_taken_out_of_the_user_data(user_data: bytes) -> None:
    assert identity_in(user_data) == IDENTITY


def test_user_data_of_others_is_refused() -> None:
    with pytest.raises(DriverError, match="names no cluster"):
        identity_in(b"#!/bin/sh\necho hello\n")


def test_the_front_says_who_asked_and_lets_nobody_else_say_it() -> None:
    head = (
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 127.0.0.1\r\nx-real-ip: 127.0.0.1\r\nUpgrade: websocket\r\n\r\n"
    )
    assert with_forwarded(head, "172.31.0.1") == (
        b"GET / HTTP/1.1\r\nX-Real-IP: 172.31.0.1\r\nX-Forwarded-For: 172.31.0.1\r\nX-Forwarded-Proto: https\r\n"
        b"Host: h\r\nUpgrade: websocket\r\n\r\n"
    )


def test_a_head_may_come_in_pieces_and_with_what_follows() -> None:
    here, there = socket.socketpair()
    for piece in (b"GET / HTTP/1.1\r\nHo", b"st: h\r\n\r", b"\nframe"):
        there.sendall(piece)
    there.close()
    assert read_head(here) == (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"frame")
    with pytest.raises(OSError):
        read_head(here)
