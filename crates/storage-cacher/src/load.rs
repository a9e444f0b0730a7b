//! The state as a whole: listed page by page into the cache, unless it is more than may be kept.
//
// concerns: storage-cacher/INIT-22: pages come in key order, decoded by the storage below, and the tree is built from
//   them as they are; there is no map in between, and readers are not kept waiting (also OPP-07).
// concerns: storage-cacher/SCALE-07: what a start costs beyond the storage's own list is one pass over the entries.

use apiserver_storage_api::time::jitter;
use apiserver_storage_api::{Entry, ListAt, ListOptions, OnUnreadable, Scope, StorageError};
use futures::StreamExt;

use crate::core::Listed;
use crate::feed::{Feed, NotLoaded};
use crate::planted::{Bug, planted};
use crate::status::State;

impl Feed {
    /// Takes over the whole state.
    pub(crate) async fn load(&mut self) -> Result<(), NotLoaded> {
        let (shared, began) = (&self.shared, self.now());
        let options = ListOptions {
            at: ListAt::MostRecent,
            unreadable: OnUnreadable::Include,
            ..ListOptions::default()
        };
        shared.shown.list_begins();
        let before = shared.inner.store_id().await?;
        let list = shared.inner.list(&Scope::all(shared.info.prefix()), options).await?;
        let revision = list.revision();
        let (mut entries, mut live): (Vec<Entry>, usize) = (Vec::new(), 0);
        let mut pages = list.into_pages();
        while let Some(page) = pages.next().await {
            let mut page = page?;
            live += page.entries.iter().map(Entry::weight).sum::<usize>();
            if shared.config.live_bytes.is_some_and(|limit| live > limit) {
                return Err(NotLoaded::TooLarge);
            }
            if entries.is_empty() {
                entries = page.entries;
            } else {
                entries.append(&mut page.entries);
            }
            if page.end.is_some() {
                break;
            }
        }
        let store = shared.inner.store_id().await?;
        if store != before {
            return Err(StorageError::internal("the storage became another one while it was listed").into());
        }
        let unreadable = entries.iter().filter(|entry| entry.attributes().is_none()).count();
        if unreadable > 0 {
            tracing::error!(resource = %shared.info.group_resource(), unreadable, "some stored objects are unreadable");
        }
        let now = self.now();
        let store_id = store.as_deref().map(Into::into);
        let listed = Listed::new(revision, store_id, entries, shared.info.indexes(), shared.loaded());
        if planted(Bug::TrustsTooEarly) {
            shared.shown.take_over(|| ());
            shared.config.clock.sleep(shared.config.retry_pause).await;
        }
        let effects = {
            let mut core = shared.core.lock();
            if shared.status.is_closed() {
                return Err(StorageError::Closed.into());
            }
            shared.shown.take_over(|| core.take_over(listed))
        };
        shared.status.set(State::Ready, now);
        effects.perform();
        shared.waiters.reach(revision);
        shared.metrics.loaded(revision, now.saturating_sub(began));
        self.store = store;
        Ok(())
    }

    /// Lets everybody read from the storage below, until there is little enough to be kept.
    pub(crate) async fn uncached(&mut self) {
        let shared = &self.shared;
        tracing::warn!(
            resource = %shared.info.group_resource(),
            limit = shared.config.live_bytes,
            "more is stored than the cache may keep: it is served from the storage below"
        );
        shared.status.set(State::Uncached, self.now());
        shared.shown.list_ends();
        shared.metrics.uncached.set(1.0);
        let effects = shared.core.lock().unload();
        effects.perform();
        shared.waiters.dismiss();
        loop {
            let pause = jitter(&*shared.config.rng, shared.config.uncached_period);
            shared.config.clock.sleep(pause).await;
            let limit = shared.config.live_bytes.unwrap_or(usize::MAX) as u64;
            // Some room, so that it does not come and go. Where nothing is known, listing tells.
            match shared.inner.stats().await {
                Ok(stats) if stats.count.saturating_mul(stats.average_size) > limit / 4 * 3 => {}
                _ => break,
            }
        }
        shared.metrics.uncached.set(0.0);
        shared.status.set(State::Pending(None), self.now());
    }
}
