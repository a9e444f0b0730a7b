//! The tasks of this repository: `cargo xtask TASK`.
//!
//! What continuous integration runs is what a developer runs: the workflow files and `.ci/run` only call these tasks.
//! xtask stays light on purpose (no runtime, no etcd client, nothing that needs protoc), so that it builds in seconds on a
//! fresh machine and can then provide what the other crates need: protoc, etcd and kubectl, see [`tools`].

mod bench;
mod ci;
mod conformance;
mod e2e;
mod edges;
mod process;
mod publish;
mod record;
mod section;
mod test;
mod tidy;
mod tools;
mod vectors;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::tools::EtcdVersion;
use crate::workspace::Workspace;

/// The tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Everything that must hold before a change lands: fmt, clippy, edges, tidy, test.
    Ci {
        /// Also what is slow to compile: docs, each feature alone, MSRV, minimal versions, deny, packages.
        #[arg(long)]
        full: bool,
    },
    /// All tests: unit, conformance, real etcd, kube and end-to-end.
    Test(test::Options),
    /// The end-to-end scenarios alone, with the real kubectl and a real etcd.
    E2e(e2e::Options),
    /// Measures the release binary (size, start, memory, list throughput), or with `storage` the storage layers.
    Bench(bench::Options),
    /// Checks which crate may know which.
    Edges,
    /// Checks module docs, to-dos, links and the architecture map.
    Tidy,
    /// Checks that every behaviour ID that docs/conformance claims has a test that ran.
    Conformance(conformance::Options),
    /// Replays vector files of the stored-value transformers.
    Vectors {
        /// Files in the format of the transformer vectors.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Publishes the crates in order, or checks that they could be.
    Publish {
        /// Only check: metadata, package contents, versions.
        #[arg(long)]
        check: bool,
    },
    /// Gets protoc, etcd and kubectl under target/tools and prints where they are.
    Tools {
        /// Which etcd: 3.4, 3.5 or newest (also: APISERVER_ETCD_VERSION).
        #[arg(long)]
        etcd_version: Option<EtcdVersion>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    if let Task::Vectors { files } = &task {
        return vectors::run(files);
    }
    let workspace = Workspace::find()?;
    match task {
        Task::Ci { full } => ci::run(&workspace, full)?,
        Task::Test(options) => test::run(&workspace, &options)?,
        Task::E2e(options) => e2e::run(&workspace, &options)?,
        Task::Bench(options) => bench::run(&workspace, &options)?,
        Task::Edges => edges::run(&workspace)?,
        Task::Tidy => tidy::run(&workspace)?,
        Task::Conformance(options) => conformance::run(&workspace, &options)?,
        Task::Publish { check } => publish::run(&workspace, check)?,
        Task::Tools { etcd_version } => tools::run(&workspace, etcd_version)?,
        Task::Vectors { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}
