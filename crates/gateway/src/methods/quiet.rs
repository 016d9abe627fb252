//! Lists of what this gateway does not have: clients of the family ask for them at every start, and an empty list keeps them quiet.

use koi_wire::name::Scope;
use serde_json::json;

use super::Method;

pub(super) const TABLE: &[Method] = &[
    Method::now("question.list", Scope::Questions, |_| Ok(json!({"questions": []}))),
    Method::now("plugin.approval.list", Scope::Approvals, |_| Ok(json!([]))),
    Method::now("openclaw.approval.list", Scope::Approvals, |_| Ok(json!([]))),
    Method::now("taskSuggestions.list", Scope::Read, |_| Ok(json!({"suggestions": []}))),
    Method::now("tasks.list", Scope::Read, |_| Ok(json!({"tasks": []}))),
    Method::now("exec.approval.grants.list", Scope::Approvals, |_| {
        Ok(json!({"grants": []}))
    }),
    Method::now("plugins.list", Scope::Read, |_| {
        Ok(json!({"plugins": [], "diagnostics": [], "mutationAllowed": false}))
    }),
    Method::now("channels.status", Scope::Read, |call| {
        Ok(json!({
            "ts": call.shared.now_ms(), "channelOrder": [], "channelLabels": {}, "channels": {}, "channelAccounts": {},
            "channelDefaultAccountId": {},
        }))
    }),
];
