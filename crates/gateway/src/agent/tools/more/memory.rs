//! `memory_search`: the words of the notes and of the transcripts, in an index of SQLite (FTS5) beside the state.
//!
//! The index is brought up to date when somebody searches, as far as time allows, and opened for no longer: at rest it takes no memory. It
//! says nothing that the files do not say; one that is broken is thrown away and made anew.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use koi_hands::text;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use serde_json::Value;

use crate::file::Directory;
use crate::server::DEFAULT_AGENT;
use crate::session::SessionKey;

/// How long the index is brought up to date in one search.
const PATIENCE: Duration = Duration::from_secs(8);

/// Bytes of one file of notes; files; characters of a piece.
const MOST_NOTE: usize = 1024 * 1024;
const MOST_NOTES: usize = 2000;
const MOST_PIECE: usize = 1200;

/// Bytes of a line of a transcript that is looked at, and characters of it that are kept.
const MOST_LINE: u64 = 4 * 1024 * 1024;
const MOST_SAID: usize = 6000;

/// Words of a search.
const MOST_WORDS: usize = 16;

/// Of another shape the index is made anew.
const SHAPE: i64 = 1;

/// The notes and the transcripts of the agent.
pub(super) struct Memory {
    workspace: PathBuf,
    sessions: PathBuf,
    index: PathBuf,
    /// One at a time.
    turn: Mutex<()>,
}

#[derive(Deserialize)]
struct Search {
    query: String,
    #[serde(default)]
    limit: Option<usize>,
}

/// Who may find what.
enum Scope {
    /// Everything.
    All,
    /// What was said in this conversation.
    Own(String),
}

impl Memory {
    pub(super) fn new(workspace: &Path, state_dir: &Path) -> Self {
        Self {
            workspace: workspace.to_owned(),
            sessions: state_dir.join("agents").join(DEFAULT_AGENT).join("sessions"),
            index: state_dir.join("memory.sqlite"),
            turn: Mutex::default(),
        }
    }

    /// Searches, from this conversation.
    pub(super) async fn search(self: Arc<Self>, arguments: Value, session_key: &str) -> Result<String, String> {
        let wish: Search = super::read(arguments)?;
        let query = query(&wish.query).ok_or("query has no words")?;
        let limit = wish.limit.unwrap_or(10).clamp(1, 50);
        let scope = if SessionKey::parse(session_key).is_ok_and(|key| key.is_private()) {
            Scope::All
        } else {
            Scope::Own(session_key.to_owned())
        };
        let found = tokio::task::spawn_blocking(move || self.find(&query, limit, &scope));
        found
            .await
            .unwrap_or_else(|_| Err("The search failed unexpectedly.".to_owned()))
    }

    fn find(&self, query: &[String; 2], limit: usize, scope: &Scope) -> Result<String, String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = |error: rusqlite::Error| format!("The index ({}) cannot be used: {error}", self.index.display());
        let first = self.open().and_then(|index| self.look(&index, query, limit, scope));
        // It is made of files that are still there.
        first.or_else(|error| {
            tracing::warn!(%error, "the index of the memory is made anew");
            self.forget();
            let index = self.open().map_err(fault)?;
            self.look(&index, query, limit, scope).map_err(fault)
        })
    }

    fn forget(&self) {
        for suffix in ["", "-journal"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.index.display()));
        }
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let index = Connection::open(&self.index)?;
        // It can be made anew: nothing is lost with it.
        index.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -1024; PRAGMA journal_mode = MEMORY;")?;
        let shape: i64 = index.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if shape != SHAPE {
            index.execute_batch(&format!(
                "DROP TABLE IF EXISTS source; DROP TABLE IF EXISTS piece;
                 CREATE TABLE source (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, bytes INTEGER NOT NULL, session TEXT NOT NULL);
                 CREATE VIRTUAL TABLE piece USING fts5(
                     text, path UNINDEXED, place UNINDEXED, who UNINDEXED, tokenize = 'unicode61 remove_diacritics 2');
                 PRAGMA user_version = {SHAPE};"
            ))?;
        }
        Ok(index)
    }

    fn look(&self, index: &Connection, query: &[String; 2], limit: usize, scope: &Scope) -> rusqlite::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let change = index.unchecked_transaction()?;
        let whole = self.read_notes(&change, deadline)? && self.read_transcripts(&change, deadline)?;
        change.commit()?;
        let mut lines = Vec::new();
        // All words first; where that gives too little, any of them.
        for query in query {
            for line in hits(index, query, limit, scope)? {
                if lines.len() < limit && !lines.contains(&line) {
                    lines.push(line);
                }
            }
            if lines.len() >= limit {
                break;
            }
        }
        if lines.is_empty() {
            lines.push("Nothing was found.".to_owned());
        }
        if !whole {
            lines.push("[the index is still being made; search again for the rest]".to_owned());
        }
        Ok(lines.join("\n"))
    }

    /// Brings the notes up to date; false when time ran out.
    fn read_notes(&self, index: &Connection, deadline: Instant) -> rusqlite::Result<bool> {
        let mut names = Vec::new();
        let Ok(workspace) = Directory::itself(&self.workspace) else {
            return Ok(true);
        };
        let memory = workspace.enter("memory").ok();
        let daily = memory
            .as_ref()
            .and_then(|memory| memory.names(MOST_NOTES).ok())
            .unwrap_or_default();
        names.push("MEMORY.md".to_owned());
        names.extend(
            daily
                .into_iter()
                .filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "md"))
                .map(|name| format!("memory/{name}")),
        );
        names.sort_unstable();
        for path in &names {
            if Instant::now() > deadline {
                return Ok(false);
            }
            let (directory, name) = match (path.strip_prefix("memory/"), &memory) {
                (Some(name), Some(memory)) => (memory, name),
                _ => (&workspace, path.as_str()),
            };
            let stamp = directory
                .size_and_time(name)
                .ok()
                .flatten()
                .map(|(size, time)| format!("{size}:{time}"));
            let known: Option<String> = index
                .query_row("SELECT stamp FROM source WHERE path = ?1", [path], |row| row.get(0))
                .optional()?;
            if stamp == known {
                continue;
            }
            forget(index, path)?;
            let Some(stamp) = stamp else { continue };
            let Ok(Some(content)) = directory.read_some(name, MOST_NOTE) else {
                continue;
            };
            for (line, piece) in pieces(&content) {
                put(index, &piece, path, &line.to_string(), "")?;
            }
            remember(index, path, &stamp, 0, "")?;
        }
        let mut gone = index.prepare("SELECT path FROM source WHERE path LIKE '%.md'")?;
        let known = gone
            .query_map([], |row| row.get::<_, String>(0))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        for path in known.iter().filter(|path| !names.contains(path)) {
            forget(index, path)?;
        }
        Ok(true)
    }

    /// Brings the transcripts up to date; false when time ran out.
    fn read_transcripts(&self, index: &Connection, deadline: Instant) -> rusqlite::Result<bool> {
        let Ok(entries) = std::fs::read_dir(&self.sessions) else {
            return Ok(true);
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names
            .filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "jsonl"))
            .collect();
        names.sort_unstable();
        for name in &names {
            if !self.read_transcript(index, name, deadline)? {
                return Ok(false);
            }
        }
        let mut all = index.prepare("SELECT path FROM source WHERE path LIKE '%.jsonl'")?;
        let known = all
            .query_map([], |row| row.get::<_, String>(0))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        for path in known.iter().filter(|path| names.binary_search(path).is_err()) {
            forget(index, path)?;
        }
        Ok(true)
    }

    /// Goes on where the last search stopped.
    fn read_transcript(&self, index: &Connection, name: &str, deadline: Instant) -> rusqlite::Result<bool> {
        let known: Option<(u64, String)> = index
            .query_row("SELECT bytes, session FROM source WHERE path = ?1", [name], |row| {
                Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?))
            })
            .optional()?;
        let (mut at, mut session) = known.unwrap_or_default();
        let Ok(mut file) = File::open(self.sessions.join(name)) else {
            return Ok(true);
        };
        let size = file.metadata().map_or(0, |about| about.len());
        if size < at {
            forget(index, name)?;
            (at, session) = (0, String::new());
        }
        if size == at || file.seek(SeekFrom::Start(at)).is_err() {
            return Ok(true);
        }
        let mut reader = BufReader::new(file);
        let (mut line, mut whole) = (Vec::new(), true);
        loop {
            line.clear();
            let read = (&mut reader).take(MOST_LINE).read_until(b'\n', &mut line);
            // A line without an end is still being written, or is longer than any that is looked at.
            let Ok(count) = read else { break };
            if count == 0 || (line.last() != Some(&b'\n') && (count as u64) < MOST_LINE) {
                break;
            }
            if let Some(said) = said(&line) {
                match said {
                    Said::Key(key) => session = key,
                    Said::Words { place, who, text } => put(index, &text, name, &place, &who)?,
                }
            }
            at += count as u64;
            if Instant::now() > deadline {
                whole = false;
                break;
            }
        }
        remember(index, name, "", at, &session)?;
        Ok(whole)
    }
}

/// What a line of a transcript is about.
enum Said {
    /// Whose it is.
    Key(String),
    /// What was said.
    Words { place: String, who: String, text: String },
}

fn said(line: &[u8]) -> Option<Said> {
    let value: Value = serde_json::from_slice(line).ok()?;
    if value["type"] == "custom" {
        return value["data"]["key"].as_str().map(|key| Said::Key(key.to_owned()));
    }
    let message = &value["message"];
    let who = message["role"]
        .as_str()
        .filter(|role| matches!(*role, "user" | "assistant"))?;
    let text = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter(|part| part["type"] == "text");
            texts
                .filter_map(|part| part["text"].as_str())
                .collect::<Vec<_>>()
                .join("\n")
        }
        _ => return None,
    };
    if text.trim().is_empty() {
        return None;
    }
    let at = message["timestamp"]
        .as_i64()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    Some(Said::Words {
        place: at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M").to_string()),
        who: if who == "user" { "user" } else { "you" }.to_owned(),
        text: text.chars().take(MOST_SAID).collect(),
    })
}

/// Paragraphs of a text, the small ones joined, with the line that each begins in.
fn pieces(content: &str) -> Vec<(usize, String)> {
    let (mut pieces, mut piece, mut begin): (Vec<(usize, String)>, String, usize) = (Vec::new(), String::new(), 1);
    for (number, line) in content.lines().enumerate() {
        let ends = line.trim().is_empty() || line.starts_with('#');
        if (ends && piece.len() > MOST_PIECE / 3) || piece.len() > MOST_PIECE {
            pieces.push((begin, std::mem::take(&mut piece)));
        }
        if line.trim().is_empty() {
            continue;
        }
        if piece.is_empty() {
            begin = number + 1;
        }
        piece.extend(line.chars().take(MOST_PIECE));
        piece.push('\n');
    }
    if !piece.is_empty() {
        pieces.push((begin, piece));
    }
    pieces
}

/// All of the words, and any of them, as the index takes them: nothing of a query is syntax.
fn query(words: &str) -> Option<[String; 2]> {
    let words: Vec<String> = words
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(MOST_WORDS)
        .map(|word| format!("\"{word}\"*"))
        .collect();
    (!words.is_empty()).then(|| [words.join(" AND "), words.join(" OR ")])
}

fn put(index: &Connection, text: &str, path: &str, place: &str, who: &str) -> rusqlite::Result<()> {
    let mut insert = index.prepare_cached("INSERT INTO piece (text, path, place, who) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![text, path, place, who]).map(drop)
}

fn forget(index: &Connection, path: &str) -> rusqlite::Result<()> {
    index.execute("DELETE FROM piece WHERE path = ?1", [path])?;
    index.execute("DELETE FROM source WHERE path = ?1", [path]).map(drop)
}

fn remember(index: &Connection, path: &str, stamp: &str, bytes: u64, session: &str) -> rusqlite::Result<()> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    index
        .execute(
            "INSERT OR REPLACE INTO source (path, stamp, bytes, session) VALUES (?1, ?2, ?3, ?4)",
            params![path, stamp, bytes, session],
        )
        .map(drop)
}

/// What fits, the best first, a line each.
fn hits(index: &Connection, query: &str, limit: usize, scope: &Scope) -> rusqlite::Result<Vec<String>> {
    let own = match scope {
        Scope::All => None,
        Scope::Own(session) => Some(session),
    };
    let mut select = index.prepare_cached(
        "SELECT piece.path, piece.place, piece.who, source.session, snippet(piece, 0, '', '', ' ... ', 48)
         FROM piece JOIN source ON source.path = piece.path
         WHERE piece MATCH ?1 AND (?2 IS NULL OR source.session = ?2)
         ORDER BY bm25(piece), piece.rowid DESC LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(50);
    let rows = select.query_map(params![query, own, limit], |row| {
        let (path, place, who): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (session, snippet): (String, String) = (row.get(3)?, row.get(4)?);
        let snippet = text::readable(snippet.as_bytes());
        let snippet = text::short(&snippet.split_whitespace().collect::<Vec<_>>().join(" "), 600);
        Ok(if who.is_empty() {
            format!("{path}:{place}  {snippet}")
        } else {
            format!("{session} {place} {who}: {snippet}")
        })
    })?;
    rows.collect()
}
