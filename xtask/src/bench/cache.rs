//! `cargo xtask bench cache`: the load program of the watch cache, on an etcd of the tools and on the embedded store,
//! with the like for Go's library beside it.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;

use crate::bench::load::{self, Program};
use crate::tools::EtcdVersion;
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
    let program = Program {
        package: "apiserver-storagebackend",
        features: &["load"],
        example: "watchcache",
    };
    let mut arguments: Vec<OsString> = options.workload.iter().map(OsString::from).collect();
    if arguments.is_empty() {
        arguments.push(DEFAULT.into());
    }
    let peer = options.peer.clone().map(PathBuf::into_os_string);
    if let Some(peer) = peer.or_else(|| std::env::var_os("PEER_GO")) {
        arguments.extend(["--peer".into(), peer]);
    }
    load::run(workspace, options.etcd_version, &program, &arguments, "cache.json")
}
