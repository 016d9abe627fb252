//! The index: `sessions.json` beside the transcripts. What it says of a transcript is believed as far as the file is as long as it says;
//! the rest is read from the file. Without it, everything is.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::{fmt, io};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use tracing::{info, warn};

use super::file::{self, Line, Lines, SUFFIX};
use super::key::{Kind, SessionKey};
use super::line::Glance;
use super::row::Row;

/// Name of the index.
pub(super) const NAME: &str = "sessions.json";

/// What the index says of a key; the first part is for the family's tools, the last is ours: all sessions of the key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    session_id: &'a str,
    updated_at: i64,
    session_file: String,
    chat_type: &'static str,
    input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
    /// Label, model and so on, under their own names.
    #[serde(flatten)]
    meta: &'a Map<String, Value>,
    skykoi: &'a [Row],
}

/// What is read of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Read {
    session_id: String,
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
    let entries = keys.iter().filter_map(|(key, rows)| {
        let row = rows.last()?;
        let entry = Written {
            session_id: &row.id,
            updated_at: row.updated_ms,
            session_file: file::path(directory, &row.id).to_string_lossy().into_owned(),
            chat_type: chat_type(key),
            input_tokens: row.totals.input,
            output_tokens: row.totals.output,
            total_tokens: row.context_tokens,
            meta: &row.meta,
            skykoi: rows,
        };
        Some((key, entry))
    });
    let mut text = Vec::new();
    // Entry by entry: a list of all of them would be as large as the book.
    let done = serde_json::Serializer::new(&mut text).collect_map(entries);
    if done.is_err() {
        text.clear();
    }
    text
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
        rows.shrink_to_fit();
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
    let into = Into {
        rows: &mut rows,
        named: &mut named,
    };
    let mut text = serde_json::Deserializer::from_slice(&text);
    if let Err(error) = text.deserialize_map(into).and_then(|()| text.end()) {
        warn!(%error, "the index of sessions is broken; the rest is read from the transcripts");
    }
    (rows, named)
}

/// Takes entries in one by one.
struct Into<'a> {
    rows: &'a mut HashMap<String, Row>,
    named: &'a mut HashMap<String, SessionKey>,
}

impl<'de> Visitor<'de> for Into<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some((key, entry)) = entries.next_entry::<String, Read>()? {
            if let Ok(key) = SessionKey::parse(&key) {
                self.named.insert(entry.session_id, key);
            }
            for mut row in entry.skykoi {
                row.marks.shrink_to_fit();
                row.hours.shrink_to_fit();
                self.rows.insert(row.id.clone(), row);
            }
        }
        Ok(())
    }
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
    row.marks.shrink_to_fit();
    row.hours.shrink_to_fit();
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
