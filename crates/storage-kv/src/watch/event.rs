//! One backend event becomes one object event.

use std::sync::Arc;

use apiserver_storage_api::{Batch, Event, EventKind, Result, Revision, StorageError};

use super::Watched;
use crate::kv::{Kv, KvEvent};

impl<K: Kv> Watched<K> {
    /// Everything of one revision that the watcher sees; `None` when that is nothing.
    pub(super) async fn batch(self: Arc<Self>, revision: Revision, events: Vec<KvEvent>) -> Result<Option<Batch>> {
        self.store
            .meter
            .count("apiserver_storage_events_received_total", events.len() as u64);
        let mut seen = Vec::with_capacity(events.len());
        for event in events {
            self.store.sizes.event(revision, &event);
            let Some(event) = self.event(revision, &event).await? else {
                continue;
            };
            if self.options.predicate.is_empty() {
                seen.push(event);
            } else {
                seen.extend(event.seen_by(&self.options.predicate));
            }
        }
        Ok((!seen.is_empty()).then(|| Batch {
            revision,
            events: seen.into(),
        }))
    }

    /// A change, decoded. A value that nobody can read is an unreadable object in its event, which goes on: one bad
    /// value does not end the watch of everybody.
    // deviates: storage-api/WATCH-32: an unreadable object is delivered as such instead of ending the stream.
    // deviates: storage-api/WATCH-33: unreadable last content of a deleted object does not end the stream either.
    async fn event(&self, revision: Revision, event: &KvEvent) -> Result<Option<Event>> {
        let Some(key) = self.store.object_key(&event.key) else {
            return Ok(None);
        };
        let wanted = self.options.previous || !self.options.predicate.is_empty();
        let created = event.current.as_ref().is_some_and(|pair| pair.created == pair.revision);
        let previous = match event.previous.as_ref().filter(|_| wanted && !created) {
            Some(pair) => Some(self.store.read(key.clone(), pair, pair.revision).await?.entry),
            // The state before is gone with the history that held it (`storage-etcd3/EWATCH-16`): whoever resumes here
            // would be refused, so the watch ends the same way.
            None if wanted && !created => return Err(StorageError::expired_watch()),
            None => None,
        };
        let (kind, object) = match &event.current {
            Some(pair) => {
                let kind = if created { EventKind::Added } else { EventKind::Modified };
                (
                    kind,
                    Some(self.store.read(key.clone(), pair, pair.revision).await?.entry),
                )
            }
            None => (
                EventKind::Deleted,
                previous.as_ref().map(|previous| previous.at_revision(revision)),
            ),
        };
        Ok(Some(Event {
            kind,
            key,
            revision,
            object,
            previous,
        }))
    }
}
