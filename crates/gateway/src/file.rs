//! Files and directories, reached step by step from directories that are held open: a symbolic link on the way is never followed, so
//! what is done in a place that belongs to somebody else is done there and nowhere else.
//!
//! Files are replaced as a whole: readers see the old content or the new, never half of one, also after a crash.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

/// User and group, by number.
pub(crate) type Ids = (u32, u32);

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory that is held open.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

/// What is known of an entry of a directory; of a link, not of what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) owner: Ids,
}

impl From<Stat> for About {
    fn from(stat: Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
        }
    }
}

impl Directory {
    /// Opens a directory whose path is trusted: links in it are followed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// A directory below a trusted one; the ways of the path are entered one by one, none of them through a link.
    pub(crate) fn reach(root: &Path, path: &Path) -> io::Result<Self> {
        Self::open(root)?.below(path, Self::enter)
    }

    /// A directory in a trusted one, such as the workspace: it belongs to somebody else and may have become a link, which is none.
    pub(crate) fn itself(path: &Path) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default();
        Self::reach(path.parent().unwrap_or(path), Path::new(name))
    }

    /// The same, but what is missing on the way is made.
    pub(crate) fn reach_or_make(root: &Path, path: &Path) -> io::Result<Self> {
        Self::open(root)?.below(path, |at, name| at.enter_or_make(name, 0o755))
    }

    /// Goes down a relative path.
    fn below(self, path: &Path, step: impl Fn(&Self, &str) -> io::Result<Self>) -> io::Result<Self> {
        let mut at = self;
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => at = step(&at, &name.to_string_lossy())?,
                Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL.into()),
            }
        }
        Ok(at)
    }

    /// The directory of this name in here. A link is none.
    pub(crate) fn enter(&self, name: &str) -> io::Result<Self> {
        match rustix::fs::openat(&self.0, name, DIRECTORY, Mode::empty()) {
            Ok(handle) => Ok(Self(handle)),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(self.not(name, FileType::Directory)),
            Err(error) => Err(error.into()),
        }
    }

    /// The same; made when it is missing.
    pub(crate) fn enter_or_make(&self, name: &str, mode: u32) -> io::Result<Self> {
        match self.enter(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make(name, mode)?;
                self.enter(name)
            }
            entered => entered,
        }
    }

    /// Makes a directory.
    pub(crate) fn make(&self, name: &str, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode))?)
    }

    /// What is here under this name.
    pub(crate) fn about(&self, name: &str) -> io::Result<Option<About>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What a file holds; none when there is none. A link, a pipe or a device is a fault.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(mut file) = self.regular(name)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// A file, open for reading.
    fn regular(&self, name: &str) -> io::Result<Option<File>> {
        // Opening a pipe would wait for somebody to write.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let handle = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(self.not(name, FileType::RegularFile)),
            Err(error) => return Err(error.into()),
        };
        if About::from(rustix::fs::fstat(&handle)?).kind != FileType::RegularFile {
            return Err(self.not(name, FileType::RegularFile));
        }
        Ok(Some(File::from(handle)))
    }

    /// The beginning of a text file; none when there is none.
    pub(crate) fn read_some(&self, name: &str, most: usize) -> io::Result<Option<String>> {
        let Some(file) = self.regular(name)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        file.take(most as u64).read_to_end(&mut content)?;
        Ok(Some(String::from_utf8_lossy(&content).into_owned()))
    }

    /// Names of what is in here, so many at most.
    pub(crate) fn names(&self, most: usize) -> io::Result<Vec<String>> {
        let entries = rustix::fs::Dir::read_from(&self.0)?;
        let named = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()));
        Ok(named.filter(|name| name != "." && name != "..").take(most).collect())
    }

    /// The same, but no more than so many bytes; a file that is larger is a fault.
    pub(crate) fn read_at_most(&self, name: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.regular(name)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        file.take(most + 1).read_to_end(&mut content)?;
        if content.len() as u64 > most {
            let text = format!("{name} has more than {most} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(Some(content))
    }

    /// How large a file is, and when it was last changed, in milliseconds since the epoch; none when there is none.
    pub(crate) fn size_and_time(&self, name: &str) -> io::Result<Option<(u64, i64)>> {
        let Some(file) = self.regular(name)? else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(&file)?;
        let (seconds, nanos) = (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Some((size, seconds.saturating_mul(1000) + nanos / 1_000_000)))
    }

    /// Writes a file beside the target, flushes it to disk, and renames it over the target. A link there is replaced, not followed.
    pub(crate) fn replace(&self, name: &str, content: &[u8], mode: u32, owner: Option<Ids>) -> io::Result<()> {
        // The one who sets the machine up and the one who runs on it may write the same file at the same moment: each has a name of
        // its own for what is not done yet.
        let fresh = format!(".{name}.{}", if owner.is_some() { "given" } else { "new" });
        // What an interrupted run left may belong to somebody else.
        self.remove(&fresh)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.0, &*fresh, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(content)?;
        if let Some((user, group)) = owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        file.sync_all()?;
        rustix::fs::renameat(&self.0, &*fresh, &self.0, name)?;
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Removes a file or a link. Was there one?
    pub(crate) fn remove(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives an entry another name, under which there is nothing yet.
    pub(crate) fn rename(&self, name: &str, other: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(
            &self.0,
            name,
            &self.0,
            other,
            RenameFlags::NOREPLACE,
        )?)
    }

    /// Gives this directory an owner and a mode. Was anything else before?
    pub(crate) fn own(&self, mode: u32, owner: Option<Ids>) -> io::Result<bool> {
        let before = About::from(rustix::fs::fstat(&self.0)?);
        let foreign = owner.filter(|owner| *owner != before.owner);
        if let Some((user, group)) = foreign {
            rustix::fs::fchown(&self.0, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        // A change of owner may take bits away.
        if foreign.is_some() || before.mode != mode {
            rustix::fs::fchmod(&self.0, Mode::from_raw_mode(mode))?;
            return Ok(true);
        }
        Ok(false)
    }

    fn not(&self, name: &str, wanted: FileType) -> io::Error {
        let link = self
            .about(name)
            .is_ok_and(|about| about.is_some_and(|about| about.kind == FileType::Symlink));
        let why = match wanted {
            _ if link => "is a symbolic link",
            FileType::Directory => "is not a directory",
            _ => "is not a file",
        };
        io::Error::new(io::ErrorKind::InvalidInput, format!("{name} {why}"))
    }
}

/// Replaces a file in a directory whose path is trusted.
///
/// # Errors
/// Those of the file system; the old content is still there then.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Directory::open(path.parent().unwrap_or_else(|| Path::new(".")))?.replace(&name, content, mode, None)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::ops::Deref;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    /// A directory of a test; it goes away with this value.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("koi-gateway-{name}-{}", uuid::Uuid::new_v4()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// One that costs no disk, where there is such a thing: for those that are made by the thousand.
        pub(crate) fn in_memory(name: &str) -> Self {
            let memory = Path::new("/dev/shm");
            if !memory.is_dir() {
                return Self::new(name);
            }
            let path = memory.join(format!("koi-gateway-{name}-{}", uuid::Uuid::new_v4()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    /// How many cases a slow property has: few, unless many are asked for by `PROPTEST_CASES`.
    pub(crate) fn cases(few: u32) -> proptest::test_runner::Config {
        let usual = proptest::test_runner::Config::default();
        let asked = std::env::var_os("PROPTEST_CASES").is_some();
        proptest::test_runner::Config {
            cases: if asked { usual.cases } else { few },
            ..usual
        }
    }

    impl Deref for Scratch {
        type Target = Path;

        fn deref(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let directory = Scratch::new("file");
        let path = directory.join("a");
        fs::write(directory.join(".a.new"), "left by a crash").unwrap();
        replace(&path, b"one", 0o644).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&*directory).unwrap().count(), 1);
    }

    #[test]
    fn no_link_is_followed_on_the_way_or_at_the_end() {
        let place = Scratch::new("links");
        fs::create_dir_all(place.join("outside")).unwrap();
        fs::create_dir_all(place.join("home")).unwrap();
        fs::write(place.join("outside/secret"), "s").unwrap();
        symlink("../outside", place.join("home/way")).unwrap();
        symlink("../outside/secret", place.join("home/end")).unwrap();
        symlink("../outside/secret", place.join("home/.end.new")).unwrap();
        let fault = Directory::reach(&place, Path::new("home/way")).unwrap_err();
        assert_eq!(fault.to_string(), "way is a symbolic link");
        assert!(Directory::reach_or_make(&place, Path::new("home/way/more")).is_err());
        assert!(Directory::reach(&place, Path::new("home/../outside")).is_err());
        let home = Directory::reach(&place, Path::new("/home")).unwrap();
        assert_eq!(home.read("end").unwrap_err().to_string(), "end is a symbolic link");
        home.replace("end", b"mine", 0o600, None).unwrap();
        assert_eq!(home.read("end").unwrap().unwrap(), b"mine");
        assert_eq!(fs::read_to_string(place.join("outside/secret")).unwrap(), "s");
        assert_eq!(fs::read_dir(place.join("outside")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let place = Scratch::new("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            place.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let here = Directory::open(&place).unwrap();
        assert_eq!(here.read("pipe").unwrap_err().to_string(), "pipe is not a file");
        assert_eq!(here.read("nothing").unwrap(), None);
    }
}
