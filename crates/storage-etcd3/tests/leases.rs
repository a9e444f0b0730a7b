//! Leases: shared, granted once for all who want the like, and replaced when they are gone.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{Change, CreateOptions, Entry, GetOptions, Storage, Ttl, UpdateOptions};
use apiserver_storage_etcd3::{EtcdKv, LEASE_OBJECT_BUCKETS};
use apiserver_storage_kv::{Expected, Kv, KvError, Lease, LeaseId};
use apiserver_storage_testing::fixture::{encoded, key, pod, pods};
use etcd_client::Client;
use futures::future::join_all;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

use common::{Etcd, applied, connect, soon};

const HOUR: Duration = Duration::from_secs(3600);

async fn raw(etcd: &Etcd) -> Client {
    Client::connect([etcd.url()], None).await.expect("connects")
}

/// How many leases the server has.
async fn granted(client: &mut Client) -> usize {
    client.leases().await.expect("listed").leases().len()
}

async fn ask(kv: &Arc<EtcdKv>, times: usize, ttl: Duration) -> Vec<Result<LeaseId, KvError>> {
    let calls = (0..times).map(|_| {
        let kv = Arc::clone(kv);
        tokio::spawn(async move { kv.lease(ttl).await })
    });
    let calls = soon(join_all(calls)).await.into_iter();
    calls.map(|call| call.expect("no panic")).collect()
}

// covers: storage-etcd3/LEASE-10, storage-etcd3/LEASE-12, storage-etcd3/OPEN-09
#[tokio::test]
async fn many_who_come_at_once_share_as_few_leases_as_their_number_needs() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut config = etcd.config();
    config.lease_max_keys = 20;
    let kv = Arc::new(connect(config).await);
    let mut client = raw(&etcd).await;
    let (hours, minutes) = tokio::join!(ask(&kv, 100, HOUR), ask(&kv, 40, HOUR / 2));
    let distinct = |leases: Vec<Result<LeaseId, KvError>>| {
        let leases = leases.into_iter().map(|lease| lease.expect("granted").0);
        leases.collect::<BTreeSet<_>>().len()
    };
    assert_eq!((distinct(hours), distinct(minutes)), (5, 2), "20 keys each");
    assert_eq!(granted(&mut client).await, 7, "none was granted for nothing");
    // What is never shared is never waited for.
    assert_eq!(distinct(ask(&kv, 10, Duration::from_secs(19)).await), 10);
}

// covers: storage-etcd3/LEASE-06, storage-etcd3/LEASE-14, storage-etcd3/EERR-05
#[tokio::test]
async fn what_gets_no_lease_is_not_written() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = Arc::new(etcd.connect().await);
    let store = kv.store(pods());
    let before = kv.now().await.expect("now");
    let most = Duration::from_secs(9_000_000_000);
    for ttl in [
        most + Duration::from_secs(1),
        Duration::from_secs(u64::MAX),
        Duration::MAX,
    ] {
        let refused = kv.lease(ttl).await;
        assert!(matches!(refused, Err(KvError::Fault(_))), "{ttl:?}: {refused:?}");
    }
    let options = CreateOptions {
        ttl: Some(most + Duration::from_secs(1)),
    };
    let refused = store.create(&key("ns", "a"), encoded(&pod("ns", "a")), options).await;
    let error = refused.expect_err("too long a life");
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let said: Vec<String> = causes.map(ToString::to_string).collect();
    assert!(said.iter().any(|text| text.contains("too large lease TTL")), "{said:?}");
    assert_eq!(kv.now().await.expect("now"), before, "nothing was written");
    // A grant is for up to 60 s more than asked for.
    kv.lease(most - Duration::from_secs(60))
        .await
        .expect("the longest life");
}

// covers: storage-etcd3/LEASE-06, storage-etcd3/LEASE-10
#[tokio::test]
async fn a_failed_grant_fails_all_who_wait_at_once() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let mut config = etcd.config();
    config.retry_deadline = Duration::from_secs(1);
    let kv = Arc::new(connect(config).await);
    etcd.kill();
    let start = std::time::Instant::now();
    for refused in ask(&kv, 50, HOUR).await {
        assert!(matches!(refused, Err(KvError::Unreachable(_))), "{refused:?}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(25),
        "one after the other it takes a minute"
    );
}

// covers: storage-etcd3/LEASE-11, storage-etcd3/OPEN-09
#[tokio::test]
async fn a_lease_that_was_revoked_behind_our_back_costs_no_write() {
    let Some(etcd) = Etcd::start().await else { return };
    let kv = Arc::new(etcd.connect().await);
    let store = kv.store(pods());
    let mut client = raw(&etcd).await;
    let options = CreateOptions { ttl: Some(HOUR) };
    let create = async |name: &str| {
        let (key, value) = (key("ns", name), encoded(&pod("ns", name)));
        store.create(&key, value, options.clone()).await.map(drop)
    };
    create("a").await.expect("created");
    let shared = kv.lease(HOUR).await.expect("kept");
    client.lease_revoke(shared.0).await.expect("revoked");
    store
        .get(&key("ns", "a"), GetOptions::default())
        .await
        .expect_err("gone with its lease");
    create("b").await.expect("a new lease is found for it");
    create("c").await.expect("and shared");
    let stored = async |name: &str| {
        let path = format!("/registry/pods/ns/{name}");
        let (pair, _) = kv.get(&path, None).await.expect("read");
        pair.expect("there").lease.expect("it has one")
    };
    let fresh = stored("b").await;
    assert_ne!(fresh, shared);
    assert_eq!(stored("c").await, fresh);
    let left = client.lease_time_to_live(fresh.0, None).await.expect("known");
    assert!(left.ttl() > 3500, "{}", left.ttl());
}

// covers: storage-api/UPD-29
#[tokio::test]
async fn an_object_that_stays_as_it_is_takes_no_new_lease() {
    let Some(etcd) = Etcd::start().await else { return };
    let (kv, other) = (Arc::new(etcd.connect().await), Arc::new(etcd.connect().await));
    let mut client = raw(&etcd).await;
    let (key, value) = (key("ns", "a"), encoded(&pod("ns", "a")));
    let options = CreateOptions { ttl: Some(HOUR) };
    let created = kv.store(pods()).create(&key, value.clone(), options).await;
    let created = created.expect("created").revision();
    let put = async |kv: &Arc<EtcdKv>, ttl: Duration| {
        let mut update = |_: Option<Entry>| {
            let (value, ttl) = (value.clone(), Ttl::After(ttl));
            async move { Ok(Change::Put { value, ttl }) }
        };
        let store = kv.store(pods());
        let updated = store
            .guaranteed_update(&key, UpdateOptions::default(), &mut update)
            .await;
        updated.expect("updated").revision()
    };
    // The one knows the lease that it asked for, the other has to ask about it.
    for kv in [&kv, &other] {
        assert_eq!(put(kv, HOUR).await, created);
    }
    assert_eq!(granted(&mut client).await, 1, "none was asked for");
    assert!(put(&other, HOUR / 2).await > created, "a shorter life is a change");
    assert_eq!(granted(&mut client).await, 2);
    for kv in [&kv, &other] {
        assert_eq!(kv.time_left(LeaseId(1)).await.expect("answered"), None, "nobody's");
    }
}

// covers: storage-etcd3/LEASE-13
#[tokio::test]
async fn a_lifetime_is_a_lower_bound() {
    // With the usual election timeout of a second, two seconds are the least.
    let flags = ["--heartbeat-interval=100", "--election-timeout=1000"];
    let Some(etcd) = Etcd::start_with(None, &flags).await else {
        return;
    };
    let kv = etcd.connect().await;
    let mut client = raw(&etcd).await;
    let before = std::time::Instant::now();
    let lease = kv.lease(Duration::from_secs(1)).await.expect("granted");
    let known = client.lease_time_to_live(lease.0, None).await.expect("known");
    assert_eq!(known.granted_ttl(), 2, "raised by the server");
    let put = kv.put_if("/registry/a", "1".into(), Expected::Absent, Lease::Id(lease));
    applied(put.await.expect("put"));
    let gone = async {
        while kv.get("/registry/a", None).await.expect("read").0.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(gone).await;
    assert!(
        before.elapsed() >= Duration::from_secs(1),
        "never earlier than asked for"
    );
}

// covers: storage-etcd3/METR-08
#[test]
fn keys_of_a_lease_are_counted_when_it_is_full() {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("etcd_lease_object_counts".into()), &LEASE_OBJECT_BUCKETS)
        .expect("buckets")
        .build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ran = metrics::with_local_recorder(&recorder, || {
        runtime.expect("a runtime").block_on(async {
            let etcd = Etcd::start().await?;
            let mut config = etcd.config();
            config.lease_max_keys = 12;
            let kv = connect(config).await;
            // The third grant puts the second, which is full, away.
            for _ in 0..25 {
                kv.lease(HOUR).await.expect("granted");
            }
            Some(())
        })
    });
    if ran.is_none() {
        return;
    }
    let text = handle.render();
    for line in [
        r#"etcd_lease_object_counts_bucket{le="10"} 0"#,
        r#"etcd_lease_object_counts_bucket{le="50"} 2"#,
        r#"etcd_lease_object_counts_bucket{le="5000"} 2"#,
        "etcd_lease_object_counts_sum 24",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
}
