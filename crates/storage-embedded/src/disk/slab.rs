//! Room for the values that one turn reads: one piece for all of them, which later turns use again.
//!
//! A list reads thousands of values, looks at each and lets it go; without this each would be allocated for that moment.
//! A list may look at one part before it asks for the next, so some pieces are kept while nobody reads.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Pieces that are kept for the next turns at most, and the bytes of all of them.
const FREE: usize = 32;
const FREE_BYTES: usize = 12 << 20;
/// The part that a new piece is larger than what it is made for.
const SPARE: usize = 16;

/// Where pieces come from and go to. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Slabs(Arc<Mutex<Pool>>);

#[derive(Debug, Default)]
struct Pool {
    free: Vec<Vec<u8>>,
    free_bytes: usize,
}

impl Slabs {
    /// A piece with room for so many bytes. It comes back when the last of its values is let go.
    pub(super) fn take(&self, size: usize) -> Slab {
        let fitting = self.0.lock().take(size);
        Slab {
            // Somewhat more than is needed now: the next turn's values are about as many and as large.
            bytes: fitting.unwrap_or_else(|| vec![0; size + size / SPARE]),
            filled: 0,
            slabs: self.clone(),
        }
    }
}

impl Pool {
    /// The smallest piece that is large enough. One that is too small would have to grow, which costs as much as a new
    /// one and copies besides.
    fn take(&mut self, size: usize) -> Option<Vec<u8>> {
        let pieces = self.free.iter().enumerate().filter(|(_, bytes)| bytes.len() >= size);
        let (at, _) = pieces.min_by_key(|(_, bytes)| bytes.len())?;
        let bytes = self.free.swap_remove(at);
        self.free_bytes -= bytes.len();
        Some(bytes)
    }

    fn give_back(&mut self, bytes: Vec<u8>) {
        self.free_bytes += bytes.len();
        self.free.push(bytes);
        while self.free.len() > FREE || self.free_bytes > FREE_BYTES {
            // The smallest is the least use to others.
            if self.take(0).is_none() {
                return;
            }
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
        self.slabs.0.lock().give_back(std::mem::take(&mut self.bytes));
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
    fn a_piece_is_used_again_when_the_last_of_its_values_is_gone() {
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
        assert_eq!(slabs.0.lock().free.len(), 3);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let slabs = Slabs::default();
        let free = || {
            let pool = slabs.0.lock();
            let bytes: usize = pool.free.iter().map(Vec::len).sum();
            assert_eq!(bytes, pool.free_bytes);
            (pool.free.len(), bytes)
        };
        let small: Vec<_> = (0..40).map(|n| fill(&slabs, n, 1000)).collect();
        drop(small);
        assert_eq!(free().0, FREE);
        let large: Vec<_> = (0..5).map(|n| fill(&slabs, n, FREE_BYTES / 3)).collect();
        let places: Vec<_> = large.iter().map(|bytes| bytes.as_ptr()).collect();
        drop(large);
        // Small pieces do not keep large ones out for ever.
        let (pieces, bytes) = free();
        assert!(
            (FREE_BYTES / 2..=FREE_BYTES).contains(&bytes) && pieces <= FREE,
            "{pieces} {bytes}"
        );
        assert!(places.contains(&fill(&slabs, 1, FREE_BYTES / 4).as_ptr()));
        // One that is larger than all that may be kept is not kept.
        drop(fill(&slabs, 1, FREE_BYTES));
        assert!(free().1 <= FREE_BYTES);
    }

    #[test]
    fn a_piece_shows_what_it_was_filled_with_and_nothing_of_earlier_values() {
        let slabs = Slabs::default();
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
    }
}
