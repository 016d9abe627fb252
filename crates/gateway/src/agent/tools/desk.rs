//! Tools about the agent's own conversations and jobs: look at them, write to them, give tasks to sub-agents, make jobs.

mod spec;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use koi_hands::text;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(super) use self::spec::specs;
use crate::agent::tool::CallSite;
use crate::clock::Clock;
use crate::conversation::{End, Inbound, Outcome, Source, TurnOptions};
use crate::schedule::{Draft, Listing, Schedule, Talk};
use crate::session::{Filter, Kind, SessionKey, Sessions, Summary, Wish};

/// Sub-agents of one conversation at the same time.
const MOST_CHILDREN: usize = 5;

/// How long a sub-agent may take, where nothing is said.
const TASK_SECONDS: u64 = 3600;

/// How long one waits for the answer of another conversation.
const ANSWER_SECONDS: u64 = 30;

/// Characters of a history, and of one of its rows.
const MOST_HISTORY: usize = 30_000;
const MOST_ROW: usize = 2_000;

/// What these tools work with. The talk and the schedule use tools in turn, so they are named later, and not held.
pub(crate) struct Desk {
    sessions: Sessions,
    clock: Arc<dyn Clock>,
    talk: OnceLock<Weak<dyn Talk>>,
    schedule: OnceLock<Weak<Schedule>>,
    children: Mutex<BTreeMap<String, usize>>,
}

fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, String> {
    serde_json::from_value(arguments).map_err(|fault| format!("The arguments do not fit: {fault}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    search: Option<String>,
    #[serde(default)]
    active_minutes: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct History {
    session_key: String,
    #[serde(default)]
    limit: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Send {
    session_key: String,
    message: String,
    #[serde(default)]
    timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spawn {
    task: String,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cron {
    action: String,
    #[serde(default, alias = "jobId")]
    id: Option<String>,
    #[serde(default)]
    job: Option<Value>,
    #[serde(default)]
    patch: Option<Value>,
}

impl Desk {
    pub(crate) fn new(sessions: Sessions, clock: Arc<dyn Clock>) -> Self {
        Self {
            sessions,
            clock,
            talk: OnceLock::new(),
            schedule: OnceLock::new(),
            children: Mutex::default(),
        }
    }

    /// What stands only after the tools do.
    pub(crate) fn connect(&self, talk: &Arc<dyn Talk>, schedule: &Arc<Schedule>) {
        let _ = self.talk.set(Arc::downgrade(talk));
        let _ = self.schedule.set(Arc::downgrade(schedule));
    }

    #[cfg(test)]
    pub(super) fn connect_talk(&self, talk: &Arc<dyn Talk>) {
        let _ = self.talk.set(Arc::downgrade(talk));
    }

    /// The conversation of the owner.
    pub(super) fn main(&self) -> String {
        SessionKey::main(self.sessions.agent()).to_string()
    }

    pub(super) fn talk(&self) -> Result<Arc<dyn Talk>, String> {
        let talk = self.talk.get().and_then(Weak::upgrade);
        talk.ok_or_else(|| "The gateway is not ready for that.".to_owned())
    }

    fn schedule(&self) -> Result<Arc<Schedule>, String> {
        let schedule = self.schedule.get().and_then(Weak::upgrade);
        schedule.ok_or_else(|| "The gateway is not ready for that.".to_owned())
    }

    /// Performs a call; none when it is no tool of these.
    pub(super) async fn perform(
        self: &Arc<Self>,
        name: &str,
        call_id: &str,
        arguments: Value,
        site: &CallSite,
    ) -> Option<Result<String, String>> {
        let id = id_of(site, call_id);
        Some(match name {
            "sessions_list" => self.list(arguments, site).await,
            "sessions_history" => self.history(arguments, site).await,
            "session_status" => self.status(site),
            "sessions_send" => self.send(arguments, site, id).await,
            "sessions_spawn" => self.spawn(arguments, site, id).await,
            "cron" => self.cron(arguments).await,
            _ => return None,
        })
    }

    async fn list(&self, arguments: Value, site: &CallSite) -> Result<String, String> {
        let wish: List = read(arguments)?;
        let here = key(&site.session_key)?;
        if !here.is_private() {
            let known = self.sessions.known(&here);
            let known = known.map(|summary| line(&summary, self.clock.now_ms()));
            return Ok(known.unwrap_or_else(|| "There are none.".to_owned()));
        }
        let now_ms = self.clock.now_ms();
        let filter = Filter {
            limit: Some(wish.limit.unwrap_or(20).clamp(1, 100)),
            search: wish.search,
            active_since_ms: wish.active_minutes.map(|minutes| now_ms - i64::from(minutes) * 60_000),
            include_global: true,
            ..Filter::default()
        };
        let listed = self.sessions.list(filter).await.map_err(|fault| fault.to_string())?;
        let mut lines: Vec<String> = listed.sessions.iter().map(|summary| line(summary, now_ms)).collect();
        if listed.total > lines.len() {
            lines.push(format!("[{} of {}]", lines.len(), listed.total));
        }
        Ok(if lines.is_empty() {
            "There are none.".to_owned()
        } else {
            lines.join("\n")
        })
    }

    async fn history(&self, arguments: Value, site: &CallSite) -> Result<String, String> {
        let wish: History = read(arguments)?;
        let key = within_sight(&wish.session_key, site)?;
        let page = Wish {
            limit: wish.limit.unwrap_or(20).clamp(1, 200),
            offset: 0,
            max_chars: MOST_ROW,
            session_id: None,
        };
        let page = self
            .sessions
            .history(&key, page)
            .await
            .map_err(|fault| fault.to_string())?;
        let rows: Vec<String> = page.rows.iter().filter_map(row).collect();
        if rows.is_empty() {
            return Ok(format!("Nothing was said in {key}."));
        }
        Ok(text::capped(&rows.join("\n\n"), 0, MOST_HISTORY))
    }

    fn status(&self, site: &CallSite) -> Result<String, String> {
        let key = key(&site.session_key)?;
        let now_ms = self.clock.now_ms();
        let zone = self.sessions.zone();
        let now = jiff::Timestamp::from_millisecond(now_ms)
            .unwrap_or_default()
            .to_zoned(zone);
        let known = self.sessions.known(&key);
        let about = known.map_or_else(String::new, |summary| {
            format!(
                "\nModel: {}/{}\nContext: {} tokens\n{}",
                summary.provider,
                summary.model,
                summary.context_tokens,
                line(&summary, now_ms)
            )
        });
        Ok(format!("Time: {now}\nSession: {key}{about}"))
    }

    async fn send(&self, arguments: Value, site: &CallSite, id: String) -> Result<String, String> {
        let wish: Send = read(arguments)?;
        let key = within_sight(&wish.session_key, site)?;
        if key.as_str() == site.session_key {
            return Err("That is this conversation itself: just answer.".to_owned());
        }
        let talk = self.talk()?;
        let text = format!("[message from the conversation {}]\n{}", site.session_key, wish.message);
        talk.submit(
            inbound(&key, text, Source::Agent, id.clone(), TurnOptions::default()),
            false,
        )
        .await
        .map_err(|fault| fault.to_string())?;
        let patience = wish.timeout_seconds.unwrap_or(ANSWER_SECONDS).min(600);
        let waited = talk.wait(&id, Duration::from_secs(patience));
        let outcome = site.cancel.run_until_cancelled(waited).await.flatten();
        Ok(outcome.map_or_else(
            || "It was sent; there is no answer yet.".to_owned(),
            |outcome| format!("It {}", ending(&outcome)),
        ))
    }

    async fn spawn(self: &Arc<Self>, arguments: Value, site: &CallSite, id: String) -> Result<String, String> {
        let wish: Spawn = read(arguments)?;
        if wish.task.trim().is_empty() {
            return Err("task must not be empty".to_owned());
        }
        let parent = key(&site.session_key)?;
        if parent.kind() == Kind::Subagent {
            return Err("A sub-agent does not give tasks to others: do it yourself.".to_owned());
        }
        let place = self.place(parent.as_str())?;
        let talk = self.talk()?;
        let child = parent.subagent(self.sessions.agent(), &id);
        let label = text::short(wish.label.as_deref().unwrap_or(wish.task.trim()), 60);
        let patience = Duration::from_secs(wish.timeout_seconds.unwrap_or(TASK_SECONDS).clamp(1, 24 * 3600));
        let options = TurnOptions {
            model: wish.model,
            timeout: Some(patience),
            ..TurnOptions::default()
        };
        talk.submit(inbound(&child, wish.task, Source::Subagent, id.clone(), options), false)
            .await
            .map_err(|fault| fault.to_string())?;
        let told = format!(
            "A sub-agent works on it: {child}. Its result comes as a message; go on with something else, or end your turn."
        );
        tokio::spawn(report(talk, parent, id, label, patience, place));
        Ok(told)
    }

    /// A place for one more sub-agent; it is free again when this is dropped.
    fn place(self: &Arc<Self>, parent: &str) -> Result<Place, String> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let count = children.entry(parent.to_owned()).or_default();
        if *count >= MOST_CHILDREN {
            return Err(format!(
                "{MOST_CHILDREN} sub-agents of this conversation work already; wait for one of them."
            ));
        }
        *count += 1;
        Ok(Place {
            desk: Arc::clone(self),
            parent: parent.to_owned(),
        })
    }

    async fn cron(&self, arguments: Value) -> Result<String, String> {
        let wish: Cron = read(arguments)?;
        let schedule = self.schedule()?;
        let id = || {
            wish.id
                .clone()
                .ok_or_else(|| "id is missing; cron with action list names the jobs".to_owned())
        };
        let shown = match wish.action.as_str() {
            "list" => schedule.list(&Listing {
                limit: 50,
                ..Listing::default()
            }),
            "add" => {
                let mut job = wish.job.ok_or("job is missing")?;
                if let Some(job) = job.as_object_mut() {
                    job.entry("sessionTarget").or_insert_with(|| json!("isolated"));
                    job.entry("wakeMode").or_insert_with(|| json!("now"));
                    // Models leave it out, or give it the name of the message.
                    let message = job
                        .get("payload")
                        .and_then(|payload| payload["message"].as_str())
                        .unwrap_or("job");
                    let name = text::short(message, 40);
                    job.entry("name").or_insert_with(|| json!(name));
                }
                let draft: Draft = read(job)?;
                schedule.add(draft).await.map_err(|fault| fault.to_string())?.0
            }
            "update" => {
                let patch = read(wish.patch.clone().ok_or("patch is missing")?)?;
                schedule
                    .update(&id()?, patch, None)
                    .await
                    .map_err(|fault| fault.to_string())?
            }
            "remove" => {
                let gone = schedule.remove(&id()?).await.map_err(|fault| fault.to_string())?;
                return if gone {
                    Ok("The job is gone.".to_owned())
                } else {
                    Err("There is no such job.".to_owned())
                };
            }
            other => {
                return Err(format!(
                    "there is no action {:?}; allowed: list, add, update, remove",
                    text::short(other, 32)
                ));
            }
        };
        Ok(text::capped(&shown.to_string(), MOST_HISTORY, 0))
    }
}

/// A place of a sub-agent.
struct Place {
    desk: Arc<Desk>,
    parent: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut children = self.desk.children.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = children.get_mut(&self.parent) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                children.remove(&self.parent);
            }
        }
    }
}

/// Waits for a sub-agent, and tells its parent what came of it.
async fn report(talk: Arc<dyn Talk>, parent: SessionKey, id: String, label: String, patience: Duration, place: Place) {
    // Its run ends by itself when its time is over; a little more is for the way.
    let outcome = talk.wait(&id, patience + Duration::from_secs(60)).await;
    drop(place);
    let ended = outcome.map_or_else(
        || "did not come to an end in time.".to_owned(),
        |outcome| ending(&outcome),
    );
    let text = format!(
        "[sub-agent {label:?} {ended}\n\nThat is the result of your own sub-agent. Tell the user what matters of it, or go on with your work; \
         answer NO_REPLY when there is nothing to say.]"
    );
    let told = inbound(
        &parent,
        text,
        Source::Announce,
        format!("{id}-done"),
        TurnOptions::default(),
    );
    if let Err(fault) = talk.submit(told, false).await {
        tracing::warn!(%fault, parent = %parent, "the result of a sub-agent was not told");
    }
}

fn inbound(key: &SessionKey, text: String, source: Source, id: String, options: TurnOptions) -> Inbound {
    Inbound {
        key: key.to_string(),
        text,
        attachments: Vec::new(),
        source,
        idempotency_key: id,
        options,
    }
}

fn ending(outcome: &Outcome) -> String {
    let text = text::short(outcome.text.as_deref().unwrap_or("(nothing)"), 20_000);
    match &outcome.end {
        End::Final { .. } => format!("answered:\n{text}"),
        End::Aborted { .. } => "was aborted.".to_owned(),
        End::Error { message, .. } => format!("failed: {}", text::short(message, 1000)),
    }
}

/// The same call has the same id, also when it is made again after a crash.
fn id_of(site: &CallSite, call_id: &str) -> String {
    let mut digest = Sha256::new();
    for part in [&site.session_key, &site.run_id, call_id] {
        digest.update(part.len().to_le_bytes());
        digest.update(part.as_bytes());
    }
    let mut id = hex::encode(digest.finalize());
    id.truncate(32);
    id
}

fn key(text: &str) -> Result<SessionKey, String> {
    SessionKey::parse(text).map_err(|fault| format!("sessionKey {fault}"))
}

/// A conversation that this one may look into or write to: in a group are people for whom the owner's other conversations are not meant.
fn within_sight(wanted: &str, site: &CallSite) -> Result<SessionKey, String> {
    let (wanted, here) = (key(wanted)?, key(&site.session_key)?);
    if wanted == here || here.is_private() {
        return Ok(wanted);
    }
    Err("Others take part in this conversation: it sees no other one.".to_owned())
}

fn line(summary: &Summary, now_ms: i64) -> String {
    let minutes = now_ms.saturating_sub(summary.updated_ms).max(0) / 60_000;
    let title = summary.text("label").unwrap_or(&summary.title);
    format!(
        "{}  {minutes} min ago  {} rows  {}",
        summary.key,
        summary.rows,
        text::short(&title.split_whitespace().collect::<Vec<_>>().join(" "), 80)
    )
}

/// A row of history in words.
fn row(row: &Value) -> Option<String> {
    let role = row["role"].as_str()?;
    let content = &row["content"];
    let words = match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let words = parts.iter().filter_map(|part| match part["type"].as_str()? {
                "text" => part["text"].as_str().map(str::to_owned),
                "toolCall" => Some(format!("[calls {}]", part["name"].as_str().unwrap_or_default())),
                "image" => Some("[a picture]".to_owned()),
                _ => None,
            });
            words.collect::<Vec<_>>().join("\n")
        }
        _ => return None,
    };
    (!words.trim().is_empty()).then(|| format!("{role}: {words}"))
}

#[cfg(test)]
mod tests;
