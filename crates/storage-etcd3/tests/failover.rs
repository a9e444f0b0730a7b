//! Three servers, of which some are dead.

mod common;

use std::time::Duration;

use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_kv::{Expected, Kv, KvError, Lease, WatchRequest};

use common::{Etcd, Three, batch, config, connect, create, healthy, settled_update, update};

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
