//! JSON as Go's encoder writes it: compact, keys sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped, Go's numbers.

use std::ops::Range;

use serde_json::{Map, Number, Value};

use crate::normalizer::Malformed;
pub use crate::plain::{Specials, canonical_escape};

/// Decodes a document. Of duplicate keys the last wins, as in Go.
///
/// # Errors
///
/// [`Malformed`] with line and column.
pub fn from_slice(document: &[u8]) -> Result<Value, Malformed> {
    serde_json::from_slice(document).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Eof => "document ends early",
            _ => "syntax error",
        };
        Malformed(format!(
            "json: {what} at line {} column {}",
            error.line(),
            error.column()
        ))
    })
}

/// Writes a value with sorted keys.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_value(value, &mut out);
    out
}

/// Writes a value with sorted keys (the order that [`serde_json::Map`] keeps).
pub fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_value(item, out);
            }
            out.push(b']');
        }
        Value::Object(fields) => write_fields(fields, out, |_, value, out| write_value(value, out)),
    }
}

/// Writes the fields of an object in the order of their names, each value by `write`.
fn write_fields<'a>(
    fields: &'a Map<String, Value>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(&str, &'a Value, &mut Vec<u8>),
) {
    out.push(b'{');
    let mut fields: Vec<_> = fields.iter().collect();
    // Already sorted unless somebody's build switches on `preserve_order`.
    if !fields.is_sorted_by(|a, b| a.0 <= b.0) {
        fields.sort_by(|a, b| a.0.cmp(b.0));
    }
    for (at, (name, value)) in fields.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        write(name, value, out);
    }
    out.push(b'}');
}

/// Writes an object and tells where the digits of `metadata.resourceVersion` stand in what was appended to `out`.
pub(crate) fn write_object_with_revision(object: &Value, out: &mut Vec<u8>) -> Option<Range<usize>> {
    let revision = object.get("metadata")?.get("resourceVersion")?.as_str()?;
    let mut at = None;
    write_fields(object.as_object()?, out, |name, value, out| match value {
        Value::Object(metadata) if name == "metadata" => write_fields(metadata, out, |name, value, out| {
            if name == "resourceVersion" {
                // Behind the opening quote.
                at = Some(out.len() + 1..out.len() + 1 + revision.len());
            }
            write_value(value, out);
        }),
        value => write_value(value, out),
    });
    at
}

/// Writes a number as Go does: integers as they are, others as the shortest float.
pub fn write_number(number: &Number, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let written = if let Some(integer) = number.as_i64() {
        write!(out, "{integer}")
    } else {
        write_float(number.as_f64().unwrap_or_default(), out)
    };
    debug_assert!(written.is_ok(), "writing into a vector cannot fail");
}

/// Go writes floats between 1e-6 and 1e21 without an exponent, others with one of at least two digits after a minus.
fn write_float(float: f64, out: &mut Vec<u8>) -> std::io::Result<()> {
    use std::io::Write as _;
    let size = float.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return write!(out, "{float}");
    }
    let text = format!("{float:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if exponent.starts_with('-') => write!(out, "{digits}e{exponent}"),
        Some((digits, exponent)) => write!(out, "{digits}e+{exponent}"),
        None => write!(out, "{text}"),
    }
}

/// Writes a string with Go's escapes.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x08 => b"\\b",
            0x0c => b"\\f",
            b'<' => b"\\u003c",
            b'>' => b"\\u003e",
            b'&' => b"\\u0026",
            // U+2028 and U+2029 are e2 80 a8 and e2 80 a9.
            0xa8 if at >= start + 2 && bytes.get(at - 2..at) == Some(&[0xe2, 0x80]) => b"\\u2028",
            0xa9 if at >= start + 2 && bytes.get(at - 2..at) == Some(&[0xe2, 0x80]) => b"\\u2029",
            0..0x20 => {
                out.extend_from_slice(bytes.get(start..at).unwrap_or_default());
                out.extend_from_slice(b"\\u00");
                for nibble in [byte >> 4, byte & 15] {
                    out.push(b"0123456789abcdef".get(usize::from(nibble)).copied().unwrap_or(b'0'));
                }
                start = at + 1;
                continue;
            }
            _ => continue,
        };
        let lead = if byte >= 0x80 { 2 } else { 0 };
        out.extend_from_slice(bytes.get(start..at - lead).unwrap_or_default());
        out.extend_from_slice(escape);
        start = at + 1;
    }
    out.extend_from_slice(bytes.get(start..).unwrap_or_default());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: storage-api/VER-12, storage-api/VER-13
    #[test]
    fn writes_what_go_writes() {
        for (input, want) in [
            (r#"{"b":1,"a":[true,null,""]}"#, r#"{"a":[true,null,""],"b":1}"#),
            (
                r#""<a href=\"x\">&\u2028\u2029é\u0001\b\f\n\r\t\\""#,
                "\"\\u003ca href=\\\"x\\\"\\u003e\\u0026\\u2028\\u2029é\\u0001\\b\\f\\n\\r\\t\\\\\"",
            ),
            ("1e21", "1e+21"),
            ("1e20", "100000000000000000000"),
            ("0.000001", "0.000001"),
            ("0.0000001", "1e-7"),
            ("-0.0", "-0"),
            ("12345678901234567890", "12345678901234567000"),
            ("9223372036854775807", "9223372036854775807"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("1.5", "1.5"),
            ("2.0", "2"),
        ] {
            let got = to_vec(&from_slice(input.as_bytes()).unwrap());
            assert_eq!(String::from_utf8(got).unwrap(), want, "{input}");
        }
    }
}
