//! `lists`: the matrix of reads that upstream measures, through the store and through the cache.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use apiserver_storage_etcd3::api::{
    Change, Encoded, FieldSelector, ListAt, ListOptions, Revision, Scope, SelectionPredicate, Storage, UpdateOptions,
};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Layout, labelled, now, stamp};
use crate::objects::Template;

/// Options of `lists`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The data sets of upstream have 150,000, 150,000 and 110,000 pods; so many times fewer are used.
    #[arg(long, default_value_t = 50)]
    scale: usize,
    /// How long each cell runs.
    #[arg(long, default_value_t = 500)]
    milliseconds: u64,
}

const PARALLEL: usize = 4;
/// Writes whose revisions the lists of old states are spread over.
const REVISIONS: usize = 100;

/// Runs all of it.
pub(crate) async fn run(options: &Options) -> Result<Value> {
    let mut cells = Vec::new();
    let scaled = |count: usize| (count / options.scale.max(1)).max(1);
    for layout in [
        Layout {
            namespaces: scaled(10_000),
            pods: 15,
            nodes: scaled(5_000),
        },
        Layout {
            namespaces: 50,
            pods: scaled(3_000),
            nodes: scaled(5_000),
        },
        Layout {
            namespaces: 100,
            pods: scaled(1_100),
            nodes: scaled(1_000),
        },
    ] {
        matrix(options, layout, &mut cells).await?;
    }
    filtered(options, &mut cells).await?;
    Ok(json!({ "scale": options.scale, "cells": cells }))
}

// measures: storage-api/BENCH-01, storage-api/BENCH-02, storage-api/BENCH-05, storage-cacher/BENCH-01, storage-cacher/BENCH-07
async fn matrix(options: &Options, layout: Layout, cells: &mut Vec<Value>) -> Result<()> {
    let mut cluster = Cluster::start(true).await?;
    let info = cluster.store.resource().clone();
    cluster.fill(layout.total(), |number| layout.pod(&info, number)).await?;
    let cache = cluster.cached().await?;
    let revisions = Arc::new(touch(&cluster, layout).await?);
    for (side, storage) in [("store", &cluster.store), ("cache", &cache)] {
        for scope in ["cluster", "node", "namespace"] {
            for matching in ["", "Exact", "NotOlderThan"] {
                for page in [0, 1_000, 100] {
                    let results = match scope {
                        "cluster" => layout.total(),
                        "node" => layout.total() / layout.nodes,
                        _ => layout.pods,
                    };
                    if page > 0 && results <= page {
                        continue;
                    }
                    let cell = Cell {
                        scope,
                        matching,
                        page: page as u64,
                        layout,
                    };
                    let rates = cell.run(options, storage, &revisions).await?;
                    let name = format!("{side} {scope} match={matching:?} page={page}");
                    println!(
                        "{name:<45} {}x{}: {:.0} calls/s, {:.0} objects/s",
                        layout.namespaces, layout.pods, rates.0, rates.1
                    );
                    cells.push(json!({
                        "workload": "list", "side": side, "scope": scope, "match": matching, "page": page,
                        "namespaces": layout.namespaces, "pods": layout.pods,
                        "calls_per_second": rates.0, "objects_per_second": rates.1,
                    }));
                }
            }
        }
        let start = Instant::now();
        let stats = storage.stats().await?;
        let micros = start.elapsed().as_secs_f64() * 1e6;
        println!("{side} stats over {} keys: {micros:.0} us", stats.count);
        cells.push(json!({ "workload": "stats", "side": side, "keys": stats.count, "micros": micros }));
    }
    Ok(())
}

/// Changes some pods; the revisions of that.
async fn touch(cluster: &Cluster, layout: Layout) -> Result<Vec<Revision>> {
    let mut revisions = Vec::with_capacity(REVISIONS);
    for number in 0..REVISIONS {
        let (key, mut pod) = layout.pod(cluster.store.resource(), number % layout.total())?;
        stamp(&mut pod, now());
        let value = Encoded::of(&pod)?;
        let mut update = |_| {
            let change = Ok(Change::put(value.clone()));
            async { change }
        };
        let updated = cluster
            .store
            .guaranteed_update(&key, UpdateOptions::default(), &mut update);
        revisions.push(updated.await?.revision());
    }
    Ok(revisions)
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    scope: &'static str,
    matching: &'static str,
    page: u64,
    layout: Layout,
}

impl Cell {
    /// Lists by some tasks for a while; calls and objects in a second.
    async fn run(
        self,
        options: &Options,
        storage: &Arc<dyn Storage>,
        revisions: &Arc<Vec<Revision>>,
    ) -> Result<(f64, f64)> {
        let (start, length) = (Instant::now(), Duration::from_millis(options.milliseconds));
        let (next, calls, objects) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0), AtomicUsize::new(0));
        let tasks = (0..PARALLEL).map(|_| {
            let (storage, revisions, next) = (Arc::clone(storage), Arc::clone(revisions), Arc::clone(&next));
            tokio::spawn(async move {
                let (mut calls, mut objects) = (0, 0);
                while start.elapsed() < length {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (more_calls, more) = self.list(&*storage, &revisions, number).await?;
                    (calls, objects) = (calls + more_calls, objects + more);
                }
                anyhow::Ok((calls, objects))
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            let (more_calls, more) = task.await??;
            calls.fetch_add(more_calls, Ordering::Relaxed);
            objects.fetch_add(more, Ordering::Relaxed);
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = |count: AtomicUsize| count.into_inner() as f64 / seconds;
        Ok((rate(calls), rate(objects)))
    }

    /// One list, in as many calls as it takes.
    async fn list(self, storage: &dyn Storage, revisions: &[Revision], number: usize) -> Result<(usize, usize)> {
        let (namespace, node) = self.layout.place(number);
        let info = storage.resource();
        let scope = match self.scope {
            "namespace" => info.list_scope(Some(&namespace))?,
            _ => Scope::all(info.prefix()),
        };
        let predicate = match self.scope {
            "node" => SelectionPredicate::new(
                Default::default(),
                FieldSelector::default().with_equal("spec.nodeName", &node),
            ),
            _ => SelectionPredicate::default(),
        };
        let revision = revisions.get(number % revisions.len().max(1)).copied();
        let at = match (self.matching, revision) {
            ("Exact", Some(revision)) => ListAt::Exact(revision),
            ("NotOlderThan", Some(revision)) => ListAt::NotOlderThan(revision),
            _ => ListAt::MostRecent,
        };
        let mut options = ListOptions {
            at,
            limit: NonZeroU64::new(self.page),
            predicate,
            ..ListOptions::default()
        };
        let (mut calls, mut objects) = (0, 0);
        loop {
            let list = storage.list(&scope, options.clone()).await?.collect().await?;
            calls += 1;
            objects += list.entries.len();
            match list.next {
                Some(token) => options.at = ListAt::Continue(token),
                None => return Ok((calls, objects)),
            }
        }
    }
}

// measures: storage-api/BENCH-04
async fn filtered(options: &Options, cells: &mut Vec<Value>) -> Result<()> {
    const OBJECTS: usize = 5_000;
    const PICKS: [usize; 5] = [50, 500, 1_000, 2_500, 5_000];
    let mut cluster = Cluster::start(false).await?;
    let info = cluster.store.resource().clone();
    let template = Template::of_size(2_048);
    let pod = |number: usize| -> Result<_> {
        let mut pod: Value = serde_json::from_slice(&template.fill(number, number))?;
        for pick in PICKS.into_iter().filter(|pick| number.is_multiple_of(OBJECTS / pick)) {
            pod["metadata"]["labels"][format!("picks-{pick}")] = json!("yes");
        }
        Ok((info.object_key(Some("bench"), &crate::objects::name(number))?, pod))
    };
    cluster.fill(OBJECTS, pod).await?;
    let cache = cluster.cached().await?;
    let scope = Scope::all(info.prefix());
    for (side, storage) in [("store", &cluster.store), ("cache", &cache)] {
        for pick in PICKS {
            let (start, mut lists) = (Instant::now(), 0_usize);
            while start.elapsed() < Duration::from_millis(options.milliseconds) {
                let only = ListOptions {
                    predicate: labelled(&format!("picks-{pick}")),
                    ..ListOptions::default()
                };
                let found = storage.list(&scope, only).await?.collect().await?.entries.len();
                anyhow::ensure!(found == pick, "{found} objects were selected instead of {pick}");
                lists += 1;
            }
            let rate = lists as f64 / start.elapsed().as_secs_f64();
            println!("{side} filtered list, {pick} of {OBJECTS}: {rate:.0} lists/s");
            cells.push(json!({ "workload": "filtered", "side": side, "selected": pick, "lists_per_second": rate }));
        }
    }
    Ok(())
}
