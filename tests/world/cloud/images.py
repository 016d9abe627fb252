"""The machine images of the world, and where SSM publishes the stock one."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from world.machines.base import BAKED_IMAGE, STOCK_IMAGE

UBUNTU_AMI = STOCK_IMAGE
BAKED_AMI = BAKED_IMAGE
CANONICAL = "099720109477"
UBUNTU_PARAMETERS = tuple(
    f"/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/{disk}/ami-id"
    for disk in ("ebs-gp2", "ebs-gp3")
)
ROOT_GIB = 8


def _image(ami_id: str, name: str, description: str, owner: str, public: bool) -> dict[str, Any]:
    return {
        "ami_id": ami_id,
        "state": "available",
        "public": public,
        "owner_id": owner,
        "image_location": f"{owner}/{name}",
        "sriov": "simple",
        "root_device_type": "ebs",
        "root_device_name": "/dev/sda1",
        "description": description,
        "image_type": "machine",
        "platform": None,
        "architecture": "x86_64",
        "name": name,
        "virtualization_type": "hvm",
        "hypervisor": "xen",
        "creation_date": "2026-01-15T04:12:09.000Z",
    }


def write_catalogue(state_dir: pathlib.Path, account: str) -> None:
    """Tells moto, before it is imported, which images exist."""
    images = [
        _image(
            UBUNTU_AMI,
            "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20260115",
            "Canonical, Ubuntu, 22.04 LTS, amd64 jammy image",
            CANONICAL,
            public=True,
        ),
        _image(BAKED_AMI, "koi-baked", "Ubuntu 22.04 with nginx and koi-gateway", account, public=False),
    ]
    path = state_dir / "amis.json"
    path.write_text(json.dumps(images))
    os.environ["MOTO_AMIS_PATH"] = str(path)
