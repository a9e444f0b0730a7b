//! The verbs of the contract, on one server.

mod common;

use std::num::NonZeroU64;
use std::time::Duration;

use apiserver_storage_kv::{Expected, Kv, KvError, Lease, LeaseId, RangeRequest, WriteOutcome};

use common::{Etcd, applied, create, delete, revision, update};

// covers: storage-etcd3/TXN-01, storage-etcd3/TXN-02, storage-etcd3/ETCD-01, storage-etcd3/BED-01
#[tokio::test]
async fn what_is_created_can_be_read_now_and_at_its_revision() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    assert_eq!(kv.now().await.expect("now"), revision(1));
    let first = create(&kv, "/registry/a", "1").await;
    assert_eq!(first, revision(2));
    let second = update(&kv, "/registry/a", "2", first).await;
    let (pair, now) = kv.get("/registry/a", None).await.expect("read");
    let pair = pair.expect("there");
    assert_eq!(
        (&*pair.value, pair.revision, pair.created, pair.lease),
        (&b"2"[..], second, first, None)
    );
    assert_eq!(now, second);
    let (old, now) = kv.get("/registry/a", Some(first)).await.expect("read");
    assert_eq!((&*old.expect("there").value, now), (&b"1"[..], second));
    let (none, _) = kv.get("/registry/b", None).await.expect("read");
    assert!(none.is_none());
    let future = kv.get("/registry/a", Some(revision(99))).await;
    assert!(
        matches!(future, Err(KvError::Future { current }) if current == second),
        "{future:?}"
    );
    let far = kv.get("/registry/a", Some(revision(u64::MAX))).await;
    assert!(
        matches!(far, Err(KvError::Future { current }) if current == second),
        "{far:?}"
    );
}

// covers: storage-etcd3/TXN-02, storage-etcd3/TXN-03, storage-etcd3/TXN-05, storage-etcd3/TXN-09, storage-etcd3/EERR-03
#[tokio::test]
async fn a_write_that_expects_something_else_brings_what_is_there_and_changes_nothing() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let first = create(&kv, "/registry/a", "1").await;
    let mismatch = |outcome| match outcome {
        Ok(WriteOutcome::Mismatch { current, revision }) => (current.map(|pair| pair.value), revision),
        other => panic!("{other:?}"),
    };
    let put = kv
        .put_if("/registry/a", "x".into(), Expected::Absent, Lease::None)
        .await;
    assert_eq!(mismatch(put), (Some("1".into()), first));
    let put = kv
        .put_if("/registry/a", "x".into(), Expected::At(revision(99)), Lease::Keep)
        .await;
    assert_eq!(mismatch(put), (Some("1".into()), first));
    let gone = kv.delete_if("/registry/a", revision(99)).await;
    assert_eq!(mismatch(gone), (Some("1".into()), first));
    let put = kv
        .put_if("/registry/none", "x".into(), Expected::At(first), Lease::Keep)
        .await;
    assert_eq!(mismatch(put), (None, first));
    let third = delete(&kv, "/registry/a", first).await;
    assert_eq!(third, first.next(), "what did not happen took no revision");
    assert_eq!(mismatch(kv.delete_if("/registry/a", first).await), (None, third));
}

// covers: storage-etcd3/PAGE-01, storage-etcd3/PAGE-03, storage-etcd3/PAGE-04, storage-etcd3/PAGE-06, storage-etcd3/PAGE-07, storage-etcd3/LAYOUT-02
#[tokio::test]
async fn a_range_is_read_in_parts_at_one_revision() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    for number in 0..10 {
        create(&kv, &format!("/registry/pods/{number}"), &"x".repeat(1000)).await;
    }
    let last = create(&kv, "/registry/podsets/a", "other").await;
    let mut request = RangeRequest::prefix("/registry/pods/");
    let whole = kv.range(request.clone()).await.expect("read");
    assert_eq!(
        (whole.pairs.len(), whole.more, whole.count, whole.revision),
        (10, false, 10, last)
    );
    request.limit = NonZeroU64::new(4);
    let page = kv.range(request.clone()).await.expect("read");
    assert_eq!((page.pairs.len(), page.more, page.count), (4, true, 10));
    let later = create(&kv, "/registry/pods/5a", "new").await;
    request.start = format!("{}\0", page.pairs[3].key);
    request.at = Some(page.revision);
    request.limit = None;
    let rest = kv.range(request.clone()).await.expect("read");
    assert_eq!(
        (rest.pairs.len(), rest.more, rest.count, rest.revision),
        (6, false, 6, later)
    );
    request = RangeRequest::prefix("/registry/pods/");
    request.limit_bytes = NonZeroU64::new(3000);
    kv.range(request.clone()).await.expect("read");
    let bounded = kv.range(request.clone()).await.expect("read");
    assert!(
        bounded.pairs.len() < 11 && bounded.more,
        "bounded by bytes once their weight is known"
    );
    request = RangeRequest::prefix("/registry/");
    request.keys_only = true;
    let keys = kv.range(request.clone()).await.expect("read");
    assert_eq!(keys.pairs.len(), 12);
    assert!(keys.pairs.iter().all(|pair| pair.value.is_empty()));
    request.count_only = true;
    let count = kv.range(request.clone()).await.expect("read");
    assert_eq!((count.pairs.len(), count.count), (0, 12));
    let all = kv
        .range(RangeRequest::between(String::new(), None))
        .await
        .expect("read");
    assert_eq!(all.count, 12);
    for end in ["", "/registry/a"] {
        let empty = RangeRequest::between("/registry/pods/5".into(), Some(end.into()));
        let empty = kv.range(empty).await.expect("read");
        assert_eq!(
            (empty.pairs.len(), empty.count, empty.revision),
            (0, 0, later),
            "{end:?}"
        );
    }
}

// covers: storage-etcd3/RCLI-02
#[tokio::test]
async fn an_answer_may_be_larger_than_the_usual_limit_of_a_message() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let value = "x".repeat(1_000_000);
    for number in 0..6 {
        create(&kv, &format!("/registry/big/{number}"), &value).await;
    }
    let page = kv.range(RangeRequest::prefix("/registry/big/")).await.expect("read");
    assert_eq!(page.pairs.iter().map(|pair| pair.value.len()).sum::<usize>(), 6_000_000);
}

// covers: storage-etcd3/SIZE-01, storage-etcd3/SIZE-03, storage-etcd3/EERR-04, storage-etcd3/RCLI-03
#[tokio::test]
async fn a_value_that_is_too_large_is_refused_by_its_size() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let limit = kv.capabilities().max_value_bytes;
    let put = async |kv: &apiserver_storage_etcd3::EtcdKv, size: usize| {
        kv.put_if("/registry/big", vec![b'x'; size].into(), Expected::Absent, Lease::None)
            .await
    };
    let outcome = put(&kv, limit + 1).await;
    assert!(
        matches!(outcome, Err(KvError::TooLarge { size, .. }) if size == limit + 1),
        "{outcome:?}"
    );
    // What is let through, the server takes.
    applied(
        put(&kv, limit - 3 * "/registry/big".len())
            .await
            .expect("the largest value"),
    );
    // A server with a smaller limit than the client thinks.
    let mut config = etcd.config();
    config.max_request_bytes = 8 << 20;
    let generous = common::connect(config).await;
    for size in [1_700_000, 4_000_000] {
        let outcome = put(&generous, size).await;
        assert!(
            matches!(outcome, Err(KvError::TooLarge { size: said, .. }) if said == size),
            "{outcome:?}"
        );
    }
}

// covers: storage-etcd3/ETCD-01, storage-etcd3/ETCD-04, storage-etcd3/EERR-01
#[tokio::test]
async fn compacted_history_is_gone_and_the_state_at_it_stays() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let first = create(&kv, "/registry/a", "1").await;
    let second = update(&kv, "/registry/a", "2", first).await;
    let third = update(&kv, "/registry/a", "3", second).await;
    assert_eq!(kv.compacted_revision(), None);
    kv.compact(second).await.expect("compacted");
    assert_eq!(kv.compacted_revision(), Some(second));
    kv.compact(second).await.expect("twice is once");
    let again = kv.compact(first).await;
    assert!(
        matches!(again, Err(KvError::Compacted { compacted: Some(at) }) if at == second),
        "{again:?}"
    );
    let future = kv.compact(revision(99)).await;
    assert!(
        matches!(future, Err(KvError::Future { current }) if current == third),
        "{future:?}"
    );
    let gone = kv.get("/registry/a", Some(first)).await;
    assert!(
        matches!(gone, Err(KvError::Compacted { compacted: Some(at) }) if at == second),
        "{gone:?}"
    );
    let mut request = RangeRequest::prefix("/registry/");
    request.at = Some(first);
    assert!(matches!(kv.range(request).await, Err(KvError::Compacted { .. })));
    let (kept, _) = kv.get("/registry/a", Some(second)).await.expect("read");
    assert_eq!(kept.expect("there").value, "2");
    let other = etcd.connect().await;
    assert!(other.get("/registry/a", Some(first)).await.is_err());
    assert_eq!(other.compacted_revision(), Some(second), "what a read learned");
}

// covers: storage-etcd3/LEASE-01, storage-etcd3/LEASE-02, storage-etcd3/LEASE-03, storage-etcd3/LEASE-04, storage-etcd3/ETCD-11, storage-etcd3/TXN-07
#[tokio::test]
async fn keys_hang_on_leases_that_are_shared_and_end() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut config = etcd.config();
    config.lease_max_keys = 2;
    let kv = common::connect(config).await;
    let hour = Duration::from_secs(3600);
    let shared = kv.lease(hour).await.expect("granted");
    assert_eq!(kv.lease(hour).await.expect("granted"), shared);
    assert_ne!(kv.lease(hour).await.expect("granted"), shared, "full after two keys");
    let put =
        async |key: &str, expected, lease| applied(kv.put_if(key, "v".into(), expected, lease).await.expect("put"));
    let lease_of = async |key: &str| kv.get(key, None).await.expect("read").0.expect("there").lease;
    let first = put("/registry/a", Expected::Absent, Lease::Id(shared)).await;
    assert_eq!(lease_of("/registry/a").await, Some(shared));
    let second = put("/registry/a", Expected::At(first), Lease::Keep).await;
    assert_eq!(lease_of("/registry/a").await, Some(shared), "kept");
    put("/registry/a", Expected::At(second), Lease::None).await;
    assert_eq!(lease_of("/registry/a").await, None);
    let brief = kv.lease(Duration::from_millis(1)).await.expect("granted");
    assert_ne!(
        kv.lease(Duration::from_millis(1)).await.expect("granted"),
        brief,
        "short ones are not shared"
    );
    let from = put("/registry/b", Expected::Absent, Lease::Id(brief)).await;
    put("/registry/c", Expected::Absent, Lease::Id(brief)).await;
    let request = apiserver_storage_kv::WatchRequest {
        key: "/registry/".into(),
        prefix: true,
        from: Some(from.next().next()),
        previous: false,
    };
    let mut watch = kv.watch(request).await.expect("accepted");
    let (_, keys) = common::batch(&mut watch).await;
    assert_eq!(
        keys,
        ["/registry/b=-", "/registry/c=-"],
        "all at one revision, never split"
    );
}

// covers: storage-etcd3/EERR-05, storage-etcd3/LEASE-11
#[tokio::test]
async fn a_lease_that_is_gone_is_said_and_not_given_out_again() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let hour = Duration::from_secs(3600);
    let outcome = kv
        .put_if("/registry/a", "v".into(), Expected::Absent, Lease::Id(LeaseId(7)))
        .await;
    assert!(matches!(outcome, Err(KvError::LeaseNotFound)), "{outcome:?}");
    let lease = kv.lease(hour).await.expect("granted");
    // A new cluster under the old name knows nothing of it, and has the same revision.
    etcd.wipe().await;
    common::healthy(&kv).await;
    let outcome = kv
        .put_if("/registry/a", "v".into(), Expected::Absent, Lease::Id(lease))
        .await;
    assert!(matches!(outcome, Err(KvError::LeaseNotFound)), "{outcome:?}");
    let fresh = kv.lease(hour).await.expect("granted");
    assert_ne!(fresh, lease);
    let outcome = kv
        .put_if("/registry/a", "v".into(), Expected::Absent, Lease::Id(fresh))
        .await;
    applied(outcome.expect("answered"));
}

// covers: storage-etcd3/LAYOUT-05
#[tokio::test]
async fn a_coordination_key_is_written_by_count() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    assert_eq!(kv.coordination_get("turn").await.expect("read"), None);
    assert!(!kv.coordination_put("turn", "x".into(), 1).await.expect("answered"));
    assert!(kv.coordination_put("turn", "a".into(), 0).await.expect("answered"));
    assert!(!kv.coordination_put("turn", "b".into(), 0).await.expect("answered"));
    assert!(kv.coordination_put("turn", "b".into(), 1).await.expect("answered"));
    assert_eq!(kv.coordination_get("turn").await.expect("read"), Some(("b".into(), 2)));
}

#[tokio::test]
async fn a_cluster_has_one_identity_and_a_new_one_another() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let id = kv.store_id().await.expect("known");
    assert_eq!(etcd.connect().await.store_id().await.expect("known"), id);
    let last = create(&kv, "/registry/a", "1").await;
    etcd.wipe().await;
    // Whoever asks first hears it, be it the background health check; then it is the store.
    let went_back = async {
        loop {
            if kv.now().await.is_ok_and(|now| now < last) {
                break;
            }
        }
    };
    common::soon(went_back).await;
    etcd.wipe_as("another").await;
    let renamed = async {
        while kv.store_id().await.is_ok_and(|now| now == id) {
            // The old id stands until the new cluster has answered something.
            let _ = kv.now().await;
        }
    };
    common::soon(renamed).await;
}

// covers: storage-etcd3/HEALTH-01, storage-etcd3/HEALTH-02
#[tokio::test]
async fn health_follows_the_cluster_without_waiting_for_it() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    assert_eq!(kv.health(), Ok(()));
    etcd.kill();
    common::until(|| kv.health().is_err(), "the probe fails").await;
    let cause = kv.health().expect_err("unhealthy");
    assert!(cause.starts_with("error getting data from etcd: "), "{cause}");
    etcd.run();
    etcd.ready().await;
    common::healthy(&kv).await;
    etcd.kill();
    let down = apiserver_storage_etcd3::EtcdKv::connect(etcd.config())
        .await
        .expect("a sound configuration");
    assert!(down.health().is_err());
}

// covers: storage-etcd3/HEALTH-05
#[tokio::test]
async fn after_closing_nothing_is_called_and_watches_are_over() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = etcd.connect().await;
    let request = apiserver_storage_kv::WatchRequest {
        key: "/registry/".into(),
        prefix: true,
        from: None,
        previous: false,
    };
    let mut watch = kv.watch(request).await.expect("accepted");
    kv.close().await;
    assert!(matches!(common::end(&mut watch).await, KvError::Closed));
    assert!(matches!(kv.now().await, Err(KvError::Closed)));
    let write = kv
        .put_if("/registry/a", "1".into(), Expected::Absent, Lease::None)
        .await;
    assert!(matches!(write, Err(KvError::Closed)), "{write:?}");
    assert_eq!(kv.health(), Err("server is shutting down".to_owned()));
    kv.close().await;
}
