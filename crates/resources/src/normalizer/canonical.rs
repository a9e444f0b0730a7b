//! What Go writes and what it leaves out, field by field and text by text.

use crate::types::{Field, Form, Shape, TypeRegistry};

/// Whether Go writes the field whatever it holds.
pub(super) fn is_always_written(field: &Field) -> bool {
    if field.pointer {
        return !field.omit_empty;
    }
    !field.omit_zero && (!field.omit_empty || matches!(field.shape, Shape::Type(_)))
}

/// Whether Go writes this empty value of the field.
pub(super) fn may_be_empty(field: &Field, text: &str) -> bool {
    if text == "null" {
        let is_nullable = match &field.shape {
            Shape::List { .. } | Shape::Map(_) | Shape::Bytes => true,
            // Zero times and absent documents; those of other types would say so.
            Shape::Type(id) => {
                matches!(
                    TypeRegistry::builtin()[*id].form,
                    Form::Time | Form::MicroTime | Form::Raw | Form::FieldsV1
                )
            }
            _ => false,
        };
        return if field.pointer {
            !field.omit_empty
        } else {
            is_nullable && is_always_written(field)
        };
    }
    field.pointer || !field.omit_empty || matches!(field.shape, Shape::Type(_))
}

/// The keys of a map of texts that was scanned before: up to its closing brace, without nesting.
pub(super) fn keys(map: &str) -> Option<Vec<&str>> {
    let inner = map.strip_prefix('{')?.split_once('}')?.0;
    if inner.is_empty() {
        return Some(Vec::new());
    }
    inner
        .split("\",\"")
        .map(|entry| entry.trim_start_matches('"').split_once("\":\"").map(|(key, _)| key))
        .collect()
}

/// Whether the text is what the encoder would write: full quartets, padding at the end alone, no stray bits.
pub(super) fn is_canonical_base64(text: &[u8]) -> bool {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (body, stray) = match text {
        [body @ .., b'=', b'='] => (body, 0b1111),
        [body @ .., b'='] => (body, 0b11),
        body => (body, 0),
    };
    let last = body.last().copied().and_then(value).unwrap_or_default();
    text.len().is_multiple_of(4) && body.iter().all(|byte| value(*byte).is_some()) && last & stray == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_canonical_only_as_the_encoder_writes_it() {
        for (text, want) in [
            ("", true),
            ("AQI=", true),
            ("AQ==", true),
            ("AQID", true),
            ("AQI", false),
            ("AR==", false),
            ("AQJ=", false),
            ("A===", false),
            ("AQ=D", false),
            ("AQ I", false),
            ("A-_D", false),
        ] {
            assert_eq!(is_canonical_base64(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn what_is_left_out_depends_on_the_field() {
        let registry = TypeRegistry::builtin();
        for (ty, field, always, empty, want) in [
            ("core.v1.PodSpec", "containers", true, "null", true),
            ("core.v1.PodSpec", "containers", true, "[]", true),
            ("core.v1.PodSpec", "volumes", false, "[]", false),
            ("core.v1.PodSpec", "nodeName", false, "\"\"", false),
            ("core.v1.PodSpec", "priority", false, "0", true),
            ("core.v1.PodSpec", "priority", false, "null", false),
            ("core.v1.Pod", "status", true, "{}", true),
            ("meta.v1.ObjectMeta", "creationTimestamp", false, "null", false),
            ("core.v1.PodCondition", "lastProbeTime", true, "null", true),
            ("core.v1.Container", "name", true, "\"\"", true),
            ("core.v1.Container", "name", true, "null", false),
        ] {
            let field = registry.by_name(ty).and_then(|ty| ty.field(field)).expect(field);
            assert_eq!(is_always_written(field), always, "{}", field.name);
            assert_eq!(may_be_empty(field, empty), want, "{} {empty}", field.name);
        }
    }

    #[test]
    fn keys_of_a_map_of_texts() {
        assert_eq!(keys(r#"{"cpu":"1","memory":"2"},"x":1"#), Some(vec!["cpu", "memory"]));
        assert_eq!(keys("{}"), Some(vec![]));
        assert_eq!(keys("null"), None);
    }
}
