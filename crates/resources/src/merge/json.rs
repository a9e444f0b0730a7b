//! JSON merge patch, RFC 7386.

use serde_json::{Map, Value};

/// Applies a merge patch: `null` removes a member, objects merge, everything else replaces. Lists are always replaced.
///
/// Nulls inside values that are new to the object are dropped, also in objects inside lists; a null that is itself an item
/// of a list stays.
pub fn json_merge(mut original: Value, patch: &Map<String, Value>) -> Value {
    if let Value::Object(object) = &mut original {
        merge(object, patch);
        return original;
    }
    without_nulls(&Value::Object(patch.clone()))
}

fn merge(object: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
            continue;
        }
        match (object.get_mut(key), value) {
            (Some(Value::Object(current)), Value::Object(inner)) => merge(current, inner),
            // A list over an object is taken as it is; over anything else, and anew, without nulls.
            (Some(Value::Object(_)), _) => {
                object.insert(key.clone(), value.clone());
            }
            _ => {
                object.insert(key.clone(), without_nulls(value));
            }
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k.clone(), without_nulls(v)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // covers: apiserver-http/JPAT-07, apiserver-http/JPAT-08, apiserver-http/PAT-12
    #[test]
    fn members_merge_and_null_removes() {
        for (name, original, patch, want) in [
            (
                "replace and remove",
                json!({"k": "1", "gone": 1, "same": "s"}),
                json!({"k": "2", "gone": null, "never": null, "new": 1}),
                json!({"k": "2", "new": 1, "same": "s"}),
            ),
            (
                "lists are replaced",
                json!({"l": [1, 2, 3], "o": {"x": 1}}),
                json!({"l": [4]}),
                json!({"l": [4], "o": {"x": 1}}),
            ),
            (
                "nulls in new objects",
                json!({"x": 1}),
                json!({"new": {"keep": 1, "drop": null, "deep": {"drop": null}}}),
                json!({"new": {"deep": {}, "keep": 1}, "x": 1}),
            ),
            (
                "nulls in lists",
                json!({}),
                json!({"l": [null, {"a": null, "b": 1}]}),
                json!({"l": [null, {"b": 1}]}),
            ),
            (
                "object over scalar",
                json!({"x": 1}),
                json!({"x": {"a": 1, "b": null}}),
                json!({"x": {"a": 1}}),
            ),
            (
                "scalar over object",
                json!({"x": {"a": 1}}),
                json!({"x": 1}),
                json!({"x": 1}),
            ),
            (
                "null removes a section",
                json!({"x": {"a": 1}, "y": 1}),
                json!({"x": null}),
                json!({"y": 1}),
            ),
            (
                "integers stay",
                json!({"big": 9007199254740993_i64}),
                json!({"o": 9223372036854775806_i64}),
                json!({"big": 9007199254740993_i64, "o": 9223372036854775806_i64}),
            ),
            ("empty patch", json!({"a": 1}), json!({}), json!({"a": 1})),
        ] {
            assert_eq!(json_merge(original, patch.as_object().unwrap()), want, "{name}");
        }
    }
}
