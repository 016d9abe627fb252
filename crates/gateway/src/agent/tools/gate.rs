//! Who may run which command: everything, what is on the list, or what a person allows when asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use koi_wire::config::ExecSecurity;
use koi_wire::name::{Scope, event};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::agent::tool::CallSite;
use crate::approvals::{Approvals, Decision, Request, State};
use crate::clock::Clock;
use crate::server::DEFAULT_AGENT;
use crate::server::hub::{Audience, Hub};
use crate::server::outbox::Broadcast;

/// How long a person has to decide.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a shell does more with than pass it on. A command with one of these is not a program with words, and no list can vouch for it.
const SHELL: &[char] = &[
    ';', '&', '|', '<', '>', '$', '`', '(', ')', '{', '}', '\n', '\r', '*', '?', '[', ']', '~', '!', '#', '\\', '"',
    '\'', '=',
];

/// Stands before commands.
pub(crate) struct Gate {
    /// The file of what is allowed for good.
    pub(crate) file: PathBuf,
    /// Where the agent's user has programs of its own; they are found first.
    pub(crate) home: PathBuf,
    pub(crate) approvals: Arc<Approvals>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What the file says, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    defaults: Rules,
    #[serde(default)]
    agents: BTreeMap<String, Rules>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    #[serde(default)]
    security: Option<String>,
    #[serde(default)]
    ask: Option<String>,
    #[serde(default)]
    allowlist: Vec<Allowed>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Allowed {
    pattern: String,
    #[serde(default)]
    arg_pattern: Option<String>,
}

impl Gate {
    /// May this call run? The error is what the model is told.
    pub(super) async fn admit(
        &self,
        config: ExecSecurity,
        call_id: &str,
        arguments: &Value,
        site: &CallSite,
    ) -> Result<(), String> {
        let file = self.read()?;
        let own = file.agents.get(DEFAULT_AGENT);
        let said = [
            own.and_then(|own| own.security.as_deref()),
            file.defaults.security.as_deref(),
        ];
        let security = said.into_iter().flatten().map(security).fold(config, stricter);
        let ask = own.and_then(|own| own.ask.as_deref()).or(file.defaults.ask.as_deref());
        match security {
            ExecSecurity::Deny => return Err("Commands are not allowed here.".to_owned()),
            ExecSecurity::Full if ask != Some("always") => return Ok(()),
            ExecSecurity::Full | ExecSecurity::Allowlist => {}
        }
        let command = arguments["command"].as_str().unwrap_or_default();
        let words = words(command);
        let program = words.as_ref().and_then(|words| self.program(words.first()?));
        let allowed = own.is_some_and(|own| {
            // Variables of the environment change what a program does.
            let plain = arguments
                .get("env")
                .is_none_or(|env| env.as_object().is_some_and(serde_json::Map::is_empty));
            plain
                && program
                    .as_deref()
                    .is_some_and(|program| own.allowlist.iter().any(|allowed| allowed.fits(program)))
        });
        if allowed && ask != Some("always") {
            return Ok(());
        }
        let shown = json!({
            "command": command, "commandArgv": words, "cwd": arguments["workdir"], "host": "gateway",
            "security": if security == ExecSecurity::Full { "full" } else { "allowlist" }, "ask": ask.unwrap_or("on-miss"),
            "agentId": DEFAULT_AGENT, "resolvedPath": program, "sessionKey": site.session_key,
            "runId": site.run_id, "toolCallId": call_id,
        });
        self.ask(shown, site).await
    }

    fn read(&self) -> Result<File, String> {
        let fault = |why: &dyn std::fmt::Display| {
            format!(
                "Not run: the list of allowed commands ({}) cannot be read: {why}",
                self.file.display()
            )
        };
        match std::fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| fault(&error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(File::default()),
            Err(error) => Err(fault(&error)),
        }
    }

    /// The program that a word stands for, as the shell will find it.
    fn program(&self, word: &str) -> Option<String> {
        let is_program = |path: &Path| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
        };
        if word.contains('/') {
            return word.starts_with('/').then(|| word.to_owned());
        }
        let own = [self.home.join(".local/bin"), self.home.join("bin")];
        let system = [
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
            "/snap/bin",
        ];
        let mut places = own.into_iter().chain(system.into_iter().map(PathBuf::from));
        let found = places.find_map(|place| Some(place.join(word)).filter(|path| is_program(path)))?;
        Some(found.display().to_string())
    }

    async fn ask(&self, shown: Value, site: &CallSite) -> Result<(), String> {
        let now_ms = self.clock.now_ms();
        let patience = i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
        let request = Request {
            id: uuid::Uuid::new_v4().to_string(),
            shown,
            created_at_ms: now_ms,
            expires_at_ms: now_ms.saturating_add(patience),
        };
        let asked = self.approvals.ask(request.clone(), now_ms);
        let mut state = asked.map_err(|_| "Not run: too many commands wait for somebody to allow them.".to_owned())?;
        let payload = json!({
            "id": request.id, "request": request.shown, "createdAtMs": request.created_at_ms,
            "expiresAtMs": request.expires_at_ms,
        });
        let told = Broadcast::new(event::EXEC_APPROVAL_REQUESTED, payload.to_string());
        self.hub.tell(Audience::Scope(Scope::Approvals), told);
        let decided = async {
            state
                .wait_for(|state| *state != State::Pending)
                .await
                .map(|state| *state)
        };
        let decided = tokio::select! {
            () = site.cancel.cancelled() => None,
            decided = tokio::time::timeout(PATIENCE, decided) => decided.ok().and_then(Result::ok),
        };
        match decided {
            Some(State::Decided(Decision::AllowOnce | Decision::AllowAlways)) => Ok(()),
            Some(State::Decided(Decision::Deny)) => Err("Not run: the user does not allow this command.".to_owned()),
            Some(State::Pending | State::Expired) | None => {
                self.approvals.expire(&request.id, self.clock.now_ms());
                Err("Not run: it is not on the list of allowed commands, and nobody allowed it in time.".to_owned())
            }
        }
    }
}

impl Allowed {
    /// Is this program meant? What we cannot judge is not.
    fn fits(&self, program: &str) -> bool {
        if self.arg_pattern.is_some() {
            return false;
        }
        match self.pattern.strip_suffix("/*") {
            // All programs of one directory.
            Some(directory) => Path::new(program).parent() == Some(Path::new(directory)),
            None => self.pattern == program,
        }
    }
}

fn security(name: &str) -> ExecSecurity {
    match name {
        "full" => ExecSecurity::Full,
        "allowlist" => ExecSecurity::Allowlist,
        _ => ExecSecurity::Deny,
    }
}

fn stricter(one: ExecSecurity, other: ExecSecurity) -> ExecSecurity {
    match (one, other) {
        (ExecSecurity::Deny, _) | (_, ExecSecurity::Deny) => ExecSecurity::Deny,
        (ExecSecurity::Allowlist, _) | (_, ExecSecurity::Allowlist) => ExecSecurity::Allowlist,
        (ExecSecurity::Full, ExecSecurity::Full) => ExecSecurity::Full,
    }
}

/// The words of a command that is a program and its arguments; none when the shell would do more with it.
fn words(command: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = command.split_ascii_whitespace().collect();
    // Words of the shell itself run others.
    let inner = [
        "exec", "eval", "command", "builtin", "source", ".", "time", "if", "while", "for", "case", "function",
        "coproc", "then", "do", "until", "select",
    ];
    let simple = !command.contains(SHELL) && words.first().is_some_and(|first| !inner.contains(first));
    simple.then_some(words)
}
