//! What the model sees of a session: the end of its transcript, from the last summary on, as a conversation that models accept.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::Context;
use super::entry::{Body, Content, Known, Message, Part};
use super::file::{self, Line, Lines};
use super::line::{Glance, Sort};
use super::row::Row;

/// An entry of the tree.
#[derive(Debug, PartialEq)]
struct Node {
    id: String,
    parent: Option<String>,
    body: Option<Body>,
    bytes: u64,
}

/// Where to read, taken from what is known of the session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from: u64,
    end: u64,
    most: u64,
    compacted_at: Option<u64>,
}

impl Window {
    /// The last `most` bytes of a transcript.
    pub(super) fn of(row: &Row, most: u64) -> Self {
        let begin = row.bytes.saturating_sub(most);
        let mark = row.marks.partition_point(|mark| *mark <= begin);
        let from = mark.checked_sub(1).and_then(|at| row.marks.get(at)).copied();
        Self {
            from: from.unwrap_or(0),
            end: row.bytes,
            most,
            compacted_at: row.compacted_at,
        }
    }
}

/// Reads what the model sees.
pub(super) fn read(path: &Path, window: Window) -> io::Result<Context> {
    let seen = seen(path, window)?;
    let messages = seen.nodes.into_iter().filter_map(|node| said(node.body?));
    Ok(Context {
        summary: seen.summary,
        messages: conversation(messages.collect()),
    })
}

/// The same, up to this entry; none when that is where it begins already.
pub(super) fn read_before(path: &Path, window: Window, end: &str) -> io::Result<Option<Context>> {
    let seen = seen(path, window)?;
    let before = seen.nodes.into_iter().take_while(|node| node.id != end);
    let messages: Vec<Message> = before.filter_map(|node| said(node.body?)).collect();
    Ok((!messages.is_empty()).then(|| Context {
        summary: seen.summary,
        messages: conversation(messages),
    }))
}

/// Entries that the model sees, and the summary before them.
struct Seen {
    summary: Option<String>,
    nodes: Vec<Node>,
}

fn seen(path: &Path, window: Window) -> io::Result<Seen> {
    let mut nodes = path_to_leaf(nodes(path, window)?);
    let compaction = nodes
        .iter()
        .rposition(|node| matches!(node.body, Some(Body::Compaction { .. })));
    let (mut summary, mut kept) = (None, 0);
    match compaction.and_then(|at| Some((at, nodes.get(at)?.body.as_ref()?))) {
        Some((
            at,
            Body::Compaction {
                summary: text,
                first_kept_entry_id,
                ..
            },
        )) => {
            summary = Some(text.clone());
            let first = nodes.iter().take(at).position(|node| node.id == *first_kept_entry_id);
            kept = first.unwrap_or(at);
        }
        // The session went on for long since.
        _ => summary = summary.or_else(|| window.compacted_at.and_then(|at| summary_at(path, at, window.end))),
    }
    nodes.drain(..kept);
    Ok(Seen { summary, nodes })
}

/// What was said under these runs, oldest first.
pub(super) fn written(path: &Path, window: Window, runs: &[String]) -> io::Result<Vec<(String, Message)>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        run_id: String,
        message: Message,
    }
    // As they stand in the lines, which we wrote.
    let texts: Vec<String> = runs
        .iter()
        .map(|run| serde_json::Value::from(run.as_str()).to_string())
        .collect();
    let wanted: Vec<_> = texts.iter().map(memchr::memmem::Finder::new).collect();
    let mut lines = Lines::new(file::open(path)?, window.from, window.end);
    let mut found = Vec::new();
    while let Some((_, _, line)) = lines.next()? {
        let Line::Whole(line) = line else { continue };
        // Most lines are of other runs: they are not read any further.
        if !wanted.iter().any(|run| run.find(line).is_some()) {
            continue;
        }
        if let Ok(entry) = serde_json::from_slice::<Entry>(line)
            && runs.contains(&entry.run_id)
        {
            found.push((entry.run_id, entry.message));
        }
    }
    Ok(found)
}

/// The entries of a window, as many of the last ones as fit.
fn nodes(path: &Path, window: Window) -> io::Result<Vec<Node>> {
    let mut lines = Lines::new(file::open(path)?, window.from, window.end);
    let mut nodes: VecDeque<Node> = VecDeque::new();
    let mut size = 0;
    while let Some((_, length, line)) = lines.next()? {
        let Line::Whole(line) = line else { continue };
        let Some(node) = node(line, length) else { continue };
        size += length;
        nodes.push_back(node);
        while size > window.most && nodes.len() > 1 {
            size -= nodes.pop_front().map_or(0, |node| node.bytes);
        }
    }
    Ok(nodes.into())
}

fn node(line: &[u8], bytes: u64) -> Option<Node> {
    said_node(line, bytes).or_else(|| any_node(line, bytes))
}

/// A line in which somebody says something, as this gateway and the family write it: nearly all of them, and every turn reads them all. None
/// where it is not just that.
fn said_node(line: &[u8], bytes: u64) -> Option<Node> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        id: String,
        #[serde(default)]
        parent_id: Option<String>,
        message: Message,
    }
    let plain = line.starts_with(br#"{"type":"message","#);
    let entry: Entry = serde_json::from_str(std::str::from_utf8(line).ok().filter(|_| plain)?).ok()?;
    Some(Node {
        id: entry.id,
        parent: entry.parent_id,
        body: Some(Body::Message { message: entry.message }),
        bytes,
    })
}

fn any_node(line: &[u8], bytes: u64) -> Option<Node> {
    let glance = Glance::of(line);
    if matches!(glance.sort, Sort::Blank | Sort::Broken | Sort::Header) {
        return None;
    }
    let value: Value = serde_json::from_slice(line.trim_ascii()).ok()?;
    let parent = value.get("parentId").and_then(Value::as_str).map(str::to_owned);
    Some(Node {
        id: glance.id.unwrap_or_default(),
        parent,
        body: Body::deserialize(value).ok(),
        bytes,
    })
}

/// Of a tree only what leads to its last entry. Files of old have neither ids nor parents: they are taken as they are. Where the parent of an
/// entry cannot be read, what stands before it is taken for it: a damaged line costs itself, and not all that was said before it.
fn path_to_leaf(nodes: Vec<Node>) -> Vec<Node> {
    let Some(leaf) = nodes.iter().rposition(|node| !node.id.is_empty()) else {
        return nodes;
    };
    let mut on_path = vec![false; nodes.len()];
    let mut places: Option<HashMap<&str, usize>> = None;
    let mut at = Some(leaf);
    while let Some((place, node)) = at.and_then(|place| Some((place, nodes.get(place)?))) {
        // A circle ends where it began.
        if on_path.get_mut(place).is_none_or(|seen| std::mem::replace(seen, true)) {
            break;
        }
        at = node.parent.as_deref().and_then(|parent| {
            let before = nodes.iter().take(place).rposition(|node| !node.id.is_empty());
            // Nearly always the parent is the one before.
            if before
                .and_then(|before| nodes.get(before))
                .is_some_and(|node| node.id == parent)
            {
                return before;
            }
            let places = places.get_or_insert_with(|| places_of(&nodes));
            places.get(parent).copied().or(before)
        });
    }
    let taken = nodes.into_iter().zip(on_path);
    let taken = taken.filter(|(node, on_path)| *on_path || node.id.is_empty());
    taken.map(|(node, _)| node).collect()
}

fn places_of(nodes: &[Node]) -> HashMap<&str, usize> {
    let named = nodes.iter().enumerate().filter(|(_, node)| !node.id.is_empty());
    named.map(|(place, node)| (node.id.as_str(), place)).collect()
}

fn summary_at(path: &Path, at: u64, end: u64) -> Option<String> {
    let mut lines = Lines::new(file::open(path).ok()?, at, end);
    let (_, _, Line::Whole(line)) = lines.next().ok()?? else {
        return None;
    };
    match serde_json::from_slice(line).ok()? {
        Body::Compaction { summary, .. } => Some(summary),
        _ => None,
    }
}

/// What an entry says to the model.
fn said(body: Body) -> Option<Message> {
    match body {
        Body::Message { message } => Some(message),
        Body::CustomMessage { content, .. } => Some(Message::User { content, timestamp: 0 }),
        Body::BranchSummary { summary, .. } => Some(Message::user(summary, 0)),
        Body::ModelChange { .. } | Body::ThinkingLevelChange { .. } | Body::Compaction { .. } | Body::Custom { .. } => {
            None
        }
    }
}

/// Makes a conversation of messages that a model accepts: it begins with a person's words, every result has its call right before it, and
/// every call its result. What was cut off in the middle leaves calls without results: they get one that says so.
pub(super) fn conversation(messages: Vec<Message>) -> Vec<Message> {
    let mut done: Vec<Message> = Vec::with_capacity(messages.len());
    let mut open: Vec<(String, String)> = Vec::new();
    for message in messages {
        match &message {
            Message::ToolResult { tool_call_id, .. } => {
                let Some(at) = open.iter().position(|(id, _)| id == tool_call_id) else {
                    continue;
                };
                open.remove(at);
            }
            Message::User { .. } | Message::Assistant(_) => {
                close(&mut done, &mut open);
                if done.is_empty() && matches!(message, Message::Assistant(_)) {
                    continue;
                }
                open = calls(&message);
            }
        }
        done.push(message);
    }
    close(&mut done, &mut open);
    done
}

fn calls(message: &Message) -> Vec<(String, String)> {
    let Message::Assistant(answer) = message else {
        return Vec::new();
    };
    let parts = answer.content.0.iter().filter_map(|part| match part {
        Part::Known(Known::ToolCall { id, name, .. }) => Some((id.clone(), name.clone())),
        _ => None,
    });
    parts.collect()
}

fn close(done: &mut Vec<Message>, open: &mut Vec<(String, String)>) {
    for (id, name) in open.drain(..) {
        done.push(Message::ToolResult {
            tool_call_id: id,
            tool_name: name,
            content: Content::text("[no result: the run was interrupted]"),
            is_error: true,
            timestamp: 0,
        });
    }
}

#[cfg(test)]
mod tests;
