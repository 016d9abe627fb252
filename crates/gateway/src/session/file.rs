//! Transcript files: read line by line within bounds, appended to and flushed before anything is acknowledged, mended at their end.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tracing::warn;

/// The longest line that is looked at, in bytes. Longer ones count as broken, and are passed over without being kept.
pub(super) const MAX_LINE: usize = 32 * 1024 * 1024;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// What comes after the name of a session in the name of its file.
pub(super) const SUFFIX: &str = ".jsonl";

/// The file of a session.
pub(super) fn path(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!("{id}{SUFFIX}"))
}

/// Opens a file to read it; a link, a pipe or a device is a fault.
pub(super) fn open(path: &Path) -> io::Result<File> {
    // Opening a pipe would wait for somebody to write.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(bits(flags)).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a file"))
    }
}

fn bits(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// A line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// As it is.
    Whole(&'a [u8]),
    /// Longer than [`MAX_LINE`].
    TooLong,
}

/// Lines of a part of a file. What follows the last line end is no line.
#[derive(Debug)]
pub(super) struct Lines {
    file: File,
    /// Where the buffer ends in the file.
    read: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Where the next line begins in the buffer.
    from: usize,
    /// Up to where the buffer has been searched.
    searched: usize,
    /// Where the next line begins in the file.
    at: u64,
}

impl Lines {
    /// The lines from one place to another.
    pub(super) fn new(file: File, from: u64, end: u64) -> Self {
        Self {
            file,
            read: from,
            end,
            buffer: Vec::new(),
            from: 0,
            searched: 0,
            at: from,
        }
    }

    /// Where the next line begins; at the end, where what is no line begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next line, where it begins, and its length with its end.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, u64, Line<'_>)>> {
        let begin = self.at;
        let mut too_long = false;
        let stop = loop {
            let unseen = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(found) = memchr::memchr(b'\n', unseen) {
                break self.searched + found;
            }
            self.searched = self.buffer.len();
            if too_long || self.buffer.len() - self.from > MAX_LINE {
                too_long = true;
                // Nothing of it is kept.
                self.buffer.clear();
                (self.from, self.searched) = (0, 0);
            }
            if !self.fill()? {
                return Ok(None);
            }
        };
        let from = std::mem::replace(&mut self.from, stop + 1);
        self.searched = stop + 1;
        self.at = self.read - (self.buffer.len() - self.from) as u64;
        let length = self.at - begin;
        let line = if too_long || stop - from > MAX_LINE {
            Line::TooLong
        } else {
            Line::Whole(self.buffer.get(from..stop).unwrap_or_default())
        };
        Ok(Some((begin, length, line)))
    }

    /// Reads on; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.from);
        self.searched -= self.from;
        self.from = 0;
        if self.buffer.capacity() > 4 * CHUNK && self.buffer.len() < CHUNK {
            self.buffer.shrink_to(2 * CHUNK);
        }
        // A long line is read in larger and larger steps.
        let step = CHUNK.max(self.buffer.len()) as u64;
        let want = usize::try_from(step.min(self.end - self.read)).unwrap_or(CHUNK);
        let old = self.buffer.len();
        self.buffer.resize(old + want, 0);
        let got = match self.buffer.get_mut(old..) {
            Some(room) if want > 0 => self.file.read_at(room, self.read),
            _ => Ok(0),
        };
        self.buffer.truncate(old + *got.as_ref().unwrap_or(&0));
        let got = got?;
        self.read += got as u64;
        Ok(got > 0)
    }
}

/// A file that is appended to.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) id: String,
    file: File,
    pub(super) length: u64,
    /// The end of the file may be anything: a write failed, and could not be taken back.
    pub(super) broken: bool,
}

impl Writer {
    /// Opens a file that is there.
    pub(super) fn open(directory: &Path, id: &str) -> io::Result<Self> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .append(true)
            .custom_flags(bits(flags))
            .open(path(directory, id))?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a file"));
        }
        Ok(Self {
            id: id.to_owned(),
            length: about.len(),
            file,
            broken: false,
        })
    }

    /// Makes a file, whole or not at all.
    pub(super) fn create(directory: &Path, id: &str, content: &[u8]) -> io::Result<Self> {
        let path = path(directory, id);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let mut writer = Self {
            id: id.to_owned(),
            length: 0,
            file,
            broken: false,
        };
        let made = writer.append(content).and_then(|()| File::open(directory)?.sync_all());
        if let Err(error) = made {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(writer)
    }

    /// Is the file as long as it is known to be?
    pub(super) fn is_at(&self, known: u64) -> bool {
        let told = self.file.metadata().is_ok_and(|about| about.len() == known);
        told && self.length == known && !self.broken
    }

    /// Appends, and returns when it is on disk. When that fails, the file is as it was.
    pub(super) fn append(&mut self, content: &[u8]) -> io::Result<()> {
        let done = self.file.write_all(content).and_then(|()| self.file.sync_data());
        match done {
            Ok(()) => {
                self.length += content.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.broken = self.file.set_len(self.length).is_err();
                Err(error)
            }
        }
    }
}

/// Mends the end of a file: what follows the last line end, from `at` on. A whole object gets its line end; anything else was never
/// acknowledged: it is put aside, then cut off. Returns how long the file is now.
pub(super) fn mend(directory: &Path, id: &str, at: u64) -> io::Result<u64> {
    let path = path(directory, id);
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .custom_flags(bits(OFlags::NOFOLLOW | OFlags::NONBLOCK))
        .open(&path)?;
    let length = file.metadata()?.len();
    if length <= at {
        return Ok(length);
    }
    if let Ok(size @ 1..=MAX_LINE) = usize::try_from(length - at) {
        let mut tail = vec![0; size];
        file.read_exact_at(&mut tail, at)?;
        if super::line::Glance::of(&tail).sort != super::line::Sort::Broken {
            (&file).write_all(b"\n")?;
            file.sync_data()?;
            return Ok(length + 1);
        }
    }
    let aside = put_aside(&file, &path, at, length)?;
    file.set_len(at)?;
    file.sync_data()?;
    warn!(file = %path.display(), at, cut = length - at, aside = %aside.display(), "a transcript ended in the middle of a line");
    Ok(at)
}

/// Copies the torn end beside the file, under a name that is not taken.
fn put_aside(file: &File, path: &Path, at: u64, length: u64) -> io::Result<PathBuf> {
    let mut number = 0_u32;
    let (aside, mut target) = loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".torn-{at}-{number}"));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name);
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
            made => break (PathBuf::from(name), made?),
        }
    };
    match copy(file, at, length, &mut target) {
        Ok(()) => Ok(aside),
        Err(error) => {
            let _ = std::fs::remove_file(&aside);
            Err(error)
        }
    }
}

fn copy(file: &File, from: u64, end: u64, target: &mut File) -> io::Result<()> {
    let mut at = from;
    let mut chunk = vec![0; CHUNK];
    while at < end {
        let got = file.read_at(&mut chunk, at)?;
        if got == 0 {
            break;
        }
        target.write_all(chunk.get(..got).unwrap_or_default())?;
        at += got as u64;
    }
    target.sync_all()
}

#[cfg(test)]
mod tests;
