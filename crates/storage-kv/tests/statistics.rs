//! How many objects there are, how large they are, and where that is known from.

mod common;

use std::sync::Arc;

use apiserver_storage_api::{ListOptions, Stats, Storage, WatchStart};
use apiserver_storage_kv::{KvStore, ObjectGauges, ObjectNumbers};
use apiserver_storage_testing::fixture::*;
use futures::StreamExt;
use metrics_exporter_prometheus::PrometheusBuilder;

use common::Spy;
use common::{config, store};

fn spied(kv: &Arc<Spy>) -> KvStore<Spy> {
    KvStore::new(Arc::clone(kv), pods(), config())
}

async fn stats(store: &impl Storage) -> (u64, u64) {
    let stats = store.stats().await.expect("statistics");
    (stats.count, stats.average_size)
}

/// Stores values past the store: these many, of this size.
fn fill(kv: &Spy, count: usize, size: usize) {
    for n in 0..count {
        let mut object = pod("ns", &format!("p{n:04}"));
        object["spec"]["filler"] = "".into();
        let short = object.to_string().len();
        object["spec"]["filler"] = "x".repeat(size - short).into();
        kv.kv.raw_put(&format!("/registry/pods/ns/p{n:04}"), object.to_string());
    }
}

// covers: storage-etcd3/ESTAT-01, storage-etcd3/ESTAT-08, storage-etcd3/ESTAT-11, storage-api/STAT-02
#[tokio::test]
async fn sizes_are_learnt_from_lists_and_watches_and_the_backend_only_counts() {
    let kv = Spy::new();
    let store = spied(&kv);
    fill(&kv, 300, 1000);
    list(&store, &all(), ListOptions::default()).await;
    kv.take_ranges();
    assert_eq!(stats(&store).await, (300, 1000));
    let asked = kv.take_ranges();
    assert!(
        matches!(&asked[..], [request] if request.count_only && request.start == "/registry/pods/"),
        "neither keys nor values are asked for: {asked:?}"
    );
    // Two more objects are seen by a watch, and one goes.
    let mut watch = Watching::all(&store, WatchStart::After(now(&store).await)).await;
    for name in ["q1", "q2"] {
        let mut object = pod("ns", name);
        object["spec"]["filler"] = "x".repeat(150_000).into();
        kv.kv.raw_put(&format!("/registry/pods/ns/{name}"), object.to_string());
        watch.event().await;
    }
    let (count, average) = stats(&store).await;
    assert_eq!(count, 302);
    assert!((1900..2100).contains(&average), "{average}");
    for name in ["q1", "q2"] {
        kv.kv.raw_delete(&format!("/registry/pods/ns/{name}"));
        watch.event().await;
    }
    assert_eq!(stats(&store).await, (300, 1000));
    assert!(kv.take_ranges().iter().all(|request| request.count_only));
    // What nobody saw go, the next list takes away.
    kv.kv.raw_put("/registry/pods/ns/q3", vec![b' '; 300_000]);
    let mut watch = Watching::all(&store, WatchStart::After(now(&store).await)).await;
    kv.kv.raw_put("/registry/pods/ns/q3", vec![b' '; 300_000]);
    watch.event().await;
    drop(watch);
    kv.kv.raw_delete("/registry/pods/ns/q3");
    assert_eq!(stats(&store).await, (300, (300 * 1000 + 300_000) / 301));
    let mut pages = store
        .list(&all(), ListOptions::default())
        .await
        .expect("a list")
        .into_pages();
    while pages.next().await.is_some() {}
    assert_eq!(stats(&store).await, (300, 1000));
}

// covers: storage-etcd3/ESTAT-09, storage-api/STAT-03
#[tokio::test]
async fn values_that_nobody_can_read_count_and_those_beside_the_resource_do_not() {
    let (kv, store) = store();
    assert_eq!(stats(&store).await, (0, 0));
    kv.raw_put("/registry/pods/ns/a", "abc");
    kv.raw_put("/registry/podskey", "far too long to be counted");
    kv.raw_put("/registry/configmaps/ns/a", "neither is this one");
    assert_eq!(stats(&store).await, (1, 3));
}

// covers: storage-etcd3/METR-10, storage-etcd3/METR-11, storage-etcd3/METR-14
#[test]
fn numbers_and_sizes_are_gauges_that_end_with_their_resource() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let deployments = apiserver_storage_api::ResourceInfo::new(
            "apps",
            "v1",
            "deployments",
            "Deployment",
            apiserver_storage_api::ResourceScope::Namespaced,
        );
        let gauges = ObjectGauges::new(&deployments);
        let lines = |values: [&str; 3]| {
            let [objects, older, bytes] = values;
            [
                format!(r#"apiserver_resource_objects{{group="apps",resource="deployments"}} {objects}"#),
                format!(r#"apiserver_storage_objects{{resource="deployments.apps"}} {older}"#),
                format!(r#"apiserver_resource_size_estimate_bytes{{group="apps",resource="deployments"}} {bytes}"#),
            ]
        };
        for (stats, want) in [
            (Some(Stats::new(10, 0)), ["10", "10", "-1"]),
            (Some(Stats::new(10, 10)), ["10", "10", "100"]),
            (Some(Stats::new(0, 0)), ["0", "0", "0"]),
            (None, ["-1", "-1", "-1"]),
        ] {
            gauges.set(stats);
            let text = handle.render();
            for line in lines(want) {
                assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
            }
        }
        drop(gauges);
        let text = handle.render();
        for line in lines(["NaN", "NaN", "NaN"]) {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
    });
}

// covers: storage-etcd3/METR-10, storage-etcd3/METR-11
#[test]
fn open_stores_are_counted_and_closed_ones_are_forgotten() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let found = |line: &str| handle.render().lines().any(|found| found == line);
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime starts");
        runtime.block_on(async {
            let kv = Spy::new();
            let one: Arc<dyn Storage> = Arc::new(spied(&kv));
            let other: Arc<dyn Storage> = Arc::new(KvStore::new(Arc::clone(&kv), config_maps(), config()));
            create_pods(&*one, &["a", "b"]).await;
            let mut numbers = ObjectNumbers::default();
            numbers.publish(&[Arc::clone(&one), other]).await;
            assert!(found(r#"apiserver_storage_objects{resource="pods"} 2"#));
            assert!(found(r#"apiserver_storage_objects{resource="configmaps"} 0"#));
            delete(&*one, &key("ns", "a")).await;
            numbers.publish(&[Arc::clone(&one)]).await;
            assert!(found(r#"apiserver_storage_objects{resource="pods"} 1"#));
            assert!(found(r#"apiserver_storage_objects{resource="configmaps"} NaN"#));
            numbers.publish(&[]).await;
            assert!(found(r#"apiserver_resource_objects{group="",resource="pods"} NaN"#));
        });
    });
}
