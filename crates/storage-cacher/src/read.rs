//! `get` and `list`: who answers, the cache or the storage below, and from which state.
//!
//! | asked for | answered from |
//! |---|---|
//! | get, most recent | below: one read there is as cheap as asking for the revision |
//! | get or list, any | the state at hand once it has reached what somebody was shown; else below |
//! | get or list, not older than R | the state at hand once it has reached R, and what somebody was shown |
//! | list, most recent; continue at the latest | the state at hand once it has reached the backend's revision of after the call; else below |
//! | list, exactly R; continue at R | the state of R while history reaches back to it; else below |
//!
//! While nothing was listed yet, what costs the storage below no more than a page goes there, and the rest is told to
//! come back. All lists that go below share one limit.
//
// concerns: storage-cacher/DLG-50: what a request may cost is estimated by the front, from its options alone.
// concerns: storage-cacher/CMP-04: how the storage below learns of compactions is its own affair; it is asked with every
//   exact read (also CONST-09).
// concerns: storage-cacher/IDX-06: an index names keys in key order; nothing is sorted or copied, and it is used where it
//   leaves a quarter or less to look at.
// concerns: storage-cacher/OPP-13: an embedded storage answers "now" from memory and reports progress at once; a
//   consistent read over it costs two wake-ups.
// concerns: storage-cacher/SCALE-03: a namespace is a range of keys (also SCALE-04): readers take no lock that the
//   writer holds.
// deviates: storage-cacher/DLG-30: lists of one key are served from memory too (also DLG-31, DLG-43, DLG-47).
// deviates: storage-cacher/LIST-08: a continued list honours its limit whatever resourceVersion came with it.
// deviates: storage-cacher/FRSH-07: a reader that leaves is forgotten at once.
// deviates: storage-cacher/FRSH-08: a change wakes the readers that it satisfies.
// deviates: storage-cacher/NRDY-04: consistent lists go below, under a limit, instead of being refused.
// deviates: storage-cacher/NRDY-11: the old state goes on serving those who take any, while the new one is listed.
// deviates: storage-cacher/SNAP-05: the state of a kept revision is rebuilt from a kept root and the log (also SNAP-01,
//   SNAP-03, SNAP-09, SNAP-10), so history reaches exactly as far for lists as for watches.
// deviates: storage-cacher/SNAP-14: indexes serve earlier states and later pages too.
// deviates: storage-cacher/IDX-02: the smallest index is used, and none where a walk is cheaper.
// deviates: storage-cacher/CMP-01: the compacted revision is looked at by each exact read (also CMP-02).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use apiserver_storage_api::{
    ContinueToken, Entry, GetOptions, Key, List, ListAt, ListEnd, ListOptions, OnUnreadable, Page, ReadAt, Result,
    Revision, Scope, SelectionPredicate, StorageError,
};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};

use crate::cacher::Shared;
use crate::core::root::{Released, Root, Selected, Step, Walk, is_selected};
use crate::metrics::{Fallback, Metrics};
use crate::planted::{Bug, planted};
use crate::shown::Floor;

/// Objects that are looked at in one go. A list that is through with less comes in one piece. The simulation has a few.
const CHUNK: usize = if cfg!(test) { 3 } else { 4_096 };
/// When a reader is told to come back for a revision that was not reached.
const RETRY_FRESHNESS: Duration = Duration::from_secs(1);

/// Why the cache cannot serve a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// The time is over, or nothing has moved for so long that it will not help to wait.
    Timeout(Revision),
    /// The backend does not tell how far its watch is.
    NoProgress,
    /// There is no state at all.
    Gone,
}

impl Shared {
    pub(crate) async fn get(&self, key: &Key, options: GetOptions) -> Result<Entry> {
        self.check_key(key.as_str())?;
        let root = match options.at {
            ReadAt::MostRecent => None,
            ReadAt::Any => self.not_before_shown(None).await?,
            ReadAt::NotOlderThan(revision) => self.not_before_shown(Some(revision)).await?,
        };
        let Some(root) = root else {
            let entry = self.inner.get(key, options).await;
            return self.told(key, entry).await;
        };
        let entry = root
            .get(key.as_str())
            .ok_or_else(|| StorageError::KeyNotFound { key: key.to_string() })?;
        entry.record()?;
        Ok(entry.clone())
    }

    pub(crate) async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        self.check_scope(scope)?;
        match &options.at {
            ListAt::Any => {
                if self.at_hand(scope, &options).await?.is_none() {
                    return self.below(scope, options).await;
                }
                match self.not_before_shown(None).await? {
                    // Clients that take any state have always been given all of it.
                    Some(root) => {
                        let options = ListOptions { limit: None, ..options };
                        self.serve(&root, root.revision, scope, None, options)
                    }
                    None => self.below(scope, options).await,
                }
            }
            ListAt::NotOlderThan(revision) => {
                let revision = *revision;
                if self.at_hand(scope, &options).await?.is_none() {
                    return self.below(scope, options).await;
                }
                match self.not_before_shown(Some(revision)).await? {
                    Some(root) => self.serve(&root, root.revision, scope, None, options),
                    None => self.below(scope, options).await,
                }
            }
            ListAt::MostRecent => self.consistent(scope, None, options).await,
            ListAt::Exact(revision) => self.exact(scope, *revision, None, options).await,
            ListAt::Continue(token) => {
                let (token, start) = (token.clone(), token.start_in(scope));
                match (token.revision(), scope) {
                    (Some(revision), Scope::Under(_)) => self.exact(scope, revision, start, options).await,
                    // A list of one key has no pages; its token means nothing.
                    (_, Scope::Key(_)) | (None, _) => self.consistent(scope, start, options).await,
                }
            }
        }
    }

    /// A key or scope of another resource would find nothing here, which is no answer.
    pub(crate) fn check_scope(&self, scope: &Scope) -> Result<()> {
        self.check_key(scope.as_str())
    }

    fn check_key(&self, key: &str) -> Result<()> {
        let prefix = self.info.prefix().as_str();
        if key.starts_with(prefix) {
            return Ok(());
        }
        Err(StorageError::InvalidKey {
            message: format!("invalid key: {key:?} lacks resource prefix: {prefix:?}"),
        })
    }

    /// The state at hand; none: ask below.
    async fn at_hand(&self, scope: &Scope, options: &ListOptions) -> Result<Option<Arc<Root>>> {
        if let Some(root) = self.loaded() {
            return Ok(Some(root));
        }
        let is_page = options.limit.is_some() && options.predicate.is_empty();
        if is_page || matches!(scope, Scope::Key(_)) || self.status.is_closed() || self.status.is_uncached() {
            return Ok(None);
        }
        self.wait_ready().await
    }

    /// Waits a moment for a cache that is about to become ready; none: it keeps nothing, ask below.
    pub(crate) async fn wait_ready(&self) -> Result<Option<Arc<Root>>> {
        tokio::select! {
            biased;
            () = self.status.settled() => {}
            () = self.config.clock.sleep(self.config.ready_timeout) => {}
        }
        match self.current() {
            None if !self.status.is_uncached() => Err(self.status.too_many_requests(self.config.clock.monotonic())),
            root => Ok(root),
        }
    }

    /// The state once it has reached a revision. `consistent`: the revision is the backend's current one, which may
    /// belong to another kind, so that only a progress report can bring the cache there; who waits for it can be served
    /// by the backend, and does not wait for a cache that does not move.
    pub(crate) async fn reach(&self, revision: Revision, consistent: bool) -> Result<Arc<Root>, Behind> {
        if self.shown.floor().is_doubted() {
            // Somebody was answered by another store already; its revisions say nothing about this state.
            return Err(Behind::Gone);
        }
        if let Some(root) = self.loaded().filter(|root| root.revision >= revision) {
            return Ok(root);
        }
        let began = self.config.clock.monotonic();
        let reached = self.wait_for(revision, consistent).await;
        if !matches!(reached, Err(Behind::NoProgress | Behind::Gone)) {
            self.metrics.waited(self.config.clock.monotonic().saturating_sub(began));
        }
        reached
    }

    async fn wait_for(&self, revision: Revision, consistent: bool) -> Result<Arc<Root>, Behind> {
        let config = &self.config;
        let mut timeout = config.clock.sleep(config.freshness_timeout);
        // How far the cache is, and until when it may stand still there.
        let mut stands: Option<(Revision, BoxFuture<'static, ()>)> = None;
        loop {
            let mut ticket = self.waiters.join(revision);
            // Looked at in the queue: what comes from here on wakes the ticket.
            let at = match self.loaded() {
                Some(root) if root.revision >= revision => return Ok(root),
                None => return Err(Behind::Gone),
                Some(_) if consistent && self.no_progress.load(Ordering::Acquire) => return Err(Behind::NoProgress),
                Some(root) => root.revision,
            };
            self.feed_wake.notify_one();
            // Without progress only a change of this very kind can bring the cache there.
            let impatient = consistent || self.no_progress.load(Ordering::Acquire);
            if impatient && stands.as_ref().is_none_or(|(own, _)| *own < at) {
                stands = Some((at, config.clock.sleep(config.progress_timeout)));
            }
            let still = async {
                match &mut stands {
                    Some((_, still)) => still.await,
                    None => std::future::pending().await,
                }
            };
            let late = tokio::select! {
                biased;
                () = ticket.reached() => continue,
                () = &mut timeout => true,
                () = still => false,
            };
            match self.loaded() {
                Some(root) if root.revision >= revision => return Ok(root),
                // It has moved since it was looked at.
                Some(root) if !late && root.revision > at => {}
                Some(root) => return Err(Behind::Timeout(root.revision)),
                None => return Err(Behind::Gone),
            }
        }
    }

    /// The state once it is not older than a revision; none: the storage below knows.
    async fn reach_or_ask(&self, revision: Revision) -> Result<Option<Arc<Root>>> {
        match self.reach(revision, false).await {
            Ok(root) => Ok(Some(root)),
            Err(Behind::Timeout(current)) if !self.no_progress.load(Ordering::Acquire) => {
                Err(too_large(revision, current))
            }
            Err(_) => Ok(None),
        }
    }

    /// The state once it is not older than asked, nor than what somebody was shown; none: the storage below knows.
    /// Where the storage reports no progress the cache may not get for long to what was shown, and what is at hand is all
    /// there is.
    async fn not_before_shown(&self, least: Option<Revision>) -> Result<Option<Arc<Root>>> {
        let floor = match self.shown.floor() {
            _ if planted(Bug::ForgetsShown) || least.is_some() && planted(Bug::TakesAskedForShown) => Floor::NONE,
            floor => floor,
        };
        let Some(root) = self.loaded() else { return Ok(None) };
        if floor.allows(root.revision) && least.is_none_or(|least| root.revision >= least) {
            return Ok(Some(root));
        }
        if floor.is_doubted() {
            return Ok(None);
        }
        let no_progress = self.no_progress.load(Ordering::Acquire);
        match (least, floor.revision()) {
            // Who asks for more than was shown may be ahead of the storage, too.
            (Some(least), _) if no_progress || floor.allows(least) => self.reach_or_ask(least).await,
            (_, Some(shown)) if !no_progress => Ok(self.reach(shown, true).await.ok()),
            _ => Ok(Some(root)),
        }
    }

    /// A reader is shown a list from below, which may be the first that is heard of another store. `floor` and `root` are
    /// of before the question.
    async fn show_list(&self, revision: Revision, floor: Floor, root: Option<&Root>) -> Result<()> {
        let store = self.inner.store_id().await?;
        if let Some(root) = self.loaded().filter(|root| root.store.as_deref() != store.as_deref()) {
            self.suspect_reset(&root);
        }
        if let Some(root) = root.filter(|_| !floor.is_doubted() && !floor.allows(revision)) {
            // More was shown of that store than this one has.
            self.suspect_reset(root);
        }
        self.shown.record(revision);
        Ok(())
    }

    /// A list that reflects everything that was acknowledged before it was asked for.
    async fn consistent(&self, scope: &Scope, start: Option<String>, options: ListOptions) -> Result<List> {
        let floor = self.shown.floor();
        let Some(before) = self.current().filter(|_| !self.no_progress.load(Ordering::Acquire)) else {
            return self.below(scope, options).await;
        };
        let now = self
            .now
            .ask(&self.inner)
            .await
            .inspect_err(|_| self.metrics.consistent_read(false, Fallback::No))?;
        let is_behind = now.revision < before.revision || !floor.allows(now.revision);
        if !planted(Bug::TrustsAnyStore) && (is_behind || now.store != before.store) {
            // The cache knows of revisions that the backend never had: it is another store now.
            self.suspect_reset(&before);
            return self.below(scope, options).await;
        }
        let now = now.revision;
        match self.reach(now, true).await {
            Ok(root) => {
                let list = self.serve(&root, root.revision, scope, start, options);
                self.metrics.consistent_read(list.is_ok(), Fallback::No);
                list
            }
            Err(Behind::Timeout(current)) if !self.config.fallback => {
                self.metrics.consistent_read(false, Fallback::Skipped);
                Err(StorageError::TooManyRequests {
                    cause: too_large(now, current).to_string(),
                    retry_after: RETRY_FRESHNESS,
                })
            }
            Err(_) => {
                let list = self.below(scope, options).await;
                self.metrics.consistent_read(list.is_ok(), Fallback::Yes);
                list
            }
        }
    }

    /// A list of the state of one revision.
    async fn exact(
        &self,
        scope: &Scope,
        revision: Revision,
        start: Option<String>,
        options: ListOptions,
    ) -> Result<List> {
        let compacted = self
            .inner
            .compacted_revision()
            .is_some_and(|compacted| revision < compacted);
        let Some(current) = self.current().filter(|_| !compacted) else {
            return self.below(scope, options).await;
        };
        // Without progress, a cache whose kind is quiet never gets there.
        if current.revision < revision && self.no_progress.load(Ordering::Acquire) {
            return self.below(scope, options).await;
        }
        drop(current);
        match self.reach(revision, false).await {
            Ok(_) => {}
            Err(Behind::Timeout(current)) => return Err(too_large(revision, current)),
            Err(Behind::NoProgress | Behind::Gone) => return self.below(scope, options).await,
        }
        let (past, epoch) = {
            let core = self.core.lock();
            (core.past(revision), Arc::clone(core.epoch()))
        };
        let Some(past) = past else {
            return self.below(scope, options).await;
        };
        let kept = past.is_kept();
        let root = past.build(self.info.indexes());
        if !kept {
            self.core.lock().keep(Arc::clone(&root), &epoch);
        }
        self.serve(&root, revision, scope, start, options)
    }

    /// A list from the storage below, under the limit.
    async fn below(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        let place = self.places.take(&self.config).await?;
        let (floor, root) = match options.at {
            // An earlier state is no sign of an earlier store.
            ListAt::Exact(_) | ListAt::Continue(_) => (Floor::NONE, None),
            _ => (self.shown.floor(), self.loaded()),
        };
        let list = self.inner.list(scope, options).await?;
        let revision = list.revision();
        self.show_list(revision, floor, root.as_deref()).await?;
        // A list of a large state is read for long, and what it began with is not kept for it.
        drop(root);
        let end = self.config.clock.monotonic() + self.config.backend_list_time;
        Ok(List::new(
            revision,
            self.places.keep(place, list.into_pages().boxed(), end),
        ))
    }

    /// A list of a state in memory.
    fn serve(
        &self,
        root: &Arc<Root>,
        revision: Revision,
        scope: &Scope,
        start: Option<String>,
        options: ListOptions,
    ) -> Result<List> {
        let walk = root.walk(scope, start.as_deref(), &options.predicate, self.info.indexes());
        let limit = options.limit.filter(|_| matches!(scope, Scope::Under(_)));
        let left = limit.map(|limit| usize::try_from(limit.get()).unwrap_or(usize::MAX));
        let mut scan = Scan {
            metrics: Arc::clone(&self.metrics),
            index: walk.index(),
            walk,
            revision,
            scope: scope.clone(),
            predicate: options.predicate,
            unreadable: options.unreadable,
            left,
        };
        self.metrics.listed(scan.index);
        let page = match scan.chunk() {
            Ok(page) if page.end.is_none() => page,
            // Complete, or it fails with its first page.
            page => return Ok(List::new(revision, stream::iter([page]).boxed())),
        };
        if self.config.history_budget.is_exhausted() {
            return Err(exhausted());
        }
        self.pins.add(&scan.walk);
        let rest = stream::unfold(Some(scan), next_page);
        Ok(List::new(revision, stream::iter([Ok(page)]).chain(rest).boxed()))
    }
}

/// The next page that is not empty, or the last one; nothing after a failure.
async fn next_page(scan: Option<Scan>) -> Option<(Result<Page>, Option<Scan>)> {
    let mut scan = scan?;
    loop {
        match scan.chunk() {
            Ok(page) if page.end.is_some() => return Some((Ok(page), None)),
            Ok(page) if page.entries.is_empty() => tokio::task::yield_now().await,
            Ok(page) => return Some((Ok(page), Some(scan))),
            Err(error) => return Some((Err(error), None)),
        }
    }
}

/// A list that is being read from memory. Keeps its state alive.
struct Scan {
    metrics: Arc<Metrics>,
    index: Option<usize>,
    walk: Walk,
    revision: Revision,
    scope: Scope,
    predicate: SelectionPredicate,
    unreadable: OnUnreadable,
    /// How many more entries are wanted.
    left: Option<usize>,
}

impl Scan {
    fn chunk(&mut self) -> Result<Page> {
        let wanted = self.left.unwrap_or(usize::MAX);
        let mut entries = Vec::with_capacity(wanted.min(self.walk.left()).min(CHUNK));
        let (mut fault, mut examined) = (None, 0);
        let (predicate, unreadable) = (&self.predicate, self.unreadable);
        let walked = self.walk.examine(CHUNK, |entry| {
            examined += 1;
            match is_selected(entry, predicate, unreadable) {
                Selected::Yes => entries.push(entry.clone()),
                Selected::No => {}
                Selected::Fault => {
                    fault = Some(entry.clone());
                    return Step::Stop;
                }
            }
            if entries.len() >= wanted {
                Step::Stop
            } else {
                Step::Next
            }
        });
        walked.map_err(|Released| too_slow())?;
        self.metrics.fetched(self.index, examined, entries.len());
        if let Some(unreadable) = fault {
            unreadable.record()?;
        }
        if let Some(left) = &mut self.left {
            *left -= entries.len();
        }
        let end = match (self.left, entries.last()) {
            (Some(0), Some(last)) => Some(self.cut_off(last)?),
            _ if self.walk.left() == 0 => Some(ListEnd::default()),
            _ => None,
        };
        Ok(Page { entries, end })
    }

    /// How a list ends whose limit was reached: with a token if the range has anything behind the last entry.
    fn cut_off(&self, last: &Entry) -> Result<ListEnd> {
        let root = self.walk.root().map_err(|Released| too_slow())?;
        let behind = root.count_behind(&self.scope, last.key().as_str());
        Ok(match &self.scope {
            Scope::Under(prefix) if behind > 0 => ListEnd {
                next: ContinueToken::after(self.revision, prefix, last.key().as_str()),
                remaining: self.predicate.is_empty().then_some(behind as u64),
            },
            _ => ListEnd::default(),
        })
    }
}

/// What is answered to those whose answer would keep yet another state alive.
pub(crate) fn exhausted() -> StorageError {
    StorageError::TooManyRequests {
        cause: "the watch caches keep as much history as they may together, and have not made room yet".into(),
        retry_after: RETRY_FRESHNESS,
    }
}

fn too_slow() -> StorageError {
    StorageError::TooManyRequests {
        cause: "the list was read so slowly that its state had to be given up".into(),
        retry_after: RETRY_FRESHNESS,
    }
}

pub(crate) fn too_large(asked: Revision, current: Revision) -> StorageError {
    StorageError::TooLargeResourceVersion {
        asked,
        current,
        retry_after: RETRY_FRESHNESS,
    }
}
