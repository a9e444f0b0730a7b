//! The rules for `metadata`, on a new object and from one state to the next.
//!
//! Upstream: k8s.io/apimachinery pkg/api/validation (objectmeta.go), pkg/apis/meta/v1/validation (validation.go).

use std::collections::{BTreeMap, BTreeSet};

use apiserver_storage_api::time::Time;
use apiserver_storage_api::{Meta, OwnerReference};
use serde_json::Value;

use super::names::{label_value_faults, name_is_dns_label, qualified_name_faults};
use crate::field_error::{FieldError, FieldPath};
use crate::gofmt;

/// Keys and values of all annotations together.
const ANNOTATIONS_MAX: usize = 256 * 1024;
const MANAGER_MAX: usize = 128;
const SUBRESOURCE_MAX: usize = 256;
const IMMUTABLE: &str = "field is immutable";

/// Faults of the metadata of any object (`registry/R-CRE-12`). `name_faults` is the kind's rule for names, told
/// whether more characters follow.
pub fn object_meta(
    meta: &Meta,
    namespaced: bool,
    name_faults: impl Fn(&str, bool) -> Vec<String>,
    path: &FieldPath,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut invalid = |field: &str, value: &str, faults: Vec<String>| {
        errors.extend(
            faults
                .into_iter()
                .map(|fault| FieldError::invalid(&path.child(field), value, fault)),
        );
    };
    if let Some(start) = meta.generate_name.as_deref().filter(|start| !start.is_empty()) {
        invalid("generateName", start, name_faults(start, true));
    }
    match meta.name() {
        "" => errors.push(FieldError::required(
            &path.child("name"),
            "name or generateName is required",
        )),
        name => invalid("name", name, name_faults(name, false)),
    }
    let namespace = path.child("namespace");
    match (namespaced, meta.namespace()) {
        (true, "") => errors.push(FieldError::required(&namespace, "")),
        (true, name) => {
            let faults = name_is_dns_label(name, false);
            errors.extend(
                faults
                    .into_iter()
                    .map(|fault| FieldError::invalid(&namespace, name, fault)),
            );
        }
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden(&namespace, "not allowed on this type")),
    }
    if let Some(generation @ ..0) = meta.generation {
        let text = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(&path.child("generation"), generation, text));
    }
    errors.extend(labels(&meta.labels, &path.child("labels")));
    errors.extend(annotations(&meta.annotations, &path.child("annotations")));
    errors.extend(owner_references(&meta.owner_references, &path.child("ownerReferences")));
    errors.extend(finalizers(&meta.finalizers, &path.child("finalizers")));
    errors.extend(managed_fields(&meta.managed_fields, &path.child("managedFields")));
    errors
}

/// Faults of the step from one state to the next (`registry/R-UPD-16` to `R-UPD-18`), and again those of labels,
/// annotations, owners and managed fields. Meant to run after [`object_meta`].
pub fn object_meta_update(new: &Meta, old: &Meta, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_deleting() {
        errors.extend(no_new_finalizers(
            &new.finalizers,
            &old.finalizers,
            &path.child("finalizers"),
        ));
    }
    let (now, before) = (new.generation.unwrap_or(0), old.generation.unwrap_or(0));
    if now < before {
        errors.push(FieldError::invalid(
            &path.child("generation"),
            now,
            "must not be decremented",
        ));
    }
    let mut immutable = |field: &str, same: bool, value: Value| {
        if !same {
            errors.push(FieldError::invalid(&path.child(field), value, IMMUTABLE));
        }
    };
    let time = |time: Option<Time>| time.map_or(Value::Null, |time| time.to_string().into());
    immutable("name", new.name() == old.name(), new.name().into());
    immutable("namespace", new.namespace() == old.namespace(), new.namespace().into());
    immutable("uid", new.uid() == old.uid(), new.uid().into());
    let (created, asked) = (new.creation_timestamp, new.deletion_timestamp);
    immutable("creationTimestamp", created == old.creation_timestamp, time(created));
    immutable("deletionTimestamp", asked == old.deletion_timestamp, time(asked));
    let grace = new.deletion_grace_period_seconds;
    let shown = grace.map_or(Value::Null, Value::from);
    immutable(
        "deletionGracePeriodSeconds",
        grace == old.deletion_grace_period_seconds,
        shown,
    );
    // A second time, after `object_meta`: so many causes go over the wire since ever (`registry/R-UPD-20`).
    errors.extend(labels(&new.labels, &path.child("labels")));
    errors.extend(annotations(&new.annotations, &path.child("annotations")));
    errors.extend(owner_references(&new.owner_references, &path.child("ownerReferences")));
    errors.extend(managed_fields(&new.managed_fields, &path.child("managedFields")));
    errors
}

fn no_new_finalizers(new: &[String], old: &[String], path: &FieldPath) -> Option<FieldError> {
    // Sorted, and each name once.
    let added: BTreeSet<&str> = new
        .iter()
        .filter(|name| !old.contains(name))
        .map(String::as_str)
        .collect();
    if added.is_empty() {
        return None;
    }
    let added = gofmt::string_slice(&added.into_iter().collect::<Vec<_>>());
    let text = "no new finalizers can be added if the object is being deleted, found new finalizers";
    Some(FieldError::forbidden(path, format!("{text} {added}")))
}

/// Faults of labels.
pub fn labels(labels: &BTreeMap<String, String>, path: &FieldPath) -> Vec<FieldError> {
    let faults = labels.iter().flat_map(|(key, value)| {
        let keys = qualified_name_faults(key)
            .into_iter()
            .map(|fault| FieldError::invalid(path, key.as_str(), fault));
        let values = label_value_faults(value);
        keys.chain(
            values
                .into_iter()
                .map(|fault| FieldError::invalid(path, value.as_str(), fault)),
        )
    });
    faults.collect()
}

/// Faults of annotations: the keys are those of labels, but in any case of letters; values are only counted.
pub fn annotations(annotations: &BTreeMap<String, String>, path: &FieldPath) -> Vec<FieldError> {
    let keys = annotations.keys().flat_map(|key| {
        let faults = qualified_name_faults(&key.to_lowercase());
        faults
            .into_iter()
            .map(|fault| FieldError::invalid(path, key.as_str(), fault))
    });
    let mut errors: Vec<_> = keys.collect();
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
    errors
}

/// Faults of owner references.
pub fn owner_references(owners: &[OwnerReference], path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for owner in owners {
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        for (field, value, empty, text) in [
            (
                "apiVersion",
                &owner.api_version,
                version.is_empty(),
                "version must not be empty",
            ),
            ("kind", &owner.kind, owner.kind.is_empty(), "must not be empty"),
            ("name", &owner.name, owner.name.is_empty(), "must not be empty"),
            ("uid", &owner.uid, owner.uid.is_empty(), "must not be empty"),
        ] {
            if empty {
                errors.push(FieldError::invalid(&path.child(field), value.as_str(), text));
            }
        }
        if (owner.api_version.as_str(), owner.kind.as_str()) == ("v1", "Event") {
            let text = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, Value::Null, text).shown_as(shown(owner)));
        }
        if owner.controller == Some(true) {
            let current = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                None => controller = Some(current),
                Some(first) => {
                    let text = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {current}"
                    );
                    errors.push(FieldError::invalid(path, Value::Null, text).shown_as(shown(&owners)));
                }
            }
        }
    }
    errors
}

/// Values with Go's order of fields.
fn shown(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Faults of finalizers, for all kinds.
pub fn finalizers(finalizers: &[String], path: &FieldPath) -> Vec<FieldError> {
    let faults = finalizers.iter().flat_map(|finalizer| {
        let faults = qualified_name_faults(finalizer);
        faults
            .into_iter()
            .map(|fault| FieldError::invalid(path, finalizer.as_str(), fault))
    });
    let mut errors: Vec<_> = faults.collect();
    let has = |name: &str| finalizers.iter().any(|own| own == name);
    if has("orphan") && has("foregroundDeletion") {
        let text = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, finalizers.to_vec(), text));
    }
    errors
}

/// Faults of finalizers of built-in kinds: without a domain there are only the well-known ones.
pub fn qualified_finalizers(finalizers: &[String], path: &FieldPath) -> Vec<FieldError> {
    let known = |name: &str| matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") || name.contains('/');
    let text = "name is neither a standard finalizer name nor is it fully qualified";
    let bad = finalizers.iter().enumerate().filter(|(_, name)| !known(name));
    bad.map(|(at, name)| FieldError::invalid(&path.index(at), name.as_str(), text))
        .collect()
}

/// Faults of managed fields.
pub fn managed_fields(entries: &[Value], path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let path = path.index(at);
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
        let operation = text("operation");
        if !matches!(operation, "Apply" | "Update") {
            errors.push(FieldError::invalid(
                &path.child("operation"),
                operation,
                "must be `Apply` or `Update`",
            ));
        }
        let fields_type = text("fieldsType");
        if !matches!(fields_type, "" | "FieldsV1") {
            errors.push(FieldError::invalid(
                &path.child("fieldsType"),
                fields_type,
                "must be `FieldsV1`",
            ));
        }
        errors.extend(field_manager(text("manager"), &path.child("manager")));
        if text("subresource").len() > SUBRESOURCE_MAX {
            errors.push(FieldError::too_long(&path.child("subresource"), SUBRESOURCE_MAX));
        }
    }
    errors
}

/// Faults of the name of a field manager.
pub fn field_manager(manager: &str, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > MANAGER_MAX {
        errors.push(FieldError::too_long(path, MANAGER_MAX));
    }
    for (at, char) in manager.char_indices().filter(|(_, char)| gofmt::unprintable(*char)) {
        let code = u32::from(char);
        let text = format!("should only contain printable characters: found 'U+{code:04X}' at position {at}");
        errors.push(FieldError::invalid(path, manager, text));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::name_is_dns_subdomain;

    fn meta(value: Value) -> Meta {
        Meta::of(&json!({ "metadata": value })).unwrap()
    }

    #[track_caller]
    fn check(value: Value, want: &[&str]) {
        let errors = object_meta(
            &meta(value.clone()),
            true,
            name_is_dns_subdomain,
            &FieldPath::new("metadata"),
        );
        let got: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got.len(), want.len(), "{value}: {got:#?}");
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(want), "{got}\ndoes not start with\n{want}");
        }
    }

    // covers: registry/R-CRE-12
    #[test]
    fn every_field_of_new_metadata_is_checked() {
        check(json!({"name": "a", "namespace": "ns"}), &[]);
        check(
            json!({"generateName": "Bad_", "namespace": "ns"}),
            &[
                "metadata.generateName: Invalid value: \"Bad_\": a lowercase RFC 1123 subdomain",
                "metadata.name: Required value: name or generateName is required",
            ],
        );
        check(json!({"name": "a"}), &["metadata.namespace: Required value"]);
        check(
            json!({"name": "a", "namespace": "a.b"}),
            &["metadata.namespace: Invalid value: \"a.b\": a lowercase"],
        );
        check(
            json!({"name": "a", "namespace": "ns", "generation": -1}),
            &["metadata.generation: Invalid value: -1: must be greater than or equal to 0"],
        );
        check(
            json!({"name": "a", "namespace": "ns", "annotations": {"Example.COM/Key": "", "bad key": "x".repeat(262_144)}}),
            &[
                "metadata.annotations: Invalid value: \"bad key\": name part must consist",
                "metadata.annotations: Too long: may not be more than 262144 bytes",
            ],
        );
        check(
            json!({"name": "a", "namespace": "ns", "finalizers": ["orphan", "foregroundDeletion"]}),
            &[
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
               foregroundDeletion cannot be both set",
            ],
        );
        check(
            json!({"name": "a", "namespace": "ns", "ownerReferences": [{}]}),
            &[
                "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty",
                "metadata.ownerReferences.kind: Invalid value: \"\": must not be empty",
                "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
                "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
            ],
        );
        let owner = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true});
        check(
            json!({"name": "a", "namespace": "ns", "ownerReferences": [owner("ConfigMap", "1"), owner("Event", "2")]}),
            &[
                "metadata.ownerReferences: Invalid value: {\"apiVersion\":\"v1\",\"kind\":\"Event\",\"name\":\"2\",",
                "metadata.ownerReferences: Invalid value: [{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"name\":\"1\",\
                 \"uid\":\"u\",\"controller\":true},{\"apiVersion\":\"v1\",\"kind\":\"Event\",\"name\":\"2\",\"uid\":\"u\",\
                 \"controller\":true}]: Only one reference can have Controller set to true. Found \"true\" in \
                 references for ConfigMap/1 and Event/2",
            ],
        );
        check(
            json!({"name": "a", "namespace": "ns", "managedFields": [
                {"operation": "Patch", "fieldsType": "V2", "manager": "a\u{7}b", "subresource": "s".repeat(257)},
            ]}),
            &[
                "metadata.managedFields[0].operation: Invalid value: \"Patch\": must be `Apply` or `Update`",
                "metadata.managedFields[0].fieldsType: Invalid value: \"V2\": must be `FieldsV1`",
                "metadata.managedFields[0].manager: Invalid value: \"a\\ab\": should only contain printable characters: \
                 found 'U+0007' at position 1",
                "metadata.managedFields[0].subresource: Too long: may not be more than 256 bytes",
            ],
        );
        let cluster = object_meta(
            &meta(json!({"name": "a", "namespace": "ns"})),
            false,
            name_is_dns_subdomain,
            &FieldPath::new("metadata"),
        );
        assert_eq!(
            cluster[0].to_string(),
            "metadata.namespace: Forbidden: not allowed on this type"
        );
        let names = ["x".to_owned(), "kubernetes".to_owned(), "a/b".to_owned()];
        let odd = qualified_finalizers(&names, &FieldPath::new("metadata.finalizers"));
        assert_eq!(odd.len(), 1);
        assert!(
            odd[0]
                .to_string()
                .starts_with("metadata.finalizers[0]: Invalid value: \"x\": name is neither")
        );
    }

    // covers: registry/R-UPD-16, registry/R-UPD-17, registry/R-UPD-18
    #[test]
    fn identity_and_deletion_marks_cannot_be_changed() {
        let old = json!({"name": "a", "namespace": "ns", "uid": "u", "generation": 2, "finalizers": ["x/y"],
                         "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
                         "deletionGracePeriodSeconds": 5});
        for (field, value, want) in [
            (
                "name",
                json!("b"),
                "metadata.name: Invalid value: \"b\": field is immutable",
            ),
            (
                "namespace",
                json!("b"),
                "metadata.namespace: Invalid value: \"b\": field is immutable",
            ),
            (
                "uid",
                json!("b"),
                "metadata.uid: Invalid value: \"b\": field is immutable",
            ),
            (
                "creationTimestamp",
                json!("2030-01-01T00:00:00Z"),
                "metadata.creationTimestamp: Invalid value: \"2030-01-01T00:00:00Z\": field is immutable",
            ),
            (
                "deletionTimestamp",
                json!("2030-01-01T00:00:00Z"),
                "metadata.deletionTimestamp: Invalid value: \"2030-01-01T00:00:00Z\": field is immutable",
            ),
            (
                "deletionGracePeriodSeconds",
                json!(4),
                "metadata.deletionGracePeriodSeconds: Invalid value: 4: field is immutable",
            ),
            (
                "generation",
                json!(1),
                "metadata.generation: Invalid value: 1: must not be decremented",
            ),
            (
                "finalizers",
                json!(["x/z", "x/y", "x/a"]),
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{\"x/a\", \"x/z\"}",
            ),
        ] {
            let mut new = old.clone();
            new[field] = value;
            let errors = object_meta_update(&meta(new), &meta(old.clone()), &FieldPath::new("metadata"));
            let got: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(got, [want]);
        }
        let mut fewer = old.clone();
        fewer["finalizers"] = json!([]);
        assert_eq!(
            object_meta_update(&meta(fewer), &meta(old), &FieldPath::new("metadata")),
            []
        );
    }
}
