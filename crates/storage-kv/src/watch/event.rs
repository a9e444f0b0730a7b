//! One backend event becomes one object event.

use std::sync::Arc;

use apiserver_storage_api::{Batch, Entry, Event, EventKind, Key, Result, Revision, Room, StorageError};
use apiserver_storage_transform::{Decrypted, Outcome, TransformError};

use super::Watched;
use crate::kv::{Kv, KvEvent, KvPair};

/// A value as the transformer gave it.
type Value = Result<Decrypted, TransformError>;

/// What an event is made of, decrypted.
struct Opened {
    key: Key,
    current: Option<Value>,
    previous: Option<Value>,
}

impl<K: Kv> Watched<K> {
    /// Everything of one revision that the watcher sees; `None` when that is nothing. It is there at once, unless a key
    /// service has to be asked.
    pub(super) fn batch(
        self: &Arc<Self>,
        revision: Revision,
        events: Vec<KvEvent>,
    ) -> Outcome<'static, Result<Option<Batch>>> {
        let mut seen = Vec::with_capacity(events.len());
        for (at, event) in events.iter().enumerate() {
            let Outcome::Ready(opened) = self.open(event) else {
                // Nothing was asked yet: that is done by whoever waits for it.
                return Outcome::Pending(Box::pin(Arc::clone(self).rest(revision, events, at, seen)));
            };
            if let Err(error) = self.look(revision, event, opened, &mut seen) {
                return Outcome::Ready(Err(error));
            }
        }
        Outcome::Ready(Ok(batch(revision, seen)))
    }

    /// A batch from one of its events on, asking for what has to be asked for.
    async fn rest(
        self: Arc<Self>,
        revision: Revision,
        events: Vec<KvEvent>,
        from: usize,
        mut seen: Vec<Event>,
    ) -> Result<Option<Batch>> {
        for event in events.iter().skip(from) {
            let opened = self.open(event).await;
            self.look(revision, event, opened, &mut seen)?;
        }
        Ok(batch(revision, seen))
    }

    /// Decrypts the values that the watcher needs; `None` for what is no object of the kind.
    fn open<'a>(&'a self, event: &'a KvEvent) -> Outcome<'a, Option<Opened>> {
        let Some(key) = self.store.object_key(&event.key) else {
            return Outcome::Ready(None);
        };
        let value = |pair: Option<&'a KvPair>| match pair {
            Some(pair) => self.store.unseal(&pair.key, pair.value.clone()).map(Some),
            None => Outcome::Ready(None),
        };
        let opened = |previous, current| Some(Opened { key, current, previous });
        let previous = event.previous.as_ref().filter(|_| self.has_previous(event));
        match (value(previous), value(event.current.as_ref())) {
            (Outcome::Ready(previous), Outcome::Ready(current)) => Outcome::Ready(opened(previous, current)),
            (previous, current) => Outcome::Pending(Box::pin(async move { opened(previous.await, current.await) })),
        }
    }

    /// Whether the watcher is to know the state before: it wants it, and there was one.
    fn has_previous(&self, event: &KvEvent) -> bool {
        (self.options.previous || !self.options.predicate.is_empty()) && !created(event)
    }

    /// Adds a change to what the watcher sees of its revision, if it does.
    fn look(&self, revision: Revision, event: &KvEvent, opened: Option<Opened>, seen: &mut Vec<Event>) -> Result<()> {
        self.store.sizes.event(revision, event);
        let Some(opened) = opened else { return Ok(()) };
        let event = self.event(revision, event, opened)?;
        if self.options.predicate.is_empty() {
            seen.push(event);
        } else {
            seen.extend(event.seen_by(&self.options.predicate));
        }
        Ok(())
    }

    /// A change, decoded. A value that nobody can read is an unreadable object in its event, which goes on: one bad
    /// value does not end the watch of everybody.
    // deviates: storage-api/WATCH-32: an unreadable object is delivered as such instead of ending the stream.
    // deviates: storage-api/WATCH-33: unreadable last content of a deleted object does not end the stream either.
    fn event(&self, revision: Revision, event: &KvEvent, opened: Opened) -> Result<Event> {
        let Opened { key, current, previous } = opened;
        let previous = match (&event.previous, previous) {
            (Some(pair), Some(value)) => Some(self.entry(&key, pair, value)?),
            // The state before is gone with the history that held it (`storage-etcd3/EWATCH-16`): whoever resumes here
            // would be refused, so the watch ends the same way.
            _ if self.has_previous(event) => return Err(StorageError::expired_watch()),
            _ => None,
        };
        let (kind, object) = match (&event.current, current) {
            (Some(pair), Some(value)) => {
                let kind = if created(event) {
                    EventKind::Added
                } else {
                    EventKind::Modified
                };
                (kind, Some(self.entry(&key, pair, value)?))
            }
            _ => (
                EventKind::Deleted,
                previous.as_ref().map(|previous| previous.at_revision(revision)),
            ),
        };
        Ok(Event {
            kind,
            key,
            revision,
            object,
            previous,
        })
    }

    fn entry(&self, key: &Key, pair: &KvPair, value: Value) -> Result<Entry> {
        let stored = self
            .store
            .unsealed(key.clone(), pair, pair.revision, value, &mut Room::apart())?;
        Ok(stored.entry)
    }
}

fn created(event: &KvEvent) -> bool {
    event.current.as_ref().is_some_and(|pair| pair.created == pair.revision)
}

fn batch(revision: Revision, seen: Vec<Event>) -> Option<Batch> {
    (!seen.is_empty()).then(|| Batch {
        revision,
        events: seen.into(),
    })
}
