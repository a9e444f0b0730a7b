//! What only a backend can do to a watch.

mod common;

use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::ManualClock;
use apiserver_storage_api::{
    CreateOptions, EventKind, ReadAt, Revision, Storage, StorageError, WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_kv::transform::Outcome;
use apiserver_storage_testing::fixture::*;
use bytes::Bytes;

use common::{KeyService, Opening, clocked, has, opened, sealed, store};

// covers: storage-api/WATCH-26, storage-api/GAP-06, storage-etcd3/LEASE-12, storage-etcd3/ETCD-11
#[tokio::test]
async fn what_is_deleted_at_one_revision_comes_in_one_batch() {
    let (kv, store) = store();
    for (name, on) in [("a", "n1"), ("b", "n2"), ("c", "n1")] {
        let options = CreateOptions {
            ttl: Some(Duration::from_secs(5)),
        };
        store
            .create(&key("ns", name), encoded(&pod_on("ns", name, on)), options)
            .await
            .expect("created");
    }
    let start = WatchStart::After(now(&store).await);
    let mut everything = Watching::all(&store, start).await;
    let mut on_n1 = Watching::selected(&store, start, by_field("spec.nodeName=n1")).await;
    kv.advance(Duration::from_secs(5));
    for (watch, want) in [(&mut everything, vec!["a", "b", "c"]), (&mut on_n1, vec!["a", "c"])] {
        match watch.item().await {
            Some(Ok(WatchItem::Batch(batch))) => {
                let keys: Vec<_> = batch.events.iter().map(|event| event.key.clone()).collect();
                assert_eq!(keys, want.into_iter().map(|name| key("ns", name)).collect::<Vec<_>>());
                assert!(batch.events.iter().all(|event| event.kind == EventKind::Deleted));
            }
            other => panic!("{other:?}"),
        }
    }
}

// covers: storage-api/WATCH-07
#[tokio::test]
async fn a_start_above_the_current_revision_is_waited_for_three_seconds() {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    let (kv, store) = clocked(clock.clone());
    create_pod(&store, "ns", "a").await;
    for start in [
        WatchStart::After(Revision::MAX),
        WatchStart::InitialState(ReadAt::NotOlderThan(revision(50))),
    ] {
        let waiting = {
            let store = store.clone();
            tokio::spawn(async move { store.watch(&all(), WatchOptions::from_start(start)).await.map(|_| ()) })
        };
        for _ in 0..29 {
            step(&clock).await;
        }
        assert!(!waiting.is_finished(), "three seconds are not over");
        step(&clock).await;
        let refused = waiting.await.expect("no panic");
        assert!(
            matches!(refused, Err(StorageError::TooLargeResourceVersion { .. })),
            "{refused:?}"
        );
    }
    let waiting = {
        let store = store.clone();
        let start = WatchStart::After(revision(now(&store).await.get() + 1));
        tokio::spawn(async move { store.watch(&all(), WatchOptions::from_start(start)).await })
    };
    step(&clock).await;
    kv.raw_put("/registry/elsewhere", "x");
    clock.advance(Duration::from_millis(100));
    waiting.await.expect("no panic").expect("the store got there");
}

/// Moves the clock once somebody sleeps on it.
async fn step(clock: &ManualClock) {
    while clock.sleepers() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_millis(100));
}

// covers: storage-etcd3/EWATCH-16, storage-etcd3/EWATCH-17, storage-api/WATCH-30, storage-api/GAP-06
#[tokio::test]
async fn a_change_whose_previous_state_is_forgotten_ends_the_watch_with_410() {
    let (kv, store) = store();
    let created = create_pod(&store, "ns", "a").await;
    let changed = change(&store, created.key(), label("x", "1")).await;
    let mut with = Watching::all(&store, WatchStart::After(created.revision())).await;
    let without = WatchOptions {
        previous: false,
        ..WatchOptions::from_start(WatchStart::After(created.revision()))
    };
    let mut without = Watching::with(&store, &all(), without).await;
    kv.compact_now(changed.revision());
    assert!(with.error().await.is_expired());
    // Who knows the previous states by himself goes on.
    let event = without.expect(EventKind::Modified, created.key()).await;
    assert!(event.previous.is_none());
}

#[tokio::test]
async fn without_previous_states_a_deletion_has_only_its_key() {
    let (_, store) = store();
    let created = create_pod(&store, "ns", "a").await;
    let start = WatchStart::After(created.revision());
    let options = WatchOptions {
        previous: false,
        ..WatchOptions::from_start(start)
    };
    let mut bare = Watching::with(&store, &all(), options).await;
    let mut full = Watching::all(&store, start).await;
    let changed = change(&store, created.key(), label("x", "1")).await;
    delete(&store, created.key()).await;
    assert!(bare.expect(EventKind::Modified, created.key()).await.previous.is_none());
    assert!(bare.expect(EventKind::Deleted, created.key()).await.object.is_none());
    let event = full.expect(EventKind::Modified, created.key()).await;
    assert_eq!(
        states(&event.previous.into_iter().collect::<Vec<_>>()),
        states(std::slice::from_ref(&created))
    );
    let event = full.expect(EventKind::Deleted, created.key()).await;
    assert_eq!(
        states(&event.previous.into_iter().collect::<Vec<_>>()),
        states(&[changed])
    );
}

#[tokio::test]
async fn keys_that_no_request_can_name_are_left_out() {
    let (kv, store) = store();
    let mut watch = Watching::all(&store, WatchStart::After(now(&store).await)).await;
    kv.raw_put("/registry/pods/../x", Bytes::from_static(b"{}"));
    create_pod(&store, "ns", "a").await;
    watch.expect(EventKind::Added, &key("ns", "a")).await;
}

// covers: storage-api/GATE-03, storage-api/WATCH-25, storage-api/WATCH-32, storage-api/WATCH-34, storage-etcd3/OPEN-13, storage-etcd3/EWATCH-23
#[tokio::test]
async fn values_are_decrypted_side_by_side_and_told_in_order_up_to_the_first_error() {
    let service = KeyService::default();
    let (kv, store) = sealed(service.opening());
    let start = WatchStart::After(now(&store).await);
    let mut watch = Watching::all(&store, start).await;
    let put = |name: &str| {
        let value = format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}}}}"#);
        kv.raw_put(&format!("/registry/pods/ns/{name}"), value)
    };
    let names: Vec<String> = (0..60).map(|n| format!("p{n:02}")).collect();
    let revisions: Vec<_> = names.iter().map(|name| put(name)).collect();
    put("away");
    put("later");
    for (name, revision) in names.iter().zip(revisions) {
        assert_eq!(
            watch.expect(EventKind::Added, &key("ns", name)).await.revision,
            revision
        );
    }
    let error = watch.error().await;
    assert!(error.is_retryable(), "{error:?}");
    let most = service.most();
    assert!((2..=16).contains(&most), "{most} at a time");
}

// covers: storage-api/WATCH-26, storage-etcd3/EWATCH-23
#[tokio::test]
async fn a_revision_of_which_some_values_have_to_be_asked_for_comes_whole_and_in_order() {
    let nodes = ["n1", "n2", "n1", "n2", "n1"];
    let (kv, store) = sealed(Opening(|data| {
        if !has(&data, "n2") {
            return Outcome::Ready(opened(data));
        }
        Outcome::Pending(Box::pin(async move {
            tokio::task::yield_now().await;
            opened(data)
        }))
    }));
    for (n, on) in nodes.iter().enumerate() {
        let options = CreateOptions {
            ttl: Some(Duration::from_secs(5)),
        };
        let name = format!("p{n}");
        let pod = encoded(&pod_on("ns", &name, on));
        store.create(&key("ns", &name), pod, options).await.expect("created");
    }
    let options = WatchOptions {
        previous: true,
        ..WatchOptions::from_start(WatchStart::After(now(&store).await))
    };
    let mut watch = Watching::with(&store, &all(), options).await;
    kv.advance(Duration::from_secs(5));
    let Some(Ok(WatchItem::Batch(batch))) = watch.item().await else {
        panic!("no batch");
    };
    let seen = batch.events.iter().map(|event| {
        let previous = event.previous.as_ref().expect("asked for");
        let readable = previous.unreadable_reason().is_none();
        (event.key.clone(), previous.key().clone(), readable)
    });
    let want = (0..nodes.len()).map(|n| (key("ns", &format!("p{n}")), key("ns", &format!("p{n}")), true));
    assert_eq!(seen.collect::<Vec<_>>(), want.collect::<Vec<_>>());
}

// covers: storage-api/WATCH-37, storage-api/WATCH-38
#[tokio::test]
async fn what_happened_before_the_end_can_be_read_to_the_end() {
    for slow in [false, true] {
        let (kv, store) = match slow {
            false => store(),
            true => sealed(KeyService::default().opening()),
        };
        let mut watch = Watching::all(&store, WatchStart::After(now(&store).await)).await;
        let mut revisions = Vec::new();
        for n in 0..21 {
            revisions.push(create_pod(&store, "ns", &format!("p{n:02}")).await.revision());
        }
        assert_eq!(watch.event().await.revision, revisions[0]);
        kv.close();
        for revision in &revisions[1..] {
            assert_eq!(watch.event().await.revision, *revision);
        }
        assert!(watch.item().await.is_none());
    }
}

// covers: storage-api/WATCH-38
#[tokio::test]
async fn a_store_that_shuts_down_ends_its_watches_without_an_error() {
    let (kv, store) = store();
    let mut watch = Watching::all(&store, WatchStart::After(now(&store).await)).await;
    create_pod(&store, "ns", "a").await;
    kv.close();
    watch.expect(EventKind::Added, &key("ns", "a")).await;
    assert!(watch.item().await.is_none());
}
