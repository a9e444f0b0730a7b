//! Repeating after a lost race: in turn with other callers of this process ([`queue`](crate::queue)); at once the first
//! time, then after growing, scattered pauses; never for ever.

use std::time::Duration;

use apiserver_storage_api::time::jitter;
use apiserver_storage_api::{Entry, Result, Revision, StorageError};

use crate::kv::Kv;
use crate::queue::{Place, Turns};
use crate::store::{Inner, KvStoreConfig};

const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The attempts of one call.
// deviates: storage-api/UPD-10: turns within the process, pauses and a deadline instead of endless repetition, so that
// many writers of one key do not starve each other.
// deviates: storage-api/DEL-20: deletes are repeated in turn, with pauses and a deadline too.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    config: &'a KvStoreConfig,
    turns: &'a Turns,
    full: &'a str,
    give_up: Duration,
    lost: u32,
    /// In the queue of the key, once there was one.
    place: Option<Place<'a>>,
}

impl<'a> Attempts<'a> {
    /// Before the first attempt. Where callers have met on the key already, it waits for its turn, and returns what the
    /// turn before has written.
    pub(crate) async fn begin<K: Kv>(
        store: &'a Inner<K>,
        full: &'a str,
        deadline: Option<Duration>,
    ) -> (Self, Option<Entry>) {
        let config = &store.config;
        let deadline = deadline.unwrap_or(config.retry_deadline);
        let mut attempts = Self {
            config,
            turns: &store.turns,
            full,
            give_up: config.clock.monotonic().saturating_add(deadline),
            lost: 0,
            place: store.turns.queued(full),
        };
        let written = match &mut attempts.place {
            None => None,
            Some(place) => {
                place.wait(&*config.clock, attempts.give_up).await;
                place.latest()
            }
        };
        (attempts, written)
    }

    /// A race was lost: waits until the next attempt. Returns what another caller has written meanwhile, if that is
    /// newer than what is known to be stored.
    ///
    /// # Errors
    ///
    /// [`StorageError::Conflict`] after the deadline.
    pub(crate) async fn lost(&mut self, expected: Option<Revision>, stored: Option<Revision>) -> Result<Option<Entry>> {
        let clock = &*self.config.clock;
        if clock.monotonic() >= self.give_up {
            return Err(StorageError::Conflict {
                key: self.full.to_owned(),
                stored,
                expected,
            });
        }
        self.lost += 1;
        tracing::debug!(
            key = self.full,
            lost = self.lost,
            "the object was changed meanwhile, trying again"
        );
        // The fresh state came with the refusal, so the first repetition has nothing to wait for but its turn.
        if let Some(doublings) = self.lost.checked_sub(2) {
            let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(10)).min(LONGEST_PAUSE);
            clock.sleep(jitter(&*self.config.rng, pause)).await;
        }
        let place = self.place.get_or_insert_with(|| self.turns.join(self.full));
        place.wait(clock, self.give_up).await;
        Ok(place.latest().filter(|written| Some(written.revision()) > stored))
    }

    /// The call has written this, or removed the object: the next one in the queue can begin with it.
    pub(crate) fn won(&self, written: Option<&Entry>) {
        if let Some(place) = &self.place {
            place.hand_over(written);
        }
    }
}
