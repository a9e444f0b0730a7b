//! The revisioned key-value contract and the one object store on top of it.
//!
//! A backend implements [`Kv`]; [`KvStore`] makes a `Storage` of it. Paging, guaranteed update, suggestions, no-op
//! detection, unknown outcomes and the derivation of watch events are written once, here.

mod error;
mod kv;

mod store;

mod convert;
mod delete;
mod list;
mod metric;
mod retry;
mod update;
mod watch;
mod write;

pub use self::error::KvError;
pub use self::kv::{
    Capabilities, Expected, Kv, KvEvent, KvPair, KvResult, KvWatch, KvWatchItem, Lease, LeaseId, RangePage,
    RangeRequest, StoreId, WatchRequest, WriteOutcome, prefix_end,
};
pub use self::store::{KvStore, KvStoreConfig};

/// The transformers that a store takes: part of its constructor, so that users need not name the crate themselves.
pub use apiserver_storage_transform as transform;
