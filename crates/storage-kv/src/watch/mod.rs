//! `watch`: the initial state where one is asked for, then batches of changes, in revision order, until an error.
//!
//! The start is decided before the call returns: the initial list and the backend's watch from the revision after it
//! are both open then, so nothing is lost or doubled between them. Nothing is buffered here: a reader that does not
//! read holds back its own backend stream and nothing else.

mod event;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use apiserver_storage_api::{
    List, ListAt, ListOptions, OnUnreadable, Page, ReadAt, Result, Revision, Scope, StorageError, Watch, WatchItem,
    WatchOptions, WatchStart,
};

use crate::convert::{self, Call};
use crate::error::KvError;
use crate::kv::{Kv, KvResult, KvWatch, KvWatchItem, WatchRequest};
use crate::store::Inner;
use crate::turn;

/// How long a watch that starts above the current revision waits for the store to get there.
const WAIT_FOR_START: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

// deviates: storage-api/WATCH-07: a start that is not reached in time is refused by the call, not by a first event.
// deviates: storage-api/WATCH-29: a start that is compacted is refused by the call too, not by a first event.
impl<K: Kv> Inner<K> {
    pub(crate) async fn watch(self: &Arc<Self>, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        let phase = match options.start {
            WatchStart::Now => {
                let watch = self.open(scope, &options, None).await?;
                Phase::Live(self.live(scope, &options, None, watch))
            }
            WatchStart::After(revision) => {
                let watch = self.open_after(scope, &options, revision).await?;
                Phase::Live(self.live(scope, &options, Some(revision), watch))
            }
            WatchStart::InitialState(at) => {
                let list = self.initial_state(scope, &options, at).await?;
                let revision = list.revision();
                let watch = self.open(scope, &options, Some(revision.next())).await?;
                let live = self.live(scope, &options, Some(revision), watch);
                Phase::Initial(Box::new(Initial {
                    pages: list.into_pages(),
                    revision,
                    live,
                }))
            }
        };
        Ok(Watch::new(stream::unfold(phase, Phase::next)))
    }

    async fn open(&self, scope: &Scope, options: &WatchOptions, from: Option<Revision>) -> Result<KvWatch> {
        let key = self.own_key(scope.as_str())?;
        let request = WatchRequest {
            key: key.clone(),
            prefix: matches!(scope, Scope::Under(_)),
            from,
            previous: options.previous || !options.predicate.is_empty(),
        };
        self.kv
            .watch(request)
            .await
            .map_err(|error| convert::storage_error(error, Call::Watch(&key)))
    }

    /// Opens a watch after a revision, waiting for the store to reach it.
    async fn open_after(&self, scope: &Scope, options: &WatchOptions, after: Revision) -> Result<KvWatch> {
        // The largest revision has no next one; the store is never there.
        if after < Revision::MAX {
            let watch = self.open(scope, options, Some(after.next())).await?;
            if watch.revision >= after {
                return Ok(watch);
            }
        }
        self.reach(scope, after).await?;
        self.open(scope, options, Some(after.next())).await
    }

    /// Waits until the store is at a revision.
    async fn reach(&self, scope: &Scope, asked: Revision) -> Result<()> {
        let clock = &self.config.clock;
        let give_up = clock.monotonic() + WAIT_FOR_START;
        loop {
            let now = self.timed("getCurrentResourceVersion", self.kv.now()).await;
            let current = now.map_err(|error| convert::storage_error(error, Call::Watch(scope.as_str())))?;
            if current >= asked {
                return Ok(());
            }
            let left = give_up.saturating_sub(clock.monotonic());
            if left.is_zero() {
                let retry_after = self.retry_hint();
                return Err(StorageError::TooLargeResourceVersion {
                    asked,
                    current,
                    retry_after,
                });
            }
            clock.sleep(left.min(LOOK_AGAIN)).await;
        }
    }

    async fn initial_state(self: &Arc<Self>, scope: &Scope, options: &WatchOptions, at: ReadAt) -> Result<List> {
        let at = match at {
            ReadAt::MostRecent => ListAt::MostRecent,
            ReadAt::Any => ListAt::Any,
            ReadAt::NotOlderThan(revision) => ListAt::NotOlderThan(revision),
        };
        let list = ListOptions {
            at,
            limit: None,
            predicate: options.predicate.clone(),
            unreadable: OnUnreadable::Include,
        };
        match self.list(scope, list.clone()).await {
            Err(StorageError::TooLargeResourceVersion { asked, .. }) => {
                self.reach(scope, asked).await?;
                self.list(scope, list).await
            }
            other => other,
        }
    }

    fn live(
        self: &Arc<Self>,
        scope: &Scope,
        options: &WatchOptions,
        last: Option<Revision>,
        watch: KvWatch,
    ) -> Live<K> {
        Live {
            store: Arc::clone(self),
            key: self.full_key(scope.as_str()),
            options: options.clone(),
            last,
            items: watch.items,
        }
    }
}

type Step<K> = Option<(Result<WatchItem>, Phase<K>)>;

/// Where a watch is.
enum Phase<K> {
    Initial(Box<Initial<K>>),
    Live(Live<K>),
    /// The last item was an error.
    Over,
}

struct Initial<K> {
    pages: BoxStream<'static, Result<Page>>,
    revision: Revision,
    live: Live<K>,
}

/// The changes of a backend's watch.
struct Live<K> {
    store: Arc<Inner<K>>,
    key: String,
    options: WatchOptions,
    /// Everything up to here was delivered.
    last: Option<Revision>,
    items: BoxStream<'static, KvResult<KvWatchItem>>,
}

impl<K: Kv> Phase<K> {
    async fn next(self) -> Step<K> {
        match self {
            Self::Initial(mut initial) => match initial.pages.next().await {
                Some(Ok(page)) => Some((Ok(WatchItem::Initial(page.entries)), Self::Initial(initial))),
                Some(Err(error)) => Some((Err(list_error(error)), Self::Over)),
                None => Some((Ok(WatchItem::InitialEnd(initial.revision)), Self::Live(initial.live))),
            },
            Self::Live(live) => live.next().await,
            Self::Over => None,
        }
    }
}

/// A watcher has no use for a continue token, and reads the text of watches (`storage-etcd3/EWATCH-11`).
fn list_error(error: StorageError) -> StorageError {
    if error.is_expired() {
        StorageError::expired_watch()
    } else {
        error
    }
}

impl<K: Kv> Live<K> {
    async fn next(mut self) -> Step<K> {
        loop {
            match self.items.next().await {
                // A store that shuts down ends its streams without an error: they can be resumed.
                None | Some(Err(KvError::Closed)) => return None,
                Some(Err(error)) => {
                    let error = convert::storage_error(error, Call::Watch(&self.key));
                    return Some((Err(error), Phase::Over));
                }
                Some(Ok(KvWatchItem::Progress(revision))) => {
                    // Progress may come late; it never says less than what was said before.
                    let behind = self.last.is_some_and(|last| revision < last);
                    if !self.options.progress || behind {
                        continue;
                    }
                    self.store.meter.bookmark();
                    self.last = Some(revision);
                    return Some((Ok(WatchItem::Progress(revision)), Phase::Live(self)));
                }
                Some(Ok(KvWatchItem::Batch { revision, events })) => match self.batch(revision, events).await {
                    // Nothing of it is in the watcher's view. There may be many such ones on end.
                    Ok(None) => turn::end().await,
                    Ok(Some(batch)) => return Some((Ok(WatchItem::Batch(batch)), Phase::Live(self))),
                    Err(error) => return Some((Err(error), Phase::Over)),
                },
            }
        }
    }
}
