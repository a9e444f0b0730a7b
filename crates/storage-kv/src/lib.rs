//! The revisioned key-value contract, and the one object store that turns any such backend into a storage.
//!
//! A backend implements [`Kv`]: read, range, conditional put and delete, watch, lease, compact. [`KvStore`] makes a
//! [`Storage`](apiserver_storage_api::Storage) of it, so that what is hard about one is written once:
//!
//! - two writers of one state never both win, and a callback never runs under a lock;
//! - a suggested state saves the first read and never changes the outcome;
//! - a write whose answer got lost is recognised, sent again where that is safe, or reported as unknown; the caller's
//!   function is not run a second time for it;
//! - a list shows one state however many reads it takes, and holds two bounded pages of the backend at most;
//! - a watch shows every change of its scope once, in revision order, in whole revisions, or ends with an error;
//! - a value that cannot be read is named by its key; it is never served, skipped or overwritten by accident.
//!
//! Values are encoded by the kind's normalizer and transformed (encrypted) on their way; the cluster prefix is added
//! here and nowhere else, and the full key is what a value is bound to. Nothing is cached: every read asks the backend.
//!
//! ```
//! use std::sync::Arc;
//!
//! use apiserver_storage_api::{
//!     CreateOptions, Encoded, GetOptions, ResourceInfo, ResourceScope, Storage,
//! };
//! use apiserver_storage_kv::{KvStore, KvStoreConfig, transform::Identity};
//! use apiserver_storage_testing::ReferenceKv;
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let widgets = ResourceInfo::new("example.com", "v1", "widgets", "Widget", ResourceScope::Namespaced);
//! let key = widgets.object_key(Some("ns"), "a")?;
//! let config = KvStoreConfig::new("/registry", Arc::new(Identity));
//! let store = KvStore::new(Arc::new(ReferenceKv::new()), widgets, config);
//!
//! let widget = r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","namespace":"ns"}}"#;
//! let created = store.create(&key, Encoded::from_json(widget), CreateOptions::default()).await?;
//! let read = store.get(&key, GetOptions::default()).await?;
//! assert_eq!(read.revision(), created.revision());
//! # Ok::<(), apiserver_storage_api::StorageError>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it is not: a backend. `apiserver-storage-etcd3` and `apiserver-storage-embedded` are; a new one runs the suite of
//! `apiserver-storage-testing` to show that it keeps the contract.
//!
//! Upstream: kubernetes/apiserver pkg/storage/etcd3 (store.go, watcher.go).

mod error;
mod kv;

mod store;

mod convert;
mod delete;
mod gauges;
mod get;
mod latency;
mod list;
mod metric;
mod parts;
mod queue;
mod retry;
mod sizes;
mod told;
mod trace;
mod traced;
mod turn;
mod update;
mod watch;
mod write;

pub use self::error::KvError;
pub use self::gauges::{ObjectGauges, ObjectNumbers};
pub use self::kv::{
    Capabilities, Expected, Kv, KvEvent, KvPair, KvResult, KvWatch, KvWatchItem, Lease, LeaseId, RangePage,
    RangeRequest, StoreId, WatchRequest, WriteOutcome, prefix_end,
};
pub use self::latency::RequestLatency;
pub use self::parts::{Progress, RangeEnd, RangeParts};
pub use self::store::{KvStore, KvStoreConfig};

/// The transformers that a store takes: part of its constructor, so that users need not name the crate themselves.
pub use apiserver_storage_transform as transform;
