//! nginx: TLS on 443 in front of the gateway, and nothing else.

use super::files::{self, Change, Owner};
use super::packages::install;
use super::{Command, Failure, Run};

const SITE: &str = "/etc/nginx/conf.d/skykoi.conf";

/// Sites that packages bring along; they listen on port 80.
const FOREIGN_SITES: [&str; 2] = ["/etc/nginx/sites-enabled/default", "/etc/nginx/conf.d/default.conf"];

/// nginx is installed.
pub(super) fn package(run: &Run<'_>) -> Result<Change, Failure> {
    install(run, "nginx", "/usr/sbin/nginx")
}

/// The site is ours alone.
pub(super) fn site(run: &Run<'_>) -> Result<Change, Failure> {
    let ipv6 = run.options.path("/proc/net/if_inet6").exists();
    let mut change = files::content(run, SITE, text(ipv6).as_bytes(), 0o644, Owner::named(run, "root")?)?;
    for foreign in FOREIGN_SITES {
        change |= files::absent(run, foreign)?;
    }
    for (directory, name) in other_sites(run) {
        // Out of what nginx includes, and still there for whoever made the image.
        let (from, to) = (format!("{directory}/{name}"), format!("/etc/nginx/{name}.aside"));
        run.must(&Command::new(&["mv", "-f", &from, &to]))?;
        run.machine.say(&format!(
            "warning: {from} would open other ports than 443: moved to {to}"
        ));
        change = Change::Changed;
    }
    // Bootstrap starts it, when its key is there; at boot it would only fail.
    if run.holds(&["systemctl", "is-enabled", "--quiet", "nginx.service"])? {
        run.must(&Command::new(&["systemctl", "disable", "--quiet", "nginx.service"]))?;
        change = Change::Changed;
    }
    Ok(change)
}

/// Sites that an image brings along: all that is enabled, and what declares servers among the pieces of configuration.
fn other_sites(run: &Run<'_>) -> Vec<(&'static str, String)> {
    let entries = |directory: &'static str| {
        let read = std::fs::read_dir(run.options.path(directory)).into_iter().flatten();
        let mut names: Vec<String> = read
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names.into_iter().map(move |name| (directory, name))
    };
    let pieces = entries("/etc/nginx/conf.d").filter(|(directory, name)| {
        let path = format!("{directory}/{name}");
        let text = std::fs::read_to_string(run.options.path(&path)).unwrap_or_default();
        name.ends_with(".conf") && path != SITE && declares_servers(&text)
    });
    entries("/etc/nginx/sites-enabled").chain(pieces).collect()
}

/// Does this declare a server, or bring in files that may?
fn declares_servers(text: &str) -> bool {
    let code = text.lines().filter_map(|line| line.split('#').next());
    code.flat_map(|line| line.split(|c: char| c.is_whitespace() || matches!(c, '{' | ';' | '}')))
        .any(|word| matches!(word, "server" | "include" | "listen"))
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
    fn servers_are_told_from_settings() {
        for yes in ["server{listen 80;}", "http {\n  server {\n}}", "include /srv/*.conf;"] {
            assert!(declares_servers(yes), "{yes}");
        }
        for no in ["gzip on;", "# server {", "server_tokens off;"] {
            assert!(!declares_servers(no), "{no}");
        }
    }

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
