//! A range that is looked at while it comes.

use std::collections::VecDeque;

use apiserver_storage_api::{KeyText, Revision};
use parking_lot::Mutex;

use crate::kv::{KvPair, RangePage};

/// Where the pairs of a range go as they come, for somebody who takes them from there at the same time.
///
/// Holds what was not taken yet; never more than was asked for.
#[derive(Debug, Default)]
pub struct RangeParts(Mutex<Came>);

#[derive(Debug, Default)]
struct Came {
    /// As they came; none of them is empty.
    batches: VecDeque<Vec<KvPair>>,
    waiting: usize,
    progress: Progress,
}

/// How far a range has come.
#[derive(Debug, Default, Clone)]
pub struct Progress {
    /// The revision of the store when it answered. Set before the first pair.
    pub revision: Option<Revision>,
    /// How many pairs came.
    pub pairs: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// The key of the last one.
    pub last: Option<KeyText>,
}

/// What is known of a range once all of it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeEnd {
    /// The range has more pairs behind the last one.
    pub more: bool,
    /// Number of pairs in the whole range, from its start.
    pub count: u64,
}

impl RangeParts {
    /// Says where the store was when it answered. The first answer counts: what comes of later ones is of the same state.
    pub fn answered(&self, revision: Revision) {
        self.0.lock().progress.revision.get_or_insert(revision);
    }

    /// Where the store was when it answered, once it has.
    pub fn revision(&self) -> Option<Revision> {
        self.0.lock().progress.revision
    }

    /// Adds the pairs that came next.
    pub fn push(&self, pairs: Vec<KvPair>) {
        let Some(last) = pairs.last() else { return };
        let last = Some(last.key.clone());
        let bytes: usize = pairs.iter().map(|pair| pair.value.len()).sum();
        let mut came = self.0.lock();
        came.progress.pairs += pairs.len() as u64;
        came.progress.bytes += bytes as u64;
        came.progress.last = last;
        came.waiting += pairs.len();
        came.batches.push_back(pairs);
    }

    /// Moves the next pairs, up to so many, to the end of `into`.
    pub fn take(&self, most: usize, into: &mut Vec<KvPair>) {
        let mut came = self.0.lock();
        let mut left = most;
        while left > 0
            && let Some(batch) = came.batches.front_mut()
        {
            let taken = batch.len().min(left);
            if taken < batch.len() {
                into.extend(batch.drain(..taken));
            } else {
                into.append(batch);
                came.batches.pop_front();
            }
            left -= taken;
            came.waiting -= taken;
        }
    }

    /// How many pairs wait to be taken.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting
    }

    /// How far the range has come.
    pub fn progress(&self) -> Progress {
        self.0.lock().progress.clone()
    }

    /// All of a range that came in one piece.
    pub fn page(&self, page: RangePage) -> RangeEnd {
        let RangePage {
            pairs,
            more,
            count,
            revision,
        } = page;
        self.answered(revision);
        self.push(pairs);
        RangeEnd { more, count }
    }
}
