//! What the config says about conversations.

use std::collections::BTreeMap;
use std::time::Duration;

use koi_wire::config::{self, Budget, CompactionMode, GatewayConfig, PruningMode, Thinking};

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
    /// Tokens that a turn may use, and a day.
    pub(crate) budget: Budget,
    /// How what grows too long is put away.
    pub(crate) compaction: Compaction,
    /// After a pause so long the provider's cache is lost, and old output of tools is shortened; never when there is none.
    pub(crate) pruning: Option<Duration>,
    /// Context windows that the config names, by `provider/id`.
    pub(crate) windows: BTreeMap<String, u64>,
}

/// How what grows too long is put away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compaction {
    /// A model writes the summary.
    pub(crate) by_model: bool,
    /// Another model than the conversation's.
    pub(crate) model: Option<String>,
    /// Tokens that stay free.
    pub(crate) reserve: u64,
    /// How long a summary may take.
    pub(crate) patience: Duration,
    /// The model notes before what is to be remembered.
    pub(crate) flush: bool,
}

impl Compaction {
    fn from_config(config: Option<&config::Compaction>) -> Self {
        Self {
            by_model: config.and_then(|config| config.mode) != Some(CompactionMode::Plain),
            model: config.and_then(|config| config.model.clone()),
            reserve: config.and_then(|config| config.reserve_tokens).unwrap_or(20_000).into(),
            patience: Duration::from_secs(config.and_then(|config| config.timeout_seconds).unwrap_or(180).into()),
            flush: config.and_then(|config| config.memory_flush).unwrap_or(true),
        }
    }
}

/// The pause after which old output of tools is shortened.
fn pruning(config: Option<&config::ContextPruning>) -> Option<Duration> {
    if config.and_then(|config| config.mode) == Some(PruningMode::Off) {
        return None;
    }
    let ttl = config.and_then(|config| config.ttl.as_deref()).unwrap_or("5m");
    Some(Duration::from_secs(config::duration_seconds(ttl)?))
}

/// Context windows that the config names, by `provider/id`.
fn windows(config: &GatewayConfig) -> BTreeMap<String, u64> {
    let providers = config.models.as_ref().and_then(|models| models.providers.as_ref());
    let bedrock = providers.and_then(|all| all.amazon_bedrock.as_ref()?.models.as_ref());
    let openai = providers.and_then(|all| all.openai.as_ref()?.models.as_ref());
    let named = [("amazon-bedrock", bedrock), ("openai", openai)];
    let facts = named.into_iter().flat_map(|(provider, models)| {
        models
            .into_iter()
            .flatten()
            .map(move |(id, facts)| (provider, id, facts))
    });
    facts
        .filter_map(|(provider, id, facts)| Some((format!("{provider}/{id}"), u64::from(facts.context_window?))))
        .collect()
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_config(&GatewayConfig::default())
    }
}

impl Settings {
    /// Tokens that fit into one question to this model. Where nobody said, what is safe to assume.
    pub(crate) fn window(&self, model: &str) -> u64 {
        let assumed = if model.contains("claude") { 200_000 } else { 128_000 };
        self.windows.get(model).copied().unwrap_or(assumed)
    }

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
            budget: agent.and_then(|agent| agent.budget.clone()).unwrap_or_default(),
            compaction: Compaction::from_config(agent.and_then(|agent| agent.compaction.as_ref())),
            pruning: pruning(agent.and_then(|agent| agent.context_pruning.as_ref())),
            windows: windows(config),
            reset_triggers: triggers.unwrap_or_else(|| vec!["/new".to_owned(), "/reset".to_owned()]),
        }
    }
}
