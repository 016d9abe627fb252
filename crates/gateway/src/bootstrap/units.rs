//! systemd units: the gateway, and what fetches the bundle anew.

use std::fs;

use serde_json::Value;

use super::files::{self, Change, Owner};
use super::{Command, Failure, Run};
use crate::server::STOP_SECONDS;

const GATEWAY: &str = "skykoi-gateway.service";

const TOOLS: &str = "skykoi-tools.service";

const UNITS: [(&str, &str); 5] = [
    (GATEWAY, include_str!("../../units/skykoi-gateway.service")),
    (TOOLS, include_str!("../../units/skykoi-tools.service")),
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

/// The gateway runs with the config as it is now, and refreshes are listened for. Tokens and devices it reads anew by itself, and what can
/// be taken over while it runs it takes over: nobody is sent away for a new config unless that is what the config takes.
pub(super) fn running(run: &Run<'_>) -> Result<Change, Failure> {
    let changed = |names: &[&str]| run.changed.iter().any(|step| names.contains(step));
    let mut change = tools_running(run)?;
    let active = run.holds(&["systemctl", "is-active", "--quiet", GATEWAY])?;
    let verb = match active {
        false => Some("start"),
        true if changed(&["units", "mount"]) || (changed(&["config"]) && !takes_over(&run.bundle.config)) => {
            Some("restart")
        }
        true if is_replaced(run, GATEWAY)? => Some("restart"),
        true => changed(&["config"]).then_some("reload"),
    };
    if let Some(verb) = verb {
        // A failed start in the past must not count against this one.
        run.ask(&Command::new(&["systemctl", "reset-failed", GATEWAY]))?;
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

/// The tools run, with the program and the unit as they are now. Else they are left alone: commands of the agent outlive the gateway that
/// was asked for them.
fn tools_running(run: &Run<'_>) -> Result<Change, Failure> {
    // Who was root stays so until it ends, and a home from before the volume came is another one.
    let changed = run
        .changed
        .iter()
        .any(|step| ["users", "sudo", "mount", "units"].contains(step));
    let verb = match run.holds(&["systemctl", "is-active", "--quiet", TOOLS])? {
        false => "start",
        true if changed || is_replaced(run, TOOLS)? => "restart",
        true => return Ok(Change::Unchanged),
    };
    run.must(&Command::new(&["systemctl", verb, TOOLS]))?;
    Ok(Change::Changed)
}

/// Does a unit run a program whose file is another one by now?
fn is_replaced(run: &Run<'_>, unit: &str) -> Result<bool, Failure> {
    let shown = run.ask(&Command::new(&[
        "systemctl",
        "show",
        "--property=MainPID",
        "--value",
        unit,
    ]))?;
    let Ok(pid @ 1..) = shown.text.trim().parse::<u32>() else {
        return Ok(false);
    };
    let program = fs::read_link(run.options.path(&format!("/proc/{pid}/exe"))).unwrap_or_default();
    // That is how the kernel names a file that no directory holds any more.
    Ok(program.to_string_lossy().ends_with(" (deleted)"))
}

/// Does a gateway with this config take all of it over by itself, with a restart of its own where that is needed?
fn takes_over(config: &Value) -> bool {
    let mode = config.pointer("/gateway/reload/mode").and_then(Value::as_str);
    matches!(mode, None | Some("hybrid" | "restart"))
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
    fn a_gateway_that_waits_for_its_next_start_is_started() {
        for (config, expected) in [
            (serde_json::json!({}), true),
            (serde_json::json!({"gateway": {"reload": {"mode": "hybrid"}}}), true),
            (serde_json::json!({"gateway": {"reload": {"mode": "restart"}}}), true),
            (serde_json::json!({"gateway": {"reload": {"mode": "hot"}}}), false),
            (serde_json::json!({"gateway": {"reload": {"mode": "off"}}}), false),
        ] {
            assert_eq!(takes_over(&config), expected, "{config}");
        }
    }

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
            "ExecReload=/bin/kill -HUP $MAINPID",
            "Environment=MALLOC_ARENA_MAX=1",
            "Environment=GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }
}
