//! `device.pair.setupCode`, `device.pair.setupStatus`: a code that pairs one device, and what became of it.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::json;

use crate::devices::setup::Access;
use crate::methods::bounds::Text;
use crate::methods::{Answer, Call, Method, fault};
use crate::server::lock;
use crate::server::standing::fresh_token;

pub(super) const CODE: Method = Method::now("device.pair.setupCode", Scope::Admin, code);
pub(super) const STATUS: Method = Method::now("device.pair.setupStatus", Scope::Admin, status);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CodeParams {
    #[serde(default)]
    public_url: Option<Text<1, 512>>,
    #[serde(default)]
    bootstrap_profile: Option<Access>,
    #[serde(default, rename = "preferRemoteUrl")]
    _prefer_remote_url: Option<bool>,
    #[serde(default, rename = "includeQr")]
    _include_qr: Option<bool>,
    #[serde(default, rename = "joinUrl")]
    _join_url: Option<bool>,
}

/// The address of the gateway's socket, from that of its page; none when what is sent there could be read on the way.
fn socket_url(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '?' | '#' | '\\' | '"');
    if rest.is_empty() || rest.starts_with(['/', ':']) || !rest.chars().all(plain) {
        return None;
    }
    match scheme.to_ascii_lowercase().as_str() {
        "wss" | "https" => Some(format!("wss://{rest}")),
        "ws" | "http" if is_here(rest) => Some(format!("ws://{rest}")),
        _ => None,
    }
}

/// Is this the machine itself?
fn is_here(authority: &str) -> bool {
    let authority = authority.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => authority.split(':').next(),
    };
    host.is_some_and(|host| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

fn code(call: &Call) -> Answer {
    let params = call.params::<CodeParams>()?;
    let Some(given) = params.public_url.as_deref() else {
        let fault = "at /publicUrl: is needed: the gateway listens on loopback and does not know by which address others reach it";
        return Err(call.invalid(fault));
    };
    let url = socket_url(given).ok_or_else(|| {
        call.invalid("at /publicUrl: must be https://host or wss://host; http and ws for this machine alone")
    })?;
    let token = fresh_token().ok_or_else(|| fault::unavailable("the machine has no randomness to give"))?;
    let id = uuid::Uuid::new_v4().to_string();
    let access = params.bootstrap_profile.unwrap_or(Access::Limited);
    let now_ms = call.shared.now_ms();
    let expires_at_ms = lock(&call.shared.credentials)
        .setups_mut()
        .issue(&id, &token, access, now_ms);
    tracing::info!(setup = %id, ?access, by = %call.caller.connection, "a set-up code was made");
    let inside = json!({"url": url, "bootstrapToken": token.expose(), "expiresAtMs": expires_at_ms}).to_string();
    Ok(json!({
        "setupId": id, "setupCode": URL_SAFE_NO_PAD.encode(inside), "gatewayUrl": url, "auth": "token", "urlSource": "publicUrl",
        "access": access, "accessDowngraded": params.bootstrap_profile.is_none(), "expiresAtMs": expires_at_ms,
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StatusParams {
    setup_id: Text<1, 128>,
}

fn status(call: &Call) -> Answer {
    let params = call.params::<StatusParams>()?;
    let credentials = lock(&call.shared.credentials);
    Ok(match credentials.setups().completion(&params.setup_id) {
        Some(completion) => json!({"completion": completion}),
        None => json!({}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lead_where_nobody_listens_on_the_way() {
        for (given, expected) in [
            ("https://koi.example", Some("wss://koi.example")),
            ("WSS://10.0.0.5:8443/x", Some("wss://10.0.0.5:8443/x")),
            ("http://127.0.0.1:18789", Some("ws://127.0.0.1:18789")),
            ("ws://[::1]:1/", Some("ws://[::1]:1/")),
            ("http://koi.example", None),
            ("ws://localhost.evil", None),
            ("ws://127.0.0.1@evil", None),
            ("https://", None),
            ("https:///x", None),
            ("https://a b", None),
            ("ftp://koi.example", None),
            ("koi.example", None),
        ] {
            assert_eq!(socket_url(given).as_deref(), expected, "{given}");
        }
    }
}
