"""Errors as AWS spells them, and how each wire protocol carries them."""

from __future__ import annotations

import json
from xml.sax.saxutils import escape

STATUS = {
    "AccessDenied": 403,
    "AuthFailure": 401,
    "ConcurrentModification": 409,
    "DeleteConflict": 409,
    "DryRunOperation": 412,
    "EntityAlreadyExists": 409,
    "EntityTemporarilyUnmodifiable": 409,
    "ExpiredToken": 403,
    "IncompleteSignature": 400,
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "InternalFailure": 500,
    "InvalidClientTokenId": 403,
    "LimitExceeded": 409,
    "MissingAuthenticationToken": 403,
    "NoSuchEntity": 404,
    "RequestLimitExceeded": 503,
    "ServiceFailure": 500,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "UnauthorizedOperation": 403,
    "Unavailable": 503,
}

PROTOCOLS = {"ec2": "ec2", "iam": "query", "sts": "query"}  # every other service that we speak is JSON


class ApiError(Exception):
    """A refusal that the caller sees."""

    def __init__(self, code: str, message: str, status: int | None = None):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status if status is not None else STATUS.get(code, 400)


def dry_run() -> ApiError:
    """The answer to a call that is allowed and only asked for."""
    return ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")


def render(service: str, error: ApiError, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """The answer (status, headers, body) that carries the error in the service's protocol."""
    protocol = PROTOCOLS.get(service, "json")
    code, message = escape(error.code), escape(error.message)
    if protocol == "ec2":
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
            f"<Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
        return error.status, {"Content-Type": "text/xml;charset=UTF-8"}, body.encode()
    if protocol == "query":
        kind = "Sender" if error.status < 500 else "Receiver"
        body = (
            f"<ErrorResponse><Error><Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return error.status, {"Content-Type": "text/xml"}, body.encode()
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "x-amzn-ErrorType": error.code,
        "x-amzn-RequestId": request_id,
    }
    return error.status, headers, json.dumps({"__type": error.code, "message": error.message}).encode()
