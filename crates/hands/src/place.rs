//! Where tools work: directories, and the environment of commands.

use std::path::{Component, Path, PathBuf};

/// Where tools work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The workspace: relative paths begin here.
    pub workspace: PathBuf,
    /// The home: `~`.
    pub home: PathBuf,
    /// Name of the user.
    pub user: String,
}

/// Where programs are found. Nothing of the own environment reaches a command.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin";

impl Place {
    /// The path that is meant.
    ///
    /// # Errors
    /// Why it is none.
    pub fn path(&self, given: &str) -> Result<PathBuf, String> {
        if given.is_empty() {
            return Err("path must not be empty".to_owned());
        }
        if given.contains('\0') || given.len() > 4096 {
            return Err("path is not a path".to_owned());
        }
        let path = match given.strip_prefix('~') {
            Some("") => self.home.clone(),
            Some(rest) if rest.starts_with('/') => self.home.join(rest.trim_start_matches('/')),
            _ => self.workspace.join(given),
        };
        Ok(plain(&path))
    }

    /// A path as people read it.
    #[must_use]
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.workspace)
            .ok()
            .filter(|rest| !rest.as_os_str().is_empty())
            .unwrap_or(path)
            .display()
            .to_string()
    }

    /// The whole environment of a command.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let home = self.home.display();
        vec![
            ("HOME", home.to_string()),
            ("USER", self.user.clone()),
            ("LOGNAME", self.user.clone()),
            ("SHELL", "/bin/bash".to_owned()),
            ("PATH", format!("{home}/.local/bin:{home}/bin:{PATH}")),
            ("LANG", "C.UTF-8".to_owned()),
            ("SKYKOI_SHELL", "exec".to_owned()),
            // Nobody is there to turn pages.
            ("PAGER", "cat".to_owned()),
            ("GIT_PAGER", "cat".to_owned()),
            ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
        ]
    }
}

/// Without `.` and, as far as it can be told from the words alone, `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() && !plain.is_symlink() => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}
