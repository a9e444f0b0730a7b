//! When watchers are told about progress: each of them once in a period, not all of them at once.
//!
//! Watchers are spread over slots; the feed rings one slot after the other. So a watcher needs no timer of its own, and
//! a hundred thousand of them cost one. Who asks for progress by name gets it told at once, to all.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_api::time::{Rng, random_below};
use tokio::sync::watch;

const SLOTS: u32 = 60;
const SHORTEST_TICK: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Reminders {
    /// Each carries how often progress was asked for by name.
    slots: Box<[watch::Sender<u64>]>,
    next: AtomicUsize,
    tick: Duration,
    asked: AtomicBool,
}

/// A watcher's place in a slot.
#[derive(Debug)]
pub(crate) struct Reminder {
    slot: watch::Receiver<u64>,
    asked: u64,
}

/// Why a watcher is reminded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Its time has come: it is told what is new.
    Time,
    /// Somebody asked: it is told in any case.
    Asked,
}

impl Reminders {
    pub(crate) fn new(period: Duration) -> Self {
        let ticks = period.as_nanos() / SHORTEST_TICK.as_nanos();
        let slots = u32::try_from(ticks).unwrap_or(SLOTS).clamp(1, SLOTS);
        let tick = (period / slots).max(Duration::from_millis(1));
        Self {
            slots: (0..slots).map(|_| watch::Sender::new(0)).collect(),
            next: AtomicUsize::new(0),
            tick,
            asked: AtomicBool::new(false),
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
            slot.send_modify(|_| {});
        }
        at + 1 == self.slots.len()
    }

    /// The next progress of the backend is to be told to everybody.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// The backend has reported progress.
    pub(crate) fn answer(&self) {
        if self.asked.swap(false, Ordering::AcqRel) {
            for slot in &self.slots {
                slot.send_modify(|asked| *asked += 1);
            }
        }
    }

    pub(crate) fn join(&self, rng: &dyn Rng) -> Option<Reminder> {
        let at = random_below(rng, self.slots.len() as u64) as usize;
        let slot = self.slots.get(at)?.subscribe();
        let asked = *slot.borrow();
        Some(Reminder { slot, asked })
    }

    /// Whether anybody wants to be told.
    pub(crate) fn is_wanted(&self) -> bool {
        self.slots.iter().any(|slot| slot.receiver_count() > 0)
    }
}

impl Reminder {
    /// Whether the watcher is to be told of progress now.
    pub(crate) fn due(&mut self) -> Option<Due> {
        if !self.slot.has_changed().unwrap_or(false) {
            return None;
        }
        let asked = *self.slot.borrow_and_update();
        let due = if asked == self.asked { Due::Time } else { Due::Asked };
        self.asked = asked;
        Some(due)
    }

    /// Ends when [`due`](Self::due) has something to say; never once the cache is gone.
    pub(crate) async fn wait(&mut self) {
        match self.slot.changed().await {
            Ok(()) => self.slot.mark_changed(),
            Err(_) => std::future::pending().await,
        }
    }
}
