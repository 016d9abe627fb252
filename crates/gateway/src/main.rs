//! The gateway daemon of an agent, and the set-up of the instance that it runs on.

mod clock;
mod config;
mod file;
mod methods;
mod notify;
mod seed;
mod server;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use koi_wire::config::{GatewayConfig, LogLevel, Secret, SecretRef};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::filter::LevelFilter;

use crate::clock::SystemClock;
use crate::config::{Loaded, Refused};
use crate::server::{Server, Settings};

/// What a config that may not be used exits with; the unit does not restart after it.
const EXIT_CONFIG: u8 = 78;

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
    },
    /// Validate a config file: exit 0, or 78 with one line for each fault
    Check {
        /// The config file
        #[arg(long, env = "SKYKOI_CONFIG_PATH")]
        config: Option<PathBuf>,
    },
    /// Print the JSON Schema of the config
    Schema,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
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
        Command::Run { config, port } => daemon(&config_path(config)?, port),
        Command::Check { config } => {
            let loaded = config::load(&config_path(config)?)?;
            print(&format!("{}: ok, sha256 {}", loaded.path.display(), loaded.sha256));
            Ok(ExitCode::SUCCESS)
        }
        Command::Schema => {
            print(&serde_json::to_string_pretty(&koi_wire::config::schema())?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn daemon(config_path: &Path, port: Option<u16>) -> anyhow::Result<ExitCode> {
    let loaded = config::load(config_path)?;
    start_log(&loaded.config);
    let state_dir = state_dir()?;
    let workspace = workspace(&loaded.config)?;
    for directory in [&state_dir, &workspace] {
        if let Err(error) = std::fs::create_dir_all(directory) {
            warn!(directory = %directory.display(), %error, "cannot be made");
        }
    }
    let settings = Settings {
        refresh_file: refresh_file(&loaded),
        loaded,
        port,
        state_dir,
        workspace,
        clock: Arc::new(SystemClock),
        variables: |name| std::env::var(name).ok(),
        host: hostname(),
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
    let server = Server::bind(settings).await?;
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

fn start_log(config: &GatewayConfig) {
    let level = match config.logging.as_ref().and_then(|logging| logging.level) {
        Some(LogLevel::Error) => LevelFilter::ERROR,
        Some(LogLevel::Warn) => LevelFilter::WARN,
        None | Some(LogLevel::Info) => LevelFilter::INFO,
        Some(LogLevel::Debug) => LevelFilter::DEBUG,
        Some(LogLevel::Trace) => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
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

fn config_path(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match given {
        Some(path) => Ok(path),
        None => Ok(state_dir()?.join("skykoi.json")),
    }
}

fn workspace(config: &GatewayConfig) -> anyhow::Result<PathBuf> {
    let configured = config
        .agent_defaults()
        .and_then(|defaults| defaults.workspace.as_deref())
        .unwrap_or("~/koi");
    match configured.strip_prefix("~/") {
        Some(rest) => Ok(home()?.join(rest)),
        None => Ok(PathBuf::from(configured)),
    }
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
    let _ = writeln!(std::io::stderr(), "{text}");
}
