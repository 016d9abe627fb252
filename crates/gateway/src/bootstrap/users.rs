//! Users: `ubuntu`, whose home and agent this is, and `skykoi`, who runs the gateway and whom nobody can log in as.

use super::files::{Change, Owner};
use super::{Command, Failure, Run};

pub(super) fn present(run: &Run<'_>) -> Result<Change, Failure> {
    let mut change = Change::Unchanged;
    if Owner::named(run, "ubuntu").is_err() {
        run.must(&Command::new(&[
            "useradd",
            "--create-home",
            "--user-group",
            "--shell",
            "/bin/bash",
            "ubuntu",
        ]))?;
        change = Change::Changed;
    }
    if Owner::named(run, "skykoi").is_err() {
        run.must(&Command::new(&[
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
