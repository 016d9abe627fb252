//! Models of Amazon Bedrock, by `ConverseStream`, with the credentials of the instance.
//!
//! The SDK's client is built when the first question is asked: it takes memory and reads the machine. Tries are the turn's business, since a
//! stream can also fail in its middle; so the SDK makes none of its own.

mod fault;
mod hear;
mod request;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::config::StalledStreamProtectionConfig;
use aws_sdk_bedrockruntime::primitives::event_stream::EventReceiver;
use aws_sdk_bedrockruntime::types::ConverseStreamOutput;
use aws_sdk_bedrockruntime::types::error::ConverseStreamOutputError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use koi_wire::config::{AmazonBedrock, ModelFacts};
use tokio::sync::OnceCell;

use self::hear::Ear;
use super::common::{Listen, events};
use super::{Fault, FaultClass, ModelClient, ModelEvent, Request};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long it may take until an answer begins: models that think say nothing before.
const ANSWER: Duration = Duration::from_secs(150);

/// How long usage may take to come once all is said.
const USAGE: Duration = Duration::from_secs(5);

/// Asks Amazon Bedrock.
#[derive(Clone)]
pub(crate) struct Bedrock(Arc<Inner>);

struct Inner {
    region: Option<String>,
    facts: BTreeMap<String, ModelFacts>,
    client: OnceCell<Client>,
}

type Answer = EventReceiver<ConverseStreamOutput, ConverseStreamOutputError>;

impl Bedrock {
    /// As the config has it.
    pub(crate) fn from_config(config: Option<&AmazonBedrock>) -> Self {
        Self::new(config, OnceCell::new())
    }

    fn new(config: Option<&AmazonBedrock>, client: OnceCell<Client>) -> Self {
        Self(Arc::new(Inner {
            region: config.and_then(|config| config.region.clone()),
            facts: config.and_then(|config| config.models.clone()).unwrap_or_default(),
            client,
        }))
    }
}

impl ModelClient for Bedrock {
    fn ask(&self, request: Request) -> BoxStream<'static, ModelEvent> {
        let inner = Arc::clone(&self.0);
        stream::once(async move {
            match inner.open(&request).await {
                Ok(answer) => listen(answer),
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
        let body = Bytes::from(request::body(id, self.facts.get(id), request));
        let client = self.client.get_or_try_init(|| self.connect()).await?;
        let asked = client
            .converse_stream()
            .model_id(id)
            .customize()
            .mutate_request(move |http| {
                http.headers_mut().insert("content-type", "application/json");
                http.headers_mut().insert("content-length", body.len().to_string());
                *http.body_mut() = SdkBody::from(body.clone());
            })
            .send()
            .await;
        Ok(asked.map_err(|error| fault::of_call(id, &error))?.stream)
    }

    async fn connect(&self) -> Result<Client, Fault> {
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        let config = loader.load().await;
        if config.region().is_none() {
            return Err(Fault::new(
                FaultClass::Denied,
                "no region is known to ask Amazon Bedrock in: set models.providers.amazon-bedrock.region",
            ));
        }
        let config = quiet(aws_sdk_bedrockruntime::config::Builder::from(&config)).build();
        Ok(Client::from_conf(config))
    }
}

/// What holds for every call.
fn quiet(config: aws_sdk_bedrockruntime::config::Builder) -> aws_sdk_bedrockruntime::config::Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(ANSWER)
        .build();
    config
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        // A model that thinks sends nothing for long; who listens has a bound for silence.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
}

/// An answer as it comes.
struct Listening {
    answer: Answer,
    ear: Ear,
}

fn listen(answer: Answer) -> BoxStream<'static, ModelEvent> {
    events(Listening {
        answer,
        ear: Ear::default(),
    })
}

impl Listen for Listening {
    /// Usage comes after the end of what is said; without it nothing is lost but a figure.
    async fn hear(&mut self) -> Vec<ModelEvent> {
        let received = if self.ear.is_done() {
            let usage = tokio::time::timeout(USAGE, self.answer.recv()).await;
            usage.unwrap_or(Ok(None))
        } else {
            self.answer.recv().await
        };
        match received {
            Ok(Some(event)) => self.ear.hear(event),
            Ok(None) => self.ear.end(),
            Err(_) if self.ear.is_done() => self.ear.end(),
            Err(error) => vec![ModelEvent::Failed(fault::of_stream(&error))],
        }
    }
}

#[cfg(test)]
pub(crate) use self::request::body as request_body;
#[cfg(test)]
mod tests;
