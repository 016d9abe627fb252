use serde_json::{Map, Value, json};

use super::{Refused, Wish, document, is_below, leaf_paths};
use crate::api::ToolLimits;

const WISH: Wish<'_> = Wish {
    model: "amazon-bedrock/us.anthropic.x",
    fallbacks: &[],
    time_zone: Some("Europe/Zurich"),
    tools: None,
};

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else {
        panic!("not an object")
    };
    map
}

#[test]
fn the_generated_document_is_complete_and_holds_no_secret() {
    let expected = json!({
        "gateway": {
            "mode": "local", "bind": "loopback", "port": 18789, "trustedProxies": ["127.0.0.1", "::1"],
            "auth": {
                "mode": "token",
                "token": {"source": "file", "path": "/run/skykoi/token"},
                "previousToken": {"source": "file", "path": "/run/skykoi/previous-token"},
            },
        },
        "agents": {"defaults": {
            "workspace": "/home/ubuntu/koi", "userTimezone": "Europe/Zurich", "model": {"primary": "amazon-bedrock/us.anthropic.x"},
        }},
    });
    assert_eq!(document(&WISH, &Map::new()), Ok(expected));
}

#[test]
fn overrides_are_merged_and_held_against_the_gateways_own_rules() {
    let merged = document(
        &WISH,
        &object(json!({"logging": {"level": "debug"}, "gateway": {"controlUi": {"enabled": false}}})),
    )
    .unwrap();
    assert_eq!(merged["logging"], json!({"level": "debug"}));
    assert_eq!(merged["gateway"]["controlUi"], json!({"enabled": false}));
    assert_eq!(merged["gateway"]["mode"], json!("local"));
    let refused = document(&WISH, &object(json!({"loging": {}}))).unwrap_err();
    assert!(
        matches!(refused, Refused::Invalid(_)) && refused.to_string().contains("loging"),
        "{refused}"
    );
}

#[test]
fn keys_of_the_operator_cannot_be_touched_even_by_removing_what_holds_them() {
    let cases = [
        json!({"gateway": {"auth": {"token": "x"}}}),
        json!({"gateway": {"port": 1}}),
        json!({"gateway": null}),
        json!({"gateway": "x"}),
        json!({"agents": {"defaults": null}}),
        json!({"agents": {"defaults": {"workspace": "/"}}}),
        json!({"agents": {"defaults": {"model": {"primary": "x"}}}}),
    ];
    for overrides in cases {
        let refused = document(&WISH, &object(overrides.clone()));
        assert!(matches!(refused, Err(Refused::Owned(_))), "{overrides}: {refused:?}");
    }
}

#[test]
fn the_plans_tools_hold_whatever_the_overrides_say() {
    let limits = ToolLimits {
        allow: Some(vec!["fs".into(), "web".into()]),
        deny: Some(vec!["exec".into()]),
    };
    let wish = Wish {
        tools: Some(&limits),
        ..WISH
    };
    let cases = [
        (json!({}), json!({"allow": ["fs", "web"], "deny": ["exec"]})),
        (
            json!({"tools": {"allow": ["fs"]}}),
            json!({"allow": ["fs"], "deny": ["exec"]}),
        ),
        (
            json!({"tools": {"deny": ["web"]}}),
            json!({"allow": ["fs", "web"], "deny": ["web", "exec"]}),
        ),
        (
            json!({"tools": {"deny": null, "allow": null}}),
            json!({"allow": ["fs", "web"], "deny": ["exec"]}),
        ),
        (
            json!({"tools": null}),
            json!({"allow": ["fs", "web"], "deny": ["exec"]}),
        ),
    ];
    for (overrides, expected) in cases {
        assert_eq!(
            document(&wish, &object(overrides.clone())).unwrap()["tools"],
            expected,
            "{overrides}"
        );
    }
}

#[test]
fn paths_name_every_value() {
    let overrides = object(json!({"a": {"b": 1, "c": {}}, "d": [1], "e": null}));
    assert_eq!(leaf_paths(&overrides), ["a.b", "a.c", "d", "e"]);
    assert!(is_below("a.b", "a") && is_below("a.b", "a.b") && !is_below("a.bc", "a.b") && !is_below("a", "a.b"));
}
