//! Connections that break or swallow what is sent at the worst moment.

mod common;

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_kv::{Expected, Kv, KvError, Lease, WatchRequest};
use apiserver_storage_testing::proxy::Wire;

use common::{Etcd, applied, batch, config, connect, create, has_progress, soon, until};

fn all() -> WatchRequest {
    WatchRequest {
        key: "/registry/".into(),
        prefix: true,
        from: None,
        previous: false,
    }
}

// covers: storage-etcd3/EERR-12, storage-etcd3/RCLI-14
#[tokio::test]
async fn a_write_whose_answer_was_lost_says_that_it_may_have_been_applied() {
    let Some(etcd) = Etcd::start().await else { return };
    let direct = etcd.connect().await;
    let proxy = Wire::to(etcd.port()).await;
    let mut settings = config([proxy.url()]);
    // Only this test decides when the connection is found dead.
    settings.health_timeout = Duration::from_secs(600);
    let kv = Arc::new(connect(settings).await);
    proxy.lose_answers();
    let writer = Arc::clone(&kv);
    let write = async move {
        writer
            .put_if("/registry/a", "1".into(), Expected::Absent, Lease::None)
            .await
    };
    let write = tokio::spawn(write);
    let applied_there = async { while direct.get("/registry/a", None).await.expect("read").0.is_none() {} };
    soon(applied_there).await;
    proxy.cut();
    let outcome = soon(write).await.expect("no panic");
    assert!(matches!(outcome, Err(KvError::OutcomeUnknown(_))), "{outcome:?}");
    // It was not sent again by itself, and what is there is what was sent.
    let (pair, now) = kv.get("/registry/a", None).await.expect("read");
    assert_eq!(pair.expect("applied").revision, now);
}

// covers: storage-etcd3/EERR-12
#[tokio::test]
async fn a_read_whose_answer_was_lost_is_repeated() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Wire::to(etcd.port()).await;
    let kv = Arc::new(connect(config([proxy.url()])).await);
    create(&kv, "/registry/a", "1").await;
    for _ in 0..5 {
        proxy.lose_answers();
        let reader = Arc::clone(&kv);
        let read = tokio::spawn(async move { reader.get("/registry/a", None).await });
        tokio::task::yield_now().await;
        proxy.cut();
        let (pair, _) = soon(read).await.expect("no panic").expect("read");
        assert_eq!(pair.expect("there").value, "1");
    }
}

// covers: storage-etcd3/EWATCH-28
#[tokio::test]
async fn a_watch_on_a_path_that_swallows_everything_is_opened_anew() {
    let Some(etcd) = Etcd::start().await else { return };
    let direct = etcd.connect().await;
    let proxy = Wire::to(etcd.port()).await;
    let mut settings = config([proxy.url()]);
    settings.watch_probe_interval = Duration::from_millis(100);
    settings.watch_open_timeout = Duration::from_millis(500);
    settings.health_timeout = Duration::from_millis(300);
    let kv = connect(settings).await;
    if !has_progress(&kv).await {
        // Without progress that can be believed only keepalive finds such a path, much later.
        return;
    }
    let mut watch = kv.watch(all()).await.expect("accepted");
    let first = create(&direct, "/registry/a", "1").await;
    assert_eq!(batch(&mut watch).await.0, first);
    let swallowed = proxy.swallow();
    let second = create(&direct, "/registry/b", "1").await;
    assert_eq!(batch(&mut watch).await.0, second, "asked again on another connection");
    // So are calls: the health check finds the old connection dead.
    until(|| kv.health().is_ok(), "a new connection").await;
    let answered = async {
        loop {
            let read = tokio::time::timeout(Duration::from_millis(200), kv.now());
            if let Ok(Ok(now)) = read.await {
                break now;
            }
        }
    };
    assert_eq!(soon(answered).await, second);
    drop(swallowed);
}

// covers: storage-etcd3/EWATCH-28, storage-etcd3/EWATCH-31
#[tokio::test]
async fn a_watch_over_a_wire_that_breaks_all_the_time_shows_every_write_once() {
    let Some(etcd) = Etcd::start().await else { return };
    let direct = Arc::new(etcd.connect().await);
    let proxy = Wire::to(etcd.port()).await;
    let kv = connect(config([proxy.url()])).await;
    let mut watch = kv.watch(all()).await.expect("accepted");
    let writer = Arc::clone(&direct);
    let writes = tokio::spawn(async move {
        let value = "x".repeat(20_000);
        let mut written = Vec::new();
        for number in 0..300 {
            let key = format!("/registry/{number}");
            let put = writer.put_if(&key, value.clone().into(), Expected::Absent, Lease::None);
            written.push(applied(put.await.expect("written")));
        }
        written
    });
    let mut seen = Vec::new();
    while seen.len() < 300 {
        seen.push(batch(&mut watch).await.0);
        if seen.len() % 20 == 0 {
            proxy.cut();
        }
    }
    assert_eq!(seen, soon(writes).await.expect("no panic"));
}
