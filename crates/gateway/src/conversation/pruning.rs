//! Old output of tools, shortened once the provider has forgotten it anyway: after a pause its cache is lost, and all of the conversation is
//! paid for anew. What is shortened follows from the transcript alone, so that the turns after it send the same bytes and hit the cache
//! again. The transcript keeps everything.

use std::time::Duration;

use super::overflow::shorten;
use crate::session::{Content, Known, Message, Part};

/// Turns before the pause whose output stays as it is.
const KEPT_TURNS: usize = 3;

/// Characters of an older output that stay.
const MOST: usize = 3_000;

/// Characters of output that are shortened together; less is not worth another prefix.
const WORTH: usize = 20_000;

/// The conversation as the model sees it at this time.
pub(super) fn pruned(mut messages: Vec<Message>, ttl: Duration, now_ms: i64) -> Vec<Message> {
    let end = old(&messages, ttl, now_ms);
    let long = |message: &Message| match message {
        Message::ToolResult { content, .. } => size(content).saturating_sub(MOST),
        Message::User { .. } | Message::Assistant(_) => 0,
    };
    let gain: usize = messages.iter().take(end).map(long).sum();
    if gain >= WORTH {
        for message in messages.iter_mut().take(end) {
            if let Message::ToolResult { content, .. } = message
                && size(content) > MOST
            {
                shorten(content, MOST);
            }
        }
    }
    messages
}

/// How many messages lie before the last pause, without those of the turns right before it.
fn old(messages: &[Message], ttl: Duration, now_ms: i64) -> usize {
    let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    let begins = |at: usize| matches!(messages.get(at), Some(Message::User { .. }));
    let paused = |at: usize| {
        let before = at.checked_sub(1).and_then(|at| messages.get(at)).map_or(0, time);
        let after = messages.get(at).map_or(now_ms, time);
        before > 0 && after.saturating_sub(before) > ttl
    };
    let pause = (1..=messages.len())
        .rev()
        .find(|at| (*at == messages.len() || begins(*at)) && paused(*at));
    let turns = (0..pause.unwrap_or(0)).rev().filter(|at| begins(*at));
    turns.take(KEPT_TURNS).last().unwrap_or(0)
}

fn time(message: &Message) -> i64 {
    match message {
        Message::User { timestamp, .. } | Message::ToolResult { timestamp, .. } => *timestamp,
        Message::Assistant(answer) => answer.timestamp,
    }
}

/// Characters, pictures among them.
fn size(content: &Content) -> usize {
    let parts = content.0.iter().map(|part| match part {
        Part::Known(Known::Text { text }) => text.len(),
        Part::Known(Known::Image { data, .. }) => data.len(),
        _ => 0,
    });
    parts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);
    const MINUTE: i64 = 60_000;

    fn turn(at_ms: i64) -> [Message; 2] {
        let result = Message::ToolResult {
            tool_call_id: at_ms.to_string(),
            tool_name: "exec".to_owned(),
            content: Content::text("x".repeat(30_000)),
            is_error: false,
            timestamp: at_ms + 1000,
        };
        [Message::user("go", at_ms), result]
    }

    fn sizes(messages: &[Message]) -> Vec<bool> {
        let results = messages
            .iter()
            .filter(|message| matches!(message, Message::ToolResult { .. }));
        results.map(|message| size(message.content()) > 10_000).collect()
    }

    #[test]
    fn only_what_lies_before_a_pause_is_shortened_and_it_stays_so() {
        let base = 1_000_000_000;
        let mut said: Vec<Message> = (0..6).flat_map(|n| turn(base + n * MINUTE)).collect();
        let soon = base + 7 * MINUTE;
        assert_eq!(pruned(said.clone(), TTL, soon), said, "the cache still has it");
        let late = base + 60 * MINUTE;
        let first = pruned(said.clone(), TTL, late);
        assert_eq!(sizes(&first), [false, false, false, true, true, true]);
        said.extend(turn(late));
        let next = pruned(said.clone(), TTL, late + MINUTE);
        assert_eq!(next[..first.len()], first[..], "the same bytes while the cache lives");
        assert_eq!(pruned(next.clone(), TTL, late + MINUTE), next);
        assert_eq!(next.len(), said.len());
        assert_eq!(pruned(Vec::new(), TTL, late), []);
    }

    #[test]
    fn little_is_left_alone() {
        let said = vec![Message::user("a", 1), Message::user("b", 2)];
        assert_eq!(pruned(said.clone(), TTL, 1_000_000_000), said);
    }
}
