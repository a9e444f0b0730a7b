//! Tables of the catalogue: what each combination of options gives, and who answers.

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_api::time::ManualClock;
use apiserver_storage_api::{
    CreateOptions, GetOptions, ListAt, ListOptions, NoCheck, ReadAt, ResourceInfo, ResourceScope, Revision, Scope,
    Storage, StorageError, WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_embedded::kv::Kv;
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use common::*;

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

// covers: storage-cacher/WATCH-07, storage-cacher/WATCH-08, storage-cacher/WATCH-09, storage-cacher/WATCH-16, storage-cacher/WATCH-30, storage-cacher/WATCH-31, storage-cacher/WATCH-32, storage-cacher/WATCH-33, storage-cacher/WATCH-36
#[tokio::test]
async fn watch_semantics() {
    let house = House::new().await;
    let base = house.below.current_revision().await.unwrap();
    for name in ["c", "a", "b"] {
        house.create("ns", name, "n").await;
    }
    let now = house.below.current_revision().await.unwrap();
    let (text, old) = (now.to_string(), base.to_string());
    let mut watches = Vec::new();
    for (version, initial, state, replay) in [
        ("", None, true, false),
        ("", Some(true), true, false),
        ("", Some(false), false, false),
        ("0", None, true, false),
        ("0", Some(true), true, false),
        ("0", Some(false), false, false),
        (&*old, None, false, true),
        (&*old, Some(true), true, false),
        (&*old, Some(false), false, true),
        (&*text, None, false, false),
        (&*text, Some(true), true, false),
        (&*text, Some(false), false, false),
    ] {
        // The cache may be behind at the start that takes any state; a read brings it up.
        house.cache.list(&all(), ListOptions::default()).await.unwrap();
        let start = WatchStart::parse(version, initial).unwrap();
        let case = format!("version {version:?} initial {initial:?}");
        watches.push((
            house.cache.watch(&under("ns"), from(start)).await.unwrap(),
            state,
            replay,
            case,
        ));
    }
    let later = [
        house.create("ns", "d", "n").await.revision(),
        house.create("ns", "e", "n").await.revision(),
    ];
    for (mut watch, state, replay, case) in watches {
        if state {
            let WatchItem::Initial(entries) = next(&mut watch).await else {
                panic!("{case}")
            };
            let names: Vec<_> = entries.iter().map(|entry| &*entry.attributes().unwrap().name).collect();
            assert_eq!(names, ["a", "b", "c"], "{case}");
            let WatchItem::InitialEnd(end) = next(&mut watch).await else {
                panic!("{case}")
            };
            assert_eq!(end, now, "{case}");
        }
        if replay {
            for name in ["c", "a", "b"] {
                assert!(
                    changes(&mut watch).await[0].starts_with(&format!("ADDED {name} ")),
                    "{case}"
                );
            }
        }
        for (name, revision) in ["d", "e"].into_iter().zip(later) {
            assert_eq!(
                changes(&mut watch).await,
                [format!("ADDED {name} {revision}")],
                "{case}"
            );
        }
    }
}

// covers: storage-cacher/DLG-05, storage-cacher/DLG-06, storage-cacher/DLG-20, storage-cacher/DLG-21, storage-cacher/DLG-24, storage-cacher/DLG-26, storage-cacher/DLG-40, storage-cacher/DLG-41, storage-cacher/DLG-42, storage-cacher/DLG-44, storage-cacher/DLG-45, storage-cacher/DLG-46, storage-cacher/LIST-31, storage-cacher/LIST-32
#[tokio::test]
async fn who_answers_a_list() {
    let house = House::with(config().with_history_bytes(6_000).with_history_min_records(1)).await;
    let ancient = house.create("ns", "a", "n").await.revision();
    for round in 0..200 {
        update(&*house.cache, "ns", "a", &format!("n{round}")).await;
    }
    let old = house.create("ns", "b", "n").await.revision();
    let now = house.create("ns", "c", "n").await.revision();
    house.cache.list(&all(), ListOptions::default()).await.unwrap();
    let limit = NonZeroU64::new(1);
    let page = ListOptions {
        limit,
        ..at(ListAt::Exact(now))
    };
    let token = house
        .cache
        .list(&all(), page)
        .await
        .unwrap()
        .collect()
        .await
        .unwrap()
        .next
        .unwrap();
    let one = || apiserver_storage_api::Scope::Key(key("ns", "a"));
    for (case, scope, at, limit, below) in [
        ("most recent", all(), ListAt::MostRecent, None, 0),
        ("most recent page", all(), ListAt::MostRecent, limit, 0),
        ("most recent, one key", one(), ListAt::MostRecent, None, 0),
        ("any", all(), ListAt::Any, None, 0),
        ("any page", all(), ListAt::Any, limit, 0),
        ("not older", all(), ListAt::NotOlderThan(ancient), limit, 0),
        ("exactly now", all(), ListAt::Exact(now), None, 0),
        ("exactly a kept state", all(), ListAt::Exact(old), limit, 0),
        ("exactly a forgotten state", all(), ListAt::Exact(ancient), limit, 1),
        ("continue", all(), ListAt::Continue(token.clone()), limit, 0),
        (
            "continue at the latest",
            all(),
            ListAt::Continue(token.at_latest()),
            limit,
            0,
        ),
    ] {
        let before = count(&house.faults.lists);
        let list = house
            .cache
            .list(
                &scope,
                ListOptions {
                    limit,
                    ..common::at(at.clone())
                },
            )
            .await
            .unwrap();
        let exact = match &at {
            ListAt::Exact(revision) => Some(*revision),
            ListAt::Continue(token) => token.revision(),
            _ => None,
        };
        assert!(list.revision() >= ancient);
        assert_eq!(exact.unwrap_or(list.revision()), list.revision(), "{case}");
        list.collect().await.unwrap();
        assert_eq!(count(&house.faults.lists) - before, below, "{case}");
    }
}

// covers: storage-cacher/LIST-08, storage-cacher/LIST-13, storage-cacher/LIST-34
#[tokio::test]
async fn limits_and_tokens() {
    let house = House::new().await;
    for name in 0..300 {
        house
            .create("ns", &format!("p{name:03}"), if name == 299 { "last" } else { "n" })
            .await;
    }
    house.cache.list(&all(), ListOptions::default()).await.unwrap();
    let limit = NonZeroU64::new(1);
    let everything = house
        .cache
        .list(
            &all(),
            ListOptions {
                limit,
                ..at(ListAt::Any)
            },
        )
        .await
        .unwrap();
    assert_eq!(names(everything).await.len(), 300, "any state comes whole");
    for predicate in [
        fields("spec.nodeName=last"),
        fields("spec.nodeName!=n"),
        fields("metadata.name=p299"),
    ] {
        let options = ListOptions {
            limit,
            predicate,
            ..ListOptions::default()
        };
        let list = house
            .cache
            .list(&all(), options)
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
        assert_eq!((list.entries.len(), list.next, list.remaining), (1, None, None));
    }
    let page = house
        .cache
        .list(
            &all(),
            ListOptions {
                limit,
                ..ListOptions::default()
            },
        )
        .await
        .unwrap();
    let page = page.collect().await.unwrap();
    assert_eq!(page.remaining, Some(299));
    let added = house.create("ns", "p0000", "n").await.revision();
    let token = page.next.unwrap();
    let rest = async |at| house.cache.list(&all(), common::at(at)).await;
    assert_eq!(
        names(rest(ListAt::Continue(token.clone())).await.unwrap()).await.len(),
        299
    );
    let latest = rest(ListAt::Continue(token.at_latest())).await.unwrap();
    assert!(latest.revision() >= added);
    assert_eq!(names(latest).await.len(), 300);
}

// covers: storage-cacher/SCOPE-02, storage-cacher/SCOPE-03, storage-cacher/SCOPE-05, storage-cacher/SCOPE-09, storage-cacher/SCOPE-10, storage-cacher/EVT-05
#[tokio::test]
async fn scoped_watches_see_what_is_theirs() {
    let house = House::new().await;
    let mut watches = Vec::new();
    for (scope, predicate, want) in [
        (all(), fields("metadata.name=x"), vec!["x 1", "x 2", "x 5"]),
        (under("ns1"), fields("metadata.name=x"), vec!["x 1", "x 5"]),
        (under("ns1"), fields("metadata.namespace=ns2"), vec![]),
        (all(), fields("metadata.namespace=ns2"), vec!["x 2", "y 4"]),
        (under("ns2"), fields("spec.nodeName="), vec!["y 4"]),
        (under("ns2"), fields("spec.nodeName!="), vec!["x 2"]),
        (all(), fields("spec.nodeName=b,metadata.name=y"), vec!["y 3"]),
        (all(), labels("app=y"), vec!["y 3", "y 4"]),
        (under("ns1"), labels("app in (y)"), vec!["y 3"]),
        (all(), labels("app in (x,z)"), vec!["x 1", "x 2", "x 5"]),
        (
            apiserver_storage_api::Scope::Key(key("ns1", "y")),
            fields(""),
            vec!["y 3"],
        ),
        (
            apiserver_storage_api::Scope::Key(key("ns1", "y")),
            fields("spec.nodeName=a"),
            vec![],
        ),
    ] {
        let options = WatchOptions {
            predicate,
            progress: true,
            ..from(WatchStart::Now)
        };
        watches.push((house.cache.watch(&scope, options).await.unwrap(), want));
    }
    let mut written: Vec<Revision> = Vec::new();
    for (namespace, name, node) in [
        ("ns1", "x", "a"),
        ("ns2", "x", "a"),
        ("ns1", "y", "b"),
        ("ns2", "y", ""),
    ] {
        written.push(house.create(namespace, name, node).await.revision());
    }
    written.push(update(&*house.cache, "ns1", "x", "c").await.revision());
    house.create("elsewhere", "mark", "z").await;
    let last = delete(&*house.cache, "elsewhere", "mark").await.revision();
    house.cache.request_progress().await.unwrap();
    for (mut watch, want) in watches {
        for want in want {
            let (name, at) = want.split_once(' ').unwrap();
            let revision = written[at.parse::<usize>().unwrap() - 1];
            let [got] = &changes(&mut watch).await[..] else {
                panic!("wanted one change")
            };
            assert!(got.ends_with(&format!(" {name} {revision}")), "{got}, wanted {want}");
        }
        // And nothing else, up to a revision behind everything.
        assert_eq!(changes(&mut watch).await, [format!("PROGRESS {last}")]);
    }
}

// covers: storage-cacher/KEY-01, storage-cacher/KEY-02, storage-cacher/DLG-02, storage-cacher/GET-06
#[tokio::test]
async fn keys_of_another_kind_are_refused() {
    let house = House::new().await;
    let foreign = config_maps();
    let key = foreign.object_key(Some("ns"), "a").unwrap();
    let scope = foreign.list_scope(None).unwrap();
    let errors = [
        house.cache.get(&key, GetOptions { at: ReadAt::Any }).await.err(),
        house.cache.list(&scope, at(ListAt::Any)).await.err(),
        house.cache.list(&Scope::Key(key.clone()), at(ListAt::Any)).await.err(),
        house.cache.watch(&scope, from(WatchStart::Now)).await.err(),
        house
            .cache
            .create(&key, pod("ns", "a", "n"), Default::default())
            .await
            .err(),
        house.cache.delete(&key, Default::default(), &mut NoCheck).await.err(),
    ];
    for error in errors {
        let Some(StorageError::InvalidKey { message }) = error else {
            panic!("{error:?}")
        };
        assert!(message.contains("lacks resource prefix"), "{message}");
    }
}

// covers: storage-cacher/CMP-03, storage-cacher/CMP-05, storage-cacher/DLG-04
#[tokio::test]
async fn compaction_below_ends_old_lists_and_no_watch() {
    let house = House::new().await;
    let old = house.create("ns", "a", "n").await.revision();
    let new = house.create("ns", "b", "n").await.revision();
    let list = house.cache.list(&all(), at(ListAt::Exact(old))).await.unwrap();
    assert_eq!(names(list).await, ["a"]);
    house.kv.compact(new).await.unwrap();
    assert_eq!(house.cache.compacted_revision(), Some(new));
    let gone = house.cache.list(&all(), at(ListAt::Exact(old))).await;
    assert!(gone.as_ref().is_err_and(StorageError::is_expired), "{gone:?}");
    let mut watch = house.cache.watch(&all(), from(WatchStart::After(old))).await.unwrap();
    assert_eq!(changes(&mut watch).await, [format!("ADDED b {new}")]);
}

// covers: storage-cacher/ENC-01, storage-cacher/ENC-02, storage-cacher/ENC-06, storage-cacher/ENC-08, storage-cacher/EVT-09, storage-cacher/GET-07, storage-cacher/LIST-23, storage-cacher/OPP-02
#[tokio::test]
async fn lists_and_watchers_share_one_record() {
    let house = House::new().await;
    let watch = async |predicate| {
        let options = WatchOptions {
            predicate,
            ..from(WatchStart::Now)
        };
        house.cache.watch(&all(), options).await.unwrap()
    };
    let mut watches = [
        watch(fields("")).await,
        watch(fields("spec.nodeName=n")).await,
        watch(fields("spec.nodeName=n")).await,
    ];
    let first = house.create("ns", "a", "n").await.revision();
    update(&*house.cache, "ns", "a", "m").await;
    let cached = house
        .cache
        .list(&all(), ListOptions::default())
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let mut objects = Vec::new();
    for watch in &mut watches {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let WatchItem::Batch(batch) = next(watch).await else {
                panic!("wanted a change")
            };
            seen.push(batch.events[0].object.clone().unwrap());
        }
        objects.push(seen);
    }
    let [whole, one, two] = &objects[..] else {
        panic!("three watchers")
    };
    assert!(
        whole[0].ptr_eq(&one[0]) && whole[0].ptr_eq(&two[0]),
        "one record for all"
    );
    assert!(whole[1].ptr_eq(&cached.entries[0]), "and for lists");
    // Initial states and replays are made of the same records.
    let mut initial = house
        .cache
        .watch(&all(), from(WatchStart::InitialState(ReadAt::Any)))
        .await
        .unwrap();
    let WatchItem::Initial(entries) = next(&mut initial).await else {
        panic!("wanted the state")
    };
    assert!(entries[0].ptr_eq(&cached.entries[0]));
    let mut replay = house.cache.watch(&all(), from(WatchStart::After(first))).await.unwrap();
    let WatchItem::Batch(batch) = next(&mut replay).await else {
        panic!("wanted a change")
    };
    assert!(batch.events[0].object.as_ref().unwrap().ptr_eq(&whole[1]));
    assert!(batch.events[0].previous.as_ref().unwrap().ptr_eq(&whole[0]));
    // What somebody decodes is their own.
    let mut own: serde_json::Value = entries[0].decode().unwrap();
    own["spec"]["nodeName"] = "changed".into();
    assert_ne!(entries[0].decode::<serde_json::Value>().unwrap(), own);
    assert!(one[1].ptr_eq(&two[1]), "the body of what left a selection is made once");
    assert_eq!(one[1].revision(), whole[1].revision());
}

// covers: storage-cacher/BKM-01, storage-cacher/IEND-02, storage-cacher/BKM-03
#[tokio::test]
async fn who_did_not_ask_for_progress_is_told_of_none() {
    let house = House::with(config().with_bookmark_period(std::time::Duration::from_millis(20))).await;
    let quiet = from(WatchStart::Now);
    let asking = WatchOptions {
        progress: true,
        ..quiet.clone()
    };
    let mut quiet = house.cache.watch(&under("ns"), quiet).await.unwrap();
    let mut asking = house.cache.watch(&under("ns"), asking).await.unwrap();
    for round in 0..3 {
        house.elsewhere(&format!("c{round}")).await;
        assert!(matches!(next(&mut asking).await, WatchItem::Progress(_)));
    }
    let revision = house.create("ns", "a", "n").await.revision();
    assert_eq!(changes(&mut quiet).await, [format!("ADDED a {revision}")]);
}

// covers: storage-cacher/WATCH-04, storage-cacher/WATCH-05, storage-cacher/FRSH-05
#[tokio::test]
async fn an_initial_state_waits_for_what_it_was_asked_for() {
    let house = House::new().await;
    house.faults.silent.store(true, Ordering::SeqCst);
    let written = create(&*house.below, "ns", "a", "n").await.revision();
    let start = WatchStart::InitialState(ReadAt::NotOlderThan(written));
    let late = house.cache.watch(&all(), from(start)).await;
    assert!(
        matches!(late, Err(StorageError::TooLargeResourceVersion { .. })),
        "{late:?}"
    );
    let scope = all();
    let waiting = house.cache.watch(&scope, from(start));
    let unblock = async { house.faults.silent.store(false, Ordering::SeqCst) };
    let (watch, ()) = within(async { tokio::join!(waiting, unblock) }).await;
    assert_eq!(changes(&mut watch.unwrap()).await, [format!("INITIAL a {written}")]);
}

// covers: storage-cacher/EVT-07
#[tokio::test]
async fn what_expires_is_deleted() {
    let clock = ManualClock::new(std::time::SystemTime::now());
    let config = EmbeddedConfig::memory().with_clock(Arc::new(clock.clone()));
    let kv = Arc::new(EmbeddedKv::open(config).await.unwrap());
    let cache = Cacher::new(Arc::new(kv.store(pods())), CacherConfig::default());
    cache.wait_ready().await.unwrap();
    let mut watch = cache.watch(&all(), from(WatchStart::Now)).await.unwrap();
    let options = CreateOptions {
        ttl: Some(Duration::from_secs(10)),
    };
    let created = cache
        .create(&key("ns", "a"), pod("ns", "a", "n"), options)
        .await
        .unwrap();
    let revision = created.revision();
    assert_eq!(changes(&mut watch).await, [format!("ADDED a {revision}")]);
    clock.advance(Duration::from_secs(12));
    let WatchItem::Batch(batch) = next(&mut watch).await else {
        panic!("wanted a change")
    };
    assert!(batch.revision > revision && short(&batch.events[0]).starts_with("DELETED a "));
}

// covers: storage-cacher/SCOPE-04, storage-cacher/SCOPE-11
#[tokio::test]
async fn watches_of_a_cluster_scoped_kind_see_what_is_theirs() {
    let info = ResourceInfo::new("", "v1", "namespaces", "Namespace", ResourceScope::Cluster);
    let kv = Arc::new(EmbeddedKv::open(EmbeddedConfig::memory()).await.unwrap());
    let cache = Cacher::new(Arc::new(kv.store(info.clone())), CacherConfig::default());
    cache.wait_ready().await.unwrap();
    let one = |name: &str| info.object_key(None, name).unwrap();
    let everything = info.list_scope(None).unwrap();
    let mut watches = Vec::new();
    for (scope, predicate, want) in [
        (everything.clone(), fields(""), vec!["a", "b"]),
        (everything.clone(), fields("metadata.name=b"), vec!["b"]),
        (Scope::Key(one("a")), fields(""), vec!["a"]),
        (Scope::Key(one("a")), fields("metadata.name=a"), vec!["a"]),
        (Scope::Key(one("a")), fields("metadata.name=b"), vec![]),
        (everything.clone(), fields("metadata.namespace=a"), vec![]),
    ] {
        let options = WatchOptions {
            predicate,
            progress: true,
            ..from(WatchStart::Now)
        };
        watches.push((cache.watch(&scope, options).await.unwrap(), want));
    }
    for name in ["a", "b"] {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let object = apiserver_storage_api::Encoded::of(&object).unwrap();
        cache
            .create(&one(name), object, CreateOptions::default())
            .await
            .unwrap();
    }
    let last = kv.now().await.unwrap();
    let list = cache.list(&everything, ListOptions::default()).await.unwrap();
    assert_eq!(names(list).await, ["a", "b"]);
    cache.request_progress().await.unwrap();
    for (mut watch, want) in watches {
        for want in want {
            assert!(changes(&mut watch).await[0].starts_with(&format!("ADDED {want} ")));
        }
        // And nothing else, up to a revision behind everything; unless the last change was its own.
        cache.request_progress().await.unwrap();
        let item = next(&mut watch).await;
        assert!(matches!(item, WatchItem::Progress(at) if at >= last), "{item:?}");
    }
}
