//! The config file: read, located, refused with a line that says where and why.

pub(crate) mod json5;

use std::fmt;
use std::path::{Path, PathBuf};

use koi_wire::config::{self, GatewayConfig, Issue, digest, variables};
use serde_json::{Value, json};

use self::json5::{Kind, Node, line_and_column};
use crate::hush;
use crate::server::credentials::Variables;

/// Largest config file that is read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A config that may be used.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// Where it was read.
    pub(crate) path: PathBuf,
    /// As it is written.
    pub(crate) document: Value,
    /// As types, with variables in their places.
    pub(crate) config: GatewayConfig,
    /// SHA-256 over the canonical JSON of the document.
    pub(crate) sha256: String,
}

/// Why a config may not be used: one line for each fault, `file:line:column: key: reason; allowed: ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Refused {}

/// Reads the file and holds it against every rule.
///
/// # Errors
/// [`Refused`], also when the file cannot be read.
pub(crate) fn load(path: &Path, variables: Variables) -> Result<Loaded, Refused> {
    let text = read(path).map_err(|reason| Refused(vec![format!("{}:1:1: (file): {reason}", path.display())]))?;
    parse(path, &text, variables)
}

/// The same for a text that stands, or will stand, at `path`.
pub(crate) fn parse(path: &Path, text: &str, variables: Variables) -> Result<Loaded, Refused> {
    let root = json5::parse(text).map_err(|fault| {
        let key = if fault.key.is_empty() { "(syntax)" } else { &fault.key };
        Refused(vec![line(path, text, fault.at, key, &fault.reason)])
    })?;
    let document = root.to_value();
    let refused = |issues: Vec<Issue>| refusal(path, text, &root, &issues);
    let resolved = variables::fill(&document, &variables).map_err(refused)?;
    config::literal_secrets(&resolved).iter().for_each(hush::keep);
    let config = config::check(&resolved).map_err(refused)?;
    Ok(Loaded {
        path: path.to_owned(),
        sha256: digest::sha256(&document),
        document,
        config,
    })
}

/// The text of the file.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let fault = |error: std::io::Error| format!("cannot be read: {error}");
    // Looked at before it is opened: opening a pipe waits for somebody to write.
    if !std::fs::metadata(path).map_err(fault)?.is_file() {
        return Err("is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fault)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("is too large; allowed: at most {MAX_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

/// One line for each, in the order of the text; what is missing comes after what is there beside it.
fn refusal(path: &Path, text: &str, root: &Node, issues: &[Issue]) -> Refused {
    let mut placed: Vec<(Place, &Issue)> = issues.iter().map(|issue| (locate(root, &issue.path), issue)).collect();
    placed.sort_by_key(|(place, _)| place.order);
    let shown = |(place, issue): (Place, &Issue)| {
        let allowed = if issue.allowed.is_empty() {
            String::new()
        } else {
            format!("; allowed: {}", issue.allowed)
        };
        let reason = format!("{}{allowed}", issue.reason);
        line(path, text, place.at, &issue.path.to_string(), &reason)
    };
    Refused(placed.into_iter().map(shown).collect())
}

fn line(path: &Path, text: &str, at: usize, key: &str, reason: &str) -> String {
    let (line, column) = line_and_column(text, at);
    format!("{}:{line}:{column}: {key}: {reason}", path.display())
}

/// Where something stands in the text, and where it comes among others.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    order: usize,
}

/// Where a path stands in the text: the key, where there is one; for a missing key the nearest that contains it.
fn locate(root: &Node, path: &config::Path) -> Place {
    let mut node = root;
    let mut at = root.at;
    for segment in path.segments() {
        let next = match (segment, &node.kind) {
            (config::Segment::Key(key), Kind::Object(members)) => members
                .iter()
                .find(|member| member.key == *key)
                .map(|member| (member.at, &member.node)),
            (config::Segment::Index(index), Kind::Array(items)) => items.get(*index).map(|item| (item.at, item)),
            _ => None,
        };
        let Some((next_at, next_node)) = next else {
            let order = last(node);
            return Place { at, order };
        };
        (at, node) = (next_at, next_node);
    }
    Place { at, order: at }
}

/// Where the last thing in a value begins.
fn last(node: &Node) -> usize {
    match &node.kind {
        Kind::Scalar(_) => node.at,
        Kind::Array(items) => items.last().map_or(node.at, last),
        Kind::Object(members) => members.last().map_or(node.at, |member| last(&member.node)),
    }
}

/// All keys, for the page of the config.
pub(crate) fn listed() -> Value {
    let row = |key: config::Key| {
        let takes = match key.takes {
            config::Takes::Hot => "at once",
            config::Takes::Restart => "start",
        };
        json!({
            "path": key.path, "about": key.about, "allowed": key.allowed, "default": key.default, "required": key.required,
            "takes": takes,
        })
    };
    config::keys().into_iter().map(row).collect()
}

#[cfg(test)]
mod tests;
