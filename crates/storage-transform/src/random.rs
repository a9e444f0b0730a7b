//! Where nonces come from.

use std::fmt;

/// A source of random bytes for nonces and keys.
///
/// Production code uses [`SystemRandom`]. A source that repeats itself destroys the encryption: AES-GCM with a nonce
/// used twice gives away plaintext and the authentication key. Other sources are for tests that compare stored bytes.
pub trait RandomSource: fmt::Debug + Send + Sync + 'static {
    /// Fills `buffer` with unpredictable bytes.
    ///
    /// # Errors
    ///
    /// No bytes could be had; the content of `buffer` is then meaningless.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError>;
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no random bytes: {reason}")]
pub struct RandomError {
    reason: String,
}

impl RandomError {
    /// An error with its reason in words.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// The random generator of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl RandomSource for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        getrandom::fill(buffer).map_err(|error| RandomError::new(error.to_string()))
    }
}
