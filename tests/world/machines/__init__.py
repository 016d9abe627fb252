"""Drivers: what runs the machines of a world."""

from __future__ import annotations

from pathlib import Path

from .base import Driver

KINDS = ("nspawn", "process", "none")


def open_driver(kind: str, name: str, state_dir: Path, endpoint_for_machines: str) -> Driver:
    """The driver of world `name`; it keeps machines, volumes and snapshots below `state_dir`.

    Call it inside the world's network namespace. `endpoint_for_machines` is where machines find the cloud.
    """
    if kind == "nspawn":
        from .nspawn import NspawnDriver

        return NspawnDriver(name, Path(state_dir), endpoint_for_machines)
    if kind == "process":
        from .process import ProcessDriver

        return ProcessDriver(name, Path(state_dir), endpoint_for_machines)
    if kind == "none":
        from .none import NoneDriver

        return NoneDriver()
    raise ValueError(f"no such driver: {kind!r}; there are: {', '.join(KINDS)}")
