//! Directories of the agent and of the gateway, and the files that a new workspace begins with.

use std::collections::BTreeMap;
use std::path::Path;

use koi_wire::bundle;

use super::files::{self, Change, Owner};
use super::{Command, Failure, Run, io_failure};
use crate::file::{Directory, Ids};
use crate::seed::{self, Place};

const HOME: &str = "/home/ubuntu";
const STATE: &str = "/home/ubuntu/.skykoi";
const WORKSPACE: &str = "/home/ubuntu/koi";

/// Numbers of system users are below this one.
const FIRST_PERSON: u32 = 1000;

/// Who owns what, and who may look into it.
///
/// The home belongs to root and is sticky: its user makes there what he likes, but can neither rename nor remove what is not his own,
/// the gateway's directory above all. No namespace of his changes that, since the owner of that directory is nobody in it.
pub(super) fn layout(run: &Run<'_>) -> Result<Change, Failure> {
    let ubuntu = Owner::named(run, "ubuntu")?;
    let skykoi = Owner::named(run, "skykoi")?;
    let root = Owner::named(run, "root")?;
    let mut change = files::directory(run, HOME, 0o1770, root.with_group_of(ubuntu))?;
    change |= state_directory(run, ubuntu, skykoi)?;
    change |= files::set_aside(run, WORKSPACE, |_| true)?;
    change |= files::directory(run, WORKSPACE, 0o2775, ubuntu)?;
    change |= files::directory(run, "/run/skykoi", 0o700, skykoi)?;
    change |= files::directory(run, "/run/skykoi-tls", 0o700, root)?;
    Ok(change)
}

/// The gateway's directory. Another image may have given the gateway's user another number: then everything in it changes hands. What
/// belongs to a person was not made by us, whatever it is called.
fn state_directory(run: &Run<'_>, ubuntu: Owner, skykoi: Owner) -> Result<Change, Failure> {
    let mut change = files::set_aside(run, STATE, |about| could_be_ours(about.owner, ubuntu, skykoi))?;
    let before = files::owner_of(run, STATE)?;
    change |= files::directory(run, STATE, 0o700, skykoi)?;
    if before.is_some() && skykoi.ids().is_some() && before != skykoi.ids() {
        run.must(&Command::new(&["chown", "-R", "-h", "skykoi:skykoi", STATE]))?;
    }
    Ok(change)
}

fn could_be_ours(found: Ids, ubuntu: Owner, skykoi: Owner) -> bool {
    let Some(skykoi) = skykoi.ids() else {
        return true;
    };
    let person = found.0 >= FIRST_PERSON || ubuntu.ids().is_some_and(|ubuntu| ubuntu.0 == found.0);
    found == skykoi || !person
}

/// The files that a new workspace begins with; once in the life of a data volume.
pub(super) fn defaults(run: &Run<'_>) -> Result<Change, Failure> {
    let place = |path: &str, owner: Owner| {
        Directory::reach(&run.options.root, Path::new(path))
            .map(|directory| Place {
                directory,
                owner: owner.ids(),
            })
            .map_err(|error| io_failure(&run.options.path(path), &error))
    };
    let workspace = place(WORKSPACE, Owner::named(run, "ubuntu")?)?;
    let state = place(STATE, Owner::named(run, "skykoi")?)?;
    seed::write_defaults(&workspace, &state, &default_files(&run.bundle.owner))
        .map(|names| Change::when(!names.is_empty()))
        .map_err(|error| io_failure(&run.options.path(WORKSPACE), &error))
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
