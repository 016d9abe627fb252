//! The agent's workspace: built-in defaults, and the files of the spec, which are put in place once in the life of a data volume.
//!
//! Whatever the agent has changed is the agent's: a file is overwritten only while it is byte for byte a default that we wrote.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use koi_wire::seed::{SeedParams, SeedResult};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::file::{Directory, Ids};

/// In the state directory: which defaults were written, by SHA-256.
const DEFAULTS: &str = "workspace-defaults.json";

/// In the state directory: the files of the spec are in place.
const MARKER: &str = "workspace-seeded.json";

/// Owner and group may write: the gateway and the owner of the home are in one group.
pub(crate) const FILE_MODE: u32 = 0o664;
const DIRECTORY_MODE: u32 = 0o775;

/// Were the files of the spec put in place?
pub(crate) fn is_done(state_dir: &Path) -> bool {
    state_dir.join(MARKER).exists()
}

/// A directory, and whose the files are that are made in it; the one's who makes them when nobody is named.
pub(crate) struct Place {
    pub(crate) directory: Directory,
    pub(crate) owner: Option<Ids>,
}

/// Puts the files of the spec in place, unless that was done before. A run that was cut off is simply done again.
///
/// # Errors
/// Those of the file system, and a path that leads through a symbolic link.
pub(crate) fn apply(workspace: &Path, state_dir: &Path, wish: &SeedParams) -> io::Result<SeedResult> {
    if is_done(state_dir) {
        return Ok(SeedResult::default());
    }
    let state = Directory::open(state_dir)?;
    let defaults = read_defaults(&state);
    let mut result = SeedResult {
        seeded: true,
        ..SeedResult::default()
    };
    // The workspace itself is the agent's own and may have become a link.
    let workspace = Directory::itself(workspace)?;
    for (path, content) in &wish.files {
        let default = defaults.get(path).map(String::as_str);
        if put(&workspace, path, content.as_bytes(), default).map_err(|error| named(path, &error))? {
            result.written.push(path.clone());
        } else {
            result.kept.push(path.clone());
        }
    }
    let marker = serde_json::to_vec_pretty(&json!({"written": result.written, "kept": result.kept}))?;
    state.replace(MARKER, &marker, 0o600, None)?;
    Ok(result)
}

/// Puts one file in place, and the directories on the way; false when the agent has its own version. No component may be a symbolic
/// link: the workspace belongs to the agent, and a link could lead into what belongs to the gateway.
///
/// New directories have the group of the one above, which the set-group bit there takes care of; the gateway may not set that bit itself.
fn put(workspace: &Directory, path: &str, content: &[u8], default: Option<&str>) -> io::Result<bool> {
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or_default();
    let mut inner: Option<Directory> = None;
    for part in parts {
        let entered = inner
            .as_ref()
            .unwrap_or(workspace)
            .enter_or_make(part, DIRECTORY_MODE)?;
        inner = Some(entered);
    }
    let directory = inner.as_ref().unwrap_or(workspace);
    let wanted = directory
        .read(name)?
        .is_none_or(|found| found == content || default.is_some_and(|default| default == hash(&found)));
    if wanted {
        directory.replace(name, content, FILE_MODE, None)?;
    }
    Ok(wanted)
}

fn named(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// Writes the defaults that are not there, and remembers what was written. Gives the names of the files that were written.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write_defaults(
    workspace: &Place,
    state: &Place,
    files: &BTreeMap<String, String>,
) -> io::Result<Vec<String>> {
    if state.directory.about(DEFAULTS)?.is_some() {
        return Ok(Vec::new());
    }
    let mut written = Vec::new();
    for (name, content) in files {
        if workspace.directory.about(name)?.is_none() {
            workspace
                .directory
                .replace(name, content.as_bytes(), FILE_MODE, workspace.owner)?;
            written.push(name.clone());
        }
    }
    let hashes: BTreeMap<&String, String> = files
        .iter()
        .map(|(name, content)| (name, hash(content.as_bytes())))
        .collect();
    let text = serde_json::to_vec_pretty(&hashes)?;
    state.directory.replace(DEFAULTS, &text, 0o600, state.owner)?;
    Ok(written)
}

fn read_defaults(state: &Directory) -> BTreeMap<String, String> {
    let text = state.read(DEFAULTS).ok().flatten().unwrap_or_default();
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    let entries = value.as_object().into_iter().flatten();
    entries
        .filter_map(|(name, hash)| Some((name.clone(), hash.as_str()?.to_owned())))
        .collect()
}

fn hash(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::file::tests::Scratch;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, content)| ((*name).to_owned(), (*content).to_owned()))
            .collect()
    }

    struct Home(Scratch);

    impl Home {
        fn new() -> Self {
            let home = Self(Scratch::new("seed"));
            fs::create_dir_all(home.workspace()).unwrap();
            fs::create_dir_all(home.state()).unwrap();
            home
        }

        fn workspace(&self) -> PathBuf {
            self.0.join("koi")
        }

        fn state(&self) -> PathBuf {
            self.0.join("state")
        }

        fn defaults(&self, pairs: &[(&str, &str)]) -> Vec<String> {
            let place = |path: PathBuf| Place {
                directory: Directory::open(&path).unwrap(),
                owner: None,
            };
            write_defaults(&place(self.workspace()), &place(self.state()), &files(pairs)).unwrap()
        }

        fn seed(&self, pairs: &[(&str, &str)]) -> io::Result<SeedResult> {
            apply(&self.workspace(), &self.state(), &SeedParams { files: files(pairs) })
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.workspace().join(name)).unwrap()
        }
    }

    #[test]
    fn defaults_are_replaced_and_edits_are_kept() {
        let home = Home::new();
        assert_eq!(home.defaults(&[("A.md", "a"), ("B.md", "b")]), ["A.md", "B.md"]);
        fs::write(home.workspace().join("B.md"), "mine").unwrap();
        let result = home
            .seed(&[("A.md", "spec a"), ("B.md", "spec b"), ("notes/c.md", "c")])
            .unwrap();
        let expected = SeedResult {
            seeded: true,
            written: vec!["A.md".to_owned(), "notes/c.md".to_owned()],
            kept: vec!["B.md".to_owned()],
        };
        assert_eq!(result, expected);
        assert_eq!(
            (home.read("A.md"), home.read("B.md"), home.read("notes/c.md")),
            ("spec a".into(), "mine".into(), "c".into())
        );
    }

    #[test]
    fn it_happens_once() {
        let home = Home::new();
        assert!(!is_done(&home.state()));
        home.seed(&[("A.md", "one")]).unwrap();
        assert!(is_done(&home.state()));
        assert_eq!(home.seed(&[("A.md", "two")]).unwrap(), SeedResult::default());
        assert_eq!(home.read("A.md"), "one");
        // What the agent deletes stays deleted.
        home.defaults(&[("B.md", "b")]);
        fs::remove_file(home.workspace().join("B.md")).unwrap();
        assert_eq!(home.defaults(&[("B.md", "b")]), Vec::<String>::new());
    }

    #[test]
    fn a_run_that_was_cut_off_is_done_again() {
        let home = Home::new();
        home.seed(&[("A.md", "one"), ("B.md", "two")]).unwrap();
        fs::remove_file(home.state().join(MARKER)).unwrap();
        fs::remove_file(home.workspace().join("B.md")).unwrap();
        assert_eq!(
            home.seed(&[("A.md", "one"), ("B.md", "two")]).unwrap().written,
            ["A.md", "B.md"]
        );
    }

    #[test]
    fn links_are_not_followed() {
        let home = Home::new();
        std::os::unix::fs::symlink(home.state(), home.workspace().join("notes")).unwrap();
        let error = home.seed(&[("notes/devices.json", "{}")]).unwrap_err();
        assert_eq!(error.to_string(), "notes/devices.json: notes is a symbolic link");
        assert!(!home.state().join("devices.json").exists());
        fs::rename(home.workspace(), home.0.join("other")).unwrap();
        std::os::unix::fs::symlink(home.state(), home.workspace()).unwrap();
        let error = home.seed(&[("devices.json", "{}")]).unwrap_err();
        assert_eq!(error.to_string(), "koi is a symbolic link");
        assert!(!home.state().join("devices.json").exists());
        assert!(!is_done(&home.state()));
    }
}
