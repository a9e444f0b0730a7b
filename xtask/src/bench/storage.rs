//! `cargo xtask bench storage`: the load program of storage-etcd3, on an etcd of the tools.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process;
use crate::tools::{EtcdVersion, Tools};
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
    let tools = Tools::obtain(workspace, EtcdVersion::choose(options.etcd_version)?)?;
    let mut build = workspace.cargo(&[
        "build",
        "--release",
        "--package",
        "apiserver-storage-etcd3",
        "--example",
        "load",
    ]);
    tools.export(&mut build);
    process::run(&mut build)?;
    let program = workspace.target().join("release").join("examples").join("load");
    let task = options.task.first().map_or(DEFAULT, String::as_str);
    let mut load = process::command(program, &[task]);
    load.args(options.task.iter().skip(1))
        .arg("--out")
        .arg(figures(workspace, task)?);
    tools.export(&mut load);
    process::run(&mut load)
}

fn figures(workspace: &Workspace, task: &str) -> Result<PathBuf> {
    let folder = workspace.target().join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder.join(format!("storage-{task}.json")))
}
