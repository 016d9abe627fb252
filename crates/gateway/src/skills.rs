//! Skills: folders with a SKILL.md that say how to do something. Those of the workspace go before those that were installed on the gateway, and
//! both before the bundled ones; the agent is told of what it can use, by a line each, and reads the rest when it needs it.
//!
//! They are read each time anew: what was changed counts from the next turn on. Those of the workspace belong to the agent: nothing in them
//! is trusted, no link is followed, and one that is broken hides itself and nothing else.

mod front;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use koi_hands::Place;
use koi_wire::config::GatewayConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::front::Head;
pub(crate) use self::front::Needs;
use crate::file::Directory;

/// Skills of one place that are looked at.
const MOST: usize = 200;

/// Bytes of a SKILL.md of which the head is looked for.
const MOST_HEAD: usize = 64 * 1024;

/// Bytes of a SKILL.md that can be read.
pub(crate) const MOST_CARD: u64 = 256 * 1024;

/// Skills that come with the gateway.
const BUNDLED: &[(&str, &str)] = &[
    ("documents", include_str!("../skills/documents/SKILL.md")),
    ("git", include_str!("../skills/git/SKILL.md")),
    ("jobs", include_str!("../skills/jobs/SKILL.md")),
    ("notes", include_str!("../skills/notes/SKILL.md")),
    ("skill-writer", include_str!("../skills/skill-writer/SKILL.md")),
    ("web-research", include_str!("../skills/web-research/SKILL.md")),
];

/// Where a skill comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The agent's workspace.
    Workspace,
    /// The gateway's own directory.
    Managed,
    /// The gateway itself.
    Bundled,
}

impl Origin {
    /// Its name on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Managed => "managed",
            Self::Bundled => "bundled",
        }
    }
}

/// A skill, as far as it matters whether it is used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Skill {
    /// Its folder: what it is called by.
    pub(crate) key: String,
    pub(crate) origin: Origin,
    pub(crate) name: String,
    pub(crate) description: String,
    /// What it needs.
    pub(crate) needs: Needs,
    /// What of that is not there.
    pub(crate) missing: Needs,
    /// It was turned off.
    pub(crate) disabled: bool,
    /// The config allows other bundled skills only.
    pub(crate) blocked: bool,
    /// Why it cannot be used, where it is broken.
    pub(crate) fault: Option<String>,
}

impl Skill {
    /// Is the agent told of it?
    pub(crate) fn is_eligible(&self) -> bool {
        !self.disabled && !self.blocked && self.fault.is_none() && self.missing == Needs::default()
    }
}

/// What was turned off over the wire; kept beside the state, since the config is the operator's.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Choices {
    #[serde(default)]
    pub(crate) disabled: BTreeSet<String>,
}

impl Choices {
    /// Name of their file in the state directory.
    pub(crate) const FILE: &'static str = "skills.json";

    /// A file that cannot be read turns off nothing.
    pub(crate) fn read(state_dir: &Path) -> Self {
        let read = std::fs::read(state_dir.join(Self::FILE)).ok();
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }
}

/// Where skills are, and what decides whether they are used.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    workspace: PathBuf,
    state_dir: PathBuf,
    home: PathBuf,
    allow_bundled: Option<Vec<String>>,
    off: BTreeSet<String>,
    document: Value,
}

impl Shelf {
    /// As the config has it.
    pub(crate) fn new(workspace: &Path, state_dir: &Path, home: &Path, config: &GatewayConfig) -> Self {
        let skills = config.skills.as_ref();
        let entries = skills.and_then(|skills| skills.entries.as_ref()).into_iter().flatten();
        Self {
            workspace: workspace.to_owned(),
            state_dir: state_dir.to_owned(),
            home: home.to_owned(),
            allow_bundled: skills.and_then(|skills| skills.allow_bundled.clone()),
            off: entries
                .filter(|(_, entry)| entry.enabled == Some(false))
                .map(|(name, _)| name.clone())
                .collect(),
            document: config.to_document(),
        }
    }

    /// All skills, each key once, in the order of where they come from. Reads files: it may block.
    pub(crate) fn all(&self) -> Vec<Skill> {
        let choices = Choices::read(&self.state_dir);
        let environment = self.environment();
        let mut skills: Vec<Skill> = Vec::new();
        let mut known = BTreeSet::new();
        let own = [
            (Origin::Workspace, self.root(Origin::Workspace)),
            (Origin::Managed, self.root(Origin::Managed)),
        ];
        let own = own
            .into_iter()
            .flat_map(|(origin, root)| on_disk(root).into_iter().map(move |(key, text)| (origin, key, text)));
        for (origin, key, text) in own {
            if known.insert(key.clone()) {
                let head = text.and_then(|text| front::read(&text));
                skills.push(self.skill(origin, key, head, &choices, &environment));
            }
        }
        for (key, head) in bundled_heads().iter().filter(|(key, _)| !known.contains(*key)) {
            skills.push(self.skill(Origin::Bundled, (*key).to_owned(), head.clone(), &choices, &environment));
        }
        skills
    }

    /// What a skill says, and the directory that it lies in, where others can reach it.
    pub(crate) fn card(&self, key: &str) -> Result<Option<(Origin, Vec<u8>)>, std::io::Error> {
        if key.starts_with('.') || key.contains(['/', '\0']) {
            return Ok(None);
        }
        for origin in [Origin::Workspace, Origin::Managed] {
            let folder = self.root(origin).and_then(|root| root.enter(key).ok());
            if let Some(text) = folder
                .map(|folder| folder.read_at_most("SKILL.md", MOST_CARD))
                .transpose()?
                .flatten()
            {
                return Ok(Some((origin, text)));
            }
        }
        let bundled = BUNDLED.iter().find(|(name, _)| *name == key);
        Ok(bundled.map(|(_, text)| (Origin::Bundled, text.as_bytes().to_vec())))
    }

    /// A skill, as it is told to the agent.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn told(&self, key: &str, most: usize) -> Result<String, String> {
        let shown: String = key.chars().take(64).collect();
        let all = self.all();
        let Some(skill) = all.iter().find(|skill| skill.key == key || skill.name == key) else {
            let names: Vec<&str> = all
                .iter()
                .filter(|skill| skill.is_eligible())
                .map(|skill| skill.key.as_str())
                .collect();
            return Err(format!("There is no skill {shown:?}. Skills: {}", names.join(", ")));
        };
        if let Some(fault) = &skill.fault {
            return Err(format!("The skill {shown:?} is broken: {fault}"));
        }
        if !skill.is_eligible() {
            return Err(format!("The skill {shown:?} cannot be used here: {:?}", skill.missing));
        }
        let card = self
            .card(&skill.key)
            .map_err(|error| format!("{shown}/SKILL.md cannot be read: {error}"))?;
        let (origin, text) = card.ok_or_else(|| format!("There is no skill {shown:?}."))?;
        let text = koi_hands::text::capped(&String::from_utf8_lossy(&text), most, 0);
        Ok(match (origin, self.directory(origin, &skill.key)) {
            (Origin::Workspace, Some(folder)) => format!("[its folder: {}]\n{text}", folder.display()),
            _ => text,
        })
    }

    /// Where the folder of a skill is; nowhere for a bundled one.
    pub(crate) fn directory(&self, origin: Origin, key: &str) -> Option<PathBuf> {
        match origin {
            Origin::Workspace => Some(self.workspace.join("skills").join(key)),
            Origin::Managed => Some(self.state_dir.join("skills").join(key)),
            Origin::Bundled => None,
        }
    }

    fn root(&self, origin: Origin) -> Option<Directory> {
        let above = if origin == Origin::Workspace {
            &self.workspace
        } else {
            &self.state_dir
        };
        Directory::itself(above).and_then(|above| above.enter("skills")).ok()
    }

    /// What commands of the agent find in their environment.
    fn environment(&self) -> Vec<(&'static str, String)> {
        Place {
            workspace: self.workspace.clone(),
            home: self.home.clone(),
            user: String::new(),
        }
        .environment()
    }

    fn skill(
        &self,
        origin: Origin,
        key: String,
        head: Result<Head, String>,
        choices: &Choices,
        environment: &[(&'static str, String)],
    ) -> Skill {
        let (head, fault) = match head {
            Ok(head) => (head, None),
            Err(fault) => (Head::default(), Some(format!("{key}/SKILL.md: {fault}"))),
        };
        let allowed = self.allow_bundled.as_ref();
        Skill {
            disabled: self.off.contains(&key) || choices.disabled.contains(&key),
            blocked: origin == Origin::Bundled && allowed.is_some_and(|allowed| !allowed.contains(&key)),
            missing: self.missing(&head.needs, environment),
            name: head.name.unwrap_or_else(|| key.clone()),
            description: head.description,
            needs: head.needs,
            origin,
            key,
            fault,
        }
    }

    fn missing(&self, needs: &Needs, environment: &[(&'static str, String)]) -> Needs {
        let path = environment
            .iter()
            .find(|(name, _)| *name == "PATH")
            .map_or("", |(_, path)| path);
        let is_there = |bin: &String| {
            !bin.contains('/')
                && path
                    .split(':')
                    .any(|directory| is_program(&Path::new(directory).join(bin)))
        };
        let without = |names: &[String], has: &dyn Fn(&String) -> bool| -> Vec<String> {
            names.iter().filter(|name| !has(name)).cloned().collect()
        };
        let any = needs.any_bins.iter().any(is_there);
        Needs {
            bins: without(&needs.bins, &is_there),
            any_bins: if any { Vec::new() } else { needs.any_bins.clone() },
            env: without(&needs.env, &|name| environment.iter().any(|(known, _)| known == name)),
            config: without(&needs.config, &|path| is_set(&self.document, path)),
            os: if needs.os.is_empty() || needs.os.iter().any(|os| os == "linux") {
                Vec::new()
            } else {
                needs.os.clone()
            },
        }
    }
}

/// The heads of the bundled ones. They never change, and each turn asks for them.
fn bundled_heads() -> &'static [(&'static str, Result<Head, String>)] {
    static HEADS: OnceLock<Vec<(&'static str, Result<Head, String>)>> = OnceLock::new();
    HEADS.get_or_init(|| BUNDLED.iter().map(|(key, text)| (*key, front::read(text))).collect())
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Does the config have something there that is not off?
fn is_set(document: &Value, path: &str) -> bool {
    let found = path.split('.').try_fold(document, |at, key| at.get(key));
    found.is_some_and(|found| !matches!(found, Value::Null | Value::Bool(false)))
}

/// Folders with a SKILL.md, by name, with what it says or why it cannot be read.
fn on_disk(root: Option<Directory>) -> Vec<(String, Result<String, String>)> {
    let Some(root) = root else { return Vec::new() };
    let mut names = root.names(MOST).unwrap_or_default();
    names.sort_unstable();
    let read = |name: String| {
        let folder = root.enter(&name).ok()?;
        match folder.read_some("SKILL.md", MOST_HEAD) {
            Ok(text) => Some((name, Ok(text?))),
            Err(error) => Some((name, Err(format!("it cannot be read: {error}")))),
        }
    };
    names.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests;
