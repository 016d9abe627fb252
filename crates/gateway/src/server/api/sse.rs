//! Answers as server-sent events.

use std::convert::Infallible;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;

use super::turn::News;
use super::{Body, typed};

/// A stream of events: the first ones, and what a function makes of each piece of news. It ends with the turn.
pub(super) fn answer(
    first: String,
    news: mpsc::Receiver<News>,
    write: impl FnMut(News) -> String + Send + 'static,
) -> Response<Body> {
    let state = (Some(first), news, write, false);
    let frames = stream::unfold(state, |(first, mut news, mut write, over)| async move {
        let text = match first {
            Some(first) => first,
            None if over => return None,
            None => {
                let piece = news.recv().await?;
                let last = !matches!(piece, News::Delta(_));
                let text = write(piece);
                return Some((frame(text), (None, news, write, last)));
            }
        };
        Some((frame(text), (None, news, write, over)))
    });
    typed(
        StatusCode::OK,
        "text/event-stream; charset=utf-8",
        StreamBody::new(frames).boxed_unsync(),
    )
}

fn frame(text: String) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(text)))
}

/// One event without a name.
pub(super) fn data(payload: &Value) -> String {
    format!("data: {payload}\n\n")
}

/// One event with its name, which is its payload's type as well.
pub(super) fn event(payload: &Value) -> String {
    let name = payload["type"].as_str().unwrap_or("message");
    format!("event: {name}\ndata: {payload}\n\n")
}
