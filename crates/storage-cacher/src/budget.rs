//! What the kept history of all caches of a process may cost together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_api::time::Clock;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::watch;

/// A limit on the history of all caches that share it. Cloning shares it.
///
/// History is what the caches keep beside their live state: superseded objects, for watchers that resume and for reads
/// of earlier states. When all caches together are over the limit, each one that holds more than its even share
/// forgets its oldest history, then gives up its slowest answers; and as long as that does not help, no answer is begun
/// that would keep yet more. Being over the limit wakes every cache, however quiet its kind is and whatever ails its
/// backend, so that none holds for good what others need.
///
/// Caches that share a budget also share a timer: all of them age their history at the same ticks.
#[derive(Debug, Clone)]
pub struct HistoryBudget(Arc<Inner>);

struct Inner {
    limit: usize,
    used: AtomicUsize,
    caches: AtomicUsize,
    /// The next tick, by its length.
    ticks: Mutex<Ticks>,
    /// Changes when the caches have come to hold more than they may.
    pressed: watch::Sender<()>,
}

type Ticks = BTreeMap<Duration, Shared<BoxFuture<'static, ()>>>;

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryBudget")
            .field("limit", &self.limit)
            .field("used", &self.used)
            .field("caches", &self.caches)
            .finish_non_exhaustive()
    }
}

impl HistoryBudget {
    /// At most so many bytes, roughly.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Inner {
            limit: bytes,
            used: AtomicUsize::new(0),
            caches: AtomicUsize::new(0),
            ticks: Mutex::default(),
            pressed: watch::Sender::default(),
        }))
    }

    /// Bytes that are in use.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Whether so much is in use that nothing should be added.
    pub(crate) fn is_exhausted(&self) -> bool {
        // The caches are given the time until their next tick to make room.
        let exhausted = self.used() > self.0.limit.saturating_add(self.0.limit / 8);
        if exhausted {
            self.press();
        }
        exhausted
    }

    /// Changes whenever some cache may have to make room.
    pub(crate) fn pressed(&self) -> watch::Receiver<()> {
        self.0.pressed.subscribe()
    }

    fn press(&self) {
        self.0.pressed.send_replace(());
    }

    /// Ends with the next tick of this length: one sleep for all that wait for it.
    pub(crate) fn tick(&self, clock: &Arc<dyn Clock>, length: Duration) -> Shared<BoxFuture<'static, ()>> {
        let mut ticks = self.0.ticks.lock();
        match ticks.get(&length).filter(|tick| tick.peek().is_none()) {
            Some(tick) => tick.clone(),
            None => {
                let tick = clock.sleep(length).shared();
                ticks.insert(length, tick.clone());
                tick
            }
        }
    }

    pub(crate) fn share(&self) -> Share {
        self.0.caches.fetch_add(1, Ordering::Relaxed);
        // One more makes the share of each smaller.
        if self.used() > self.0.limit {
            self.press();
        }
        Share {
            budget: self.clone(),
            own: 0,
        }
    }
}

impl Default for HistoryBudget {
    /// 512 MiB.
    fn default() -> Self {
        Self::new(512 << 20)
    }
}

/// What one cache uses of the budget. Dropping gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: HistoryBudget,
    own: usize,
}

impl Share {
    pub(crate) fn bytes(&self) -> usize {
        self.own
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.own += bytes;
        let Inner { limit, used, .. } = &*self.budget.0;
        let before = used.fetch_add(bytes, Ordering::Relaxed);
        if before <= *limit && before.saturating_add(bytes) > *limit {
            self.budget.press();
        }
    }

    pub(crate) fn remove(&mut self, bytes: usize) {
        let bytes = bytes.min(self.own);
        self.own -= bytes;
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether this cache must forget something for the sake of all.
    pub(crate) fn is_over(&self) -> bool {
        let Inner {
            limit, used, caches, ..
        } = &*self.budget.0;
        used.load(Ordering::Relaxed) > *limit && self.own > limit / caches.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.remove(self.own);
        self.budget.0.caches.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_more_than_its_share_gives_way() {
        let budget = HistoryBudget::new(100);
        let (mut large, mut small) = (budget.share(), budget.share());
        large.add(90);
        small.add(10);
        assert!(!large.is_over() && !small.is_over());
        small.add(20);
        assert!(large.is_over() && !small.is_over());
        large.remove(40);
        assert!(!large.is_over());
        assert_eq!(budget.used(), 80);
        drop(large);
        assert_eq!(budget.used(), 30);
    }

    #[test]
    fn all_are_woken_when_there_is_too_much_and_by_nothing_else() {
        let budget = HistoryBudget::new(80);
        let mut pressed = budget.pressed();
        let mut is_pressed = || {
            let changed = pressed.has_changed().unwrap();
            pressed.mark_unchanged();
            changed
        };
        let mut large = budget.share();
        large.add(80);
        assert!(!budget.is_exhausted() && !is_pressed());
        large.add(1);
        assert!(is_pressed(), "more than there may be");
        large.add(9);
        assert!(!budget.is_exhausted() && !is_pressed(), "that was said");
        let small = budget.share();
        assert!(is_pressed(), "the share of each is smaller now");
        large.add(1);
        assert!(budget.is_exhausted() && is_pressed(), "somebody was refused for it");
        large.remove(20);
        drop(small);
        assert!(!is_pressed());
        large.add(20);
        assert!(is_pressed(), "again");
    }
}
