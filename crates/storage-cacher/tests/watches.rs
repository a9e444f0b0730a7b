//! Where watches begin, what they see, and how they end.

mod common;

use std::time::Duration;

use apiserver_storage_api::{ReadAt, Revision, Scope, Storage, StorageError, WatchItem, WatchOptions, WatchStart};
use common::*;
use futures::StreamExt;

// covers: storage-cacher/WATCH-06, storage-cacher/WATCH-20, storage-cacher/WATCH-34, storage-cacher/WATCH-35, storage-cacher/IEND-01, storage-cacher/IEND-08, storage-cacher/ORD-02, storage-cacher/IVAL-04
#[tokio::test]
async fn initial_state_then_its_end_then_what_follows() {
    let house = House::new().await;
    let mut empty = house
        .cache
        .watch(&all(), from(WatchStart::InitialState(ReadAt::MostRecent)))
        .await
        .unwrap();
    let revision = house.below.current_revision().await.unwrap();
    assert_eq!(changes(&mut empty).await, [format!("END {revision}")]);
    let b = house.create("ns", "b", "n").await.revision();
    let a = house.create("ns", "a", "n").await.revision();
    let last = house.create("other", "c", "n").await.revision();
    let start = WatchStart::InitialState(ReadAt::MostRecent);
    let mut watch = house.cache.watch(&under("ns"), from(start)).await.unwrap();
    assert_eq!(
        changes(&mut watch).await,
        [format!("INITIAL a {a}"), format!("INITIAL b {b}")]
    );
    assert_eq!(changes(&mut watch).await, [format!("END {last}")]);
    house.create("other", "d", "n").await;
    let e = house.create("ns", "e", "n").await.revision();
    assert_eq!(changes(&mut watch).await, [format!("ADDED e {e}")]);
}

// covers: storage-cacher/EVT-01, storage-cacher/EVT-03, storage-cacher/EVT-04, storage-cacher/SCOPE-06, storage-cacher/HIST-02
#[tokio::test]
async fn moves_in_and_out_of_a_selection_are_additions_and_deletions() {
    let house = House::new().await;
    let watch = async |predicate| {
        let options = WatchOptions {
            predicate,
            ..from(WatchStart::Now)
        };
        house.cache.watch(&all(), options).await.unwrap()
    };
    let (mut a, mut b, mut not_a) = (
        watch(fields("spec.nodeName=a")).await,
        watch(fields("spec.nodeName=b")).await,
        watch(fields("spec.nodeName!=a")).await,
    );
    let cache = &*house.cache;
    let r1 = create(cache, "ns", "x", "a").await.revision();
    let r2 = update(cache, "ns", "x", "b").await.revision();
    let r3 = update(cache, "ns", "x", "c").await.revision();
    let r4 = update(cache, "ns", "x", "a").await.revision();
    let r5 = delete(cache, "ns", "x").await.revision();
    for want in [
        format!("ADDED x {r1}"),
        format!("DELETED x {r2}"),
        format!("ADDED x {r4}"),
        format!("DELETED x {r5}"),
    ] {
        assert_eq!(changes(&mut a).await, [want]);
    }
    for want in [format!("ADDED x {r2}"), format!("DELETED x {r3}")] {
        assert_eq!(changes(&mut b).await, [want]);
    }
    for want in [
        format!("ADDED x {r2}"),
        format!("MODIFIED x {r3}"),
        format!("DELETED x {r4}"),
    ] {
        assert_eq!(changes(&mut not_a).await, [want]);
    }
}

// covers: storage-cacher/WATCH-10, storage-cacher/WATCH-12, storage-cacher/WATCH-13, storage-cacher/WATCH-14, storage-cacher/HIST-10
#[tokio::test]
async fn resumed_watches_get_what_followed_in_their_scope() {
    let house = House::new().await;
    let base = house.below.current_revision().await.unwrap();
    let mut written = vec![(base, "", "")];
    for (namespace, name) in [
        ("ns-1", "a"),
        ("ns-1-bad", "a"),
        ("ns-1", "b"),
        ("ns", "a"),
        ("ns-1", "a2"),
    ] {
        written.push((house.create(namespace, name, "n").await.revision(), namespace, name));
    }
    let one = || Scope::Key(key("ns-1", "a"));
    for (after, ..) in written.clone() {
        for (scope, keep) in [
            (all(), &(|_: &str, _: &str| true) as &dyn Fn(&str, &str) -> bool),
            (under("ns-1"), &|namespace, _| namespace == "ns-1"),
            (one(), &|namespace, name| namespace == "ns-1" && name == "a"),
        ] {
            let mut watch = house.cache.watch(&scope, from(WatchStart::After(after))).await.unwrap();
            for (revision, _, name) in written.iter().filter(|(r, ns, name)| *r > after && keep(ns, name)) {
                assert_eq!(
                    changes(&mut watch).await,
                    [format!("ADDED {name} {revision}")],
                    "{scope} after {after}"
                );
            }
        }
    }
    let old = house.cache.watch(&all(), from(WatchStart::After(Revision::MIN))).await;
    assert!(old.as_ref().is_err_and(StorageError::is_expired), "{old:?}");
    let future = house.cache.watch(&all(), from(WatchStart::After(Revision::MAX))).await;
    assert!(
        matches!(future, Err(StorageError::TooLargeResourceVersion { .. })),
        "{future:?}"
    );
}

// covers: storage-cacher/HIST-08, storage-cacher/DISP-05, storage-cacher/DISP-09, storage-cacher/IVAL-01, storage-cacher/IVAL-08, storage-cacher/FRSH-14
#[tokio::test]
async fn a_watcher_that_the_log_has_passed_is_told_so_and_delays_nobody() {
    let house = House::with(config().with_history_bytes(1).with_history_min_records(1)).await;
    let mut slow = house.cache.watch(&all(), from(WatchStart::Now)).await.unwrap();
    let mut fast = house.cache.watch(&all(), from(WatchStart::Now)).await.unwrap();
    for round in 0..20 {
        let name = format!("p{round}");
        let revision = house.create("ns", &name, "n").await.revision();
        assert_eq!(changes(&mut fast).await, [format!("ADDED {name} {revision}")]);
        let list = house.cache.list(&all(), Default::default()).await.unwrap();
        assert_eq!(names(list).await.len(), round + 1, "nor does it delay readers");
    }
    assert_eq!(house.faults.lists.load(std::sync::atomic::Ordering::SeqCst), 1);
    let lost = within(slow.next()).await;
    assert!(
        lost.as_ref()
            .is_some_and(|item| item.as_ref().is_err_and(StorageError::is_expired)),
        "{lost:?}"
    );
    assert!(within(slow.next()).await.is_none(), "an error is the last item");
}

// covers: storage-cacher/BKM-07, storage-cacher/BKM-08, storage-cacher/BKM-09, storage-cacher/BKM-13
#[tokio::test]
async fn bookmarks_tell_of_progress_elsewhere() {
    let house = House::with(config().with_bookmark_period(Duration::from_millis(40))).await;
    let options = WatchOptions {
        progress: true,
        ..from(WatchStart::Now)
    };
    let mut watch = house.cache.watch(&under("ns"), options).await.unwrap();
    let elsewhere = house.elsewhere("c").await;
    let WatchItem::Progress(revision) = next(&mut watch).await else {
        panic!("wanted progress")
    };
    assert_eq!(revision, elsewhere);
    let other = house.create("ns2", "a", "n").await.revision();
    assert_eq!(changes(&mut watch).await, [format!("PROGRESS {other}")]);
    let own = house.create("ns", "a", "n").await.revision();
    assert_eq!(changes(&mut watch).await, [format!("ADDED a {own}")]);
}

// covers: storage-cacher/CFG-08, storage-cacher/LIFE-01, storage-cacher/NRDY-07
#[tokio::test]
async fn closing_ends_watches_without_an_error() {
    let house = House::new().await;
    let mut watch = house.cache.watch(&all(), from(WatchStart::Now)).await.unwrap();
    house.cache.close().await;
    house.cache.close().await;
    assert!(within(watch.next()).await.is_none());
    assert!(house.cache.ready().is_err());
    let refused = house.cache.watch(&all(), from(WatchStart::Now)).await;
    assert!(
        matches!(refused, Err(StorageError::TooManyRequests { .. })),
        "{refused:?}"
    );
    create(&*house.cache, "ns", "a", "n").await;
    let list = house.cache.list(&all(), Default::default()).await.unwrap();
    assert_eq!(names(list).await, ["a"], "reads go on through the storage below");
}
