//! Tools that the gateway performs itself, since they need what only it has: skills, the memory, keys of the config, models, clients.

mod memory;
mod search;
mod sound;

use std::path::PathBuf;
use std::sync::Arc;

use koi_hands::{Outcome, Spec, Wish, text};
use koi_wire::config::GatewayConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::memory::Memory;
use self::search::Search;
use self::sound::Speech;
use super::Inner;
use crate::agent::tool::CallSite;
use crate::secret::Secrets;
use crate::session::{Content, Known, Part};
use crate::skills::Shelf;

/// Characters of a SKILL.md that are shown.
const MOST_SKILL: usize = 40_000;

/// Where everything is; no config changes it.
#[derive(Clone, Debug)]
pub(crate) struct Grounds {
    pub(crate) workspace: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) secrets: Secrets,
    /// Where Amazon Polly is asked, where that is another place than AWS's own.
    pub(crate) polly: Option<String>,
}

/// These tools, as the config has them.
pub(super) struct More {
    shelf: Shelf,
    memory: Arc<Memory>,
    search: Option<Search>,
    speech: Option<Speech>,
}

fn spec(name: &'static str, description: &'static str, parallel: bool, properties: &Value, required: &[&str]) -> Spec {
    Spec {
        name,
        description,
        schema: json!({"type": "object", "properties": properties, "required": required}),
        parallel,
    }
}

/// What models are told of those that this config has, always in the same order.
pub(super) fn specs(config: &GatewayConfig) -> Vec<Spec> {
    let tools = config.tools.as_ref();
    let text = json!({"type": "string"});
    let mut specs = vec![
        spec(
            "skill",
            "Load a skill: how to do something.",
            true,
            &json!({"name": text}),
            &["name"],
        ),
        spec(
            "memory_search",
            "Search your notes (MEMORY.md, memory/) and what was said in conversations.",
            true,
            &json!({"query": {"type": "string", "description": "Words"}, "limit": {"type": "integer", "description": "Default 10"}}),
            &["query"],
        ),
    ];
    if tools.and_then(|tools| tools.web.as_ref()?.search.as_ref()).is_some() {
        specs.push(spec(
            "web_search",
            "Search the web.",
            true,
            &json!({"query": text, "count": {"type": "integer", "description": "Default 8"}}),
            &["query"],
        ));
    }
    specs.push(spec(
        "image",
        "Have a picture looked at, and get words.",
        true,
        &json!({"path": text, "prompt": text}),
        &["path"],
    ));
    specs.push(spec(
        "message",
        "Show the user words outside of this answer, in their main conversation.",
        false,
        &json!({"text": text}),
        &["text"],
    ));
    if tools.and_then(|tools| tools.speech.as_ref()).is_some() {
        specs.push(spec(
            "speech",
            "Speak a text into a sound file of the workspace.",
            false,
            &json!({"text": text, "path": {"type": "string", "description": "Default speech/<name>"}}),
            &["text"],
        ));
    }
    specs
}

fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, String> {
    serde_json::from_value(arguments).map_err(|fault| format!("The arguments do not fit: {fault}"))
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Look {
    path: String,
    #[serde(default)]
    prompt: Option<String>,
}

#[derive(Deserialize)]
struct Tell {
    text: String,
}

impl More {
    pub(super) fn new(grounds: &Grounds, config: &GatewayConfig) -> Self {
        let tools = config.tools.as_ref();
        let search = tools.and_then(|tools| tools.web.as_ref()?.search.as_ref());
        let speech = tools.and_then(|tools| tools.speech.as_ref());
        Self {
            shelf: Shelf::new(&grounds.workspace, &grounds.state_dir, &grounds.home, config),
            memory: Arc::new(Memory::new(&grounds.workspace, &grounds.state_dir)),
            search: search.map(|search| Search::new(search, grounds.secrets.clone())),
            speech: speech.map(|speech| Speech::new(speech, grounds.polly.clone())),
        }
    }

    /// Performs a call; none when it is no tool of these.
    pub(super) async fn perform(
        &self,
        inner: &Inner,
        name: &str,
        arguments: &Value,
        site: &CallSite,
    ) -> Option<Outcome> {
        let arguments = || arguments.clone();
        let work = async {
            Some(match name {
                "skill" => self.skill(arguments()).await.into(),
                "memory_search" => Arc::clone(&self.memory)
                    .search(arguments(), &site.session_key)
                    .await
                    .into(),
                "web_search" => match &self.search {
                    Some(search) => search.search(arguments()).await.into(),
                    None => Outcome::failed("tools.web.search is not set"),
                },
                "image" => image(inner, arguments(), site).await.into(),
                "message" => tell(inner, arguments(), site).await.into(),
                "speech" => match &self.speech {
                    Some(speech) => speech.speak(inner, arguments(), site).await.into(),
                    None => Outcome::failed("tools.speech is not set"),
                },
                _ => return None,
            })
        };
        // Connections by TLS are large; most calls need none.
        let done = site.cancel.run_until_cancelled(Box::pin(work)).await;
        done.unwrap_or_else(|| Some(Outcome::failed("Aborted.")))
    }

    async fn skill(&self, arguments: Value) -> Result<String, String> {
        let wish: Named = read(arguments)?;
        let shelf = self.shelf.clone();
        let found = tokio::task::spawn_blocking(move || shelf.told(&wish.name, MOST_SKILL));
        found
            .await
            .unwrap_or_else(|_| Err("The skill cannot be read.".to_owned()))
    }
}

/// Reads a picture on the machine, with the rights of the agent, and has a model look at it.
async fn image(inner: &Inner, arguments: Value, site: &CallSite) -> Result<String, String> {
    let wish: Look = read(arguments)?;
    let path = text::short(&wish.path, 200);
    let read = inner.hands("read", json!({"path": wish.path}), site).await;
    if read.is_error {
        return Err(read.text);
    }
    let picture = read
        .image
        .ok_or_else(|| format!("{path} is no picture; allowed: png, jpeg, gif, webp"))?;
    let prompt = wish
        .prompt
        .unwrap_or_else(|| "Describe this picture. Read out all words in it.".to_owned());
    let content = Content(vec![
        Part::Known(Known::Text { text: prompt }),
        Part::Known(Known::Image {
            data: picture.data,
            mime_type: picture.mime_type,
        }),
    ]);
    let said = inner.desk.talk()?.ask(&site.session_key, content).await?;
    Ok(text::capped(said.trim(), 20_000, 0))
}

/// Words for the owner, from wherever the agent works.
async fn tell(inner: &Inner, arguments: Value, site: &CallSite) -> Result<String, String> {
    const MOST: usize = 20_000;
    let wish: Tell = read(arguments)?;
    if wish.text.trim().is_empty() {
        return Err("text must not be empty".to_owned());
    }
    let main = inner.desk.main();
    if site.session_key == main {
        return Err("The user reads along here: just say it.".to_owned());
    }
    let label = format!("from {}", site.session_key);
    let words = text::capped(&wish.text, MOST, 0);
    inner.desk.talk()?.announce(&main, &label, &words).await?;
    Ok("The user can read it.".to_owned())
}

impl Inner {
    /// Has something performed on the machine, as the agent's user.
    async fn hands(&self, tool: &str, arguments: Value, site: &CallSite) -> Outcome {
        let rules = self.rules();
        let wish = Wish {
            tool: tool.to_owned(),
            arguments,
            session: site.session_key.clone(),
            workspace: Some(self.grounds.workspace.clone()),
            timeout_seconds: rules.timeout_seconds,
            confined: rules.confined,
        };
        self.machine.perform(wish, site.cancel.clone()).await
    }
}

#[cfg(test)]
mod tests;
