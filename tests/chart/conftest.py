"""One control plane for all tests of the chart, gone when they end."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from world.control_plane import ControlPlane
from world.network import HostNetwork


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server with RBAC, on loopback."""
    plane = ControlPlane(tmp_path_factory.mktemp("plane"), HostNetwork(), free_port(), free_port())
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
