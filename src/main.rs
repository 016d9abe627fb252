//! The operator's process: TLS provider, command line, log, signals, exit code. Everything else is in the library.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use jiff::Timestamp;
use koi_operator::args::{Cli, Command, LogFormat, RunArgs, advice};
use koi_operator::clock::Clock;
use koi_operator::run::{Surroundings, run};
use koi_operator::{log, render};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A sweep allocates and frees a fleet's worth of small things: this allocator gives the pages back, the system's keeps them, twice as many as
/// are in use. How it is set: `.cargo/config.toml`.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bad flags.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // First of all: two libraries bring TLS, and each would otherwise have to guess which provider is meant. It can only fail when one
    // is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let command = std::env::args().nth(1);
            return complain(&advice(&error, command.as_deref()), USAGE);
        }
        Err(help) => return say(&help.to_string()),
    };
    let done = match cli.command {
        Command::Run(args) => match begin_log(&args) {
            Ok(traces) => {
                let done = operate(*args).map(|()| String::new());
                drop(traces);
                done
            }
            Err(told) => return complain(&format!("koi-operator: {told}"), USAGE),
        },
        Command::Crds => render::crds(),
        Command::Render(args) => render::render(&args, &mut std::io::stdin()),
    };
    match done {
        Ok(text) => say(&text),
        Err(error) => complain(&format!("koi-operator: {error:#}"), 1),
    }
}

/// A round is a deep call: unoptimised code keeps all that it moves on the stack, and two megabytes have not been enough for it.
const STACK: usize = 8 << 20;

/// Before the runtime and until after it: the last traces are sent when nothing else runs.
fn begin_log(args: &RunArgs) -> Result<log::Traces, String> {
    let terminal = std::io::stdout().is_terminal();
    let format = args
        .log_format
        .unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let filter = std::env::var("RUST_LOG").ok();
    log::start(format, filter.as_deref(), terminal, args.otlp_endpoint())
}

fn operate(args: RunArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK)
        .build()
        .context("no threads to work with")?;
    runtime.block_on(work(args))
}

async fn work(args: RunArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let told = stop.clone();
    let mut term = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop");
        told.cancel();
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starts");
    Box::pin(run(args, surroundings(), Clock::new(Timestamp::now), stop)).await
}

/// What the environment says about this process.
fn surroundings() -> Surroundings {
    let pod_namespace = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok();
    let host = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
        .unwrap_or_default();
    // Two processes of one host are two candidates.
    let identity = format!("{}-{}", host.trim(), std::process::id());
    Surroundings {
        pod_namespace: pod_namespace
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty()),
        identity,
    }
}

fn say(text: &str) -> ExitCode {
    // Whoever closed the other end of a pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn complain(line: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{line}");
    ExitCode::from(code)
}
