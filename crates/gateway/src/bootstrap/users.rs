//! Users: `ubuntu`, whose home and agent this is, and `skykoi`, who runs the gateway and whom nobody can log in as.

use super::files::{Change, Owner};
use super::{Command, Failure, Ground};

pub(super) fn present(ground: &Ground<'_>) -> Result<Change, Failure> {
    let mut change = Change::Unchanged;
    if Owner::named(ground, "ubuntu").is_err() {
        ground.must(&Command::new(&[
            "useradd",
            "--create-home",
            "--user-group",
            "--shell",
            "/bin/bash",
            "ubuntu",
        ]))?;
        change = Change::Changed;
    }
    if Owner::named(ground, "skykoi").is_err() {
        ground.must(&Command::new(&[
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/home/ubuntu/.skykoi",
            "--shell",
            "/usr/sbin/nologin",
            "skykoi",
        ]))?;
        change = Change::Changed;
    }
    Ok(change)
}
