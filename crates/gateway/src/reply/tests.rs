use proptest::prelude::*;

use super::*;

#[test]
fn nothing_to_say_is_not_said() {
    for silent in [
        "NO_REPLY",
        " no_reply\n",
        "**NO_REPLY**",
        "`NO_REPLY`.",
        "[[reply_to_current]] NO_REPLY",
        "",
        "  ",
    ] {
        assert_eq!(visible(silent), None, "{silent:?}");
    }
    let said = |text: &str| visible(text).unwrap();
    assert_eq!(said("NO_REPLYING is a word"), "NO_REPLYING is a word");
    assert_eq!(said("All done.\n\nNO_REPLY"), "All done.");
    assert_eq!(said("NO_REPLY: but look"), "but look");
    assert_eq!(said("say NO_REPLY to be silent"), "say NO_REPLY to be silent");
}

#[test]
fn tags_are_taken_out_and_understood() {
    let (tags, text) = Tags::take("[[reply_to_current]] Yes. [[ reply_to : 12 ]]And [[this]] [[audio_as_voice]]");
    let expected = Tags {
        to_current: true,
        to: Some("12".to_owned()),
        as_voice: true,
    };
    assert_eq!((tags, text.as_str()), (expected, "Yes. And [[this]] "));
}

#[test]
fn a_heartbeat_that_is_well_is_silent() {
    for silent in [
        "HEARTBEAT_OK",
        "heartbeat_ok.",
        "Looked around. HEARTBEAT_OK",
        "HEARTBEAT_OK all is well",
        "NO_REPLY",
    ] {
        assert_eq!(heartbeat_words(silent), None, "{silent:?}");
    }
    assert_eq!(heartbeat_words("The disk is full").unwrap(), "The disk is full");
    let long = "x".repeat(301);
    assert_eq!(heartbeat_words(&format!("{long} HEARTBEAT_OK")).unwrap(), long);
}

#[test]
fn what_may_become_a_control_word_is_held_back() {
    let mut stream = Stream::default();
    let now = Instant::now();
    let mut shown = Vec::new();
    for piece in ["NO", "_RE", "PLACEMENT", " is fine [", "[reply_to", "_current]] ok"] {
        stream.push(piece);
        shown.extend(stream.take(now).map(|delta| (delta.text, delta.replace)));
    }
    let expected = [("NO_REPLACEMENT", false), (" is fine", false), (" ok", false)];
    assert_eq!(shown, expected.map(|(text, replace)| (text.to_owned(), replace)));
    let mut silent = Stream::default();
    for piece in ["no", "_reply", "\n"] {
        silent.push(piece);
        assert_eq!(silent.take(now), None);
    }
    assert!(silent.is_silent());
}

#[test]
fn the_first_delta_is_due_at_once_and_the_next_later() {
    let mut stream = Stream::default();
    let now = Instant::now();
    assert_eq!(stream.due(now), None);
    stream.push("a");
    assert_eq!(stream.due(now), Some(now));
    stream.take(now);
    assert_eq!(stream.due(now), None);
    stream.push("b");
    assert_eq!(stream.due(now), Some(now + PACE));
}

#[test]
fn pieces_are_paragraphs_and_can_be_taken_back() {
    let mut stream = Stream::default();
    let now = Instant::now();
    let delta = |text: &str, replace| {
        Some(Delta {
            text: text.to_owned(),
            replace,
        })
    };
    stream.push("Let me look.");
    assert_eq!(stream.take(now), delta("Let me look.", false));
    stream.next_piece();
    stream.push("Hal");
    assert_eq!(stream.take(now), delta("\n\nHal", false));
    stream.withdraw();
    assert_eq!(stream.take(now), delta("Let me look.", true));
    stream.push("Found it.");
    assert_eq!(stream.take(now), delta("\n\nFound it.", false));
    assert_eq!(stream.whole(), "Let me look.\n\nFound it.");
}

fn in_blocks(config: serde_json::Value) -> Stream {
    let defaults = serde_json::from_value(config).unwrap();
    Stream::new(Some(Blocks::from_config(Some(&defaults)).unwrap()))
}

#[test]
fn in_blocks_a_text_is_shown_as_far_as_it_is_complete() {
    let mut stream = in_blocks(serde_json::json!({
        "blockStreamingDefault": "on", "blockStreamingChunk": {"minChars": 10, "maxChars": 60},
        "blockStreamingCoalesce": {"minChars": 30, "idleMs": 500}
    }));
    let mut now = Instant::now();
    let shown = |stream: &mut Stream, now| stream.take(now).map(|delta| delta.text);
    stream.push("A first paragraph");
    assert_eq!((stream.due(now), shown(&mut stream, now)), (Some(now), None));
    assert_eq!(stream.due(now), None);
    stream.push(" of it.\n\n```\nlet a = 1;\n");
    // It is complete, but it waits for company.
    assert_eq!(shown(&mut stream, now), None);
    assert_eq!(stream.due(now), Some(now + Duration::from_millis(500)));
    now += Duration::from_millis(500);
    assert_eq!(shown(&mut stream, now).as_deref(), Some("A first paragraph of it.\n\n"));
    stream.push("\nlet b = 2;\n");
    assert_eq!(shown(&mut stream, now), None, "a code block comes as a whole");
    stream.push("```\n\nAnd");
    assert_eq!(
        shown(&mut stream, now).as_deref(),
        Some("```\nlet a = 1;\n\nlet b = 2;\n```\n\n")
    );
    stream.next_piece();
    assert_eq!(
        shown(&mut stream, now).as_deref(),
        Some("And"),
        "a text that ends is shown"
    );
    stream.push("More");
    assert_eq!(shown(&mut stream, now), None);
    stream.withdraw();
    stream.push("Other words");
    stream.finish();
    assert_eq!(shown(&mut stream, now).as_deref(), Some("\n\nOther words"));
    assert_eq!(stream.shown(), stream.whole());
}

#[test]
fn blocks_may_wait_for_the_end_of_the_message() {
    let mut stream =
        in_blocks(serde_json::json!({"blockStreamingDefault": "on", "blockStreamingBreak": "message_end"}));
    let now = Instant::now();
    stream.push("One.");
    stream.next_piece();
    stream.push("Two.");
    assert_eq!(stream.take(now), None);
    stream.finish();
    assert_eq!(stream.take(now).unwrap().text, "One.\n\nTwo.");
}

#[test]
fn blocks_of_an_answer_are_texts_of_their_own() {
    let defaults = serde_json::from_value(serde_json::json!({
        "blockStreamingDefault": "on",
        "blockStreamingChunk": {"minChars": 1, "maxChars": 40, "breakPreference": "paragraph"}, "blockStreamingCoalesce": {"minChars": 1}
    }));
    let blocks = Blocks::from_config(Some(&defaults.unwrap())).unwrap();
    let text = "First paragraph.\n\n```sh\necho one\necho two\necho three\necho four\n```";
    let expected = [
        "First paragraph.",
        "```sh\necho one\necho two\necho three\n```",
        "```sh\necho four\n```",
    ];
    assert_eq!(blocks.of(text), expected);
    let off = serde_json::from_value(serde_json::json!({"blockStreamingChunk": {"minChars": 1}})).unwrap();
    assert_eq!(Blocks::from_config(Some(&off)), None);
}

proptest! {
    #[test]
    fn in_blocks_what_was_shown_adds_up_too(
        pieces in prop::collection::vec((0_u8..12, "[a-z`\n ]{0,30}", 0_u64..400), 0..40), least in 0_u32..60, most in 1_u32..120
    ) {
        let mut stream = in_blocks(serde_json::json!({
            "blockStreamingDefault": "on", "blockStreamingChunk": {"minChars": least, "maxChars": most}, "blockStreamingCoalesce": {"idleMs": 200}
        }));
        let (mut seen, mut now) = (String::new(), Instant::now());
        for (what, text, pause) in pieces {
            match what {
                0 => stream.next_piece(),
                1 => stream.withdraw(),
                _ => stream.push(&text),
            }
            now += Duration::from_millis(pause);
            if let Some(delta) = stream.take(now) {
                if delta.replace { seen.clear(); }
                seen.push_str(&delta.text);
            }
            prop_assert_eq!(seen.as_str(), stream.shown());
        }
        stream.finish();
        if let Some(delta) = stream.take(now) {
            if delta.replace { seen.clear(); }
            seen.push_str(&delta.text);
        }
        prop_assert_eq!(seen.trim_end(), join(&stream.settled, &words::partial(&stream.piece)));
        prop_assert_eq!(stream.due(now), None);
    }

    #[test]
    fn what_was_shown_adds_up(pieces in prop::collection::vec(prop_oneof![
        any::<String>(), Just("NO_REPLY".to_owned()), Just("NO_".to_owned()), Just("[[".to_owned()), Just("reply_to:1".to_owned()),
        Just("]]".to_owned()), Just("\n".to_owned()), Just(" ".to_owned()), "[a-z ]{0,9}"
    ], 0..40)) {
        let (mut stream, mut seen, now) = (Stream::default(), String::new(), Instant::now());
        for piece in &pieces {
            stream.push(piece);
            if let Some(delta) = stream.take(now) {
                if delta.replace { seen.clear(); }
                seen.push_str(&delta.text);
            }
            prop_assert_eq!(seen.as_str(), stream.shown());
        }
        let text = pieces.concat();
        let _ = (visible(&text), heartbeat_words(&text));
    }
}
