//! Devices: paired silently or by approval, with tokens of their own that can be replaced and taken away.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::harness::{Ended, Gateway, Home, TOKEN, config, connect, device_of};

const OUTSIDE: [(&str, &str); 1] = [("x-forwarded-for", "203.0.113.9")];

fn fallen() -> Ended {
    Ended {
        code: 4001,
        reason: "authorization changed".to_owned(),
    }
}

fn token_of(hello: &Value) -> String {
    hello["payload"]["auth"]["deviceToken"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn with(token: &str, scopes: &Value) -> Value {
    json!({"auth": {"deviceToken": token}, "scopes": scopes})
}

#[tokio::test]
async fn a_device_gets_a_token_that_is_kept_as_a_hash_and_outlives_a_restart() {
    let gateway = Gateway::start();
    let (_client, hello) = gateway.device(1, &OUTSIDE, json!({})).await;
    assert_eq!(
        hello["payload"]["auth"]["scopes"],
        json!(["operator.read", "operator.admin"])
    );
    let token = token_of(&hello);
    assert!(
        token.len() >= 43 && hello["payload"]["auth"]["issuedAtMs"].is_i64(),
        "{hello}"
    );
    let path = gateway.home.path("state/devices.json");
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(!kept.contains(&token) && !kept.contains(TOKEN) && kept.contains(&device_of(1)));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut gateway = gateway;
    gateway.signal("KILL");
    gateway.wait();
    let home = Home(gateway.home.0.clone());
    let settings = config(&home);
    let again = Gateway::start_with(home, &settings);
    let (_, hello) = again
        .device(1, &OUTSIDE, with(&token, &json!(["operator.admin"])))
        .await;
    assert_eq!(hello["payload"]["auth"]["scopes"], json!(["operator.admin"]));
    assert_eq!(token_of(&hello), "", "no second one");
    let (_, other) = again.device(2, &OUTSIDE, with(&token, &json!([]))).await;
    assert_eq!(
        other["error"]["details"]["code"], "AUTH_DEVICE_TOKEN_MISMATCH",
        "it is nobody else's"
    );
}

#[tokio::test]
async fn where_approval_is_wanted_somebody_says_yes() {
    let home = Home::new();
    let mut settings = config(&home);
    settings["gateway"]["nodes"] = json!({"pairing": {"autoApproveRemote": false}});
    let gateway = Gateway::start_with(home, &settings);
    let mut admin = gateway.client().await;
    let scopes = json!(["operator.read"]);
    let wish = || gateway.device(1, &OUTSIDE, json!({"scopes": scopes}));
    let refused = wish().await.1;
    let request = refused["error"]["details"]["requestId"].clone();
    assert_eq!(refused["error"]["details"]["reason"], "not-paired");
    let asked = admin.event("device.pair.requested").await;
    assert_eq!(
        (&asked["payload"]["requestId"], &asked["payload"]["remoteIp"]),
        (&request, &json!("203.0.113.9"))
    );
    let list = admin.call("device.pair.list", json!({})).await;
    assert_eq!(list["payload"]["pending"][0]["requestId"], request);
    // One who may not do it himself cannot allow it to others.
    let mut weak = gateway.socket().await;
    weak.ask(connect(json!({"scopes": ["operator.pairing"]}))).await;
    let no = weak.call("device.pair.approve", json!({"requestId": request})).await;
    assert_eq!(no["error"]["message"], "missing scope: operator.read");
    let yes = admin.call("device.pair.approve", json!({"requestId": request})).await;
    assert_eq!(yes["payload"]["device"]["deviceId"], json!(device_of(1)));
    assert_eq!(
        admin.event("device.pair.resolved").await["payload"]["decision"],
        "approved"
    );
    assert_eq!(wish().await.1["payload"]["auth"]["scopes"], scopes);
    let again = admin.call("device.pair.approve", json!({"requestId": request})).await;
    assert_eq!(again["error"]["message"], "unknown requestId");
    // More than was approved waits again, and may be refused.
    let more = gateway.device(1, &OUTSIDE, json!({})).await.1;
    assert_eq!(more["error"]["details"]["reason"], "scope-upgrade");
    let request = &more["error"]["details"]["requestId"];
    let no = admin.call("device.pair.reject", json!({"requestId": request})).await;
    assert_eq!(no["payload"]["deviceId"], json!(device_of(1)));
    assert_eq!(gateway.device(1, &OUTSIDE, json!({})).await.1["ok"], false);
    // Who is on the machine itself is not asked.
    assert_eq!(gateway.device(3, &[], json!({})).await.1["ok"], true);
}

#[tokio::test]
async fn tokens_are_rotated_and_revoked_and_their_sockets_closed() {
    let gateway = Gateway::start();
    let mut admin = gateway.client().await;
    let token = token_of(
        &gateway
            .device(1, &[], json!({"scopes": ["operator.read", "operator.pairing"]}))
            .await
            .1,
    );
    let scopes = json!(["operator.read", "operator.pairing"]);
    let (mut own, _) = gateway.device(1, &[], with(&token, &scopes)).await;
    let rotated = own
        .call(
            "device.token.rotate",
            json!({"deviceId": device_of(1), "role": "operator"}),
        )
        .await;
    let fresh = rotated["payload"]["token"].as_str().unwrap().to_owned();
    assert_eq!(own.end().await, fallen(), "it came with the old one");
    let (_, old) = gateway.device(1, &[], with(&token, &scopes)).await;
    assert_eq!(old["error"]["details"]["code"], "AUTH_DEVICE_TOKEN_MISMATCH");
    let (mut own, hello) = gateway.device(1, &[], with(&fresh, &scopes)).await;
    assert_eq!(hello["ok"], true);
    let more = json!({"deviceId": device_of(1), "role": "operator", "scopes": ["operator.admin"]});
    assert_eq!(
        own.call("device.token.rotate", more).await["error"]["message"],
        "missing scope: operator.admin"
    );
    let by_other = admin
        .call(
            "device.token.rotate",
            json!({"deviceId": device_of(1), "role": "operator", "scopes": ["operator.read"]}),
        )
        .await;
    assert_eq!(by_other["payload"]["token"], Value::Null);
    assert_eq!(by_other["payload"]["tokenDelivery"], "withheld-cross-device");
    assert_eq!(own.end().await, fallen());
    let (mut own, _) = gateway.device(1, &[], json!({"scopes": ["operator.read"]})).await;
    let revoked = admin
        .call(
            "device.token.revoke",
            json!({"deviceId": device_of(1), "role": "operator"}),
        )
        .await;
    assert_eq!(revoked["payload"]["deviceId"], json!(device_of(1)));
    assert_eq!(own.end().await, fallen());
    let (mut own, _) = gateway.device(1, &[], json!({})).await;
    let removed = admin
        .call("device.pair.remove", json!({"deviceId": device_of(1)}))
        .await;
    assert_eq!(removed["payload"], json!({"deviceId": device_of(1)}));
    assert_eq!(own.end().await, fallen());
    let gone = admin
        .call("device.pair.rename", json!({"deviceId": device_of(1), "label": "x"}))
        .await;
    assert_eq!(gone["error"]["message"], "unknown deviceId");
}

#[tokio::test]
async fn sockets_of_a_token_that_is_gone_are_closed() {
    let gateway = Gateway::start();
    let (mut by_token, mut by_device) = (gateway.client().await, gateway.device(1, &OUTSIDE, json!({})).await.0);
    std::fs::write(gateway.home.path("token.new"), "another-token-0123456789").unwrap();
    std::fs::rename(gateway.home.path("token.new"), gateway.home.path("token")).unwrap();
    assert_eq!(by_token.end().await, fallen());
    assert_eq!(by_device.end().await, fallen());
}

#[tokio::test]
async fn guesses_of_device_tokens_lock_out_too() {
    let gateway = Gateway::start();
    let mut codes = Vec::new();
    for _ in 0..11 {
        let (_, told) = gateway.device(1, &OUTSIDE, with("guess", &json!([]))).await;
        codes.push(told["error"]["details"]["code"].as_str().unwrap().to_owned());
    }
    assert!(
        codes[..10].iter().all(|code| code == "AUTH_DEVICE_TOKEN_MISMATCH"),
        "{codes:?}"
    );
    assert_eq!(codes[10], "AUTH_RATE_LIMITED");
}

#[tokio::test]
async fn weak_secrets_are_told_in_the_log() {
    let home = Home::new();
    let gateway = Gateway::start_with(
        home,
        &json!({"gateway": {"mode": "local", "auth": {"token": "aaaaaaaaaaaaaaaaaaaa"}}}),
    );
    super::harness::wait_for("the warning", || {
        gateway.log().contains("weak secret: gateway.auth.token").then_some(())
    });
    assert!(!gateway.log().contains("aaaaaaaa"));
}

/// The token in a set-up code.
fn token_in(code: &Value) -> String {
    use base64::Engine;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let inside = engine.decode(code["setupCode"].as_str().unwrap()).unwrap();
    let inside: Value = serde_json::from_slice(&inside).unwrap();
    assert_eq!(inside["url"], code["gatewayUrl"]);
    inside["bootstrapToken"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_set_up_code_pairs_one_device_with_what_it_says() {
    let gateway = Gateway::start();
    let mut admin = gateway.client().await;
    let wanted = json!({"publicUrl": "https://koi.example", "bootstrapProfile": "limited"});
    let code = admin.call("device.pair.setupCode", wanted.clone()).await["payload"].clone();
    assert_eq!(
        (&code["gatewayUrl"], &code["access"]),
        (&json!("wss://koi.example"), &json!("limited"))
    );
    let status = json!({"setupId": code["setupId"]});
    assert_eq!(
        admin.call("device.pair.setupStatus", status.clone()).await["payload"],
        json!({})
    );
    let auth = json!({"bootstrapToken": token_in(&code)});
    let with = |scopes: Value| json!({"auth": auth, "scopes": scopes});
    // More than the code gives waits for somebody; the code still counts.
    let more = gateway.device(7, &OUTSIDE, with(json!(["operator.admin"]))).await.1;
    assert_eq!(more["error"]["details"]["reason"], "scope-upgrade");
    let (_, hello) = gateway
        .device(7, &OUTSIDE, with(json!(["operator.read", "operator.write"])))
        .await;
    assert_eq!(
        hello["payload"]["auth"]["scopes"],
        json!(["operator.read", "operator.write"]),
        "{hello}"
    );
    let own = json!({"auth": {"deviceToken": token_of(&hello)}, "scopes": ["operator.read"]});
    let done = admin.call("device.pair.setupStatus", status).await["payload"]["completion"].clone();
    assert_eq!(
        (&done["deviceId"], &done["access"]),
        (&json!(device_of(7)), &json!("limited"))
    );
    let again = gateway.device(8, &OUTSIDE, with(json!(["operator.read"]))).await.1;
    assert_eq!(
        again["error"]["details"]["code"], "AUTH_BOOTSTRAP_TOKEN_INVALID",
        "it counts once"
    );
    assert_eq!(gateway.device(7, &OUTSIDE, own).await.1["ok"], true);
    for (wanted, fault) in [
        (json!({}), "at /publicUrl: is needed"),
        (
            json!({"publicUrl": "http://koi.example"}),
            "at /publicUrl: must be https://host",
        ),
    ] {
        let refused = admin.call("device.pair.setupCode", wanted).await;
        assert!(
            refused["error"]["message"].as_str().unwrap().contains(fault),
            "{refused}"
        );
    }
    assert!(!gateway.log().contains(&token_in(&code)));
}
