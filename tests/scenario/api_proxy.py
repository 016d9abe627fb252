"""A plain-HTTP door to the API server that counts writes and can stop one of them: before it has an effect, or before its answer."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

WRITES = ("POST", "PUT", "PATCH", "DELETE")
#: What every operator writes by itself, whatever its agents need.
OWN_BUSINESS = ("/leases", "/selfsubject", "/koi-operator-device", "/tokenreviews")
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host")


class ApiProxy:
    """Forwards to the API server of a kubeconfig; answers on a port of the loopback interface."""

    def __init__(self, kubeconfig: Path) -> None:
        cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        self.host, _, port = cluster["server"].removeprefix("https://").partition(":")
        self.port = int(port or 443)
        self.trust = ssl.create_default_context(cafile=cluster.get("certificate-authority"))
        if data := cluster.get("certificate-authority-data"):
            import base64

            self.trust.load_verify_locations(cadata=base64.b64decode(data).decode())
        self.writes: list[str] = []
        self._lock = threading.Lock()
        self._stop_at: tuple[int, str, Callable[[], None]] | None = None
        proxy = self

        class Handler(_Handler):
            door = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, original: Path) -> Path:
        """The same rights through this door."""
        config = yaml.safe_load(original.read_text())
        config["clusters"][0]["cluster"] = {"server": self.url}
        target = original.with_name(f"{original.name}-through-proxy")
        target.write_text(yaml.safe_dump(config))
        return target

    def stop_at(self, number: int, when: str, deed: Callable[[], None]) -> None:
        """At the `number`th write from now on (1 is the next one) `deed` is done, before the effect or after it; no answer comes."""
        with self._lock:
            self._stop_at = (len(self.writes) + number, when, deed)

    def forget(self) -> None:
        """No write is stopped any more."""
        with self._lock:
            self._stop_at = None

    def close(self) -> None:
        """The door is shut."""
        self._server.shutdown()

    def count(self, method: str, path: str) -> tuple[str, Callable[[], None]] | None:
        """Counts a write; answers when and how it is stopped."""
        if method not in WRITES or any(part in path for part in OWN_BUSINESS):
            return None
        with self._lock:
            self.writes.append(f"{method} {path.partition('?')[0]}")
            if self._stop_at and self._stop_at[0] == len(self.writes):
                _, when, deed = self._stop_at
                self._stop_at = None
                return when, deed
        return None


class _Handler(BaseHTTPRequestHandler):
    door: ApiProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None: ...

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        stopped = self.door.count(self.command, self.path)
        if stopped and stopped[0] == "before":
            self._break_off(stopped[1])
            return
        upstream = http.client.HTTPSConnection(self.door.host, self.door.port, context=self.door.trust, timeout=600)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        try:
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            if stopped:
                answer.read()
                self._break_off(stopped[1])
                return
            self._answer(answer)
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            upstream.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def _break_off(self, deed: Callable[[], None]) -> None:
        deed()
        self.close_connection = True

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while part := answer.read1(65536):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
