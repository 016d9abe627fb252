"""Waiting for a condition with a deadline; the failure says what was last seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: What all deadlines are multiplied with, where programs run under an instrument that slows them down.
patience = 1.0


def until(
    what: str, look: Callable[[], T], seconds: float = 60.0, every: float = 0.1, seen: Callable[[], Any] | None = None
) -> T:
    """Looks until the look is truthy and returns it. An exception of the look counts as not yet."""
    seconds *= patience
    deadline = time.monotonic() + seconds
    last: Any = None
    while True:
        try:
            result = look()
            if result:
                return result
            last = result
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown when time is up
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last seen: {seen() if seen else last!r}")
        time.sleep(every)
