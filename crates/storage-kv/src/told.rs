//! Which writes callers were told of.
//!
//! Two callers may turn one state into the same bytes. Where the answer of the loser is lost, the winner's write looks
//! like its own: same bytes, right after the same state. What tells them apart is that the winner was told already. So
//! the last revisions that were told of are remembered, and nobody is told of one twice.

use std::sync::atomic::{AtomicU64, Ordering};

use apiserver_storage_api::Revision;

/// So many revisions are remembered, at most; an answer is found to be lost within some seconds.
const REMEMBERED: u64 = 256;

/// The writes of one store that callers were told of.
#[derive(Debug)]
pub(crate) struct Told {
    /// Each revision in the place of its remainder.
    revisions: Box<[AtomicU64]>,
    latest: AtomicU64,
}

impl Told {
    pub(crate) fn new() -> Self {
        Self {
            revisions: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            latest: AtomicU64::new(0),
        }
    }

    /// A caller is about to be told that its write was applied at this revision. Whether nobody was told that before.
    pub(crate) fn tell(&self, revision: Revision) -> bool {
        let revision = revision.get();
        self.latest.fetch_max(revision, Ordering::Relaxed);
        let place = usize::try_from(revision % REMEMBERED).unwrap_or_default();
        let before = self
            .revisions
            .get(place)
            .map(|told| told.swap(revision, Ordering::AcqRel));
        before != Some(revision)
    }

    /// A revision with, most likely, as many digits as the next one will have.
    pub(crate) fn latest(&self) -> Revision {
        Revision::new(self.latest.load(Ordering::Relaxed)).unwrap_or(Revision::MIN)
    }
}
