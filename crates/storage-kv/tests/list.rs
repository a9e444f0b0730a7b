//! How lists read their backend: how much of it, when, and how they name what they cannot read.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use apiserver_storage_api::{Entry, GetOptions, ListAt, ListOptions, OnUnreadable, Storage, StorageError};
use apiserver_storage_kv::transform::{Outcome, Transformer};
use apiserver_storage_testing::Spy;
use apiserver_storage_testing::fixture::*;
use metrics_exporter_prometheus::PrometheusBuilder;

use common::{Opening, opened, sealed, store};

/// The pairs that the lists of a test have read from the backend.
fn fetched(test: impl Future<Output = ()>) -> u64 {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test);
    });
    let text = handle.render();
    let line = text
        .lines()
        .find(|line| line.starts_with("apiserver_storage_list_fetched_objects_total"));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn small_objects_that_are_listed_share_memory_and_those_that_are_read_alone_do_not() {
    const OBJECTS: usize = 100;
    let (_, store) = store();
    for n in 0..OBJECTS {
        let name = format!("p{n:04}");
        create(&store, &key("ns", &name), &pod_on("ns", &name, "n1")).await;
    }
    let listed = list(&store, &all(), ListOptions::default()).await;
    assert_eq!(listed.entries.len(), OBJECTS);
    let bytes = |entry: &Entry| entry.json().unwrap().as_ptr_range();
    let beside = listed
        .entries
        .windows(2)
        .filter(|two| bytes(&two[0]).end == bytes(&two[1]).start);
    // A few begin a new piece of memory.
    assert!(beside.count() > OBJECTS * 4 / 5);
    for entry in &listed.entries {
        let alone = store.get(entry.key(), GetOptions::default()).await.unwrap();
        assert_eq!(alone.json().unwrap(), entry.json().unwrap());
        assert!(alone.json().unwrap().is_unique());
    }
}

// covers: storage-etcd3/OPEN-05, storage-api/LIST-29, storage-api/LIST-40
#[test]
fn a_selected_page_reads_little_more_than_it_looks_at() {
    const OBJECTS: usize = 1200;
    for (every, limit) in [(4, 50), (3, 20), (10, 10), (1, 100)] {
        let walk = async {
            let (_, store) = store();
            for n in 0..OBJECTS {
                let on = if n % every == 0 { "n1" } else { "n2" };
                let name = format!("p{n:04}");
                create(&store, &key("ns", &name), &pod_on("ns", &name, on)).await;
            }
            let (mut at, mut seen) = (ListAt::MostRecent, 0);
            loop {
                let options = ListOptions {
                    predicate: by_field("spec.nodeName=n1"),
                    ..page(at, limit)
                };
                let listed = list(&store, &all(), options).await;
                seen += listed.entries.len();
                match listed.next {
                    Some(token) => at = ListAt::Continue(token),
                    None => break,
                }
            }
            assert_eq!(seen, OBJECTS.div_ceil(every));
        };
        // Each object once, and what the next page of the client reads again. Doubling would read up to twice as many.
        let fetched = fetched(walk);
        assert!(
            fetched <= OBJECTS as u64 * 6 / 5,
            "one of {every}, {limit} at a time: {fetched}"
        );
    }
}

// covers: storage-etcd3/PAGE-20
#[tokio::test]
async fn what_has_come_of_a_page_is_looked_at_while_the_rest_is_on_its_way() {
    const OBJECTS: usize = 300;
    const PIECE: usize = 20;
    let (spy, opens) = (Spy::new(), Arc::new(AtomicUsize::new(0)));
    let counts = Arc::clone(&opens);
    let opening = Opening(move |data| {
        counts.fetch_add(1, Ordering::Relaxed);
        Outcome::Ready(opened(data))
    });
    let store = spy.store_with(pods(), Arc::new(opening));
    for n in 0..OBJECTS {
        create_pod(&store, "ns", &format!("p{n:03}")).await;
    }
    // All of it is one page, once it is known how large objects are.
    list(&store, &all(), ListOptions::default()).await;
    for limit in [None, NonZeroU64::new(300), NonZeroU64::new(290)] {
        opens.store(0, Ordering::Relaxed);
        spy.take();
        let (so_far, seen) = (Arc::clone(&opens), Arc::new(Mutex::new(Vec::new())));
        let into = Arc::clone(&seen);
        spy.in_pieces(PIECE, move || into.lock().unwrap().push(so_far.load(Ordering::Relaxed)));
        let options = ListOptions {
            limit,
            ..ListOptions::default()
        };
        let listed = list(&store, &all(), options).await;
        assert_eq!(
            (listed.entries.len(), spy.take().ranges.len()),
            (limit.map_or(OBJECTS, |limit| limit.get() as usize), 1)
        );
        assert!(listed.entries.is_sorted_by_key(|entry| entry.key().as_str().to_owned()));
        let seen = seen.lock().unwrap().clone();
        // Before the last piece came, all was looked at but the two before it: one is looked at then, and one on hand.
        let (last, pieces) = (*seen.last().unwrap(), seen.len());
        assert!(pieces >= 14 && last >= (pieces - 3) * PIECE, "{limit:?}: {seen:?}");
    }
}

/// Opens no value before the next page was asked for.
fn opened_once(asked: &Arc<AtomicBool>) -> impl Transformer + use<> {
    let asked = Arc::clone(asked);
    Opening(move |data| {
        let asked = Arc::clone(&asked);
        Outcome::Pending(Box::pin(async move {
            for _ in 0..1000 {
                if asked.load(Ordering::Relaxed) {
                    return opened(data);
                }
                tokio::task::yield_now().await;
            }
            panic!("the second page was not asked for");
        }))
    })
}

// covers: storage-etcd3/OPEN-01
#[tokio::test]
async fn the_next_page_is_read_while_one_is_looked_at() {
    let asked = Arc::new(AtomicBool::new(false));
    let (kv, store) = sealed(opened_once(&asked));
    let names: Vec<String> = (0..700).map(|n| format!("p{n:03}")).collect();
    for name in &names {
        create_pod(&store, "ns", name).await;
    }
    kv.before_range(|_| {});
    kv.before_range(move |_| asked.store(true, Ordering::Relaxed));
    let listed = list(&store, &all(), ListOptions::default()).await;
    let keys: Vec<_> = listed.entries.iter().map(|entry| entry.key().clone()).collect();
    assert_eq!(keys, names.iter().map(|name| key("ns", name)).collect::<Vec<_>>());
}

/// Without a selector it is known what comes next, and where that ends.
#[tokio::test]
async fn a_limit_that_takes_several_pages_is_read_ahead_and_not_beyond() {
    let asked = Arc::new(AtomicBool::new(false));
    let (kv, store) = sealed(opened_once(&asked));
    let mut heavy = pod("ns", "a");
    heavy["spec"]["filler"] = "x".repeat(600_000).into();
    let names: Vec<String> = (0..80).map(|n| format!("p{n:02}")).collect();
    for name in &names {
        heavy["metadata"]["name"] = name.as_str().into();
        create(&store, &key("ns", name), &heavy).await;
    }
    kv.take_calls();
    kv.before_range(|_| {});
    kv.before_range(move |_| asked.store(true, Ordering::Relaxed));
    let listed = list(&store, &all(), page(ListAt::MostRecent, 70)).await;
    let keys: Vec<_> = listed.entries.iter().map(|entry| entry.key().clone()).collect();
    assert_eq!(keys, names[..70].iter().map(|name| key("ns", name)).collect::<Vec<_>>());
    assert_eq!(listed.remaining, Some(10));
    // 27 twice, and then the rest.
    assert_eq!(kv.take_calls().ranges, 3);
    let rest = list(&store, &all(), page(ListAt::Continue(listed.next.unwrap()), 70)).await;
    assert_eq!((rest.entries.len(), rest.next.is_none()), (10, true));
}

// covers: storage-api/LIST-39
#[tokio::test]
async fn a_reader_that_stops_early_has_nothing_read_ahead_of_his_page() {
    use futures::StreamExt;
    let (kv, store) = store();
    for n in 0..1600 {
        create_pod(&store, "ns", &format!("p{n:04}")).await;
    }
    kv.take_calls();
    let listing = store.list(&all(), ListOptions::default()).await.unwrap();
    assert_eq!(kv.take_calls().ranges, 2, "the first page, and the one behind it");
    let mut pages = listing.into_pages();
    pages.next().await.unwrap().unwrap();
    assert_eq!(kv.take_calls().ranges, 0, "the first page was there");
    pages.next().await.unwrap().unwrap();
    assert_eq!(kv.take_calls().ranges, 1, "one page ahead");
    drop(pages);
    assert_eq!(kv.take_calls().ranges, 0);
}

// covers: storage-api/LIST-41, storage-api/LIST-45, storage-etcd3/CORR-03
#[tokio::test]
async fn unreadable_objects_are_named_by_their_full_key_everywhere() {
    let (kv, store) = store();
    create_pod(&store, "ns", "a").await;
    kv.raw_put("/registry/pods/ns/bad", "no object");
    let included = ListOptions {
        unreadable: OnUnreadable::Include,
        ..ListOptions::default()
    };
    let listed = list(&store, &all(), included).await;
    for error in [
        store.get(&key("ns", "bad"), GetOptions::default()).await.unwrap_err(),
        try_list(&store, &all(), ListOptions::default()).await.unwrap_err(),
        listed.entries[1].record().unwrap_err(),
        listed.entries[1].json().unwrap_err(),
    ] {
        match error {
            StorageError::Unreadable { key, .. } => assert_eq!(key, "/registry/pods/ns/bad"),
            other => panic!("{other:?}"),
        }
    }
}
