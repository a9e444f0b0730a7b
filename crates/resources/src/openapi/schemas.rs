//! Schemas of a document: of built-in types from the type data, of custom kinds from their definitions.

use serde_json::{Map, Value, json};

use crate::crd::{CustomKind, CustomVersion};
use crate::types::{Field, Form, Gvk, ListType, MapType, Shape, Type, TypeRegistry};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The name of a built-in type in documents: `core.v1.Pod` is `io.k8s.api.core.v1.Pod`.
#[must_use]
pub fn definition_name(of: &Type) -> String {
    let name = of.name;
    let (package, kind) = name.split_once('.').unwrap_or(("", name));
    match (of.form, package) {
        (Form::Quantity, _) => "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        (Form::IntOrString, _) => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
        (_, "meta") => format!("io.k8s.apimachinery.pkg.apis.{name}"),
        (_, "runtime") => format!("io.k8s.apimachinery.pkg.runtime.{kind}"),
        (_, "apiextensions") => format!("io.k8s.apiextensions-apiserver.pkg.apis.{name}"),
        (_, "apiregistration") => format!("io.k8s.kube-aggregator.pkg.apis.{name}"),
        _ => format!("io.k8s.api.{name}"),
    }
}

/// The name of a custom kind in documents: the group backwards, version and kind.
pub(super) fn custom_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<_> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// A reference to a schema of the document.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Collects the schemas of one document.
pub(super) struct Schemas<'a> {
    registry: &'a TypeRegistry,
    /// Group and version of the document.
    scope: Gvk<'a>,
    schemas: Map<String, Value>,
    /// Types that were referred to and have no schema yet.
    open: Vec<&'a Type>,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(registry: &'a TypeRegistry, scope: Gvk<'a>) -> Self {
        Self {
            registry,
            scope,
            schemas: Map::new(),
            open: Vec::new(),
        }
    }

    /// A reference to the schema of a kind; free-form when nobody knows it.
    pub(super) fn kind(&mut self, gvk: Gvk<'_>) -> Value {
        let custom = custom_name(gvk.group, gvk.version, gvk.kind);
        if self.schemas.contains_key(&custom) {
            return reference(&custom);
        }
        match self.registry.by_gvk(gvk) {
            Some(of) => self.refer(of),
            None => json!({"type": "object"}),
        }
    }

    /// A reference to a type of the meta group.
    pub(super) fn meta(&mut self, name: &str) -> Value {
        match self.registry.by_name(&format!("meta.v1.{name}")) {
            Some(of) => self.refer(of),
            // The data has no type for patches: a patch can be anything.
            None => {
                let full = format!("{META}.{name}");
                self.schemas
                    .entry(full.clone())
                    .or_insert_with(|| json!({"type": "object"}));
                reference(&full)
            }
        }
    }

    fn refer(&mut self, of: &'a Type) -> Value {
        let name = definition_name(of);
        if !self.schemas.contains_key(&name) {
            // The place is taken at once, so that types that contain themselves come to an end.
            self.schemas.insert(name.clone(), Value::Null);
            self.open.push(of);
        }
        reference(&name)
    }

    /// All schemas, with those that they refer to.
    pub(super) fn finish(mut self) -> Value {
        while let Some(of) = self.open.pop() {
            let schema = self.type_schema(of);
            self.schemas.insert(definition_name(of), schema);
        }
        Value::Object(self.schemas)
    }

    fn type_schema(&mut self, of: &'a Type) -> Value {
        match of.form {
            Form::Struct => self.struct_schema(of),
            Form::Time | Form::MicroTime => json!({"type": "string", "format": "date-time"}),
            Form::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Form::IntOrString => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            Form::FieldsV1 => json!({"type": "object"}),
            Form::Raw if of.name.starts_with("runtime.") => json!({"type": "object"}),
            Form::Raw | Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => json!({}),
        }
    }

    fn struct_schema(&mut self, of: &'a Type) -> Value {
        let mut properties = Map::new();
        if of.has_type_meta {
            properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
            properties.insert("kind".to_owned(), json!({"type": "string"}));
        }
        let mut required = Vec::new();
        let list = of.name.ends_with("List") && of.has_type_meta;
        // Of types without a schema in the data everything is known but the rules.
        for field in of.fields_by_name().filter(|field| field.in_schema || !of.in_schema) {
            properties.insert(field.name.to_owned(), self.field_schema(field));
            if field.required || (list && field.name == "items") {
                required.push(field.name);
            }
        }
        let mut schema = json!({"type": "object"});
        if !properties.is_empty() {
            schema["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if let Some(map_type) = of.map_type {
            schema["x-kubernetes-map-type"] = json!(map_type_name(map_type));
        }
        if !of.unions.is_empty() {
            let union = |union: &crate::types::Union| {
                let mut entry = json!({"fields-to-discriminateBy": union.members});
                if let Some(discriminator) = &union.discriminator {
                    entry["discriminator"] = json!(discriminator);
                }
                entry
            };
            schema["x-kubernetes-unions"] = of.unions.iter().map(union).collect();
        }
        let kinds = self.kinds_of(of);
        if !kinds.is_empty() {
            schema["x-kubernetes-group-version-kind"] = json!(kinds);
        }
        schema
    }

    /// The kinds that a type is, as far as they concern this document.
    fn kinds_of(&self, of: &Type) -> Vec<Value> {
        let entry = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
        let shared = matches!(of.name, "meta.v1.DeleteOptions" | "meta.v1.WatchEvent");
        let mut kinds = Vec::new();
        let short = of.name.rsplit('.').next().unwrap_or_default();
        if shared {
            kinds.push(entry("", "v1", short));
            if !self.scope.group.is_empty() {
                kinds.push(entry(self.scope.group, self.scope.version, short));
            }
        } else if let Some(kind) = of.kind {
            kinds.push(entry(kind.group, kind.version, kind.kind));
        } else if of.name == "meta.v1.Status" {
            kinds.push(entry("", "v1", short));
        }
        kinds
    }

    fn field_schema(&mut self, field: &Field) -> Value {
        let mut schema = self.shape_schema(&field.shape);
        let plain_struct = field
            .shape
            .type_id()
            .is_some_and(|id| self.registry[id].form == Form::Struct);
        let default = match &field.schema_default {
            Some(default) => Some(default.clone()),
            None if field.pointer => None,
            None if plain_struct => Some(json!({})),
            // A value that is always written has a zero value that stands for absence.
            None if !field.omit_empty => zero(&field.shape),
            None => None,
        };
        if let Some(default) = default {
            schema["default"] = default;
        }
        if !field.allowed.is_empty() {
            schema["enum"] = json!(field.allowed);
        }
        if let Some(list) = field.list_type {
            let name = match list {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            schema["x-kubernetes-list-type"] = json!(name);
            if !field.list_keys.is_empty() {
                schema["x-kubernetes-list-map-keys"] = json!(field.list_keys);
            }
        }
        if let Some(map) = field.map_type {
            schema["x-kubernetes-map-type"] = json!(map_type_name(map));
        }
        let strategies = [
            (field.patch.merge, "merge"),
            (field.patch.replace, "replace"),
            (field.patch.retain_keys, "retainKeys"),
        ];
        let strategies: Vec<_> = strategies
            .into_iter()
            .filter(|(set, _)| *set)
            .map(|(_, name)| name)
            .collect();
        if !strategies.is_empty() {
            schema["x-kubernetes-patch-strategy"] = json!(strategies.join(","));
        }
        if let Some(key) = field.merge_key {
            schema["x-kubernetes-patch-merge-key"] = json!(key);
        }
        schema
    }

    fn shape_schema(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::String => json!({"type": "string"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Type(id) => {
                let registry = self.registry;
                // Beside a `$ref` nothing else may stand, so it is wrapped.
                json!({"allOf": [self.refer(&registry[*id])]})
            }
            Shape::List { item, .. } => json!({"type": "array", "items": self.item_schema(item)}),
            Shape::Map(item) => json!({"type": "object", "additionalProperties": self.item_schema(item)}),
        }
    }

    fn item_schema(&mut self, item: &Shape) -> Value {
        let mut schema = self.shape_schema(item);
        let default = match item {
            Shape::Type(id) if self.registry[*id].form == Form::Struct => Some(json!({})),
            item => zero(item),
        };
        if let Some(default) = default {
            schema["default"] = default;
        }
        schema
    }

    /// Adds a custom kind and its list.
    pub(super) fn add_custom(&mut self, kind: &CustomKind, version: &CustomVersion) {
        let name = custom_name(&kind.group, &version.name, &kind.names.kind);
        let list = custom_name(&kind.group, &version.name, &kind.names.list_kind);
        let mut schema = published(&version.open_api);
        if !schema.is_object() {
            schema = json!({"type": "object"});
        }
        let metadata = json!({"allOf": [self.meta("ObjectMeta")]});
        let free = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        if !free || schema.get("properties").is_some() {
            let properties = &mut schema["properties"];
            if !properties.is_object() {
                *properties = json!({});
            }
            properties["apiVersion"] = json!({"type": "string"});
            properties["kind"] = json!({"type": "string"});
            properties["metadata"] = metadata;
        }
        let gvk = |kind_name: &str| json!([{"group": kind.group, "version": version.name, "kind": kind_name}]);
        schema["x-kubernetes-group-version-kind"] = gvk(&kind.names.kind);
        if !version.selectable_fields.is_empty() {
            let fields = version.selectable_fields.iter().map(|path| json!({"fieldPath": path}));
            schema["x-kubernetes-selectable-fields"] = fields.collect();
        }
        self.schemas.insert(name.clone(), schema);
        let list_metadata = json!({"allOf": [self.meta("ListMeta")]});
        let items = json!({"type": "array", "items": reference(&name)});
        let list_schema = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": list_metadata,
                "items": items,
            },
            "x-kubernetes-group-version-kind": gvk(&kind.names.list_kind),
        });
        self.schemas.insert(list, list_schema);
    }
}

/// The zero value of a scalar.
fn zero(shape: &Shape) -> Option<Value> {
    match shape {
        Shape::String => Some(json!("")),
        Shape::Int32 | Shape::Int64 => Some(json!(0)),
        Shape::Bool => Some(json!(false)),
        _ => None,
    }
}

fn map_type_name(map: MapType) -> &'static str {
    match map {
        MapType::Atomic => "atomic",
        MapType::Granular => "granular",
    }
}

/// A schema of a definition as clients get to see it: what may be a number or a text says so in a way that every client knows.
fn published(schema: &Value) -> Value {
    let Value::Object(map) = schema else {
        return schema.clone();
    };
    let mut out = Map::new();
    for (key, value) in map {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => Value::Object(
                properties
                    .iter()
                    .map(|(name, inner)| (name.clone(), published(inner)))
                    .collect(),
            ),
            ("items" | "additionalProperties" | "not", inner) => published(inner),
            ("allOf" | "anyOf" | "oneOf", Value::Array(items)) => items.iter().map(published).collect(),
            (_, value) => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    let int_or_string = out.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    if int_or_string && !out.contains_key("anyOf") {
        out.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
    }
    Value::Object(out)
}
