//! Custom resource definitions: served as `v1`, stored as `v1beta1`.
//!
//! `v1beta1` has schema, subresources, columns and selectable fields once for all versions where all versions agree.

use serde_json::{Map, Value};

use super::rename;

type Members = Map<String, Value>;
type Converted = Result<(), &'static str>;

/// What a version has and, under the second name, the whole definition.
const SHARED: [(&str, &str); 4] = [
    ("schema", "validation"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

pub(super) fn to_stored(definition: &mut Members) -> Converted {
    let Some(Value::Object(spec)) = definition.get_mut("spec") else {
        return Ok(());
    };
    if let Some(Value::Object(conversion)) = spec.get_mut("conversion")
        && let Some(Value::Object(webhook)) = conversion.remove("webhook")
    {
        conversion.extend(webhook);
        rename(conversion, [("clientConfig", "webhookClientConfig")].into_iter());
    }
    if !matches!(spec.get("preserveUnknownFields"), Some(Value::Bool(_))) {
        spec.insert("preserveUnknownFields".into(), false.into());
    }
    let mut shared = Vec::new();
    if let Some(Value::Array(versions)) = spec.get_mut("versions") {
        for columns in versions
            .iter_mut()
            .filter_map(|version| version.get_mut("additionalPrinterColumns"))
        {
            rename_paths(columns, "jsonPath", "JSONPath");
        }
        shared = take_shared(versions);
        if let Some(name) = versions.first().and_then(|version| version.get("name")).cloned() {
            shared.push(("version", name));
        }
    }
    spec.extend(shared.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Ok(())
}

/// Takes out of all versions what is the same in all of them.
fn take_shared(versions: &mut [Value]) -> Vec<(&'static str, Value)> {
    let mut shared = Vec::new();
    for (own, common) in SHARED {
        let Some(first) = versions.first() else { break };
        let value = first.get(own).filter(|value| !value.is_null()).cloned();
        let is_same = |version: &Value| version.get(own).filter(|value| !value.is_null()) == value.as_ref();
        let Some(value) = value.as_ref().filter(|_| versions.iter().all(is_same)) else {
            continue;
        };
        shared.push((common, value.clone()));
        for version in versions.iter_mut().filter_map(Value::as_object_mut) {
            version.remove(own);
        }
    }
    shared
}

pub(super) fn to_served(definition: &mut Members) -> Converted {
    let Some(Value::Object(spec)) = definition.get_mut("spec") else {
        return Ok(());
    };
    if let Some(Value::Object(conversion)) = spec.get_mut("conversion") {
        let mut webhook = Map::new();
        for (old, new) in [
            ("webhookClientConfig", "clientConfig"),
            ("conversionReviewVersions", "conversionReviewVersions"),
        ] {
            if let Some(value) = conversion.remove(old) {
                webhook.insert(new.to_owned(), value);
            }
        }
        if webhook.contains_key("clientConfig") {
            conversion.insert("webhook".into(), webhook.into());
        }
    }
    let name = spec.remove("version").unwrap_or_default();
    let has_versions = spec
        .get("versions")
        .and_then(Value::as_array)
        .is_some_and(|versions| !versions.is_empty());
    if !has_versions && name.is_string() {
        // From before there were lists of versions.
        spec.insert(
            "versions".into(),
            serde_json::json!([{"name": name, "served": true, "storage": true}]),
        );
    }
    let shared = SHARED.map(|(own, common)| (own, spec.remove(common)));
    let Some(Value::Array(versions)) = spec.get_mut("versions") else {
        return Ok(());
    };
    for version in versions.iter_mut().filter_map(Value::as_object_mut) {
        for (own, value) in &shared {
            if let (Some(value), false) = (value, version.contains_key(*own)) {
                version.insert((*own).to_owned(), value.clone());
            }
        }
        if let Some(columns) = version.get_mut("additionalPrinterColumns") {
            rename_paths(columns, "JSONPath", "jsonPath");
        }
    }
    Ok(())
}

fn rename_paths(columns: &mut Value, old: &str, new: &str) {
    for column in columns
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        rename(column, [(old, new)].into_iter());
    }
}
