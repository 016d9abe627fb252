//! Packages that an image may lack.

use std::time::Duration;

use super::files::Change;
use super::{Command, Failure, Ground};

/// A package is installed; it is known by one of its programs.
pub(super) fn install(ground: &Ground<'_>, package: &str, program: &str) -> Result<Change, Failure> {
    if ground.options.path(program).exists() {
        return Ok(Change::Unchanged);
    }
    // Mirrors have bad minutes, and on a first boot others install packages too.
    let not_yet = |failure: Failure| Failure::NotYet(failure.to_string());
    let apt = |words: &[&str]| {
        let mut all = vec![
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-q",
            "-y",
            "-o",
            "DPkg::Lock::Timeout=120",
        ];
        all.extend(words);
        ground.must(&Command::new(&all).within(Duration::from_secs(600)))
    };
    apt(&["update"]).map_err(not_yet)?;
    apt(&["install", "--no-install-recommends", package]).map_err(not_yet)?;
    Ok(Change::Changed)
}
