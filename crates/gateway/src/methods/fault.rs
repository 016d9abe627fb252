//! Errors that several methods give.

use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, code, detail};
use serde_json::json;

use super::Role;
use crate::server::admission::Full;

/// A frame that is JSON but no request.
pub(super) fn invalid_frame(fault: &str) -> ErrorShape {
    ErrorShape::new(code::INVALID_REQUEST, format!("invalid request frame: {fault}"))
}

/// A fault in the parameters of a method; `fault` begins with the place, such as `at /key: must be string`.
pub(crate) fn invalid(method: &str, fault: &str) -> ErrorShape {
    ErrorShape::new(code::INVALID_REQUEST, format!("invalid {method} params: {fault}"))
}

/// A request that makes no sense as things are.
pub(crate) fn invalid_request(message: &str) -> ErrorShape {
    ErrorShape::new(code::INVALID_REQUEST, message)
}

/// There is no such method.
pub(super) fn unknown_method(name: &str) -> ErrorShape {
    let shown: String = name.chars().take(128).collect();
    ErrorShape::new(code::INVALID_REQUEST, format!("unknown method: {shown}"))
}

/// A scope is missing.
pub(super) fn missing_scope(needed: Scope) -> ErrorShape {
    let details = json!({"code": detail::MISSING_SCOPE, "missingScope": needed, "requiredScopes": [needed]});
    ErrorShape::new(code::FORBIDDEN, format!("missing scope: {needed}")).with_details(details)
}

/// The method is not for this role.
pub(super) fn role(role: Role) -> ErrorShape {
    ErrorShape::new(code::INVALID_REQUEST, format!("unauthorized role: {}", role.as_str()))
}

/// Too much waits already.
pub(super) fn busy(Full: Full) -> ErrorShape {
    let mut error = unavailable("The server is busy");
    error.retryable = Some(true);
    error.retry_after_ms = Some(250);
    error
}

/// What was asked for cannot be had now.
pub(crate) fn unavailable(message: impl Into<String>) -> ErrorShape {
    ErrorShape::new(code::UNAVAILABLE, message)
}
