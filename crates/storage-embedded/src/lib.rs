//! A durable, revisioned, watchable key-value engine in this process: Kubernetes-style storage without etcd.
//!
//! [`EmbeddedKv`] keeps the promises that etcd gives: one revision counter for all keys, history until compaction, reads
//! and watches from any kept revision, leases, conditional writes. A write is acknowledged, readable and watchable only
//! after it is safe on the disk; whatever happens to the process or the machine, an acknowledged write is there when
//! the store is opened again, with its revision and its history.
//!
//! # How it works
//!
//! Writes wait in a bounded queue for the one committer thread, which decides a whole group of them, writes it in one
//! transaction with one fsync, then shows it to readers and watches and answers all. In memory are the key index
//! (every key with its kept revisions, without values, as a persistent map that readers walk without a lock) and the
//! most recent records. Reading one of those is a look-up on the caller's own thread; an older value costs a turn on
//! tokio's blocking threads, because a disk may make it wait. A watch is a cursor: it reads recent records from memory
//! and older ones from the disk in bounded parts, so a slow one holds no buffer and loses nothing until compaction
//! passes it.
//!
//! History is bounded by time and by bytes ([`HistoryBounds`]); a file that is more than half free is written anew in
//! the background. A write that fails on its way to the disk stops the
//! engine, because nobody can know what the disk has; opening the store again does.
//!
//! The same engine without a file, [`EmbeddedConfig::memory`], keeps its values in memory and writes on the caller's
//! thread; it is all there is without the feature `durable`.
//!
//! # As a store of objects
//!
//! [`EmbeddedStore`] is the object store on this engine; `typed` gives it a type of your own:
//!
//! ```
//! use std::sync::Arc;
//!
//! use apiserver_storage_embedded::api::{
//!     CreateOptions, GetOptions, ListOptions, ResourceInfo, ResourceScope, Scope, Storage, StorageExt,
//! };
//! use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! #[serde(rename_all = "camelCase")]
//! struct Widget {
//!     api_version: String,
//!     kind: String,
//!     metadata: serde_json::Map<String, serde_json::Value>,
//!     spec: Spec,
//! }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Spec {
//!     color: String,
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! // `EmbeddedConfig::directory("/var/lib/widgets")` keeps them on disk.
//! let kv = Arc::new(EmbeddedKv::open(EmbeddedConfig::memory()).await?);
//! let info = ResourceInfo::new("example.com", "v1", "widgets", "Widget", ResourceScope::Namespaced);
//! let store = Arc::new(kv.store(info));
//! let widgets = store.typed::<Widget>();
//!
//! let widget: Widget = serde_json::from_value(serde_json::json!({
//!     "apiVersion": "example.com/v1",
//!     "kind": "Widget",
//!     "metadata": { "name": "a", "namespace": "ns" },
//!     "spec": { "color": "red" },
//! }))?;
//! let key = store.resource().object_key(Some("ns"), "a")?;
//! let created = widgets.create(&key, &widget, CreateOptions::default()).await?;
//! let got = widgets.get(&key, GetOptions::default()).await?;
//! assert_eq!(got, created);
//! assert_eq!(got.spec.color, "red");
//! assert!(got.metadata.contains_key("resourceVersion"));
//! kv.close().await;
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! # }).map_err(|error| error.to_string())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it is not
//!
//! One process at a time has a store open; there is no replication. Backups are copies of the closed directory.

mod config;
mod embedded;

mod engine;
mod error;
mod group;
mod identity;
mod index;
mod lease;
mod log;
mod record;

mod core;
mod read;
mod reader;
mod timer;
mod watch;
mod writer;

#[cfg(feature = "durable")]
mod committer;
#[cfg(feature = "durable")]
mod disk;
#[cfg(feature = "durable")]
mod medium;
#[cfg(feature = "durable")]
mod pack;
#[cfg(feature = "durable")]
mod upkeep;

pub use self::config::{EmbeddedConfig, HistoryBounds};
pub use self::embedded::EmbeddedKv;
#[cfg(feature = "durable")]
pub use self::medium::Medium;

pub use apiserver_storage_api as api;
pub use apiserver_storage_kv as kv;
pub use apiserver_storage_transform as transform;

/// The object store on this engine: one resource of an [`EmbeddedKv`] as a [`Storage`](api::Storage). Made by
/// [`EmbeddedKv::store`], or with another configuration by its own `new`.
pub type EmbeddedStore = apiserver_storage_kv::KvStore<EmbeddedKv>;

#[cfg(all(doctest, feature = "durable"))]
#[doc = include_str!("../README.md")]
struct Readme;
