//! A model that says what it was told: for gateways without a model, and for measuring what a turn costs by itself.

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{ModelClient, ModelEvent, Request};
use crate::conversation::Usage;
use crate::session::Message;

/// Says the last words of the user, word by word, at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Echo;

impl ModelClient for Echo {
    fn ask(&self, request: Request) -> BoxStream<'static, ModelEvent> {
        let mut said: Vec<String> = Vec::new();
        for message in request.messages.iter().rev() {
            match message.as_ref() {
                Message::User { content, .. } => said.push(content.to_text()),
                Message::Assistant(_) | Message::ToolResult { .. } => break,
            }
        }
        said.reverse();
        let text = format!("Echo: {}", said.join("\n"));
        let words = |text: &str| u64::try_from(text.split_whitespace().count()).unwrap_or(u64::MAX);
        let usage = Usage {
            input: words(&text),
            output: words(&text),
            ..Usage::default()
        };
        let pieces: Vec<ModelEvent> = text
            .split_inclusive(' ')
            .map(|word| ModelEvent::Text(word.to_owned()))
            .chain([ModelEvent::Usage(usage), ModelEvent::Done("stop".to_owned())])
            .collect();
        stream::iter(pieces).boxed()
    }
}
