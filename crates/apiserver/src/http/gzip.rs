//! A gzip document put together from parts that were compressed before: header, segments, combined checksum.
//!
//! A segment is the deflate form of some bytes that ends on a byte boundary and refers to nothing before it, so that any
//! sequence of segments is a valid stream. The checksum of the whole follows from those of the parts: that of a sequence is
//! the first one, shifted by the length of the second, plus the second one, in the arithmetic of CRC-32's polynomials. The
//! shift is the costly part and depends on the length alone, so each segment brings its own.

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use apiserver_storage_api::BoxError;

/// Deflate, no flags, no time, fastest compression, unknown system (RFC 1952).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
/// The last block: stored, and empty.
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];
/// The longest stored block.
const MAX_STORED: usize = u16::MAX as usize;

/// CRC-32's polynomial, lowest power in the highest bit.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// The polynomials 1 and x^8 in that order of bits.
const ONE: u32 = 1 << 31;
const BYTE: u32 = 1 << 23;

/// Some bytes in a form that can stand anywhere in a gzip document.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    deflate: Bytes,
    check: Check,
}

impl Segment {
    /// Bytes of memory.
    pub(crate) fn weight(&self) -> usize {
        self.deflate.len() + size_of::<Self>()
    }
}

/// What is known of a piece of plain bytes.
#[derive(Debug, Clone, Copy)]
struct Check {
    crc: u32,
    /// x to the power of the length in bits.
    shift: u32,
    /// The length in bytes, as far as gzip counts it.
    length: u32,
}

impl Check {
    const EMPTY: Self = Self {
        crc: 0,
        shift: ONE,
        length: 0,
    };

    fn of(plain: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(plain);
        Self {
            crc: crc.sum(),
            shift: power_of_byte(plain.len() as u64),
            length: crc.amount(),
        }
    }

    fn then(self, next: Self) -> Self {
        Self {
            crc: multiply(self.crc, next.shift) ^ next.crc,
            shift: multiply(self.shift, next.shift),
            length: self.length.wrapping_add(next.length),
        }
    }
}

/// The product of two polynomials, modulo CRC-32's.
fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut rest = a;
    while rest != 0 {
        if rest & ONE != 0 {
            product ^= b;
        }
        rest <<= 1;
        b = (b >> 1) ^ if b & 1 == 0 { 0 } else { POLYNOMIAL };
    }
    product
}

/// x^8 to this power.
fn power_of_byte(mut exponent: u64) -> u32 {
    let (mut power, mut square) = (ONE, BYTE);
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = multiply(power, square);
        }
        square = multiply(square, square);
        exponent >>= 1;
    }
    power
}

/// Makes segments.
pub(crate) struct Compressor(Compress);

impl Default for Compressor {
    fn default() -> Self {
        Self(Compress::new(Compression::fast(), false))
    }
}

impl Compressor {
    pub(crate) fn segment(&mut self, plain: &[u8]) -> Result<Segment, BoxError> {
        let before = self.0.total_in();
        let mut deflate = Vec::with_capacity(plain.len() / 4 + 64);
        loop {
            let done = usize::try_from(self.0.total_in() - before)?;
            let rest = plain.get(done..).unwrap_or_default();
            // A full flush: to a byte boundary, and nothing after it refers to what was before.
            let status = self.0.compress_vec(rest, &mut deflate, FlushCompress::Full)?;
            let consumed = self.0.total_in() - before == plain.len() as u64;
            if consumed && deflate.len() < deflate.capacity() {
                break;
            }
            if status == Status::StreamEnd {
                return Err("the compressor ended in the middle".into());
            }
            deflate.reserve(plain.len() / 4 + 64);
        }
        deflate.shrink_to_fit();
        Ok(Segment {
            deflate: deflate.into(),
            check: Check::of(plain),
        })
    }
}

/// A gzip document that is being put together. What is ready is taken from the front of the buffer.
pub(crate) struct Document {
    check: Check,
    /// Bytes as they are that are not written yet: one block for several pieces.
    waiting: Vec<u8>,
}

impl Document {
    /// Begins a document.
    pub(crate) fn begin(out: &mut BytesMut) -> Self {
        out.extend_from_slice(&HEADER);
        Self {
            check: Check::EMPTY,
            waiting: Vec::new(),
        }
    }

    /// Adds bytes as they are: for the few between segments.
    pub(crate) fn stored(&mut self, plain: &[u8], out: &mut BytesMut) {
        self.waiting.extend_from_slice(plain);
        if self.waiting.len() >= MAX_STORED {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut BytesMut) {
        if self.waiting.is_empty() {
            return;
        }
        for block in self.waiting.chunks(MAX_STORED) {
            // Never above the maximum: the chunks are cut to it.
            let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&[0]);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(block);
        }
        self.check = self.check.then(Check::of(&self.waiting));
        self.waiting.clear();
    }

    /// Adds a segment.
    pub(crate) fn segment(&mut self, segment: &Segment, out: &mut BytesMut) {
        self.flush(out);
        out.extend_from_slice(&segment.deflate);
        self.check = self.check.then(segment.check);
    }

    /// Ends the document.
    pub(crate) fn end(mut self, out: &mut BytesMut) {
        self.flush(out);
        out.extend_from_slice(&LAST_BLOCK);
        out.extend_from_slice(&self.check.crc.to_le_bytes());
        out.extend_from_slice(&self.check.length.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn unpacked(document: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        // Checks the checksum and the length at the end.
        flate2::read::GzDecoder::new(document).read_to_end(&mut plain).unwrap();
        plain
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn segments_in_any_order_and_number_are_one_document() {
        let mut compressor = Compressor::default();
        let parts: Vec<Vec<u8>> = vec![
            b"{\"a\":1}".to_vec(),
            Vec::new(),
            b"same text, same text, same text".repeat(1_000),
            noise(200_000),
            b"x".to_vec(),
        ];
        let segments: Vec<_> = parts.iter().map(|part| compressor.segment(part).unwrap()).collect();
        for order in [vec![], vec![0], vec![4, 3, 2, 1, 0], vec![2, 2, 2, 0, 3, 3, 1]] {
            let (mut out, mut want) = (BytesMut::new(), b"[".to_vec());
            let mut document = Document::begin(&mut out);
            document.stored(b"[", &mut out);
            for at in order {
                document.segment(&segments[at], &mut out);
                document.stored(b",", &mut out);
                want.extend_from_slice(&parts[at]);
                want.push(b',');
            }
            let long = noise(MAX_STORED * 2 + 7);
            document.stored(&long, &mut out);
            want.extend_from_slice(&long);
            document.end(&mut out);
            assert!(unpacked(&out) == want);
        }
        let text = compressor.segment(&parts[2]).unwrap();
        assert!(text.weight() < parts[2].len() / 20, "{} bytes", text.weight());
    }

    #[test]
    fn a_checksum_follows_from_those_of_the_parts() {
        let bytes = noise(1_000);
        for cut in [0, 1, 7, 500, 999, 1_000] {
            let (front, back) = bytes.split_at(cut);
            let whole = Check::of(front).then(Check::of(back));
            assert_eq!(whole.crc, Check::of(&bytes).crc, "{cut}");
            assert_eq!(whole.shift, Check::of(&bytes).shift, "{cut}");
        }
    }
}
