//! Watches: many that wait, and many that are told of everything that is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use apiserver_storage_api::{
    Change, FieldSelector, Key, LabelSelector, Revision, Scope, SelectionPredicate, Storage, UpdateOptions, Watch,
    WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_cacher::Cacher;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::callers::{self, Plan};
use crate::ground::{Ground, Stored};
use crate::options::{Options, Part};
use crate::pods::{self, NODE_FIELD};
use crate::report::{Meter, emit, percentiles, round, status};

/// Of how many deliveries to a watch of everything one is timed.
const SAMPLE: u64 = 97;
/// How long nothing may come before it counts as all that comes.
const QUIET: Duration = Duration::from_secs(1);

/// Opens a watch as a server does for a request: the selector is parsed anew.
pub(crate) async fn open(cache: &dyn Storage, number: usize, after: Revision, options: &Options) -> Result<Watch> {
    let prefix = cache.resource().prefix();
    let (scope, fields) = match options.scope {
        Part::All => (Scope::all(prefix), FieldSelector::default()),
        Part::Ns => {
            let scope = cache.resource().list_scope(Some(&pods::namespace(number, options)))?;
            (scope, FieldSelector::default())
        }
        Part::Node => {
            let fields = FieldSelector::parse(&format!("{NODE_FIELD}={}", pods::node(number, options)))?;
            (Scope::all(prefix), fields)
        }
    };
    let watch = WatchOptions {
        predicate: SelectionPredicate::new(LabelSelector::default(), fields),
        progress: true,
        ..WatchOptions::from_start(WatchStart::After(after))
    };
    Ok(cache.watch(&scope, watch).await?)
}

// measures: storage-cacher/BENCH-20
/// What a watch costs that waits: by itself, and with the task that reads it.
pub(crate) async fn idle(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let cache = ground.cache().await?;
    let after = Stored::of(&*cache).await?.revision;

    let (meter, resident) = (Meter::start(), status("VmRSS"));
    let mut watches = Vec::with_capacity(options.w);
    for number in 0..options.w {
        let mut watch = open(&*cache, number, after, options).await?;
        let nothing = watch.poll_next_unpin(&mut Context::from_waker(Waker::noop()));
        ensure!(nothing.is_pending(), "an idle watch has something to say");
        watches.push(watch);
    }
    let alone = meter.used();
    drop(watches);

    let (meter, before) = (Meter::start(), status("VmRSS"));
    let mut tasks = JoinSet::new();
    for number in 0..options.w {
        let mut watch = open(&*cache, number, after, options).await?;
        tasks.spawn(async move { while watch.next().await.is_some() {} });
    }
    // Each has looked once and waits.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = meter.used();
    let grown = status("VmRSS")
        .zip(resident.or(before))
        .map(|(after, before)| after - before);
    let each = |bytes: usize| bytes / options.w.max(1);
    let figures = json!({
        "watchers": options.w,
        "scope": format!("{:?}", options.scope).to_lowercase(),
        "bytes_per_watcher": each(alone.held),
        "bytes_per_watcher_and_task": each(used.held),
        "rss_kb_per_watcher": grown.map(|bytes| round(bytes / 1_024.0 / options.w as f64)),
        "opens_per_s": round(options.w as f64 / alone.wall.as_secs_f64()),
    });
    emit("idle", options, &used, &figures);
    cache.close().await;
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Watches that read, each in a task of its own.
pub(crate) struct Audience {
    tasks: JoinSet<(usize, Vec<Duration>)>,
    counts: Arc<[AtomicU64]>,
    shared: Arc<Shared>,
}

/// What all readers know of.
#[derive(Default)]
struct Shared {
    over: AtomicBool,
    cut: AtomicUsize,
    ready: AtomicUsize,
    stop: Notify,
}

impl Audience {
    /// Opens the watches with these numbers, which read from now on.
    pub(crate) async fn open(
        cache: &Cacher,
        numbers: std::ops::Range<usize>,
        after: Revision,
        options: &Options,
    ) -> Result<Self> {
        let counts: Arc<[AtomicU64]> = numbers.clone().map(|_| AtomicU64::new(0)).collect();
        let mut own = Self {
            tasks: JoinSet::new(),
            counts: Arc::clone(&counts),
            shared: Arc::default(),
        };
        let every = if options.scope == Part::All { SAMPLE } else { 1 };
        for (at, number) in numbers.enumerate() {
            let watch = open(cache, number, after, options).await?;
            let (counts, shared) = (Arc::clone(&counts), Arc::clone(&own.shared));
            own.tasks.spawn(async move {
                let mut delays = Vec::new();
                let stop = shared.stop.notified();
                tokio::pin!(stop);
                stop.as_mut().enable();
                shared.ready.fetch_add(1, Ordering::Relaxed);
                tokio::select! {
                    biased;
                    () = read(watch, at as u64, every, &counts[at], &mut delays) => {}
                    () = stop => {}
                }
                if !shared.over.load(Ordering::Acquire) {
                    shared.cut.fetch_add(1, Ordering::Relaxed);
                }
                (at, delays)
            });
        }
        while own.shared.ready.load(Ordering::Relaxed) < counts.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(own)
    }

    /// Events that were read so far, by all.
    pub(crate) fn events(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Waits until nothing comes any more; when the last thing came.
    pub(crate) async fn settle(&self) -> Instant {
        let (mut last, mut at) = (self.events(), Instant::now());
        while at.elapsed() < QUIET {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.events();
            if now != last {
                (last, at) = (now, Instant::now());
            }
        }
        at
    }

    /// The readers know from now on that their watches may end.
    pub(crate) fn over(&self) {
        self.shared.over.store(true, Ordering::Release);
    }

    /// Ends the watches, though the cache lives: all delays that were measured, and how many watches ended before.
    pub(crate) async fn stop(self) -> Result<(Vec<Duration>, usize)> {
        self.over();
        self.shared.stop.notify_waiters();
        self.close().await
    }

    /// Once the cache is closed: all delays that were measured, and how many watches ended before.
    pub(crate) async fn close(mut self) -> Result<(Vec<Duration>, usize)> {
        let mut delays = Vec::new();
        while let Some(task) = self.tasks.join_next().await {
            delays.extend(task?.1);
        }
        Ok((delays, self.shared.cut.load(Ordering::Relaxed)))
    }
}

async fn read(mut watch: Watch, first: u64, every: u64, count: &AtomicU64, delays: &mut Vec<Duration>) {
    let mut seen = 0;
    while let Some(item) = watch.next().await {
        let Ok(item) = item else { break };
        let WatchItem::Batch(batch) = item else { continue };
        for event in &*batch.events {
            seen += 1;
            if (seen + first).is_multiple_of(every) {
                let json = event.object.as_ref().and_then(|object| object.json().ok());
                delays.extend(json.and_then(|json| pods::age(json)).map(Duration::from_nanos));
            }
        }
        count.store(seen, Ordering::Relaxed);
    }
}

/// Writes the objects of some keys in turn, each time with the time of the write.
pub(crate) async fn write(store: &Arc<dyn Storage>, keys: &Arc<[Key]>, plan: Plan) -> Result<callers::Calls> {
    let (store, keys) = (Arc::clone(store), Arc::clone(keys));
    callers::run(plan, move |number, sink| {
        let (store, keys) = (Arc::clone(&store), Arc::clone(&keys));
        async move {
            touch(&*store, &keys[number % keys.len()]).await?;
            Ok(sink)
        }
    })
    .await
}

/// Writes an object with the time of the write in it.
pub(crate) async fn touch(store: &dyn Storage, key: &Key) -> Result<Revision> {
    let mut update = |current: Option<apiserver_storage_api::Entry>| async move {
        let current = current.ok_or_else(|| apiserver_storage_api::StorageError::internal("nothing to update"))?;
        let stamped = pods::stamped(current.json()?);
        let value = stamped.map_err(|error| apiserver_storage_api::StorageError::internal(error.to_string()))?;
        Ok(Change::put(value))
    };
    let entry = store
        .guaranteed_update(key, UpdateOptions::default(), &mut update)
        .await?;
    Ok(entry.revision())
}

// measures: storage-cacher/BENCH-20
/// One stream of writes, and everybody who watches is told.
pub(crate) async fn fanout(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let cache = ground.cache().await?;
    let stored = Stored::of(&*cache).await?;
    let audience = Audience::open(&cache, 0..options.w, stored.revision, options).await?;
    let through: Arc<dyn Storage> = Arc::<Cacher>::clone(&cache);
    let plan = Plan {
        callers: options.p,
        time: options.d,
        rate: options.rate,
    };
    let (meter, start) = (Meter::start(), Instant::now());
    let mut calls = write(&through, &stored.keys, plan).await?;
    let last = audience.settle().await;
    let used = meter.used();
    let events = audience.events();
    let time = calls.wall.max(last.saturating_duration_since(start));
    audience.over();
    cache.close().await;
    let (mut delays, cut) = audience.close().await?;
    let writes = calls.latencies.len();
    let (p50, p99) = percentiles(&mut delays);
    let (write_p50, write_p99) = percentiles(&mut calls.latencies);
    let figures = json!({
        "watchers": options.w,
        "scope": format!("{:?}", options.scope).to_lowercase(),
        "p": options.p,
        "rate": options.rate,
        "writes_per_s": round(calls.per_second()),
        "events": events,
        "events_per_s": round(events as f64 / time.as_secs_f64()),
        "cut_off": cut,
        "missed": (options.scope == Part::All).then(|| (writes * options.w) as i64 - events as i64),
        "p50_ms": p50,
        "p99_ms": p99,
        "write_p50_ms": write_p50,
        "write_p99_ms": write_p99,
        "cpu_us_per_event": round(used.cpu * 1e6 / events.max(1) as f64),
        "samples": delays.len(),
    });
    emit("fanout", options, &used, &figures);
    Ok(())
}
