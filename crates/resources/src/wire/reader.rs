//! Reads JSON as Go decodes it into a struct: an object under a repeated key is merged into the first one, any other
//! value replaces it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::WireError;

/// The deepest nesting that is read, in objects and lists.
pub const MAX_DEPTH: usize = 120;

/// Reads one document.
///
/// # Errors
///
/// [`WireError::Syntax`], which says where and not what.
pub fn read_merged(bytes: &[u8]) -> Result<Value, WireError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut value = Value::Null;
    let read = Into {
        slot: &mut value,
        depth: MAX_DEPTH,
    }
    .deserialize(&mut reader)
    .and_then(|()| reader.end());
    read.map_err(|error| syntax(&error))?;
    Ok(value)
}

/// The position and the class of an error; the text of `serde_json` may quote the document.
fn syntax(error: &serde_json::Error) -> WireError {
    let class = match error.classify() {
        serde_json::error::Category::Eof => "the text ends too early",
        serde_json::error::Category::Data => "nested too deeply",
        _ => "invalid character or structure",
    };
    WireError::Syntax(format!("{class} at line {} column {}", error.line(), error.column()))
}

/// Decodes into a place that may hold something already.
struct Into<'a> {
    slot: &'a mut Value,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Into<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Into<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        *self.slot = Value::Null;
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        *self.slot = Value::Bool(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        *self.slot = value.into();
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        *self.slot = value.into();
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        *self.slot = Number::from_f64(value).map_or(Value::Null, Value::Number);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        *self.slot = Value::String(value.to_owned());
        Ok(())
    }

    fn visit_string<E>(self, value: String) -> Result<(), E> {
        *self.slot = Value::String(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let depth = deeper(self.depth)?;
        let mut items = Vec::new();
        loop {
            let mut item = Value::Null;
            if access.next_element_seed(Into { slot: &mut item, depth })?.is_none() {
                break;
            }
            items.push(item);
        }
        *self.slot = Value::Array(items);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let depth = deeper(self.depth)?;
        if !self.slot.is_object() {
            *self.slot = Value::Object(Map::new());
        }
        let Value::Object(members) = self.slot else {
            return Ok(());
        };
        while let Some(key) = access.next_key::<String>()? {
            let slot = members.entry(key).or_insert(Value::Null);
            access.next_value_seed(Into { slot, depth })?;
        }
        Ok(())
    }
}

fn deeper<E: serde::de::Error>(depth: usize) -> Result<usize, E> {
    depth.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn repeated_keys_merge_objects_and_replace_the_rest() {
        let read = read_merged(br#"{"a":{"x":1,"y":2},"b":[1,2],"a":{"y":3,"z":4},"b":[5]}"#);
        assert_eq!(read, Ok(json!({"a": {"x": 1, "y": 3, "z": 4}, "b": [5]})));
    }

    #[test]
    fn errors_say_where_and_never_what() {
        for (text, want) in [
            ("", "not JSON: the text ends too early at line 1 column 0"),
            (
                "{\"password\":\"hunter2",
                "not JSON: the text ends too early at line 1 column 20",
            ),
            ("hunter2", "not JSON: invalid character or structure at line 1 column 1"),
            ("{} x", "not JSON: invalid character or structure at line 1 column 4"),
        ] {
            assert_eq!(
                read_merged(text.as_bytes()).map_err(|error| error.to_string()),
                Err(want.to_owned())
            );
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(read_merged(&nested(MAX_DEPTH)).is_ok());
        let error = read_merged(&nested(MAX_DEPTH + 1)).expect_err("too deep").to_string();
        assert!(error.starts_with("not JSON: nested too deeply"), "{error}");
        assert!(read_merged(&vec![b'['; 1_000_000]).is_err());
    }
}
