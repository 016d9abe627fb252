//! Directories of the agent and of the gateway, and the files that a new workspace begins with.

use std::collections::BTreeMap;

use koi_wire::bundle;

use super::files::{self, Change, Owner};
use super::volume::is_mount_point;
use super::{Command, Failure, Run, io_failure};
use crate::seed;

const STATE: &str = "/home/ubuntu/.skykoi";
const WORKSPACE: &str = "/home/ubuntu/koi";

/// Who owns what, and who may look into it.
pub(super) fn layout(run: &Run<'_>) -> Result<Change, Failure> {
    let ubuntu = Owner::named(run, "ubuntu")?;
    let skykoi = Owner::named(run, "skykoi")?;
    let mut change = files::directory(run, "/home/ubuntu", 0o755, ubuntu)?;
    change |= state_directory(run, skykoi)?;
    change |= files::directory(run, WORKSPACE, 0o2775, ubuntu)?;
    change |= files::directory(run, "/run/skykoi", 0o700, skykoi)?;
    change |= files::directory(run, "/run/skykoi-tls", 0o700, Owner::named(run, "root")?)?;
    if !run.options.files_only && !is_mount_point(run.options, STATE)? {
        // The home belongs to the agent, who could rename a plain directory away and put one of his own there. Not a mount point.
        run.must(&Command::new(&["mount", "--bind", STATE, STATE]))?;
        change = Change::Changed;
    }
    Ok(change)
}

/// The gateway's directory. Another image may have given the gateway's user another number: then everything in it changes hands.
fn state_directory(run: &Run<'_>, skykoi: Owner) -> Result<Change, Failure> {
    let foreign = run.options.path(STATE).exists() && !files::is_owned(run, STATE, skykoi);
    let change = files::directory(run, STATE, 0o700, skykoi)?;
    if foreign {
        run.must(&Command::new(&["chown", "-R", "-h", "skykoi:skykoi", STATE]))?;
    }
    Ok(change)
}

/// The files that a new workspace begins with; once in the life of a data volume.
pub(super) fn defaults(run: &Run<'_>) -> Result<Change, Failure> {
    let (workspace, state) = (run.options.path(WORKSPACE), run.options.path(STATE));
    let ubuntu = Owner::named(run, "ubuntu")?;
    let skykoi = Owner::named(run, "skykoi")?;
    let own = |path: &std::path::Path| files::give(run, path, if path.starts_with(&state) { skykoi } else { ubuntu });
    let written = seed::write_defaults(&workspace, &state, &default_files(&run.bundle.owner), &own);
    written
        .map(|names| Change::when(!names.is_empty()))
        .map_err(|error| io_failure(&workspace, &error))
}

fn default_files(owner: &bundle::Owner) -> BTreeMap<String, String> {
    [
        ("AGENTS.md", include_str!("../../workspace/AGENTS.md").to_owned()),
        ("SOUL.md", include_str!("../../workspace/SOUL.md").to_owned()),
        ("TOOLS.md", include_str!("../../workspace/TOOLS.md").to_owned()),
        ("IDENTITY.md", include_str!("../../workspace/IDENTITY.md").to_owned()),
        ("USER.md", user_file(owner)),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .into()
}

fn user_file(owner: &bundle::Owner) -> String {
    let facts = [
        ("Name", &owner.display_name),
        ("E-mail", &owner.email),
        ("Time zone", &owner.time_zone),
    ];
    let known: Vec<String> = facts
        .iter()
        .filter_map(|(label, value)| Some(format!("- {label}: {}\n", one_line(value.as_ref()?))))
        .collect();
    let body = if known.is_empty() {
        "- Nothing yet: ask when it matters.\n".to_owned()
    } else {
        known.concat()
    };
    format!("# Your user\n\nWhat you know of the person you work for. Keep it up to date.\n\n{body}")
}

/// Facts come from people: a line break in one must not make another line of the file.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
