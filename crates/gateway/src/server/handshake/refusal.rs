//! Refusals of the handshake: what the client is told, and how the socket is closed.

use koi_wire::frame::{ErrorShape, Response};
use koi_wire::name::Scope;
use koi_wire::name::{close, code, detail};
use koi_wire::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use serde_json::json;

use super::Closed;
use super::Subject;
use crate::devices::Wish;

/// How a socket is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    /// One of [`koi_wire::name::close`].
    pub(crate) code: u16,
    /// At most 123 bytes.
    pub(crate) reason: String,
}

impl Close {
    /// With the reason cut to what a close frame can hold.
    pub(crate) fn new(code: u16, reason: &str) -> Self {
        let end = reason.floor_char_boundary(123);
        Self {
            code,
            reason: reason.get(..end).unwrap_or_default().to_owned(),
        }
    }
}

/// A client that is not let in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    /// What it is told, if it said anything that can be answered.
    pub(crate) reply: Option<Box<Response>>,
    /// How the socket is closed.
    pub(crate) close: Close,
    /// Does it count as a failed attempt to get in?
    pub(crate) failed_auth: bool,
    /// Whose attempt it was; none where nobody got so far.
    pub(crate) subject: Option<Subject>,
    /// What it asked for, for somebody to say yes or no to.
    pub(crate) wish: Option<Box<Wish>>,
}

impl Refusal {
    pub(super) fn silent(code: u16, reason: &str) -> Self {
        Self {
            reply: None,
            close: Close::new(code, reason),
            failed_auth: false,
            subject: None,
            wish: None,
        }
    }

    /// The same, with whose it is.
    pub(super) fn of(self, subject: Subject) -> Self {
        Self {
            subject: Some(subject),
            ..self
        }
    }

    /// Nonsense.
    pub(super) fn invalid(id: &str, message: String) -> Self {
        Self::told(id, close::POLICY, ErrorShape::new(code::INVALID_REQUEST, message))
    }

    pub(super) fn protocol(id: &str, client_min: u32, client_max: u32) -> Self {
        let details = json!({
            "code": detail::PROTOCOL_MISMATCH, "clientMinProtocol": client_min, "clientMaxProtocol": client_max,
            "expectedProtocol": PROTOCOL_VERSION, "minimumProbeProtocol": PROTOCOL_VERSION_MIN,
        });
        Self::told(
            id,
            close::PROTOCOL,
            ErrorShape::new(code::INVALID_REQUEST, "protocol mismatch").with_details(details),
        )
    }

    pub(super) fn origin(id: &str) -> Self {
        let details = json!({
            "code": detail::CONTROL_UI_ORIGIN_NOT_ALLOWED, "reason": "origin not allowed",
        });
        let message = "origin not allowed: open the page from the gateway's own address, or add it to gateway.controlUi.allowedOrigins";
        Self::told(
            id,
            close::POLICY,
            ErrorShape::new(code::INVALID_REQUEST, message).with_details(details),
        )
    }

    pub(super) fn rate_limited(id: &str, wait_ms: u64) -> Self {
        let details = json!({"code": detail::AUTH_RATE_LIMITED, "recommendedNextStep": "wait_then_retry"});
        let message = "unauthorized: too many failed authentication attempts (retry later)";
        let mut error = ErrorShape::new(code::INVALID_REQUEST, message).with_details(details);
        error.retryable = Some(true);
        error.retry_after_ms = Some(wait_ms);
        Self::told(id, close::POLICY, error)
    }

    /// Nobody is taken now.
    pub(super) fn closed(id: &str, closed: Closed) -> Self {
        let (message, reason) = match closed {
            Closed::Starting => ("gateway starting", "startup-sidecars"),
            Closed::Stopping => ("gateway restarting", "gateway-restarting"),
        };
        let mut error = ErrorShape::new(code::UNAVAILABLE, message).with_details(json!({"reason": reason}));
        error.retryable = Some(true);
        error.retry_after_ms = Some(500);
        Self::told(id, close::TRY_LATER, error)
    }

    /// Credentials that are missing or wrong.
    pub(super) fn unauthorized(id: &str, detail_code: &str, message: &str, next: &str) -> Self {
        let retry = next == "retry_with_device_token";
        let details = json!({"code": detail_code, "canRetryWithDeviceToken": retry, "recommendedNextStep": next});
        let error = ErrorShape::new(code::INVALID_REQUEST, format!("unauthorized: {message}")).with_details(details);
        let counts = matches!(
            detail_code,
            detail::AUTH_TOKEN_MISMATCH | detail::AUTH_DEVICE_TOKEN_MISMATCH | detail::AUTH_BOOTSTRAP_TOKEN_INVALID
        );
        Self {
            failed_auth: counts,
            ..Self::told(id, close::POLICY, error)
        }
    }

    /// A client of this kind needs a device.
    pub(super) fn device_required(id: &str, top: &str, detail_code: &str) -> Self {
        let details = json!({"code": detail_code});
        Self::told(
            id,
            close::POLICY,
            ErrorShape::new(top, "device identity required").with_details(details),
        )
    }

    /// The device did not prove itself.
    pub(super) fn device(id: &str, detail_code: &str, message: &str) -> Self {
        let details = json!({"code": detail_code, "reason": message.replace(' ', "-")});
        let error = ErrorShape::new(code::INVALID_REQUEST, message).with_details(details);
        Self {
            failed_auth: detail_code == detail::DEVICE_AUTH_SIGNATURE_INVALID,
            ..Self::told(id, close::POLICY, error)
        }
    }

    /// Somebody has to say yes first.
    pub(super) fn pairing(id: &str, wish: Wish, reason: &str, approved: &[Scope]) -> Self {
        let details = json!({
            "code": detail::PAIRING_REQUIRED, "requestId": wish.request_id, "reason": reason, "deviceId": wish.device_id,
            "requestedRole": wish.role.as_str(), "requestedScopes": wish.scopes, "approvedScopes": approved,
        });
        let message = match reason {
            "role-upgrade" => "pairing required: role upgrade pending approval",
            "scope-upgrade" => "pairing required: scope upgrade pending approval",
            _ => "pairing required: device pairing required",
        };
        let error = ErrorShape::new(code::NOT_PAIRED, message).with_details(details);
        Self {
            wish: Some(Box::new(wish)),
            ..Self::told(id, close::POLICY, error)
        }
    }

    fn told(id: &str, close_code: u16, error: ErrorShape) -> Self {
        let close = Close::new(close_code, &error.message);
        Self {
            reply: Some(Box::new(Response::err(id, error))),
            close,
            failed_auth: false,
            subject: None,
            wish: None,
        }
    }
}
