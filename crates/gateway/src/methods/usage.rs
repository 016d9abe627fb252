//! `usage.status`, `usage.cost`: what was used, by day.

use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::json;

use super::bounds::Tree;
use super::{Answer, Call, Method};

pub(super) const TABLE: &[Method] = &[
    Method::now("usage.status", Scope::Read, status),
    Method::now("usage.cost", Scope::Read, cost),
];

/// Limits of a provider's account; Bedrock tells of none.
fn status(call: &Call) -> Answer {
    Ok(json!({"updatedAt": call.shared.now_ms(), "providers": []}))
}

/// The contract has no definition for it; what clients of the family send is taken.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CostParams {
    #[serde(default)]
    days: Option<u32>,
    #[serde(default, rename = "startDate")]
    _start: Option<Tree>,
    #[serde(default, rename = "endDate")]
    _end: Option<Tree>,
    #[serde(default, rename = "agentId")]
    _agent: Option<Tree>,
    #[serde(default, rename = "agentScope")]
    _agents: Option<Tree>,
    #[serde(default, rename = "mode")]
    _mode: Option<Tree>,
    #[serde(default, rename = "range")]
    _range: Option<Tree>,
    #[serde(default, rename = "utcOffset")]
    _offset: Option<Tree>,
    #[serde(default, rename = "timeZone")]
    _zone: Option<Tree>,
}

fn cost(call: &Call) -> Answer {
    let days = call.params::<CostParams>()?.days.unwrap_or(30).clamp(1, 366);
    let totals = json!({
        "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 0, "totalCost": 0,
        "inputCost": 0, "outputCost": 0, "cacheReadCost": 0, "cacheWriteCost": 0, "missingCostEntries": 0,
    });
    Ok(json!({"updatedAt": call.shared.now_ms(), "days": days, "daily": [], "totals": totals}))
}
