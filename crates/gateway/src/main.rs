//! The gateway daemon of an agent, and the set-up of the instance that it runs on.

mod agent;
mod approvals;
mod bootstrap;
mod clock;
mod config;
mod conversation;
mod devices;
mod file;
mod hush;
mod inbox;
mod logfile;
mod methods;
mod nodes;
mod notify;
mod profile;
mod queue;
mod reply;
mod schedule;
mod secret;
mod seed;
mod server;
mod services;
#[allow(dead_code, unused_imports, reason = "callers arrive one by one")]
mod session;
mod skills;
mod suspension;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use koi_hands::serve::Askers;
use koi_wire::config::{GatewayConfig, LogLevel, Secret, SecretRef};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::bootstrap::{Options, RealMachine};
use crate::clock::SystemClock;
use crate::config::{Loaded, Refused};
use crate::hush::Hushed;
use crate::logfile::LogFile;
use crate::server::{Server, Settings};

/// What a config that may not be used exits with; the unit does not restart after it.
const EXIT_CONFIG: u8 = 78;

/// Bad flags.
const EXIT_USAGE: u8 = 2;

/// How long bootstrap waits for what is not there yet, before it ends and the unit starts it anew.
const BOOTSTRAP_PATIENCE: Duration = Duration::from_secs(600);

#[derive(Parser)]
#[command(name = "koi-gateway", version, about = "The gateway daemon of an agent")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Run {
        /// The config file
        #[arg(long, env = "SKYKOI_CONFIG_PATH")]
        config: Option<PathBuf>,
        /// Listen on this port instead of the config's; 0 takes any
        #[arg(long)]
        port: Option<u16>,
        /// Take the directory as the machine's root
        #[arg(long, hide = true)]
        root: Option<PathBuf>,
    },
    /// Validate a config file: exit 0, or 78 with one line for each fault
    Check {
        /// The config file
        #[arg(long, env = "SKYKOI_CONFIG_PATH")]
        config: Option<PathBuf>,
    },
    /// Print the JSON Schema of the config
    Schema,
    /// Print all methods with their scopes, as JSON
    #[command(hide = true)]
    Methods,
    /// Print all keys of the config with their defaults, as JSON
    #[command(hide = true)]
    Keys,
    /// On the instance: perform what the agent's tools are asked for, as the user that this runs as
    #[command(hide = true)]
    Tools {
        /// Where the gateway asks
        #[arg(long)]
        socket: PathBuf,
        /// Where relative paths begin
        #[arg(long)]
        workspace: Option<PathBuf>,
        /// Listen to other users alone: what the tools start asks for nothing here
        #[arg(long)]
        others_only: bool,
    },
    /// On the instance: make the machine the home of its agent; a second run changes nothing
    Bootstrap {
        /// Write files below this directory and touch nothing else
        #[arg(long, hide = true)]
        root: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            say(&advice(&error, std::env::args().nth(1).as_deref()));
            return ExitCode::from(EXIT_USAGE);
        }
        Err(help) => {
            print(help.to_string().trim_end());
            return ExitCode::SUCCESS;
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) => {
                say(&refused.to_string());
                ExitCode::from(EXIT_CONFIG)
            }
            None => {
                say(&format!("koi-gateway: {error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run { config, port, root } => daemon(&Home::find(config, root)?, port),
        Command::Bootstrap { root } => set_up(root),
        Command::Tools {
            socket,
            workspace,
            others_only,
        } => perform_tools(&socket, workspace, others_only),
        Command::Check { config } => {
            let config = match config {
                Some(config) => config,
                None => state_dir()?.join("skykoi.json"),
            };
            let loaded = config::load(&config, variable)?;
            print(&format!("{}: ok, sha256 {}", loaded.path.display(), loaded.sha256));
            Ok(ExitCode::SUCCESS)
        }
        Command::Methods => {
            print(&serde_json::to_string_pretty(&methods::listed())?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Keys => {
            print(&serde_json::to_string_pretty(&config::listed())?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Schema => {
            print(&serde_json::to_string_pretty(&koi_wire::config::schema())?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// One line: what is wrong with the flags, and where to look. `command` is the one that was meant.
fn advice(error: &clap::Error, command: Option<&str>) -> String {
    let text = error.to_string();
    let told = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty());
    let told = told.collect::<Vec<_>>().join(" ");
    let told = told.strip_prefix("error: ").unwrap_or(&told).trim_end_matches('.');
    let known = ["run", "check", "schema", "bootstrap"];
    let command = command.filter(|command| known.contains(command));
    let command = command.map(|command| format!("{command} ")).unwrap_or_default();
    format!("koi-gateway: {told}; `koi-gateway {command}--help` lists what there is")
}

/// An environment variable.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where things are.
struct Home {
    config: PathBuf,
    state_dir: PathBuf,
    /// In front of absolute paths that a config names; `/` but for machines that are directories.
    root: PathBuf,
}

impl Home {
    fn find(config: Option<PathBuf>, root: Option<PathBuf>) -> anyhow::Result<Self> {
        let state_dir = match &root {
            Some(root) => root.join("home/ubuntu/.skykoi"),
            None => state_dir()?,
        };
        Ok(Self {
            config: config.unwrap_or_else(|| state_dir.join("skykoi.json")),
            state_dir,
            root: root.unwrap_or_else(|| PathBuf::from("/")),
        })
    }

    fn below(&self, absolute: &Path) -> PathBuf {
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }
}

fn daemon(home: &Home, port: Option<u16>) -> anyhow::Result<ExitCode> {
    let loaded = config::load(&home.config, variable)?;
    start_log(&loaded.config, &home.state_dir);
    let state_dir = home.state_dir.clone();
    let workspace = home.below(&workspace(&loaded.config, &home.state_dir));
    for directory in [&state_dir, &workspace] {
        if let Err(error) = std::fs::create_dir_all(directory) {
            warn!(directory = %directory.display(), %error, "cannot be made");
        }
    }
    let settings = Settings {
        tools_socket: std::env::var_os("SKYKOI_TOOLS_SOCKET").map(PathBuf::from),
        home: crate::home().unwrap_or_else(|_| home_around(&state_dir)),
        refresh_file: refresh_file(&loaded).map(|path| home.below(&path)),
        loaded,
        port,
        state_dir,
        root: home.root.clone(),
        workspace,
        clock: Arc::new(SystemClock),
        variables: variable,
        host: hostname(),
        zone: jiff::tz::TimeZone::try_system().unwrap_or(jiff::tz::TimeZone::UTC),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(settings))?;
    // Whatever still blocks (a write to a slow disk) does not hold up the end.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    // From here on it asks for a look at the config; without this it would end the process.
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let server = Server::bind(settings).await?;
    let look = server.look_handle();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            look.notify_one();
        }
    });
    for address in server.addresses() {
        info!(%address, version = server::VERSION, "listening");
    }
    if let Ok(socket) = std::env::var("NOTIFY_SOCKET")
        && let Err(error) = notify::notify(&socket, "READY=1")
    {
        warn!(%error, "systemd cannot be told that the gateway is ready");
    }
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if let Ok(socket) = std::env::var("NOTIFY_SOCKET") {
            let _ = notify::notify(&socket, "STOPPING=1");
        }
    };
    server.serve(stop).await;
    Ok(())
}

/// Performs wishes until it is stopped.
fn perform_tools(socket: &Path, workspace: Option<PathBuf>, others_only: bool) -> anyhow::Result<ExitCode> {
    let askers = if others_only { Askers::Others } else { Askers::All };
    let home = home()?;
    let place = koi_hands::Place {
        workspace: workspace.unwrap_or_else(|| home.join("koi")),
        home,
        user: variable("USER").unwrap_or_else(|| "ubuntu".to_owned()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            terminate.recv().await;
            stopped.cancel();
        });
        let hands = Arc::new(agent::tools::hands(place));
        koi_hands::serve::serve(socket, hands, askers, stop)
            .await
            .with_context(|| socket.display().to_string())
    })?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Sets the machine up. Two at the same time would undo each other's work: the second waits.
fn set_up(root: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let options = Options {
        files_only: root.is_some(),
        root: root.unwrap_or_else(|| PathBuf::from("/")),
        patience: BOOTSTRAP_PATIENCE,
    };
    let lock_path = options.root.join("run/skykoi-bootstrap.lock");
    std::fs::create_dir_all(options.root.join("run"))?;
    let lock = std::fs::File::create(&lock_path).with_context(|| lock_path.display().to_string())?;
    lock.lock().with_context(|| lock_path.display().to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match bootstrap::bootstrap(&options, &RealMachine::new(runtime)) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        // It has been said on the console already.
        Err(_) => Ok(ExitCode::FAILURE),
    }
}

fn start_log(config: &GatewayConfig, state_dir: &Path) {
    let level = match config.logging.as_ref().and_then(|logging| logging.level) {
        Some(LogLevel::Error) => LevelFilter::ERROR,
        Some(LogLevel::Warn) => LevelFilter::WARN,
        None | Some(LogLevel::Info) => LevelFilter::INFO,
        Some(LogLevel::Debug) => LevelFilter::DEBUG,
        Some(LogLevel::Trace) => LevelFilter::TRACE,
    };
    let on_disk = tracing_subscriber::fmt::layer()
        .with_writer(Hushed(LogFile::new(state_dir)))
        .with_ansi(false);
    let on_stderr = tracing_subscriber::fmt::layer()
        .with_writer(Hushed(std::io::stderr))
        .with_ansi(false);
    // What libraries tell in detail is what goes over their wires: headers with credentials among it.
    let own = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_target("koi_gateway", level)
        .with_target("koi_hands", level);
    tracing_subscriber::registry()
        .with(own)
        .with(on_stderr)
        .with(on_disk)
        .init();
}

fn home() -> anyhow::Result<PathBuf> {
    std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .context("HOME is not set")
}

fn state_dir() -> anyhow::Result<PathBuf> {
    match std::env::var_os("SKYKOI_STATE_DIR").filter(|path| !path.is_empty()) {
        Some(path) => Ok(PathBuf::from(path)),
        None => Ok(home()?.join(".skykoi")),
    }
}

/// Where the workspace is. `~` is the home; the directory around the state where there is none in the environment.
fn workspace(config: &GatewayConfig, state_dir: &Path) -> PathBuf {
    let configured = config
        .agent_defaults()
        .and_then(|defaults| defaults.workspace.as_deref())
        .unwrap_or("~/koi");
    match configured.strip_prefix("~/") {
        Some(rest) => home().unwrap_or_else(|_| home_around(state_dir)).join(rest),
        None => PathBuf::from(configured),
    }
}

/// The directory around the state, where there is no home in the environment.
fn home_around(state_dir: &Path) -> PathBuf {
    state_dir.parent().unwrap_or(state_dir).to_owned()
}

/// Beside the token file that bootstrap writes; nowhere when the token is kept in another way.
fn refresh_file(loaded: &Loaded) -> Option<PathBuf> {
    match loaded.config.gateway.as_ref()?.auth.as_ref()?.token.as_ref()? {
        Secret::Reference(SecretRef::File { path }) => Some(Path::new(path).parent()?.join("refresh")),
        _ => None,
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() {
        "koi".to_owned()
    } else {
        name.trim().to_owned()
    }
}

/// A line for people, on standard output.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line for people, on standard error.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{}", hush::without(text));
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Cli, advice};

    #[test]
    fn mistakes_are_told_in_one_line() {
        let cases: [(&[&str], &str); 5] = [
            (&["run", "--port", "high"], "`koi-gateway run --help`"),
            (&["run", "--bogus"], "--bogus"),
            (&["rnu"], "`koi-gateway --help`"),
            (&["check", "--config"], "`koi-gateway check --help`"),
            (&[], "`koi-gateway --help`"),
        ];
        for (line, told) in cases {
            let words = ["koi-gateway"].iter().chain(line);
            let Err(error) = Cli::try_parse_from(words) else {
                panic!("{line:?}")
            };
            let said = advice(&error, line.first().copied());
            assert!(said.lines().count() == 1 && said.contains(told), "{said}");
        }
    }
}
