//! The parts without locks under real threads: a writer that appends and forgets, readers that follow and sleep.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Wake;
use std::thread;

use super::*;

/// Wakes the thread that waits.
struct Unpark(thread::Thread, AtomicBool);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// What a reader saw, in order; whether it was lost.
fn follow(mut subscription: Subscription, last: u64, sleeps: &AtomicU64) -> (Vec<Revision>, bool) {
    let unpark = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&unpark));
    let (mut seen, mut waits) = (Vec::new(), false);
    loop {
        let through = subscription.epoch.through();
        match subscription.live.advance() {
            Next::Record(record, events) => {
                assert!(events.iter().all(|event| event.revision == record.revision));
                seen.push(record.revision);
                waits = false;
            }
            Next::Lost => return (seen, true),
            Next::Empty => {
                let known = seen.last().copied().unwrap_or(subscription.root.revision);
                assert!(
                    through <= known,
                    "an empty ring means that {through} was seen, not {known}"
                );
                if known.get() == last {
                    return (seen, false);
                }
                if !waits {
                    subscription.place.wait(&Context::from_waker(&waker));
                    waits = true;
                    continue;
                }
                sleeps.fetch_add(1, Ordering::Relaxed);
                // A wake-up that is lost would leave the reader here.
                let began = std::time::Instant::now();
                while !unpark.1.swap(false, Ordering::SeqCst) {
                    thread::park_timeout(Duration::from_secs(20));
                    assert!(
                        began.elapsed() < Duration::from_secs(20),
                        "nobody woke the reader at {known}"
                    );
                }
                waits = false;
            }
        }
    }
}

#[test]
fn readers_follow_a_writer_without_locks() {
    const WRITES: u64 = 30_000;
    for keep in [usize::MAX, 200] {
        let limits = Limits {
            bytes: 1 << 30,
            time: Duration::ZERO,
            min_records: keep,
        };
        let mut world = World::new(23, limits);
        let all = info().list_scope(None).unwrap();
        let (first, last) = (world.at.get() + 1, world.at.get() + WRITES);
        let mut subscriptions = Vec::new();
        for _ in 0..4 {
            let from = world.core.subscribe(&all, &SelectionPredicate::default(), From::Tail);
            subscriptions.push(from.unwrap().unwrap());
        }
        let key = world.key();
        let sleeps = AtomicU64::new(0);
        let lost = thread::scope(|scope| {
            let sleeps = &sleeps;
            let readers: Vec<_> = subscriptions
                .into_iter()
                .map(|subscription| scope.spawn(move || follow(subscription, last, sleeps)))
                .collect();
            for at in first..=last {
                let batch = replaced(&key, revision(at));
                world.core.apply(&batch, Duration::from_secs(at)).unwrap().perform();
                if at % 64 == 0 {
                    thread::yield_now();
                }
            }
            let mut lost = 0;
            for reader in readers {
                let (seen, was_lost) = reader.join().unwrap();
                let complete = (first..).map(revision).zip(&seen).all(|(want, got)| want == *got);
                assert!(complete, "in order, and none is missing");
                assert!(was_lost || seen.len() as u64 == WRITES);
                lost += usize::from(was_lost);
            }
            lost
        });
        assert!(
            keep != usize::MAX || lost == 0,
            "{lost} were lost though everything is kept"
        );
        assert!(sleeps.load(Ordering::Relaxed) > 0, "nobody ever waited");
    }
}

/// The object of a key is another one.
fn replaced(key: &Key, revision: Revision) -> Batch {
    let reason = apiserver_storage_api::UnreadableReason::Decode("x".into());
    let event = Event {
        kind: EventKind::Added,
        key: key.clone(),
        revision,
        object: Some(Entry::unreadable(key.clone(), revision, reason)),
        previous: None,
    };
    Batch {
        revision,
        events: Arc::from([event]),
    }
}
