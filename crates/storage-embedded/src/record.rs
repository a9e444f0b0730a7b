//! What the engine stores: one record per revision, and the version of a key that the index keeps of it.

use std::sync::Arc;

use bytes::Bytes;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvPair, LeaseId};

/// Bytes of the fields of a record's rows.
const ROWS: u64 = 64;

/// One applied write.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) revision: Revision,
    pub(crate) key: Arc<str>,
    /// Absent: the key was deleted.
    pub(crate) value: Option<Bytes>,
    /// The revision that created the key; of a deletion, the key that it ended.
    pub(crate) created: Revision,
    /// The revision of the live value that this write replaced.
    pub(crate) previous: Option<Revision>,
    pub(crate) lease: Option<LeaseId>,
    /// Bytes of the value as the file has it, where it is packed; else zero.
    pub(crate) packed: u32,
}

/// A record without its key and value: what the index keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) revision: Revision,
    pub(crate) created: Revision,
    pub(crate) lease: Option<LeaseId>,
    /// Bytes of the value.
    pub(crate) bytes: u32,
    /// Bytes of the value as the file has it, where it is packed; else zero.
    pub(crate) packed: u32,
    pub(crate) live: bool,
}

/// Bytes of a value. None is longer: larger ones are refused.
pub(crate) fn size(value: &[u8]) -> u32 {
    u32::try_from(value.len()).unwrap_or(u32::MAX)
}

impl Record {
    pub(crate) fn version(&self) -> Version {
        Version {
            revision: self.revision,
            created: self.created,
            lease: self.lease,
            bytes: self.value.as_ref().map_or(0, |value| size(value)),
            packed: self.packed,
            live: self.value.is_some(),
        }
    }

    /// The pair that this record made; none for a deletion.
    pub(crate) fn pair(&self) -> Option<KvPair> {
        self.value
            .as_ref()
            .map(|value| self.version().pair(&self.key, value.clone()))
    }

    /// What keeping this record costs, roughly.
    pub(crate) fn cost(&self) -> u64 {
        self.version().cost(&self.key)
    }
}

impl Version {
    pub(crate) fn pair(&self, key: &Arc<str>, value: Bytes) -> KvPair {
        KvPair {
            key: Arc::clone(key).into(),
            value,
            revision: self.revision,
            created: self.created,
            lease: self.lease,
        }
    }

    /// Bytes that this version takes for who reads it: the value, the key, and the fields of its two rows. Bounds of
    /// history count these, however small the file has them.
    pub(crate) fn cost(&self, key: &str) -> u64 {
        u64::from(self.bytes) + key.len() as u64 + ROWS
    }

    /// Bytes of the value as the file has it.
    #[cfg(feature = "durable")]
    pub(crate) fn stored(&self) -> u32 {
        if self.packed > 0 { self.packed } else { self.bytes }
    }

    /// Bytes that this version takes in the file, roughly: a large row has pages of its own, a power of two of them;
    /// small rows share pages, half of which are free on the average.
    #[cfg(feature = "durable")]
    pub(crate) fn footprint(&self, key: &str) -> u64 {
        const PAGE: u64 = 4096;
        match u64::from(self.stored()) + key.len() as u64 + ROWS {
            large if large > PAGE / 3 => large.max(PAGE).next_power_of_two(),
            small => small * 2,
        }
    }
}
