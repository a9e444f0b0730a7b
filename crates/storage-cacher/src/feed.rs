//! The one task of a cache: lists the storage below, follows its watch, and starts over when the watch is lost.
//!
//! Only a watch that was resumed right behind the last revision continues the log. When the backend no longer has that
//! history (410), or is at an earlier revision than the cache (another store behind the same name), the state is
//! listed again and the log starts empty. What can be resumed is resumed: the cache stays ready meanwhile, and nobody
//! notices. All pauses are jittered, so that many caches do not come back in step.
//
// deviates: storage-cacher/INIT-03: the state is listed, as a stream of pages, and then watched (also INIT-04).
// deviates: storage-cacher/INIT-12: a watch that ends at once is resumed too; pauses grow instead.
// deviates: storage-cacher/INIT-15: failures are resumed with growing pauses; five in a row that are not about reaching
//   the storage lead to a list.
// deviates: storage-cacher/CHK-07: a difference leads to a new list, not only to fewer reads from memory (also CHK-05).
// deviates: storage-cacher/INIT-20: watchers that have seen everything go on when the list shows the state they know.
// deviates: storage-cacher/INIT-21: what cannot be read is carried along by key.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use apiserver_storage_api::time::jitter;
use apiserver_storage_api::{
    ListAt, ListOptions, OnUnreadable, Revision, Scope, StorageError, Watch, WatchItem, WatchOptions, WatchStart,
};
use futures::StreamExt;
use futures::future::BoxFuture;

use crate::cacher::Shared;
use crate::check::Comparison;
use crate::core::Fault;
use crate::status::State;

const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// So many failures in a row that are not about reaching the backend, and a list is tried instead of the watch.
const GIVE_UP_RESUMING: u32 = 5;

/// Why the watch of the backend is over.
enum Over {
    /// Go on where it ended.
    Resume(Option<StorageError>),
    /// The log cannot be continued.
    Relist(String),
    /// The storage below is shut down.
    Closed,
}

/// Lists and follows the storage below until the cache is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let closing = Arc::clone(&shared);
    tokio::select! {
        biased;
        () = closing.status.closed() => {}
        () = work(shared) => {}
    }
}

async fn work(shared: Arc<Shared>) {
    let check = next_check(&shared);
    let mut feed = Feed {
        shared,
        failures: 0,
        check,
    };
    loop {
        match feed.load().await {
            Ok(()) => {}
            Err(StorageError::Closed) => break,
            Err(error) => {
                feed.cannot_list(&error);
                feed.pending(Some(error.to_string()));
                feed.pause().await;
                continue;
            }
        }
        match feed.follow().await {
            Over::Closed => break,
            Over::Relist(cause) => {
                tracing::info!(resource = %feed.shared.info.group_resource(), cause, "listing the storage again");
                feed.shared.metrics.resets.increment(1);
                feed.pending(Some(cause));
                feed.pause().await;
            }
            // Resuming is what following does.
            Over::Resume(_) => {}
        }
    }
}

struct Feed {
    shared: Arc<Shared>,
    /// In a row, since something was heard of the backend.
    failures: u32,
    /// The next comparison with the storage below, when its time has come.
    check: BoxFuture<'static, Result<Comparison, StorageError>>,
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

impl Feed {
    fn now(&self) -> Duration {
        self.shared.config.clock.monotonic()
    }

    fn pending(&self, cause: Option<String>) {
        self.shared.status.set(State::Pending(cause), self.now());
    }

    fn cannot_list(&self, error: &StorageError) {
        tracing::warn!(resource = %self.shared.info.group_resource(), %error, "cannot list the storage");
        self.shared.metrics.initialization_errors.increment(1);
    }

    async fn pause(&mut self) {
        let factor = 1 << self.failures.min(16);
        let pause = (self.shared.config.retry_pause * factor).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.shared
            .config
            .clock
            .sleep(jitter(&*self.shared.config.rng, pause))
            .await;
    }

    /// Takes over the whole state.
    async fn load(&mut self) -> Result<(), StorageError> {
        let (shared, began) = (&self.shared, self.now());
        let options = ListOptions {
            at: ListAt::MostRecent,
            unreadable: OnUnreadable::Include,
            ..ListOptions::default()
        };
        let list = shared
            .inner
            .list(&Scope::all(shared.info.prefix()), options)
            .await?
            .collect()
            .await?;
        let unreadable = list.entries.iter().filter(|entry| entry.attributes().is_none()).count();
        if unreadable > 0 {
            tracing::error!(resource = %shared.info.group_resource(), unreadable, "some stored objects are unreadable");
        }
        let (revision, now) = (list.revision, self.now());
        shared.went_back.store(false, Ordering::Release);
        let effects = {
            let mut core = shared.core.lock();
            if shared.status.is_closed() {
                return Err(StorageError::Closed);
            }
            core.load(revision, list.entries)
        };
        shared.status.set(State::Ready, now);
        effects.perform();
        shared.waiters.reach(revision);
        shared.metrics.initializations.increment(1);
        shared
            .metrics
            .initialization_seconds
            .record(now.saturating_sub(began).as_secs_f64());
        shared.metrics.at_revision(revision);
        Ok(())
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
                Over::Resume(Some(error)) => {
                    tracing::warn!(resource = %self.shared.info.group_resource(), %error, "the storage's watch ended");
                    if self.failures >= GIVE_UP_RESUMING && !error.is_retryable() {
                        // The watch may never work again, or nothing may work at the moment. The log is given up only
                        // once there is a list to replace it.
                        match self.load().await {
                            Ok(()) => self.shared.metrics.resets.increment(1),
                            Err(StorageError::Closed) => return Over::Closed,
                            Err(error) => self.cannot_list(&error),
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
        match shared.inner.watch(&Scope::all(shared.info.prefix()), options).await {
            Ok(watch) => {
                let began = self.now();
                let over = self.drain(watch).await;
                // A quiet kind may have heard nothing for hours, which is no failure.
                if self.now().saturating_sub(began) > LONGEST_PAUSE {
                    self.failures = 0;
                }
                over
            }
            Err(error) => over(error),
        }
    }

    async fn drain(&mut self, mut watch: Watch) -> Over {
        let shared = Arc::clone(&self.shared);
        let (clock, reminders) = (&shared.config.clock, &shared.reminders);
        let mut tick = clock.sleep(reminders.tick());
        let mut asking: Option<BoxFuture<'static, Result<(), StorageError>>> = None;
        loop {
            let asked = async {
                match &mut asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            // In this order: what comes rarely is not kept waiting by what comes often.
            tokio::select! {
                biased;
                () = shared.feed_wake.notified() => {
                    if shared.went_back.load(Ordering::Acquire) {
                        return Over::Relist("the storage went back to an earlier revision".into());
                    }
                    if asking.is_none() {
                        asking = self.ask_for_progress();
                    }
                }
                result = asked => {
                    asking = None;
                    match result {
                        Err(StorageError::NotSupported { .. }) => self.without_progress(),
                        // Best effort: the readers have their deadline, and whatever ails the backend ends the watch.
                        Ok(()) | Err(_) => asking = self.ask_for_progress(),
                    }
                }
                () = &mut tick => {
                    tick = clock.sleep(reminders.tick());
                    let round = self.tick();
                    if round && asking.is_none() && reminders.is_wanted() && !shared.no_progress.load(Ordering::Acquire) {
                        asking = Some(self.ask());
                    }
                }
                result = &mut self.check => {
                    self.check = next_check(&shared);
                    if let Some(cause) = self.checked(result) {
                        return Over::Relist(cause);
                    }
                }
                item = watch.next() => match item {
                    None => return Over::Resume(None),
                    Some(Err(error)) => return over(error),
                    Some(Ok(item)) => {
                        self.failures = 0;
                        if let Err(fault) = self.take(item) {
                            return Over::Relist(fault.to_string());
                        }
                    }
                },
            }
        }
    }

    fn take(&self, item: WatchItem) -> Result<(), Fault> {
        let shared = &self.shared;
        let revision = match item {
            WatchItem::Batch(batch) => {
                let effects = shared.core.lock().apply(&batch, self.now())?;
                shared.metrics.events_received.increment(effects.events as u64);
                shared.metrics.events_dispatched.increment(effects.events as u64);
                effects.perform();
                batch.revision
            }
            WatchItem::Progress(revision) => {
                shared.core.lock().progress(revision);
                shared.reminders.answer();
                revision
            }
            // Initial states were not asked for.
            _ => return Ok(()),
        };
        shared.waiters.reach(revision);
        shared.metrics.at_revision(revision);
        Ok(())
    }

    /// Forgets what is old and reminds some watchers. True once per bookmark period.
    fn tick(&self) -> bool {
        let (now, shared) = (self.now(), &self.shared);
        let history = {
            let mut core = shared.core.lock();
            core.tick(now);
            core.history()
        };
        let released = shared.pins.enforce(history.superseded, shared.config.history_bytes);
        shared.metrics.released_reads.increment(released);
        shared.metrics.history_records.set(history.records as f64);
        shared.metrics.history_bytes.set(history.bytes as f64);
        let age = history
            .oldest
            .map_or(Duration::ZERO, |oldest| now.saturating_sub(oldest));
        shared.metrics.history_seconds.set(age.as_secs_f64());
        shared.reminders.ring()
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

    fn without_progress(&self) {
        tracing::warn!(
            resource = %self.shared.info.group_resource(),
            "the storage reports no progress: consistent reads are not served from the cache"
        );
        self.shared.no_progress.store(true, Ordering::Release);
        self.shared.waiters.dismiss();
    }
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
