//! What survives when the power, the disk or the process fails.
#![cfg(feature = "durable")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::io::{BufRead, BufReader, ErrorKind};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::time::random_below;
use apiserver_storage_api::{BoxError, Revision};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv, HistoryBounds};
use apiserver_storage_kv::{Expected, Kv, KvError, KvWatch, KvWatchItem, Lease, RangeRequest, WriteOutcome};
use common::disk::{SimulatedDisk, seeded};
use common::*;

/// What one writer of a key knows: its last acknowledged write, and whether a later one has no answer.
#[derive(Debug, Clone, Default)]
struct Known {
    acknowledged: Vec<Revision>,
    asked: usize,
}

/// Writes a key over and over, its value counting from zero, until the store fails.
async fn write_until_failure(kv: Arc<EmbeddedKv>, key: String) -> Known {
    let mut known = Known::default();
    loop {
        let expected = known
            .acknowledged
            .last()
            .map_or(Expected::Absent, |revision| Expected::At(*revision));
        let value = mixed(known.asked, 700).into();
        known.asked += 1;
        match kv.put_if(&key, value, expected, Lease::None).await {
            Ok(WriteOutcome::Applied(revision)) => known.acknowledged.push(revision),
            Ok(mismatch) => panic!("nobody else writes {key}: {mismatch:?}"),
            Err(_) => return known,
        }
    }
}

/// Everything that a watch was shown until the store failed.
async fn watch_until_failure(mut watching: KvWatch) -> Vec<(Revision, String)> {
    let mut seen = Vec::new();
    while let Some(Ok(item)) = next(&mut watching).await {
        if let KvWatchItem::Batch { revision, events } = item {
            seen.extend(events.iter().map(|event| (revision, event.key.to_string())));
        }
    }
    seen
}

// covers: storage-api/GLOB-01, storage-api/GLOB-05
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_and_watched_writes_survive_power_loss_at_any_moment() {
    const WRITERS: usize = 4;
    for seed in 0..60 {
        let rng = seeded(seed);
        let disk = SimulatedDisk::default();
        let config = |disk: SimulatedDisk| EmbeddedConfig::medium(Arc::new(disk)).with_quick_repair(seed % 4 == 0);
        let kv = open(&config(disk.clone())).await;
        let start = kv.now().await.unwrap();
        let watched = tokio::spawn(watch_until_failure(watch(&kv, "/", None).await.unwrap()));
        disk.fail_power_after(random_below(&rng, 400));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write_until_failure(Arc::clone(&kv), format!("/{writer}"))))
            .collect();
        let mut known = Vec::new();
        for writer in writers {
            known.push(writer.await.unwrap());
        }
        assert!(disk.is_dead(), "seed={seed}");
        let watched = watched.await.unwrap();
        drop(kv);

        let kv = open(&config(disk.after_power_loss(&rng))).await;
        let now = kv.now().await.unwrap();
        let mut stored = Vec::new();
        if now > start {
            let count = usize::try_from(now.get() - start.get()).unwrap();
            stored = see(&mut watch(&kv, "/", Some(start.next())).await.unwrap(), count).await;
        }
        for (n, (revision, ..)) in stored.iter().enumerate() {
            assert_eq!(
                revision.get(),
                start.get() + n as u64 + 1,
                "seed={seed}: history has no gap"
            );
        }
        for (writer, known) in known.iter().enumerate() {
            let key = format!("/{writer}");
            let of_key: Vec<_> = stored.iter().filter(|(_, stored, ..)| *stored == key).collect();
            let revisions: Vec<_> = of_key.iter().map(|(revision, ..)| *revision).collect();
            assert!(
                revisions.starts_with(&known.acknowledged),
                "seed={seed} {key}: {known:?} {revisions:?}"
            );
            assert!(
                revisions.len() <= known.asked,
                "seed={seed} {key}: {known:?} {revisions:?}"
            );
            for (n, (_, _, value, _)) in of_key.iter().enumerate() {
                assert_eq!(value.as_deref(), Some(&*mixed(n, 700)), "seed={seed} {key}");
            }
        }
        let stored: Vec<_> = stored.into_iter().map(|(revision, key, ..)| (revision, key)).collect();
        assert!(
            stored.starts_with(&watched),
            "seed={seed}: a watch saw what is not there"
        );
        // The store goes on from there.
        let next = create(&kv, "/next", "1").await;
        assert_eq!(next, now.next(), "seed={seed}");
        kv.close().await;
    }
}

// covers: storage-api/GLOB-05
#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_neither_readable_nor_watchable_before_it_is_safe() {
    let disk = SimulatedDisk::default();
    let kv = open(&EmbeddedConfig::medium(Arc::new(disk.clone()))).await;
    let start = kv.now().await.unwrap();
    let mut watching = watch(&kv, "/", None).await.unwrap();
    disk.hold_syncs();
    let writing = {
        let kv = Arc::clone(&kv);
        tokio::spawn(async move { create(&kv, "/a", "1").await })
    };
    until("the sync is under way", async || disk.waiting_syncs() > 0).await;
    assert_eq!(kv.now().await.unwrap(), start);
    assert_eq!(value(&kv, "/a", None).await, None);
    assert_eq!(kv.range(RangeRequest::prefix("/")).await.unwrap().count, 0);
    let early = tokio::time::timeout(Duration::from_millis(50), next(&mut watching)).await;
    assert!(early.is_err(), "watched before it was safe: {early:?}");
    assert!(!writing.is_finished());
    disk.release_syncs();
    let a = writing.await.unwrap();
    assert_eq!(value(&kv, "/a", None).await.as_deref(), Some("1"));
    assert_eq!(next_event(&mut watching).await.0, a);
    kv.close().await;
}

// covers: storage-api/GLOB-05
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_the_engine_and_says_why() {
    // A sync that says there is no space has lost writes like any other.
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        check_failed_sync(kind).await;
    }
}

async fn check_failed_sync(kind: ErrorKind) {
    let disk = SimulatedDisk::default();
    let kv = open(&EmbeddedConfig::medium(Arc::new(disk.clone()))).await;
    let a = create(&kv, "/a", "1").await;
    let mut watching = watch(&kv, "/", None).await.unwrap();
    disk.fail_syncs(Some(kind));
    let failed = kv.put_if("/b", "1".into(), Expected::Absent, Lease::None).await;
    assert!(matches!(failed, Err(KvError::OutcomeUnknown(_))), "{failed:?}");
    disk.fail_syncs(None);

    let stopped = |error: KvError| {
        let KvError::Fault(cause) = error else {
            panic!("{error:?}")
        };
        let text = cause.to_string();
        assert!(
            text.contains("stopped") && text.contains("the disk lost its writes"),
            "{text}"
        );
    };
    stopped(
        kv.put_if("/b", "1".into(), Expected::Absent, Lease::None)
            .await
            .unwrap_err(),
    );
    stopped(kv.delete_if("/a", a).await.unwrap_err());
    stopped(kv.get("/a", None).await.unwrap_err());
    stopped(kv.now().await.unwrap_err());
    stopped(kv.compact(a).await.unwrap_err());
    stopped(watch(&kv, "/", None).await.unwrap_err());
    stopped(next(&mut watching).await.unwrap().unwrap_err());
    assert!(kv.health().unwrap_err().contains("the disk lost its writes"));
    kv.close().await;

    let kv = open(&EmbeddedConfig::medium(Arc::new(disk.image()))).await;
    assert_eq!(value(&kv, "/a", None).await.as_deref(), Some("1"));
    kv.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let clock = clock();
    let disk = SimulatedDisk::default();
    let config = EmbeddedConfig::medium(Arc::new(disk.clone())).with_clock(Arc::new(clock.clone()));
    let kv = open(&config).await;
    let mut watching = watch(&kv, "/", None).await.unwrap();
    let large = noise(0, 100_000);
    disk.set_capacity(Some(disk.used()));
    let mut acknowledged = Vec::new();
    let refused = loop {
        let key = format!("/{:03}", acknowledged.len());
        match kv
            .put_if(&key, large.clone().into(), Expected::Absent, Lease::None)
            .await
        {
            Ok(WriteOutcome::Applied(revision)) => acknowledged.push((revision, key)),
            other => break other,
        }
    };
    assert!(matches!(refused, Err(KvError::NoSpace(_))), "{refused:?}");
    assert!(kv.health().unwrap_err().contains("no space"));
    let again = kv.put_if("/small", "1".into(), Expected::Absent, Lease::None).await;
    assert!(matches!(again, Err(KvError::NoSpace(_))), "{again:?}");

    let (last, key) = acknowledged.last().cloned().expect("some fitted");
    assert_eq!(kv.now().await.unwrap(), last, "what was refused took no revision");
    assert_eq!(value(&kv, &key, None).await, Some(large.clone()));
    let seen: Vec<_> = see(&mut watching, acknowledged.len())
        .await
        .into_iter()
        .map(|(at, key, ..)| (at, key))
        .collect();
    assert_eq!(seen, acknowledged);

    disk.set_capacity(None);
    clock.advance(Duration::from_secs(6));
    let small = create(&kv, "/small", "1").await;
    assert_eq!(small, last.next());
    assert_eq!(kv.health(), Ok(()));
    assert_eq!(next_event(&mut watching).await.0, small);
    kv.close().await;
    let kv = open(&EmbeddedConfig::medium(Arc::new(disk.image()))).await;
    assert_eq!(
        kv.range(RangeRequest::prefix("/")).await.unwrap().count,
        acknowledged.len() as u64 + 1
    );
    kv.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_value_is_named_and_the_rest_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::directory(dir.path());
    let kv = open(&config).await;
    let a = create(&kv, "/a", "whole").await;
    let b = create(&kv, "/b", "to be damaged: 0123456789").await;
    kv.close().await;

    let file = dir.path().join("store.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    let places: Vec<usize> = bytes
        .windows(10)
        .enumerate()
        .filter(|(_, part)| *part == b"0123456789")
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    std::fs::write(&file, bytes).unwrap();

    let kv = open(&config).await;
    let named = |cause: BoxError| {
        let text = cause.to_string();
        assert!(
            text.contains("key=/b") && text.contains(&format!("revision={b}")),
            "{text}"
        );
    };
    assert_eq!(value(&kv, "/a", None).await.as_deref(), Some("whole"));
    let Err(KvError::Fault(cause)) = kv.get("/b", None).await else {
        panic!("served a damaged value")
    };
    named(cause);
    let Err(KvError::Fault(cause)) = kv.range(RangeRequest::prefix("/")).await else {
        panic!("served it in a range")
    };
    named(cause);
    let mut watching = watch(&kv, "/", Some(a)).await.unwrap();
    let Some(Err(KvError::Fault(cause))) = next(&mut watching).await else {
        panic!("served it in a watch")
    };
    named(cause);
    // It can be replaced by who knows its revision, and then it is over.
    let b = replace(&kv, "/b", b, "good again").await;
    assert_eq!(value(&kv, "/b", Some(b)).await.as_deref(), Some("good again"));
    kv.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_something_else_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.redb"), b"something else, not a store of ours").unwrap();
    let Err(KvError::Fault(cause)) = EmbeddedKv::open(EmbeddedConfig::directory(dir.path())).await else {
        panic!("opened something else")
    };
    assert!(cause.to_string().contains(&*dir.path().to_string_lossy()), "{cause}");
}

// covers: storage-api/GLOB-05
#[tokio::test(flavor = "multi_thread")]
async fn random_damage_is_never_served_as_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::directory(dir.path()).with_recent_bytes(0);
    let kv = open(&config).await;
    for n in 0..200 {
        create(&kv, &format!("/{n:03}"), &mixed(n, 400)).await;
    }
    kv.close().await;
    let file = dir.path().join("store.redb");
    let whole = std::fs::read(&file).unwrap();
    let (mut refused, mut served) = (0, 0);
    for seed in 0..150 {
        let rng = seeded(seed);
        let mut bytes = whole.clone();
        for _ in 0..=random_below(&rng, 20) {
            let at = usize::try_from(random_below(&rng, bytes.len() as u64)).unwrap();
            bytes[at] ^= 1 << random_below(&rng, 8);
        }
        std::fs::write(&file, bytes).unwrap();
        let Ok(kv) = EmbeddedKv::open(config.clone()).await else {
            refused += 1;
            continue;
        };
        match kv.range(RangeRequest::prefix("/")).await {
            Err(_) => refused += 1,
            Ok(page) => {
                served += 1;
                assert_eq!((page.count, page.pairs.len()), (200, 200), "seed={seed}");
                for (n, pair) in page.pairs.iter().enumerate() {
                    let expected = (format!("/{n:03}"), mixed(n, 400));
                    assert_eq!(
                        (&*pair.key, &*pair.value),
                        (&*expected.0, expected.1.as_bytes()),
                        "seed={seed}"
                    );
                }
            }
        }
        kv.close().await;
    }
    assert!(
        refused > 0 && served > 0,
        "refused={refused} served={served}: the damage was not random"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_share_syncs() {
    const WRITERS: u64 = 64;
    let disk = SimulatedDisk::default();
    let kv = open(&EmbeddedConfig::medium(Arc::new(disk.clone()))).await;
    disk.hold_syncs();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let kv = Arc::clone(&kv);
            tokio::spawn(async move { create(&kv, &format!("/{writer}"), "1").await })
        })
        .collect();
    until("the first sync is under way", async || disk.waiting_syncs() > 0).await;
    // All others get into the queue while the first one waits: each has had its turn after so many.
    for _ in 0..10 * WRITERS {
        tokio::task::yield_now().await;
    }
    let before = disk.syncs();
    disk.release_syncs();
    for writer in writers {
        writer.await.unwrap();
    }
    let syncs = disk.syncs() - before;
    assert!(syncs <= WRITERS / 2, "{syncs} syncs for {WRITERS} writers");
    kv.close().await;
}

// covers: storage-api/GLOB-12
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_dropped_leave_nothing_behind() {
    for seed in 0..20 {
        let rng = seeded(seed);
        let disk = SimulatedDisk::default();
        let kv = open(&EmbeddedConfig::medium(Arc::new(disk.clone())).with_recent_bytes(0)).await;
        let start = kv.now().await.unwrap();
        let mut calls = Vec::new();
        for n in 0..40 {
            let kv = Arc::clone(&kv);
            calls.push(tokio::spawn(async move {
                let key = format!("/{n:02}");
                create(&kv, &key, &mixed(n, 5_000)).await;
                value(&kv, &key, None).await;
                let mut watching = watch(&kv, "/", Some(start)).await.unwrap();
                see(&mut watching, 5).await;
                kv.range(RangeRequest::prefix("/")).await.unwrap();
            }));
        }
        for call in &calls {
            if random_below(&rng, 2) == 0 {
                call.abort();
            }
            for _ in 0..random_below(&rng, 20) {
                tokio::task::yield_now().await;
            }
        }
        for call in calls {
            if let Err(ended) = call.await {
                assert!(ended.is_cancelled(), "seed={seed}: {ended}");
            }
        }
        // Every write that was sent is there or not, and history agrees; new calls find all doors open.
        let page = kv.range(RangeRequest::prefix("/")).await.unwrap();
        let written = usize::try_from(page.revision.get() - start.get()).unwrap();
        let seen = see(&mut watch(&kv, "/", Some(start.next())).await.unwrap(), written).await;
        assert_eq!((page.pairs.len(), seen.len()), (written, written), "seed={seed}");
        create(&kv, "/after", "1").await;
        kv.close().await;
    }
}

/// Where a child of the test below writes; absent in the parent.
const CHILD: &str = "EMBEDDED_TEST_CHILD_WRITES_TO";

/// Creates keys and prints what was acknowledged, until it is killed. Beside that, one key is written over and over, so
/// that history is compacted and the file rewritten all the time, and the end also comes in the middle of that.
async fn child(dir: &str) {
    let bounds = HistoryBounds::default().with_floor_bytes(200_000).with_live_ratio(0.0);
    let config = EmbeddedConfig::directory(dir)
        .with_rewrite_floor_bytes(0)
        .with_history(bounds);
    let kv = open(&config).await;
    let churn = tokio::spawn(write_until_failure(
        Arc::clone(&kv),
        format!("/churn/{}", std::process::id()),
    ));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let kv = Arc::clone(&kv);
            tokio::spawn(async move {
                for n in 0.. {
                    let key = format!("/{writer}/{}-{n}", std::process::id());
                    let revision = create(&kv, &key, &n.to_string()).await;
                    println!("acknowledged {key} {n} {revision} whole");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    churn.await.unwrap();
}

// covers: storage-api/GLOB-05
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_kill_nine() {
    if let Ok(dir) = std::env::var(CHILD) {
        return child(&dir).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..4_usize {
        let mut running = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "acknowledged_writes_survive_kill_nine", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let enough = acknowledged.len() + 300 + 170 * round;
        let mut killed = false;
        for line in BufReader::new(running.stdout.take().unwrap()).lines() {
            let Ok(line) = line else { break };
            let words: Vec<_> = line.split(' ').collect();
            // The last line may be cut in the middle.
            let ["acknowledged", key, n, revision, "whole"] = words[..] else {
                continue;
            };
            acknowledged.push((key.to_owned(), n.to_owned(), rev(revision.parse().unwrap())));
            if acknowledged.len() == enough {
                running.kill().unwrap();
                killed = true;
            }
        }
        let status = running.wait().unwrap();
        assert!(killed && !status.success(), "round={round} {status}");

        let kv = open(&EmbeddedConfig::directory(dir.path())).await;
        for (key, n, revision) in &acknowledged {
            let (pair, _) = kv.get(key, None).await.unwrap();
            let pair = pair.unwrap_or_else(|| panic!("round={round}: {key} {revision} is lost"));
            assert_eq!(
                (&*pair.value, pair.revision),
                (n.as_bytes(), *revision),
                "round={round} {key}"
            );
        }
        kv.close().await;
    }
}
