//! Repeating after a lost race: at once the first time, then after growing, scattered pauses, never for ever.

use std::time::Duration;

use apiserver_storage_api::time::jitter;
use apiserver_storage_api::{Result, Revision, StorageError};

use crate::store::KvStoreConfig;

const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The lost races of one call.
// deviates: storage-api/UPD-10: pauses and a deadline instead of endless repetition, so that many writers of one key
// do not starve each other.
// deviates: storage-api/DEL-20: deletes are repeated with pauses and a deadline too.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    config: &'a KvStoreConfig,
    give_up: Duration,
    lost: u32,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(config: &'a KvStoreConfig, deadline: Option<Duration>) -> Self {
        let give_up = config
            .clock
            .monotonic()
            .saturating_add(deadline.unwrap_or(config.retry_deadline));
        Self {
            config,
            give_up,
            lost: 0,
        }
    }

    /// A race was lost: waits until the next attempt.
    ///
    /// # Errors
    ///
    /// [`StorageError::Conflict`] after the deadline.
    pub(crate) async fn lost(
        &mut self,
        full: &str,
        expected: Option<Revision>,
        stored: Option<Revision>,
    ) -> Result<()> {
        if self.config.clock.monotonic() >= self.give_up {
            return Err(StorageError::Conflict {
                key: full.to_owned(),
                stored,
                expected,
            });
        }
        self.lost += 1;
        // The fresh state came with the refusal, so the first repetition has nothing to wait for.
        if let Some(doublings) = self.lost.checked_sub(2) {
            let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(10)).min(LONGEST_PAUSE);
            self.config.clock.sleep(jitter(&*self.config.rng, pause)).await;
        }
        Ok(())
    }
}
