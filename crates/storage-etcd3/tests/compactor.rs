//! The compactor: on its own, and sharing the work with another one.

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::Revision;
use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_kv::{Kv, KvError};
use apiserver_storage_testing::StandingClock;
use futures::future::join_all;

use common::{Etcd, connect, create, soon, still, until, update};

const INTERVAL: Duration = Duration::from_secs(300);
const KEY: &str = "compact_rev_key";

/// A connection whose compactor is about to wait for its first interval.
async fn standing(etcd: &Etcd) -> (EtcdKv, Arc<StandingClock>) {
    let clock = Arc::new(StandingClock::new());
    let mut config = still(etcd, &clock);
    config.compaction_interval = Some(INTERVAL);
    let kv = connect(config).await;
    clock.waits(INTERVAL, 1).await;
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
    clock.pass(INTERVAL).await;
    assert_eq!(
        key(&kv).await,
        Some(("0".into(), 1)),
        "the first cycle compacts nothing"
    );
    assert_eq!(kv.compacted_revision(), None);
    let a = create(&kv, "/registry/a", "1").await;
    clock.pass(INTERVAL).await;
    assert_eq!(kv.compacted_revision(), a.previous());
    assert!(readable(&kv, a).await);
    let b = create(&kv, "/registry/b", "1").await;
    clock.pass(INTERVAL).await;
    assert_eq!(kv.compacted_revision(), Some(a.next()));
    assert!(!readable(&kv, a).await && readable(&kv, b).await);
    clock.pass(INTERVAL).await;
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
    first_clock.pass(INTERVAL).await;
    second_clock.pass(INTERVAL).await;
    assert_eq!(
        key(&first).await,
        Some(("0".into(), 1)),
        "once per cluster, not per process"
    );
    let a = create(&first, "/registry/a", "1").await;
    first_clock.pass(INTERVAL).await;
    assert_eq!(key(&first).await.map(|(_, version)| version), Some(2));
    second_clock.pass(INTERVAL).await;
    assert_eq!(
        key(&first).await.map(|(_, version)| version),
        Some(2),
        "lost, so nothing was written"
    );
    assert_eq!(second.compacted_revision(), first.compacted_revision());
    assert_eq!(second.compacted_revision(), a.previous());
    // The one that won is gone; the other takes over at the next cycle.
    first.close().await;
    second_clock.pass(INTERVAL).await;
    assert_eq!(key(&second).await.map(|(_, version)| version), Some(3));
    assert_eq!(second.compacted_revision(), Some(a.next()));
}

// covers: storage-etcd3/COMPACT-04, storage-etcd3/COMPACT-05, storage-etcd3/COMPACT-07, storage-etcd3/COMPACT-12
#[tokio::test(flavor = "multi_thread")]
async fn of_five_servers_whose_cycles_come_at_once_one_wins_each() {
    let Some(etcd) = Etcd::start().await else { return };
    let (a, b, c, d, e) = tokio::join!(
        standing(&etcd),
        standing(&etcd),
        standing(&etcd),
        standing(&etcd),
        standing(&etcd)
    );
    let servers = [a, b, c, d, e];
    let first = &servers[0].0;
    let mut place = 0;
    for cycle in 1..=10 {
        let last = create(first, &format!("/registry/{cycle}"), "1").await;
        join_all(servers.iter().map(|(_, clock)| clock.pass(INTERVAL))).await;
        assert_eq!(key(first).await, Some((place.to_string(), cycle)), "written once");
        let (stored, now) = first.get(KEY, None).await.expect("read");
        let written = stored.expect("there").revision;
        assert_eq!((written, now), (last.next(), last.next()), "and nothing else is");
        for (kv, _) in &servers {
            assert_eq!(kv.compacted_revision(), Revision::new(place), "known to all");
        }
        // Winners and losers alike were there when the cycle ended.
        place = written.get();
    }
}

// covers: storage-etcd3/COMPACT-10, storage-etcd3/COMPACT-11, storage-api/GATE-04
#[tokio::test]
async fn what_others_compact_is_known_without_compacting() {
    let Some(etcd) = Etcd::start().await else { return };
    let (first, clock) = standing(&etcd).await;
    clock.pass(INTERVAL).await;
    clock.pass(INTERVAL).await;
    let other = etcd.connect().await;
    until(
        || other.compacted_revision() == first.compacted_revision(),
        "the key is read",
    )
    .await;
    clock.pass(INTERVAL).await;
    until(
        || other.compacted_revision() == first.compacted_revision(),
        "the key is watched",
    )
    .await;
    assert!(first.compacted_revision().is_some());
    assert!(!other.coordination_put(KEY, "text".into(), 0).await.expect("answered"));
    assert!(other.coordination_put(KEY, "text".into(), 3).await.expect("answered"));
    // What is no number changes nothing and stops nobody, and neither does one that the store is far from.
    let far = other.coordination_put(KEY, "1000000".into(), 4).await;
    assert!(far.expect("answered"));
    let late = etcd.connect().await;
    let now = other.now().await.expect("now");
    let here = other.coordination_put(KEY, now.to_string().into(), 5).await;
    assert!(here.expect("answered"));
    // Time stands still for the first, and with it whatever it may have to try again.
    for kv in [&other, &late] {
        until(|| kv.compacted_revision() >= Some(now), "the key is still watched").await;
        assert_eq!(kv.compacted_revision(), Some(now));
    }
}

// covers: storage-etcd3/COMPACT-08, storage-etcd3/COMPACT-14
#[tokio::test]
async fn a_cycle_that_fails_or_finds_the_key_gone_is_followed_by_another() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let (kv, clock) = standing(&etcd).await;
    clock.pass(INTERVAL).await;
    clock.pass(INTERVAL).await;
    let (stored, _) = kv.get(KEY, None).await.expect("read");
    let at = stored.expect("there").revision;
    common::delete(&kv, KEY, at).await;
    clock.pass(INTERVAL).await;
    assert_eq!(key(&kv).await, None, "lost against nothing");
    clock.pass(INTERVAL).await;
    assert_eq!(key(&kv).await.map(|(_, version)| version), Some(1), "time begins again");
    etcd.kill();
    let before = clock.count(INTERVAL);
    clock.clock.advance(INTERVAL);
    // The failing call pauses between its attempts; time has to pass for it to give up.
    let gave_up = async {
        while clock.count(INTERVAL) == before {
            clock.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    soon(gave_up).await;
    etcd.run();
    etcd.ready().await;
    let worked = async {
        while key(&kv).await.map(|(_, version)| version) != Some(2) {
            clock.pass(INTERVAL).await;
        }
    };
    soon(worked).await;
}

// covers: storage-etcd3/COMPACT-01
#[tokio::test]
async fn without_an_interval_nothing_is_compacted() {
    let Some(etcd) = Etcd::start().await else { return };
    for interval in [None, Some(Duration::ZERO)] {
        let clock = Arc::new(StandingClock::new());
        let mut config = still(&etcd, &clock);
        config.compaction_interval = interval;
        config.health_interval = INTERVAL;
        let kv = connect(config).await;
        // Only what looks after the cluster waits for it.
        clock.waits(INTERVAL, 1).await;
        clock.pass(INTERVAL).await;
        assert_eq!(key(&kv).await, None);
    }
}

// covers: storage-etcd3/COMPACT-04, storage-etcd3/COMPACT-14
#[tokio::test]
async fn a_key_that_somebody_else_wrote_costs_a_cycle_and_nothing_more() {
    let Some(etcd) = Etcd::start().await else { return };
    let (kv, clock) = standing(&etcd).await;
    clock.pass(INTERVAL).await;
    let a = create(&kv, "/registry/a", "1").await;
    for foreign in ["not a number", "-5", "", "99999999999999999999999"] {
        let (_, version) = key(&kv).await.expect("there");
        let put = kv.coordination_put(KEY, foreign.into(), version).await;
        assert!(put.expect("answered"));
        clock.pass(INTERVAL).await;
        assert_eq!(key(&kv).await, Some((foreign.to_owned(), version + 1)), "lost");
        assert!(readable(&kv, a).await, "and nothing learned from it");
    }
    let lost = kv.now().await.expect("now");
    clock.pass(INTERVAL).await;
    assert_eq!(key(&kv).await.map(|(value, _)| value), Some(lost.to_string()));
    assert_eq!(
        kv.compacted_revision(),
        Some(lost),
        "compacted where it stood when it lost"
    );
}

// covers: storage-etcd3/COMPACT-13, storage-etcd3/OPEN-10
#[tokio::test]
async fn a_compaction_that_says_nothing_is_noticed_exactly() {
    let Some(etcd) = Etcd::start().await else { return };
    let clock = Arc::new(StandingClock::new());
    let kv = connect(still(&etcd, &clock)).await;
    let mut last = create(&kv, "/registry/a", "0").await;
    let mut written = vec![last];
    for number in 1..40 {
        last = update(&kv, "/registry/a", &number.to_string(), last).await;
        written.push(last);
    }
    let minute = Duration::from_secs(60);
    clock.waits(minute, 1).await;
    let mut client = etcd_client::Client::connect([etcd.url()], None)
        .await
        .expect("connects");
    for at in [written[16], written[17], written[38], written[39]] {
        assert!(kv.compacted_revision() < Some(at));
        let revision = i64::try_from(at.get()).expect("small");
        client.compact(revision, None).await.expect("compacted");
        clock.pass(minute).await;
        assert_eq!(kv.compacted_revision(), Some(at));
    }
    clock.pass(minute).await;
    assert_eq!(kv.compacted_revision(), written.last().copied(), "nothing new");
    assert_eq!(key(&kv).await, None, "looking writes nothing");
}

// covers: storage-etcd3/COMPACT-15, storage-etcd3/OPEN-10
#[tokio::test]
async fn a_burst_of_writes_is_kept_within_the_budget() {
    let Some(etcd) = Etcd::start().await else { return };
    let clock = Arc::new(StandingClock::new());
    let config = still(&etcd, &clock).with_compaction_budget(NonZeroU64::new(100));
    let kv = connect(config).await;
    let look = Duration::from_secs(5);
    clock.waits(look, 1).await;
    let mut last = create(&kv, "/registry/a", "0").await;
    let write = async |mut last: Revision, times: usize| {
        for number in 0..times {
            last = update(&kv, "/registry/a", &number.to_string(), last).await;
        }
        last
    };
    last = write(last, 100).await;
    clock.pass(look).await;
    assert_eq!(key(&kv).await, None, "not so much more than the budget");
    last = write(last, 100).await;
    clock.pass(look).await;
    let kept = Revision::new(last.get() - 100);
    assert_eq!(kv.compacted_revision(), kept);
    assert_eq!(
        key(&kv).await,
        kept.map(|kept| (kept.to_string(), 1)),
        "said to the others"
    );
    assert!(readable(&kv, kept.expect("not zero")).await);
    assert!(!readable(&kv, kept.and_then(Revision::previous).expect("not zero")).await);
    write(last, 5).await;
    clock.pass(look).await;
    assert_eq!(
        key(&kv).await.map(|(_, version)| version),
        Some(1),
        "not for a few more"
    );
    // A number in the key that is no place in this store costs one cycle, as any other writer of the key does.
    assert!(kv.coordination_put(KEY, "1000000".into(), 1).await.expect("answered"));
    last = kv
        .get("/registry/a", None)
        .await
        .expect("read")
        .0
        .expect("there")
        .revision;
    last = write(last, 200).await;
    clock.pass(look).await;
    assert_eq!(kv.compacted_revision(), kept, "lost");
    clock.pass(look).await;
    assert_eq!(kv.compacted_revision(), Revision::new(last.get() - 100));
}

// covers: storage-etcd3/COMPACT-16
#[tokio::test]
async fn of_several_intervals_the_shortest_counts_for_all() {
    let Some(etcd) = Etcd::start().await else { return };
    let (quick, quick_clock) = standing(&etcd).await;
    let (slow, slow_clock) = standing(&etcd).await;
    let a = create(&quick, "/registry/a", "1").await;
    for _ in 0..4 {
        quick_clock.pass(INTERVAL).await;
    }
    // The slow one has not seen an interval pass, and its history is gone.
    assert!(!readable(&slow, a).await);
    // It may have begun to follow the key too late, and then looks again after a second.
    let mut seconds = 0;
    while slow.compacted_revision() != quick.compacted_revision() {
        slow_clock.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(50)).await;
        seconds += 1;
        assert!(seconds < 250, "it knows");
    }
    let version = key(&slow).await.map(|(_, version)| version);
    slow_clock.pass(INTERVAL).await;
    assert_eq!(
        key(&slow).await.map(|(_, version)| version),
        version,
        "it does not add its own"
    );
}

// covers: storage-etcd3/COMPACT-17
#[tokio::test]
async fn a_compactor_that_was_stopped_does_nothing_more() {
    let Some(etcd) = Etcd::start().await else { return };
    let (kv, clock) = standing(&etcd).await;
    clock.pass(INTERVAL).await;
    let stopped = async { tokio::join!(kv.close(), kv.close()) };
    soon(stopped).await;
    soon(kv.close()).await;
    let sleeps = clock.count(INTERVAL);
    clock.clock.advance(INTERVAL);
    let (next, next_clock) = standing(&etcd).await;
    next_clock.pass(INTERVAL).await;
    assert_eq!(key(&next).await, Some(("0".into(), 1)), "lost against the one before");
    next_clock.pass(INTERVAL).await;
    assert_eq!(key(&next).await.map(|(_, version)| version), Some(2), "and takes over");
    assert_eq!(clock.count(INTERVAL), sleeps, "its loop has ended");
}
