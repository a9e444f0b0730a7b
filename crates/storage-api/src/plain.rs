//! The bytes that need no look when a string in canonical JSON is read: most of them, found sixteen at a time.

use wide::{CmpEq, CmpGt, i8x16};

/// Bytes that are compared at once: as many as the vectors of every processor hold.
const BLOCK: usize = 16;
/// Bytes that are looked at together.
const WINDOW: usize = 64;

/// A bit for each byte of a string that says something: a quote or a backslash, a byte that Go escapes, or one that is
/// not ASCII.
#[inline]
fn specials(block: &[u8; BLOCK]) -> u64 {
    let bytes = i8x16::new(block.map(u8::cast_signed));
    // Bytes that differ in one bit are looked for at once: `"` and `&`, `<` and `>`.
    let one_of =
        |a: u8, b: u8| (bytes & i8x16::splat(!(a ^ b).cast_signed())).cmp_eq(i8x16::splat((a & b).cast_signed()));
    // As signed numbers, control characters and bytes above ASCII are one range.
    let outside = i8x16::splat(0x20).cmp_gt(bytes);
    let backslash = bytes.cmp_eq(i8x16::splat(b'\\'.cast_signed()));
    u64::from(
        (outside | backslash | one_of(b'"', b'&') | one_of(b'<', b'>'))
            .move_mask()
            .cast_unsigned(),
    )
}

/// As [`specials`], of a whole window.
#[inline]
fn specials_of_window(window: &[u8; WINDOW]) -> u64 {
    let (blocks, _) = window.as_chunks();
    blocks
        .iter()
        .rev()
        .fold(0, |found, block| found << BLOCK | specials(block))
}

/// Finds the special bytes of one text on the way through it: quotes and backslashes, what Go escapes (controls, `<`, `>`
/// and `&`), and what is not ASCII. What was looked at is remembered, so that each byte is looked at once, however
/// short the strings are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Specials {
    begin: usize,
    /// A bit for each special byte from there on.
    found: u64,
}

impl Specials {
    /// Where the first special byte from `at` on stands; behind the end, where there is none. The text is the same each
    /// time.
    #[inline(always)]
    #[must_use]
    pub fn next(&mut self, text: &[u8], at: usize) -> usize {
        let offset = at.wrapping_sub(self.begin);
        if offset < WINDOW {
            let found = self.found >> offset;
            if found != 0 {
                return at + found.trailing_zeros() as usize;
            }
        }
        self.look(text, at)
    }

    /// Looks at what comes next.
    #[inline(never)]
    fn look(&mut self, text: &[u8], at: usize) -> usize {
        // What is remembered has nothing more. Before anything was seen, it has nothing at all.
        let seen = self.begin + WINDOW;
        let mut begin = if self.found != 0 && (self.begin..seen).contains(&at) {
            seen
        } else {
            at
        };
        while let Some(window) = text.get(begin..).and_then(<[u8]>::first_chunk::<WINDOW>) {
            let found = specials_of_window(window);
            if found != 0 {
                (self.begin, self.found) = (begin, found);
                return begin + found.trailing_zeros() as usize;
            }
            begin += WINDOW;
        }
        self.look_at_end(text, begin)
    }

    /// Looks at what is left behind the last whole window.
    fn look_at_end(&mut self, text: &[u8], from: usize) -> usize {
        let from = from.min(text.len());
        let rest = text.get(from..).unwrap_or_default();
        let mut window = [b' '; WINDOW];
        if let Some(own) = window.get_mut(..rest.len()) {
            own.copy_from_slice(rest);
        }
        let found = specials_of_window(&window);
        if found == 0 {
            return from + rest.len();
        }
        (self.begin, self.found) = (from, found);
        from + found.trailing_zeros() as usize
    }
}

/// The length of an escape as Go writes it, `bytes` beginning with the backslash; `None` for any other.
#[inline]
#[must_use]
pub fn canonical_escape(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f' => Some(2),
        b'u' => match bytes.get(2..6)? {
            b"2028" | b"2029" | b"003c" | b"003e" | b"0026" => Some(6),
            [b'0', b'0', high @ (b'0' | b'1'), low @ (b'0'..=b'9' | b'a'..=b'f')] => {
                let has_letter = *high == b'0' && matches!(low, b'8' | b'9' | b'a' | b'c' | b'd');
                (!has_letter).then_some(6)
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Specials;

    #[test]
    fn every_byte_is_found_at_every_place() {
        for byte in 0..=u8::MAX {
            let is_plain = matches!(byte, 0x20..0x80) && !b"\"\\<>&".contains(&byte);
            for length in [1, 15, 17, 63, 64, 65, 129, 150] {
                for at in 0..length {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    let want = if is_plain { length } else { at };
                    assert_eq!(
                        Specials::default().next(&text, 0),
                        want,
                        "byte {byte:#x} at {at} of {length}"
                    );
                }
            }
        }
        assert_eq!(Specials::default().next(b"", 0), 0);
    }

    #[test]
    fn a_walk_finds_all_of_them_in_order() {
        let mut state = 7_u64;
        for length in 0..400 {
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as usize
            };
            let text: Vec<u8> = (0..length)
                .map(|_| if random() % 9 == 0 { b'"' } else { b'x' })
                .collect();
            let (mut walk, mut at) = (Specials::default(), 0);
            while at < length {
                let want = text[at..]
                    .iter()
                    .position(|byte| *byte == b'"')
                    .map_or(length, |found| at + found);
                assert_eq!(walk.next(&text, at), want, "from {at} in {length}");
                // Some are stepped over, as characters between strings are, and some are asked for again.
                at = want + random() % 80;
                let again = text.get(at..).unwrap_or_default().iter().position(|byte| *byte == b'"');
                if let Some(again) = again {
                    assert_eq!(walk.next(&text, at), at + again, "from {at} in {length}");
                }
            }
        }
    }
}
