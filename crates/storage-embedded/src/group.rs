//! One group of changes that become durable, and then visible, together.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use apiserver_storage_api::Revision;

use crate::record::Record;

/// What one commit writes.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) records: Vec<Arc<Record>>,
    /// Values of records as the file is to have them, where that is not as they are.
    pub(crate) packed: BTreeMap<Revision, Bytes>,
    /// The new lowest readable revision.
    pub(crate) compacted: Option<Revision>,
    /// Records whose time is over; compacted by an earlier group, so that no reader that sees them gone can miss why.
    pub(crate) removals: Vec<Removal>,
    pub(crate) coordination: Vec<(Arc<str>, Coordination)>,
}

/// A record to forget.
#[derive(Debug, Clone)]
pub(crate) struct Removal {
    pub(crate) key: Arc<str>,
    pub(crate) revision: Revision,
}

/// The state of a coordination key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coordination {
    /// How often it was written.
    pub(crate) version: u64,
    pub(crate) value: Bytes,
}

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.compacted.is_none() && self.removals.is_empty() && self.coordination.is_empty()
    }
}
