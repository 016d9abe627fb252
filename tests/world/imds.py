"""The instance metadata service: one server for all machines of a world, which it tells apart by source address."""

from __future__ import annotations

import http.server
import json
import secrets
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable

from .machines.base import Metadata

Lookup = Callable[[str], Metadata | None]

TOKEN_PATH = "/latest/api/token"
TOKEN_HEADER = "X-aws-ec2-metadata-token"
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
MAX_TTL = 21600
VERSIONS = ("1.0", "2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
JSON_MARK = "__json__"


class Tokens:
    """Session tokens; each is good for the machine that asked for it, for the time that it asked for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._issued: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def issue(self, source: str, ttl: int) -> str:
        token = secrets.token_urlsafe(40)
        with self._lock:
            now = self._clock()
            self._issued = {t: entry for t, entry in self._issued.items() if entry[1] > now}
            self._issued[token] = (source, now + ttl)
        return token

    def valid(self, token: str, source: str) -> bool:
        with self._lock:
            owner, expires = self._issued.get(token, ("", 0.0))
        return owner == source and expires > self._clock()


def serve(lookup: Lookup, address: str = "169.254.169.254", port: int = 80) -> http.server.ThreadingHTTPServer:
    """Starts to answer on `address`, in threads of its own. `lookup` is asked anew for each request.

    Call `shutdown()` and `server_close()` on the result to end it.
    """
    tokens = Tokens(time.monotonic)

    class Handler(MetadataHandler):
        pass

    Handler.lookup = staticmethod(lookup)
    Handler.tokens = tokens
    server = _Server((address, port), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="imds", daemon=True).start()
    return server


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        # The stock method looks the host name up, which takes long where there is no resolver.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address


class MetadataHandler(http.server.BaseHTTPRequestHandler):
    """Answers one connection of one machine."""

    lookup: Lookup
    tokens: Tokens
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "EC2ws", ""
    timeout = 60
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the machines ask often, and what they ask can be a secret's name."""

    def do_PUT(self) -> None:  # noqa: N802 (the base class wants this name)
        source, metadata = self._caller()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if metadata is None or self.path.rstrip("/") != TOKEN_PATH:
            return self._answer(404)
        # A proxy that forwards blindly must not be able to get a token.
        if not metadata.http_endpoint or self.headers.get("X-Forwarded-For"):
            return self._answer(403)
        ttl = _ttl(self.headers.get(TTL_HEADER))
        if ttl is None:
            return self._answer(400)
        # The hop limit is the IP TTL of this answer: a container behind a router does not get it when it is 1.
        self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, metadata.hop_limit)
        self._answer(200, self.tokens.issue(source, ttl).encode(), headers={TTL_HEADER: str(ttl)})

    def do_GET(self) -> None:  # noqa: N802
        source, metadata = self._caller()
        if metadata is None:
            return self._answer(404)
        if not metadata.http_endpoint:
            return self._answer(403)
        token = self.headers.get(TOKEN_HEADER)
        if token is None and metadata.http_tokens_required:
            return self._answer(401)
        if token is not None and not self.tokens.valid(token, source):
            return self._answer(401)
        self._answer(*resolve(metadata, urllib.parse.unquote(self.path.split("?")[0])))

    do_HEAD = do_GET

    def do_POST(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(405)

    def _caller(self) -> tuple[str, Metadata | None]:
        source = self.client_address[0]
        return source, type(self).lookup(source)

    def _answer(self, status: int, body: bytes = b"", kind: str = "text/plain", headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def resolve(metadata: Metadata, path: str) -> tuple[int, bytes, str]:
    """Status, body and content type for a GET of `path`."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        return _text("\n".join(VERSIONS))
    if parts[0] not in VERSIONS:
        return _missing()
    document = {
        "dynamic": {"instance-identity": {"document": {JSON_MARK: True, **metadata.identity_document}}},
        "meta-data": metadata.tree,
    }
    if parts[1:] == ["user-data"]:
        return _missing() if metadata.user_data is None else (200, metadata.user_data, "application/octet-stream")
    if not parts[1:]:
        return _text("dynamic\nmeta-data" + ("\nuser-data" if metadata.user_data is not None else ""))
    node: object = document
    for part in parts[1:]:
        if not isinstance(node, dict) or node.get(JSON_MARK) or part not in node:
            return _missing()
        node = node[part]
    return _render(node)


def _render(node: object) -> tuple[int, bytes, str]:
    if not isinstance(node, dict):
        return _text(str(node))
    if node.get(JSON_MARK):
        content = {name: value for name, value in node.items() if name != JSON_MARK}
        return 200, json.dumps(content, indent=2).encode(), "application/json"
    return _text("\n".join(name + ("/" if _is_directory(child) else "") for name, child in node.items()))


def _is_directory(node: object) -> bool:
    return isinstance(node, dict) and not node.get(JSON_MARK)


def _text(text: str) -> tuple[int, bytes, str]:
    return 200, text.encode(), "text/plain"


def _missing() -> tuple[int, bytes, str]:
    return 404, b"", "text/plain"


def _ttl(header: str | None) -> int | None:
    if header and header.isascii() and header.isdigit() and 1 <= int(header) <= MAX_TTL:
        return int(header)
    return None
