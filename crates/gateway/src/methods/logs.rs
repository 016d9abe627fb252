//! `logs.tail`: the end of the gateway's own log, from a cursor on.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use futures::FutureExt;
use koi_wire::name::Scope;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, Call, Method, fault};
use crate::logfile;

const DEFAULT_LINES: usize = 500;
const MAX_LINES: usize = 5000;
const DEFAULT_BYTES: u64 = 250_000;
const MAX_BYTES: u64 = 1_000_000;

pub(super) const TABLE: &[Method] = &[Method::later("logs.tail", Scope::Read, |call| {
    call.blocking(tail).boxed()
})];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Params {
    #[serde(default)]
    cursor: Option<u64>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    max_bytes: Option<u64>,
}

/// A part of a log.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tail {
    cursor: u64,
    size: u64,
    lines: Vec<String>,
    truncated: bool,
    reset: bool,
}

fn tail(call: &Call) -> Answer {
    let params = call.params::<Params>()?;
    let limit = params.limit.unwrap_or(DEFAULT_LINES);
    let bytes = params.max_bytes.unwrap_or(DEFAULT_BYTES);
    if !(1..=MAX_LINES).contains(&limit) {
        return Err(call.invalid(&format!("at /limit: must be 1 to {MAX_LINES}")));
    }
    if !(1..=MAX_BYTES).contains(&bytes) {
        return Err(call.invalid(&format!("at /maxBytes: must be 1 to {MAX_BYTES}")));
    }
    let path = logfile::path(&call.shared.settings.state_dir);
    let tail = read(&path, params.cursor, limit, bytes)
        .map_err(|error| fault::unavailable(format!("{} cannot be read: {error}", path.display())))?;
    let mut answer = json!(tail);
    answer["file"] = path.display().to_string().into();
    Ok(answer)
}

/// Reads whole lines only: the cursor is where the next one begins.
fn read(path: &Path, cursor: Option<u64>, limit: usize, bytes: u64) -> io::Result<Tail> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Tail::default()),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len();
    // A cursor beyond the end is from before the file began anew.
    let reset = cursor.is_some_and(|cursor| cursor > size);
    let wanted = cursor.filter(|_| !reset);
    let start = wanted.unwrap_or(0).max(size.saturating_sub(bytes));
    let mut truncated = start > wanted.unwrap_or(0);
    // One byte before tells whether a line begins at the start.
    file.seek(SeekFrom::Start(start.saturating_sub(1)))?;
    let mut text = Vec::new();
    file.take(bytes + 1).read_to_end(&mut text)?;
    let mut begin = usize::from(start > 0);
    if truncated && text.first() != Some(&b'\n') {
        begin = text
            .iter()
            .skip(begin)
            .position(|byte| *byte == b'\n')
            .map_or(text.len(), |found| begin + found + 1);
    }
    let end = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(begin, |last| (last + 1).max(begin));
    let whole = String::from_utf8_lossy(text.get(begin..end).unwrap_or_default());
    let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
    if lines.len() > limit {
        lines.drain(..lines.len() - limit);
        truncated = true;
    }
    Ok(Tail {
        cursor: start.saturating_sub(1) + end as u64,
        size,
        lines,
        truncated,
        reset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_once() {
        let directory = crate::file::tests::Scratch::new("tail");
        let path = directory.join("log");
        let part = |cursor, limit, bytes| read(&path, cursor, limit, bytes).unwrap();
        assert_eq!(part(None, 10, 100), Tail::default());
        std::fs::write(&path, "one\ntwo\nthr").unwrap();
        let first = part(None, 10, 100);
        assert_eq!(
            (first.lines.as_slice(), first.cursor, first.truncated),
            (["one".to_owned(), "two".to_owned()].as_slice(), 8, false)
        );
        std::fs::write(&path, "one\ntwo\nthree\nfour\n").unwrap();
        let second = part(Some(first.cursor), 10, 100);
        assert_eq!(
            (second.lines, second.cursor),
            (vec!["three".to_owned(), "four".to_owned()], 19)
        );
        assert_eq!(part(Some(19), 10, 100).lines, Vec::<String>::new());
        let short = part(None, 10, 8);
        assert_eq!(
            (short.lines, short.truncated, short.cursor),
            (vec!["four".to_owned()], true, 19)
        );
        let exact = part(None, 10, 11);
        assert_eq!(exact.lines, ["three", "four"]);
        let few = part(None, 1, 100);
        assert_eq!((few.lines, few.truncated), (vec!["four".to_owned()], true));
        let anew = part(Some(1000), 10, 100);
        assert_eq!((anew.reset, anew.lines.len()), (true, 4));
    }
}
