//! When watchers are told about progress: each of them once in a period, not all of them at once.
//!
//! Watchers are spread over slots; the feed rings one slot after the other. So a watcher needs no timer of its own, and
//! a hundred thousand of them cost one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_api::time::{Rng, random_below};
use tokio::sync::watch;

const SLOTS: u32 = 60;
const SHORTEST_TICK: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Reminders {
    slots: Box<[watch::Sender<()>]>,
    next: AtomicUsize,
    tick: Duration,
}

impl Reminders {
    pub(crate) fn new(period: Duration) -> Self {
        let ticks = period.as_nanos() / SHORTEST_TICK.as_nanos();
        let slots = u32::try_from(ticks).unwrap_or(SLOTS).clamp(1, SLOTS);
        let tick = (period / slots).max(Duration::from_millis(1));
        Self {
            slots: (0..slots).map(|_| watch::Sender::new(())).collect(),
            next: AtomicUsize::new(0),
            tick,
        }
    }

    /// How often [`ring`](Self::ring) wants to be called.
    pub(crate) fn tick(&self) -> Duration {
        self.tick
    }

    /// Rings the next slot. True when the round is complete.
    pub(crate) fn ring(&self) -> bool {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        if let Some(slot) = self.slots.get(at) {
            slot.send_replace(());
        }
        at + 1 == self.slots.len()
    }

    pub(crate) fn join(&self, rng: &dyn Rng) -> Option<watch::Receiver<()>> {
        let at = random_below(rng, self.slots.len() as u64) as usize;
        self.slots.get(at).map(watch::Sender::subscribe)
    }

    /// Whether anybody wants to be told.
    pub(crate) fn is_wanted(&self) -> bool {
        self.slots.iter().any(|slot| slot.receiver_count() > 0)
    }
}
