//! A clock that stands, and tells a test who waits.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use apiserver_storage_api::time::{Clock, ManualClock};
use futures::future::BoxFuture;
use parking_lot::Mutex;

/// No wait is longer; what is waited for comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A clock that stands still until it is moved, and counts how often somebody began to wait for so long. A loop that
/// waits for its interval again has come to the end of its turn.
#[derive(Debug)]
pub struct StandingClock {
    /// The clock itself.
    pub clock: ManualClock,
    sleeps: Mutex<HashMap<Duration, usize>>,
}

impl StandingClock {
    /// One that stands at the beginning of 1970.
    pub fn new() -> Self {
        Self {
            clock: ManualClock::new(SystemTime::UNIX_EPOCH),
            sleeps: Mutex::default(),
        }
    }

    /// How often somebody began to wait for so long.
    pub fn count(&self, duration: Duration) -> usize {
        self.sleeps.lock().get(&duration).copied().unwrap_or_default()
    }

    /// Waits until that was so many times.
    pub async fn waits(&self, duration: Duration, times: usize) {
        let start = Instant::now();
        while self.count(duration) < times {
            assert!(start.elapsed() < PATIENCE, "nobody waits for {duration:?} again");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets so much time pass, and waits until somebody waits for as long once more.
    pub async fn pass(&self, duration: Duration) {
        let before = self.count(duration);
        self.clock.advance(duration);
        self.waits(duration, before + 1).await;
    }
}

impl Default for StandingClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for StandingClock {
    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let sleep = self.clock.sleep(duration);
        *self.sleeps.lock().entry(duration).or_default() += 1;
        sleep
    }
}
