//! When watchers are told about progress: each of them once in a period, not all of them at once, and shortly before
//! the end of those whose end is known.
//!
//! Watchers are spread over slots; the feed rings one slot after the other. So a watcher needs no timer of its own, and
//! a hundred thousand of them cost one. Who asks for progress by name gets it told at once, to all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::Context;
use std::time::Duration;

use apiserver_storage_api::time::{Rng, random_below};
use parking_lot::Mutex;

use crate::core::wake::{Place, Wakers};

const SLOTS: u32 = 60;
const SHORTEST_TICK: Duration = Duration::from_millis(20);
/// So long before its end a watch is told where it is.
const BEFORE_THE_END: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Reminders {
    slots: Box<[Arc<Slot>]>,
    /// Slots of watches that end at a known time, by the second in which they ring.
    ends: Mutex<BTreeMap<u64, Arc<Slot>>>,
    next: AtomicUsize,
    tick: Duration,
    asked: AtomicBool,
}

/// Watchers that are reminded together.
#[derive(Debug, Default)]
struct Slot {
    /// How often their time has come.
    rung: AtomicU32,
    /// How often progress was asked for by name.
    asked: AtomicU32,
    wakers: Arc<Wakers>,
}

impl Slot {
    fn ring(&self) {
        self.rung.fetch_add(1, Ordering::AcqRel);
        self.wakers.wake();
    }
}

/// A watcher's place in a slot.
#[derive(Debug)]
pub(crate) struct Reminder {
    slot: Arc<Slot>,
    place: Place,
    rung: u32,
    asked: u32,
    /// For a watch whose end is known: where it is reminded of that, once.
    end: Option<Box<(Arc<Slot>, Place)>>,
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
            slots: (0..slots).map(|_| Arc::default()).collect(),
            ends: Mutex::default(),
            next: AtomicUsize::new(0),
            tick,
            asked: AtomicBool::new(false),
        }
    }

    /// How often [`ring`](Self::ring) wants to be called.
    pub(crate) fn tick(&self) -> Duration {
        self.tick
    }

    /// Rings the next slot, and those of watches that are about to end. True when the round is complete.
    pub(crate) fn ring(&self, now: Duration) -> bool {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        if let Some(slot) = self.slots.get(at) {
            slot.ring();
        }
        loop {
            let due = {
                let mut ends = self.ends.lock();
                match ends.first_entry().filter(|first| *first.key() <= now.as_secs()) {
                    Some(first) => first.remove(),
                    None => break,
                }
            };
            due.ring();
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
                slot.asked.fetch_add(1, Ordering::AcqRel);
                slot.wakers.wake();
            }
        }
    }

    /// A place for a watcher; `end`: when its watch ends, as far as is known.
    pub(crate) fn join(&self, rng: &dyn Rng, end: Option<Duration>) -> Option<Reminder> {
        let at = random_below(rng, self.slots.len() as u64) as usize;
        let slot = Arc::clone(self.slots.get(at)?);
        let end = end.and_then(|end| end.checked_sub(BEFORE_THE_END)).map(|end| {
            let mut ends = self.ends.lock();
            let slot = Arc::clone(ends.entry(end.as_secs()).or_default());
            let place = slot.wakers.join();
            Box::new((slot, place))
        });
        Some(Reminder {
            place: slot.wakers.join(),
            rung: slot.rung.load(Ordering::Acquire),
            asked: slot.asked.load(Ordering::Acquire),
            slot,
            end,
        })
    }

    /// Whether anybody wants to be told.
    pub(crate) fn is_wanted(&self) -> bool {
        self.slots.iter().any(|slot| slot.wakers.taken() > 0)
    }

    /// Forgets the ends of watches that have ended before.
    pub(crate) fn sweep(&self) {
        self.ends.lock().retain(|_, slot| slot.wakers.taken() > 0);
    }
}

impl Reminder {
    /// Whether the watcher is to be told of progress now.
    pub(crate) fn due(&mut self) -> Option<Due> {
        let (rung, asked) = (
            self.slot.rung.load(Ordering::Acquire),
            self.slot.asked.load(Ordering::Acquire),
        );
        let ends = self.end.take_if(|end| end.0.rung.load(Ordering::Acquire) > 0).is_some();
        let due = match (asked == self.asked, rung == self.rung && !ends) {
            (false, _) => Some(Due::Asked),
            (true, false) => Some(Due::Time),
            (true, true) => None,
        };
        (self.rung, self.asked) = (rung, asked);
        due
    }

    /// Wakes the watcher when [`due`](Self::due) has something to say.
    pub(crate) fn wait(&self, context: &Context<'_>) {
        self.place.wait(context);
        if let Some(end) = &self.end {
            end.1.wait(context);
        }
    }
}

#[cfg(test)]
mod tests {
    use apiserver_storage_api::time::SeededRng;

    use super::*;

    // covers: storage-cacher/BKM-04, storage-cacher/BKM-05, storage-cacher/BKM-10, storage-cacher/BKM-11, storage-cacher/CONST-04
    #[test]
    fn everybody_is_reminded_once_in_a_period_and_before_the_end() {
        let at = Duration::from_secs;
        let reminders = Reminders::new(at(60));
        assert_eq!(reminders.tick(), at(1));
        let rng = SeededRng::new(3);
        let join = |end: Option<u64>| reminders.join(&rng, end.map(at)).unwrap();
        let (mut endless, mut short, mut other, mut over) = (join(None), join(Some(12)), join(Some(12)), join(Some(1)));
        assert_eq!(
            reminders.ends.lock().len(),
            1,
            "one slot for one second; none for what is over already"
        );
        let mut told = [0, 0, 0];
        for second in 1..=120 {
            reminders.ring(at(second));
            let due = [endless.due(), short.due(), other.due()].map(|due| due == Some(Due::Time));
            assert_eq!(
                due[1] && due[2],
                second == 10 || due[0] && due[1] && due[2],
                "at {second}"
            );
            for (told, due) in told.iter_mut().zip(due) {
                *told += usize::from(due);
            }
        }
        assert_eq!(told, [2, 3, 3], "twice in two periods, and once before the end");
        over.due();
        drop(join(Some(1_000)));
        reminders.sweep();
        assert!(reminders.ends.lock().is_empty(), "who has left leaves nothing behind");
    }
}
