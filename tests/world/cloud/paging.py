"""Filters and pages of listings."""

from __future__ import annotations

import base64
import fnmatch
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from .call import Call
from .errors import ApiError

Values = Callable[[Any], Iterable[Any]]


def parse_filters(call: Call) -> list[tuple[str, list[str]]]:
    filters = []
    for item in call.params.get("Filters") or call.params.get("Filter") or []:
        name = item.get("Name")
        if not name:
            raise ApiError("InvalidParameterValue", "The filter 'null' is invalid")
        values = [str(value) for value in item.get("Values") or []]
        if len(values) > 200:
            raise ApiError(
                "FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200"
            )
        filters.append((name, values))
    return filters


@functools.lru_cache(maxsize=4096)
def _pattern(value: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(value.replace("[", "[[]")))


def matches(value: Any, wanted: list[str]) -> bool:
    text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return any(text == w or (("*" in w or "?" in w) and _pattern(w).match(text) is not None) for w in wanted)


def keep(items: list[Any], filters: list[tuple[str, list[str]]], known: dict[str, Values], tags: Values) -> list[Any]:
    """The items that match every filter; a filter that nobody knows is refused."""
    for name, wanted in filters:
        values = _accessor(name, known, tags)
        items = [item for item in items if any(matches(v, wanted) for v in values(item) if v is not None)]
    return items


def _accessor(name: str, known: dict[str, Values], tags: Values) -> Values:
    if name.startswith("tag:"):
        key = name[4:]
        return lambda item: [v for k, v in tags(item) if k == key]
    if name == "tag-key":
        return lambda item: [k for k, _ in tags(item)]
    if name == "tag-value":
        return lambda item: [v for _, v in tags(item)]
    if name not in known:
        raise ApiError("InvalidParameterValue", f"The filter '{name}' is invalid")
    return known[name]


def _scope(call: Call) -> str:
    scope = json.dumps([call.action, call.account, call.region, parse_filters(call)])
    return hashlib.sha256(scope.encode()).hexdigest()[:16]


def _encode(call: Call, position: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([_scope(call), position]).encode()).decode()


def _decode(call: Call, token: str) -> str:
    try:
        scope, position = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError) as error:
        raise ApiError("InvalidParameterValue", "Unable to parse pagination token") from error
    if scope != _scope(call) or not isinstance(position, str):
        raise ApiError("InvalidParameterValue", "The pagination token belongs to another request")
    return position


def check_size(call: Call, low: int, high: int) -> int | None:
    size = call.params.get("MaxResults")
    if size is None:
        return None
    if not low <= int(size) <= high:
        bound = f"greater than {low}" if int(size) < low else f"lower than {high}"
        raise ApiError(
            "InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value {bound}."
        )
    return int(size)


def refuse_ids_with_size(call: Call, parameter: str, spelled: str) -> None:
    if call.params.get(parameter) and call.params.get("MaxResults") is not None:
        raise ApiError(
            "InvalidParameterCombination",
            f"The parameter {spelled} cannot be used with the parameter maxResults",
        )


def page(
    call: Call, items: list[Any], key: Callable[[Any], str], low: int = 5, high: int = 1000
) -> tuple[list[Any], str | None]:
    """One page; `key` orders the items and survives when others come and go between two pages."""
    size = check_size(call, low, high)
    items = sorted(items, key=key)
    if token := call.params.get("NextToken"):
        position = _decode(call, token)
        items = [item for item in items if key(item) > position]
    else:
        position = ""
    if call.partial:
        return _partial_page(call, items, key, size, position)
    if size is None or len(items) <= size:
        return items, None
    return items[:size], _encode(call, key(items[size - 1]))


def _partial_page(
    call: Call, items: list[Any], key: Callable[[Any], str], size: int | None, position: str
) -> tuple[list[Any], str | None]:
    """What a fault leaves of a listing: an empty page that goes on, or some items missing."""
    partial = call.partial or {}
    if partial.get("empty_page"):
        return [], _encode(call, position)
    hidden = partial.get("hide")
    if isinstance(hidden, (int, float)) and not isinstance(hidden, bool):
        items = items[round(len(items) * float(hidden)) :]
    elif isinstance(hidden, list):
        items = [item for item in items if not any(str(h) in key(item) for h in hidden)]
    call.partial = None
    if size is None or len(items) <= size:
        return items, None
    return items[:size], _encode(call, key(items[size - 1]))
