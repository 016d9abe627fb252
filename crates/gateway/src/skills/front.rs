//! The head of a SKILL.md: YAML between two lines of dashes.

use serde::Deserialize;
use serde_json::Value;

/// Characters of a name, and of a description.
const MOST_NAME: usize = 64;
const MOST_DESCRIPTION: usize = 1024;

/// Names of one kind that are looked at.
const MOST_NEEDS: usize = 32;

/// Bytes of a head.
const MOST_HEAD: usize = 16 * 1024;

/// What a skill needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Needs {
    /// Programs, all of them.
    pub(crate) bins: Vec<String>,
    /// Programs, one of them.
    pub(crate) any_bins: Vec<String>,
    /// Variables that commands have.
    pub(crate) env: Vec<String>,
    /// Keys of the config.
    pub(crate) config: Vec<String>,
    /// Systems.
    #[serde(skip)]
    pub(crate) os: Vec<String>,
}

/// What a head says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) name: Option<String>,
    pub(super) description: String,
    pub(super) needs: Needs,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    metadata: Value,
}

/// Reads a head.
///
/// # Errors
/// What is wrong with it, with the line where that is known.
pub(super) fn read(text: &str) -> Result<Head, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n');
    if lines.next().is_none_or(|line| line.trim_end() != "---") {
        return Err("it has no head: its first line must be ---, then name: and description:, then ---".to_owned());
    }
    let mut head = String::new();
    let mut closed = false;
    for line in lines {
        if line.trim_end() == "---" {
            closed = true;
            break;
        }
        head.push_str(line);
        if head.len() > MOST_HEAD {
            return Err(format!("its head has more than {MOST_HEAD} bytes"));
        }
    }
    if !closed {
        return Err("its head has no end: a line --- is missing".to_owned());
    }
    if let Some(line) = head.lines().position(has_anchor) {
        return Err(format!("line {}: anchors (&name) are not understood here", line + 2));
    }
    let raw: Raw = serde_yaml::from_str(&head).map_err(|error| {
        let line = error.location().map_or(1, |at| at.line() + 1);
        let words = plain(&error.to_string(), 200);
        format!("line {line}: {words}")
    })?;
    let description = raw
        .description
        .as_deref()
        .map(|words| plain(words, MOST_DESCRIPTION))
        .unwrap_or_default();
    if description.is_empty() {
        return Err("its head has no description".to_owned());
    }
    Ok(Head {
        name: raw
            .name
            .as_deref()
            .map(|name| plain(name, MOST_NAME))
            .filter(|name| !name.is_empty()),
        description,
        needs: needs(&raw.metadata)?,
    })
}

/// Might this line name a value that others repeat? A head of a few kilobytes could stand for gigabytes that way, so there are none.
fn has_anchor(line: &str) -> bool {
    let mut before = ' ';
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let begins = before.is_whitespace() || matches!(before, '[' | '{' | ',' | ':' | '-' | '?');
        if c == '&' && begins && chars.peek().is_some_and(|next| !next.is_whitespace() && *next != '&') {
            return true;
        }
        before = c;
    }
    false
}

/// One line, bounded.
fn plain(words: &str, most: usize) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// What stands under the name of the family; some write it as a text that holds JSON.
fn needs(metadata: &Value) -> Result<Needs, String> {
    let own = ["koi", "openclaw", "clawdbot"]
        .iter()
        .find_map(|name| metadata.get(name));
    let Some(own) = own else {
        return Ok(Needs::default());
    };
    let parsed;
    let own = match own {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text).map_err(|error| format!("metadata: {error}"))?;
            &parsed
        }
        own => own,
    };
    let mut needs = match own.get("requires") {
        None | Some(Value::Null) => Needs::default(),
        Some(requires) => Needs::deserialize(requires).map_err(|error| format!("metadata.requires: {error}"))?,
    };
    needs.os = match own.get("os") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    for names in [
        &mut needs.bins,
        &mut needs.any_bins,
        &mut needs.env,
        &mut needs.config,
        &mut needs.os,
    ] {
        names.truncate(MOST_NEEDS);
        for name in names {
            *name = plain(name, MOST_NAME);
        }
    }
    Ok(needs)
}
