use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> String {
    match SessionKey::parse(text) {
        Ok(key) => key.to_string(),
        Err(error) => format!("! {error}"),
    }
}

#[test]
fn every_way_to_write_a_key() {
    let table = [
        ("main", "agent:main:main", Kind::Main),
        (" MAIN ", "agent:main:main", Kind::Main),
        ("agent:main:main", "agent:main:main", Kind::Main),
        ("Agent:Main:Main", "agent:main:main", Kind::Main),
        ("global", "global", Kind::Global),
        ("cron:nightly", "agent:main:cron:nightly", Kind::Cron),
        ("hook:7f", "hook:7f", Kind::Hook),
        ("tui-1", "agent:main:tui-1", Kind::Tui),
        ("agent:main:telegram:dm:7", "agent:main:telegram:direct:7", Kind::Direct),
        ("dm:Anna", "agent:main:direct:Anna", Kind::Direct),
        ("agent:main:dm:Direct:7", "agent:main:dm:direct:7", Kind::Direct),
        ("agent:main:dm:DM:DM:dm", "agent:main:dm:DM:direct:dm", Kind::Direct),
        ("agent:main:direct:Anna", "agent:main:direct:Anna", Kind::Direct),
        (
            "agent:main:slack:t1:direct:U7",
            "agent:main:slack:t1:direct:U7",
            Kind::Direct,
        ),
        (
            "agent:main:telegram:GROUP:-1A",
            "agent:main:telegram:group:-1A",
            Kind::Group,
        ),
        (
            "agent:main:discord:channel:1",
            "agent:main:discord:channel:1",
            Kind::Channel,
        ),
        (
            "agent:main:discord:channel:1:thread:2",
            "agent:main:discord:channel:1:thread:2",
            Kind::Thread,
        ),
        ("agent:main:main:thread:2", "agent:main:main:thread:2", Kind::Thread),
        ("agent:main:subagent:9", "agent:main:subagent:9", Kind::Subagent),
        ("agent:main:whatever", "agent:main:whatever", Kind::Other),
    ];
    for (text, expected, kind) in table {
        assert_eq!(parse(text), expected);
        assert_eq!(SessionKey::parse(text).unwrap().kind(), kind, "{text}");
    }
}

#[test]
fn what_is_no_key_says_why() {
    assert_eq!(parse("  "), "! must not be empty");
    assert_eq!(parse("a\0b"), "! must not contain control characters");
    assert_eq!(parse(&"x".repeat(513)), "! must not have more than 512 bytes");
    assert_eq!(parse(&"x".repeat(510)), "! must not have more than 512 bytes");
    assert!(parse("agent:main").starts_with("! must be agent:<id>"));
    assert!(parse("agent:main:").starts_with("! must be agent:<id>"));
    assert!(parse("agent:../../etc:main").starts_with("! names an agent by what is no id"));
    assert!(parse("agent::main").starts_with("! names an agent"));
}

#[test]
fn rooms_whose_ids_differ_in_case_stay_two() {
    assert_ne!(
        parse("agent:main:matrix:channel:!aB"),
        parse("agent:main:matrix:channel:!ab")
    );
    assert_ne!(
        SessionKey::channel("main", "matrix", "!aB"),
        SessionKey::channel("main", "matrix", "!ab")
    );
}

#[test]
fn direct_messages_are_kept_apart_as_far_as_was_asked_for() {
    let peer = |channel, account, id| Peer { channel, account, id };
    let anna = peer("telegram", "default", "7");
    let key = |scope, peer: &Peer<'_>| SessionKey::direct("main", scope, peer, None).to_string();
    assert_eq!(key(DmScope::Main, &anna), "agent:main:main");
    assert_eq!(key(DmScope::PerPeer, &anna), "agent:main:direct:7");
    assert_eq!(key(DmScope::PerChannelPeer, &anna), "agent:main:telegram:direct:7");
    assert_eq!(
        key(DmScope::PerAccountChannelPeer, &anna),
        "agent:main:telegram:default:direct:7"
    );
    let links = BTreeMap::from([("anna".to_owned(), vec!["telegram:7".to_owned(), "Discord:9".to_owned()])]);
    let linked = |peer: &Peer<'_>| SessionKey::direct("main", DmScope::PerPeer, peer, Some(&links));
    assert_eq!(linked(&anna).as_str(), "agent:main:direct:anna");
    assert_eq!(linked(&anna), linked(&peer("discord", "x", "9")));
    assert_ne!(linked(&anna), linked(&peer("discord", "x", "7")));
}

#[test]
fn keys_know_their_channel() {
    let channel = |text: &str| SessionKey::parse(text).unwrap().channel_name().map(str::to_owned);
    assert_eq!(channel("agent:main:telegram:group:1").as_deref(), Some("telegram"));
    assert_eq!(
        channel("agent:main:telegram:group:1:thread:2").as_deref(),
        Some("telegram")
    );
    assert_eq!(channel("agent:main:slack:t:direct:U").as_deref(), Some("slack"));
    for none in [
        "main",
        "agent:main:direct:7",
        "agent:main:cron:x",
        "global",
        "hook:direct:x",
    ] {
        assert_eq!(channel(none), None, "{none}");
    }
}

proptest! {
    #[test]
    fn parsing_is_idempotent(text in any::<String>()) {
        if let Ok(key) = SessionKey::parse(&text) {
            prop_assert_eq!(SessionKey::parse(key.as_str()), Ok(key.clone()));
            prop_assert!(key.as_str().len() <= MAX_KEY);
        }
    }

    #[test]
    fn two_peers_never_share_a_conversation(
        a in ("[a-z:%]{1,8}", "[a-z:%]{1,8}", "[a-zA-Z:%]{1,700}"),
        b in ("[a-z:%]{1,8}", "[a-z:%]{1,8}", "[a-zA-Z:%]{1,700}"),
    ) {
        let key = |(channel, account, id): &(String, String, String)| {
            SessionKey::direct("main", DmScope::PerAccountChannelPeer, &Peer { channel, account, id }, None)
        };
        prop_assert_eq!(key(&a) == key(&b), a == b);
        prop_assert_eq!(SessionKey::parse(key(&a).as_str()).unwrap(), key(&a));
        prop_assert_eq!(key(&a).kind(), Kind::Direct);
    }
}
