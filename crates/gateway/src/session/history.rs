//! Pages of history: the rows that people see, over all sessions that a key had, from the newest back.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::file::{self, Line, Lines};
use super::index;
use super::line::{Glance, Note, Sort};
use super::row::Row;

/// How many bytes of rows one page may have; the oldest rows of a larger one are left to the next page.
const MAX_PAGE: usize = 8 * 1024 * 1024;

/// Which part of the history is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// So many rows.
    pub(crate) limit: u64,
    /// After passing over so many of the newest.
    pub(crate) offset: u64,
    /// Texts end after so many characters.
    pub(crate) max_chars: usize,
    /// Of this session alone.
    pub(crate) session_id: Option<String>,
}

/// A part of the history.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page {
    /// Rows, the oldest first.
    pub(crate) rows: Vec<Value>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// Where the next older page begins; none when there is none.
    pub(crate) next_offset: Option<u64>,
}

/// What is needed of one session to read its rows.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    path: PathBuf,
    /// Number of its first row.
    pub(super) base: u64,
    /// Where what is known of the file ends.
    bytes: u64,
    /// Where to begin to read, and how many rows to pass over from there.
    from: (u64, u64),
    /// How many to read.
    count: u64,
}

impl Segment {
    /// Number of the last row that is wanted.
    pub(super) fn last_seq(&self) -> u64 {
        self.base + self.count
    }
}

/// Numbers of the first rows of the sessions of a key. What is appended to an old session later pushes the others on.
pub(super) fn bases(rows: &[Row]) -> Vec<u64> {
    let mut next = 0;
    rows.iter()
        .map(|row| {
            let base = row.base.max(next);
            next = base + row.rows;
            base
        })
        .collect()
}

/// What is to be read for a wish, the oldest first; and how many rows there are.
pub(super) fn plan(directory: &Path, rows: &[Row], wish: &Wish) -> (Vec<Segment>, u64) {
    let bases = bases(rows);
    let wanted: Vec<(&Row, u64)> = rows
        .iter()
        .zip(bases)
        .filter(|(row, _)| wish.session_id.as_ref().is_none_or(|id| *id == row.id))
        .collect();
    let total: u64 = wanted.iter().map(|(row, _)| row.rows).sum();
    let end = total.saturating_sub(wish.offset);
    let begin = end.saturating_sub(wish.limit);
    let mut before = 0;
    let mut segments = Vec::new();
    for (row, base) in wanted {
        let (from, to) = (begin.max(before), end.min(before + row.rows));
        if from < to {
            segments.push(Segment {
                path: file::path(directory, &row.id),
                base: base + (from - before),
                bytes: row.bytes,
                from: row.seek(from - before),
                count: to - from,
            });
        }
        before += row.rows;
    }
    (segments, total)
}

/// Reads a page.
pub(super) fn read(segments: &[Segment], total: u64, wish: &Wish) -> io::Result<Page> {
    let mut rows: VecDeque<(Value, usize)> = VecDeque::new();
    let mut size = 0;
    for segment in segments {
        each_row(segment, |seq, _, length, line, glance| {
            let row = shown(line, glance, seq, length, wish.max_chars);
            let bytes = weight(&row);
            size += bytes;
            rows.push_back((row, bytes));
            while size > MAX_PAGE && rows.len() > 1 {
                size -= rows.pop_front().map_or(0, |(_, bytes)| bytes);
            }
            true
        })?;
    }
    let reached = wish.offset.min(total) + rows.len() as u64;
    Ok(Page {
        rows: rows.into_iter().map(|(row, _)| row).collect(),
        total,
        next_offset: (reached < total).then_some(reached),
    })
}

/// Walks over the wanted rows of a session: number, place, length, line, look. Ends early when told so.
pub(super) fn each_row(
    segment: &Segment,
    mut visit: impl FnMut(u64, u64, u64, &Line<'_>, &Glance) -> bool,
) -> io::Result<()> {
    let mut lines = Lines::new(open(&segment.path)?, segment.from.0, segment.bytes);
    let (mut pass_over, mut left) = (segment.from.1, segment.count);
    let mut seq = segment.base;
    while left > 0 {
        let Some((at, length, line)) = lines.next()? else { break };
        let glance = index::glance(&line);
        if !glance.is_row() {
            continue;
        }
        if pass_over > 0 {
            pass_over -= 1;
            continue;
        }
        // People count from one.
        seq += 1;
        left -= 1;
        if !visit(seq, at, length, &line, &glance) {
            break;
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    file::open(path)
}

/// A row as clients see it: always with a role and content, and with our name for it.
pub(super) fn shown(line: &Line<'_>, glance: &Glance, seq: u64, length: u64, max_chars: usize) -> Value {
    let unreadable = || {
        let text = format!("[an unreadable line of {length} bytes was passed over]");
        let id = glance.id.clone().unwrap_or_else(|| format!("line-{seq}"));
        note(&text, "unreadable", &id, seq, glance.at_ms)
    };
    let Line::Whole(bytes) = line else { return unreadable() };
    let id = glance.id.clone().unwrap_or_else(|| format!("row-{seq}"));
    match &glance.sort {
        Sort::Said(_) => said(bytes, &id, seq, glance.at_ms, max_chars).unwrap_or_else(unreadable),
        Sort::Own(own) => match &**own {
            Note::Begin { why, .. } => note(why.sentence(), "reset", &id, seq, glance.at_ms),
            Note::Patch { .. } | Note::Anchor { .. } | Note::Spent { .. } => unreadable(),
        },
        Sort::Compaction => {
            let summary = field(bytes, |text: Texts| text.summary).unwrap_or_default();
            note(&clipped(&summary, max_chars), "compaction", &id, seq, glance.at_ms)
        }
        Sort::Shown => {
            let content = field(bytes, |text: Texts| text.content).unwrap_or_default();
            let mut row = note("", "note", &id, seq, glance.at_ms);
            if let Some(place) = row.get_mut("content") {
                *place = parts(content, max_chars);
            }
            row
        }
        Sort::Broken | Sort::Blank | Sort::Header | Sort::Hidden => unreadable(),
    }
}

#[derive(Deserialize)]
struct Texts {
    #[serde(default)]
    summary: String,
    #[serde(default)]
    content: Value,
}

fn field<T>(bytes: &[u8], pick: impl FnOnce(Texts) -> T) -> Option<T> {
    serde_json::from_slice(bytes).ok().map(pick)
}

/// A row of the gateway itself.
fn note(text: &str, kind: &str, id: &str, seq: u64, at_ms: Option<i64>) -> Value {
    json!({
        "role": "system", "content": [{"type": "text", "text": text}], "timestamp": at_ms.unwrap_or(0),
        "__openclaw": {"id": id, "seq": seq, "kind": kind}
    })
}

/// What somebody said; none when it is nested too deeply to be read.
fn said(bytes: &[u8], id: &str, seq: u64, at_ms: Option<i64>, max_chars: usize) -> Option<Value> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        message: Value,
    }
    let entry: Entry = serde_json::from_slice(bytes).ok()?;
    let mut message = match entry.message {
        Value::Object(message) => message,
        _ => Map::new(),
    };
    if !message.get("role").is_some_and(Value::is_string) {
        message.insert("role".to_owned(), json!("system"));
    }
    let content = message.remove("content").unwrap_or_default();
    message.insert("content".to_owned(), parts(content, max_chars));
    if !message.get("timestamp").is_some_and(Value::is_number) {
        message.insert("timestamp".to_owned(), json!(at_ms.unwrap_or(0)));
    }
    message.insert("__openclaw".to_owned(), json!({"id": id, "seq": seq}));
    Some(Value::Object(message))
}

/// Content as a list of parts whose texts end somewhere. Pictures are not sent along: a client that wants one asks for the message.
fn parts(content: Value, max_chars: usize) -> Value {
    let list = match content {
        Value::Array(list) => list,
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        _ => Vec::new(),
    };
    let part = |part: Value| {
        let Value::Object(mut part) = part else {
            return json!({"type": "text", "text": clipped(&part.to_string(), max_chars)});
        };
        for key in ["text", "thinking"] {
            if let Some(Value::String(text)) = part.get_mut(key)
                && text.len() > max_chars
            {
                *text = clipped(text, max_chars);
            }
        }
        if let Some(Value::String(data)) = part.get("data") {
            let bytes = data.len();
            part.remove("data");
            part.insert("omitted".to_owned(), json!(true));
            part.insert("bytes".to_owned(), json!(bytes));
        }
        Value::Object(part)
    };
    Value::Array(list.into_iter().map(part).collect())
}

/// A text that ends after so many characters, and says so.
fn clipped(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}\n…(truncated)…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// About how many bytes a value has on the wire.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| weight(item) + 1).sum::<usize>() + 2,
        Value::Object(map) => {
            map.iter()
                .map(|(key, value)| key.len() + weight(value) + 4)
                .sum::<usize>()
                + 2
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}
