//! Sets of managed fields in the order of the merge library.

use std::cmp::Ordering;

use apiserver_storage_api::json::write_string;
use serde_json::{Map, Value};

use super::text::{self, write_kept};

/// Writes a set of managed fields. Go sorts them by path element: a dot first, then fields by name, keys by the values
/// of their fields, values, and indexes; sorting the texts would put port 443 before port 80.
pub(super) fn write(out: &mut Vec<u8>, value: &Value) {
    let Value::Object(members) = value else {
        write_kept(out, value);
        return;
    };
    let mut sorted = text::sorted(members);
    if members
        .keys()
        .any(|key| matches!(key.as_bytes().first(), Some(b'k' | b'v' | b'i')))
    {
        sorted.sort_by_cached_key(|(key, _)| PathElement::of(key));
    }
    out.push(b'{');
    for (index, (key, member)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(key, out);
        out.push(b':');
        write(out, member);
    }
    out.push(b'}');
}

/// A key of a set of managed fields, in the order of the merge library.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum PathElement<'a> {
    Dot,
    Field(&'a str),
    Key(Vec<(String, Scalar)>),
    Value(Scalar),
    Index(i64),
    Other(&'a str),
}

impl<'a> PathElement<'a> {
    fn of(key: &'a str) -> Self {
        let other = Self::Other(key);
        match key.split_once(':') {
            None if key == "." => Self::Dot,
            Some(("f", name)) => Self::Field(name),
            Some(("k", text)) => match serde_json::from_str::<Map<String, Value>>(text) {
                Ok(fields) => Self::Key(
                    text::sorted(&fields)
                        .into_iter()
                        .map(|(key, value)| (key.clone(), Scalar(value.clone())))
                        .collect(),
                ),
                Err(_) => other,
            },
            Some(("v", text)) => serde_json::from_str(text).map_or(other, |value| Self::Value(Scalar(value))),
            Some(("i", text)) => text.parse().map_or(other, Self::Index),
            _ => other,
        }
    }
}

/// A value in the order of the merge library: numbers, texts, booleans, the rest.
#[derive(PartialEq)]
struct Scalar(Value);

impl Eq for Scalar {}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |value: &Value| match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        };
        match (&self.0, &other.0) {
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a
                    .as_f64()
                    .unwrap_or_default()
                    .total_cmp(&b.as_f64().unwrap_or_default()),
            },
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (a, b) => rank(a).cmp(&rank(b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_by_value_and_not_by_text() {
        let set = serde_json::json!({
            "k:{\"port\":443}": {}, "k:{\"port\":80}": {"f:b": {}, "f:a": {}, ".": {}},
            "v:\"b\"": {}, "v:10": {}, "v:9": {}, "f:z": {}, "i:10": {}, "i:9": {}, ".": {},
        });
        let mut out = Vec::new();
        write(&mut out, &set);
        let want = concat!(
            r#"{".":{},"f:z":{},"k:{\"port\":80}":{".":{},"f:a":{},"f:b":{}},"k:{\"port\":443}":{},"#,
            r#""v:9":{},"v:10":{},"v:\"b\"":{},"i:9":{},"i:10":{}}"#
        );
        assert_eq!(String::from_utf8_lossy(&out), want);
    }
}
