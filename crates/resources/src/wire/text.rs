//! The parts of JSON text that the typed writer needs beside those of `apiserver_storage_api::json`.

use apiserver_storage_api::json::{write_number, write_string};
use serde_json::{Map, Value};

/// Writes an integer.
pub(crate) fn write_integer(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        // A remainder of ten fits a byte.
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes a document that Go keeps as it came: compact, keys sorted (a decoded document has no other order), integers
/// of any size that was read.
pub(crate) fn write_kept(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => match number.as_u64() {
            Some(integer) => out.extend_from_slice(integer.to_string().as_bytes()),
            None => write_number(number, out),
        },
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_kept(out, item);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            let mut first = true;
            for_each_sorted(members, |key, member| {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write_kept(out, member);
            });
            out.push(b'}');
        }
    }
}

/// Visits the members in the order of their keys, whatever order the map keeps: a build may have switched
/// `serde_json` to insertion order.
pub(crate) fn for_each_sorted<'v>(members: &'v Map<String, Value>, mut visit: impl FnMut(&'v str, &'v Value)) {
    if members.keys().is_sorted() {
        for (key, member) in members {
            visit(key, member);
        }
    } else {
        for (key, member) in sorted(members) {
            visit(key, member);
        }
    }
}

/// The members in the order of their keys.
pub(crate) fn sorted(members: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_all_their_digits() {
        for value in [0, 7, -1, 10, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            write_integer(&mut out, value);
            assert_eq!(String::from_utf8(out), Ok(value.to_string()));
        }
    }

    #[test]
    fn kept_documents_keep_large_integers_and_escape_like_go() {
        let document = serde_json::json!({"b": 12345678901234567890_u64, "a": ["<", 1.5, -0.0, null, true], "Ä": {}});
        let mut out = Vec::new();
        write_kept(&mut out, &document);
        assert_eq!(
            String::from_utf8_lossy(&out),
            r#"{"a":["\u003c",1.5,-0,null,true],"b":12345678901234567890,"Ä":{}}"#
        );
    }
}
