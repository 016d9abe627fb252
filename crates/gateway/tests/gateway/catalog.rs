//! Lists of what there is, the log, and the table of all methods.

use serde_json::{Value, json};

use super::contract;
use super::harness::{Gateway, Home, config};

/// Methods that answer without parameters, or with these.
const ASKED: [(&str, &str); 36] = [
    ("health", "null"),
    ("status", "{}"),
    ("system-presence", "null"),
    ("system.info", "{}"),
    ("config.get", "{}"),
    ("logs.tail", "{}"),
    ("models.list", "{}"),
    ("models.authStatus", "{}"),
    ("tools.catalog", "{}"),
    ("tools.effective", r#"{"sessionKey":"main"}"#),
    ("commands.list", "{}"),
    ("skills.status", "{}"),
    ("agents.list", "{}"),
    ("agent.identity.get", "{}"),
    ("usage.status", "null"),
    ("usage.cost", r#"{"days":7}"#),
    ("update.status", "{}"),
    ("question.list", "{}"),
    ("plugin.approval.list", "{}"),
    ("taskSuggestions.list", "{}"),
    ("tasks.list", "{}"),
    ("plugins.list", "{}"),
    ("channels.status", "{}"),
    ("exec.approval.grants.list", "{}"),
    ("exec.approval.list", "{}"),
    ("device.pair.list", "{}"),
    ("node.pair.list", "{}"),
    ("node.list", "{}"),
    ("gateway.restart.preflight", "{}"),
    ("diagnostics.stability", "{}"),
    ("skills.search", r#"{"query":"fish"}"#),
    ("skills.detail", r#"{"slug":"fish"}"#),
    ("skills.securityVerdicts", "{}"),
    ("exec.approval.grants.revoke", r#"{"grantId":"g"}"#),
    ("config.openFile", "{}"),
    ("last-heartbeat", "null"),
];

#[tokio::test]
async fn every_list_answers_and_says_what_is_wrong_with_a_question() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    for (method, params) in ASKED {
        let answer = client.call(method, serde_json::from_str(params).unwrap()).await;
        assert_eq!(answer["ok"], true, "{method}: {answer}");
    }
    let wrong = [
        ("models.list", json!({"zzz": 1}), "at root: unexpected property 'zzz'"),
        ("logs.tail", json!({"limit": 0}), "at /limit: must be 1 to 5000"),
        (
            "logs.tail",
            json!({"cursor": -1}),
            "at /cursor: must be a whole number of 0 or more",
        ),
        (
            "tools.effective",
            Value::Null,
            "at root: must have required property 'sessionKey'",
        ),
        (
            "commands.list",
            json!({"scope": "x"}),
            "at /scope: must be equal to one of the allowed values",
        ),
        (
            "device.pair.rename",
            json!({"deviceId": "d", "label": ""}),
            "at /label: must not have fewer than 1 characters",
        ),
    ];
    for (method, params, fault) in wrong {
        let answer = client.call(method, params).await;
        assert_eq!(answer["error"]["message"], format!("invalid {method} params: {fault}"));
    }
    let managed = client.call("update.run", json!({})).await;
    assert_eq!(managed["error"]["details"]["code"], "UPDATE_MANAGED");
    let other = client.call("agent.identity.get", json!({"agentId": "other"})).await;
    assert_eq!(other["error"]["details"]["code"], "UNKNOWN_AGENT_ID");
}

#[tokio::test]
async fn what_is_told_of_the_agent_is_in_its_files() {
    let home = Home::new();
    let mut settings = config(&home);
    settings["agents"] = json!({"defaults": {"model": {"primary": "amazon-bedrock/m1"}}});
    std::fs::create_dir_all(home.path("koi/skills/fish")).unwrap();
    std::fs::write(home.path("koi/IDENTITY.md"), "- Name: Koi\n- Emoji: 🐟\n").unwrap();
    std::fs::write(
        home.path("koi/skills/fish/SKILL.md"),
        "---\nname: fish\ndescription: swim\n---\n",
    )
    .unwrap();
    let gateway = Gateway::start_with(home, &settings);
    let mut client = gateway.client().await;
    let identity = client.call("agent.identity.get", json!({})).await;
    assert_eq!(
        (&identity["payload"]["name"], &identity["payload"]["emoji"]),
        (&json!("Koi"), &json!("🐟"))
    );
    assert_eq!(
        client.call("agents.list", json!({})).await["payload"]["agents"][0]["model"]["primary"],
        "amazon-bedrock/m1"
    );
    assert_eq!(
        client.call("models.list", json!({})).await["payload"]["models"][0]["id"],
        "m1"
    );
    assert_eq!(
        client.call("skills.status", json!({})).await["payload"]["skills"][0]["description"],
        "swim"
    );
}

#[tokio::test]
async fn skills_are_shown_and_turned_off_and_nothing_is_installed() {
    let home = Home::new();
    let settings = config(&home);
    std::fs::create_dir_all(home.path("koi/skills/fish")).unwrap();
    std::fs::write(home.path("koi/skills/fish/SKILL.md"), "---\nname: Fish\n---\nswim").unwrap();
    std::fs::write(home.path("koi/SKILL.md"), "outside").unwrap();
    let gateway = Gateway::start_with(home, &settings);
    let mut client = gateway.client().await;
    let card = client.call("skills.skillCard", json!({"skillKey": "fish"})).await;
    assert_eq!(card["payload"]["content"], "---\nname: Fish\n---\nswim");
    for key in ["none", "..", ".", "fish/../fish", "/etc"] {
        let refused = client.call("skills.skillCard", json!({"skillKey": key})).await;
        assert_eq!(refused["error"]["message"], format!("unknown skill \"{key}\""));
    }
    let off = json!({"skillKey": "fish", "enabled": false});
    assert_eq!(client.call("skills.update", off).await["ok"], true);
    assert_eq!(
        client.event("skills.changed").await["payload"],
        json!({"skillKey": "fish", "enabled": false})
    );
    let shown = client.call("skills.status", json!({})).await["payload"]["skills"][0].clone();
    assert_eq!((&shown["disabled"], &shown["eligible"]), (&json!(true), &json!(false)));
    client
        .call("skills.update", json!({"skillKey": "fish", "enabled": true}))
        .await;
    let shown = client.call("skills.status", json!({})).await["payload"]["skills"][0].clone();
    assert_eq!(shown["disabled"], false);
    let secret = client
        .call("skills.update", json!({"skillKey": "fish", "apiKey": "s3cret"}))
        .await;
    let said = secret["error"]["message"].as_str().unwrap();
    assert!(
        said.starts_with("invalid skills.update params: at /apiKey:") && !said.contains("s3cret"),
        "{said}"
    );
    for (method, params) in [
        ("skills.install", json!({"source": "clawhub", "slug": "x"})),
        (
            "skills.upload.begin",
            json!({"kind": "skill-archive", "slug": "x", "sizeBytes": 1}),
        ),
        ("skills.update", json!({"source": "clawhub", "all": true})),
    ] {
        let refused = client.call(method, params).await;
        assert_eq!(refused["error"]["details"]["code"], "SKILLS_MANAGED", "{method}");
    }
}

#[tokio::test]
async fn a_sent_message_reaches_those_who_follow_once() {
    let gateway = Gateway::start();
    let (mut client, mut follower) = (gateway.client().await, gateway.client().await);
    let params = json!({"to": "main", "message": "the job is done", "channel": "webchat", "idempotencyKey": "s1"});
    let sent = client.call("send", params.clone()).await["payload"].clone();
    assert_eq!((&sent["runId"], &sent["channel"]), (&json!("s1"), &json!("webchat")));
    let heard = follower.event("chat").await["payload"].clone();
    assert_eq!(
        (
            &heard["runId"],
            &heard["state"],
            &heard["message"]["content"][0]["text"]
        ),
        (&json!("s1"), &json!("final"), &json!("the job is done"))
    );
    assert_eq!(
        client.call("send", params).await["payload"],
        sent,
        "the same is sent once"
    );
    let history = client.call("chat.history", json!({"sessionKey": "main"})).await;
    assert_eq!(history["payload"]["totalMessages"], 1);
    for (params, fault) in [
        (
            json!({"to": "x:y", "message": "m"}),
            "unknown session agent:main:x:y: nobody talks there",
        ),
        (
            json!({"to": "main", "message": " "}),
            "invalid send params: at /message: must not be empty",
        ),
        (
            json!({"to": "main", "mediaUrl": "http://x"}),
            "media cannot be sent here, only text",
        ),
    ] {
        let mut params = params;
        params["idempotencyKey"] = json!("s2");
        assert_eq!(client.call("send", params).await["error"]["message"], fault);
    }
}

#[tokio::test]
async fn the_log_is_read_from_a_cursor_on() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let first = client.call("logs.tail", json!({})).await["payload"].clone();
    let lines = first["lines"].as_array().unwrap();
    assert!(
        lines.iter().any(|line| line.as_str().unwrap().contains("listening")),
        "{lines:?}"
    );
    drop(gateway.client().await);
    let next = client.call("logs.tail", json!({"cursor": first["cursor"]})).await["payload"].clone();
    let lines = next["lines"].as_array().unwrap();
    assert!(
        !lines.is_empty() && lines.iter().all(|line| !line.as_str().unwrap().contains("listening")),
        "{lines:?}"
    );
    assert!(
        !std::fs::read_to_string(gateway.home.path("state/logs/gateway.log"))
            .unwrap()
            .contains(super::harness::TOKEN)
    );
}

#[tokio::test]
async fn others_tell_of_their_machines() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let note = json!({"text": "Node: mac", "host": "mac", "mode": "node", "reason": "periodic", "lastInputSeconds": 3});
    for _ in 0..2 {
        assert_eq!(
            client.call("system-event", note.clone()).await["payload"],
            json!({"ok": true})
        );
    }
    let presence = client.call("system-presence", Value::Null).await;
    let texts: Vec<&Value> = presence["payload"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["text"])
        .collect();
    assert_eq!(
        texts.iter().filter(|text| ***text == "Node: mac").count(),
        1,
        "{texts:?}"
    );
}

#[test]
fn scopes_are_those_of_the_contract() {
    let Some(theirs) = contract::methods() else { return };
    let output = super::harness::program(&std::env::temp_dir())
        .arg("methods")
        .output()
        .unwrap();
    let ours: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(ours.len() > 40);
    for method in &ours {
        let name = method["name"].as_str().unwrap();
        let Some(scope) = theirs.get(name) else {
            assert!(name.starts_with("koi."), "{name} is neither ours nor the contract's");
            continue;
        };
        if scope != "dynamic" {
            assert_eq!(method["scope"], json!(scope), "{name}");
        }
    }
    let listed = include_str!("../contract/methods.tsv");
    let listed: std::collections::BTreeMap<String, String> = listed
        .lines()
        .filter_map(|line| {
            line.split_once('\t')
                .map(|(name, scope)| (name.to_owned(), scope.to_owned()))
        })
        .collect();
    assert!(
        listed == theirs,
        "tests/contract/methods.tsv is not the contract's list any more"
    );
}
