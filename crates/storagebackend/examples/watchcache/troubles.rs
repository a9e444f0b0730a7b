//! What a cache does when it is asked by very many, when nothing was written to its kind for long, and when it has to
//! list again under its watchers.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use apiserver_storage_api::{
    FieldSelector, LabelSelector, ListAt, ListOptions, Revision, Scope, SelectionPredicate, Storage,
};
use apiserver_storage_cacher::Cacher;
use serde_json::json;

use crate::below::Below;
use crate::callers::{self, Plan};
use crate::ground::{Ground, Stored};
use crate::options::Options;
use crate::pods::{self, NODE_FIELD};
use crate::report::{Meter, emit, percentiles, round};
use crate::watching::{Audience, touch};

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Consistent lists of one node each.
async fn consistent(store: &dyn Storage, number: usize, options: &Options) -> Result<usize> {
    let fields = FieldSelector::parse(&format!("{NODE_FIELD}={}", pods::node(number, options)))?;
    let asked = ListOptions {
        predicate: SelectionPredicate::new(LabelSelector::default(), fields),
        ..ListOptions::default()
    };
    let list = store.list(&Scope::all(store.resource().prefix()), asked).await?;
    Ok(list.collect().await?.entries.len())
}

// measures: storage-cacher/BENCH-20
/// Many callers list consistently at the same time: how many questions that are for the store below.
pub(crate) async fn crowd(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let below = Arc::new(Below::new(Arc::clone(&ground.store)));
    let cache = Ground::cache_over(Arc::<Below>::clone(&below)).await?;
    let plan = Plan {
        callers: options.p,
        time: options.d,
        rate: 0.0,
    };
    let (before, meter) = (below.calls(), Meter::start());
    let (own, asked) = (Arc::clone(&cache), options.clone());
    let mut calls = callers::run(plan, move |number, mut sink| {
        let (cache, options) = (Arc::clone(&own), asked.clone());
        async move {
            sink.objects += consistent(&*cache, number, &options).await?;
            Ok(sink)
        }
    })
    .await?;
    let (used, asked) = (meter.used(), below.calls() - before);
    let (p50, p99) = percentiles(&mut calls.latencies);
    let figures = json!({
        "p": options.p,
        "calls_per_s": round(calls.per_second()),
        "calls_below": asked,
        "calls_below_per_call": round(asked as f64 / calls.latencies.len().max(1) as f64),
        "by_method": below.counts(),
        "p50_ms": p50,
        "p99_ms": p99,
    });
    emit("crowd", options, &used, &figures);
    cache.close().await;
    Ok(())
}

// measures: storage-cacher/BENCH-20
/// Nothing is written to the kind while others are written to, and history is compacted: what the first paged list
/// takes then, and every one after it.
pub(crate) async fn idle_kind(options: &Options) -> Result<()> {
    const OTHERS: usize = 1_000;
    let ground = Ground::open(options).await?;
    let below = Arc::new(Below::new(Arc::clone(&ground.store)));
    let cache = Ground::cache_over(Arc::<Below>::clone(&below)).await?;
    let beside = ground.beside();
    let few = Options {
        n: 10,
        ..options.clone()
    };
    crate::ground::seed(&beside, &few).await?;
    let keys = Stored::of(&*beside).await?.keys;
    let mut last = Revision::MIN;
    for number in 0..OTHERS {
        last = touch(&*beside, &keys[number % keys.len()]).await?;
    }
    ground.compact(last).await?;
    let (before, lists) = (below.calls(), below.lists());
    let meter = Meter::start();
    let mut times = Vec::new();
    for _ in 0..options.rounds.max(1) {
        let start = Instant::now();
        paged(&*cache, options).await?;
        times.push(start.elapsed());
    }
    let used = meter.used();
    let first = times.first().context("no rounds")?.as_secs_f64();
    let later = times[1..].iter().map(Duration::as_secs_f64);
    let figures = json!({
        "first_list_ms": round(first * 1e3),
        "later_lists_ms": later.map(|time| round(time * 1e3)).collect::<Vec<_>>(),
        "lists_below": below.lists() - lists,
        "calls_below": below.calls() - before,
    });
    emit("idle-kind", options, &used, &figures);
    cache.close().await;
    Ok(())
}

/// A consistent list in pages of 500.
async fn paged(store: &dyn Storage, options: &Options) -> Result<()> {
    let scope = Scope::all(store.resource().prefix());
    let mut asked = ListOptions {
        limit: NonZeroU64::new(500),
        ..ListOptions::default()
    };
    let mut objects = 0;
    loop {
        let page = store.list(&scope, asked.clone()).await?.collect().await?;
        objects += page.entries.len();
        match page.next {
            Some(token) => asked.at = ListAt::Continue(token),
            None => break,
        }
    }
    ensure!(objects >= options.n, "{objects} pods are listed");
    Ok(())
}

// measures: storage-cacher/BENCH-20
/// The watch below breaks for good while watchers are connected: how long until the cache is fresh again, what that
/// takes, and who stays.
pub(crate) async fn relist(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let below = Arc::new(Below::new(Arc::clone(&ground.store)));
    let cache = Ground::cache_over(Arc::<Below>::clone(&below)).await?;
    let stored = Stored::of(&*cache).await?;
    let audience = Audience::open(&cache, 0..options.w, stored.revision, options).await?;
    let (mut times, mut used) = (Vec::new(), None);
    for round in 0..options.rounds.max(1) {
        let (lists, meter, start) = (below.lists(), Meter::start(), Instant::now());
        below.cut();
        while below.lists() == lists {
            ensure!(start.elapsed() < PATIENCE, "the cache does not list again");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fresh(&cache, &stored, round).await?;
        times.push(start.elapsed().as_secs_f64());
        used = Some(meter.used());
    }
    audience.settle().await;
    let events = audience.events();
    audience.over();
    cache.close().await;
    let (_, cut) = audience.close().await?;
    let figures = json!({
        "watchers": options.w,
        "fresh_again_s": times.into_iter().map(round).collect::<Vec<_>>(),
        "lists_below": below.lists(),
        "events": events,
        "cut_off": cut,
    });
    let used = used.context("no rounds")?;
    emit("relist", options, &used, &figures);
    Ok(())
}

/// Waits until a write that comes now is in the cache.
async fn fresh(cache: &Arc<Cacher>, stored: &Stored, number: usize) -> Result<()> {
    let written = touch(&**cache, &stored.keys[number % stored.keys.len()]).await?;
    let start = Instant::now();
    loop {
        let asked = ListOptions {
            at: ListAt::NotOlderThan(written),
            limit: NonZeroU64::new(1),
            ..ListOptions::default()
        };
        let read = async {
            let list = cache.list(&Scope::all(cache.resource().prefix()), asked).await?;
            list.collect().await
        };
        match read.await {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
