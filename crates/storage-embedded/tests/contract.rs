//! The contract of a backend, in memory and on disk alike.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::ManualClock;
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_kv::{
    Expected, Kv, KvError, KvWatchItem, Lease, LeaseId, RangeRequest, WatchRequest, WriteOutcome,
};
use common::*;

// covers: storage-api/GLOB-01, storage-api/GLOB-02, storage-api/GLOB-04
#[tokio::test(flavor = "multi_thread")]
async fn every_applied_write_takes_the_next_revision_and_nothing_else_does() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        let start = kv.now().await.unwrap();
        let a = create(&kv, "/a", "1").await;
        let b = create(&kv, "/other/b", "1").await;
        assert_eq!((a, b), (start.next(), start.next().next()), "{name}");

        let failed = kv
            .put_if("/a", "2".into(), Expected::Absent, Lease::None)
            .await
            .unwrap();
        let WriteOutcome::Mismatch {
            current: Some(current),
            revision,
        } = failed
        else {
            panic!("{name}: {failed:?}")
        };
        assert_eq!(
            (&*current.key, &*current.value, current.revision, revision),
            ("/a", &b"1"[..], a, b),
            "{name}"
        );
        let failed = kv.delete_if("/a", b).await.unwrap();
        assert!(
            matches!(failed, WriteOutcome::Mismatch { current: Some(_), .. }),
            "{name}: {failed:?}"
        );
        let failed = kv.delete_if("/none", b).await.unwrap();
        assert!(
            matches!(failed, WriteOutcome::Mismatch { current: None, .. }),
            "{name}: {failed:?}"
        );
        kv.get("/a", None).await.unwrap();
        kv.range(RangeRequest::prefix("/")).await.unwrap();
        watch(&kv, "/", None).await.unwrap();
        kv.lease(Duration::from_secs(5)).await.unwrap();
        assert!(kv.coordination_put("/leader", "me".into(), 0).await.unwrap());
        assert_eq!(kv.now().await.unwrap(), b, "{name}");

        let c = replace(&kv, "/a", a, "2").await;
        assert_eq!(kv.now().await.unwrap(), c, "{name}");
        assert_eq!(value(&kv, "/a", None).await.as_deref(), Some("2"), "{name}");
        kv.close().await;
    }
}

// covers: storage-api/GLOB-03
#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_starts_at_wall_time_and_counts_as_compacted_below() {
    for (name, config, _dir) in configs() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000);
        let kv = open(&config.with_clock(Arc::new(ManualClock::new(at)))).await;
        let start = kv.now().await.unwrap();
        assert_eq!(start, rev(178_000_000_000_000), "{name}");
        assert!(
            start.get() < 1 << 53,
            "{name}: clients that count in floating point hold it"
        );
        assert_eq!(kv.compacted_revision(), Some(start), "{name}");
        assert!(is_compacted(&watch(&kv, "/", start.previous()).await), "{name}");
        assert!(is_compacted(&kv.get("/a", start.previous()).await), "{name}");
        assert!(matches!(kv.get("/a", Some(start.next())).await, Err(KvError::Future { current }) if current == start));
        let mut watching = watch(&kv, "/", Some(start)).await.unwrap();
        let a = create(&kv, "/a", "1").await;
        assert_eq!(next_event(&mut watching).await.0, a, "{name}");
        kv.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_tell_when_they_were_created() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        let created = create(&kv, "/a", "1").await;
        let changed = replace(&kv, "/a", created, "2").await;
        let (pair, _) = kv.get("/a", None).await.unwrap();
        let pair = pair.unwrap();
        assert_eq!(
            (pair.created, pair.revision, pair.lease),
            (created, changed, None),
            "{name}"
        );
        let gone = delete(&kv, "/a", changed).await;
        let again = create(&kv, "/a", "3").await;
        let (pair, _) = kv.get("/a", None).await.unwrap();
        assert_eq!(pair.unwrap().created, again, "{name}: a key made anew");
        let (pair, _) = kv.get("/a", Some(changed)).await.unwrap();
        assert_eq!(pair.unwrap().created, created, "{name}: the earlier one");
        assert_eq!(value(&kv, "/a", Some(gone)).await, None, "{name}");
        kv.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_limited_counted_and_read_at_revisions() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        for key in ["/p/a", "/p/b", "/p/c", "/p/d", "/q/a"] {
            create(&kv, key, &key.repeat(10)).await;
        }
        let before = kv.now().await.unwrap();
        let (b, _) = kv.get("/p/b", None).await.unwrap();
        let deleted = delete(&kv, "/p/b", b.unwrap().revision).await;

        let keys = |page: &apiserver_storage_kv::RangePage| {
            page.pairs.iter().map(|pair| pair.key.to_string()).collect::<Vec<_>>()
        };
        let all = RangeRequest::prefix("/p/");
        let page = kv.range(all.clone()).await.unwrap();
        assert_eq!(
            (keys(&page).as_slice(), page.more, page.count),
            (&["/p/a", "/p/c", "/p/d"].map(String::from)[..], false, 3)
        );
        assert_eq!(page.revision, deleted, "{name}");

        let limited = RangeRequest {
            at: Some(before),
            limit: NonZeroU64::new(2),
            ..all.clone()
        };
        let page = kv.range(limited).await.unwrap();
        assert_eq!(
            (keys(&page).as_slice(), page.more, page.count),
            (&["/p/a", "/p/b"].map(String::from)[..], true, 4)
        );
        assert_eq!(
            (page.revision, &*page.pairs[1].value),
            (deleted, "/p/b".repeat(10).as_bytes()),
            "{name}"
        );

        let few_bytes = RangeRequest {
            limit_bytes: NonZeroU64::new(1),
            ..all.clone()
        };
        let page = kv.range(few_bytes).await.unwrap();
        assert_eq!(
            (page.pairs.len(), page.more, page.count),
            (1, true, 3),
            "{name}: one pair at least"
        );

        let page = kv
            .range(RangeRequest {
                keys_only: true,
                ..all.clone()
            })
            .await
            .unwrap();
        assert!(
            page.pairs.len() == 3 && page.pairs.iter().all(|pair| pair.value.is_empty()),
            "{name}"
        );
        let page = kv
            .range(RangeRequest {
                count_only: true,
                ..all
            })
            .await
            .unwrap();
        assert_eq!((page.pairs.len(), page.count), (0, 3), "{name}");
        let inverted = RangeRequest::between("/z".into(), Some("/a".into()));
        assert_eq!(kv.range(inverted).await.unwrap().count, 0, "{name}");
        kv.close().await;
    }
}

// covers: storage-api/GLOB-06, storage-api/GLOB-07
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_delivers_each_change_once_in_order_with_what_was_before() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        let start = kv.now().await.unwrap();
        let a1 = create(&kv, "/p/a", "1").await;
        create(&kv, "/q/a", "foreign").await;
        let mut old = watch(&kv, "/p/", Some(start.next())).await.unwrap();
        let mut single = WatchRequest {
            key: "/p/a".into(),
            prefix: false,
            from: Some(start.next()),
            previous: false,
        };
        let mut one = kv.watch(single.clone()).await.unwrap();
        single.key = "/p/".into();
        let mut none = kv.watch(single).await.unwrap();
        let mut new = watch(&kv, "/p/", None).await.unwrap();
        let a2 = replace(&kv, "/p/a", a1, "2").await;
        let b1 = create(&kv, "/p/ab", "1").await;
        let a3 = delete(&kv, "/p/a", a2).await;
        let a4 = create(&kv, "/p/a", "4").await;

        let text = |value: &str| Some(value.to_owned());
        let expected: Vec<Seen> = vec![
            (a1, "/p/a".into(), text("1"), None),
            (a2, "/p/a".into(), text("2"), text("1")),
            (b1, "/p/ab".into(), text("1"), None),
            (a3, "/p/a".into(), None, text("2")),
            (a4, "/p/a".into(), text("4"), None),
        ];
        assert_eq!(see(&mut old, 5).await, expected, "{name}");
        assert_eq!(see(&mut new, 4).await, expected[1..], "{name}");
        let without: Vec<Seen> = expected
            .iter()
            .filter(|(_, key, ..)| key == "/p/a")
            .map(|(revision, key, value, _)| (*revision, key.clone(), value.clone(), None))
            .collect();
        assert_eq!(see(&mut one, 4).await, without, "{name}");

        kv.request_progress().await.unwrap();
        for watching in [&mut old, &mut new, &mut one, &mut none] {
            let item = next(watching).await.unwrap().unwrap();
            assert!(
                matches!(item, KvWatchItem::Progress(revision) if revision == a4),
                "{name}: {item:?}"
            );
        }
        kv.close().await;
        assert!(matches!(next(&mut old).await, Some(Err(KvError::Closed))), "{name}");
        assert!(next(&mut old).await.is_none(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_the_future_begins_there() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        let start = kv.now().await.unwrap();
        let second = start.next().next();
        let mut watching = watch(&kv, "/", Some(second)).await.unwrap();
        assert_eq!(watching.revision, start, "{name}");
        create(&kv, "/a", "1").await;
        let b = create(&kv, "/b", "1").await;
        assert_eq!(next_event(&mut watching).await.0, b, "{name}");
        kv.close().await;
    }
}

// covers: storage-api/GLOB-08
#[tokio::test(flavor = "multi_thread")]
async fn compaction_forgets_what_is_below_and_only_that() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        let kept = create(&kv, "/kept", "1").await;
        let a1 = create(&kv, "/a", "1").await;
        let gone = create(&kv, "/gone", "1").await;
        let a2 = replace(&kv, "/a", a1, "2").await;
        let mut behind = watch(&kv, "/", Some(kept)).await.unwrap();
        let deleted = delete(&kv, "/gone", gone).await;
        let a3 = replace(&kv, "/a", a2, "3").await;

        assert!(
            matches!(kv.compact(a3.next()).await, Err(KvError::Future { current }) if current == a3),
            "{name}"
        );
        kv.compact(deleted).await.unwrap();
        assert_eq!(kv.compacted_revision(), Some(deleted), "{name}");
        kv.compact(deleted).await.unwrap();
        assert!(is_compacted(&kv.compact(a2).await), "{name}: it only grows");

        for at in [kept, a1, gone, a2] {
            assert!(is_compacted(&kv.get("/kept", Some(at)).await), "{name}: read at {at}");
            let request = RangeRequest {
                at: Some(at),
                ..RangeRequest::prefix("/")
            };
            assert!(is_compacted(&kv.range(request).await), "{name}: range at {at}");
            assert!(
                is_compacted(&watch(&kv, "/", Some(at)).await),
                "{name}: watch from {at}"
            );
        }
        assert!(
            matches!(next(&mut behind).await, Some(Err(KvError::Compacted { compacted })) if compacted == Some(deleted))
        );
        assert!(next(&mut behind).await.is_none(), "{name}");

        assert_eq!(value(&kv, "/a", Some(deleted)).await.as_deref(), Some("2"), "{name}");
        assert_eq!(value(&kv, "/a", None).await.as_deref(), Some("3"), "{name}");
        assert_eq!(value(&kv, "/kept", Some(deleted)).await.as_deref(), Some("1"), "{name}");
        let mut at = watch(&kv, "/", Some(deleted)).await.unwrap();
        let seen = see(&mut at, 2).await;
        assert_eq!(
            (seen[0].0, seen[0].1.as_str(), &seen[0].2),
            (deleted, "/gone", &None),
            "{name}"
        );
        assert_eq!((seen[1].0, seen[1].3.as_deref()), (a3, Some("2")), "{name}");
        kv.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coordination_keys_are_compared_by_version() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        assert_eq!(kv.coordination_get("/c").await.unwrap(), None, "{name}");
        assert!(!kv.coordination_put("/c", "x".into(), 1).await.unwrap(), "{name}");
        assert!(kv.coordination_put("/c", "1".into(), 0).await.unwrap(), "{name}");
        assert!(!kv.coordination_put("/c", "x".into(), 0).await.unwrap(), "{name}");
        assert!(kv.coordination_put("/c", "2".into(), 1).await.unwrap(), "{name}");
        assert_eq!(
            kv.coordination_get("/c").await.unwrap(),
            Some(("2".into(), 2)),
            "{name}"
        );
        assert_eq!(
            kv.range(RangeRequest::prefix("/")).await.unwrap().count,
            0,
            "{name}: not among the objects"
        );
        kv.close().await;
    }
}

// covers: storage-api/GLOB-11, storage-etcd3/LEASE-15
#[tokio::test(flavor = "multi_thread")]
async fn keys_end_with_their_lease_each_at_a_revision_of_its_own() {
    for (name, config, _dir) in configs() {
        let clock = clock();
        let kv = open(&config.with_clock(Arc::new(clock.clone()))).await;
        let lease = Lease::Id(kv.lease(Duration::from_secs(10)).await.unwrap());
        let a = applied(kv.put_if("/a", "1".into(), Expected::Absent, lease).await);
        applied(kv.put_if("/b", "1".into(), Expected::Absent, lease).await);
        let c = applied(kv.put_if("/c", "1".into(), Expected::Absent, lease).await);
        let c = applied(kv.put_if("/c", "2".into(), Expected::At(c), Lease::None).await);
        let a2 = replace(&kv, "/a", a, "kept its lease").await;
        let mut watching = watch(&kv, "/", Some(a2.next())).await.unwrap();

        clock.advance(Duration::from_secs(9));
        assert_eq!(
            value(&kv, "/a", None).await.as_deref(),
            Some("kept its lease"),
            "{name}"
        );
        clock.advance(Duration::from_secs(2));
        let seen = see(&mut watching, 2).await;
        let expired: Vec<_> = seen
            .iter()
            .map(|(_, key, value, _)| (key.as_str(), value.as_deref()))
            .collect();
        assert_eq!(expired, [("/a", None), ("/b", None)], "{name}");
        assert_eq!((seen[0].0, seen[1].0), (a2.next(), a2.next().next()), "{name}");
        assert_eq!(value(&kv, "/a", None).await, None, "{name}");
        assert_eq!(
            value(&kv, "/a", Some(c)).await.as_deref(),
            Some("1"),
            "{name}: before, it is there"
        );
        assert_eq!(
            value(&kv, "/c", None).await.as_deref(),
            Some("2"),
            "{name}: taken off its lease"
        );

        let late = kv.put_if("/d", "1".into(), Expected::Absent, lease).await;
        assert!(matches!(late, Err(KvError::LeaseNotFound)), "{name}: {late:?}");
        let unknown = kv
            .put_if("/d", "1".into(), Expected::Absent, Lease::Id(LeaseId(7)))
            .await;
        assert!(matches!(unknown, Err(KvError::LeaseNotFound)), "{name}: {unknown:?}");
        kv.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused() {
    for (name, config, _dir) in configs() {
        let kv = open(&config.with_max_value_bytes(10)).await;
        assert_eq!(kv.capabilities().max_value_bytes, 10, "{name}");
        let refused = kv
            .put_if("/a", "12345678901".into(), Expected::Absent, Lease::None)
            .await;
        assert!(
            matches!(refused, Err(KvError::TooLarge { size: 11, limit: 10 })),
            "{name}: {refused:?}"
        );
        create(&kv, "/a", "1234567890").await;
        kv.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_says_so() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        assert_eq!(kv.health(), Ok(()), "{name}");
        let a = create(&kv, "/a", "1").await;
        kv.close().await;
        kv.close().await;
        assert!(kv.health().is_err(), "{name}");
        assert!(matches!(kv.now().await, Err(KvError::Closed)), "{name}");
        assert!(matches!(kv.get("/a", None).await, Err(KvError::Closed)), "{name}");
        assert!(
            matches!(kv.range(RangeRequest::prefix("/")).await, Err(KvError::Closed)),
            "{name}"
        );
        assert!(matches!(kv.delete_if("/a", a).await, Err(KvError::Closed)), "{name}");
        assert!(matches!(watch(&kv, "/", None).await, Err(KvError::Closed)), "{name}");
        assert!(matches!(kv.compact(a).await, Err(KvError::Closed)), "{name}");
    }
}

// covers: storage-api/GLOB-12
#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_last_handle_ends_watches() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        let mut watching = watch(&kv, "/", None).await.unwrap();
        drop(kv);
        assert!(
            matches!(next(&mut watching).await, Some(Err(KvError::Closed))),
            "{name}"
        );
        // The same place can be opened although the watch is still held.
        let kv = open(&config).await;
        kv.close().await;
    }
}

#[test]
fn outside_of_a_runtime_opening_fails_with_words() {
    let opened = futures::executor::block_on(EmbeddedKv::open(EmbeddedConfig::memory()));
    let Err(KvError::Fault(cause)) = opened else {
        panic!("{opened:?}")
    };
    assert!(cause.to_string().contains("runtime"), "{cause}");
}
