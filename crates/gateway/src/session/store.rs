//! The store: what is known of all sessions, and the one writer that each of them has.
//!
//! Three kinds of locks, always taken in this order: a lane, which is held while a session is written, the one for whoever is put away,
//! and the book, which is held for moments only and never while a disk is waited for.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use jiff::tz::TimeZone;
use koi_wire::config::Session as Config;
use koi_wire::health::Usage;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{info, warn};

use super::entry::{Body, NewEntry};
use super::file::{self, Line, MAX_LINE, Writer};
use super::history;
use super::index;
use super::key::SessionKey;
use super::line::{Glance, Note, OWN};
use super::reset::{Policy, Verdict};
use super::row::{Row, Totals};
use super::spent::Gone;
use super::{Appended, Change, OpenError, Overrides, Resolved, SessionError, Touch, Why};

/// How many sessions may be written at the same time. Those that share a lane wait for each other.
const LANES: usize = 32;

/// Characters of a text in what subscribers are told.
const TOLD_CHARS: usize = 20_000;

/// Who is told of changes.
type Observer = Box<dyn Fn(&Change) + Send + Sync>;

/// What the store is made of.
pub(crate) struct Settings {
    /// Where the gateway keeps its state.
    pub(crate) state_dir: PathBuf,
    /// The agent whose sessions these are.
    pub(crate) agent: String,
    /// Where the agent works; transcripts say so in their first line.
    pub(crate) workspace: PathBuf,
    /// The owner's time zone.
    pub(crate) zone: TimeZone,
    /// `session` of the config.
    pub(crate) config: Option<Config>,
}

/// All sessions of one agent.
pub(super) struct Store {
    pub(super) directory: PathBuf,
    pub(super) agent: String,
    workspace: PathBuf,
    rules: RwLock<(TimeZone, Option<Config>)>,
    lanes: Vec<Lane>,
    book: Mutex<Book>,
    /// Held while a session is put away.
    leaving: Mutex<()>,
    observer: OnceLock<Observer>,
    /// Held as long as the store lives: no other gateway writes here.
    _lock: File,
}

type Lane = Mutex<Option<Writer>>;

/// What is known.
#[derive(Default)]
pub(super) struct Book {
    /// Sessions by key, the current one last.
    pub(super) keys: BTreeMap<SessionKey, Vec<Row>>,
    loaded: bool,
    /// It says more than the index on disk.
    pub(super) dirty: bool,
    /// How large the index was when it was last written.
    pub(super) index_bytes: usize,
    /// What sessions took that are no longer there.
    pub(super) gone: Gone,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Book {
    /// The current session of a key.
    pub(super) fn current(&self, key: &SessionKey) -> Option<&Row> {
        self.keys.get(key)?.last()
    }

    fn row(&mut self, key: &SessionKey, id: &str) -> Option<&mut Row> {
        self.keys.get_mut(key)?.iter_mut().rev().find(|row| row.id == id)
    }
}

impl Store {
    /// Takes the directory for this process. Nothing of it is read yet.
    pub(super) fn open(settings: Settings) -> Result<Self, OpenError> {
        let lock = lock_state(&settings.state_dir)?;
        let directory = settings.state_dir.join("agents").join(&settings.agent).join("sessions");
        std::fs::create_dir_all(&directory).map_err(|source| OpenError::Directory {
            path: directory.clone(),
            source,
        })?;
        Ok(Self {
            directory,
            agent: settings.agent,
            workspace: settings.workspace,
            rules: RwLock::new((settings.zone, settings.config)),
            lanes: (0..LANES).map(|_| Lane::default()).collect(),
            book: Mutex::default(),
            leaving: Mutex::default(),
            observer: OnceLock::new(),
            _lock: lock,
        })
    }

    pub(super) fn observe(&self, observer: Observer) {
        // The first one stays.
        let _ = self.observer.set(observer);
    }

    /// Other rules from now on.
    pub(super) fn set_rules(&self, zone: TimeZone, config: Option<Config>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = (zone, config);
    }

    pub(super) fn zone(&self) -> TimeZone {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub(super) fn config(&self) -> Option<Config> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    pub(super) fn tell(&self, change: &Change) {
        if let Some(observer) = self.observer.get() {
            observer(change);
        }
    }

    /// The book, read from disk where it has not been yet.
    pub(super) fn book(&self) -> Result<MutexGuard<'_, Book>, SessionError> {
        let mut book = self.book_as_it_is();
        if !book.loaded {
            book.keys = index::load(&self.directory).map_err(|source| SessionError::Read {
                what: self.directory.display().to_string(),
                source,
            })?;
            let rows: HashSet<&str> = book.keys.values().flatten().map(|row| row.id.as_str()).collect();
            book.gone = Gone::load(&self.directory, |id| rows.contains(id));
            book.loaded = true;
            book.dirty = true;
        }
        Ok(book)
    }

    /// What everything took since the data volume was made; none while it is being read, or just now changed.
    pub(super) fn spent(&self) -> Option<Usage> {
        let book = self.book_at_once()?;
        book.loaded.then(|| book.spent())
    }

    pub(super) fn book_as_it_is(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The book, where nobody else has it just now.
    pub(super) fn book_at_once(&self) -> Option<MutexGuard<'_, Book>> {
        self.book.try_lock().ok()
    }

    /// The current session, where it is known without a look at the disk that it is fresh.
    pub(super) fn resolve_at_once(&self, key: &SessionKey, now_ms: i64, touch: Touch) -> Option<Resolved> {
        let book = self.book_at_once()?;
        let row = book.current(key)?;
        let fresh = touch == Touch::Background || self.judge(key, row, now_ms) == Verdict::Fresh;
        fresh.then(|| resolved(row, None))
    }

    fn judge(&self, key: &SessionKey, row: &Row, now_ms: i64) -> Verdict {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        Policy::of(rules.1.as_ref(), key).judge(&rules.0, row.started_ms, row.interacted_ms, now_ms)
    }

    pub(super) fn resolve(&self, key: &SessionKey, now_ms: i64, touch: Touch) -> Result<Resolved, SessionError> {
        let mut lane = self.lane(key);
        let (verdict, current) = {
            let book = self.book()?;
            match book.current(key) {
                None => (None, None),
                Some(row) if touch == Touch::Background => (Some(Verdict::Fresh), Some(resolved(row, None))),
                Some(row) => (Some(self.judge(key, row, now_ms)), Some(resolved(row, None))),
            }
        };
        let why = match (verdict, current) {
            (Some(Verdict::Fresh), Some(current)) => return Ok(current),
            (Some(Verdict::Anchor), Some(current)) => {
                warn!(%key, "the clock went back; the day of the session counts from now");
                let note = Note::Anchor { started_at: now_ms };
                self.append_in(&mut lane, key, &current.session_id, now_ms, &[own(&note)])?;
                return Ok(current);
            }
            (Some(Verdict::Daily), _) => Why::Daily,
            (Some(Verdict::Idle), _) => Why::Idle,
            _ => Why::First,
        };
        self.mint(&mut lane, key, now_ms, why, &Map::new())
    }

    /// Gives a key a new session, with the overrides of the old one and `meta` on top.
    pub(super) fn renew(
        &self,
        key: &SessionKey,
        now_ms: i64,
        why: Why,
        meta: &Map<String, Value>,
    ) -> Result<Resolved, SessionError> {
        let mut lane = self.lane(key);
        self.mint(&mut lane, key, now_ms, why, meta)
    }

    fn mint(
        &self,
        lane: &mut Option<Writer>,
        key: &SessionKey,
        now_ms: i64,
        why: Why,
        more: &Map<String, Value>,
    ) -> Result<Resolved, SessionError> {
        let (ordinal, base, mut meta) = {
            let book = self.book()?;
            let rows = book.keys.get(key).map_or(&[][..], Vec::as_slice);
            let base = history::bases(rows).last().copied().unwrap_or(0);
            match rows.last() {
                Some(row) => (row.ordinal.saturating_add(1), base + row.rows, row.meta.clone()),
                None => (0, 0, Map::new()),
            }
        };
        meta.remove("archived");
        super::row::patch(&mut meta, more);
        let id = uuid::Uuid::new_v4().to_string();
        let why = if ordinal == 0 { Why::First } else { why };
        let note = Note::Begin {
            key: key.clone(),
            ordinal,
            base,
            why,
            meta,
        };
        let mut row = Row::new(&id);
        let header = self.header(&id, now_ms)?;
        row.take(&Glance::of(&header), header.len() as u64);
        let begin = line(&row, 0, None, now_ms, &own(&note))?;
        row.take(&Glance::of(&begin), begin.len() as u64);
        let content = [header, begin].concat();
        let writer = Writer::create(&self.directory, &id, &content).map_err(|source| self.disk(&id, source))?;
        *lane = Some(writer);
        let answer = resolved(&row, Some(why));
        {
            let mut book = self.book()?;
            let rows = book.keys.entry(key.clone()).or_default();
            // Most keys have one session only.
            rows.reserve_exact(1);
            rows.push(row);
            book.dirty = true;
        }
        info!(%key, session = id, reason = why.as_str(), "new session");
        self.tell(&Change::Session {
            key: key.clone(),
            reason: why.as_str(),
        });
        Ok(answer)
    }

    fn header(&self, id: &str, now_ms: i64) -> Result<Vec<u8>, SessionError> {
        #[derive(Serialize)]
        struct Header<'a> {
            r#type: &'a str,
            version: u32,
            id: &'a str,
            timestamp: String,
            cwd: String,
        }
        let header = Header {
            r#type: "session",
            version: 3,
            id,
            timestamp: timestamp(now_ms),
            cwd: self.workspace.display().to_string(),
        };
        whole_line(&header)
    }

    pub(super) fn append(
        &self,
        key: &SessionKey,
        id: &str,
        now_ms: i64,
        entries: &[NewEntry],
    ) -> Result<Vec<Appended>, SessionError> {
        self.append_in(&mut self.lane(key), key, id, now_ms, entries)
    }

    /// Appends in the lane of the key. On disk when it returns, or as it was.
    fn append_in(
        &self,
        lane: &mut Option<Writer>,
        key: &SessionKey,
        id: &str,
        now_ms: i64,
        entries: &[NewEntry],
    ) -> Result<Vec<Appended>, SessionError> {
        let writer = self.writer(lane, key, id)?;
        let lines = {
            let mut book = self.book()?;
            let row = book
                .row(key, id)
                .ok_or_else(|| SessionError::NotFound(key.to_string()))?;
            lines(row, key, now_ms, entries)?
        };
        let content = lines.concat();
        if let Err(source) = writer.append(&content) {
            if writer.broken {
                *lane = None;
            }
            warn!(%key, session = id, error = %source, "nothing was appended");
            return Err(self.disk(id, source));
        }
        let (appended, changes) = self.fold(key, id, &lines)?;
        for change in changes {
            self.tell(&change);
        }
        // A file that others wrote gets a note of ours before the first entry.
        let ours = lines.len() - entries.len();
        Ok(appended.into_iter().skip(ours).collect())
    }

    /// Takes lines that are on disk into the book.
    fn fold(
        &self,
        key: &SessionKey,
        id: &str,
        lines: &[Vec<u8>],
    ) -> Result<(Vec<Appended>, Vec<Change>), SessionError> {
        let mut book = self.book()?;
        book.dirty = true;
        let rows = book.keys.get_mut(key).map_or(&mut [][..], Vec::as_mut_slice);
        let bases = history::bases(rows);
        let found = rows.iter_mut().zip(bases).find(|(row, _)| row.id == id);
        let (row, base) = found.ok_or_else(|| SessionError::NotFound(key.to_string()))?;
        let (mut appended, mut changes) = (Vec::new(), Vec::new());
        for line in lines {
            let length = line.len() as u64;
            let glance = Glance::of(line);
            row.take(&glance, length);
            let seq = glance.is_row().then(|| base + row.rows);
            if let Some(seq) = seq.filter(|_| self.observer.get().is_some()) {
                changes.push(Change::Message {
                    key: key.clone(),
                    session_id: id.to_owned(),
                    row: history::shown(&Line::Whole(line), &glance, seq, length, TOLD_CHARS),
                });
            }
            appended.push(Appended {
                id: glance.id.unwrap_or_default(),
                seq,
            });
        }
        Ok((appended, changes))
    }

    /// The writer of a session, at the end of what is known of it.
    fn writer<'a>(
        &self,
        lane: &'a mut Option<Writer>,
        key: &SessionKey,
        id: &str,
    ) -> Result<&'a mut Writer, SessionError> {
        let known = {
            let mut book = self.book()?;
            let row = book
                .row(key, id)
                .ok_or_else(|| SessionError::NotFound(key.to_string()))?;
            row.bytes
        };
        let fits = |writer: &Writer| writer.id == id && writer.is_at(known);
        if !lane.as_ref().is_some_and(fits) {
            *lane = None;
            let mut writer = Writer::open(&self.directory, id).map_err(|source| self.disk(id, source))?;
            if writer.length != known {
                self.look_again(key, id, writer.length)?;
                writer = Writer::open(&self.directory, id).map_err(|source| self.disk(id, source))?;
            }
            *lane = Some(writer);
        }
        lane.as_mut().ok_or_else(|| SessionError::NotFound(key.to_string()))
    }

    /// Somebody else wrote to the file, or a write of ours was torn.
    fn look_again(&self, key: &SessionKey, id: &str, length: u64) -> Result<(), SessionError> {
        let row = {
            let mut book = self.book()?;
            book.row(key, id).cloned()
        };
        let row = row.ok_or_else(|| SessionError::NotFound(key.to_string()))?;
        let row = index::catch_up(&self.directory, row, length).map_err(|source| self.disk(id, source))?;
        let mut book = self.book()?;
        if let Some(place) = book.row(key, id) {
            *place = row;
        }
        book.dirty = true;
        Ok(())
    }

    /// Changes what holds for the current session of a key; made where there is none.
    pub(super) fn patch(
        &self,
        key: &SessionKey,
        now_ms: i64,
        meta: &Map<String, Value>,
    ) -> Result<Resolved, SessionError> {
        let current = self.resolve(key, now_ms, Touch::Background)?;
        let note = Note::Patch { meta: meta.clone() };
        self.append_in(&mut self.lane(key), key, &current.session_id, now_ms, &[own(&note)])?;
        self.tell(&Change::Session {
            key: key.clone(),
            reason: "patch",
        });
        let book = self.book()?;
        let row = book
            .current(key)
            .ok_or_else(|| SessionError::NotFound(key.to_string()))?;
        Ok(resolved(row, current.fresh))
    }

    /// Takes a key and all of its sessions away; the transcripts stay under other names, which are returned.
    pub(super) fn remove(&self, key: &SessionKey, now_ms: i64, reason: &str) -> Result<Vec<String>, SessionError> {
        let mut lane = self.lane(key);
        *lane = None;
        let ids: Vec<String> = {
            let book = self.book()?;
            let rows = book.keys.get(key).into_iter().flatten();
            rows.map(|row| row.id.clone()).collect()
        };
        let mut archived = Vec::new();
        for id in &ids {
            archived.push(self.put_away(key, id, now_ms, reason)?);
        }
        self.book()?.keys.retain(|_, rows| !rows.is_empty());
        if !ids.is_empty() {
            self.tell(&Change::Session {
                key: key.clone(),
                reason: "delete",
            });
        }
        Ok(archived)
    }

    /// Takes an old session of a key away.
    pub(super) fn remove_old(&self, key: &SessionKey, id: &str, now_ms: i64) -> Result<(), SessionError> {
        let mut lane = self.lane(key);
        if lane.as_ref().is_some_and(|writer| writer.id == id) {
            *lane = None;
        }
        self.put_away(key, id, now_ms, "reset").map(drop)
    }

    /// Gives a transcript a name under which it is no session. What it took stays counted.
    fn put_away(&self, key: &SessionKey, id: &str, now_ms: i64, reason: &str) -> Result<String, SessionError> {
        // One after the other: the file that counts them has room for one that is about to go.
        let _leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let (row, gone) = {
            let mut book = self.book()?;
            (book.row(key, id).cloned(), book.gone.clone())
        };
        if let Some(row) = row.as_ref().filter(|row| row.totals != Totals::default())
            && let Err(error) = gone.announce(&self.directory, row)
        {
            warn!(%key, session = id, %error, "what a session took may be forgotten after the next start");
        }
        let from = file::path(&self.directory, id);
        let to = self.directory.join(format!("{id}{}.{reason}.{now_ms}", file::SUFFIX));
        let moved = std::fs::rename(&from, &to).and_then(|()| File::open(&self.directory)?.sync_all());
        match moved {
            Ok(()) => {}
            // Somebody was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(self.disk(id, source)),
        }
        let mut book = self.book()?;
        if let Some(rows) = book.keys.get_mut(key) {
            rows.retain(|row| row.id != id);
        }
        if let Some(row) = row {
            book.gone.add(&row);
        }
        book.dirty = true;
        Ok(to.display().to_string())
    }

    /// Writes the index, where it says less than the book.
    pub(super) fn flush(&self) -> io::Result<()> {
        let text = {
            let mut book = self.book_as_it_is();
            if !book.loaded || !std::mem::take(&mut book.dirty) {
                return Ok(());
            }
            index::render(&self.directory, &book.keys)
        };
        let written = crate::file::replace(&self.directory.join(index::NAME), &text, 0o600);
        let mut book = self.book_as_it_is();
        book.index_bytes = text.len();
        book.dirty |= written.is_err();
        written
    }

    fn lane(&self, key: &SessionKey) -> MutexGuard<'_, Option<Writer>> {
        let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(key);
        #[expect(clippy::cast_possible_truncation, reason = "any lane will do, always the same")]
        let at = hash as usize % LANES;
        // There are as many lanes as numbers.
        #[expect(clippy::indexing_slicing, reason = "below the length by construction")]
        let lane = &self.lanes[at];
        lane.lock().unwrap_or_else(|poisoned| {
            // Whatever panicked in there: the file is opened and looked at anew.
            let mut lane = poisoned.into_inner();
            *lane = None;
            lane
        })
    }

    pub(super) fn disk(&self, id: &str, source: io::Error) -> SessionError {
        SessionError::Disk {
            what: file::path(&self.directory, id).display().to_string(),
            source,
        }
    }
}

/// Takes the state directory for this process.
fn lock_state(state_dir: &Path) -> Result<File, OpenError> {
    let path = state_dir.join("gateway.lock");
    let fault = |source| OpenError::Directory {
        path: path.clone(),
        source,
    };
    std::fs::create_dir_all(state_dir).map_err(fault)?;
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(fault)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Taken { path }),
        Err(std::fs::TryLockError::Error(source)) => Err(fault(source)),
    }
}

/// The lines of entries; before them, where the file has no note of ours yet, one that says whose it is.
fn lines(row: &Row, key: &SessionKey, now_ms: i64, entries: &[NewEntry]) -> Result<Vec<Vec<u8>>, SessionError> {
    let note = row.key.is_none().then(|| {
        own(&Note::Begin {
            key: key.clone(),
            ordinal: row.ordinal,
            base: row.base,
            why: Why::First,
            meta: Map::new(),
        })
    });
    let mut parent = (!row.last_id.is_empty()).then(|| row.last_id.clone());
    let mut lines = Vec::with_capacity(entries.len());
    for (ahead, entry) in note.iter().chain(entries).enumerate() {
        let ahead = ahead as u64;
        lines.push(line(row, ahead, parent.as_deref(), now_ms, entry)?);
        parent = Some(row.next_id(ahead));
    }
    Ok(lines)
}

/// The line of an entry, with its end.
fn line(row: &Row, ahead: u64, parent: Option<&str>, now_ms: i64, entry: &NewEntry) -> Result<Vec<u8>, SessionError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Out<'a> {
        #[serde(flatten)]
        body: &'a Body,
        id: String,
        parent_id: Option<&'a str>,
        timestamp: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        run_id: Option<&'a str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        background: bool,
    }
    whole_line(&Out {
        body: &entry.body,
        id: row.next_id(ahead),
        parent_id: parent,
        timestamp: timestamp(now_ms),
        run_id: entry.run_id.as_deref(),
        background: entry.background,
    })
}

fn whole_line(value: &impl Serialize) -> Result<Vec<u8>, SessionError> {
    let mut line = serde_json::to_vec(value).map_err(|error| SessionError::Refused(error.to_string()))?;
    if line.len() >= MAX_LINE {
        return Err(SessionError::Refused(format!(
            "the entry has {} bytes; allowed: less than {MAX_LINE}",
            line.len()
        )));
    }
    line.push(b'\n');
    Ok(line)
}

pub(super) fn own(note: &Note) -> NewEntry {
    Body::Custom {
        custom_type: OWN.to_owned(),
        data: serde_json::to_value(note).unwrap_or_default(),
    }
    .into()
}

/// A time as the family writes it: always with milliseconds.
fn timestamp(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    format!("{time:.3}")
}

pub(super) fn resolved(row: &Row, fresh: Option<Why>) -> Resolved {
    let text = |key: &str| row.meta.get(key).and_then(Value::as_str).map(str::to_owned);
    Resolved {
        session_id: row.id.clone(),
        fresh,
        overrides: Overrides {
            model: text("model"),
            thinking_level: text("thinkingLevel"),
            queue: crate::queue::Overrides::from_meta(&row.meta),
            send_policy: text("sendPolicy"),
        },
    }
}
