//! Files and directories as they should be.

use std::fmt;
use std::fs;
use std::io;
use std::ops::BitOrAssign;
use std::path::Path;

use rustix::fs::FileType;

use super::{Failure, Ground, io_failure};
use crate::file::{About, Directory, Ids};

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
pub(super) struct Owner(Option<Ids>);

impl Owner {
    /// A user of the machine and its main group.
    pub(super) fn named(ground: &Ground<'_>, name: &str) -> Result<Self, Failure> {
        if ground.options.files_only {
            return Ok(Self(None));
        }
        let path = ground.options.path("/etc/passwd");
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

    /// The same user, with the main group of another.
    pub(super) fn with_group_of(self, other: Self) -> Self {
        Self(self.0.zip(other.0).map(|((user, _), (_, group))| (user, group)))
    }

    /// Numbers of user and group, where owners count.
    pub(super) fn ids(self) -> Option<Ids> {
        self.0
    }
}

/// The directory of a path, and the name in it.
fn split<'a>(ground: &Ground<'_>, path: &'a str) -> Result<(Directory, &'a str), Failure> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let directory = Directory::reach_or_make(&ground.options.root, Path::new(parent));
    directory
        .map(|directory| (directory, name))
        .map_err(|error| io_failure(&ground.options.path(parent), &error))
}

/// Names the path in a fault.
fn at<T>(ground: &Ground<'_>, path: &str, result: io::Result<T>) -> Result<T, Failure> {
    result.map_err(|error| io_failure(&ground.options.path(path), &error))
}

/// A file with this content, mode and owner.
pub(super) fn content(
    ground: &Ground<'_>,
    path: &str,
    content: &[u8],
    mode: u32,
    owner: Owner,
) -> Result<Change, Failure> {
    let (directory, name) = split(ground, path)?;
    if is_as_wished(&directory, name, content, mode, owner) {
        return Ok(Change::Unchanged);
    }
    at(ground, path, directory.replace(name, content, mode, owner.ids()))?;
    Ok(Change::Changed)
}

fn is_as_wished(directory: &Directory, name: &str, content: &[u8], mode: u32, owner: Owner) -> bool {
    let Ok(Some(about)) = directory.about(name) else {
        return false;
    };
    about.mode == mode
        && owner.ids().is_none_or(|owner| owner == about.owner)
        && directory
            .read(name)
            .is_ok_and(|found| found.is_some_and(|found| found == content))
}

/// What a file holds; none when there is none.
pub(super) fn read(ground: &Ground<'_>, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    let (directory, name) = split(ground, path)?;
    at(ground, path, directory.read(name))
}

/// No file.
pub(super) fn absent(ground: &Ground<'_>, path: &str) -> Result<Change, Failure> {
    let (directory, name) = split(ground, path)?;
    at(ground, path, directory.remove(name)).map(Change::when)
}

/// A directory with this mode and owner. A symbolic link in its place is a fault: what we own is never reached through one.
pub(super) fn directory(ground: &Ground<'_>, path: &str, mode: u32, owner: Owner) -> Result<Change, Failure> {
    let (parent, name) = split(ground, path)?;
    let mut change = Change::Unchanged;
    if at(ground, path, parent.about(name))?.is_none() {
        at(ground, path, parent.make(name, mode & 0o700))?;
        change = Change::Changed;
    }
    let opened = at(ground, path, parent.enter(name))?;
    change |= Change::when(at(ground, path, opened.own(mode, owner.ids()))?);
    Ok(change)
}

/// Moves away what is in the place of a directory of ours and cannot be it, under a name that people see, and says so.
pub(super) fn set_aside(ground: &Ground<'_>, path: &str, is_it: impl Fn(&About) -> bool) -> Result<Change, Failure> {
    let (parent, name) = split(ground, path)?;
    let Some(about) = at(ground, path, parent.about(name))? else {
        return Ok(Change::Unchanged);
    };
    if about.kind == FileType::Directory && is_it(&about) {
        return Ok(Change::Unchanged);
    }
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let other = format!("{}.aside-{unique}", name.trim_start_matches('.'));
    at(ground, path, parent.rename(name, &other))?;
    let what = match about.kind {
        FileType::Directory => format!("a directory of user {}", about.owner.0),
        FileType::Symlink => "a symbolic link".to_owned(),
        _ => "not a directory".to_owned(),
    };
    ground.machine.say(&format!(
        "warning: {path} was {what}: moved aside to {other}, a fresh one is made"
    ));
    Ok(Change::Changed)
}

/// The owner of what is at a path; none when there is nothing.
pub(super) fn owner_of(ground: &Ground<'_>, path: &str) -> Result<Option<Ids>, Failure> {
    let (parent, name) = split(ground, path)?;
    Ok(at(ground, path, parent.about(name))?.map(|about| about.owner))
}
