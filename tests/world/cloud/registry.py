"""Which function handles which action; what nobody handles goes to moto as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .call import Call
from .cloud import Cloud

Handler = Callable[[Cloud, Call], Any]
HANDLERS: dict[tuple[str, str], Handler] = {}


def handles(service: str, *actions: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        for action in actions:
            HANDLERS[(service, action)] = handler
        return handler

    return register
