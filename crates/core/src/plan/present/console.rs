//! What a machine wrote on its console: readable, and the one line of it that matters most.

/// How much of it goes into a message.
const TAIL: usize = 1500;
/// How long the line that matters may be.
const WORD: usize = 600;
/// How our own programs begin their lines.
const OURS: [&str; 2] = ["koi-bootstrap: ", "koi-userdata: "];

/// What our own programs said last of what does not work, else what they said last; none where they said nothing.
pub(crate) fn last_word(console: &str) -> Option<String> {
    word(console).map(|(word, _)| word)
}

/// What our own programs said last of what does not work.
pub(crate) fn failing_word(console: &str) -> Option<String> {
    word(console).filter(|(_, fails)| *fails).map(|(word, _)| word)
}

/// The word that matters, and whether it is of something that does not work.
fn word(console: &str) -> Option<(String, bool)> {
    let text = readable(console);
    let mut said: Vec<&str> = Vec::new();
    let mut failing = None;
    for line in text.lines() {
        let Some(word) = OURS.iter().find_map(|mark| Some(line.split_once(mark)?.1.trim())) else {
            continue;
        };
        let fails = [" failed", " waiting: "].iter().any(|sign| word.contains(sign));
        if fails {
            failing = Some(said.len());
        } else if word.starts_with("done") || word == "step=done" {
            failing = None;
        }
        said.push(word);
    }
    let last = failing.or_else(|| said.len().checked_sub(1))?;
    let word = said.get(last)?;
    // What a script said just before it gave up is why.
    let step = |line: &str| line.split_whitespace().next().map(ToOwned::to_owned);
    let why = last.checked_sub(1).and_then(|before| said.get(before));
    let why = why.filter(|why| word.contains("failed, exit code") && step(why) == step(word));
    let told = why.map_or_else(|| (*word).to_owned(), |why| format!("{why} ({word})"));
    let told = told.trim_end_matches('.').chars().take(WORD).collect();
    Some((told, failing.is_some()))
}

/// Its end, for people.
pub(super) fn end(console: Option<&str>) -> String {
    let text = console.map(readable).unwrap_or_default();
    if text.is_empty() {
        return "EC2 has no console output of it yet.".into();
    }
    let skip = text.chars().count().saturating_sub(TAIL);
    let end: String = text.chars().skip(skip).collect();
    format!("The console ends with: {end}")
}

/// Without colours, cursor moves and other control characters, and without empty lines.
fn readable(console: &str) -> String {
    let mut plain = String::with_capacity(console.len());
    let mut rest = console.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut rest),
            '\n' | '\r' => plain.push('\n'),
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    let lines = plain.lines().map(str::trim_end).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

/// The rest of an escape sequence, as ECMA-48 writes it.
fn skip_sequence(rest: &mut std::str::Chars<'_>) {
    match rest.next() {
        // Parameters, up to the letter that says what they are for.
        Some('[') => drop(rest.find(|c| ('\u{40}'..='\u{7e}').contains(c))),
        // A text for the terminal, up to a bell or ESC \.
        Some(']' | 'P' | '_' | '^' | 'X') => {
            let end = rest.find(|c| matches!(c, '\u{7}' | '\u{1b}'));
            if end == Some('\u{1b}') {
                rest.next();
            }
        }
        // A character set is one more.
        Some('(' | ')' | '*' | '+' | '#' | '%' | ' ') => drop(rest.next()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{TAIL, WORD, end, failing_word, last_word, readable};

    #[test]
    fn escapes_and_control_characters_are_gone_and_the_text_stays() {
        let cases = [
            (
                "[\u{1b}[0;32m  OK  \u{1b}[0m] Started \u{1b}[0;1;39mnginx\u{1b}[0m.\r\n",
                "[  OK  ] Started nginx.",
            ),
            ("\u{1b}]0;title\u{7}a\u{1b}]8;;x\u{1b}\\b", "ab"),
            ("\u{1b}(Ba\u{1b}7b\u{1b}Mc\u{0}\u{8}\u{7f}\u{9b}d", "abcd"),
            ("one\n\n \r\ntwo\tthree\u{1b}", "one\ntwo three"),
            ("\u{1b}[", ""),
        ];
        for (text, plain) in cases {
            assert_eq!(readable(text), plain, "{text:?}");
        }
        assert_eq!(end(Some("\u{1b}[0m\r\n")), "EC2 has no console output of it yet.");
        assert_eq!(end(Some("a\u{1b}[1mb")), "The console ends with: ab");
    }

    #[test]
    fn the_word_that_matters_is_the_last_failure_of_our_own() {
        let unit = |line: &str| format!("[   12.3] koi-gateway[512]: koi-bootstrap: {line}\r\n");
        let failed = unit("step=volume failed: /dev/nvme1n1: no such device.");
        let cases = [
            ("login: ".to_owned(), None),
            (format!("{}{}", unit("step=users unchanged"), unit("step=volume waiting: not attached")), Some("step=volume waiting: not attached")),
            // The unit is started anew.
            (format!("{failed}{}", unit("step=users unchanged")), Some("step=volume failed: /dev/nvme1n1: no such device")),
            (format!("{failed}{}", unit("done, changed: [mount]")), Some("done, changed: [mount]")),
            (format!("{failed}\u{1b}[0mUbuntu 22.04 ttyS0\n"), Some("step=volume failed: /dev/nvme1n1: no such device")),
            (
                "cloud-init[9]: koi-userdata: step=binary https://x has sha256 aa, wanted bb\nkoi-userdata: step=binary failed, exit code 1\n".to_owned(),
                Some("step=binary https://x has sha256 aa, wanted bb (step=binary failed, exit code 1)"),
            ),
        ];
        for (console, word) in cases {
            assert_eq!(last_word(&console).as_deref(), word, "{console}");
        }
    }

    #[test]
    fn every_kind_of_sequence_ends_where_it_ends() {
        for text in [']', 'P', '_', '^', 'X'] {
            let (bell, string) = (format!("a\u{1b}{text}t\u{7}b"), format!("a\u{1b}{text}t\u{1b}\\b"));
            assert_eq!([readable(&bell), readable(&string)], ["ab", "ab"], "{text}");
        }
        for set in ['(', ')', '*', '+', '#', '%', ' '] {
            assert_eq!(readable(&format!("a\u{1b}{set}Bb")), "ab", "{set}");
        }
        for last in ['@', 'm', '~'] {
            assert_eq!(readable(&format!("a\u{1b}[1;2{last}b")), "ab", "{last}");
        }
    }

    #[test]
    fn a_step_that_gave_up_says_why_only_in_its_own_words() {
        let said = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| format!("koi-bootstrap: {line}\n")).collect();
            (last_word(&lines.concat()), failing_word(&lines.concat()))
        };
        let both = |word: &str| (Some(word.to_owned()), Some(word.to_owned()));
        assert_eq!(
            said(&["step=volume is looked for", "step=users failed, exit code 1"]),
            both("step=users failed, exit code 1")
        );
        assert_eq!(
            said(&["step=volume is looked for", "step=volume failed: gone"]),
            both("step=volume failed: gone")
        );
        assert_eq!(
            said(&["step=volume waiting: not attached"]),
            both("step=volume waiting: not attached")
        );
        for well in ["step=done", "done"] {
            assert_eq!(said(&["step=volume failed: gone", well]), (Some(well.to_owned()), None));
        }
        assert_eq!(
            said(&["step=volume failed: gone", "step=doner"]),
            both("step=volume failed: gone"),
            "another word than the last one"
        );
        assert_eq!(said(&[]), (None, None));
    }

    #[test]
    fn a_word_and_an_end_have_their_bounds() {
        let long = "w".repeat(WORD + 1);
        assert_eq!(last_word(&format!("koi-bootstrap: {long}")), Some("w".repeat(WORD)));
        let whole = "e".repeat(TAIL);
        for text in [whole.clone(), format!("b{whole}"), format!("a\nb{whole}")] {
            assert_eq!(end(Some(&text)), format!("The console ends with: {whole}"));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_machine_writes_gets_through_as_a_control_character(text in any::<String>(), more in "[\\x1b\\[\\]0-9;m(B\\x07\\x08\n a-z]{0,80}") {
            let plain = readable(&format!("{text}{more}"));
            prop_assert!(plain.chars().all(|c| c == '\n' || !c.is_control()), "{plain:?}");
            prop_assert!(end(Some(&plain)).chars().count() <= 1600);
        }
    }
}
