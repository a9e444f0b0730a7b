//! `watch`: where it begins, and who serves it.
//!
//! A watcher costs the cache nothing while nothing happens: it has no buffer, no task and no timer. It reads at its own
//! pace and delays nobody; when the log has moved past its cursor it ends with 410.
//
// deviates: storage-cacher/DLG-03: a watch from before the log that history does not reach back to, and every watch of a
//   kind that is too large to be kept, is served by the storage below.
// concerns: storage-cacher/CONST-13: the front chooses when a watch ends, and says so in its options.
// concerns: storage-cacher/WATCH-15: initial events are always offered.
// concerns: storage-cacher/WATCH-18: a front that bounds the cost of initial states is told of their end by the item that
//   ends them.
// concerns: storage-cacher/WATCH-19: what a watch needs of the core under its lock is a place in a group.
// concerns: storage-cacher/CONST-07: history is not copied; a watcher walks the log.
// deviates: storage-cacher/IEND-03: the end of the initial state is an item of its own, told to each watcher right behind
//   its last entry, and waits for no tick; the front makes the annotated bookmark of it (also IEND-04, IEND-06, IEND-07,
//   BKM-06, BKM-12).
// deviates: storage-cacher/LIFE-05: there is no draining that a client could keep from ending (also LIFE-08): what is not
//   read is in the log, and goes with the watcher.
// concerns: storage-cacher/DISP-10: a watcher that leaves gives its place back; the writer pushes nothing to it (also
//   DISP-11, DISP-15).
// concerns: storage-cacher/SCALE-05: the writer waits for nobody (also SCALE-06, SCALE-08, SCALE-09): it takes one lock
//   that readers never hold for long, and what it leaves behind are shared records, not copies.
// concerns: storage-cacher/SCALE-17: a watch costs less than 1 KiB, so 18 of them for each node are what a cache is for.
// deviates: storage-cacher/WATCH-01: everything that is known when the watch is asked for is the error of the call.
// deviates: storage-cacher/WATCH-02: errors are typed; their Status is made at the edge.
// deviates: storage-cacher/WATCH-11: a start in the future is waited for, and then refused, so that no client waits for
//   a revision of another store.
// deviates: storage-cacher/WATCH-13: a watch of one key shows that key alone, as every backend does.
// deviates: storage-cacher/WATCH-14: prefixes end with a slash.
// deviates: storage-cacher/BUF-01: there are no buffers; a watcher reads the log (also BUF-02, BUF-03, BUF-04).
// deviates: storage-cacher/DISP-04: there is no dispatcher; a slow watcher costs the others nothing (also DISP-03,
//   DISP-06, DISP-07, DISP-08, CONST-05, CONST-06).
// deviates: storage-cacher/LIFE-02: a watcher is never terminated while the log has what it has not read (also LIFE-03).
// deviates: storage-cacher/LIFE-10: one that the log has passed is told so with 410.
// deviates: storage-cacher/IVAL-07: the initial state is walked in its scope or index, and nothing is copied.
// deviates: storage-cacher/BKM-02: watchers are spread over sixty slots of the period instead of one-second buckets.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use apiserver_storage_api::time::jitter;
use apiserver_storage_api::{
    ReadAt, Result, Revision, Scope, SelectionPredicate, StorageError, Watch, WatchItem, WatchOptions, WatchStart,
};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;

use crate::cacher::{Open, Shared};
use crate::core::{Forgotten, From, Subscription};
use crate::freshness::Present;
use crate::planted::{Bug, planted};
use crate::read::{Behind, exhausted, too_large};
use crate::shown::{Floor, Shown};
use crate::watcher::Watcher;

/// A watch whose initial state has more objects than this keeps that state alive while it is being read.
const HEAVY: usize = if cfg!(test) { 3 } else { 4_096 };
/// When a client is told to come back for a watch that there was no room for.
const RETRY_WATCH: Duration = Duration::from_secs(1);
/// After how much silence a watch that reads below asks for progress the first time.
const FIRST_ASKED: Duration = Duration::from_secs(1);

impl Shared {
    pub(crate) async fn watch(self: &Arc<Self>, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        self.check_scope(scope)?;
        if self.status.is_closed() {
            return Err(self.status.too_many_requests(self.config.clock.monotonic()));
        }
        if self.current().is_none() && self.wait_ready().await?.is_none() {
            return self.watch_below(scope, options).await;
        }
        let end = options.deadline.map(|left| self.config.clock.monotonic() + left);
        let begin = self.begin(options.start, end).await?;
        match self.follow(scope, &options, &begin) {
            Err(error) if error.is_expired() => {}
            other => return other,
        }
        let From::After(revision) = begin.from else {
            return Err(StorageError::expired_watch());
        };
        self.reach_back(revision).await;
        match self.follow(scope, &options, &begin) {
            Err(error) if error.is_expired() => self.catch_up(scope, options, end).await,
            other => other,
        }
    }

    /// A watch of what the log has, from a cursor on.
    fn follow(self: &Arc<Self>, scope: &Scope, options: &WatchOptions, begin: &Begin) -> Result<Watch> {
        let subscription = self.subscribe(scope, &options.predicate, begin.from)?;
        if begin
            .store
            .as_ref()
            .is_some_and(|store| *store != subscription.root.store)
        {
            // Another store was listed in between, or is yet to be.
            return Err(self.status.too_many_requests(self.config.clock.monotonic()));
        }
        if !begin.floor.allows(subscription.root.revision) {
            // It was listed again since, and somebody was shown more in the meantime.
            return Err(self.status.too_many_requests(self.config.clock.monotonic()));
        }
        let initial = matches!(options.start, WatchStart::InitialState(_)).then(|| {
            subscription
                .root
                .walk(scope, None, &options.predicate, self.info.indexes())
        });
        if let Some(walk) = &initial {
            if walk.left() > HEAVY && self.config.history_budget.is_exhausted() {
                return Err(exhausted());
            }
            self.pins.add(walk);
        }
        let position = match (begin.from, begin.seen) {
            // What the cache has beyond the asked revision is new to this watcher.
            (From::After(_), Some(asked)) => asked,
            // What it has not got yet may be old to it.
            (_, asked) => asked.map_or(subscription.root.revision, |asked| {
                asked.max(subscription.root.revision)
            }),
        };
        let reminder = if options.progress {
            let reminder = self.reminders.join(&*self.config.rng, begin.end);
            self.feed_wake.notify_one();
            reminder
        } else {
            None
        };
        Ok(Watch::new(Watcher::new(
            self,
            subscription,
            position,
            initial,
            reminder,
        )))
    }

    /// A watch of the storage below, for a kind that is not kept.
    async fn watch_below(self: &Arc<Self>, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        let place = Arc::clone(&self.backend_watches).try_acquire_owned();
        let place = place.map_err(|_| StorageError::TooManyRequests {
            cause: "too many watches read from the storage below the cache".into(),
            retry_after: RETRY_WATCH,
        })?;
        let watch = self.inner.watch(scope, options).await?;
        let watch = watch.take_until(self.status.ended().boxed());
        let open = Open::new(&self.watchers);
        let shown = Arc::clone(&self.shown);
        Ok(Watch::new(watch.map(move |item| {
            let _held = (&place, &open);
            record(&shown, &item);
            item
        })))
    }

    /// A watch that begins before the log does, as every client's after a restart of this process: the storage below
    /// still knows what happened, so it goes on there until it meets the log. The number of such watches is bounded;
    /// one too many, or one from before the history of the storage, is told 410.
    async fn catch_up(self: &Arc<Self>, scope: &Scope, options: WatchOptions, end: Option<Duration>) -> Result<Watch> {
        let place = Arc::clone(&self.backend_watches).try_acquire_owned();
        let place = place.map_err(|_| StorageError::expired_watch())?;
        // Progress is what tells a watch that nothing matches that the log has all that comes next.
        let telling = WatchOptions {
            progress: true,
            ..options.clone()
        };
        let below = self.inner.watch(scope, telling).await?;
        // Asked after the watch was opened: the log is met only if it is of this store.
        let store = self.inner.store_id().await?.map(Into::into);
        let state = CatchUp {
            shared: Arc::downgrade(self),
            scope: scope.clone(),
            options,
            end,
            store,
            stage: Stage::Below {
                watch: Watch::new(below.take_until(self.status.ended().boxed())),
                asking: self.ask_now_and_then(),
                _held: (place, Open::new(&self.watchers)),
            },
            delivered: None,
        };
        let items = stream::unfold(state, |mut state| async move {
            let item = state.next().await?;
            Some((item, state))
        });
        Ok(Watch::new(items))
    }

    /// Asks the storage below for progress, at growing intervals, for as long as it is polled.
    fn ask_now_and_then(&self) -> BoxFuture<'static, ()> {
        let (inner, config) = (Arc::clone(&self.inner), self.config.clone());
        let most = config.bookmark_period.max(FIRST_ASKED);
        async move {
            let mut pause = FIRST_ASKED;
            loop {
                config.clock.sleep(jitter(&*config.rng, pause)).await;
                // One that is not answered is asked again.
                if let Err(StorageError::NotSupported { .. }) = inner.request_progress().await {
                    return std::future::pending().await;
                }
                pause = pause.saturating_mul(2).min(most);
            }
        }
        .boxed()
    }

    /// Where the watcher's cursor begins.
    async fn begin(&self, start: WatchStart, end: Option<Duration>) -> Result<Begin> {
        let mut begin = Begin {
            end,
            from: From::Tail,
            seen: None,
            store: None,
            floor: Floor::NONE,
        };
        match start {
            WatchStart::InitialState(ReadAt::Any) => begin.floor = self.reach_shown(None).await?,
            WatchStart::InitialState(ReadAt::NotOlderThan(revision)) => {
                begin.floor = self.reach_shown(Some(revision)).await?;
            }
            WatchStart::InitialState(ReadAt::MostRecent) => {
                let now = self.ask_now().await?;
                if !planted(Bug::DoesNotWait) {
                    self.reach_for_watch(now.revision, true).await?;
                }
            }
            WatchStart::Now => {
                let now = self.ask_now().await?;
                (begin.seen, begin.store) = (Some(now.revision), Some(now.store));
            }
            WatchStart::After(revision) => {
                self.reach_for_watch(revision, false).await?;
                (begin.from, begin.seen) = (From::After(revision), Some(revision));
            }
        }
        Ok(begin)
    }

    async fn ask_now(&self) -> Result<Present> {
        let (floor, before) = (self.shown.floor(), self.loaded());
        let now = self.now.ask(&self.inner).await?;
        let is_behind = |at: Revision| now.revision < at || !floor.allows(now.revision);
        if let Some(before) = before.filter(|before| is_behind(before.revision) || now.store != before.store) {
            self.suspect_reset(&before);
            return Err(self.status.too_many_requests(self.config.clock.monotonic()));
        }
        Ok(now)
    }

    /// Waits until an initial state may be as early as asked, and not earlier than what somebody was shown; as for reads,
    /// but what is not reached is not had from below.
    async fn reach_shown(&self, least: Option<Revision>) -> Result<Floor> {
        let floor = match self.shown.floor() {
            _ if planted(Bug::ForgetsShown) => Floor::NONE,
            // Without progress the cache may not get there for long.
            floor if !floor.is_doubted() && self.no_progress.load(Ordering::Acquire) => Floor::NONE,
            floor => floor,
        };
        match (least, floor.revision()) {
            _ if floor.is_doubted() => return Err(self.status.too_many_requests(self.config.clock.monotonic())),
            (Some(least), shown) if shown.is_none_or(|shown| shown <= least) => {
                self.reach_for_watch(least, false).await?;
            }
            (_, Some(shown)) => self
                .reach(shown, false)
                .await
                .map(drop)
                .map_err(|behind| match behind {
                    Behind::Timeout(at) => StorageError::TooManyRequests {
                        cause: format!("the watch cache is at revision {at}, and {shown} was shown already"),
                        retry_after: RETRY_WATCH,
                    },
                    Behind::NoProgress | Behind::Gone => self.status.too_many_requests(self.config.clock.monotonic()),
                })?,
            (_, None) => {}
        }
        Ok(floor)
    }

    async fn reach_for_watch(&self, revision: Revision, consistent: bool) -> Result<()> {
        match self.reach(revision, consistent).await {
            Ok(_) => Ok(()),
            Err(Behind::Timeout(current)) => Err(too_large(revision, current)),
            Err(Behind::NoProgress) => Err(StorageError::internal(
                "a watch stream was requested by the client but the required storage feature RequestWatchProgress is \
                 disabled",
            )),
            Err(Behind::Gone) => Err(self.status.too_many_requests(self.config.clock.monotonic())),
        }
    }

    pub(crate) fn subscribe(&self, scope: &Scope, predicate: &SelectionPredicate, from: From) -> Result<Subscription> {
        let subscription = self.core.lock().subscribe(scope, predicate, from);
        match subscription {
            Some(Ok(subscription)) => Ok(subscription),
            Some(Err(Forgotten)) => Err(StorageError::expired_watch()),
            None => Err(self.status.too_many_requests(self.config.clock.monotonic())),
        }
    }
}

/// Where a watch of the log begins.
struct Begin {
    /// When the caller will end the watch, as far as is known.
    end: Option<Duration>,
    from: From,
    /// What the client has seen; none: what the cache has.
    seen: Option<Revision>,
    /// The store that this is a revision of, where that is known.
    store: Option<Option<Arc<str>>>,
    /// What the state at hand must have reached, where the watch begins with it.
    floor: Floor,
}

/// What is told from below is shown to somebody.
fn record(shown: &Shown, item: &Result<WatchItem>) {
    match item {
        _ if planted(Bug::ForgetsToldBelow) => {}
        Ok(WatchItem::Batch(batch)) => shown.record(batch.revision),
        Ok(WatchItem::Progress(revision) | WatchItem::InitialEnd(revision)) => shown.record(*revision),
        _ => {}
    }
}

/// A watch that reads from the storage below until the log has what comes next.
struct CatchUp {
    /// Does not keep the cache open.
    shared: Weak<Shared>,
    scope: Scope,
    options: WatchOptions,
    /// When the caller will end it.
    end: Option<Duration>,
    /// The identity of the storage below.
    store: Option<Arc<str>>,
    stage: Stage,
    /// The end of the batch that was handed out last.
    delivered: Option<Revision>,
}

enum Stage {
    /// Reading below.
    Below {
        watch: Watch,
        /// Asks for progress when it has been quiet for a while; never ends.
        asking: BoxFuture<'static, ()>,
        /// One of the bounded places, and one of the open watches; given back with the stage.
        _held: (OwnedSemaphorePermit, Open),
    },
    /// Met the log: an ordinary watch of the cache.
    Cached(Watch),
}

impl CatchUp {
    async fn next(&mut self) -> Option<Result<WatchItem>> {
        loop {
            if let (Stage::Below { .. }, Some(revision)) = (&self.stage, self.delivered.take()) {
                // The cache ends with its watchers.
                let shared = self.shared.upgrade()?;
                let begin = Begin {
                    end: self.end,
                    from: From::After(revision),
                    seen: Some(revision),
                    store: Some(self.store.clone()),
                    floor: Floor::NONE,
                };
                if let Ok(watch) = shared.follow(&self.scope, &self.options, &begin) {
                    self.stage = Stage::Cached(watch);
                }
            }
            let item = match &mut self.stage {
                Stage::Cached(watch) => return watch.next().await,
                Stage::Below { watch, asking, .. } => tokio::select! {
                    biased;
                    item = watch.next() => item,
                    () = asking => continue,
                },
            };
            if let (Some(shared), Some(item)) = (self.shared.upgrade(), &item) {
                record(&shared.shown, item);
            }
            self.delivered = match &item {
                Some(Ok(WatchItem::Batch(batch))) => Some(batch.revision),
                Some(Ok(WatchItem::Progress(revision))) => Some(*revision),
                _ => None,
            };
            if self.options.progress || !matches!(item, Some(Ok(WatchItem::Progress(_)))) {
                return item;
            }
        }
    }
}
