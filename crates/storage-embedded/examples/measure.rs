//! Measures the engine on this machine's disk: commits, reads, a watch, and opening again after a kill.
//!
//! `cargo run --release -p apiserver-storage-embedded --example measure -- DIR [PODS] [UPDATES]`; `memory` for DIR keeps
//! everything in memory. Values are such as cannot be packed: objects, which can, cost the disk less.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver_storage_embedded::api::time::{Rng, SeededRng};
use apiserver_storage_embedded::kv::{Expected, Kv, KvWatchItem, Lease, RangeRequest, WatchRequest, WriteOutcome};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use futures::StreamExt;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const POD_BYTES: usize = 8_000;
const WRITERS: usize = 64;

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("which directory?")?;
    let pods: usize = args.next().map_or(Ok(20_000), |text| text.parse())?;
    let updates: usize = args.next().map_or(Ok(60_000), |text| text.parse())?;
    let config = if dir == "memory" {
        EmbeddedConfig::memory()
    } else {
        EmbeddedConfig::directory(&dir)
    };
    let started = Instant::now();
    let kv = Arc::new(EmbeddedKv::open(config).await?);
    report("opened", started.elapsed(), 1);
    let stored = kv
        .range(RangeRequest {
            count_only: true,
            ..RangeRequest::prefix("/")
        })
        .await?
        .count;
    println!("{:>12} keys stored", stored);
    if stored == 0 {
        write(&kv, pods, 1, "created").await?;
        write(&kv, pods, updates / pods.max(1), "updated").await?;
        one_writer(&kv).await?;
    }
    read(&kv).await?;
    // As a kill would: nothing is closed.
    std::process::exit(0);
}

async fn write(kv: &Arc<EmbeddedKv>, pods: usize, rounds: usize, what: &str) -> Outcome<()> {
    let started = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let kv = Arc::clone(kv);
        tokio::spawn(async move {
            for round in 0..rounds {
                for pod in (writer..pods).step_by(WRITERS) {
                    let key = format!("/registry/pods/ns-{}/pod-{pod}", pod % 50);
                    let found = kv.get(&key, None).await?.0;
                    let expected = found.map_or(Expected::Absent, |pair| Expected::At(pair.revision));
                    let value = noise((round * pods + pod) as u64).into();
                    let outcome = kv.put_if(&key, value, expected, Lease::None).await?;
                    assert!(matches!(outcome, WriteOutcome::Applied(_)), "nobody else writes");
                }
            }
            Outcome::Ok(())
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer??;
    }
    report(what, started.elapsed(), pods * rounds);
    Ok(())
}

/// A value that cannot be written in fewer bytes.
fn noise(seed: u64) -> Vec<u8> {
    let rng = SeededRng::new(seed);
    (0..POD_BYTES / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect()
}

async fn one_writer(kv: &EmbeddedKv) -> Outcome<()> {
    const WRITES: usize = 500;
    let started = Instant::now();
    for n in 0..WRITES {
        kv.put_if(&format!("/one/{n}"), "small".into(), Expected::Absent, Lease::None)
            .await?;
    }
    report("one writer", started.elapsed(), WRITES);
    Ok(())
}

async fn read(kv: &EmbeddedKv) -> Outcome<()> {
    let started = Instant::now();
    let page = kv
        .range(RangeRequest {
            keys_only: true,
            ..RangeRequest::prefix("/registry/")
        })
        .await?;
    report("listed keys", started.elapsed(), page.pairs.len());
    let started = Instant::now();
    let whole = kv.range(RangeRequest::prefix("/registry/")).await?;
    report("listed", started.elapsed(), whole.pairs.len());
    let started = Instant::now();
    for pair in page.pairs.iter().take(5_000) {
        kv.get(&pair.key, None).await?;
    }
    report("got", started.elapsed(), page.pairs.len().min(5_000));
    let from = kv.compacted_revision();
    let started = Instant::now();
    let mut watch = kv
        .watch(WatchRequest {
            key: "/".into(),
            prefix: true,
            from,
            previous: false,
        })
        .await?;
    let (now, mut seen) = (watch.revision, 0);
    while let Some(item) = watch.items.next().await {
        seen += 1;
        if matches!(item?, KvWatchItem::Batch { revision, .. } if revision == now) {
            break;
        }
    }
    report("watched", started.elapsed(), seen);
    Ok(())
}

fn report(what: &str, took: Duration, times: usize) {
    let each = took.as_secs_f64() * 1e6 / times.max(1) as f64;
    println!(
        "{what:>12} {times:>8} in {:>8.3} s, {each:>10.1} us each",
        took.as_secs_f64()
    );
}
