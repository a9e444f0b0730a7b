//! Whether the cluster is well, told without waiting for it; how large it is; and what is counted on the wire.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver_storage_etcd3::{EtcdKv, any_server_listens};
use apiserver_storage_kv::{Kv, KvError, WatchRequest};
use futures::StreamExt as _;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use common::{Etcd, config, connect, create, healthy, revision, soon, until};

/// Runs something with a recorder of its own; `None` where tests are skipped.
fn recorded<F: Future<Output = Option<()>>>(work: impl FnOnce(PrometheusHandle) -> F) -> Option<String> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    metrics::with_local_recorder(&recorder, || runtime.expect("a runtime").block_on(work(handle.clone())))?;
    Some(handle.render())
}

// covers: storage-etcd3/HEALTH-01, storage-etcd3/HEALTH-02, storage-etcd3/LAYOUT-06
#[tokio::test]
async fn a_cluster_that_hangs_is_unhealthy_and_nobody_who_asks_waits_for_it() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut settings = etcd.config();
    settings.health_timeout = Duration::from_millis(300);
    let kv = connect(settings).await;
    etcd.freeze();
    let mut longest = Duration::ZERO;
    while kv.health().is_ok() {
        let start = Instant::now();
        let _ = kv.health();
        longest = longest.max(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(
        longest < Duration::from_millis(200),
        "it only reads what is known: {longest:?}"
    );
    let cause = kv.health().expect_err("hangs");
    assert_eq!(cause, "error getting data from etcd: context deadline exceeded");
    etcd.thaw();
    healthy(&kv).await;
    let (probed, now) = kv.get("/registry/health", None).await.expect("read");
    assert_eq!(
        (probed, now),
        (None, revision(1)),
        "what is read to see whether it lives is never written"
    );
}

// covers: storage-etcd3/HEALTH-05, storage-etcd3/HEALTH-07, storage-etcd3/CFG-07
#[tokio::test]
async fn closing_ends_everything_once_however_often_it_is_asked_for() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = Arc::new(etcd.connect().await);
    assert!(kv.database_bytes().await.expect("measured") > 0);
    let closers = (0..5).map(|_| {
        let kv = Arc::clone(&kv);
        tokio::spawn(async move { kv.close().await })
    });
    for closed in soon(futures::future::join_all(closers)).await {
        closed.expect("no panic");
    }
    soon(kv.close()).await;
    assert_eq!(kv.health(), Err("server is shutting down".to_owned()));
    let size = kv.database_bytes().await;
    assert!(matches!(size, Err(KvError::Closed)), "{size:?}");
    assert!(matches!(kv.now().await, Err(KvError::Closed)));
}

// covers: storage-etcd3/METR-12, storage-etcd3/HEALTH-07
#[test]
fn the_size_of_the_database_is_a_metric_of_each_cluster_that_answers() {
    const METRIC: &str = "apiserver_storage_size_bytes{storage_cluster_id=";
    let text = recorded(|handle| async move {
        let etcd = Etcd::start().await?;
        let mut away = config(["http://127.0.0.1:9".to_owned()]).with_cluster_name("etcd-1");
        away.retry_deadline = Duration::ZERO;
        let away = EtcdKv::connect(away).await.expect("a sound configuration");
        // A dead member is passed over.
        let kv = connect(config(["http://127.0.0.1:9".to_owned(), etcd.url()])).await;
        until(|| handle.render().contains(METRIC), "measured").await;
        away.close().await;
        drop(kv);
        Some(())
    });
    let Some(text) = text else { return };
    let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(METRIC)).collect();
    let [size] = lines[..] else {
        panic!("one cluster answers: {lines:?}")
    };
    let size = size.strip_prefix(r#""etcd-0"} "#).expect("the first cluster");
    let size: f64 = size.parse().expect("a number");
    assert!((8192.0..1e9).contains(&size), "{size}");
}

const STARTED: &str = "grpc_client_started_total{";
const HANDLED: &str = "grpc_client_handled_total{";
const OK: &str = r#"grpc_code="OK""#;
const CANCELED: &str = r#"grpc_code="Canceled""#;
const UNAVAILABLE: &str = r#"grpc_code="Unavailable""#;
const UNKNOWN: &str = r#"grpc_code="Unknown""#;

/// The count of a method, and of a code if there is one.
fn wire(text: &str, name: &str, method: &str, code: &str) -> u64 {
    let labels = [format!(r#"grpc_method="{method}""#), code.to_owned()];
    let line = text
        .lines()
        .find(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_default()
}

// covers: storage-etcd3/METR-13
#[test]
fn each_attempt_on_the_wire_is_counted_by_method() {
    let text = recorded(|_| async {
        let etcd = Etcd::start().await?;
        // Calls go to the dead one first, and are counted there, too.
        let mut settings = config(["http://127.0.0.1:9".to_owned(), etcd.url()]);
        settings.health_interval = Duration::from_secs(600);
        let kv = EtcdKv::connect(settings).await.expect("a sound configuration");
        let first = create(&kv, "/registry/a", "1").await;
        kv.compact(first).await.expect("compacted");
        kv.compact(first).await.expect("compacted already");
        kv.lease(Duration::from_secs(3600)).await.expect("granted");
        until(|| kv.capabilities().max_value_bytes > 0, "known").await;
        kv.close().await;
        Some(())
    });
    let Some(text) = text else { return };
    let count = |name: &str, method: &str, code: &str| wire(&text, name, method, code);
    let (started, handled) = (STARTED, HANDLED);
    let ok = r#"grpc_code="OK""#;
    assert_eq!((count(started, "Txn", ""), count(handled, "Txn", ok)), (1, 1), "{text}");
    assert_eq!(count(handled, "LeaseGrant", ok), 1, "{text}");
    assert_eq!(count(started, "Compact", ""), 2, "{text}");
    assert_eq!(count(handled, "Compact", r#"grpc_code="OutOfRange""#), 1, "{text}");
    assert!(
        count(handled, "Range", r#"grpc_code="Unavailable""#) >= 1,
        "the dead one: {text}"
    );
    assert!(
        text.contains(r#"grpc_type="bidi_stream",grpc_service="etcdserverpb.Watch""#),
        "{text}"
    );
}

// covers: storage-etcd3/METR-13
#[test]
fn streams_are_counted_when_they_start_and_by_how_they_end() {
    let text = recorded(|handle| async move {
        let mut etcd = Etcd::start().await?;
        let mut settings = etcd.config();
        settings.health_interval = Duration::from_secs(600);
        let kv = EtcdKv::connect(settings).await.expect("a sound configuration");
        create(&kv, "/registry/a", "1").await;
        // Others watch, too: what the cluster does to know of compactions.
        let ended = |code: &str| wire(&handle.render(), HANDLED, "Watch", code);
        let request = WatchRequest {
            key: "/registry/".to_owned(),
            prefix: true,
            from: None,
            previous: false,
        };
        let watch = kv.watch(request.clone()).await.expect("a watch");
        assert_eq!(ended(CANCELED), 0);
        // Nobody wants it any more.
        drop(watch);
        let given_up = async {
            while ended(CANCELED) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon(given_up).await;
        let mut watch = kv.watch(request).await.expect("a watch");
        // The server goes: the stream breaks, and is opened anew as often as it takes.
        etcd.kill();
        let failed = async {
            while ended(UNAVAILABLE) + ended(UNKNOWN) == 0 {
                let _ = tokio::time::timeout(Duration::from_millis(10), watch.items.next()).await;
            }
        };
        soon(failed).await;
        drop(watch);
        kv.close().await;
        drop(kv);
        Some(())
    });
    let Some(text) = text else { return };
    let ends = [OK, CANCELED, UNAVAILABLE, UNKNOWN];
    let ended: u64 = ends.iter().map(|code| wire(&text, HANDLED, "Watch", code)).sum();
    assert_eq!(ended, wire(&text, STARTED, "Watch", ""), "each has ended once: {text}");
    assert!(text.contains(r#"handled_total{grpc_type="bidi_stream""#), "{text}");
}

// covers: storage-etcd3/HEALTH-09
#[tokio::test]
async fn before_anything_is_built_a_look_tells_whether_anybody_is_there() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let rng = apiserver_storage_api::time::OsRng;
    let servers = ["http://127.0.0.1:9".to_owned(), etcd.url()];
    assert!(any_server_listens(&servers, &rng).await.expect("sound"));
    etcd.kill();
    assert!(!any_server_listens(&servers, &rng).await.expect("sound"));
}
