//! Records in memory, by revision. Of a memory-only engine all there is; of a durable one the most recent writes, so
//! that what was just written is read and watched without touching the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use apiserver_storage_api::Revision;

use crate::record::Record;

pub(crate) struct RecordLog {
    records: BTreeMap<Revision, Arc<Record>>,
    /// Everything from here on that is kept at all is in the log.
    first: Revision,
    bytes: u64,
    limit: Option<u64>,
}

impl RecordLog {
    /// A log that is complete from `first` on and forgets its oldest records above `limit` bytes.
    pub(crate) fn new(first: Revision, limit: Option<u64>) -> Self {
        Self {
            records: BTreeMap::new(),
            first,
            bytes: 0,
            limit,
        }
    }

    pub(crate) fn first(&self) -> Revision {
        self.first
    }

    pub(crate) fn get(&self, revision: Revision) -> Option<&Arc<Record>> {
        self.records.get(&revision)
    }

    pub(crate) fn range(&self, from: Revision, to: Revision) -> impl Iterator<Item = &Arc<Record>> {
        self.records.range(from..=to).map(|(_, record)| record)
    }

    pub(crate) fn push(&mut self, record: &Arc<Record>) {
        self.bytes += record.cost();
        self.records.insert(record.revision, Arc::clone(record));
        let Some(limit) = self.limit else { return };
        while self.bytes > limit {
            let Some((revision, oldest)) = self.records.pop_first() else {
                return;
            };
            self.bytes = self.bytes.saturating_sub(oldest.cost());
            self.first = revision.next();
        }
    }

    pub(crate) fn remove(&mut self, revision: Revision) {
        if let Some(record) = self.records.remove(&revision) {
            self.bytes = self.bytes.saturating_sub(record.cost());
        }
    }
}
