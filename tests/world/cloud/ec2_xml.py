"""A fast way from plain data to EC2's XML: listings of a thousand instances must not hold up everybody else."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from .native import service_model

Writer = Callable[[Any, list[str]], None]
NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"


class NotPlain(TypeError):
    """The value holds moto's own objects, which only moto's serializer understands."""


def render(action: str, value: dict[str, Any], request_id: str) -> bytes:
    """The body of a successful answer; raises NotPlain when it cannot be made this way."""
    out = [f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{NAMESPACE}">']
    out.append(f"<requestId>{request_id}</requestId>")
    _writer(action)(value, out)
    out.append(f"</{action}Response>")
    return "".join(out).encode()


@functools.cache
def _writer(action: str) -> Writer:
    return _structure(service_model("ec2").operation_model(action).output_shape, {})


def _compile(shape: Any, known: dict[str, Writer]) -> Writer:
    if shape.type_name == "structure":
        return _structure(shape, known)
    if shape.type_name == "list":
        return _list(shape, known)
    return _scalar


def _structure(shape: Any, known: dict[str, Writer]) -> Writer:
    if shape.name in known:
        return known[shape.name]
    members: dict[str, tuple[str, str, Writer]] = {}

    def write(value: Any, out: list[str]) -> None:
        if not isinstance(value, dict):
            raise NotPlain(type(value).__name__)
        for name, item in value.items():
            if item is None or name not in members:
                continue
            start, end, inner = members[name]
            out.append(start)
            inner(item, out)
            out.append(end)

    known[shape.name] = write  # before the members: a shape may contain itself
    for name, member in shape.members.items():
        tag = member.serialization.get("name", name)
        members[name] = (f"<{tag}>", f"</{tag}>", _compile(member, known))
    return write


def _list(shape: Any, known: dict[str, Writer]) -> Writer:
    tag = shape.member.serialization.get("name", "item")
    inner = _compile(shape.member, known)

    def write(value: Any, out: list[str]) -> None:
        if not isinstance(value, (list, tuple)):
            raise NotPlain(type(value).__name__)
        for item in value:
            out.append(f"<{tag}>")
            inner(item, out)
            out.append(f"</{tag}>")

    return write


def _scalar(value: Any, out: list[str]) -> None:
    if value is True or value is False:
        out.append("true" if value else "false")
    elif isinstance(value, datetime.datetime):
        out.append(value.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
    elif isinstance(value, (str, int, float)):
        out.append(escape(str(value)))
    else:
        raise NotPlain(type(value).__name__)
