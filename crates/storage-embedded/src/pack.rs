//! Values as the file has them: compressed, where that makes them smaller.
//!
//! An object is text that repeats itself, and the storage engine gives a row as many bytes as the next power of two of
//! pages has. A third of the bytes is one page where it was four: as much less to write, to sync, to read and to
//! allocate for reading. The format is an LZ4 block without a frame: taking one apart costs less than reading the
//! larger row would have.

use bytes::Bytes;
use lz4_flex::block;

/// Values below this share a page with others anyway, and repeat little.
const SMALLEST: usize = 256;
/// A value that does not lose this part of its bytes, as an encrypted one, is written as it is.
const LEAST_GAIN: usize = 8;

/// A value in fewer bytes; none where it would not be worth it.
pub(crate) fn pack(value: &[u8]) -> Option<Bytes> {
    if value.len() < SMALLEST {
        return None;
    }
    let mut room = vec![0; block::get_maximum_output_size(value.len())];
    let used = block::compress_into(value, &mut room).ok()?;
    if used > value.len() - value.len() / LEAST_GAIN {
        return None;
    }
    room.get(..used).map(Bytes::copy_from_slice)
}

/// Restores a packed value into all of `value`; whether it is one of exactly so many bytes.
#[must_use]
pub(crate) fn unpack(packed: &[u8], value: &mut [u8]) -> bool {
    block::decompress_into(packed, value).is_ok_and(|restored| restored == value.len())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A value with as much repetition as objects have: words of a small set, and numbers between them.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            Just("\"name\":\"".to_owned()),
            Just("\",\"value\":\"".to_owned()),
            Just("metadata".to_owned()),
            Just("x".repeat(300)),
            "[0-9a-f]{0,24}",
        ];
        vec(word, 0..400).prop_map(|words| words.concat().into_bytes())
    }

    fn check(value: &[u8]) {
        let Some(packed) = pack(value) else { return };
        assert!(
            packed.len() <= value.len() - value.len() / 8,
            "{} of {}",
            packed.len(),
            value.len()
        );
        let mut restored = vec![7; value.len()];
        assert!(unpack(&packed, &mut restored) && restored == value);
        // Room of another size than the value's is noticed.
        assert!(!unpack(&packed, &mut vec![0; value.len() + 1]));
        assert!(!unpack(&packed, &mut vec![0; value.len() - 1]));
    }

    proptest! {
        #[test]
        fn what_is_packed_is_restored(value in text()) {
            check(&value);
        }

        #[test]
        fn bytes_of_any_kind_are_restored(value in vec(any::<u8>(), 0..2000), times in 1..9_usize) {
            check(&value.repeat(times));
        }

        #[test]
        fn what_nobody_packed_fills_no_more_than_its_room(bytes in vec(any::<u8>(), 0..600), room in 0..2000_usize) {
            // Whatever it says: no panic, and success only where all of the room is filled.
            let mut value = vec![0; room];
            let _ = unpack(&bytes, &mut value);
        }

        #[test]
        fn damage_of_a_packed_value_never_panics(value in text(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            if let Some(packed) = pack(&value) {
                let mut damaged = packed.to_vec();
                damaged[at.index(packed.len())] ^= 1 << bit;
                let _ = unpack(&damaged, &mut vec![0; value.len()]);
            }
        }
    }

    #[test]
    fn what_is_small_or_repeats_nothing_stays_as_it_is() {
        let digest = |n: usize| crc32fast::hash(&n.to_le_bytes()).to_le_bytes();
        let random: Vec<u8> = (0..5_000).flat_map(digest).collect();
        for (name, value, packs) in [
            ("nothing", Vec::new(), false),
            ("one byte less than is packed", vec![1; SMALLEST - 1], false),
            ("the smallest", vec![1; SMALLEST], true),
            (
                "larger than what a table of the first kind can point into",
                vec![1; 70_000],
                true,
            ),
            ("encrypted", random.clone(), false),
            (
                "a twelfth of it repeats",
                [random.as_slice(), &[0; 1_800]].concat(),
                false,
            ),
            (
                "a quarter of it repeats",
                [random.as_slice(), &[0; 6_600]].concat(),
                true,
            ),
        ] {
            assert_eq!(pack(&value).is_some(), packs, "{name}");
            check(&value);
        }
    }
}
