//! `agents.files.*`: the files of the workspace that say who the agent is. By name only, and never through a link.

use futures::FutureExt;
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, code};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::Text;
use super::{Answer, Call, Method, fault};
use crate::file::Directory;
use crate::seed;
use crate::server::DEFAULT_AGENT;

/// The files, in the order in which they are listed.
const FILES: [&str; 8] = [
    "AGENTS.md",
    "SOUL.md",
    "TOOLS.md",
    "IDENTITY.md",
    "USER.md",
    "HEARTBEAT.md",
    "BOOTSTRAP.md",
    "MEMORY.md",
];

/// Files that an agent may do without.
const OPTIONAL: [&str; 3] = ["HEARTBEAT.md", "BOOTSTRAP.md", "MEMORY.md"];

/// The largest file that is sent or taken, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

pub(super) const TABLE: &[Method] = &[
    Method::later("agents.files.list", Scope::Read, |call| call.blocking(list).boxed()),
    Method::later("agents.files.get", Scope::Read, |call| call.blocking(get).boxed()),
    Method::later("agents.files.set", Scope::Admin, |call| call.blocking(set).boxed()),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListParams {
    agent_id: Text<1, 64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GetParams {
    agent_id: Text<1, 64>,
    name: Text<1, 256>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SetParams {
    agent_id: Text<1, 64>,
    name: Text<1, 256>,
    content: Text<0, 1_048_576>,
}

fn agent(id: &str) -> Result<(), ErrorShape> {
    if id == DEFAULT_AGENT {
        return Ok(());
    }
    let details = json!({"code": "UNKNOWN_AGENT_ID", "agentId": id});
    Err(ErrorShape::new(code::INVALID_REQUEST, format!("unknown agent id \"{id}\"")).with_details(details))
}

fn name(call: &Call, given: &str) -> Result<&'static str, ErrorShape> {
    let known = FILES.into_iter().find(|name| *name == given);
    known.ok_or_else(|| call.invalid(&format!("at /name: must be one of {}", FILES.join(", "))))
}

/// The workspace. It is the agent's own and may have become a link.
fn workspace(call: &Call) -> Result<Directory, ErrorShape> {
    let path = &call.shared.settings.workspace;
    Directory::itself(path)
        .map_err(|error| fault::unavailable(format!("the workspace {} cannot be read: {error}", path.display())))
}

/// A file as clients see it. What is no file, or a link, counts as missing.
fn entry(call: &Call, directory: &Directory, name: &str) -> Value {
    let path = call.shared.settings.workspace.join(name);
    match directory.size_and_time(name) {
        Ok(Some((size, changed_ms))) => {
            json!({"name": name, "path": path, "missing": false, "size": size, "updatedAtMs": changed_ms.max(0)})
        }
        Ok(None) if OPTIONAL.contains(&name) => {
            json!({"name": name, "path": path, "missing": true, "expectedAbsent": true})
        }
        Ok(None) | Err(_) => json!({"name": name, "path": path, "missing": true}),
    }
}

fn list(call: &Call) -> Answer {
    let params: ListParams = call.params()?;
    agent(&params.agent_id)?;
    let directory = workspace(call)?;
    let files: Vec<Value> = FILES.iter().map(|name| entry(call, &directory, name)).collect();
    Ok(json!({"agentId": DEFAULT_AGENT, "workspace": call.shared.settings.workspace, "files": files}))
}

fn get(call: &Call) -> Answer {
    let params: GetParams = call.params()?;
    agent(&params.agent_id)?;
    let name = name(call, &params.name)?;
    let directory = workspace(call)?;
    let mut file = entry(call, &directory, name);
    let content = directory
        .read_at_most(name, MAX_BYTES)
        .map_err(|error| fault::unavailable(format!("cannot be read: {error}")))?;
    if let (Some(content), Some(file)) = (content, file.as_object_mut()) {
        let text = String::from_utf8_lossy(&content).into_owned();
        file.insert("content".to_owned(), text.into());
    }
    Ok(json!({"agentId": DEFAULT_AGENT, "workspace": call.shared.settings.workspace, "file": file}))
}

fn set(call: &Call) -> Answer {
    let params: SetParams = call.params()?;
    agent(&params.agent_id)?;
    let name = name(call, &params.name)?;
    if params.content.len() as u64 > MAX_BYTES {
        return Err(call.invalid(&format!("at /content: must not have more than {MAX_BYTES} bytes")));
    }
    let directory = workspace(call)?;
    directory
        .replace(name, params.content.as_bytes(), seed::FILE_MODE, None)
        .map_err(|error| fault::unavailable(format!("{name} cannot be written: {error}")))?;
    let file = entry(call, &directory, name);
    Ok(json!({"ok": true, "agentId": DEFAULT_AGENT, "workspace": call.shared.settings.workspace, "file": file}))
}
