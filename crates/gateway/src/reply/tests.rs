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

proptest! {
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
