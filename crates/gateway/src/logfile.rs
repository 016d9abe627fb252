//! The gateway's own log on disk: bounded, so that it never fills the volume. The newest part is one file, what came before is another.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// How large one file grows before the next one begins. There are two.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Where the log of a state directory is.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("logs/gateway.log")
}

/// The log. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct LogFile(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    most: u64,
    /// None while it cannot be written: the log on standard error goes on.
    file: Option<(File, u64)>,
}

impl LogFile {
    /// The log of a state directory.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self::with_bound(path(state_dir), MAX_BYTES)
    }

    fn with_bound(path: PathBuf, most: u64) -> Self {
        let mut inner = Inner { path, most, file: None };
        inner.open();
        Self(Arc::new(Mutex::new(inner)))
    }
}

impl Inner {
    fn open(&mut self) {
        let open = || {
            if let Some(parent) = self.path.parent() {
                fs::create_dir_all(parent)?;
            }
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&self.path)?;
            let size = file.metadata()?.len();
            Ok::<_, io::Error>((file, size))
        };
        self.file = open().ok();
    }

    fn write(&mut self, line: &[u8]) {
        let added = line.len() as u64;
        if self.file.as_ref().is_some_and(|(_, size)| size + added > self.most) {
            self.file = None;
            let _ = fs::rename(&self.path, self.path.with_extension("log.1"));
        }
        if self.file.is_none() {
            self.open();
        }
        if let Some((file, size)) = &mut self.file {
            match file.write_all(line) {
                Ok(()) => *size += added,
                Err(_) => self.file = None,
            }
        }
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_only_the_gateway_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = crate::file::tests::Scratch::new("logfile");
        let path = path(&directory);
        let mut log = LogFile::with_bound(path.clone(), 100);
        for number in 0..50 {
            log.write_all(format!("line {number:02}\n").as_bytes()).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        let before = fs::read_to_string(path.with_extension("log.1")).unwrap();
        assert!(text.len() <= 100 && before.len() <= 100);
        assert!(
            text.ends_with("line 49\n") && before.ends_with('\n'),
            "{before:?} {text:?}"
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(log);
        LogFile::with_bound(path.clone(), 100).write_all(b"next\n").unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("line 49\nnext\n"));
    }
}
