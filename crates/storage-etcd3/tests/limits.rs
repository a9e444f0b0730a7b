//! What is too large for a server, in both ways that a server says so; and how long calls last when nothing answers and
//! nobody wants to wait any more.

mod common;
mod seen;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::{Clock, ManualClock};
use apiserver_storage_kv::{Expected, Kv, KvError, Lease, RangeRequest};
use etcd_client::{Client, Error};

use common::{Etcd, applied, connect, create, soon, until};
use seen::Book;

// covers: storage-etcd3/SIZE-02, storage-etcd3/EERR-04, storage-etcd3/RCLI-12
#[tokio::test]
async fn a_server_refuses_large_requests_and_does_not_even_read_larger_ones() {
    const LIMIT: usize = 100_000;
    let flag = format!("--max-request-bytes={LIMIT}");
    let Some(etcd) = Etcd::start_with(None, &[&flag]).await else {
        return;
    };
    // This client thinks that the server takes the usual size, so that nothing is refused on this side.
    let kv = connect(etcd.config()).await;
    let put = async |size: usize| {
        let value = vec![b'x'; size].into();
        kv.put_if("/registry/a", value, Expected::Absent, Lease::None).await
    };
    let mut client = Client::connect([etcd.url()], None).await.expect("connects");
    let grpc = 512 * 1024;
    for (size, code, text) in [
        (LIMIT, "InvalidArgument", "request is too large"),
        (LIMIT + grpc - 1000, "InvalidArgument", "request is too large"),
        (LIMIT + grpc, "ResourceExhausted", "larger than max"),
        (1_400_000, "ResourceExhausted", "larger than max"),
    ] {
        let refused = put(size).await;
        assert!(
            matches!(refused, Err(KvError::TooLarge { size: said, .. }) if said == size),
            "{size}: {refused:?}"
        );
        let raw = client.put("/a", vec![b'x'; size], None).await.expect_err("too large");
        let Error::GRpcStatus(status) = raw else {
            panic!("{size}: {raw:?}")
        };
        assert_eq!(format!("{:?}", status.code()), code, "{size}");
        assert!(status.message().contains(text), "{size}: {}", status.message());
    }
    applied(put(LIMIT - 1000).await.expect("small enough"));
}

#[tokio::test]
async fn closing_ends_calls_that_wait_for_a_stopped_member() {
    let Some(etcd) = Etcd::start().await else { return };
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    let mut config = etcd.config().with_clock(Arc::new(clock.clone()) as Arc<dyn Clock>);
    let minutes = Duration::from_secs(600);
    (config.request_timeout, config.health_interval, config.size_interval) = (minutes, minutes, Duration::ZERO);
    let kv = Arc::new(connect(config).await);
    let first = create(&kv, "/registry/a", "1").await;
    etcd.freeze();

    let book = Book::default();
    let _guard = metrics::set_default_local_recorder(&book);
    let (reader, lister, writer) = (Arc::clone(&kv), Arc::clone(&kv), Arc::clone(&kv));
    let read = tokio::spawn(async move { reader.get("/registry/a", None).await.map(drop) });
    let list = tokio::spawn(async move { lister.range(RangeRequest::prefix("/registry/")).await.map(drop) });
    let put = tokio::spawn(async move {
        let put = writer.put_if("/registry/a", "2".into(), Expected::At(first), Lease::Keep);
        put.await.map(drop)
    });
    let started = |method: &str| book.sum(&["grpc_client_started_total", method]);
    let under_way = || started("grpc_method=Range") >= 2 && started("grpc_method=Txn") >= 1;
    until(under_way, "all three are under way").await;
    soon(kv.close()).await;
    let ended = || read.is_finished() && list.is_finished() && put.is_finished();
    assert!(!ended(), "they may still come to their end");
    let mut passed = Duration::ZERO;
    let step = Duration::from_millis(100);
    while !ended() {
        clock.advance(step);
        passed += step;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(passed < Duration::from_secs(60), "they wait on");
    }
    assert!(passed >= Duration::from_secs(5), "they had time: {passed:?}");
    for read in [read.await, list.await] {
        let read = read.expect("no panic");
        assert!(matches!(read, Err(KvError::Closed)), "{read:?}");
    }
    let put = put.await.expect("no panic");
    assert!(
        matches!(put, Err(KvError::OutcomeUnknown(_))),
        "it may yet be applied: {put:?}"
    );
    let later = soon(kv.get("/registry/a", None)).await;
    assert!(matches!(later, Err(KvError::Closed)), "{later:?}");
}
