//! Room for the values that one turn reads: one piece for all of them, which is used again while others read.
//!
//! A list reads thousands of values, looks at each and lets it go; without this each would be allocated for that moment.
//! What is not in use while nobody reads is given back, so that an idle store holds nothing.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Pieces that are kept for the next reader at most, and the largest that is.
const FREE: usize = 8;
const LARGEST: usize = 8 << 20;
/// The part that a new piece is larger than what it is made for.
const SPARE: usize = 16;

/// Where pieces come from and go to. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Slabs(Arc<Mutex<Pool>>);

#[derive(Debug, Default)]
struct Pool {
    free: Vec<Vec<u8>>,
    /// How many are in use.
    used: usize,
}

impl Slabs {
    /// A piece with room for so many bytes. It comes back when the last of its values is let go.
    pub(super) fn take(&self, size: usize) -> Slab {
        let mut pool = self.0.lock();
        pool.used += 1;
        // One that is too small would be grown, which costs as much as a new one and copies besides.
        let fitting = pool.free.iter().position(|bytes| bytes.len() >= size);
        let bytes = fitting.map(|at| pool.free.swap_remove(at));
        let slabs = self.clone();
        drop(pool);
        Slab {
            // Somewhat more than is needed now: the next turn's values are about as many and as large.
            bytes: bytes.unwrap_or_else(|| vec![0; size + size / SPARE]),
            filled: 0,
            slabs,
        }
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut pool = self.0.lock();
        pool.used = pool.used.saturating_sub(1);
        if pool.used == 0 {
            pool.free = Vec::new();
        } else if pool.free.len() < FREE && bytes.len() <= LARGEST {
            pool.free.push(bytes);
        }
    }
}

/// A piece with values in it.
#[derive(Debug)]
pub(super) struct Slab {
    /// What is behind the filled part is left of earlier values, and nobody sees it.
    bytes: Vec<u8>,
    filled: usize,
    slabs: Slabs,
}

impl Slab {
    /// Room for the next value, to be filled as a whole, and where it is.
    pub(super) fn room(&mut self, size: usize) -> (Range<usize>, &mut [u8]) {
        let place = self.filled..self.filled + size;
        self.filled = place.end;
        if self.bytes.len() < place.end {
            self.bytes.resize(place.end, 0);
        }
        (place.clone(), &mut self.bytes[place])
    }

    /// All values, in one piece that can be divided.
    pub(super) fn share(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Slab {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
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

    fn fill(slabs: &Slabs, byte: u8, size: usize) -> Bytes {
        let mut slab = slabs.take(size + 1);
        for (byte, size, start) in [(byte, size, 0), (b'x', 1, size)] {
            let (place, room) = slab.room(size);
            assert_eq!((place.start, room.len()), (start, size));
            room.fill(byte);
        }
        slab.share()
    }

    #[test]
    fn a_piece_is_used_again_only_while_others_are_in_use() {
        let slabs = Slabs::default();
        let fill = |byte| fill(&slabs, byte, 1000);
        let first = fill(1);
        let second = fill(2);
        let place = second.as_ptr();
        // A value keeps the whole piece from being used again.
        let value = second.slice(..10);
        drop(second);
        let third = fill(3);
        assert_ne!(third.as_ptr(), place);
        assert_eq!(value, [2; 10].as_slice());
        drop(value);
        let fourth = fill(4);
        assert_eq!(fourth.as_ptr(), place);
        assert_eq!((first[0], third[0], fourth[0], fourth[1000]), (1, 3, 4, b'x'));
        drop((first, third, fourth));
        let pool = slabs.0.lock();
        assert_eq!((pool.used, pool.free.len()), (0, 0));
    }

    #[test]
    fn a_piece_shows_what_it_was_filled_with_and_nothing_of_earlier_values() {
        let slabs = Slabs::default();
        let kept = fill(&slabs, 1, 10);
        let large = fill(&slabs, 2, 1000);
        let place = large.as_ptr();
        drop(large);
        let small = fill(&slabs, 3, 500);
        assert_eq!((small.as_ptr(), small.len()), (place, 501));
        assert!(small[..500] == [3; 500]);
        drop(small);
        // One that is too small for what comes is left for others.
        let larger = fill(&slabs, 4, 2000);
        assert_ne!(larger.as_ptr(), place);
        assert_eq!(larger.len(), 2001);
        assert_eq!(fill(&slabs, 5, 900).as_ptr(), place);
        drop(kept);
    }
}
