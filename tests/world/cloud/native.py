"""The door to moto: parse a request, run moto's own handler, serialize a result."""

from __future__ import annotations

from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.model import ServiceModel
from moto.core.parse import PROTOCOL_PARSERS, RequestParserError
from moto.core.request import Request, determine_request_protocol
from moto.core.responses import ActionResult, BaseResponse
from moto.core.utils import camelcase_to_underscores, get_service_model
from moto.ec2.responses import EC2Response
from moto.iam.responses import IamResponse
from moto.kms.responses import KmsResponse
from moto.ssm.responses import SimpleSystemManagerResponse
from moto.sts.responses import TokenResponse
from werkzeug.exceptions import HTTPException

from .call import Call
from .errors import PROTOCOLS, ApiError

RESPONDERS: dict[str, type[BaseResponse]] = {
    "ec2": EC2Response,
    "iam": IamResponse,
    "kms": KmsResponse,
    "ssm": SimpleSystemManagerResponse,
    "sts": TokenResponse,
}
CONTENT_TYPES = {"json": "application/x-amz-json-1.1"}
FORM = "application/x-www-form-urlencoded; charset=utf-8"


def service_model(service: str) -> ServiceModel:
    return get_service_model(service)


def parse(service: str, action: str, content_type: str, body: bytes) -> dict[str, Any]:
    """The parameters as the service's model names them."""
    model = service_model(service)
    if action not in model.operation_names:
        raise unknown_action(service, action)
    protocol = determine_request_protocol(model, content_type)
    request = _request(content_type, body, {})
    parser = PROTOCOL_PARSERS[protocol](model.operation_model(action), map_type=dict)
    try:
        return parser.parse(
            {
                "method": "POST",
                "values": request.values,
                "headers": request.headers,
                "body": body,
                "url_path": "/",
                "url_params": {},
            }
        )
    except (RequestParserError, ValueError, TypeError, AttributeError, KeyError) as error:
        code = "SerializationException" if protocol == "json" else "InvalidParameterValue"
        raise ApiError(code, f"The request could not be read: {error}") from error


def unknown_action(service: str, action: str) -> ApiError:
    if service in PROTOCOLS:
        return ApiError("InvalidAction", f"The action {action} is not valid for this web service.")
    return ApiError("UnknownOperationException", f"Unknown operation {action}")


def _request(content_type: str, body: bytes, headers: dict[str, str]) -> Request:
    fields = {"Host": "amazonaws.com", "Content-Type": content_type, **headers}
    return Request.from_primitives("POST", "http://amazonaws.com/", fields, body)


def responder(call: Call) -> BaseResponse:
    """moto's handler object for this call, set up but not run."""
    response = RESPONDERS[call.service]()
    headers = {
        "x-moto-account-id": call.account,
        "Authorization": f"AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260101/{call.region}/{call.service}/aws4_request",
    }
    if target := call.headers.get("x-amz-target"):
        headers["X-Amz-Target"] = target
    response.setup_class(_request(call.headers.get("content-type", FORM), call.body, headers))
    return response


def invoke(call: Call) -> Any:
    """moto's own answer to the call, not yet serialized."""
    response = responder(call)
    method = getattr(response, camelcase_to_underscores(call.action), None)
    if method is None:
        raise unknown_action(call.service, call.action)
    answer = translated(method)
    if isinstance(answer, ActionResult):
        return answer.result
    return RawAnswer(answer)


def translated(method: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs a piece of moto; its errors come out as ApiError."""
    try:
        return method(*args, **kwargs)
    except ServiceException as error:
        raise ApiError(error.code, str(error.message)) from error
    except HTTPException as error:
        code = getattr(error, "error_type", None) or getattr(error, "code", "InternalError")
        raise ApiError(str(code), str(getattr(error, "message", error)), error.code or 400) from error


class RawAnswer:
    """An answer that moto has serialized itself (older handlers)."""

    def __init__(self, answer: Any) -> None:
        status, headers, body = answer if isinstance(answer, tuple) and len(answer) == 3 else (200, {}, answer)
        if isinstance(answer, tuple) and len(answer) == 2:
            body, headers = answer
            status = int(headers.get("status", 200))
        self.status, self.headers, self.body = status, dict(headers), body


def serialize(call: Call, result: Any) -> tuple[int, dict[str, str], bytes]:
    if isinstance(result, RawAnswer):
        body = result.body.encode() if isinstance(result.body, str) else result.body
        kept = {k: v for k, v in result.headers.items() if k.lower() in ("content-type",)}
        if not kept:
            kept = {"Content-Type": CONTENT_TYPES.get(PROTOCOLS.get(call.service, "json"), "text/xml;charset=UTF-8")}
        return result.status, kept, body or b""
    response = responder(call)
    status, headers, body = response.serialized(ActionResult(result))
    content = body.encode() if isinstance(body, str) else body
    content = content.replace(b">request-id<", f">{call.request_id}<".encode(), 1)
    return int(status), {k: v for k, v in headers.items() if k.lower() == "content-type"}, content
