//! CBOR in Kubernetes' profile: self-described, strings as byte strings, keys sorted bytewise, shortest floats.
//!
//! Written: the prefix d9 d9 f7, definite lengths, names and text as byte strings, integers where the number is one,
//! floats in the shortest form that keeps the value. Read: also text strings, indefinite lengths, and byte strings
//! tagged with their text encoding; refused are duplicate keys, NaN and infinities, bignums, and anything without a
//! meaning in JSON. Nesting is bounded as in the JSON codec.
//!
//! Upstream: k8s.io/apimachinery pkg/runtime/serializer/cbor.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Number, Value};

use crate::codec::MAX_DEPTH;
use crate::normalizer::Malformed;

/// What every document begins with: tag 55799, "this is CBOR".
const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];

/// Decodes a document.
///
/// # Errors
///
/// [`Malformed`] with the offset of what cannot be read.
pub fn from_slice(document: &[u8]) -> Result<Value, Malformed> {
    let start = if document.starts_with(&SELF_DESCRIBED) {
        SELF_DESCRIBED.len()
    } else {
        0
    };
    let mut reader = Reader { document, at: start };
    let value = reader.value(0)?;
    if reader.at < document.len() {
        return Err(reader.fault("bytes behind the document"));
    }
    Ok(value)
}

/// Encodes a value.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&SELF_DESCRIBED);
    write(value, &mut out);
    out
}

mod major {
    pub(super) const UNSIGNED: u8 = 0;
    pub(super) const NEGATIVE: u8 = 1;
    pub(super) const BYTES: u8 = 2;
    pub(super) const TEXT: u8 = 3;
    pub(super) const ARRAY: u8 = 4;
    pub(super) const MAP: u8 = 5;
    pub(super) const TAG: u8 = 6;
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(false) => out.push(0xf4),
        Value::Bool(true) => out.push(0xf5),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            write_head(major::ARRAY, items.len() as u64, out);
            items.iter().for_each(|item| write(item, out));
        }
        Value::Object(fields) => {
            write_head(major::MAP, fields.len() as u64, out);
            let mut fields: Vec<_> = fields.iter().collect();
            // Bytewise order of the encoded names: their length stands before their bytes.
            fields.sort_unstable_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
            for (name, value) in fields {
                write_string(name, out);
                write(value, out);
            }
        }
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    write_head(major::BYTES, text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    match (number.as_i64(), number.as_f64()) {
        (Some(integer @ 0..), _) => write_head(major::UNSIGNED, integer.unsigned_abs(), out),
        (Some(integer), _) => write_head(major::NEGATIVE, integer.unsigned_abs() - 1, out),
        (None, float) => write_float(float.unwrap_or_default(), out),
    }
}

fn write_float(float: f64, out: &mut Vec<u8>) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whether it loses anything is checked in the next line"
    )]
    let single = float as f32;
    if f64::from(single).to_bits() != float.to_bits() {
        out.push(0xfb);
        out.extend_from_slice(&float.to_be_bytes());
        return;
    }
    match half_of(single) {
        Some(half) => {
            out.push(0xf9);
            out.extend_from_slice(&half.to_be_bytes());
        }
        None => {
            out.push(0xfa);
            out.extend_from_slice(&single.to_be_bytes());
        }
    }
}

/// The half-precision form of a number, where it is exact.
fn half_of(single: f32) -> Option<u16> {
    let bits = single.to_bits();
    let sign = u16::from(bits >> 31 == 1) << 15;
    let exponent = i32::try_from((bits >> 23) & 0xff).ok()? - 127;
    let mantissa = bits & 0x7f_ffff;
    if single == 0.0 {
        return Some(sign);
    }
    match exponent {
        -14..=15 if mantissa & 0x1fff == 0 => {
            Some(sign | (u16::try_from(exponent + 15).ok()? << 10) | u16::try_from(mantissa >> 13).ok()?)
        }
        // Below the normal range the leading one moves into the mantissa.
        -24..=-15 => {
            let shift = u32::try_from(-exponent - 1).ok()?;
            let full = mantissa | 0x80_0000;
            let exact = full.trailing_zeros() >= shift;
            exact
                .then(|| u16::try_from(full >> shift).ok().map(|mantissa| sign | mantissa))
                .flatten()
        }
        _ => None,
    }
}

fn float_of_half(half: u16) -> f64 {
    let (exponent, mantissa) = ((half >> 10) & 0x1f, f64::from(half & 0x3ff));
    let size = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (mantissa + 1024.0) * 2f64.powi(i32::from(exponent) - 25),
    };
    if half & 0x8000 == 0 { size } else { -size }
}

fn write_head(major: u8, argument: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    let bytes = argument.to_be_bytes();
    let [.., four, three, two, one] = bytes;
    match argument {
        0..24 => out.push(major | one),
        24..0x100 => out.extend_from_slice(&[major | 24, one]),
        0x100..0x1_0000 => out.extend_from_slice(&[major | 25, two, one]),
        0x1_0000..0x1_0000_0000 => out.extend_from_slice(&[major | 26, four, three, two, one]),
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}

struct Reader<'a> {
    document: &'a [u8],
    at: usize,
}

/// The length of a string or the number of items; absent for an indefinite one.
type Length = Option<u64>;

impl<'a> Reader<'a> {
    fn fault(&self, what: &str) -> Malformed {
        Malformed(format!("cbor: {what} at offset {}", self.at))
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = self
            .document
            .get(self.at)
            .copied()
            .ok_or_else(|| self.fault("document ends early"))?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length));
        let bytes = end.and_then(|end| self.document.get(self.at..end));
        let bytes = bytes.ok_or_else(|| self.fault("document ends early"))?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn argument(&mut self, info: u8) -> Result<u64, Malformed> {
        let length = match info {
            0..24 => return Ok(u64::from(info)),
            24..=27 => 1 << (info - 24),
            _ => return Err(self.fault("reserved length")),
        };
        Ok(self
            .take(length)?
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn length(&mut self, info: u8) -> Result<Length, Malformed> {
        if info == 31 {
            Ok(None)
        } else {
            self.argument(info).map(Some)
        }
    }

    /// Whether an indefinite string, array or map ends here.
    fn at_break(&mut self) -> bool {
        let there = self.document.get(self.at) == Some(&0xff);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, depth: usize) -> Result<Value, Malformed> {
        if depth > MAX_DEPTH {
            return Err(self.fault("nested too deeply"));
        }
        let head = self.byte()?;
        let info = head & 0x1f;
        match head >> 5 {
            major::UNSIGNED => {
                let value = self.argument(info)?;
                i64::try_from(value)
                    .map(Into::into)
                    .map_err(|_| self.fault("integer out of range"))
            }
            major::NEGATIVE => {
                let value = self.argument(info)?;
                i64::try_from(value)
                    .map(|value| (-1 - value).into())
                    .map_err(|_| self.fault("integer out of range"))
            }
            kind @ (major::BYTES | major::TEXT) => {
                let bytes = self.string(kind, info)?;
                self.text(bytes).map(Value::String)
            }
            major::ARRAY => self.array(info, depth),
            major::MAP => self.map(info, depth),
            major::TAG => self.tagged(info, depth),
            _ => self.simple(info),
        }
    }

    fn string(&mut self, kind: u8, info: u8) -> Result<Vec<u8>, Malformed> {
        if let Some(length) = self.length(info)? {
            return Ok(self.take(length)?.to_vec());
        }
        let mut all = Vec::new();
        while !self.at_break() {
            let head = self.byte()?;
            if head >> 5 != kind || head & 0x1f == 31 {
                return Err(self.fault("part of another string"));
            }
            let length = self.argument(head & 0x1f)?;
            all.extend_from_slice(self.take(length)?);
        }
        Ok(all)
    }

    fn text(&self, bytes: Vec<u8>) -> Result<String, Malformed> {
        String::from_utf8(bytes).map_err(|_| self.fault("string is not UTF-8"))
    }

    fn array(&mut self, info: u8, depth: usize) -> Result<Value, Malformed> {
        let mut items = Vec::new();
        match self.length(info)? {
            // The length is the sender's word: memory grows with what is really there.
            Some(length) => {
                for _ in 0..length {
                    items.push(self.value(depth + 1)?);
                }
            }
            None => {
                while !self.at_break() {
                    items.push(self.value(depth + 1)?);
                }
            }
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, info: u8, depth: usize) -> Result<Value, Malformed> {
        let mut fields = Map::new();
        let length = self.length(info)?;
        let mut read = 0;
        while length.map_or_else(|| !self.at_break(), |length| read < length) {
            read += 1;
            let head = self.byte()?;
            let kind = head >> 5;
            if !matches!(kind, major::BYTES | major::TEXT) {
                return Err(self.fault("name of a field is no string"));
            }
            let name = self.string(kind, head & 0x1f)?;
            let name = self.text(name)?;
            let value = self.value(depth + 1)?;
            if fields.insert(name, value).is_some() {
                return Err(self.fault("duplicate field"));
            }
        }
        Ok(Value::Object(fields))
    }

    fn tagged(&mut self, info: u8, depth: usize) -> Result<Value, Malformed> {
        match self.argument(info)? {
            // Times are text already, or seconds.
            0 => self.value(depth + 1),
            1 => match self.value(depth + 1)?.as_f64() {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a cast from float saturates, and so does the time"
                )]
                Some(seconds) => Ok(crate::time::Time::from_unix(seconds.floor() as i64).to_string().into()),
                None => Err(self.fault("time is no number")),
            },
            encoding @ 21..=23 => {
                let head = self.byte()?;
                if head >> 5 != major::BYTES {
                    return Err(self.fault("encoded bytes are no byte string"));
                }
                let bytes = self.string(major::BYTES, head & 0x1f)?;
                Ok(Value::String(match encoding {
                    21 => URL_SAFE_NO_PAD.encode(bytes),
                    22 => STANDARD.encode(bytes),
                    _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                }))
            }
            55799 => self.value(depth + 1),
            _ => Err(self.fault("unknown tag")),
        }
    }

    fn simple(&mut self, info: u8) -> Result<Value, Malformed> {
        let float = match info {
            20 => return Ok(Value::Bool(false)),
            21 => return Ok(Value::Bool(true)),
            22 => return Ok(Value::Null),
            25 => {
                let bits = self.argument(info)?;
                float_of_half(u16::try_from(bits).unwrap_or_default())
            }
            26 => {
                let bits = self.argument(info)?;
                f64::from(f32::from_bits(u32::try_from(bits).unwrap_or_default()))
            }
            27 => f64::from_bits(self.argument(info)?),
            _ => return Err(self.fault("unknown simple value")),
        };
        Number::from_f64(float)
            .map(Value::Number)
            .ok_or_else(|| self.fault("number is not finite"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    // covers: storage-api/VER-12, storage-api/VER-13
    #[test]
    fn writes_and_reads_the_profile() {
        for (value, bytes) in [
            (json!({}), "d9d9f7 a0"),
            (
                json!({ "b": 1, "aa": -1, "a": [] }),
                "d9d9f7 a3 4161 80 4162 01 426161 20",
            ),
            (
                json!([0.5, 1.5, 0.1, 3.4e38, 5.960464477539063e-8]),
                "d9d9f7 85 f93800 f93e00 fb3fb999999999999a fb47eff933c78cdfad f90001",
            ),
            (
                json!([i64::MAX, i64::MIN, 255, 256, 65536]),
                "d9d9f7 85 1b7fffffffffffffff 3b7fffffffffffffff 18ff 190100 1a00010000",
            ),
            (json!([true, false, null, "é"]), "d9d9f7 84 f5 f4 f6 42c3a9"),
        ] {
            assert_eq!(to_vec(&value), hex(bytes), "{value}");
            assert_eq!(from_slice(&hex(bytes)).unwrap(), value);
        }
    }

    #[test]
    fn reads_what_others_may_write_and_refuses_what_json_cannot_say() {
        for (bytes, want) in [
            ("d9d9f7 bf 6161 9f 01 02 ff ff", Some(json!({ "a": [1, 2] }))),
            ("5f 4161 4162 ff", Some(json!("ab"))),
            ("d6 4401020304", Some(json!("AQIDBA=="))),
            ("c1 00", Some(json!("1970-01-01T00:00:00Z"))),
            ("fa 3fc00000", Some(json!(1.5))),
            ("a2 4161 01 4161 02", None),
            ("f9 7e00", None),
            ("f9 7c00", None),
            ("1b ffffffffffffffff", None),
            ("c2 4101", None),
            ("a1 01 02", None),
            ("41 ff", None),
            ("9b ffffffffffffffff", None),
            ("81", None),
            ("00 00", None),
            ("", None),
            ("ff", None),
        ] {
            assert_eq!(from_slice(&hex(bytes)).ok(), want, "{bytes}");
        }
        let deep = [vec![0x81; 200], vec![0x00]].concat();
        assert!(from_slice(&deep).is_err());
    }

    #[test]
    fn another_implementation_reads_what_we_write() {
        let value = json!([1, -5, 0.25, 100000.5, true, null, [[]]]);
        let read: ciborium::Value = ciborium::from_reader(&to_vec(&value)[3..]).unwrap();
        let again: Value = read.deserialized().unwrap();
        assert_eq!(again, value);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_in_nothing_panics_and_numbers_survive(bytes: Vec<u8>, float: f64, integer: i64) {
            let _ = from_slice(&bytes);
            for value in [json!(float), json!(integer)] {
                proptest::prop_assert_eq!(from_slice(&to_vec(&value)).unwrap(), value);
            }
        }
    }
}
