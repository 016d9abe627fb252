//! What there is to choose from: models, tools, commands, agents.

use std::collections::BTreeMap;

use futures::FutureExt;
use koi_wire::config::{GatewayConfig, ModelFacts};
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

const BEDROCK: &str = "amazon-bedrock";
const OPENAI: &str = "openai";

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

/// What the config says of the models of a provider, by id.
fn facts<'a>(config: &'a GatewayConfig, provider: &str) -> Option<&'a BTreeMap<String, ModelFacts>> {
    let providers = config.models.as_ref()?.providers.as_ref()?;
    match provider {
        BEDROCK => providers.amazon_bedrock.as_ref()?.models.as_ref(),
        OPENAI => providers.openai.as_ref()?.models.as_ref(),
        _ => None,
    }
}

/// The models that the config names, as provider and id: those of the agent first, each once.
fn named_models(config: &GatewayConfig) -> Vec<(&str, &str)> {
    let chosen = config.agent_defaults().and_then(|defaults| defaults.model.as_ref());
    let own = chosen
        .into_iter()
        .flat_map(|model| model.primary.iter().chain(model.fallbacks.iter().flatten()))
        .map(|name| name.split_once('/').unwrap_or((BEDROCK, name)));
    let known = [BEDROCK, OPENAI].into_iter().flat_map(|provider| {
        let ids = facts(config, provider).into_iter().flat_map(BTreeMap::keys);
        ids.map(move |id| (provider, id.as_str()))
    });
    let mut named = Vec::new();
    for model in own.chain(known) {
        if !named.contains(&model) {
            named.push(model);
        }
    }
    named
}

/// The models that the config names.
fn configured_models(config: &GatewayConfig) -> Vec<Value> {
    let shown = |(provider, id): (&str, &str)| {
        let mut model = json!({"id": id, "name": id, "provider": provider, "available": true, "input": ["text"]});
        let window = facts(config, provider).and_then(|facts| facts.get(id)?.context_window);
        if let Some(window) = window {
            model["contextWindow"] = window.into();
        }
        model
    };
    named_models(config).into_iter().map(shown).collect()
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
    let loaded = call.shared.config();
    Ok(json!({"ts": call.shared.now_ms(), "providers": providers(&loaded.config)}))
}

/// The providers of the models that the config names, and with what they are asked.
fn providers(config: &GatewayConfig) -> Vec<Value> {
    let mut names: Vec<&str> = named_models(config).into_iter().map(|(provider, _)| provider).collect();
    names.sort_unstable();
    names.dedup();
    let key = config
        .models
        .as_ref()
        .and_then(|models| models.providers.as_ref()?.openai.as_ref()?.api_key.as_ref());
    let shown = |provider: &str| match provider {
        BEDROCK => {
            // The instance's role: nothing that could run out, and nothing to be set.
            json!({"provider": provider, "displayName": "Amazon Bedrock", "status": "static", "profiles": []})
        }
        OPENAI => {
            let status = if key.is_some() { "static" } else { "missing" };
            json!({"provider": provider, "displayName": "OpenAI compatible", "status": status, "profiles": []})
        }
        other => json!({"provider": other, "displayName": other, "status": "static", "profiles": []}),
    };
    names.into_iter().map(shown).collect()
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

    #[test]
    fn models_of_all_providers_are_listed_under_their_own() {
        let config = check(&json!({
            "gateway": {"mode": "local", "auth": {"token": "0123456789abcdef"}},
            "agents": {"defaults": {"model": {"primary": "openai/qwen/qwen3", "fallbacks": ["amazon-bedrock/b"]}}},
            "models": {"providers": {
                "openai": {"baseUrl": "http://127.0.0.1:1/v1", "models": {"qwen/qwen3": {"contextWindow": 9}, "other": {}}},
                "amazon-bedrock": {"models": {"qwen/qwen3": {"contextWindow": 1}}},
            }},
        }))
        .unwrap();
        let shown: Vec<String> = configured_models(&config)
            .into_iter()
            .map(|model| format!("{} {} {}", model["provider"], model["id"], model["contextWindow"]).replace('"', ""))
            .collect();
        assert_eq!(
            shown,
            [
                "openai qwen/qwen3 9",
                "amazon-bedrock b null",
                "amazon-bedrock qwen/qwen3 1",
                "openai other null"
            ]
        );
        let status: Vec<String> = providers(&config)
            .into_iter()
            .map(|provider| format!("{} {}", provider["provider"], provider["status"]).replace('"', ""))
            .collect();
        assert_eq!(status, ["amazon-bedrock static", "openai missing"]);
    }
}
