//! The command line: flags, each with an environment variable, and what is wrong with them in one line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use koi_core::desired::span;
use koi_core::render::user_data::Artifact;

/// The region of what is only rendered.
const DEFAULT_REGION: &str = "us-east-1";

/// Kubernetes operator that gives each KoiAgent an EC2 instance of its own.
#[derive(Debug, Parser)]
#[command(name = "koi-operator", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the operator.
    Run(Box<RunArgs>),
    /// Prints the custom resource definitions.
    Crds,
    /// Prints, without a cluster or a cloud, what would be made of an agent: config, user data, policy, tags.
    Render(RenderArgs),
}

/// Flags of `run`.
#[derive(Clone, Debug, Args, PartialEq)]
pub struct RunArgs {
    /// Id of this installation; goes into every claim tag.
    #[arg(long, env = "KOI_CLUSTER_ID", value_parser = cluster_id)]
    pub cluster_id: String,
    /// Watch this namespace alone. Default: all.
    #[arg(long, env = "KOI_WATCH_NAMESPACE", value_parser = optional_namespace)]
    pub watch_namespace: Option<Optional>,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "KOI_METRICS_ADDR", default_value = "0.0.0.0:8080", value_parser = address)]
    pub metrics_addr: SocketAddr,
    /// Time between fleet sweeps: how soon outside drift is seen.
    #[arg(long, env = "KOI_SWEEP_INTERVAL", default_value = "30s", value_parser = span_of_time)]
    pub sweep_interval: Duration,
    /// How often a settled gateway is asked.
    #[arg(long, env = "KOI_PROBE_INTERVAL", default_value = "60s", value_parser = span_of_time)]
    pub probe_interval: Duration,
    /// How much of AWS's documented request rates is used: 1 for accounts whose quotas were not raised, more where they were, less where
    /// others call too; `off` does not hold calls back.
    #[arg(long, env = "KOI_AWS_RATE", default_value = "1", value_parser = rate)]
    pub aws_rate: Rate,
    /// What happens to orphans with our claim.
    #[arg(long, env = "KOI_REAP", default_value = "report")]
    pub reap: Reap,
    /// How old an orphan must be.
    #[arg(long, env = "KOI_REAP_GRACE", default_value = "1h", value_parser = span_of_time)]
    pub reap_grace: Duration,
    /// Take a Lease in the operator's namespace before changing anything.
    #[arg(long, env = "KOI_LEADER_ELECTION", default_value = "true", action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// The operator's own namespace. Default: the pod's.
    #[arg(long, env = "KOI_NAMESPACE", value_parser = optional_namespace)]
    pub namespace: Option<Optional>,
    /// Format of the log. Default: text on a terminal, else json.
    #[arg(long, env = "KOI_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// An OpenTelemetry collector that takes traces over HTTP, such as http://collector:4318. Needs a program built with the feature `otlp`.
    #[arg(long, env = "KOI_OTLP_ENDPOINT", value_parser = optional)]
    pub otlp_endpoint: Option<Optional>,
    /// Where instances get the gateway's binary when their plan does not say. Default: the image holds it.
    #[arg(long, env = "KOI_GATEWAY_ARTIFACT_URL", requires = "gateway_artifact_sha256", value_parser = optional)]
    pub gateway_artifact_url: Option<Optional>,
    /// SHA-256 of that binary, hex.
    #[arg(long, env = "KOI_GATEWAY_ARTIFACT_SHA256", requires = "gateway_artifact_url", value_parser = optional_sha256)]
    pub gateway_artifact_sha256: Option<Optional>,
}

/// A value that may be given as an empty string, as charts do with environment variables: then it is as if it were not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Optional(Option<String>);

/// A part of AWS's request rates; `None`: calls are not held back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(Option<f64>);

impl RunArgs {
    /// The part of AWS's request rates that is used; `None`: calls are not held back.
    #[must_use]
    pub fn aws_rate(&self) -> Option<f64> {
        self.aws_rate.0
    }

    /// The namespace to watch, if not all.
    #[must_use]
    pub fn watch_namespace(&self) -> Option<&str> {
        given(self.watch_namespace.as_ref())
    }

    /// The operator's own namespace, if told.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        given(self.namespace.as_ref())
    }

    /// The collector of traces, if there is one.
    #[must_use]
    pub fn otlp_endpoint(&self) -> Option<&str> {
        given(self.otlp_endpoint.as_ref())
    }

    /// The artifact of plans that name none.
    #[must_use]
    pub fn artifact(&self) -> Option<Artifact> {
        let url = given(self.gateway_artifact_url.as_ref())?.to_owned();
        let sha256 = given(self.gateway_artifact_sha256.as_ref())?.to_owned();
        Some(Artifact { url, sha256 })
    }
}

fn given(value: Option<&Optional>) -> Option<&str> {
    value?.0.as_deref()
}

/// Flags of `render`.
#[derive(Clone, Debug, Args, PartialEq, Eq)]
pub struct RenderArgs {
    /// A file with a KoiAgent, a KoiPlan, or several of them; - is standard input. May be repeated.
    #[arg(short = 'f', long = "file", required = true)]
    pub files: Vec<PathBuf>,
    /// Labels of the agents' namespace, for a plan that admits some namespaces only. Default: those of the Namespace among the files; where
    /// there is none, the plan is taken to admit it.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = labels)]
    pub namespace_labels: Option<Labels>,
    /// Id of the installation, for tags and policy.
    #[arg(long, env = "KOI_CLUSTER_ID", default_value = "example", value_parser = cluster_id)]
    pub cluster_id: String,
    /// Region, for ARNs.
    #[arg(long, env = "AWS_REGION", default_value = DEFAULT_REGION, value_parser = region)]
    pub region: String,
    /// Account, for ARNs.
    #[arg(long, default_value = "123456789012", value_parser = account)]
    pub account: String,
}

/// Labels, by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl RenderArgs {
    /// The labels of the agents' namespace, if they were told.
    #[must_use]
    pub fn namespace_labels(&self) -> Option<&BTreeMap<String, String>> {
        self.namespace_labels.as_ref().map(|labels| &labels.0)
    }
}

/// What happens to orphans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reap {
    /// Counted and told.
    Report,
    /// Deleted.
    Delete,
    /// Nothing.
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object for each line.
    Json,
    /// For people.
    Text,
}

/// A line for people: what is wrong and what to do, with the help of the `command` that was meant. Help and version are not wrong.
#[must_use]
pub fn advice(error: &clap::Error, command: Option<&str>) -> String {
    let text = error.to_string();
    let what: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what).trim_end_matches('.');
    let known = ["run", "crds", "render"];
    match command.filter(|command| known.contains(command)) {
        Some(command) => {
            format!(
                "koi-operator: {what}; `koi-operator {command} --help` lists every flag and its environment variable"
            )
        }
        None => format!("koi-operator: {what}; `koi-operator --help` lists the commands"),
    }
}

fn cluster_id(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len());
    let plain = text
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits && plain {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 63 of a-z, 0-9 and -, such as prod-eu".to_owned())
    }
}

fn account(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err("must be the id of an AWS account: 12 digits".to_owned())
    }
}

/// An empty variable is as good as none.
fn region(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = text.len() <= 32
        && text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && text.contains('-');
    match text {
        "" => Ok(DEFAULT_REGION.to_owned()),
        _ if fits => Ok(text.to_owned()),
        _ => Err("must be an AWS region such as us-east-1 or eu-central-2".to_owned()),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "must be an IP address and a port, such as 0.0.0.0:8080 or [::]:8080; 127.0.0.1:0 takes any free port"
            .to_owned()
    })
}

/// `key=value` pairs; an empty text is no label at all.
fn labels(text: &str) -> Result<Labels, String> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').filter(|(key, _)| !key.trim().is_empty())?;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    };
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    let labels: Option<BTreeMap<String, String>> = parts.map(pair).collect();
    labels
        .map(Labels)
        .ok_or_else(|| "must be labels such as team=research,tier=gold".to_owned())
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "off" {
        return Ok(Rate(None));
    }
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=1000.0).contains(&rate) => Ok(Rate(Some(rate))),
        _ => Err("must be a number from 0.01 to 1000, such as 1 or 2.5, or off".to_owned()),
    }
}

fn span_of_time(text: &str) -> Result<Duration, String> {
    match span::parse(text) {
        Some(span) if !span.is_zero() => Ok(span),
        _ => Err("must be a duration above zero such as 30s, 5m or 1h30m".to_owned()),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "clap takes a fallible parser")]
fn optional(text: &str) -> Result<Optional, String> {
    Ok(Optional((!text.is_empty()).then(|| text.to_owned())))
}

fn optional_namespace(text: &str) -> Result<Optional, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = text.len() <= 63
        && text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || c == '-');
    if text.is_empty() || fits {
        optional(text)
    } else {
        Err("must be the name of one namespace, such as team-a".to_owned())
    }
}

fn optional_sha256(text: &str) -> Result<Optional, String> {
    let fits = text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
    if text.is_empty() || fits {
        optional(&text.to_lowercase())
    } else {
        Err("must be 64 hex digits".to_owned())
    }
}

#[cfg(test)]
mod tests;
