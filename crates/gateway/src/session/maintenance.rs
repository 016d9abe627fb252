//! Upkeep: what is too old or too much is put away, then deleted. The main session never is.

use std::path::Path;

use koi_wire::config::{Maintenance, MaintenanceMode};
use tracing::{info, warn};

use super::SessionError;
use super::file::SUFFIX;
use super::key::{Kind, SessionKey};
use super::reading::unread;
use super::row::Row;
use super::store::{Book, Store};

const DAY_MS: i64 = 86_400_000;
const DEFAULT_PRUNE_MS: i64 = 30 * DAY_MS;
const DEFAULT_MAX_ENTRIES: usize = 5000;

/// What upkeep did, or would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Upkeep {
    /// Keys that were put away.
    pub(crate) pruned: Vec<SessionKey>,
    /// Old sessions of keys that stay.
    pub(crate) old: usize,
    /// Archives that were deleted.
    pub(crate) deleted: usize,
    /// Bytes that are left.
    pub(crate) bytes: u64,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    enforce: bool,
    prune_ms: i64,
    retention_ms: i64,
    max_entries: usize,
    /// Above the first, down to the second.
    disk: Option<(u64, u64)>,
}

impl Limits {
    fn of(config: Option<&Maintenance>) -> Self {
        let duration = |text: Option<&String>| text.and_then(|text| Maintenance::duration_ms(text));
        let prune_ms = duration(config.and_then(|config| config.prune_after.as_ref())).unwrap_or(DEFAULT_PRUNE_MS);
        let retention = duration(config.and_then(|config| config.reset_archive_retention.as_ref()));
        let most = config.and_then(|config| config.max_disk_bytes);
        let water = config.and_then(|config| config.high_water_bytes);
        Self {
            enforce: config.and_then(|config| config.mode) != Some(MaintenanceMode::Warn),
            prune_ms,
            retention_ms: retention.unwrap_or(prune_ms),
            max_entries: config
                .and_then(|config| config.max_entries)
                .map_or(DEFAULT_MAX_ENTRIES, |most| usize::try_from(most).unwrap_or(usize::MAX)),
            disk: most.map(|most| (most, water.unwrap_or(most / 5 * 4))),
        }
    }
}

/// A file that is no session any more.
struct Archive {
    name: String,
    at_ms: i64,
    bytes: u64,
}

impl Store {
    pub(super) fn maintain(&self, now_ms: i64, busy: &dyn Fn(&SessionKey) -> bool) -> Result<Upkeep, SessionError> {
        let config = self.config();
        let limits = Limits::of(config.as_ref().and_then(|config| config.maintenance.as_ref()));
        let (mut keys, old) = {
            let book = self.book()?;
            (by_age(&book, busy), old_sessions(&book, now_ms - limits.retention_ms))
        };
        let entries = self.book()?.keys.len();
        let too_many = entries.saturating_sub(limits.max_entries);
        let aged = keys.iter().take_while(|(at, _)| *at < now_ms - limits.prune_ms).count();
        let rest = keys.split_off(too_many.max(aged).min(keys.len()));
        let mut upkeep = Upkeep {
            old: old.len(),
            pruned: keys.into_iter().map(|(_, key)| key).collect(),
            ..Upkeep::default()
        };
        if !limits.enforce {
            warn!(
                pruned = upkeep.pruned.len(),
                old = upkeep.old,
                "upkeep of sessions is due and session.maintenance.mode is warn"
            );
            return Ok(upkeep);
        }
        for key in &upkeep.pruned {
            self.remove(key, now_ms, "pruned")?;
        }
        for (key, id) in &old {
            self.remove_old(key, id, now_ms)?;
        }
        upkeep.deleted = self.delete_archives(|archive| archive.at_ms < now_ms - limits.retention_ms)?;
        self.fit_disk(&limits, rest, now_ms, &mut upkeep)?;
        if upkeep.old + upkeep.deleted + upkeep.pruned.len() > 0 {
            info!(
                pruned = upkeep.pruned.len(),
                old = upkeep.old,
                deleted = upkeep.deleted,
                "upkeep of sessions"
            );
        }
        Ok(upkeep)
    }

    /// Deletes the oldest archives, then the oldest sessions, until all of it fits.
    fn fit_disk(
        &self,
        limits: &Limits,
        keys: Vec<(i64, SessionKey)>,
        now_ms: i64,
        upkeep: &mut Upkeep,
    ) -> Result<(), SessionError> {
        let mut bytes = self.bytes()?;
        if let Some((most, water)) = limits.disk
            && bytes > most
        {
            upkeep.deleted += self.shrink_archives(&mut bytes, water)?;
            for (_, key) in keys {
                if bytes <= water {
                    break;
                }
                self.remove(&key, now_ms, "pruned")?;
                upkeep.pruned.push(key);
                upkeep.deleted += self.shrink_archives(&mut bytes, water)?;
            }
            if bytes > water {
                warn!(
                    bytes,
                    water, "sessions need more disk than session.maintenance allows, and none of them may go"
                );
            }
        }
        upkeep.bytes = bytes;
        Ok(())
    }

    fn shrink_archives(&self, bytes: &mut u64, water: u64) -> Result<usize, SessionError> {
        self.delete_archives(|archive| {
            let too_much = *bytes > water;
            if too_much {
                *bytes = bytes.saturating_sub(archive.bytes);
            }
            too_much
        })
    }

    /// Deletes archives, the oldest first, as far as `goes` says so.
    fn delete_archives(&self, mut goes: impl FnMut(&Archive) -> bool) -> Result<usize, SessionError> {
        let mut archives = self.archives()?;
        archives.sort_unstable_by_key(|archive| archive.at_ms);
        let mut deleted = 0;
        for archive in archives.iter().filter(|archive| goes(archive)) {
            std::fs::remove_file(self.directory.join(&archive.name))
                .map_err(|source| self.disk(&archive.name, source))?;
            deleted += 1;
        }
        Ok(deleted)
    }

    fn archives(&self) -> Result<Vec<Archive>, SessionError> {
        let mut found = Vec::new();
        self.each_file(|name, bytes| {
            let Some((_, rest)) = name.split_once(&format!("{SUFFIX}.")) else {
                return;
            };
            let at = rest.rsplit('.').next().and_then(|text| text.parse().ok());
            if let (Some(at_ms), false) = (at, rest.starts_with("torn")) {
                found.push(Archive {
                    name: name.to_owned(),
                    at_ms,
                    bytes,
                });
            }
        })?;
        Ok(found)
    }

    /// Bytes of all transcripts and archives.
    fn bytes(&self) -> Result<u64, SessionError> {
        let mut bytes = 0;
        self.each_file(|_, length| bytes += length)?;
        Ok(bytes)
    }

    fn each_file(&self, mut visit: impl FnMut(&str, u64)) -> Result<(), SessionError> {
        let fault = |source| unread(&self.directory.display().to_string(), source);
        for entry in std::fs::read_dir(&self.directory).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name();
            if let (Some(name), Ok(about)) = (name.to_str(), entry.metadata())
                && Path::new(name).extension().is_some()
                && name.contains(SUFFIX)
                && about.is_file()
            {
                visit(name, about.len());
            }
        }
        Ok(())
    }
}

/// Keys that may go, the one in which nothing happened for longest first.
fn by_age(book: &Book, busy: &dyn Fn(&SessionKey) -> bool) -> Vec<(i64, SessionKey)> {
    let may_go = |key: &SessionKey, row: &Row| {
        let pinned = row.meta.get("pinned") == Some(&serde_json::Value::Bool(true));
        !pinned && !matches!(key.kind(), Kind::Main | Kind::Global) && !busy(key)
    };
    let mut keys: Vec<(i64, SessionKey)> = book
        .keys
        .iter()
        .filter_map(|(key, rows)| rows.last().map(|row| (key, row)))
        .filter(|(key, row)| may_go(key, row))
        .map(|(key, row)| (row.updated_ms, key.clone()))
        .collect();
    keys.sort();
    keys
}

/// Sessions from before a reset in which nothing happened since.
fn old_sessions(book: &Book, before_ms: i64) -> Vec<(SessionKey, String)> {
    let mut old = Vec::new();
    for (key, rows) in &book.keys {
        let earlier = rows.split_last().map_or(&[][..], |(_, earlier)| earlier);
        let gone = earlier.iter().filter(|row| row.updated_ms < before_ms);
        old.extend(gone.map(|row| (key.clone(), row.id.clone())));
    }
    old
}
