//! The one counter, and what is told about the whole store.

use std::time::Duration;

use apiserver_storage_api::{CreateOptions, ListAt, Storage, WatchStart};

use crate::fixture::*;
use crate::harness::Harness;

// covers: storage-api/GLOB-01, storage-api/STAT-06
/// All kinds of a backend count with one counter; every write takes exactly the next value.
pub async fn every_write_of_every_kind_takes_the_next_revision<H: Harness>(h: H) {
    let (store, other) = (h.store(), h.other());
    let mut last = now(&*store).await;
    for round in 0..5 {
        let name = format!("n{round}");
        let writes = [
            create_pod(&*store, "ns", &name).await,
            create(&*other, &config_map_key(&name), &config_map(&name)).await,
            change(&*store, &key("ns", &name), label("x", "1")).await,
            delete(&*store, &key("ns", &name)).await,
        ];
        for written in writes {
            assert_eq!(written.revision(), last.next(), "{written:?}");
            last = written.revision();
        }
        assert_eq!((now(&*store).await, now(&*other).await), (last, last));
    }
}

// covers: storage-api/GLOB-02
/// What writes nothing moves nothing.
pub async fn reads_and_refused_writes_do_not_move_the_counter<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let watch = Watching::all(&*store, WatchStart::Now).await;
    get(&*store, &key("ns", "a")).await;
    list_at(&*store, ListAt::MostRecent).await;
    list_at(&*store, ListAt::Exact(created.revision())).await;
    change(&*store, &key("ns", "a"), nothing).await;
    let again = store
        .create(&key("ns", "a"), encoded(&pod("ns", "a")), CreateOptions::default())
        .await;
    assert!(again.expect_err("taken").is_exists());
    drop(watch);
    assert_eq!(now(&*store).await, created.revision());
}

// covers: storage-api/GLOB-03
/// A fresh store is at a revision; lists are valid there, and watches can start from it.
pub async fn a_fresh_store_is_at_a_revision<H: Harness>(h: H) {
    let store = h.store();
    let start = now(&*store).await;
    let listed = list_at(&*store, ListAt::MostRecent).await;
    assert_eq!((listed.revision, listed.entries.len()), (start, 0));
    let mut watch = Watching::all(&*store, WatchStart::After(start)).await;
    let created = create_pod(&*store, "ns", "a").await;
    assert_eq!(watch.event().await.revision, created.revision());
    assert!(store.compacted_revision().is_none_or(|compacted| compacted <= start));
    assert!(store.ready().is_ok());
}

// covers: storage-api/STAT-09
/// A store that was started is ready.
pub async fn a_started_store_is_ready<H: Harness>(h: H) {
    assert_eq!(h.store().ready(), Ok(()));
    assert_eq!(h.store().resource().resource(), "pods");
}

// covers: storage-api/STAT-01, storage-api/STAT-02, storage-api/STAT-03
/// Statistics count the objects of one kind, and know about how large they are.
pub async fn statistics_count_one_kind<H: Harness>(h: H) {
    let (store, other) = (h.store(), h.other());
    let stats = async || store.stats().await.expect("statistics");
    assert_eq!((stats().await.count, stats().await.average_size), (0, 0));
    create(&*other, &config_map_key("c"), &config_map("c")).await;
    create_pods(&*store, &["a", "b"]).await;
    assert_eq!(stats().await.count, 2);
    let size = stats().await.average_size;
    change(&*store, &key("ns", "a"), label("x", &"y".repeat(63))).await;
    assert!(
        size == 0 || stats().await.average_size > size,
        "the average grows with an object"
    );
    delete(&*store, &key("ns", "b")).await;
    assert_eq!(stats().await.count, 1);
}

// covers: storage-api/STAT-02
/// The average size is that of the stored bytes.
pub async fn the_average_size_is_that_of_the_stored_bytes<H: Harness>(h: H) {
    let store = h.store();
    create_pods(&*store, &["a", "b"]).await;
    let mut bytes = 0;
    for name in ["a", "b"] {
        bytes += h.raw_get(&key("ns", name)).await.expect("stored").len() as u64;
    }
    assert_eq!(store.stats().await.expect("statistics").average_size, bytes / 2);
}

// covers: storage-api/GLOB-05, storage-api/GLOB-09, storage-api/GLOB-01
/// What was acknowledged is there after a restart, with its revision; tokens and watches go on.
pub async fn a_restart_keeps_objects_revisions_and_history<H: Harness>(mut h: H) {
    let entries = create_pods(&*h.store(), &["a", "b", "c"]).await;
    let first = list(&*h.store(), &all(), page(ListAt::MostRecent, 1)).await;
    let deleted = delete(&*h.store(), &key("ns", "b")).await;
    h.restart().await;
    let store = h.store();
    assert_eq!(now(&*store).await, deleted.revision());
    assert_eq!(states(&[get(&*store, &key("ns", "a")).await]), states(&entries[..1]));
    let rest = list(&*store, &all(), page(following(&first.next), 5)).await;
    assert_eq!(states(&rest.entries), states(&entries[1..]));
    let mut watch = Watching::all(&*store, WatchStart::After(entries[0].revision())).await;
    for want in [&entries[1], &entries[2], &deleted] {
        assert_eq!(watch.event().await.revision, want.revision());
    }
    let next = create_pod(&*store, "ns", "d").await;
    assert_eq!(next.revision(), deleted.revision().next());
}

// covers: storage-api/GLOB-12
/// Calls that are dropped half-way leave nothing behind that is in the way of others.
pub async fn dropped_calls_leave_nothing_behind<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    for micros in 0..50 {
        let abandoned = async {
            let mut watch = Watching::all(&*store, WatchStart::InitialState(Default::default())).await;
            watch.initial().await;
            change(&*store, &key("ns", "a"), label("x", &micros.to_string())).await;
            list_at(&*store, ListAt::MostRecent).await;
        };
        // Whether it gets to its end does not matter.
        let _ = tokio::time::timeout(Duration::from_micros(micros * 10), abandoned).await;
    }
    change(&*store, &key("ns", "a"), label("x", "last")).await;
    assert_eq!(label_of(&get(&*store, &key("ns", "a")).await, "x"), Some("last"));
    quiet(&*store).await;
}

/// Two reads of the counter with nothing between are equal: nobody writes any more.
async fn quiet(store: &dyn Storage) {
    let before = now(store).await;
    assert_eq!(now(store).await, before);
}
