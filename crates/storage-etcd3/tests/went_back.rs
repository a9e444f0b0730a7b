//! Servers that were put back to an earlier state, as after a restore from a backup: what was known of the store that was
//! there before is not held against the one that is there now.

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{ListAt, Revision, Storage};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_kv::Kv;
use apiserver_storage_testing::StandingClock;
use apiserver_storage_testing::fixture::{create_pod, following, list, list_at, page, pods};

use common::{Etcd, connect, create, revision, soon, still, until, update};

const KEY: &str = "compact_rev_key";

/// Waits until the store is known to be another one.
async fn noticed(kv: &EtcdKv, before: &apiserver_storage_kv::StoreId) {
    let other = async {
        while kv.store_id().await.is_ok_and(|id| id == *before) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(other).await;
}

// covers: storage-etcd3/COMPACT-10
#[tokio::test]
async fn what_one_store_forgot_is_no_matter_in_the_next_one() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let kv = Arc::new(etcd.connect().await);
    for number in 0..40 {
        create(&kv, &format!("/registry/other/{number}"), "1").await;
    }
    let last = kv.now().await.expect("now");
    kv.compact(last).await.expect("compacted");
    assert_eq!(kv.compacted_revision(), Some(last));
    let id = kv.store_id().await.expect("known");
    etcd.wipe().await;
    noticed(&kv, &id).await;
    assert_eq!(kv.compacted_revision(), None);

    // A cache over it keeps history and shows it; nobody else is left to do so once the server is gone.
    let store: Arc<dyn Storage> = Arc::new(kv.store(pods()));
    let cache = Cacher::new(Arc::clone(&store), CacherConfig::default());
    soon(cache.wait_ready()).await.expect("the cache gets ready");
    let mut states = Vec::new();
    for name in ["a", "b", "c", "d"] {
        create_pod(&*store, "ns", name).await;
        states.push(list_at(&cache, ListAt::MostRecent).await);
    }
    let first = list(
        &cache,
        &apiserver_storage_testing::fixture::all(),
        page(ListAt::MostRecent, 1),
    )
    .await;
    // Where reads go below, they may be ahead of what the cache was told.
    soon(list_at(&cache, ListAt::NotOlderThan(first.revision))).await;
    etcd.kill();
    for state in &states {
        let exact = soon(list_at(&cache, ListAt::Exact(state.revision))).await;
        assert_eq!(exact.entries.len(), state.entries.len());
        assert_eq!(exact.revision, state.revision);
    }
    let rest = list_at(&cache, following(&first.next));
    assert_eq!(soon(rest).await.entries.len(), 3, "and lists are gone on with");

    // What the store that is there now forgets is known again, however it is told.
    etcd.run();
    etcd.ready().await;
    common::healthy(&kv).await;
    let compacted = revision(3);
    let put = kv.coordination_put(KEY, compacted.to_string().into(), 0).await;
    assert!(put.expect("answered"));
    until(|| kv.compacted_revision() == Some(compacted), "the key is read").await;
    let now = kv.now().await.expect("now");
    kv.compact(now).await.expect("compacted");
    assert_eq!(kv.compacted_revision(), Some(now));
    assert!(now < last, "all of it below what the store before had");
}

// covers: storage-etcd3/COMPACT-14, storage-etcd3/COMPACT-15
#[tokio::test]
async fn compaction_of_a_store_that_went_back_begins_anew() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let clock = Arc::new(StandingClock::new());
    let (interval, look) = (Duration::from_secs(300), Duration::from_secs(5));
    let config = still(&etcd, &clock).with_compaction_interval(Some(interval));
    let kv = connect(config.with_compaction_budget(NonZeroU64::new(100))).await;
    clock.waits(look, 1).await;
    let fill = async |key: &str, writes: usize| {
        let mut last = create(&kv, key, "0").await;
        for number in 0..writes {
            last = update(&kv, key, &number.to_string(), last).await;
        }
        last.get()
    };
    let compacted = || kv.compacted_revision().map_or(0, Revision::get);
    let before = fill("/registry/a", 200).await;
    clock.pass(look).await;
    let written = kv.coordination_get(KEY).await.expect("read").expect("there");
    assert_eq!((compacted(), written.1), (before - 100, 1));
    let id = kv.store_id().await.expect("known");

    etcd.wipe().await;
    // Somebody else was at work there as often, so that the count alone does not tell the two apart.
    let other = etcd.connect().await;
    assert!(other.coordination_put(KEY, "0".into(), 0).await.expect("answered"));
    let noticed = async {
        while kv.store_id().await.is_ok_and(|now| now == id) {
            // The connection is dead, and calls pause before they make a new one.
            let call = tokio::time::timeout(Duration::from_millis(20), kv.now());
            let _ = call.await;
            clock.clock.advance(Duration::from_millis(20));
        }
    };
    soon(noticed).await;
    clock.pass(interval).await;
    let written = kv.coordination_get(KEY).await.expect("read");
    assert_eq!(
        written,
        Some(("0".into(), 1)),
        "a place in the store before is none in this one"
    );
    let last = fill("/registry/a", 150).await;
    clock.pass(look).await;
    assert_eq!(compacted(), last - 100, "and the budget counts from its beginning");
}
