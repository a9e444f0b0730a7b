//! How often each key has written.
//!
//! AES-GCM with random nonces wears a key out: NIST SP 800-38D allows 2^32 encryptions per key, after which two equal
//! nonces are no longer improbable enough, and two equal nonces give the plaintext away. Kubernetes counts nothing
//! here. This crate counts per key and process, shows the count, and refuses the write past the limit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{ErrorKind, TransformError};

/// Writes after which Kubernetes' documentation asks for a new AES-GCM key.
pub const RECOMMENDED_WRITES_PER_KEY: u64 = 200_000;

/// Writes that one process makes with one AES-GCM key before it refuses to go on. Several servers that share a key add
/// up, and the count starts again with the process: rotate far below this.
pub const MAX_WRITES_PER_KEY: u64 = 1 << 32;

/// How often a static key was used for writing since the process began.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUsage {
    /// The provider, such as `aesgcm`.
    pub provider: String,
    /// The key's name in the configuration.
    pub key_name: String,
    /// Values written with this secret, under whatever name it stands in the configuration.
    pub writes: u64,
}

impl KeyUsage {
    /// The key has written more than Kubernetes' documentation recommends.
    pub fn rotation_due(&self) -> bool {
        self.writes >= RECOMMENDED_WRITES_PER_KEY
    }
}

/// The count of one secret. Entries of the configuration that hold the same secret share it.
pub(crate) struct WriteCounter(AtomicU64);

impl WriteCounter {
    pub(crate) fn new() -> Arc<Self> {
        Self::starting_at(0)
    }

    pub(crate) fn starting_at(writes: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(writes)))
    }

    /// Claims one write.
    pub(crate) fn claim(&self) -> Result<(), TransformError> {
        // Relaxed: the count orders nothing else, and every claim must only be counted once.
        let claim = |writes: u64| (writes < MAX_WRITES_PER_KEY).then_some(writes + 1);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim) {
            Ok(_) => Ok(()),
            Err(_) => Err(TransformError::new(ErrorKind::KeyExhausted)),
        }
    }

    pub(crate) fn writes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for WriteCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} writes", self.writes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: storage-transform/GCM-13
    #[test]
    fn a_key_is_refused_once_it_has_written_its_share() {
        let counter = WriteCounter::starting_at(MAX_WRITES_PER_KEY - 1);
        counter.claim().expect("the last write that is allowed");
        for _ in 0..2 {
            assert_eq!(
                counter.claim().map_err(|error| error.kind()),
                Err(ErrorKind::KeyExhausted)
            );
        }
        assert_eq!(counter.writes(), MAX_WRITES_PER_KEY, "a refused write is not counted");
    }
}
