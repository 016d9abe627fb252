use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn minimal() -> Value {
    json!({"gateway": {"mode": "local", "auth": {"mode": "token", "token": {"source": "file", "path": "/run/skykoi/token"}}}})
}

fn with(overrides: Value) -> Value {
    merge(minimal(), overrides)
}

fn faults(document: &Value) -> Vec<String> {
    check(document).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_smallest_document_is_accepted() {
    let config = check(&minimal()).unwrap();
    assert_eq!(config.to_document(), minimal());
}

#[test]
fn a_document_with_every_key_is_accepted_and_comes_back_unchanged() {
    let full = full();
    let config = check(&full).unwrap();
    assert_eq!(config.to_document(), full);
}

#[test]
fn the_full_document_has_every_key() {
    let full = full();
    for key in keys() {
        let steps: Vec<&str> = key.path.split('.').collect();
        assert!(
            stands(&full, &steps) || key.path.starts_with("tools.exec."),
            "{} is not in full()",
            key.path
        );
    }
}

/// Is there something at this path? `*` is any name, `[]` any entry.
fn stands(value: &Value, steps: &[&str]) -> bool {
    let Some((first, rest)) = steps.split_first() else {
        return true;
    };
    if let Some(list) = first.strip_suffix("[]") {
        return value[list]
            .as_array()
            .into_iter()
            .flatten()
            .any(|entry| stands(entry, rest));
    }
    match (*first, value) {
        ("*", Value::Object(map)) => map.values().any(|inner| stands(inner, rest)),
        (key, Value::Object(map)) => map.get(key).is_some_and(|inner| stands(inner, rest)),
        _ => false,
    }
}

fn full_agents() -> Value {
    json!({"defaults": {
        "workspace": "~/koi", "userTimezone": "America/Argentina/Buenos_Aires", "thinkingDefault": "low",
        "timeoutSeconds": 600, "maxConcurrent": 4, "bootstrapMaxChars": 20000,
        "blockStreamingDefault": "on", "blockStreamingBreak": "message_end",
        "blockStreamingChunk": {"minChars": 800, "maxChars": 1200, "breakPreference": "newline"},
        "blockStreamingCoalesce": {"minChars": 1500, "maxChars": 4000, "idleMs": 1000},
        "model": {"primary": "amazon-bedrock/us.anthropic.claude-opus-4-6-v1", "fallbacks": ["amazon-bedrock/x"]},
        "heartbeat": {
            "every": "30m", "target": "none", "prompt": "look around", "lightContext": true,
            "model": "amazon-bedrock/small", "timeoutSeconds": 60, "maxPerDay": 10,
            "activeHours": {"start": "08:00", "end": "24:00", "timezone": "user"}
        },
        "budget": {"turnTokens": 1_000_000, "dayTokens": 20_000_000},
        "compaction": {"mode": "model", "model": "openai/small", "reserveTokens": 20000, "timeoutSeconds": 180, "memoryFlush": true},
        "contextPruning": {"mode": "cache-ttl", "ttl": "5m"}
    }})
}

/// Every key that there is.
fn full() -> Value {
    json!({
        "gateway": {
            "mode": "local", "bind": "loopback", "port": 18789,
            "auth": {
                "mode": "token", "token": {"source": "env", "name": "SKYKOI_TOKEN"}, "previousToken": "0123456789abcdef",
                "rateLimit": {"maxAttempts": 10, "windowMs": 60000, "lockoutMs": 300_000, "exemptLoopback": true}
            },
            "trustedProxies": ["127.0.0.1", "::1", "10.0.0.0/8", "fd00::/8"],
            "controlUi": {"enabled": true, "allowedOrigins": ["https://koi.example:8443"]},
            "nodes": {"pairing": {"autoApproveLocal": true, "autoApproveRemote": false}},
            "reload": {"mode": "hybrid", "debounceMs": 500}, "tools": {"allow": ["read"], "deny": ["write"]},
            "http": {"endpoints": {"chatCompletions": {"enabled": true}, "responses": {"enabled": false}}}
        },
        "agents": full_agents(),
        "session": {
            "scope": "per-sender", "dmScope": "per-channel-peer", "reset": {"mode": "daily", "atHour": 4, "idleMinutes": 120},
            "resetByType": {
                "direct": {"mode": "daily", "atHour": 5, "idleMinutes": 5}, "group": {"mode": "daily", "idleMinutes": 5, "atHour": 4},
                "thread": {"mode": "daily", "atHour": 4, "idleMinutes": 9}
            },
            "resetByChannel": {"telegram": {"mode": "daily", "idleMinutes": 60, "atHour": 4}}, "resetTriggers": ["/new", "/reset"],
            "groupScope": "per-group", "identityLinks": {"anna": ["telegram:7", "discord:9"]}, "mainKey": "main",
            "sendPolicy": {"default": "allow", "rules": [
                {"action": "deny", "match": {"channel": "discord", "chatType": "group", "keyPrefix": "agent:main:"}}
            ]},
            "maintenance": {
                "mode": "enforce", "pruneAfter": "30d", "maxEntries": 500, "maxDiskBytes": 1_073_741_824_u64,
                "highWaterBytes": 900_000_000, "resetArchiveRetention": "12h"
            }
        },
        "messages": {"queue": {"mode": "steer-backlog", "debounceMs": 0, "cap": 20, "drop": "summarize"}},
        "cron": {
            "enabled": true, "maxConcurrentRuns": 2, "skipMissedJobs": false, "webhookToken": {"source": "ssm", "name": "/koi/a/webhook"},
            "webhookSsrfPolicy": {"allowedHosts": ["hub.local:8080"]},
            "failureAlert": {"enabled": true, "after": 3, "cooldownMs": 60000, "includeSkipped": true, "mode": "webhook", "to": "https://a.example/"}
        },
        "hooks": {
            "enabled": true, "token": {"source": "env", "name": "HOOKS"}, "path": "/hooks", "maxBodyBytes": 1000, "defaultSessionKey": "hook:all",
            "allowRequestSessionKey": true, "mappings": [{
                "path": "github", "action": "agent", "messageTemplate": "{{a.b}}", "name": "GitHub", "sessionKey": "hook:{{id}}",
                "model": "amazon-bedrock/x", "thinking": "low", "timeoutSeconds": 60
            }]
        },
        "exec": {"security": "full", "host": "gateway", "timeoutSeconds": 1800},
        "tools": {
            "allow": ["read"], "deny": ["browser"], "workspaceOnly": true,
            "web": {"search": {"provider": "brave", "baseUrl": "https://search.example/res/v1", "apiKey": {"source": "ssm", "name": "/koi/a/brave"}}},
            "speech": {"provider": "polly", "voice": "Vicki", "region": "eu-central-1"}
        },
        "skills": {"allowBundled": ["notes"], "entries": {"notes": {"enabled": true}}},
        "models": {"providers": {"amazon-bedrock": {"region": "us-east-1", "models": {"x.y": {"contextWindow": 200_000, "maxTokens": 4096}}}, "scripted": {"file": "/a.json"},
            "openai": {"baseUrl": "http://10.0.0.7:8000/v1", "apiKey": {"source": "file", "path": "/k"}, "models": {"qwen": {"contextWindow": 32000, "maxTokens": 4096}}}}},
        "logging": {"level": "info"}
    })
}

/// Overrides of the smallest document, and below each the first fault that is found.
const FAULTS: &str = r#"
{"gateway": {"prot": 1}}
gateway.prot: unknown key, did you mean "port"?; allowed: auth, bind, controlUi, http, mode, nodes, port, reload, tools, trustedProxies
{"gateway": {"zzz": 1}}
gateway.zzz: unknown key; allowed: auth, bind, controlUi, http, mode, nodes, port, reload, tools, trustedProxies
{"gateway": {"port": "80"}}
gateway.port: is a string; allowed: a whole number from 1 to 65535
{"gateway": {"port": 0}}
gateway.port: 0 is out of range; allowed: a whole number from 1 to 65535
{"gateway": {"port": 1.5}}
gateway.port: is a number; allowed: a whole number from 1 to 65535
{"gateway": {"mode": "remote"}}
gateway.mode: "remote" is not a choice; allowed: "local"
{"gateway": {"bind": "lan"}}
gateway.bind: "lan" is not a choice; allowed: "loopback", "auto"
{"gateway": {"auth": {"token": "short"}}}
gateway.auth.token: is too short to be safe; allowed: 16 or more characters
{"gateway": {"auth": {"token": 5}}}
gateway.auth.token: is a whole number; allowed: a string or { source: "file", ... } or { source: "env", ... } or { source: "ssm", ... }
{"gateway": {"auth": {"token": {"source": "vault"}}}}
gateway.auth.token: is of no known kind; allowed: a string or { source: "file", ... } or { source: "env", ... } or { source: "ssm", ... }
{"session": {"reset": {"mode": "idle"}}}
session.reset.idleMinutes: is missing with mode idle; allowed: 1 to 525600
{"session": {"reset": {"atHour": 24}}}
session.reset.atHour: 24 is out of range; allowed: a whole number from 0 to 23
{"session": {"resetTriggers": ["new"]}}
session.resetTriggers[0]: "new" is not a command; allowed: / and a word, such as /new
{"session": {"resetByChannel": {"telegram": {"mode": "none", "idleMinutes": 5}}}}
session.resetByChannel.telegram.idleMinutes: has no meaning with mode none; allowed: mode idle or daily, or no idleMinutes
{"session": {"identityLinks": {"anna": ["telegram"]}}}
session.identityLinks.anna[0]: "telegram" is not a peer; allowed: channel:id, such as telegram:123
{"session": {"identityLinks": {"anna": ["telegram:7"], "ben": ["telegram:7"]}}}
session.identityLinks.ben[0]: "telegram:7" is "anna" already; allowed: each peer in one list only
{"session": {"mainKey": "work"}}
session.mainKey: "work" is not a choice; allowed: "main"
{"session": {"maintenance": {"pruneAfter": "0d"}}}
session.maintenance.pruneAfter: "0d" is not a duration; allowed: a number with m, h or d, such as 30d
{"session": {"maintenance": {"highWaterBytes": 5}}}
session.maintenance.highWaterBytes: has no meaning without maxDiskBytes; allowed: maxDiskBytes, or no highWaterBytes
{"session": {"maintenance": {"maxDiskBytes": 2000000, "highWaterBytes": 2000001}}}
session.maintenance.highWaterBytes: 2000001 is more than maxDiskBytes; allowed: at most 2000000
{"session": {"sendPolicy": {"rules": [{"action": "ask"}]}}}
session.sendPolicy.rules[0].action: "ask" is not a choice; allowed: "allow", "deny"
{"exec": {}, "tools": {"exec": {}}}
tools.exec: is set beside exec, which is the same; allowed: one of exec and tools.exec
{"agents": {"defaults": {"heartbeat": {"activeHours": {"start": "24:00", "end": "23:61"}}}}}
agents.defaults.heartbeat.activeHours.end: "23:61" is not a time; allowed: 00:00 to 24:00
{"agents": {"defaults": {"heartbeat": {"activeHours": {"start": "08:00"}}}}}
agents.defaults.heartbeat.activeHours.end: is missing; allowed: a string
{"agents": {"defaults": {"model": {"primary": "gpt"}}}}
agents.defaults.model.primary: "gpt" names no model that can be reached; allowed: amazon-bedrock/<model or inference profile id>, or openai/<model>
{"tools": {"web": {"search": {"provider": "searxng"}}}}
tools.web.search.baseUrl: is missing with provider searxng; allowed: https://host
{"tools": {"web": {"search": {"provider": "brave"}}}}
tools.web.search.apiKey: is missing with provider brave; allowed: { source: "ssm", name: ... } or { source: "file", path: ... }
{"models": {"providers": {"openai": {"baseUrl": "https://user@host/v1"}}}}
models.providers.openai.baseUrl: "https://user@host/v1" is not an address; allowed: https://host/path or http://host/path, without user, query or fragment
{"models": {"providers": {"amazon-bedrok": {}}}}
models.providers.amazon-bedrok: unknown key, did you mean "amazon-bedrock"?; allowed: amazon-bedrock, openai, scripted
{"gateway": []}
gateway: is an array; allowed: an object
"#;

#[test]
fn every_fault_is_named_with_what_is_allowed() {
    let lines: Vec<&str> = FAULTS.trim().lines().collect();
    for pair in lines.chunks_exact(2) {
        let found = faults(&with(serde_json::from_str(pair[0]).unwrap()));
        assert_eq!(found.first().map(String::as_str), Some(pair[1]), "{}", pair[0]);
    }
}

#[test]
fn null_removes_in_overrides_and_is_a_fault_in_a_document() {
    assert_eq!(
        merge(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null}})),
        json!({"a": {"c": 2}})
    );
    assert_eq!(
        merge(json!({}), json!({"a": {"b": null, "c": 1}})),
        json!({"a": {"c": 1}})
    );
    assert_eq!(merge(json!({"a": [1]}), json!({"a": [2, 3]})), json!({"a": [2, 3]}));
    let mut document = minimal();
    document["cron"] = Value::Null;
    assert_eq!(
        faults(&document),
        ["cron: must not be null; allowed: an object, or no key at all"]
    );
    assert_eq!(check_partial(&json!({"cron": null})), []);
    assert_eq!(
        check_partial(&json!({"agents": {"defaults": {"heartbeat": {"activeHours": {"end": "20:00"}}}}})),
        []
    );
}

#[test]
fn overrides_cannot_touch_what_the_operator_owns() {
    let paths = |overrides: Value| {
        owned_keys(&overrides)
            .into_iter()
            .map(|issue| issue.path.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        paths(json!({"cron": {"enabled": false}, "gateway": {"controlUi": {"enabled": false}}})),
        Vec::<String>::new()
    );
    assert_eq!(
        paths(json!({"gateway": {"port": 1, "auth": {"rateLimit": {"maxAttempts": 3}}}})),
        ["gateway.port"]
    );
    assert_eq!(
        paths(json!({"gateway": {"auth": {"token": "x"}}})),
        ["gateway.auth.token"]
    );
    // Whole subtrees that contain owned keys cannot be replaced or removed either.
    let all = OPERATOR_OWNED
        .iter()
        .filter(|owned| owned.path.starts_with("gateway."))
        .count();
    assert_eq!(paths(json!({"gateway": null})), vec!["gateway"; all]);
    assert_eq!(paths(json!([])).len(), OPERATOR_OWNED.len());
}

#[test]
fn every_owned_key_is_a_key_of_the_document() {
    for owned in OPERATOR_OWNED {
        let document = owned
            .path
            .rsplit('.')
            .fold(json!(null), |inner, key| json!({ key: inner }));
        assert_eq!(check_partial(&document), [], "{}", owned.path);
    }
}

#[test]
fn depth_is_bounded() {
    let deep = (0..500).fold(json!(1), |inner, _| json!({ "gateway": inner }));
    assert!(!check(&deep).unwrap_err().is_empty());
}

/// The same without fractions: those are legal nowhere in a config, and reading them back is not exact to the last bit.
fn whole(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => Value::from(number.to_string().len()),
        Value::Array(items) => items.into_iter().map(whole).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, whole(value))).collect(),
        other => other,
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~é]{0,12}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        "[a-z]{1,8}",
        prop::sample::select(vec![
            "gateway",
            "auth",
            "token",
            "source",
            "path",
            "session",
            "reset",
            "mode",
            "models",
            "providers"
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6).prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_gets_an_answer(document in any_json()) {
        let verdict = check(&document);
        let _ = owned_keys(&document);
        let _ = check_partial(&document);
        if let Ok(config) = verdict {
            prop_assert_eq!(check(&config.to_document()).unwrap(), config);
        }
    }

    #[test]
    fn structure_and_serde_agree(document in any_json()) {
        // What serde refuses must have been found by the walk, with a better message.
        if GatewayConfig::deserialize(&document).is_err() {
            prop_assert!(!inspect::inspect(&schema(), &document).is_empty(), "{}", document);
        }
    }

    #[test]
    fn merging_twice_is_merging_once(base in any_json(), overrides in any_json()) {
        let once = merge(base, overrides.clone());
        prop_assert_eq!(merge(once.clone(), overrides), once);
    }

    #[test]
    fn the_digest_survives_writing_and_reading(document in any_json().prop_map(whole)) {
        let written: Value = serde_json::from_str(&serde_json::to_string_pretty(&document).unwrap()).unwrap();
        prop_assert_eq!(digest::sha256(&written), digest::sha256(&document));
        prop_assert_eq!(serde_json::from_str::<Value>(&digest::canonical(&document)).unwrap(), document);
    }
}

/// Documents that are near to being right: the full one with a part of it changed.
fn near_document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => any_json(),
        4 => prop::sample::select(vec![
            json!(null),
            json!(true),
            json!(0),
            json!(1),
            json!(-1),
            json!(1.0),
            json!(23),
            json!(24),
            json!(600_000),
            json!("daily"),
            json!("idle"),
            json!("none"),
            json!("webhook"),
            json!("30m"),
            json!("0m"),
            json!("24:00"),
            json!("08:00"),
            json!("x"),
            json!({}),
            json!([]),
            json!(["/a"]),
            json!("0123456789abcdef"),
            json!({"source": "ssm", "name": "/a"}),
            json!({"mode": "idle"}),
            json!({"security": "full"}),
            json!({"exec": {}}),
            json!({"enabled": true}),
        ]),
    ];
    let change = (prop::sample::select(places()), leaf, any::<bool>());
    prop::collection::vec(change, 0..4).prop_map(|changes| {
        let mut document = full();
        for (path, value, remove) in changes {
            let (parent, key) = path.rsplit_once('/').unwrap_or_default();
            match document.pointer_mut(parent) {
                Some(Value::Object(map)) if remove => drop(map.remove(key)),
                Some(Value::Object(map)) => drop(map.insert(key.to_owned(), value)),
                _ => {}
            }
        }
        document
    })
}

/// Where a change can be made: keys that the full document has, and some that it must not have or may miss.
fn places() -> Vec<String> {
    let mut found = Vec::new();
    pointers(&full(), String::new(), &mut found);
    let others = [
        "/exec",
        "/tools/exec",
        "/hooks/token",
        "/cron/failureAlert/to",
        "/session/reset/mode",
        "/gateway/zzz",
    ];
    found.extend(others.map(str::to_owned));
    found
}

fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
    if let Value::Object(map) = value {
        for (key, inner) in map {
            pointers(inner, format!("{at}/{key}"), found);
        }
    }
    if !at.is_empty() {
        found.push(at);
    }
}

/// What compares two values, and which time zones there are, no schema can say.
const UNSAID: [&str; 3] = [" is more than maxDiskBytes", " already", "there is no time zone "];

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(4000), ..ProptestConfig::default() })]

    #[test]
    fn the_schema_takes_what_the_check_takes_and_nothing_else(document in prop_oneof![4 => near_document(), 1 => any_json()]) {
        static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| jsonschema::validator_for(schema().as_value()).unwrap());
        let faults: Vec<String> = VALIDATOR.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect();
        match check(&document) {
            Ok(_) => prop_assert_eq!(faults, Vec::<String>::new(), "{}", document),
            Err(issues) => {
                let unsaid = |issue: &Issue| UNSAID.iter().any(|words| issue.reason.contains(words));
                let only_unsaid = issues.iter().all(unsaid);
                prop_assert!(only_unsaid || !faults.is_empty(), "{:?} {}", issues, document);
            }
        }
    }
}
