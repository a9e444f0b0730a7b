//! The core of the cache, with the published state, the log with its cursors and the wakers of watchers, compiled over
//! primitives that hand the processor to another thread before every step, in thousands of random orders (shuttle). One
//! writer appends, forgets and wakes, another one puts history in front; watchers follow by the protocol of
//! `src/watcher.rs`.
//!
//! What this cannot show: threads take turns here, and each step is seen by all of them at once (sequential consistency),
//! whatever `Ordering` it names. A wrong step, or two in the wrong order, is found; an ordering that is too weak for them is
//! not. Why those that are used suffice is said in `src/core/log.rs`; `src/core/tests/threads.rs` runs them on real threads.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a part of src/ is compiled here, and a panic is how a test fails"
)]

#[path = "../src/planted.rs"]
mod planted;

#[path = "../src/budget.rs"]
mod budget;
#[path = "../src/core/mod.rs"]
mod core;
#[path = "../src/tree/mod.rs"]
mod tree;

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

    impl<T> From<Option<Arc<T>>> for ArcSwapOption<T> {
        fn from(value: Option<Arc<T>>) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }
    }

    impl<T> ArcSwapOption<T> {
        pub(crate) fn load(&self) -> Option<Arc<T>> {
            self.load_full()
        }

        pub(crate) fn load_full(&self) -> Option<Arc<T>> {
            self.0.lock().unwrap().clone()
        }

        pub(crate) fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
            std::mem::replace(&mut *self.0.lock().unwrap(), value)
        }

        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            // A chain is freed step by step; not under the lock.
            drop(self.swap(value));
        }
    }
}

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use apiserver_storage_api::{
    Batch, Entry, Event, EventKind, FieldSelector, Key, LabelSelector, ResourceInfo, ResourceScope, Revision, Scope,
    SelectionPredicate, UnreadableReason,
};
use shuttle::sync::Mutex;

use crate::budget::HistoryBudget;
use crate::core::log::{Cursor, End, Epoch, Next, Record, Ring};
use crate::core::root::Root;
use crate::core::wake::{Place, Wakers};
use crate::core::{Core, Forgotten, From, Limits, Listed, Subscription};

const RECORDS: u64 = 5;
const ORDERS: usize = 3_000;
/// Of scenarios with the whole core, which take more steps.
const CORE_ORDERS: usize = 1_000;

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

/// The core as the cache has it: under a lock, with the state that readers see without it.
struct Cache {
    core: Mutex<Core>,
    published: Arc<sync::ArcSwapOption<Root>>,
    /// How much was forgotten at any time. Put in front again, it is of no use to those who had lost it.
    forgotten: std::sync::atomic::AtomicU64,
}

/// What was listed began above this.
const SINCE: u64 = 6;
const LISTED: u64 = 10;
const LAST: u64 = 15;

fn info() -> ResourceInfo {
    ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced)
}

/// A new object, at each revision another one. Nobody can read it, so it is in everybody's view.
fn added(number: u64) -> Batch {
    let key = info().object_key(Some("ns"), &format!("p{number}")).unwrap();
    let reason = UnreadableReason::Decode("x".into());
    let event = Event {
        kind: EventKind::Added,
        key: key.clone(),
        revision: revision(number),
        object: Some(Entry::unreadable(key, revision(number), reason)),
        previous: None,
    };
    Batch {
        revision: revision(number),
        events: Arc::from([event]),
    }
}

impl Cache {
    /// A cache that was listed, and keeps so many records.
    fn new(keep: usize) -> Arc<Self> {
        let published: Arc<sync::ArcSwapOption<Root>> = Arc::default();
        let limits = Limits {
            bytes: 1 << 20,
            time: Duration::ZERO,
            min_records: keep,
        };
        let share = HistoryBudget::default().share();
        let mut core = Core::new(&info(), limits, share, Arc::clone(&published));
        let listed = (SINCE + 1..=LISTED).filter_map(|number| added(number).events.first()?.object.clone());
        let listed = Listed::new(revision(LISTED), None, listed.collect(), &[], None);
        core.take_over(listed).perform();
        Arc::new(Self {
            core: Mutex::new(core),
            published,
            forgotten: LISTED.into(),
        })
    }

    /// As the feed does. What `progress` selects happens to another kind.
    fn write(&self, progress: fn(u64) -> bool) {
        for number in LISTED + 1..=LAST {
            if progress(number) {
                self.core.lock().unwrap().progress(revision(number));
            } else {
                let effects = {
                    let mut core = self.core.lock().unwrap();
                    let effects = core.apply(&added(number), Duration::from_secs(number));
                    let (_, base) = core.begins();
                    self.forgotten
                        .fetch_max(base.get(), std::sync::atomic::Ordering::SeqCst);
                    effects
                };
                effects.unwrap().perform();
            }
        }
    }

    /// A watcher of everything, or of a selection that has everything too, in a group of its own.
    fn subscribe(&self, own_group: bool, from: From) -> Result<Subscription, Forgotten> {
        let labels = LabelSelector::parse(if own_group { "a!=b" } else { "" }).unwrap();
        let predicate = SelectionPredicate::new(labels, FieldSelector::default());
        let all = Scope::all(info().prefix());
        self.core.lock().unwrap().subscribe(&all, &predicate, from).unwrap()
    }

    /// Reads the next record as a watcher does: of the whole log first, as far as the own ring does not reach back.
    fn advance(own: &mut Subscription) -> Next {
        if let Some((cursor, until)) = &mut own.catch_up {
            match cursor.advance() {
                Next::Record(record, events) if record.revision <= *until => return Next::Record(record, events),
                Next::Lost => return Next::Lost,
                _ => own.catch_up = None,
            }
        }
        own.live.advance()
    }

    /// Follows the log to the last revision: sees each one above `start` that is an event, in order, and each one in the
    /// published state as well. Returns where it got lost, if it did.
    async fn follow(&self, mut own: Subscription, start: u64, progress: fn(u64) -> bool) -> Option<u64> {
        let mut position = start;
        let missed = |position: u64, before: u64| (position + 1..before).find(|number| !progress(*number));
        std::future::poll_fn(|context| {
            let mut waits = false;
            loop {
                let through = own.epoch.through().get();
                match Self::advance(&mut own) {
                    // What the log had already when this watcher came to its own ring.
                    Next::Record(record, _) if record.revision.get() <= position => {}
                    Next::Record(record, events) => {
                        let at = record.revision.get();
                        assert_eq!(missed(position, at), None, "before {at}, after {position}");
                        position = at;
                        let root = self.published.load_full().unwrap();
                        assert!(root.revision.get() >= at, "{at} is told, and {} shown", root.revision);
                        assert!(events.iter().all(|event| root.get(event.key.as_str()).is_some()));
                    }
                    Next::Lost => return Poll::Ready(Some(position)),
                    Next::Empty => {
                        assert_eq!(missed(position, through + 1), None, "up to {through}, after {position}");
                        position = position.max(through);
                        if position >= LAST {
                            return Poll::Ready(None);
                        }
                        if waits {
                            return Poll::Pending;
                        }
                        own.place.wait(context);
                        waits = true;
                    }
                }
            }
        })
        .await
    }

    /// Whether somebody who stands there may have got lost.
    fn check(&self, lost: Option<u64>) {
        // What is forgotten is noted under the lock.
        let _core = self.core.lock().unwrap();
        let forgotten = self.forgotten.load(std::sync::atomic::Ordering::SeqCst);
        assert!(
            lost.is_none_or(|at| at < forgotten),
            "lost at {lost:?}, {forgotten} was forgotten"
        );
    }
}

fn spawn<T: Send + 'static>(
    cache: &Arc<Cache>,
    run: impl FnOnce(&Cache) -> T + Send + 'static,
) -> shuttle::thread::JoinHandle<T> {
    let cache = Arc::clone(cache);
    shuttle::thread::spawn(move || run(&cache))
}

/// History is put in front of the log beside those who read it, and beside the writer, who may be forgetting by then.
fn what_is_put_in_front(keep: usize) {
    let never: fn(u64) -> bool = |_| false;
    let cache = Cache::new(keep);
    let before = cache.subscribe(false, From::Tail).unwrap();
    let present = spawn(&cache, move |cache| {
        let lost = shuttle::future::block_on(cache.follow(before, LISTED, never));
        cache.check(lost);
    });
    let reader = spawn(&cache, move |cache| {
        let (epoch, base) = cache.core.lock().unwrap().begins();
        let batches = (SINCE + 1..=base.get()).map(added).collect();
        let now = Duration::from_secs(LISTED);
        let extended = {
            let mut core = cache.core.lock().unwrap();
            core.extend((&epoch, base), revision(SINCE), batches, now)
        };
        for own_group in [true, false] {
            let Ok(own) = cache.subscribe(own_group, From::After(revision(SINCE))) else {
                continue;
            };
            assert!(extended, "nobody else has put it there");
            let lost = shuttle::future::block_on(cache.follow(own, SINCE, never));
            cache.check(lost);
        }
        extended
    });
    cache.write(never);
    present.join().unwrap();
    let extended = reader.join().unwrap();
    assert!(extended || keep < 100, "nothing was forgotten meanwhile");
}

fn what_is_put_in_front_is_read_in_order() {
    what_is_put_in_front(100);
}

fn what_is_put_in_front_may_be_forgotten_at_once() {
    what_is_put_in_front(2);
}

/// A state is published before its event can be read, and `through` is raised after that.
fn who_is_told_of_a_change_can_read_it() {
    let progress: fn(u64) -> bool = |number| number % 3 == 2;
    let cache = Cache::new(100);
    let watchers = [true, false].map(|own_group| {
        spawn(&cache, move |cache| {
            // Read without the lock: what is shown is where a watch may begin.
            let shown = cache.published.load_full().unwrap().revision;
            let own = cache.subscribe(own_group, From::After(shown)).unwrap();
            let lost = shuttle::future::block_on(cache.follow(own, shown.get(), progress));
            assert_eq!(lost, None);
        })
    });
    cache.write(progress);
    watchers.into_iter().for_each(|watcher| watcher.join().unwrap());
}

fn check(name: &str, scenario: fn(), orders: usize) {
    shuttle::check_random(scenario, orders);
    shuttle::check_pct(scenario, orders, 3);
    println!("test {name} ... ok");
}

fn main() {
    println!("\nrunning 5 tests");
    check(
        "a_watcher_sees_every_record_and_sleeps_through_none",
        a_watcher_sees_every_record_and_sleeps_through_none,
        ORDERS,
    );
    check(
        "a_watcher_gets_lost_only_when_the_log_has_moved_past_it",
        a_watcher_gets_lost_only_when_the_log_has_moved_past_it,
        ORDERS,
    );
    check(
        "what_is_put_in_front_is_read_in_order",
        what_is_put_in_front_is_read_in_order,
        CORE_ORDERS,
    );
    check(
        "what_is_put_in_front_may_be_forgotten_at_once",
        what_is_put_in_front_may_be_forgotten_at_once,
        CORE_ORDERS,
    );
    check(
        "who_is_told_of_a_change_can_read_it",
        who_is_told_of_a_change_can_read_it,
        CORE_ORDERS,
    );
    println!("\ntest result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}
