//! Time and randomness as values that are handed in, so that a test decides both.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a component takes the time from.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Wall time.
    fn now(&self) -> SystemTime;
    /// Time since some fixed point; never goes back.
    fn monotonic(&self) -> Duration;
    /// Ends after `duration` of this clock's time. Dropping it cancels.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Where a component takes randomness from. Not for secrets.
pub trait Rng: fmt::Debug + Send + Sync + 'static {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// A number below `bound` (which must not be zero) without modulo bias worth speaking of.
pub fn random_below(rng: &dyn Rng, bound: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(bound.max(1))) >> 64) as u64
}

/// `base` scattered by up to half of it in both directions, so that many clients do not move in step.
pub fn jitter(rng: &dyn Rng, base: Duration) -> Duration {
    let nanos = u64::try_from(base.as_nanos()).unwrap_or(u64::MAX / 2).max(1);
    Duration::from_nanos(nanos / 2 + random_below(rng, nanos))
}

/// The machine's clock, sleeping on tokio's timer.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: std::time::Instant,
}

#[cfg(feature = "tokio")]
impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        Self {
            start: std::time::Instant::now(),
        }
    }

    /// The same, shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::new())
    }
}

#[cfg(feature = "tokio")]
impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "tokio")]
impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Manual>>);

#[derive(Debug)]
struct Manual {
    start: SystemTime,
    elapsed: Duration,
    sleepers: Vec<(Duration, futures::channel::oneshot::Sender<()>)>,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(Manual {
            start,
            elapsed: Duration::ZERO,
            sleepers: Vec::new(),
        })))
    }

    /// Moves the clock and wakes whoever slept until then.
    pub fn advance(&self, by: Duration) {
        let mut due = Vec::new();
        {
            let mut state = self.0.lock();
            state.elapsed += by;
            let now = state.elapsed;
            let (ready, waiting) = std::mem::take(&mut state.sleepers)
                .into_iter()
                .partition(|(at, _)| *at <= now);
            state.sleepers = waiting;
            due.extend::<Vec<_>>(ready);
        }
        for (_, sleeper) in due {
            // A sleeper that was dropped no longer waits.
            let _ = sleeper.send(());
        }
    }

    /// How long until the next sleeper is due; none: nobody sleeps.
    pub fn until_next(&self) -> Option<Duration> {
        let state = self.0.lock();
        let waiting = state.sleepers.iter().filter(|(_, sleeper)| !sleeper.is_canceled());
        waiting.map(|(at, _)| at.saturating_sub(state.elapsed)).min()
    }

    /// How many sleepers wait; lets a test wait for a condition instead of guessing.
    pub fn sleepers(&self) -> usize {
        self.0
            .lock()
            .sleepers
            .iter()
            .filter(|(_, sleeper)| !sleeper.is_canceled())
            .count()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        let state = self.0.lock();
        state.start + state.elapsed
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().elapsed
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (sender, receiver) = futures::channel::oneshot::channel();
        let mut state = self.0.lock();
        state.sleepers.retain(|(_, sleeper)| !sleeper.is_canceled());
        let at = state.elapsed + duration;
        if duration.is_zero() {
            let _ = sender.send(());
        } else {
            state.sleepers.push((at, sender));
        }
        Box::pin(async move {
            let _ = receiver.await;
        })
    }
}

/// The operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRng;

impl Rng for OsRng {
    fn next_u64(&self) -> u64 {
        // The kernel's source does not fail once it is seeded; where there is none, the address-space layout and the
        // time still scatter retries, which is all that this trait promises.
        getrandom::u64().unwrap_or_else(|_| {
            let nanos = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .subsec_nanos();
            SeededRng::new(u64::from(nanos)).next_u64()
        })
    }
}

/// A small deterministic generator (SplitMix64): the same seed, the same numbers.
#[derive(Debug)]
pub struct SeededRng(AtomicU64);

impl SeededRng {
    /// A generator that starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Rng for SeededRng {
    fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A point in time with a resolution of a second, as `metadata` has it: `2026-11-21T14:33:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

impl Time {
    /// The second that wall time `at` lies in.
    pub fn from_system(at: SystemTime) -> Self {
        let seconds = match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
        };
        Self::from_unix(seconds)
    }

    /// Seconds since 1970, brought into the years 1 to 9999, which RFC 3339 can write.
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds.clamp(-62_135_596_800, 253_402_207_199))
    }

    /// Seconds since 1970.
    pub fn unix(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(at) => write!(f, "{}", at.strftime("%Y-%m-%dT%H:%M:%SZ")),
            Err(_) => f.write_str("1970-01-01T00:00:00Z"),
        }
    }
}

impl std::str::FromStr for Time {
    type Err = crate::error::BoxError;

    /// Reads RFC 3339; fractions of a second are dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at: jiff::Timestamp = text.parse()?;
        Ok(Self::from_unix(at.as_second()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
