//! Models behind any endpoint that speaks OpenAI's chat completions: a provider's, or one that somebody serves himself.
//!
//! The answer comes as a stream of server-sent events; an endpoint that cannot stream gives all of it at once, which is a stream of one. Tries
//! are the turn's business, as with every model.

mod fault;
mod hear;
mod request;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use koi_wire::config::{self, ModelFacts, Secret};

use self::hear::Ear;
use super::common::{Listen, events};
use super::{Fault, FaultClass, ModelClient, ModelEvent, Request};
use crate::agent::http::{Answer, Caller};
use crate::secret::Secrets;

/// Where models are asked when the config does not say.
const DEFAULT_URL: &str = "https://api.openai.com/v1";

/// How long it may take until an answer begins: models that think, and machines that load them, say nothing before.
const BEGIN: Duration = Duration::from_secs(300);

/// How long usage may take to come once all is said.
const USAGE: Duration = Duration::from_secs(5);

/// Bytes of a refusal that are read.
const MOST_WORDS: usize = 16 * 1024;

/// Bytes of an answer that comes at once.
const MOST_WHOLE: usize = 16 * 1024 * 1024;

/// Asks an endpoint.
#[derive(Clone)]
pub(crate) struct OpenAi(Arc<Inner>);

struct Inner {
    url: String,
    key: Option<Secret>,
    facts: BTreeMap<String, ModelFacts>,
    secrets: Secrets,
    caller: Caller,
}

impl OpenAi {
    /// As the config has it.
    pub(crate) fn from_config(config: &config::OpenAi, secrets: Secrets) -> Self {
        let base = config.base_url.as_deref().unwrap_or(DEFAULT_URL).trim_end_matches('/');
        Self(Arc::new(Inner {
            url: format!("{base}/chat/completions"),
            key: config.api_key.clone(),
            facts: config.models.clone().unwrap_or_default(),
            secrets,
            caller: Caller::default(),
        }))
    }
}

impl ModelClient for OpenAi {
    fn ask(&self, request: Request) -> BoxStream<'static, ModelEvent> {
        let inner = Arc::clone(&self.0);
        stream::once(async move {
            match inner.open(&request).await {
                Ok(answer) => listen(answer).await,
                Err(fault) => stream::iter([ModelEvent::Failed(fault)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }
}

impl Inner {
    async fn open(&self, request: &Request) -> Result<Answer, Fault> {
        let id = request
            .model
            .split_once('/')
            .map_or(request.model.as_str(), |(_, id)| id);
        let body = request::body(id, self.facts.get(id), request);
        let headers = self.headers()?;
        let call = self.caller.call(Method::POST, &self.url, headers, body);
        let mut answer = tokio::time::timeout(BEGIN, call)
            .await
            .map_err(|_| Fault::new(FaultClass::Stalled, "the model did not begin to answer in time"))?
            .map_err(|error| Fault::new(FaultClass::NotReady, error.to_string()))?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let words = tokio::time::timeout(USAGE, answer.some(MOST_WORDS))
            .await
            .unwrap_or_default();
        Err(fault::of_answer(id, answer.status.as_u16(), &answer.headers, &words))
    }

    /// The key is read for each question: whoever changes it need not restart anything.
    fn headers(&self) -> Result<HeaderMap, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        if let Some(key) = &self.key {
            let denied = |why: &str| Fault::new(FaultClass::Denied, format!("models.providers.openai.apiKey: {why}"));
            let key = self.secrets.read(key).map_err(|why| denied(&why))?;
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
                .map_err(|_| denied("it has characters that no header may have"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

/// An answer as it comes.
struct Listening {
    answer: Answer,
    ear: Ear,
}

async fn listen(mut answer: Answer) -> BoxStream<'static, ModelEvent> {
    let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json")) {
        let events = match answer.whole(MOST_WHOLE).await {
            Ok(body) => hear::whole(&body),
            Err(error) => vec![ModelEvent::Failed(Fault::new(FaultClass::Cut, error.to_string()))],
        };
        return stream::iter(events).boxed();
    }
    events(Listening {
        answer,
        ear: Ear::default(),
    })
}

impl Listen for Listening {
    /// Usage comes after the reason of the end; without it nothing is lost but a figure.
    async fn hear(&mut self) -> Vec<ModelEvent> {
        let piece = if self.ear.is_done() {
            tokio::time::timeout(USAGE, self.answer.piece())
                .await
                .unwrap_or(Ok(None))
        } else {
            self.answer.piece().await
        };
        match piece {
            Ok(Some(piece)) => self.ear.hear(&piece),
            Ok(None) => self.ear.end(),
            Err(_) if self.ear.is_done() => self.ear.end(),
            Err(error) => vec![ModelEvent::Failed(Fault::new(
                FaultClass::Cut,
                format!("the model's answer was cut off: {error}"),
            ))],
        }
    }
}

#[cfg(test)]
pub(crate) use self::request::body as request_body;
#[cfg(test)]
mod tests;
