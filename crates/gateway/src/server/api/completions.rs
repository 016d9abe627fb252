//! `POST /v1/chat/completions` and `POST /v1/responses`: the agent behind the face of a model.
//!
//! A request is one turn. Its system words go into the system prompt of that turn, what was said before stands in front of the last
//! message, and the conversation is the caller's own when it says who it is (`user`, or the header `x-skykoi-session-key`).

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::turn::{self, News};
use super::{Admitted, Body, Refusal, Route, refuse, reply, sse};
use crate::conversation::attachment::Sent;
use crate::conversation::{Inbound, Outcome, Source, TurnOptions, Usage};
use crate::server::{DEFAULT_AGENT, Shared};
use crate::session::SessionKey;

/// Messages of one request.
const MAX_MESSAGES: usize = 1000;

#[derive(Deserialize)]
struct ChatRequest {
    #[serde(default)]
    model: Option<String>,
    messages: Vec<Spoken>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    user: Option<String>,
}

/// What a stream has beside its text.
#[derive(Deserialize)]
struct StreamOptions {
    /// At its end: what was used.
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct ResponsesRequest {
    #[serde(default)]
    model: Option<String>,
    input: Value,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    user: Option<String>,
}

/// What somebody said.
#[derive(Deserialize)]
struct Spoken {
    role: String,
    #[serde(default)]
    content: Value,
}

/// A request, as a turn.
struct Asked {
    route: Route,
    model: String,
    stream: bool,
    /// The stream says at its end what was used.
    counts: bool,
    inbound: Inbound,
    /// Pictures that come with the message.
    pictures: Vec<Sent>,
    created: i64,
}

pub(super) async fn chat(shared: &Arc<Shared>, admitted: &Admitted) -> Result<Response<Body>, Refusal> {
    let request: ChatRequest = admitted.read()?;
    let mut asked = ask(
        shared,
        admitted,
        Route::Chat,
        request.model,
        &request.messages,
        request.user,
        None,
    )?;
    asked.counts = request.stream_options.is_some_and(|options| options.include_usage);
    talk(shared, asked, request.stream).await
}

pub(super) async fn responses(shared: &Arc<Shared>, admitted: &Admitted) -> Result<Response<Body>, Refusal> {
    let request: ResponsesRequest = admitted.read()?;
    let messages = match request.input {
        Value::String(text) => vec![Spoken {
            role: "user".to_owned(),
            content: Value::String(text),
        }],
        Value::Array(items) => {
            let spoken = items.into_iter().filter(|item| item.get("role").is_some());
            spoken.filter_map(|item| serde_json::from_value(item).ok()).collect()
        }
        _ => return Err(invalid("input must be a string or a list of messages")),
    };
    let (model, user, more) = (request.model, request.user, request.instructions);
    let asked = ask(shared, admitted, Route::Responses, model, &messages, user, more)?;
    talk(shared, asked, request.stream).await
}

fn invalid(message: &str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, "invalid_request_error", message)
}

fn ask(
    shared: &Shared,
    admitted: &Admitted,
    route: Route,
    model: Option<String>,
    messages: &[Spoken],
    user: Option<String>,
    instructions: Option<String>,
) -> Result<Asked, Refusal> {
    let Words { text, system, pictures } = words(messages, instructions)?;
    let named = admitted
        .header("x-skykoi-session-key")
        .or_else(|| admitted.header("x-openclaw-session-key"));
    let key = match (named, user.filter(|user| !user.is_empty())) {
        (Some(key), _) => SessionKey::parse(key).map_err(|error| invalid(&format!("x-skykoi-session-key {error}")))?,
        (None, Some(user)) => SessionKey::group(DEFAULT_AGENT, "http", &user),
        (None, None) => SessionKey::group(DEFAULT_AGENT, "http", &uuid::Uuid::new_v4().to_string()),
    };
    let id = admitted
        .header("idempotency-key")
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    // The agent's own name means its own model.
    let other = model.clone().filter(|model| model.starts_with("amazon-bedrock/"));
    Ok(Asked {
        route,
        model: model.unwrap_or_else(|| "koi".to_owned()),
        stream: false,
        counts: false,
        pictures,
        created: shared.now_ms() / 1000,
        inbound: Inbound {
            key: key.to_string(),
            text,
            attachments: Vec::new(),
            source: Source::Agent,
            idempotency_key: format!("http:{id}"),
            options: TurnOptions {
                model: other,
                extra_system_prompt: system,
                ..TurnOptions::default()
            },
        },
    })
}

/// What the messages of a request make.
#[derive(Debug, Default)]
struct Words {
    /// The message of the turn.
    text: String,
    /// What goes into its system prompt.
    system: Option<String>,
    /// Pictures that come with the message.
    pictures: Vec<Sent>,
}

fn words(messages: &[Spoken], instructions: Option<String>) -> Result<Words, Refusal> {
    if messages.len() > MAX_MESSAGES {
        return Err(invalid("too many messages"));
    }
    let mut system: Vec<String> = instructions.into_iter().collect();
    let mut said: Vec<(&str, String, Vec<Sent>)> = Vec::new();
    for message in messages {
        let (text, pictures) = plain(&message.content)?;
        let who = match message.role.as_str() {
            "system" | "developer" => {
                system.push(text);
                continue;
            }
            "user" => "User",
            "assistant" => "Assistant",
            "tool" | "function" => "Tool",
            _ => return Err(invalid("a message has an unknown role")),
        };
        said.push((who, text, pictures));
    }
    let last = said
        .iter()
        .rposition(|(who, text, pictures)| *who == "User" && !(text.trim().is_empty() && pictures.is_empty()));
    let last = last.ok_or_else(|| invalid("no message of the user"))?;
    let (_, text, pictures) = said.remove(last);
    said.truncate(last);
    let before: Vec<String> = said
        .into_iter()
        .map(|(who, text, seen)| remembered(who, &text, seen.len()))
        .collect();
    let text = if before.is_empty() {
        text
    } else {
        format!("What was said before:\n{}\n\nNow:\n{text}", before.join("\n"))
    };
    Ok(Words {
        text,
        system: (!system.is_empty()).then(|| system.join("\n\n")),
        pictures,
    })
}

/// An earlier message: its words, and that there were pictures.
fn remembered(who: &str, text: &str, pictures: usize) -> String {
    format!("{who}: {text}{}", " [a picture]".repeat(pictures))
}

/// Text and pictures of a content: a string, or a list of parts. A part that cannot be taken is refused, not left out.
fn plain(content: &Value) -> Result<(String, Vec<Sent>), Refusal> {
    let parts = match content {
        Value::String(text) => return Ok((text.clone(), Vec::new())),
        Value::Array(parts) => parts,
        _ => return Ok((String::new(), Vec::new())),
    };
    let (mut texts, mut pictures) = (Vec::new(), Vec::new());
    for part in parts {
        match part["type"].as_str() {
            Some("image_url") => pictures.push(picture(&part["image_url"]["url"])?),
            Some("input_image") => pictures.push(picture(&part["image_url"])?),
            Some("text" | "input_text" | "output_text") | None => texts.extend(part["text"].as_str()),
            Some("refusal") => texts.extend(part["refusal"].as_str()),
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                return Err(invalid(&format!(
                    "a part of a message has the type {other:?}; taken are text and image_url (input_text and input_image)"
                )));
            }
        }
    }
    Ok((texts.join("\n"), pictures))
}

/// A picture that lies in the request itself: nothing is fetched for somebody who may be anybody.
fn picture(url: &Value) -> Result<Sent, Refusal> {
    let content = url
        .as_str()
        .filter(|url| url.starts_with("data:image/") && url.contains(";base64,"));
    let content = content.ok_or_else(|| invalid("a picture must be a data URL: data:image/<type>;base64,<bytes>"))?;
    Ok(Sent {
        content: content.to_owned(),
        ..Sent::default()
    })
}

async fn talk(shared: &Arc<Shared>, mut asked: Asked, stream: Option<bool>) -> Result<Response<Body>, Refusal> {
    asked.stream = stream.unwrap_or(false);
    let pictures = std::mem::take(&mut asked.pictures);
    let run = turn::begin(shared, asked.inbound.clone(), pictures).await?;
    if asked.stream {
        let news = turn::follow(shared, asked.inbound.key.clone(), run.clone());
        return Ok(match asked.route {
            Route::Responses => stream_response(asked, run, news),
            _ => stream_chat(asked, run, news),
        });
    }
    let outcome = turn::end(shared, &run).await?;
    if let Some(failure) = turn::failure(&outcome) {
        return Err(refuse(StatusCode::BAD_GATEWAY, "agent_error", &failure));
    }
    let body = match asked.route {
        Route::Responses => response(&asked, &run, outcome.text.as_deref(), &outcome.usage, "completed"),
        _ => completion(&asked, &run, &outcome),
    };
    Ok(reply(StatusCode::OK, &body))
}

fn completion(asked: &Asked, run: &str, outcome: &Outcome) -> Value {
    json!({
        "id": format!("chatcmpl-{run}"), "object": "chat.completion", "created": asked.created, "model": asked.model,
        "choices": [{
            "index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": outcome.text.as_deref().unwrap_or_default()},
        }],
        "usage": used(&outcome.usage),
    })
}

/// The pieces of a streamed completion.
struct Pieces {
    run: String,
    model: String,
    created: i64,
    counts: bool,
}

impl Pieces {
    fn piece(&self, choices: &Value, usage: Value) -> String {
        let mut piece = json!({
            "id": format!("chatcmpl-{}", self.run), "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": choices,
        });
        if self.counts {
            piece["usage"] = usage;
        }
        sse::data(&piece)
    }

    fn choice(&self, delta: &Value, finish: &Value) -> String {
        self.piece(
            &json!([{"index": 0, "delta": delta, "finish_reason": finish}]),
            Value::Null,
        )
    }

    fn end(&self, outcome: &Outcome) -> String {
        let last = match turn::failure(outcome) {
            Some(failure) => failed(&failure),
            None if self.counts => {
                self.choice(&json!({}), &json!("stop")) + &self.piece(&json!([]), used(&outcome.usage))
            }
            None => self.choice(&json!({}), &json!("stop")),
        };
        format!("{last}data: [DONE]\n\n")
    }
}

fn stream_chat(asked: Asked, run: String, news: tokio::sync::mpsc::Receiver<News>) -> Response<Body> {
    let pieces = Pieces {
        run,
        model: asked.model,
        created: asked.created,
        counts: asked.counts,
    };
    let first = pieces.choice(&json!({"role": "assistant", "content": ""}), &Value::Null);
    sse::answer(first, news, move |news| match news {
        News::Delta(text) => pieces.choice(&json!({"content": text}), &Value::Null),
        News::Lost => format!("{}data: [DONE]\n\n", failed("the run is not known")),
        News::End(outcome) => pieces.end(&outcome),
    })
}

/// What a turn used, in the words of chat completions.
fn used(usage: &Usage) -> Value {
    json!({"prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": usage.total()})
}

fn failed(message: &str) -> String {
    sse::data(&json!({"error": {"message": message, "type": "agent_error", "code": "agent_error"}}))
}

fn response(asked: &Asked, run: &str, text: Option<&str>, usage: &Usage, status: &str) -> Value {
    let output = text.map(|text| item(run, text, status));
    json!({
        "id": format!("resp_{run}"), "object": "response", "created_at": asked.created, "status": status, "model": asked.model,
        "output": output.into_iter().collect::<Vec<_>>(),
        "usage": {"input_tokens": usage.input, "output_tokens": usage.output, "total_tokens": usage.total()},
    })
}

fn item(run: &str, text: &str, status: &str) -> Value {
    let content = json!({"type": "output_text", "text": text, "annotations": []});
    json!({"type": "message", "id": format!("msg_{run}"), "role": "assistant", "status": status, "content": [content]})
}

fn stream_response(asked: Asked, run: String, news: tokio::sync::mpsc::Receiver<News>) -> Response<Body> {
    let mut number = 0_u64;
    let mut event = move |mut payload: Value| {
        payload["sequence_number"] = json!(number);
        number += 1;
        sse::event(&payload)
    };
    let none = Usage::default();
    let started = response(&asked, &run, None, &none, "in_progress");
    let place = json!({"item_id": format!("msg_{run}"), "output_index": 0, "content_index": 0});
    let at = move |kind: &str, more: Value| {
        let mut payload = place.clone();
        payload["type"] = json!(kind);
        koi_wire::config::merge(payload, more)
    };
    let part = |text: &str| json!({"part": {"type": "output_text", "text": text, "annotations": []}});
    let first = [
        event(json!({"type": "response.created", "response": started})),
        event(json!({"type": "response.output_item.added", "output_index": 0, "item": item(&run, "", "in_progress")})),
        event(at("response.content_part.added", part(""))),
    ];
    let mut whole = String::new();
    sse::answer(first.concat(), news, move |news| match news {
        News::Delta(text) => {
            whole.push_str(&text);
            event(at("response.output_text.delta", json!({"delta": text})))
        }
        News::Lost => event(json!({"type": "error", "message": "the run is not known", "code": "agent_error"})),
        News::End(outcome) => {
            if let Some(failure) = turn::failure(&outcome) {
                let mut over = response(&asked, &run, None, &outcome.usage, "failed");
                over["error"] = json!({"code": "agent_error", "message": failure});
                return event(json!({"type": "response.failed", "response": over}));
            }
            let over = response(&asked, &run, Some(&whole), &outcome.usage, "completed");
            let done = item(&run, &whole, "completed");
            [
                event(at("response.output_text.done", json!({"text": whole}))),
                event(at("response.content_part.done", part(&whole))),
                event(json!({"type": "response.output_item.done", "output_index": 0, "item": done})),
                event(json!({"type": "response.completed", "response": over})),
            ]
            .concat()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE: &str = "data:image/png;base64,AAEC";

    fn spoken(messages: &Value) -> Vec<Spoken> {
        serde_json::from_value(messages.clone()).unwrap()
    }

    #[test]
    fn messages_become_one_turn() {
        let one = spoken(&json!([{"role": "user", "content": "hello"}]));
        let hello = words(&one, None).unwrap();
        assert_eq!((hello.text.as_str(), hello.system), ("hello", None));
        let many = spoken(&json!([
            {"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": PICTURE}}]},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": [{"type": "input_text", "text": "c"}, {"type": "input_image", "image_url": PICTURE}]}
        ]));
        let made = words(&many, Some("first".to_owned())).unwrap();
        assert_eq!(
            made.text,
            "What was said before:\nUser: a [a picture]\nAssistant: b\n\nNow:\nc"
        );
        assert_eq!(made.system.as_deref(), Some("first\n\nbe brief"));
        assert_eq!(
            made.pictures
                .iter()
                .map(|sent| sent.content.as_str())
                .collect::<Vec<_>>(),
            [PICTURE]
        );
        for bad in [
            json!([]),
            json!([{"role": "system", "content": "x"}]),
            json!([{"role": "wizard", "content": "x"}]),
            json!([{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio", "input_audio": {}}]}]),
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]),
            json!([{"role": "user", "content": [{"type": "image_url"}]}]),
        ] {
            assert!(words(&spoken(&bad), None).is_err(), "{bad}");
        }
    }
}
