use proptest::prelude::*;
use serde_json::json;

use super::*;

fn value(text: &str) -> Value {
    parse(text).unwrap().to_value()
}

fn fault(text: &str) -> (usize, usize, String) {
    let fault = parse(text).unwrap_err();
    let (line, column) = line_and_column(text, fault.at);
    let key = if fault.key.is_empty() {
        String::new()
    } else {
        format!("{}: ", fault.key)
    };
    (line, column, format!("{key}{}", fault.reason))
}

#[test]
fn what_json5_adds_is_read() {
    let text = "\u{feff}// first\n{ unquoted: 'single \\\n line', /* in\nbetween */ \"q\": .5, $x_1: +0x1F, 'n': -5., e: 1e-2, t: true, z: null, l: [1, 2,], }";
    let expected = json!({"unquoted": "single  line", "q": 0.5, "$x_1": 31, "n": -5.0, "e": 0.01, "t": true, "z": null, "l": [1, 2]});
    assert_eq!(value(text), expected);
    assert_eq!(value(r#"'\x41\u00e9\ud83d\ude00\q\0'"#), json!("Aé😀q\0"));
    assert_eq!(value("/*/ a comment */ 1 /**/ /***/ // end"), json!(1));
    assert_eq!(value("18446744073709551615"), json!(u64::MAX));
    assert_eq!(value("-9223372036854775808"), json!(i64::MIN));
}

#[test]
fn faults_point_at_the_place() {
    let table = [
        ("", (1, 1, "the file ends, expected a value")),
        ("{\n  a: 1\n  b: 2\n}", (3, 3, "unexpected 'b', expected ',' or '}'")),
        ("{ a 1 }", (1, 5, "unexpected '1', expected ':' after the key")),
        (
            "{ a: yes }",
            (1, 6, "unexpected word, expected a value; strings need quotes"),
        ),
        ("{ a: 'x }", (1, 6, "this string has no end")),
        ("{ a: 'x\n' }", (1, 6, "this string has no end on its line")),
        ("{ a: 012 }", (1, 6, "is not a number; strings need quotes")),
        ("{ a: 1.2.3 }", (1, 6, "is not a number; strings need quotes")),
        ("{ a: 0xZZ }", (1, 6, "is not a number; strings need quotes")),
        ("{ a: NaN }", (1, 6, "NaN is not a number that any key takes")),
        ("{ a: 1 } x", (1, 10, "unexpected text after the document")),
        ("{ a: /* x", (1, 6, "this comment has no end")),
        ("1 /*/", (1, 3, "this comment has no end")),
        (
            "{ é: { b: 1,\n 'b': 2 } }",
            (2, 2, "é.b: is set twice, first in line 1"),
        ),
        ("[1, 2", (1, 6, "the file ends, expected ',' or ']'")),
        ("'\\ud800'", (1, 8, "half of a surrogate pair is not a character")),
        ("'\\u12'", (1, 4, "expected 4 hexadecimal digits")),
    ];
    for (text, (line, column, reason)) in table {
        assert_eq!(fault(text), (line, column, reason.to_owned()), "{text}");
    }
}

#[test]
fn depth_is_bounded() {
    assert!(fault(&"[".repeat(100_000)).2.starts_with("nested more than 64"));
    assert!(fault(&"{a:".repeat(100_000)).2.starts_with("nested more than 64"));
}

fn any_json() -> impl Strategy<Value = Value> {
    any_json_with_keys(".*")
}

/// Keys that are written without quotes may hold combining marks in JSON5; ours may not, which nobody will miss in a config.
fn any_json_with_keys(keys: &'static str) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 30, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..5).prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in any::<String>()) {
        if let Err(fault) = parse(&text) {
            prop_assert!(text.is_char_boundary(fault.at));
        }
    }

    #[test]
    fn text_made_of_json5_pieces_gets_an_answer(pieces in prop::collection::vec(prop::sample::select(vec![
        "{", "}", "[", "]", ":", ",", "a", "'b'", "\"", "\\", "\\u", "0x1", "1e", "-", "+", ".", "/*", "*/", "//", "\n", "é", "null", " "
    ]), 0..40)) {
        let text = pieces.concat();
        // The other reader is the judge of what is JSON5; it takes keys twice and numbers that we do not.
        match (parse(&text), json5::from_str::<Value>(&text)) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours.to_value(), theirs),
            (Err(fault), Ok(_)) => prop_assert!(fault.reason.contains("twice"), "{}: {}", text, fault.reason),
            (Ok(_), Err(theirs)) => prop_assert!(false, "{:?} is refused by the judge: {}", text, theirs),
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn json_is_read_as_json(document in any_json()) {
        prop_assert_eq!(value(&document.to_string()), document.clone());
        prop_assert_eq!(value(&serde_json::to_string_pretty(&document).unwrap()), document);
    }

    #[test]
    fn what_the_other_writes_is_read(document in any_json_with_keys("[a-zA-Z0-9_$é \"'\\\\-]{0,8}")) {
        prop_assert_eq!(value(&json5::to_string(&document).unwrap()), document);
    }
}
