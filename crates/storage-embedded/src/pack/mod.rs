//! Values as the file has them: compressed, where that makes them smaller.
//!
//! An object is text that repeats itself and others, and the storage engine gives a row as many bytes as the next power
//! of two of pages has. A fifth of the bytes lets two share a page where one had four: as much less to write, to sync, to
//! read and to allocate for reading.
//!
//! A packed value is a method (1 byte) and an LZ4 block that may refer to [`DICTIONARY`] as if it stood before the value.
//! Method 1: the value is in the block. Method 2: the value is in there [folded](hex), and before the block stand the
//! bytes that it then has (4 bytes, little-endian). Taking that apart costs less than reading a larger row would.

mod dictionary;
mod hex;

use std::cell::RefCell;

use bytes::Bytes;
use lz4_flex::block;

use self::dictionary::DICTIONARY;

/// Values below this share a page with many others anyway.
const SMALLEST: usize = 256;
/// A value that does not lose this part of its bytes, as an encrypted one, is written as it is.
const LEAST_GAIN: usize = 8;

const PLAIN: u8 = 1;
const FOLDED: u8 = 2;

/// Bytes of room for unfolding that a thread keeps for the next value.
const KEPT_ROOM: usize = 64 << 10;

thread_local! {
    /// Room for what is unfolded next.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A value in fewer bytes; none where it would not be worth it.
pub(crate) fn pack(value: &[u8]) -> Option<Bytes> {
    if value.len() < SMALLEST {
        return None;
    }
    let packed = match hex::fold(value) {
        Some(folded) => {
            let size = u32::try_from(folded.len()).ok()?.to_le_bytes();
            compress(&[&[FOLDED], size.as_slice()].concat(), &folded)?
        }
        None => compress(&[PLAIN], value)?,
    };
    let worth_it = packed.len() <= value.len() - value.len() / LEAST_GAIN;
    worth_it.then(|| Bytes::copy_from_slice(&packed))
}

fn compress(head: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let mut packed = vec![0; head.len() + block::get_maximum_output_size(text.len())];
    let (start, room) = packed.split_at_mut(head.len());
    start.copy_from_slice(head);
    let used = block::compress_into_with_dict(text, room, DICTIONARY).ok()?;
    packed.truncate(head.len() + used);
    Some(packed)
}

/// Restores a packed value into all of `value`; whether it is one of exactly so many bytes. Allocates no more than the
/// value has.
#[must_use]
pub(crate) fn unpack(packed: &[u8], value: &mut [u8]) -> bool {
    match packed.split_first() {
        Some((&PLAIN, block)) => decompress(block, value),
        Some((&FOLDED, rest)) => unpack_folded(rest, value).is_some(),
        _ => false,
    }
}

fn unpack_folded(packed: &[u8], value: &mut [u8]) -> Option<()> {
    let (size, block) = packed.split_first_chunk()?;
    let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
    if size > value.len() {
        return None;
    }
    ROOM.with_borrow_mut(|room| {
        if room.len() < size {
            room.resize(size, 0);
        }
        let folded = room.get_mut(..size)?;
        let unfolded = decompress(block, folded).then(|| hex::unfold(folded, value)).flatten();
        if room.len() > KEPT_ROOM {
            *room = Vec::new();
        }
        unfolded
    })
}

fn decompress(block: &[u8], text: &mut [u8]) -> bool {
    block::decompress_into_with_dict(block, text, DICTIONARY).is_ok_and(|restored| restored == text.len())
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
            "[0-9a-f]{0,80}",
            Just("\"terminationMessagePath\":\"/dev/termination-log\"".to_owned()),
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
        fn what_nobody_packed_is_no_panic(bytes in vec(any::<u8>(), 0..600), room in 0..2000_usize) {
            // Whatever it says: no panic.
            for method in [PLAIN, FOLDED] {
                let size = u32::try_from(room / 2).unwrap().to_le_bytes();
                let _ = unpack(&[&[method], size.as_slice(), &bytes].concat(), &mut vec![0; room]);
            }
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

    #[test]
    fn sizes_that_damage_chose_are_not_believed() {
        let value = "0123456789abcdef".repeat(100).into_bytes();
        let mut packed = pack(&value).expect("worth it").to_vec();
        assert_eq!(packed[0], FOLDED);
        packed[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(!unpack(&packed, &mut vec![0; value.len()]));
        assert!(ROOM.with_borrow(Vec::len) <= value.len());
        for method in [0, 3, 255] {
            packed[0] = method;
            assert!(!unpack(&packed, &mut vec![0; value.len()]), "method {method}");
        }
        assert!(!unpack(&[], &mut []));
    }

    #[test]
    fn the_dictionary_is_the_one_that_files_were_written_with() {
        assert_eq!((DICTIONARY.len(), crc32fast::hash(DICTIONARY)), (10_507, 2_274_845_301));
        assert!(
            DICTIONARY.len() < 16 << 10,
            "all of it is gone through for every value that is written"
        );
    }

    /// An object as servers store them; `n` makes it one of its own.
    fn pod(n: u64) -> String {
        let digest: String = (0..4)
            .map(|part| format!("{:016x}", (n * 4 + part).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .collect();
        let container = |at: u64| {
            format!(
                r#"{{"name":"c{at}","image":"example.com/app@sha256:{digest}","resources":{{}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}}"#
            )
        };
        format!(
            r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"a-{n}","namespace":"default","uid":"{n:032x}","creationTimestamp":"2026-11-21T11:04:56Z","labels":{{"app":"a"}}}},"spec":{{"containers":[{}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","securityContext":{{}},"schedulerName":"default-scheduler","enableServiceLinks":true}},"status":{{"phase":"Running","qosClass":"BestEffort"}}}}"#,
            container(n)
        )
    }

    #[test]
    fn an_object_is_less_than_half_though_it_repeats_next_to_nothing_of_its_own() {
        let value = pod(1).into_bytes();
        let packed = pack(&value).expect("worth it");
        assert!(
            packed.len() * 5 < value.len() * 2,
            "{} of {}",
            packed.len(),
            value.len()
        );
        check(&value);
    }
}
