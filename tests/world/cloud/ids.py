"""Identifiers of EC2: what a well-formed one looks like, and the error for each kind."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from .errors import ApiError


@dataclasses.dataclass(frozen=True)
class Kind:
    prefix: str
    malformed: str
    missing: str
    noun: str
    resource: str  # in ARNs and tag specifications

    def well_formed(self, value: str) -> bool:
        return re.fullmatch(rf"{self.prefix}-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}})", value) is not None

    def malformed_error(self, value: str) -> ApiError:
        return ApiError(self.malformed, f'Invalid id: "{value}" (expecting "{self.prefix}-...")')

    def missing_error(self, values: list[str]) -> ApiError:
        listed = ", ".join(values)
        if len(values) > 1:
            return ApiError(self.missing, f"The {self.noun}s '{listed}' do not exist")
        return ApiError(self.missing, f"The {self.noun} '{listed}' does not exist")


INSTANCE = Kind("i", "InvalidInstanceID.Malformed", "InvalidInstanceID.NotFound", "instance ID", "instance")
VOLUME = Kind("vol", "InvalidVolumeID.Malformed", "InvalidVolume.NotFound", "volume", "volume")
SNAPSHOT = Kind("snap", "InvalidSnapshotID.Malformed", "InvalidSnapshot.NotFound", "snapshot", "snapshot")
GROUP = Kind("sg", "InvalidGroupId.Malformed", "InvalidGroup.NotFound", "security group", "security-group")
SUBNET = Kind("subnet", "InvalidSubnetID.Malformed", "InvalidSubnetID.NotFound", "subnet ID", "subnet")
VPC = Kind("vpc", "InvalidVpcID.Malformed", "InvalidVpcID.NotFound", "vpc ID", "vpc")
IMAGE = Kind("ami", "InvalidAMIID.Malformed", "InvalidAMIID.NotFound", "image id", "image")
INTERFACE = Kind(
    "eni",
    "InvalidNetworkInterfaceId.Malformed",
    "InvalidNetworkInterfaceID.NotFound",
    "networkInterface ID",
    "network-interface",
)
KINDS = (INSTANCE, VOLUME, SNAPSHOT, GROUP, SUBNET, VPC, IMAGE, INTERFACE)

PARAMETERS: dict[str, Kind] = {
    "InstanceId": INSTANCE,
    "InstanceIds": INSTANCE,
    "VolumeId": VOLUME,
    "VolumeIds": VOLUME,
    "SnapshotId": SNAPSHOT,
    "SnapshotIds": SNAPSHOT,
    "GroupId": GROUP,
    "GroupIds": GROUP,
    "SecurityGroupIds": GROUP,
    "SubnetId": SUBNET,
    "SubnetIds": SUBNET,
    "VpcId": VPC,
    "VpcIds": VPC,
    "ImageId": IMAGE,
    "ImageIds": IMAGE,
    "NetworkInterfaceId": INTERFACE,
    "NetworkInterfaceIds": INTERFACE,
}


def kind_of(resource_id: str) -> Kind | None:
    prefix = resource_id.rsplit("-", 1)[0]
    return next((kind for kind in KINDS if kind.prefix == prefix), None)


def ids_in(params: dict[str, Any]) -> list[tuple[Kind, str]]:
    """Every identifier that the top level of a request names."""
    found = []
    for name, kind in PARAMETERS.items():
        value = params.get(name)
        values = value if isinstance(value, list) else [value] if value is not None else []
        found += [(kind, str(item)) for item in values]
    return found


def check_form(params: dict[str, Any]) -> None:
    for kind, value in ids_in(params):
        if not kind.well_formed(value):
            raise kind.malformed_error(value)
