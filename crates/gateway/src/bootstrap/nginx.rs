//! nginx: TLS on 443 in front of the gateway, and nothing else.

use std::time::Duration;

use super::files::{self, Change, Owner};
use super::{Command, Failure, Run};

const SITE: &str = "/etc/nginx/conf.d/skykoi.conf";

/// Sites that packages bring along; they listen on port 80.
const FOREIGN_SITES: [&str; 2] = ["/etc/nginx/sites-enabled/default", "/etc/nginx/conf.d/default.conf"];

/// Packages, and the program by which each is known.
const PACKAGES: [(&str, &str); 2] = [("nginx", "/usr/sbin/nginx"), ("nftables", "/usr/sbin/nft")];

/// nginx and nftables are installed.
pub(super) fn packages(run: &Run<'_>) -> Result<Change, Failure> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, program)| !run.options.path(program).exists())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
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
        run.must(&Command::new(&all).within(Duration::from_secs(600)))
    };
    apt(&["update"]).map_err(not_yet)?;
    let install = [vec!["install", "--no-install-recommends"], missing].concat();
    apt(&install).map_err(not_yet)?;
    Ok(Change::Changed)
}

/// The site is ours alone.
pub(super) fn site(run: &Run<'_>) -> Result<Change, Failure> {
    let ipv6 = run.options.path("/proc/net/if_inet6").exists();
    let mut change = files::content(run, SITE, text(ipv6).as_bytes(), 0o644, Owner::named(run, "root")?)?;
    for foreign in FOREIGN_SITES {
        change |= files::absent(run, foreign)?;
    }
    // Bootstrap starts it, when its key is there; at boot it would only fail.
    if run.holds(&["systemctl", "is-enabled", "--quiet", "nginx.service"])? {
        run.must(&Command::new(&["systemctl", "disable", "--quiet", "nginx.service"]))?;
        change = Change::Changed;
    }
    Ok(change)
}

/// It runs, with the site and the certificate as they are now.
pub(super) fn running(run: &Run<'_>) -> Result<Change, Failure> {
    let active = run.holds(&["systemctl", "is-active", "--quiet", "nginx.service"])?;
    let outdated = run.changed.iter().any(|step| matches!(*step, "nginx-site" | "tls"));
    if active && !outdated {
        return Ok(Change::Unchanged);
    }
    run.must(&Command::new(&["nginx", "-t", "-q"]))?;
    let verb = if active { "reload" } else { "start" };
    run.must(&Command::new(&["systemctl", verb, "nginx.service"]))?;
    Ok(Change::Changed)
}

fn text(ipv6: bool) -> String {
    let listen6 = if ipv6 {
        "\n    listen [::]:443 ssl default_server;"
    } else {
        ""
    };
    include_str!("../../units/skykoi.conf").replace("@LISTEN6@", listen6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_443_is_listened_on_and_the_address_of_the_client_cannot_be_made_up() {
        for ipv6 in [false, true] {
            let text = text(ipv6);
            let listens: Vec<&str> = text
                .lines()
                .map(str::trim)
                .filter(|line| line.starts_with("listen"))
                .collect();
            assert!(listens.iter().all(|line| line.contains("443 ssl")), "{listens:?}");
            assert_eq!(listens.len(), if ipv6 { 2 } else { 1 });
            assert!(text.contains("proxy_set_header X-Forwarded-For $remote_addr;"));
            assert!(!text.contains('@'));
        }
    }
}
