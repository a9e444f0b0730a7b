//! What an engine is opened with.

#[cfg(feature = "durable")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::Revision;
use apiserver_storage_api::time::{Clock, OsRng, Rng, SystemClock};

/// How much history is kept behind the live state. Whichever bound is reached first ends it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HistoryBounds {
    /// History is kept at least this long after it was superseded, unless its bytes exceed the bound. Counted anew
    /// from each opening. Default: 5 minutes. None: no bound by time.
    pub keep: Option<Duration>,
    /// Bytes of superseded records, as a multiple of the live bytes. Default: 1.
    pub live_ratio: f64,
    /// History of less than so many bytes is never compacted for its size. Default: 64 MiB.
    pub floor_bytes: u64,
}

impl Default for HistoryBounds {
    fn default() -> Self {
        Self {
            keep: Some(Duration::from_secs(300)),
            live_ratio: 1.0,
            floor_bytes: 64 << 20,
        }
    }
}

impl HistoryBounds {
    /// Sets [`keep`](Self::keep).
    #[must_use]
    pub fn with_keep(mut self, keep: Option<Duration>) -> Self {
        self.keep = keep;
        self
    }

    /// Sets [`live_ratio`](Self::live_ratio).
    #[must_use]
    pub fn with_live_ratio(mut self, ratio: f64) -> Self {
        self.live_ratio = ratio;
        self
    }

    /// Sets [`floor_bytes`](Self::floor_bytes).
    #[must_use]
    pub fn with_floor_bytes(mut self, bytes: u64) -> Self {
        self.floor_bytes = bytes;
        self
    }

    /// The bytes of superseded records that may be kept beside so many live bytes.
    pub(crate) fn allowed(&self, live_bytes: u64) -> u64 {
        // The product of a float saturates on the way back; a negative or undefined ratio counts as zero.
        ((live_bytes as f64 * self.live_ratio) as u64).max(self.floor_bytes)
    }
}

/// Where the data is.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    Memory,
    #[cfg(feature = "durable")]
    Directory(PathBuf),
    #[cfg(feature = "durable")]
    Medium(Arc<dyn crate::medium::Medium>),
}

/// What an engine is opened with: `memory` or, with the feature `durable`, `directory`; then the setters.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    pub(crate) location: Location,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) history: HistoryBounds,
    pub(crate) first_revision: Option<Revision>,
    pub(crate) max_value_bytes: usize,
    #[cfg_attr(not(feature = "durable"), expect(dead_code, reason = "only the disk has a cache"))]
    pub(crate) cache_bytes: usize,
    #[cfg_attr(
        not(feature = "durable"),
        expect(dead_code, reason = "a memory-only engine keeps everything")
    )]
    pub(crate) recent_bytes: u64,
    #[cfg_attr(not(feature = "durable"), expect(dead_code, reason = "only a file is repaired"))]
    pub(crate) quick_repair: bool,
    #[cfg_attr(not(feature = "durable"), expect(dead_code, reason = "only a file is rewritten"))]
    pub(crate) rewrite_floor_bytes: u64,
}

impl EmbeddedConfig {
    fn at(location: Location) -> Self {
        Self {
            location,
            clock: SystemClock::shared(),
            rng: Arc::new(OsRng),
            history: HistoryBounds::default(),
            first_revision: None,
            max_value_bytes: 4 << 20,
            cache_bytes: 64 << 20,
            recent_bytes: 16 << 20,
            quick_repair: false,
            rewrite_floor_bytes: 64 << 20,
        }
    }

    /// An engine that forgets everything when it is closed.
    pub fn memory() -> Self {
        Self::at(Location::Memory)
    }

    /// An engine whose data is in a directory, made when it is not there. One process at a time can have it open.
    #[cfg(feature = "durable")]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::at(Location::Directory(path.into()))
    }

    /// An engine on a medium of the caller's own, such as a simulated disk. The caller sees to it that only one
    /// engine uses it.
    #[cfg(feature = "durable")]
    pub fn medium(medium: Arc<dyn crate::medium::Medium>) -> Self {
        Self::at(Location::Medium(medium))
    }

    /// Where time comes from. Default: the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where the random identity of a new store comes from. Default: the system's.
    #[must_use]
    pub fn with_rng(mut self, rng: Arc<dyn Rng>) -> Self {
        self.rng = rng;
        self
    }

    /// How much history is kept.
    #[must_use]
    pub fn with_history(mut self, history: HistoryBounds) -> Self {
        self.history = history;
        self
    }

    /// The revision that a new store starts at. Default: 10-microsecond steps since 1970, so that a store made later
    /// starts above whatever an older one reached, as long as that took fewer than 100,000 writes per second on the
    /// average of its life; and far below 2^53, which clients that count in floating point can hold. A store that is
    /// there keeps its own.
    #[must_use]
    pub fn with_first_revision(mut self, revision: Revision) -> Self {
        self.first_revision = Some(revision);
        self
    }

    /// Bytes of the largest value that is taken. Default: 4 MiB.
    #[must_use]
    pub fn with_max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = bytes;
        self
    }

    /// Bytes of the file's pages that are kept in memory. Default: 64 MiB.
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Bytes of the most recent records that are kept in memory, so that reading and watching them needs neither the
    /// disk nor another thread. Default: 16 MiB.
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn with_recent_bytes(mut self, bytes: u64) -> Self {
        self.recent_bytes = bytes;
        self
    }

    /// Makes opening after a crash immediate, for a second fsync in every commit. Default: off, and opening after a
    /// crash reads the whole file once, about half a second per 300 MB.
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn with_quick_repair(mut self, quick_repair: bool) -> Self {
        self.quick_repair = quick_repair;
        self
    }

    /// A file of at least so many bytes that is more than half free is written anew in the background, which gives the
    /// space back. Default: 64 MiB.
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn with_rewrite_floor_bytes(mut self, bytes: u64) -> Self {
        self.rewrite_floor_bytes = bytes;
        self
    }
}
