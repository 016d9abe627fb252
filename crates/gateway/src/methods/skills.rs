//! `skills.*`: folders that say how to do something, of the workspace, of the gateway, bundled, and those that nodes publish.
//!
//! Skills belong to the agent: it, its owner, or the spec's workspace files write them, and nothing is fetched from a registry. What can be
//! changed here is whether one is used; that is kept beside the state, not in the config, which is the operator's.

use std::collections::BTreeSet;

use futures::FutureExt;
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, event};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::{Text, Tree};
use super::catalog::{Name, agent_id};
use super::{Answer, Call, Method, fault};
use crate::nodes::published::Offer;
use crate::server::hub::Audience;
use crate::server::lock;
use crate::server::outbox::Broadcast;
use crate::skills::{Choices, Needs, Origin, Shelf, Skill};

/// Skills that can be turned off.
const MAX_DISABLED: usize = 200;

pub(super) const TABLE: &[Method] = &[
    Method::later("skills.status", Scope::Read, |call| call.blocking(status).boxed()),
    Method::later("skills.skillCard", Scope::Read, |call| call.blocking(card).boxed()),
    Method::later("skills.update", Scope::Admin, |call| call.blocking(update).boxed()),
    Method::now("skills.search", Scope::Read, search),
    Method::now("skills.detail", Scope::Read, detail),
    Method::now("skills.securityVerdicts", Scope::Read, verdicts),
    Method::now("skills.install", Scope::Admin, install),
    Method::now("skills.upload.begin", Scope::Admin, |call| {
        call.named(&["kind", "slug", "sizeBytes"], &["sha256", "force", "idempotencyKey"])?;
        Err(managed())
    }),
    Method::now("skills.upload.chunk", Scope::Admin, |call| {
        call.named(&["uploadId", "offset", "dataBase64"], &[])?;
        Err(managed())
    }),
    Method::now("skills.upload.commit", Scope::Admin, |call| {
        call.named(&["uploadId"], &["sha256"])?;
        Err(managed())
    }),
    Method::node_later("skills.bins", |call| call.blocking(bins).boxed()),
];

/// Nothing is installed over the wire.
fn managed() -> ErrorShape {
    let message = "skills are directories of the workspace (skills/<name>/SKILL.md): the agent or its owner writes them \
                   there, or the spec's workspace files bring them";
    fault::unavailable(message).with_details(json!({"code": "SKILLS_MANAGED"}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StatusParams {
    #[serde(default)]
    agent_id: Option<Name>,
    #[serde(default, rename = "sessionKey")]
    _session_key: Option<Text<1, 512>>,
}

fn status(call: &Call) -> Answer {
    agent_id(call.params::<StatusParams>()?.agent_id.as_ref())?;
    let (settings, shelf) = (&call.shared.settings, shelf(call));
    let all = shelf.all();
    let own = all.iter().map(|skill| of_shelf(skill, &shelf));
    let offers = lock(&call.shared.nodes.published).all();
    let theirs = offers.iter().flat_map(of_node);
    let skills: Vec<Value> = own.chain(theirs).collect();
    Ok(json!({
        "workspaceDir": settings.workspace, "managedSkillsDir": settings.state_dir.join("skills"), "skills": skills,
    }))
}

fn of_shelf(skill: &Skill, shelf: &Shelf) -> Value {
    let mut shown = shown(&skill.name, &skill.description, &skill.key, skill.origin.as_str());
    if let Some(directory) = shelf.directory(skill.origin, &skill.key) {
        shown["filePath"] = json!(directory.join("SKILL.md"));
        shown["baseDir"] = json!(directory);
    }
    let needs = |needs: &Needs| {
        json!({
            "bins": needs.bins, "anyBins": needs.any_bins, "env": needs.env, "config": needs.config, "os": needs.os
        })
    };
    shown["bundled"] = (skill.origin == Origin::Bundled).into();
    shown["requirements"] = needs(&skill.needs);
    shown["missing"] = needs(&skill.missing);
    shown["disabled"] = skill.disabled.into();
    shown["blockedByAllowlist"] = skill.blocked.into();
    shown["eligible"] = skill.is_eligible().into();
    if let Some(fault) = &skill.fault {
        shown["fault"] = fault.as_str().into();
    }
    shown
}

fn shown(name: &str, description: &str, key: &str, source: &str) -> Value {
    json!({
        "name": name, "description": description, "source": source, "bundled": false, "skillKey": key,
        "filePath": "", "baseDir": "", "always": false, "disabled": false, "blockedByAllowlist": false, "eligible": true,
        "requirements": {"bins": [], "env": [], "config": [], "os": []},
        "missing": {"bins": [], "env": [], "config": [], "os": []},
        "configChecks": [], "install": [],
    })
}

fn of_node(offer: &Offer) -> impl Iterator<Item = Value> {
    offer.skills.iter().map(|skill| {
        let key = format!("node:{}:{}", offer.node, skill.name);
        let mut shown = shown(&skill.name, &skill.description, &key, "node");
        shown["nodeId"] = offer.node.as_str().into();
        shown
    })
}

/// The skills of the agent as the config in force has them.
fn shelf(call: &Call) -> Shelf {
    call.shared.settings.shelf(&call.shared.config().config)
}

/// Programs that skills name, for a node to say which of them it has.
fn bins(call: &Call) -> Answer {
    call.no_params()?;
    let all = shelf(call).all();
    let used = all.iter().filter(|skill| !skill.disabled && !skill.blocked);
    let named = used.flat_map(|skill| skill.needs.bins.iter().chain(&skill.needs.any_bins));
    Ok(json!({"bins": named.collect::<BTreeSet<_>>()}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CardParams {
    #[serde(default)]
    agent_id: Option<Name>,
    skill_key: Name,
}

fn unknown(key: &str) -> ErrorShape {
    let shown: String = key.chars().take(64).collect();
    fault::invalid_request(&format!("unknown skill \"{shown}\""))
}

fn card(call: &Call) -> Answer {
    let params = call.params::<CardParams>()?;
    agent_id(params.agent_id.as_ref())?;
    let key = &*params.skill_key;
    let shelf = shelf(call);
    let (origin, content) = shelf
        .card(key)
        .map_err(|error| fault::unavailable(format!("cannot be read: {error}")))?
        .ok_or_else(|| unknown(key))?;
    let path = shelf.directory(origin, key).map(|directory| directory.join("SKILL.md"));
    Ok(json!({
        "schema": "openclaw.skills.skill-card.v1", "skillKey": key, "sizeBytes": content.len(),
        "path": path.unwrap_or_default(), "content": String::from_utf8_lossy(&content),
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpdateParams {
    #[serde(default)]
    skill_key: Option<Name>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    api_key: Option<Text<0, 4096>>,
    #[serde(default)]
    env: Option<Tree>,
    #[serde(default)]
    source: Option<Text<1, 64>>,
    #[serde(default, rename = "agentId")]
    _agent_id: Option<Name>,
    #[serde(default, rename = "slug")]
    _slug: Option<Name>,
    #[serde(default, rename = "all")]
    _all: Option<bool>,
    #[serde(default, rename = "force")]
    _force: Option<bool>,
}

fn update(call: &Call) -> Answer {
    let params = call.params::<UpdateParams>()?;
    if params.source.is_some() {
        return Err(managed());
    }
    for (place, given) in [("apiKey", params.api_key.is_some()), ("env", params.env.is_some())] {
        if given {
            let fault = format!("at /{place}: secrets and variables are not kept here; the config's env has them");
            return Err(call.invalid(&fault));
        }
    }
    let key = params
        .skill_key
        .ok_or_else(|| call.invalid("at root: must have required property 'skillKey'"))?;
    let enabled = params.enabled.unwrap_or(true);
    let _turn = lock(&call.shared.skills_file);
    let mut choices = Choices::read(&call.shared.settings.state_dir);
    let known = choices.disabled.contains(&*key) || matches!(shelf(call).card(&key), Ok(Some(_)) | Err(_));
    if !known {
        return Err(unknown(&key));
    }
    if enabled {
        choices.disabled.remove(&*key);
    } else if choices.disabled.len() < MAX_DISABLED {
        choices.disabled.insert(key.to_string());
    } else {
        return Err(fault::unavailable("too many skills are turned off already"));
    }
    let path = call.shared.settings.state_dir.join(Choices::FILE);
    let text = serde_json::to_vec_pretty(&choices).map_err(|error| fault::unavailable(error.to_string()))?;
    crate::file::replace(&path, &text, 0o600)
        .map_err(|error| fault::unavailable(format!("{} cannot be written: {error}", path.display())))?;
    let told = json!({"skillKey": &*key, "enabled": enabled});
    call.shared.hub.tell(
        Audience::Scope(Scope::Read),
        Broadcast::droppable(event::SKILLS_CHANGED, told.to_string()),
    );
    Ok(json!({"ok": true, "skillKey": &*key, "config": {"enabled": enabled}}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchParams {
    #[serde(default, rename = "query")]
    _query: Option<Text<1, 1024>>,
    #[serde(default)]
    limit: Option<u32>,
}

/// There is no registry to search.
fn search(call: &Call) -> Answer {
    let params = call.params::<SearchParams>()?;
    if params.limit.is_some_and(|limit| !(1..=100).contains(&limit)) {
        return Err(call.invalid("at /limit: must be >= 1 and <= 100"));
    }
    Ok(json!({"results": []}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DetailParams {
    #[serde(rename = "slug")]
    _slug: Name,
}

fn detail(call: &Call) -> Answer {
    call.params::<DetailParams>()?;
    Ok(json!({"skill": null}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VerdictsParams {
    #[serde(default)]
    agent_id: Option<Name>,
}

fn verdicts(call: &Call) -> Answer {
    agent_id(call.params::<VerdictsParams>()?.agent_id.as_ref())?;
    Ok(json!({"schema": "openclaw.skills.security-verdicts.v1", "items": []}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InstallParams {
    #[serde(default)]
    name: Option<Name>,
    #[serde(default)]
    install_id: Option<Name>,
    #[serde(default, rename = "source")]
    _source: Option<Text<1, 64>>,
    #[serde(default, rename = "slug")]
    _slug: Option<Name>,
    #[serde(default, rename = "uploadId")]
    _upload_id: Option<Name>,
    #[serde(default, rename = "agentId")]
    _agent_id: Option<Name>,
    #[serde(default, rename = "version")]
    _version: Option<Name>,
    #[serde(default, rename = "force")]
    _force: Option<bool>,
    #[serde(default, rename = "sha256")]
    _sha256: Option<Text<64, 64>>,
    #[serde(default, rename = "dangerouslyForceUnsafeInstall")]
    _unsafe: Option<bool>,
    #[serde(default, rename = "timeoutMs")]
    _timeout_ms: Option<u64>,
}

/// Skills here bring no installers, so there is none of any name.
fn install(call: &Call) -> Answer {
    let params = call.params::<InstallParams>()?;
    if params.name.is_some() && params.install_id.is_some() {
        return Err(call.invalid("at /installId: the skill has no such installer"));
    }
    Err(managed())
}
