//! What the log must not say: secrets that this process has read. Whoever reads one names it here, and every line of the log, on standard
//! error and on disk, goes through here: what is written down by mistake, ours or a library's, is written without it. One event is one line,
//! whatever words of a stranger are in it: who is refused writes no lines of his own, and nothing to the terminal of who reads them.
//!
//! A process has one log, so it has one list of what that log must not say.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{PoisonError, RwLock};

use koi_wire::Redacted;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// What stands in the place of a secret.
const SILENCE: &str = "[redacted]";

/// Shorter ones are words, and would be found everywhere.
const LEAST: usize = 8;

/// Secrets that are known at a time: those of the config, and some that were rotated away.
const MOST: usize = 256;

static KNOWN: Known = Known::new();

/// From now on the log does not say this.
pub(crate) fn keep(secret: &Redacted) {
    KNOWN.keep(secret.expose());
}

/// A line without what it must not say.
pub(crate) fn without(line: &str) -> String {
    KNOWN.without(line)
}

/// Without what would begin another line, or tell a terminal what to do; what ends the line stays.
fn one_line(event: &str) -> Cow<'_, str> {
    let (words, end) = match event.strip_suffix('\n') {
        Some(words) => (words, "\n"),
        None => (event, ""),
    };
    // Nearly every line is plain, and each is looked at twice: on its way to standard error, and to the file.
    let plain = words.is_ascii() && !words.bytes().any(|byte| byte.is_ascii_control());
    if plain || !words.contains(breaks_out) {
        return Cow::Borrowed(event);
    }
    let mut line = String::with_capacity(event.len() + 8);
    for c in words.chars() {
        if breaks_out(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line.push_str(end);
    Cow::Owned(line)
}

/// Controls, ends of lines and paragraphs, and what changes the direction of writing.
fn breaks_out(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Secrets, the oldest first.
struct Known(RwLock<Vec<String>>);

impl Known {
    const fn new() -> Self {
        Self(RwLock::new(Vec::new()))
    }

    fn keep(&self, secret: &str) {
        let secret = secret.trim();
        if secret.len() < LEAST || self.knows(secret) {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.remove(0);
        }
        known.push(secret.to_owned());
        // As it stands in a text that quotes it.
        let quoted = format!("{secret:?}");
        let quoted = quoted.trim_matches('"');
        if quoted != secret {
            known.push(quoted.to_owned());
        }
    }

    fn knows(&self, secret: &str) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|known| known == secret)
    }

    fn without(&self, line: &str) -> String {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<&str> = known
            .iter()
            .map(String::as_str)
            .filter(|one| line.contains(one))
            .collect();
        // One may be the beginning of another.
        found.sort_unstable_by_key(|one| std::cmp::Reverse(one.len()));
        let line = found
            .iter()
            .fold(line.to_owned(), |line, one| line.replace(one, SILENCE));
        drop(known);
        koi_hands::text::redacted(&line)
    }
}

/// Writes lines without what they must not say.
#[derive(Clone, Debug)]
pub(crate) struct Hushed<W>(pub(crate) W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Hushed<W> {
    type Writer = Hushed<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Hushed(self.0.make_writer())
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Self::Writer {
        Hushed(self.0.make_writer_for(about))
    }
}

impl<W: Write> Write for Hushed<W> {
    /// A line comes whole: a secret is never cut in two.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let said = without(&String::from_utf8_lossy(line));
        self.0.write_all(one_line(&said).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::file::tests::Scratch;
    use crate::logfile::{self, LogFile};

    #[test]
    fn a_line_of_the_log_has_no_secret_in_it_whoever_wrote_it() {
        let place = Scratch::new("hush");
        keep(&Redacted::new("hush-token-0123456789"));
        keep(&Redacted::new("hush-token-0123456789-longer"));
        keep(&Redacted::new("hush \"quoted\" \\ secret"));
        keep(&Redacted::new("short"));
        let log = tracing_subscriber::fmt::layer()
            .with_writer(Hushed(LogFile::new(&place)))
            .with_ansi(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            let headers = ["Bearer hush-token-0123456789"];
            tracing::warn!(
                ?headers,
                "calling https://a.example/?key=hush-token-0123456789-longer&x=1"
            );
            tracing::warn!(given = ?"hush \"quoted\" \\ secret", "a short word stays");
            tracing::warn!("sk-ant-0123456789012345678901234567890 by its looks");
        });
        let text = fs::read_to_string(logfile::path(&place)).unwrap();
        assert!(
            !text.contains("hush-token") && !text.contains("quoted") && !text.contains("sk-ant-0123"),
            "{text}"
        );
        assert!(
            text.contains("?key=[redacted]&x=1") && text.contains("a short word stays"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn words_of_a_stranger_are_no_lines_of_their_own() {
        let place = Scratch::new("hush-lines");
        let log = tracing_subscriber::fmt::layer()
            .with_writer(Hushed(LogFile::new(&place)))
            .with_ansi(false);
        let forged = "x\r\n2026-01-01T00:00:00Z  INFO koi_gateway: all is well \u{1b}[2J\u{9b}\u{202e}\u{2028}é";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            tracing::info!(reason = %forged, "refused");
            tracing::info!("{forged}");
        });
        let text = fs::read_to_string(logfile::path(&place)).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.replace('\n', "").contains(breaks_out), "{text:?}");
        assert!(
            text.contains(r"x\r\n2026-01-01T00:00:00Z") && text.contains('é'),
            "{text}"
        );
    }

    #[test]
    fn what_was_rotated_away_long_ago_makes_room() {
        let known = Known::new();
        for number in 0..(2 * MOST) {
            known.keep(&format!("secret-number-{number:04}"));
            known.keep(&format!("secret-number-{number:04}"));
        }
        assert_eq!(known.0.read().unwrap().len(), MOST);
        assert_eq!(
            known.without("secret-number-0511 secret-number-0000"),
            "[redacted] secret-number-0000"
        );
    }
}
