//! Watch cache: serves get, list and watch of one resource from memory, over any [`Storage`].
//!
//! A reader never sees the cache go backwards, and a list that asks for the most recent state reflects everything that
//! was acknowledged before. Every watcher sees each change of its selection once, in revision order, without a gap; one
//! that is too slow ends with 410 and can start over. Objects that cannot be read are carried along by key and never
//! keep the kind from being ready.
//!
//! One task lists and watches the storage below. Each revision is applied by one writer to a persistent ordered tree
//! with its indexes, published behind an atomic pointer, and recorded in one bounded log. Readers walk a published
//! root without a lock. Watchers are cursors on the log: they have no buffer of their own, a slow one delays nobody,
//! and an idle one costs less than a kilobyte.
//!
//! ```no_run
//! use std::sync::Arc;
//! use apiserver_storage_api::Storage;
//! use apiserver_storage_cacher::{Cacher, CacherConfig};
//!
//! # async fn example(below: Arc<dyn Storage>) {
//! let cache: Arc<dyn Storage> = Arc::new(Cacher::new(below, CacherConfig::default()));
//! # }
//! ```
//!
//! What it is not: durable, or a place to write to. Writes go to the storage below, with the cached object as a hint.
//!
//! Upstream: kubernetes/apiserver pkg/storage/cacher.
//!
//! [`Storage`]: apiserver_storage_api::Storage
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod below;
mod cacher;

mod check;
mod feed;
mod freshness;
mod history;
mod load;
mod read;
mod shown;
mod watch;
mod watcher;

mod core;
mod tree;

mod budget;
mod config;
mod metrics;
mod planted;
mod reminders;
mod status;
mod sync;

#[cfg(test)]
mod sim;

pub use self::budget::HistoryBudget;
pub use self::cacher::Cacher;
pub use self::check::{Comparison, Difference};
pub use self::config::CacherConfig;
