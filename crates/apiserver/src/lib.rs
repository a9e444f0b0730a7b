//! A Kubernetes-style API server on a storage stack of layered crates.
//!
//! [`Server`] runs the whole of it in this process: on the embedded store, in memory for tests, or on an etcd cluster
//! (feature `etcd3`). Clients are the real ones: kubectl and `kube`. The layers below are re-exported under
//! [`storage`] and [`registry`], and each is a crate of its own for those who need only that.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod server;

mod http;
mod kinds;

mod cli;
mod metrics;

pub use apiserver_registry as registry;
pub use apiserver_resources as resources;

pub use self::cli::run;
pub use self::config::{Fault, Listen, ServerConfig, ShutdownConfig, StartError, TlsFiles};
pub use self::server::Server;

/// The storage layers.
pub mod storage {
    pub use apiserver_storage_api as api;
    pub use apiserver_storage_transform as transform;
    pub use apiserver_storagebackend as backend;
}
