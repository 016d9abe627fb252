//! Who a client is and what it may do: shared token, device proof, roles and scopes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use koi_wire::Redacted;
use koi_wire::bundle::PairedDevice;
use koi_wire::device::{MAX_SKEW_MS, SignedFacts, decode_public_key, decode_signature, device_id, encode_public_key};
use koi_wire::frame::{ConnectParams, DeviceProof, KOI_OPERATOR_CLIENT_ID};
use koi_wire::name::{Scope, code, detail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::super::peer::Origin;
use super::{Context, Refusal};

const OPERATOR: &str = "operator";

/// A device that was paired by this gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LearnedDevice {
    /// Lowercase hex SHA-256 of the key.
    pub(crate) id: String,
    /// base64url without padding.
    pub(crate) public_key: String,
    /// Scopes that it was granted so far.
    pub(crate) scopes: Vec<Scope>,
    /// When it was paired, milliseconds since the epoch.
    pub(crate) paired_at_ms: i64,
    /// The client that it first was.
    pub(crate) client_id: String,
}

/// Devices that were paired by this gateway, by id.
pub(crate) type Learned = BTreeMap<String, LearnedDevice>;

/// What a client gets.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) scopes: Vec<Scope>,
    pub(super) device_id: Option<String>,
    pub(super) learn: Option<LearnedDevice>,
    pub(super) device_token: Option<Redacted>,
}

/// How a client proved that it belongs here, its device aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secret {
    Shared,
    Device,
    None,
}

pub(super) fn authenticate(id: &str, params: &ConnectParams, context: &Context<'_>) -> Result<Grant, Refusal> {
    let role = params.role.as_deref().unwrap_or(OPERATOR);
    if !matches!(role, OPERATOR | "node" | "worker") {
        return Err(Refusal::invalid(
            id,
            format!("invalid connect params: at /role: unknown role '{role}'"),
        ));
    }
    let secret = secret(id, params, context)?;
    let Some(proof) = &params.device else {
        return without_device(id, params, context, role, secret);
    };
    let key = verify(id, params, proof, context, role)?;
    if role != OPERATOR {
        return Err(other_role(id, proof, role, context));
    }
    with_device(id, params, context, secret, &Known { proof, key })
}

fn secret(id: &str, params: &ConnectParams, context: &Context<'_>) -> Result<Secret, Refusal> {
    let auth = params.auth.as_ref();
    let shared: Vec<&Redacted> = auth
        .into_iter()
        .flat_map(|auth| [auth.token.as_ref(), auth.password.as_ref()])
        .flatten()
        .collect();
    let device_secret = auth.and_then(|auth| auth.device_token.as_ref());
    if !shared.is_empty() {
        if context.tokens.is_empty() {
            return Err(Refusal::unauthorized(
                id,
                detail::AUTH_TOKEN_NOT_CONFIGURED,
                "the gateway has no token yet",
                "wait_then_retry",
            ));
        }
        if shared.iter().any(|offered| is_token(offered, context.tokens)) {
            return Ok(Secret::Shared);
        }
    }
    if let (Some(offered), Some(device)) = (device_secret.or(shared.first().copied()), &params.device) {
        let role = params.role.as_deref().unwrap_or(OPERATOR);
        let minted: Vec<Redacted> = context
            .tokens
            .iter()
            .filter_map(|token| device_token(token, &device.id, role))
            .collect();
        if context.learned.contains_key(&device.id) && is_token(offered, &minted) {
            return Ok(Secret::Device);
        }
        if device_secret.is_some() {
            return Err(Refusal::unauthorized(
                id,
                "AUTH_DEVICE_TOKEN_MISMATCH",
                "device token mismatch (rotate/reissue device token)",
                "update_auth_credentials",
            ));
        }
    }
    if shared.is_empty() {
        return Ok(Secret::None);
    }
    let message = "gateway token mismatch (provide the gateway's auth token)";
    Err(Refusal::unauthorized(
        id,
        detail::AUTH_TOKEN_MISMATCH,
        message,
        "update_auth_credentials",
    ))
}

/// Is the offered secret one of these? Takes the same time whatever is offered.
fn is_token(offered: &Redacted, accepted: &[Redacted]) -> bool {
    let hash = |secret: &Redacted| Sha256::digest(secret.expose().as_bytes());
    let offered = hash(offered);
    let found = accepted
        .iter()
        .map(|token| hash(token).as_slice().ct_eq(offered.as_slice()));
    found.fold(subtle::Choice::from(0), |any, one| any | one).into()
}

/// The token that a device may use instead of the shared one. It is derived, so nothing of it is stored, and it ends with the shared
/// token that it comes from.
pub(crate) fn device_token(shared: &Redacted, device_id: &str, role: &str) -> Option<Redacted> {
    let mut mac = Hmac::<Sha256>::new_from_slice(shared.expose().as_bytes()).ok()?;
    mac.update(format!("koi-device-token|{device_id}|{role}").as_bytes());
    Some(URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()).into())
}

fn without_device(
    id: &str,
    params: &ConnectParams,
    context: &Context<'_>,
    role: &str,
    secret: Secret,
) -> Result<Grant, Refusal> {
    if role != OPERATOR || secret == Secret::None {
        return Err(Refusal::device_required(
            id,
            code::NOT_PAIRED,
            detail::DEVICE_IDENTITY_REQUIRED,
        ));
    }
    let client = params.client.id.as_str();
    if matches!(
        client,
        "openclaw-control-ui" | "openclaw-tui" | "koi-control-ui" | KOI_OPERATOR_CLIENT_ID
    ) {
        let top = if client == KOI_OPERATOR_CLIENT_ID {
            code::NOT_PAIRED
        } else {
            code::INVALID_REQUEST
        };
        let detail_code = if client == KOI_OPERATOR_CLIENT_ID {
            detail::DEVICE_IDENTITY_REQUIRED
        } else {
            detail::CONTROL_UI_DEVICE_IDENTITY_REQUIRED
        };
        return Err(Refusal::device_required(id, top, detail_code));
    }
    Ok(Grant {
        scopes: scopes_by_token(params, context),
        device_id: None,
        learn: None,
        device_token: None,
    })
}

/// The scopes of a client that has the shared token and nothing else.
fn scopes_by_token(params: &ConnectParams, context: &Context<'_>) -> Vec<Scope> {
    let asked = requested(params);
    if context.peer.origin != Origin::None {
        return Vec::new();
    }
    if !context.peer.direct_loopback {
        let most = [Scope::Read, Scope::Write];
        return asked
            .into_iter()
            .filter(|scope| Scope::any_covers(&most, *scope))
            .collect();
    }
    let own = matches!(
        (params.client.id.as_str(), params.client.mode.as_str()),
        ("cli", "cli" | "probe") | ("gateway-client", "backend")
    );
    if own { asked } else { Vec::new() }
}

/// The scopes that were asked for and that exist.
fn requested(params: &ConnectParams) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = params
        .scopes
        .iter()
        .flatten()
        .filter_map(|name| Scope::parse(name))
        .collect();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

struct Known<'a> {
    proof: &'a DeviceProof,
    key: [u8; 32],
}

fn with_device(
    id: &str,
    params: &ConnectParams,
    context: &Context<'_>,
    secret: Secret,
    device: &Known<'_>,
) -> Result<Grant, Refusal> {
    let asked = requested(params);
    let public_key = encode_public_key(&device.key);
    let grant = |scopes: Vec<Scope>, learn: Option<LearnedDevice>, device_token: Option<Redacted>| Grant {
        scopes,
        device_id: Some(device.proof.id.clone()),
        learn,
        device_token,
    };
    if let Some(paired) = context.paired.iter().find(|paired| same_key(paired, &device.key)) {
        // It came with the bundle: its signature is proof enough, and what it may ask for is settled.
        return match asked.iter().find(|scope| !Scope::any_covers(&paired.scopes, **scope)) {
            None => Ok(grant(asked, None, None)),
            Some(_) => Err(scope_upgrade(id, device.proof, &asked, &paired.scopes)),
        };
    }
    let known = context.learned.get(&device.proof.id);
    match (secret, known) {
        (Secret::Shared, _) => {
            let learn = learned(known, device.proof, public_key, &asked, params, context.now_ms);
            let minted = context
                .tokens
                .first()
                .and_then(|token| device_token(token, &device.proof.id, OPERATOR));
            Ok(grant(asked, learn, minted))
        }
        (Secret::Device, Some(known)) => match asked.iter().find(|scope| !Scope::any_covers(&known.scopes, **scope)) {
            None => Ok(grant(asked, None, None)),
            Some(_) => Err(scope_upgrade(id, device.proof, &asked, &known.scopes)),
        },
        (Secret::Device | Secret::None, _) => Err(Refusal::unauthorized(
            id,
            detail::AUTH_TOKEN_MISSING,
            "gateway token missing (provide the gateway's auth token)",
            "update_auth_configuration",
        )),
    }
}

fn same_key(paired: &PairedDevice, key: &[u8; 32]) -> bool {
    decode_public_key(&paired.public_key).is_some_and(|paired| paired == *key)
}

/// What is to be remembered of a device; nothing when that is known already.
fn learned(
    known: Option<&LearnedDevice>,
    proof: &DeviceProof,
    public_key: String,
    asked: &[Scope],
    params: &ConnectParams,
    now_ms: i64,
) -> Option<LearnedDevice> {
    let mut scopes = known.map(|known| known.scopes.clone()).unwrap_or_default();
    scopes.extend(asked);
    scopes.sort_unstable();
    scopes.dedup();
    match known {
        Some(known) if known.scopes == scopes => None,
        Some(known) => Some(LearnedDevice {
            scopes,
            ..known.clone()
        }),
        None => Some(LearnedDevice {
            id: proof.id.clone(),
            public_key,
            scopes,
            paired_at_ms: now_ms,
            client_id: params.client.id.clone(),
        }),
    }
}

fn scope_upgrade(id: &str, proof: &DeviceProof, asked: &[Scope], approved: &[Scope]) -> Refusal {
    let extra = json!({"requestedScopes": asked, "approvedScopes": approved});
    Refusal::pairing(id, &pairing_request(proof, "scope-upgrade"), "scope-upgrade", extra)
}

fn other_role(id: &str, proof: &DeviceProof, role: &str, context: &Context<'_>) -> Refusal {
    let known = context.learned.contains_key(&proof.id)
        || context
            .paired
            .iter()
            .any(|paired| decode_public_key(&paired.public_key).is_some_and(|key| device_id(&key) == proof.id));
    let reason = if known { "role-upgrade" } else { "not-paired" };
    Refusal::pairing(
        id,
        &pairing_request(proof, role),
        reason,
        json!({"requestedRole": role}),
    )
}

/// The same device asking for the same thing makes the same request, so that repeated attempts do not pile up.
fn pairing_request(proof: &DeviceProof, wish: &str) -> String {
    let hash = Sha256::digest(format!("{}|{wish}", proof.id));
    hex::encode(hash).chars().take(32).collect()
}

/// Checks the proof in the order of the family: id, clock, nonce, signature.
fn verify(
    id: &str,
    params: &ConnectParams,
    proof: &DeviceProof,
    context: &Context<'_>,
    role: &str,
) -> Result<[u8; 32], Refusal> {
    let refuse = |code: &str, message: &str| Refusal::device(id, code, message);
    let key = decode_public_key(&proof.public_key)
        .ok_or_else(|| refuse(detail::DEVICE_AUTH_PUBLIC_KEY_INVALID, "device public key invalid"))?;
    if device_id(&key) != proof.id {
        return Err(refuse(
            detail::DEVICE_AUTH_DEVICE_ID_MISMATCH,
            "device identity mismatch",
        ));
    }
    if context.now_ms.saturating_sub(proof.signed_at).saturating_abs() > MAX_SKEW_MS {
        return Err(refuse(
            detail::DEVICE_AUTH_SIGNATURE_EXPIRED,
            "device signature expired",
        ));
    }
    if proof.nonce.trim().is_empty() {
        return Err(refuse(detail::DEVICE_AUTH_NONCE_REQUIRED, "device nonce required"));
    }
    if proof.nonce != context.nonce {
        return Err(refuse(detail::DEVICE_AUTH_NONCE_MISMATCH, "device nonce mismatch"));
    }
    if !signed(params, proof, role, &key) {
        return Err(refuse(
            detail::DEVICE_AUTH_SIGNATURE_INVALID,
            "device signature invalid",
        ));
    }
    Ok(key)
}

fn signed(params: &ConnectParams, proof: &DeviceProof, role: &str, key: &[u8; 32]) -> bool {
    let (Ok(verifier), Some(signature)) = (VerifyingKey::from_bytes(key), decode_signature(&proof.signature)) else {
        return false;
    };
    let auth = params.auth.as_ref();
    let token = auth.and_then(|auth| {
        auth.token
            .as_ref()
            .or(auth.device_token.as_ref())
            .or(auth.bootstrap_token.as_ref())
    });
    let facts = SignedFacts {
        device_id: &proof.id,
        client_id: &params.client.id,
        client_mode: &params.client.mode,
        role,
        scopes: params.scopes.as_deref().unwrap_or_default(),
        signed_at_ms: proof.signed_at,
        token: token.map_or("", Redacted::expose),
        nonce: &proof.nonce,
        platform: &params.client.platform,
        device_family: params.client.device_family.as_deref().unwrap_or_default(),
    };
    let signature = Signature::from_bytes(&signature);
    [facts.payload_v3(), facts.payload_v2()]
        .iter()
        .any(|payload| verifier.verify_strict(payload.as_bytes(), &signature).is_ok())
}
