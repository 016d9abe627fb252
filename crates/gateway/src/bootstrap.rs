//! Makes a machine the home of its agent, on every boot: bundle, data volume, users, secrets, config, workspace, nginx, units.
//!
//! Each step looks first and acts only on a difference, so a second run changes nothing. Files are written below a root, commands and
//! the network go through [`Machine`]: nearly all of it is tested in a temporary directory. What is said goes to the console, which is
//! where the operator reads why a machine does not become ready.

mod command;
mod files;
mod machine;
mod nginx;
mod packages;
mod powers;
mod units;
mod users;
mod volume;
mod workspace;

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use koi_wire::Redacted;
use koi_wire::bundle::Bundle;
use serde::Deserialize;

pub(crate) use self::command::{Command, Output};
use self::files::{Change, Owner};
pub(crate) use self::machine::RealMachine;
use crate::{config, hush};

/// What user data says about this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity {
    /// Id of the installation.
    cluster: String,
    /// UID of the KoiAgent.
    agent_uid: String,
    /// Where its parameters are.
    region: String,
}

impl Identity {
    /// The name of the parameter that holds the bundle of an instance.
    fn parameter(&self, instance_id: &str) -> String {
        format!("/koi/{}/{}/{instance_id}", self.cluster, self.agent_uid)
    }

    /// The name in the agent's certificate.
    fn server_name(&self) -> String {
        format!("{}.koi.internal", self.agent_uid)
    }
}

/// Why a step did not get done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It will work later: asked again with growing pauses.
    NotYet(String),
    /// It will not work without a change.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NotYet(reason) | Self::Failed(reason)) = self;
        f.write_str(reason)
    }
}

/// A fault of the file system, with the path in it.
fn io_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("{}: {error}", path.display()))
}

/// What the machine is asked to do, and what it says.
pub(crate) trait Machine {
    /// Runs a program to its end.
    fn run(&self, command: &Command) -> Result<Output, String>;
    /// The id of this instance, from its metadata.
    fn instance_id(&self) -> Result<String, Failure>;
    /// The value of an SSM parameter.
    fn parameter(&self, region: &str, name: &str) -> Result<String, Failure>;
    /// Asks `/healthz` through TLS on 443, with `certificate` as the only root.
    fn ask(&self, server_name: &str, certificate: &str) -> Result<(), String>;
    /// The device numbers of a block device and of the file system at a path; none where there is none.
    fn device_number(&self, device: &Path) -> Option<u64>;
    /// Waits.
    fn sleep(&self, pause: Duration);
    /// A line for people.
    fn say(&self, line: &str);
}

/// Where and how it is done.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Everything is below this; `/` on a machine.
    pub(crate) root: PathBuf,
    /// Touch files only: no users, no volume, no services. For machines that are directories.
    pub(crate) files_only: bool,
    /// How long "not yet" may last before the unit is restarted.
    pub(crate) patience: Duration,
}

impl Options {
    /// A path of the machine, below the root.
    fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }
}

/// What is there before anything else is known.
#[derive(Clone, Copy)]
struct Ground<'a> {
    options: &'a Options,
    machine: &'a dyn Machine,
}

/// A run in progress: what earlier steps found out.
struct Run<'a> {
    ground: Ground<'a>,
    identity: Identity,
    bundle: Bundle,
    changed: Vec<&'static str>,
}

impl<'a> Deref for Run<'a> {
    type Target = Ground<'a>;

    fn deref(&self) -> &Ground<'a> {
        &self.ground
    }
}

type EarlyStep = (&'static str, fn(&Ground<'_>) -> Result<Change, Failure>);

/// What needs no bundle and does not wait for one: who may ask for the machine's credentials is settled before anything else.
const EARLY_STEPS: &[EarlyStep] = &[("users", users::present), ("metadata", powers::metadata)];

type Step = (&'static str, fn(&Run<'_>) -> Result<Change, Failure>);

const STEPS: &[Step] = &[
    ("packages", nginx::package),
    ("sudo", powers::sudo),
    ("volume", volume::ready),
    ("mount", volume::mounted),
    ("layout", workspace::layout),
    ("secrets", secrets),
    ("tls", tls),
    ("config", write_config),
    ("devices", devices),
    ("workspace", workspace::defaults),
    ("nginx-site", nginx::site),
    ("units", units::written),
    ("nginx", nginx::running),
    ("gateway", units::running),
    ("answer", answer),
];

/// Steps that make sense for a machine that is a directory.
const FILES_ONLY: &[&str] = &["layout", "secrets", "tls", "config", "devices", "workspace"];

/// Does it all. Gives the names of the steps that changed something.
///
/// # Errors
/// The first step that cannot be done; it has been said on the console already.
pub(crate) fn bootstrap(options: &Options, machine: &dyn Machine) -> Result<Vec<&'static str>, Failure> {
    let ground = Ground { options, machine };
    let mut changed = Vec::new();
    for (name, step) in EARLY_STEPS.iter().filter(|_| !options.files_only) {
        let change = attempt(options, machine, name, || step(&ground))?;
        note(machine, name, change, &mut changed);
    }
    let identity = attempt(options, machine, "identity", || identity(options))?;
    let bundle = attempt(options, machine, "bundle", || fetch(machine, &identity))?;
    machine.say(&format!("step=bundle ok: {bundle}"));
    let mut run = Run {
        ground,
        identity,
        bundle,
        changed,
    };
    for (name, step) in STEPS {
        if options.files_only && !FILES_ONLY.contains(name) {
            continue;
        }
        let change = attempt(options, machine, name, || step(&run))?;
        note(machine, name, change, &mut run.changed);
    }
    machine.say(&format!("done, changed: [{}]", run.changed.join(" ")));
    Ok(run.changed)
}

/// Says what a step did.
fn note(machine: &dyn Machine, name: &'static str, change: Change, changed: &mut Vec<&'static str>) {
    if change == Change::Changed {
        changed.push(name);
    }
    machine.say(&format!("step={name} {change}"));
}

/// Tries a step until it works, fails for good, or patience is over.
fn attempt<T>(
    options: &Options,
    machine: &dyn Machine,
    name: &str,
    step: impl Fn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut waited = Duration::ZERO;
    let mut pause = Duration::from_millis(500);
    let mut said = String::new();
    loop {
        let failure = match step() {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let over = matches!(failure, Failure::Failed(_)) || waited >= options.patience;
        if over {
            machine.say(&format!("step={name} failed: {failure}"));
            return Err(failure);
        }
        let reason = failure.to_string();
        if reason != said {
            machine.say(&format!("step={name} waiting: {reason}"));
            said = reason;
        }
        machine.sleep(pause);
        waited += pause;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

fn identity(options: &Options) -> Result<Identity, Failure> {
    let path = options.path("/etc/skykoi/bootstrap.json");
    let text = std::fs::read(&path).map_err(|error| io_failure(&path, &error))?;
    let mut reader = serde_json::Deserializer::from_slice(&text);
    let identity: Identity = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| Failure::Failed(misread(&path, &error.path().to_string(), error.inner())))?;
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let named = [
        ("cluster", &identity.cluster),
        ("agentUid", &identity.agent_uid),
        ("region", &identity.region),
    ];
    let bad = named.iter().find(|(_, value)| !plain(value)).map(|(key, _)| *key);
    match bad {
        None => Ok(identity),
        Some(key) => Err(Failure::Failed(format!(
            "{}: {key}: must be of letters, digits and -; {RESTORE}",
            path.display()
        ))),
    }
}

/// What to do about a file that user data writes.
const RESTORE: &str = "user data writes this file at the first boot: write it as it was (`cluster`, `agentUid`, `region`), or have the instance replaced";

/// What is wrong with that file: place, key, reason, and what to do.
fn misread(path: &Path, key: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    // The place is told in front.
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let key = if key == "." { String::new() } else { format!("{key}: ") };
    format!(
        "{}:{}:{}: {key}{reason}; {RESTORE}",
        path.display(),
        error.line().max(1),
        error.column().max(1)
    )
}

fn fetch(machine: &dyn Machine, identity: &Identity) -> Result<Bundle, Failure> {
    let instance_id = machine.instance_id()?;
    let name = identity.parameter(&instance_id);
    let text = machine.parameter(&identity.region, &name)?;
    let bundle = Bundle::decode(&text).map_err(|error| Failure::Failed(format!("{name}: {error}")))?;
    let secrets = [&bundle.token, &bundle.tls.key];
    secrets.into_iter().chain(&bundle.previous_token).for_each(hush::keep);
    Ok(bundle)
}

/// Tokens, on tmpfs. The gateway reads them anew by itself.
fn secrets(run: &Run<'_>) -> Result<Change, Failure> {
    on_tmpfs(run)?;
    let gateway = Owner::named(run, "skykoi")?;
    let token = run.bundle.token.expose().as_bytes();
    let mut change = files::content(run, "/run/skykoi/token", token, 0o600, gateway)?;
    change |= match &run.bundle.previous_token {
        Some(token) => files::content(
            run,
            "/run/skykoi/previous-token",
            token.expose().as_bytes(),
            0o600,
            gateway,
        )?,
        None => files::absent(run, "/run/skykoi/previous-token")?,
    };
    change |= parameters(run, gateway)?;
    Ok(change)
}

/// What the config keeps in SSM, read with the instance's own role and put on tmpfs. What cannot be read is left out: what needs it says
/// so, and the rest of the gateway works.
fn parameters(run: &Run<'_>, gateway: Owner) -> Result<Change, Failure> {
    let mut change = Change::Unchanged;
    for name in koi_wire::config::ssm_parameters(&run.bundle.config) {
        let path = koi_wire::config::SecretRef::ssm_file(&name);
        match run.machine.parameter(&run.identity.region, &name) {
            Ok(value) => {
                hush::keep(&Redacted::new(value.as_str()));
                change |= files::content(run, &path, value.as_bytes(), 0o600, gateway)?;
            }
            Err(failure) => run.machine.say(&format!("warning: {failure}; the config refers to it")),
        }
    }
    Ok(change)
}

/// Certificate and key of nginx, on tmpfs.
fn tls(run: &Run<'_>) -> Result<Change, Failure> {
    on_tmpfs(run)?;
    let root = Owner::named(run, "root")?;
    let tls = &run.bundle.tls;
    let mut change = files::content(run, "/run/skykoi-tls/tls.crt", tls.certificate.as_bytes(), 0o600, root)?;
    change |= files::content(run, "/run/skykoi-tls/tls.key", tls.key.expose().as_bytes(), 0o600, root)?;
    Ok(change)
}

fn on_tmpfs(run: &Run<'_>) -> Result<(), Failure> {
    if run.options.files_only || volume::is_tmpfs(run.options, "/run")? {
        return Ok(());
    }
    Err(Failure::Failed(
        "/run is not a tmpfs: secrets would be written to a disk".to_owned(),
    ))
}

/// The config document, held against this gateway's own rules before it replaces the old one.
fn write_config(run: &Run<'_>) -> Result<Change, Failure> {
    const PATH: &str = "/home/ubuntu/.skykoi/skykoi.json";
    let mut text = serde_json::to_string_pretty(&run.bundle.config).unwrap_or_default();
    text.push('\n');
    // Variables are the gateway's own: here they stay as they are.
    config::parse(&run.options.path(PATH), &text, |name| Some(format!("${{{name}}}")))
        .map_err(|refused| Failure::Failed(format!("the bundle's config is refused: {}", refused.0.join(" | "))))?;
    files::content(run, PATH, text.as_bytes(), 0o600, Owner::named(run, "skykoi")?)
}

/// The devices that come paired; in memory, so that nothing on the volume can pair anybody.
fn devices(run: &Run<'_>) -> Result<Change, Failure> {
    let text = serde_json::to_vec_pretty(&run.bundle.devices).unwrap_or_default();
    let gateway = Owner::named(run, "skykoi")?;
    files::content(run, "/run/skykoi/paired.json", &text, 0o600, gateway)
}

/// The whole way that a client takes: TLS with the agent's certificate, nginx, gateway.
fn answer(run: &Run<'_>) -> Result<Change, Failure> {
    let asked = run
        .machine
        .ask(&run.identity.server_name(), &run.bundle.tls.certificate);
    asked
        .map(|()| Change::Unchanged)
        .map_err(|reason| Failure::NotYet(format!("https on 443: {reason}")))
}

#[cfg(test)]
mod tests;
