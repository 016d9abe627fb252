//! systemd units: the gateway, and what fetches the bundle anew.

use super::files::{self, Change, Owner};
use super::{Command, Failure, Run};
use crate::server::STOP_SECONDS;

const GATEWAY: &str = "skykoi-gateway.service";

const UNITS: [(&str, &str); 4] = [
    (GATEWAY, include_str!("../../units/skykoi-gateway.service")),
    (
        "skykoi-refresh.service",
        include_str!("../../units/skykoi-refresh.service"),
    ),
    ("skykoi-refresh.path", include_str!("../../units/skykoi-refresh.path")),
    ("skykoi-refresh.timer", include_str!("../../units/skykoi-refresh.timer")),
];

/// The units are there, and systemd has read them.
pub(super) fn written(run: &Run<'_>) -> Result<Change, Failure> {
    let mut change = Change::Unchanged;
    for (name, text) in UNITS {
        let text = filled(text);
        change |= files::content(
            run,
            &format!("/etc/systemd/system/{name}"),
            text.as_bytes(),
            0o644,
            Owner::named(run, "root")?,
        )?;
    }
    if change == Change::Changed {
        run.must(&Command::new(&["systemctl", "daemon-reload"]))?;
    }
    Ok(change)
}

/// A unit, with the figures that the gateway itself lives by.
fn filled(text: &str) -> String {
    text.replace("@STOP_SECONDS@", &STOP_SECONDS.to_string())
}

/// The gateway runs with the config as it is now, and refreshes are listened for. Tokens and devices it reads anew by itself.
pub(super) fn running(run: &Run<'_>) -> Result<Change, Failure> {
    let outdated = run
        .changed
        .iter()
        .any(|step| matches!(*step, "config" | "units" | "mount"));
    let active = run.holds(&["systemctl", "is-active", "--quiet", GATEWAY])?;
    let mut change = Change::Unchanged;
    if !active || outdated {
        // A failed start in the past must not count against this one.
        run.ask(&Command::new(&["systemctl", "reset-failed", GATEWAY]))?;
        let verb = if active { "restart" } else { "start" };
        run.must(&Command::new(&["systemctl", verb, GATEWAY]))
            .map_err(|failure| with_log(run, &failure))?;
        change = Change::Changed;
    }
    for unit in ["skykoi-refresh.path", "skykoi-refresh.timer"] {
        if !run.holds(&["systemctl", "is-active", "--quiet", unit])? {
            run.must(&Command::new(&["systemctl", "start", unit]))?;
            change = Change::Changed;
        }
    }
    Ok(change)
}

/// systemd says only that it failed; the gateway's last lines say why.
fn with_log(run: &Run<'_>, failure: &Failure) -> Failure {
    let log = run.ask(&Command::new(&[
        "journalctl",
        "--no-pager",
        "-q",
        "-o",
        "cat",
        "-n",
        "5",
        "-u",
        GATEWAY,
    ]));
    let lines: Vec<String> = log
        .map(|output| output.text.lines().map(str::to_owned).collect())
        .unwrap_or_default();
    Failure::Failed(format!("{failure}; its log: {}", lines.join(" | ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_unit_has_its_hardening() {
        let text = filled(UNITS[0].1);
        assert!(!text.contains("@STOP_SECONDS@"), "{text}");
        for line in [
            "User=skykoi",
            "Type=notify",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "PrivateTmp=yes",
            "CapabilityBoundingSet=",
            "Restart=always",
            "RestartPreventExitStatus=78",
            "TimeoutStopSec=45",
            "EnvironmentFile=-/etc/default/skykoi",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }
}
