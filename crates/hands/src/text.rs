//! Makes hostile output safe: what a program prints may be of any size, may be no text at all, and may try to drive a terminal or to pass
//! off secrets.

use std::borrow::Cow;

/// The first characters of a text.
#[must_use]
pub fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Readable text of bytes: terminal escapes and control characters are gone, what is no UTF-8 is marked.
#[must_use]
pub fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let (mut back, mut endless) = (false, false);
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars, &mut endless),
            '\u{9b}' => skip_sequence(&mut chars),
            // Back to the beginning of the line, which is painted over only by what comes next.
            '\r' => back = true,
            '\u{8}' => {
                if !out.ends_with('\n') {
                    out.pop();
                }
            }
            '\n' => {
                back = false;
                out.push(c);
            }
            c if c != '\t' && (c.is_control() || is_invisible(c)) => {}
            c => {
                if std::mem::take(&mut back) {
                    let line = out.rfind('\n').map_or(0, |at| at + 1);
                    out.truncate(line);
                }
                out.push(c);
            }
        }
    }
    redacted(&out)
}

/// A text as it stands in a file, where no character may go missing unseen: what would drive a terminal is shown by its sign, and what nobody
/// can see is left out.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    let hides = |c: char| c != '\t' && (c.is_control() || is_invisible(c));
    if !text.contains(hides) {
        return text.into();
    }
    let sign = |c: char| match c {
        '\t' => Some(c),
        '\u{7f}' => Some('\u{2421}'),
        '\u{80}'..='\u{9f}' => Some('\u{fffd}'),
        c if c.is_control() => char::from_u32(0x2400 + u32::from(c)),
        c => (!is_invisible(c)).then_some(c),
    };
    text.chars().filter_map(sign).collect()
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// `endless`: from here on no string for the terminal comes to an end.
fn skip_escape(chars: &mut Chars<'_>, endless: &mut bool) {
    match chars.next() {
        Some('[') => skip_sequence(chars),
        // Strings for the terminal: titles, clipboards, links. One that is never closed swallows nothing.
        Some(']' | 'P' | 'X' | '^' | '_') if !*endless => {
            let mut rest = chars.clone();
            while let Some(c) = rest.next() {
                if c == '\u{7}' || (c == '\u{1b}' && rest.next_if_eq(&'\\').is_some()) {
                    *chars = rest;
                    return;
                }
            }
            *endless = true;
        }
        Some('(' | ')' | '*' | '+' | '#' | '%' | ' ') => {
            chars.next();
        }
        _ => {}
    }
}

fn skip_sequence(chars: &mut Chars<'_>) {
    while let Some(c) = chars.next_if(|c| (' '..='~').contains(c)) {
        if ('@'..='~').contains(&c) {
            return;
        }
    }
}

/// Characters that change what is seen without being seen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}' | '\u{feff}')
}

/// What secrets begin with, and how many characters follow at least.
const SECRETS: [(&str, usize); 10] = [
    ("ghp_", 20),
    ("gho_", 20),
    ("ghs_", 20),
    ("github_pat_", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("sk-ant-", 20),
    ("sk-proj-", 20),
    ("aws_secret_access_key = ", 30),
    ("aws_secret_access_key=", 30),
];

/// Without what is a secret beyond doubt.
#[must_use]
pub fn redacted(text: &str) -> String {
    let mut out = without_keys(text);
    for (mark, least) in SECRETS {
        let mut from = 0;
        while let Some(at) = out.get(from..).and_then(|rest| rest.find(mark)) {
            let begin = from + at + mark.len();
            let rest = out.get(begin..).unwrap_or_default();
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '+' | '=');
            let length = rest.find(|c| !fits(c)).unwrap_or(rest.len());
            from = begin;
            if length >= least {
                out.replace_range(begin..begin + length, "[redacted]");
            }
        }
    }
    out
}

fn without_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(at);
        out.push_str(before);
        let head = block.lines().next().unwrap_or_default();
        let end = block
            .find("-----END ")
            .and_then(|end| Some(end + block.get(end + 9..)?.find("-----")? + 14));
        match end {
            Some(end) if head.contains("PRIVATE KEY") => {
                out.push_str("[a private key, redacted]");
                rest = block.get(end..).unwrap_or_default();
            }
            _ => {
                out.push_str(BEGIN);
                rest = block.get(BEGIN.len()..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// At most so many characters, from the beginning and from the end; what is left out is told.
#[must_use]
pub fn capped(text: &str, head: usize, tail: usize) -> String {
    let count = text.chars().count();
    if count <= head + tail {
        return text.to_owned();
    }
    let at = |index: usize| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
    let (first, last) = (at(head), at(count - tail));
    format!(
        "{}\n[... {} characters left out ...]\n{}",
        text.get(..first).unwrap_or_default(),
        count - head - tail,
        text.get(last..).unwrap_or_default()
    )
}

/// Is this no text?
#[must_use]
pub fn is_binary(bytes: &[u8]) -> bool {
    bytes.iter().take(8192).any(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_drive_a_terminal_is_gone() {
        let cases: [(&[u8], &str); 14] = [
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b]0;title\x07after", "after"),
            (b"\x1b]52;c;aGk=\x1b\\after", "after"),
            (b"a\x1bPq#0\x1b\\b", "ab"),
            (b"10%\r50%\r100%\n", "100%\n"),
            (b"one\r\ntwo", "one\ntwo"),
            // As a terminal passes on what ends its lines that way itself.
            (b"one\r\r\ntwo\r\r\n", "one\ntwo\n"),
            (b"50%\r", "50%"),
            (b"50%\r\x1b[K100%", "100%"),
            // Strings without an end hide nothing of what follows.
            (b"a\x1b]0;b\nthe rest", "a0;b\nthe rest"),
            (b"\x1b]0;t\x07a\x1bPb\x1b]c", "abc"),
            (b"a\x1b", "a"),
            (b"a\x00b\x07c\xff", "abc\u{fffd}"),
            ("x\u{202e}y\u{9b}2Jz".as_bytes(), "xyz"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(readable(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn much_that_never_ends_is_looked_through_once() {
        let opened = "\u{1b}]".repeat(500_000);
        assert_eq!(readable(format!("a{opened}b").as_bytes()), "ab");
    }

    #[test]
    fn what_stands_in_a_file_is_shown_by_signs() {
        let text = "a\tb\u{1b}[31m\u{7f}\r\u{9b}2J \u{feff}x\u{202e}y\u{e0041}z";
        assert_eq!(visible(text), "a\tb\u{241b}[31m\u{2421}\u{240d}\u{fffd}2J xyz");
        assert!(matches!(visible("plain: \u{e4}\u{1f980}\t"), Cow::Borrowed(_)));
    }

    #[test]
    fn secrets_are_not_repeated() {
        let token = "ghp_0123456789abcdef0123";
        assert_eq!(redacted(&format!("a {token} b ghp_x")), "a ghp_[redacted] b ghp_x");
        let key = "x\n-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\ny";
        assert_eq!(redacted(key), "x\n[a private key, redacted]\ny");
        let public = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
        assert_eq!(redacted(public), public);
    }

    #[test]
    fn caps_are_told() {
        assert_eq!(capped("abc", 2, 1), "abc");
        assert_eq!(capped("äbcdef", 1, 2), "ä\n[... 3 characters left out ...]\nef");
    }
}
