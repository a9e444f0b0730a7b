//! A server that is slow, and one that cannot be reached any more: the connections of the one are left alone, those of
//! the other are not.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_kv::{Expected, Kv, Lease, WatchRequest};
use apiserver_storage_testing::proxy::{Call, CallProxy, Fate, Wire};
use futures::StreamExt as _;
use metrics_exporter_prometheus::PrometheusBuilder;

use common::{Etcd, applied, batch, config, connect, create, soon, until};

/// Longer than the health check waits for an answer.
const LATE: Duration = Duration::from_secs(4);
/// How much later comes what the health check asks over connections that are there.
const LATER: Duration = Duration::from_millis(500);

fn all() -> WatchRequest {
    WatchRequest {
        key: "/registry/".into(),
        prefix: true,
        from: None,
        previous: false,
    }
}

fn is_probe(call: &Call) -> bool {
    call.method() == "Range" && call.mentions("/registry/health")
}

// covers: storage-etcd3/EWATCH-28, storage-etcd3/EERR-07
#[test]
fn a_server_that_is_slow_keeps_its_watches_and_the_calls_that_wait_for_it() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let resumes = || {
        let text = handle.render();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("apiserver_storage_etcd_watch_resumes_total "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0_u64)
    };
    let work = async {
        let Some(etcd) = Etcd::start().await else { return };
        let proxy = CallProxy::to(etcd.port()).await;
        let mut settings = config([proxy.url()]);
        settings.health_timeout = Duration::from_secs(2);
        // Nothing but the health check asks whether a watch lives.
        settings.watch_probe_interval = Duration::from_secs(600);
        let kv = Arc::new(connect(settings).await);
        let mut watch = kv.watch(all()).await.expect("accepted");
        let first = create(&kv, "/registry/a", "1").await;
        assert_eq!(batch(&mut watch).await.0, first);
        // It is read all the time, and has nothing to say.
        let reader = tokio::spawn(async move { watch.items.next().await });

        // One read and one write take long. Others do not, over whatever connection, and what a member says of itself is in
        // between.
        let probes = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&probes);
        proxy.decide(move |call| match call.method() {
            "Watch" => Fate::Pass,
            "Txn" => Fate::Delay(LATE),
            _ if is_probe(call) && seen.fetch_add(1, Ordering::SeqCst) == 0 => Fate::Delay(LATE),
            "Status" => Fate::Delay(LATER),
            _ => Fate::Pass,
        });
        until(|| probes.load(Ordering::SeqCst) > 0, "the health check asks").await;
        let writer = Arc::clone(&kv);
        let write = tokio::spawn(async move {
            writer
                .put_if("/registry/b", "1".into(), Expected::Absent, Lease::None)
                .await
        });
        // The second one is over the new connection; the third one begins when everything was done about the first.
        until(|| probes.load(Ordering::SeqCst) > 2, "it asks again").await;
        let second = applied(soon(write).await.expect("no panic").expect("it was only slow"));
        assert_eq!(resumes(), 0, "no watch was cut");
        let item = soon(reader).await.expect("no panic");
        assert!(
            matches!(&item, Some(Ok(apiserver_storage_kv::KvWatchItem::Batch { revision, .. })) if *revision == second),
            "{item:?}"
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    metrics::with_local_recorder(&recorder, || runtime.expect("a runtime").block_on(work));
}

// covers: storage-etcd3/EWATCH-28
#[tokio::test]
async fn a_watch_whose_path_is_dead_is_found_by_the_health_check() {
    let Some(etcd) = Etcd::start().await else { return };
    let direct = etcd.connect().await;
    let wire = Wire::to(etcd.port()).await;
    let mut settings = config([wire.url()]);
    settings.health_timeout = Duration::from_millis(600);
    // Nothing else finds it within the time of a test.
    settings.watch_probe_interval = Duration::from_secs(600);
    let kv = connect(settings).await;
    let mut watch = kv.watch(all()).await.expect("accepted");
    let first = create(&direct, "/registry/a", "1").await;
    assert_eq!(batch(&mut watch).await.0, first);
    let swallowed = wire.swallow();
    let second = create(&direct, "/registry/b", "1").await;
    assert_eq!(batch(&mut watch).await.0, second, "over another connection");
    drop(swallowed);
}
