//! Unknown fields, nulls and defaults.

use serde_json::{Map, Value};

use super::schema::{Additional, Schema};

/// The fields that every object has, whatever its schema says.
fn of_every_object(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

impl Schema {
    /// Removes fields of an object that the schema does not know, and gives their paths, sorted. `apiVersion`, `kind` and
    /// `metadata` of the object itself and of embedded objects stay.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune(object, Some(self), true, &mut String::new(), &mut unknown);
        unknown.sort();
        unknown
    }

    /// Removes nulls where the schema allows none and has no default, then fills in defaults, level by level.
    pub fn apply_defaults(&self, object: &mut Value) {
        remove_nulls(object, Some(self));
        fill(object, self);
    }

    fn refuses_null(&self) -> bool {
        !self.nullable
    }
}

fn prune(value: &mut Value, schema: Option<&Schema>, root: bool, path: &mut String, unknown: &mut Vec<String>) {
    let length = path.len();
    let preserves = schema.is_some_and(|s| s.preserve_unknown_fields);
    let embedded = root || schema.is_some_and(|s| s.embedded_resource);
    match value {
        Value::Object(map) => map.retain(|name, inner| {
            if schema.is_some() && embedded && of_every_object(name) {
                return true;
            }
            let declared = schema.and_then(|s| s.properties.get(name));
            let additional = schema.and_then(|s| s.additional.as_ref());
            let member = match (declared, additional) {
                (Some(declared), _) => Some(declared),
                (None, Some(Additional::Of(schema))) => Some(schema.as_ref()),
                // Values without a schema keep their scalars only.
                (None, Some(Additional::Any)) => None,
                _ if preserves => return true,
                _ => {
                    unknown.push(join(path, name));
                    return false;
                }
            };
            path.push_str(if path.is_empty() { "" } else { "." });
            path.push_str(name);
            prune(inner, member, false, path, unknown);
            path.truncate(length);
            true
        }),
        Value::Array(items) => {
            let member = schema.and_then(|s| s.items.as_deref());
            if preserves && member.is_none() {
                return;
            }
            for (index, item) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{index}]"));
                prune(item, member, false, path, unknown);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn remove_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => map.retain(|name, inner| {
            let member = schema.and_then(|s| s.member(name));
            if inner.is_null() && member.is_some_and(|s| s.refuses_null() && s.default.is_none()) {
                return false;
            }
            remove_nulls(inner, member);
            true
        }),
        Value::Array(items) => {
            let member = schema.and_then(|s| s.items.as_deref());
            items.iter_mut().for_each(|item| remove_nulls(item, member));
        }
        _ => {}
    }
}

fn fill(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            fill_missing(map, schema);
            for (name, inner) in map.iter_mut() {
                if let Some(member) = schema.member(name) {
                    null_to_default(inner, member);
                    fill(inner, member);
                }
            }
        }
        Value::Array(items) => {
            let Some(member) = schema.items.as_deref() else { return };
            for item in items {
                null_to_default(item, member);
                fill(item, member);
            }
        }
        _ => {}
    }
}

fn fill_missing(map: &mut Map<String, Value>, schema: &Schema) {
    for (name, property) in &schema.properties {
        if let Some(default) = &property.default
            && !map.contains_key(name)
        {
            map.insert(name.clone(), default.clone());
        }
    }
}

fn null_to_default(value: &mut Value, schema: &Schema) {
    if value.is_null()
        && schema.refuses_null()
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
}
