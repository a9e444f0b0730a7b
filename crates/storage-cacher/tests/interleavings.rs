//! The lock-free parts of the cache, the log with its cursors and the wakers of watchers, compiled over primitives that
//! hand the processor to another thread before every step, in thousands of random orders (shuttle). One writer appends,
//! forgets and wakes; watchers follow by the protocol of `src/watcher.rs`.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "a part of src/ is compiled here, and a panic is how a test fails"
)]

#[path = "../src/planted.rs"]
mod planted;

#[path = "../src/core"]
mod core {
    pub(crate) mod log;
    pub(crate) mod wake;
}

/// In place of `src/sync.rs`.
mod sync {
    use std::sync::Arc;

    pub(crate) use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    /// As the one of parking_lot: never poisoned.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    /// As the one of arc-swap: each call is one step.
    #[derive(Debug)]
    pub(crate) struct ArcSwapOption<T>(shuttle::sync::Mutex<Option<Arc<T>>>);

    impl<T> Default for ArcSwapOption<T> {
        fn default() -> Self {
            Self(shuttle::sync::Mutex::new(None))
        }
    }

    impl<T> ArcSwapOption<T> {
        pub(crate) fn load_full(&self) -> Option<Arc<T>> {
            self.0.lock().unwrap().clone()
        }

        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            let old = std::mem::replace(&mut *self.0.lock().unwrap(), value);
            // A chain is freed step by step; not under the lock.
            drop(old);
        }
    }
}

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use apiserver_storage_api::Revision;
use shuttle::sync::Mutex;

use crate::core::log::{Cursor, End, Epoch, Next, Record, Ring};
use crate::core::wake::{Place, Wakers};

const RECORDS: u64 = 5;
const ORDERS: usize = 3_000;

/// What the core's lock guards.
struct Log {
    ring: Ring,
    forgotten: u64,
}

struct Shared {
    log: Mutex<Log>,
    epoch: Arc<Epoch>,
    wakers: Arc<Wakers>,
}

fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::new(Log {
                ring: Ring::new(Revision::MIN),
                forgotten: 1,
            }),
            epoch: Epoch::new(Revision::MIN),
            wakers: Arc::default(),
        })
    }

    /// As `Core::apply` and what its effects do, with revisions from 2 on; every third one is of another kind, and is
    /// only told by the epoch. `keep`: so many revisions are not forgotten.
    fn write(&self, keep: u64) {
        for number in 2..2 + RECORDS {
            {
                let mut log = self.log.lock().unwrap();
                if number % 3 != 0 {
                    let record = Arc::new(Record::new(revision(number), Vec::new(), Duration::ZERO));
                    log.ring.push(&record);
                }
                self.epoch.raise(revision(number));
                if number > keep + 1 {
                    log.forgotten = number - keep;
                    let forgotten = revision(log.forgotten);
                    log.ring.forget(forgotten);
                }
            }
            self.wakers.wake();
        }
        {
            let _log = self.log.lock().unwrap();
            self.epoch.finish(End::Closed);
        }
        self.wakers.wake();
    }

    fn subscribe(&self) -> (Cursor, Place, u64) {
        let log = self.log.lock().unwrap();
        let position = self.epoch.through().get();
        (log.ring.at_tail(), self.wakers.join(), position)
    }

    /// Follows the log to its end. Returns the records that were seen, from where on, and whether it got lost.
    async fn follow(&self) -> (Vec<u64>, u64, bool) {
        let (mut cursor, place, start) = self.subscribe();
        let (mut position, mut seen) = (start, Vec::new());
        let lost = std::future::poll_fn(|context| {
            let mut waits = false;
            loop {
                let (end, through) = (self.epoch.end(), self.epoch.through().get());
                match cursor.advance() {
                    Next::Record(record, _) => {
                        let at = record.revision.get();
                        assert!(at > position, "{at} after {position}");
                        let missed = (position + 1..at).find(|missed| missed % 3 != 0);
                        assert_eq!(missed, None, "before {at}, after {position}");
                        position = at;
                        seen.push(at);
                    }
                    Next::Lost => return Poll::Ready(true),
                    Next::Empty => {
                        let missed = (position + 1..=through).find(|missed| missed % 3 != 0);
                        assert_eq!(missed, None, "up to {through}, after {position}");
                        position = position.max(through);
                        if end.is_some() {
                            return Poll::Ready(false);
                        }
                        if waits {
                            return Poll::Pending;
                        }
                        place.wait(context);
                        waits = true;
                    }
                }
            }
        });
        let lost = lost.await;
        (seen, start, lost)
    }
}

/// Everybody sees every record from where it began, whatever the order, and sleeps through none.
fn a_watcher_sees_every_record_and_sleeps_through_none() {
    let shared = Shared::new();
    let watchers: Vec<_> = (0..2)
        .map(|_| {
            let shared = Arc::clone(&shared);
            shuttle::thread::spawn(move || shuttle::future::block_on(shared.follow()))
        })
        .collect();
    shared.write(RECORDS);
    for watcher in watchers {
        let (seen, start, lost) = watcher.join().unwrap();
        let want: Vec<u64> = (start + 1..2 + RECORDS).filter(|number| number % 3 != 0).collect();
        assert!(!lost && seen == want, "{seen:?} from {start}, lost: {lost}");
    }
}

/// A watcher that the log has moved past is told so, and nobody is told without reason.
fn a_watcher_gets_lost_only_when_the_log_has_moved_past_it() {
    let shared = Shared::new();
    let own = Arc::clone(&shared);
    let watcher = shuttle::thread::spawn(move || shuttle::future::block_on(own.follow()));
    shared.write(1);
    let (seen, start, lost) = watcher.join().unwrap();
    let want: Vec<u64> = (start + 1..2 + RECORDS).filter(|number| number % 3 != 0).collect();
    let forgotten = shared.log.lock().unwrap().forgotten;
    if lost {
        let next = want.get(seen.len()).copied();
        assert!(
            next.is_some_and(|next| next <= forgotten),
            "lost before {next:?}, {forgotten} is forgotten"
        );
    }
    assert!(
        want.starts_with(&seen) && (lost || seen == want),
        "{seen:?} of {want:?}"
    );
}

fn check(name: &str, scenario: fn()) {
    shuttle::check_random(scenario, ORDERS);
    shuttle::check_pct(scenario, ORDERS, 3);
    println!("test {name} ... ok");
}

fn main() {
    println!("\nrunning 2 tests");
    check(
        "a_watcher_sees_every_record_and_sleeps_through_none",
        a_watcher_sees_every_record_and_sleeps_through_none,
    );
    check(
        "a_watcher_gets_lost_only_when_the_log_has_moved_past_it",
        a_watcher_gets_lost_only_when_the_log_has_moved_past_it,
    );
    println!("\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}
