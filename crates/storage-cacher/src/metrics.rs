//! What is counted, under upstream's names. Handles are made once, so that counting needs no lookup.

use std::time::Duration;

use apiserver_storage_api::{ResourceInfo, Revision};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// Keeps a revision exact as a float.
const REVISION_MODULUS: u64 = 1_000_000_000_000_000;

pub(crate) struct Metrics {
    pub(crate) initializations: Counter,
    pub(crate) initialization_errors: Counter,
    pub(crate) initialization_seconds: Histogram,
    pub(crate) events_received: Counter,
    pub(crate) events_dispatched: Counter,
    pub(crate) init_events: Counter,
    pub(crate) revision: Gauge,
    pub(crate) read_wait_seconds: Histogram,
    pub(crate) history_records: Gauge,
    pub(crate) history_bytes: Gauge,
    pub(crate) history_seconds: Gauge,
    pub(crate) lost_watchers: Counter,
    pub(crate) resets: Counter,
    pub(crate) released_reads: Counter,
    consistent: [Counter; 4],
    checks: [Counter; 3],
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
        let consistent = |success: &'static str, fallback: &'static str| {
            let mut labels = labels.to_vec();
            labels.extend([("success", success.to_owned()), ("fallback", fallback.to_owned())]);
            counter!("apiserver_watch_cache_consistent_read_total", &labels)
        };
        let checks = |status: &'static str| {
            let mut labels = labels.to_vec();
            labels.push(("status", status.to_owned()));
            counter!("apiserver_storage_consistency_checks_total", &labels)
        };
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
            lost_watchers: counter!("apiserver_terminated_watchers_total", &labels),
            resets: counter!("apiserver_watch_cache_resets_total", &labels),
            released_reads: counter!("apiserver_watch_cache_released_reads_total", &labels),
            consistent: [
                consistent("true", "false"),
                consistent("false", "false"),
                consistent("true", "true"),
                consistent("false", "true"),
            ],
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

    pub(crate) fn at_revision(&self, revision: Revision) {
        self.revision.set((revision.get() % REVISION_MODULUS) as f64);
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.read_wait_seconds.record(time.as_secs_f64());
    }

    /// A consistent read has ended; `fallback`: the backend answered it.
    pub(crate) fn consistent_read(&self, success: bool, fallback: bool) {
        if let Some(counter) = self.consistent.get(usize::from(!success) + 2 * usize::from(fallback)) {
            counter.increment(1);
        }
    }
}
