"""Who may call: key pairs, role sessions, and the check of signatures."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hmac
import json
import pathlib
import secrets
import string
from typing import Any

from . import sigv4
from .accounts import HOME_ACCOUNT, OTHER_ACCOUNT
from .call import Principal
from .cloud import Cloud, Machine
from .errors import ApiError

KEYS = {
    "operator": ("AKIAKOIOPERATOR00001", "operator+secret/of+the+test+world/000001"),
    "admin": ("AKIAKOIWORLDADMIN001", "admin+secret/of+the+test+world/000000001"),
    "admin-other": ("AKIAKOIWORLDADMIN002", "admin+secret/of+the+other+account/000002"),
}


@dataclasses.dataclass
class Session:
    """Temporary credentials of a role."""

    access_key: str
    secret: str
    token: str
    account: str
    role_name: str
    role_id: str
    name: str
    expires: float
    issued: float
    instance_arn: str | None = None
    policies: tuple[Any, ...] = ()

    @property
    def principal(self) -> Principal:
        return Principal(
            name=f"role/{self.role_name}/{self.name}",
            kind="role",
            account=self.account,
            arn=f"arn:aws:sts::{self.account}:assumed-role/{self.role_name}/{self.name}",
            user_id=f"{self.role_id}:{self.name}",
            role_name=self.role_name,
            instance_arn=self.instance_arn,
            session_policies=self.policies,
        )


class Principals:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._sessions: dict[str, Session] = {}
        self.operator_account = HOME_ACCOUNT
        self.operator_enabled = True

    def write_credentials(self, state_dir: pathlib.Path) -> None:
        document = {name: {"accessKeyId": key, "secretAccessKey": secret} for name, (key, secret) in KEYS.items()}
        path = state_dir / "credentials.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=2) + "\n")

    # sessions

    def new_session(
        self,
        account: str,
        role: Any,
        name: str,
        seconds: float,
        instance_arn: str | None = None,
        policies: tuple[Any, ...] = (),
    ) -> Session:
        alphabet = string.ascii_uppercase + string.digits
        now = self._cloud.clock.now()
        session = Session(
            access_key="ASIA" + "".join(secrets.choice(alphabet) for _ in range(16)),
            secret=base64.b64encode(secrets.token_bytes(30)).decode(),
            token=base64.b64encode(secrets.token_bytes(120)).decode(),
            account=account,
            role_name=role.name,
            role_id=role.id,
            name=name,
            expires=now + seconds,
            issued=now,
            instance_arn=instance_arn,
            policies=policies,
        )
        self._sessions[session.access_key] = session
        return session

    def instance_session(self, machine: Machine) -> Session | None:
        """The role credentials of a machine, renewed well before they expire."""
        backend = self._cloud.ec2(machine.account, machine.region)
        association = backend.iam_instance_profile_associations.get(machine.id)
        if association is None or not association.iam_instance_profile.roles:
            return None
        role = association.iam_instance_profile.roles[0]
        session = machine.credentials
        stale = session is None or session.role_id != role.id
        if stale or session.expires - self._cloud.clock.now() < min(300.0, self._cloud.settings.credentials_ttl / 4):
            ttl = self._cloud.settings.credentials_ttl
            session = self.new_session(machine.account, role, machine.id, ttl, machine.arn)
            machine.credentials = session
        return session

    # authentication

    def authenticate(
        self, service: str, method: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> tuple[Principal, sigv4.Signed]:
        """The caller, if the signature is right; otherwise the error that the service would give."""
        authorization = headers.get("authorization")
        if not authorization:
            raise missing(service)
        signed = sigv4.read(authorization)
        if signed is None:
            raise ApiError(
                "IncompleteSignature", "The Authorization header is not a complete AWS4-HMAC-SHA256 signature."
            )
        principal, secret = self._look_up(service, signed.access_key, headers.get("x-amz-security-token"))
        right = sigv4.signature(signed, secret, method, path, query, headers, body)
        honest = sigv4.payload_is_honest(headers, body)
        if not hmac.compare_digest(right, signed.signature) or not honest or "host" not in signed.headers:
            raise wrong_signature(service)
        if not sigv4.is_timely(headers, datetime.datetime.now(datetime.UTC)):
            raise expired_request(service)
        return principal, signed

    def _look_up(self, service: str, access_key: str, token: str | None) -> tuple[Principal, str]:
        for name, (key, secret) in KEYS.items():
            if access_key == key and (name != "operator" or self.operator_enabled):
                if token:
                    raise unknown_key(service)
                return self._fixed(name), secret
        session = self._sessions.get(access_key)
        if session is None:
            return self._iam_user(service, access_key)
        if token is None or not hmac.compare_digest(token.encode(), session.token.encode()):
            raise unknown_key(service)
        if session.expires <= self._cloud.clock.now():
            raise expired_token(service)
        return session.principal, session.secret

    def _fixed(self, name: str) -> Principal:
        if name == "operator":
            return self.operator()
        account = OTHER_ACCOUNT if name == "admin-other" else HOME_ACCOUNT
        arn = f"arn:aws:iam::{account}:user/{name}"
        return Principal("admin", "admin", account, arn, "AIDAKOIWORLDADMIN0001")

    def operator(self) -> Principal:
        account = self.operator_account
        arn = f"arn:aws:iam::{account}:user/koi-operator"
        return Principal("operator", "operator", account, arn, "AIDAKOIOPERATOR000001")

    def _iam_user(self, service: str, access_key: str) -> tuple[Principal, str]:
        for account in (HOME_ACCOUNT, OTHER_ACCOUNT):
            for user in list(self._cloud.iam(account).users.values()):
                for key in user.access_keys:
                    if key.access_key_id == access_key and key.status == "Active":
                        return Principal(f"user/{user.name}", "user", account, user.arn, user.id), key.secret_access_key
        raise unknown_key(service)


def missing(service: str) -> ApiError:
    if service == "ec2":
        return ApiError("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    code = "MissingAuthenticationToken" if service in ("iam", "sts") else "MissingAuthenticationTokenException"
    return ApiError(code, "Missing Authentication Token")


def unknown_key(service: str) -> ApiError:
    if service == "ec2":
        return ApiError("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    code = "InvalidClientTokenId" if service in ("iam", "sts") else "UnrecognizedClientException"
    return ApiError(code, "The security token included in the request is invalid.")


def wrong_signature(service: str) -> ApiError:
    if service == "ec2":
        return ApiError("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    code = "SignatureDoesNotMatch" if service in ("iam", "sts") else "InvalidSignatureException"
    return ApiError(
        code,
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        "Key and signing method.",
    )


def expired_token(service: str) -> ApiError:
    if service == "ec2":
        return ApiError("RequestExpired", "Request has expired.", 400)
    code = "ExpiredToken" if service in ("iam", "sts") else "ExpiredTokenException"
    return ApiError(code, "The security token included in the request is expired")


def expired_request(service: str) -> ApiError:
    if service == "ec2":
        return ApiError("RequestExpired", "Request has expired.", 400)
    code = "SignatureDoesNotMatch" if service in ("iam", "sts") else "InvalidSignatureException"
    return ApiError(code, "Signature expired: the date of the request is too far from the current time.")
