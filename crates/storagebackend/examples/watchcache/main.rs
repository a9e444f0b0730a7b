//! The load program of the watch cache: how fast it becomes ready, lists, and tells its watchers, and what it holds.
//!
//! ```sh
//! cargo xtask bench cache                 # with an etcd that xtask finds or gets, and on the embedded store
//! ETCD=/path/to/etcd cargo run --release -p apiserver-storagebackend --features load --example watchcache -- list
//! ```
//!
//! Each result is one line of JSON, with allocations, processor time and peak memory of this process. The objects are
//! pods of the real kind, read and written by its schema. `docs/benchmarks.md` says how to read the figures.
//
// concerns: storage-cacher/BENCH-11: there is no ring that grows; what an append costs is in the processor time per event
//   of `fanout`.
// concerns: storage-cacher/BENCH-13: a cache hands out bytes that are written as they are, and nothing is encoded per
//   watcher; serving them over HTTP is the front's.
// concerns: storage-cacher/BENCH-14: the tree is another one, and its degree is no setting.

#[path = "../../../storage-etcd3/examples/load/cpu.rs"]
mod cpu;
#[path = "../../../storage-etcd3/examples/load/etcd.rs"]
mod etcd;
#[path = "../../../storage-etcd3/examples/load/latency.rs"]
#[allow(dead_code, reason = "shared with another program, which uses all of it")]
mod latency;

mod bare;
mod below;
mod callers;
mod ground;
mod init;
mod list;
mod memory;
mod options;
mod pods;
mod report;
mod suite;
mod troubles;
mod watching;
mod writing;

use anyhow::Result;
use clap::Parser;

use crate::options::{Options, Workload};

/// Load on the watch cache.
#[derive(Debug, Parser)]
struct Arguments {
    /// What is measured.
    #[arg(value_enum)]
    workload: Workload,
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    let Arguments { workload, options } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match workload {
            Workload::Seed => init::seed(&options).await,
            Workload::Init => init::init(&options).await,
            Workload::Idle => watching::idle(&options).await,
            Workload::List => list::list(&options).await,
            Workload::Fanout => watching::fanout(&options).await,
            Workload::Storm => writing::storm(&options).await,
            Workload::Start => writing::start(&options).await,
            Workload::Write => writing::write(&options).await,
            Workload::Stalled => writing::stalled(&options).await,
            Workload::Lists => memory::lists(&options).await,
            Workload::Crowd => troubles::crowd(&options).await,
            Workload::IdleKind => troubles::idle_kind(&options).await,
            Workload::Relist => troubles::relist(&options).await,
            Workload::All => suite::all(&options).await,
        }
    })
}
