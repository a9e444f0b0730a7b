//! `traffic`: writes through the cache while others watch and list, as upstream measures them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use apiserver_storage_etcd3::api::{
    Change, CreateOptions, DeleteOptions, Encoded, ListAt, ListOptions, NoCheck, ReadAt, Revision, Scope, Storage,
    UpdateOptions, WatchItem, WatchOptions, WatchStart,
};
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Layout, now, stamp, written_at};
use crate::latency::p99;

/// Options of `traffic`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Upstream loads 150,000 pods first; so many times fewer are used.
    #[arg(long, default_value_t = 50)]
    scale: usize,
    /// How long each cell runs.
    #[arg(long, default_value_t = 1_000)]
    milliseconds: u64,
}

const WRITERS: usize = 25;
const WATCHERS: usize = 10;
const LIST_EVERY: Duration = Duration::from_millis(10);
const BACKGROUND: [&str; 6] = [
    "none",
    "watchers",
    "list consistent",
    "list Exact",
    "list NotOlderThan",
    "watch-list",
];

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    writes: AtomicUsize,
    events: AtomicUsize,
    lists: AtomicUsize,
    listed: AtomicUsize,
    latencies: Mutex<Vec<Duration>>,
}

// measures: storage-api/BENCH-03, storage-api/BENCH-07
/// Runs all of it.
pub(crate) async fn run(options: &Options) -> Result<Value> {
    let mut cells = Vec::new();
    let pods = (3_000 / options.scale.max(1)).max(1);
    let layout = Layout {
        namespaces: 50,
        pods,
        nodes: (5_000 / options.scale.max(1)).max(1),
    };
    for is_indexed in [false, true] {
        let mut cluster = Cluster::start(is_indexed).await?;
        let info = cluster.store.resource().clone();
        cluster.fill(layout.total(), |number| layout.pod(&info, number)).await?;
        let cache = cluster.cached().await?;
        for traffic in ["delete and create", "patch"] {
            for background in BACKGROUND {
                let cell = cell(options, &cache, layout, traffic, background).await?;
                println!("indexed={is_indexed} {traffic}, beside {background}: {cell}");
                cells.push(
                    json!({ "indexed": is_indexed, "traffic": traffic, "background": background, "rates": cell }),
                );
            }
        }
    }
    Ok(json!({ "scale": options.scale, "cells": cells }))
}

async fn cell(
    options: &Options,
    cache: &Arc<dyn Storage>,
    layout: Layout,
    traffic: &str,
    background: &str,
) -> Result<Value> {
    let (counts, start) = (Arc::new(Counts::default()), cache.current_revision().await?);
    let mut others = Vec::new();
    match background {
        "none" => {}
        "watchers" => {
            others.extend((0..WATCHERS).map(|_| tokio::spawn(watch(Arc::clone(cache), Arc::clone(&counts), start))))
        }
        "watch-list" => others.push(tokio::spawn(watch_list(Arc::clone(cache), Arc::clone(&counts)))),
        list => others.push(tokio::spawn(lists(
            Arc::clone(cache),
            Arc::clone(&counts),
            list.to_owned(),
            start,
        ))),
    }
    let begin = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (cache, counts, patches) = (Arc::clone(cache), Arc::clone(&counts), traffic == "patch");
            tokio::spawn(async move {
                // Each has pods of its own.
                for number in (writer..layout.total()).step_by(WRITERS).cycle() {
                    if counts.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    write(&*cache, layout, number, patches).await?;
                    counts.writes.fetch_add(if patches { 1 } else { 2 }, Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(options.milliseconds)).await;
    counts.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await??;
    }
    let seconds = begin.elapsed().as_secs_f64();
    for other in others {
        // A watcher waits for an event that does not come; what it counted is counted.
        other.abort();
    }
    let rate = |count: &AtomicUsize| (count.load(Ordering::Relaxed) as f64 / seconds).round();
    let latency = p99(&mut counts.latencies.lock());
    Ok(json!({
        "writes_per_second": rate(&counts.writes),
        "watch_events_per_second": rate(&counts.events),
        "list_calls_per_second": rate(&counts.lists),
        "list_objects_per_second": rate(&counts.listed),
        "watch_latency_p99_micros": (latency.as_secs_f64() * 1e6).round(),
    }))
}

async fn write(cache: &dyn Storage, layout: Layout, number: usize, patches: bool) -> Result<()> {
    let (key, mut pod) = layout.pod(cache.resource(), number)?;
    if !patches {
        cache.delete(&key, DeleteOptions::default(), &mut NoCheck).await?;
        stamp(&mut pod, now());
        cache.create(&key, Encoded::of(&pod)?, CreateOptions::default()).await?;
        return Ok(());
    }
    stamp(&mut pod, now());
    let value = Encoded::of(&pod)?;
    let mut update = |_| {
        let change = Ok(Change::put(value.clone()));
        async { change }
    };
    cache
        .guaranteed_update(&key, UpdateOptions::default(), &mut update)
        .await?;
    Ok(())
}

async fn watch(cache: Arc<dyn Storage>, counts: Arc<Counts>, after: Revision) -> Result<()> {
    let scope = Scope::all(cache.resource().prefix());
    let options = WatchOptions::from_start(WatchStart::After(after));
    let mut items = cache.watch(&scope, options).await?;
    while let Some(item) = items.next().await {
        let WatchItem::Batch(batch) = item? else { continue };
        let received = now();
        counts.events.fetch_add(batch.events.len(), Ordering::Relaxed);
        let objects = batch.events.iter().filter_map(|event| event.object.as_ref());
        let times = objects.filter_map(|object| written_at(object.json().ok()?).ok());
        let taken: Vec<Duration> = times.map(|written| received.saturating_sub(written)).collect();
        counts.latencies.lock().extend(taken);
    }
    Ok(())
}

async fn watch_list(cache: Arc<dyn Storage>, counts: Arc<Counts>) -> Result<()> {
    let scope = Scope::all(cache.resource().prefix());
    loop {
        let options = WatchOptions::from_start(WatchStart::InitialState(ReadAt::MostRecent));
        let mut items = cache.watch(&scope, options).await?;
        while let Some(item) = items.next().await {
            match item? {
                WatchItem::Initial(entries) => {
                    counts.listed.fetch_add(entries.len(), Ordering::Relaxed);
                }
                _ => break,
            }
        }
        counts.lists.fetch_add(1, Ordering::Relaxed);
    }
}

async fn lists(cache: Arc<dyn Storage>, counts: Arc<Counts>, kind: String, revision: Revision) -> Result<()> {
    let scope = Scope::all(cache.resource().prefix());
    loop {
        let at = match kind.as_str() {
            "list Exact" => ListAt::Exact(revision),
            "list NotOlderThan" => ListAt::NotOlderThan(revision),
            _ => ListAt::MostRecent,
        };
        let list = cache
            .list(
                &scope,
                ListOptions {
                    at,
                    ..ListOptions::default()
                },
            )
            .await?;
        let found = list.collect().await?.entries.len();
        counts.lists.fetch_add(1, Ordering::Relaxed);
        counts.listed.fetch_add(found, Ordering::Relaxed);
        tokio::time::sleep(LIST_EVERY).await;
    }
}
