//! The operator on an AWS account that lives in its own memory: for fleets that are too large for the test world's cloud.
//!
//! `memory run ...` takes the flags of `koi-operator run`. Bundles are files under KOI_MEMORY_BUNDLES, named by the agent's UID, so that
//! whoever plays the gateways finds them; KOI_MEMORY_BUCKETS throttles as AWS does. `memory weigh N` says in KiB what the account of N
//! agents alone weighs resident, and how many bytes it has on the heap, which the operator on AWS does not carry. With every sweep the bytes
//! that live on the heap are written to the file beside KOI_MEMORY_BUNDLES that ends on `.live`.

#![allow(clippy::panic, reason = "a benchmark that cannot run says so and ends")]

mod account;
mod cloud;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use cap::Cap;
use clap::Parser as _;
use jiff::Timestamp;
use koi_operator::args::{Cli, Command, LogFormat, RunArgs};
use koi_operator::clock::Clock;
use koi_operator::log;
use koi_operator::run::{Surroundings, run_on};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use cloud::Memory;

#[cfg(feature = "jemalloc")]
type Allocator = tikv_jemallocator::Jemalloc;
#[cfg(feature = "jemalloc")]
const ALLOCATOR: Allocator = tikv_jemallocator::Jemalloc;
#[cfg(not(feature = "jemalloc"))]
type Allocator = std::alloc::System;
#[cfg(not(feature = "jemalloc"))]
const ALLOCATOR: Allocator = std::alloc::System;

/// The operator's allocator, which counts what lives on the heap, too: a figure that no other program on the machine can bend.
#[global_allocator]
static HEAP: Cap<Allocator> = Cap::new(ALLOCATOR, usize::MAX);

fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, count] = arguments.as_slice()
        && word == "weigh"
    {
        let before = HEAP.allocated();
        let (resident, _account) = account::weigh(count.parse()?)?;
        return Ok(writeln!(std::io::stdout(), "{resident} {}", HEAP.allocated() - before)?);
    }
    match Cli::parse().command {
        Command::Run(args) => operate(*args),
        _ => anyhow::bail!("memory run ..., or memory weigh N"),
    }
}

#[tokio::main]
async fn operate(args: RunArgs) -> anyhow::Result<()> {
    let traces = log::start(LogFormat::Text, std::env::var("RUST_LOG").ok().as_deref(), false, None);
    let traces = traces.map_err(anyhow::Error::msg)?;
    let bundles = PathBuf::from(std::env::var("KOI_MEMORY_BUNDLES")?);
    let buckets = std::env::var("KOI_MEMORY_BUCKETS").is_ok_and(|word| word == "true");
    let stop = CancellationToken::new();
    let told = stop.clone();
    let mut term = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        term.recv().await;
        told.cancel();
    });
    let surroundings = Surroundings {
        pod_namespace: None,
        identity: "memory".to_owned(),
    };
    let in_memory = async |metrics| Arc::new(Memory::new(account::empty(buckets), bundles, metrics));
    let done = Box::pin(run_on(in_memory, args, surroundings, Clock::new(Timestamp::now), stop)).await;
    drop(traces);
    done
}
