use proptest::prelude::*;
use serde_json::json;

use super::*;

fn bundle(config: Value) -> Bundle {
    Bundle {
        version: VERSION,
        min_reader: 1,
        token: "s3cret-token-s3cret".into(),
        previous_token: None,
        tls: Tls {
            certificate: "-----BEGIN CERTIFICATE-----".to_owned(),
            key: "s3cret-key".into(),
        },
        volume_id: "vol-0123456789abcdef0".to_owned(),
        config_sha256: digest::sha256(&config),
        config,
        owner: Owner {
            display_name: Some("Ada".to_owned()),
            email: None,
            time_zone: Some("Europe/London".to_owned()),
        },
        devices: vec![PairedDevice {
            public_key: "A".repeat(43),
            scopes: vec![Scope::Read, Scope::Admin],
            name: Some("operator".to_owned()),
        }],
        sudo: false,
    }
}

#[test]
fn a_small_bundle_is_plain_json() {
    let small = bundle(json!({"gateway": {"mode": "local"}}));
    let text = small.encode().unwrap();
    assert!(text.starts_with("{\"config\":"), "{text}");
    assert_eq!(Bundle::decode(&text), Ok(small));
}

#[test]
fn a_large_bundle_is_packed_and_a_larger_one_refused() {
    let large = bundle(json!({"note": "all work and no play ".repeat(400)}));
    let text = large.encode().unwrap();
    assert!(text.starts_with("gz1:") && text.len() <= MAX_ENCODED_BYTES);
    assert_eq!(large.encode().unwrap(), text, "the same bundle gives the same bytes");
    assert_eq!(Bundle::decode(&text), Ok(large));
    // Digits of a simple generator do not compress.
    let noise: String = (0_u64..9000)
        .scan(1_u64, |x, _| {
            *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some(char::from(33 + (*x >> 33) as u8 % 90))
        })
        .collect();
    assert!(bundle(json!({ "note": noise })).encode().unwrap_err().encoded > MAX_ENCODED_BYTES);
}

#[test]
fn a_bomb_is_refused() {
    let packed = format!("gz1:{}", STANDARD.encode(gzip(&vec![b' '; 64 * 1024 * 1024])));
    assert_eq!(Bundle::decode(&packed), Err(DecodeError::Bomb));
}

#[test]
fn unknown_fields_are_ignored_and_a_newer_format_is_refused() {
    let mut value = serde_json::to_value(bundle(json!({}))).unwrap();
    value["later"] = json!({"a": 1});
    value["tls"]["chain"] = json!([]);
    assert_eq!(Bundle::decode(&value.to_string()), Ok(bundle(json!({}))));
    value["minReader"] = json!(2);
    assert_eq!(
        Bundle::decode(&value.to_string()),
        Err(DecodeError::TooNew { needed: 2 })
    );
}

#[test]
fn a_config_that_does_not_match_its_digest_is_refused() {
    let mut wrong = bundle(json!({"a": 1}));
    wrong.config = json!({"a": 2});
    let text = digest::canonical(&serde_json::to_value(&wrong).unwrap());
    assert!(matches!(Bundle::decode(&text), Err(DecodeError::Digest { .. })));
}

#[test]
fn neither_debug_nor_display_nor_errors_show_secrets() {
    let whole = bundle(json!({}));
    let shown = format!("{whole:?} {whole}");
    assert!(!shown.contains("s3cret"), "{shown}");
    let broken = whole.encode().unwrap().replace("\"volumeId\"", "\"x\"");
    let error = Bundle::decode(&broken).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in any::<String>()) {
        let _ = Bundle::decode(&text);
        let _ = Bundle::decode(&format!("gz1:{text}"));
        let _ = Bundle::decode(&format!("gz1:{}", STANDARD.encode(gzip(text.as_bytes()))));
    }
}

#[test]
fn sudo_is_off_unless_it_is_said() {
    let plain = bundle(json!({}));
    assert!(
        !plain.encode().unwrap().contains("sudo"),
        "older readers and digests see nothing new"
    );
    let granted = Bundle { sudo: true, ..plain };
    assert_eq!(Bundle::decode(&granted.encode().unwrap()), Ok(granted));
}
