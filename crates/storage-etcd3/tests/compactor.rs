//! The compactor: on its own, and sharing the work with another one.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use apiserver_storage_api::Revision;
use apiserver_storage_api::time::{Clock, ManualClock};
use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_kv::{Kv, KvError};

use futures::future::BoxFuture;

use common::{Etcd, connect, create, soon, until};

const INTERVAL: Duration = Duration::from_secs(300);
const KEY: &str = "compact_rev_key";

/// A clock that stands still until it is moved, and counts how often somebody began to wait for an interval.
#[derive(Debug)]
struct Standing {
    clock: ManualClock,
    intervals: AtomicUsize,
}

impl Clock for Standing {
    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let sleep = self.clock.sleep(duration);
        if duration == INTERVAL {
            self.intervals.fetch_add(1, Ordering::SeqCst);
        }
        sleep
    }
}

impl Standing {
    fn new() -> Arc<Self> {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let intervals = AtomicUsize::new(0);
        Arc::new(Self { clock, intervals })
    }

    /// Waits until the compactor has come to wait for its interval so many times.
    async fn waits(&self, times: usize) {
        until(|| self.intervals.load(Ordering::SeqCst) >= times, "the cycle ends").await;
    }

    /// Lets one interval pass and the cycle that it brings come to its end.
    async fn cycle(&self) {
        let before = self.intervals.load(Ordering::SeqCst);
        self.clock.advance(INTERVAL);
        self.waits(before + 1).await;
    }
}

/// A connection whose compactor is about to wait for its first interval.
async fn standing(etcd: &Etcd) -> (EtcdKv, Arc<Standing>) {
    let clock = Standing::new();
    let mut config = etcd.config().with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    config.compaction_interval = Some(INTERVAL);
    // Nothing else is to end because the clock is moved.
    config.health_interval = INTERVAL * 1000;
    config.request_timeout = INTERVAL * 1000;
    let kv = connect(config).await;
    clock.waits(1).await;
    (kv, clock)
}

/// What the shared key says, and how often it was written.
async fn key(kv: &EtcdKv) -> Option<(String, u64)> {
    let stored = kv.coordination_get(KEY).await.expect("read");
    stored.map(|(value, version)| (String::from_utf8(value.to_vec()).expect("text"), version))
}

async fn readable(kv: &EtcdKv, at: Revision) -> bool {
    match kv.get("/registry/a", Some(at)).await {
        Ok(_) => true,
        Err(KvError::Compacted { .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}

// covers: storage-etcd3/COMPACT-02, storage-etcd3/COMPACT-03, storage-etcd3/COMPACT-05, storage-etcd3/COMPACT-06, storage-etcd3/COMPACT-12
#[tokio::test]
async fn history_stays_for_an_interval_and_goes_within_two() {
    let Some(etcd) = Etcd::start().await else { return };
    let (kv, clock) = standing(&etcd).await;
    clock.cycle().await;
    assert_eq!(
        key(&kv).await,
        Some(("0".into(), 1)),
        "the first cycle compacts nothing"
    );
    assert_eq!(kv.compacted_revision(), None);
    let a = create(&kv, "/registry/a", "1").await;
    clock.cycle().await;
    assert_eq!(kv.compacted_revision(), a.previous());
    assert!(readable(&kv, a).await);
    let b = create(&kv, "/registry/b", "1").await;
    clock.cycle().await;
    assert_eq!(kv.compacted_revision(), Some(a.next()));
    assert!(!readable(&kv, a).await && readable(&kv, b).await);
    clock.cycle().await;
    assert_eq!(kv.compacted_revision(), Some(b.next()));
    assert!(!readable(&kv, a).await && !readable(&kv, b).await);
    assert_eq!(key(&kv).await, Some((b.next().to_string(), 4)));
}

// covers: storage-etcd3/COMPACT-04, storage-etcd3/COMPACT-07, storage-etcd3/COMPACT-09
#[tokio::test]
async fn of_two_compactors_one_wins_a_cycle_and_the_other_learns() {
    let Some(etcd) = Etcd::start().await else { return };
    let (first, first_clock) = standing(&etcd).await;
    let (second, second_clock) = standing(&etcd).await;
    first_clock.cycle().await;
    second_clock.cycle().await;
    assert_eq!(
        key(&first).await,
        Some(("0".into(), 1)),
        "once per cluster, not per process"
    );
    let a = create(&first, "/registry/a", "1").await;
    first_clock.cycle().await;
    assert_eq!(key(&first).await.map(|(_, version)| version), Some(2));
    second_clock.cycle().await;
    assert_eq!(
        key(&first).await.map(|(_, version)| version),
        Some(2),
        "lost, so nothing was written"
    );
    assert_eq!(second.compacted_revision(), first.compacted_revision());
    assert_eq!(second.compacted_revision(), a.previous());
    // The one that won is gone; the other takes over at the next cycle.
    first.close().await;
    second_clock.cycle().await;
    assert_eq!(key(&second).await.map(|(_, version)| version), Some(3));
    assert_eq!(second.compacted_revision(), Some(a.next()));
}

// covers: storage-etcd3/COMPACT-10, storage-etcd3/COMPACT-11
#[tokio::test]
async fn what_others_compact_is_known_without_compacting() {
    let Some(etcd) = Etcd::start().await else { return };
    let (first, clock) = standing(&etcd).await;
    clock.cycle().await;
    clock.cycle().await;
    let other = etcd.connect().await;
    until(
        || other.compacted_revision() == first.compacted_revision(),
        "the key is read",
    )
    .await;
    clock.cycle().await;
    until(
        || other.compacted_revision() == first.compacted_revision(),
        "the key is watched",
    )
    .await;
    assert!(first.compacted_revision().is_some());
    assert!(!other.coordination_put(KEY, "text".into(), 0).await.expect("answered"));
    assert!(other.coordination_put(KEY, "text".into(), 3).await.expect("answered"));
    // What is no number changes nothing and stops nobody.
    let fourth = other.coordination_put(KEY, "1000000".into(), 4).await;
    assert!(fourth.expect("answered"));
    until(
        || other.compacted_revision() == Revision::new(1_000_000),
        "the key is still watched",
    )
    .await;
}

// covers: storage-etcd3/COMPACT-08, storage-etcd3/COMPACT-14
#[tokio::test]
async fn a_cycle_that_fails_or_finds_the_key_gone_is_followed_by_another() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let (kv, clock) = standing(&etcd).await;
    clock.cycle().await;
    clock.cycle().await;
    let (stored, _) = kv.get(KEY, None).await.expect("read");
    let at = stored.expect("there").revision;
    common::delete(&kv, KEY, at).await;
    clock.cycle().await;
    assert_eq!(key(&kv).await, None, "lost against nothing");
    clock.cycle().await;
    assert_eq!(key(&kv).await.map(|(_, version)| version), Some(1), "time begins again");
    etcd.kill();
    let before = clock.intervals.load(Ordering::SeqCst);
    clock.clock.advance(INTERVAL);
    // The failing call pauses between its attempts; time has to pass for it to give up.
    let gave_up = async {
        while clock.intervals.load(Ordering::SeqCst) == before {
            clock.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    soon(gave_up).await;
    etcd.run();
    etcd.ready().await;
    let worked = async {
        while key(&kv).await.map(|(_, version)| version) != Some(2) {
            clock.cycle().await;
        }
    };
    soon(worked).await;
}

// covers: storage-etcd3/COMPACT-01
#[tokio::test]
async fn without_an_interval_nothing_is_compacted() {
    let Some(etcd) = Etcd::start().await else { return };
    for interval in [None, Some(Duration::ZERO)] {
        let clock = Standing::new();
        let mut config = etcd.config().with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
        config.compaction_interval = interval;
        config.health_interval = INTERVAL;
        let kv = connect(config).await;
        // Only the health check waits for it.
        clock.waits(1).await;
        clock.cycle().await;
        assert_eq!(key(&kv).await, None);
    }
}
