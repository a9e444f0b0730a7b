//! The contract of a backend: a revisioned, watchable map from keys to bytes. All that an object store needs of etcd,
//! and nothing more.

use std::future::Future;
use std::num::NonZeroU64;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;

use apiserver_storage_api::{KeyText, Revision};

use crate::error::KvError;
use crate::parts::{RangeEnd, RangeParts};

/// The result of calls to a backend.
pub type KvResult<T> = Result<T, KvError>;

/// A revisioned key-value backend. Keys are full keys, cluster prefix included.
///
/// - One counter for all keys. Every applied write takes the next revision, a transaction that deletes many keys (an
///   expired lease) may take one for all of them. Failed writes and reads take none.
/// - History is kept until [`compact`](Kv::compact): reads at a revision and watches from one see every state since.
/// - [`now`](Kv::now), reads without a revision and writes are linearizable.
/// - Dropping a future cancels the call; a write may then have been applied or not.
///
/// One value is shared by all resources of a process as `Arc<K>`.
pub trait Kv: Send + Sync + 'static {
    /// The revision of the latest applied write; linearizable.
    fn now(&self) -> impl Future<Output = KvResult<Revision>> + Send;

    /// Reads one key: the pair, if there is one, and the revision of the store at that moment (when `at` is given, the
    /// current one, not `at`).
    ///
    /// Fails with [`KvError::Compacted`] or [`KvError::Future`] when `at` cannot be served.
    fn get(&self, key: &str, at: Option<Revision>)
    -> impl Future<Output = KvResult<(Option<KvPair>, Revision)>> + Send;

    /// Reads a range in key order, bounded by keys and bytes. An answer holds at least one pair when there is one.
    ///
    /// Fails as [`get`](Kv::get).
    // deviates: storage-api/GATE-07: ranges are read in bounded pages on every version of etcd; a call that streams one
    // is in no released etcd that this can be tested with, and would be another transport of the same answer.
    fn range(&self, request: RangeRequest) -> impl Future<Output = KvResult<RangePage>> + Send;

    /// As [`range`](Self::range), for a reader who takes pairs while others are on their way. Those of a call that fails
    /// or is dropped may have come in part.
    ///
    /// Whoever calls it sees it through without a pause: a backend may have to hold up others until all of it was taken.
    fn range_into(&self, request: RangeRequest, parts: &RangeParts) -> impl Future<Output = KvResult<RangeEnd>> + Send {
        async { Ok(parts.page(self.range(request).await?)) }
    }

    /// Stores a value if the key is in the expected state.
    fn put_if(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        lease: Lease,
    ) -> impl Future<Output = KvResult<WriteOutcome>> + Send;

    /// Deletes a key if it is in the expected state.
    fn delete_if(&self, key: &str, expected: Revision) -> impl Future<Output = KvResult<WriteOutcome>> + Send;

    /// A lease of at least this long for [`Lease::Id`]; keys under it are deleted when it ends. Leases may be shared
    /// by keys whose times are close.
    fn lease(&self, ttl: Duration) -> impl Future<Output = KvResult<LeaseId>> + Send;

    /// How long keys under a lease will still live, at least; none: there is no such lease any more.
    fn time_left(&self, lease: LeaseId) -> impl Future<Output = KvResult<Option<Duration>>> + Send;

    /// Watches a key or a prefix. Returns when the backend has accepted the start.
    ///
    /// Fails with [`KvError::Compacted`] when `from` is compacted. A start above the current revision is no error:
    /// events begin when the store gets there.
    fn watch(&self, request: WatchRequest) -> impl Future<Output = KvResult<KvWatch>> + Send;

    /// Asks the backend to send progress to all watches of this process.
    ///
    /// Fails with [`KvError::NotSupported`] where progress is not trustworthy ([`Capabilities::progress`]).
    fn request_progress(&self) -> impl Future<Output = KvResult<()>> + Send;

    /// Forgets all history below `revision`; the state at `revision` stays readable.
    fn compact(&self, revision: Revision) -> impl Future<Output = KvResult<()>> + Send;

    /// The revision below which history is known to be gone.
    fn compacted_revision(&self) -> Option<Revision>;

    /// Reads a coordination key, outside of the objects and never transformed: its value and how often it was written.
    fn coordination_get(&self, key: &str) -> impl Future<Output = KvResult<Option<(Bytes, u64)>>> + Send;

    /// Writes a coordination key if it was written exactly `version` times before; zero: if it is not there. Returns
    /// whether it was written.
    fn coordination_put(&self, key: &str, value: Bytes, version: u64) -> impl Future<Output = KvResult<bool>> + Send;

    /// The random identity of this store: revisions of one id are never comparable with those of another.
    fn store_id(&self) -> impl Future<Output = KvResult<StoreId>> + Send;

    /// What this backend can do at the moment; may change when the connection moves to another member.
    fn capabilities(&self) -> Capabilities;

    /// Whether the backend can be reached, without waiting: the last known state.
    fn health(&self) -> Result<(), String>;
}

/// A key with its value at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvPair {
    /// The full key.
    pub key: KeyText,
    /// The stored value. It may share memory with the whole answer: copy what is kept.
    pub value: Bytes,
    /// The revision of the write that made this value.
    pub revision: Revision,
    /// The revision of the write that created the key.
    pub created: Revision,
    /// The lease that the key hangs on.
    pub lease: Option<LeaseId>,
}

/// Which part of the keys to read, and how much at once.
#[derive(Debug, Clone)]
pub struct RangeRequest {
    /// The first key, included.
    pub start: String,
    /// The key behind the last one, not included. Absent: to the end of all keys.
    pub end: Option<String>,
    /// The state to read; absent: the latest, linearizable.
    pub at: Option<Revision>,
    /// At most so many pairs. Absent: all.
    pub limit: Option<NonZeroU64>,
    /// Stop after about so many bytes of values: before twice as many, unless a single one has more. Absent: no bound.
    pub limit_bytes: Option<NonZeroU64>,
    /// Without values.
    pub keys_only: bool,
    /// Without pairs: only the count.
    pub count_only: bool,
}

impl RangeRequest {
    /// Everything that begins with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self::between(prefix.to_owned(), prefix_end(prefix))
    }

    /// From `start` to before `end`.
    pub fn between(start: String, end: Option<String>) -> Self {
        Self {
            start,
            end,
            at: None,
            limit: None,
            limit_bytes: None,
            keys_only: false,
            count_only: false,
        }
    }

    /// The bounds in the form that ordered maps take.
    pub fn bounds(&self) -> (Bound<&str>, Bound<&str>) {
        (
            Bound::Included(&self.start),
            self.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded),
        )
    }
}

/// The first key that is above everything that begins with `prefix`.
pub fn prefix_end(prefix: &str) -> Option<String> {
    // Keys are UTF-8 text; the next character after the last one of the prefix ends it.
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Part of a range.
#[derive(Debug, Clone)]
pub struct RangePage {
    /// Pairs in key order.
    pub pairs: Vec<KvPair>,
    /// The range has more pairs behind the last one.
    pub more: bool,
    /// Number of pairs in the whole range, from its start.
    pub count: u64,
    /// The revision of the store when it answered: with `at` the current one, not `at`.
    pub revision: Revision,
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// The value of this revision.
    At(Revision),
}

/// The lease of a written key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lease {
    /// The one that the key has; none for a new key.
    #[default]
    Keep,
    /// None.
    None,
    /// This one.
    Id(LeaseId),
}

/// The name of a lease. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// What became of a conditional write.
#[derive(Debug, Clone)]
pub enum WriteOutcome {
    /// Applied at this revision.
    Applied(Revision),
    /// Not applied: the key is in another state, which came with the answer.
    Mismatch {
        /// What is there.
        current: Option<KvPair>,
        /// The revision of the store when it answered.
        revision: Revision,
    },
}

/// What to watch.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    /// The key, or the prefix.
    pub key: String,
    /// Whether `key` is a prefix.
    pub prefix: bool,
    /// The first revision whose changes are wanted (included). Absent: what comes after the call.
    pub from: Option<Revision>,
    /// Whether previous values are wanted. Without them a deletion has only its key.
    pub previous: bool,
}

/// A running watch: its items, and an error as the last one when it cannot go on. It reconnects by itself as long as
/// that loses and repeats nothing.
pub struct KvWatch {
    /// The revision of the store when the watch was accepted: everything from the start up to it will be delivered.
    pub revision: Revision,
    /// What happens.
    pub items: BoxStream<'static, KvResult<KvWatchItem>>,
}

impl std::fmt::Debug for KvWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvWatch")
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// One item of a watch.
#[derive(Debug, Clone)]
pub enum KvWatchItem {
    /// Everything that happened in the watched range at one revision; never split.
    Batch {
        /// The revision.
        revision: Revision,
        /// The changes.
        events: Vec<KvEvent>,
    },
    /// Everything up to this revision was delivered.
    Progress(Revision),
}

/// One change of one key.
#[derive(Debug, Clone)]
pub struct KvEvent {
    /// The full key.
    pub key: KeyText,
    /// The new pair; none for a deletion.
    pub current: Option<KvPair>,
    /// The pair before, where it was asked for, there was one, and the backend still has it.
    pub previous: Option<KvPair>,
}

/// The random identity of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreId(pub String);

/// What a backend can do at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Progress reports on watches are trustworthy: they never run ahead of events.
    pub progress: bool,
    /// [`Kv::now`] is an in-process read that never waits.
    pub local_now: bool,
    /// Bytes of the largest value that is taken.
    pub max_value_bytes: usize,
}

impl Capabilities {
    /// Puts the answers together.
    pub fn new(progress: bool, local_now: bool, max_value_bytes: usize) -> Self {
        Self {
            progress,
            local_now,
            max_value_bytes,
        }
    }
}
