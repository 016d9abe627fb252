//! `docs/semantics.md` answers every manner of the cloud, with tests that are there or with why not.

#![allow(clippy::unwrap_used, reason = "a page that cannot be read is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The manners by chapter: launch, reading, power, volumes, groups, identity, other.
const CHAPTERS: [(char, usize); 7] = [('L', 22), ('R', 14), ('S', 9), ('V', 7), ('G', 9), ('I', 11), ('O', 5)];
/// Where tests stand.
const PLACES: [&str; 3] = ["crates", "src", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The cells of the rows of all tables whose first cell is not a title.
fn rows() -> Vec<Vec<String>> {
    let page = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let cells = |line: &str| {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let rows = page.lines().filter(|line| line.starts_with('|')).map(cells);
    rows.filter(|row| !row[0].starts_with('-') && row[0] != "#" && !row[0].starts_with("what was"))
        .collect()
}

/// The sources below a folder, with the names that their paths are made of.
fn sources(folder: &Path, found: &mut Vec<(Vec<String>, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs" || kind == "py") {
            let names = path.with_extension("");
            let names = names.iter().map(|name| name.to_string_lossy().into_owned());
            found.push((names.collect(), fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The tests that a cell names.
fn named(cell: &str) -> Vec<(&str, &str)> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.map(|name| name.split_once("::").unwrap()).collect()
}

#[test]
fn every_manner_is_answered_once() {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows().iter().filter(|row| row.len() == 4) {
        *told.entry(row[0].clone()).or_default() += 1;
    }
    let wanted = CHAPTERS.iter().flat_map(|(chapter, count)| {
        let numbers = 1..=*count;
        numbers.map(move |number| (format!("{chapter}{number}"), 1))
    });
    assert_eq!(told, wanted.collect());
    assert_eq!(told.len(), 77);
}

#[test]
fn every_answer_names_tests_that_are_there_or_says_why_not() {
    let mut files = Vec::new();
    for place in PLACES {
        sources(&root().join(place), &mut files);
    }
    let there = |room: &str, test: &str| {
        let said = [format!("fn {test}("), format!("def {test}(")];
        let mut at_home = files.iter().filter(|(names, _)| names.iter().any(|name| name == room));
        at_home.any(|(_, text)| said.iter().any(|said| text.contains(said.as_str())))
    };
    for row in rows() {
        let (does, shown) = (row[row.len() - 2].to_lowercase(), &row[row.len() - 1]);
        let tests = named(shown);
        if tests.is_empty() {
            assert!(does.contains("not handled:"), "{}: neither a test nor why not", row[0]);
        }
        for (room, test) in tests {
            assert!(there(room, test), "{}: no test {test} in {room}", row[0]);
        }
    }
}
