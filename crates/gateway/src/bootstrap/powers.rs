//! What the agent's user must not have: root by way of sudo, and the machine's own credentials from instance metadata.

use super::files::{self, Change, Owner};
use super::packages::install;
use super::{Command, Failure, Ground, Run};

/// Where cloud-init grants sudo to the users that it makes.
const STOCK_GRANT: &str = "/etc/sudoers.d/90-cloud-init-users";

/// Our own grant, for agents that are to have it.
const GRANT: &str = "/etc/sudoers.d/91-skykoi";

/// Groups whose members are root, or can become it.
const ROOT_LIKE_GROUPS: [&str; 7] = ["sudo", "admin", "wheel", "lxd", "docker", "disk", "incus-admin"];

const RULES: &str = "/etc/skykoi/metadata.nft";

/// What loads the rules on later boots, before anybody's services.
const UNIT: &str = "skykoi-metadata.service";
const UNIT_TEXT: &str = include_str!("../../units/skykoi-metadata.service");

/// Numbers of people begin here, and those that their namespaces may use are above.
const FIRST_PERSON: u32 = 1000;

/// `ubuntu` may use sudo when the bundle says so, and not otherwise.
pub(super) fn sudo(run: &Run<'_>) -> Result<Change, Failure> {
    let root = Owner::named(run, "root")?;
    if run.bundle.sudo {
        return files::content(run, GRANT, b"ubuntu ALL=(ALL) NOPASSWD:ALL\n", 0o440, root);
    }
    let mut change = files::absent(run, GRANT)?;
    if let Some(text) = files::read(run, STOCK_GRANT)? {
        let text = String::from_utf8_lossy(&text).into_owned();
        let kept = without_user(&text, "ubuntu");
        if kept != text {
            change |= files::content(run, STOCK_GRANT, kept.as_bytes(), 0o440, root)?;
        }
    }
    for group in groups_with(run, "ubuntu")? {
        run.must(&Command::new(&["gpasswd", "-d", "ubuntu", &group]))?;
        change = Change::Changed;
    }
    Ok(change)
}

/// The rules of a sudoers file but those of one user.
fn without_user(text: &str, user: &str) -> String {
    let theirs = |line: &&str| line.split_whitespace().next() != Some(user);
    text.lines().filter(theirs).flat_map(|line| [line, "\n"]).collect()
}

/// The groups among the root-like ones that a user is a member of.
fn groups_with(run: &Run<'_>, user: &str) -> Result<Vec<String>, Failure> {
    let text = files::read(run, "/etc/group")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let found = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let members = rest.rsplit(':').next()?;
        (ROOT_LIKE_GROUPS.contains(&name) && members.split(',').any(|member| member.trim() == user))
            .then(|| name.to_owned())
    });
    Ok(found.collect())
}

/// Instance metadata answers to root and to the services of the system, the gateway among them (it asks models with the machine's role, and
/// holds what the bundle has anyway), not to people: whoever reads there holds the machine's role, and so the bundle.
///
/// This comes before the data volume, and on later boots a unit of its own comes before every service: nothing that the agent left
/// behind runs while the door is open.
pub(super) fn metadata(ground: &Ground<'_>) -> Result<Change, Failure> {
    let mut change = install(ground, "nftables", "/usr/sbin/nft")?;
    let rules = rules(ground)?;
    let root = Owner::named(ground, "root")?;
    change |= files::content(ground, RULES, table(&rules).as_bytes(), 0o644, root)?;
    let listed = ground.ask(&Command::new(&["nft", "-n", "list", "table", "inet", "skykoi"]))?;
    let found: Vec<&str> = listed
        .text
        .lines()
        .map(str::trim)
        .filter(|line| line.ends_with(" drop"))
        .collect();
    if listed.code != 0 || found != rules {
        ground.must(&Command::new(&["nft", "-f", RULES]))?;
        change = Change::Changed;
    }
    change |= files::content(
        ground,
        &format!("/etc/systemd/system/{UNIT}"),
        UNIT_TEXT.as_bytes(),
        0o644,
        root,
    )?;
    let wanted = ground
        .options
        .path(&format!("/etc/systemd/system/sysinit.target.wants/{UNIT}"));
    if wanted.symlink_metadata().is_err() {
        ground.must(&Command::new(&["systemctl", "enable", "--quiet", UNIT]))?;
        change = Change::Changed;
    }
    Ok(change)
}

fn rules(ground: &Ground<'_>) -> Result<Vec<String>, Failure> {
    let small = |name: &str| -> Result<Option<String>, Failure> {
        let user = Owner::named(ground, name)?.ids().map(|ids| ids.0);
        // Root is never meant, whatever a file says.
        Ok(user
            .filter(|user| (1..FIRST_PERSON).contains(user))
            .map(|user| user.to_string()))
    };
    let mut who: Vec<String> = small("ubuntu")?.into_iter().collect();
    who.push(format!(">= {FIRST_PERSON}"));
    let addresses = ["ip daddr 169.254.169.254", "ip6 daddr fd00:ec2::254"];
    let both = |who: &String| addresses.map(|address| format!("meta skuid {who} {address} drop"));
    Ok(who.iter().flat_map(both).collect())
}

/// A table of our own, replaced in one step whether it is there or not.
fn table(rules: &[String]) -> String {
    let lines: String = rules.iter().map(|rule| format!("        {rule}\n")).collect();
    format!(
        "# Written by koi-gateway bootstrap: who may not ask for the machine's own credentials.\n\
         table inet skykoi\ndelete table inet skykoi\ntable inet skykoi {{\n    chain output {{\n        \
         type filter hook output priority 0; policy accept;\n{lines}    }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_comes_before_all_services_and_loads_the_rules() {
        for line in [
            "DefaultDependencies=no",
            "Before=sysinit.target network-pre.target shutdown.target",
            "After=nftables.service",
            "WantedBy=sysinit.target",
        ] {
            assert!(UNIT_TEXT.lines().any(|found| found == line), "{line}");
        }
        assert!(
            UNIT_TEXT.contains(&format!("ExecStart=/usr/sbin/nft -f {RULES}\n")),
            "{UNIT_TEXT}"
        );
    }

    #[test]
    fn only_the_rules_of_the_user_go() {
        let text = "# by cloud-init\n\nubuntu ALL=(ALL) NOPASSWD:ALL\nubuntu2 ALL=(ALL) ALL\n ubuntu\tALL=ALL\n";
        let kept = "# by cloud-init\n\nubuntu2 ALL=(ALL) ALL\n";
        assert_eq!(without_user(text, "ubuntu"), kept);
        assert_eq!(without_user(kept, "ubuntu"), kept);
    }
}
