use std::net::{IpAddr, Ipv4Addr};

use ed25519_dalek::{Signer, SigningKey};
use koi_wire::device::{SignedFacts, device_id, encode_public_key, encode_signature};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::devices::Voucher;
use crate::server::limiter::Limits;

const TOKEN: &str = "current-token-0123456789";
const OLD_TOKEN: &str = "previous-token-0123456789";
const NONCE: &str = "5d1c7f3e-nonce";
const NOW: i64 = 1_800_000_000_000;

/// Everything around a frame, with a name for each thing that a case may change.
struct World {
    peer: Peer,
    tokens: Vec<Redacted>,
    paired: Vec<PairedDevice>,
    devices: Devices,
    setups: Setups,
    auto_approve: bool,
    closed: Option<Closed>,
    limiter: Limiter,
}

impl World {
    fn loopback() -> Self {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            peer: Peer {
                address,
                direct_loopback: true,
                origin: Origin::None,
            },
            tokens: vec![TOKEN.into(), OLD_TOKEN.into()],
            paired: Vec::new(),
            devices: Devices::default(),
            setups: Setups::default(),
            auto_approve: true,
            closed: None,
            limiter: Limiter::new(Limits::from_config(None)),
        }
    }

    fn proxied() -> Self {
        let address = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
        Self {
            peer: Peer {
                address,
                direct_loopback: false,
                origin: Origin::None,
            },
            ..Self::loopback()
        }
    }

    fn with_origin(mut self, origin: Origin) -> Self {
        self.peer.origin = origin;
        self
    }

    fn judge(&self, frame: &Value) -> Result<Admission, Refusal> {
        self.judge_text(frame.to_string().as_bytes())
    }

    fn judge_text(&self, text: &[u8]) -> Result<Admission, Refusal> {
        let context = Context {
            nonce: NONCE,
            now_ms: NOW,
            peer: self.peer,
            tokens: &self.tokens,
            paired: &self.paired,
            devices: &self.devices,
            setups: &self.setups,
            auto_approve: self.auto_approve,
            closed: self.closed,
            limiter: &self.limiter,
        };
        judge(text, &context)
    }

    /// This subject is locked out.
    fn fail_often(&mut self, subject: &Subject) {
        for _ in 0..10 {
            self.limiter.failed(subject.clone(), self.peer.address, NOW);
        }
    }

    /// Lets a device in and remembers it, as the socket does; the token that was issued to it.
    fn learn(&mut self, frame: &Value) -> (Admission, Option<Redacted>) {
        let admission = self.judge(frame).unwrap();
        let fresh = Redacted::new("fresh-token-of-the-device");
        let issued = admission
            .pairing
            .clone()
            .is_some_and(|pairing| self.devices.pair(pairing, Some(&fresh), NOW));
        (admission, issued.then_some(fresh))
    }
}

fn connect(client: &str, mode: &str, changes: Value) -> Value {
    let mut params = json!({
        "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": ["operator.read", "operator.admin"],
        "client": {"id": client, "version": "1.0", "platform": "linux", "mode": mode}, "auth": {"token": TOKEN}
    });
    let map = params.as_object_mut().unwrap();
    let Value::Object(changes) = changes else {
        panic!("changes are an object")
    };
    for (key, value) in changes {
        if value.is_null() {
            map.remove(&key);
        } else {
            map.insert(key, value);
        }
    }
    json!({"type": "req", "id": "c1", "method": "connect", "params": params})
}

fn cli(changes: Value) -> Value {
    connect("cli", "cli", changes)
}

/// Adds a device proof to a connect request; `twist` spoils it.
fn sign(mut frame: Value, seed: u8, version: u8, twist: impl Fn(&mut Value)) -> Value {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = key.verifying_key().to_bytes();
    let params = &frame["params"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let scopes: Vec<String> = params["scopes"].as_array().into_iter().flatten().map(text).collect();
    let (client_id, client_mode) = (text(&params["client"]["id"]), text(&params["client"]["mode"]));
    let auth = &params["auth"];
    let token = text(if auth["token"].is_string() {
        &auth["token"]
    } else {
        &auth["deviceToken"]
    });
    let role = params["role"].as_str().unwrap_or("operator").to_owned();
    let (id, platform) = (device_id(&public), text(&params["client"]["platform"]));
    let facts = SignedFacts {
        device_id: &id,
        client_id: &client_id,
        client_mode: &client_mode,
        role: &role,
        scopes: &scopes,
        signed_at_ms: NOW,
        token: &token,
        nonce: NONCE,
        platform: &platform,
        device_family: "",
    };
    let payload = if version == 2 {
        facts.payload_v2()
    } else {
        facts.payload_v3()
    };
    let mut device = json!({
        "id": id, "publicKey": encode_public_key(&public), "signedAt": NOW, "nonce": NONCE,
        "signature": encode_signature(&key.sign(payload.as_bytes()).to_bytes()),
    });
    twist(&mut device);
    frame["params"]["device"] = device;
    frame
}

fn signed(frame: Value) -> Value {
    sign(frame, 7, 3, |_| {})
}

fn public_key(seed: u8) -> String {
    encode_public_key(&SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes())
}

/// Scopes when let in; code, detail code and close code when not.
fn verdict(result: Result<Admission, Refusal>) -> String {
    match result {
        Ok(admission) => {
            let scopes: Vec<&str> = admission
                .scopes
                .iter()
                .map(|scope| scope.as_str().trim_start_matches("operator."))
                .collect();
            format!("ok v{} [{}]", admission.protocol, scopes.join(" "))
        }
        Err(refusal) => {
            let error = refusal.reply.and_then(|reply| reply.error);
            let told = error.map_or_else(
                || "-".to_owned(),
                |error| format!("{} {}", error.code, error.detail_code().unwrap_or(&error.message)),
            );
            format!("{told} / {}", refusal.close.code)
        }
    }
}

fn holds(world: &World, table: &[(&str, Value, &str)]) {
    for (name, frame, expected) in table {
        assert_eq!(verdict(world.judge(frame)), *expected, "{name}");
    }
}

#[test]
fn shared_token_alone_on_loopback() {
    holds(
        &World::loopback(),
        &[
            ("cli keeps what it asks", cli(json!({})), "ok v4 [read admin]"),
            (
                "backend keeps what it asks",
                connect("gateway-client", "backend", json!({})),
                "ok v4 [read admin]",
            ),
            (
                "a probe of the command line too",
                connect("cli", "probe", json!({})),
                "ok v4 [read admin]",
            ),
            ("no scopes asked, none given", cli(json!({"scopes": null})), "ok v4 []"),
            (
                "unknown scopes are left out",
                cli(json!({"scopes": ["operator.read", "x"]})),
                "ok v4 [read]",
            ),
            ("test", connect("test", "test", json!({})), "ok v4 []"),
            ("probe", connect("openclaw-probe", "probe", json!({})), "ok v4 []"),
            (
                "a terminal page needs a device",
                connect("openclaw-tui", "ui", json!({})),
                "INVALID_REQUEST CONTROL_UI_DEVICE_IDENTITY_REQUIRED / 1008",
            ),
            (
                "a node needs a device",
                cli(json!({"role": "node"})),
                "NOT_PAIRED DEVICE_IDENTITY_REQUIRED / 1008",
            ),
        ],
    );
}

#[test]
fn secrets_on_loopback() {
    holds(
        &World::loopback(),
        &[
            (
                "no auth at all",
                cli(json!({"auth": null})),
                "NOT_PAIRED DEVICE_IDENTITY_REQUIRED / 1008",
            ),
            (
                "empty auth",
                cli(json!({"auth": {}})),
                "NOT_PAIRED DEVICE_IDENTITY_REQUIRED / 1008",
            ),
            (
                "wrong token",
                cli(json!({"auth": {"token": "x"}})),
                "INVALID_REQUEST AUTH_TOKEN_MISMATCH / 1008",
            ),
            (
                "empty token",
                cli(json!({"auth": {"token": ""}})),
                "INVALID_REQUEST AUTH_TOKEN_MISMATCH / 1008",
            ),
            (
                "token as password",
                cli(json!({"auth": {"password": TOKEN}})),
                "ok v4 [read admin]",
            ),
            (
                "the old token of a rotation",
                cli(json!({"auth": {"token": OLD_TOKEN}})),
                "ok v4 [read admin]",
            ),
            (
                "the operator needs its key",
                connect("koi-operator", "probe", json!({})),
                "NOT_PAIRED DEVICE_IDENTITY_REQUIRED / 1008",
            ),
        ],
    );
}

#[test]
fn shared_token_alone_behind_the_proxy() {
    holds(
        &World::proxied(),
        &[
            ("admin is not to be had", cli(json!({})), "ok v4 [read]"),
            (
                "read and write are",
                cli(json!({"scopes": ["operator.write", "operator.pairing"]})),
                "ok v4 [write]",
            ),
            (
                "wrong token",
                cli(json!({"auth": {"token": "x"}})),
                "INVALID_REQUEST AUTH_TOKEN_MISMATCH / 1008",
            ),
        ],
    );
}

#[test]
fn protocol_versions() {
    let range = |min: u32, max: u32| cli(json!({"minProtocol": min, "maxProtocol": max}));
    holds(
        &World::loopback(),
        &[
            ("exactly 4", range(4, 4), "ok v4 [read admin]"),
            ("exactly 3", range(3, 3), "ok v3 [read admin]"),
            ("3 to 4", range(3, 4), "ok v4 [read admin]"),
            ("1 to 9", range(1, 9), "ok v4 [read admin]"),
            ("too new", range(5, 6), "INVALID_REQUEST PROTOCOL_MISMATCH / 1002"),
            ("too old", range(1, 2), "INVALID_REQUEST PROTOCOL_MISMATCH / 1002"),
            ("upside down", range(4, 3), "INVALID_REQUEST PROTOCOL_MISMATCH / 1002"),
        ],
    );
    let refusal = World::loopback().judge(&range(5, 6)).unwrap_err();
    let details = refusal.reply.unwrap().error.unwrap().details.unwrap();
    let expected = json!({
        "code": "PROTOCOL_MISMATCH", "clientMinProtocol": 5, "clientMaxProtocol": 6, "expectedProtocol": 4, "minimumProbeProtocol": 3
    });
    assert_eq!(details, expected);
}

#[test]
fn frames_that_are_no_connect_request() {
    let world = World::loopback();
    let table: [(&str, &str, &str); 8] = [
        ("not json", "hello", "- / 1000"),
        ("json, no object", "[1]", "- / 1008"),
        ("an event", r#"{"type":"event","event":"x"}"#, "- / 1008"),
        ("no id", r#"{"type":"req","method":"connect"}"#, "- / 1008"),
        (
            "an empty id",
            r#"{"type":"req","id":"","method":"connect"}"#,
            "- / 1008",
        ),
        (
            "another method",
            r#"{"type":"req","id":"1","method":"health"}"#,
            "INVALID_REQUEST invalid handshake: first request must be connect / 1008",
        ),
        (
            "no parameters",
            r#"{"type":"req","id":"1","method":"connect"}"#,
            "INVALID_REQUEST invalid connect params: at root: must be object / 1008",
        ),
        (
            "empty parameters",
            r#"{"type":"req","id":"1","method":"connect","params":{}}"#,
            "INVALID_REQUEST invalid connect params: at root: must have required property 'minProtocol' / 1008",
        ),
    ];
    for (name, text, expected) in table {
        assert_eq!(verdict(world.judge_text(text.as_bytes())), expected, "{name}");
    }
    assert_eq!(
        world.judge_text(b"[1]").unwrap_err().close.reason,
        "invalid request frame"
    );
}

#[test]
fn parameters_are_named_in_the_error() {
    let at = |fault: &str| format!("INVALID_REQUEST invalid connect params: at {fault} / 1008");
    let client = |key: &str, value: Value| {
        let mut frame = cli(json!({}));
        frame["params"]["client"][key] = value;
        frame
    };
    let table = [
        (cli(json!({"foo": 1})), at("root: unexpected property 'foo'")),
        (
            client("mode", json!("operator")),
            at("/client/mode: must be equal to one of the allowed values"),
        ),
        (
            client("id", json!("mine")),
            at("/client/id: must be equal to one of the allowed values"),
        ),
        (client("id", json!(1)), at("/client/id: must be string")),
        (client("foo", json!(1)), at("/client: unexpected property 'foo'")),
        (
            client("buildId", json!("x".repeat(97))),
            at("/client/buildId: must not have more than 96 characters"),
        ),
        (
            cli(json!({"minProtocol": 0})),
            at("/minProtocol: must be a whole number of 1 or more"),
        ),
        (
            cli(json!({"auth": {"foo": "x"}})),
            at("/auth: unexpected property 'foo'"),
        ),
        (
            cli(json!({"device": {"id": "x"}})),
            at("/device: must have required property 'publicKey'"),
        ),
        (cli(json!({"role": "king"})), at("/role: unknown role 'king'")),
    ];
    for (frame, expected) in table {
        assert_eq!(verdict(World::loopback().judge(&frame)), expected);
    }
}

#[test]
fn pages() {
    let local = World::loopback().with_origin(Origin::Local);
    holds(
        &local,
        &[("a local page gets nothing by token alone", cli(json!({})), "ok v4 []")],
    );
    holds(
        &local,
        &[(
            "and what it asks with a device",
            signed(cli(json!({}))),
            "ok v4 [read admin]",
        )],
    );
    let foreign = World::proxied().with_origin(Origin::Foreign);
    let refused = "INVALID_REQUEST CONTROL_UI_ORIGIN_NOT_ALLOWED / 1008";
    holds(
        &foreign,
        &[
            ("a foreign page", signed(cli(json!({}))), refused),
            ("wrong token too", cli(json!({"auth": {}})), refused),
        ],
    );
}

#[test]
fn device_proofs_are_checked_in_order() {
    let spoiled = |twist: fn(&mut Value)| sign(cli(json!({})), 7, 3, twist);
    let refused = |detail: &str| format!("INVALID_REQUEST DEVICE_AUTH_{detail} / 1008");
    let table = [
        (
            spoiled(|device| device["publicKey"] = json!("AAAA")),
            refused("PUBLIC_KEY_INVALID"),
        ),
        (
            spoiled(|device| device["id"] = json!("00")),
            refused("DEVICE_ID_MISMATCH"),
        ),
        (
            spoiled(|device| device["signedAt"] = json!(NOW - 120_001)),
            refused("SIGNATURE_EXPIRED"),
        ),
        (
            spoiled(|device| device["signedAt"] = json!(i64::MIN)),
            refused("SIGNATURE_EXPIRED"),
        ),
        (
            spoiled(|device| device["nonce"] = json!(" ")),
            refused("NONCE_REQUIRED"),
        ),
        (
            spoiled(|device| device["nonce"] = json!("other")),
            refused("NONCE_MISMATCH"),
        ),
        (
            spoiled(|device| device["signature"] = json!("AAAA")),
            refused("SIGNATURE_INVALID"),
        ),
        (
            spoiled(|device| device["signedAt"] = json!(NOW - 120_000)),
            refused("SIGNATURE_INVALID"),
        ),
        // The first fault in the order is the one that is told.
        (
            spoiled(|device| {
                device["nonce"] = json!("other");
                device["signedAt"] = json!(0);
            }),
            refused("SIGNATURE_EXPIRED"),
        ),
    ];
    for (frame, expected) in table {
        assert_eq!(verdict(World::loopback().judge(&frame)), expected);
    }
    for version in [2, 3] {
        let frame = sign(cli(json!({})), 7, version, |_| {});
        assert_eq!(
            verdict(World::loopback().judge(&frame)),
            "ok v4 [read admin]",
            "v{version}"
        );
    }
    // What was signed is what counts: more scopes than were signed are a forgery.
    let mut forged = signed(cli(json!({"scopes": ["operator.read"]})));
    forged["params"]["scopes"] = json!(["operator.admin"]);
    assert_eq!(verdict(World::loopback().judge(&forged)), refused("SIGNATURE_INVALID"));
}

#[test]
fn a_fresh_device_with_the_shared_token_is_paired_silently() {
    for mut world in [World::loopback(), World::proxied()] {
        let (admission, minted) = world.learn(&signed(connect("openclaw-tui", "ui", json!({}))));
        assert_eq!(admission.scopes, [Scope::Read, Scope::Admin]);
        let minted = minted.unwrap();
        // The device token opens the socket from now on, for what was granted and no more.
        let by_device = |scopes: Value| {
            let auth = json!({"deviceToken": minted.expose()});
            signed(connect("openclaw-tui", "ui", json!({"auth": auth, "scopes": scopes})))
        };
        let all = json!(["operator.read", "operator.admin"]);
        assert_eq!(verdict(world.judge(&by_device(all))), "ok v4 [read admin]");
        world
            .devices
            .replace_tokens(
                &admission.device_id.unwrap(),
                "operator",
                Some(&[Scope::Read]),
                Some(&minted),
                NOW,
            )
            .unwrap();
        let refusal = world.judge(&by_device(json!(["operator.admin"]))).unwrap_err();
        let wish = refusal.wish.clone().unwrap();
        assert_eq!((wish.scopes, wish.repair), (vec![Scope::Admin], true));
        assert_eq!(verdict(Err(refusal)), "NOT_PAIRED PAIRING_REQUIRED / 1008");
        // With the shared token it may have more, and that is remembered.
        world.learn(&signed(cli(json!({"scopes": ["operator.pairing"]}))));
        assert_eq!(
            verdict(world.judge(&by_device(json!(["operator.pairing"])))),
            "ok v4 [pairing]"
        );
        // A token that is wrong here may be right there: the client is told to try its own.
        let error = |frame: &Value, world: &World| world.judge(frame).unwrap_err().reply.unwrap().error.unwrap();
        let wrong = error(&signed(cli(json!({"auth": {"token": "wrong"}}))), &world);
        assert_eq!(wrong.details.unwrap()["recommendedNextStep"], "retry_with_device_token");
        // A new shared token ends what the old one vouched for; what a person approved stays.
        world.tokens = vec!["brand-new-token-0123456789".into()];
        let read = by_device(json!(["operator.read"]));
        assert_eq!(
            verdict(world.judge(&read)),
            "INVALID_REQUEST AUTH_DEVICE_TOKEN_MISMATCH / 1008"
        );
        assert!(world.judge(&read).unwrap_err().failed_auth);
        let id = world.devices.all().next().unwrap().id.clone();
        let approved = Pairing {
            voucher: Voucher::Person,
            ..admission.pairing.unwrap()
        };
        world.devices.remove(&id, None).unwrap();
        world.devices.pair(approved, Some(&minted), NOW);
        assert_eq!(verdict(world.judge(&read)), "ok v4 [read]");
    }
}

#[test]
fn where_approval_is_wanted_a_device_waits_for_it() {
    let mut world = World::proxied();
    world.auto_approve = false;
    let frame = signed(cli(json!({"scopes": ["operator.read"]})));
    let refusal = world.judge(&frame).unwrap_err();
    let wish = refusal.wish.unwrap();
    let error = refusal.reply.unwrap().error.unwrap();
    let details = error.details.unwrap();
    assert_eq!(
        (&details["reason"], &details["requestId"]),
        (&json!("not-paired"), &json!(wish.request_id))
    );
    let approved = Pairing {
        device_id: wish.device_id,
        public_key: wish.public_key,
        client: wish.client,
        role: wish.role,
        scopes: wish.scopes,
        voucher: Voucher::Person,
    };
    world.devices.pair(approved, None, NOW);
    assert_eq!(verdict(world.judge(&frame)), "ok v4 [read]");
    let more = world
        .judge(&signed(cli(json!({}))))
        .unwrap_err()
        .reply
        .unwrap()
        .error
        .unwrap();
    assert_eq!(more.details.unwrap()["reason"], "scope-upgrade");
}

#[test]
fn a_device_does_not_change_its_role_by_itself() {
    let mut world = World::loopback();
    let as_node = || {
        signed(connect(
            "node-host",
            "node",
            json!({"role": "node", "commands": ["run"]}),
        ))
    };
    let fresh = world.judge(&as_node()).unwrap();
    assert_eq!(
        (fresh.role, fresh.scopes),
        (Role::Node, vec![]),
        "a fresh one is what it says"
    );
    world.learn(&signed(cli(json!({}))));
    let reason = |world: &World| {
        let refusal = world.judge(&as_node()).unwrap_err();
        assert_eq!(refusal.wish.unwrap().commands, ["run"]);
        let details = refusal.reply.unwrap().error.unwrap().details.unwrap();
        assert_eq!(details["code"], "PAIRING_REQUIRED");
        (details["reason"].clone(), details["requestId"].clone())
    };
    let (first, again) = (reason(&world), reason(&world));
    assert_eq!(first.0, "role-upgrade");
    assert_eq!(first, again, "the same wish is the same request");
}

#[test]
fn workers_and_bootstrap_tokens_are_told_so() {
    let table = [
        (
            "a worker",
            signed(cli(json!({"role": "worker"}))),
            "INVALID_REQUEST AUTH_UNAUTHORIZED / 1008",
        ),
        (
            "a bootstrap token",
            signed(cli(json!({"auth": {"bootstrapToken": "x"}}))),
            "INVALID_REQUEST AUTH_BOOTSTRAP_TOKEN_INVALID / 1008",
        ),
    ];
    holds(&World::loopback(), &table);
}

#[test]
fn nobody_is_taken_while_it_starts_or_stops() {
    for (closed, reason) in [
        (Closed::Starting, "startup-sidecars"),
        (Closed::Stopping, "gateway-restarting"),
    ] {
        let mut world = World::loopback();
        world.closed = Some(closed);
        let refusal = world.judge(&cli(json!({}))).unwrap_err();
        let error = refusal.reply.unwrap().error.unwrap();
        assert_eq!(
            (error.code.as_str(), error.retryable, error.retry_after_ms),
            ("UNAVAILABLE", Some(true), Some(500))
        );
        assert_eq!(
            (error.details.unwrap(), refusal.close.code),
            (json!({"reason": reason}), 1013)
        );
    }
}

#[test]
fn a_device_of_the_bundle_needs_no_token_and_gets_what_was_settled() {
    let mut world = World::proxied();
    world.paired = vec![PairedDevice {
        public_key: public_key(7),
        scopes: vec![Scope::Read],
        name: None,
    }];
    let operator = |changes: Value| signed(connect("koi-operator", "backend", changes));
    holds(
        &world,
        &[
            (
                "with the token",
                operator(json!({"scopes": ["operator.read"]})),
                "ok v4 [read]",
            ),
            (
                "by signature alone",
                operator(json!({"scopes": ["operator.read"], "auth": null})),
                "ok v4 [read]",
            ),
            (
                "a wrong token is wrong all the same",
                operator(json!({"scopes": ["operator.read"], "auth": {"token": "x"}})),
                "INVALID_REQUEST AUTH_TOKEN_MISMATCH / 1008",
            ),
            (
                "more than was settled",
                operator(json!({})),
                "NOT_PAIRED PAIRING_REQUIRED / 1008",
            ),
            (
                "another key by signature alone",
                sign(connect("koi-operator", "backend", json!({"auth": null})), 8, 3, |_| {}),
                "INVALID_REQUEST AUTH_TOKEN_MISSING / 1008",
            ),
        ],
    );
}

#[test]
fn lock_out_and_missing_token() {
    let mut world = World::proxied();
    world.fail_often(&Subject::Address(world.peer.address));
    let error = world.judge(&cli(json!({}))).unwrap_err().reply.unwrap().error.unwrap();
    assert_eq!(
        (error.detail_code(), error.retry_after_ms),
        (Some("AUTH_RATE_LIMITED"), Some(300_000))
    );
    let mut world = World::loopback();
    world.tokens.clear();
    holds(
        &world,
        &[(
            "no token",
            cli(json!({})),
            "INVALID_REQUEST AUTH_TOKEN_NOT_CONFIGURED / 1008",
        )],
    );
}

/// Behind a proxy, with a device that came paired (7) and one that was paired here (9).
fn with_known_devices() -> World {
    let mut world = World::proxied();
    world.paired = vec![PairedDevice {
        public_key: public_key(7),
        scopes: vec![Scope::Read],
        name: None,
    }];
    world.learn(&by(9, &json!({"token": TOKEN})));
    world
}

/// Signed by the device of this seed, with this beside.
fn by(seed: u8, auth: &Value) -> Value {
    sign(cli(json!({"auth": auth, "scopes": ["operator.read"]})), seed, 3, |_| {})
}

#[test]
fn a_known_device_is_not_shut_out_by_what_others_guess() {
    let mut world = with_known_devices();
    world.fail_often(&Subject::Address(world.peer.address));
    let locked = "INVALID_REQUEST AUTH_RATE_LIMITED / 1008";
    let keyless = cli(json!({"auth": null, "scopes": ["operator.read"]}));
    let forged = sign(keyless, 7, 3, |device| {
        device["signature"] = json!("AAAA");
    });
    let cases = [
        ("a stranger with the token", by(5, &json!({"token": TOKEN})), locked),
        ("a stranger's key", by(5, &json!(null)), locked),
        ("a known id with another's signature", forged, locked),
    ];
    holds(&world, &cases);
    for auth in [json!(null), json!({"token": TOKEN})] {
        assert!(world.judge(&by(7, &auth)).is_ok(), "it came paired: {auth}");
    }
    assert!(
        world.judge(&by(9, &json!({"token": TOKEN}))).is_ok(),
        "it was paired here"
    );
}

#[test]
fn what_a_known_device_guesses_is_its_own_and_its_key_is_no_guess() {
    let mut world = with_known_devices();
    let refusal = world.judge(&by(9, &json!({"token": "wrong"}))).unwrap_err();
    let device = refusal.subject.filter(|_| refusal.failed_auth).unwrap();
    assert!(matches!(device, Subject::Device(_)));
    world.fail_often(&device);
    let id = world.judge(&by(7, &json!(null))).unwrap().device_id.unwrap();
    world.fail_often(&Subject::Device(id));
    let locked = "INVALID_REQUEST AUTH_RATE_LIMITED / 1008";
    let cases = [
        ("paired here", by(9, &json!({"token": TOKEN})), locked),
        ("came paired", by(7, &json!({"token": TOKEN})), locked),
    ];
    holds(&world, &cases);
    assert!(world.judge(&by(7, &json!(null))).is_ok(), "the key alone");
    assert!(
        world.judge(&by(5, &json!({"token": TOKEN}))).is_ok(),
        "others behind the address"
    );
}

#[test]
fn only_guesses_count_as_failures() {
    let failed = |frame: &Value| World::loopback().judge(frame).unwrap_err().failed_auth;
    assert!(failed(&cli(json!({"auth": {"token": "x"}}))));
    assert!(failed(
        &sign(cli(json!({})), 7, 3, |device| device["signature"] = json!("AAAA"))
    ));
    assert!(!failed(&cli(json!({"auth": null}))));
    assert!(!failed(&cli(json!({"foo": 1}))));
}

#[test]
fn close_reasons_fit_into_a_close_frame() {
    let long = cli(json!({"role": "ä".repeat(500)}));
    let close = World::loopback().judge(&long).unwrap_err().close;
    assert!(
        close.reason.len() <= 123 && close.reason.len() > 100,
        "{}",
        close.reason.len()
    );
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(World::loopback().judge_text(&bytes).is_err());
    }

    #[test]
    fn any_change_of_a_good_frame_gets_an_answer(
        key in prop::sample::select(vec!["minProtocol", "client", "role", "scopes", "auth", "device", "caps", "locale", "zzz"]),
        value in prop::sample::select(vec![
            json!(null), json!(-1), json!(1.5), json!(""), json!("x"), json!([]), json!([1]), json!({}), json!({"id": []}), json!(true)
        ]),
    ) {
        let mut frame = signed(cli(json!({})));
        frame["params"][key] = value;
        let _ = World::loopback().judge(&frame);
        let _ = World::proxied().judge(&frame);
    }
}
