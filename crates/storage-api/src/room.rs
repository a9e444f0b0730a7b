//! Memory for what is read together.

use bytes::BytesMut;

/// Forms of up to so many bytes share memory. What a larger one saves by it is little.
const SMALL: usize = 2 * 1024;
/// Bytes of a piece that is shared: the first one, and the largest.
const FIRST: usize = 4 * 1024;
const LARGEST: usize = 32 * 1024;

/// Where the served forms of objects go that are read together, as those of a list are: small ones lie in pieces of memory
/// that some of them share, which saves as many allocations as there are objects.
///
/// A piece is kept for as long as anybody holds one of the objects in it. So this is for what is mostly kept together and
/// let go together; it may cost as much memory again as the small ones among the objects take, and no more.
#[derive(Debug, Default)]
pub struct Room {
    /// What is left of the last piece.
    left: BytesMut,
    /// Bytes of the next one; none where nothing is shared.
    next: usize,
}

impl Room {
    /// Memory of its own for each.
    pub fn apart() -> Self {
        Self {
            left: BytesMut::new(),
            next: 0,
        }
    }

    /// Memory that small ones share.
    pub fn shared() -> Self {
        Self {
            left: BytesMut::new(),
            next: FIRST,
        }
    }

    /// An empty buffer for just so many bytes.
    #[inline]
    pub(crate) fn buffer(&mut self, bytes: usize) -> BytesMut {
        if self.next == 0 || bytes > SMALL {
            return BytesMut::with_capacity(bytes);
        }
        if bytes > self.left.capacity() {
            self.left = BytesMut::with_capacity(self.next);
            self.next = (self.next * 2).min(LARGEST);
        }
        let behind = self.left.split_off(bytes);
        std::mem::replace(&mut self.left, behind)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{FIRST, LARGEST, Room, SMALL};

    fn filled(room: &mut Room, bytes: usize) -> Bytes {
        let mut buffer = room.buffer(bytes);
        assert!(buffer.is_empty() && buffer.capacity() >= bytes);
        buffer.resize(bytes, 7);
        buffer.freeze()
    }

    /// How many pieces of memory forms of these sizes take up: those that do not begin where another one ended.
    fn pieces(mut room: Room, sizes: &[usize]) -> usize {
        let forms: Vec<Bytes> = sizes.iter().map(|size| filled(&mut room, *size)).collect();
        assert!(forms.iter().zip(sizes).all(|(form, size)| form.len() == *size));
        let ends: Vec<_> = forms.iter().map(|form| form.as_ptr_range().end).collect();
        forms.iter().filter(|form| !ends.contains(&form.as_ptr())).count()
    }

    #[test]
    fn small_forms_share_memory_where_that_is_wanted() {
        assert_eq!(pieces(Room::shared(), &[FIRST / 4; 4]), 1);
        assert_eq!(pieces(Room::shared(), &[FIRST / 4; 5]), 2, "one more does not fit");
        assert_eq!(pieces(Room::shared(), &[SMALL + 1; 3]), 3, "large ones do not share");
        assert_eq!(pieces(Room::shared(), &[100, SMALL + 1, 100]), 2, "nor end a piece");
    }

    #[test]
    fn pieces_grow_up_to_a_size_so_that_a_few_small_forms_take_little() {
        let mut room = Room::shared();
        for _ in 0..100 {
            filled(&mut room, SMALL);
        }
        assert_eq!(room.next, LARGEST);
        assert_eq!(filled(&mut Room::apart(), 100).len(), 100);
        assert_eq!(Room::apart().next, 0, "and do not where nothing is shared");
    }
}
