"""Signature Version 4, the checking side."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import hmac
import re
from urllib.parse import parse_qsl, quote

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<key>[^/,\s]+)/(?P<date>\d{8})/(?P<region>[^/,]+)/(?P<service>[^/,]+)/aws4_request,"
    r"\s*SignedHeaders=(?P<headers>[^,\s]+),\s*Signature=(?P<signature>[0-9a-f]{64})\s*$"
)
MAX_SKEW = datetime.timedelta(minutes=15)


@dataclasses.dataclass(frozen=True)
class Signed:
    """What the Authorization header says."""

    access_key: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str


def read(authorization: str) -> Signed | None:
    found = AUTHORIZATION.match(authorization)
    if not found:
        return None
    return Signed(
        found["key"],
        found["date"],
        found["region"],
        found["service"].lower(),
        tuple(found["headers"].split(";")),
        found["signature"],
    )


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    return "&".join(sorted(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in pairs))


def signature(
    signed: Signed, secret: str, method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> str:
    """The signature that the holder of the secret would have made; header names are in lower case."""
    payload = headers.get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest()
    lines = "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in signed.headers)
    canonical = "\n".join(
        (method, quote(path, safe="/-_.~"), _canonical_query(query), lines, ";".join(signed.headers), payload)
    )
    scope = f"{signed.date}/{signed.region}/{signed.service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{headers.get('x-amz-date', '')}\n{scope}\n{digest}"
    key = _hmac(f"AWS4{secret}".encode(), signed.date)
    for part in (signed.region, signed.service, "aws4_request"):
        key = _hmac(key, part)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def payload_is_honest(headers: dict[str, str], body: bytes) -> bool:
    claimed = headers.get("x-amz-content-sha256")
    return claimed in (None, "UNSIGNED-PAYLOAD") or claimed == hashlib.sha256(body).hexdigest()


def is_timely(headers: dict[str, str], now: datetime.datetime) -> bool:
    try:
        moment = datetime.datetime.strptime(headers.get("x-amz-date", ""), "%Y%m%dT%H%M%SZ")
    except ValueError:
        return False
    return abs(now - moment.replace(tzinfo=datetime.UTC)) <= MAX_SKEW
