//! `node.skills.update`, `node.pluginTools.update`: what a node publishes of itself, as a whole each time.

use koi_wire::frame::ErrorShape;
use serde::Deserialize;
use serde_json::json;

use crate::methods::bounds::{List, Object, Text, Tree};
use crate::methods::{Answer, Call, Method, fault};
use crate::nodes::published::{MAX_BYTES, Offer, Skill, Tool};
use crate::server::lock;

pub(super) const SKILLS: Method = Method::node("node.skills.update", skills);
pub(super) const TOOLS: Method = Method::node("node.pluginTools.update", tools);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SkillsParams {
    skills: List<Object<GivenSkill>, 64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenSkill {
    name: Text<1, 64>,
    description: Text<1, 1024>,
    content: Text<1, 65_536>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolsParams {
    tools: List<Object<GivenTool>, 256>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GivenTool {
    plugin_id: Text<1, 128>,
    name: Text<1, 64>,
    description: Text<1, 4096>,
    #[serde(default)]
    parameters: Option<Object<Tree>>,
    #[serde(default)]
    command: Option<Text<1, 256>>,
    #[serde(default, rename = "mcp")]
    _mcp: Option<Object<Mcp>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mcp {
    #[serde(rename = "server")]
    _server: Text<1, 256>,
    #[serde(rename = "tool")]
    _tool: Text<1, 256>,
}

/// Small letters, digits and single dashes between them.
fn is_skill_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.split('-').all(|part| !part.is_empty() && part.chars().all(plain))
}

fn is_tool_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

fn skills(call: &Call) -> Answer {
    let given = call.params::<SkillsParams>()?.skills.0;
    if let Some(position) = given.iter().position(|Object(skill)| !is_skill_name(&skill.name)) {
        let fault = format!("at /skills/{position}/name: must be small letters, digits and single dashes between them");
        return Err(call.invalid(&fault));
    }
    let skills: Vec<Skill> = given
        .into_iter()
        .map(|Object(skill)| Skill {
            name: skill.name.into_string(),
            description: skill.description.into_string(),
            content: skill.content.into_string(),
        })
        .collect();
    let bytes = skills.iter().map(|skill| skill.content.len() + skill.description.len());
    within(call, "skills", bytes.sum())?;
    let count = skills.len();
    offer(call, |offer| offer.skills = skills)?;
    Ok(json!({"ok": true, "count": count}))
}

fn tools(call: &Call) -> Answer {
    let given = call.params::<ToolsParams>()?.tools.0;
    if let Some(position) = given.iter().position(|Object(tool)| !is_tool_name(&tool.name)) {
        let fault = format!("at /tools/{position}/name: must be a letter, then letters, digits, '-' or '_'");
        return Err(call.invalid(&fault));
    }
    let tools: Vec<Tool> = given
        .into_iter()
        .map(|Object(tool)| Tool {
            plugin: tool.plugin_id.into_string(),
            name: tool.name.into_string(),
            description: tool.description.into_string(),
            parameters: tool.parameters.map(|Object(Tree(parameters))| parameters),
            command: tool.command.map(Text::into_string),
        })
        .collect();
    let size = |tool: &Tool| tool.description.len() + tool.parameters.as_ref().map_or(0, |tree| tree.to_string().len());
    within(call, "tools", tools.iter().map(size).sum())?;
    let count = tools.len();
    offer(call, |offer| offer.tools = tools)?;
    Ok(json!({"ok": true, "count": count}))
}

fn within(call: &Call, place: &str, bytes: usize) -> Result<(), ErrorShape> {
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(call.invalid(&format!(
        "at /{place}: must not have more than {MAX_BYTES} bytes in all"
    )))
}

fn offer(call: &Call, change: impl FnOnce(&mut Offer)) -> Result<(), ErrorShape> {
    let node = call.caller.device_id.as_deref().unwrap_or_default();
    let mut published = lock(&call.shared.nodes.published);
    let offer = published
        .of(&call.caller.connection, node)
        .map_err(|_| fault::unavailable("too many nodes publish something already"))?;
    change(offer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        for (name, skill, tool) in [
            ("fish", true, true),
            ("a-b-2", true, true),
            ("-a", false, false),
            ("a-", false, true),
            ("a--b", false, true),
            ("A_b", false, true),
            ("2a", true, false),
            ("", false, false),
            ("a b", false, false),
        ] {
            assert_eq!((is_skill_name(name), is_tool_name(name)), (skill, tool), "{name:?}");
        }
    }
}
