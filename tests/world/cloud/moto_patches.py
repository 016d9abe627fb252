"""Changes inside moto that no shell around it can make: look-ups in constant time, states and sizes that we own."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

from moto.ec2.models import elastic_block_store as ebs
from moto.ec2.models import iam_instance_profile as profiles
from moto.ec2.models import instances as ec2_instances
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

#: which tags the caller of the moment may see; set by the shell for the time of one call
TagView = Callable[[Any, str], dict[str, str]]
tag_view: contextvars.ContextVar[TagView | None] = contextvars.ContextVar("tag_view", default=None)


def _get_tags(self: Any) -> list[dict[str, str]]:
    if not self.id:
        return []
    view = tag_view.get()
    tags = view(self.ec2_backend, self.id) if view else self.ec2_backend.tags.get(self.id, {})
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(self.id), "")
    return [{"resource_id": self.id, "key": k, "value": v, "resource_type": kind} for k, v in list(tags.items())]


_linear_get_instance = ec2_instances.InstanceBackend.get_instance


def _get_instance(self: Any, instance_id: str) -> Any:
    index = self.__dict__.setdefault("world_instances", {})
    found = index.get(instance_id)
    if found is None:
        found = index[instance_id] = _linear_get_instance(self, instance_id)
    return found


def _volume_status(volume: Any) -> str:
    return getattr(volume, "world_phase", None) or ("in-use" if volume.attachment else "available")


def _profile_association_init(self: Any, backend: Any, association_id: str, instance: Any, profile: Any) -> None:
    self.ec2_backend = backend
    self.association_id = association_id
    self.instance = instance
    self.instance_id = instance.id
    self.iam_instance_profile = profile
    self.state = "associating"
    instance.iam_instance_profile = {"Arn": profile.arn, "Id": profile.id}


def apply() -> None:
    TaggedEC2Resource.get_tags = _get_tags  # type: ignore[method-assign]
    ec2_instances.InstanceBackend.get_instance = _get_instance  # type: ignore[method-assign]
    ec2_instances.Instance.__del__ = lambda self: None  # type: ignore[method-assign]  # we give addresses back ourselves
    ec2_instances.Instance.private_ip = property(  # type: ignore[method-assign,assignment]
        lambda self: self.nics[0].private_ip_address if 0 in self.nics else None
    )
    ec2_instances.Instance.public_ip = property(  # type: ignore[method-assign,assignment]
        lambda self: self.nics[0].public_ip if 0 in self.nics else None
    )
    ebs.Volume.status = property(_volume_status)  # type: ignore[method-assign,assignment]
    ebs.Snapshot.volume_size = property(  # type: ignore[method-assign,assignment]
        lambda self: getattr(self, "world_size", None) or self.volume.size
    )
    ebs.Snapshot.progress = property(  # type: ignore[method-assign,assignment]
        lambda self: "100%" if self.status == "completed" else "0%"
    )
    ebs.VolumeModification.modification_state = property(  # type: ignore[method-assign,assignment]
        lambda self: getattr(self, "world_state", "completed")
    )
    ebs.VolumeModification.progress = property(  # type: ignore[method-assign,assignment]
        lambda self: 100 if getattr(self, "world_state", "completed") == "completed" else 0
    )
    profiles.IamInstanceProfileAssociation.__init__ = _profile_association_init  # type: ignore[method-assign]
