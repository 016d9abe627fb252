use koi_wire::config::merge;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const PATH: &str = "/etc/skykoi.json";

fn minimal() -> Value {
    json!({"gateway": {"mode": "local", "auth": {"token": "0123456789abcdef"}}})
}

fn none(_: &str) -> Option<String> {
    None
}

#[test]
fn a_config_with_comments_is_read() {
    let text = "// mine\n{ gateway: { mode: 'local', auth: { token: '0123456789abcdef' }, }, }\n";
    let loaded = parse(Path::new(PATH), text, none).unwrap();
    assert_eq!(
        loaded.sha256,
        digest::sha256(&minimal()),
        "the digest is that of the content, not of the text"
    );
}

#[test]
fn a_missing_file_is_a_refusal() {
    let refused = load(Path::new("/nonexistent/skykoi.json"), none).unwrap_err();
    assert!(
        refused.0[0].starts_with("/nonexistent/skykoi.json:1:1: (file): cannot be read: "),
        "{refused}"
    );
}

#[test]
fn every_fault_has_a_line_of_its_own() {
    let text = "{\n  gateway: {\n    mode: 'remote',\n    auth: {},\n    prot: 1,\n  },\n}";
    let refused = parse(Path::new(PATH), text, none).unwrap_err();
    let expected = [
        "/etc/skykoi.json:3:5: gateway.mode: \"remote\" is not a choice; allowed: \"local\"",
        "/etc/skykoi.json:5:5: gateway.prot: unknown key, did you mean \"port\"?; allowed: auth, bind, controlUi, http, mode, nodes, port, reload, tools, trustedProxies",
    ];
    assert_eq!(refused.0, expected);
}

#[test]
fn secrets_are_redacted_and_references_are_not() {
    let text = minimal().to_string();
    let loaded = parse(Path::new(PATH), &text, none).unwrap();
    let shown = config::redact(&loaded.document).to_string();
    assert!(
        !shown.contains("0123456789abcdef") && shown.contains("__OPENCLAW_REDACTED__"),
        "{shown}"
    );
    let reference = json!({"gateway": {"auth": {"token": {"source": "file", "path": "/run/skykoi/token"}}}});
    let loaded = parse(Path::new(PATH), &merge(minimal(), reference.clone()).to_string(), none).unwrap();
    assert_eq!(
        config::redact(&loaded.document)["gateway"]["auth"],
        reference["gateway"]["auth"]
    );
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in any::<String>()) {
        prop_assert!(parse(Path::new(PATH), &text, none).is_err());
    }

    #[test]
    fn a_config_with_a_foreign_key_is_refused_at_that_key(key in "[a-z]{3,12}", section in prop::sample::select(vec!["gateway", "gateway.auth"])) {
        let document = section.rsplit('.').fold(json!({ &key: 1 }), |inner, part| json!({ part: inner }));
        let known = koi_wire::config::check_partial(&document).is_empty();
        prop_assume!(!known);
        let text = serde_json::to_string_pretty(&merge(minimal(), document)).unwrap();
        let refused = parse(Path::new(PATH), &text, none).unwrap_err();
        let line = text.lines().position(|line| line.contains(&format!("\"{key}\": 1"))).unwrap() + 1;
        prop_assert!(refused.0.iter().any(|fault| fault.starts_with(&format!("{PATH}:{line}:"))), "{}", refused);
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let refused = load(Path::new("/dev/zero"), none).unwrap_err();
    assert_eq!(refused.0, ["/dev/zero:1:1: (file): is not a file"]);
}

#[test]
fn a_secret_without_its_quotes_is_not_repeated() {
    for word in ["supersecrettoken1234", "1234supersecrettoken"] {
        let text = format!("{{gateway: {{auth: {{token: {word}}}}}}}");
        let refused = parse(Path::new("c"), &text, none).unwrap_err();
        assert!(!refused.to_string().contains("supersecret"), "{refused}");
    }
}

#[test]
fn many_keys_take_no_longer_than_their_number() {
    let text: String = (0..300_000).map(|n| format!("k{n}:1,")).collect();
    let started = std::time::Instant::now();
    json5::parse(&format!("{{{text}}}")).unwrap();
    // It took more than ten times as long when every key was compared with all others.
    assert!(started.elapsed() < std::time::Duration::from_secs(10));
}

/// The smallest config with every documented default written out.
fn spelled_out() -> GatewayConfig {
    let mut document = minimal();
    for key in config::keys() {
        let Some(value) = key.default_value else { continue };
        // Entries of lists and maps are not there by default; what has no meaning without others is not either.
        let alone =
            key.path.contains(['*', '[']) || key.path.starts_with("tools.exec.") || key.path.contains("activeHours");
        if !alone {
            document = merge(
                document,
                key.path.rsplit('.').fold(value, |inner, step| json!({ step: inner })),
            );
        }
    }
    // Defaults that are lists.
    document["session"]["resetTriggers"] = json!(["/new", "/reset"]);
    config::check(&document).unwrap()
}

#[test]
fn documented_defaults_are_what_holds() {
    let (silent, said) = (config::check(&minimal()).unwrap(), spelled_out());
    let schedule = |config: &GatewayConfig| crate::schedule::Settings::new(config, &jiff::tz::TimeZone::UTC);
    assert_eq!(schedule(&silent), schedule(&said));
    let conversations = |config: &GatewayConfig| crate::conversation::Settings {
        // Not to say how much to think is to say not at all.
        thinking: None,
        ..crate::conversation::Settings::from_config(config)
    };
    assert_eq!(conversations(&silent), conversations(&said));
    let limits = |config: &GatewayConfig| {
        let auth = config.gateway.as_ref().and_then(|gateway| gateway.auth.as_ref());
        crate::server::limiter::Limits::from_config(auth.and_then(|auth| auth.rate_limit.as_ref()))
    };
    assert_eq!(limits(&silent), limits(&said));
}
