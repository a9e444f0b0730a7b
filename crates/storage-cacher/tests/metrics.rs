//! What is counted, under upstream's names.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::num::NonZeroU64;
use std::time::Duration;

use apiserver_storage_api::{ListAt, ListOptions, ReadAt, Storage, StorageError, WatchStart};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use common::script::{Script, Stage, revision};
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

const PODS: &str = "group=,resource=pods";

/// A cache over a script, counted in a book.
fn counted(change: impl FnOnce(CacherConfig) -> CacherConfig) -> (Book, Stage) {
    let book = Book::default();
    let script = Script::new();
    for at in 0..100 {
        script.put("ns", &format!("p{at:02}"), if at % 50 == 0 { "rare" } else { "n" });
    }
    let stage = metrics::with_local_recorder(&book, || Stage::new(script, change));
    (book, stage)
}

// covers: storage-cacher/MET-08, storage-cacher/IDX-04, storage-cacher/LIST-22, storage-cacher/SCALE-01, storage-cacher/SNAP-14
#[test]
fn lists_are_counted_by_the_index_they_used() {
    let (book, mut stage) = counted(|config| config);
    let value = |name: &str, index: Option<&str>| {
        let index = index.map_or(String::new(), |index| format!(",index={index}"));
        book.value(&format!("{name}{{{PODS},storage=watchcache{index}}}"))
    };
    let (total, fetched, returned) = (
        "apiserver_storage_list_total",
        "apiserver_storage_list_fetched_objects_total",
        "apiserver_storage_list_returned_objects_total",
    );
    stage.list(at(ListAt::Any)).unwrap();
    assert_eq!(
        (value(total, Some("")), value(fetched, Some("")), value(returned, None)),
        (1, 100, 100)
    );
    for (version, index) in [
        (ListAt::Any, "f:spec.nodeName"),
        (ListAt::Exact(revision(200)), "f:spec.nodeName"),
    ] {
        let options = ListOptions {
            predicate: fields("spec.nodeName=rare"),
            ..at(version)
        };
        assert_eq!(stage.list(options).unwrap().entries.len(), 2);
        assert!(value(total, Some(index)) >= 1);
    }
    assert_eq!(
        (value(fetched, Some("f:spec.nodeName")), value(returned, None)),
        (4, 104)
    );
    let options = ListOptions {
        predicate: labels("app=p07"),
        ..at(ListAt::Any)
    };
    assert_eq!(stage.list(options).unwrap().entries.len(), 1);
    assert_eq!(value(fetched, Some("l:app")), 1);
    for unindexed in ["spec.nodeName!=rare", "metadata.name=p07", "metadata.namespace=ns"] {
        let before = value(fetched, Some(""));
        let options = ListOptions {
            predicate: fields(unindexed),
            ..at(ListAt::Any)
        };
        stage.list(options).unwrap();
        assert_eq!(value(fetched, Some("")) - before, 100, "{unindexed}");
    }
    // A page looks at a page, the first one and every later one.
    let before = value(fetched, Some(""));
    let mut next = ListAt::NotOlderThan(revision(200));
    let mut pages = 0;
    loop {
        let options = ListOptions {
            limit: NonZeroU64::new(10),
            ..at(next)
        };
        let list = stage.list(options).unwrap();
        pages += 1;
        match list.next {
            Some(token) => next = ListAt::Continue(token),
            None => break,
        }
    }
    assert_eq!((pages, value(fetched, Some("")) - before), (10, 100));
    assert_eq!(value("apiserver_storage_list_evaluated_objects_total", None), 0);
}

// covers: storage-cacher/MET-05, storage-cacher/MET-06, storage-cacher/FRSH-01, storage-cacher/FRSH-06, storage-cacher/DLG-61, storage-cacher/DLG-62, storage-cacher/DLG-63, storage-cacher/DLG-65
#[test]
fn waits_and_consistent_reads_are_counted() {
    let (book, mut stage) = counted(|config| config);
    let waits = |book: &Book| book.value(&format!("apiserver_watch_cache_read_wait_seconds{{{PODS}}}"));
    let consistent = |book: &Book| {
        [
            "true,fallback=false",
            "false,fallback=false",
            "true,fallback=true",
            "false,fallback=true",
            "false,fallback=skipped",
        ]
        .map(|how| {
            book.value(&format!(
                "apiserver_watch_cache_consistent_read_total{{{PODS},success={how}}}"
            ))
        })
    };
    stage.list(at(ListAt::Any)).unwrap();
    stage.list(at(ListAt::NotOlderThan(revision(150)))).unwrap();
    stage.list(ListOptions::default()).unwrap();
    assert_eq!(
        (waits(&book), consistent(&book)),
        (0, [1, 0, 0, 0, 0]),
        "nothing was waited for"
    );
    stage.script.elsewhere();
    stage.list(ListOptions::default()).unwrap();
    assert_eq!((waits(&book), consistent(&book)), (1, [2, 0, 0, 0, 0]));
    let mut late = stage.begin_list(at(ListAt::NotOlderThan(revision(300))));
    stage.pass(Duration::from_millis(3_010));
    assert!(late.outcome().unwrap().is_err());
    assert_eq!(waits(&book), 2, "a wait in vain is one too");
    stage.script.fail_nows(vec![StorageError::internal("no quorum")]);
    assert!(stage.list(ListOptions::default()).is_err());
    assert_eq!(consistent(&book), [2, 1, 0, 0, 0]);
    stage.script.hold(true);
    for errors in [vec![], vec![StorageError::internal("down")]] {
        stage.script.elsewhere();
        let mut below = stage.begin_list(ListOptions::default());
        stage.script.fail_lists(errors);
        stage.pass(Duration::from_millis(310));
        assert!(below.outcome().is_some());
    }
    assert_eq!((waits(&book), consistent(&book)), (4, [2, 1, 1, 1, 0]));
    let (book, mut stage) = counted(|config| config.with_fallback(false));
    stage.script.hold(true);
    stage.script.elsewhere();
    let mut refused = stage.begin_list(ListOptions::default());
    stage.pass(Duration::from_millis(310));
    assert!(refused.outcome().unwrap().is_err());
    assert_eq!(consistent(&book), [0, 0, 0, 0, 1]);
}

// covers: storage-cacher/MET-02, storage-cacher/MET-07, storage-cacher/MET-09, storage-cacher/DISP-14, storage-cacher/OPP-08
#[test]
fn what_is_held_and_delivered_is_told() {
    let check = Some(Duration::from_secs(200));
    let (book, mut stage) = counted(|config| config.with_check_period(check).with_history_min_records(2));
    let value = |book: &Book, name: &str| book.value(&format!("{name}{{{PODS}}}"));
    let mut watch = stage.watch(all(), from(WatchStart::After(revision(200)))).unwrap();
    assert!(stage.heard(&mut watch).is_empty());
    for at in 0..10 {
        stage.script.put("ns", &format!("p{at:02}"), "m");
        stage.script.progress();
    }
    assert_eq!(stage.heard(&mut watch).len(), 10);
    for counter in ["received", "dispatched"] {
        let name = format!("apiserver_watch_cache_events_{counter}_total");
        assert_eq!(value(&book, &name), 10, "progress is no event");
    }
    stage.pass(Duration::from_secs(2));
    let held = [
        "watch_cache_capacity",
        "apiserver_watch_cache_history_bytes",
        "apiserver_watch_cache_live_bytes",
    ];
    let [records, history, live] = held.map(|name| value(&book, name));
    assert_eq!(records, 10);
    assert!(history > 10 * 256 && live > 100 * 100, "{history} {live}");
    assert_eq!(value(&book, "apiserver_watch_cache_oldest_resource_version"), 200);
    assert_eq!(value(&book, "apiserver_watch_cache_open_watches"), 1);
    assert!(value(&book, "apiserver_watch_cache_delivery_delay_seconds") >= 1);
    assert!(value(&book, "apiserver_watch_cache_cursor_lag_revisions") >= 1);
    assert_eq!(value(&book, "apiserver_watch_cache_history_seconds"), 2);
    // A watcher that does not read while history goes on is told so, and counted.
    for at in 0..10 {
        stage.script.put("ns", &format!("p{at:02}"), "m2");
    }
    stage.pass(Duration::from_secs(80));
    assert!(stage.heard(&mut watch)[0].starts_with("ERROR"));
    assert_eq!(value(&book, "apiserver_terminated_watchers_total"), 1);
    assert_eq!(
        value(&book, "apiserver_watch_cache_history_shortened_total"),
        0,
        "it was old, not too much"
    );
    let checks = |book: &Book, status| {
        book.value(&format!(
            "apiserver_storage_consistency_checks_total{{{PODS},status={status}}}"
        ))
    };
    stage.pass(Duration::from_secs(310));
    let good = checks(&book, "success");
    assert!(good >= 1);
    stage.script.fail_lists(vec![StorageError::internal("down")]);
    stage.pass(Duration::from_secs(310));
    assert_eq!(checks(&book, "error"), 1);
    stage.script.lose(1);
    stage.script.put("ns", "lost", "n");
    stage.script.put("ns", "seen", "n");
    stage.pass(Duration::from_secs(310));
    assert_eq!(checks(&book, "failure"), 1);
    assert_eq!(value(&book, "apiserver_watch_cache_resets_total"), 1);
    let list = stage.list(at(ListAt::Any)).unwrap();
    assert_eq!(list.entries.len(), 102, "what was lost is there again");
}
