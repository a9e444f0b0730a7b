//! What a cache may be told.

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::time::{Clock, OsRng, Rng, SystemClock};

use crate::budget::HistoryBudget;

/// The configuration of a [`Cacher`](crate::Cacher). All bytes are estimates of memory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacherConfig {
    /// Most bytes of history that this cache keeps. Default 64 MiB.
    pub history_bytes: usize,
    /// How long history is kept while there is room. Default 75 s: a bookmark period and a quarter.
    pub history_time: Duration,
    /// So many changes are kept whatever their age, so that clients of a quiet kind can resume. Default 100.
    pub history_min_records: usize,
    /// What all caches of the process keep together. Default: a budget of its own.
    pub history_budget: HistoryBudget,
    /// How often a watcher that asked for progress is told about it. Default 1 minute.
    pub bookmark_period: Duration,
    /// How long a reader waits for a revision that the cache has not reached. Default 3 s.
    pub freshness_timeout: Duration,
    /// How long a reader waits for a cache that is not ready, before it is told to come back. Default 500 ms.
    pub ready_timeout: Duration,
    /// How often the backend is asked for progress while a reader waits. Default 100 ms.
    pub progress_period: Duration,
    /// Most lists at a time that are read from the backend because the cache cannot serve them. Default 16.
    pub backend_lists: usize,
    /// How long the reader of such a list may take: then its place is given back and the list ends with an error, whether or
    /// not the reader reads on. Default 1 minute.
    pub backend_list_time: Duration,
    /// How long a consistent read waits for a cache that does not move, before the storage below is asked instead, and
    /// after how much silence the cache watches anew. Default 300 ms.
    pub progress_timeout: Duration,
    /// Whether consistent reads that the cache cannot serve in time go to the storage below; if not, they are told to
    /// come back. Default true.
    pub fallback: bool,
    /// Most bytes of live objects that this cache keeps: what is more is served from the storage below, all of it.
    /// Default none.
    pub live_bytes: Option<usize>,
    /// How often a cache that keeps nothing, because there is too much, looks whether that is still so. Default
    /// 5 minutes.
    pub uncached_period: Duration,
    /// First pause before the backend is tried again; doubles up to 10 s. Default 100 ms.
    pub retry_pause: Duration,
    /// How often the cache is compared with the storage below: each time after this long and up to half as long
    /// again. Costs a list. None: never. Default 5 minutes.
    pub check_period: Option<Duration>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where jitter comes from.
    pub rng: Arc<dyn Rng>,
}

impl CacherConfig {
    /// The defaults, with this clock and randomness.
    pub fn new(clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        Self {
            history_bytes: 64 << 20,
            history_time: Duration::from_secs(75),
            history_min_records: 100,
            history_budget: HistoryBudget::default(),
            bookmark_period: Duration::from_secs(60),
            freshness_timeout: Duration::from_secs(3),
            ready_timeout: Duration::from_millis(500),
            progress_period: Duration::from_millis(100),
            backend_lists: 16,
            backend_list_time: Duration::from_secs(60),
            progress_timeout: Duration::from_millis(300),
            fallback: true,
            live_bytes: None,
            uncached_period: Duration::from_secs(300),
            retry_pause: Duration::from_millis(100),
            check_period: Some(Duration::from_secs(300)),
            clock,
            rng,
        }
    }

    /// Asks the backend for progress this often while a reader waits.
    #[must_use]
    pub fn with_progress_period(mut self, period: Duration) -> Self {
        self.progress_period = period;
        self
    }

    /// Lets consistent readers wait this long for a cache that does not move.
    #[must_use]
    pub fn with_progress_timeout(mut self, timeout: Duration) -> Self {
        self.progress_timeout = timeout;
        self
    }

    /// Says whether consistent reads go to the storage below when the cache is behind.
    #[must_use]
    pub fn with_fallback(mut self, fallback: bool) -> Self {
        self.fallback = fallback;
        self
    }

    /// Keeps at most so many bytes of live objects.
    #[must_use]
    pub fn with_live_bytes(mut self, bytes: Option<usize>) -> Self {
        self.live_bytes = bytes;
        self
    }

    /// Looks this often whether an uncached kind has become small enough.
    #[must_use]
    pub fn with_uncached_period(mut self, period: Duration) -> Self {
        self.uncached_period = period;
        self
    }

    /// Keeps at most so many bytes of history.
    #[must_use]
    pub fn with_history_bytes(mut self, bytes: usize) -> Self {
        self.history_bytes = bytes;
        self
    }

    /// Keeps history for so long.
    #[must_use]
    pub fn with_history_time(mut self, time: Duration) -> Self {
        self.history_time = time;
        self
    }

    /// Keeps so many changes whatever their age.
    #[must_use]
    pub fn with_history_min_records(mut self, records: usize) -> Self {
        self.history_min_records = records;
        self
    }

    /// Shares a budget with other caches.
    #[must_use]
    pub fn with_history_budget(mut self, budget: HistoryBudget) -> Self {
        self.history_budget = budget;
        self
    }

    /// Tells watchers about progress this often.
    #[must_use]
    pub fn with_bookmark_period(mut self, period: Duration) -> Self {
        self.bookmark_period = period;
        self
    }

    /// Lets readers wait this long for a revision.
    #[must_use]
    pub fn with_freshness_timeout(mut self, timeout: Duration) -> Self {
        self.freshness_timeout = timeout;
        self
    }

    /// Lets readers wait this long for a cache that is not ready.
    #[must_use]
    pub fn with_ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }

    /// Reads at most so many lists at a time from the backend where the cache cannot serve them.
    #[must_use]
    pub fn with_backend_lists(mut self, lists: usize) -> Self {
        self.backend_lists = lists;
        self
    }

    /// Lets the reader of a list from the backend take so long.
    #[must_use]
    pub fn with_backend_list_time(mut self, time: Duration) -> Self {
        self.backend_list_time = time;
        self
    }

    /// Compares the cache with the storage below this often.
    #[must_use]
    pub fn with_check_period(mut self, period: Option<Duration>) -> Self {
        self.check_period = period;
        self
    }

    /// Pauses this long before the backend is tried again the first time.
    #[must_use]
    pub fn with_retry_pause(mut self, pause: Duration) -> Self {
        self.retry_pause = pause;
        self
    }
}

impl Default for CacherConfig {
    /// The defaults, with the machine's clock and randomness.
    fn default() -> Self {
        Self::new(SystemClock::shared(), Arc::new(OsRng))
    }
}
