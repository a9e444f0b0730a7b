//! What the cache costs those who write, and what it costs the others that somebody does not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use apiserver_storage_api::{
    CreateOptions, DeleteOptions, FieldSelector, Key, LabelSelector, ListAt, ListOptions, NoCheck, ReadAt, Revision,
    Scope, SelectionPredicate, Storage, StorageError, Watch, WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_cacher::Cacher;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::callers::{self, Calls, Plan};
use crate::ground::{self, Ground, Stored};
use crate::latency::Spread;
use crate::options::{Background, Options, Part, Traffic};
use crate::pods::{self, NODE_FIELD};
use crate::report::{Meter, emit, percentiles, round};
use crate::watching::{self, Audience, touch};

/// Objects that are written again and again.
const WRITTEN: usize = 2_000;
/// Numbers of pods that are created from here on.
const NEW: usize = 10_000_000;
/// Watches in the background, and pause of those who list there.
const WATCHES: usize = 10;
const PAUSE: Duration = Duration::from_millis(10);

/// Where a round writes.
struct Side {
    store: Arc<dyn Storage>,
    keys: Arc<[Key]>,
    options: Options,
    /// The next pod that nobody has created.
    next: AtomicUsize,
    /// The revision of the last write that ended.
    written: AtomicU64,
}

// measures: storage-cacher/BENCH-03, storage-cacher/BENCH-04, storage-cacher/BENCH-05, storage-cacher/BENCH-06
/// The same writes through the cache and to the store below, in turns. Each side has its own objects in the same
/// backend, so that the bare side's writes cost no cache anything; what happens in the background happens while the
/// cache is written through.
pub(crate) async fn write(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let beside = ground.beside();
    let few = Options {
        n: options.n.min(WRITTEN),
        ..options.clone()
    };
    ground::seed(&beside, &few).await?;
    let bare = Side::new(Arc::clone(&beside), &few).await?;
    let cache = ground.cache().await?;
    let cached = Side::new(Arc::<Cacher>::clone(&cache), &few).await?;
    let meter = Meter::start();
    let (mut ratios, mut sides) = (Vec::new(), [Vec::new(), Vec::new()]);
    let (mut delays, mut read) = (Vec::new(), 0);
    // The first of each warms up.
    for round in 0..=options.rounds {
        let below = if round % 2 == 0 { Some(bare.run().await?) } else { None };
        let background = Disturbance::start(&cache, &cached, options).await?;
        let through = cached.run().await?;
        let (times, units) = background.stop().await?;
        let below = match below {
            Some(below) => below,
            None => bare.run().await?,
        };
        if round > 0 {
            ratios.push(through.per_second() / below.per_second());
            delays.extend(times);
            read += units;
            sides[0].push(below);
            sides[1].push(through);
        }
    }
    let used = meter.used();
    let name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let [below, through] = sides.map(of_rounds);
    let ratio = Spread::of(ratios).context("no rounds")?;
    let (delay_p50, delay_p99) = percentiles(&mut delays);
    let figures = json!({
        "traffic": name(&options.traffic),
        "background": name(&options.background),
        "p": options.p,
        "ratio": ratio.json(),
        "bare": below,
        "cached": through,
        "watch_p50_ms": delay_p50,
        "watch_p99_ms": delay_p99,
        "background_units": read,
    });
    emit("write", options, &used, &figures);
    cache.close().await;
    Ok(())
}

fn of_rounds(rounds: Vec<Calls>) -> serde_json::Value {
    let per_second = Spread::of(rounds.iter().map(Calls::per_second)).map(Spread::json);
    let mut latencies: Vec<Duration> = rounds.into_iter().flat_map(|round| round.latencies).collect();
    let (p50, p99) = percentiles(&mut latencies);
    json!({ "per_s": per_second, "p50_ms": p50, "p99_ms": p99 })
}

impl Side {
    async fn new(store: Arc<dyn Storage>, options: &Options) -> Result<Arc<Self>> {
        let stored = Stored::of(&*store).await?;
        Ok(Arc::new(Self {
            keys: stored.keys.iter().take(options.n).cloned().collect(),
            store,
            options: options.clone(),
            // Those of other runs are there still.
            next: AtomicUsize::new(NEW + usize::try_from(stored.revision.get() % 1_000_000_000)? * 10),
            written: AtomicU64::new(stored.revision.get()),
        }))
    }

    async fn run(self: &Arc<Self>) -> Result<Calls> {
        let plan = Plan {
            callers: self.options.p,
            time: self.options.d,
            rate: self.options.rate,
        };
        let own = Arc::clone(self);
        callers::run(plan, move |number, sink| {
            let own = Arc::clone(&own);
            async move {
                let revision = own.call(number).await?;
                own.written
                    .fetch_max(revision.map_or(0, Revision::get), Ordering::Relaxed);
                Ok(sink)
            }
        })
        .await
    }

    async fn call(&self, number: usize) -> Result<Option<Revision>> {
        match self.options.traffic {
            Traffic::Update => Ok(Some(touch(&*self.store, &self.keys[number % self.keys.len()]).await?)),
            Traffic::Create => self.create(self.next.fetch_add(1, Ordering::Relaxed)).await,
            Traffic::DeleteCreate => {
                let number = NEW / 10 + number % WRITTEN;
                let (key, _) = pods::pod(self.store.resource(), number, &self.options)?;
                match self.store.delete(&key, DeleteOptions::default(), &mut NoCheck).await {
                    Ok(_) | Err(StorageError::KeyNotFound { .. }) => self.create(number).await,
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    async fn create(&self, number: usize) -> Result<Option<Revision>> {
        let (key, value) = pods::pod(self.store.resource(), number, &self.options)?;
        match self.store.create(&key, value, CreateOptions::default()).await {
            Ok(entry) => Ok(Some(entry.revision())),
            Err(StorageError::KeyExists { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What goes on while somebody writes.
struct Disturbance {
    tasks: JoinSet<Result<(Vec<Duration>, usize)>>,
    over: Arc<AtomicBool>,
}

impl Disturbance {
    async fn start(cache: &Arc<Cacher>, side: &Arc<Side>, options: &Options) -> Result<Self> {
        let (mut tasks, over) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let stop = || Arc::clone(&over);
        match options.background {
            Background::None => {}
            Background::Watcher => {
                for number in 0..WATCHES {
                    let watch = initial(&**cache, number, ReadAt::Any, options).await?;
                    tasks.spawn(follow(watch, stop()));
                }
            }
            Background::Watchlist => {
                let (cache, stop, options) = (Arc::clone(cache), stop(), options.clone());
                tasks.spawn(async move {
                    let mut started = 0;
                    while !stop.load(Ordering::Relaxed) {
                        begin(&*cache, 0, &options).await?;
                        started += 1;
                    }
                    Ok((Vec::new(), started))
                });
            }
            background => drop(tasks.spawn(lister(Arc::clone(side), background, stop()))),
        }
        Ok(Self { tasks, over })
    }

    /// Delays that were measured, and how much was read: events, lists or starts.
    async fn stop(mut self) -> Result<(Vec<Duration>, usize)> {
        self.over.store(true, Ordering::Relaxed);
        let (mut delays, mut read) = (Vec::new(), 0);
        while let Some(task) = self.tasks.join_next().await {
            let (times, units) = task??;
            delays.extend(times);
            read += units;
        }
        Ok((delays, read))
    }
}

/// Lists one node every now and then, as fresh as asked.
async fn lister(side: Arc<Side>, background: Background, over: Arc<AtomicBool>) -> Result<(Vec<Duration>, usize)> {
    let (mut times, mut lists, mut tick) = (Vec::new(), 0, tokio::time::interval(PAUSE));
    while !over.load(Ordering::Relaxed) {
        tick.tick().await;
        let written = Revision::new(side.written.load(Ordering::Relaxed)).context("nothing was written")?;
        let fields = FieldSelector::parse(&format!("{NODE_FIELD}={}", pods::node(0, &side.options)))?;
        let asked = ListOptions {
            at: match background {
                Background::ListerExact => ListAt::Exact(written),
                Background::ListerNotolder => ListAt::NotOlderThan(written),
                _ => ListAt::MostRecent,
            },
            predicate: SelectionPredicate::new(LabelSelector::default(), fields),
            ..ListOptions::default()
        };
        let scope = Scope::all(side.store.resource().prefix());
        let start = Instant::now();
        side.store.list(&scope, asked).await?.collect().await?;
        times.push(start.elapsed());
        lists += 1;
    }
    Ok((times, lists))
}

async fn follow(mut watch: Watch, over: Arc<AtomicBool>) -> Result<(Vec<Duration>, usize)> {
    let (mut delays, mut events) = (Vec::new(), 0);
    while !over.load(Ordering::Relaxed) {
        // Nothing may come any more.
        let Ok(item) = tokio::time::timeout(PAUSE, watch.next()).await else {
            continue;
        };
        let WatchItem::Batch(batch) = item.context("the watch ended")?? else {
            continue;
        };
        events += batch.events.len();
        let objects = batch
            .events
            .iter()
            .filter_map(|event| event.object.as_ref()?.json().ok());
        delays.extend(objects.filter_map(|json| pods::age(json)).map(Duration::from_nanos));
    }
    Ok((delays, events))
}

async fn initial(cache: &dyn Storage, number: usize, at: ReadAt, options: &Options) -> Result<Watch> {
    let prefix = cache.resource().prefix();
    let (scope, fields) = match options.scope {
        Part::All => (Scope::all(prefix), FieldSelector::default()),
        Part::Ns => {
            let scope = cache.resource().list_scope(Some(&pods::namespace(number, options)))?;
            (scope, FieldSelector::default())
        }
        Part::Node => {
            let node = format!("{NODE_FIELD}={}", pods::node(number, options));
            (Scope::all(prefix), FieldSelector::parse(&node)?)
        }
    };
    let watch = WatchOptions {
        predicate: SelectionPredicate::new(LabelSelector::default(), fields),
        progress: true,
        ..WatchOptions::from_start(WatchStart::InitialState(at))
    };
    Ok(cache.watch(&scope, watch).await?)
}

/// Opens a watch with its initial state and reads to the end of that; how many objects there were.
async fn begin(cache: &dyn Storage, number: usize, options: &Options) -> Result<usize> {
    let mut watch = initial(cache, number, ReadAt::MostRecent, options).await?;
    let mut objects = 0;
    loop {
        match watch.next().await.context("the watch ended")?? {
            WatchItem::Initial(entries) => objects += entries.len(),
            WatchItem::InitialEnd(_) => return Ok(objects),
            _ => {}
        }
    }
}

// measures: storage-cacher/BENCH-20
/// Some callers open watches with an initial state, read it and drop them.
pub(crate) async fn start(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let cache = ground.cache().await?;
    let plan = Plan {
        callers: options.p,
        time: options.d,
        rate: 0.0,
    };
    let (meter, own, asked) = (Meter::start(), Arc::clone(&cache), options.clone());
    let mut calls = callers::run(plan, move |number, mut sink| {
        let (cache, options) = (Arc::clone(&own), asked.clone());
        async move {
            sink.objects += begin(&*cache, number, &options).await?;
            Ok(sink)
        }
    })
    .await?;
    let used = meter.used();
    let (p50, p99) = percentiles(&mut calls.latencies);
    let figures = json!({
        "scope": format!("{:?}", options.scope).to_lowercase(),
        "p": options.p,
        "starts_per_s": round(calls.per_second()),
        "objs_per_s": round(calls.objects as f64 / calls.wall.as_secs_f64()),
        "p50_ms": p50,
        "p99_ms": p99,
    });
    emit("start", options, &used, &figures);
    cache.close().await;
    Ok(())
}

// measures: storage-cacher/BENCH-20
/// All watches come back at once, each some writes behind, as after the restart of a proxy.
pub(crate) async fn storm(options: &Options) -> Result<()> {
    const BEHIND: usize = 1_000;
    let ground = Ground::open(options).await?;
    let cache = ground.cache().await?;
    let stored = Stored::of(&*cache).await?;
    let mut last = stored.revision;
    for number in 0..BEHIND {
        last = touch(&*cache, &stored.keys[number * 37 % stored.keys.len()]).await?;
    }
    // The cache has seen them once this is answered.
    let asked = ListOptions {
        at: ListAt::NotOlderThan(last),
        limit: std::num::NonZeroU64::new(1),
        ..ListOptions::default()
    };
    cache.list(&ground.all(), asked).await?.collect().await?;
    let meter = Meter::start();
    let begin = Instant::now();
    let audience = Audience::open(&cache, 0..options.w, stored.revision, options).await?;
    let opened = begin.elapsed();
    let end = audience.settle().await;
    let used = meter.used();
    let events = audience.events();
    audience.over();
    cache.close().await;
    let (_, cut) = audience.close().await?;
    ensure!(
        options.scope != Part::All || events as usize == BEHIND * options.w,
        "{events} events came"
    );
    let time = end.saturating_duration_since(begin).max(opened);
    let figures = json!({
        "watchers": options.w,
        "scope": format!("{:?}", options.scope).to_lowercase(),
        "behind": BEHIND,
        "events": events,
        "open_s": round(opened.as_secs_f64()),
        "caught_up_s": round(time.as_secs_f64()),
        "events_per_s": round(events as f64 / time.as_secs_f64()),
        "cut_off": cut,
    });
    emit("storm", options, &used, &figures);
    Ok(())
}

// measures: storage-cacher/BENCH-20
/// The delay of those who read, alone and while one in ten does not; and what becomes of those.
pub(crate) async fn stalled(options: &Options) -> Result<()> {
    let ground = Ground::open(options).await?;
    let cache = ground.cache().await?;
    let meter = Meter::start();
    let (mut ratios, mut tails) = (Vec::new(), [Vec::new(), Vec::new()]);
    let (mut cut_off, mut late, mut missed) = (0, 0, 0_i64);
    for round in 0..=options.rounds {
        let mut p99s = [0.0; 2];
        let mut order = [0, options.w / 10];
        order.rotate_left(round % 2);
        for stalled in order {
            let heard = hear(&cache, stalled, options).await?;
            p99s[usize::from(stalled > 0)] = heard.p99;
            cut_off += heard.cut_off;
            late += heard.late;
            missed += heard.missed;
        }
        if round > 0 {
            ratios.push(p99s[1] / p99s[0]);
            tails[0].push(p99s[0]);
            tails[1].push(p99s[1]);
        }
    }
    let used = meter.used();
    cache.close().await;
    let [alone, beside] = tails.map(|tail| Spread::of(tail).map(Spread::json));
    let figures = json!({
        "watchers": options.w,
        "stalled": options.w / 10,
        "rate": options.rate,
        "p99_ratio": Spread::of(ratios).map(Spread::json),
        "p99_alone_ms": alone,
        "p99_beside_stalled_ms": beside,
        "cut_off": cut_off,
        "read_late": late,
        "missed_by_stalled": missed,
    });
    emit("stalled", options, &used, &figures);
    Ok(())
}

struct Heard {
    p99: f64,
    cut_off: usize,
    /// Events that were read once the stalled ones read again, and how many of them were missing.
    late: usize,
    missed: i64,
}

/// Writes for a while to nine tenths of the watches that read, beside some that do not; then those read, too.
async fn hear(cache: &Arc<Cacher>, stalled: usize, options: &Options) -> Result<Heard> {
    let stored = Stored::of(&**cache).await?;
    let after = cache.current_revision().await?;
    let readers = options.w - options.w / 10;
    let audience = Audience::open(cache, 0..readers, after, options).await?;
    let mut others = Vec::with_capacity(stalled);
    for number in 0..stalled {
        others.push(watching::open(&**cache, number, after, options).await?);
    }
    let plan = Plan {
        callers: options.p,
        time: options.d,
        rate: options.rate,
    };
    let store: Arc<dyn Storage> = Arc::<Cacher>::clone(cache);
    let writes = watching::write(&store, &stored.keys, plan).await?.latencies.len();
    audience.settle().await;
    let (mut late, mut cut_off) = (0, 0);
    for watch in &mut others {
        while let Some(item) = watch.next().now_or_never() {
            match item {
                Some(Ok(WatchItem::Batch(batch))) => late += batch.events.len(),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    cut_off += 1;
                    break;
                }
            }
        }
    }
    let (mut delays, cut) = audience.stop().await?;
    let missed = match options.scope {
        Part::All => (writes * stalled) as i64 - late as i64,
        _ => 0,
    };
    Ok(Heard {
        p99: percentiles(&mut delays).1.context("too few samples")?,
        cut_off: cut_off + cut,
        late,
        missed,
    })
}
