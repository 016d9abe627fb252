use proptest::prelude::*;

use super::*;

fn sort(line: &str) -> Sort {
    Glance::of(line.as_bytes()).sort
}

#[test]
fn lines_of_every_sort() {
    assert_eq!(sort(" \t"), Sort::Blank);
    for broken in [
        "{",
        "[]",
        "null",
        "{} {}",
        "\0\0\0",
        "{\"type\":\"message\"",
        "[\"message\"]",
        "{\"type\":\"x\",\"type\":\"y\"}",
    ] {
        assert_eq!(sort(broken), Sort::Broken, "{broken}");
    }
    assert_eq!(Glance::of(b"{\"type\":\"\xff\"}").sort, Sort::Broken);
    assert_eq!(sort(r#"{"type":"session","version":3}"#), Sort::Header);
    assert_eq!(sort(r#"{"type":"tomorrow","data":[[[{}]]]}"#), Sort::Hidden);
    assert_eq!(sort(r#"{"type":5}"#), Sort::Hidden);
    assert_eq!(sort(r#"{"type":"compaction","summary":"s"}"#), Sort::Compaction);
    assert_eq!(sort(r#"{"type":"custom_message","display":true}"#), Sort::Shown);
    assert_eq!(sort(r#"{"type":"custom_message","display":"yes"}"#), Sort::Hidden);
    assert_eq!(
        sort(r#"{"type":"custom","customType":"other","data":{"event":"patch","meta":{}}}"#),
        Sort::Hidden
    );
    let note = Note::Patch { meta: Map::new() };
    assert_eq!(
        sort(r#"{"type":"custom","customType":"skykoi.session","data":{"event":"patch","meta":{}}}"#),
        Sort::Own(Box::new(note))
    );
}

#[test]
fn what_is_kept_of_a_message() {
    let line = r#"{"type":"message","id":"0a","timestamp":"2026-01-02T03:04:05.006Z","background":true,"message":{
        "role":"assistant","content":[{"type":"thinking","thinking":"t"},{"type":"text","text":" one\n two "},{"type":"text","text":"three"}],
        "model":"m","provider":"p","usage":{"input":1,"output":-5,"cacheRead":"x","totalTokens":1e99,"cost":{"total":0.25}}}}"#;
    let usage = Usage {
        input: 1,
        total_tokens: 1 << 40,
        cost: Cost {
            total: 0.25,
            ..Cost::default()
        },
        ..Usage::default()
    };
    let expected = Glance {
        sort: Sort::Said(Said {
            role: "assistant".to_owned(),
            snippet: "one two".to_owned(),
            model: "m".to_owned(),
            provider: "p".to_owned(),
            usage: Some(usage),
        }),
        id: Some("0a".to_owned()),
        at_ms: Some(1_767_323_045_006),
        background: true,
    };
    assert_eq!(Glance::of(line.as_bytes()), expected);
}

#[test]
fn what_is_strange_in_a_message_is_as_good_as_not_there() {
    for message in [
        "5",
        "null",
        "[1]",
        "\"x\"",
        "{\"role\":7,\"content\":{\"text\":[1]},\"usage\":[]}",
        "{\"usage\":{\"cost\":3}}",
    ] {
        let line = format!("{{\"type\":\"message\",\"message\":{message}}}");
        let Sort::Said(said) = sort(&line) else {
            panic!("{line}")
        };
        assert_eq!((said.role.as_str(), said.snippet.as_str()), ("", ""), "{line}");
    }
}

#[test]
fn depth_ends_somewhere() {
    let deep = |n: usize| {
        format!(
            "{{\"type\":\"message\",\"message\":{{\"content\":{}{}}}}}",
            "[".repeat(n),
            "]".repeat(n)
        )
    };
    assert!(matches!(sort(&deep(100)), Sort::Said(_)));
    assert_eq!(sort(&deep(100_000)), Sort::Broken);
    let unknown = format!(
        "{{\"type\":\"x\",\"deep\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(sort(&unknown), Sort::Hidden);
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(bytes in any::<Vec<u8>>()) {
        let _ = Glance::of(&bytes).is_row();
    }

    #[test]
    fn any_object_is_no_broken_line(value in "[a-z]{0,4}", text in any::<String>()) {
        let line = serde_json::json!({"type": value, "message": {"content": text, "role": value}, "id": text, "timestamp": text});
        prop_assert_ne!(Glance::of(line.to_string().as_bytes()).sort, Sort::Broken);
    }
}
