//! The one task of a cache: lists the storage below, follows its watch, and starts over when the watch is lost.
//!
//! Only a watch that was resumed right behind the last revision, in the same store, continues the log. When the backend
//! no longer has that history (410), or is another store behind the same name (another id, or an earlier revision than
//! the cache's), the state is listed again and the log starts empty. What can be resumed is resumed: the cache stays
//! ready meanwhile, and nobody notices. All pauses are jittered, so that many caches do not come back in step.
//
// concerns: storage-cacher/BE-01: what a storage must provide is the contract of `Storage`, and its conformance suite shows
//   it (also BE-02, BE-03, BE-05, BE-06, BE-07, BE-08); the cache asks it for no initial state and no previous values.
// concerns: storage-cacher/FRSH-11: progress is taken from nothing but the watch itself, where it has its place behind
//   the changes.
// concerns: storage-cacher/CONST-11: nothing is dispatched before there is a list, because there is no log before it.
// deviates: storage-cacher/INIT-03: the state is listed, as a stream of pages, and then watched (also INIT-04, INIT-06,
//   INIT-07).
// deviates: storage-cacher/INIT-12: a watch that ends at once is resumed too; pauses grow instead.
// deviates: storage-cacher/INIT-15: failures are resumed with growing pauses; five in a row that are not about reaching
//   the storage lead to a list (also INIT-14, INIT-16, CONST-08).
// deviates: storage-cacher/CHK-07: a difference leads to a new list, not only to fewer reads from memory (also CHK-05).
// deviates: storage-cacher/INIT-20: watchers that have seen everything go on when the list shows the state they know.
// deviates: storage-cacher/INIT-21: what cannot be read is carried along by key.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use apiserver_storage_api::time::jitter;
use apiserver_storage_api::{Revision, Scope, StorageError, Watch, WatchItem, WatchOptions, WatchStart};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use crate::cacher::Shared;
use crate::check::Comparison;
use crate::core::Fault;
use crate::planted::{Bug, planted};
use crate::status::State;

const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// So many failures in a row that are not about reaching the backend, and a list is tried instead of the watch.
const GIVE_UP_RESUMING: u32 = 5;

/// Why the watch of the backend is over.
pub(crate) enum Over {
    /// Go on where it ended.
    Resume(Option<StorageError>),
    /// Progress was asked for and did not come: go on at another member.
    Stalled,
    /// The log cannot be continued.
    Relist(String),
    /// There is more than may be kept.
    TooLarge,
    /// The storage below is shut down.
    Closed,
}

/// Why nothing was loaded.
pub(crate) enum NotLoaded {
    TooLarge,
    Failed(StorageError),
}

impl From<StorageError> for NotLoaded {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

/// Lists and follows the storage below until the cache is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let closing = Arc::clone(&shared);
    tokio::select! {
        biased;
        () = closing.status.closed() => {}
        () = give_way(&closing) => {}
        () = closing.end_late_lists() => {}
        () = work(shared) => {}
    }
}

/// Makes room whenever all caches together hold too much: also while nothing happens to this one, or its backend is away.
/// Does not end.
async fn give_way(shared: &Shared) {
    let mut pressed = shared.config.history_budget.pressed();
    loop {
        // Looked at after having subscribed: what comes from here on is heard.
        if !shared.core.lock().owes() {
            // The sender lives as long as the configuration.
            let _ = pressed.changed().await;
        }
        // Whoever is woken waits for the tick that all share: under lasting pressure nobody is woken more than once in it.
        shared.tick().await;
        if shared.core.lock().owes() {
            shared.relieve(shared.config.clock.monotonic());
        }
    }
}

async fn work(shared: Arc<Shared>) {
    let check = next_check(&shared);
    let mut feed = Feed {
        shared,
        failures: 0,
        check,
        reading_back: None,
        store: None,
        stalls: 0,
        stalled: None,
    };
    loop {
        match feed.load().await {
            Ok(()) => {}
            Err(NotLoaded::Failed(StorageError::Closed)) => break,
            Err(NotLoaded::TooLarge) => {
                feed.uncached().await;
                continue;
            }
            Err(NotLoaded::Failed(error)) => {
                feed.cannot_list(&error);
                feed.pending(Some(error.to_string()));
                feed.pause().await;
                continue;
            }
        }
        match feed.follow().await {
            Over::Closed => break,
            Over::TooLarge => feed.uncached().await,
            Over::Relist(cause) => {
                tracing::info!(resource = %feed.shared.info.group_resource(), cause, "listing the storage again");
                feed.shared.metrics.resets.increment(1);
                feed.pending(Some(cause));
                feed.pause().await;
            }
            // Resuming is what following does.
            Over::Resume(_) | Over::Stalled => {}
        }
    }
}

pub(crate) struct Feed {
    pub(crate) shared: Arc<Shared>,
    /// In a row, since something was heard of the backend.
    pub(crate) failures: u32,
    /// The next comparison with the storage below, when its time has come.
    check: BoxFuture<'static, Result<Comparison, StorageError>>,
    /// History that somebody has asked for.
    reading_back: Option<BoxFuture<'static, ()>>,
    /// The identity of the storage below, if it has one.
    pub(crate) store: Option<String>,
    /// How often the watch was moved, in a row, and when it was last.
    stalls: u32,
    stalled: Option<Duration>,
}

/// Compares after a while.
fn next_check(shared: &Arc<Shared>) -> BoxFuture<'static, Result<Comparison, StorageError>> {
    let shared = Arc::clone(shared);
    Box::pin(async move {
        let Some(period) = shared.config.check_period else {
            return std::future::pending().await;
        };
        let config = &shared.config;
        let more = jitter(&*config.rng, period / 2).min(period / 2);
        config.clock.sleep(period + more).await;
        shared.compare().await
    })
}

/// Waits for something that may not be there.
async fn of<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// What the feed waits for beside the watch.
#[derive(Default)]
struct Aside {
    tick: Option<BoxFuture<'static, ()>>,
    asking: Option<BoxFuture<'static, Result<(), StorageError>>>,
    /// Since when an answer to a question for progress is due: nothing was heard since.
    unheard: Option<Duration>,
    /// Whether the next tick has something to do beside reminding.
    ages: bool,
}

impl Feed {
    pub(crate) fn now(&self) -> Duration {
        self.shared.config.clock.monotonic()
    }

    fn pending(&self, cause: Option<String>) {
        self.shared.status.set(State::Pending(cause), self.now());
    }

    pub(crate) fn cannot_list(&self, error: &StorageError) {
        tracing::warn!(resource = %self.shared.info.group_resource(), %error, "cannot list the storage");
        self.shared.metrics.initialization_errors.increment(1);
    }

    async fn pause(&mut self) {
        let pause = grown(self.shared.config.retry_pause, self.failures);
        self.failures = self.failures.saturating_add(1);
        let pause = jitter(&*self.shared.config.rng, pause);
        self.shared.config.clock.sleep(pause).await;
    }

    /// Follows the backend until its history cannot be continued.
    async fn follow(&mut self) -> Over {
        loop {
            let over = match self.shared.loaded() {
                Some(root) => self.watch(root.revision).await,
                None => Over::Closed,
            };
            match over {
                Over::Resume(None) => {}
                Over::Stalled => continue,
                Over::Resume(Some(error)) => {
                    tracing::warn!(resource = %self.shared.info.group_resource(), %error, "the storage's watch ended");
                    if self.failures >= GIVE_UP_RESUMING && !error.is_retryable() {
                        // The watch may never work again, or nothing may work at the moment. The log is given up only
                        // once there is a list to replace it.
                        match self.load().await {
                            Ok(()) => self.shared.metrics.resets.increment(1),
                            Err(NotLoaded::TooLarge) => return Over::TooLarge,
                            Err(NotLoaded::Failed(StorageError::Closed)) => return Over::Closed,
                            Err(NotLoaded::Failed(error)) => self.cannot_list(&error),
                        }
                    }
                }
                over => return over,
            }
            self.pause().await;
        }
    }

    async fn watch(&mut self, after: Revision) -> Over {
        // The watch may end up at another member, which may be able to.
        self.shared.no_progress.store(false, Ordering::Release);
        let mut options = WatchOptions::from_start(WatchStart::After(after));
        (options.progress, options.previous) = (true, false);
        let shared = Arc::clone(&self.shared);
        let watch = match shared.inner.watch(&Scope::all(shared.info.prefix()), options).await {
            Ok(watch) => watch,
            Err(error) => return over(error),
        };
        // Asked after the watch was opened: what it tells is of this store.
        match shared.inner.store_id().await {
            Ok(id) if id == self.store => {}
            Ok(_) => return Over::Relist("the storage is another one now".into()),
            Err(error) => return over(error),
        }
        let began = self.now();
        let over = self.drain(watch).await;
        // A quiet kind may have heard nothing for hours, which is no failure.
        if self.now().saturating_sub(began) > LONGEST_PAUSE {
            self.failures = 0;
        }
        over
    }

    async fn drain(&mut self, mut watch: Watch) -> Over {
        let shared = Arc::clone(&self.shared);
        let mut aside = Aside {
            asking: self.ask_for_progress(),
            ages: true,
            ..Aside::default()
        };
        loop {
            if aside.tick.is_none() && (aside.ages || shared.reminders.is_wanted()) {
                aside.tick = Some(shared.tick());
            }
            // In this order: what comes rarely is not kept waiting by what comes often.
            tokio::select! {
                biased;
                () = shared.feed_wake.notified() => {
                    if shared.shown.floor().is_doubted() {
                        return Over::Relist("the storage went back to an earlier revision".into());
                    }
                    if aside.asking.is_none() {
                        aside.asking = self.ask_for_progress();
                    }
                    self.read_back();
                    // Those who knock may be many and never stop; the watch has its turn all the same.
                    if let Some(item) = watch.next().now_or_never()
                        && let Some(over) = self.heard(item, &mut aside)
                    {
                        return over;
                    }
                }
                result = of(&mut aside.asking) => {
                    if self.asked(&result, &mut aside) {
                        return Over::Stalled;
                    }
                }
                () = of(&mut aside.tick) => {
                    let round = self.tick();
                    (aside.tick, aside.ages) = (None, self.ages());
                    let wanted = shared.reminders.is_wanted() && !shared.no_progress.load(Ordering::Acquire);
                    if round && aside.asking.is_none() && wanted {
                        aside.asking = Some(self.ask());
                    }
                }
                result = &mut self.check => {
                    self.check = next_check(&shared);
                    if let Some(cause) = self.checked(result) {
                        return Over::Relist(cause);
                    }
                }
                () = of(&mut self.reading_back) => {
                    self.reading_back = None;
                    aside.ages = true;
                    self.read_back();
                }
                item = watch.next() => {
                    if let Some(over) = self.heard(item, &mut aside) {
                        return over;
                    }
                },
            }
        }
    }

    /// What the watch has said. Some: that was the last of it.
    fn heard(&mut self, item: Option<Result<WatchItem, StorageError>>, aside: &mut Aside) -> Option<Over> {
        match item {
            None => Some(Over::Resume(None)),
            Some(Err(error)) => Some(over(error)),
            Some(Ok(item)) => {
                (self.failures, aside.unheard) = (0, None);
                aside.ages |= matches!(item, WatchItem::Batch(_));
                match self.take(item) {
                    Ok(true) => Some(Over::TooLarge),
                    Ok(false) => None,
                    Err(fault) => Some(Over::Relist(fault.to_string())),
                }
            }
        }
    }

    /// True: there is more now than may be kept.
    fn take(&mut self, item: WatchItem) -> Result<bool, Fault> {
        let shared = &self.shared;
        let (mut large, revision) = (
            false,
            match item {
                WatchItem::Batch(batch) => {
                    let effects = shared.core.lock().apply(&batch, self.now())?;
                    shared.metrics.events_received.increment(effects.events as u64);
                    shared.metrics.events_dispatched.increment(effects.events as u64);
                    effects.perform();
                    batch.revision
                }
                WatchItem::Progress(revision) => {
                    let ahead = if planted(Bug::ProgressAhead) {
                        revision.next()
                    } else {
                        revision
                    };
                    shared.core.lock().progress(ahead);
                    shared.reminders.answer();
                    self.stalls = 0;
                    revision
                }
                // Initial states were not asked for.
                _ => return Ok(false),
            },
        );
        if let Some(limit) = shared.config.live_bytes {
            large = shared.root.load().as_ref().is_some_and(|root| root.live > limit);
        }
        shared.waiters.reach(revision);
        shared.metrics.at_revision(revision);
        Ok(large)
    }

    /// Forgets what is old and reminds some watchers. True once per bookmark period.
    fn tick(&self) -> bool {
        let (now, shared) = (self.now(), &self.shared);
        let history = shared.relieve(now);
        shared.reminders.sweep();
        if let Some(root) = shared.loaded() {
            shared.metrics.holds(&history, root.live, now);
        }
        shared.metrics.open_watches.set(shared.watchers.count() as f64);
        shared.reminders.ring(now)
    }

    /// Whether the next tick has something to do beside reminding.
    fn ages(&self) -> bool {
        self.shared.core.lock().history().ages || !self.shared.pins.is_empty()
    }

    fn read_back(&mut self) {
        if self.reading_back.is_none()
            && let Some(from) = self.shared.back.take()
        {
            self.reading_back = Some(Box::pin(Arc::clone(&self.shared).read_back(from)));
        }
    }

    /// What a comparison means; a cause, when the cache cannot be trusted.
    fn checked(&self, result: Result<Comparison, StorageError>) -> Option<String> {
        let (shared, resource) = (&self.shared, self.shared.info.group_resource());
        shared
            .metrics
            .checked(result.as_ref().ok().map(|comparison| comparison.difference.is_none()));
        match result {
            Ok(Comparison { difference: None, .. }) => None,
            Ok(Comparison {
                difference: Some(difference),
                cache,
                storage,
            }) => {
                tracing::error!(%resource, %difference, cache, storage, "the cache differs from the storage");
                Some(format!("the cache differs from the storage: {difference}"))
            }
            Err(error) => {
                tracing::warn!(%resource, %error, "the cache could not be compared with the storage");
                None
            }
        }
    }

    /// Asks for progress as long as somebody waits for it.
    fn ask_for_progress(&self) -> Option<BoxFuture<'static, Result<(), StorageError>>> {
        let wanted = !self.shared.waiters.is_empty() && !self.shared.no_progress.load(Ordering::Acquire);
        wanted.then(|| self.ask())
    }

    fn ask(&self) -> BoxFuture<'static, Result<(), StorageError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            match shared.inner.request_progress().await {
                error @ Err(StorageError::NotSupported { .. }) => error,
                result => {
                    shared.config.clock.sleep(shared.config.progress_period).await;
                    result
                }
            }
        })
    }

    /// A question for progress is a period old. True: it is time to watch another member.
    fn asked(&mut self, result: &Result<(), StorageError>, aside: &mut Aside) -> bool {
        aside.asking = None;
        if matches!(result, Err(StorageError::NotSupported { .. })) {
            self.without_progress();
            return false;
        }
        // Best effort: the readers have their deadline, and whatever ails the backend ends the watch.
        aside.asking = self.ask_for_progress();
        if aside.asking.is_none() || result.is_err() {
            aside.unheard = None;
            return false;
        }
        let (now, config) = (self.now(), &self.shared.config);
        let asked = *aside.unheard.get_or_insert(now.saturating_sub(config.progress_period));
        let pause = grown(config.progress_timeout, self.stalls);
        let is_late = now.saturating_sub(asked) >= config.progress_timeout;
        if !is_late || self.stalled.is_some_and(|last| now.saturating_sub(last) < pause) {
            return false;
        }
        tracing::info!(resource = %self.shared.info.group_resource(), "no progress: watching anew");
        self.shared.metrics.moved_watches.increment(1);
        (self.stalled, self.stalls) = (Some(now), self.stalls.saturating_add(1));
        true
    }

    fn without_progress(&self) {
        tracing::warn!(
            resource = %self.shared.info.group_resource(),
            "the storage reports no progress: consistent reads are not served from the cache"
        );
        self.shared.no_progress.store(true, Ordering::Release);
        self.shared.waiters.dismiss();
    }
}

/// A pause that doubles with every failure, up to a limit.
fn grown(pause: Duration, failures: u32) -> Duration {
    pause
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_PAUSE.max(pause))
}

/// What an error of the backend's watch means for the log.
fn over(error: StorageError) -> Over {
    match error {
        StorageError::Closed => Over::Closed,
        error if error.is_expired() => Over::Relist(error.to_string()),
        // It was at the cache's revision once and is not any more.
        StorageError::TooLargeResourceVersion { .. } => {
            Over::Relist("the storage went back to an earlier revision".into())
        }
        error => Over::Resume(Some(error)),
    }
}
