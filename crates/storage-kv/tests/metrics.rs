//! What is counted, under the names that dashboards know.

mod common;

use apiserver_storage_api::{CreateOptions, GetOptions, ListAt, ListOptions, Storage, WatchOptions, WatchStart};
use apiserver_storage_testing::fixture::*;
use metrics_exporter_prometheus::PrometheusBuilder;

use common::store;

// covers: storage-etcd3/METR-01, storage-etcd3/METR-02, storage-etcd3/METR-03, storage-etcd3/METR-04, storage-etcd3/METR-05, storage-etcd3/METR-06, storage-etcd3/METR-07, storage-etcd3/METR-09
#[test]
fn requests_lists_and_events_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        runtime.block_on(work());
    });
    let text = handle.render();
    let resource = r#"group="",resource="pods""#;
    for line in [
        format!(r#"etcd_requests_total{{operation="create",{resource}}} 3"#),
        format!(r#"etcd_requests_total{{operation="get",{resource}}} 1"#),
        format!(r#"etcd_requests_total{{operation="list",{resource}}} 3"#),
        format!(r#"etcd_request_errors_total{{operation="list",{resource}}} 1"#),
        format!(r#"etcd_request_duration_seconds_count{{operation="create",{resource}}} 3"#),
        format!(r#"apiserver_storage_list_total{{{resource},storage="etcd",index=""}} 3"#),
        format!(r#"apiserver_storage_list_fetched_objects_total{{{resource},storage="etcd",index=""}} 4"#),
        format!(r#"apiserver_storage_list_evaluated_objects_total{{{resource},storage="etcd"}} 3"#),
        format!(r#"apiserver_storage_list_returned_objects_total{{{resource},storage="etcd"}} 1"#),
        format!(r#"apiserver_storage_list_duration_seconds_count{{streamed="true",{resource}}} 3"#),
        format!(r#"apiserver_storage_events_received_total{{{resource}}} 1"#),
        format!(r#"etcd_bookmark_total{{{resource}}} 1"#),
        format!(r#"apiserver_storage_decode_errors_total{{{resource}}} 1"#),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
}

async fn work() {
    let (kv, store) = store();
    create_pods(&store, &["a", "b"]).await;
    let taken = store
        .create(&key("ns", "a"), encoded(&pod("ns", "a")), CreateOptions::default())
        .await;
    assert!(
        taken.is_err_and(|error| error.is_exists()),
        "a refused write is a request that worked"
    );
    store.get(&key("ns", "a"), GetOptions::default()).await.expect("stored");
    // Two pairs come, both are read, one is selected. Then two come, and the second cannot be read: nothing is
    // returned. Of the last list nothing comes.
    list(
        &store,
        &all(),
        ListOptions {
            predicate: by_field("metadata.name=a"),
            ..ListOptions::default()
        },
    )
    .await;
    let start = now(&store).await;
    kv.raw_put("/registry/pods/ns/b", "garbage");
    let listed = try_list(&store, &all(), ListOptions::default()).await;
    assert!(listed.is_err(), "an unreadable value fails the list");
    let future = ListOptions {
        at: ListAt::Exact(revision(1000)),
        ..ListOptions::default()
    };
    assert!(try_list(&store, &all(), future).await.is_err());
    let options = WatchOptions {
        progress: true,
        previous: false,
        ..WatchOptions::from_start(WatchStart::After(start))
    };
    let mut watch = Watching::with(&store, &within("other"), options.clone()).await;
    create_pod_elsewhere(&kv);
    watch.event().await;
    store.request_progress().await.expect("progress can be asked for");
    assert!(watch.item().await.is_some());
}

/// An object of namespace `other`, written by another server.
fn create_pod_elsewhere(kv: &apiserver_storage_testing::ReferenceKv) {
    kv.raw_put("/registry/pods/other/c", pod("other", "c").to_string());
}
