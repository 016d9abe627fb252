//! The jobs on disk: `cron/jobs.json`, replaced as a whole, with the copy before it beside it.
//!
//! What cannot be read as a job is kept as it is and not run. A file that cannot be read at all is put aside, and the copy is used.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::job::Job;

/// More jobs are not taken.
pub(crate) const MAX_JOBS: usize = 1000;

/// Largest file that is read, and so the largest that is written.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

const FILE: &str = "jobs.json";
const COPY: &str = "jobs.json.bak";
const ASIDE: &str = "jobs.json.unreadable";

/// All jobs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    /// By id.
    pub(crate) jobs: BTreeMap<String, Job>,
    /// What is no job of ours.
    foreign: Vec<Value>,
    /// Grows with each change.
    pub(crate) revision: u64,
}

/// Where the jobs are.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    directory: PathBuf,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    jobs: Vec<Value>,
}

impl Store {
    /// In `cron` below the state directory.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("cron"),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the jobs, and says what is wrong with them.
    pub(crate) fn load(&self) -> (Book, Vec<String>) {
        let mut complaints = Vec::new();
        let document = match self.read(FILE) {
            Ok(Some(document)) => document,
            Ok(None) => return (Book::default(), complaints),
            Err(fault) => {
                complaints.push(format!(
                    "{}: {fault}; the copy before it is used",
                    self.path().display()
                ));
                // It may be worth a look by a person, and the next save must not end it.
                let _ = std::fs::rename(self.path(), self.directory.join(ASIDE));
                self.read(COPY).ok().flatten().unwrap_or(Document { jobs: Vec::new() })
            }
        };
        let mut book = Book::default();
        for value in document.jobs {
            match Job::deserialize(&value) {
                Ok(job) if is_id(&job.id) && !book.jobs.contains_key(&job.id) => {
                    book.jobs.insert(job.id.clone(), job);
                }
                Ok(job) => {
                    let id: String = job.id.chars().take(64).collect();
                    complaints.push(format!("scheduled job {id:?}: its id is not one, or there twice"));
                    book.foreign.push(value);
                }
                Err(error) => {
                    let id = value.get("id").and_then(Value::as_str).unwrap_or("without an id");
                    let id: String = id.chars().take(64).collect();
                    complaints.push(format!("scheduled job {id:?} is not understood and not run: {error}"));
                    book.foreign.push(value);
                }
            }
        }
        (book, complaints)
    }

    fn read(&self, name: &str) -> Result<Option<Document>, String> {
        let path = self.directory.join(name);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot be read: {error}")),
            Ok(meta) if !meta.is_file() || meta.len() > MAX_BYTES => return Err("is no file of ours".to_owned()),
            Ok(_) => {}
        }
        let bytes = std::fs::read(&path).map_err(|error| format!("cannot be read: {error}"))?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| format!("is not what it ought to be: {error}"))
    }

    /// Writes the jobs; they are on disk when this returns.
    ///
    /// # Errors
    /// Those of the file system; what was there before is still there.
    pub(crate) fn save(&self, book: &Book) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let jobs: Vec<Value> = book
            .jobs
            .values()
            .map(|job| json!(job))
            .chain(book.foreign.iter().cloned())
            .collect();
        let text = serde_json::to_vec_pretty(&json!({"version": 1, "jobs": jobs}))?;
        if text.len() as u64 > MAX_BYTES {
            let message =
                format!("all jobs together have more than {MAX_BYTES} bytes; remove some, or shorten their messages");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let path = self.path();
        if path.is_file() {
            // A second name for the old content: whatever happens next, one of the two names leads to something whole.
            let fresh = self.directory.join(".jobs.json.bak.new");
            let _ = std::fs::remove_file(&fresh);
            std::fs::hard_link(&path, &fresh)?;
            std::fs::rename(&fresh, self.directory.join(COPY))?;
        }
        crate::file::replace(&path, &text, 0o600)
    }
}

/// Ids are names of files as well.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests;
