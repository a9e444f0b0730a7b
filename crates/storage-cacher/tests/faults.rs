//! What happens when the storage below fails, lags, loses history or is another one.

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_api::{GetOptions, ListAt, ListOptions, ReadAt, Storage, StorageError, WatchItem, WatchStart};
use common::script::{Script, Stage, listed, revision};
use common::*;
use futures::StreamExt;

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

// covers: storage-cacher/INIT-01, storage-cacher/INIT-02, storage-cacher/INIT-11, storage-cacher/RDY-03
#[tokio::test]
async fn failing_lists_delay_readiness_and_nothing_more() {
    let faults = Faults {
        failing_lists: AtomicUsize::new(3),
        ..Faults::default()
    };
    let house = House::with_faults(faults, config().with_retry_pause(Duration::from_millis(2))).await;
    within(house.cache.wait_ready()).await.unwrap();
    assert_eq!(count(&house.faults.lists), 4);
    house.create("ns", "a", "n").await;
    assert_eq!(
        names(house.cache.list(&all(), ListOptions::default()).await.unwrap()).await,
        ["a"]
    );
}

// covers: storage-cacher/NRDY-01, storage-cacher/NRDY-02, storage-cacher/NRDY-04, storage-cacher/NRDY-08, storage-cacher/NRDY-09, storage-cacher/INIT-17, storage-cacher/RDY-06
#[tokio::test]
async fn a_cache_that_never_was_ready_serves_what_is_cheap_and_refuses_the_rest() {
    let faults = Faults {
        failing_lists: AtomicUsize::new(1),
        ..Faults::default()
    };
    let config = config()
        .with_ready_timeout(Duration::from_millis(20))
        .with_retry_pause(Duration::from_secs(3600));
    let house = House::with_faults(faults, config).await;
    let created = house.create("ns", "a", "n").await;
    house.create("ns", "b", "n").await;
    // The first list was the feed's and has failed; from here on the store answers.
    while count(&house.faults.failing_lists) > 0 {
        tokio::task::yield_now().await;
    }
    for at in [
        ReadAt::MostRecent,
        ReadAt::Any,
        ReadAt::NotOlderThan(created.revision()),
    ] {
        let entry = house.cache.get(&key("ns", "a"), GetOptions { at }).await.unwrap();
        assert_eq!(entry.revision(), created.revision());
    }
    let page = ListOptions {
        limit: NonZeroU64::new(1),
        ..at(ListAt::Any)
    };
    assert_eq!(names(house.cache.list(&all(), page).await.unwrap()).await, ["a"]);
    let list = house.cache.list(&all(), ListOptions::default()).await.unwrap();
    assert_eq!(names(list).await, ["a", "b"]);
    let selecting = ListOptions {
        limit: NonZeroU64::new(1),
        predicate: fields("spec.nodeName=n"),
        ..at(ListAt::Any)
    };
    let refused = [
        house.cache.list(&all(), at(ListAt::Any)).await.map(drop),
        house.cache.list(&all(), selecting).await.map(drop),
        house.cache.watch(&all(), from(WatchStart::Now)).await.map(drop),
        house
            .cache
            .watch(&all(), from(WatchStart::InitialState(ReadAt::Any)))
            .await
            .map(drop),
    ];
    for refused in refused {
        let Err(StorageError::TooManyRequests { cause, retry_after }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(cause, "storage is (re)initializing: internal error: injected");
        assert_eq!(retry_after, Duration::from_secs(1));
    }
    assert!(house.cache.ready().is_err());
}

// covers: storage-cacher/INIT-12, storage-cacher/INIT-15, storage-cacher/ORD-01
#[tokio::test]
async fn a_watch_that_breaks_is_resumed_and_nobody_notices() {
    let house = House::with(config().with_retry_pause(Duration::from_millis(1))).await;
    let mut watch = house.cache.watch(&all(), from(WatchStart::Now)).await.unwrap();
    for round in 0..30 {
        let error = (round % 2 == 0).then(|| StorageError::internal("no leader"));
        house.faults.end_watch(error);
        let name = format!("p{round:02}");
        let revision = house.create("ns", &name, "n").await.revision();
        assert_eq!(changes(&mut watch).await, [format!("ADDED {name} {revision}")]);
        assert!(house.cache.ready().is_ok());
    }
    assert_eq!(count(&house.faults.lists), 1, "the state was listed once");
    assert!(count(&house.faults.watches) > 1);
}

// deviates: storage-cacher/HIST-08: a start before the log goes on in the history of the storage below, where it has it.
// covers: storage-cacher/INIT-13, storage-cacher/INIT-18, storage-cacher/LIFE-04
#[tokio::test]
async fn lost_history_is_listed_again_and_watchers_are_told() {
    let house = House::with(config().with_retry_pause(Duration::from_millis(1))).await;
    house.create("ns", "a", "n").await;
    let mut watch = house
        .cache
        .watch(&all(), from(WatchStart::InitialState(ReadAt::MostRecent)))
        .await
        .unwrap();
    assert!(matches!(next(&mut watch).await, WatchItem::Initial(_)));
    let WatchItem::InitialEnd(before) = next(&mut watch).await else {
        panic!("wanted the end")
    };
    // The cache hears nothing of what happens until its watch is refused.
    house.faults.silent.store(true, Ordering::SeqCst);
    let during = create(&*house.below, "ns", "b", "n").await.revision();
    house.faults.end_watch(Some(StorageError::expired_watch()));
    house.faults.silent.store(false, Ordering::SeqCst);
    let lost = within(watch.next()).await;
    match lost {
        Some(Err(error)) => assert!(error.is_expired(), "{error}"),
        // The event may have come before the cut.
        Some(Ok(WatchItem::Batch(batch))) => assert_eq!(batch.revision, during),
        other => panic!("{other:?}"),
    }
    within(async {
        while house.cache.ready().is_err() || count(&house.faults.lists) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // The new log does not know what happened after `before`; the storage below does, and meets the log.
    let mut old = house
        .cache
        .watch(&all(), from(WatchStart::After(before)))
        .await
        .unwrap();
    assert_eq!(changes(&mut old).await, [format!("ADDED b {during}")]);
    let asked_below = count(&house.faults.watches);
    for name in ["c", "d"] {
        let revision = house.create("ns", name, "n").await.revision();
        assert_eq!(changes(&mut old).await, [format!("ADDED {name} {revision}")]);
    }
    assert_eq!(count(&house.faults.watches), asked_below, "it asks below no more");
    assert_eq!(
        names(house.cache.list(&all(), ListOptions::default()).await.unwrap()).await,
        ["a", "b", "c", "d"]
    );
}

// covers: storage-cacher/INIT-20, storage-cacher/SCALE-14
#[tokio::test]
async fn watchers_that_have_seen_everything_outlive_a_list_of_the_same_state() {
    let house = House::with(config().with_retry_pause(Duration::from_millis(1))).await;
    house.create("ns", "a", "n").await;
    let mut watch = house
        .cache
        .watch(&all(), from(WatchStart::InitialState(ReadAt::MostRecent)))
        .await
        .unwrap();
    assert!(matches!(next(&mut watch).await, WatchItem::Initial(_)));
    assert!(matches!(next(&mut watch).await, WatchItem::InitialEnd(_)));
    for round in 0..5 {
        let lists = count(&house.faults.lists);
        house.faults.end_watch(Some(StorageError::expired_watch()));
        within(async {
            while house.cache.ready().is_err() || count(&house.faults.lists) == lists {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let name = format!("p{round}");
        let revision = house.create("ns", &name, "n").await.revision();
        assert_eq!(changes(&mut watch).await, [format!("ADDED {name} {revision}")]);
    }
}

#[test]
fn a_watch_that_is_told_nothing_meets_the_log_all_the_same() {
    let script = Script::new();
    for name in ["a", "b", "c"] {
        script.put("ns", name, "n");
    }
    let mut stage = Stage::new(Arc::clone(&script), |config| config);
    assert_eq!(script.open_watches(), 1, "the cache's own");
    // History cannot be read for everybody, so that the watch goes on below by itself.
    script.fail_watches(vec![StorageError::internal("injected")]);
    let mut options = from(WatchStart::After(revision(101)));
    options.predicate = fields("spec.nodeName=elsewhere");
    let mut watch = stage.watch(all(), options).unwrap();
    assert_eq!(script.open_watches(), 2);
    let mut heard = Vec::new();
    for _ in 0..30 {
        stage.pass(Duration::from_millis(100));
        heard.extend(stage.heard(&mut watch));
    }
    assert_eq!(script.open_watches(), 1, "its place is given back");
    assert!(heard.is_empty(), "progress was not asked for: {heard:?}");
    let at = script.put("ns", "d", "elsewhere");
    assert_eq!(stage.heard(&mut watch), [format!("ADDED d {at}")]);
}

#[test]
fn a_reader_that_stops_loses_its_place_among_the_lists_below() {
    let script = Script::new();
    script.put("ns", "a", "n");
    let mut stage = Stage::new(Arc::clone(&script), |config| config.with_backend_lists(1));
    script.put("ns", "b", "n");
    // Nobody tells the cache of what is written now, so a state before the first list is below.
    let earlier = at(ListAt::Exact(revision(100)));
    let cache = Arc::clone(&stage.cache);
    let options = earlier.clone();
    let stopped = stage.run(async move { cache.list(&all(), options).await }).unwrap();
    let mut waits = stage.begin_list(earlier.clone());
    stage.pass(Duration::from_secs(4));
    let refused = waits.outcome().expect("it was answered");
    assert!(
        matches!(refused, Err(StorageError::TooManyRequests { .. })),
        "{refused:?}"
    );
    stage.pass(Duration::from_secs(54));
    let mut waits = stage.begin_list(earlier.clone());
    assert!(waits.outcome().is_none());
    stage.pass(Duration::from_secs(3));
    let list = waits.outcome().expect("it was answered").unwrap();
    assert_eq!(list.revision, revision(100));
    let late = stage.run(stopped.collect());
    let Err(StorageError::TooManyRequests { cause, .. }) = late else {
        panic!("{late:?}")
    };
    assert!(cause.contains("so slowly"), "{cause}");
}

/// What readers are told while the cache is behind, each after the other.
fn any_and_earlier(stage: &mut Stage, asked: u64) -> Vec<(String, Option<u64>)> {
    let mut told = Vec::new();
    let bound = revision(asked);
    for (name, options) in [("any", at(ListAt::Any)), ("bound", at(ListAt::NotOlderThan(bound)))] {
        let mut list = stage.begin_list(options);
        stage.pass(Duration::from_secs(4));
        let list = list.outcome().expect("lists do not wait for ever");
        told.push((format!("list {name}"), list.ok().map(|list| list.revision.get())));
    }
    for (name, at) in [("any", ReadAt::Any), ("bound", ReadAt::NotOlderThan(bound))] {
        let cache = Arc::clone(&stage.cache);
        let mut entry = stage.spawn(async move { cache.get(&key("ns", "new"), GetOptions { at }).await });
        stage.pass(Duration::from_secs(4));
        let entry = entry.outcome().expect("gets do not wait for ever");
        told.push((format!("get {name}"), entry.ok().map(|entry| entry.revision().get())));
        let (cache, start) = (Arc::clone(&stage.cache), WatchStart::InitialState(at));
        let mut watch = stage.spawn(async move { cache.watch(&all(), from(start)).await });
        stage.pass(Duration::from_secs(4));
        let mut watch = watch.outcome().expect("watches do not wait for ever").ok();
        let heard = watch.as_mut().map(|watch| stage.heard(watch));
        let end = heard.and_then(|heard| heard.last()?.strip_prefix("END ")?.parse().ok());
        told.push((format!("watch {name}"), end));
    }
    told
}

/// Nobody is shown an earlier state than somebody was before: a cache that is behind sends readers below, and watches
/// away.
#[test]
fn what_somebody_was_shown_is_shown_to_everybody_after_that() {
    for shown_by in ["list", "get", "missing", "watch"] {
        let script = Script::new();
        script.put("ns", "old", "n");
        let mut stage = Stage::new(Arc::clone(&script), |config| config);
        let cache = Arc::clone(&stage.cache);
        if shown_by == "watch" {
            script.put("ns", "other", "n");
        }
        script.hold(true);
        script.answer_progress(false);
        let before = script.elsewhere().get() - 1;
        let at = script.put("ns", "new", "n").get();
        match shown_by {
            "list" => {
                let mut list = stage.begin_list(ListOptions::default());
                stage.pass(Duration::from_secs(4));
                assert_eq!(list.outcome().unwrap().unwrap().revision.get(), at);
            }
            "get" => {
                let got = stage.run(async move { cache.get(&key("ns", "new"), GetOptions::default()).await });
                assert_eq!(got.unwrap().revision().get(), at);
            }
            "missing" => {
                script.remove("ns", "old");
                let gone = stage.run(async move { cache.get(&key("ns", "old"), GetOptions::default()).await });
                assert!(gone.is_err_and(|error| error.is_not_found()));
            }
            _ => {
                // It begins before the log, goes on below, and is told there what the cache has not heard of.
                script.fail_watches(vec![StorageError::internal("injected")]);
                let mut options = from(WatchStart::After(revision(100)));
                options.predicate = fields("metadata.name=new");
                let mut watch = stage.watch(all(), options).unwrap();
                script.tell_latest();
                assert_eq!(stage.heard(&mut watch), [format!("ADDED new {at}")]);
            }
        }
        for (who, told) in any_and_earlier(&mut stage, before) {
            assert!(
                told.is_none_or(|told| told >= at),
                "{who} after {shown_by}: {told:?} is before {at}"
            );
            assert!(
                told.is_some() || who.starts_with("watch"),
                "{who} after {shown_by} is answered below"
            );
        }
        script.hold(false);
        script.answer_progress(true);
        stage.pass(Duration::from_secs(1));
        script.asked();
        for (who, told) in any_and_earlier(&mut stage, before) {
            assert!(told.is_some_and(|told| told >= at), "{who} after {shown_by}: {told:?}");
        }
        assert_eq!(script.count("list") + script.count("get"), 0, "the cache has it by now");
    }
}

// covers: storage-cacher/DLG-48, storage-cacher/GATE-12, storage-cacher/WATCH-03
#[tokio::test]
async fn without_progress_consistent_reads_go_below() {
    let house = House::with(config().with_freshness_timeout(Duration::from_secs(600))).await;
    house.faults.no_progress.store(true, Ordering::SeqCst);
    for round in 0..5 {
        // Another kind moves the revision, and the cache's own watch never hears of it.
        let elsewhere = house.elsewhere(&format!("c{round}")).await;
        let list = within(house.cache.list(&all(), ListOptions::default())).await.unwrap();
        assert!(list.revision() >= elsewhere);
    }
    assert_eq!(count(&house.faults.lists), 6, "one for the cache, five for the readers");
    assert_eq!(count(&house.faults.progress), 1, "it was asked once, and believed");
    assert_eq!(count(&house.faults.nows), 1);
    let start = WatchStart::InitialState(ReadAt::MostRecent);
    let watch = within(house.cache.watch(&all(), from(start))).await;
    let Err(StorageError::Internal { message, .. }) = watch else {
        panic!("{watch:?}")
    };
    assert!(message.contains("RequestWatchProgress is disabled"), "{message}");
}

// covers: storage-cacher/DLG-61, storage-cacher/DLG-63, storage-cacher/DLG-64, storage-cacher/FRSH-10
#[tokio::test]
async fn a_cache_that_lags_falls_back_to_one_list_below() {
    let house = House::with(config().with_freshness_timeout(Duration::from_millis(100))).await;
    let first = house.create("ns", "a", "n").await.revision();
    let list = house.cache.list(&all(), ListOptions::default()).await.unwrap();
    assert_eq!(
        (names(list).await, count(&house.faults.lists)),
        (vec!["a".to_owned()], 1),
        "from memory"
    );
    house.faults.silent.store(true, Ordering::SeqCst);
    let written = house.create("ns", "b", "n").await.revision();
    let (lists, nows) = (count(&house.faults.lists), count(&house.faults.nows));
    let list = house.cache.list(&all(), ListOptions::default()).await.unwrap();
    assert!(list.revision() >= written);
    assert_eq!(names(list).await, ["a", "b"]);
    assert_eq!(
        (count(&house.faults.lists) - lists, count(&house.faults.nows) - nows),
        (1, 1)
    );
    let waiting = house.cache.list(&all(), at(ListAt::NotOlderThan(written))).await;
    let Err(StorageError::TooLargeResourceVersion { asked, current, .. }) = waiting else {
        panic!("{waiting:?}")
    };
    assert_eq!(asked, written);
    assert!(current >= first && current < written);
    assert_eq!(
        names(house.cache.list(&all(), at(ListAt::Any)).await.unwrap()).await,
        ["a", "b"],
        "nobody is shown less than somebody was before"
    );
    house.faults.silent.store(false, Ordering::SeqCst);
    let list = house
        .cache
        .list(&all(), at(ListAt::NotOlderThan(written)))
        .await
        .unwrap();
    assert_eq!(names(list).await, ["a", "b"]);
}

#[tokio::test]
async fn a_store_that_is_behind_the_cache_is_another_one() {
    let house = House::with(config().with_retry_pause(Duration::from_millis(1))).await;
    house.create("ns", "a", "n").await;
    house.cache.list(&all(), ListOptions::default()).await.unwrap();
    let lists = count(&house.faults.lists);
    house.faults.revision.store(1, Ordering::SeqCst);
    let list = house.cache.list(&all(), ListOptions::default()).await.unwrap();
    assert_eq!(names(list).await, ["a"], "the store itself is asked");
    house.faults.revision.store(0, Ordering::SeqCst);
    within(async {
        while count(&house.faults.lists) < lists + 2 || house.cache.ready().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

// covers: storage-cacher/FRSH-13, storage-cacher/SCALE-15
#[test]
fn fifty_consistent_lists_share_one_question_that_is_asked_after_they_came() {
    let script = Script::new();
    let mut stage = Stage::new(Arc::clone(&script), |config| config);
    script.put("ns", "old", "n");
    script.asked();
    script.hold_nows(true);
    let mut first = stage.begin_list(ListOptions::default());
    assert_eq!(script.count("now"), 1);
    // The question that is under way may be older than this write.
    let written = script.put("ns", "new", "n");
    let mut lists: Vec<_> = (0..50).map(|_| stage.begin_list(ListOptions::default())).collect();
    assert_eq!(script.count("now"), 0, "theirs goes out when the first one is back");
    script.hold_nows(false);
    stage.settle();
    assert_eq!(script.count("now"), 1, "one for all fifty");
    assert!(first.outcome().is_some_and(|list| list.is_ok()));
    for list in &mut lists {
        let list = list.outcome().expect("it was answered").unwrap();
        assert!(list.revision >= written, "{} is before {written}", list.revision);
        assert_eq!(listed(&list), ["new", "old"]);
    }
}

// covers: storage-cacher/LIST-19, storage-cacher/OPP-06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_consistent_lists_are_all_fresh() {
    let house = Arc::new(House::new().await);
    let (writers, readers) = (4, 40);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let house = Arc::clone(&house);
        tasks.spawn(async move {
            for round in 0..20 {
                house.create("ns", &format!("w{writer}-{round}"), "n").await;
            }
        });
    }
    for reader in 0..readers {
        let house = Arc::clone(&house);
        tasks.spawn(async move {
            for round in 0..10 {
                let written = house.create("ns", &format!("r{reader}-{round}"), "n").await.revision();
                let list = house.cache.list(&under("ns"), ListOptions::default()).await.unwrap();
                assert!(list.revision() >= written);
                let name = format!("r{reader}-{round}");
                assert!(names(list).await.contains(&name), "{name} is missing");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

// covers: storage-cacher/INIT-21, storage-cacher/SCALE-14, storage-cacher/OPP-10
#[tokio::test]
async fn an_object_that_nobody_can_read_does_not_take_its_kind_down() {
    use apiserver_storage_embedded::kv::{Expected, Kv, Lease};
    let house = House::unready(config()).await;
    let raw = |name: &str| format!("/registry{}", key("ns", name));
    let garbage = bytes::Bytes::from_static(b"garbage");
    house
        .kv
        .put_if(&raw("bad"), garbage.clone(), Expected::Absent, Lease::None)
        .await
        .unwrap();
    let house = House {
        cache: Arc::new(apiserver_storage_cacher::Cacher::new(
            Arc::clone(&house.below),
            config(),
        )),
        ..house
    };
    within(house.cache.wait_ready()).await.unwrap();
    let good = house.create("ns", "good", "n").await;
    let any = ReadAt::NotOlderThan(good.revision());
    assert!(
        house
            .cache
            .get(&key("ns", "good"), GetOptions { at: any })
            .await
            .is_ok()
    );
    let bad = house.cache.get(&key("ns", "bad"), GetOptions { at: any }).await;
    assert!(matches!(bad, Err(StorageError::Unreadable { .. })), "{bad:?}");
    for predicate in [fields(""), fields("spec.nodeName=n")] {
        let options = ListOptions {
            predicate,
            ..ListOptions::default()
        };
        let list = house.cache.list(&under("ns"), options).await.unwrap().collect().await;
        let Err(StorageError::Unreadable { key, .. }) = list else {
            panic!("{list:?}")
        };
        assert!(key.ends_with("/pods/ns/bad"), "{key}");
    }
    assert!(
        names(house.cache.list(&under("ns2"), ListOptions::default()).await.unwrap())
            .await
            .is_empty()
    );
    // One that comes later is told to watchers as what it is.
    let mut watch = house.cache.watch(&under("ns"), from(WatchStart::Now)).await.unwrap();
    house
        .kv
        .put_if(&raw("worse"), garbage, Expected::Absent, Lease::None)
        .await
        .unwrap();
    let WatchItem::Batch(batch) = next(&mut watch).await else {
        panic!("wanted a change")
    };
    assert!(batch.events[0].object.as_ref().unwrap().unreadable_reason().is_some());
    assert!(house.cache.ready().is_ok());
}

// covers: storage-cacher/WR-01, storage-cacher/WR-02, storage-cacher/WR-03
#[tokio::test]
async fn writes_take_the_cached_object_as_a_hint_and_are_right_when_it_is_old() {
    let house = House::new().await;
    let first = house.create("ns", "a", "n1").await;
    let at = ReadAt::NotOlderThan(first.revision());
    house.cache.get(&key("ns", "a"), GetOptions { at }).await.unwrap();
    house.faults.silent.store(true, Ordering::SeqCst);
    update(&*house.below, "ns", "a", "n2").await;
    let mut seen = Vec::new();
    let seen = Arc::new(parking_lot::Mutex::new(&mut seen));
    let mut change = |current: Option<apiserver_storage_api::Entry>| {
        seen.lock().push(
            current
                .unwrap()
                .attributes()
                .unwrap()
                .field("spec.nodeName")
                .unwrap()
                .to_owned(),
        );
        async { Ok(apiserver_storage_api::Change::put(pod("ns", "a", "n3"))) }
    };
    house
        .cache
        .guaranteed_update(&key("ns", "a"), Default::default(), &mut change)
        .await
        .unwrap();
    assert_eq!(
        **seen.lock(),
        ["n1", "n2"],
        "first the hint, then what was really there"
    );
    delete(&*house.below, "ns", "a").await;
    let gone = house
        .cache
        .delete(&key("ns", "a"), Default::default(), &mut apiserver_storage_api::NoCheck)
        .await;
    assert!(gone.as_ref().is_err_and(StorageError::is_not_found), "{gone:?}");
}

// covers: storage-cacher/CHK-01, storage-cacher/CHK-02, storage-cacher/CHK-04, storage-cacher/CHK-06
#[tokio::test]
async fn a_lost_change_is_found_and_healed() {
    let settings = config()
        .with_retry_pause(Duration::from_millis(1))
        .with_check_period(None);
    let house = House::with(settings).await;
    for name in ["a", "b", "c"] {
        house.create("ns", name, "n").await;
    }
    house.cache.list(&all(), ListOptions::default()).await.unwrap();
    let same = house.cache.compare().await.unwrap();
    assert_eq!((same.difference, &same.cache), (None, &same.storage));
    for lost in ["update", "delete", "create"] {
        let lists = count(&house.faults.lists);
        house.faults.swallowed.store(1, Ordering::SeqCst);
        match lost {
            "update" => drop(update(&*house.below, "ns", "b", "m").await),
            "delete" => drop(delete(&*house.below, "ns", "b").await),
            _ => drop(create(&*house.below, "ns", "b", "n").await),
        }
        // The change after the lost one brings the cache to a revision that it must not claim.
        let next = house.create("ns", &format!("z{lost}"), "n").await.revision();
        house.cache.list(&all(), at(ListAt::NotOlderThan(next))).await.unwrap();
        let comparison = house.cache.compare().await.unwrap();
        let difference = comparison.difference.unwrap();
        assert_ne!(comparison.cache, comparison.storage);
        let (cache, storage) = (difference.cache.unwrap(), difference.storage.unwrap());
        assert!(
            cache.contains("/ns/b at") || storage.contains("/ns/b at"),
            "{lost}: {cache} {storage}"
        );
        // Left to itself, a cache finds out and lists again.
        house.faults.end_watch(Some(StorageError::expired_watch()));
        within(async {
            while count(&house.faults.lists) < lists + 2 || house.cache.ready().is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        house.cache.list(&all(), ListOptions::default()).await.unwrap();
        assert_eq!(house.cache.compare().await.unwrap().difference, None, "{lost}");
    }
    house.cache.close().await;
    assert!(house.cache.compare().await.is_err());
}

// covers: storage-cacher/CHK-05
#[tokio::test]
async fn a_cache_that_is_left_to_itself_finds_a_lost_change() {
    let settings = config()
        .with_retry_pause(Duration::from_millis(1))
        .with_check_period(Some(Duration::from_millis(30)));
    let house = House::with(settings).await;
    house.create("ns", "a", "old").await;
    house.cache.list(&all(), ListOptions::default()).await.unwrap();
    house.faults.swallowed.store(1, Ordering::SeqCst);
    let lost = update(&*house.below, "ns", "a", "new").await.revision();
    house.create("ns", "b", "n").await;
    within(async {
        loop {
            let any = GetOptions { at: ReadAt::Any };
            if house
                .cache
                .get(&key("ns", "a"), any)
                .await
                .is_ok_and(|entry| entry.revision() == lost)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
