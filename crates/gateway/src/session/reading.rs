//! The store, read: history, context, and what is put into a summary.

use jiff::{Timestamp, Zoned};
use serde_json::Value;

use super::context::{self, Window};
use super::entry::{Body, Message, Usage};
use super::file;
use super::history::{self, Page, Wish, each_row};
use super::key::SessionKey;
use super::line::{Note, Sort};
use super::row::Row;
use super::store::{Store, own};
use super::{Change, Compacted, Context, Old, SessionError};

/// Bytes of transcript that a compaction leaves to the model as they are; about 20,000 tokens.
const KEEP_BYTES: u64 = 80_000;

/// Bytes of transcript in which a run that was cut off is looked for.
const RECENT_BYTES: u64 = 64 * 1024 * 1024;

/// How many snippets of what somebody asked a summary without a model has.
const SUMMARY_LINES: usize = 40;

impl Store {
    pub(super) fn context(&self, key: &SessionKey, id: &str, max_bytes: u64) -> Result<Context, SessionError> {
        let window = {
            let book = self.book()?;
            let rows = book.keys.get(key).into_iter().flatten();
            let row = rows.into_iter().find(|row| row.id == id);
            row.map(|row| Window::of(row, max_bytes))
        };
        let window = window.ok_or_else(|| SessionError::NotFound(key.to_string()))?;
        context::read(&file::path(&self.directory, id), window).map_err(|source| unread(id, source))
    }

    /// What was said under these runs, oldest first.
    pub(super) fn written(
        &self,
        key: &SessionKey,
        id: &str,
        runs: &[String],
    ) -> Result<Vec<(String, Message)>, SessionError> {
        let window = {
            let book = self.book()?;
            let rows = book.keys.get(key).into_iter().flatten();
            let row = rows.into_iter().find(|row| row.id == id);
            row.map(|row| Window::of(row, RECENT_BYTES))
        };
        let window = window.ok_or_else(|| SessionError::NotFound(key.to_string()))?;
        context::written(&file::path(&self.directory, id), window, runs).map_err(|source| unread(id, source))
    }

    pub(super) fn history(&self, key: &SessionKey, wish: &Wish) -> Result<Page, SessionError> {
        let (segments, total) = {
            let book = self.book()?;
            let rows = book.keys.get(key).map_or(&[][..], Vec::as_slice);
            history::plan(&self.directory, rows, wish)
        };
        history::read(&segments, total, wish).map_err(|source| unread(key.as_str(), source))
    }

    pub(super) fn since(
        &self,
        key: &SessionKey,
        cursor: &str,
        max_chars: usize,
    ) -> Result<Option<(Vec<Value>, String)>, SessionError> {
        let Some((id, seen)) = cursor.rsplit_once(':') else {
            return Ok(None);
        };
        let Ok(seen) = seen.parse::<u64>() else { return Ok(None) };
        let missing = {
            let book = self.book()?;
            book.current(key)
                .filter(|row| row.id == id && seen <= row.rows)
                .map(|row| (row.rows - seen, row.rows))
        };
        // Another session by now, or one that is shorter than what was seen of it.
        let Some((missing, rows)) = missing.filter(|(missing, _)| *missing <= 1000) else {
            return Ok(None);
        };
        let wish = Wish {
            limit: missing,
            offset: 0,
            max_chars,
            session_id: Some(id.to_owned()),
        };
        let page = self.history(key, &wish)?;
        let next = rows - missing + page.rows.len() as u64;
        Ok(Some((page.rows, format!("{id}:{next}"))))
    }

    pub(super) fn find(
        &self,
        key: &SessionKey,
        entry_id: &str,
        max_chars: usize,
    ) -> Result<Option<(Value, u64)>, SessionError> {
        let all = Wish {
            limit: u64::MAX,
            offset: 0,
            max_chars,
            session_id: None,
        };
        let (segments, total) = {
            let book = self.book()?;
            let rows = book.keys.get(key).map_or(&[][..], Vec::as_slice);
            history::plan(&self.directory, rows, &all)
        };
        // What is asked for is more often new than old.
        for segment in segments.iter().rev() {
            let mut found = None;
            let walk = each_row(segment, |seq, _, length, line, glance| {
                if glance.id.as_deref() == Some(entry_id) {
                    found = Some((seq, history::shown(line, glance, seq, length, max_chars)));
                }
                found.is_none()
            });
            walk.map_err(|source| unread(key.as_str(), source))?;
            if let Some((seq, row)) = found {
                let newer = segments
                    .iter()
                    .map(|other| other.last_seq().saturating_sub(seq.max(other.base)))
                    .sum::<u64>();
                return Ok(Some((row, newer.min(total))));
            }
        }
        Ok(None)
    }

    pub(super) fn compact(
        &self,
        key: &SessionKey,
        now_ms: i64,
        keep_rows: Option<u64>,
    ) -> Result<Option<Compacted>, SessionError> {
        let row = self.book()?.current(key).cloned();
        let row = row.ok_or_else(|| SessionError::NotFound(key.to_string()))?;
        let cut = self.cut(&row, keep_rows).map_err(|source| unread(&row.id, source))?;
        let Some(cut) = cut else { return Ok(None) };
        self.replace_by(key, &row, now_ms, cut).map(Some)
    }

    /// What a compaction of the current session would put away.
    pub(super) fn old(&self, key: &SessionKey, id: &str, most: u64) -> Result<Option<Old>, SessionError> {
        let row = self.book()?.current(key).filter(|row| row.id == id).cloned();
        let Some(row) = row else { return Ok(None) };
        let read = || {
            let Some(cut) = self.cut(&row, None)? else {
                return Ok(None);
            };
            let path = file::path(&self.directory, id);
            let seen = context::read_before(&path, Window::of(&row, most), &cut.first_kept)?;
            Ok(seen.map(|seen| Old {
                seen,
                summary: cut.summary,
                dropped: cut.dropped,
                first_kept: cut.first_kept,
            }))
        };
        read().map_err(|source| unread(id, source))
    }

    /// Puts it away. A session that is no longer the current one stays as it is.
    pub(super) fn put_old_away(
        &self,
        key: &SessionKey,
        id: &str,
        now_ms: i64,
        old: Old,
    ) -> Result<Option<Compacted>, SessionError> {
        let row = self.book()?.current(key).filter(|row| row.id == id).cloned();
        let Some(row) = row else { return Ok(None) };
        let cut = Cut {
            dropped: old.dropped,
            summary: old.summary,
            first_kept: old.first_kept,
        };
        self.replace_by(key, &row, now_ms, cut).map(Some)
    }

    /// Writes down that a summary stands for what came before.
    fn replace_by(&self, key: &SessionKey, row: &Row, now_ms: i64, cut: Cut) -> Result<Compacted, SessionError> {
        let compacted = Compacted {
            dropped: cut.dropped,
            kept: row.rows.saturating_sub(cut.dropped),
            tokens_before: if row.context_tokens > 0 {
                row.context_tokens
            } else {
                row.bytes / 4
            },
            first_kept: cut.first_kept,
        };
        let body = Body::Compaction {
            summary: cut.summary,
            first_kept_entry_id: compacted.first_kept.clone(),
            tokens_before: compacted.tokens_before,
        };
        self.append(key, &row.id, now_ms, &[body.into()])?;
        self.tell(&Change::Session {
            key: key.clone(),
            reason: "compact",
        });
        Ok(compacted)
    }

    /// Tokens that were used on this day of the owner, and when the next one begins.
    pub(super) fn used_today(&self, now_ms: i64) -> Result<(u64, Zoned), SessionError> {
        let now = Timestamp::from_millisecond(now_ms)
            .unwrap_or_default()
            .to_zoned(self.zone());
        let begin = now.start_of_day().unwrap_or_else(|_| now.clone());
        let next = now.tomorrow().and_then(|day| day.start_of_day()).unwrap_or(now);
        let used = self.book()?.used_since(begin.timestamp().as_millisecond());
        Ok((used, next))
    }

    /// Writes down what the gateway's own questions in the name of a session took.
    pub(super) fn spend(&self, key: &SessionKey, id: &str, now_ms: i64, usage: Usage) -> Result<(), SessionError> {
        self.append(key, id, now_ms, &[own(&Note::Spent { usage })]).map(drop)
    }

    /// Where the model's view may begin: at the words of somebody, so that no tool result loses its call.
    fn cut(&self, row: &Row, keep_rows: Option<u64>) -> std::io::Result<Option<Cut>> {
        let wish = Wish {
            limit: u64::MAX,
            offset: 0,
            max_chars: 0,
            session_id: None,
        };
        let (segments, _) = history::plan(&self.directory, std::slice::from_ref(row), &wish);
        let keep_from_row = keep_rows.map(|keep| row.rows.saturating_sub(keep));
        let keep_from_byte = row.bytes.saturating_sub(KEEP_BYTES);
        let (mut passed, mut asked, mut found) = (0, Asked::default(), None);
        for segment in &segments {
            each_row(segment, |_, at, _, _, glance| {
                let far_enough = keep_from_row.map_or(at >= keep_from_byte, |first| passed >= first);
                if let (Sort::Said(said), Some(id)) = (&glance.sort, &glance.id)
                    && said.role == "user"
                {
                    if far_enough {
                        found = Some(id.clone());
                        return false;
                    }
                    asked.note(&said.snippet);
                }
                passed += 1;
                true
            })?;
        }
        Ok(found.filter(|_| passed > 1).map(|first_kept| Cut {
            dropped: passed,
            summary: asked.summary(passed),
            first_kept,
        }))
    }
}

/// A fault in reading; a file that is gone is a session that is gone.
pub(super) fn unread(what: &str, source: std::io::Error) -> SessionError {
    if source.kind() == std::io::ErrorKind::NotFound {
        return SessionError::NotFound(what.to_owned());
    }
    SessionError::Read {
        what: what.to_owned(),
        source,
    }
}

struct Cut {
    dropped: u64,
    summary: String,
    first_kept: String,
}

/// What somebody asked: the first words of it all, and the last ones.
#[derive(Default)]
struct Asked {
    first: Vec<String>,
    last: std::collections::VecDeque<String>,
}

impl Asked {
    fn note(&mut self, snippet: &str) {
        if self.first.len() < SUMMARY_LINES / 2 {
            self.first.push(snippet.to_owned());
            return;
        }
        if self.last.len() == SUMMARY_LINES / 2 {
            self.last.pop_front();
        }
        self.last.push_back(snippet.to_owned());
    }

    fn summary(&self, rows: u64) -> String {
        let list: String = self
            .first
            .iter()
            .chain(&self.last)
            .map(|snippet| format!("\n- {snippet}"))
            .collect();
        format!("{rows} earlier entries of this conversation were put away. What was asked in them began with:{list}")
    }
}
