//! The load program: what this backend costs beside the bare etcd client, against the same etcd, in the same process and
//! at the same time.
//!
//! ```sh
//! cargo xtask bench storage            # with an etcd that xtask finds or gets
//! ETCD=/path/to/etcd cargo run --release -p apiserver-storage-etcd3 --example load -- compare
//! ```
//!
//! `compare` runs both sides in turns, a fixed number of operations a round, and reports the medians of the ratios of
//! neighbouring rounds with their spread: what else happens on the machine hits both. `docs/benchmarks.md` says what is
//! measured and how to read it.

mod bare;
mod cluster;
mod compare;
mod cpu;
mod decode;
mod etcd;
mod latency;
mod lists;
mod objects;
mod rounds;
mod store;
mod target;
mod traffic;
mod watch;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Load on a real etcd, through the store and through the bare client.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
    /// Where the figures go, as JSON.
    #[arg(long, global = true)]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Each verb through the store and through the bare client, in turns.
    Compare(compare::Options),
    /// Decoding of stored pods into typed ones, beside plain decoding of the same bytes.
    Decode(decode::Options),
    /// Lists of all kinds, through the store and through the cache.
    Lists(lists::Options),
    /// Writes beside watches and lists, through the cache.
    Traffic(traffic::Options),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        match &arguments.task {
            Task::Compare(options) => compare::run(options).await,
            Task::Decode(options) => decode::run(options),
            Task::Lists(options) => lists::run(options).await,
            Task::Traffic(options) => traffic::run(options).await,
        }
    })?;
    if let Some(out) = &arguments.out {
        std::fs::write(out, serde_json::to_string_pretty(&figures)?)?;
        println!("figures: {}", out.display());
    }
    Ok(())
}
