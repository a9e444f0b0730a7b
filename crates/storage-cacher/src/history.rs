//! History from before the cache: read once from the storage below, for everybody who resumes there.
//!
//! After a start all clients come back with revisions from before the first list, of which an empty log knows nothing.
//! One watch of the storage below, from the earliest revision that is asked for, puts what happened since in front of
//! the log; those who come meanwhile wait for it. What the storage has forgotten, or what would take more than half of
//! the history budget, is left to each watch of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{Batch, Event, Result, Revision, Scope, StorageError, WatchItem, WatchOptions, WatchStart};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cacher::Shared;
use crate::core::log::Epoch;

/// The storage below has so long to tell its history.
const LONGEST: Duration = Duration::from_secs(30);

/// Who asks for history.
#[derive(Debug, Default)]
pub(crate) struct Back {
    wanted: Mutex<Wanted>,
    /// Changes when a reading has ended.
    ended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Wanted {
    /// The earliest start that somebody waits for.
    from: Option<Revision>,
    /// Starts below this revision cannot be had in this epoch.
    refused: Option<(Arc<Epoch>, Revision)>,
}

impl Back {
    /// Asks for history from a revision on; none: it cannot be had.
    fn want(&self, epoch: &Arc<Epoch>, from: Revision) -> Option<watch::Receiver<()>> {
        let mut wanted = self.wanted.lock();
        if let Some((own, below)) = &wanted.refused
            && Arc::ptr_eq(own, epoch)
            && from < *below
        {
            return None;
        }
        wanted.from = Some(wanted.from.map_or(from, |own| own.min(from)));
        Some(self.ended.subscribe())
    }

    /// What is to be read.
    pub(crate) fn take(&self) -> Option<Revision> {
        self.wanted.lock().from.take()
    }

    fn refuse(&self, epoch: Arc<Epoch>, below: Revision) {
        self.wanted.lock().refused = Some((epoch, below));
    }
}

impl Shared {
    /// Waits until the log reaches back to a revision, or is known not to.
    pub(crate) async fn reach_back(&self, from: Revision) {
        let mut timeout = None;
        loop {
            let (epoch, base) = self.core.lock().begins();
            if from >= base {
                return;
            }
            let Some(mut ended) = self.back.want(&epoch, from) else {
                return;
            };
            self.feed_wake.notify_one();
            let timeout = timeout.get_or_insert_with(|| self.config.clock.sleep(self.config.freshness_timeout));
            tokio::select! {
                biased;
                // The sender lives as long as the cache.
                _ = ended.changed() => {}
                () = timeout => return,
            }
        }
    }

    /// Reads history from a revision on, and tells those who wait for it.
    pub(crate) async fn read_back(self: Arc<Self>, from: Revision) {
        let (epoch, base) = self.core.lock().begins();
        let compacted = self.inner.compacted_revision().and_then(Revision::previous);
        let from = compacted.map_or(from, |compacted| compacted.max(from));
        if from < base {
            let timeout = self.config.clock.sleep(LONGEST);
            let read = tokio::select! {
                biased;
                read = self.read_until(from, base) => read,
                () = timeout => Err(StorageError::internal("the storage did not tell its history in time")),
            };
            let now = self.config.clock.monotonic();
            match read {
                Ok((since, batches)) => {
                    let count = batches.len();
                    if !self.core.lock().extend((&epoch, base), since, batches, now) {
                        self.back.refuse(epoch, base);
                    } else if since > from {
                        self.back.refuse(epoch, since);
                    }
                    tracing::debug!(resource = %self.info.group_resource(), count, %since, "read history");
                }
                Err(error) => {
                    tracing::debug!(resource = %self.info.group_resource(), %error, "cannot read history");
                    let below = if error.is_expired() { from.next() } else { base };
                    self.back.refuse(epoch, below);
                }
            }
        } else {
            // Everything that can be had is there already.
            self.back.refuse(epoch, from);
        }
        self.back.ended.send_replace(());
    }

    /// Everything that happened above `from` and up to `base`, as far back as there is room: above the first revision
    /// that is returned.
    async fn read_until(&self, from: Revision, base: Revision) -> Result<(Revision, Vec<Batch>)> {
        let options = WatchOptions {
            progress: true,
            ..WatchOptions::from_start(WatchStart::After(from))
        };
        let mut watch = self.inner.watch(&Scope::all(self.info.prefix()), options).await?;
        let store = self.inner.store_id().await?;
        if self
            .loaded()
            .is_none_or(|root| root.store.as_deref() != store.as_deref())
        {
            return Err(StorageError::internal("the storage is another one now"));
        }
        let (mut since, mut bytes, mut batches) = (from, 0, VecDeque::new());
        let ask = async {
            loop {
                // Best effort: without progress, a later change says the same.
                let _ = self.inner.request_progress().await;
                self.config.clock.sleep(self.config.progress_period).await;
            }
        };
        futures::pin_mut!(ask);
        loop {
            let item = tokio::select! {
                biased;
                item = watch.next() => item,
                () = &mut ask => continue,
            };
            match item {
                Some(Ok(WatchItem::Batch(batch))) if batch.revision <= base => {
                    let at = batch.revision;
                    bytes += weight(&batch);
                    batches.push_back(batch);
                    while bytes > self.config.history_bytes / 2 {
                        let Some(first) = batches.pop_front() else { break };
                        bytes -= weight(&first);
                        since = first.revision;
                    }
                    if at == base {
                        return Ok((since, batches.into()));
                    }
                }
                Some(Ok(WatchItem::Batch(_))) => return Ok((since, batches.into())),
                Some(Ok(WatchItem::Progress(revision))) if revision >= base => return Ok((since, batches.into())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(StorageError::internal("the storage's watch ended")),
            }
        }
    }
}

fn weight(batch: &Batch) -> usize {
    let weight = |event: &Event| {
        let both = [&event.object, &event.previous];
        both.into_iter().flatten().map(|entry| entry.weight()).sum::<usize>()
    };
    batch.events.iter().map(weight).sum()
}
