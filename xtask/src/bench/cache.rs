//! `cargo xtask bench cache`: the load program of the watch cache, on an etcd of the tools and on the embedded store,
//! with the like for Go's library beside it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process;
use crate::tools::{EtcdVersion, Tools};
use crate::workspace::Workspace;

/// What the load program does unless it is told.
const DEFAULT: &str = "all";

/// Options of `cargo xtask bench cache`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which etcd: 3.4, 3.5 or newest (also: APISERVER_ETCD_VERSION).
    #[arg(long)]
    etcd_version: Option<EtcdVersion>,
    /// The program that runs these workloads on Go's library, beside ours (also: PEER_GO).
    #[arg(long)]
    peer: Option<PathBuf>,
    /// What the load program is to do, with its options: `all`, `init`, `list -p 4`; `all --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    workload: Vec<String>,
}

/// Builds the load program and runs it; the figures of everything go to `target/bench/cache.json`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let tools = Tools::obtain(workspace, EtcdVersion::choose(options.etcd_version)?)?;
    let mut build = workspace.cargo(&[
        "build",
        "--release",
        "--package",
        "apiserver-storagebackend",
        "--features",
        "load",
        "--example",
        "watchcache",
    ]);
    tools.export(&mut build);
    process::run(&mut build)?;
    let program = workspace.target().join("release").join("examples").join("watchcache");
    let folder = workspace.target().join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let workload = options.workload.first().map_or(DEFAULT, String::as_str);
    let mut load = process::command(program, &[workload]);
    load.args(options.workload.iter().skip(1));
    load.arg("--out").arg(folder.join("cache.json"));
    let peer = options
        .peer
        .clone()
        .or_else(|| std::env::var_os("PEER_GO").map(PathBuf::from));
    if let Some(peer) = peer {
        load.arg("--peer").arg(peer);
    }
    tools.export(&mut load);
    process::run(&mut load)
}
