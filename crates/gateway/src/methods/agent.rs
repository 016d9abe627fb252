//! Methods of the family `agent, agent.wait`.

use std::time::Duration;

use futures::FutureExt;
use koi_wire::name::Scope;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::bounds::{List, Object, Text};
use super::chat::{self, SentParams};
use super::{Answer, Call, Method};
use crate::conversation::{
    self, Conversations, End, Inbound, MAX_ID, MAX_TEXT, Outcome, Source, TurnOptions, attachment,
};
use crate::server::DEFAULT_AGENT;

pub(super) const TABLE: &[Method] = &[
    Method::later("agent", Scope::Write, |call| agent(call).boxed()),
    Method::later("agent.wait", Scope::Write, |call| wait(call).boxed()),
];

/// How long `agent.wait` waits when nobody says.
const WAIT: Duration = Duration::from_secs(30);

/// How long anything waits for a run: longer than any may take.
const LONGEST: Duration = Duration::from_secs(8 * 24 * 3600);

/// Parameters of `agent`. What has no meaning here is taken and left aside.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AgentParams {
    message: Text<1, MAX_TEXT>,
    idempotency_key: Text<1, MAX_ID>,
    #[serde(default)]
    agent_id: Option<Text<1, 64>>,
    #[serde(default)]
    provider: Option<Text<0, 128>>,
    #[serde(default)]
    model: Option<Text<0, 256>>,
    #[serde(default)]
    session_key: Option<Text<0, 512>>,
    #[serde(default)]
    thinking: Option<Text<0, 32>>,
    #[serde(default)]
    deliver: Option<bool>,
    #[serde(default)]
    attachments: List<Object<SentParams>, { attachment::MOST }>,
    /// Seconds.
    #[serde(default)]
    timeout: Option<u64>,
    #[serde(default)]
    lane: Option<Text<0, 64>>,
    #[serde(default)]
    extra_system_prompt: Option<Text<0, 65_536>>,
    #[serde(default)]
    bootstrap_context_mode: Option<Text<0, 32>>,
    #[serde(default, rename = "to")]
    _to: Option<IgnoredAny>,
    #[serde(default, rename = "replyTo")]
    _reply_to: Option<IgnoredAny>,
    #[serde(default, rename = "sessionId")]
    _session_id: Option<IgnoredAny>,
    #[serde(default, rename = "expectedExistingSessionId")]
    _expected_existing_session_id: Option<IgnoredAny>,
    #[serde(default, rename = "channel")]
    _channel: Option<IgnoredAny>,
    #[serde(default, rename = "replyChannel")]
    _reply_channel: Option<IgnoredAny>,
    #[serde(default, rename = "accountId")]
    _account_id: Option<IgnoredAny>,
    #[serde(default, rename = "replyAccountId")]
    _reply_account_id: Option<IgnoredAny>,
    #[serde(default, rename = "threadId")]
    _thread_id: Option<IgnoredAny>,
    #[serde(default, rename = "groupId")]
    _group_id: Option<IgnoredAny>,
    #[serde(default, rename = "groupChannel")]
    _group_channel: Option<IgnoredAny>,
    #[serde(default, rename = "groupSpace")]
    _group_space: Option<IgnoredAny>,
    #[serde(default, rename = "bestEffortDeliver")]
    _best_effort_deliver: Option<IgnoredAny>,
    #[serde(default, rename = "cwd")]
    _cwd: Option<IgnoredAny>,
    #[serde(default, rename = "cleanupBundleMcpOnRunEnd")]
    _cleanup_bundle_mcp_on_run_end: Option<IgnoredAny>,
    #[serde(default, rename = "modelRun")]
    _model_run: Option<IgnoredAny>,
    #[serde(default, rename = "promptMode")]
    _prompt_mode: Option<IgnoredAny>,
    #[serde(default, rename = "bootstrapContextRunKind")]
    _bootstrap_context_run_kind: Option<IgnoredAny>,
    #[serde(default, rename = "acpTurnSource")]
    _acp_turn_source: Option<IgnoredAny>,
    #[serde(default, rename = "internalRuntimeHandoffId")]
    _internal_runtime_handoff_id: Option<IgnoredAny>,
    #[serde(default, rename = "internalExecutionIdentityRetry")]
    _internal_execution_identity_retry: Option<IgnoredAny>,
    #[serde(default, rename = "internalExecutionIdentityRecoveryAttempt")]
    _internal_execution_identity_recovery_attempt: Option<IgnoredAny>,
    #[serde(default, rename = "execApprovalFollowupExpectedSessionId")]
    _exec_approval_followup_expected_session_id: Option<IgnoredAny>,
    #[serde(default, rename = "internalEvents")]
    _internal_events: Option<IgnoredAny>,
    #[serde(default, rename = "inputProvenance")]
    _input_provenance: Option<IgnoredAny>,
    #[serde(default, rename = "suppressPromptPersistence")]
    _suppress_prompt_persistence: Option<IgnoredAny>,
    #[serde(default, rename = "sessionEffects")]
    _session_effects: Option<IgnoredAny>,
    #[serde(default, rename = "sourceReplyDeliveryMode")]
    _source_reply_delivery_mode: Option<IgnoredAny>,
    #[serde(default, rename = "disableMessageTool")]
    _disable_message_tool: Option<IgnoredAny>,
    #[serde(default, rename = "swarmCollector")]
    _swarm_collector: Option<IgnoredAny>,
    #[serde(default, rename = "swarmOutputSchema")]
    _swarm_output_schema: Option<IgnoredAny>,
    #[serde(default, rename = "forceRestartSafeTools")]
    _force_restart_safe_tools: Option<IgnoredAny>,
    #[serde(default, rename = "forceCodeModeTools")]
    _force_code_mode_tools: Option<IgnoredAny>,
    #[serde(default, rename = "voiceWakeTrigger")]
    _voice_wake_trigger: Option<IgnoredAny>,
    #[serde(default, rename = "label")]
    _label: Option<IgnoredAny>,
}

async fn agent(mut call: Call) -> Answer {
    let params: AgentParams = call.params()?;
    if params.model.is_some() || params.provider.is_some() {
        call.require(Scope::Admin)?;
    }
    let key = params
        .session_key
        .as_deref()
        .filter(|key| !key.is_empty())
        .unwrap_or("main");
    let key = chat::session_key(&call, "/sessionKey", key, params.agent_id.as_deref())?;
    let id = params.idempotency_key.into_string();
    let text = |text: Option<Text<0, 65_536>>| text.map(Text::into_string).filter(|text| !text.is_empty());
    let inbound = Inbound {
        key: key.to_string(),
        text: params.message.into_string(),
        attachments: Vec::new(),
        source: if params.lane.as_deref() == Some("subagent") {
            Source::Subagent
        } else {
            Source::Agent
        },
        idempotency_key: id.clone(),
        options: TurnOptions {
            model: model(params.provider.as_deref(), params.model.as_deref()),
            thinking: chat::thinking(&call, params.thinking.as_deref())?,
            timeout: params.timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs),
            light_context: params.bootstrap_context_mode.as_deref() == Some("lightweight"),
            deliver: params.deliver.unwrap_or_default(),
            extra_system_prompt: text(params.extra_system_prompt),
            commands: Some(chat::power(&call)),
            ..TurnOptions::default()
        },
    };
    let conversations = call.shared.services.conversations.clone();
    let accepted = chat::accepted(&call, inbound, params.attachments.0).await?;
    call.interim(json!({
        "runId": id, "sessionKey": accepted.session_key, "agentId": DEFAULT_AGENT, "status": "accepted",
        "acceptedAt": call.shared.now_ms()
    }));
    call.park();
    let outcome = conversations.wait(&id, LONGEST).await;
    Ok(outcome.map_or_else(|| unknown(&id), |outcome| result(&outcome, &conversations)))
}

fn model(provider: Option<&str>, model: Option<&str>) -> Option<String> {
    let model = model.filter(|model| !model.is_empty())?;
    Some(match provider.filter(|provider| !provider.is_empty()) {
        Some(provider) if !model.starts_with(&format!("{provider}/")) => format!("{provider}/{model}"),
        _ => model.to_owned(),
    })
}

/// The second answer of `agent`.
fn result(outcome: &Outcome, conversations: &Conversations) -> Value {
    let texts = outcome.text.iter().flat_map(|text| conversations.texts_of(text));
    let payloads: Vec<Value> = texts.map(|text| json!({"text": text, "mediaUrl": null})).collect();
    let meta = json!({
        "durationMs": outcome.ended_ms - outcome.started_ms,
        "aborted": matches!(outcome.end, End::Aborted { .. }),
        "agentMeta": {"sessionId": outcome.session_id, "usage": conversation::usage_payload(&outcome.usage)}
    });
    let mut answer = json!({
        "runId": outcome.run_id, "status": "ok", "summary": "completed", "result": {"payloads": payloads, "meta": meta}
    });
    if let Some(fault) = fault(outcome) {
        answer["status"] = json!("error");
        answer["summary"] = json!("failed");
        answer["error"] = json!(fault);
    }
    answer
}

fn fault(outcome: &Outcome) -> Option<String> {
    match &outcome.end {
        End::Final { .. } => None,
        End::Aborted { stop_reason } => Some(format!("aborted: {stop_reason}")),
        End::Error { message, .. } => Some(message.clone()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WaitParams {
    run_id: Text<1, 512>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

async fn wait(mut call: Call) -> Answer {
    let params: WaitParams = call.params()?;
    let timeout = params.timeout_ms.map_or(WAIT, Duration::from_millis).min(LONGEST);
    call.park();
    let outcome = call.shared.services.conversations.wait(&params.run_id, timeout).await;
    let Some(outcome) = outcome else {
        return Ok(json!({"runId": &*params.run_id, "status": "timeout"}));
    };
    let mut answer = json!({
        "runId": outcome.run_id, "status": "ok", "startedAt": outcome.started_ms, "endedAt": outcome.ended_ms
    });
    if let Some(fault) = fault(&outcome) {
        answer["status"] = json!("error");
        answer["error"] = json!(fault);
    }
    Ok(answer)
}

fn unknown(id: &str) -> Value {
    json!({"runId": id, "status": "error", "summary": "failed", "error": "the end of the run is not remembered"})
}
