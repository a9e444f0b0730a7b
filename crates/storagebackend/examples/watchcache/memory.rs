//! What answers cost in memory while slow clients read them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use apiserver_storage_api::{ListOptions, Storage};
use apiserver_storage_cacher::Cacher;
use futures::StreamExt;
use serde_json::json;

use crate::callers::Sink;
use crate::ground::{Ground, Stored};
use crate::options::Options;
use crate::report::{Meter, emit, round, status};
use crate::watching::touch;

/// Between two writes while the lists are read.
const WRITE_PAUSE: Duration = Duration::from_millis(10);

// measures: storage-cacher/SCALE-09
/// Full lists at the same time, each read over the whole measurement while somebody writes: how far the peak rises.
pub(crate) async fn lists(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let cache = ground.cache().await?;
    let stored = Stored::of(&*cache).await?;
    let over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (cache, keys, over) = (Arc::clone(&cache), Arc::clone(&stored.keys), Arc::clone(&over));
        tokio::spawn(async move {
            let mut writes = 0;
            while !over.load(Ordering::Relaxed) {
                touch(&*cache, &keys[writes * 37 % keys.len()]).await?;
                writes += 1;
                tokio::time::sleep(WRITE_PAUSE).await;
            }
            anyhow::Ok(writes)
        })
    };
    // The peak counts from here.
    std::fs::write("/proc/self/clear_refs", "5").context("the peak cannot be reset")?;
    let before = status("VmRSS").context("no figures of memory here")?;
    let meter = Meter::start();
    let (objects, time) = (stored.keys.len(), options.d);
    let readers: Vec<_> = (0..options.p)
        .map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move { read(&cache, objects, time).await })
        })
        .collect();
    let mut bytes = 0;
    for reader in readers {
        let sink = reader.await??;
        ensure!(sink.objects >= objects, "a list was too short");
        bytes += sink.bytes;
    }
    let used = meter.used();
    let peak = status("VmHWM").context("no figures of memory here")? - before;
    over.store(true, Ordering::Relaxed);
    let writes = writer.await??;
    let figures = json!({
        "p": options.p,
        "answer_mb": round(bytes as f64 / 1_048_576.0),
        "extra_peak_mb": round(peak / 1_048_576.0),
        "extra_per_answer": round(peak / bytes as f64),
        "writes": writes,
    });
    emit("lists", options, &used, &figures);
    cache.close().await;
    Ok(())
}

/// Reads a full list so slowly that it takes the whole time.
async fn read(cache: &Cacher, objects: usize, time: Duration) -> Result<Sink> {
    let all = apiserver_storage_api::Scope::all(cache.resource().prefix());
    let (start, mut sink) = (Instant::now(), Sink::default());
    let mut pages = cache.list(&all, ListOptions::default()).await?.into_pages();
    while let Some(page) = pages.next().await {
        let page = page?;
        for entry in &page.entries {
            sink.write(entry.json()?);
        }
        sink.objects += page.entries.len();
        let end = page.end.is_some();
        drop(page.entries);
        if end {
            break;
        }
        let read = (sink.objects as f64 / objects.max(1) as f64).min(1.0);
        tokio::time::sleep_until((start + time.mul_f64(read)).into()).await;
    }
    Ok(sink)
}
