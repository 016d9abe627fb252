"""One control plane with the custom resource definitions for all tests of the API, gone when they end."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from world.control_plane import ControlPlane
from world.network import HostNetwork

from api.cases import DEFINITIONS
from api.server import ApiServer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server on loopback."""
    plane = ControlPlane(tmp_path_factory.mktemp("plane"), HostNetwork(), free_port(), free_port())
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def bare(plane: ControlPlane) -> Iterator[ApiServer]:
    """The API server as administrator."""
    with ApiServer(plane.url, plane.pki) as server:
        yield server


@pytest.fixture(scope="session")
def server(bare: ApiServer) -> ApiServer:
    """The API server with our kinds established."""
    for definition in DEFINITIONS:
        bare.install(definition)
    return bare
