//! CustomResourceDefinitions, as far as serving a kind needs them.

use serde_json::Value;

use crate::validation::names::{is_dns1035_label, is_dns1123_subdomain};
use crate::validation::{FieldError, FieldPath};

use super::schema::Schema;

/// The names of a custom kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomNames {
    /// The plural name, as in paths.
    pub plural: String,
    /// The singular name; the kind in lower case unless given.
    pub singular: String,
    /// The kind.
    pub kind: String,
    /// The kind of lists; the kind with `List` unless given.
    pub list_kind: String,
    /// Abbreviations.
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    pub categories: Vec<String>,
}

/// Where the scale subresource finds its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wanted number, such as `.spec.replicas`.
    pub spec_replicas: String,
    /// The present number, such as `.status.replicas`.
    pub status_replicas: String,
    /// The label selector in text form.
    pub label_selector: Option<String>,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrinterColumn {
    /// The header.
    pub name: String,
    /// The OpenAPI type of the cells.
    pub kind: String,
    /// The OpenAPI format of the cells.
    pub format: String,
    /// What it means.
    pub description: String,
    /// Above 0 is shown with `-o wide` only.
    pub priority: i32,
    /// Where the value is.
    pub json_path: String,
}

/// One version of a custom kind.
#[derive(Debug, Clone)]
pub struct CustomVersion {
    /// The name, such as `v1beta1`.
    pub name: String,
    /// Whether it has an endpoint.
    pub served: bool,
    /// Whether objects are stored in it.
    pub storage: bool,
    /// The warning that requests in this version get, when it is deprecated.
    pub deprecation: Option<String>,
    /// The structural schema.
    pub schema: Schema,
    /// The schema as the definition has it, for OpenAPI documents.
    pub open_api: Value,
    /// Whether there is a status subresource.
    pub status: bool,
    /// The scale subresource, when there is one.
    pub scale: Option<ScalePaths>,
    /// The columns of `kubectl get` after the name; empty means the default (age).
    pub columns: Vec<PrinterColumn>,
    /// Fields that field selectors may name, without the leading dot.
    pub selectable_fields: Vec<String>,
    /// Places whose rules are not enforced (CEL).
    pub unenforced: Vec<String>,
}

/// A custom kind.
#[derive(Debug, Clone)]
pub struct CustomKind {
    /// The name of the definition: plural name and group.
    pub name: String,
    /// The group.
    pub group: String,
    /// The names.
    pub names: CustomNames,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The versions, as the definition lists them.
    pub versions: Vec<CustomVersion>,
}

impl CustomKind {
    /// Reads a CustomResourceDefinition of `apiextensions.k8s.io/v1`.
    ///
    /// # Errors
    /// Every fault that was found, with upstream's fields and texts. A conversion webhook is a fault: it is not supported.
    pub fn parse(definition: &Value) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let spec = definition.get("spec").unwrap_or(&Value::Null);
        let at = FieldPath::new("spec");
        let group = text(spec, "group");
        if group.is_empty() {
            errors.push(FieldError::required(&at.child("group"), ""));
        } else if !is_dns1123_subdomain(&group) || !group.contains('.') {
            errors.push(FieldError::invalid(
                &at.child("group"),
                group.as_str(),
                "should be a domain with at least one dot",
            ));
        }
        let names = read_names(
            spec.get("names").unwrap_or(&Value::Null),
            &at.child("names"),
            &mut errors,
        );
        let name = definition
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if name != format!("{}.{group}", names.plural) {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.push(FieldError::invalid(
                &FieldPath::new("metadata").child("name"),
                name.as_str(),
                detail,
            ));
        }
        let scope = text(spec, "scope");
        if scope.is_empty() {
            errors.push(FieldError::required(&at.child("scope"), ""));
        } else if !matches!(scope.as_str(), "Namespaced" | "Cluster") {
            errors.push(FieldError::not_supported(
                &at.child("scope"),
                scope.as_str(),
                &["Cluster", "Namespaced"],
            ));
        }
        if spec.get("preserveUnknownFields").and_then(Value::as_bool) == Some(true) {
            let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            errors.push(FieldError::invalid(&at.child("preserveUnknownFields"), true, detail));
        }
        check_conversion(spec, &at, &mut errors);
        let versions = read_versions(spec, &names, &group, &at, &mut errors);
        if errors.is_empty() {
            Ok(Self {
                name,
                group,
                names,
                namespaced: scope == "Namespaced",
                versions,
            })
        } else {
            Err(errors)
        }
    }

    /// The version of this name, when it is served.
    #[must_use]
    pub fn served_version(&self, name: &str) -> Option<&CustomVersion> {
        self.versions
            .iter()
            .find(|version| version.name == name && version.served)
    }

    /// The version in which objects are stored.
    #[must_use]
    pub fn storage_version(&self) -> Option<&CustomVersion> {
        self.versions.iter().find(|version| version.storage)
    }
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = value
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn read_names(value: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) -> CustomNames {
    let (plural, kind) = (text(value, "plural"), text(value, "kind"));
    let or = |given: String, default: String| if given.is_empty() { default } else { given };
    let names = CustomNames {
        singular: or(text(value, "singular"), kind.to_lowercase()),
        list_kind: or(text(value, "listKind"), format!("{kind}List")),
        short_names: texts(value, "shortNames"),
        categories: texts(value, "categories"),
        plural,
        kind,
    };
    for (field, name) in [("plural", &names.plural), ("kind", &names.kind)] {
        if name.is_empty() {
            errors.push(FieldError::required(&at.child(field), ""));
        }
    }
    for (field, name) in [("plural", &names.plural), ("singular", &names.singular)] {
        if !name.is_empty() && !is_dns1035_label(name) {
            errors.push(FieldError::invalid(
                &at.child(field),
                name.as_str(),
                crate::validation::names::DNS1035_LABEL,
            ));
        }
    }
    for (field, name) in [("kind", &names.kind), ("listKind", &names.list_kind)] {
        let lower = name.to_lowercase();
        if !name.is_empty() && !is_dns1035_label(&lower) {
            let detail = format!(
                "may have mixed case, but should otherwise match: {}",
                crate::validation::names::DNS1035_LABEL
            );
            errors.push(FieldError::invalid(&at.child(field), name.as_str(), detail));
        }
    }
    if !names.kind.is_empty() && names.kind == names.list_kind {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(
            &at.child("listKind"),
            names.list_kind.as_str(),
            detail,
        ));
    }
    names
}

fn check_conversion(spec: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let strategy = spec
        .pointer("/conversion/strategy")
        .and_then(Value::as_str)
        .unwrap_or("None");
    let at = at.child("conversion").child("strategy");
    match strategy {
        "None" => {}
        "Webhook" => errors.push(FieldError::invalid(
            &at,
            strategy,
            "conversion webhooks are not supported by this server",
        )),
        other => errors.push(FieldError::not_supported(&at, other, &["None", "Webhook"])),
    }
}

fn read_versions(
    spec: &Value,
    names: &CustomNames,
    group: &str,
    at: &FieldPath,
    errors: &mut Vec<FieldError>,
) -> Vec<CustomVersion> {
    let at = at.child("versions");
    let items = spec
        .get("versions")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut versions: Vec<CustomVersion> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = at.index(index);
        let name = text(item, "name");
        if !is_dns1035_label(&name) {
            let detail = crate::validation::names::DNS1035_LABEL;
            errors.push(FieldError::invalid(&path.child("name"), name.as_str(), detail));
        }
        if versions.iter().any(|version| version.name == name) {
            errors.push(FieldError::invalid(
                &at,
                name.as_str(),
                "must contain unique version names",
            ));
        }
        versions.push(read_version(item, name, names, group, &path, errors));
    }
    let stored = versions.iter().filter(|version| version.storage).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(&at, Value::Array(items.to_vec()), detail).shown_as("[]".to_owned()));
    }
    versions
}

fn read_version(
    item: &Value,
    name: String,
    names: &CustomNames,
    group: &str,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) -> CustomVersion {
    let flag = |name: &str| item.get(name).and_then(Value::as_bool).unwrap_or(false);
    let at = path.child("schema").child("openAPIV3Schema");
    let open_api = item.pointer("/schema/openAPIV3Schema").cloned().unwrap_or(Value::Null);
    let schema = if open_api.is_object() {
        Schema::parse(&open_api, &at).unwrap_or_else(|found| {
            errors.extend(found);
            Schema::default()
        })
    } else {
        errors.push(FieldError::required(&at, "schemas are required"));
        Schema::default()
    };
    let mut unenforced = Vec::new();
    schema.cel_paths("", &mut unenforced);
    let deprecation = flag("deprecated").then(|| {
        let given = text(item, "deprecationWarning");
        if given.is_empty() {
            format!("{group}/{name} {} is deprecated", names.kind)
        } else {
            given
        }
    });
    let subresources = item.get("subresources").unwrap_or(&Value::Null);
    let scale = subresources.get("scale").filter(|scale| scale.is_object());
    let scale = scale.map(|scale| read_scale(scale, &path.child("subresources").child("scale"), errors));
    let selectable = item
        .get("selectableFields")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    CustomVersion {
        served: flag("served"),
        storage: flag("storage"),
        deprecation,
        schema,
        open_api,
        status: subresources.get("status").is_some_and(Value::is_object),
        scale,
        columns: read_columns(item),
        selectable_fields: selectable
            .iter()
            .map(|f| text(f, "jsonPath").trim_start_matches('.').to_owned())
            .collect(),
        unenforced,
        name,
    }
}

fn read_scale(scale: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) -> ScalePaths {
    for (name, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let path = text(scale, name);
        if path.is_empty() {
            errors.push(FieldError::required(&at.child(name), ""));
        } else if !path.starts_with(root) {
            let detail = format!("should be a json path under {}", root.trim_end_matches('.'));
            errors.push(FieldError::invalid(&at.child(name), path, detail));
        }
    }
    ScalePaths {
        spec_replicas: text(scale, "specReplicasPath"),
        status_replicas: text(scale, "statusReplicasPath"),
        label_selector: Some(text(scale, "labelSelectorPath")).filter(|path| !path.is_empty()),
    }
}

fn read_columns(item: &Value) -> Vec<PrinterColumn> {
    let columns = item
        .get("additionalPrinterColumns")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let read = |column: &Value| PrinterColumn {
        name: text(column, "name"),
        kind: text(column, "type"),
        format: text(column, "format"),
        description: text(column, "description"),
        priority: column
            .get("priority")
            .and_then(Value::as_i64)
            .and_then(|p| i32::try_from(p).ok())
            .unwrap_or(0),
        json_path: text(column, "jsonPath"),
    };
    columns.iter().map(read).collect()
}
