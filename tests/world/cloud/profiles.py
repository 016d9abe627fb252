"""Instance profiles on instances, and how long EC2 takes to hear of them."""

from __future__ import annotations

from typing import Any

from . import consistency, paging
from .call import Call
from .cloud import Cloud, Machine
from .errors import ApiError
from .registry import handles


def fresh_key(account: str, name: str) -> str:
    """Under this key the last change of a profile (creation, role added) is remembered."""
    return f"ec2-sees-profile/{account}/{name}"


def usable_profile(cloud: Cloud, call: Call, wanted: dict[str, Any] | None) -> Any | None:
    """The profile that a launch or an association names, if EC2 already knows it and it has a role."""
    if not wanted:
        return None
    name, arn = wanted.get("Name"), wanted.get("Arn")
    if name and arn:
        raise ApiError("InvalidParameterCombination", "The parameter 'arn' may not be used in combination with 'name'")
    value, which = (arn, "arn") if arn else (name, "name")
    spelled = "ARN" if which == "arn" else "name"
    unknown = ApiError(
        "InvalidParameterValue",
        f"Value ({value}) for parameter iamInstanceProfile.{which} is invalid. Invalid IAM Instance Profile {spelled}",
    )
    found = next((p for p in cloud.iam(call.account).instance_profiles.values() if value in (p.name, p.arn)), None)
    if found is None or (which == "arn" and found.arn != value) or (which == "name" and found.name != value):
        raise unknown
    changed = cloud.born.get(fresh_key(call.account, found.name))
    if changed is not None and cloud.clock.now() - changed < cloud.settings.iam_lag:
        raise unknown
    if not found.roles:
        raise ApiError("InvalidParameterValue", f'IAM Instance Profile "{found.arn}" has no associated IAM Roles')
    return found


def associate(cloud: Cloud, backend: Any, machine: Machine, profile: Any) -> Any:
    if machine.id in backend.iam_instance_profile_associations:
        raise ApiError("IncorrectState", f"There is an existing association for instance {machine.id}")
    association = backend.associate_iam_instance_profile(machine.id, iam_instance_profile_name=profile.name)
    machine.credentials = None
    _settle(cloud, association)
    return association


def _settle(cloud: Cloud, association: Any) -> None:
    def settled() -> None:
        if association.state == "associating":
            association.state = "associated"

    cloud.after_transit(cloud.clock.now(), settled)


def _view(association: Any) -> dict[str, Any]:
    profile = association.iam_instance_profile
    return {
        "AssociationId": association.association_id,
        "InstanceId": association.instance_id,
        "IamInstanceProfile": {"Arn": profile.arn, "Id": profile.id},
        "State": association.state,
    }


def _by_id(backend: Any, association_id: str | None) -> Any:
    for association in backend.iam_instance_profile_associations.values():
        if association.association_id == association_id:
            return association
    raise ApiError("InvalidAssociationID.NotFound", f"An invalid association-id of '{association_id}' was given")


@handles("ec2", "AssociateIamInstanceProfile")
def associate_profile(cloud: Cloud, call: Call) -> Any:
    machine = consistency.named_machine(cloud, call)
    if machine.state not in ("running", "stopped"):
        raise ApiError(
            "IncorrectInstanceState", f"The instance '{machine.id}' is not in the 'running' or 'stopped' states."
        )
    profile = usable_profile(cloud, call, call.params.get("IamInstanceProfile"))
    if profile is None:
        raise ApiError("MissingParameter", "The request must contain the parameter IamInstanceProfile")
    association = associate(cloud, cloud.ec2_of(call), machine, profile)
    return {"IamInstanceProfileAssociation": _view(association)}


@handles("ec2", "DisassociateIamInstanceProfile")
def disassociate_profile(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    association = _by_id(backend, call.params.get("AssociationId"))
    backend.disassociate_iam_instance_profile(association.association_id)
    association.state = "disassociated"
    if machine := cloud.machines.get(association.instance_id):
        machine.credentials = None
    return {"IamInstanceProfileAssociation": {**_view(association), "State": "disassociating"}}


@handles("ec2", "ReplaceIamInstanceProfileAssociation")
def replace_profile(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    association = _by_id(backend, call.params.get("AssociationId"))
    machine = cloud.machines[association.instance_id]
    if machine.state != "running":
        raise ApiError("IncorrectInstanceState", f"The instance '{machine.id}' is not in the 'running' state.")
    profile = usable_profile(cloud, call, call.params.get("IamInstanceProfile"))
    if profile is None:
        raise ApiError("MissingParameter", "The request must contain the parameter IamInstanceProfile")
    backend.disassociate_iam_instance_profile(association.association_id)
    return {"IamInstanceProfileAssociation": _view(associate(cloud, backend, machine, profile))}


@handles("ec2", "DescribeIamInstanceProfileAssociations")
def describe_associations(cloud: Cloud, call: Call) -> Any:
    backend = cloud.ec2_of(call)
    associations = list(backend.iam_instance_profile_associations.values())
    if wanted := call.params.get("AssociationIds"):
        associations = [_by_id(backend, association_id) for association_id in wanted]
    known: dict[str, paging.Values] = {"instance-id": lambda a: [a.instance_id], "state": lambda a: [a.state]}
    associations = paging.keep(associations, paging.parse_filters(call), known, lambda _: [])
    associations, token = paging.page(call, associations, lambda a: a.association_id)
    return {"IamInstanceProfileAssociations": [_view(a) for a in associations], "NextToken": token}
