//! The gateway's config document: generated from the wish, with the overrides of people on top, held against the gateway's own rules.

use std::fmt;

use koi_wire::config::{
    AgentDefaults, Agents, Auth, AuthMode, Bind, Gateway, GatewayConfig, Issue, Mode, Model, Secret, SecretRef, Tools,
    check, merge, owned_keys, refuse_literal_secrets, variables,
};
use serde_json::{Map, Value, json};

use crate::api::ToolLimits;

/// Where bootstrap puts the gateway token: on tmpfs.
pub const TOKEN_FILE: &str = "/run/skykoi/token";
/// Where bootstrap puts the token before the last rotation; absent when there is none.
pub const PREVIOUS_TOKEN_FILE: &str = "/run/skykoi/previous-token";
/// The agent's directory on the data volume.
pub const WORKSPACE: &str = "/home/ubuntu/koi";
/// How many faults one message names.
const SHOWN_ISSUES: usize = 3;

/// What the generated part is made of.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The model.
    pub model: &'a str,
    /// The models to fall back to.
    pub fallbacks: &'a [String],
    /// The owner's time zone.
    pub time_zone: Option<&'a str>,
    /// The tools that the plan leaves.
    pub tools: Option<&'a ToolLimits>,
}

/// The document is not one that the gateway would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Overrides touch keys that the operator sets itself.
    Owned(Vec<Issue>),
    /// The merged document breaks the gateway's rules.
    Invalid(Vec<Issue>),
}

impl Refused {
    fn issues(&self) -> &[Issue] {
        match self {
            Self::Owned(issues) | Self::Invalid(issues) => issues,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issues = self.issues();
        for (position, issue) in issues.iter().take(SHOWN_ISSUES).enumerate() {
            write!(f, "{}{issue}", if position == 0 { "" } else { " | " })?;
        }
        match issues.len().saturating_sub(SHOWN_ISSUES) {
            0 => f.write_str("."),
            more => write!(f, " | and {more} more."),
        }
    }
}

/// The whole document: generated, overridden, checked.
///
/// # Errors
/// What the overrides may not touch, or what the gateway would not take.
pub fn document(wish: &Wish<'_>, overrides: &Map<String, Value>) -> Result<Value, Refused> {
    let overrides = Value::Object(overrides.clone());
    let owned = owned_keys(&overrides);
    if !owned.is_empty() {
        return Err(Refused::Owned(owned));
    }
    let literal = refuse_literal_secrets(&overrides);
    if !literal.is_empty() {
        return Err(Refused::Invalid(literal));
    }
    let mut document = merge(generated(wish).to_document(), overrides);
    if let Some(limits) = wish.tools {
        impose(&mut document, limits);
    }
    // As the gateway reads it. Of a machine's environment nothing is known here, so that a wish cannot count on it.
    let read = variables::fill(&document, &|_| None).and_then(|filled| check(&filled));
    match read {
        Ok(_) => Ok(document),
        Err(issues) => Err(Refused::Invalid(issues)),
    }
}

fn generated(wish: &Wish<'_>) -> GatewayConfig {
    let file = |path: &str| Some(Secret::Reference(SecretRef::File { path: path.into() }));
    let auth = Auth {
        mode: Some(AuthMode::Token),
        token: file(TOKEN_FILE),
        previous_token: file(PREVIOUS_TOKEN_FILE),
        ..Auth::default()
    };
    let gateway = Gateway {
        mode: Some(Mode::Local),
        bind: Some(Bind::Loopback),
        port: Some(koi_wire::DEFAULT_PORT),
        auth: Some(auth),
        trusted_proxies: Some(vec!["127.0.0.1".into(), "::1".into()]),
        ..Gateway::default()
    };
    let model = Model {
        primary: Some(wish.model.into()),
        fallbacks: (!wish.fallbacks.is_empty()).then(|| wish.fallbacks.to_vec()),
    };
    let defaults = AgentDefaults {
        workspace: Some(WORKSPACE.into()),
        model: Some(model),
        user_timezone: wish.time_zone.map(Into::into),
        ..AgentDefaults::default()
    };
    GatewayConfig {
        gateway: Some(gateway),
        agents: Some(Agents {
            defaults: Some(defaults),
        }),
        tools: wish.tools.map(|limits| Tools {
            allow: limits.allow.clone(),
            deny: limits.deny.clone(),
            ..Tools::default()
        }),
        ..GatewayConfig::default()
    }
}

/// The plan's tools hold whatever the overrides say: its list stands where they take theirs away, and what it denies stays denied.
fn impose(document: &mut Value, limits: &ToolLimits) {
    let Some(document) = document.as_object_mut() else {
        return;
    };
    let Some(tools) = document.entry("tools").or_insert_with(|| json!({})).as_object_mut() else {
        return;
    };
    if let Some(allow) = &limits.allow {
        tools.entry("allow").or_insert_with(|| json!(allow));
    }
    if let (Some(deny), Some(denied)) = (
        &limits.deny,
        tools.entry("deny").or_insert_with(|| json!([])).as_array_mut(),
    ) {
        for tool in deny {
            if !denied.contains(&json!(tool)) {
                denied.push(json!(tool));
            }
        }
    }
}

/// The paths of all values in overrides, dotted. Lists and empty objects count as values.
#[must_use]
pub fn leaf_paths(overrides: &Map<String, Value>) -> Vec<String> {
    let mut paths = Vec::new();
    collect(overrides, "", &mut paths);
    paths
}

fn collect(object: &Map<String, Value>, prefix: &str, paths: &mut Vec<String>) {
    for (key, value) in object {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value.as_object().filter(|object| !object.is_empty()) {
            Some(object) => collect(object, &path, paths),
            None => paths.push(path),
        }
    }
}

/// Whether a path is `key` or lies below it.
#[must_use]
pub fn is_below(path: &str, key: &str) -> bool {
    path.strip_prefix(key)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The tools that overrides ask for.
#[must_use]
pub fn switched_on_tools(overrides: &Map<String, Value>) -> Vec<String> {
    let allow = overrides
        .get("tools")
        .and_then(|tools| tools.get("allow"))
        .and_then(Value::as_array);
    allow
        .into_iter()
        .flatten()
        .filter_map(|tool| tool.as_str().map(Into::into))
        .collect()
}

#[cfg(test)]
mod tests;
