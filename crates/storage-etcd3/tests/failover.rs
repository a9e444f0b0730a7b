//! Three servers, of which some are dead.

mod common;

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{CreateOptions, GetOptions, Storage, StorageError};
use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_kv::{Expected, Kv, KvError, Lease, WatchRequest};

use apiserver_storage_testing::fixture::{encoded, key, pod, pods};
use apiserver_storage_testing::proxy::Wire;

use common::{Etcd, Three, batch, config, connect, create, healthy, settled_update, soon, update};

fn all() -> WatchRequest {
    WatchRequest {
        key: "/registry/".into(),
        prefix: true,
        from: None,
        previous: false,
    }
}

// covers: storage-etcd3/EERR-12, storage-etcd3/RCLI-10, storage-etcd3/RCLI-13
#[tokio::test]
async fn calls_go_on_when_the_member_they_went_to_dies() {
    let Some(mut three) = Three::start().await else { return };
    let kv = connect(three.config()).await;
    let mut watch = kv.watch(all()).await.expect("accepted");
    let first = create(&kv, "/registry/a", "1").await;
    assert_eq!(batch(&mut watch).await.0, first);
    three.members[0].kill();
    for number in 0..20 {
        let read = kv.get("/registry/a", None).await;
        read.unwrap_or_else(|error| panic!("read {number}: {error:?}"));
    }
    // The dead member may have been the leader: a write on its way may be lost or not, and the watch tells once.
    let mut last = first;
    for number in 0..20 {
        last = settled_update(&kv, "/registry/a", &number.to_string(), last).await;
        assert_eq!(batch(&mut watch).await.0, last);
    }
    three.members[0].run();
    three.members[0].ready().await;
    three.members[1].kill();
    let after = settled_update(&kv, "/registry/a", "after", last).await;
    assert_eq!(batch(&mut watch).await.0, after);
}

// covers: storage-etcd3/EERR-12
#[tokio::test]
async fn a_dead_server_in_the_list_costs_nothing() {
    let Some(etcd) = Etcd::start().await else { return };
    let dead = || "http://127.0.0.1:9".to_owned();
    let servers = [dead(), etcd.url(), dead()];
    let kv = connect(config(servers)).await;
    let mut last = create(&kv, "/registry/a", "0").await;
    for number in 1..50 {
        last = update(&kv, "/registry/a", &number.to_string(), last).await;
    }
}

// covers: storage-etcd3/EERR-07, storage-etcd3/EERR-12, storage-etcd3/ETCD-12
#[tokio::test]
async fn without_a_majority_calls_fail_in_time_and_say_what_they_may_have_done() {
    let Some(mut three) = Three::start().await else { return };
    let mut settings = three.config();
    settings.retry_deadline = Duration::from_millis(500);
    let kv = connect(settings).await;
    create(&kv, "/registry/a", "1").await;
    three.members[1].kill();
    three.members[2].kill();
    common::until(|| kv.health().is_err(), "the cluster is gone").await;
    let read = common::soon(kv.get("/registry/a", None)).await;
    assert!(
        matches!(read, Err(KvError::Unreachable(_) | KvError::Timeout(_))),
        "{read:?}"
    );
    let write = common::soon(kv.put_if("/registry/b", "1".into(), Expected::Absent, Lease::None)).await;
    assert!(
        matches!(write, Err(KvError::Unreachable(_) | KvError::OutcomeUnknown(_))),
        "{write:?}"
    );
    three.members[1].run();
    three.members[1].ready().await;
    healthy(&kv).await;
    let (pair, _) = kv.get("/registry/a", None).await.expect("a majority again");
    settled_update(&kv, "/registry/a", "2", pair.expect("there").revision).await;
}

// covers: storage-etcd3/EERR-12, storage-etcd3/RCLI-14
#[tokio::test]
async fn with_no_server_at_all_a_write_was_surely_not_sent() {
    let mut settings = config(["http://127.0.0.1:9".to_owned(), "http://127.0.0.1:10".to_owned()]);
    settings.retry_deadline = Duration::from_millis(200);
    let kv = EtcdKv::connect(settings).await.expect("a sound configuration");
    let write = kv
        .put_if("/registry/a", "1".into(), Expected::Absent, Lease::None)
        .await;
    assert!(matches!(write, Err(KvError::Unreachable(_))), "{write:?}");
    let read = kv.now().await;
    assert!(matches!(read, Err(KvError::Unreachable(_))), "{read:?}");
    let watch = kv.watch(all()).await;
    assert!(matches!(watch, Err(KvError::Unreachable(_))), "{watch:?}");
    let cause = kv.health().expect_err("nobody there");
    assert!(cause.contains("refused"), "{cause}");
}

// covers: storage-etcd3/EERR-07, storage-etcd3/EERR-12, storage-etcd3/ETCD-13
#[tokio::test]
async fn a_member_that_hangs_holds_up_no_call_that_is_under_way() {
    let Some(three) = Three::start().await else { return };
    let mut settings = three.config();
    settings.health_timeout = Duration::from_millis(600);
    settings.retry_deadline = Duration::from_secs(20);
    // Nothing else ends a call early.
    settings.request_timeout = Duration::from_secs(600);
    let kv = Arc::new(connect(settings).await);
    let mut watch = kv.watch(all()).await.expect("accepted");
    let first = create(&kv, "/registry/a", "1").await;
    assert_eq!(batch(&mut watch).await.0, first);
    three.members[0].freeze();
    let (reader, writer) = (Arc::clone(&kv), Arc::clone(&kv));
    let read = tokio::spawn(async move { reader.get("/registry/a", None).await });
    let write = tokio::spawn(async move {
        let (value, expected) = ("2".into(), Expected::At(first));
        writer.put_if("/registry/a", value, expected, Lease::None).await
    });
    // Both were sent to the member that hangs. The read is repeated elsewhere, the write cannot be.
    let (pair, _) = soon(read).await.expect("no panic").expect("read elsewhere");
    assert!(pair.is_some());
    let write = soon(write).await.expect("no panic");
    assert!(matches!(write, Err(KvError::OutcomeUnknown(_))), "{write:?}");
    // So are watches, whether or not the server's progress tells that they live.
    let last = settled_update(
        &kv,
        "/registry/a",
        "3",
        settled_update(&kv, "/registry/a", "2", first).await,
    )
    .await;
    while batch(&mut watch).await.0 != last {}
    three.members[0].thaw();
    let after = settled_update(&kv, "/registry/a", "4", last).await;
    assert_eq!(batch(&mut watch).await.0, after);
}

// covers: storage-etcd3/EERR-12
#[tokio::test]
async fn a_dead_path_to_a_live_member_is_replaced_under_the_calls_that_wait() {
    let Some(etcd) = Etcd::start().await else { return };
    let wire = Wire::to(etcd.port()).await;
    let mut settings = config([wire.url()]);
    settings.health_timeout = Duration::from_millis(600);
    settings.request_timeout = Duration::from_secs(600);
    let kv = Arc::new(connect(settings).await);
    let first = create(&kv, "/registry/a", "1").await;
    let swallowed = wire.swallow();
    let (reader, writer) = (Arc::clone(&kv), Arc::clone(&kv));
    let read = tokio::spawn(async move { reader.get("/registry/a", None).await });
    let write = tokio::spawn(async move { writer.delete_if("/registry/a", first).await });
    let (pair, _) = soon(read).await.expect("no panic").expect("read over a new connection");
    assert_eq!(pair.expect("there").revision, first);
    let write = soon(write).await.expect("no panic");
    assert!(matches!(write, Err(KvError::OutcomeUnknown(_))), "{write:?}");
    drop(swallowed);
}

// covers: storage-etcd3/EERR-07, storage-etcd3/ETCD-12
#[tokio::test]
async fn a_member_that_lost_its_leader_is_unhealthy_and_its_watches_go_on_when_there_is_one_again() {
    let Some(three) = Three::start().await else { return };
    let mut settings = three.config();
    settings.health_timeout = Duration::from_millis(600);
    settings.retry_deadline = Duration::from_secs(1);
    let kv = connect(settings).await;
    let mut watch = kv.watch(all()).await.expect("accepted");
    let first = create(&kv, "/registry/a", "1").await;
    assert_eq!(batch(&mut watch).await.0, first);
    three.members[1].freeze();
    three.members[2].freeze();
    common::until(|| kv.health().is_err(), "no majority").await;
    let read = soon(kv.get("/registry/a", None)).await;
    assert!(
        matches!(read, Err(KvError::Unreachable(_) | KvError::Timeout(_))),
        "{read:?}"
    );
    three.members[1].thaw();
    three.members[2].thaw();
    healthy(&kv).await;
    let second = settled_update(&kv, "/registry/a", "2", first).await;
    assert_eq!(batch(&mut watch).await.0, second, "nothing lost, nothing twice");
}

// covers: storage-etcd3/CFG-06, storage-etcd3/EERR-12
#[tokio::test]
async fn keepalive_alone_finds_a_member_that_hangs() {
    let Some(three) = Three::start().await else { return };
    let mut settings = three.config();
    settings.keepalive_interval = Duration::from_millis(300);
    settings.keepalive_timeout = Duration::from_millis(300);
    settings.retry_deadline = Duration::from_secs(20);
    settings.health_timeout = Duration::from_secs(600);
    settings.request_timeout = Duration::from_secs(600);
    let kv = connect(settings).await;
    create(&kv, "/registry/a", "1").await;
    three.members[0].freeze();
    let read = common::soon(kv.get("/registry/a", None)).await;
    assert!(read.expect("read elsewhere").0.is_some());
    three.members[0].thaw();
}

// covers: storage-etcd3/OPEN-12
#[tokio::test]
async fn a_cluster_that_is_away_is_said_in_terms_that_callers_act_on() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let mut settings = etcd.config();
    settings.retry_deadline = Duration::from_millis(300);
    let kv = Arc::new(connect(settings).await);
    let store = kv.store(pods());
    let mut huge = pod("ns", "huge");
    huge["metadata"]["annotations"]["big"] = "x".repeat(2 << 20).into();
    let refused = store
        .create(&key("ns", "huge"), encoded(&huge), CreateOptions::default())
        .await;
    assert!(
        matches!(refused, Err(StorageError::TooLargeObject { .. })),
        "not even sent"
    );
    etcd.kill();
    common::until(|| store.ready().is_err(), "it is noticed").await;
    let not_ready = store.ready().expect_err("away");
    assert!(!not_ready.retry_after.is_zero() && !not_ready.cause.is_empty());
    let read = store.get(&key("ns", "a"), GetOptions::default()).await;
    assert!(read.as_ref().is_err_and(StorageError::is_retryable), "{read:?}");
    let write = store
        .create(&key("ns", "a"), encoded(&pod("ns", "a")), CreateOptions::default())
        .await;
    assert!(
        matches!(write, Err(StorageError::Unreachable { .. })),
        "surely not written: {write:?}"
    );
}
