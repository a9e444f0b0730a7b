//! Turns: callers of this process who met on one key go on one after the other instead of against each other.
//!
//! Without them, N updates of one key cost up to N² transactions: each round one wins and all others try again. Nobody
//! queues before there was a conflict, so a write that meets nobody pays one look at a counter. Who lost a race takes a
//! [`Place`] in the queue of its key, and who comes while there is a queue joins it before its first attempt. Whose turn
//! it is starts from what the one before has written.
//!
//! A turn is a courtesy, never a lock. A callback may use the same store, and the same key; so a turn that takes longer
//! than [`PATIENCE`] is over for those who wait, who then go on in their order. What two callers who go at once lose is
//! time: every write is conditional as it ever was.
//!
//! The map holds the keys that somebody waits for at this moment: the last one to leave takes the key out.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_api::time::Clock;
use apiserver_storage_api::{Entry, Revision};
use dashmap::DashMap;
use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// So long those behind wait for one turn.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// Shards of the map. Few keys are contended at a time.
const SHARDS: usize = 8;

/// The queues of one store.
#[derive(Debug)]
pub(crate) struct Turns {
    keys: DashMap<Arc<str>, Queue>,
    /// How many keys have a queue.
    contended: AtomicUsize,
}

/// The queue of one key.
#[derive(Debug)]
struct Queue {
    turn: Arc<Turn>,
    places: usize,
}

/// Whose turn it is, and what is left to the next one.
#[derive(Debug)]
struct Turn {
    /// One permit. Waiters get it in the order of their coming.
    permit: Arc<Semaphore>,
    /// The number of the current turn. Whoever moves it on, the one whose turn it was or one who waited too long, gives
    /// out the next permit; nobody else does.
    number: AtomicU64,
    /// What the last turn has written: a suggestion for the next.
    latest: Mutex<Option<Entry>>,
}

impl Turn {
    fn end(&self, number: u64) {
        let moved = self
            .number
            .compare_exchange(number, number + 1, Ordering::AcqRel, Ordering::Acquire);
        if moved.is_ok() {
            self.permit.add_permits(1);
        }
    }
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self {
            keys: DashMap::with_shard_amount(SHARDS),
            contended: AtomicUsize::new(0),
        }
    }

    /// A place in the queue of a key, if there is one.
    pub(crate) fn queued(&self, key: &str) -> Option<Place<'_>> {
        if self.contended.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut found = self.keys.get_mut(key)?;
        let (key, queue) = found.pair_mut();
        Some(self.place(Arc::clone(key), queue))
    }

    /// A place in the queue of a key.
    pub(crate) fn join(&self, key: &str) -> Place<'_> {
        let key: Arc<str> = key.into();
        let mut queue = self.keys.entry(Arc::clone(&key)).or_insert_with(|| {
            self.contended.fetch_add(1, Ordering::Relaxed);
            let turn = Turn {
                permit: Arc::new(Semaphore::new(1)),
                number: AtomicU64::new(0),
                latest: Mutex::new(None),
            };
            Queue {
                turn: Arc::new(turn),
                places: 0,
            }
        });
        self.place(key, &mut queue)
    }

    /// One more place; the caller has the lock of the map.
    fn place(&self, key: Arc<str>, queue: &mut Queue) -> Place<'_> {
        queue.places += 1;
        Place {
            turns: self,
            key,
            turn: Arc::clone(&queue.turn),
            held: None,
            seen: None,
        }
    }

    /// How many keys have a queue.
    #[cfg(test)]
    fn len(&self) -> usize {
        assert_eq!(self.keys.len(), self.contended.load(Ordering::Relaxed));
        self.keys.len()
    }
}

/// A caller's place in the queue of a key. Dropping it leaves the queue, and ends the turn if it was the caller's.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    turns: &'a Turns,
    key: Arc<str>,
    turn: Arc<Turn>,
    /// The number of the caller's turn.
    held: Option<u64>,
    /// What was left by others up to here, the caller has seen.
    seen: Option<Revision>,
}

impl Place<'_> {
    /// Waits for the caller's turn, or until that makes no sense any more: at `until` of the clock's time. A turn that
    /// the caller has, and nobody has taken over, goes on.
    pub(crate) async fn wait(&mut self, clock: &dyn Clock, until: Duration) {
        if self.held == Some(self.turn.number.load(Ordering::Acquire)) {
            return;
        }
        self.held = None;
        let mut permit = pin!(Arc::clone(&self.turn.permit).acquire_owned());
        loop {
            let current = self.turn.number.load(Ordering::Acquire);
            let left = until.saturating_sub(clock.monotonic());
            match select(permit.as_mut(), clock.sleep(left.min(PATIENCE))).await {
                Either::Left((Ok(permit), _)) => {
                    permit.forget();
                    self.held = Some(self.turn.number.load(Ordering::Acquire));
                    return;
                }
                Either::Right(_) if left > PATIENCE => self.turn.end(current),
                // The semaphore is never closed.
                Either::Left((Err(_), _)) | Either::Right(_) => return,
            }
        }
    }

    /// What the last turn has written, if anything; each state once, since it may have been overtaken.
    pub(crate) fn latest(&mut self) -> Option<Entry> {
        let latest = self.turn.latest.lock().clone();
        let latest = latest.filter(|latest| Some(latest.revision()) > self.seen)?;
        self.seen = Some(latest.revision());
        Some(latest)
    }

    /// Leaves what was written, or nothing after a removal, to the next one.
    pub(crate) fn hand_over(&self, written: Option<&Entry>) {
        *self.turn.latest.lock() = written.cloned();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.held {
            self.turn.end(number);
        }
        let leave = |_: &Arc<str>, queue: &mut Queue| {
            queue.places -= 1;
            queue.places == 0
        };
        if self.turns.keys.remove_if_mut(&*self.key, leave).is_some() {
            self.turns.contended.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::SystemTime;

    use apiserver_storage_api::time::ManualClock;
    use futures::FutureExt;
    use futures::task::noop_waker;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    type Waiting<'a> = Pin<Box<dyn Future<Output = Place<'a>> + 'a>>;

    fn waiting<'a>(turns: &'a Turns, clock: &'a ManualClock, until: Duration) -> Waiting<'a> {
        Box::pin(async move {
            let mut place = turns.join("k");
            place.wait(clock, until).await;
            place
        })
    }

    fn poll<'a>(waiting: &mut Waiting<'a>) -> Option<Place<'a>> {
        match waiting.as_mut().poll(&mut Context::from_waker(&noop_waker())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    fn clock() -> ManualClock {
        ManualClock::new(SystemTime::UNIX_EPOCH)
    }

    // covers: storage-api/GAP-05
    #[test]
    fn turns_go_in_the_order_of_coming_and_the_queue_goes_with_the_last() {
        let (turns, clock) = (Turns::new(), clock());
        assert!(turns.queued("k").is_none());
        let first = poll(&mut waiting(&turns, &clock, LONG)).expect("nobody is there");
        let mut second = waiting(&turns, &clock, LONG);
        let mut third = waiting(&turns, &clock, LONG);
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        assert!(turns.queued("other").is_none() && turns.queued("k").is_some());
        drop(first);
        assert!(poll(&mut third).is_none(), "it is the second's turn");
        let second = poll(&mut second).expect("the first has left");
        drop(second);
        drop(poll(&mut third).expect("the second has left"));
        assert_eq!(turns.len(), 0);
    }

    #[test]
    fn who_leaves_the_queue_is_not_waited_for() {
        let (turns, clock) = (Turns::new(), clock());
        let first = poll(&mut waiting(&turns, &clock, LONG)).expect("nobody is there");
        let mut second = waiting(&turns, &clock, LONG);
        let mut third = waiting(&turns, &clock, LONG);
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        drop(first);
        // Its turn has come, but it does not know yet.
        drop(second);
        drop(poll(&mut third).expect("the second has left"));
        assert_eq!(turns.len(), 0);
    }

    #[test]
    fn a_turn_that_lasts_too_long_is_over_for_one_at_a_time() {
        let (turns, clock) = (Turns::new(), clock());
        let mut first = poll(&mut waiting(&turns, &clock, LONG)).expect("nobody is there");
        let mut second = waiting(&turns, &clock, LONG);
        let mut third = waiting(&turns, &clock, LONG);
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        clock.advance(PATIENCE);
        // The one who polls first moves the turn on, in the order of the queue.
        assert!(poll(&mut third).is_none());
        let second = poll(&mut second).expect("the first took too long");
        assert!(poll(&mut third).is_none());
        // Its turn is over, so it queues again, at the end; that it leaves gives nobody a turn.
        assert!(first.wait(&clock, LONG).now_or_never().is_none());
        drop(first);
        assert!(poll(&mut third).is_none());
        drop(second);
        drop(poll(&mut third).expect("the second has left"));
        assert_eq!(turns.len(), 0);
    }

    #[test]
    fn waiting_ends_at_the_deadline_without_a_turn() {
        let (turns, clock) = (Turns::new(), clock());
        let first = poll(&mut waiting(&turns, &clock, LONG)).expect("nobody is there");
        let mut hurried = waiting(&turns, &clock, PATIENCE / 2);
        assert!(poll(&mut hurried).is_none());
        clock.advance(PATIENCE / 2);
        let hurried = poll(&mut hurried).expect("the deadline has passed");
        assert_eq!((hurried.held, first.held), (None, Some(0)));
        assert_eq!(
            first.turn.number.load(Ordering::Relaxed),
            0,
            "the turn of the first goes on"
        );
        drop((first, hurried));
        assert_eq!(turns.len(), 0);
    }
}
