//! What a durable store keeps across closing and opening.
#![cfg(feature = "durable")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::Revision;
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv, HistoryBounds};
use apiserver_storage_kv::{Expected, Kv, KvError, Lease, RangeRequest};
use common::*;

fn directory() -> (tempfile::TempDir, EmbeddedConfig) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = EmbeddedConfig::directory(dir.path().join("made/on/the/way"));
    (dir, config)
}

// covers: storage-api/GLOB-01, storage-api/GLOB-09
#[tokio::test(flavor = "multi_thread")]
async fn a_store_reopens_with_its_state_history_and_identity() {
    let (_dir, config) = directory();
    let kv = open(&config).await;
    let id = kv.store_id().await.unwrap();
    assert_eq!(id.0.len(), 32);
    let start = kv.now().await.unwrap();
    let a1 = create(&kv, "/a", "1").await;
    let a2 = replace(&kv, "/a", a1, "2").await;
    let b1 = create(&kv, "/b", "1").await;
    let gone = delete(&kv, "/b", b1).await;
    assert!(kv.coordination_put("/c", "x".into(), 0).await.unwrap());
    kv.close().await;

    let kv = open(&config).await;
    assert_eq!(kv.store_id().await.unwrap(), id);
    assert_eq!(kv.now().await.unwrap(), gone);
    assert_eq!(kv.compacted_revision(), Some(start));
    assert_eq!(kv.coordination_get("/c").await.unwrap(), Some(("x".into(), 1)));
    assert_eq!(value(&kv, "/a", None).await.as_deref(), Some("2"));
    assert_eq!(value(&kv, "/a", Some(a1)).await.as_deref(), Some("1"));
    assert_eq!(value(&kv, "/b", Some(b1)).await.as_deref(), Some("1"));
    assert_eq!(value(&kv, "/b", None).await, None);
    let (pair, _) = kv.get("/a", None).await.unwrap();
    assert_eq!(pair.unwrap().created, a1);

    // A watch goes on where it was when the store was closed.
    let mut watching = watch(&kv, "/", Some(a2)).await.unwrap();
    let b2 = create(&kv, "/b", "2").await;
    assert_eq!(b2, gone.next(), "the counter goes on");
    let text = |value: &str| Some(value.to_owned());
    let expected: Vec<Seen> = vec![
        (a2, "/a".into(), text("2"), text("1")),
        (b1, "/b".into(), text("1"), None),
        (gone, "/b".into(), None, text("1")),
        (b2, "/b".into(), text("2"), None),
    ];
    assert_eq!(see(&mut watching, 4).await, expected);
    kv.close().await;
}

// covers: storage-api/GLOB-08, storage-api/GLOB-09
#[tokio::test(flavor = "multi_thread")]
async fn compaction_survives_reopening_even_of_the_last_deletion() {
    let (_dir, config) = directory();
    let kv = open(&config).await;
    let a = create(&kv, "/a", "1").await;
    let b = create(&kv, "/b", "1").await;
    let b = replace(&kv, "/b", b, "2").await;
    let deleted = delete(&kv, "/b", b).await;
    kv.compact(deleted).await.unwrap();
    kv.close().await;

    let kv = open(&config).await;
    assert_eq!(
        (kv.now().await.unwrap(), kv.compacted_revision()),
        (deleted, Some(deleted))
    );
    assert!(is_compacted(&watch(&kv, "/", deleted.previous()).await));
    assert_eq!(value(&kv, "/a", Some(deleted)).await.as_deref(), Some("1"));
    let mut watching = watch(&kv, "/", Some(deleted)).await.unwrap();
    let a2 = replace(&kv, "/a", a, "2").await;
    let seen = see(&mut watching, 2).await;
    assert_eq!((seen[0].0, &*seen[0].1, seen[1].0), (deleted, "/b", a2));
    kv.compact(a2).await.unwrap();
    kv.close().await;

    let kv = open(&config).await;
    assert_eq!(kv.now().await.unwrap(), a2);
    assert_eq!(kv.range(RangeRequest::prefix("/")).await.unwrap().count, 1);
    kv.close().await;
}

// covers: storage-api/GLOB-11
#[tokio::test(flavor = "multi_thread")]
async fn leases_end_by_the_wall_clock_although_the_store_was_closed() {
    let (_dir, config) = directory();
    let clock = clock();
    let config = config.with_clock(Arc::new(clock.clone()));
    let kv = open(&config).await;
    for (key, ttl) in [("/short", 10), ("/long", 100)] {
        let lease = Lease::Id(kv.lease(Duration::from_secs(ttl)).await.unwrap());
        applied(kv.put_if(key, "1".into(), Expected::Absent, lease).await);
    }
    let before = kv.now().await.unwrap();
    kv.close().await;

    clock.advance(Duration::from_secs(50));
    let kv = open(&config).await;
    let mut watching = watch(&kv, "/", Some(before.next())).await.unwrap();
    let seen = see(&mut watching, 1).await;
    assert_eq!((seen[0].0, &*seen[0].1, &seen[0].2), (before.next(), "/short", &None));
    assert_eq!(value(&kv, "/long", None).await.as_deref(), Some("1"));
    clock.advance(Duration::from_secs(60));
    let seen = see(&mut watching, 1).await;
    assert_eq!((&*seen[0].1, &seen[0].2), ("/long", &None));
    kv.close().await;
}

// covers: storage-api/GLOB-08
#[tokio::test(flavor = "multi_thread")]
async fn history_is_kept_for_its_time_and_then_goes() {
    for (name, config, _dir) in configs() {
        let clock = clock();
        let bounds = HistoryBounds::default().with_keep(Some(Duration::from_secs(300)));
        let kv = open(&config.with_clock(Arc::new(clock.clone())).with_history(bounds)).await;
        let a1 = create(&kv, "/a", "1").await;
        let a2 = replace(&kv, "/a", a1, "2").await;
        // The timer sleeps before it is moved, or it would take its sample late.
        let step = Duration::from_secs(10);
        let mut passed = Duration::ZERO;
        while passed < Duration::from_secs(290) {
            until("the timer sleeps", async || clock.sleepers() > 0).await;
            clock.advance(step);
            passed += step;
        }
        until("the timer sleeps", async || clock.sleepers() > 0).await;
        assert_eq!(
            value(&kv, "/a", Some(a1)).await.as_deref(),
            Some("1"),
            "{name}: still kept"
        );
        until("old history goes", async || {
            clock.advance(step);
            tokio::task::yield_now().await;
            is_compacted(&kv.get("/a", Some(a1)).await)
        })
        .await;
        assert_eq!(kv.compacted_revision(), Some(a2), "{name}");
        assert_eq!(
            value(&kv, "/a", Some(a2)).await.as_deref(),
            Some("2"),
            "{name}: the state stays"
        );
        kv.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_bounded_by_bytes() {
    for (name, config, _dir) in configs() {
        let bounds = HistoryBounds::default()
            .with_keep(None)
            .with_live_ratio(1.0)
            .with_floor_bytes(50_000);
        let kv = open(&config.with_history(bounds)).await;
        let value_of = |round: usize| format!("{round:>1000}");
        let mut revisions: Vec<Revision> = vec![create(&kv, "/a", &value_of(0)).await];
        for round in 1..200 {
            revisions.push(replace(&kv, "/a", revisions[round - 1], &value_of(round)).await);
        }
        let lowest = kv.compacted_revision().unwrap();
        let kept = revisions.iter().filter(|revision| **revision >= lowest).count();
        assert!((30..=50).contains(&kept), "{name}: kept={kept}");
        assert!(is_compacted(&kv.get("/a", revisions.first().copied()).await), "{name}");
        let at = revisions[200 - kept];
        assert_eq!(value(&kv, "/a", Some(at)).await, Some(value_of(200 - kept)), "{name}");
        kv.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_user_at_a_time() {
    let (_dir, config) = directory();
    let kv = open(&config).await;
    let Err(KvError::Fault(cause)) = EmbeddedKv::open(config.clone()).await else {
        panic!("opened twice")
    };
    assert!(cause.to_string().contains("made/on/the/way"), "{cause}");
    kv.close().await;
    open(&config).await.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let Err(KvError::Fault(cause)) = EmbeddedKv::open(EmbeddedConfig::directory(file.join("data"))).await else {
        panic!("opened in a file")
    };
    assert!(cause.to_string().contains("file/data"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_made_data_file_is_made_anew() {
    let (_dir, config) = directory();
    let dir = _dir.path().join("made/on/the/way");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("store.redb.new"), b"half").unwrap();
    let kv = open(&config).await;
    create(&kv, "/a", "1").await;
    kv.close().await;
    assert!(!dir.join("store.redb.new").exists());
}

// covers: storage-api/GLOB-01
#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_commits_and_each_gets_a_revision_of_its_own() {
    const WRITERS: usize = 64;
    const WRITES: usize = 20;
    let (_dir, config) = directory();
    let kv = open(&config).await;
    let start = kv.now().await.unwrap();
    let mut watching = watch(&kv, "/", None).await.unwrap();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let kv = Arc::clone(&kv);
            tokio::spawn(async move {
                let key = format!("/w/{writer}");
                let mut revisions = vec![create(&kv, &key, "0").await];
                for round in 1..WRITES {
                    let before = *revisions.last().unwrap();
                    revisions.push(replace(&kv, &key, before, &round.to_string()).await);
                    // What was acknowledged is what everybody reads from now on.
                    assert_eq!(value(&kv, &key, None).await, Some(round.to_string()));
                }
                revisions
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.extend(task.await.unwrap());
    }
    revisions.sort_unstable();
    let expected: Vec<Revision> = (1..).take(WRITERS * WRITES).map(|n| rev(start.get() + n)).collect();
    assert_eq!(revisions, expected, "no revision twice, none left out");
    let seen: Vec<Revision> = see(&mut watching, WRITERS * WRITES)
        .await
        .into_iter()
        .map(|(revision, ..)| revision)
        .collect();
    assert_eq!(seen, expected, "and all of them watched in order");
    kv.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_conditional_writers_wins() {
    for (name, config, _dir) in configs() {
        let kv = open(&config).await;
        let a = create(&kv, "/a", "0").await;
        let tasks: Vec<_> = (0..32)
            .map(|writer| {
                let kv = Arc::clone(&kv);
                tokio::spawn(async move {
                    let value = format!("by {writer}").into();
                    kv.put_if("/a", value, Expected::At(a), Lease::Keep).await.unwrap()
                })
            })
            .collect();
        let mut won = 0;
        for task in tasks {
            won += usize::from(matches!(
                task.await.unwrap(),
                apiserver_storage_kv::WriteOutcome::Applied(_)
            ));
        }
        assert_eq!((won, kv.now().await.unwrap()), (1, a.next()), "{name}");
        kv.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watch_reads_what_it_missed_from_history() {
    let (_dir, config) = directory();
    let kv = open(&config.with_recent_bytes(2_000)).await;
    let mut watching = watch(&kv, "/", None).await.unwrap();
    let mut expected: Vec<Seen> = Vec::new();
    let mut before = None;
    for round in 0..700_usize {
        let value = format!("{round:>100}");
        let revision = match expected.last() {
            None => create(&kv, "/a", &value).await,
            Some((at, ..)) => replace(&kv, "/a", *at, &value).await,
        };
        expected.push((revision, "/a".into(), Some(value.clone()), before.replace(value)));
        if round == 350 {
            // It catches up half-way, and falls behind again.
            assert_eq!(see(&mut watching, 300).await, expected[..300]);
        }
    }
    assert_eq!(see(&mut watching, 400).await, expected[300..]);
    kv.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_finishes_what_was_accepted() {
    let (_dir, config) = directory();
    let kv = open(&config).await;
    let writes: Vec<_> = (0..200)
        .map(|n| {
            let kv = Arc::clone(&kv);
            tokio::spawn(async move {
                kv.put_if(&format!("/{n:03}"), "1".into(), Expected::Absent, Lease::None)
                    .await
            })
        })
        .collect();
    until("the first write is through", async || {
        kv.range(RangeRequest::prefix("/")).await.unwrap().count > 0
    })
    .await;
    kv.close().await;
    let mut acknowledged = Vec::new();
    for (n, write) in writes.into_iter().enumerate() {
        match write.await.unwrap() {
            Ok(_) => acknowledged.push(format!("/{n:03}")),
            Err(error) => assert!(matches!(error, KvError::Closed), "{error:?}"),
        }
    }
    let kv = open(&config).await;
    let page = kv.range(RangeRequest::prefix("/")).await.unwrap();
    let stored: Vec<String> = page.pairs.iter().map(|pair| pair.key.to_string()).collect();
    assert_eq!(stored, acknowledged);
    kv.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_mostly_free_is_rewritten_while_the_store_goes_on() {
    let (dir, config) = directory();
    let bounds = HistoryBounds::default().with_floor_bytes(100_000).with_live_ratio(0.0);
    let config = config
        .with_history(bounds)
        .with_rewrite_floor_bytes(1 << 20)
        .with_recent_bytes(0);
    let size = || {
        std::fs::metadata(dir.path().join("made/on/the/way/store.redb"))
            .unwrap()
            .len()
    };
    let kv = open(&config).await;
    let value_of = |n: usize| noise(n, 10_000);
    let mut revisions = Vec::new();
    for n in 0..400 {
        revisions.push(create(&kv, &format!("/{n:03}"), &value_of(n)).await);
    }
    assert!(kv.coordination_put("/c", "x".into(), 0).await.unwrap());
    let full = size();
    assert!(full > 4_000_000, "{full}");
    for (n, revision) in revisions.iter().enumerate().skip(20) {
        delete(&kv, &format!("/{n:03}"), *revision).await;
    }
    let mut watching = watch(&kv, "/churn", None).await.unwrap();
    let mut churn = vec![create(&kv, "/churn", "0").await];
    until("the file shrinks", async || {
        let last = *churn.last().unwrap();
        churn.push(replace(&kv, "/churn", last, &churn.len().to_string()).await);
        let seen = see(&mut watching, 1).await;
        assert_eq!(seen[0].0, last, "the watch goes on");
        size() < full / 2
    })
    .await;
    let last = churn.len() - 1;
    for reopened in [false, true] {
        let kv = if reopened { open(&config).await } else { Arc::clone(&kv) };
        assert_eq!(kv.now().await.unwrap(), churn[last]);
        assert_eq!(value(&kv, "/churn", None).await, Some(last.to_string()));
        assert_eq!(kv.coordination_get("/c").await.unwrap(), Some(("x".into(), 1)));
        let page = kv.range(RangeRequest::prefix("/0")).await.unwrap();
        let stored: Vec<_> = page
            .pairs
            .iter()
            .map(|pair| (pair.revision, pair.value.to_vec()))
            .collect();
        let expected: Vec<_> = (0..20).map(|n| (revisions[n], value_of(n).into_bytes())).collect();
        assert!(stored == expected, "reopened={reopened}");
        kv.close().await;
    }
}
