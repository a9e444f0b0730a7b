//! The generic registry store: strategies, subresources, finalizers, dry run, collections, over any storage.
//!
//! [`Store`] gives one resource its verbs over an `Arc<dyn Storage>`, by the rules of a [`Strategy`]. An HTTP front
//! mounts it as a [`Resource`], found through a [`ResourceMap`]. Errors are [`ApiError`]s: Kubernetes' Status as a Rust
//! type, with the texts that clients know.
//!
//! What is guaranteed: a write is decided inside one storage transaction, on the very state that it is about. A stale
//! cache or a lost race makes it run again; neither makes a wrong conflict, a wrong validation error or a wrong
//! deletion. A [`WriteGuard`] is committed at most once, after the durable write. Reads hand the bytes of the storage
//! through and decode nothing, unless the strategy decorates. Messages to clients contain no storage keys, those about
//! unreadable objects apart.
//!
//! What it is not: it collects no garbage (it sets the finalizers that tell a collector what to do), converts no
//! versions, and authorizes nobody.
//!
//! Upstream: pkg/registry/generic/registry (store.go), pkg/registry/rest.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod field_error;
pub mod gofmt;
mod status;
mod storage_error;

mod admission;
mod context;
pub mod validation;

mod map;
mod resource;
mod strategy;

mod store;

#[cfg(feature = "kube")]
mod kube;

pub use self::admission::{Admission, Operation, Review};
pub use self::context::{RequestContext, UserInfo};
pub use self::error::{ApiError, Mismatch, Result};
pub use self::field_error::{FieldError, FieldErrorKind, FieldPath, aggregate};
#[cfg(feature = "kube")]
pub use self::kube::{StaticScope, resource_info};
pub use self::map::{MapError, Names, ResourceMap, ResourceMapBuilder, ServedResource, SharedResourceMap};
pub use self::resource::{
    Answer, CreateOptions, DeleteBody, DeleteOptions, Deleted, ObjectUpdate, Replace, Resource, UpdateOptions, Verbs,
    Written,
};
pub use self::status::{Status, StatusCause, StatusDetails, StatusMeta};
pub use self::storage_error::{StorageVerb, from_list_error, from_storage_error, from_watch_error, unreadable_entries};
pub use self::store::{Store, StoreBuilder, StoreOptions};
pub use self::strategy::{Draft, GarbageCollection, Hold, Plain, Strategy, Write, WriteGuard};

/// The example of the README runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
