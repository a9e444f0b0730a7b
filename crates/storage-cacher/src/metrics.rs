//! What is counted, under upstream's names where upstream counts it. Handles are made once, so that counting needs no
//! lookup.
//
// deviates: storage-cacher/MET-04: there is no ring; what is kept is told in records, bytes and seconds.
// deviates: storage-cacher/MET-08: the names that upstream has deprecated are not told.
// deviates: storage-cacher/MET-11: lists and watches by hash range are not offered.

use std::time::Duration;

use apiserver_storage_api::{Index, ResourceInfo, Revision};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::core::History;

/// Keeps a revision exact as a float.
const REVISION_MODULUS: u64 = 1_000_000_000_000_000;

pub(crate) struct Metrics {
    initializations: Counter,
    pub(crate) initialization_errors: Counter,
    initialization_seconds: Histogram,
    pub(crate) events_received: Counter,
    pub(crate) events_dispatched: Counter,
    pub(crate) init_events: Counter,
    revision: Gauge,
    read_wait_seconds: Histogram,
    history_records: Gauge,
    history_bytes: Gauge,
    history_seconds: Gauge,
    history_revision: Gauge,
    history_shortened: Counter,
    live_bytes: Gauge,
    delivery_seconds: Histogram,
    cursor_lag: Histogram,
    pub(crate) open_watches: Gauge,
    pub(crate) lost_watchers: Counter,
    pub(crate) resets: Counter,
    pub(crate) moved_watches: Counter,
    pub(crate) released_reads: Counter,
    pub(crate) uncached: Gauge,
    consistent: [Counter; 5],
    checks: [Counter; 3],
    /// By index; the first is without one.
    lists: Vec<Lists>,
    returned: Counter,
}

/// Lists that went along one index.
struct Lists {
    total: Counter,
    fetched: Counter,
}

/// Whether the storage below has answered a consistent read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    No,
    Yes,
    /// It could have, and was not asked to.
    Skipped,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub(crate) fn new(info: &ResourceInfo) -> Self {
        let labels = [
            ("group", info.group().to_owned()),
            ("resource", info.resource().to_owned()),
        ];
        let more = |more: &[(&'static str, &str)]| {
            let mut labels = labels.to_vec();
            labels.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
            labels
        };
        let consistent = |success: &str, fallback: &str| {
            let labels = more(&[("success", success), ("fallback", fallback)]);
            counter!("apiserver_watch_cache_consistent_read_total", &labels)
        };
        let checks = |status: &str| {
            let labels = more(&[("status", status)]);
            counter!("apiserver_storage_consistency_checks_total", &labels)
        };
        let storage = more(&[("storage", "watchcache")]);
        let lists = |index: &str| {
            let labels = more(&[("storage", "watchcache"), ("index", index)]);
            Lists {
                total: counter!("apiserver_storage_list_total", &labels),
                fetched: counter!("apiserver_storage_list_fetched_objects_total", &labels),
            }
        };
        // Nothing is decoded to be looked at.
        counter!("apiserver_storage_list_evaluated_objects_total", &storage).increment(0);
        let indexes = info.indexes().iter().map(name);
        Self {
            checks: [checks("success"), checks("failure"), checks("error")],
            initializations: counter!("apiserver_watch_cache_initializations_total", &labels),
            initialization_errors: counter!("apiserver_watch_cache_initialization_errors_total", &labels),
            initialization_seconds: histogram!("apiserver_watch_cache_initialization_duration_seconds", &labels),
            events_received: counter!("apiserver_watch_cache_events_received_total", &labels),
            events_dispatched: counter!("apiserver_watch_cache_events_dispatched_total", &labels),
            init_events: counter!("apiserver_init_events_total", &labels),
            revision: gauge!("apiserver_watch_cache_resource_version", &labels),
            read_wait_seconds: histogram!("apiserver_watch_cache_read_wait_seconds", &labels),
            history_records: gauge!("watch_cache_capacity", &labels),
            history_bytes: gauge!("apiserver_watch_cache_history_bytes", &labels),
            history_seconds: gauge!("apiserver_watch_cache_history_seconds", &labels),
            history_revision: gauge!("apiserver_watch_cache_oldest_resource_version", &labels),
            history_shortened: counter!("apiserver_watch_cache_history_shortened_total", &labels),
            live_bytes: gauge!("apiserver_watch_cache_live_bytes", &labels),
            delivery_seconds: histogram!("apiserver_watch_cache_delivery_delay_seconds", &labels),
            cursor_lag: histogram!("apiserver_watch_cache_cursor_lag_revisions", &labels),
            open_watches: gauge!("apiserver_watch_cache_open_watches", &labels),
            lost_watchers: counter!("apiserver_terminated_watchers_total", &labels),
            resets: counter!("apiserver_watch_cache_resets_total", &labels),
            moved_watches: counter!("apiserver_watch_cache_moved_watches_total", &labels),
            released_reads: counter!("apiserver_watch_cache_released_reads_total", &labels),
            uncached: gauge!("apiserver_watch_cache_uncached", &labels),
            consistent: [
                consistent("true", "false"),
                consistent("false", "false"),
                consistent("true", "true"),
                consistent("false", "true"),
                consistent("false", "skipped"),
            ],
            lists: std::iter::once(String::new())
                .chain(indexes)
                .map(|index| lists(&index))
                .collect(),
            returned: counter!("apiserver_storage_list_returned_objects_total", &storage),
        }
    }

    /// The cache was compared with the storage below; none: that failed.
    pub(crate) fn checked(&self, same: Option<bool>) {
        let [success, failure, error] = &self.checks;
        match same {
            Some(true) => success.increment(1),
            Some(false) => failure.increment(1),
            None => error.increment(1),
        }
    }

    /// The whole state was taken over.
    pub(crate) fn loaded(&self, revision: Revision, took: Duration) {
        self.initializations.increment(1);
        self.initialization_seconds.record(took.as_secs_f64());
        self.uncached.set(0.0);
        self.at_revision(revision);
    }

    pub(crate) fn at_revision(&self, revision: Revision) {
        self.revision.set(plain(revision));
    }

    /// What the cache holds.
    pub(crate) fn holds(&self, history: &History, live: usize, now: Duration) {
        self.history_records.set(history.records as f64);
        self.history_bytes.set((history.bytes + history.postings) as f64);
        let age = history
            .oldest
            .map_or(Duration::ZERO, |oldest| now.saturating_sub(oldest));
        self.history_seconds.set(age.as_secs_f64());
        self.history_revision.set(plain(history.base));
        self.history_shortened.absolute(history.shortened);
        self.live_bytes.set(live as f64);
    }

    /// A watcher was told of a record.
    pub(crate) fn delivered(&self, delay: Duration, lag: u64) {
        self.delivery_seconds.record(delay.as_secs_f64());
        self.cursor_lag.record(lag as f64);
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.read_wait_seconds.record(time.as_secs_f64());
    }

    /// A list is served from memory, along an index if there is one.
    pub(crate) fn listed(&self, index: Option<usize>) {
        if let Some(lists) = self.lists.get(index.map_or(0, |at| at + 1)) {
            lists.total.increment(1);
        }
    }

    /// Part of a list was looked at.
    pub(crate) fn fetched(&self, index: Option<usize>, examined: usize, returned: usize) {
        if let Some(lists) = self.lists.get(index.map_or(0, |at| at + 1)) {
            lists.fetched.increment(examined as u64);
        }
        self.returned.increment(returned as u64);
    }

    /// A consistent read has ended.
    pub(crate) fn consistent_read(&self, success: bool, fallback: Fallback) {
        let at = match fallback {
            Fallback::No => usize::from(!success),
            Fallback::Yes => 2 + usize::from(!success),
            Fallback::Skipped => 4,
        };
        if let Some(counter) = self.consistent.get(at) {
            counter.increment(1);
        }
    }
}

/// The name of an index, as upstream's label has it.
fn name(index: &Index) -> String {
    match index {
        Index::Field(field) => format!("f:{field}"),
        Index::Label(label) => format!("l:{label}"),
        _ => String::new(),
    }
}

fn plain(revision: Revision) -> f64 {
    (revision.get() % REVISION_MODULUS) as f64
}
