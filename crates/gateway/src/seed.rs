//! The agent's workspace: built-in defaults, and the files of the spec, which are put in place once in the life of a data volume.
//!
//! Whatever the agent has changed is the agent's: a file is overwritten only while it is byte for byte a default that we wrote.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use koi_wire::seed::{SeedParams, SeedResult};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// In the state directory: which defaults were written, by SHA-256.
const DEFAULTS: &str = "workspace-defaults.json";

/// In the state directory: the files of the spec are in place.
const MARKER: &str = "workspace-seeded.json";

/// Owner and group may write: the gateway and the owner of the home are in one group.
const FILE_MODE: u32 = 0o664;
const DIRECTORY_MODE: u32 = 0o775;

/// Were the files of the spec put in place?
pub(crate) fn is_done(state_dir: &Path) -> bool {
    state_dir.join(MARKER).exists()
}

/// Puts the files of the spec in place, unless that was done before. A run that was cut off is simply done again.
///
/// # Errors
/// Those of the file system, and a path that leads through a symbolic link.
pub(crate) fn apply(workspace: &Path, state_dir: &Path, wish: &SeedParams) -> io::Result<SeedResult> {
    if is_done(state_dir) {
        return Ok(SeedResult::default());
    }
    let defaults = read_defaults(state_dir);
    let mut result = SeedResult {
        seeded: true,
        ..SeedResult::default()
    };
    for (path, content) in &wish.files {
        let target = target(workspace, path)?;
        let wanted = match fs::read(&target) {
            Ok(found) => {
                found == content.as_bytes() || defaults.get(path).is_some_and(|default| *default == hash(&found))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if wanted {
            crate::file::replace(&target, content.as_bytes(), FILE_MODE)?;
            result.written.push(path.clone());
        } else {
            result.kept.push(path.clone());
        }
    }
    let marker = serde_json::to_vec_pretty(&json!({"written": result.written, "kept": result.kept}))?;
    crate::file::replace(&state_dir.join(MARKER), &marker, 0o600)?;
    Ok(result)
}

/// Writes the defaults that are not there, and remembers what was written. Gives the names of the files that were written.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write_defaults(
    workspace: &Path,
    state_dir: &Path,
    files: &BTreeMap<String, String>,
    own: &dyn Fn(&Path) -> io::Result<()>,
) -> io::Result<Vec<String>> {
    if state_dir.join(DEFAULTS).exists() {
        return Ok(Vec::new());
    }
    let mut written = Vec::new();
    for (name, content) in files {
        let path = workspace.join(name);
        if fs::symlink_metadata(&path).is_err() {
            crate::file::replace(&path, content.as_bytes(), FILE_MODE)?;
            own(&path)?;
            written.push(name.clone());
        }
    }
    let hashes: BTreeMap<&String, String> = files
        .iter()
        .map(|(name, content)| (name, hash(content.as_bytes())))
        .collect();
    crate::file::replace(&state_dir.join(DEFAULTS), &serde_json::to_vec_pretty(&hashes)?, 0o600)?;
    own(&state_dir.join(DEFAULTS))?;
    Ok(written)
}

fn read_defaults(state_dir: &Path) -> BTreeMap<String, String> {
    let text = fs::read(state_dir.join(DEFAULTS)).unwrap_or_default();
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    let entries = value.as_object().into_iter().flatten();
    entries
        .filter_map(|(name, hash)| Some((name.clone(), hash.as_str()?.to_owned())))
        .collect()
}

/// Where a file goes; makes the directories on the way. No component may be a symbolic link: the workspace belongs to the agent, and a
/// link could lead into what belongs to the gateway.
fn target(workspace: &Path, path: &str) -> io::Result<PathBuf> {
    let mut at = workspace.to_owned();
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        let last = parts.peek().is_none();
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_symlink() => return Err(refused(&at, "is a symbolic link")),
            Ok(meta) if last && !meta.is_file() => return Err(refused(&at, "is not a file")),
            Ok(meta) if !last && !meta.is_dir() => return Err(refused(&at, "is not a directory")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && last => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(&at)?,
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

/// With the group of the directory above, which the set-group bit there takes care of; the gateway may not set that bit itself.
fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path)
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} {why}", path.display()))
}

fn hash(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

#[cfg(test)]
mod tests {
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
            write_defaults(&self.workspace(), &self.state(), &files(pairs), &|_| Ok(())).unwrap()
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
        assert!(error.to_string().ends_with("koi/notes is a symbolic link"), "{error}");
        assert!(!home.state().join("devices.json").exists());
        assert!(!is_done(&home.state()));
    }
}
