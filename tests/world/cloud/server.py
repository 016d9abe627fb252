"""The shell around moto: reads a request, decides whether it may pass, runs it, answers, logs."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
import secrets
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from . import bedrock, consistency, control, ec2_xml, ids, moto_patches, native
from .authorize import Authorizer
from .call import Call, Principal
from .calls import CallLog
from .cloud import Cloud
from .errors import ApiError, dry_run, render
from .faults import Fault, Faults
from .principals import Principals
from .registry import HANDLERS
from .throttle import Throttle

log = logging.getLogger("world.cloud.server")

Answer = tuple[int, dict[str, str], bytes]
NOBODY = Principal("nobody", "nobody", "", "", "")
PLAIN = {"DescribeInstances", "DescribeInstanceStatus", "DescribeVolumes", "DescribeSnapshots", "RunInstances"}
BODY_LIMIT = 16 * 1024 * 1024


class Dropped(Exception):
    """The connection is cut instead of an answer."""


@dataclasses.dataclass
class Incoming:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    source_ip: str


class Shell:
    def __init__(self, cloud: Cloud, operator_policy: pathlib.Path | None) -> None:
        self.cloud = cloud
        self.principals = Principals(cloud)
        self.authorizer = Authorizer(cloud, self.principals, operator_policy)
        self.throttle = Throttle(cloud.settings)
        self.faults = Faults()
        self.bedrock = bedrock.Bedrock()
        self.calls = CallLog(cloud.state_dir / "calls.jsonl")

    def answer(self, incoming: Incoming) -> Answer:
        """One AWS call, from the first check to the log."""
        request_id, began = secrets.token_hex(16), time.time()
        service = _service(incoming)
        call = Call(
            service,
            _action(incoming),
            {},
            NOBODY,
            "",
            "",
            incoming.body,
            incoming.headers,
            incoming.source_ip,
            request_id,
        )
        fault: Fault | None = None
        try:
            self._identify(call, incoming)
            fault = self.faults.strike(call)
            if fault and fault.when == "before":
                self._suffer(fault, call)
            answer = self._run(call, fault)
            code = ""
        except ApiError as error:
            answer, code = render(service, error, request_id), error.code
        except Dropped:
            self.calls.append(call, began, 0, "dropped", fault.label if fault else "")
            raise
        if fault and fault.when == "after":
            return self._answer_after(call, began, fault, answer, code)
        self.calls.append(call, began, answer[0], code, fault.label if fault else "")
        return answer

    def _answer_after(self, call: Call, began: float, fault: Fault, answer: Answer, code: str) -> Answer:
        """The effect has happened and is logged; only now the answer is lost, late or replaced."""
        shown = (fault.status, fault.code) if fault.code else (answer[0], code)
        self.calls.append(call, began, *shown, fault.label)
        try:
            self._suffer(fault, call)
        except ApiError as error:
            return render(call.service, error, call.request_id)
        return answer

    def _identify(self, call: Call, incoming: Incoming) -> None:
        if call.service not in native.RESPONDERS:
            raise ApiError("UnknownService", f"This world has no service {call.service!r}.", 501)
        call.principal, signed = self.principals.authenticate(
            call.service, incoming.method, incoming.path, incoming.query, incoming.headers, incoming.body
        )
        call.account, call.region = call.principal.account, signed.region
        if not call.action:
            raise ApiError("MissingAction", "The request must contain the parameter Action")
        content_type = incoming.headers.get("content-type", native.FORM)
        call.params = native.parse(call.service, call.action, content_type, incoming.body)

    def _suffer(self, fault: Fault, call: Call) -> None:
        if fault.latency:
            time.sleep(fault.latency)
        if fault.hold and self.faults.hold(fault, call).drop:
            raise Dropped
        if fault.drop:
            raise Dropped
        if fault.code:
            raise ApiError(fault.code, fault.message, fault.status)

    def _run(self, call: Call, fault: Fault | None) -> Answer:
        if fault and fault.shapes:
            doom = tuple(fault.doom) if fault.doom else None
            call.partial = {"hide": fault.hide, "empty_page": fault.empty_page, "doom": doom}
        self.throttle.check(call)
        with self.cloud.lock:
            if call.service == "ec2":
                ids.check_form(call.params)
            self.authorizer.check(call)
            # A launch looks at more than rights before it says so: see launch.py.
            if call.service == "ec2" and call.params.get("DryRun") and call.action != "RunInstances":
                raise dry_run()
            token = moto_patches.tag_view.set(consistency.tag_view(self.cloud, call))
            try:
                result, answer = self._handle(call)
            finally:
                moto_patches.tag_view.reset(token)
        if answer is None:  # plain data: it can be written down without keeping others waiting
            body = ec2_xml.render(call.action, result, call.request_id)
            return 200, {"Content-Type": "text/xml;charset=UTF-8"}, body
        return answer

    def _handle(self, call: Call) -> tuple[Any, Answer | None]:
        """What the handler made, and the finished answer unless it is plain data of EC2's big listings."""
        handler = HANDLERS.get((call.service, call.action))
        try:
            result = handler(self.cloud, call) if handler else native.invoke(call)
            if call.service == "ec2" and call.action in PLAIN:
                return result, None
            return result, native.serialize(call, result)
        except NotImplementedError as error:
            raise ApiError("InvalidParameterValue", f"Not supported: {error}") from error
        except ApiError:
            raise
        except Exception as error:
            log.exception("%s %s", call.service, call.action)
            code = "InternalError" if call.service == "ec2" else "InternalFailure"
            raise ApiError(code, f"{type(error).__name__}: {error}") from error


def _service(incoming: Incoming) -> str:
    found = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/,]+)/", incoming.headers.get("authorization", ""))
    return found[1].lower() if found else _guess(incoming)


def _guess(incoming: Incoming) -> str:
    target = incoming.headers.get("x-amz-target", "")
    if target.startswith("AmazonSSM"):
        return "ssm"
    version = parse_qs(incoming.body.decode("utf-8", "replace")).get("Version", [""])[0]
    return {"2010-05-08": "iam", "2011-06-15": "sts"}.get(version, "ec2")


def _action(incoming: Incoming) -> str:
    if target := incoming.headers.get("x-amz-target"):
        return target.rsplit(".", 1)[-1]
    if incoming.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return parse_qs(incoming.body.decode("utf-8", "replace")).get("Action", [""])[0]
    return parse_qs(incoming.query).get("Action", [""])[0]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], shell: Shell) -> None:
        self.shell = shell
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection of %s ended early", client_address, exc_info=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "world"
    sys_version = ""
    server: Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: Any) -> None: ...

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_LIMIT:
            self.close_connection = True
            self.send(413, {"Content-Type": "text/plain"}, b"too large\n")
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(length) if length else b""
        incoming = Incoming(self.command, path, query, headers, body, self.client_address[0])
        if path.startswith("/_world/"):
            control.serve(self.server.shell, incoming, self)
            return
        if bedrock.serve(self.server.shell, incoming, self):
            return
        try:
            status, found, content = self.server.shell.answer(incoming)
        except Dropped:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send(status, found, content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status: int, body: bytes) -> None:
        self.send(status, {"Content-Type": "application/json"}, body)


def start(server: Server) -> threading.Thread:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="server", daemon=True)
    thread.start()
    return thread
