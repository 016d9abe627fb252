//! Lists of sessions.

use serde_json::{Map, Value};

use super::SessionError;
use super::index::chat_type;
use super::key::{Kind, SessionKey};
use super::row::{Row, Totals};
use super::store::{Book, Store};

/// Which sessions are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// So many; none is all.
    pub(crate) limit: Option<usize>,
    /// After passing over so many.
    pub(crate) offset: usize,
    /// In which something happened since, in milliseconds since the epoch.
    pub(crate) active_since_ms: Option<i64>,
    /// Which have these letters in key, label or title.
    pub(crate) search: Option<String>,
    /// Which have this label.
    pub(crate) label: Option<String>,
    /// Which that session began.
    pub(crate) spawned_by: Option<String>,
    /// Archived ones, others, or both.
    pub(crate) archived: Option<bool>,
    /// The one of everybody, too.
    pub(crate) include_global: bool,
    /// In the order in which somebody last wrote.
    pub(crate) by_interaction: bool,
}

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Listed {
    /// The sessions.
    pub(crate) sessions: Vec<Summary>,
    /// How many fit.
    pub(crate) total: usize,
}

/// What is known of the session of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Summary {
    /// The key.
    pub(crate) key: SessionKey,
    /// The current session.
    pub(crate) session_id: String,
    /// The one before.
    pub(crate) previous: Option<String>,
    /// `direct`, `group` or `channel`.
    pub(crate) chat_type: &'static str,
    pub(crate) created_ms: i64,
    pub(crate) started_ms: i64,
    pub(crate) updated_ms: i64,
    pub(crate) interacted_ms: i64,
    /// Rows of history, over all sessions of the key.
    pub(crate) rows: u64,
    /// Where the history of the current session goes on.
    pub(crate) cursor: String,
    /// Tokens and dollars of the current session.
    pub(crate) totals: Totals,
    pub(crate) context_tokens: u64,
    pub(crate) model: String,
    pub(crate) provider: String,
    /// The first words of somebody.
    pub(crate) title: String,
    /// The last words.
    pub(crate) preview: String,
    pub(crate) last_entry: String,
    /// Label, overrides and so on.
    pub(crate) meta: Map<String, Value>,
}

impl Summary {
    fn of(key: &SessionKey, rows: &[Row]) -> Option<Self> {
        let row = rows.last()?;
        let previous = rows.len().checked_sub(2).and_then(|at| rows.get(at));
        Some(Self {
            key: key.clone(),
            session_id: row.id.clone(),
            previous: previous.map(|row| row.id.clone()),
            chat_type: chat_type(key),
            created_ms: row.created_ms,
            started_ms: row.started_ms,
            updated_ms: row.updated_ms,
            interacted_ms: row.interacted_ms,
            rows: rows.iter().map(|row| row.rows).sum(),
            cursor: format!("{}:{}", row.id, row.rows),
            totals: row.totals,
            context_tokens: row.context_tokens,
            model: row.model.clone(),
            provider: row.provider.clone(),
            title: row.title.clone(),
            preview: row.preview.clone(),
            last_entry: row.last_id.clone(),
            meta: row.meta.clone(),
        })
    }

    /// A text that holds for the session.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.meta.get(key)?.as_str()
    }
}

impl Store {
    pub(super) fn list(&self, filter: &Filter) -> Result<Listed, SessionError> {
        Ok(listed(&*self.book()?, filter))
    }

    pub(super) fn count(&self) -> usize {
        self.book_at_once().map_or(0, |book| book.keys.len())
    }

    pub(super) fn recent(&self, most: usize) -> Vec<Summary> {
        let filter = Filter {
            limit: Some(most),
            ..Filter::default()
        };
        self.book_at_once()
            .map_or_else(Vec::new, |book| listed(&book, &filter).sessions)
    }

    pub(super) fn known(&self, key: &SessionKey) -> Option<Summary> {
        let book = self.book_as_it_is();
        book.keys.get(key).and_then(|rows| Summary::of(key, rows))
    }

    pub(super) fn describe(&self, key: &SessionKey) -> Result<Option<Summary>, SessionError> {
        let book = self.book()?;
        Ok(book.keys.get(key).and_then(|rows| Summary::of(key, rows)))
    }
}

fn listed(book: &Book, filter: &Filter) -> Listed {
    let mut found: Vec<(i64, &SessionKey, &[Row])> = fitting(book, filter).collect();
    let total = found.len();
    // The latest first; the key decides between equals, so that pages do not overlap.
    found.sort_unstable_by(|a, b| (b.0, a.1).cmp(&(a.0, b.1)));
    let page = found
        .into_iter()
        .skip(filter.offset)
        .take(filter.limit.unwrap_or(usize::MAX))
        .filter_map(|(_, key, rows)| Summary::of(key, rows));
    Listed {
        sessions: page.collect(),
        total,
    }
}

fn fitting<'a>(book: &'a Book, filter: &'a Filter) -> impl Iterator<Item = (i64, &'a SessionKey, &'a [Row])> {
    let search = filter.search.as_ref().map(|text| text.to_lowercase());
    book.keys.iter().filter_map(move |(key, rows)| {
        let row = rows.last()?;
        let text = |name: &str| row.meta.get(name).and_then(Value::as_str);
        let archived = row.meta.get("archived") == Some(&Value::Bool(true));
        let fits = (key.kind() != Kind::Global || filter.include_global)
            && filter.active_since_ms.is_none_or(|since| row.updated_ms >= since)
            && filter.archived.is_none_or(|wanted| wanted == archived)
            && filter.label.as_deref().is_none_or(|label| text("label") == Some(label))
            && filter
                .spawned_by
                .as_deref()
                .is_none_or(|by| text("spawnedBy") == Some(by))
            && search.as_ref().is_none_or(|wanted| {
                let places = [
                    Some(key.as_str()),
                    text("label"),
                    text("displayName"),
                    Some(&*row.title),
                ];
                places
                    .into_iter()
                    .flatten()
                    .any(|place| place.to_lowercase().contains(wanted))
            });
        let at = if filter.by_interaction {
            row.interacted_ms
        } else {
            row.updated_ms
        };
        fits.then_some((at, key, rows.as_slice()))
    })
}
