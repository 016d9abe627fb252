//! Confinement: what runs in here may read what its user may, and write to the workspace and to temporary directories only.
//!
//! It is the kernel's Landlock that holds to it, for a thread and for all that this thread starts, for ever. So each confined piece of work
//! gets a thread of its own. A kernel that cannot confine is a fault: nothing is done without the bound that was asked for.

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

use crate::Place;

/// What is written to beside the workspace: temporary files, and devices such as terminals.
const BESIDE: [&str; 4] = ["/tmp", "/var/tmp", "/dev", "/run/user"];

/// What every kernel with Landlock knows; what newer ones know beside it is used where it is there.
const LEAST: ABI = ABI::V1;
const BEST: ABI = ABI::V3;

/// Does work in confinement.
///
/// # Errors
/// Why it cannot be confined; nothing was done then.
pub(crate) fn within<T: Send>(place: &Place, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| enter(place).map(|()| work()));
        confined
            .join()
            .unwrap_or_else(|_| Err("The tool failed unexpectedly.".to_owned()))
    })
}

fn enter(place: &Place) -> Result<(), String> {
    let fault = |error: &dyn std::fmt::Display| {
        format!("Not done: tools.workspaceOnly is set, and this machine cannot confine ({error}).")
    };
    let writes = AccessFs::from_write(BEST);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(LEAST))
        .map_err(|error| fault(&error))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(writes)
        .map_err(|error| fault(&error))?;
    let mut ruleset = ruleset.create().map_err(|error| fault(&error))?;
    let places = BESIDE
        .iter()
        .map(std::path::Path::new)
        .chain([place.workspace.as_path()]);
    for path in places {
        // What is not there cannot be written to.
        let Ok(opened) = PathFd::new(path) else { continue };
        ruleset = ruleset
            .add_rule(PathBeneath::new(opened, writes))
            .map_err(|error| fault(&error))?;
    }
    let status = ruleset.restrict_self().map_err(|error| fault(&error))?;
    if status.ruleset == RulesetStatus::NotEnforced || !status.no_new_privs {
        return Err(fault(&"the kernel has no Landlock"));
    }
    Ok(())
}
