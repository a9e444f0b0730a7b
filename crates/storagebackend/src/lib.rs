//! The factory of the storage stack: one configuration in, a ready store for every resource out.
//!
//! The only crate that names every backend. It checks the whole configuration at once, opens the backend (the embedded
//! engine, its memory-only form, or an etcd cluster behind the feature `etcd3`), reads the encryption configuration,
//! and puts the watch cache in front of each resource.
//!
//! ```
//! use apiserver_storage_api::{CreateOptions, Encoded, GetOptions, ResourceInfo, ResourceScope};
//! use apiserver_storagebackend::{Config, Factory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let factory = Factory::open(Config::memory()).await?;
//! let widgets = ResourceInfo::new("example.com", "v1", "widgets", "Widget", ResourceScope::Namespaced);
//! let store = factory.storage_for(&widgets);
//! let key = widgets.object_key(Some("ns"), "a")?;
//! let json = r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","namespace":"ns"}}"#;
//! store.create(&key, Encoded::from_json(json), CreateOptions::default()).await?;
//! let entry = store.get(&key, GetOptions::default()).await?;
//! assert_eq!(entry.attributes().map(|attributes| &*attributes.name), Some("a"));
//! factory.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Upstream: kubernetes/apiserver pkg/storage/storagebackend (config.go, factory/factory.go).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod caches;
mod config;
mod counts;
mod credentials;
mod factory;

pub use self::caches::{CacheRule, CachesConfig, watch_cache_indexes, watch_cache_size};
pub use self::config::{Config, EtcdConfig, Fault};
pub use self::credentials::EtcdCredentials;
pub use self::factory::{Factory, OpenError};

/// What a request has spent in the stores of a factory.
pub use apiserver_storage_kv::RequestLatency;

/// The buckets of `etcd_lease_object_counts`, for whoever installs a recorder.
#[cfg(feature = "etcd3")]
pub use apiserver_storage_etcd3::LEASE_OBJECT_BUCKETS;
