//! What there is to choose from: models, tools, commands, agents.

use std::collections::BTreeMap;

use futures::FutureExt;
use koi_wire::config::GatewayConfig;
use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::Text;
use super::{Answer, Call, Method, fault};
use crate::agent::tool::ToolSpec;
use crate::nodes::published::{Offer, Tool};
use crate::profile;
use crate::server::{DEFAULT_AGENT, lock};

pub(super) const TABLE: &[Method] = &[
    Method::now("models.list", Scope::Read, models),
    Method::now("models.authStatus", Scope::Read, auth_status),
    Method::now("tools.catalog", Scope::Read, tools),
    Method::now("tools.effective", Scope::Read, effective_tools),
    Method::now("commands.list", Scope::Read, commands),
    Method::later("agents.list", Scope::Read, |call| call.blocking(agents).boxed()),
    Method::later("agent.identity.get", Scope::Read, |call| {
        call.blocking(identity).boxed()
    }),
];

const PROVIDER: &str = "amazon-bedrock";

/// A name, of whatever.
pub(super) type Name = Text<1, 256>;

/// Holds that the agent is the one there is.
pub(super) fn agent_id(given: Option<&Name>) -> Result<(), koi_wire::frame::ErrorShape> {
    match given.map(|given| &**given) {
        None | Some(DEFAULT_AGENT) => Ok(()),
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            let details = json!({"code": "UNKNOWN_AGENT_ID", "agentId": shown});
            Err(fault::invalid_request(&format!("unknown agent id \"{shown}\"")).with_details(details))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ModelsParams {
    #[serde(default)]
    agent_id: Option<Name>,
    #[serde(default, rename = "includeProviderCapabilities")]
    _capabilities: Option<bool>,
    #[serde(default, rename = "preparedOnly")]
    _prepared: Option<bool>,
    #[serde(default, rename = "refresh")]
    _refresh: Option<bool>,
    #[serde(default, rename = "view")]
    _view: Option<View>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum View {
    Default,
    Configured,
    ProviderConfig,
    All,
}

fn models(call: &Call) -> Answer {
    agent_id(call.params::<ModelsParams>()?.agent_id.as_ref())?;
    Ok(json!({"models": configured_models(&call.shared.config().config)}))
}

/// The models that the config names, those of the agent first.
fn configured_models(config: &GatewayConfig) -> Vec<Value> {
    let provider = config
        .models
        .as_ref()
        .and_then(|models| models.providers.as_ref()?.amazon_bedrock.as_ref());
    let facts = provider.and_then(|provider| provider.models.as_ref());
    let chosen = config.agent_defaults().and_then(|defaults| defaults.model.as_ref());
    let named = chosen
        .into_iter()
        .flat_map(|model| model.primary.iter().chain(model.fallbacks.iter().flatten()));
    let own = named.map(|name| name.strip_prefix("amazon-bedrock/").unwrap_or(name));
    let mut seen = Vec::new();
    for id in own.chain(facts.into_iter().flat_map(BTreeMap::keys).map(String::as_str)) {
        if !seen.contains(&id) {
            seen.push(id);
        }
    }
    let shown = |id: &&str| {
        let mut model = json!({"id": id, "name": id, "provider": PROVIDER, "available": true, "input": ["text"]});
        let window = facts.and_then(|facts| facts.get(*id)?.context_window);
        if let Some(window) = window {
            model["contextWindow"] = window.into();
        }
        model
    };
    seen.iter().map(shown).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AuthStatusParams {
    #[serde(default, rename = "refresh")]
    _refresh: Option<bool>,
    #[serde(default)]
    agent_id: Option<Name>,
}

fn auth_status(call: &Call) -> Answer {
    agent_id(call.params::<AuthStatusParams>()?.agent_id.as_ref())?;
    let provider = json!({"provider": PROVIDER, "displayName": "Amazon Bedrock", "status": "static", "profiles": []});
    Ok(json!({"ts": call.shared.now_ms(), "providers": [provider]}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ToolsParams {
    #[serde(default)]
    agent_id: Option<Name>,
    #[serde(default, rename = "includePlugins")]
    _plugins: Option<bool>,
}

fn tools(call: &Call) -> Answer {
    agent_id(call.params::<ToolsParams>()?.agent_id.as_ref())?;
    let profiles = json!([{"id": "full", "label": "Full"}]);
    let specs = call.shared.services.tools.specs();
    let entry = |spec: &ToolSpec| {
        json!({
            "id": spec.name, "label": spec.name, "description": spec.description, "source": "core",
            "defaultProfiles": ["full"]
        })
    };
    let own: Vec<Value> = specs.iter().map(entry).collect();
    let own = json!({"id": "core", "label": "Built in", "source": "core", "tools": own});
    let offers = lock(&call.shared.nodes.published).all();
    let offered = offers.iter().filter(|offer| !offer.tools.is_empty()).map(group);
    let groups: Vec<Value> = std::iter::once(own).chain(offered).collect();
    Ok(json!({"agentId": DEFAULT_AGENT, "profiles": profiles, "groups": groups}))
}

/// The tools of a node.
fn group(offer: &Offer) -> Value {
    let id = format!("node:{}", offer.node);
    let tool = |tool: &Tool| {
        json!({
            "id": format!("{id}:{}", tool.name), "label": tool.name, "description": tool.description, "source": "plugin",
            "pluginId": tool.plugin, "optional": true, "defaultProfiles": ["full"],
        })
    };
    let tools: Vec<Value> = offer.tools.iter().map(tool).collect();
    json!({"id": id, "label": id, "source": "plugin", "tools": tools})
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EffectiveParams {
    #[serde(default)]
    agent_id: Option<Name>,
    #[serde(rename = "sessionKey")]
    _session_key: Text<1, 512>,
}

fn effective_tools(call: &Call) -> Answer {
    agent_id(call.params::<EffectiveParams>()?.agent_id.as_ref())?;
    let specs = call.shared.services.tools.specs();
    let entry = |spec: &ToolSpec| {
        json!({
            "id": spec.name, "label": spec.name, "description": spec.description, "rawDescription": spec.description,
            "source": "core"
        })
    };
    let tools: Vec<Value> = specs.iter().map(entry).collect();
    let groups = json!([{"id": "core", "label": "Built in", "source": "core", "tools": tools}]);
    Ok(json!({"agentId": DEFAULT_AGENT, "profile": "full", "groups": groups}))
}

/// A command that a person types: its names, what it does, its kind, its argument.
struct Command(
    &'static [&'static str],
    &'static str,
    &'static str,
    Option<&'static str>,
);

const COMMANDS: &[Command] = &[
    Command(&["help", "commands"], "What can be typed", "status", None),
    Command(&["status"], "What the agent is doing, with which model", "status", None),
    Command(
        &["context"],
        "What goes in front of the conversation, and what it costs",
        "status",
        None,
    ),
    Command(&["usage"], "Tokens that this session has used", "status", None),
    Command(&["new"], "Begin anew", "session", Some("message")),
    Command(&["reset"], "Begin anew", "session", Some("message")),
    Command(&["stop"], "Stop what runs", "session", None),
    Command(
        &["compact"],
        "Summarise what was said so far",
        "session",
        Some("instructions"),
    ),
    Command(&["model"], "Show or choose the model", "options", Some("model")),
    Command(
        &["think"],
        "Show or choose how much the model thinks",
        "options",
        Some("level"),
    ),
    Command(
        &["queue"],
        "Show or choose what happens to messages that come during a run",
        "options",
        Some("mode"),
    ),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CommandsParams {
    #[serde(default, rename = "sessionKey")]
    _session_key: Option<Text<1, 512>>,
    #[serde(default)]
    agent_id: Option<Name>,
    #[serde(default, rename = "provider")]
    _provider: Option<Name>,
    #[serde(default, rename = "scope")]
    _scope: Option<CommandScope>,
    #[serde(default)]
    include_args: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CommandScope {
    Text,
    Native,
    Both,
}

fn commands(call: &Call) -> Answer {
    let params = call.params::<CommandsParams>()?;
    agent_id(params.agent_id.as_ref())?;
    let with_args = params.include_args.unwrap_or(true);
    let shown = |Command(names, description, category, argument): &Command| {
        let aliases: Vec<String> = names.iter().map(|name| format!("/{name}")).collect();
        let mut command = json!({
            "name": names.first(), "textAliases": aliases, "description": description, "category": category,
            "source": "native", "scope": "text", "acceptsArgs": argument.is_some(),
        });
        if let (Some(argument), true) = (argument, with_args) {
            command["args"] = json!([{"name": argument, "description": description, "type": "string"}]);
        }
        command
    };
    Ok(json!({"commands": COMMANDS.iter().map(shown).collect::<Vec<_>>()}))
}

fn agents(call: &Call) -> Answer {
    call.no_params()?;
    let (settings, loaded) = (&call.shared.settings, call.shared.config());
    let who = profile::identity(&settings.workspace);
    let mut agent = json!({"id": DEFAULT_AGENT, "kind": "agent", "workspace": settings.workspace});
    let mut identity = serde_json::Map::new();
    for (key, text) in [("name", &who.name), ("emoji", &who.emoji), ("theme", &who.theme)] {
        if let Some(text) = text {
            identity.insert(key.to_owned(), text.as_str().into());
        }
    }
    if let Some(name) = &who.name {
        agent["name"] = name.as_str().into();
    }
    if !identity.is_empty() {
        agent["identity"] = identity.into();
    }
    let model = loaded
        .config
        .agent_defaults()
        .and_then(|defaults| defaults.model.as_ref());
    if let Some(model) = model {
        agent["model"] = json!(model);
    }
    Ok(json!({
        "defaultId": DEFAULT_AGENT, "ownership": "sole", "selectionRequired": false, "mainKey": "main",
        "scope": "per-sender", "agents": [agent],
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IdentityParams {
    #[serde(default)]
    agent_id: Option<Name>,
    #[serde(default, rename = "sessionKey")]
    _session_key: Option<Text<0, 512>>,
}

fn identity(call: &Call) -> Answer {
    agent_id(call.params::<IdentityParams>()?.agent_id.as_ref())?;
    let who = profile::identity(&call.shared.settings.workspace);
    let source = if who.name.is_some() { "workspace" } else { "default" };
    let name = who.name.unwrap_or_else(|| "Koi".to_owned());
    let mut answer = json!({"agentId": DEFAULT_AGENT, "name": name, "nameSource": source, "avatarStatus": "none"});
    if let Some(emoji) = who.emoji {
        answer["emoji"] = emoji.into();
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use koi_wire::config::check;

    use super::*;

    #[test]
    fn the_models_of_the_agent_come_first_and_once() {
        let config = check(&json!({
            "gateway": {"mode": "local", "auth": {"token": "0123456789abcdef"}},
            "agents": {"defaults": {"model": {"primary": "amazon-bedrock/b", "fallbacks": ["amazon-bedrock/c"]}}},
            "models": {"providers": {"amazon-bedrock": {"models": {"a": {"contextWindow": 7}, "b": {"contextWindow": 8}}}}},
        }))
        .unwrap();
        let shown: Vec<(Value, Value)> = configured_models(&config)
            .into_iter()
            .map(|model| (model["id"].clone(), model["contextWindow"].clone()))
            .collect();
        assert_eq!(
            shown,
            [
                (json!("b"), json!(8)),
                (json!("c"), Value::Null),
                (json!("a"), json!(7))
            ]
        );
    }
}
