//! Patches over many files, in the form that models know: `*** Begin Patch`, then files to add, delete or update, then `*** End Patch`.

mod read;

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use self::read::{Hunk, Part};
use crate::{Place, args, files, text};

#[derive(Deserialize)]
struct Patch {
    #[serde(alias = "patch")]
    input: String,
}

/// What is to be done to one file.
enum Deed {
    Write(PathBuf, String, &'static str),
    Delete(PathBuf),
    Move {
        from: PathBuf,
        to: PathBuf,
        content: String,
    },
}

/// Applies a patch. Everything is looked at before the first file is touched.
pub(crate) fn apply(place: &Place, arguments: Value) -> Result<String, String> {
    let patch: Patch = args::read(arguments)?;
    let parts = read::parts(&patch.input)?;
    let mut deeds = Vec::with_capacity(parts.len());
    for part in parts {
        deeds.push(deed(place, part)?);
    }
    let mut told = Vec::with_capacity(deeds.len());
    for deed in deeds {
        let done = perform(place, deed);
        told.push(done.map_err(|fault| format!("{fault}\nDone before that: {}", told.join(", ")))?);
    }
    Ok(told.join("\n"))
}

fn deed(place: &Place, part: Part) -> Result<Deed, String> {
    match part {
        Part::Add { path, content } => {
            let path = place.path(&path)?;
            if path.exists() {
                return Err(format!("{} is there already; update it instead", place.shown(&path)));
            }
            Ok(Deed::Write(path, content, "Added"))
        }
        Part::Delete { path } => {
            let path = place.path(&path)?;
            let about = fs::symlink_metadata(&path);
            match about {
                Ok(about) if !about.is_dir() => Ok(Deed::Delete(path)),
                Ok(_) => Err(format!("{} is a directory", place.shown(&path))),
                Err(error) => Err(format!(
                    "{} cannot be deleted: {}",
                    place.shown(&path),
                    files::words(&error)
                )),
            }
        }
        Part::Update { path, to, hunks } => {
            let path = place.path(&path)?;
            let content = updated(&files::whole(place, &path)?, &hunks)
                .map_err(|fault| format!("{}: {fault}; nothing was changed", place.shown(&path)))?;
            match to {
                None => Ok(Deed::Write(path, content, "Updated")),
                Some(to) => {
                    let to = place.path(&to)?;
                    if to != path && to.exists() {
                        return Err(format!("{} is there already", place.shown(&to)));
                    }
                    Ok(Deed::Move {
                        from: path,
                        to,
                        content,
                    })
                }
            }
        }
    }
}

fn perform(place: &Place, deed: Deed) -> Result<String, String> {
    match deed {
        Deed::Write(path, content, verb) => {
            files::replace(place, &path, &content)?;
            Ok(format!("{verb} {}", place.shown(&path)))
        }
        Deed::Delete(path) => {
            let done = fs::remove_file(&path);
            done.map_err(|error| format!("{} cannot be deleted: {}", place.shown(&path), files::words(&error)))?;
            Ok(format!("Deleted {}", place.shown(&path)))
        }
        Deed::Move { from, to, content } => {
            files::replace(place, &to, &content)?;
            if from != to {
                let done = fs::remove_file(&from);
                done.map_err(|error| format!("{} cannot be deleted: {}", place.shown(&from), files::words(&error)))?;
            }
            Ok(format!("Moved {} to {}", place.shown(&from), place.shown(&to)))
        }
    }
}

/// A content with its hunks applied, in their order.
fn updated(content: &str, hunks: &[Hunk]) -> Result<String, String> {
    let crlf = content.contains("\r\n");
    let plain = if crlf {
        content.replace("\r\n", "\n")
    } else {
        content.to_owned()
    };
    let ends = plain.is_empty() || plain.ends_with('\n');
    let mut lines: Vec<String> = plain.lines().map(str::to_owned).collect();
    let mut at = 0;
    for hunk in hunks {
        if let Some(head) = &hunk.head {
            let found = find(&lines, at, std::slice::from_ref(head), false);
            at = found.map_or(at, |found| found + 1);
        }
        let place = if hunk.old.is_empty() {
            // Nothing to look for: after its head, or at the end.
            if hunk.head.is_some() { at } else { lines.len() }
        } else {
            let found = find(&lines, at, &hunk.old, hunk.at_end).or_else(|| find(&lines, 0, &hunk.old, hunk.at_end));
            found.ok_or_else(|| missing(hunk))?
        };
        lines.splice(place..place + hunk.old.len(), hunk.new.iter().cloned());
        at = place + hunk.new.len();
    }
    let mut done = lines.join("\n");
    if ends && !done.is_empty() {
        done.push('\n');
    }
    Ok(if crlf { done.replace('\n', "\r\n") } else { done })
}

fn missing(hunk: &Hunk) -> String {
    format!(
        "these lines are not there: {:?}",
        text::short(&hunk.old.join("\n"), 200)
    )
}

/// Where lines stand, from a place on: exactly, else but for blanks at their ends, else but for all blanks around them.
fn find(lines: &[String], from: usize, wanted: &[String], at_end: bool) -> Option<usize> {
    let same: [fn(&str, &str) -> bool; 3] = [
        |a, b| a == b,
        |a, b| a.trim_end() == b.trim_end(),
        |a, b| a.trim() == b.trim(),
    ];
    let last = lines.len().checked_sub(wanted.len())?;
    let fits = |at: usize, same: fn(&str, &str) -> bool| {
        let here = lines.iter().skip(at);
        here.zip(wanted).all(|(line, wanted)| same(line, wanted))
    };
    same.into_iter().find_map(|same| {
        if at_end && fits(last, same) {
            return Some(last);
        }
        (from..=last).find(|at| fits(*at, same))
    })
}
