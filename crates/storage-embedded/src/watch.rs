//! Watches: cursors over history. A watch holds its position and at most one part of history; a slow one falls
//! behind alone, reads from the disk what memory no longer has, and ends when compaction has passed it.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvEvent, KvPair, KvResult, KvWatch, KvWatchItem, WatchRequest};

use crate::engine::{Engine, Signal};
use crate::error::Trouble;
use crate::reader::{Scan, Scanned};
use crate::record::Record;

/// Events that one part holds at most.
pub(crate) const EVENTS_PER_PART: usize = 256;
/// Records that one part looks at, at most.
pub(crate) const RECORDS_PER_PART: usize = 4096;
/// Bytes of values after which a part ends.
pub(crate) const BYTES_PER_PART: u64 = 1 << 20;

struct Watcher {
    engine: Arc<Engine>,
    signal: watch::Receiver<Signal>,
    key: Arc<str>,
    prefix: bool,
    previous: bool,
    /// The first revision that was not looked at.
    cursor: Revision,
    /// Answered requests for progress.
    progress: u64,
    ready: VecDeque<KvWatchItem>,
    ended: bool,
}

/// Starts a watch.
pub(crate) fn watch(engine: &Arc<Engine>, request: WatchRequest) -> KvResult<KvWatch> {
    engine.check()?;
    let mut signal = engine.subscribe();
    let progress = signal.borrow_and_update().progress;
    let (revision, compacted) = {
        let visible = engine.visible();
        (visible.head, visible.compacted)
    };
    let cursor = request.from.unwrap_or(revision.next());
    if cursor < compacted {
        return Err(KvError::Compacted {
            compacted: Some(compacted),
        });
    }
    let watcher = Watcher {
        engine: Arc::clone(engine),
        signal,
        key: Arc::from(request.key),
        prefix: request.prefix,
        previous: request.previous,
        cursor,
        progress,
        ready: VecDeque::new(),
        ended: false,
    };
    Ok(KvWatch {
        revision,
        items: watcher.into_stream(),
    })
}

impl Watcher {
    fn into_stream(self) -> BoxStream<'static, KvResult<KvWatchItem>> {
        stream::unfold(self, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<KvResult<KvWatchItem>> {
        if self.ended {
            return None;
        }
        let item = self.step().await;
        self.ended = item.is_err();
        Some(item)
    }

    async fn step(&mut self) -> KvResult<KvWatchItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            let signal = *self.signal.borrow_and_update();
            if signal.ended {
                self.engine.check()?;
                return Err(KvError::Closed);
            }
            if self.cursor <= signal.head {
                self.advance(signal.head).await?;
            } else if self.progress < signal.progress {
                self.progress = signal.progress;
                return Ok(KvWatchItem::Progress(signal.head));
            } else if self.signal.changed().await.is_err() {
                return Err(KvError::Closed);
            }
        }
    }

    /// Reads the next part of history, up to `head` at most.
    async fn advance(&mut self, head: Revision) -> KvResult<()> {
        let scan = Scan {
            key: Arc::clone(&self.key),
            prefix: self.prefix,
            from: self.cursor,
            to: head,
        };
        let recent = self.engine.scan_recent(&scan);
        let scanned = match recent {
            Some(scanned) => scanned,
            None => self.engine.reader.scan(scan).await?,
        };
        let mut before = self.previous_of(&scanned.records).await?;
        // Compaction is published before anything is forgotten: what was read is complete if it is still allowed.
        let compacted = self.engine.compacted();
        if self.cursor < compacted {
            return Err(KvError::Compacted {
                compacted: Some(compacted),
            });
        }
        for record in &scanned.records {
            let previous = before.pop_front().flatten();
            let event = KvEvent {
                key: Arc::clone(&record.key).into(),
                current: record.pair(),
                previous,
            };
            self.ready.push_back(KvWatchItem::Batch {
                revision: record.revision,
                events: vec![event],
            });
        }
        self.cursor = scanned.through.unwrap_or(head).next();
        Ok(())
    }

    /// The pairs before each record; empty when nobody asked.
    async fn previous_of(&self, records: &[Arc<Record>]) -> KvResult<VecDeque<Option<KvPair>>> {
        if !self.previous {
            return Ok(VecDeque::new());
        }
        let visible = self.engine.visible();
        let mut found = Vec::with_capacity(records.len());
        for record in records {
            let version = record
                .previous
                .and_then(|previous| visible.index.live_at(&record.key, previous));
            // The index may have a version from before only because the wanted one is compacted.
            found.push(
                version
                    .map(|(_, version)| version)
                    .filter(|version| Some(version.revision) == record.previous),
            );
        }
        let wanted = records
            .iter()
            .zip(&found)
            .filter_map(|(record, version)| version.map(|version| (Arc::clone(&record.key), version)))
            .collect();
        let mut values = self.engine.values(wanted).await?.into_iter();
        let mut pairs = VecDeque::with_capacity(records.len());
        for (record, version) in records.iter().zip(found) {
            let Some(version) = version else {
                pairs.push_back(None);
                continue;
            };
            let value = values.next().flatten();
            if value.is_none() && self.engine.compacted() < record.revision {
                return Err(Trouble::damaged(&record.key, version.revision, "value is missing"));
            }
            pairs.push_back(value.map(|value| version.pair(&record.key, value)));
        }
        Ok(pairs)
    }
}

impl Engine {
    /// A part of history from memory; `None` when memory does not go back so far.
    fn scan_recent(&self, scan: &Scan) -> Option<Scanned> {
        let log = self.log.read();
        if scan.from < log.first() {
            return None;
        }
        let mut scanned = Scanned {
            records: Vec::new(),
            through: Some(scan.to),
        };
        let mut bytes = 0;
        for (looked_at, record) in log.range(scan.from, scan.to).enumerate() {
            if scan.matches(&record.key) {
                bytes += record.cost();
                scanned.records.push(Arc::clone(record));
            }
            let full = scanned.records.len() >= EVENTS_PER_PART || bytes >= BYTES_PER_PART;
            if full || looked_at + 1 >= RECORDS_PER_PART {
                scanned.through = Some(record.revision);
                break;
            }
        }
        Some(scanned)
    }
}
