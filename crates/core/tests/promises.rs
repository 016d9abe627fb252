//! `docs/promises.md` names the tests of each promise: all eight are there, and so is every test.

use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The cells of a row of the table.
fn cells(line: &str) -> Option<[&str; 4]> {
    let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
    let cells: [&str; 4] = cells.try_into().ok()?;
    cells[0].parse::<u32>().is_ok().then_some(cells)
}

/// Why a named test is not there.
fn fault(named: &str) -> Option<String> {
    let Some((file, name)) = named.split_once("::") else {
        return Some(format!("{named}: not of the form file::test"));
    };
    let Ok(text) = std::fs::read_to_string(Path::new(ROOT).join(file)) else {
        return Some(format!("{file} is not there"));
    };
    let found = [format!("fn {name}("), format!("def {name}(")]
        .iter()
        .any(|head| text.contains(head));
    (!found).then(|| format!("{file} has no test {name}"))
}

#[test]
fn every_promise_has_tests_that_are_there() {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/promises.md")).unwrap();
    let rows: Vec<[&str; 4]> = page.lines().filter_map(cells).collect();
    let numbers: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    for [number, _, tests, breach] in rows {
        let named: Vec<&str> = tests.split(", ").map(|name| name.trim_matches('`')).collect();
        assert!(named.len() > 1 && !breach.is_empty(), "promise {number}: {named:?}");
        let faults: Vec<String> = named.iter().filter_map(|name| fault(name)).collect();
        assert_eq!(faults, Vec::<String>::new(), "promise {number}");
    }
}
