//! A page that is looked at while it comes: what is found in it.

use std::future::poll_fn;
use std::ops::Bound;
use std::pin::pin;
use std::sync::Arc;

use futures::future::join_all;

use apiserver_storage_api::{Entry, KeyText, Result, Room, StorageError};
use apiserver_storage_transform::Outcome;

use super::Reader;
use super::coming::Coming;
use crate::convert::Stored;
use crate::kv::{Kv, KvPair, RangeRequest};
use crate::parts::RangeEnd;
use crate::turn;

/// So many values are looked at before others have their turn.
const CHUNK: usize = 64;
/// So many values are decrypted at a time, where a key service has to be asked for each.
const DECRYPTED: usize = 16;

/// A page on its way or here, and what was found in it so far.
pub(super) struct Looking<K> {
    reader: Arc<Reader<K>>,
    pub(super) coming: Coming<K>,
    pub(super) found: Found,
    /// Entries that are wanted of it.
    left: usize,
    /// What is looked at next.
    chunk: Vec<KvPair>,
    /// How many pairs were looked at since others had their turn.
    stretch: usize,
    /// Why nothing more of it can be looked at.
    failed: Option<StorageError>,
}

// concerns: storage-etcd3/PAGE-20: a list hands its pages on as they are, so nothing grows over the whole of it; the
// entries of a page take up a pointer each.
/// What was found in a page.
#[derive(Default)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    /// How many pairs were looked at, from the first on, and the key of the last of them.
    pub(super) looked_at: u64,
    pub(super) last: Option<KeyText>,
    /// How many of them could be read.
    pub(super) evaluated: u64,
    room: Room,
}

impl<K: Kv> Looking<K> {
    pub(super) fn new(reader: &Arc<Reader<K>>, request: RangeRequest, left: Option<u64>) -> Self {
        Self {
            reader: Arc::clone(reader),
            coming: Coming::new(reader, request),
            found: Found {
                room: Room::shared(),
                ..Found::default()
            },
            left: left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX)),
            chunk: Vec::with_capacity(CHUNK),
            stretch: 0,
            failed: None,
        }
    }

    /// Waits for what is to be looked at next. Nothing is where all was looked at or enough is found: what is cut off is
    /// not decrypted.
    pub(super) async fn fetch(&mut self) -> Result<bool> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let wanted = self.left.saturating_sub(self.found.entries.len());
        if wanted == 0 {
            return Ok(false);
        }
        self.coming.more().await?;
        self.coming.take(CHUNK.min(wanted), &mut self.chunk);
        Ok(!self.chunk.is_empty())
    }

    /// Looks at what was fetched, while the rest is on its way and another page beside it. It is let go then.
    pub(super) async fn look(&mut self, mut beside: Option<&mut Self>) -> Result<()> {
        self.weigh();
        let (coming, meter) = (&mut self.coming, &self.reader.store.meter);
        let start = meter.now();
        let looked = {
            let mut looking = pin!(self.reader.examine(&mut self.chunk, &mut self.found));
            poll_fn(|cx| {
                // First, so that they are on their way while what is here is looked at.
                coming.poll(cx);
                if let Some(beside) = &mut beside {
                    beside.coming.poll(cx);
                }
                looking.as_mut().poll(cx)
            })
            .await
        };
        coming.looked(meter.now().saturating_sub(start));
        looked?;
        self.stretch += self.chunk.len();
        self.chunk.clear();
        if self.stretch >= CHUNK {
            self.stretch = 0;
            turn::end().await;
        }
        Ok(())
    }

    /// What is known at the end of the page.
    pub(super) async fn end(&mut self) -> Result<RangeEnd> {
        self.coming.all().await;
        self.coming.failure()?;
        let end = self.coming.end();
        let end = end.ok_or_else(|| StorageError::internal("a page that came to no end"))?;
        if !end.more && self.found.looked_at == self.coming.progress().pairs {
            self.weigh();
        }
        Ok(end)
    }

    /// Takes all of the page, looking at it while it comes.
    pub(super) async fn follow(&mut self) {
        while self.failed.is_none() && self.coming.is_coming() {
            let looked = match self.fetch().await {
                Ok(true) => self.look(None).await,
                Ok(false) => break,
                Err(error) => Err(error),
            };
            self.failed = looked.err();
        }
        self.coming.all().await;
    }

    /// Takes note of how large the fetched pairs are. Without any: the range ends there.
    fn weigh(&mut self) {
        let (coming, chunk) = (&self.coming, &self.chunk);
        let from = match &self.found.last {
            None => Bound::Included(coming.request.start.as_str()),
            Some(last) => Bound::Excluded(&**last),
        };
        let to = match (chunk.last(), coming.request.end.as_deref()) {
            (Some(last), _) => Bound::Included(&*last.key),
            (None, Some(end)) => Bound::Excluded(end),
            (None, None) => Bound::Unbounded,
        };
        self.reader.store.sizes.part((from, to), coming.state(), chunk);
        if let Some(last) = chunk.last() {
            self.found.last = Some(last.key.clone());
        }
    }
}

impl<K: Kv> Reader<K> {
    /// Reads some pairs, side by side where a key service has to be asked.
    // deviates: storage-api/GAP-10: what only costs time of a processor is done in turn, by the reader's own task, while
    // the next page is on its way. More threads for one list would be taken from other requests.
    async fn examine(&self, chunk: &mut [KvPair], found: &mut Found) -> Result<()> {
        found.looked_at += chunk.len() as u64;
        let mut pairs = chunk
            .iter_mut()
            .filter_map(|pair| Some((self.store.object_key(&pair.key)?, pair)));
        let store = &*self.store;
        while let Some((key, pair)) = pairs.next() {
            let value = std::mem::take(&mut pair.value);
            match store.unseal(&pair.key, value) {
                Outcome::Ready(opened) => {
                    let mut stored = store.unsealed(key, pair, pair.revision, opened, &mut found.room)?;
                    // Let go with the others of the chunk, not between two copies.
                    pair.value = stored.plaintext.take().unwrap_or_default();
                    self.take(stored, found)?;
                }
                Outcome::Pending(opened) => {
                    let pair = &*pair;
                    // Where one answer has to be waited for, so have those of its neighbours.
                    let room = &mut found.room;
                    let first = async move { store.unsealed(key, pair, pair.revision, opened.await, room) };
                    let rest = pairs.by_ref().take(DECRYPTED - 1);
                    let rest = rest.map(|(key, pair)| store.read(key, pair, pair.revision));
                    let (first, rest) = futures::join!(first, join_all(rest));
                    for stored in std::iter::once(first).chain(rest) {
                        self.take(stored?, found)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&self, stored: Stored, found: &mut Found) -> Result<()> {
        let entry = stored.entry;
        found.evaluated += u64::from(entry.unreadable_reason().is_none());
        if let Some(entry) = self.store.select(entry, &self.predicate, self.unreadable)? {
            found.entries.push(entry);
        }
        Ok(())
    }
}
