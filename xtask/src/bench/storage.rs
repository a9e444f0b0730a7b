//! `cargo xtask bench storage`: the load program of storage-etcd3, on an etcd of the tools.

use std::ffi::OsString;

use anyhow::Result;

use crate::bench::load::{self, Program};
use crate::tools::EtcdVersion;
use crate::workspace::Workspace;

/// What the load program does unless it is told.
const DEFAULT: &str = "compare";

/// Options of `cargo xtask bench storage`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which etcd: 3.4, 3.5 or newest (also: APISERVER_ETCD_VERSION).
    #[arg(long)]
    etcd_version: Option<EtcdVersion>,
    /// What the load program is to do, with its options: `compare`, `decode`, `lists` or `traffic`; `compare --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    task: Vec<String>,
}

/// Builds the load program and runs it; the figures go to `target/bench/storage-TASK.json`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let program = Program {
        package: "apiserver-storage-etcd3",
        features: &[],
        example: "load",
    };
    let task = options.task.first().map_or(DEFAULT, String::as_str);
    let rest = options.task.iter().skip(1).map(OsString::from);
    let arguments: Vec<OsString> = std::iter::once(task.into()).chain(rest).collect();
    let figures = format!("storage-{task}.json");
    load::run(workspace, options.etcd_version, &program, &arguments, &figures)
}
