//! Many writers, readers and watchers at once, and a storage that is away for a while.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver_storage_api::time::{Rng, SeededRng, random_below};
use apiserver_storage_api::{
    EventKind, ListAt, ListOptions, ReadAt, Revision, SelectionPredicate, Storage, StorageError, Watch, WatchItem,
    WatchOptions, WatchStart,
};
use common::*;
use futures::StreamExt;

/// What a watcher knows, made of nothing but what it was told.
#[derive(Default)]
struct Mirror {
    state: BTreeMap<String, Revision>,
    at: Option<Revision>,
    bookmarks: usize,
}

impl Mirror {
    fn take(&mut self, item: WatchItem, predicate: &SelectionPredicate) {
        match item {
            WatchItem::Initial(entries) => {
                self.state
                    .extend(entries.iter().map(|entry| (entry.key().to_string(), entry.revision())));
            }
            WatchItem::InitialEnd(revision) => self.at = Some(revision),
            WatchItem::Progress(revision) => {
                assert!(self.at.is_none_or(|at| at < revision), "progress goes forward");
                self.at = Some(revision);
                self.bookmarks += 1;
            }
            WatchItem::Batch(batch) => {
                assert!(
                    self.at.is_none_or(|at| at < batch.revision),
                    "changes come in order, and never after progress"
                );
                self.at = Some(batch.revision);
                for event in batch.events.iter() {
                    let key = event.key.to_string();
                    let object = event.object.as_ref().unwrap();
                    let known = match event.kind {
                        EventKind::Deleted => self.state.remove(&key).is_some(),
                        _ => {
                            assert!(predicate.matches(object.attributes().unwrap()));
                            self.state.insert(key, event.revision).is_some()
                        }
                    };
                    assert_eq!(known, event.kind != EventKind::Added, "{}", short(event));
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn churn(house: Arc<House>, seed: u64, done: Arc<AtomicBool>) {
    let rng = SeededRng::new(seed);
    while !done.load(Ordering::SeqCst) {
        let (namespace, name) = (format!("ns{}", rng.next_u64() % 3), format!("p{}", rng.next_u64() % 10));
        let node = format!("n{}", rng.next_u64() % 3);
        match random_below(&rng, 5) {
            0 => {
                let mut none = apiserver_storage_api::NoCheck;
                let gone = house
                    .cache
                    .delete(&key(&namespace, &name), Default::default(), &mut none)
                    .await;
                assert!(gone.as_ref().is_ok_and(|_| true) || gone.as_ref().is_err_and(StorageError::is_not_found));
            }
            1 => drop(house.elsewhere(&format!("c{seed}-{}", rng.next_u64())).await),
            _ => {
                let value = pod(&namespace, &name, &node);
                let mut put = |_| {
                    let value = value.clone();
                    async move { Ok(apiserver_storage_api::Change::put(value)) }
                };
                let options = apiserver_storage_api::UpdateOptions {
                    create_if_missing: true,
                    ..Default::default()
                };
                house
                    .cache
                    .guaranteed_update(&key(&namespace, &name), options, &mut put)
                    .await
                    .unwrap();
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn observe(house: Arc<House>, at: usize) -> usize {
    let scope = if at.is_multiple_of(2) { all() } else { under("ns1") };
    let predicate = match at % 3 {
        0 => fields(""),
        1 => fields("spec.nodeName=n1"),
        _ => labels("app notin (p1,p2)"),
    };
    let options = WatchOptions {
        predicate: predicate.clone(),
        progress: true,
        ..from(WatchStart::InitialState(ReadAt::MostRecent))
    };
    let mut watch: Watch = house.cache.watch(&scope, options.clone()).await.unwrap();
    let mut mirror = Mirror::default();
    for step in 0..150 {
        let item = within(watch.next()).await.expect("the watch goes on").unwrap();
        mirror.take(item, &predicate);
        let any = house.cache.list(&scope, common::at(ListAt::Any)).await.unwrap();
        assert!(
            mirror.at.is_none_or(|at| at <= any.revision()),
            "what a watcher was told can be read"
        );
        let Some(revision) = mirror.at.filter(|_| step % 10 == 0) else {
            continue;
        };
        // What the watcher knows is exactly the state of the revision that it was told last.
        let options = ListOptions {
            predicate: predicate.clone(),
            ..common::at(ListAt::Exact(revision))
        };
        let list = house
            .below
            .list(&scope, options)
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
        let want: BTreeMap<String, Revision> = list
            .entries
            .iter()
            .map(|entry| (entry.key().to_string(), entry.revision()))
            .collect();
        assert_eq!(mirror.state, want, "at {revision}");
        if step % 30 == 0 {
            let options = WatchOptions {
                start: WatchStart::After(revision),
                ..options_of(&predicate)
            };
            watch = house.cache.watch(&scope, options).await.unwrap();
        }
    }
    mirror.bookmarks
}

fn options_of(predicate: &SelectionPredicate) -> WatchOptions {
    WatchOptions {
        predicate: predicate.clone(),
        progress: true,
        ..WatchOptions::default()
    }
}

// covers: storage-cacher/ORD-01, storage-cacher/ORD-02, storage-cacher/BKM-08, storage-cacher/BKM-09, storage-cacher/LIST-06, storage-cacher/INIT-19, storage-cacher/LIFE-07, storage-cacher/DISP-02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_watchers_are_told_is_the_state_of_every_revision_they_are_told() {
    let config = config()
        .with_bookmark_period(Duration::from_millis(40))
        .with_retry_pause(Duration::from_millis(1));
    let house = Arc::new(House::with(config).await);
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|seed| tokio::spawn(churn(Arc::clone(&house), seed, Arc::clone(&done))))
        .collect();
    let cutter = {
        let (house, done) = (Arc::clone(&house), Arc::clone(&done));
        tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                house.faults.interrupt_watch();
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        })
    };
    let watchers: Vec<_> = (0..6).map(|at| tokio::spawn(observe(Arc::clone(&house), at))).collect();
    for watcher in watchers {
        watcher.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for task in writers.into_iter().chain([cutter]) {
        task.await.unwrap();
    }
}

// covers: storage-cacher/LIFE-01, storage-cacher/LIFE-06, storage-cacher/LIFE-09
#[tokio::test]
async fn watchers_come_and_go() {
    let house = House::new().await;
    for round in 0..1_000 {
        let scope = if round % 2 == 0 {
            all()
        } else {
            under(&format!("ns{round}"))
        };
        let watch = house.cache.watch(&scope, from(WatchStart::Now)).await.unwrap();
        if round % 50 == 0 {
            house.create("ns", &format!("p{round}"), "n").await;
        }
        drop(watch);
    }
    let mut last = house.cache.watch(&all(), from(WatchStart::Now)).await.unwrap();
    let revision = house.create("ns", "last", "n").await.revision();
    assert_eq!(changes(&mut last).await, [format!("ADDED last {revision}")]);
}

// covers: storage-cacher/CFG-08
#[tokio::test]
async fn a_dropped_cache_lets_go_of_everything() {
    let house = House::new().await;
    let below = Arc::downgrade(house.cache.inner());
    let mut watch = house.cache.watch(&all(), from(WatchStart::Now)).await.unwrap();
    drop(house);
    assert!(within(watch.next()).await.is_none());
    within(async {
        while below.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

// covers: storage-cacher/RDY-03, storage-cacher/RDY-07
#[tokio::test]
async fn all_waiters_are_released_by_one_transition() {
    let house = House::unready(config()).await;
    let waiters: Vec<_> = (0..1_000)
        .map(|_| {
            let cache = Arc::clone(&house.cache);
            tokio::spawn(async move { cache.wait_ready().await })
        })
        .collect();
    for waiter in waiters {
        within(waiter).await.unwrap().unwrap();
    }
    house.cache.close().await;
    assert!(house.cache.wait_ready().await.is_err());
}

#[tokio::test]
async fn answers_that_are_read_too_slowly_are_ended() {
    let config = config()
        .with_history_bytes(20_000)
        .with_bookmark_period(Duration::from_millis(20));
    let house = House::with(config).await;
    for at in 0..5_000 {
        house.create("ns", &format!("p{at}"), "n").await;
    }
    // The limit is enforced with the next tick; until then an answer is still served.
    within(async {
        loop {
            let list = house.cache.list(&all(), ListOptions::default()).await.unwrap();
            let mut pages = list.into_pages();
            assert!(!pages.next().await.unwrap().unwrap().entries.is_empty());
            let start = WatchStart::InitialState(ReadAt::MostRecent);
            let mut watch = house.cache.watch(&all(), from(start)).await.unwrap();
            assert!(matches!(next(&mut watch).await, WatchItem::Initial(_)));
            for round in 0..100 {
                update(&*house.cache, "ns", "p1", &format!("m{round}")).await;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
            if let Some(Err(error)) = pages.next().await {
                assert!(matches!(error, StorageError::TooManyRequests { .. }), "{error}");
                assert!(pages.next().await.is_none());
                let ended = watch.next().await;
                assert!(
                    ended
                        .as_ref()
                        .is_some_and(|item| item.as_ref().is_err_and(StorageError::is_expired))
                );
                break;
            }
        }
    })
    .await;
}

// covers: storage-cacher/DLG-66
#[tokio::test]
async fn lists_below_are_limited() {
    let house = House::with(
        config()
            .with_backend_lists(1)
            .with_freshness_timeout(Duration::from_millis(50)),
    )
    .await;
    for at in 0..3 {
        house.create("ns", &format!("p{at}"), "n").await;
    }
    house.cache.close().await;
    let held = house.cache.list(&all(), ListOptions::default()).await.unwrap();
    let refused = house.cache.list(&all(), ListOptions::default()).await;
    assert!(
        matches!(refused, Err(StorageError::TooManyRequests { .. })),
        "{refused:?}"
    );
    assert_eq!(names(held).await.len(), 3);
    assert_eq!(
        names(house.cache.list(&all(), ListOptions::default()).await.unwrap())
            .await
            .len(),
        3
    );
}

#[tokio::test]
async fn an_outage_costs_watchers_nothing_but_time() {
    let house = House::with(config().with_retry_pause(Duration::from_micros(10))).await;
    let mut watch = house.cache.watch(&all(), from(WatchStart::Now)).await.unwrap();
    let before = house.create("ns", "a", "n").await.revision();
    assert_eq!(changes(&mut watch).await, [format!("ADDED a {before}")]);
    house.faults.down.store(true, Ordering::SeqCst);
    house.faults.end_watch(Some(StorageError::internal("gone")));
    // The storage below goes on for others; the cache tries to resume, then also to list, again and again.
    let during = create(&*house.below, "ns", "b", "n").await.revision();
    within(async {
        while count(&house.faults.watches) < 10 || count(&house.faults.lists) < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(
        names(house.cache.list(&all(), at(ListAt::Any)).await.unwrap()).await,
        ["a"]
    );
    house.faults.down.store(false, Ordering::SeqCst);
    // Had the log been given up, the watcher would be told to start over.
    let item = within(watch.next()).await;
    match item {
        Some(Ok(WatchItem::Batch(batch))) => assert_eq!(batch.revision, during),
        Some(Err(error)) => assert!(error.is_expired() && count(&house.faults.lists) > 4, "{error}"),
        other => panic!("{other:?}"),
    }
    let list = house.cache.list(&all(), ListOptions::default()).await.unwrap();
    assert_eq!(names(list).await, ["a", "b"]);
}

fn count(counter: &std::sync::atomic::AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}
