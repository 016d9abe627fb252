//! Lists of what this gateway does not have: clients of the family ask for them at every start, and an empty list keeps them quiet.

use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::json;

use super::bounds::Text;
use super::{Answer, Call, Method};

pub(super) const TABLE: &[Method] = &[
    Method::now("question.list", Scope::Questions, |call| {
        call.no_params()?;
        Ok(json!({"questions": []}))
    }),
    Method::now("plugin.approval.list", Scope::Approvals, |_| Ok(json!([]))),
    Method::now("openclaw.approval.list", Scope::Approvals, |_| Ok(json!([]))),
    Method::now("taskSuggestions.list", Scope::Read, |call| {
        call.named(&[], &["sessionKey", "agentId"])?;
        Ok(json!({"suggestions": []}))
    }),
    Method::now("exec.approval.grants.list", Scope::Approvals, |call| {
        call.named(&[], &["limit"])?;
        Ok(json!({"grants": []}))
    }),
    Method::now("exec.approval.grants.revoke", Scope::Approvals, revoke),
    Method::now("plugins.list", Scope::Read, |call| {
        call.no_params()?;
        Ok(json!({"plugins": [], "diagnostics": [], "mutationAllowed": false}))
    }),
    Method::now("channels.status", Scope::Read, |call| {
        call.named(&[], &["probe", "timeoutMs", "channel"])?;
        Ok(json!({
            "ts": call.shared.now_ms(), "channelOrder": [], "channelLabels": {}, "channels": {}, "channelAccounts": {},
            "channelDefaultAccountId": {},
        }))
    }),
    Method::now("config.openFile", Scope::Admin, |call| {
        call.no_params()?;
        let path = &call.shared.settings.loaded.path;
        Ok(json!({"ok": false, "path": path, "error": "this machine has no desktop; config.get shows the file"}))
    }),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RevokeParams {
    #[serde(rename = "grantId")]
    _grant_id: Text<1, 256>,
}

/// What is allowed for good is in `exec.approvals.get`; there are no grants beside that.
fn revoke(call: &Call) -> Answer {
    call.params::<RevokeParams>()?;
    Ok(json!({"outcome": "not-found"}))
}
