//! What the load program is told; names as far as possible those of the program for Go's library.

use std::path::PathBuf;
use std::time::Duration;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Stores the pods.
    Seed,
    /// From a new cache to a ready one.
    Init,
    /// Watches that wait.
    Idle,
    /// Lists to encoded JSON.
    List,
    /// One stream of writes to many watches.
    Fanout,
    /// Watches that come back at once, some writes behind.
    Storm,
    /// Watches that begin with the state.
    Start,
    /// Writes through the cache beside the same to the store below.
    Write,
    /// A tenth of the watches does not read.
    Stalled,
    /// Full lists, read slowly: their memory.
    Lists,
    /// Consistent lists by very many callers, and what they ask of the store below.
    Crowd,
    /// Paged lists of a kind that nobody writes to, after its history was compacted.
    IdleKind,
    /// The cache lists again while watches are open.
    Relist,
    /// Everything, on both backends, each in a process of its own.
    All,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Traffic {
    Update,
    Create,
    DeleteCreate,
}

/// What goes on while the cache is written through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Background {
    None,
    Watcher,
    Lister,
    ListerExact,
    ListerNotolder,
    Watchlist,
}

/// What the cache stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Backend {
    Etcd,
    Embedded,
}

/// What is listed or watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    All,
    Ns,
    Node,
}

/// Which state is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Freshness {
    Consistent,
    Notolder,
    Exact,
    Zero,
}

/// Options of all workloads.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// What the cache stands on.
    #[arg(long, value_enum, default_value = "etcd")]
    pub(crate) backend: Backend,
    /// An etcd that runs; without it, one is started and filled first.
    #[arg(long)]
    pub(crate) etcd: Option<String>,
    /// The directory of the embedded store; without it, one is made and filled first.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Pods.
    #[arg(short, default_value_t = 20_000)]
    pub(crate) n: usize,
    /// Namespaces.
    #[arg(long, default_value_t = 50)]
    pub(crate) ns: usize,
    /// Nodes.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) nodes: usize,
    /// Containers of a pod: about as many KB.
    #[arg(long, default_value_t = 10)]
    pub(crate) size: usize,
    /// Callers at the same time.
    #[arg(short, default_value_t = 16)]
    pub(crate) p: usize,
    /// Seconds of a measurement.
    #[arg(short, value_parser = seconds, default_value = "10")]
    pub(crate) d: Duration,
    /// Watches.
    #[arg(short, default_value_t = 1_000)]
    pub(crate) w: usize,
    /// Writes per second; 0: as fast as it goes.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) rate: f64,
    /// What is listed or watched.
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) scope: Part,
    /// Which state is listed.
    #[arg(long, value_enum, default_value = "consistent")]
    pub(crate) rv: Freshness,
    /// Objects of a page; 0: no pages.
    #[arg(long, default_value_t = 0)]
    pub(crate) page: u64,
    /// Lists so many percent of the objects, by a label that nothing indexes.
    #[arg(long)]
    pub(crate) select: Option<usize>,
    /// Lists from the store below, without a cache.
    #[arg(long)]
    pub(crate) bare: bool,
    /// What is written.
    #[arg(long, value_enum, default_value = "update")]
    pub(crate) traffic: Traffic,
    /// What goes on while the cache is written through.
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) background: Background,
    /// How often something is repeated whose rounds are compared.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// The program for Go's library, which then runs the like on the same etcd.
    #[arg(long)]
    pub(crate) peer: Option<PathBuf>,
    /// Where the figures of everything go, as JSON.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

/// Seconds, with or without the letter.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .trim_end_matches('s')
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}
