//! `compare`: both sides in turns, and the ratios of neighbouring rounds.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::bare::Bare;
use crate::etcd::Etcd;
use crate::latency::{Spread, p50, p99};
use crate::objects::Template;
use crate::rounds::{self, Plan, Verb};
use crate::store::Store;
use crate::target::{Measured, Target};
use crate::watch;

/// Options of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds of each side.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Single operations of a round.
    #[arg(long, default_value_t = 1_500)]
    operations: usize,
    /// How many tasks call at the same time.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    tasks: Vec<usize>,
    /// Bytes of an object.
    #[arg(long, value_delimiter = ',', default_value = "1024,9216")]
    sizes: Vec<usize>,
    /// Only these: create, update, guaranteed_update, get, list, list_paged, list_large, watch, watch_replay.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Objects of the list that one task reads.
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
}

/// Objects of a list that many read at the same time, and of a page.
const SMALL_LIST: usize = 500;
const SMALL_PAGE: u64 = 100;
const LARGE_PAGE: u64 = 500;

/// Both sides on one etcd, and what they have in common.
struct Pair {
    bare: Bare,
    store: Store,
    template: Arc<Template>,
    _etcd: Etcd,
}

impl Pair {
    /// A new etcd: what earlier cases wrote would weigh on it.
    async fn start(size: usize) -> Result<Self> {
        let etcd = Etcd::start().await?;
        Ok(Self {
            // As long as the store's own prefix, but for what else the store keeps there: nothing.
            bare: Bare::connect(etcd.url(), "/registry/bare/").await?,
            store: Store::connect(etcd.url()).await?,
            template: Arc::new(Template::of_size(size)),
            _etcd: etcd,
        })
    }
}

/// Runs the whole matrix.
pub(crate) async fn run(options: &Options) -> Result<Value> {
    ensure!(options.rounds > 0, "no rounds");
    println!(
        "ratios store/bare, medians of {} pairs of rounds (least..most):",
        options.rounds
    );
    let mut cells = Vec::new();
    for &size in &options.sizes {
        for &tasks in &options.tasks {
            let pair = Pair::start(size).await?;
            verbs(&pair, options, size, tasks, &mut cells).await?;
        }
        if options.wants("list_large") {
            let pair = Pair::start(size).await?;
            large_list(&pair, options, size, &mut cells).await?;
        }
        for &tasks in &options.tasks {
            watches(options, size, tasks, &mut cells).await?;
        }
    }
    Ok(json!({ "rounds": options.rounds, "operations": options.operations, "cells": cells }))
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

async fn verbs(pair: &Pair, options: &Options, size: usize, tasks: usize, cells: &mut Vec<Value>) -> Result<()> {
    let wanted: Vec<Verb> = Verb::ALL
        .into_iter()
        .filter(|verb| options.wants(verb.name()))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let Pair {
        bare, store, template, ..
    } = pair;
    rounds::prepare(bare, template, tasks).await?;
    rounds::prepare(store, template, tasks).await?;
    if wanted.contains(&Verb::List) || wanted.contains(&Verb::ListPaged) {
        rounds::fill(bare, template, "listed", SMALL_LIST).await?;
        rounds::fill(store, template, "listed", SMALL_LIST).await?;
    }
    for verb in wanted {
        let heavy = matches!(verb, Verb::List | Verb::ListPaged);
        let plan = Plan {
            verb,
            tasks,
            operations: if heavy {
                (options.operations / 15).max(tasks)
            } else {
                options.operations
            },
            listed: "listed".to_owned(),
            page: SMALL_PAGE,
        };
        let cell = alternate(
            options.rounds,
            async |round| rounds::run(bare, template, &plan, round).await,
            async |round| rounds::run(store, template, &plan, round).await,
        );
        cells.push(report(verb.name(), size, tasks, cell.await?));
    }
    Ok(())
}

async fn large_list(pair: &Pair, options: &Options, size: usize, cells: &mut Vec<Value>) -> Result<()> {
    let Pair {
        bare, store, template, ..
    } = pair;
    rounds::fill(bare, template, "large", options.objects).await?;
    rounds::fill(store, template, "large", options.objects).await?;
    let listed = bare.list("large", None).await?;
    let through = store.list("large", None).await?;
    ensure!(
        listed.objects == options.objects && through.objects == options.objects,
        "not all are listed"
    );
    for (name, verb) in [("list_large", Verb::List), ("list_large_paged", Verb::ListPaged)] {
        let plan = Plan {
            verb,
            tasks: 1,
            operations: 3,
            listed: "large".to_owned(),
            page: LARGE_PAGE,
        };
        let cell = alternate(
            options.rounds,
            async |round| rounds::run(bare, template, &plan, round).await,
            async |round| rounds::run(store, template, &plan, round).await,
        );
        cells.push(report(name, size, 1, cell.await?));
    }
    Ok(())
}

async fn watches(options: &Options, size: usize, tasks: usize, cells: &mut Vec<Value>) -> Result<()> {
    let (live, replay) = (options.wants("watch"), options.wants("watch_replay"));
    if !live && !replay {
        return Ok(());
    }
    let Pair {
        bare,
        store,
        template,
        _etcd,
    } = &Pair::start(size).await?;
    let writer = &Bare::connect(_etcd.url(), "/registry/bare/").await?;
    let through = &Bare::connect(_etcd.url(), "/registry/pods/").await?;
    if live {
        let cell = alternate(
            options.rounds,
            async |_| watch::live(bare, writer, template, tasks, options.operations).await,
            async |_| watch::live(store, through, template, tasks, options.operations).await,
        );
        cells.push(report("watch", size, tasks, cell.await?));
    }
    if replay {
        // All of them are read by each watch.
        let events = (options.operations / 4).max(1);
        let (before, between) = (bare.now().await?, {
            rounds::fill(bare, template, "replay", events).await?;
            bare.now().await?
        });
        rounds::fill(store, template, "replay", events).await?;
        let cell = alternate(
            options.rounds,
            async |_| watch::replay(bare, before, tasks, events).await,
            async |_| watch::replay(store, between, tasks, events).await,
        );
        cells.push(report("watch_replay", size, tasks, cell.await?));
    }
    Ok(())
}

/// Rounds of both sides in turns, each first every other time; one of each before that warms up.
async fn alternate(
    rounds: usize,
    mut bare: impl AsyncFnMut(usize) -> Result<Measured>,
    mut store: impl AsyncFnMut(usize) -> Result<Measured>,
) -> Result<Vec<(Measured, Measured)>> {
    let mut pairs = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let pair = if round % 2 == 0 {
            let first = bare(round).await?;
            (first, store(round).await?)
        } else {
            let first = store(round).await?;
            (bare(round).await?, first)
        };
        if round > 0 {
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

/// Prints a cell and returns it as JSON.
fn report(name: &str, size: usize, tasks: usize, mut pairs: Vec<(Measured, Measured)>) -> Value {
    let ratios = |figure: &mut dyn FnMut(&mut Measured) -> Option<f64>, pairs: &mut Vec<(Measured, Measured)>| {
        let ratios: Vec<f64> = pairs
            .iter_mut()
            .filter_map(|(bare, store)| Some(figure(store)? / figure(bare)?))
            .collect();
        Spread::of(ratios)
    };
    let throughput = ratios(&mut |side| Some(side.throughput()), &mut pairs);
    let middle = ratios(&mut |side| Some(p50(&mut side.latencies).as_secs_f64()), &mut pairs);
    let tail = ratios(&mut |side| Some(p99(&mut side.latencies).as_secs_f64()), &mut pairs);
    let cpu = ratios(&mut |side| side.cpu_micros(), &mut pairs);
    let (bare, store): (Vec<Measured>, Vec<Measured>) = pairs.into_iter().unzip();
    let text = |spread: Option<Spread>| spread.map_or_else(|| "-".to_owned(), |spread| spread.to_string());
    println!(
        "{name:>18} {size:>5} B {tasks:>2} tasks: throughput {}, p50 {}, p99 {}, cpu {}",
        text(throughput),
        text(middle),
        text(tail),
        text(cpu)
    );
    let (bare, store) = (side(bare), side(store));
    println!("{:>37} bare {bare}\n{:>37} store {store}", "", "");
    json!({
        "verb": name,
        "bytes": size,
        "tasks": tasks,
        "throughput_ratio": throughput.map(Spread::json),
        "p50_ratio": middle.map(Spread::json),
        "p99_ratio": tail.map(Spread::json),
        "cpu_ratio": cpu.map(Spread::json),
        Bare::NAME: bare,
        Store::NAME: store,
    })
}

/// The medians of one side.
fn side(mut rounds: Vec<Measured>) -> Value {
    let median = |figures: Vec<f64>| Spread::of(figures).map(|spread| (spread.median * 10.0).round() / 10.0);
    let micros = |latency: std::time::Duration| latency.as_secs_f64() * 1e6;
    json!({
        "per_second": median(rounds.iter().map(Measured::throughput).collect()),
        "p50_micros": median(rounds.iter_mut().map(|round| micros(p50(&mut round.latencies))).collect()),
        "p99_micros": median(rounds.iter_mut().map(|round| micros(p99(&mut round.latencies))).collect()),
        "cpu_micros": median(rounds.iter().filter_map(Measured::cpu_micros).collect()),
    })
}
