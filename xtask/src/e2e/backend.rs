//! The kinds of storage that scenarios are repeated on.

use std::path::Path;

use anyhow::Result;

use super::certificates::Certificates;
use super::etcd::Etcd;
use super::server::Server;
use super::{Report, World};

/// What the server stores in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A data directory.
    Embedded,
    /// One etcd, plain.
    Etcd,
    /// Three etcd members over TLS with client certificates; one of them is killed by the scenario.
    EtcdTls,
}

/// A server and what it stores in. The server is listed first, so that it goes first.
#[derive(Debug)]
pub(super) struct Backend {
    /// The server.
    pub(super) server: Server,
    /// Its etcd, if it has one.
    pub(super) etcd: Option<Etcd>,
}

impl Backend {
    /// Starts the storage and then a server with further flags on it.
    pub(super) fn start(world: &World<'_>, report: &mut Report, kind: Kind, flags: Vec<String>) -> Result<Self> {
        let etcd = match kind {
            Kind::Embedded => None,
            Kind::Etcd => Some(report.need("start etcd", || etcd(world, 1, None))?),
            Kind::EtcdTls => {
                let files = report.need("make certificates", || {
                    Certificates::make(&world.folder.join("certificates"))
                })?;
                Some(report.need("start three etcd members with TLS", || etcd(world, 3, Some(files)))?)
            }
        };
        let mut all = match &etcd {
            None => vec![data_directory(&world.folder)],
            Some(etcd) => etcd.flags(),
        };
        all.extend(flags);
        let server = report.need("start the server", || {
            Server::start(world.server, &world.folder, "server", all)
        })?;
        Ok(Self { server, etcd })
    }
}

/// An etcd in the scenario's folder.
pub(super) fn etcd(world: &World<'_>, count: usize, certificates: Option<Certificates>) -> Result<Etcd> {
    Etcd::start(world.tools, &world.folder.join("etcd"), count, certificates)
}

/// The flag for a data directory in this folder.
pub(super) fn data_directory(folder: &Path) -> String {
    format!("--data-dir={}", folder.join("data").display())
}
