//! `sessions.usage.*`, `usage.*`: what sessions took, in tokens and dollars.

use futures::FutureExt;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use koi_wire::frame::ErrorShape;
use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{KeyText, failed, key};
use crate::methods::bounds::Text;
use crate::methods::{Answer, Call, Method};
use crate::session::{Report, Totals, Used};

pub(super) const USAGE: Method = Method::later("sessions.usage", Scope::Read, |call| usage(call).boxed());
pub(super) const TIMESERIES: Method = Method::later("sessions.usage.timeseries", Scope::Read, |call| {
    timeseries(call).boxed()
});
pub(super) const LOGS: Method = Method::later("sessions.usage.logs", Scope::Read, |call| logs(call).boxed());
pub(super) const COST: Method = Method::later("usage.cost", Scope::Read, |call| cost(call).boxed());
pub(super) const STATUS: Method = Method::now("usage.status", Scope::Read, |call| {
    call.no_params()?;
    // Bedrock has no plan whose use could be told.
    Ok(json!({"updatedAt": call.shared.now_ms(), "providers": []}))
});

/// Days of a report when nobody says how many.
const DEFAULT_DAYS: i64 = 30;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UsageParams {
    key: Option<KeyText>,
    agent_id: Option<Text<1, 64>>,
    #[serde(rename = "agentScope")]
    _agent_scope: Option<Text<1, 8>>,
    start_date: Option<Text<10, 10>>,
    end_date: Option<Text<10, 10>>,
    mode: Option<Mode>,
    range: Option<Range>,
    #[serde(rename = "groupBy")]
    _group_by: Option<Text<1, 16>>,
    #[serde(rename = "includeHistorical")]
    _include_historical: Option<bool>,
    #[serde(rename = "utcOffset")]
    _utc_offset: Option<Text<1, 16>>,
    time_zone: Option<Text<1, 64>>,
    limit: Option<usize>,
    #[serde(rename = "includeContextWeight")]
    _include_context_weight: Option<bool>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
enum Mode {
    Utc,
    Gateway,
    Specific,
}

#[derive(Clone, Copy, Deserialize)]
enum Range {
    #[serde(rename = "7d")]
    Week,
    #[serde(rename = "30d")]
    Month,
    #[serde(rename = "90d")]
    Quarter,
    #[serde(rename = "1y")]
    Year,
    #[serde(rename = "all")]
    All,
}

/// Days, the first and the last, and when they begin and end.
struct Span {
    first: Date,
    last: Date,
    from_ms: i64,
    to_ms: i64,
}

fn span(call: &Call, params: &UsageParams) -> Result<Span, ErrorShape> {
    let zone = zone(call, params)?;
    let now = Timestamp::from_millisecond(call.shared.now_ms()).unwrap_or_default();
    let today = now.to_zoned(zone.clone()).date();
    let day = |text: Option<&str>, name: &str| match text {
        None => Ok(None),
        Some(text) => match text.parse::<Date>() {
            Ok(date) => Ok(Some(date)),
            Err(_) => Err(call.invalid(&format!("at /{name}: must be a date such as 2026-01-31"))),
        },
    };
    let last = day(params.end_date.as_deref(), "endDate")?.unwrap_or(today);
    let days = match params.range {
        Some(Range::Week) => 7,
        Some(Range::Quarter) => 90,
        Some(Range::Year) => 365,
        Some(Range::All) => 20_000,
        Some(Range::Month) | None => DEFAULT_DAYS,
    };
    let back = last.checked_sub((days - 1).days()).unwrap_or(Date::ZERO);
    let first = day(params.start_date.as_deref(), "startDate")?.unwrap_or(back);
    let begin = |date: Date| {
        let zoned = date.to_zoned(zone.clone()).ok();
        zoned.map_or(i64::MAX, |zoned| zoned.timestamp().as_millisecond())
    };
    let after = last.checked_add(1.day()).unwrap_or(last);
    Ok(Span {
        first,
        last,
        from_ms: begin(first),
        to_ms: begin(after),
    })
}

fn zone(call: &Call, params: &UsageParams) -> Result<TimeZone, ErrorShape> {
    match (params.mode, params.time_zone.as_deref()) {
        (Some(Mode::Specific) | None, Some(name)) => {
            TimeZone::get(name).map_err(|_| call.invalid("at /timeZone: must be an IANA name such as Europe/Berlin"))
        }
        (Some(Mode::Utc), _) => Ok(TimeZone::UTC),
        _ => Ok(call.shared.services.sessions.zone()),
    }
}

/// Totals in the words of the protocol.
fn totals(totals: &Totals) -> Value {
    json!({
        "input": totals.input, "output": totals.output, "cacheRead": totals.cache_read, "cacheWrite": totals.cache_write,
        "totalTokens": totals.tokens(), "totalCost": totals.cost, "missingCostEntries": 0
    })
}

fn used(used: &Used) -> Value {
    json!({
        "key": used.key, "sessionId": used.session_id, "agentId": used.key.agent(), "label": used.label,
        "updatedAt": used.updated_ms, "model": used.model, "modelProvider": used.provider,
        "usage": with_counts(&used.totals, used.rows)
    })
}

fn with_counts(took: &Totals, rows: u64) -> Value {
    let mut value = totals(took);
    if let Some(value) = value.as_object_mut() {
        value.insert(
            "messageCounts".to_owned(),
            json!({"total": rows, "assistant": took.answers}),
        );
    }
    value
}

fn daily(report: &Report) -> Vec<Value> {
    let days = report.days.iter().map(|(date, took)| {
        let mut day = totals(took);
        if let Some(day) = day.as_object_mut() {
            day.insert("date".to_owned(), json!(date.to_string()));
        }
        day
    });
    days.collect()
}

async fn usage(call: Call) -> Answer {
    let params: UsageParams = call.params()?;
    let span = span(&call, &params)?;
    let key = match &params.key {
        Some(text) => Some(key(&call, "/key", text, params.agent_id.as_deref())?),
        None => None,
    };
    let report = call.shared.services.sessions.usage(key, span.from_ms, span.to_ms).await;
    let report = report.map_err(|error| failed(&call, &error))?;
    let limit = params.limit.unwrap_or(50).clamp(1, 1000);
    let sessions: Vec<Value> = report.sessions.iter().take(limit).map(used).collect();
    Ok(json!({
        "updatedAt": call.shared.now_ms(), "startDate": span.first.to_string(), "endDate": span.last.to_string(),
        "sessions": sessions, "totals": totals(&report.totals), "aggregates": {"daily": daily(&report)}
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OneParams {
    key: KeyText,
    agent_id: Option<Text<1, 64>>,
    limit: Option<u64>,
}

async fn timeseries(call: Call) -> Answer {
    let params: OneParams = call.params()?;
    let key = key(&call, "/key", &params.key, params.agent_id.as_deref())?;
    let sessions = &call.shared.services.sessions;
    let report = sessions.usage(Some(key.clone()), 0, i64::MAX).await;
    let report = report.map_err(|error| failed(&call, &error))?;
    let known = sessions.describe(&key).await.map_err(|error| failed(&call, &error))?;
    let id = known.map(|summary| summary.session_id);
    Ok(json!({"key": key, "sessionId": id, "points": daily(&report)}))
}

async fn logs(call: Call) -> Answer {
    let params: OneParams = call.params()?;
    let key = key(&call, "/key", &params.key, params.agent_id.as_deref())?;
    let wish = crate::session::Wish {
        limit: params.limit.unwrap_or(50).clamp(1, 1000),
        offset: 0,
        max_chars: 500,
        session_id: None,
    };
    let page = call.shared.services.sessions.history(&key, wish).await;
    let page = page.map_err(|error| failed(&call, &error))?;
    let log = |row: &Value| {
        json!({
            "timestamp": row.get("timestamp"), "role": row.get("role"), "content": row.pointer("/content/0/text"),
            "tokens": row.pointer("/usage/totalTokens"), "cost": row.pointer("/usage/cost/total")
        })
    };
    let rows: Vec<Value> = page.rows.iter().map(log).collect();
    Ok(json!({"key": key, "logs": rows}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CostParams {
    days: Option<i64>,
    start_date: Option<Text<10, 10>>,
    end_date: Option<Text<10, 10>>,
    mode: Option<Mode>,
    time_zone: Option<Text<1, 64>>,
    #[serde(rename = "utcOffset")]
    _utc_offset: Option<Text<1, 16>>,
    #[serde(rename = "agentId")]
    _agent_id: Option<Text<1, 64>>,
    #[serde(rename = "agentScope")]
    _agent_scope: Option<Text<1, 8>>,
    range: Option<Range>,
}

async fn cost(call: Call) -> Answer {
    let given: CostParams = call.params()?;
    let params = UsageParams {
        key: None,
        agent_id: None,
        _agent_scope: None,
        start_date: given.start_date,
        end_date: given.end_date,
        mode: given.mode,
        range: given.range,
        _group_by: None,
        _include_historical: None,
        _utc_offset: None,
        time_zone: given.time_zone,
        limit: None,
        _include_context_weight: None,
    };
    let mut span = span(&call, &params)?;
    if let Some(days) = given.days {
        let days = days.clamp(1, 20_000);
        span.first = span.last.checked_sub((days - 1).days()).unwrap_or(Date::ZERO);
        span.from_ms = span.to_ms.saturating_sub(days.saturating_mul(86_400_000));
    }
    let report = call
        .shared
        .services
        .sessions
        .usage(None, span.from_ms, span.to_ms)
        .await;
    let report = report.map_err(|error| failed(&call, &error))?;
    let daily = daily(&report);
    Ok(json!({
        "updatedAt": call.shared.now_ms(), "days": daily.len(), "startDate": span.first.to_string(),
        "endDate": span.last.to_string(), "daily": daily, "totals": totals(&report.totals)
    }))
}
