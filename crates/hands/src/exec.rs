//! Commands: run to their end, or in the background with `process` to look after them.

mod child;
mod output;
mod registry;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::child::Running;
pub(crate) use self::registry::Registry;
use crate::{Outcome, Place, Wish, args, text};

pub use self::registry::Exited;

/// How long a command may take.
const TIMEOUT: u64 = 1800;

/// How long one waits for a command before it goes on in the background.
const YIELD_MS: u64 = 10_000;

/// How long the last words of a command that has ended may take: what it left behind may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Characters of an output: of its beginning, of its end.
const SHOWN: (usize, usize) = (8_000, 24_000);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exec {
    command: String,
    #[serde(default, alias = "cwd")]
    workdir: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    yield_ms: Option<u64>,
    #[serde(default)]
    background: bool,
    #[serde(default, alias = "timeout")]
    timeout_seconds: Option<u64>,
    #[serde(default)]
    pty: bool,
    #[serde(default)]
    elevated: bool,
}

/// Runs a command.
pub(crate) async fn exec(place: &Place, processes: &Registry, wish: Wish, cancel: CancellationToken) -> Outcome {
    let mut wish = wish;
    let begun = args::read::<Exec>(std::mem::take(&mut wish.arguments))
        .and_then(|exec| check(&exec).map(|()| exec))
        .and_then(|exec| {
            let start = start(place, &exec, &wish)?;
            let id = processes.begin(&wish.session, &exec.command, Arc::clone(&start))?;
            Ok((exec, start, id))
        });
    let (exec, running, id) = match begun {
        Ok(begun) => begun,
        Err(fault) => return Outcome::failed(fault),
    };
    if exec.background {
        processes.leave_in_background(&id);
        return Outcome::said(format!(
            "Runs in the background as session {id} (pid {}). Use process with action poll, write or kill.",
            running.pid()
        ));
    }
    let patience = Duration::from_millis(exec.yield_ms.unwrap_or(YIELD_MS));
    tokio::select! {
        biased;
        () = cancel.cancelled() => {
            running.kill();
            running.ended().await;
            processes.forget(&id);
            Outcome::failed("Aborted; the command and what it had started were killed.")
        }
        () = running.ended() => {
            last_words(&running).await;
            processes.forget(&id);
            ended(&running)
        }
        () = tokio::time::sleep(patience) => {
            processes.leave_in_background(&id);
            let said = running.output().shown(SHOWN);
            Outcome::said(format!(
                "{said}\n[still running in the background as session {id} (pid {}); use process with action poll, write or kill]",
                running.pid()
            ))
        }
    }
}

fn check(exec: &Exec) -> Result<(), String> {
    if exec.elevated {
        return Err(
            "elevated is off: commands run as the user that they run as; use sudo where that user may".to_owned(),
        );
    }
    if exec.command.trim().is_empty() {
        return Err("command must not be empty".to_owned());
    }
    if exec.command.len() > 100_000 || exec.command.contains('\0') {
        return Err(
            "command is longer than 100000 bytes, or holds a zero byte; write it to a file and run that".to_owned(),
        );
    }
    for name in exec.env.keys() {
        let word = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let loads = ["LD_", "DYLD_", "BASH_FUNC"]
            .iter()
            .any(|start| name.starts_with(start));
        let fixed = ["PATH", "BASH_ENV", "ENV", "IFS", "HOME", "USER", "LOGNAME", "SHELL"].contains(&name.as_str());
        if !word || loads || fixed {
            return Err(format!(
                "env.{} cannot be set here; set it inside the command",
                text::short(name, 64)
            ));
        }
    }
    Ok(())
}

fn start(place: &Place, exec: &Exec, wish: &Wish) -> Result<Arc<Running>, String> {
    let directory = match &exec.workdir {
        Some(given) => place.path(given)?,
        None => place.workspace.clone(),
    };
    if !directory.is_dir() {
        return Err(format!("workdir {} is not a directory", place.shown(&directory)));
    }
    let timeout = exec
        .timeout_seconds
        .or(wish.timeout_seconds)
        .unwrap_or(TIMEOUT)
        .clamp(1, 7 * 24 * 3600);
    let mut environment = place.environment();
    let terminal = if exec.pty { "xterm-256color" } else { "dumb" };
    environment.push(("TERM", terminal.to_owned()));
    let own = exec.env.iter().filter(|(_, value)| !value.contains('\0'));
    Running::start(&child::Order {
        command: &exec.command,
        directory: &directory,
        environment: environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .chain(own.map(|(name, value)| (name.as_str(), value.as_str())))
            .collect(),
        pty: exec.pty,
        talks: exec.pty || exec.background,
        timeout: Duration::from_secs(timeout),
        confined: wish.confined.then_some(place),
    })
}

/// What a command gave that has ended.
fn ended(running: &Running) -> Outcome {
    let said = running.output().shown(SHOWN);
    let end = running.end().unwrap_or_default();
    let said = if said.trim().is_empty() && end.is_success() {
        "(no output)".to_owned()
    } else {
        said
    };
    Outcome {
        text: if end.is_success() {
            said
        } else {
            format!("{said}\n[{end}]").trim_start().to_owned()
        },
        image: None,
        is_error: end.is_unnatural(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    action: String,
    #[serde(default, alias = "id")]
    session_id: Option<String>,
    #[serde(default, alias = "text", alias = "input")]
    data: Option<String>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// Looks after commands in the background.
pub(crate) async fn process(processes: &Registry, arguments: Value, cancel: CancellationToken) -> Outcome {
    let wish: Process = match args::read(arguments) {
        Ok(wish) => wish,
        Err(fault) => return Outcome::failed(fault),
    };
    if wish.action == "list" {
        return Outcome::said(processes.listed());
    }
    let Some(id) = wish.session_id else {
        return Outcome::failed("sessionId is missing; process with action list names those there are");
    };
    let Some(running) = processes.get(&id) else {
        return Outcome::failed(format!(
            "there is no session {}; process with action list names those there are",
            text::short(&id, 32)
        ));
    };
    match wish.action.as_str() {
        "poll" => {
            let patience = Duration::from_millis(wish.timeout_ms.unwrap_or(0).min(60_000));
            poll(&running, patience, &cancel).await
        }
        "log" => {
            last_words(&running).await;
            Outcome::said(format!("{}\n[{}]", running.output().shown(SHOWN), running.state()))
        }
        "write" | "send" | "submit" => {
            let mut data = wish.data.unwrap_or_default();
            if wish.action == "submit" {
                data.push('\n');
            }
            let written = tokio::time::timeout(Duration::from_secs(10), running.write(data)).await;
            written
                .unwrap_or_else(|_| Err("it does not read what is written to it".to_owned()))
                .into()
        }
        "kill" | "remove" => {
            running.kill();
            running.ended().await;
            processes.forget(&id);
            Outcome::said(format!("Session {id} is gone: {}.", running.state()))
        }
        other => Outcome::failed(format!(
            "there is no action {:?}; allowed: list, poll, log, write, submit, kill",
            text::short(other, 32)
        )),
    }
}

/// What has ended may not have been read to its end.
pub(crate) async fn last_words(running: &Running) {
    if running.end().is_some() {
        let _ = tokio::time::timeout(LAST_WORDS, running.silent()).await;
    }
}

async fn poll(running: &Running, patience: Duration, cancel: &CancellationToken) -> Outcome {
    let printed = running.news();
    if running.end().is_none() && !running.output().has_news() {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = running.ended() => {}
            () = printed => {}
            () = tokio::time::sleep(patience) => {}
        }
    }
    last_words(running).await;
    let news = running.output().news(SHOWN);
    let news = if news.is_empty() {
        "(nothing new)".to_owned()
    } else {
        news
    };
    Outcome::said(format!("{news}\n[{}]", running.state()))
}
