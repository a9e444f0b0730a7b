//! The storage contract of a Kubernetes-style API server.
//!
//! One [`Storage`] holds the objects of one resource under revisions of one counter, answers lists and watches at any
//! kept revision, and updates by compare-and-put. What travels is the [`Entry`]: one immutable, shared record of bytes
//! with its extracted metadata. This crate is traits, types and errors; it opens no file and no socket and needs no
//! runtime. Backends are in `apiserver-storage-etcd3` and `apiserver-storage-embedded`.
//!
//! Upstream: kubernetes/apiserver pkg/storage (interfaces.go).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod revision;

mod key;
mod key_text;
mod names;
mod resource;

mod attributes;
pub mod codec;
mod entry;
mod forms;
mod meta;
mod normalizer;
mod object;
mod plain;
mod room;
mod scan;
mod shape;

mod continue_token;
mod list;
mod options;
mod preconditions;
mod selector;
mod unreadables;
mod watch;

mod storage;
mod typed;

pub mod time;

pub use self::attributes::{Attributes, Fields, Labels, Text, Uid};
pub use self::codec::{MediaType, json};
pub use self::continue_token::{ContinueToken, TokenError};
pub use self::entry::{Entry, Origin, Record, UnreadableReason, digest};
pub use self::error::{BoxError, Result, StorageError, chain};
pub use self::forms::{FormKey, Forms};
pub use self::key::{Key, KeyPrefix, ResourcePrefix, Scope};
pub use self::key_text::KeyText;
pub use self::list::{Collected, List, ListEnd, Page};
pub use self::meta::{Meta, OwnerReference};
pub use self::names::{generate_name, path_segment_faults};
pub use self::normalizer::{
    JsonNormalizer, Malformed, Normalized, Normalizer, attributes_of, encode_untyped, finish, strip_server_fields,
};
pub use self::object::{Encoded, Object};
pub use self::options::{
    CreateOptions, DeleteOptions, GetOptions, ListAt, ListOptions, OnUnreadable, ReadAt, UpdateOptions, WatchOptions,
    WatchStart,
};
pub use self::preconditions::Preconditions;
pub use self::resource::{GroupVersionKind, Index, ResourceInfo, ResourceScope, SelectableField};
pub use self::revision::{HighWaterMark, Revision};
pub use self::room::Room;
pub use self::scan::Guide;
pub use self::selector::{FieldSelector, LabelSelector, SelectionPredicate, SelectorError};
pub use self::shape::{Learned, Seen, Shape, ShapeEdit, Shapes, Slot, TextKind};
pub use self::storage::{Change, Check, NoCheck, NotReady, Stats, Storage, StorageExt, Ttl, Update};
pub use self::typed::{Typed, TypedList};
pub use self::unreadables::Unreadables;
pub use self::watch::{Batch, Event, EventKind, Watch, WatchItem};
