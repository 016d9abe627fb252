//! The data volume: found by its id, formatted only when it is empty beyond doubt, grown, mounted at /home/ubuntu.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::told;
use super::files::Change;
use super::{Command, Failure, Options, Run, io_failure};

/// Where the volume belongs.
const HOME: &str = "/home/ubuntu";

/// Where a new volume is filled before it takes its place.
const STAGE: &str = "/run/skykoi-volume";

/// The label of our file systems.
const LABEL: &str = "koi-data";

/// What is read from the beginning and from the end of a volume that looks empty.
const PROBED_BYTES: u64 = 4 * 1024 * 1024;

/// What is read at each place in between, and at how many places at most: some seconds for a large volume, once in its life.
const SAMPLE_BYTES: u64 = 4 * 1024;
const MAX_SAMPLES: u64 = 4096;

/// The volume has a file system, checked and as large as the volume.
pub(super) fn ready(run: &Run<'_>) -> Result<Change, Failure> {
    let device = device(run)?;
    if is_mounted(run, &device) {
        return Ok(Change::Unchanged);
    }
    let shown = device.display().to_string();
    if has_ext4(run, &device)? {
        let check = Command::new(&["e2fsck", "-p", &shown]).within(Duration::from_secs(1800));
        let output = run.ask(&check)?;
        // 1: errors were corrected. 2: and a reboot is advised, which is for mounted ones.
        return if output.code <= 2 && output.code >= 0 {
            Ok(Change::when(output.code != 0))
        } else {
            Err(Failure::Failed(told(&check, &output)))
        };
    }
    let make = ["mkfs.ext4", "-q", "-m", "1", "-L", LABEL, &shown];
    run.must(&Command::new(&make).within(Duration::from_secs(600)))?;
    Ok(Change::Changed)
}

/// The volume is the home, with what belongs into a home, and fills its device.
pub(super) fn mounted(run: &Run<'_>) -> Result<Change, Failure> {
    let device = device(run)?;
    let mut change = Change::Unchanged;
    if !is_mounted(run, &device) {
        if is_mount_point(run.options, HOME)? {
            return Err(Failure::Failed(format!(
                "something else than {} is mounted at {HOME}",
                run.bundle.volume_id
            )));
        }
        fill(run, &device)?;
        mount(run, &device, HOME)?;
        change = Change::Changed;
    }
    change |= grown(run, &device)?;
    Ok(change)
}

/// The file system fills its device. One that cannot be grown now is still whole: the agent runs with the room that it has.
fn grown(run: &Run<'_>, device: &Path) -> Result<Change, Failure> {
    let command = Command::new(&["resize2fs", &device.display().to_string()]).within(Duration::from_secs(600));
    let output = run.ask(&command)?;
    if output.code == 0 {
        return Ok(Change::when(!output.text.contains("Nothing to do")));
    }
    run.machine.say(&format!(
        "warning: {HOME} keeps its size, it is tried again at the next boot: {}",
        told(&command, &output)
    ));
    Ok(Change::Unchanged)
}

/// A volume that was never used gets the home as the image has it: dot files, and keys that cloud-init put there.
fn fill(run: &Run<'_>, device: &Path) -> Result<(), Failure> {
    let stage = run.options.path(STAGE);
    fs::create_dir_all(&stage).map_err(|error| io_failure(&stage, &error))?;
    if is_mount_point(run.options, STAGE)? {
        run.must(&Command::new(&["umount", STAGE]))?;
    }
    mount(run, device, STAGE)?;
    let filled = is_unused(&stage).and_then(|unused| {
        if unused {
            run.must(&Command::new(&["cp", "-a", &format!("{HOME}/."), &format!("{STAGE}/")]))?;
        }
        Ok(())
    });
    run.must(&Command::new(&["umount", STAGE]))?;
    filled
}

fn is_unused(stage: &Path) -> Result<bool, Failure> {
    let entries = fs::read_dir(stage).map_err(|error| io_failure(stage, &error))?;
    Ok(entries.flatten().all(|entry| entry.file_name() == "lost+found"))
}

fn mount(run: &Run<'_>, device: &Path, at: &str) -> Result<(), Failure> {
    let path = run.options.path(at);
    fs::create_dir_all(&path).map_err(|error| io_failure(&path, &error))?;
    let shown = device.display().to_string();
    run.must(&Command::new(&[
        "mount",
        "-t",
        "ext4",
        "-o",
        "nodev,nosuid,noatime",
        &shown,
        at,
    ]))
    .map(|_| ())
}

/// The device of the volume. Nitro machines name devices as they please, but the id of the volume is the serial number; older ones have
/// no serial numbers and keep the name that was asked for.
fn device(run: &Run<'_>) -> Result<PathBuf, Failure> {
    let volume = &run.bundle.volume_id;
    let serial = volume.replace('-', "");
    let links = run.options.path("/dev/disk/by-id");
    let link = links.join(format!("nvme-Amazon_Elastic_Block_Store_{serial}"));
    if let Ok(device) = fs::canonicalize(&link) {
        return Ok(device);
    }
    let names =
        fs::read_dir(&links).map(|entries| entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>());
    let nitro = names
        .unwrap_or_default()
        .iter()
        .any(|name| name.to_string_lossy().starts_with("nvme-Amazon"));
    let old = ["/dev/xvdf", "/dev/sdf"].map(|name| run.options.path(name));
    if !nitro && let Some(device) = old.iter().find_map(|name| fs::canonicalize(name).ok()) {
        return Ok(device);
    }
    Err(Failure::NotYet(format!(
        "volume {volume} is not attached: no {}",
        link.display()
    )))
}

fn is_mounted(run: &Run<'_>, device: &Path) -> bool {
    let home = fs::metadata(run.options.path(HOME)).map(|meta| meta.dev()).ok();
    let device = run.machine.device_number(device);
    device.is_some() && device == home
}

/// Is there an ext4 file system? An error when there is anything else, or any doubt.
fn has_ext4(run: &Run<'_>, device: &Path) -> Result<bool, Failure> {
    let shown = device.display().to_string();
    let probe = Command::new(&["blkid", "-p", "-o", "export", &shown]);
    let output = run.ask(&probe)?;
    let found = |key: &str| {
        output
            .text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .map(str::to_owned)
    };
    let refuse = |what: &str| {
        let volume = &run.bundle.volume_id;
        Err(Failure::Failed(format!(
            "{volume} has {what}: it is not formatted, and nothing was changed. Empty it, or name another volume"
        )))
    };
    match (output.code, found("TYPE="), found("PTTYPE=")) {
        (0, Some(kind), _) if kind == "ext4" => Ok(true),
        (0, Some(kind), _) => refuse(&format!("a {kind} file system")),
        (0, None, Some(table)) => refuse(&format!("a {table} partition table")),
        // 2: nothing was recognised. That is not yet the same as empty.
        (2, None, None) => match is_blank(device).map_err(|error| io_failure(device, &error))? {
            true => Ok(false),
            false => refuse("data that no known file system explains"),
        },
        _ => Err(Failure::Failed(told(&probe, &output))),
    }
}

const ZEROS: [u8; 4096] = [0; 4096];

/// Nothing but zeros at the beginning, at the end, and wherever it is looked at in between. The steps in between meet the places where
/// ext4 keeps copies of its superblock, and any data of some size.
fn is_blank(device: &Path) -> std::io::Result<bool> {
    let mut file = File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let ends = [(0, PROBED_BYTES), (size.saturating_sub(PROBED_BYTES), PROBED_BYTES)];
    let between = samples(size).map(|start| (start, SAMPLE_BYTES));
    let mut part = Vec::new();
    for (start, length) in ends.into_iter().chain(between) {
        file.seek(SeekFrom::Start(start))?;
        part.clear();
        (&mut file).take(length).read_to_end(&mut part)?;
        // Compared by the block: byte by byte takes seconds for a large volume.
        if part.chunks(ZEROS.len()).any(|block| *block != ZEROS[..block.len()]) {
            return Ok(false);
        }
    }
    Ok(size > 0)
}

/// Where it is looked at: every 8 MiB, and less often in what is larger than 32 GiB; always where a copy of an ext4 superblock would be
/// (block groups 1 and the powers of 3, 5 and 7, of 128 MiB each with blocks of the usual size).
fn samples(size: u64) -> impl Iterator<Item = u64> {
    const STRIDE: u64 = 8 * 1024 * 1024;
    const GROUP: u64 = 128 * 1024 * 1024;
    let stride = STRIDE * size.div_ceil(STRIDE * MAX_SAMPLES).max(1);
    let powers = |base: u64| std::iter::successors(Some(base), move |power| power.checked_mul(base)).take(12);
    let copies = std::iter::once(1).chain([3, 5, 7].into_iter().flat_map(powers));
    let spread = (1..)
        .map(move |n: u64| n.saturating_mul(stride))
        .take_while(move |at| *at < size);
    spread.chain(
        copies
            .map(|group: u64| group.saturating_mul(GROUP))
            .filter(move |at| *at < size),
    )
}

/// Is something mounted exactly here?
fn is_mount_point(options: &Options, path: &str) -> Result<bool, Failure> {
    Ok(mounts(options)?.iter().any(|(at, _)| at == path))
}

/// Is this directory a tmpfs?
pub(super) fn is_tmpfs(options: &Options, path: &str) -> Result<bool, Failure> {
    Ok(mounts(options)?.iter().any(|(at, kind)| at == path && kind == "tmpfs"))
}

/// Mount points and their file systems, as the kernel lists them.
fn mounts(options: &Options) -> Result<Vec<(String, String)>, Failure> {
    let path = options.path("/proc/self/mounts");
    let text = fs::read_to_string(&path).map_err(|error| io_failure(&path, &error))?;
    let fields = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    Ok(text.lines().filter_map(fields).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_superblocks_are_met_however_large_the_volume_is() {
        let gib = 1024 * 1024 * 1024;
        for size in [gib, 20 * gib, 16 * 1024 * gib] {
            let places: Vec<u64> = samples(size).collect();
            assert!(places.len() < 5000, "{}", places.len());
            for group in [1, 3, 5, 7] {
                assert!(places.contains(&(group * 128 * 1024 * 1024)), "{group} of {size}");
            }
            assert!(places.iter().all(|place| *place < size));
        }
    }
}
