//! Performs slash commands: the gateway answers, the model hears nothing of it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::Inbound;
use super::command::{Command, HELP};
use super::gate::Number;
use super::run::parse_thinking;
use super::state::Inner;
use crate::agent::tool::ToolSpec;
use crate::agent::turn::Stop;
use crate::queue::{Overrides, drop_name, mode_name};
use crate::session::{SessionKey, Touch, Why};

/// How long a run that is stopped may take before the conversation begins anew without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A command that is to be obeyed.
pub(super) struct Order {
    pub(super) message: Arc<Inbound>,
    /// Its place at the session's gate.
    pub(super) number: Number,
    pub(super) command: Command,
    /// What the model is to answer afterwards.
    pub(super) words: Option<String>,
    /// Says that it is to take no longer than it must.
    pub(super) stop: watch::Receiver<Option<Stop>>,
}

impl Inner {
    /// Obeys a command. Its message ends, or goes on to the model; then what came after it may.
    pub(super) async fn obey(self: Arc<Self>, order: Order) {
        let (key, id) = (&order.message.key, &order.message.idempotency_key);
        // Whatever happens in there: what came after it does not wait for ever.
        let done = AssertUnwindSafe(self.answer_command(&order)).catch_unwind().await;
        let said = done.unwrap_or_else(|_| Err("the command broke off unexpectedly".to_owned()));
        match (said, &order.words) {
            (Ok(_), Some(words)) => {
                let mut state = self.lock();
                if let Some(pending) = state.messages.get_mut(id) {
                    Arc::make_mut(&mut pending.message).text.clone_from(words);
                }
                self.arrive(&mut state, id);
            }
            (said, _) => {
                let said = said.unwrap_or_else(|fault| format!("That did not work: {fault}"));
                let outcome = self.obeyed_outcome(key, id, said);
                self.end(vec![id.clone()], outcome).await;
            }
        }
        self.obeyed(key, order.number);
    }

    async fn answer_command(self: &Arc<Self>, order: &Order) -> Result<String, String> {
        if order.message.options.commands < Some(order.command.needs()) {
            return Ok("That needs the scope operator.admin, which this connection does not have.".to_owned());
        }
        let key = SessionKey::parse(&order.message.key).map_err(|fault| fault.to_string())?;
        let now_ms = self.clock.now_ms();
        match &order.command {
            Command::Help => Ok(HELP.to_owned()),
            Command::New => self.begin_anew(&key, Why::New).await,
            Command::Reset => self.begin_anew(&key, Why::Reset).await,
            // It waits for nobody: the gate does it.
            Command::Stop => Ok(String::new()),
            Command::Compact => Ok(match self.compact_now(&key, order.stop.clone()).await? {
                Some(done) => format!("Put {} entries away, kept {}.", done.dropped, done.kept),
                None => "Nothing to put away.".to_owned(),
            }),
            Command::Status => self.describe(&key).await,
            Command::Usage => Ok(self.last_usage(&key)),
            Command::Context => self.context_report(&key).await,
            Command::Model(None) => {
                let opened = self.book.open(&key, now_ms, Touch::Background).await?;
                let settings = self.settings();
                let model = opened
                    .model
                    .or_else(|| settings.models.first().cloned())
                    .unwrap_or_default();
                Ok(format!(
                    "Model: {model}. Set another with /model <provider>/<id>, or /model default."
                ))
            }
            Command::Model(Some(name)) => self.set_model(&key, name).await,
            Command::Think(None) => {
                let opened = self.book.open(&key, now_ms, Touch::Background).await?;
                let level = opened.thinking.unwrap_or_else(|| "default".to_owned());
                Ok(format!(
                    "Thinking: {level}. Set it with /think off, minimal, low, medium, high or default."
                ))
            }
            Command::Think(Some(level)) => self.set_thinking(&key, level).await,
            Command::Queue(given) => self.set_queue(&key, given.as_deref()).await,
        }
    }

    pub(super) async fn begin_anew(self: &Arc<Self>, key: &SessionKey, why: Why) -> Result<String, String> {
        self.clear(key, "reset").await;
        self.book.renew(key, self.clock.now_ms(), why).await?;
        Ok("A new conversation begins.".to_owned())
    }

    /// Ends what is in the lane of a session, and waits for it.
    pub(super) async fn clear(self: &Arc<Self>, key: &SessionKey, reason: &'static str) {
        // What was submitted after what asks for this waits for it, and is none of this.
        let stopped = self.stop_lane(&mut self.lock(), key.as_str(), None, reason);
        // What a run still writes down belongs to the old conversation.
        let over = async {
            for id in &stopped {
                if let Some(ended) = self.ending(id) {
                    ended.cancelled().await;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, over).await;
    }

    async fn set(&self, key: &SessionKey, name: &str, value: Value) -> Result<(), String> {
        let meta = Map::from_iter([(name.to_owned(), value)]);
        self.book.patch(key, self.clock.now_ms(), meta).await
    }

    async fn set_model(&self, key: &SessionKey, name: &str) -> Result<String, String> {
        if name.eq_ignore_ascii_case("default") {
            self.set(key, "model", Value::Null).await?;
            return Ok("This conversation uses the default model again.".to_owned());
        }
        let fits = name
            .split_once('/')
            .is_some_and(|(provider, id)| !provider.is_empty() && !id.is_empty());
        if !fits || name.len() > 256 || name.contains(char::is_whitespace) {
            return Err(
                "a model is named <provider>/<id>, for instance amazon-bedrock/<inference profile id>".to_owned(),
            );
        }
        self.set(key, "model", json!(name)).await?;
        Ok(format!("This conversation uses {name} from the next turn on."))
    }

    async fn set_thinking(&self, key: &SessionKey, level: &str) -> Result<String, String> {
        if level.eq_ignore_ascii_case("default") {
            self.set(key, "thinkingLevel", Value::Null).await?;
            return Ok("Thinking is as the config says again.".to_owned());
        }
        let level = level.to_ascii_lowercase();
        parse_thinking(&level).ok_or("use off, minimal, low, medium, high or default")?;
        self.set(key, "thinkingLevel", json!(level)).await?;
        Ok(format!("Thinking: {level} from the next turn on."))
    }

    async fn set_queue(&self, key: &SessionKey, given: Option<&str>) -> Result<String, String> {
        let now_ms = self.clock.now_ms();
        let mut overrides = self.book.open(key, now_ms, Touch::Background).await?.queue;
        if let Some(given) = given {
            overrides = match given.to_ascii_lowercase().as_str() {
                "default" | "reset" => Overrides::default(),
                given => overrides.with(Overrides::parse(given)?),
            };
            self.book.patch(key, now_ms, overrides.to_meta()).await?;
            self.lock().queues.insert(key.as_str().to_owned(), overrides);
        }
        let queue = self.settings().queue.with(overrides);
        Ok(format!(
            "Queue: {} debounce:{}ms cap:{} drop:{}",
            mode_name(queue.mode),
            queue.debounce_ms,
            queue.cap,
            drop_name(queue.drop)
        ))
    }

    async fn describe(&self, key: &SessionKey) -> Result<String, String> {
        let opened = self.book.open(key, self.clock.now_ms(), Touch::Background).await?;
        let settings = self.settings();
        let model = opened
            .model
            .or_else(|| settings.models.first().cloned())
            .unwrap_or_default();
        let state = self.lock();
        let running = state
            .runs
            .values()
            .filter(|running| running.key == key.as_str())
            .count();
        let unfinished = state
            .messages
            .values()
            .filter(|pending| pending.message.key == key.as_str())
            .count();
        let queue = settings.queue.with(opened.queue);
        Ok(format!(
            "Session: {key} ({})\nModel: {model}\nThinking: {}\nQueue: {}\nRunning: {running}, waiting: {}\nkoi-gateway {}",
            opened.session_id,
            opened.thinking.unwrap_or_else(|| "default".to_owned()),
            mode_name(queue.mode),
            // The command itself is one of them.
            unfinished.saturating_sub(running + 1),
            crate::server::VERSION,
        ))
    }

    async fn context_report(&self, key: &SessionKey) -> Result<String, String> {
        let prompt = self
            .prompt(key, false, String::new())
            .await
            .ok_or("there is no workspace")?;
        let specs = self.tools.specs();
        let size = |spec: &ToolSpec| spec.name.len() + spec.description.len() + spec.schema.to_string().len();
        let tools: Vec<(String, usize)> = specs.iter().map(|spec| (spec.name.clone(), size(spec))).collect();
        Ok(prompt.report(&tools))
    }

    fn last_usage(&self, key: &SessionKey) -> String {
        let used = self.used(key.as_str());
        if used.1 == 0 {
            return "No run of this conversation is remembered.".to_owned();
        }
        let (usage, runs) = used;
        format!(
            "Last {runs} {}: {} tokens in, {} out, {} read from the cache, {} written to it.",
            if runs == 1 { "run" } else { "runs" },
            usage.input,
            usage.output,
            usage.cache_read,
            usage.cache_write
        )
    }
}
