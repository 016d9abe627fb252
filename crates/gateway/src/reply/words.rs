//! Control words of an answer: `NO_REPLY`, `HEARTBEAT_OK`, and reply tags such as `[[reply_to_current]]`.

const NO_REPLY: &str = "NO_REPLY";
const HEARTBEAT_OK: &str = "HEARTBEAT_OK";

/// Words that may stand beside `HEARTBEAT_OK` and still be nothing to tell.
const MOST_BESIDE: usize = 300;

/// The longest tag, in bytes; what is longer is text.
const MOST_TAG: usize = 128;

/// Tags of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags {
    /// It answers the message that came in.
    pub(crate) to_current: bool,
    /// It answers this message.
    pub(crate) to: Option<String>,
    /// It is to be spoken.
    pub(crate) as_voice: bool,
}

impl Tags {
    /// Takes tags out of a text.
    pub(crate) fn take(text: &str) -> (Self, String) {
        let (mut tags, mut rest, mut kept) = (Self::default(), text, String::with_capacity(text.len()));
        while let Some((before, tag, after)) = next_tag(rest) {
            kept.push_str(before);
            match tag {
                Tag::ToCurrent => tags.to_current = true,
                Tag::To(id) => tags.to = Some(id),
                Tag::Voice => tags.as_voice = true,
            }
            // A tag stands for itself: the blank after it goes with it where there is one before it too.
            let blank_before = kept.is_empty() || kept.ends_with([' ', '\n']);
            rest = if blank_before {
                after.trim_start_matches(' ')
            } else {
                after
            };
        }
        kept.push_str(rest);
        (tags, kept)
    }
}

enum Tag {
    ToCurrent,
    To(String),
    Voice,
}

/// The first tag of a text, with what stands before and after it.
fn next_tag(text: &str) -> Option<(&str, Tag, &str)> {
    let mut from = 0;
    loop {
        let start = from + text.get(from..)?.find("[[")?;
        let inner = text.get(start + 2..)?;
        let length = inner.find("]]");
        if let Some(length) = length.filter(|length| *length <= MOST_TAG)
            && let Some(tag) = inner.get(..length).and_then(parse_tag)
        {
            return Some((text.get(..start)?, tag, inner.get(length + 2..)?));
        }
        from = start + 2;
    }
}

fn parse_tag(inner: &str) -> Option<Tag> {
    let inner = inner.trim();
    match inner {
        "reply_to_current" => return Some(Tag::ToCurrent),
        "audio_as_voice" => return Some(Tag::Voice),
        _ => {}
    }
    let id = inner.strip_prefix("reply_to")?.trim_start().strip_prefix(':')?.trim();
    (!id.is_empty() && !id.contains(['[', ']', '\n'])).then(|| Tag::To(id.to_owned()))
}

/// What people see of a complete answer; none when there is nothing to see.
pub(crate) fn visible(text: &str) -> Option<String> {
    let (_, text) = Tags::take(text);
    let text = without_word(text.trim(), NO_REPLY).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What people may see of an answer that goes on: nothing that may still turn out to be a control word or a tag.
pub(super) fn partial(text: &str) -> String {
    let (_, text) = Tags::take(text);
    let text = text.trim_start();
    let bare = text.trim_start_matches(is_frame);
    if starts_like(bare, NO_REPLY) {
        return String::new();
    }
    let text = text.get(..open_tag(text)).unwrap_or(text);
    // It may stand at the end as well. Blanks at the end may vanish with it.
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    let last = text.get(end..).unwrap_or_default().trim_start_matches(is_frame);
    let kept = if !last.is_empty() && starts_like(last, NO_REPLY) {
        text.get(..end).unwrap_or_default()
    } else {
        text
    };
    kept.trim_end().to_owned()
}

/// Where a tag begins that may not be complete; the length of the text where none does.
fn open_tag(text: &str) -> usize {
    let open = text.rfind("[[").filter(|at| {
        let inner = text.get(at + 2..).unwrap_or_default();
        !inner.contains("]]") && inner.len() <= MOST_TAG
    });
    open.unwrap_or(if text.ends_with('[') {
        text.len() - 1
    } else {
        text.len()
    })
}

/// Does the text begin with the word, or may it, when it goes on?
fn starts_like(text: &str, word: &str) -> bool {
    if text.is_empty() {
        return false;
    }
    let length = text.len().min(word.len());
    let same = text
        .as_bytes()
        .iter()
        .zip(word.as_bytes())
        .all(|(a, b)| a.eq_ignore_ascii_case(b));
    same && (length < word.len() || !text.get(word.len()..).unwrap_or_default().starts_with(is_word))
}

/// A text without a control word at its beginning and its end.
fn without_word<'a>(text: &'a str, word: &str) -> &'a str {
    let text = strip_start(text, word).unwrap_or(text);
    strip_end(text, word).unwrap_or(text)
}

fn strip_start<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let bare = text.trim_start_matches(is_frame);
    let (head, rest) = bare.split_at_checked(word.len())?;
    (head.eq_ignore_ascii_case(word) && !rest.starts_with(is_word))
        .then(|| rest.trim_start_matches(|c: char| is_frame(c) || ".!:,;-".contains(c)))
}

fn strip_end<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let bare = text.trim_end_matches(|c: char| is_frame(c) || ".!".contains(c));
    let (rest, tail) = bare.split_at_checked(bare.len().checked_sub(word.len())?)?;
    (tail.eq_ignore_ascii_case(word) && !rest.ends_with(is_word)).then(|| rest.trim_end_matches(is_frame))
}

/// Marks and blanks that a model likes to put around a word.
fn is_frame(c: char) -> bool {
    c.is_whitespace() || matches!(c, '*' | '_' | '`' | '"' | '\'' | '~')
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// What a heartbeat has to tell; none when it says that all is well.
pub(crate) fn heartbeat_words(text: &str) -> Option<String> {
    let text = visible(text)?;
    let rest = without_word(text.trim(), HEARTBEAT_OK);
    let said_ok = rest.len() != text.trim().len();
    if said_ok && rest.chars().count() <= MOST_BESIDE {
        return None;
    }
    Some(rest.trim().to_owned()).filter(|rest| !rest.is_empty())
}
