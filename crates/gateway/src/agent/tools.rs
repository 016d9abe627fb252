//! The agent's tools: which there are, who may use them, and where they are performed.
//!
//! What touches the machine is performed by [`koi_hands`]: on an instance behind a socket, in a process of the agent's own user, so that
//! nothing that a command does can reach what is the gateway's; elsewhere in this process. Which it is, is said when the gateway starts: a
//! socket that nobody answers on is a fault, never a reason to do it here.

mod desk;
mod gate;
mod more;
pub(crate) mod web;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use koi_hands::{Exited, Hands, Outcome, Place, Wish};
use koi_wire::config::{ExecSecurity, GatewayConfig};
use serde_json::Value;

pub(crate) use self::desk::Desk;
pub(crate) use self::gate::Gate;
pub(crate) use self::more::Grounds;
use self::more::More;
use super::tool::{CallSite, ToolBox, ToolCall, ToolResult, ToolSpec};
use crate::hush;
use crate::session::{Content, Known, Part};

/// How long a call that was aborted has to clean up before its result is given up.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// How long until a watcher that lost its socket tries again.
const WATCH_PAUSE: Duration = Duration::from_secs(2);

/// Where tools are performed.
pub(crate) enum Machine {
    /// In this process.
    Here(Arc<Hands>),
    /// Behind a socket.
    Behind(PathBuf),
}

impl Machine {
    /// In this process, with the web beside it.
    pub(crate) fn here(place: Place) -> Self {
        Self::Here(Arc::new(hands(place)))
    }

    async fn perform(&self, wish: Wish, cancel: tokio_util::sync::CancellationToken) -> Outcome {
        match self {
            Self::Here(hands) => hands.perform(wish, cancel).await,
            Self::Behind(socket) => koi_hands::serve::ask(socket, wish, cancel).await,
        }
    }
}

/// Hands with all that there is.
pub(crate) fn hands(place: Place) -> Hands {
    Hands::new(place).with("web_fetch", web::tool())
}

/// What the config says about tools.
struct Rules {
    specs: Arc<[ToolSpec]>,
    exec: ExecSecurity,
    timeout_seconds: Option<u64>,
    /// Commands and files are held to the workspace.
    confined: bool,
    more: More,
}

impl Rules {
    fn new(grounds: &Grounds, config: &GatewayConfig) -> Self {
        let own = config.tools.as_ref();
        let exec = config
            .exec()
            .and_then(|exec| exec.security)
            .unwrap_or(ExecSecurity::Full);
        let listed = |list: Option<&Vec<String>>, name: &str| list.map(|list| list.iter().any(|known| known == name));
        let allowed = |spec: &ToolSpec| {
            let denied = exec == ExecSecurity::Deny && matches!(spec.name.as_str(), "exec" | "process");
            !denied
                && listed(own.and_then(|tools| tools.allow.as_ref()), &spec.name).unwrap_or(true)
                && !listed(own.and_then(|tools| tools.deny.as_ref()), &spec.name).unwrap_or(false)
        };
        Self {
            specs: offered(config).into_iter().filter(allowed).collect(),
            confined: own.and_then(|tools| tools.workspace_only).unwrap_or(false),
            more: More::new(grounds, config),
            exec,
            timeout_seconds: config.exec().and_then(|exec| exec.timeout_seconds).map(u64::from),
        }
    }
}

/// All tools that this config knows, always in the same order.
pub(crate) fn offered(config: &GatewayConfig) -> Vec<ToolSpec> {
    let all = koi_hands::specs().into_iter().chain([web::spec()]).chain(desk::specs());
    let all = all.chain(more::specs(config));
    all.map(|spec| ToolSpec {
        name: spec.name.to_owned(),
        description: spec.description.to_owned(),
        schema: spec.schema,
        parallel: spec.parallel,
    })
    .collect()
}

struct Inner {
    machine: Machine,
    grounds: Grounds,
    rules: RwLock<Arc<Rules>>,
    gate: Gate,
    desk: Arc<Desk>,
}

/// The tools of the agent.
#[derive(Clone)]
pub(crate) struct Tools(Arc<Inner>);

impl Tools {
    /// As the config has them.
    pub(crate) fn new(machine: Machine, grounds: Grounds, gate: Gate, desk: Arc<Desk>, config: &GatewayConfig) -> Self {
        Self(Arc::new(Inner {
            machine,
            rules: RwLock::new(Arc::new(Rules::new(&grounds, config))),
            grounds,
            gate,
            desk,
        }))
    }

    /// Another config is in force.
    pub(crate) fn configure(&self, config: &GatewayConfig) {
        *self.0.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Rules::new(&self.0.grounds, config));
    }

    /// Commands of the background that ended by themselves, one after the other; never comes to an end.
    pub(crate) async fn exits(&self, told: tokio::sync::mpsc::Sender<Exited>) {
        loop {
            match &self.0.machine {
                Machine::Here(hands) => {
                    let mut exits = hands.exits();
                    while let Ok(exited) = exits.recv().await {
                        let _ = told.send(exited).await;
                    }
                }
                Machine::Behind(socket) => {
                    // What does not fit waits for nobody: it is news, not a record.
                    let watched = koi_hands::serve::watch(socket, |exited| drop(told.try_send(exited)));
                    let _ = watched.await;
                }
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }
}

/// What the conversation is told of a command that ended in the background; nothing when there is nothing to tell.
pub(crate) fn news(exited: &Exited) -> Option<String> {
    let quiet = exited.state == "exit code 0" && exited.last_words.trim().is_empty();
    if quiet || exited.state == "killed" {
        return None;
    }
    // It stands among the words of the gateway itself: what a command printed must not pass for one of them.
    let command = exited.command.lines().next().unwrap_or_default();
    let about = format!(
        "[command {} of the background ended: {}] {command}",
        exited.id, exited.state
    );
    let words = exited.last_words.trim();
    let told = if words.is_empty() {
        about
    } else {
        web::outside(&about, words)
    };
    Some(hush::without(&told))
}

impl Inner {
    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn call(&self, call: ToolCall, site: CallSite) -> ToolResult {
        let rules = self.rules();
        // A config may have changed since the model was told what there is.
        if !rules.specs.iter().any(|spec| spec.name == call.name) {
            return ToolResult::error(format!("{} is not allowed here", call.name));
        }
        let arguments = match call.arguments {
            Ok(arguments @ Value::Object(_)) => arguments,
            Ok(_) => return ToolResult::error("The arguments are no JSON object."),
            Err(fault) => return ToolResult::error(fault),
        };
        if call.name == "exec"
            && let Err(why) = self.gate.admit(rules.exec, &call.id, &arguments, &site).await
        {
            return ToolResult::error(why);
        }
        if let Some(done) = self.desk.perform(&call.name, &call.id, arguments.clone(), &site).await {
            return result(done.into());
        }
        if let Some(done) = rules.more.perform(self, &call.name, &arguments, &site).await {
            return result(done);
        }
        let wish = Wish {
            tool: call.name,
            arguments,
            session: site.session_key.clone(),
            workspace: Some(self.grounds.workspace.clone()),
            timeout_seconds: rules.timeout_seconds,
            confined: rules.confined,
        };
        let performed = self.machine.perform(wish, site.cancel.clone());
        let outcome = tokio::select! {
            outcome = performed => outcome,
            () = async {
                site.cancel.cancelled().await;
                tokio::time::sleep(CLEAN_UP).await;
            } => Outcome::failed("Aborted."),
        };
        result(outcome)
    }
}

/// What a tool gave, as it is written down and told to the model: without secrets that this process knows, wherever the tool found them.
fn result(outcome: Outcome) -> ToolResult {
    let text = hush::without(&outcome.text);
    let mut parts = vec![Part::Known(Known::Text { text })];
    parts.extend(outcome.image.map(|image| {
        Part::Known(Known::Image {
            data: image.data,
            mime_type: image.mime_type,
        })
    }));
    ToolResult {
        content: Content(parts),
        is_error: outcome.is_error,
    }
}

impl ToolBox for Tools {
    fn specs(&self) -> Arc<[ToolSpec]> {
        Arc::clone(&self.0.rules().specs)
    }

    fn call(&self, call: ToolCall, site: CallSite) -> BoxFuture<'static, ToolResult> {
        let inner = Arc::clone(&self.0);
        async move { inner.call(call, site).await }.boxed()
    }
}

#[cfg(test)]
mod tests;
