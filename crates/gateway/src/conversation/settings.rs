//! What the config says about conversations.

use std::time::Duration;

use koi_wire::config::{GatewayConfig, Thinking};

use crate::queue;
use crate::reply::Blocks;
use crate::server::DEFAULT_AGENT;

/// The model that answers when the config names none.
const DEFAULT_MODEL: &str = "amazon-bedrock/us.anthropic.claude-opus-4-6-v1";

/// What holds for all conversations.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// The agent.
    pub(crate) agent: String,
    /// Queues.
    pub(crate) queue: queue::Settings,
    /// Runs at the same time: of people, of jobs, of sub-agents.
    pub(crate) places: [usize; 3],
    /// How long a run may take.
    pub(crate) timeout: Duration,
    /// The model, and what to use when it fails.
    pub(crate) models: Vec<String>,
    /// How much it thinks.
    pub(crate) thinking: Option<Thinking>,
    /// Answers come in whole blocks.
    pub(crate) blocks: Option<Blocks>,
    /// Messages that begin a conversation anew.
    pub(crate) reset_triggers: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_config(&GatewayConfig::default())
    }
}

impl Settings {
    /// The config's settings; what it does not say is as built in.
    pub(crate) fn from_config(config: &GatewayConfig) -> Self {
        let agent = config.agent_defaults();
        let number = |value: Option<u32>, built_in: usize| {
            value
                .and_then(|value| usize::try_from(value).ok())
                .unwrap_or(built_in)
                .max(1)
        };
        let model = agent.and_then(|agent| agent.model.as_ref());
        let primary = model.and_then(|model| model.primary.clone());
        let fallbacks = model.and_then(|model| model.fallbacks.clone()).unwrap_or_default();
        let triggers = config
            .session
            .as_ref()
            .and_then(|session| session.reset_triggers.clone());
        let jobs = config.cron.as_ref().and_then(|cron| cron.max_concurrent_runs);
        Self {
            agent: DEFAULT_AGENT.to_owned(),
            queue: queue::Settings::from_config(config.messages.as_ref().and_then(|messages| messages.queue.as_ref())),
            places: [
                number(agent.and_then(|agent| agent.max_concurrent), 4),
                number(jobs, 2),
                8,
            ],
            timeout: Duration::from_secs(agent.and_then(|agent| agent.timeout_seconds).unwrap_or(172_800).into()),
            models: std::iter::once(primary.unwrap_or_else(|| DEFAULT_MODEL.to_owned()))
                .chain(fallbacks)
                .collect(),
            thinking: agent.and_then(|agent| agent.thinking_default),
            blocks: Blocks::from_config(agent),
            reset_triggers: triggers.unwrap_or_else(|| vec!["/new".to_owned(), "/reset".to_owned()]),
        }
    }
}
