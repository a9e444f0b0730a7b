//! Random bytes that a case prescribes.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::random::{RandomError, RandomSource};

/// Hands out the prescribed values in the order of their use, each once and in its whole length.
#[derive(Debug)]
pub(super) struct Feed(Mutex<VecDeque<Vec<u8>>>);

impl Feed {
    pub(super) fn new(values: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self(Mutex::new(values.into_iter().collect()))
    }

    /// Whether a prescribed value has not been asked for.
    pub(super) fn has_rest(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl RandomSource for Feed {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        let next = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let value = next.ok_or_else(|| RandomError::new("the case prescribes no further value"))?;
        if value.len() != buffer.len() {
            let problem = format!(
                "{} bytes were asked for, the case prescribes {}",
                buffer.len(),
                value.len()
            );
            return Err(RandomError::new(problem));
        }
        buffer.copy_from_slice(&value);
        Ok(())
    }
}
