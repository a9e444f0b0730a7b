//! The etcd backend of the apiserver storage stack: a cluster as a revisioned, watchable key-value store, and as a
//! Kubernetes-style store of objects.
//!
//! [`EtcdKv`] does on the wire what Kubernetes' own API servers do: the same keys, the same transactions, the same shared
//! compaction key. Both can use one cluster at the same time.
//!
//! - A write is sent once. It is repeated on another member only if it surely was not sent; when its answer is lost the
//!   call says that the outcome is unknown.
//! - A watch loses, repeats and reorders nothing, and never splits a revision. It goes on after the last revision that
//!   it delivered when its connection breaks, and ends with an error when that revision is compacted or the store is
//!   another one.
//! - A store that went back (restored from a backup, or made anew under the old name) is noticed, and never taken for
//!   the old one.
//!
//! # How it works
//!
//! One value per cluster and process. Calls go to one member until it fails, then to the next; there is a connection per
//! member for reads and writes, and others for watches, each with room for as many unread watches as it carries. A watch
//! is pulled by its reader: who does not read holds back their own stream and nothing else, and nothing is queued here.
//! TLS files are read again for each new connection, so certificates can be replaced at any time. In the background a
//! small read tells whether the cluster answers, and cuts the connections to a member that shows no sign of life; every
//! five minutes old history is compacted, once per cluster however many servers there are.
//!
//! Progress of watches is asked for and believed only where all that is known of the members' versions says that it can
//! be: from etcd 3.4.31, 3.5.13 and 3.6.0 on.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use apiserver_storage_etcd3::api::{GetOptions, CreateOptions, ResourceInfo, ResourceScope, Storage, StorageExt};
//! use apiserver_storage_etcd3::{EtcdConfig, EtcdKv};
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # struct Widget;
//! # async fn run(widget: Widget) -> Result<(), Box<dyn std::error::Error>> {
//! let servers = ["https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"];
//! let config = EtcdConfig::new(servers)
//!     .with_ca_file("/etc/etcd/ca.crt")
//!     .with_client_cert("/etc/etcd/client.crt", "/etc/etcd/client.key");
//! let kv = Arc::new(EtcdKv::connect(config).await?);
//!
//! let info = ResourceInfo::new("example.com", "v1", "widgets", "Widget", ResourceScope::Namespaced);
//! let store = Arc::new(kv.store(info));
//! let widgets = store.typed::<Widget>();
//! let key = store.resource().object_key(Some("default"), "first")?;
//! let created: Widget = widgets.create(&key, &widget, CreateOptions::default()).await?;
//! let read: Widget = widgets.get(&key, GetOptions::default()).await?;
//! kv.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it is not
//!
//! There is no cache: every read is a linearizable read of the cluster (`apiserver-storage-cacher` goes in front).
//! Lists are read in pages that are bounded by bytes; only a range that nothing bounds comes as a stream, where the
//! server is etcd 3.7 or newer. Members are those that are configured; the cluster's own list of them is not followed.
//!
//! Upstream: kubernetes/apiserver pkg/storage/etcd3 and pkg/storage/storagebackend/factory.

mod config;
mod etcd;

mod answer;
mod cluster;
mod connect;
mod member;
mod metered;
mod proto;
mod rpc;
mod tls;
mod transport;

mod compact;
mod health;
mod preflight;

mod range;
mod watch;
mod write;

mod convert;
mod error;
mod lease;
mod shared;

pub use self::config::{Credentials, EtcdConfig, EtcdConfigError};
pub use self::etcd::EtcdKv;
pub use self::lease::LEASE_OBJECT_BUCKETS;
pub use self::preflight::any_server_listens;

pub use apiserver_storage_api as api;
pub use apiserver_storage_kv as kv;
pub use apiserver_storage_transform as transform;

/// The object store on a cluster: one resource of an [`EtcdKv`] as a [`Storage`](api::Storage). Made by
/// [`EtcdKv::store`], or with another prefix, encoding or encryption by its own `new`.
pub type Etcd3Store = apiserver_storage_kv::KvStore<EtcdKv>;
