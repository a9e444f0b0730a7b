//! `watch`: the initial state where one is asked for, then batches of changes, in revision order, until an error.
//!
//! The start is decided before the call returns: the initial list and the backend's watch from the revision after it
//! are both open then, so nothing is lost or doubled between them. Nothing is read ahead of the reader, but for a few
//! revisions while a key service is asked for the values of an earlier one: a reader that does not read holds back its
//! own backend stream and nothing else.

mod event;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{self, BoxFuture, Either, select};
use futures::stream::{self, BoxStream, FuturesOrdered};
use futures::{FutureExt, StreamExt};
use metrics::Counter;

use apiserver_storage_api::{
    Batch, List, ListAt, ListOptions, OnUnreadable, Page, ReadAt, Result, Revision, Scope, StorageError, Watch,
    WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_transform::Outcome;

use crate::convert::{self, Call};
use crate::error::KvError;
use crate::kv::{Kv, KvResult, KvWatch, KvWatchItem, WatchRequest};
use crate::store::Inner;
use crate::turn;

/// How long a watch that starts above the current revision waits for the store to get there.
const WAIT_FOR_START: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// So many revisions are decoded side by side, where a key service has to be asked.
const DECODED_AHEAD: usize = 16;

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
    ) -> Box<Live<K>> {
        let watched = Watched {
            store: Arc::clone(self),
            key: self.full_key(scope.as_str()),
            options: options.clone(),
            received: self.meter.counter("apiserver_storage_events_received_total"),
        };
        Box::new(Live {
            watched: Arc::new(watched),
            last,
            items: watch.items,
            waiting: FuturesOrdered::new(),
            behind: None,
        })
    }
}

type Step<K> = Option<(Result<WatchItem>, Phase<K>)>;

/// Where a watch is. It is moved with every item, so what it holds is on the heap.
enum Phase<K> {
    Initial(Box<Initial<K>>),
    Live(Box<Live<K>>),
    /// The last item was an error.
    Over,
}

struct Initial<K> {
    pages: BoxStream<'static, Result<Page>>,
    revision: Revision,
    live: Box<Live<K>>,
}

/// Who watches what.
struct Watched<K> {
    store: Arc<Inner<K>>,
    key: String,
    options: WatchOptions,
    /// Counts events.
    received: Counter,
}

/// The changes of a backend's watch.
struct Live<K> {
    watched: Arc<Watched<K>>,
    /// Everything up to here was delivered.
    last: Option<Revision>,
    items: BoxStream<'static, KvResult<KvWatchItem>>,
    /// What could not be decoded at once, and what came after it, in order.
    waiting: FuturesOrdered<BoxFuture<'static, Decoded>>,
    /// What ends the stream once all of that is delivered.
    behind: Option<Ended>,
}

/// How a backend's stream ended.
struct Ended(Option<KvError>);

/// What there is to tell of a revision, or why it cannot be told.
type Decoded = Result<(Revision, Told)>;

enum Told {
    /// Changes; none when nothing of the revision is in the watcher's view.
    Batch(Option<Batch>),
    Progress,
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
    async fn next(mut self: Box<Self>) -> Step<K> {
        loop {
            match self.decoded().await {
                // A store that shuts down ends its streams without an error: they can be resumed.
                None => return None,
                Some(Err(error)) => return Some((Err(error), Phase::Over)),
                Some(Ok((revision, told))) => match self.tell(revision, told) {
                    Ok(Some(item)) => return Some((Ok(item), Phase::Live(self))),
                    // There may be many on end that the watcher sees nothing of.
                    Ok(None) => turn::end().await,
                    Err(error) => return Some((Err(error), Phase::Over)),
                },
            }
        }
    }

    /// The item for a revision; none when there is nothing in it for the watcher.
    fn tell(&mut self, revision: Revision, told: Told) -> Result<Option<WatchItem>> {
        let Watched {
            store, key, options, ..
        } = &*self.watched;
        match told {
            Told::Progress => {
                // Progress may come late; it never says less than what was said before.
                let behind = self.last.is_some_and(|last| revision < last);
                if !options.progress || behind {
                    return Ok(None);
                }
                store.meter.bookmark();
                self.last = Some(revision);
                Ok(Some(WatchItem::Progress(revision)))
            }
            Told::Batch(batch) => {
                if self.last.is_some_and(|last| revision <= last) {
                    // Delivering it would double or reorder what the watcher has.
                    return Err(StorageError::internal(format!(
                        "backend sent revision {revision} of a watch that is at {:?}: key={key}",
                        self.last
                    )));
                }
                self.last = Some(revision);
                Ok(batch.map(WatchItem::Batch))
            }
        }
    }

    /// What comes next from the backend, decoded; none at its end. While values wait for a key service, what comes after
    /// them is taken in too, and waits its turn: nothing overtakes anything, errors included.
    async fn decoded(&mut self) -> Option<Decoded> {
        loop {
            let item = if self.waiting.is_empty() {
                if let Some(ended) = self.behind.take() {
                    return self.end(ended);
                }
                self.items.next().await
            } else if self.behind.is_some() || self.waiting.len() >= DECODED_AHEAD {
                return self.waiting.next().await;
            } else {
                match select(self.waiting.next(), self.items.next()).await {
                    Either::Left((decoded, _)) => return decoded,
                    Either::Right((item, _)) => item,
                }
            };
            let decoding = match item {
                None => {
                    self.behind = Some(Ended(None));
                    continue;
                }
                Some(Err(error)) => {
                    self.behind = Some(Ended(Some(error)));
                    continue;
                }
                Some(Ok(item)) => decode(&self.watched, item),
            };
            let decoding = match decoding {
                Outcome::Ready(decoded) if self.waiting.is_empty() => return Some(decoded),
                Outcome::Ready(decoded) => future::ready(decoded).boxed(),
                Outcome::Pending(decoding) => decoding,
            };
            self.waiting.push_back(decoding);
        }
    }

    fn end(&mut self, Ended(error): Ended) -> Option<Decoded> {
        match error {
            None | Some(KvError::Closed) => {
                self.behind = Some(Ended(None));
                None
            }
            Some(error) => Some(Err(convert::storage_error(error, Call::Watch(&self.watched.key)))),
        }
    }
}

/// What there is to tell of an item; at once, unless a key service has to be asked.
fn decode<K: Kv>(watched: &Arc<Watched<K>>, item: KvWatchItem) -> Outcome<'static, Decoded> {
    match item {
        KvWatchItem::Progress(revision) => Outcome::Ready(Ok((revision, Told::Progress))),
        KvWatchItem::Batch { revision, events } => {
            watched.received.increment(events.len() as u64);
            let batch = watched.batch(revision, events);
            batch.map(move |batch| Ok((revision, Told::Batch(batch?))))
        }
    }
}
