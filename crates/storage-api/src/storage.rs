//! The contract: what a store of one resource does.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::entry::Entry;
use crate::error::{Result, StorageError};
use crate::key::{Key, Scope};
use crate::list::List;
use crate::object::{Encoded, Object};
use crate::options::{CreateOptions, DeleteOptions, GetOptions, ListOptions, UpdateOptions, WatchOptions};
use crate::resource::ResourceInfo;
use crate::revision::Revision;
use crate::typed::Typed;
use crate::watch::Watch;

/// A store of one resource: the contract between a backend or cache and this workspace. Callers want [`StorageExt`].
///
/// - **Order.** Every successful write of any resource of one backend takes the next revision of one counter; no-ops,
///   failed writes and reads take none.
/// - **Consistency.** A read at [`ReadAt::MostRecent`](crate::ReadAt) reflects every write that was acknowledged
///   before it began.
/// - **Atomicity.** A write happens as a whole or not at all; two writers of one state never both win.
/// - **Cancellation.** Dropping a future at any point leaves nothing behind; a write may then have happened or not. That
///   is also how deadlines of callers end a list or watch, between any two objects.
/// - **Callbacks** ([`Update`], [`Check`]) run without any lock held, once per attempt, each time on fresh state.
///
/// One store is shared as `Arc<dyn Storage>`; it is not generic over the kind.
// deviates: storage-api/LIST-44: a caller whose time is over drops the list; no error of its own is made for nobody.
// deviates: storage-api/STAT-10: revisions are a type of this crate, so there is no object to ask for it.
// deviates: storage-api/CREATE-06: a create always answers with its entry, which is read from the bytes that are sent;
// the read happens before the write and guards it.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The kind that is stored here.
    fn resource(&self) -> &ResourceInfo;

    /// Stores a new object.
    ///
    /// # Errors
    ///
    /// [`KeyExists`](StorageError::KeyExists); [`ResourceVersionSetOnCreate`](StorageError::ResourceVersionSetOnCreate)
    /// when the object carries a version; [`OutcomeUnknown`](StorageError::OutcomeUnknown).
    async fn create(&self, key: &Key, value: Encoded, options: CreateOptions) -> Result<Entry>;

    /// Reads one object.
    ///
    /// # Errors
    ///
    /// [`KeyNotFound`](StorageError::KeyNotFound), [`Unreadable`](StorageError::Unreadable),
    /// [`TooLargeResourceVersion`](StorageError::TooLargeResourceVersion), which is decided first.
    async fn get(&self, key: &Key, options: GetOptions) -> Result<Entry>;

    /// Reads all objects of a scope in key order. Returns once the revision is decided.
    ///
    /// # Errors
    ///
    /// [`Expired`](StorageError::Expired), [`TooLargeResourceVersion`](StorageError::TooLargeResourceVersion); errors
    /// of single values come in the stream of pages.
    async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List>;

    /// Reads the current state, runs `update` on it and stores its result on condition that nothing changed in
    /// between; otherwise again, on the new state. Returns the stored state; when nothing had to be written, the
    /// current one.
    ///
    /// # Errors
    ///
    /// [`KeyNotFound`](StorageError::KeyNotFound) unless asked to create; [`InvalidObject`](StorageError::InvalidObject)
    /// for a failed precondition; the error of `update` unchanged; [`OutcomeUnknown`](StorageError::OutcomeUnknown).
    async fn guaranteed_update(&self, key: &Key, options: UpdateOptions, update: &mut dyn Update) -> Result<Entry>;

    /// Removes an object. Returns its last state at the revision of the deletion; for an unreadable object an
    /// unreadable entry.
    ///
    /// # Errors
    ///
    /// As [`guaranteed_update`](Self::guaranteed_update).
    async fn delete(&self, key: &Key, options: DeleteOptions, check: &mut dyn Check) -> Result<Entry>;

    /// Watches a scope. Returns once the start is decided, before the first event.
    ///
    /// # Errors
    ///
    /// [`Expired`](StorageError::Expired) when the start is compacted,
    /// [`TooLargeResourceVersion`](StorageError::TooLargeResourceVersion),
    /// [`TooManyRequests`](StorageError::TooManyRequests). Later errors end the stream.
    async fn watch(&self, scope: &Scope, options: WatchOptions) -> Result<Watch>;

    /// The revision of the latest write of any resource; linearizable.
    ///
    /// # Errors
    ///
    /// When the backend cannot be asked.
    async fn current_revision(&self) -> Result<Revision>;

    /// Asks the backend to report progress to the watches of this process soon. Best effort.
    ///
    /// # Errors
    ///
    /// When the backend cannot be asked, or has no trustworthy progress ([`NotSupported`](StorageError::NotSupported)).
    async fn request_progress(&self) -> Result<()>;

    /// The highest revision below which history is known to be gone.
    fn compacted_revision(&self) -> Option<Revision>;

    /// Whether reads can be served, with the cause if not.
    ///
    /// # Errors
    ///
    /// [`NotReady`].
    fn ready(&self) -> Result<(), NotReady>;

    /// Number and average stored size of the objects.
    ///
    /// # Errors
    ///
    /// When the backend cannot be asked.
    async fn stats(&self) -> Result<Stats>;

    /// The identity of the store behind: revisions of one are not comparable with those of another. `None`: it has none,
    /// or is not told.
    ///
    /// # Errors
    ///
    /// When the backend cannot be asked.
    async fn store_id(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

const _: fn(&dyn Storage) = |_| (); // object-safe, or the build stops here

/// The function of a guaranteed update. Runs once per attempt, on fresh state, never under a lock; `current` is `None`
/// when nothing is stored and the caller asked to create. Its own failures are [`StorageError::callback`].
///
/// Implemented for closures that return a future.
#[async_trait]
pub trait Update: Send {
    /// Decides what becomes of the current state.
    async fn update(&mut self, current: Option<&Entry>) -> Result<Change>;
}

/// What becomes of the current state.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Change {
    /// Store this.
    Put {
        /// The new object.
        value: Encoded,
        /// How long it lives.
        ttl: Ttl,
    },
    /// Leave everything as it is.
    NoChange,
    /// Remove the object.
    Delete,
}

impl Change {
    /// Store this, living as long as before.
    pub fn put(value: Encoded) -> Self {
        Self::Put { value, ttl: Ttl::Keep }
    }
}

/// How long an object lives after an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ttl {
    /// As before: an object that was to expire still expires at its time.
    #[default]
    Keep,
    /// For ever.
    Never,
    /// This long from now, rounded up to seconds.
    After(Duration),
}

#[async_trait]
impl<F, Fut> Update for F
where
    F: FnMut(Option<Entry>) -> Fut + Send,
    Fut: Future<Output = Result<Change>> + Send,
{
    async fn update(&mut self, current: Option<&Entry>) -> Result<Change> {
        self(current.cloned()).await
    }
}

/// The validation of a delete. Runs once per attempt, on fresh state, never under a lock; `current` is `None` when an
/// unreadable object is deleted. Its own failures are [`StorageError::callback`].
///
/// Implemented for closures that return a future; [`NoCheck`] accepts everything.
#[async_trait]
pub trait Check: Send {
    /// Decides whether the object may go.
    async fn check(&mut self, current: Option<&Entry>) -> Result<()>;
}

#[async_trait]
impl<F, Fut> Check for F
where
    F: FnMut(Option<Entry>) -> Fut + Send,
    Fut: Future<Output = Result<()>> + Send,
{
    async fn check(&mut self, current: Option<&Entry>) -> Result<()> {
        self(current.cloned()).await
    }
}

/// Every deletion is fine.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCheck;

#[async_trait]
impl Check for NoCheck {
    async fn check(&mut self, _: Option<&Entry>) -> Result<()> {
        Ok(())
    }
}

/// Why a store cannot serve yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("storage not ready: {cause}")]
pub struct NotReady {
    /// What is missing.
    pub cause: String,
    /// When to try again.
    pub retry_after: Duration,
}

impl From<NotReady> for StorageError {
    fn from(NotReady { cause, retry_after }: NotReady) -> Self {
        Self::NotReady { cause, retry_after }
    }
}

/// How much is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Number of objects.
    pub count: u64,
    /// Average bytes of the stored form; an estimate, zero when unknown.
    pub average_size: u64,
}

impl Stats {
    /// Puts the numbers together.
    pub fn new(count: u64, average_size: u64) -> Self {
        Self { count, average_size }
    }
}

/// Conveniences for callers. Implemented for every shared store; never implement it yourself.
pub trait StorageExt {
    /// The same verbs with `T` in and `T` out.
    fn typed<T: Object>(&self) -> Typed<T>;
}

impl StorageExt for Arc<dyn Storage> {
    fn typed<T: Object>(&self) -> Typed<T> {
        Typed::new(Arc::clone(self))
    }
}

impl<S: Storage> StorageExt for Arc<S> {
    fn typed<T: Object>(&self) -> Typed<T> {
        Typed::new(Arc::clone(self) as Arc<dyn Storage>)
    }
}
