//! Room for the values that one turn reads: one piece for all of them, which is used again while others read.
//!
//! A list reads thousands of values, looks at each and lets it go; without this each would be allocated for that moment.
//! What is not in use while nobody reads is given back, so that an idle store holds nothing.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Pieces that are kept for the next reader at most, and the largest that is.
const FREE: usize = 8;
const LARGEST: usize = 8 << 20;

/// Where pieces come from and go to. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Slabs(Arc<Mutex<Pool>>);

#[derive(Debug, Default)]
struct Pool {
    free: Vec<Vec<u8>>,
    /// How many are in use.
    used: usize,
    /// How large the last one was: so will be the next.
    size: usize,
}

impl Slabs {
    /// An empty piece. It comes back when the last of its values is let go.
    pub(super) fn take(&self) -> Slab {
        let mut pool = self.0.lock();
        pool.used += 1;
        let bytes = pool.free.pop().unwrap_or_else(|| Vec::with_capacity(pool.size));
        let slabs = self.clone();
        Slab { bytes, slabs }
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        let mut pool = self.0.lock();
        pool.used = pool.used.saturating_sub(1);
        pool.size = bytes.len().min(LARGEST);
        if pool.used == 0 {
            pool.free = Vec::new();
        } else if pool.free.len() < FREE && bytes.capacity() <= LARGEST {
            bytes.clear();
            pool.free.push(bytes);
        }
    }
}

/// A piece with values in it.
#[derive(Debug)]
pub(super) struct Slab {
    bytes: Vec<u8>,
    slabs: Slabs,
}

impl Slab {
    /// Adds a value; where it begins.
    pub(super) fn push(&mut self, value: &[u8]) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        start
    }

    /// All values, in one piece that can be divided.
    pub(super) fn share(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Slab {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.slabs.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_used_again_only_while_others_are_in_use() {
        let slabs = Slabs::default();
        let fill = |value: &[u8]| {
            let mut slab = slabs.take();
            assert_eq!((slab.push(value), slab.push(b"x")), (0, value.len()));
            slab.share()
        };
        let first = fill(&[1; 1000]);
        let second = fill(&[2; 1000]);
        let place = second.as_ptr();
        // A value keeps the whole piece from being used again.
        let value = second.slice(..10);
        drop(second);
        let third = fill(&[3; 1000]);
        assert_ne!(third.as_ptr(), place);
        assert_eq!(value, [2; 10].as_slice());
        drop(value);
        let fourth = fill(&[4; 1000]);
        assert_eq!(fourth.as_ptr(), place);
        assert_eq!((first[0], third[0], fourth[0], fourth[1000]), (1, 3, 4, b'x'));
        drop((first, third, fourth));
        let pool = slabs.0.lock();
        assert_eq!((pool.used, pool.free.len(), pool.size), (0, 0, 1001));
    }
}
