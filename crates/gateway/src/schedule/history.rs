//! The history of runs: `cron/runs/<job>.jsonl`, a line for each, seven days and 2000 lines of them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::job::Status;

/// How long a run is remembered.
const KEEP_MS: i64 = 7 * 24 * 3_600_000;
/// How many runs of a job are remembered.
const KEEP_ROWS: usize = 2000;
/// A file is looked through for what is too old when it has grown by about so much.
const PRUNE_BYTES: u64 = 256 * 1024;
/// Characters of a summary that are kept.
const MAX_SUMMARY_CHARS: usize = 2000;

/// A run that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// When it ended.
    pub(crate) ts: i64,
    /// Its job.
    pub(crate) job_id: String,
    /// Always `finished`.
    pub(crate) action: String,
    /// How it ended.
    pub(crate) status: Status,
    /// Why it failed or was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// What the agent said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) summary: Option<String>,
    /// `delivered`, `not-delivered`, `not-requested`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delivery_status: Option<String>,
    /// Why nobody was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delivery_error: Option<String>,
    /// The transcript.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_id: Option<String>,
    /// The conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_key: Option<String>,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run_id: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run_at_ms: Option<i64>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) duration_ms: Option<i64>,
    /// When the job runs next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_run_at_ms: Option<i64>,
    /// What it cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Value>,
    /// The name of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) job_name: Option<String>,
}

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    /// Runs of this job; of all where there is none.
    pub(crate) job: Option<String>,
    /// This run.
    pub(crate) run: Option<String>,
    /// Runs that ended so.
    pub(crate) statuses: Option<Vec<Status>>,
    /// Runs whose result fared so.
    pub(crate) deliveries: Option<Vec<String>>,
    /// Runs in which this stands.
    pub(crate) text: Option<String>,
    /// The oldest first.
    pub(crate) ascending: bool,
    /// How many are left out.
    pub(crate) offset: usize,
    /// How many are wanted.
    pub(crate) limit: usize,
}

/// The history.
#[derive(Clone, Debug)]
pub(crate) struct History {
    directory: PathBuf,
}

impl History {
    /// Below the directory of the jobs.
    pub(crate) fn new(cron: &Path) -> Self {
        Self {
            directory: cron.join("runs"),
        }
    }

    /// Adds a run.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn append(&self, mut row: Row, now: i64) -> io::Result<()> {
        row.summary = row.summary.map(|text| text.chars().take(MAX_SUMMARY_CHARS).collect());
        fs::create_dir_all(&self.directory)?;
        let path = self.path(&row.job_id);
        let before = fs::metadata(&path).map_or(0, |meta| meta.len());
        let mut line = serde_json::to_vec(&row)?;
        line.push(b'\n');
        // A line that a crash cut short ends here, and not in the middle of this one.
        if before > 0 && !ends_with_newline(&path)? {
            line.insert(0, b'\n');
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        file.write_all(&line)?;
        let after = before + line.len() as u64;
        if before / PRUNE_BYTES != after / PRUNE_BYTES {
            self.prune(&row.job_id, now)?;
        }
        Ok(())
    }

    /// What is too old or too much goes.
    fn prune(&self, job: &str, now: i64) -> io::Result<()> {
        let rows = self.rows(job);
        let old = rows.iter().filter(|row| row.ts < now - KEEP_MS).count();
        let gone = old.max(rows.len().saturating_sub(KEEP_ROWS));
        let mut text = Vec::new();
        for row in rows.iter().skip(gone) {
            serde_json::to_writer(&mut text, row)?;
            text.push(b'\n');
        }
        crate::file::replace(&self.path(job), &text, 0o600)
    }

    /// Forgets a job that is no more, some time after its last run.
    pub(crate) fn sweep(&self, known: impl Fn(&str) -> bool, now: i64) {
        for job in self.jobs() {
            let last = self.rows(&job).last().map_or(0, |row| row.ts);
            if !known(&job) && last < now - KEEP_MS {
                let _ = fs::remove_file(self.path(&job));
            }
        }
    }

    /// A page of what is looked for, and how many there are in all.
    pub(crate) fn page(&self, query: &Query, now: i64) -> (Vec<Row>, usize) {
        let jobs = match &query.job {
            Some(job) => vec![job.clone()],
            None => self.jobs(),
        };
        let mut rows: Vec<Row> = jobs
            .iter()
            .flat_map(|job| {
                let mut rows = self.rows(job);
                rows.drain(..rows.len().saturating_sub(KEEP_ROWS));
                rows
            })
            .filter(|row| row.ts >= now - KEEP_MS && query.wants(row))
            .collect();
        rows.sort_by_key(|row| row.ts);
        if !query.ascending {
            rows.reverse();
        }
        let total = rows.len();
        let page = rows.into_iter().skip(query.offset).take(query.limit).collect();
        (page, total)
    }

    fn jobs(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".jsonl")?.to_owned()));
        names.filter(|name| super::store::is_id(name)).collect()
    }

    /// The lines that can be read.
    fn rows(&self, job: &str) -> Vec<Row> {
        if !super::store::is_id(job) {
            return Vec::new();
        }
        let text = fs::read(self.path(job)).unwrap_or_default();
        text.split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }

    fn path(&self, job: &str) -> PathBuf {
        self.directory.join(format!("{job}.jsonl"))
    }
}

fn ends_with_newline(path: &Path) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

impl Query {
    fn wants(&self, row: &Row) -> bool {
        let status = self.statuses.as_ref().is_none_or(|wanted| wanted.contains(&row.status));
        let delivery = self.deliveries.as_ref().is_none_or(|wanted| {
            let has = row.delivery_status.as_deref().unwrap_or("unknown");
            wanted.iter().any(|wanted| wanted == has)
        });
        let run = self.run.is_none() || self.run == row.run_id;
        let text = self.text.as_ref().is_none_or(|text| {
            let text = text.to_lowercase();
            [&row.summary, &row.error, &row.job_name]
                .into_iter()
                .flatten()
                .any(|field| field.to_lowercase().contains(&text))
        });
        status && delivery && run && text
    }
}

impl Row {
    /// As the contract has it.
    pub(crate) fn view(&self) -> Value {
        let mut view = json!(self);
        if let Some(status) = &self.delivery_status {
            view["delivered"] = json!(status == "delivered");
        }
        view
    }
}

#[cfg(test)]
mod tests;
