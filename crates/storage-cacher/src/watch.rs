//! `watch`: where it begins, and the watcher, which is a cursor and a wake-up.
//!
//! A watcher costs the cache nothing while nothing happens: it has no buffer, no task and no timer. It reads at its own
//! pace and delays nobody; when the log has moved past its cursor it ends with 410.
//
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
// deviates: storage-cacher/BKM-05: no bookmark before a deadline; the one at the end of the initial state and one a
//   minute are what there is.

use std::sync::{Arc, Weak};

use apiserver_storage_api::{
    Batch, Entry, OnUnreadable, ReadAt, Result, Revision, Scope, SelectionPredicate, StorageError, Watch, WatchItem,
    WatchOptions, WatchStart,
};
use futures::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::cacher::Shared;
use crate::core::log::{Cursor, End, Epoch, Next};
use crate::core::root::{Released, Selected, Step, Walk, is_selected};
use crate::core::{Forgotten, From, Subscription};
use crate::read::{Behind, too_large};
use crate::reminders::{Due, Reminder};

/// Entries of one part of the initial state, and objects that are looked at for it in one go.
const INITIAL_PART: usize = 512;
const INITIAL_CHUNK: usize = 4_096;
/// Records that are passed over before other tasks get their turn.
const PASS_OVER: usize = 256;

impl Shared {
    pub(crate) async fn watch(self: &Arc<Self>, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        self.check_scope(scope)?;
        if self.status.is_closed() {
            return Err(self.status.too_many_requests(self.config.clock.monotonic()));
        }
        if self.current().is_none() {
            self.wait_ready().await?;
        }
        let (from, position) = self.begin(options.start).await?;
        match self.follow(scope, &options, from, position) {
            Err(error) if error.is_expired() && matches!(from, From::After(_)) => self.catch_up(scope, options).await,
            other => other,
        }
    }

    /// A watch of what the log has, from a cursor on.
    fn follow(
        self: &Arc<Self>,
        scope: &Scope,
        options: &WatchOptions,
        from: From,
        position: Option<Revision>,
    ) -> Result<Watch> {
        let subscription = self.subscribe(scope, &options.predicate, from)?;
        let initial = matches!(options.start, WatchStart::InitialState(_)).then(|| {
            subscription
                .root
                .walk(scope, None, &options.predicate, self.info.indexes())
        });
        if let Some(walk) = &initial {
            self.pins.add(walk);
        }
        let position = match (from, position) {
            // What the cache has beyond the asked revision is new to this watcher.
            (From::After(_), Some(asked)) => asked,
            // What it has not got yet may be old to it.
            (_, asked) => asked.map_or(subscription.root.revision, |asked| {
                asked.max(subscription.root.revision)
            }),
        };
        let watcher = Watcher {
            shared: Arc::downgrade(self),
            scope: scope.clone(),
            whole: scope.as_str() == self.info.prefix().as_str(),
            predicate: options.predicate.clone(),
            reminder: options
                .progress
                .then(|| self.reminders.join(&*self.config.rng))
                .flatten(),
            initial,
            initial_end: None,
            epoch: subscription.epoch,
            catch_up: subscription.catch_up,
            live: subscription.live,
            wake: subscription.wake,
            position,
            told: position,
        };
        let items = stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await? {
                Ok(item) => Some((Ok(item), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Watch::new(items))
    }

    /// A watch that begins before the log does, as every client's after a restart of this process: the storage below
    /// still knows what happened, so it goes on there until it meets the log. The number of such watches is bounded;
    /// one too many, or one from before the history of the storage, is told 410.
    async fn catch_up(self: &Arc<Self>, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        let place = Arc::clone(&self.backend_watches).try_acquire_owned();
        let place = place.map_err(|_| StorageError::expired_watch())?;
        let below = self.inner.watch(scope, options.clone()).await?;
        let state = CatchUp {
            shared: Arc::downgrade(self),
            scope: scope.clone(),
            options,
            stage: Stage::Below {
                watch: below,
                _place: place,
            },
            delivered: None,
        };
        let items = stream::unfold(state, |mut state| async move {
            let item = state.next().await?;
            Some((item, state))
        });
        Ok(Watch::new(items))
    }

    /// Where the watcher's cursor begins, and what it has seen; none: what the cache has.
    async fn begin(&self, start: WatchStart) -> Result<(From, Option<Revision>)> {
        match start {
            WatchStart::InitialState(ReadAt::Any) => Ok((From::Tail, None)),
            WatchStart::InitialState(ReadAt::NotOlderThan(revision)) => {
                self.reach_for_watch(revision, false).await?;
                Ok((From::Tail, None))
            }
            WatchStart::InitialState(ReadAt::MostRecent) => {
                let now = self.ask_now().await?;
                self.reach_for_watch(now, true).await?;
                Ok((From::Tail, None))
            }
            WatchStart::Now => Ok((From::Tail, Some(self.ask_now().await?))),
            WatchStart::After(revision) => {
                self.reach_for_watch(revision, false).await?;
                Ok((From::After(revision), Some(revision)))
            }
        }
    }

    async fn ask_now(&self) -> Result<Revision> {
        let before = self.loaded().map(|root| root.revision);
        let now = self.now.ask(&self.inner).await?;
        if before.is_some_and(|before| now < before) {
            self.suspect_reset();
            return Err(self.status.too_many_requests(self.config.clock.monotonic()));
        }
        Ok(now)
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

    fn subscribe(&self, scope: &Scope, predicate: &SelectionPredicate, from: From) -> Result<Subscription> {
        let subscription = self.core.lock().subscribe(scope, predicate, from);
        match subscription {
            Some(Ok(subscription)) => Ok(subscription),
            Some(Err(Forgotten)) => Err(StorageError::expired_watch()),
            None => Err(self.status.too_many_requests(self.config.clock.monotonic())),
        }
    }
}

/// A watch that reads from the storage below until the log has what comes next.
struct CatchUp {
    /// Does not keep the cache open.
    shared: Weak<Shared>,
    scope: Scope,
    options: WatchOptions,
    stage: Stage,
    /// The end of the batch that was handed out last.
    delivered: Option<Revision>,
}

enum Stage {
    /// Reading below.
    Below {
        watch: Watch,
        /// One of the bounded places; given back with the stage.
        _place: OwnedSemaphorePermit,
    },
    /// Met the log: an ordinary watch of the cache.
    Cached(Watch),
}

impl CatchUp {
    async fn next(&mut self) -> Option<Result<WatchItem>> {
        if let (Stage::Below { .. }, Some(revision)) = (&self.stage, self.delivered.take()) {
            // The cache ends with its watchers.
            let shared = self.shared.upgrade()?;
            if let Ok(watch) = shared.follow(&self.scope, &self.options, From::After(revision), Some(revision)) {
                self.stage = Stage::Cached(watch);
            }
        }
        match &mut self.stage {
            Stage::Cached(watch) => watch.next().await,
            Stage::Below { watch, .. } => {
                let item = watch.next().await;
                self.delivered = match &item {
                    Some(Ok(WatchItem::Batch(batch))) => Some(batch.revision),
                    Some(Ok(WatchItem::Progress(revision))) => Some(*revision),
                    _ => None,
                };
                item
            }
        }
    }
}

/// One watch.
struct Watcher {
    /// Does not keep the cache open.
    shared: Weak<Shared>,
    scope: Scope,
    /// The scope is the whole kind.
    whole: bool,
    predicate: SelectionPredicate,
    /// Set when the client wants to hear of progress.
    reminder: Option<Reminder>,
    /// What is left of the initial state.
    initial: Option<Walk>,
    initial_end: Option<Revision>,
    epoch: Arc<Epoch>,
    catch_up: Option<(Cursor, Revision)>,
    live: Cursor,
    wake: watch::Receiver<()>,
    /// Everything of the scope up to this revision was delivered, or was nothing for this selection.
    position: Revision,
    /// The last revision that the client knows of.
    told: Revision,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<WatchItem>> {
        while let Some(walk) = &mut self.initial {
            let Ok(part) = initial_part(walk, &self.predicate) else {
                return Some(Err(self.expired()));
            };
            if walk.left() == 0 {
                self.initial = None;
                self.initial_end = Some(self.position);
            }
            if !part.is_empty() {
                if let Some(shared) = self.shared.upgrade() {
                    shared.metrics.init_events.increment(part.len() as u64);
                }
                return Some(Ok(WatchItem::Initial(part)));
            }
            tokio::task::yield_now().await;
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(Ok(WatchItem::InitialEnd(revision)));
        }
        self.next_change().await
    }

    async fn next_change(&mut self) -> Option<Result<WatchItem>> {
        let mut passed = 0;
        loop {
            self.wake.borrow_and_update();
            // Both are read before the cursor: only then does an empty ring mean what they say.
            let (end, through) = (self.epoch.end(), self.epoch.through());
            match self.advance() {
                Next::Record(record) if record.revision <= self.position => {}
                Next::Record(record) => {
                    self.position = record.revision;
                    if let Some(events) = record.seen_by(&self.scope, self.whole, &self.predicate) {
                        self.told = record.revision;
                        return Some(Ok(WatchItem::Batch(Batch {
                            revision: record.revision,
                            events,
                        })));
                    }
                }
                Next::Lost if end == Some(End::Closed) => return None,
                Next::Lost => return Some(Err(self.expired())),
                Next::Empty => {
                    self.position = self.position.max(through);
                    match end {
                        Some(End::Closed) => return None,
                        Some(End::Listed(continues)) => match self.carry_on(continues) {
                            Ok(true) => continue,
                            Ok(false) => return None,
                            Err(error) => return Some(Err(error)),
                        },
                        None => {}
                    }
                    if let Some(bookmark) = self.bookmark(through) {
                        return Some(Ok(bookmark));
                    }
                    self.wait().await;
                    continue;
                }
            }
            passed += 1;
            if passed % PASS_OVER == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The next record: first of the whole log, as far as the own ring does not reach back, then of the own ring.
    fn advance(&mut self) -> Next {
        if let Some((cursor, until)) = &mut self.catch_up {
            match cursor.advance() {
                Next::Record(record) if record.revision <= *until => return Next::Record(record),
                Next::Lost => return Next::Lost,
                Next::Record(_) | Next::Empty => self.catch_up = None,
            }
        }
        self.live.advance()
    }

    /// Goes on in the next epoch, if that begins exactly where this watcher is. False: the cache is gone.
    fn carry_on(&mut self, continues: Option<Revision>) -> Result<bool> {
        let Some(at) = continues.filter(|at| *at <= self.position) else {
            return Err(self.expired());
        };
        let Some(shared) = self.shared.upgrade() else {
            return Ok(false);
        };
        let next = shared.subscribe(&self.scope, &self.predicate, From::After(at))?;
        (self.epoch, self.live, self.catch_up, self.wake) = (next.epoch, next.live, next.catch_up, next.wake);
        Ok(true)
    }

    fn expired(&self) -> StorageError {
        if let Some(shared) = self.shared.upgrade() {
            shared.metrics.lost_watchers.increment(1);
        }
        StorageError::expired_watch()
    }

    /// What the client is told when nothing else is to be said, once in a period.
    fn bookmark(&mut self, through: Revision) -> Option<WatchItem> {
        let due = self.reminder.as_mut()?.due()?;
        let is_new = through > self.told;
        if !is_new && (due == Due::Time || through < self.told) {
            return None;
        }
        self.told = through;
        Some(WatchItem::Progress(through))
    }

    async fn wait(&mut self) {
        let reminder = async {
            match &mut self.reminder {
                Some(reminder) => reminder.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // A dropped ring has ended, which the epoch tells.
            _ = self.wake.changed() => {}
            () = reminder => {}
        }
    }
}

fn initial_part(walk: &mut Walk, predicate: &SelectionPredicate) -> Result<Vec<Entry>, Released> {
    let mut part = Vec::with_capacity(walk.left().min(INITIAL_PART));
    walk.examine(INITIAL_CHUNK, |entry| {
        if let Selected::Yes = is_selected(entry, predicate, OnUnreadable::Include) {
            part.push(entry.clone());
        }
        if part.len() >= INITIAL_PART {
            Step::Stop
        } else {
            Step::Next
        }
    })?;
    Ok(part)
}
