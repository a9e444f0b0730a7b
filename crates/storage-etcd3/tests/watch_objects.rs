//! Watches of objects on a real server: the initial state and what follows it, what is decoded and counted, and how they
//! end.

mod common;
mod seen;

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{EventKind, ReadAt, Scope, Storage, StorageError, WatchItem, WatchOptions, WatchStart};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_kv::Kv;
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_testing::SwitchTransformer;
use apiserver_storage_testing::fixture::{
    Watching, all, by_label, change, create_pod, delete, key, label, names, pods, revision,
};

use common::{Etcd, connect, soon};
use seen::{Book, Seen};

/// More than are looked at where no sizes are known.
const OBJECTS: u64 = 210;
const FROM_STATE: WatchStart = WatchStart::InitialState(ReadAt::MostRecent);

// covers: storage-etcd3/EWATCH-02, storage-etcd3/EWATCH-04, storage-etcd3/EWATCH-05, storage-etcd3/EWATCH-06, storage-etcd3/EWATCH-12
#[tokio::test]
async fn the_state_of_one_revision_comes_first_and_then_what_followed_it() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let store = seen.store(pods());
    // More than the first page.
    for number in 0..60 {
        create_pod(&store, "ns", &format!("p{number:02}")).await;
    }
    seen.take();
    let mut watch = Watching::all(&store, FROM_STATE).await;
    // Behind what was read, in order of keys and of time.
    let later = create_pod(&store, "ns", "p99").await;
    let (state, at) = watch.initial().await;
    assert_eq!((state.len(), at), (60, later.revision().previous().unwrap()));
    assert_eq!((names(&state)[0], names(&state)[59]), ("ns/p00", "ns/p59"));
    let event = watch.expect(EventKind::Added, later.key()).await;
    assert_eq!(event.revision, later.revision());
    let asked = seen.take();
    assert!(asked.ranges.len() > 1 && asked.ranges[0].request.at.is_none());
    assert!(asked.ranges[1..].iter().all(|range| range.request.at == Some(at)));
    assert_eq!(asked.watches[0].from, Some(at.next()));
    // One key is read as one key.
    let options = WatchOptions::from_start(FROM_STATE);
    let mut one = Watching::with(&store, &Scope::Key(key("ns", "p07")), options).await;
    assert_eq!(names(&one.initial().await.0), ["ns/p07"]);
    let asked = seen.take();
    assert_eq!((asked.gets, asked.ranges.len()), (vec![None], 0));
}

// covers: storage-etcd3/EWATCH-07
#[tokio::test]
async fn an_empty_state_is_one_read_and_has_a_revision() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let store = seen.store(pods());
    let mut watch = Watching::all(&store, FROM_STATE).await;
    let (state, at) = watch.initial().await;
    assert_eq!((state.len(), at), (0, revision(1)));
    let asked = seen.take();
    assert_eq!((asked.ranges.len(), asked.gets.len(), asked.nows), (1, 0, 0));
    let created = create_pod(&store, "ns", "a").await;
    watch.expect(EventKind::Added, created.key()).await;
}

// covers: storage-etcd3/EWATCH-03
#[tokio::test]
async fn a_state_of_the_future_is_refused_with_a_time_to_come_back() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = Arc::new(etcd.connect().await);
    let store = kv.store(pods());
    create_pod(&store, "ns", "a").await;
    let start = WatchStart::InitialState(ReadAt::NotOlderThan(revision(1000)));
    let refused = soon(store.watch(&all(), WatchOptions::from_start(start))).await;
    let Err(StorageError::TooLargeResourceVersion {
        asked,
        current,
        retry_after,
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!((asked, current), (revision(1000), revision(2)));
    assert!((1..=3).contains(&retry_after.as_secs()), "{retry_after:?}");
}

// covers: storage-etcd3/EWATCH-18, storage-etcd3/EWATCH-20
#[tokio::test]
async fn the_old_object_is_decoded_only_where_somebody_needs_it() {
    let Some(etcd) = Etcd::start().await else { return };
    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let seen = Seen::over(etcd.connect().await);
    let transformer = SwitchTransformer::new(Arc::new(Identity));
    let store = seen.store_with(pods(), Arc::new(transformer.clone()));
    let writer = seen.store(pods());
    let received = || book.sum(&["apiserver_storage_events_received_total", "resource=pods"]);
    let a = key("ns", "a");
    let options = WatchOptions {
        previous: false,
        ..WatchOptions::default()
    };
    let mut plain = Watching::with(&store, &all(), options).await;
    assert!(!seen.take().watches[0].previous);
    create_pod(&writer, "ns", "a").await;
    change(&writer, &a, label("app", "x")).await;
    plain.expect(EventKind::Added, &a).await;
    plain.expect(EventKind::Modified, &a).await;
    assert_eq!((transformer.take_reads(), received()), (2, 2), "each once");
    delete(&writer, &a).await;
    plain.expect(EventKind::Deleted, &a).await;
    assert_eq!(transformer.take_reads(), 0, "nobody asked what it was");
    drop(plain);

    let mut selected = Watching::selected(&store, WatchStart::Now, by_label("app=x")).await;
    assert!(seen.take().watches[0].previous);
    let before = received();
    create_pod(&writer, "ns", "a").await;
    change(&writer, &a, label("app", "x")).await;
    let last = change(&writer, &a, label("more", "y")).await;
    let deleted = {
        selected.expect(EventKind::Added, &a).await;
        selected.expect(EventKind::Modified, &a).await;
        assert_eq!(transformer.take_reads(), 1 + 2 + 2, "new and old");
        assert_eq!(received() - before, 3, "also what is not selected");
        delete(&writer, &a).await;
        selected.expect(EventKind::Deleted, &a).await
    };
    assert_eq!(transformer.take_reads(), 1);
    let object = deleted.object.unwrap();
    assert_eq!(object.revision(), deleted.revision);
    assert!(deleted.revision > last.revision());
}

// covers: storage-etcd3/OPEN-02
#[tokio::test]
async fn a_cache_asks_for_no_previous_values_and_knows_them() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let below: Arc<dyn Storage> = Arc::new(seen.store(pods()));
    let cache = Cacher::new(Arc::clone(&below), CacherConfig::default());
    cache.wait_ready().await.unwrap();
    let asked = seen.take().watches;
    assert!(
        !asked.is_empty() && asked.iter().all(|watch| !watch.previous),
        "{asked:?}"
    );
    let mut watch = Watching::all(&cache, WatchStart::Now).await;
    create_pod(&*below, "ns", "a").await;
    change(&*below, &key("ns", "a"), label("app", "x")).await;
    let gone = delete(&*below, &key("ns", "a")).await;
    watch.expect(EventKind::Added, &key("ns", "a")).await;
    watch.expect(EventKind::Modified, &key("ns", "a")).await;
    let event = watch.expect(EventKind::Deleted, &key("ns", "a")).await;
    let object = event.object.unwrap();
    assert_eq!(object.attributes().unwrap().labels, gone.attributes().unwrap().labels);
}

// covers: storage-etcd3/EWATCH-25
#[tokio::test]
async fn a_watch_ends_with_what_happened_or_without_a_word_where_it_was_called_off() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let mut settings = etcd.config();
    settings.resume_deadline = Duration::from_millis(300);
    let kv = Arc::new(connect(settings).await);
    let store = kv.store(pods());
    create_pod(&store, "ns", "a").await;
    let mut overtaken = Watching::all(&store, WatchStart::Now).await;
    etcd.restart().await;
    let other = Arc::new(etcd.connect().await);
    change(&other.store(pods()), &key("ns", "a"), label("app", "x")).await;
    let last = change(&other.store(pods()), &key("ns", "a"), label("app", "y")).await;
    other.compact(last.revision()).await.unwrap();
    let error = soon(overtaken.error()).await;
    assert!(error.is_expired(), "{error:?}");
    assert_eq!(
        error.to_string(),
        "The resourceVersion for the provided watch is too old."
    );

    common::healthy(&kv).await;
    let mut cut_off = Watching::all(&store, WatchStart::Now).await;
    etcd.kill();
    let error = soon(cut_off.error()).await;
    assert!(matches!(error, StorageError::Unreachable { .. }), "{error:?}");

    etcd.run();
    etcd.ready().await;
    common::healthy(&kv).await;
    let mut called_off = Watching::all(&store, WatchStart::Now).await;
    kv.close().await;
    let item: Option<Result<WatchItem, _>> = soon(called_off.item()).await;
    assert!(item.is_none(), "{item:?}");
}

// covers: storage-etcd3/EWATCH-21, storage-etcd3/OPEN-11
#[tokio::test]
async fn changes_that_pass_by_tell_how_large_objects_are() {
    let Some(etcd) = Etcd::start().await else { return };
    let seen = Seen::over(etcd.connect().await);
    let (store, writer) = (seen.store(pods()), seen.store(pods()));
    let mut watch = Watching::all(&store, WatchStart::Now).await;
    let mut bytes = 0;
    for number in 0..OBJECTS {
        let name = format!("p{number:03}");
        create_pod(&writer, "ns", &name).await;
        watch.expect(EventKind::Added, &key("ns", &name)).await;
        let (stored, _) = seen
            .kv
            .get(&format!("/registry{}", key("ns", &name)), None)
            .await
            .unwrap();
        bytes += stored.unwrap().value.len() as u64;
    }
    delete(&writer, &key("ns", "p000")).await;
    watch.expect(EventKind::Deleted, &key("ns", "p000")).await;
    seen.take();
    let stats = store.stats().await.unwrap();
    let each = bytes / OBJECTS;
    assert_eq!((stats.count, stats.average_size), (OBJECTS - 1, each));
    let asked = seen.take();
    assert_eq!(asked.ranges.len(), 1);
    assert!(
        asked.ranges[0].request.count_only,
        "no key and no value was read: {asked:?}"
    );
}
