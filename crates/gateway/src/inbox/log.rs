//! The file of the inbox: read once, then appended to by one thread, and written anew when most of it is history.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tracing::{error, warn};

use super::Line;
use super::record::{Record, Restored, Sum};

/// A file that is larger than this, and four times what it was after it was written anew, is written anew.
const LARGE: u64 = 8 * 1024 * 1024;

/// Lines that share one flush, at most.
const MOST_LINES: usize = 1024;

/// The longest line that is read.
const MOST_LINE: usize = 64 * 1024 * 1024;

/// How long to wait before a line that is owed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    compact: u64,
    /// What the disk would not take, and must.
    owed: Vec<u8>,
}

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<(Self, Restored)> {
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(directory)?;
        let (restored, good, length) = read(path)?;
        if restored.unreadable > 0 {
            warn!(path = %path.display(), lines = restored.unreadable, "lines of the inbox cannot be read");
        }
        let (file, length) = if length > good || length > LARGE / 2 {
            rewrite(path, &restored)?
        } else {
            (ours().create(true).append(true).open(path)?, good)
        };
        sync_directory(directory)?;
        let log = Self {
            path: path.to_owned(),
            file,
            length,
            compact: length,
            owed: Vec::new(),
        };
        Ok((log, restored))
    }

    /// A log on something that cannot be read.
    #[cfg(test)]
    pub(super) fn open_unread(path: &Path) -> io::Result<(Self, Restored)> {
        let log = Self {
            path: path.to_owned(),
            file: OpenOptions::new().append(true).open(path)?,
            length: 0,
            compact: 0,
            owed: Vec::new(),
        };
        Ok((log, Restored::default()))
    }

    /// Writes lines until nobody can send any more.
    pub(super) fn write(mut self, lines: &Receiver<Line>) {
        loop {
            let first = if self.owed.is_empty() {
                lines.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                lines.recv_timeout(AGAIN)
            };
            let mut batch: Vec<Line> = match first {
                Ok(line) => vec![line],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.append(&[]);
                    return;
                }
            };
            batch.extend(lines.try_iter().take(MOST_LINES));
            let written = self.append(&batch);
            if let Err(fault) = &written {
                error!(path = %self.path.display(), %fault, "the inbox cannot be written");
                for line in batch.iter().filter(|line| line.owed) {
                    self.owed.extend_from_slice(line.text.as_bytes());
                }
            }
            let told = written.map_err(|fault| format!("{}: {fault}", self.path.display()));
            for line in batch {
                if let Some(done) = line.done {
                    let _ = done.send(told.clone());
                }
            }
            if self.length > LARGE && self.length / 4 > self.compact {
                self.renew();
            }
        }
    }

    /// All lines, or none of them.
    fn append(&mut self, batch: &[Line]) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.owed);
        let owed = bytes.len();
        for line in batch {
            bytes.extend_from_slice(line.text.as_bytes());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let waited_for = owed > 0 || batch.iter().any(|line| line.done.is_some());
        let result = self.file.write_all(&bytes).and_then(|()| match waited_for {
            true => self.file.sync_data(),
            false => Ok(()),
        });
        match result {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line must not stand before the next one.
                let _ = self.file.set_len(self.length);
                bytes.truncate(owed);
                self.owed = bytes;
                Err(error)
            }
        }
    }

    fn renew(&mut self) {
        let renewed = read(&self.path).and_then(|(restored, _, _)| rewrite(&self.path, &restored));
        match renewed {
            Ok((file, length)) => {
                (self.file, self.length, self.compact) = (file, length, length);
            }
            Err(fault) => {
                warn!(path = %self.path.display(), %fault, "the inbox stays as large as it is");
                self.compact = self.length;
            }
        }
    }
}

/// What a file holds, how much of it is whole lines, and how long it is.
fn read(path: &Path) -> io::Result<(Restored, u64, u64)> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Restored::default(), 0, 0)),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let (mut sum, mut good, mut line) = (Sum::default(), 0, Vec::new());
    let mut reader = BufReader::new(file);
    loop {
        line.clear();
        let count = reader.read_until(b'\n', &mut line)?;
        if count == 0 || line.last() != Some(&b'\n') {
            // A torn tail: it was never acknowledged.
            return Ok((sum.done(), good, length));
        }
        good += count as u64;
        if line.len() > MOST_LINE {
            sum.unreadable();
            continue;
        }
        match serde_json::from_slice::<Record<'_>>(&line) {
            Ok(record) => sum.add(record),
            Err(_) if line.iter().all(u8::is_ascii_whitespace) => {}
            Err(_) => sum.unreadable(),
        }
    }
}

/// What people write is for nobody else on the machine to read.
fn ours() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Writes the file anew, with what still matters.
fn rewrite(path: &Path, restored: &Restored) -> io::Result<(File, u64)> {
    let new = path.with_extension("jsonl.new");
    let mut file = ours().create(true).truncate(true).write(true).open(&new)?;
    let mut writer = io::BufWriter::new(&mut file);
    for record in restored.records() {
        serde_json::to_writer(&mut writer, &record)?;
        writer.write_all(b"\n")?;
    }
    writer.flush()?;
    drop(writer);
    file.sync_all()?;
    let length = file.seek(SeekFrom::End(0))?;
    fs::rename(&new, path)?;
    sync_directory(path.parent().unwrap_or_else(|| Path::new(".")))?;
    Ok((OpenOptions::new().append(true).open(path)?, length))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
