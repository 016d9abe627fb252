//! Files: read, write, list.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::Value;

use crate::{Image, Outcome, Place, args, text};

/// Numbers files that are not written to their end yet.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Lines, and bytes, of one reading.
const MOST_LINES: usize = 2000;
const MOST_BYTES: usize = 48 * 1024;

/// Characters of one line.
const MOST_LINE: usize = 2000;

/// Bytes of a picture: it becomes part of a transcript.
const MOST_IMAGE: u64 = 1_000_000;

/// Bytes of a file that is changed as a whole.
const MOST_TEXT: u64 = 16 * 1024 * 1024;

/// Entries of a directory that are listed.
const MOST_ENTRIES: usize = 500;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reading {
    #[serde(alias = "file_path", alias = "filePath")]
    path: String,
    #[serde(default)]
    offset: Option<usize>,
    #[serde(default)]
    limit: Option<usize>,
}

/// Opens a file for reading. What is no file would block, or never end.
pub(crate) fn open(place: &Place, path: &Path) -> Result<File, String> {
    let fault = |error: io::Error| format!("{} cannot be read: {}", place.shown(path), words(&error));
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(fault)?;
    let kind = file.metadata().map_err(fault)?.file_type();
    if kind.is_dir() {
        return Err(format!("{} is a directory; use ls", place.shown(path)));
    }
    if !kind.is_file() {
        return Err(format!("{} is no regular file", place.shown(path)));
    }
    Ok(file)
}

/// Faults of the file system without their numbers.
pub(crate) fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// A whole file that is text.
pub(crate) fn whole(place: &Place, path: &Path) -> Result<String, String> {
    let file = open(place, path)?;
    let mut bytes = Vec::new();
    let read = file.take(MOST_TEXT + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("{} cannot be read: {}", place.shown(path), words(&error)))?;
    if bytes.len() as u64 > MOST_TEXT {
        return Err(format!(
            "{} has more than {MOST_TEXT} bytes; change it with a command",
            place.shown(path)
        ));
    }
    String::from_utf8(bytes).map_err(|_| format!("{} is no UTF-8 text; change it with a command", place.shown(path)))
}

/// Reads a file, or a part of it.
pub(crate) fn read(place: &Place, arguments: Value) -> Outcome {
    let done = args::read::<Reading>(arguments).and_then(|wish| {
        let path = place.path(&wish.path)?;
        let file = open(place, &path)?;
        match picture(&file, &path) {
            Some(kind) => show(place, file, &path, kind),
            None => lines(place, file, &path, &wish).map(Outcome::said),
        }
    });
    done.unwrap_or_else(Outcome::failed)
}

fn picture(file: &File, path: &Path) -> Option<&'static str> {
    use std::os::unix::fs::FileExt;
    let mut head = [0; 12];
    let count = file.read_at(&mut head, 0).ok()?;
    let head = head.get(..count)?;
    let named = path.extension()?.to_str()?.to_ascii_lowercase();
    match named.as_str() {
        "png" if head.starts_with(b"\x89PNG") => Some("image/png"),
        "jpg" | "jpeg" if head.starts_with(b"\xff\xd8\xff") => Some("image/jpeg"),
        "gif" if head.starts_with(b"GIF8") => Some("image/gif"),
        "webp" if head.starts_with(b"RIFF") && head.ends_with(b"WEBP") => Some("image/webp"),
        _ => None,
    }
}

fn show(place: &Place, file: File, path: &Path, kind: &str) -> Result<Outcome, String> {
    let mut bytes = Vec::new();
    let read = file.take(MOST_IMAGE + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("{} cannot be read: {}", place.shown(path), words(&error)))?;
    if bytes.len() as u64 > MOST_IMAGE {
        return Err(format!(
            "{} has more than {MOST_IMAGE} bytes; make it smaller first",
            place.shown(path)
        ));
    }
    Ok(Outcome {
        text: format!("{} ({kind}, {} bytes)", place.shown(path), bytes.len()),
        image: Some(Image {
            data: STANDARD.encode(bytes),
            mime_type: kind.to_owned(),
        }),
        is_error: false,
    })
}

fn lines(place: &Place, file: File, path: &Path, wish: &Reading) -> Result<String, String> {
    let fault = |error: io::Error| format!("{} cannot be read: {}", place.shown(path), words(&error));
    let size = file.metadata().map_err(fault)?.len();
    let mut reader = BufReader::new(file);
    if text::is_binary(reader.fill_buf().map_err(fault)?) {
        return Err(format!("{} is no text: {size} bytes of binary data", place.shown(path)));
    }
    let first = wish.offset.unwrap_or(1).max(1);
    let most = wish.limit.unwrap_or(MOST_LINES).clamp(1, MOST_LINES);
    let (mut out, mut number, mut more) = (String::new(), 0, false);
    let mut line = Vec::new();
    loop {
        line.clear();
        if !next_line(&mut reader, &mut line).map_err(fault)? {
            break;
        }
        number += 1;
        if number < first {
            continue;
        }
        if number >= first + most || out.len() >= MOST_BYTES {
            more = true;
            break;
        }
        out.push_str(&text::short(&text::visible(&String::from_utf8_lossy(&line)), MOST_LINE));
        out.push('\n');
    }
    if number < first && number > 0 {
        return Err(format!("{} has only {number} lines", place.shown(path)));
    }
    if out.is_empty() {
        return Ok(format!("({} is empty)", place.shown(path)));
    }
    if more {
        out.push_str(&format!(
            "[lines {first} to {} of a file of {size} bytes; go on with offset {number}]",
            number - 1
        ));
    }
    Ok(out)
}

/// The next line without its end; of a very long one only the beginning is kept.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut any = false;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let piece = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
        let room = (4 * MOST_LINE).saturating_sub(line.len()).min(piece.len());
        line.extend_from_slice(piece.get(..room).unwrap_or_default());
        let used = piece.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(true);
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Writing {
    #[serde(alias = "file_path", alias = "filePath")]
    path: String,
    content: String,
    /// `base64` for what is no text; the gateway's own tools write that way.
    #[serde(default)]
    encoding: Option<String>,
}

/// Writes a file as a whole.
pub(crate) fn write(place: &Place, arguments: Value) -> Result<String, String> {
    let wish: Writing = args::read(arguments)?;
    let path = place.path(&wish.path)?;
    let content = match wish.encoding.as_deref() {
        None | Some("utf8" | "utf-8") => wish.content.into_bytes(),
        Some("base64") => STANDARD
            .decode(wish.content.trim())
            .map_err(|fault| format!("content is no base64: {fault}"))?,
        Some(other) => {
            return Err(format!(
                "there is no encoding {:?}; allowed: base64",
                text::short(other, 32)
            ));
        }
    };
    replace_bytes(place, &path, &content)?;
    Ok(format!("Wrote {} bytes to {}.", content.len(), place.shown(&path)))
}

/// Replaces what a file holds in one step: who reads it sees the old or the new. A link stays one, and rights stay as they are.
pub(crate) fn replace(place: &Place, path: &Path, content: &str) -> Result<(), String> {
    replace_bytes(place, path, content.as_bytes())
}

fn replace_bytes(place: &Place, path: &Path, content: &[u8]) -> Result<(), String> {
    let fault = |error: io::Error| format!("{} cannot be written: {}", place.shown(path), words(&error));
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = match fs::metadata(&path) {
        Ok(about) if about.is_file() => Some(about.permissions().mode()),
        Ok(_) => return Err(format!("{} is no regular file", place.shown(&path))),
        Err(_) => None,
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.map_or_else(|| PathBuf::from("/"), Path::to_owned);
    fs::create_dir_all(&parent).map_err(fault)?;
    let name = path
        .file_name()
        .ok_or_else(|| format!("{} names no file", place.shown(&path)))?;
    // Two conversations may write the same file at the same moment.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let beside = parent.join(format!(
        ".{}.{}-{number}.tmp",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written = put(&beside, content, mode).and_then(|()| fs::rename(&beside, &path));
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        fault(error)
    })
}

fn put(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    if let Some(mode) = mode {
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    }
    file.sync_all()
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    path: Option<String>,
}

/// Lists a directory.
pub(crate) fn list(place: &Place, arguments: Value) -> Result<String, String> {
    let wish: List = args::read(arguments)?;
    let path = place.path(wish.path.as_deref().unwrap_or("."))?;
    let fault = |error: io::Error| format!("{} cannot be listed: {}", place.shown(&path), words(&error));
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let mark = match entry.file_type() {
            Ok(kind) if kind.is_dir() => "/",
            Ok(kind) if kind.is_symlink() => "@",
            Ok(kind) if kind.is_fifo() || kind.is_socket() => "|",
            _ => "",
        };
        let name = text::readable(entry.file_name().to_string_lossy().as_bytes()).replace('\n', "?");
        names.push(format!("{name}{mark}"));
    }
    names.sort_unstable();
    let count = names.len();
    names.truncate(MOST_ENTRIES);
    if count > MOST_ENTRIES {
        names.push(format!("[... {} more]", count - MOST_ENTRIES));
    }
    if names.is_empty() {
        Ok("(empty)".to_owned())
    } else {
        Ok(names.join("\n"))
    }
}
