"""Models: `ConverseStream` in its own encoding, held to the caller's policies, answering by rules that a test sets.

A rule is `{"when": TEXT, "say": [STEP, ...]}`. The first rule whose TEXT is in the last message (as JSON; no `when`: always) answers, and what no rule
fits is answered by what was said. A step is one of

    {"text": "..."}  {"thinking": "..."}  {"call": ["exec", {...}]}  a block, streamed in pieces
    {"hold": "NAME"}                      waits until the test releases NAME, or the caller hangs up
    {"refuse": [429, "ThrottlingException", "..."]}   an error instead of a stream; only as the first step
    {"exception": ["throttlingException", "..."]}     an error in the stream
    {"cut": true}                         the connection breaks
"""

from __future__ import annotations

import json
import re
import select
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .call import Call
from .errors import ApiError, render

if TYPE_CHECKING:
    from .server import Handler, Incoming, Shell

PATH = re.compile(r"/model/([^/]+)/converse-stream")
PIECE = 12
HOLD_SECONDS = 120.0
SERVICE, ACTION = "bedrock", "InvokeModelWithResponseStream"

Rule = dict[str, Any]
Step = dict[str, Any]


class Bedrock:
    """What models are to say, and what they were asked."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rules: list[Rule] = []
        self._asked: list[dict[str, Any]] = []
        self._released: set[str] = set()

    def play(self, rules: list[Rule]) -> None:
        """From now on; what was asked until now is forgotten."""
        with self._changed:
            self._rules, self._asked, self._released = list(rules), [], set()

    def release(self, name: str) -> None:
        with self._changed:
            self._released.add(name)
            self._changed.notify_all()

    def asked(self) -> list[dict[str, Any]]:
        with self._changed:
            return [dict(entry) for entry in self._asked]

    def begin(self, model: str, body: dict[str, Any], caller: str) -> tuple[list[Step], dict[str, Any]]:
        """The steps for one question, and its entry among those asked."""
        last = json.dumps((body.get("messages") or [{}])[-1], ensure_ascii=False)
        entry = {"model": model, "body": body, "caller": caller, "state": "open", "held": ""}
        with self._changed:
            self._asked.append(entry)
            rule = next((rule for rule in self._rules if rule.get("when", "") in last), None)
        return (rule["say"] if rule else [{"text": f"I heard: {_words(body)}"}]), entry

    def note(self, entry: dict[str, Any], **changes: str) -> None:
        with self._changed:
            entry.update(changes)

    def held(self, name: str, hung_up: Any) -> bool:
        """Waits for the release; False when the caller went away before."""
        end = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < end:
            with self._changed:
                if name in self._released or self._changed.wait_for(lambda: name in self._released, 0.05):
                    return True
            if hung_up():
                return False
        return False


def _words(body: dict[str, Any]) -> str:
    parts = (body.get("messages") or [{}])[-1].get("content") or []
    return " ".join(part["text"] for part in parts if "text" in part)[:200]


# the wire


def frame(headers: dict[str, str], payload: dict[str, Any]) -> bytes:
    """One message of the event-stream encoding."""
    packed = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    content = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(packed) + len(content), len(packed))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + packed + content
    return message + struct.pack(">I", zlib.crc32(message))


def event(name: str, payload: dict[str, Any]) -> bytes:
    return frame({":message-type": "event", ":event-type": name, ":content-type": "application/json"}, payload)


def exception(name: str, message: str) -> bytes:
    kind = {":message-type": "exception", ":exception-type": name, ":content-type": "application/json"}
    return frame(kind, {"message": message})


def _pieces(text: str) -> Iterator[str]:
    yield from (text[at : at + PIECE] for at in range(0, max(len(text), 1), PIECE))


def _block(index: int, step: Step) -> Iterator[bytes]:
    """A block of what is said."""
    if "call" in step:
        name, arguments = step["call"]
        start = {"toolUse": {"toolUseId": f"tooluse_{index}_{time.monotonic_ns():x}", "name": name}}
        yield event("contentBlockStart", {"contentBlockIndex": index, "start": start})
        deltas: list[dict[str, Any]] = [{"toolUse": {"input": piece}} for piece in _pieces(json.dumps(arguments))]
    elif "thinking" in step:
        deltas = [{"reasoningContent": {"text": piece}} for piece in _pieces(step["thinking"])]
        deltas.append({"reasoningContent": {"signature": "c2lnbmVk"}})
    else:
        deltas = [{"text": piece} for piece in _pieces(step["text"])]
    for delta in deltas:
        yield event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})
    yield event("contentBlockStop", {"contentBlockIndex": index})


def _ending(calls: bool, body: dict[str, Any]) -> Iterator[bytes]:
    yield event("messageStop", {"stopReason": "tool_use" if calls else "end_turn"})
    read = len(json.dumps(body)) // 4
    usage = {"inputTokens": 11, "outputTokens": 7, "cacheReadInputTokens": read, "cacheWriteInputTokens": 5}
    total = sum(usage.values())
    yield event("metadata", {"usage": {**usage, "totalTokens": total}, "metrics": {"latencyMs": 5}})


# the door


def serve(shell: Shell, incoming: Incoming, handler: Handler) -> bool:
    """Answers a question to a model; False when the request is none."""
    found = PATH.fullmatch(incoming.path)
    if not found or incoming.method != "POST":
        return False
    model, began = unquote(found[1]), time.time()
    nobody = shell.principals.operator()
    call = Call(
        SERVICE, ACTION, {"modelId": model}, nobody, "", "", b"", incoming.headers, incoming.source_ip, "bedrock"
    )
    try:
        call.principal, signed = shell.principals.authenticate(
            SERVICE, incoming.method, incoming.path, incoming.query, incoming.headers, incoming.body
        )
        call.account, call.region = call.principal.account, signed.region
        with shell.cloud.lock:
            shell.authorizer.check(call)
        steps, entry = shell.bedrock.begin(model, json.loads(incoming.body), call.principal.name)
        if steps and "refuse" in steps[0]:
            status, code, message = steps[0]["refuse"]
            raise ApiError(code, message, status)
    except ApiError as error:
        shell.calls.append(call, began, error.status, error.code, "")
        handler.send(*render(SERVICE, error, call.request_id))
        return True
    shell.calls.append(call, began, 200, "", "")
    handler.close_connection = True
    try:
        _stream(shell.bedrock, steps, entry, handler)
    except OSError:
        shell.bedrock.note(entry, state="hung up")
    return True


def _stream(bedrock: Bedrock, steps: list[Step], entry: dict[str, Any], handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/vnd.amazon.eventstream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()

    def send(message: bytes) -> None:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(message), message))
        handler.wfile.flush()

    send(event("messageStart", {"role": "assistant"}))
    for index, step in enumerate(steps):
        if "hold" in step:
            bedrock.note(entry, held=step["hold"])
            if not bedrock.held(step["hold"], lambda: _hung_up(handler)):
                bedrock.note(entry, state="hung up")
                return
        elif "exception" in step:
            send(exception(*step["exception"]))
        elif "cut" in step:
            bedrock.note(entry, state="cut")
            return
        else:
            for message in _block(index, step):
                send(message)
    for message in _ending(any("call" in step for step in steps), entry["body"]):
        send(message)
    handler.wfile.write(b"0\r\n\r\n")
    bedrock.note(entry, state="answered")


def _hung_up(handler: Handler) -> bool:
    """A caller that has asked says nothing more: what can be read is the end."""
    readable, _, _ = select.select([handler.connection], [], [], 0)
    return bool(readable)
