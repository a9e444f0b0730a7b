//! What was shown through this cache, so that nobody is shown an earlier state after that.
//!
//! What is served from memory shows itself: states at hand only move forward. What the storage below answers, to reads,
//! writes and watches that go there, may be ahead of the state at hand, and is recorded here. Whoever is to be served from
//! memory reads one number first, the floor, and then the state at hand: that must have reached it.
//!
//! The floor is about one store. When somebody noticed that the store is another one by now, no state at hand is shown
//! until the new one was listed. That list is begun after everything that was shown before it, and is as late as any of
//! it; so what counts from then on is what was shown since the list began.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use apiserver_storage_api::Revision;
use parking_lot::Mutex;

/// The floor when the state at hand is that of an earlier store.
const DOUBTED: u64 = u64::MAX;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Shown {
    floor: AtomicU64,
    /// The latest revision that was shown since a list began.
    since_list: AtomicU64,
    /// A list is under way that may become the state at hand.
    listing: AtomicBool,
    /// Held to put another state in the place of the one at hand, and to doubt one.
    taking_over: Mutex<()>,
}

/// What a state at hand must have reached to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor(u64);

impl Floor {
    /// Every state may be shown.
    pub(crate) const NONE: Self = Self(0);

    /// Whether the state of a revision may be shown.
    pub(crate) fn allows(self, revision: Revision) -> bool {
        revision.get() >= self.0
    }

    /// Whether no state at hand may be shown.
    pub(crate) fn is_doubted(self) -> bool {
        self.0 == DOUBTED
    }

    /// The latest revision that was shown; none: nothing, or nothing of the store that is there now.
    pub(crate) fn revision(self) -> Option<Revision> {
        Revision::new(self.0).filter(|_| !self.is_doubted())
    }
}

impl Shown {
    /// To be read before the state at hand: then the state is not that of an earlier store.
    pub(crate) fn floor(&self) -> Floor {
        Floor(self.floor.load(Ordering::SeqCst))
    }

    /// Somebody is shown the storage below as of a revision, or something that happened then.
    pub(crate) fn record(&self, revision: Revision) {
        // Both: the floor may be that of an earlier store while another one is being listed.
        let is_known = |known: &AtomicU64| known.load(Ordering::SeqCst) >= revision.get();
        if is_known(&self.since_list) && is_known(&self.floor) {
            return;
        }
        // In this order: who takes over reads the first after it has set the second.
        self.since_list.fetch_max(revision.get(), Ordering::SeqCst);
        self.floor.fetch_max(revision.get(), Ordering::SeqCst);
    }

    /// A list begins that may become the state at hand.
    pub(crate) fn list_begins(&self) {
        self.listing.store(true, Ordering::SeqCst);
        self.since_list.store(0, Ordering::SeqCst);
    }

    /// The list comes to nothing.
    pub(crate) fn list_ends(&self) {
        self.listing.store(false, Ordering::SeqCst);
    }

    /// Whether a state may come to hand that is earlier than what is told below now.
    pub(crate) fn is_listing(&self) -> bool {
        self.listing.load(Ordering::SeqCst)
    }

    /// What was listed becomes the state at hand, by `publish`. What is known to be doubtful until then goes with the
    /// state that it is about.
    pub(crate) fn take_over<T>(&self, publish: impl FnOnce() -> T) -> T {
        let _taking_over = self.taking_over.lock();
        let published = publish();
        self.floor
            .store(self.since_list.load(Ordering::SeqCst), Ordering::SeqCst);
        // What was recorded in between.
        self.floor
            .fetch_max(self.since_list.load(Ordering::SeqCst), Ordering::SeqCst);
        self.list_ends();
        published
    }

    /// Shows no state at hand any more until another one has taken over, if `is_at_hand`: if the one that the doubt is
    /// about is still there.
    pub(crate) fn doubt(&self, is_at_hand: impl FnOnce() -> bool) {
        let _taking_over = self.taking_over.lock();
        if is_at_hand() {
            self.floor.store(DOUBTED, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Revision {
        Revision::new(revision).unwrap()
    }

    #[test]
    fn a_doubted_state_is_not_shown_until_another_one_has_taken_its_place() {
        let shown = Shown::default();
        shown.record(at(1_000));
        shown.doubt(|| false);
        assert_eq!(shown.floor().revision(), Some(at(1_000)), "that state is gone already");
        shown.doubt(|| true);
        assert!(shown.floor().is_doubted());
        shown.list_begins();
        shown.record(at(60));
        assert!(shown.floor().is_doubted() && !shown.floor().allows(at(1_000)));
        // Until the new state is there the old one is, and must not be shown.
        let while_published = shown.take_over(|| shown.floor());
        assert!(while_published.is_doubted());
        assert_eq!(shown.floor().revision(), Some(at(60)), "shown since the list began");
        assert!(!shown.is_listing());
    }

    #[test]
    fn the_floor_only_rises_while_the_state_is_the_same() {
        let shown = Shown::default();
        assert!(shown.floor().allows(at(1)) && shown.floor().revision().is_none());
        for (revision, floor) in [(5, 5), (3, 5), (7, 7)] {
            shown.record(at(revision));
            assert_eq!(shown.floor().revision(), Some(at(floor)));
        }
        assert!(!shown.floor().allows(at(6)) && shown.floor().allows(at(7)));
        shown.list_begins();
        shown.take_over(|| ());
        assert!(shown.floor().allows(at(1)), "the list is later than all of it");
        shown.record(at(1_000));
        shown.list_begins();
        shown.record(at(60));
        shown.take_over(|| ());
        assert_eq!(
            shown.floor().revision(),
            Some(at(60)),
            "of the new store, although an earlier one was further"
        );
    }
}
