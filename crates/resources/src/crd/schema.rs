//! A structural schema: a JSON schema in which the type of every field is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use crate::validation::{FieldError, FieldPath};

/// A type name of JSON schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonType {
    /// `object`
    Object,
    /// `array`
    Array,
    /// `string`
    String,
    /// `integer`
    Integer,
    /// `number`
    Number,
    /// `boolean`
    Boolean,
}

impl JsonType {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// The name in schemas and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What entries of an object may be that are no declared properties.
#[derive(Debug, Clone)]
pub(crate) enum Additional {
    /// Anything.
    Any,
    /// Nothing.
    None,
    /// Values of this schema.
    Of(Box<Schema>),
}

/// A pattern and what it was written as.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    pub(crate) regex: Regex,
}

/// One node of a structural schema.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    pub(crate) kind: Option<JsonType>,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve_unknown_fields: bool,
    pub(crate) embedded_resource: bool,
    pub(crate) list_type: Option<String>,
    pub(crate) list_map_keys: Vec<String>,
    pub(crate) properties: BTreeMap<String, Schema>,
    pub(crate) additional: Option<Additional>,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) default: Option<Value>,
    /// How many of the properties have a default.
    pub(crate) defaults: usize,
    pub(crate) rules: Rules,
    /// Whether CEL rules stand here.
    pub(crate) has_cel: bool,
}

/// What a value is checked against.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) format: Option<String>,
    pub(crate) allowed: Vec<Value>,
    pub(crate) pattern: Option<Arc<Pattern>>,
    pub(crate) minimum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) required: Vec<String>,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) one_of: Vec<Schema>,
    pub(crate) not: Option<Box<Schema>>,
}

/// Reads one node and collects its faults.
struct Reader {
    errors: Vec<FieldError>,
    /// Inside `allOf` and the like only value rules may stand, types need not.
    in_logic: bool,
}

impl Schema {
    /// Reads a schema (`openAPIV3Schema` of a version). `path` is where it stands, for messages.
    ///
    /// # Errors
    /// Every place at which the schema is not structural.
    pub fn parse(value: &Value, path: &FieldPath) -> Result<Self, Vec<FieldError>> {
        let mut reader = Reader {
            errors: Vec::new(),
            in_logic: false,
        };
        let schema = reader.read(value, path);
        match (schema.kind, value.get("type").and_then(Value::as_str)) {
            (Some(JsonType::Object), _) => {}
            (_, None | Some("")) => {
                reader.errors.retain(|e| e.field != path.child("type").to_string());
                reader.errors.insert(
                    0,
                    FieldError::required(&path.child("type"), "must not be empty at the root"),
                );
            }
            (_, Some(other)) => {
                reader.errors.push(FieldError::invalid(
                    &path.child("type"),
                    other,
                    "must be object at the root",
                ));
            }
        }
        if reader.errors.is_empty() {
            Ok(schema)
        } else {
            Err(reader.errors)
        }
    }

    /// The schema of a field, declared or additional.
    pub(crate) fn member(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional {
            Some(Additional::Of(schema)) => Some(schema),
            _ => None,
        })
    }

    /// Paths below this node at which CEL rules stand.
    pub(crate) fn cel_paths(&self, path: &str, found: &mut Vec<String>) {
        if self.has_cel {
            found.push(if path.is_empty() { "." } else { path }.to_owned());
        }
        for (name, property) in &self.properties {
            property.cel_paths(&format!("{path}.{name}"), found);
        }
        if let Some(Additional::Of(schema)) = &self.additional {
            schema.cel_paths(&format!("{path}.*"), found);
        }
        if let Some(items) = &self.items {
            items.cel_paths(&format!("{path}[]"), found);
        }
    }
}

impl Reader {
    fn read(&mut self, value: &Value, path: &FieldPath) -> Schema {
        let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        let kind = value
            .get("type")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty());
        let mut schema = Schema {
            kind: kind.and_then(JsonType::parse),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown_fields: flag("x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag("x-kubernetes-embedded-resource"),
            list_type: value
                .get("x-kubernetes-list-type")
                .and_then(Value::as_str)
                .map(str::to_owned),
            list_map_keys: texts(value.get("x-kubernetes-list-map-keys")),
            default: value.get("default").filter(|v| !v.is_null()).cloned(),
            has_cel: value
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .is_some_and(|rules| !rules.is_empty()),
            ..Schema::default()
        };
        self.check_type(kind, &schema, path);
        self.read_children(value, path, &mut schema);
        self.check_lists(&schema, path);
        schema.rules = self.read_rules(value, path);
        let defaults = schema.properties.values().filter(|property| property.default.is_some());
        schema.defaults = defaults.count();
        schema
    }

    fn check_type(&mut self, kind: Option<&str>, schema: &Schema, path: &FieldPath) {
        let at = path.child("type");
        match kind {
            Some(text) if schema.kind.is_none() => {
                let known = ["array", "boolean", "integer", "number", "object", "string"];
                self.errors.push(FieldError::not_supported(&at, text, &known));
            }
            None if !schema.int_or_string && !schema.preserve_unknown_fields && !self.in_logic => {
                self.errors.push(FieldError::required(
                    &at,
                    "must not be empty for specified object fields",
                ));
            }
            Some(_) if schema.int_or_string && !self.in_logic => {
                let detail = "must be empty if x-kubernetes-int-or-string is true";
                self.errors
                    .push(FieldError::invalid(&at, kind.unwrap_or_default(), detail));
            }
            _ => {}
        }
    }

    fn read_children(&mut self, value: &Value, path: &FieldPath, schema: &mut Schema) {
        if value.get("$ref").is_some() {
            self.errors
                .push(FieldError::forbidden(&path.child("$ref"), "must not be set"));
        }
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            let at = path.child("properties");
            for (name, property) in properties {
                let property = self.read(property, &at.key(name));
                schema.properties.insert(name.clone(), property);
            }
        }
        schema.additional = match value.get("additionalProperties") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(true)) => Some(Additional::Any),
            Some(Value::Bool(false)) => Some(Additional::None),
            Some(of) => Some(Additional::Of(Box::new(
                self.read(of, &path.child("additionalProperties")),
            ))),
        };
        if schema.additional.is_some() && !schema.properties.is_empty() {
            let at = path.child("additionalProperties");
            self.errors.push(FieldError::forbidden(
                &at,
                "additionalProperties and properties are mutual exclusive",
            ));
        }
        match value.get("items") {
            None | Some(Value::Null) => {
                if schema.kind == Some(JsonType::Array) && !self.in_logic {
                    self.errors
                        .push(FieldError::required(&path.child("items"), "must be specified"));
                }
            }
            Some(Value::Array(_)) => {
                let detail = "items must be a schema object and not an array";
                self.errors.push(FieldError::forbidden(&path.child("items"), detail));
            }
            Some(items) => schema.items = Some(Box::new(self.read(items, &path.child("items")))),
        }
    }

    fn check_lists(&mut self, schema: &Schema, path: &FieldPath) {
        let Some(list_type) = &schema.list_type else { return };
        let at = path.child("x-kubernetes-list-type");
        if !matches!(list_type.as_str(), "atomic" | "set" | "map") {
            self.errors.push(FieldError::not_supported(
                &at,
                list_type.as_str(),
                &["atomic", "map", "set"],
            ));
        }
        if list_type == "map" && schema.list_map_keys.is_empty() {
            let at = path.child("x-kubernetes-list-map-keys");
            self.errors.push(FieldError::required(
                &at,
                "must not be empty if x-kubernetes-list-type is map",
            ));
        }
    }

    fn read_rules(&mut self, value: &Value, path: &FieldPath) -> Rules {
        let number = |name: &str| value.get(name).and_then(Value::as_f64);
        let count = |name: &str| value.get(name).and_then(Value::as_u64);
        let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        Rules {
            format: value
                .get("format")
                .and_then(Value::as_str)
                .filter(|f| !f.is_empty())
                .map(str::to_owned),
            allowed: value.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            pattern: self.pattern(value, path),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf").filter(|factor| *factor > 0.0),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            unique_items: flag("uniqueItems"),
            required: texts(value.get("required")),
            all_of: self.alternatives(value, "allOf", path),
            any_of: self.alternatives(value, "anyOf", path),
            one_of: self.alternatives(value, "oneOf", path),
            not: value
                .get("not")
                .filter(|v| v.is_object())
                .map(|not| Box::new(self.logic(not, &path.child("not")))),
        }
    }

    fn pattern(&mut self, value: &Value, path: &FieldPath) -> Option<Arc<Pattern>> {
        let text = value.get("pattern")?.as_str()?.to_owned();
        match Regex::new(&text) {
            Ok(regex) => Some(Arc::new(Pattern { text, regex })),
            Err(_) => {
                let at = path.child("pattern");
                self.errors.push(FieldError::invalid(
                    &at,
                    text,
                    "must be a valid regular expression, but isn't",
                ));
                None
            }
        }
    }

    fn alternatives(&mut self, value: &Value, name: &str, path: &FieldPath) -> Vec<Schema> {
        let at = path.child(name);
        let Some(list) = value.get(name).and_then(Value::as_array) else {
            return Vec::new();
        };
        list.iter()
            .enumerate()
            .map(|(index, schema)| self.logic(schema, &at.index(index)))
            .collect()
    }

    fn logic(&mut self, value: &Value, path: &FieldPath) -> Schema {
        let outer = std::mem::replace(&mut self.in_logic, true);
        let schema = self.read(value, path);
        self.in_logic = outer;
        schema
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
