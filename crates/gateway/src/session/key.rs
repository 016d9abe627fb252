//! Session keys: which conversation a message belongs to.
//!
//! A key is text with a fixed beginning, `agent:<id>:...`, or one of the two that stand outside of an agent: `global` and `hook:<id>`.
//! Words that belong to the structure are compared without their case; ids of peers, groups and threads keep it, since two rooms whose
//! ids differ in case alone are two rooms.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use koi_wire::config::DmScope;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::server::DEFAULT_AGENT;

/// The longest key, in bytes.
pub(crate) const MAX_KEY: usize = 512;

/// The longest id of an agent.
const MAX_AGENT: usize = 64;

/// How the ids of those sub-agents begin that work for a conversation in which others take part.
const SHARED: &str = "shared-";

/// A normalised session key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct SessionKey(Arc<str>);

/// What sort of conversation a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The agent's main conversation.
    Main,
    /// With one peer.
    Direct,
    /// A group.
    Group,
    /// A room or channel.
    Channel,
    /// A thread of any of them.
    Thread,
    /// A scheduled job.
    Cron,
    /// A sub-agent.
    Subagent,
    /// A webhook.
    Hook,
    /// A terminal of its own.
    Tui,
    /// The one conversation of everybody.
    Global,
    /// Anything else below an agent.
    Other,
}

/// Why a text is no session key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum KeyError {
    /// Nothing in it.
    #[error("must not be empty")]
    Empty,
    /// Too much in it.
    #[error("must not have more than {MAX_KEY} bytes")]
    Long,
    /// A character that no key has.
    #[error("must not contain control characters")]
    Control,
    /// `agent:` without an id or without a rest.
    #[error("must be agent:<id>:<conversation>, main, global, cron:<job> or hook:<id>")]
    Shape,
    /// An id of an agent that none can have.
    #[error("names an agent by what is no id: letters, digits, - and _, at most {MAX_AGENT}")]
    Agent,
}

/// Who wrote, and where, as a channel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer<'a> {
    /// Name of the channel, such as `telegram`.
    pub(crate) channel: &'a str,
    /// Which of the channel's accounts; `default` when there is one only.
    pub(crate) account: &'a str,
    /// The peer's id in the channel.
    pub(crate) id: &'a str,
}

impl SessionKey {
    /// Reads a key of the default agent, or one that names its agent.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(crate) fn parse(text: &str) -> Result<Self, KeyError> {
        Self::parse_for(DEFAULT_AGENT, text)
    }

    /// Reads a key; where it names no agent, it belongs to this one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(crate) fn parse_for(agent: &str, text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > MAX_KEY {
            return Err(KeyError::Long);
        }
        if text.chars().any(char::is_control) {
            return Err(KeyError::Control);
        }
        let (first, rest) = text.split_once(':').unwrap_or((text, ""));
        if text.eq_ignore_ascii_case("global") {
            return Ok(Self::global());
        }
        if first.eq_ignore_ascii_case("hook") && !rest.is_empty() {
            return Ok(Self(format!("hook:{rest}").into()));
        }
        let (agent, rest) = if first.eq_ignore_ascii_case("agent") {
            rest.split_once(':').ok_or(KeyError::Shape)?
        } else {
            (agent, text)
        };
        let agent = agent.to_ascii_lowercase();
        if !is_agent(&agent) {
            return Err(KeyError::Agent);
        }
        if rest.is_empty() {
            return Err(KeyError::Shape);
        }
        let key = format!("agent:{agent}:{}", normal_rest(rest));
        if key.len() > MAX_KEY {
            return Err(KeyError::Long);
        }
        Ok(Self(key.into()))
    }

    /// The main conversation of an agent.
    pub(crate) fn main(agent: &str) -> Self {
        Self::below(agent, "main")
    }

    /// The one conversation of everybody, with `session.scope: global`.
    pub(crate) fn global() -> Self {
        Self("global".into())
    }

    /// A group of a channel.
    pub(crate) fn group(agent: &str, channel: &str, group: &str) -> Self {
        Self::below(agent, &format!("{}:group:{}", part(channel), part(group)))
    }

    /// A room of a channel.
    pub(crate) fn channel(agent: &str, channel: &str, room: &str) -> Self {
        Self::below(agent, &format!("{}:channel:{}", part(channel), part(room)))
    }

    /// A thread within this conversation.
    pub(crate) fn thread(&self, thread: &str) -> Self {
        Self(bounded(format!("{}:thread:{}", self.0, part(thread))))
    }

    /// A scheduled job.
    pub(crate) fn cron(agent: &str, job: &str) -> Self {
        Self::below(agent, &format!("cron:{}", part(job)))
    }

    /// A sub-agent of this conversation.
    pub(crate) fn subagent(&self, agent: &str, id: &str) -> Self {
        let whose = if self.is_private() { "" } else { SHARED };
        Self::below(agent, &format!("subagent:{whose}{}", part(id)))
    }

    /// A webhook.
    pub(crate) fn hook(id: &str) -> Self {
        Self(bounded(format!("hook:{}", part(id))))
    }

    /// A terminal of its own.
    pub(crate) fn tui(agent: &str, id: &str) -> Self {
        Self::below(agent, &format!("tui-{}", part(id)))
    }

    /// The conversation with one peer, as `session.dmScope` keeps them apart. Peers that `session.identityLinks` takes for one person
    /// share the conversation of that person.
    pub(crate) fn direct(
        agent: &str,
        scope: DmScope,
        peer: &Peer<'_>,
        links: Option<&BTreeMap<String, Vec<String>>>,
    ) -> Self {
        let (channel, account) = (part(peer.channel), part(peer.account));
        let id = part(linked(peer, links));
        match scope {
            DmScope::Main => Self::main(agent),
            DmScope::PerPeer => Self::below(agent, &format!("direct:{id}")),
            DmScope::PerChannelPeer => Self::below(agent, &format!("{channel}:direct:{id}")),
            DmScope::PerAccountChannelPeer => Self::below(agent, &format!("{channel}:{account}:direct:{id}")),
        }
    }

    fn below(agent: &str, rest: &str) -> Self {
        Self(bounded(format!("agent:{}:{rest}", part(agent).to_ascii_lowercase())))
    }

    /// The text of the key.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The agent that the conversation is with.
    pub(crate) fn agent(&self) -> &str {
        self.0
            .strip_prefix("agent:")
            .and_then(|rest| rest.split(':').next())
            .unwrap_or(DEFAULT_AGENT)
    }

    /// What sort of conversation it is.
    pub(crate) fn kind(&self) -> Kind {
        let Some(rest) = self.rest() else {
            return if &*self.0 == "global" { Kind::Global } else { Kind::Hook };
        };
        let parts: Vec<&str> = rest.split(':').collect();
        match parts.as_slice() {
            ["main"] => Kind::Main,
            [.., "thread", _] => Kind::Thread,
            ["cron", ..] => Kind::Cron,
            ["subagent", ..] => Kind::Subagent,
            ["hook", ..] => Kind::Hook,
            ["direct", ..] | [_, "direct", ..] | [_, _, "direct", ..] => Kind::Direct,
            [_, "group", ..] => Kind::Group,
            [_, "channel", ..] => Kind::Channel,
            [first, ..] if first.starts_with("tui-") => Kind::Tui,
            _ => Kind::Other,
        }
    }

    /// Nobody but the owner takes part: what the agent knows of its owner, and other conversations, are for nobody else.
    pub(crate) fn is_private(&self) -> bool {
        match self.kind() {
            Kind::Group | Kind::Channel | Kind::Thread | Kind::Hook | Kind::Other => false,
            Kind::Subagent => !self.0.contains(&format!(":subagent:{SHARED}")),
            Kind::Main | Kind::Direct | Kind::Cron | Kind::Tui | Kind::Global => true,
        }
    }

    /// It is always there: it can begin anew, but not go away.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self.kind(), Kind::Main | Kind::Global)
    }

    /// The channel that the key names.
    pub(crate) fn channel_name(&self) -> Option<&str> {
        let mut parts = self.rest()?.split(':');
        let (first, second, third) = (parts.next()?, parts.next()?, parts.next());
        let word = |part: &str| matches!(part, "direct" | "group" | "channel");
        (!word(first) && (word(second) || third == Some("direct"))).then_some(first)
    }

    /// Is there nobody on the other side of it? Jobs, hooks and sub-agents.
    pub(crate) fn is_background(&self) -> bool {
        matches!(self.kind(), Kind::Cron | Kind::Hook | Kind::Subagent)
    }

    fn rest(&self) -> Option<&str> {
        self.0.strip_prefix("agent:")?.split_once(':').map(|(_, rest)| rest)
    }
}

/// An id within a key: a colon in it would make another structure of it, nothing would make none.
fn part(id: &str) -> String {
    let id: String = id
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .map(|c| match c {
            '%' => "%25".to_owned(),
            ':' => "%3A".to_owned(),
            c => c.to_string(),
        })
        .collect();
    if id.is_empty() { "unknown".to_owned() } else { id }
}

/// A key that would be too long ends in a digest of what does not fit, so that two of them stay two.
fn bounded(key: String) -> Arc<str> {
    use sha2::{Digest, Sha256};
    if key.len() <= MAX_KEY {
        return key.into();
    }
    let digest = hex::encode(Sha256::digest(key.as_bytes()));
    let mut end = MAX_KEY - digest.len() - 1;
    while !key.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{digest}", key.get(..end).unwrap_or_default()).into()
}

/// The name of the person whom a peer is one face of; the peer's own id where nobody said so.
fn linked<'a>(peer: &Peer<'a>, links: Option<&'a BTreeMap<String, Vec<String>>>) -> &'a str {
    let is = |face: &String| {
        face.split_once(':')
            .is_some_and(|(channel, id)| channel.eq_ignore_ascii_case(peer.channel) && id == peer.id)
    };
    let person = links.and_then(|links| links.iter().find(|(_, faces)| faces.iter().any(is)));
    person.map_or(peer.id, |(name, _)| name)
}

/// Words of the structure in lower case, and the old name of direct conversations by its new one. What stands where an id or the name of
/// a channel stands is left as it is: a channel may be called `dm`.
fn normal_rest(rest: &str) -> String {
    let mut parts: Vec<String> = rest.split(':').map(str::to_owned).collect();
    let is = |part: &str, words: &[&str]| words.iter().any(|word| part.eq_ignore_ascii_case(word));
    // A thread comes after anything else.
    let threaded = parts.len() > 2 && is(&parts[parts.len() - 2], &["thread"]);
    let head = parts.len() - if threaded { 2 } else { 0 };
    let word = match head {
        1 if is(&parts[0], &["main"]) => Some(0),
        2.. if is(&parts[0], &["cron", "subagent"]) => Some(0),
        2 if is(&parts[0], &["direct", "dm"]) => Some(0),
        3 if is(&parts[1], &["direct", "dm", "group", "channel"]) => Some(1),
        4 if is(&parts[2], &["direct", "dm"]) => Some(2),
        _ => None,
    };
    let thread = threaded.then_some(head);
    for at in word.into_iter().chain(thread) {
        if let Some(part) = parts.get_mut(at) {
            *part = match part.to_ascii_lowercase().as_str() {
                "dm" => "direct".to_owned(),
                other => other.to_owned(),
            };
        }
    }
    parts.join(":")
}

fn is_agent(id: &str) -> bool {
    (1..=MAX_AGENT).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SessionKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::parse(&text)
    }
}

impl From<SessionKey> for String {
    fn from(key: SessionKey) -> Self {
        key.0.to_string()
    }
}

#[cfg(test)]
mod tests;
