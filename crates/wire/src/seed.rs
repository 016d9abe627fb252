//! `koi.workspace.seed`: the operator puts the files of `spec.workspace` in place, once in the life of a data volume.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// How many files one call may carry.
pub const MAX_FILES: usize = 256;

/// How large one file may be, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// How long one component of a path may be: a file is first written under a slightly longer name.
const MAX_COMPONENT: usize = 240;

/// What the operator sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SeedParams {
    /// Content by path relative to the workspace.
    #[serde(deserialize_with = "bounded")]
    pub files: BTreeMap<String, String>,
}

/// Reads no more files than are allowed: what is too much is refused before it fills the memory.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Files;

    impl<'de> Visitor<'de> for Files {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut files = BTreeMap::new();
            while let Some((path, content)) = entries.next_entry()? {
                files.insert(path, content);
                if files.len() > MAX_FILES {
                    return Err(A::Error::custom(format!(
                        "more than {MAX_FILES} files, at most {MAX_FILES} are allowed"
                    )));
                }
            }
            Ok(files)
        }
    }

    deserializer.deserialize_map(Files)
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeedResult {
    /// False when an earlier call had done it already; nothing was touched then.
    pub seeded: bool,
    /// Files that were written, sorted.
    pub written: Vec<String>,
    /// Files that were left alone because the agent has its own version, sorted.
    pub kept: Vec<String>,
}

/// Is this a path that may be seeded? Relative, plain components, no hidden root of the gateway's own.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn check_path(path: &str) -> Result<(), String> {
    let fault = if path.is_empty() || path.len() > 255 {
        Some("must have 1 to 255 characters")
    } else if path.starts_with('/') || path.contains('\\') {
        Some("must be relative, with / between components")
    } else if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        Some("must not contain empty components, . or ..")
    } else if path.chars().any(char::is_control) {
        Some("must not contain control characters")
    } else if path.split('/').any(|part| part.len() > MAX_COMPONENT) {
        Some("must not have components of more than 240 bytes")
    } else {
        None
    };
    fault.map_or(Ok(()), |fault| Err(format!("path {path:?} {fault}")))
}

/// The directories of a path.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(at, _)| path.get(..at))
}

impl SeedParams {
    /// Holds the call against its bounds.
    ///
    /// # Errors
    /// A sentence that names the file and says what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if self.files.len() > MAX_FILES {
            return Err(format!("{} files, at most {MAX_FILES} are allowed", self.files.len()));
        }
        for (path, content) in &self.files {
            check_path(path)?;
            if let Some(file) = ancestors(path).find(|ancestor| self.files.contains_key(*ancestor)) {
                return Err(format!("path {path:?} lies below {file:?}, which is a file"));
            }
            if content.len() > MAX_FILE_BYTES {
                return Err(format!(
                    "file {path:?} has {} bytes, at most {MAX_FILE_BYTES} are allowed",
                    content.len()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_the_workspace() {
        for good in ["AGENTS.md", "notes/2026/plan.md", "a b", "..a", "é.md"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "a\nb",
            &"x".repeat(256),
            &"x".repeat(241),
        ] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds_name_the_file() {
        let files = BTreeMap::from([("big.md".to_owned(), "x".repeat(MAX_FILE_BYTES + 1))]);
        let message = SeedParams { files }.check().unwrap_err();
        assert_eq!(
            message,
            "file \"big.md\" has 1048577 bytes, at most 1048576 are allowed"
        );
        let files = (0..=MAX_FILES).map(|n| (n.to_string(), String::new())).collect();
        assert!(SeedParams { files }.check().unwrap_err().starts_with("257 files"));
        let files = ["a-b", "a", "a/b/c"]
            .map(|path| (path.to_owned(), String::new()))
            .into();
        let message = SeedParams { files }.check().unwrap_err();
        assert_eq!(message, "path \"a/b/c\" lies below \"a\", which is a file");
    }

    #[test]
    fn too_many_files_are_not_even_read() {
        let files: BTreeMap<String, String> = (0..=MAX_FILES).map(|n| (n.to_string(), String::new())).collect();
        let text = serde_json::json!({ "files": files }).to_string();
        let error = serde_json::from_str::<SeedParams>(&text).unwrap_err();
        assert!(error.to_string().starts_with("more than 256 files"), "{error}");
    }
}
