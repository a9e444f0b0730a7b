//! Rules for the metadata of every object.

use serde_json::{Map, Value};

use super::names;
use super::{FieldError, FieldErrorKind, FieldPath};
use crate::types::{Form, Shape, TypeRegistry};

/// The most that all annotations of an object may hold together, keys and values, in bytes.
pub const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// What names of a kind must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS-1123 subdomain: most kinds.
    Subdomain,
    /// A DNS-1123 label: namespaces.
    Label,
    /// A DNS-1035 label: services.
    Label1035,
    /// A segment of a path: what every name must be, and the only rule of roles and their bindings.
    PathSegment,
}

impl NameRule {
    /// Faults of a name; of a prefix for generated names a dash at the end is none.
    #[must_use]
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = match name.strip_suffix('-') {
            // The character before the dash is not looked at either, as upstream has it.
            Some(rest) if prefix && !rest.is_empty() => {
                let end = rest.char_indices().next_back().map_or(0, |(at, _)| at);
                format!("{}a", &rest[..end])
            }
            _ => name.to_owned(),
        };
        match self {
            Self::Subdomain => names::dns1123_subdomain(&masked),
            Self::Label => names::dns1123_label(&masked),
            Self::Label1035 => names::dns1035_label(&masked),
            Self::PathSegment => names::path_segment(name),
        }
    }
}

fn meta(object: &Value) -> &Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    object.get("metadata").and_then(Value::as_object).unwrap_or(&EMPTY)
}

fn text<'v>(map: &'v Map<String, Value>, name: &str) -> &'v str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(map: &'v Map<String, Value>, name: &str) -> &'v [Value] {
    map.get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Validates the metadata of an object.
///
/// `kube_finalizers`: a finalizer without a domain must be one of the known ones; built-in kinds have that rule, custom kinds
/// only warn ([`finalizer_warnings`]).
#[must_use]
pub fn validate_meta(object: &Value, namespaced: bool, rule: NameRule, kube_finalizers: bool) -> Vec<FieldError> {
    let meta = meta(object);
    let at = FieldPath::new("metadata");
    let mut errors = Vec::new();
    let (name, prefix) = (text(meta, "name"), text(meta, "generateName"));
    if !prefix.is_empty() {
        let faults = rule.check(prefix, true);
        errors.extend(
            faults
                .into_iter()
                .map(|fault| FieldError::invalid(&at.child("generateName"), prefix, fault)),
        );
    }
    if name.is_empty() {
        errors.push(FieldError::required(
            &at.child("name"),
            "name or generateName is required",
        ));
    } else {
        let faults = rule.check(name, false);
        errors.extend(
            faults
                .into_iter()
                .map(|fault| FieldError::invalid(&at.child("name"), name, fault)),
        );
    }
    namespace(meta, namespaced, &at, &mut errors);
    let generation = meta.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation < 0 {
        errors.push(FieldError::invalid(
            &at.child("generation"),
            generation,
            "must be greater than or equal to 0",
        ));
    }
    labels(meta.get("labels"), &at.child("labels"), &mut errors);
    annotations(meta, &at.child("annotations"), &mut errors);
    owner_references(meta, &at.child("ownerReferences"), &mut errors);
    finalizers(meta, &at.child("finalizers"), &mut errors);
    managed_fields(meta, &at.child("managedFields"), &mut errors);
    if kube_finalizers {
        known_finalizers(meta, &at.child("finalizers"), &mut errors);
    }
    errors
}

/// The metadata rules that every kind has, whatever its own: what a store checks beside the rules of the kind.
#[must_use]
pub fn validate_common(object: &Value, namespaced: bool) -> Vec<FieldError> {
    validate_meta(object, namespaced, NameRule::PathSegment, false)
}

/// Validates a change of metadata: what must not change, and what must be right in the new object.
///
/// Whether `resourceVersion` must be given depends on the store and is not looked at here.
#[must_use]
pub fn validate_meta_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (meta(object), meta(old));
    let at = FieldPath::new("metadata");
    let mut errors = Vec::new();
    if !text(old, "deletionTimestamp").is_empty() {
        no_new_finalizers(new, old, &at.child("finalizers"), &mut errors);
    }
    let generation = |map: &Map<String, Value>| map.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation(new) < generation(old) {
        let value = generation(new);
        errors.push(FieldError::invalid(
            &at.child("generation"),
            value,
            "must not be decremented",
        ));
    }
    let immutable = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for field in immutable {
        let value = |map: &Map<String, Value>| {
            map.get(field)
                .filter(|v| !v.is_null() && v.as_str() != Some(""))
                .cloned()
                .unwrap_or(Value::Null)
        };
        if value(new) != value(old) {
            let bad = match value(new) {
                // Absent texts print as Go prints them.
                Value::Null if matches!(field, "name" | "namespace" | "uid") => Value::from(""),
                other => other,
            };
            errors.push(FieldError::invalid(&at.child(field), bad, IMMUTABLE));
        }
    }
    labels(new.get("labels"), &at.child("labels"), &mut errors);
    annotations(new, &at.child("annotations"), &mut errors);
    owner_references(new, &at.child("ownerReferences"), &mut errors);
    managed_fields(new, &at.child("managedFields"), &mut errors);
    errors
}

/// The text for a field that must not change.
pub const IMMUTABLE: &str = "field is immutable";

fn namespace(meta: &Map<String, Value>, namespaced: bool, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let namespace = text(meta, "namespace");
    let at = at.child("namespace");
    if !namespaced {
        if !namespace.is_empty() {
            errors.push(FieldError::forbidden(&at, "not allowed on this type"));
        }
    } else if namespace.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        let faults = names::dns1123_label(namespace);
        errors.extend(
            faults
                .into_iter()
                .map(|fault| FieldError::invalid(&at, namespace, fault)),
        );
    }
}

/// Validates a map of labels.
pub(crate) fn labels(labels: Option<&Value>, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(labels) = labels.and_then(Value::as_object) else {
        return;
    };
    for (key, value) in labels {
        let value = value.as_str().unwrap_or_default();
        errors.extend(
            names::qualified_name(key)
                .into_iter()
                .map(|fault| FieldError::invalid(at, key.as_str(), fault)),
        );
        errors.extend(
            names::label_value(value)
                .into_iter()
                .map(|fault| FieldError::invalid(at, value, fault)),
        );
    }
}

fn annotations(meta: &Map<String, Value>, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(annotations) = meta.get("annotations").and_then(Value::as_object) else {
        return;
    };
    let mut size = 0;
    for (key, value) in annotations {
        size += key.len() + value.as_str().unwrap_or_default().len();
        let faults = names::qualified_name(&key.to_lowercase());
        errors.extend(
            faults
                .into_iter()
                .map(|fault| FieldError::invalid(at, key.as_str(), fault)),
        );
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long(at, ANNOTATIONS_LIMIT));
    }
}

fn owner_references(meta: &Map<String, Value>, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let references = list(meta, "ownerReferences");
    let mut controller: Option<String> = None;
    for reference in references {
        let part = |name: &str| reference.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (part("apiVersion"), part("kind"));
        if api_version.is_empty() || api_version.ends_with('/') {
            errors.push(FieldError::invalid(
                &at.child("apiVersion"),
                api_version,
                "version must not be empty",
            ));
        }
        for name in ["kind", "name", "uid"] {
            if part(name).is_empty() {
                errors.push(FieldError::invalid(&at.child(name), "", "must not be empty"));
            }
        }
        if (api_version, kind) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(at, reference.clone(), detail).shown_as(show_reference(reference)));
        }
        if reference.get("controller").and_then(Value::as_bool) == Some(true) {
            let current = format!("{kind}/{}", part("name"));
            match &controller {
                None => controller = Some(current),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {current}"
                    );
                    let shown: Vec<_> = references.iter().map(show_reference).collect();
                    let error = FieldError::invalid(at, Value::Array(references.to_vec()), detail);
                    errors.push(error.shown_as(format!("[{}]", shown.join(","))));
                }
            }
        }
    }
}

/// An owner reference as JSON in the order of its Go type.
fn show_reference(reference: &Value) -> String {
    let registry = TypeRegistry::builtin();
    let Some(of) = registry.by_name("meta.v1.OwnerReference") else {
        return reference.to_string();
    };
    debug_assert!(of.form == Form::Struct && of.fields.iter().all(|f| !matches!(f.shape, Shape::Type(_))));
    let members = of.fields.iter().filter_map(|field| {
        let value = reference
            .get(field.name)
            .cloned()
            .or_else(|| (!field.omit_empty).then(|| Value::from("")))?;
        Some(format!("{}:{value}", Value::from(field.name)))
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn finalizers(meta: &Map<String, Value>, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let finalizers = list(meta, "finalizers");
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        errors.extend(
            names::qualified_name(finalizer)
                .into_iter()
                .map(|fault| FieldError::invalid(at, finalizer, fault)),
        );
    }
    let has = |name: &str| finalizers.iter().any(|f| f.as_str() == Some(name));
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(at, Value::Array(finalizers.to_vec()), detail));
    }
}

fn is_standard_finalizer(name: &str) -> bool {
    matches!(name, "kubernetes" | "orphan" | "foregroundDeletion")
}

/// The rule of built-in kinds for finalizers without a domain.
pub(crate) fn known_finalizers(meta: &Map<String, Value>, at: &FieldPath, errors: &mut Vec<FieldError>) {
    for (index, finalizer) in list(meta, "finalizers").iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        if !finalizer.contains('/') && !is_standard_finalizer(finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&at.index(index), finalizer, detail));
        }
    }
}

/// Validates a change of the metadata of a built-in kind: [`validate_meta_update`] and the rule for finalizers.
#[must_use]
pub fn validate_kube_meta_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate_meta_update(object, old);
    known_finalizers(
        meta(object),
        &FieldPath::new("metadata").child("finalizers"),
        &mut errors,
    );
    errors
}

/// Warnings about finalizers of custom kinds that have no domain.
#[must_use]
pub fn finalizer_warnings(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for finalizer in list(meta(object), "finalizers").iter().filter_map(Value::as_str) {
        if finalizer.contains('/') || is_standard_finalizer(finalizer) {
            continue;
        }
        let path = if finalizer.contains('.') {
            " including a path (/)"
        } else {
            ""
        };
        let quoted = crate::gofmt::quote(finalizer);
        warnings.push(format!(
            "metadata.finalizers: {quoted}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        ));
    }
    warnings
}

fn no_new_finalizers(new: &Map<String, Value>, old: &Map<String, Value>, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let old = list(old, "finalizers");
    let mut added: Vec<&str> = list(new, "finalizers")
        .iter()
        .filter(|f| !old.contains(f))
        .filter_map(Value::as_str)
        .collect();
    added.sort_unstable();
    added.dedup();
    if !added.is_empty() {
        let added: Vec<_> = added.into_iter().map(crate::gofmt::quote).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        errors.push(FieldError::forbidden(at, detail));
    }
}

fn managed_fields(meta: &Map<String, Value>, at: &FieldPath, errors: &mut Vec<FieldError>) {
    for (index, entry) in list(meta, "managedFields").iter().enumerate() {
        let at = at.index(index);
        let part = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        if !matches!(part("operation"), "Apply" | "Update") {
            let detail = "must be `Apply` or `Update`";
            errors.push(FieldError::invalid(&at.child("operation"), part("operation"), detail));
        }
        if !matches!(part("fieldsType"), "" | "FieldsV1") {
            errors.push(FieldError::invalid(
                &at.child("fieldsType"),
                part("fieldsType"),
                "must be `FieldsV1`",
            ));
        }
        errors.extend(field_manager(part("manager"), &at.child("manager")));
        if part("subresource").len() > 256 {
            errors.push(FieldError::too_long(&at.child("subresource"), 256));
        }
    }
}

/// Faults of the name of a field manager.
#[must_use]
pub fn field_manager(name: &str, at: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.len() > 128 {
        errors.push(FieldError::too_long(at, 128));
    }
    if let Some((position, c)) = name
        .char_indices()
        .find(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' '))
    {
        let detail = format!(
            "should only contain printable characters, but contains {} at position {position}",
            c as u32
        );
        errors.push(FieldError::invalid(at, name, detail));
    }
    errors
}

/// Whether an error is about a missing name, which a generated name will cure.
#[must_use]
pub fn is_missing_name(error: &FieldError) -> bool {
    error.kind == FieldErrorKind::Required && error.field == "metadata.name"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::names::{DNS1123_LABEL, DNS1123_SUBDOMAIN};

    #[track_caller]
    fn check(meta: Value, want: &[String]) {
        let got: Vec<_> = validate_meta(&json!({"metadata": meta}), true, NameRule::Subdomain, true)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(got, want, "{meta}");
    }

    // covers: registry/R-CRE-12, registry/R-CRE-13, apiserver-http/STAT-07
    #[test]
    fn names_and_namespaces() {
        check(json!({"name": "a", "namespace": "n"}), &[]);
        check(
            json!({"namespace": "n"}),
            &["metadata.name: Required value: name or generateName is required".to_owned()],
        );
        for name in ["Upper", "under_score", "two words", ".", "..", "a/b", "a%b"] {
            check(
                json!({"name": name, "namespace": "n"}),
                &[format!("metadata.name: Invalid value: \"{name}\": {DNS1123_SUBDOMAIN}")],
            );
        }
        check(
            json!({"name": "a", "generateName": "Bad_", "namespace": "n"}),
            &[format!(
                "metadata.generateName: Invalid value: \"Bad_\": {DNS1123_SUBDOMAIN}"
            )],
        );
        check(json!({"name": "a", "generateName": "ok-", "namespace": "n"}), &[]);
        check(json!({"name": "a"}), &["metadata.namespace: Required value".to_owned()]);
        check(
            json!({"name": "a", "namespace": "N"}),
            &[format!("metadata.namespace: Invalid value: \"N\": {DNS1123_LABEL}")],
        );
        let cluster = validate_meta(
            &json!({"metadata": {"name": "a", "namespace": "n"}}),
            false,
            NameRule::Subdomain,
            true,
        );
        assert_eq!(
            cluster[0].to_string(),
            "metadata.namespace: Forbidden: not allowed on this type"
        );
        let common = validate_common(&json!({"metadata": {"name": "a%b", "namespace": "n"}}), true);
        assert_eq!(
            common[0].to_string(),
            "metadata.name: Invalid value: \"a%b\": may not contain '%'"
        );
    }

    // covers: registry/R-CRE-12, apiserver-http/STAT-07
    #[test]
    fn labels_annotations_and_finalizers() {
        let with = |field: &str, value: Value| json!({"name": "a", "namespace": "n", field: value});
        let first = |meta: Value| {
            validate_meta(&json!({"metadata": meta}), true, NameRule::Subdomain, true)
                .first()
                .map(ToString::to_string)
                .unwrap_or_default()
        };
        assert!(
            first(with("labels", json!({"bad key": "v"})))
                .starts_with("metadata.labels: Invalid value: \"bad key\": name part must consist of")
        );
        assert!(
            first(with("labels", json!({"k": "bad value"})))
                .starts_with("metadata.labels: Invalid value: \"bad value\": a valid label must be an empty string")
        );
        assert!(
            first(with("annotations", json!({"bad key": "v"})))
                .starts_with("metadata.annotations: Invalid value: \"bad key\": name part")
        );
        assert_eq!(
            first(with("annotations", json!({"K": "x".repeat(ANNOTATIONS_LIMIT)}))),
            "metadata.annotations: Too long: may not be more than 262144 bytes"
        );
        assert_eq!(
            first(with("annotations", json!({"K": "x".repeat(ANNOTATIONS_LIMIT - 1)}))),
            ""
        );
        assert_eq!(
            first(with("generation", json!(-1))),
            "metadata.generation: Invalid value: -1: must be greater than or equal to 0"
        );
        check(with("finalizers", json!(["plain"])), &["metadata.finalizers[0]: Invalid value: \"plain\": name is neither a standard finalizer name nor is it fully qualified".to_owned()]);
        check(with("finalizers", json!(["orphan", "foregroundDeletion"])), &["metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set".to_owned()]);
        assert_eq!(
            finalizer_warnings(&json!({"metadata": {"finalizers": ["nodomain", "a.b", "a.b/c", "orphan"]}})),
            [
                "metadata.finalizers: \"nodomain\": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers",
                "metadata.finalizers: \"a.b\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers",
            ]
        );
    }

    // covers: registry/R-CRE-12
    #[test]
    fn owners_and_managed_fields() {
        let owner = |name: &str, controller: bool| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": "u", "controller": controller});
        check(
            json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "", "kind": "", "name": "", "uid": ""}]}),
            &[
                "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty".to_owned(),
                "metadata.ownerReferences.kind: Invalid value: \"\": must not be empty".to_owned(),
                "metadata.ownerReferences.name: Invalid value: \"\": must not be empty".to_owned(),
                "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty".to_owned(),
            ],
        );
        check(json!({"name": "a", "namespace": "n", "ownerReferences": [owner("1", true), owner("2", true)]}), &[
            "metadata.ownerReferences: Invalid value: [{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"name\":\"1\",\"uid\":\"u\",\"controller\":true},{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"name\":\"2\",\"uid\":\"u\",\"controller\":true}]: Only one reference can have Controller set to true. Found \"true\" in references for ConfigMap/1 and ConfigMap/2".to_owned(),
        ]);
        check(json!({"name": "a", "namespace": "n", "managedFields": [{"manager": "m\n", "operation": "Do", "fieldsType": "V2"}]}), &[
            "metadata.managedFields[0].operation: Invalid value: \"Do\": must be `Apply` or `Update`".to_owned(),
            "metadata.managedFields[0].fieldsType: Invalid value: \"V2\": must be `FieldsV1`".to_owned(),
            "metadata.managedFields[0].manager: Invalid value: \"m\\n\": should only contain printable characters, but contains 10 at position 1".to_owned(),
        ]);
    }

    // covers: registry/R-UPD-16, registry/R-UPD-17, registry/R-UPD-19
    #[test]
    fn what_an_update_must_not_change() {
        let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 3, "deletionTimestamp": "2030-01-01T00:00:00Z", "finalizers": ["x/y"]}});
        let mut new = old.clone();
        assert_eq!(validate_meta_update(&new, &old), []);
        new["metadata"]["uid"] = json!("v");
        new["metadata"]["generation"] = json!(2);
        new["metadata"]["deletionTimestamp"] = Value::Null;
        new["metadata"]["finalizers"] = json!(["x/y", "x/z"]);
        new["metadata"]["labels"] = json!({"bad key": "v"});
        let got: Vec<_> = validate_meta_update(&new, &old)
            .iter()
            .map(|e| e.field.clone())
            .collect();
        assert_eq!(
            got,
            [
                "metadata.finalizers",
                "metadata.generation",
                "metadata.uid",
                "metadata.deletionTimestamp",
                "metadata.labels"
            ]
        );
        assert_eq!(
            validate_meta_update(&new, &old)[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/z\"}"
        );
    }
}
