//! `cargo xtask e2e`: the server with the real kubectl and a real etcd, end to end.
//!
//! Each scenario starts what it needs on free ports, in a folder of its own below `target/e2e/`, and prints each step. A failed
//! step does not hide the next one; the run fails if any step did. The folder of a failed run is kept for reading, with the
//! logs of all servers.

mod backend;
mod certificates;
mod crash;
mod encryption;
mod etcd;
mod foreign;
mod http;
mod kubectl;
mod leader;
mod load;
mod report;
mod server;
mod small;
mod two_servers;
mod walk;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::backend::Kind;
use self::report::Report;
pub(crate) use self::server::Server;
use crate::test;
use crate::tools::{EtcdVersion, Tools};
use crate::workspace::Workspace;

/// Options of `cargo xtask e2e`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Only scenarios whose name contains this text.
    #[arg(long)]
    only: Option<String>,
    /// A server binary to use instead of building one.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Which etcd: 3.4, 3.5 or newest (also: APISERVER_ETCD_VERSION).
    #[arg(long)]
    etcd_version: Option<EtcdVersion>,
    /// How many times the server is killed under load, for each kind of storage (20 unless given).
    #[arg(long)]
    kills: Option<u32>,
    /// Keeps the folder of the run also when all went well.
    #[arg(long)]
    keep: bool,
}

/// What every scenario gets.
#[derive(Debug)]
pub(crate) struct World<'a> {
    workspace: &'a Workspace,
    tools: &'a Tools,
    /// The server binary.
    server: &'a Path,
    /// The folder of this scenario alone.
    folder: PathBuf,
    kills: u32,
}

type Scenario = (&'static str, fn(&World<'_>, &mut Report) -> Result<()>);

const SCENARIOS: &[Scenario] = &[
    ("kubectl, embedded store", |world, report| {
        walk::run(world, report, Kind::Embedded)
    }),
    ("kubectl, etcd", |world, report| walk::run(world, report, Kind::Etcd)),
    ("kubectl, three etcd members over TLS, one dying", |world, report| {
        walk::run(world, report, Kind::EtcdTls)
    }),
    ("bare kubectl on the default address", small::bare_kubectl),
    ("refusals and shutdown", small::refusals_and_shutdown),
    ("HTTPS with tokens", small::https_with_tokens),
    ("stored as CBOR", small::stored_as_cbor),
    ("kill -9 under load, embedded store", |world, report| {
        crash::run(world, report, Kind::Embedded)
    }),
    ("kill -9 under load, etcd", |world, report| {
        crash::run(world, report, Kind::Etcd)
    }),
    (
        "kill -9 under load, three etcd members over TLS, one dead",
        |world, report| crash::run(world, report, Kind::EtcdTls),
    ),
    ("the etcd leader killed and a member hanging, under load", leader::run),
    ("secrets encrypted at rest", encryption::run),
    ("foreign values in etcd", foreign::run),
    ("two servers on one etcd", two_servers::run),
    ("kube client", small::kube_client),
];

/// `cargo xtask e2e`
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let tools = Tools::obtain(workspace, EtcdVersion::choose(options.etcd_version)?)?;
    let server = match &options.server {
        Some(path) => std::path::absolute(path).context("the server's path")?,
        None => test::build_server(workspace, &tools)?,
    };
    run_with(workspace, &tools, &server, options)
}

/// The scenarios, with programs that are there already.
pub(crate) fn run_with(workspace: &Workspace, tools: &Tools, server: &Path, options: &Options) -> Result<()> {
    let folder = workspace.target().join("e2e").join(std::process::id().to_string());
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut report = Report::default();
    let wanted = |name: &str| options.only.as_deref().is_none_or(|text| name.contains(text));
    if !SCENARIOS.iter().any(|(name, _)| wanted(name)) {
        bail!(
            "no scenario has {:?} in its name",
            options.only.as_deref().unwrap_or_default()
        );
    }
    for (number, (name, scenario)) in SCENARIOS.iter().enumerate().filter(|(_, (name, _))| wanted(name)) {
        let world = World {
            workspace,
            tools,
            server,
            folder: folder.join(format!("{:02}", number + 1)),
            kills: options.kills.unwrap_or(20),
        };
        std::fs::create_dir_all(&world.folder)?;
        report.scenario(name, |report| scenario(&world, report));
    }
    let passed = report.finish();
    if passed.is_err() || options.keep {
        println!("logs and data of this run: {}", folder.display());
    } else {
        std::fs::remove_dir_all(&folder).ok();
    }
    println!("e2e: all {} steps passed", passed?);
    Ok(())
}
