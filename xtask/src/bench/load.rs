//! The load programs: examples that are built in release, and run with the tools.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process;
use crate::tools::{EtcdVersion, Tools};
use crate::workspace::Workspace;

/// An example, and how cargo is told to build it.
pub(super) struct Program<'a> {
    pub(super) package: &'a str,
    /// Features that it needs beside the default ones.
    pub(super) features: &'a [&'a str],
    pub(super) example: &'a str,
}

/// Builds a program and runs it with these arguments; its figures go to a file of this name in `target/bench`.
pub(super) fn run(
    workspace: &Workspace,
    etcd_version: Option<EtcdVersion>,
    program: &Program<'_>,
    arguments: &[OsString],
    figures: &str,
) -> Result<()> {
    let tools = Tools::obtain(workspace, EtcdVersion::choose(etcd_version)?)?;
    let mut build = workspace.cargo(&["build", "--release", "--package", program.package]);
    for feature in program.features {
        build.args(["--features", feature]);
    }
    build.args(["--example", program.example]);
    tools.export(&mut build);
    process::run(&mut build)?;
    let path = workspace
        .target()
        .join("release")
        .join("examples")
        .join(program.example);
    let mut load = process::command(path, &[]);
    load.args(arguments).arg("--out").arg(place(workspace, figures)?);
    tools.export(&mut load);
    process::run(&mut load)
}

fn place(workspace: &Workspace, figures: &str) -> Result<PathBuf> {
    let folder = workspace.target().join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder.join(figures))
}
