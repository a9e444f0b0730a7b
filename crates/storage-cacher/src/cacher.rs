//! The cache as its users see it: construction, the verbs of `Storage`, the end.
//
// concerns: storage-cacher/GATE-01: always on here too (also GATE-02, GATE-03, GATE-04, GATE-05, GATE-06, GATE-07, GATE-11,
//   GATE-13, GATE-14): there are no gates; how the storage below reads, decodes and connects is its own affair, and the
//   front polls `ready`.
// concerns: storage-cacher/GATE-08: sizes are told by the storage below, which counts what it writes; nobody has to list
//   all keys for it (also FRSH-09).
// deviates: storage-cacher/GATE-09: lists and watches by hash range are not offered, as they are off by default upstream
//   (also SHRD-01, SHRD-02, SHRD-03, SHRD-04, SHRD-05).
// deviates: storage-cacher/GATE-15: a difference never ends the process; it is logged, counted and healed by a list.
// deviates: storage-cacher/CFG-03: a kind has as many indexes as it likes, each of them for lists and watches, and they
//   are values of the kind and not functions (also CFG-09).
// deviates: storage-cacher/CFG-04: a bookmark is a revision, and nothing has to be encoded for it.
// deviates: storage-cacher/CFG-05: nothing is to be enabled for sizes.
// concerns: storage-cacher/CFG-10: whether a kind has a cache is said to the factory; a cache has no size.
// deviates: storage-cacher/NRDY-10: there is no such call; who wants to know how far the cache is lists any state.
// concerns: storage-cacher/ORD-05: one cache is one kind, and its revisions are the store's.
// deviates: storage-cacher/CFG-02: a shorter history is allowed; who asks for it gets more 410s.
// deviates: storage-cacher/WR-01: a hint of the caller is kept; it is at least as good as ours.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_api::{
    Check, CreateOptions, DeleteOptions, Encoded, Entry, GetOptions, Key, List, ListOptions, NotReady, ResourceInfo,
    Result, Revision, Scope, Stats, Storage, StorageError, Update, UpdateOptions, Watch, WatchOptions,
};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use crate::below::Places;
use crate::check::Comparison;
use crate::config::CacherConfig;
use crate::core::root::{Pins, Root};
use crate::core::{Core, History, Limits};
use crate::feed;
use crate::freshness::{Now, Waiters};
use crate::history::Back;
use crate::metrics::Metrics;
use crate::planted::{Bug, planted};
use crate::reminders::Reminders;
use crate::shown::Shown;
use crate::status::{State, Status};

/// Watches of one cache that may read from the storage below at once, because they begin before the log.
const BACKEND_WATCHES: usize = 1_000;

/// A watch cache: a [`Storage`] that serves reads and watches of another one from memory.
///
/// One task per cache, its feed, lists and watches the storage below; everything else happens in the tasks of the
/// callers. Dropping the cache, or [`close`](Cacher::close), ends the feed, and all watches without an error.
pub struct Cacher {
    shared: Arc<Shared>,
    /// Closed once the feed is gone.
    feed: watch::Receiver<()>,
}

/// What the verbs, the feed and the watchers share.
pub(crate) struct Shared {
    pub(crate) inner: Arc<dyn Storage>,
    pub(crate) info: ResourceInfo,
    pub(crate) config: CacherConfig,
    pub(crate) core: Mutex<Core>,
    pub(crate) root: Arc<ArcSwapOption<Root>>,
    pub(crate) pins: Pins,
    pub(crate) status: Status,
    pub(crate) waiters: Waiters,
    pub(crate) now: Now,
    /// The backend said that it has no trustworthy progress. Forgotten with every new watch of the backend.
    pub(crate) no_progress: AtomicBool,
    /// What somebody was shown: nobody is shown an earlier state after that.
    pub(crate) shown: Arc<Shown>,
    /// Something for the feed to look at: a reader waits, or the backend went back.
    pub(crate) feed_wake: Notify,
    pub(crate) reminders: Reminders,
    /// Places for lists that the storage below answers.
    pub(crate) places: Places,
    /// Places for watches that read from the storage below until they meet the log.
    pub(crate) backend_watches: Arc<Semaphore>,
    /// Who waits for history from before the log.
    pub(crate) back: Back,
    /// The open watches.
    pub(crate) watchers: Arc<Count>,
    pub(crate) metrics: Arc<Metrics>,
}

/// How many there are.
#[derive(Debug, Default)]
pub(crate) struct Count {
    now: AtomicUsize,
    none: Notify,
}

/// One of them, as long as it lives.
#[derive(Debug)]
pub(crate) struct Open(Arc<Count>);

impl Open {
    pub(crate) fn new(count: &Arc<Count>) -> Self {
        count.now.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.now.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

impl Count {
    pub(crate) fn count(&self) -> usize {
        self.now.load(Ordering::Acquire)
    }

    /// Ends once there is none.
    async fn is_none(&self) {
        loop {
            let none = self.none.notified();
            futures::pin_mut!(none);
            // Listens before it looks.
            none.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Cacher {
    /// Begins to cache a storage. Returns at once; until the first list has come, [`ready`](Storage::ready) says so.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(inner: Arc<dyn Storage>, config: CacherConfig) -> Self {
        let (cache, feed) = Self::parts(inner, config);
        tokio::spawn(feed);
        cache
    }

    /// The cache and its feed, apart: drive the future yourself. It ends when the cache is closed or dropped; a cache
    /// whose feed is not driven never becomes ready, and is closed when its feed is dropped.
    ///
    /// Needs no runtime, and neither does the cache: all time comes from [`CacherConfig::clock`], all randomness from
    /// [`CacherConfig::rng`], so that a simulation decides the order of everything.
    pub fn parts(inner: Arc<dyn Storage>, config: CacherConfig) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let info = inner.resource().clone();
        let limits = Limits {
            bytes: config.history_bytes,
            time: config.history_time,
            min_records: config.history_min_records,
        };
        let root = Arc::new(ArcSwapOption::empty());
        let core = Core::new(&info, limits, config.history_budget.share(), Arc::clone(&root));
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            root,
            pins: Pins::default(),
            status: Status::new(config.clock.monotonic()),
            waiters: Waiters::default(),
            now: Now::default(),
            no_progress: AtomicBool::new(false),
            shown: Arc::default(),
            feed_wake: Notify::new(),
            reminders: Reminders::new(config.bookmark_period),
            places: Places::new(&config),
            backend_watches: Arc::new(Semaphore::new(BACKEND_WATCHES)),
            back: Back::default(),
            watchers: Arc::default(),
            metrics: Arc::new(Metrics::new(&info)),
            inner,
            info,
            config,
        });
        let (alive, ended) = watch::channel(());
        let guard = Guard {
            shared: Arc::clone(&shared),
            _alive: alive,
        };
        let feed = async move { feed::run(Arc::clone(&guard.shared)).await };
        (Self { shared, feed: ended }, feed)
    }

    /// Waits until the cache is ready, or closed.
    ///
    /// # Errors
    ///
    /// [`NotReady`] when it was closed.
    pub async fn wait_ready(&self) -> Result<(), NotReady> {
        self.shared.status.settled().await;
        self.ready()
    }

    /// Stops the cache: its feed has ended when this returns, and reads go to the storage below. A watch ends without an
    /// error once its client has read what the log has for it, and where it is. May be called again.
    pub async fn close(&self) {
        self.shared.close();
        let mut feed = self.feed.clone();
        // Nothing is ever sent; what is waited for is the end of the sender.
        while feed.changed().await.is_ok() {}
    }

    /// Stops the cache ([`close`](Self::close)), and waits until all watches have been read to their end and dropped, but
    /// no longer than `grace`.
    pub async fn shut_down(&self, grace: Duration) {
        self.close().await;
        tokio::select! {
            biased;
            () = self.shared.watchers.is_none() => {}
            () = self.shared.config.clock.sleep(grace) => {}
        }
    }

    /// Compares the cache with the storage below, object by object, at one revision. Happens by itself every now and
    /// then ([`CacherConfig::check_period`]); a difference is logged, and the state is listed again.
    ///
    /// # Errors
    ///
    /// When the cache is not ready, or the storage below cannot be listed at the cache's revision.
    pub async fn compare(&self) -> Result<Comparison> {
        self.shared.compare().await
    }

    /// The storage below.
    pub fn inner(&self) -> &Arc<dyn Storage> {
        &self.shared.inner
    }
}

impl Shared {
    pub(crate) fn close(&self) {
        self.status.set(State::Closed, self.config.clock.monotonic());
        let effects = self.core.lock().close();
        self.shown.list_ends();
        effects.perform();
        self.waiters.dismiss();
    }

    /// Makes room: history first, then the slowest answers.
    pub(crate) fn relieve(&self, now: Duration) -> History {
        let mut core = self.core.lock();
        loop {
            let superseded = core.superseded();
            let kept = self.pins.kept(superseded);
            core.tick(now, kept);
            let history = core.history();
            let helps = core.is_over() && kept > history.bytes as u64;
            if !helps || !self.pins.release_oldest() {
                return history;
            }
            self.metrics.released_reads.increment(1);
        }
    }

    /// Ends with the next tick.
    pub(crate) fn tick(&self) -> BoxFuture<'static, ()> {
        let config = &self.config;
        config.history_budget.tick(&config.clock, self.reminders.tick()).boxed()
    }

    /// The state at hand, however old.
    pub(crate) fn loaded(&self) -> Option<Arc<Root>> {
        self.root.load_full()
    }

    /// The state at hand, if it is kept up to date.
    pub(crate) fn current(&self) -> Option<Arc<Root>> {
        let is_doubted = self.shown.floor().is_doubted();
        self.loaded().filter(|_| self.status.is_ready() && !is_doubted)
    }

    /// The cached object as a hint for a write, unless the caller has one. Wrong ones cost time, never correctness.
    fn suggestion(&self, key: &Key, given: Option<Entry>) -> Option<Entry> {
        given
            .or_else(|| self.root.load().as_ref()?.get(key.as_str()).cloned())
            .filter(|entry| entry.record().is_ok())
    }
}

impl Drop for Cacher {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Goes with the feed: a cache without one is closed.
struct Guard {
    shared: Arc<Shared>,
    _alive: watch::Sender<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Cacher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cacher")
            .field("resource", &self.shared.info)
            .field("revision", &self.shared.loaded().map(|root| root.revision))
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for Cacher {
    fn resource(&self) -> &ResourceInfo {
        &self.shared.info
    }

    async fn create(&self, key: &Key, value: Encoded, options: CreateOptions) -> Result<Entry> {
        let written = self.shared.inner.create(key, value, options).await;
        self.shared.told(key, written).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Entry> {
        self.shared.get(key, options).await
    }

    async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        self.shared.list(scope, options).await
    }

    async fn guaranteed_update(&self, key: &Key, mut options: UpdateOptions, update: &mut dyn Update) -> Result<Entry> {
        options.suggestion = self.shared.suggestion(key, options.suggestion);
        let written = self.shared.inner.guaranteed_update(key, options, update).await;
        self.shared.told(key, written).await
    }

    async fn delete(&self, key: &Key, mut options: DeleteOptions, check: &mut dyn Check) -> Result<Entry> {
        // Whether a value cannot be read is decided by the stored bytes, not by what the cache saw.
        if !options.unreadable {
            options.suggestion = self.shared.suggestion(key, options.suggestion);
        }
        let written = self.shared.inner.delete(key, options, check).await;
        self.shared.told(key, written).await
    }

    async fn watch(&self, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        self.shared.watch(scope, options).await
    }

    async fn current_revision(&self) -> Result<Revision> {
        self.shared.inner.current_revision().await
    }

    async fn request_progress(&self) -> Result<()> {
        self.shared.reminders.ask();
        self.shared.inner.request_progress().await
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.shared.inner.compacted_revision()
    }

    fn ready(&self) -> Result<(), NotReady> {
        self.shared.status.check(self.shared.config.clock.monotonic())
    }

    async fn stats(&self) -> Result<Stats> {
        self.shared.inner.stats().await
    }

    async fn store_id(&self) -> Result<Option<String>> {
        self.shared.inner.store_id().await
    }
}

impl Shared {
    /// Somebody has noticed that the backend is not what a state at hand is of: another store, or an older one.
    pub(crate) fn suspect_reset(&self, about: &Root) {
        self.shown.doubt(|| {
            let root = self.loaded();
            root.is_some_and(|root| root.store == about.store && root.revision >= about.revision)
        });
        self.feed_wake.notify_one();
    }

    /// What the storage below answers about one object is shown to somebody.
    pub(crate) async fn told(&self, key: &Key, answer: Result<Entry>) -> Result<Entry> {
        match &answer {
            Ok(_) if planted(Bug::ForgetsWritten) => {}
            Ok(entry) => self.shown.record(entry.revision()),
            Err(StorageError::Conflict { stored: Some(at), .. }) => self.shown.record(*at),
            Err(StorageError::KeyNotFound { .. }) => self.told_undated(|root| root.get(key.as_str()).is_none()).await?,
            Err(StorageError::KeyExists { .. }) => self.told_undated(|root| root.get(key.as_str()).is_some()).await?,
            Err(StorageError::Unreadable { .. }) => {
                let is_unreadable = |entry: &Entry| entry.unreadable_reason().is_some();
                self.told_undated(|root| root.get(key.as_str()).is_some_and(is_unreadable))
                    .await?;
            }
            Err(_) => {}
        }
        answer
    }

    /// Somebody is told that an object is there, or is not, and nobody says since when. Nothing is to be recorded where
    /// the state at hand says the same and nobody was shown a later one. Else that state catches up, or the storage below
    /// is asked where it is.
    async fn told_undated(&self, is_said_by: impl Fn(&Root) -> bool) -> Result<()> {
        let floor = self.shown.floor();
        let root = match self.loaded() {
            None if !self.shown.is_listing() => return Ok(()),
            _ if self.no_progress.load(Ordering::Acquire) || planted(Bug::ForgetsUndated) => return Ok(()),
            Some(root) if !floor.allows(root.revision) => match floor.revision() {
                Some(shown) => self.reach(shown, true).await.ok(),
                None => None,
            },
            root => root,
        };
        if !root.is_some_and(|root| is_said_by(&root)) {
            let before = self.loaded();
            let now = self.now.ask(&self.inner).await?;
            // What was told may have been of the store before this one, and later than its state at hand.
            let is_other = |root: &Arc<Root>| now.revision < root.revision || now.store != root.store;
            if let Some(root) = before.filter(is_other) {
                self.suspect_reset(&root);
            }
            self.shown.record(now.revision);
        }
        Ok(())
    }
}
