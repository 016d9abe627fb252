//! The index: `sessions.json` beside the transcripts. What it says of a transcript is believed as far as the file is as long as it says;
//! the rest is read from the file. Without it, everything is.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::{info, warn};

use super::file::{self, Line, Lines, SUFFIX};
use super::key::{Kind, SessionKey};
use super::line::Glance;
use super::row::Row;

/// Name of the index.
pub(super) const NAME: &str = "sessions.json";

/// What the index says of a key; the first part is for the family's tools, the last is ours.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    session_id: String,
    #[serde(default, skip_deserializing)]
    updated_at: i64,
    #[serde(default, skip_deserializing)]
    session_file: String,
    #[serde(default, skip_deserializing)]
    chat_type: &'static str,
    #[serde(default, skip_deserializing)]
    input_tokens: u64,
    #[serde(default, skip_deserializing)]
    output_tokens: u64,
    #[serde(default, skip_deserializing)]
    total_tokens: u64,
    /// Label, model and so on, under their own names.
    #[serde(flatten, skip_deserializing)]
    meta: Map<String, Value>,
    /// All sessions of the key.
    #[serde(default)]
    skykoi: Vec<Row>,
}

/// The word of the family for a sort of conversation.
pub(super) fn chat_type(key: &SessionKey) -> &'static str {
    match key.kind() {
        Kind::Group => "group",
        Kind::Channel => "channel",
        Kind::Thread if key.as_str().contains(":channel:") => "channel",
        Kind::Thread if key.as_str().contains(":group:") => "group",
        _ => "direct",
    }
}

/// The index as text.
pub(super) fn render(directory: &Path, keys: &BTreeMap<SessionKey, Vec<Row>>) -> Vec<u8> {
    let entries: BTreeMap<&SessionKey, Entry> = keys
        .iter()
        .filter_map(|(key, rows)| {
            let row = rows.last()?;
            let entry = Entry {
                session_id: row.id.clone(),
                updated_at: row.updated_ms,
                session_file: file::path(directory, &row.id).to_string_lossy().into_owned(),
                chat_type: chat_type(key),
                input_tokens: row.totals.input,
                output_tokens: row.totals.output,
                total_tokens: row.context_tokens,
                meta: row.meta.clone(),
                skykoi: rows.clone(),
            };
            Some((key, entry))
        })
        .collect();
    serde_json::to_vec(&entries).unwrap_or_default()
}

/// What is known of all sessions of a directory.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn load(directory: &Path) -> io::Result<BTreeMap<SessionKey, Vec<Row>>> {
    let (mut known, named) = remembered(directory);
    let mut keys: BTreeMap<SessionKey, Vec<Row>> = BTreeMap::new();
    let mut read = 0_usize;
    for (id, length) in transcripts(directory)? {
        let before = known.remove(&id).unwrap_or_else(|| Row::new(&id));
        read += usize::from(before.bytes != length);
        let row = match catch_up(directory, before, length) {
            Ok(row) => row,
            Err(error) => {
                warn!(session = id, %error, "a transcript cannot be read");
                continue;
            }
        };
        if row.lines == 0 {
            continue;
        }
        let key = row.key.clone().or_else(|| named.get(&id).cloned());
        if let Some(key) = key.or_else(|| SessionKey::parse(&format!("session:{id}")).ok()) {
            keys.entry(key).or_default().push(row);
        }
    }
    for rows in keys.values_mut() {
        order(rows);
    }
    info!(keys = keys.len(), read, "sessions");
    Ok(keys)
}

/// Sessions of a key in the order in which it had them.
pub(super) fn order(rows: &mut [Row]) {
    rows.sort_by(|a, b| (a.ordinal, a.created_ms, &a.id).cmp(&(b.ordinal, b.created_ms, &b.id)));
}

/// What the index says, by session: rows of ours, and keys of what others wrote.
fn remembered(directory: &Path) -> (HashMap<String, Row>, HashMap<String, SessionKey>) {
    let mut rows = HashMap::new();
    let mut named = HashMap::new();
    let text = match std::fs::read(directory.join(NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (rows, named),
        Err(error) => {
            warn!(%error, "the index of sessions cannot be read; it is made anew");
            return (rows, named);
        }
    };
    match serde_json::from_slice::<HashMap<String, Entry>>(&text) {
        Ok(entries) => {
            for (key, entry) in entries {
                if let Ok(key) = SessionKey::parse(&key) {
                    named.insert(entry.session_id, key);
                }
                rows.extend(entry.skykoi.into_iter().map(|row| (row.id.clone(), row)));
            }
        }
        Err(error) => warn!(%error, "the index of sessions is broken; it is made anew"),
    }
    (rows, named)
}

/// Ids of the transcripts of a directory, and how long they are.
fn transcripts(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else {
            continue;
        };
        // Neither links nor directories are transcripts.
        let about = entry.metadata()?;
        if about.is_file() && is_id(id) {
            found.push((id.to_owned(), about.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Can it be the id of a session?
pub(super) fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && !id.starts_with('.')
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Reads what was appended to a transcript since it was last looked at, and mends its end.
pub(super) fn catch_up(directory: &Path, mut row: Row, length: u64) -> io::Result<Row> {
    if row.bytes == length && length > 0 {
        return Ok(row);
    }
    let path = file::path(directory, &row.id);
    let handle = file::open(&path)?;
    let mut last = [0];
    let fits = row.bytes < length
        && (row.bytes == 0
            || handle
                .read_exact_at(&mut last, row.bytes - 1)
                .is_ok_and(|()| last == *b"\n"));
    if !fits {
        row = Row::new(&row.id);
    }
    let mut lines = Lines::new(handle, row.bytes, length);
    take_all(&mut row, &mut lines)?;
    if lines.at() < length {
        let mended = file::mend(directory, &row.id, lines.at())?;
        if mended > lines.at() {
            let mut rest = Lines::new(file::open(&path)?, lines.at(), mended);
            take_all(&mut row, &mut rest)?;
        }
    }
    if row.bytes == 0 {
        // Begun, and never more than that.
        std::fs::remove_file(&path)?;
    }
    Ok(row)
}

fn take_all(row: &mut Row, lines: &mut Lines) -> io::Result<()> {
    while let Some((_, length, line)) = lines.next()? {
        row.take(&glance(&line), length);
    }
    Ok(())
}

/// A look at a line of any length.
pub(super) fn glance(line: &Line<'_>) -> Glance {
    match line {
        Line::Whole(line) => Glance::of(line),
        Line::TooLong => Glance::default(),
    }
}
