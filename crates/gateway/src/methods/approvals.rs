//! `exec.approval.*` (what waits for a decision) and `exec.approvals.*` (what is allowed for good).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use koi_wire::config::{ExecSecurity, GatewayConfig};
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, event};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::bounds::{List, Object, Text, Tree};
use super::{Answer, Call, Method, fault};
use crate::approvals::{Decision, Refusal, Request, State};
use crate::server::hub::Audience;
use crate::server::lock;
use crate::server::outbox::Broadcast;

/// How long a request waits when nobody says otherwise, and at most.
const DEFAULT_TIMEOUT_MS: u64 = 120_000;
const MAX_TIMEOUT_MS: u64 = 60 * 60 * 1000;

pub(super) const TABLE: &[Method] = &[
    Method::later("exec.approval.request", Scope::Approvals, |call| request(call).boxed()),
    Method::later("exec.approval.waitDecision", Scope::Approvals, |call| {
        wait(call).boxed()
    }),
    Method::now("exec.approval.list", Scope::Approvals, list),
    Method::now("exec.approval.get", Scope::Approvals, get),
    Method::later("exec.approval.resolve", Scope::Approvals, |call| {
        call.blocking(resolve).boxed()
    }),
    Method::later("exec.approvals.get", Scope::Admin, |call| {
        call.blocking(snapshot).boxed()
    }),
    Method::later("exec.approvals.set", Scope::Admin, |call| call.blocking(set).boxed()),
];

type Id = Text<1, 128>;
type Note = Option<Text<0, 4096>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequestParams {
    #[serde(default)]
    id: Option<Id>,
    #[serde(default)]
    command: Option<Text<1, 16_384>>,
    #[serde(default)]
    command_argv: Option<List<Text<0, 16_384>, 256>>,
    #[serde(default)]
    cwd: Note,
    #[serde(default)]
    node_id: Note,
    #[serde(default)]
    host: Note,
    #[serde(default)]
    security: Note,
    #[serde(default)]
    ask: Note,
    #[serde(default)]
    warning_text: Note,
    #[serde(default)]
    agent_id: Note,
    #[serde(default)]
    resolved_path: Note,
    #[serde(default)]
    session_key: Note,
    #[serde(default)]
    run_id: Note,
    #[serde(default)]
    tool_call_id: Note,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    two_phase: bool,
    // What the contract allows beside that is taken and not used.
    #[serde(default, rename = "systemRunPlan")]
    _system_run_plan: Option<Tree>,
    #[serde(default, rename = "env")]
    _env: Option<Tree>,
    #[serde(default, rename = "scope")]
    _scope: Option<Tree>,
    #[serde(default, rename = "unavailableDecisions")]
    _unavailable_decisions: Option<Tree>,
    #[serde(default, rename = "commandSpans")]
    _command_spans: Option<Tree>,
    #[serde(default, rename = "sessionId")]
    _session_id: Option<Tree>,
    #[serde(default, rename = "turnSourceChannel")]
    _turn_source_channel: Option<Tree>,
    #[serde(default, rename = "turnSourceTo")]
    _turn_source_to: Option<Tree>,
    #[serde(default, rename = "turnSourceAccountId")]
    _turn_source_account_id: Option<Tree>,
    #[serde(default, rename = "turnSourceThreadId")]
    _turn_source_thread_id: Option<Tree>,
    #[serde(default, rename = "approvalReviewerDeviceIds")]
    _approval_reviewer_device_ids: Option<Tree>,
    #[serde(default, rename = "requireDeliveryRoute")]
    _require_delivery_route: Option<Tree>,
    #[serde(default, rename = "suppressDelivery")]
    _suppress_delivery: Option<Tree>,
    #[serde(default, rename = "deliverToApprovalClientsOnly")]
    _deliver_to_approval_clients_only: Option<Tree>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IdParams {
    id: Id,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WaitParams {
    id: Id,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResolveParams {
    id: Id,
    decision: Text<1, 32>,
    #[serde(default, rename = "reviewer")]
    _reviewer: Option<Tree>,
    #[serde(default, rename = "grantExpiresInDays")]
    _days: Option<u32>,
}

fn not_found() -> ErrorShape {
    ErrorShape::new("APPROVAL_NOT_FOUND", "unknown or expired approval id")
}

impl RequestParams {
    fn check(&self, call: &Call) -> Result<String, ErrorShape> {
        let joined = || {
            let argv = self.command_argv.as_ref().filter(|argv| !argv.0.is_empty())?;
            Some(argv.0.iter().map(|word| &**word).collect::<Vec<_>>().join(" "))
        };
        let command = self.command.as_ref().map(|command| command.to_string()).or_else(joined);
        command.ok_or_else(|| call.invalid("at root: must have required property 'command'"))
    }

    fn shown(&self, command: &str) -> Value {
        let text = |note: &Note| note.as_deref().map(str::to_owned);
        let argv = self
            .command_argv
            .as_ref()
            .map(|argv| argv.0.iter().map(|word| &**word).collect::<Vec<_>>());
        json!({
            "command": command, "commandArgv": argv, "cwd": text(&self.cwd), "nodeId": text(&self.node_id),
            "host": text(&self.host), "security": text(&self.security), "ask": text(&self.ask),
            "warningText": text(&self.warning_text), "agentId": text(&self.agent_id),
            "resolvedPath": text(&self.resolved_path), "sessionKey": text(&self.session_key),
            "runId": text(&self.run_id), "toolCallId": text(&self.tool_call_id),
        })
    }
}

fn payload(request: &Request) -> Value {
    json!({
        "id": request.id, "request": request.shown, "createdAtMs": request.created_at_ms,
        "expiresAtMs": request.expires_at_ms,
    })
}

async fn request(mut call: Call) -> Answer {
    let params = call.params::<RequestParams>()?;
    let command = params.check(&call)?;
    let now_ms = call.shared.now_ms();
    let timeout_ms = params.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS).clamp(1, MAX_TIMEOUT_MS);
    let request = Request {
        id: params
            .id
            .as_ref()
            .map_or_else(|| uuid::Uuid::new_v4().to_string(), |id| id.to_string()),
        shown: params.shown(&command),
        created_at_ms: now_ms,
        expires_at_ms: now_ms.saturating_add_unsigned(timeout_ms),
    };
    let asked = call
        .shared
        .approvals
        .ask(request.clone(), now_ms)
        .map_err(|refusal| match refusal {
            Refusal::Full => fault::unavailable("too many approvals wait already"),
            _ => fault::invalid_request("approval id already pending"),
        });
    let mut state = asked?;
    let broadcast = Broadcast::new(event::EXEC_APPROVAL_REQUESTED, payload(&request).to_string());
    call.shared.hub.tell(Audience::Scope(Scope::Approvals), broadcast);
    if params.two_phase {
        call.interim(json!({
            "status": "accepted", "id": request.id, "createdAtMs": request.created_at_ms,
            "expiresAtMs": request.expires_at_ms,
        }));
    }
    call.park();
    let decision = decision(&call, &request, &mut state, timeout_ms).await;
    Ok(json!({
        "id": request.id, "decision": decision, "createdAtMs": request.created_at_ms,
        "expiresAtMs": request.expires_at_ms,
    }))
}

/// What is decided, or none when nobody does in time.
async fn decision(
    call: &Call,
    request: &Request,
    state: &mut watch::Receiver<State>,
    timeout_ms: u64,
) -> Option<Decision> {
    let ended = state.wait_for(|state| *state != State::Pending);
    let ended = tokio::time::timeout(Duration::from_millis(timeout_ms), ended).await;
    match ended.ok().and_then(|ended| ended.ok().map(|state| *state)) {
        Some(State::Decided(decision)) => Some(decision),
        Some(State::Pending | State::Expired) => None,
        None => {
            let now_ms = call.shared.now_ms();
            if now_ms >= request.expires_at_ms {
                call.shared.approvals.expire(&request.id, now_ms);
            }
            None
        }
    }
}

async fn wait(mut call: Call) -> Answer {
    let params = call.params::<WaitParams>()?;
    let now_ms = call.shared.now_ms();
    let (request, mut state) = call.shared.approvals.get(&params.id, now_ms).ok_or_else(not_found)?;
    let left = u64::try_from(request.expires_at_ms.saturating_sub(now_ms))
        .unwrap_or(0)
        .max(1);
    let timeout_ms = params.timeout_ms.map_or(left, |ms| ms.min(left));
    call.park();
    let decision = decision(&call, &request, &mut state, timeout_ms).await;
    Ok(json!({
        "id": request.id, "decision": decision, "createdAtMs": request.created_at_ms,
        "expiresAtMs": request.expires_at_ms,
    }))
}

fn list(call: &Call) -> Answer {
    call.no_params()?;
    let pending = call.shared.approvals.pending(call.shared.now_ms());
    Ok(pending.iter().map(payload).collect())
}

fn get(call: &Call) -> Answer {
    let params = call.params::<IdParams>()?;
    let found = call.shared.approvals.get(&params.id, call.shared.now_ms());
    let (request, state) = found.ok_or_else(not_found)?;
    let mut shown = payload(&request);
    let state = *state.borrow();
    let (status, decision) = match state {
        State::Pending => ("pending", None),
        State::Decided(decision) => ("resolved", Some(decision)),
        State::Expired => ("expired", None),
    };
    shown["status"] = status.into();
    shown["decision"] = json!(decision);
    shown["allowedDecisions"] = json!(["allow-once", "allow-always", "deny"]);
    Ok(shown)
}

fn resolve(call: &Call) -> Answer {
    let params = call.params::<ResolveParams>()?;
    let decision = Decision::parse(&params.decision).ok_or_else(|| fault::invalid_request("invalid decision"))?;
    let now_ms = call.shared.now_ms();
    let request = call
        .shared
        .approvals
        .decide(&params.id, decision, now_ms)
        .map_err(|refusal| match refusal {
            Refusal::Decided => fault::invalid_request("approval was decided already"),
            _ => not_found(),
        })?;
    if decision == Decision::AllowAlways
        && let Err(error) = remember(call, &request.shown)
    {
        tracing::warn!(error = %error.message, "what was allowed for good is not on the list");
    }
    let by = call
        .caller
        .client
        .display_name
        .clone()
        .unwrap_or_else(|| call.caller.client.id.clone());
    let told = json!({
        "id": request.id, "decision": decision, "resolvedBy": by, "ts": now_ms, "request": request.shown,
    });
    let broadcast = Broadcast::new(event::EXEC_APPROVAL_RESOLVED, told.to_string());
    call.shared.hub.tell(Audience::Scope(Scope::Approvals), broadcast);
    tracing::info!(approval = %request.id, ?decision, by = %call.caller.connection, "command decided");
    Ok(json!({"ok": true}))
}

/// The file of what is allowed for good, as the family knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default, skip_serializing, rename = "socket")]
    _socket: Option<Socket>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    defaults: Option<Rules>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    agents: BTreeMap<String, AgentRules>,
}

/// Taken, never kept: nobody here listens on such a socket.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Socket {
    #[serde(default, rename = "path")]
    _path: Option<Text<0, 4096>>,
    #[serde(default, rename = "token")]
    _token: Option<Text<0, 4096>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rules {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    security: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ask: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ask_fallback: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auto_allow_skills: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AgentRules {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    security: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ask: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ask_fallback: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auto_allow_skills: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allowlist: Vec<Allowed>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Allowed {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    pattern: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command_text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arg_pattern: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used_at: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used_command: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_resolved_path: Option<String>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            version: 1,
            _socket: None,
            defaults: None,
            agents: BTreeMap::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SetParams {
    file: Object<Tree>,
    #[serde(default)]
    base_hash: Option<Text<1, 128>>,
}

fn path(call: &Call) -> PathBuf {
    call.shared.settings.state_dir.join("exec-approvals.json")
}

/// The file, whether there is one, and the hash of what it holds.
fn read(call: &Call) -> Result<(File, bool, String), ErrorShape> {
    let path = path(call);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(fault::unavailable(format!(
                "{} cannot be read: {error}",
                path.display()
            )));
        }
    };
    let file = match &bytes {
        None => File::default(),
        Some(bytes) => serde_json::from_slice(bytes)
            .map_err(|error| fault::unavailable(format!("{} makes no sense: {error}", path.display())))?,
    };
    let hash = hex::encode(Sha256::digest(bytes.as_deref().unwrap_or_default()));
    Ok((file, bytes.is_some(), hash))
}

fn write(call: &Call, file: &File) -> Result<(), ErrorShape> {
    let path = path(call);
    let fault =
        |error: &dyn std::fmt::Display| fault::unavailable(format!("{} cannot be written: {error}", path.display()));
    let text = serde_json::to_vec_pretty(file).map_err(|error| fault(&error))?;
    crate::file::replace(&path, &text, 0o600).map_err(|error| fault(&error))
}

fn security(config: &GatewayConfig) -> &'static str {
    match config.exec().and_then(|exec| exec.security) {
        Some(ExecSecurity::Deny) => "deny",
        Some(ExecSecurity::Allowlist) => "allowlist",
        Some(ExecSecurity::Full) | None => "full",
    }
}

fn shown(call: &Call) -> Answer {
    let (file, exists, hash) = read(call)?;
    let rules = file.defaults.clone().unwrap_or_default();
    let one_of = |given: Option<String>, allowed: [&str; 3], default: &str| {
        given
            .filter(|given| allowed.contains(&given.as_str()))
            .unwrap_or_else(|| default.to_owned())
    };
    let resolved = json!({
        "security": one_of(rules.security, ["deny", "allowlist", "full"], security(&call.shared.config().config)),
        "ask": one_of(rules.ask, ["off", "on-miss", "always"], "off"),
        "askFallback": one_of(rules.ask_fallback, ["deny", "allowlist", "full"], "deny"),
        "autoAllowSkills": rules.auto_allow_skills.unwrap_or(false),
    });
    Ok(json!({"path": path(call), "exists": exists, "hash": hash, "file": file, "resolvedDefaults": resolved}))
}

fn snapshot(call: &Call) -> Answer {
    call.no_params()?;
    shown(call)
}

fn set(call: &Call) -> Answer {
    let params = call.params::<SetParams>()?;
    let file: File = serde_path_to_error::deserialize(params.file.0.0).map_err(|error| {
        let place = error.path().to_string().replace('.', "/");
        call.invalid(&format!("at /file/{place}: {}", error.inner()))
    })?;
    if file.version != 1 {
        return Err(call.invalid("at /file/version: must be 1"));
    }
    let _turn = lock(&call.shared.approvals_file);
    let (_, exists, hash) = read(call)?;
    match params.base_hash {
        None if exists => {
            return Err(fault::invalid_request(
                "exec approvals base hash required; re-run exec.approvals.get and retry",
            ));
        }
        Some(base) if *base != *hash => {
            return Err(fault::invalid_request(
                "exec approvals changed since last load; re-run exec.approvals.get and retry",
            ));
        }
        _ => {}
    }
    write(call, &file)?;
    shown(call)
}

/// Puts what was allowed for good on the list of its agent.
fn remember(call: &Call, request: &Value) -> Result<(), ErrorShape> {
    let text = |key: &str| request[key].as_str().filter(|text| !text.is_empty());
    let first = request["commandArgv"][0].as_str();
    let Some(pattern) = text("resolvedPath").or(first) else {
        // A whole shell line is no pattern that could be matched safely.
        return Ok(());
    };
    let _turn = lock(&call.shared.approvals_file);
    let (mut file, _, _) = read(call)?;
    let agent = text("agentId").unwrap_or(crate::server::DEFAULT_AGENT).to_owned();
    let rules = file.agents.entry(agent).or_default();
    if rules.allowlist.iter().all(|allowed| allowed.pattern != pattern) {
        rules.allowlist.push(Allowed {
            id: Some(uuid::Uuid::new_v4().to_string()),
            pattern: pattern.to_owned(),
            source: Some("allow-always".to_owned()),
            command_text: text("command").map(str::to_owned),
            ..Allowed::default()
        });
        write(call, &file)?;
    }
    Ok(())
}
