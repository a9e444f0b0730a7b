//! What is counted, under upstream's names.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apiserver_storage_api::{ListOptions, ReadAt, Storage, WatchStart};
use apiserver_storage_cacher::Cacher;
use common::*;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

/// Keeps numbers by the text of their names and labels.
#[derive(Default)]
struct Book(Mutex<BTreeMap<String, Arc<Cell>>>);

#[derive(Default)]
struct Cell(AtomicU64);

impl metrics::CounterFn for Cell {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
}

impl metrics::GaugeFn for Cell {
    fn increment(&self, value: f64) {
        self.0.fetch_add(value as u64, Ordering::SeqCst);
    }

    fn decrement(&self, value: f64) {
        self.0.fetch_sub(value as u64, Ordering::SeqCst);
    }

    fn set(&self, value: f64) {
        self.0.store(value as u64, Ordering::SeqCst);
    }
}

impl HistogramFn for Cell {
    /// Counts observations.
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Book {
    fn cell(&self, key: &Key) -> Arc<Cell> {
        let labels: Vec<String> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let text = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::clone(self.0.lock().entry(text).or_default())
    }

    #[track_caller]
    fn value(&self, name: &str) -> u64 {
        let book = self.0.lock();
        let cell = book
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", book.keys()));
        cell.0.load(Ordering::SeqCst)
    }
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(key))
    }
}

// covers: storage-cacher/MET-01, storage-cacher/MET-02, storage-cacher/MET-03, storage-cacher/MET-06, storage-cacher/INIT-23
#[tokio::test]
async fn the_cache_counts_under_upstreams_names() {
    let house = House::unready(config()).await;
    let book = Book::default();
    // Handles are made once, by the recorder of the moment in which a cache is made.
    let cache = metrics::with_local_recorder(&book, || Cacher::new(Arc::clone(&house.below), config()));
    cache.wait_ready().await.unwrap();
    for name in ["a", "b", "c"] {
        create(&cache, "ns", name, "n").await;
    }
    cache.list(&all(), ListOptions::default()).await.unwrap();
    let start = WatchStart::InitialState(ReadAt::Any);
    let mut watch = cache.watch(&all(), from(start)).await.unwrap();
    assert_eq!(changes(&mut watch).await.len(), 3);
    let last = house.below.current_revision().await.unwrap();
    for (name, labels, want) in [
        ("apiserver_watch_cache_initializations_total", "", 1),
        ("apiserver_watch_cache_initialization_errors_total", "", 0),
        ("apiserver_watch_cache_initialization_duration_seconds", "", 1),
        ("apiserver_watch_cache_events_received_total", "", 3),
        ("apiserver_watch_cache_events_dispatched_total", "", 3),
        ("apiserver_init_events_total", "", 3),
        (
            "apiserver_watch_cache_resource_version",
            "",
            last.get() % 1_000_000_000_000_000,
        ),
        (
            "apiserver_watch_cache_consistent_read_total",
            ",success=true,fallback=false",
            1,
        ),
        (
            "apiserver_watch_cache_consistent_read_total",
            ",success=true,fallback=true",
            0,
        ),
    ] {
        assert_eq!(
            book.value(&format!("{name}{{group=,resource=pods{labels}}}")),
            want,
            "{name}{labels}"
        );
    }
}
