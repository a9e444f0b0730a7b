//! What an operation costs in calls to the backend, and what it does at the backend's limits.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::ManualClock;
use apiserver_storage_api::{
    CreateOptions, DeleteOptions, Encoded, Entry, JsonNormalizer, ListAt, ListOptions, Malformed, MediaType, NoCheck,
    Normalized, Normalizer, Revision, SelectableField, Storage, StorageError, UpdateOptions,
};
use apiserver_storage_kv::{Expected, KvStore, Lease};
use apiserver_storage_testing::fixture::*;
use apiserver_storage_testing::{BindingTransformer, Calls, ReferenceKv};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use common::Spy;
use common::{config, sealed, store, store_with};

fn calls(kv: &ReferenceKv) -> (u64, u64, u64) {
    let Calls {
        gets, ranges, writes, ..
    } = kv.take_calls();
    (gets, ranges, writes)
}

// covers: storage-etcd3/TXN-08, storage-api/UPD-11, storage-api/DEL-06, storage-api/DEL-07
#[tokio::test]
async fn operations_cost_few_calls() {
    let (kv, store) = store();
    let a = key("ns", "a");
    let created = create_pod(&store, "ns", "a").await;
    assert_eq!(calls(&kv), (0, 0, 1), "create");
    get(&store, &a).await;
    assert_eq!(calls(&kv), (1, 0, 0), "get");
    let changed = change(&store, &a, label("x", "1")).await;
    assert_eq!(calls(&kv), (1, 0, 1), "update");
    let suggest = |entry: &apiserver_storage_api::Entry| UpdateOptions {
        suggestion: Some(entry.clone()),
        ..UpdateOptions::default()
    };
    let changed = try_change(&store, &a, suggest(&changed), label("x", "2"))
        .await
        .expect("updated");
    assert_eq!(calls(&kv), (0, 0, 1), "update with a good suggestion");
    try_change(&store, &a, suggest(&created), label("x", "3"))
        .await
        .expect("updated");
    assert_eq!(calls(&kv), (0, 0, 2), "update with a bad suggestion");
    change(&store, &a, nothing).await;
    assert_eq!(calls(&kv), (1, 0, 0), "update that changes nothing");
    let options = DeleteOptions {
        suggestion: Some(changed),
        ..DeleteOptions::default()
    };
    store.delete(&a, options, &mut NoCheck).await.expect("deleted");
    assert_eq!(calls(&kv), (0, 0, 2), "delete with a bad suggestion");
}

// covers: storage-etcd3/PAGE-08, storage-etcd3/PAGE-09, storage-etcd3/PAGE-10
#[tokio::test]
async fn pages_grow_when_little_is_selected() {
    let (kv, store) = store();
    for n in 0..1000 {
        create_pod(&store, "ns", &format!("p{n:04}")).await;
    }
    calls(&kv);
    list(&store, &all(), page(ListAt::MostRecent, 10)).await;
    assert_eq!(calls(&kv), (0, 1, 0), "an unfiltered page");
    let rare = ListOptions {
        predicate: by_field("metadata.name=p0999"),
        ..page(ListAt::MostRecent, 1)
    };
    assert_eq!(list(&store, &all(), rare).await.entries.len(), 1);
    assert_eq!(calls(&kv), (0, 10, 0), "1 + 2 + 4 + ... + 512");
    let all_of_them = list(&store, &all(), ListOptions::default()).await;
    let once = (0, 1, 0);
    assert_eq!(
        (all_of_them.entries.len(), calls(&kv)),
        (1000, once),
        "what they weigh is known"
    );
    let newcomer = KvStore::new(Arc::clone(&kv), pods(), config());
    let all_of_them = list(&newcomer, &all(), ListOptions::default()).await;
    let in_steps = (0, 3, 0);
    assert_eq!(
        (all_of_them.entries.len(), calls(&kv)),
        (1000, in_steps),
        "100 + 400 + 500"
    );
}

/// To keep a lease a backend has to look for it, so it is asked to only where there may be one.
#[tokio::test]
async fn an_object_known_to_have_no_lease_is_written_without_one() {
    let spy = Spy::new();
    let store = spy.store(pods());
    let (a, b) = (key("ns", "a"), key("ns", "b"));
    let suggested = |suggestion: Option<Entry>| UpdateOptions {
        suggestion,
        ..UpdateOptions::default()
    };
    let change = async |key, suggestion, number: usize| {
        let mut update = |current: Option<Entry>| async move {
            edited(current.as_ref(), |object| object["spec"]["n"] = number.into())
        };
        let updated = store.guaranteed_update(key, suggested(suggestion), &mut update).await;
        updated.expect("updated")
    };
    let created = create_pod(&store, "ns", "a").await;
    let updated = change(&a, Some(created), 1).await;
    change(&a, Some(updated), 2).await;
    change(&a, None, 3).await;
    assert_eq!(spy.take().leases, [Lease::None; 4]);

    let options = CreateOptions {
        ttl: Some(Duration::from_secs(60)),
    };
    let created = store
        .create(&b, encoded(&pod("ns", "b")), options)
        .await
        .expect("created");
    let updated = change(&b, Some(created), 1).await;
    change(&b, Some(updated), 2).await;
    change(&b, None, 3).await;
    assert_eq!(spy.take().leases[1..], [Lease::Keep; 3]);
}

#[tokio::test]
async fn pages_of_large_objects_are_bounded_by_their_bytes() {
    let (kv, store) = store();
    let mut large = pod("ns", "a");
    large["spec"]["filler"] = "x".repeat(500_000).into();
    for n in 0..80 {
        create(&store, &key("ns", &format!("p{n:02}")), &large).await;
    }
    calls(&kv);
    let mut pages = store
        .list(&all(), ListOptions::default())
        .await
        .expect("a list")
        .into_pages();
    let mut sizes = Vec::new();
    while let Some(page) = futures::StreamExt::next(&mut pages).await {
        sizes.push(page.expect("a page").entries.len());
    }
    assert_eq!(sizes.iter().sum::<usize>(), 80);
    assert!(sizes.iter().all(|size| *size <= 34), "16 MiB each: {sizes:?}");
}

// covers: storage-etcd3/SIZE-01, storage-etcd3/SIZE-03
#[tokio::test]
async fn an_object_that_is_too_large_is_refused_before_it_is_sent() {
    for (kv, store) in [store(), sealed(BindingTransformer::default())] {
        let created = create_pod(&store, "ns", "a").await;
        let size = common::stored(&kv, &created).len();
        kv.take_calls();
        // What fits exactly still fits; encryption counts.
        kv.set_max_value_bytes(size);
        create_pod(&store, "ns", "b").await;
        kv.set_max_value_bytes(size - 1);
        kv.take_calls();
        let refused = store
            .create(&key("ns", "c"), encoded(&pod("ns", "c")), CreateOptions::default())
            .await;
        match refused {
            Err(StorageError::TooLargeObject { key, size: got, limit }) => {
                assert_eq!((key.as_str(), got, limit), ("/registry/pods/ns/c", size, size - 1));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(calls(&kv), (0, 0, 0));
    }
}

// covers: storage-etcd3/LEASE-11
#[tokio::test]
async fn a_lease_that_went_away_is_replaced() {
    let (kv, store) = store();
    kv.before_write(ReferenceKv::forget_leases);
    let options = CreateOptions {
        ttl: Some(Duration::from_secs(5)),
    };
    let created = store
        .create(&key("ns", "a"), encoded(&pod("ns", "a")), options)
        .await
        .expect("created");
    kv.advance(Duration::from_secs(5));
    let gone = store.get(created.key(), Default::default()).await;
    assert!(gone.is_err_and(|error| error.is_not_found()));
}

// covers: storage-api/CREATE-05
#[tokio::test]
async fn lifetimes_are_rounded_up_to_seconds() {
    let (kv, store) = store();
    let options = CreateOptions {
        ttl: Some(Duration::from_millis(1500)),
    };
    store
        .create(&key("ns", "a"), encoded(&pod("ns", "a")), options)
        .await
        .expect("created");
    kv.advance(Duration::from_millis(1999));
    get(&store, &key("ns", "a")).await;
    kv.advance(Duration::from_millis(1));
    assert!(store.get(&key("ns", "a"), Default::default()).await.is_err());
}

// covers: storage-etcd3/LAYOUT-01, storage-etcd3/CFG-01
#[tokio::test]
async fn keys_lie_below_the_cluster_prefix() {
    let mut config = config();
    config.cluster_prefix = "custom//prefix/".into();
    let (kv, store) = store_with(config);
    create_pod(&store, "ns", "a").await;
    assert_eq!(store.full_key(&key("ns", "a")), "/custom/prefix/pods/ns/a");
    assert!(kv.raw_get("/custom/prefix/pods/ns/a").is_some());
    let listed = list(&store, &all(), ListOptions::default()).await;
    assert_eq!(names(&listed.entries), ["ns/a"]);
}

#[tokio::test]
async fn a_stored_key_that_no_request_can_name_is_left_out() {
    let (kv, store) = store();
    create_pods(&store, &["a", "b"]).await;
    kv.raw_put("/registry/pods/ns/../x", "{}");
    let listed = list(&store, &all(), ListOptions::default()).await;
    assert_eq!(names(&listed.entries), ["ns/a", "ns/b"]);
}

// covers: storage-etcd3/TXN-04
#[tokio::test]
async fn an_update_that_creates_expects_nothing_to_be_there() {
    let kv = Spy::new();
    let store = KvStore::new(Arc::clone(&kv), pods(), config());
    let options = UpdateOptions {
        create_if_missing: true,
        ..UpdateOptions::default()
    };
    let made = try_change(&store, &key("ns", "a"), options.clone(), label("x", "1"))
        .await
        .expect("created");
    assert_eq!(kv.take_writes(), [Expected::Absent]);
    try_change(&store, &key("ns", "a"), options, label("x", "2"))
        .await
        .expect("updated");
    assert_eq!(kv.take_writes(), [Expected::At(made.revision())]);
}

// deviates: storage-etcd3/TXN-12: a caller's deadline is its own: it drops the call. The store sets none; a backend on a
// network has one for each request, so that a member that says nothing is noticed and another one asked.
#[tokio::test]
async fn a_call_that_never_ends_is_given_up_by_its_caller_alone() {
    let kv = Spy::hanging();
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    let store = KvStore::new(kv, pods(), config().with_clock(Arc::new(clock.clone())));
    let (a, everything, value) = (key("ns", "a"), all(), encoded(&pod("ns", "a")));
    let calls: [BoxFuture<'_, bool>; 4] = [
        store
            .create(&a, value, CreateOptions::default())
            .map(|r| r.is_ok())
            .boxed(),
        store.get(&a, Default::default()).map(|r| r.is_ok()).boxed(),
        store
            .list(&everything, ListOptions::default())
            .map(|r| r.is_ok())
            .boxed(),
        store.current_revision().map(|r| r.is_ok()).boxed(),
    ];
    for mut call in calls {
        for _ in 0..3 {
            assert!((&mut call).now_or_never().is_none());
            clock.advance(Duration::from_secs(3600));
        }
    }
}

/// Counts what it is asked to do.
#[derive(Debug)]
struct Counted {
    inner: JsonNormalizer,
    encoded: AtomicU32,
    read: AtomicU32,
}

impl Normalizer for Counted {
    fn normalize(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<Normalized, Malformed> {
        self.read.fetch_add(1, Ordering::Relaxed);
        self.inner.normalize(stored, revision, fields)
    }

    fn encode(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed> {
        self.encoded.fetch_add(1, Ordering::Relaxed);
        self.inner.encode(object, media_type)
    }

    fn generation(&self) -> u64 {
        0
    }
}

// covers: storage-api/GAP-08, storage-api/UPD-25
#[tokio::test]
async fn a_suggestion_is_neither_encoded_nor_read_again() {
    let normalizer = Arc::new(Counted {
        inner: JsonNormalizer::new(pods().gvk().clone()),
        encoded: AtomicU32::new(0),
        read: AtomicU32::new(0),
    });
    let taken = || {
        let Counted { encoded, read, .. } = &*normalizer;
        (encoded.swap(0, Ordering::Relaxed), read.swap(0, Ordering::Relaxed))
    };
    let kv = Arc::new(ReferenceKv::new());
    let info = pods().with_normalizer(Arc::clone(&normalizer) as Arc<dyn Normalizer>);
    let store = KvStore::new(Arc::clone(&kv), info, config());
    let created = create_pod(&store, "ns", "a").await;
    assert_eq!(taken(), (1, 1), "create: encoded, and read back");
    let suggest = |entry: &Entry| UpdateOptions {
        suggestion: Some(entry.clone()),
        ..UpdateOptions::default()
    };
    let changed = try_change(&store, created.key(), suggest(&created), label("x", "1"))
        .await
        .expect("updated");
    assert_eq!(taken(), (1, 1), "update: only what is new");
    // Nothing changes: the suggestion has to be confirmed by a read.
    try_change(&store, created.key(), suggest(&changed), nothing)
        .await
        .expect("kept");
    assert_eq!(taken(), (1, 2), "no change: what is new, and what is stored");
    change(&store, created.key(), label("x", "2")).await;
    assert_eq!(taken(), (1, 2), "update without a suggestion");
}
