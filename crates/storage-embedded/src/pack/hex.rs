//! Hexadecimal digits in half the bytes.
//!
//! What an object has that is not in another one is digests and identities in hexadecimal digits: those of its images
//! and containers alone are half of a packed pod. An LZ4 block has a byte for each digit, because it refers to what was
//! there before and nothing else. So runs of digits are folded two into a byte first.
//!
//! A folded value is the number of its runs (4 bytes), for each run how many bytes come before it since the last one (2)
//! and how many pairs of digits it has (1), and the value itself with the runs folded. Numbers are little-endian.

use std::ops::Range;

/// Digits of the shortest run.
const SHORTEST: usize = 16;
/// The part of a value that folding must save, or it is left out.
const LEAST_GAIN: usize = 32;
const COUNT: usize = 4;
const RUN: usize = 3;

/// Both digits of a byte.
static DIGITS: [[u8; 2]; 256] = {
    let mut digits = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        let each = b"0123456789abcdef";
        digits[byte] = [each[byte >> 4], each[byte & 15]];
        byte += 1;
    }
    digits
};

/// The value of a digit; 255 for what is none. Upper case is none, because it could not be told apart afterwards.
static WORTH: [u8; 256] = {
    let mut worth = [255; 256];
    let mut byte: u8 = 0;
    while byte < 16 {
        worth[DIGITS[byte as usize][1] as usize] = byte;
        byte += 1;
    }
    worth
};

fn is_digit(byte: &u8) -> bool {
    WORTH[usize::from(*byte)] < 16
}

/// The value with its runs folded; none where that would save too little.
pub(super) fn fold(value: &[u8]) -> Option<Vec<u8>> {
    let runs = runs(value);
    let saved: usize = runs.iter().map(|run| run.len() / 2).sum();
    if saved < COUNT + 2 * RUN * runs.len() + value.len() / LEAST_GAIN {
        return None;
    }
    let mut folded = Vec::with_capacity(value.len());
    folded.extend_from_slice(&[0; COUNT]);
    let (mut count, mut seen) = (0_u32, 0);
    let mut list = |gap: usize, pairs: usize| {
        let (gap, pairs) = (u16::try_from(gap).ok()?, u8::try_from(pairs).ok()?);
        folded.extend_from_slice(&gap.to_le_bytes());
        folded.push(pairs);
        count += 1;
        Some(())
    };
    for run in &runs {
        let mut gap = run.start - seen;
        while gap > usize::from(u16::MAX) {
            list(usize::from(u16::MAX), 0)?;
            gap -= usize::from(u16::MAX);
        }
        let mut pairs = run.len() / 2;
        while pairs > usize::from(u8::MAX) {
            list(gap, usize::from(u8::MAX))?;
            pairs -= usize::from(u8::MAX);
            gap = 0;
        }
        list(gap, pairs)?;
        seen = run.end;
    }
    folded[..COUNT].copy_from_slice(&count.to_le_bytes());
    seen = 0;
    for run in runs {
        folded.extend_from_slice(&value[seen..run.start]);
        seen = run.end;
        let pairs = value[run].chunks_exact(2);
        folded.extend(pairs.map(|pair| WORTH[usize::from(pair[0])] << 4 | WORTH[usize::from(pair[1])]));
    }
    folded.extend_from_slice(&value[seen..]);
    // A value of long gaps and short runs could have become longer.
    (folded.len() < value.len()).then_some(folded)
}

/// Runs of an even number of digits.
fn runs(value: &[u8]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    // Every run of sufficient length has a digit at one of the places that are looked at.
    let (mut after_last, mut at) = (0, SHORTEST - 1);
    while let Some(byte) = value.get(at) {
        if !is_digit(byte) {
            at += SHORTEST;
            continue;
        }
        let before = value[after_last..at].iter().rposition(|byte| !is_digit(byte));
        let start = before.map_or(after_last, |before| after_last + before + 1);
        let after = value[at..].iter().position(|byte| !is_digit(byte));
        let end = after.map_or(value.len(), |after| at + after);
        if end - start >= SHORTEST {
            runs.push(start..end - (end - start) % 2);
        }
        after_last = end;
        at = end + SHORTEST;
    }
    runs
}

/// Restores a folded value into all of `value`; none where it is not one of exactly so many bytes.
pub(super) fn unfold(folded: &[u8], mut value: &mut [u8]) -> Option<()> {
    let (count, rest) = folded.split_first_chunk::<COUNT>()?;
    let runs = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(RUN)?;
    let (runs, mut text) = rest.split_at_checked(runs)?;
    for run in runs.chunks_exact(RUN) {
        let (gap, pairs) = (usize::from(u16::from_le_bytes([run[0], run[1]])), usize::from(run[2]));
        let (plain, behind) = text.split_at_checked(gap)?;
        let (pairs, behind) = behind.split_at_checked(pairs)?;
        text = behind;
        let (room, behind) = value.split_at_mut_checked(gap)?;
        room.copy_from_slice(plain);
        let (room, behind) = behind.split_at_mut_checked(pairs.len() * 2)?;
        value = behind;
        for (digits, byte) in room.chunks_exact_mut(2).zip(pairs) {
            digits.copy_from_slice(&DIGITS[usize::from(*byte)]);
        }
    }
    if text.len() != value.len() {
        return None;
    }
    value.copy_from_slice(text);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Digits and what is none, in runs of all lengths.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let run = prop_oneof![
            "[0-9a-f]{0,40}",
            "[0-9a-f]{500,1100}",
            "[A-Zg-z\"]{1,30}",
            Just("-".repeat(70_000)),
        ];
        vec(run, 0..30).prop_map(|runs| runs.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn what_is_folded_is_restored(value in value()) {
            if let Some(folded) = fold(&value) {
                prop_assert!(folded.len() < value.len());
                let mut restored = vec![7; value.len()];
                prop_assert!(unfold(&folded, &mut restored).is_some() && restored == value);
                prop_assert!(unfold(&folded, &mut vec![0; value.len() + 1]).is_none());
                prop_assert!(unfold(&folded, &mut vec![0; value.len() - 1]).is_none());
                prop_assert!(unfold(&folded[..folded.len() - 1], &mut restored).is_none());
            }
        }

        #[test]
        fn what_nobody_folded_is_no_panic(bytes in vec(any::<u8>(), 0..60), count in 0..9_u32, room in 0..300_usize) {
            let folded = [count.to_le_bytes().as_slice(), &bytes].concat();
            let _ = unfold(&folded, &mut vec![0; room]);
        }
    }

    #[test]
    fn every_long_run_is_found_wherever_it_is() {
        for length in [1, 2, SHORTEST - 1, SHORTEST, SHORTEST + 1, 40, 600] {
            for before in 0..3 * SHORTEST {
                let value = ["a", &"-".repeat(before), &"0f".repeat(length)[..length], "-a"].concat();
                let start = if before == 0 { 0 } else { before + 1 };
                let digits = if before == 0 { length + 1 } else { length };
                let expected = (digits >= SHORTEST).then_some(start..start + digits / 2 * 2);
                assert_eq!(runs(value.as_bytes()), Vec::from_iter(expected), "{before} {length}");
            }
        }
    }

    #[test]
    fn digits_take_half_and_upper_case_stays() {
        let digits = "0123456789abcdef".repeat(20);
        let folded = fold(digits.as_bytes()).expect("worth it");
        assert_eq!(folded.len(), COUNT + RUN + digits.len() / 2);
        assert_eq!(fold(digits.to_uppercase().as_bytes()), None);
        assert_eq!(fold(&[]), None);
        assert_eq!(
            fold("no digits here, or next to none: abc123".repeat(9).as_bytes()),
            None
        );
    }
}
