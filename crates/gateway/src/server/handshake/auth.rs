//! Who a client is and what it may do: shared token, device proof, roles and scopes.

use ed25519_dalek::{Signature, VerifyingKey};
use koi_wire::Redacted;
use koi_wire::bundle::PairedDevice;
use koi_wire::device::{MAX_SKEW_MS, SignedFacts, decode_public_key, decode_signature, device_id, encode_public_key};
use koi_wire::frame::{ConnectParams, DeviceProof, KOI_OPERATOR_CLIENT_ID};
use koi_wire::name::{Scope, code, detail};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::super::limiter::Subject;
use super::super::peer::Origin;
use super::{Context, Credential, Refusal};
use crate::devices::setup::Access;
use crate::devices::{self, Mark, Pairing, Voucher, Wish};
use crate::methods::Role;

/// Commands of a node that are looked at.
pub(crate) const MAX_COMMANDS: usize = 256;

/// What a client gets.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) role: Role,
    pub(super) scopes: Vec<Scope>,
    pub(super) device_id: Option<String>,
    pub(super) credential: Credential,
    pub(super) pairing: Option<Pairing>,
    pub(super) setup: Option<String>,
}

/// How a client proved that it belongs here, its device aside.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Secret {
    /// With the shared token that has this mark.
    Shared(Mark),
    /// With a token of its device that has this hash.
    Device(String),
    /// With the set-up code of this id, which gives this.
    Setup(String, Access),
    None,
}

pub(super) fn authenticate(id: &str, params: &ConnectParams, context: &Context<'_>) -> Result<Grant, Refusal> {
    let name = params.role.as_deref().unwrap_or("operator");
    let role = match (Role::parse(name), name) {
        (Some(role), _) => role,
        (None, "worker") => {
            let message = "workers cannot connect: this gateway runs its agent itself";
            let next = "review_auth_configuration";
            return Err(Refusal::unauthorized(id, detail::AUTH_UNAUTHORIZED, message, next));
        }
        (None, _) => {
            let fault = format!("invalid connect params: at /role: unknown role '{name}'");
            return Err(Refusal::invalid(id, fault));
        }
    };
    let secret = secret(id, params, context, role)?;
    let Some(proof) = &params.device else {
        return without_device(id, params, context, role, secret);
    };
    let key = verify(id, params, proof, context, role)?;
    let device = Known { proof, key, role };
    with_device(id, params, context, secret, &device)
}

/// Whose failures count together: those of a device that the gateway knows and that proved its key are its own.
pub(super) fn subject(id: &str, params: &ConnectParams, context: &Context<'_>) -> Subject {
    let role = Role::parse(params.role.as_deref().unwrap_or("operator"));
    let (Some(proof), Some(role)) = (&params.device, role) else {
        return Subject::Address(context.peer.address);
    };
    let key = decode_public_key(&proof.public_key);
    let came_paired = key.is_some_and(|key| context.paired.iter().any(|paired| same_key(paired, &key)));
    let known = came_paired || context.devices.get(&proof.id).is_some();
    if known && verify(id, params, proof, context, role).is_ok() {
        Subject::Device(proof.id.clone())
    } else {
        Subject::Address(context.peer.address)
    }
}

/// Whether it shows something that could be guessed.
pub(super) fn offers_secret(params: &ConnectParams) -> bool {
    params.auth.as_ref().is_some_and(|auth| {
        let shown = [&auth.token, &auth.password, &auth.device_token, &auth.bootstrap_token];
        shown.iter().any(|secret| secret.is_some())
    })
}

/// Secrets that were offered as the shared one: either field may carry it.
fn offered(params: &ConnectParams) -> Vec<&Redacted> {
    let auth = params.auth.iter();
    auth.flat_map(|auth| [auth.token.as_ref(), auth.password.as_ref()])
        .flatten()
        .collect()
}

fn secret(id: &str, params: &ConnectParams, context: &Context<'_>, role: Role) -> Result<Secret, Refusal> {
    let refuse = |code: &str, message: &str, next: &str| Err(Refusal::unauthorized(id, code, message, next));
    let shared = offered(params);
    if !shared.is_empty() && context.tokens.is_empty() {
        let message = "the gateway has no token yet";
        return refuse(detail::AUTH_TOKEN_NOT_CONFIGURED, message, "wait_then_retry");
    }
    if let Some(token) = shared.iter().find_map(|offered| accepted(offered, context.tokens)) {
        return Ok(Secret::Shared(Mark::of(token)));
    }
    let auth = params.auth.as_ref();
    let own = auth.and_then(|auth| auth.device_token.as_ref());
    let membership = params
        .device
        .as_ref()
        .and_then(|device| context.devices.membership(&device.id, role))
        .filter(|membership| membership.stands(&marks(context)));
    if let Some(offered) = own.or(shared.first().copied()) {
        let hash = devices::hash(offered);
        if membership.is_some_and(|membership| membership.has_token(&hash)) {
            return Ok(Secret::Device(hash));
        }
    }
    if own.is_some() {
        let message = "device token mismatch (rotate/reissue device token)";
        return refuse(detail::AUTH_DEVICE_TOKEN_MISMATCH, message, "update_auth_credentials");
    }
    if !shared.is_empty() {
        let has_own = membership.is_some_and(|membership| !membership.tokens.is_empty());
        let next = if has_own {
            "retry_with_device_token"
        } else {
            "update_auth_credentials"
        };
        let message = "gateway token mismatch (provide the gateway's auth token)";
        return refuse(detail::AUTH_TOKEN_MISMATCH, message, next);
    }
    if let Some(offered) = auth.and_then(|auth| auth.bootstrap_token.as_ref()) {
        if let Some((setup, access)) = context.setups.of(offered, context.now_ms) {
            return Ok(Secret::Setup(setup.to_owned(), access));
        }
        let message = "bootstrap token invalid or expired";
        return refuse(detail::AUTH_BOOTSTRAP_TOKEN_INVALID, message, "update_auth_credentials");
    }
    Ok(Secret::None)
}

fn marks(context: &Context<'_>) -> Vec<Mark> {
    context.tokens.iter().map(Mark::of).collect()
}

/// The accepted token that was offered. All are compared, whatever the result, and each comparison takes the same time.
fn accepted<'a>(offered: &Redacted, accepted: &'a [Redacted]) -> Option<&'a Redacted> {
    let hash = |secret: &Redacted| Sha256::digest(secret.expose().as_bytes());
    let offered = hash(offered);
    let mut found = None;
    for token in accepted {
        if bool::from(hash(token).as_slice().ct_eq(offered.as_slice())) {
            found = Some(token);
        }
    }
    found
}

fn without_device(
    id: &str,
    params: &ConnectParams,
    context: &Context<'_>,
    role: Role,
    secret: Secret,
) -> Result<Grant, Refusal> {
    let (Role::Operator, Secret::Shared(mark)) = (role, secret) else {
        return Err(Refusal::device_required(
            id,
            code::NOT_PAIRED,
            detail::DEVICE_IDENTITY_REQUIRED,
        ));
    };
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
        role,
        scopes: scopes_by_token(params, context),
        device_id: None,
        credential: Credential::Shared(mark),
        pairing: None,
        setup: None,
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

/// A device that proved itself.
struct Known<'a> {
    proof: &'a DeviceProof,
    key: [u8; 32],
    role: Role,
}

fn with_device(
    id: &str,
    params: &ConnectParams,
    context: &Context<'_>,
    secret: Secret,
    device: &Known<'_>,
) -> Result<Grant, Refusal> {
    let role = device.role;
    let asked = match role {
        Role::Operator => requested(params),
        Role::Node => Vec::new(),
    };
    let grant = |credential: Credential, scopes: Vec<Scope>, pairing: Option<Pairing>| Grant {
        role,
        scopes,
        device_id: Some(device.proof.id.clone()),
        credential,
        pairing,
        setup: None,
    };
    let beyond = |settled: &[Scope]| asked.iter().any(|scope| !Scope::any_covers(settled, *scope));
    let refuse = |reason: &str, settled: &[Scope]| {
        let wish = wish(params, context, device, &asked);
        Err(Refusal::pairing(id, wish, reason, settled))
    };
    if let Some(paired) = context.paired.iter().find(|paired| same_key(paired, &device.key)) {
        // It came with the bundle: its signature is proof enough, and what it may ask for is settled.
        return match role {
            Role::Node => refuse("role-upgrade", &paired.scopes),
            Role::Operator if beyond(&paired.scopes) => refuse("scope-upgrade", &paired.scopes),
            Role::Operator => Ok(grant(Credential::Bundle(device.key), asked, None)),
        };
    }
    let membership = context.devices.membership(&device.proof.id, role);
    let settled = membership
        .map(|membership| membership.scopes.as_slice())
        .unwrap_or_default();
    match secret {
        Secret::Shared(mark) => {
            let known = context.devices.get(&device.proof.id).is_some();
            if let Some(reason) = must_wait(known, membership.is_some(), beyond(settled), context) {
                return refuse(reason, settled);
            }
            let pairing = pairing(params, device, &asked, Voucher::Token(mark.clone()));
            Ok(grant(Credential::Shared(mark), asked, Some(pairing)))
        }
        Secret::Setup(_, access) if access.role() != role => refuse("role-upgrade", settled),
        Secret::Setup(_, access) if beyond(access.scopes()) => refuse("scope-upgrade", access.scopes()),
        Secret::Setup(id, _) => {
            let pairing = pairing(params, device, &asked, Voucher::Person);
            let setup = Some(id);
            Ok(Grant {
                setup,
                ..grant(Credential::Setup, asked, Some(pairing))
            })
        }
        Secret::Device(_) if beyond(settled) => refuse("scope-upgrade", settled),
        Secret::Device(hash) => Ok(grant(Credential::DeviceToken(hash), asked, None)),
        Secret::None => Err(no_secret(id)),
    }
}

/// Why a device that has the shared token waits for somebody all the same, if it does.
fn must_wait(known: bool, member: bool, beyond: bool, context: &Context<'_>) -> Option<&'static str> {
    let (waits, reason) = match (known, member) {
        (false, _) => (!context.auto_approve, "not-paired"),
        // A device does not change its role by itself, not even here.
        (true, false) => (true, "role-upgrade"),
        (true, true) => (beyond && !context.auto_approve, "scope-upgrade"),
    };
    waits.then_some(reason)
}

fn no_secret(id: &str) -> Refusal {
    let message = "gateway token missing (provide the gateway's auth token)";
    Refusal::unauthorized(id, detail::AUTH_TOKEN_MISSING, message, "update_auth_configuration")
}

/// The device as it is to be remembered.
fn pairing(params: &ConnectParams, device: &Known<'_>, scopes: &[Scope], voucher: Voucher) -> Pairing {
    Pairing {
        device_id: device.proof.id.clone(),
        public_key: encode_public_key(&device.key),
        client: params.client.clone(),
        role: device.role,
        scopes: scopes.to_vec(),
        voucher,
    }
}

fn same_key(paired: &PairedDevice, key: &[u8; 32]) -> bool {
    decode_public_key(&paired.public_key).is_some_and(|paired| paired == *key)
}

fn wish(params: &ConnectParams, context: &Context<'_>, device: &Known<'_>, asked: &[Scope]) -> Wish {
    let commands = params.commands.iter().flatten().take(MAX_COMMANDS);
    Wish {
        request_id: Wish::id_of(&device.proof.id, device.role, asked),
        device_id: device.proof.id.clone(),
        public_key: encode_public_key(&device.key),
        client: params.client.clone(),
        role: device.role,
        scopes: asked.to_vec(),
        commands: commands.cloned().collect(),
        address: context.peer.address.to_string(),
        repair: context.devices.get(&device.proof.id).is_some(),
        ts: context.now_ms,
    }
}

/// Checks the proof in the order of the family: id, clock, nonce, signature.
fn verify(
    id: &str,
    params: &ConnectParams,
    proof: &DeviceProof,
    context: &Context<'_>,
    role: Role,
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

fn signed(params: &ConnectParams, proof: &DeviceProof, role: Role, key: &[u8; 32]) -> bool {
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
        role: role.as_str(),
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
