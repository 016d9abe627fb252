"""Puts the cloud together: hub, handlers, server, metadata service."""

from __future__ import annotations

import argparse
import logging

from world.machines.base import Driver

from . import iam, instances, launch, metadata, power, profiles, security_groups, ssm, sts, tags, volumes
from .accounts import HOME_ACCOUNT, HOME_REGION
from .cloud import Cloud
from .server import Server, Shell
from .server import start as start_server
from .settings import Settings

log = logging.getLogger("world.cloud")

METADATA_ADDRESS = "169.254.169.254"
HANDLER_MODULES = (iam, instances, launch, profiles, security_groups, ssm, sts, tags, volumes)


class Running:
    def __init__(self, shell: Shell, server: Server) -> None:
        self.shell = shell
        self.server = server

    def close(self) -> None:
        self.shell.faults.release_all()
        self.server.shutdown()
        self.server.server_close()
        self.shell.cloud.close()


def start(options: argparse.Namespace, settings: Settings, driver: Driver) -> Running:
    cloud = Cloud(options.name, options.state, driver, settings)
    driver.on_poweroff = lambda instance_id: power.guest_poweroff(cloud, instance_id)  # type: ignore[method-assign]
    cloud.ec2(HOME_ACCOUNT, HOME_REGION)  # loads moto's data now rather than in the first call
    shell = Shell(cloud, options.operator_policy)
    sts.attach(cloud, shell.principals)
    shell.principals.write_credentials(options.state)
    if options.imds:
        from world import imds

        imds.serve(lambda address: metadata.look_up(cloud, shell.principals, address), METADATA_ADDRESS)
    server = Server((options.host, options.port), shell)
    start_server(server)
    port = server.server_address[1]
    (options.state / "port").write_text(f"{port}\n")
    log.info("%d handlers of our own; listening on %s:%d", len(HANDLER_MODULES), options.host, port)
    return Running(shell, server)
