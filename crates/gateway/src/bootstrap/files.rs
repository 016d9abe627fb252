//! Files and directories as they should be.

use std::fmt;
use std::fs;
use std::io;
use std::ops::BitOrAssign;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::{Failure, Run, io_failure};

/// Did a step change anything?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Unchanged,
    Changed,
}

impl Change {
    pub(super) fn when(changed: bool) -> Self {
        if changed { Self::Changed } else { Self::Unchanged }
    }
}

impl BitOrAssign for Change {
    fn bitor_assign(&mut self, other: Self) {
        if other == Self::Changed {
            *self = Self::Changed;
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Changed { "changed" } else { "unchanged" })
    }
}

/// Whose a file is; nobody's in particular where only files are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(Option<(u32, u32)>);

impl Owner {
    /// A user of the machine and its main group.
    pub(super) fn named(run: &Run<'_>, name: &str) -> Result<Self, Failure> {
        if run.options.files_only {
            return Ok(Self(None));
        }
        let path = run.options.path("/etc/passwd");
        let text = fs::read_to_string(&path).map_err(|error| io_failure(&path, &error))?;
        let found = text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let user = fields.next().filter(|user| *user == name).and(fields.nth(1))?;
            Some((user.parse().ok()?, fields.next()?.parse().ok()?))
        });
        found
            .map(|ids| Self(Some(ids)))
            .ok_or_else(|| Failure::Failed(format!("there is no user {name}")))
    }

    fn on(self, run: &Run<'_>) -> Option<(u32, u32)> {
        if run.options.files_only { None } else { self.0 }
    }
}

/// A file with this content, mode and owner.
pub(super) fn content(run: &Run<'_>, path: &str, content: &[u8], mode: u32, owner: Owner) -> Result<Change, Failure> {
    let path = run.options.path(path);
    let owner = owner.on(run);
    if is_as_wished(&path, content, mode, owner) {
        return Ok(Change::Unchanged);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| io_failure(parent, &error))?;
    }
    crate::file::replace_as(&path, content, mode, owner).map_err(|error| io_failure(&path, &error))?;
    Ok(Change::Changed)
}

fn is_as_wished(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return false;
    };
    meta.is_file()
        && meta.mode() & 0o7777 == mode
        && owner.is_none_or(|owner| owner == (meta.uid(), meta.gid()))
        && fs::read(path).is_ok_and(|found| found == content)
}

/// No file.
pub(super) fn absent(run: &Run<'_>, path: &str) -> Result<Change, Failure> {
    let path = run.options.path(path);
    match fs::remove_file(&path) {
        Ok(()) => Ok(Change::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Change::Unchanged),
        Err(error) => Err(io_failure(&path, &error)),
    }
}

/// A directory with this mode and owner. A symbolic link in its place is a fault: what we own is never reached through one.
pub(super) fn directory(run: &Run<'_>, path: &str, mode: u32, owner: Owner) -> Result<Change, Failure> {
    let path = run.options.path(path);
    let fault = |error: io::Error| io_failure(&path, &error);
    let mut change = Change::Unchanged;
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode & 0o700)
                .create(&path)
                .map_err(fault)?;
            change = Change::Changed;
        }
        Err(error) => return Err(fault(error)),
        Ok(meta) if !meta.is_dir() => return Err(Failure::Failed(format!("{} is not a directory", path.display()))),
        Ok(_) => {}
    }
    let meta = fs::symlink_metadata(&path).map_err(fault)?;
    if let Some((user, group)) = owner.on(run)
        && (user, group) != (meta.uid(), meta.gid())
    {
        std::os::unix::fs::lchown(&path, Some(user), Some(group)).map_err(fault)?;
        change = Change::Changed;
    }
    if meta.mode() & 0o7777 != mode || change == Change::Changed {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(fault)?;
        change = Change::Changed;
    }
    Ok(change)
}

/// Does it belong to this owner?
pub(super) fn is_owned(run: &Run<'_>, path: &str, owner: Owner) -> bool {
    let meta = fs::symlink_metadata(run.options.path(path));
    owner
        .on(run)
        .is_none_or(|owner| meta.is_ok_and(|meta| owner == (meta.uid(), meta.gid())))
}

/// Gives a file to its owner, where owners count.
pub(super) fn give(run: &Run<'_>, path: &Path, owner: Owner) -> io::Result<()> {
    match owner.on(run) {
        Some((user, group)) => std::os::unix::fs::lchown(path, Some(user), Some(group)),
        None => Ok(()),
    }
}
