//! What is done when a conversation does not fit into the model's context: old turns are put away, then what tools gave is shortened. It
//! needs no model, it always comes to an end, and nothing is lost: the transcript keeps it all.

use tracing::info;

use super::compaction::Long;
use super::state::Inner;
use super::{End, ErrorKind};
use crate::session::{Content, Known, Message, Part};

/// How often a turn is tried again, each time with less.
pub(super) const TRIES: u32 = 3;

/// Does the conversation not fit?
pub(super) fn is_too_long(end: &End) -> bool {
    matches!(
        end,
        End::Error {
            kind: ErrorKind::ContextLength,
            ..
        }
    )
}

/// The conversation once more, smaller than at the last try; none when it cannot be read.
pub(super) async fn smaller(inner: &Inner, long: Long<'_>, attempt: u32) -> Option<Vec<Message>> {
    let (key, session_id) = (long.key, long.session_id);
    if attempt == 0 {
        match inner.compact(long).await {
            Ok(done) => info!(%key, put_away = done.map(|done| done.dropped), "the conversation did not fit"),
            Err(fault) => info!(%key, fault, "the conversation did not fit, and cannot be compacted"),
        }
    }
    let messages = inner.book.context(key, session_id).await.ok()?;
    Some(match attempt {
        0 => shortened(messages, 20, 4000),
        1 => shortened(messages, 6, 1000),
        _ => shortened(messages, 0, 400),
    })
}

/// What tools gave is cut to so many characters, but for that in the last so many messages. Calls keep their results.
fn shortened(mut messages: Vec<Message>, keep: usize, most: usize) -> Vec<Message> {
    let old = messages.len().saturating_sub(keep);
    for message in messages.iter_mut().take(old) {
        match message {
            Message::ToolResult { content, .. } => shorten(content, most),
            Message::User { content, .. } => without_pictures(content),
            Message::Assistant(_) => {}
        }
    }
    messages
}

pub(super) fn shorten(content: &mut Content, most: usize) {
    without_pictures(content);
    for part in &mut content.0 {
        if let Part::Known(Known::Text { text }) = part {
            *text = koi_hands::text::capped(text, most / 2, most / 2);
        }
    }
}

fn without_pictures(content: &mut Content) {
    for part in &mut content.0 {
        if matches!(part, Part::Known(Known::Image { .. })) {
            *part = Part::Known(Known::Text {
                text: "[a picture was left out]".to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(text: &str) -> Message {
        Message::ToolResult {
            tool_call_id: "1".to_owned(),
            tool_name: "read".to_owned(),
            content: Content(vec![
                Part::Known(Known::Text { text: text.to_owned() }),
                Part::Known(Known::Image {
                    data: "AAEC".to_owned(),
                    mime_type: "image/png".to_owned(),
                }),
            ]),
            is_error: false,
            timestamp: 0,
        }
    }

    #[test]
    fn old_results_are_shortened_and_new_ones_are_not() {
        let long = "x".repeat(10_000);
        let messages = vec![
            Message::user(long.clone(), 0),
            result(&long),
            Message::user("b", 0),
            result(&long),
        ];
        let done = shortened(messages.clone(), 2, 100);
        assert_eq!((&done[0], &done[2..]), (&messages[0], &messages[2..]));
        let text = done[1].content().to_text();
        assert!(
            text.len() < 200 && text.contains("9900 characters left out") && text.ends_with("[a picture was left out]"),
            "{text}"
        );
        let again = shortened(done.clone(), 2, 100);
        assert_eq!(again.len(), done.len());
    }
}
