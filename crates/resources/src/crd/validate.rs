//! Values against structural schemas.

use serde_json::{Map, Value};

use crate::gofmt;
use crate::validation::metadata::{NameRule, validate_meta, validate_meta_update};
use crate::validation::{FieldError, FieldPath};

use super::definition::{CustomKind, CustomVersion, ScalePaths};
use super::formats;
use super::schema::{Additional, JsonType, Schema};

/// Validates a new object of a custom kind: metadata, schema, scale, sets and maps.
pub fn validate_custom(kind: &CustomKind, version: &CustomVersion, object: &Value) -> Vec<FieldError> {
    let wrong_kind = type_meta(kind, version, object);
    if !wrong_kind.is_empty() {
        return wrong_kind;
    }
    let mut errors = validate_meta(object, kind.namespaced, NameRule::Subdomain, false);
    errors.extend(version.schema.validate(object, None));
    if let Some(scale) = &version.scale {
        scale_spec(scale, object, &mut errors);
        scale_status(scale, object, &mut errors);
    }
    errors.extend(version.schema.validate_lists(object));
    errors
}

/// Validates a changed object of a custom kind. Values that the change leaves as they were are not held against it.
///
/// `status_only`: the change came through the status subresource, so only the status is looked at.
pub fn validate_custom_update(
    kind: &CustomKind,
    version: &CustomVersion,
    object: &Value,
    old: &Value,
    status_only: bool,
) -> Vec<FieldError> {
    let wrong_kind = type_meta(kind, version, object);
    if !wrong_kind.is_empty() {
        return wrong_kind;
    }
    let mut errors = validate_meta_update(object, old);
    if status_only {
        if let (Some(status), Some(schema)) = (object.get("status"), version.schema.properties.get("status")) {
            let mut check = Check { errors: Vec::new() };
            check.value(schema, status, old.get("status"), "status");
            errors.extend(check.errors);
        }
    } else {
        errors.extend(version.schema.validate(object, Some(old)));
    }
    if let Some(scale) = &version.scale {
        if !status_only {
            scale_spec(scale, object, &mut errors);
        }
        scale_status(scale, object, &mut errors);
    }
    let lists = version.schema.validate_lists(object);
    if !lists.is_empty() && version.schema.validate_lists(old).is_empty() {
        errors.extend(lists);
    }
    errors
}

fn type_meta(kind: &CustomKind, version: &CustomVersion, object: &Value) -> Vec<FieldError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut errors = Vec::new();
    let api_version = format!("{}/{}", kind.group, version.name);
    for (name, want) in [("kind", kind.names.kind.as_str()), ("apiVersion", api_version.as_str())] {
        if text(name) != want {
            errors.push(FieldError::invalid(
                &FieldPath::new(name),
                text(name),
                format!("must be {want}"),
            ));
        }
    }
    errors
}

/// The value at `.spec.replicas`; the error is the text of an accessor that met no object on its way.
fn nested<'v>(object: &'v Value, path: &str) -> Result<Option<&'v Value>, String> {
    let mut current = object;
    let names: Vec<_> = path.trim_start_matches('.').split('.').collect();
    for (index, name) in names.iter().enumerate() {
        let Value::Object(map) = current else {
            let at = names[..index].iter().map(|n| format!(".{n}")).collect::<String>();
            return Err(format!(
                "{at}.{name} accessor error: {} is of the type {}, expected map[string]interface{{}}",
                gofmt::plain(current),
                go_type(current)
            ));
        };
        match map.get(*name) {
            None => return Ok(None),
            Some(inner) => current = inner,
        }
    }
    Ok(Some(current))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn replicas(path: &str, object: &Value, errors: &mut Vec<FieldError>) {
    let at = FieldPath::new(path);
    let value = match nested(object, path) {
        Ok(None) => return,
        Ok(Some(value)) => value,
        Err(text) => return errors.push(FieldError::invalid(&at, 0, text)),
    };
    let Some(count) = value.as_i64() else {
        let dotted = format!(".{}", path.trim_start_matches('.'));
        let (shown, kind) = (gofmt::plain(value), go_type(value));
        let detail = format!("{dotted} accessor error: {shown} is of the type {kind}, expected int64");
        return errors.push(FieldError::invalid(&at, 0, detail));
    };
    if count < 0 {
        errors.push(FieldError::invalid(&at, count, "should be a non-negative integer"));
    } else if count > i64::from(i32::MAX) {
        errors.push(FieldError::invalid(
            &at,
            count,
            format!("should be less than or equal to {}", i32::MAX),
        ));
    }
}

fn scale_spec(scale: &ScalePaths, object: &Value, errors: &mut Vec<FieldError>) {
    replicas(&scale.spec_replicas, object, errors);
}

fn scale_status(scale: &ScalePaths, object: &Value, errors: &mut Vec<FieldError>) {
    replicas(&scale.status_replicas, object, errors);
    let Some(path) = &scale.label_selector else { return };
    match nested(object, path) {
        Err(text) => errors.push(FieldError::invalid(&FieldPath::new(path), "", text)),
        Ok(Some(value)) if !value.is_string() => {
            let dotted = format!(".{}", path.trim_start_matches('.'));
            let (shown, kind) = (gofmt::plain(value), go_type(value));
            let detail = format!("{dotted} accessor error: {shown} is of the type {kind}, expected string");
            errors.push(FieldError::invalid(&FieldPath::new(path), "", detail));
        }
        Ok(_) => {}
    }
}

impl Schema {
    /// Validates a value: types, bounds, lengths, patterns, enumerations, required fields and logical combinations.
    ///
    /// `old` is the value before the change: what equals it is not looked at again.
    pub fn validate(&self, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut check = Check { errors: Vec::new() };
        check.value(self, value, old, "");
        check.errors
    }

    /// Validates that sets and lists with keys hold each item once.
    pub fn validate_lists(&self, value: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        lists(self, value, &FieldPath::root(), &mut errors);
        errors
    }
}

struct Check {
    errors: Vec<FieldError>,
}

/// The text path of messages (`spec.size`) as a field path.
fn at(path: &str) -> FieldPath {
    FieldPath::new(path.trim_start_matches('.'))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Check {
    fn invalid(&mut self, path: &str, value: impl Into<Value>, rule: &str) {
        self.errors.push(FieldError::invalid(
            &at(path),
            value,
            format!("{} in body {rule}", at(path)),
        ));
    }

    fn wrong_type(&mut self, path: &str, expected: &str, found: &str) {
        let detail = format!(
            "{} in body must be of type {expected}: {}",
            at(path),
            gofmt::quote(found)
        );
        self.errors.push(FieldError::type_invalid(&at(path), found, detail));
    }

    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) {
        if old == Some(value) {
            return;
        }
        self.type_of(schema, value, path);
        if !value.is_null() {
            self.logic(schema, value, path);
            match value {
                Value::String(text) => self.text(schema, text, path),
                Value::Number(number) if numeric(schema) => self.number(schema, number, path),
                Value::Array(items) => self.list(schema, items, old, path),
                _ => {}
            }
        }
        let allowed = &schema.rules.allowed;
        if !allowed.is_empty() && !allowed.iter().any(|one| same(one, value)) {
            let names: Vec<_> = allowed
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            self.errors
                .push(FieldError::not_supported(&at(path), value.clone(), &names));
        }
        if let Value::Object(map) = value {
            self.object(schema, map, old, path);
        }
    }

    fn type_of(&mut self, schema: &Schema, value: &Value, path: &str) {
        let expected = match (schema.int_or_string, schema.kind) {
            (true, _) => "integer,string",
            (false, Some(kind)) => kind.name(),
            (false, None) => return,
        };
        let integral = match value {
            Value::Number(n) => {
                n.as_f64()
                    .is_some_and(|f| f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0)
                    || !n.is_f64()
            }
            _ => false,
        };
        let fits = match (schema.int_or_string, schema.kind, value) {
            (_, _, Value::Null) => schema.nullable,
            (true, _, value) => value.is_string() || integral,
            (_, Some(JsonType::Integer), _) => integral,
            (_, Some(JsonType::Number), _) => value.is_number(),
            (_, Some(JsonType::Object), _) => value.is_object(),
            (_, Some(JsonType::Array), _) => value.is_array(),
            (_, Some(JsonType::String), _) => value.is_string(),
            (_, Some(JsonType::Boolean), _) => value.is_boolean(),
            (_, None, _) => true,
        };
        if !fits {
            self.wrong_type(path, expected, type_name(value));
        }
    }

    fn text(&mut self, schema: &Schema, text: &str, path: &str) {
        let rules = &schema.rules;
        let length = text.chars().count() as u64;
        if rules.max_length.is_some_and(|max| length > max) {
            let limit = usize::try_from(rules.max_length.unwrap_or_default()).unwrap_or(usize::MAX);
            self.errors.push(FieldError::too_long(&at(path), limit));
        } else if rules.min_length.is_some_and(|min| length < min) {
            let rule = format!("should be at least {} chars long", rules.min_length.unwrap_or_default());
            self.invalid(path, text, &rule);
        } else if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !pattern.regex.is_match(text)) {
            self.invalid(path, text, &format!("should match '{}'", pattern.text));
        }
        if let Some(format) = rules.format.as_deref().filter(|format| !formats::matches(format, text)) {
            let detail = format!("{} in body must be of type {format}: {}", at(path), gofmt::quote(text));
            self.errors.push(FieldError::type_invalid(&at(path), text, detail));
        }
    }

    fn number(&mut self, schema: &Schema, number: &serde_json::Number, path: &str) {
        let rules = &schema.rules;
        let Some(value) = number.as_f64() else { return };
        let shown = || Value::Number(number.clone());
        let range = match rules.format.as_deref() {
            Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            _ => None,
        };
        if let Some((_, _)) = range.filter(|(low, high)| value < *low || value > *high) {
            let detail = format!(
                "Checked value must be of type integer with format int32 in {}",
                at(path)
            );
            self.errors.push(FieldError::invalid(&at(path), shown(), detail));
        }
        if let Some(factor) = rules.multiple_of {
            let quotient = value / factor;
            if (quotient - quotient.round()).abs() > 1e-9 {
                self.invalid(
                    path,
                    shown(),
                    &format!("should be a multiple of {}", gofmt::float(factor)),
                );
            }
        }
        if let Some(min) = rules.minimum {
            let word = if rules.exclusive_minimum {
                "greater than"
            } else {
                "greater than or equal to"
            };
            if value < min || (rules.exclusive_minimum && value == min) {
                self.invalid(path, shown(), &format!("should be {word} {}", gofmt::float(min)));
            }
        }
        if let Some(max) = rules.maximum {
            let word = if rules.exclusive_maximum {
                "less than"
            } else {
                "less than or equal to"
            };
            if value > max || (rules.exclusive_maximum && value == max) {
                self.invalid(path, shown(), &format!("should be {word} {}", gofmt::float(max)));
            }
        }
    }

    fn list(&mut self, schema: &Schema, items: &[Value], old: Option<&Value>, path: &str) {
        let rules = &schema.rules;
        if let Some(member) = &schema.items {
            for (index, item) in items.iter().enumerate() {
                let before = old
                    .and_then(Value::as_array)
                    .and_then(|old| counterpart(schema, item, old));
                self.value(member, item, before, &format!("{path}[{index}]"));
            }
        }
        let count = items.len();
        if rules.min_items.is_some_and(|min| (count as u64) < min) {
            let rule = format!("should have at least {} items", rules.min_items.unwrap_or_default());
            self.invalid(path, count, &rule);
        }
        if let Some(max) = rules.max_items.filter(|max| count as u64 > *max) {
            self.errors.push(FieldError::too_many(
                &at(path),
                count,
                usize::try_from(max).unwrap_or(usize::MAX),
            ));
        }
        if rules.unique_items
            && items
                .iter()
                .enumerate()
                .any(|(index, item)| items[..index].contains(item))
        {
            self.invalid(path, "", "shouldn't contain duplicates");
        }
    }

    fn object(&mut self, schema: &Schema, map: &Map<String, Value>, old: Option<&Value>, path: &str) {
        let rules = &schema.rules;
        let count = map.len();
        if rules.min_properties.is_some_and(|min| (count as u64) < min) {
            let rule = format!(
                "should have at least {} properties",
                rules.min_properties.unwrap_or_default()
            );
            self.invalid(path, count, &rule);
        }
        if let Some(max) = rules.max_properties.filter(|max| count as u64 > *max) {
            self.errors.push(FieldError::too_many(
                &at(path),
                count,
                usize::try_from(max).unwrap_or(usize::MAX),
            ));
        }
        for (name, value) in map {
            let member = match (schema.properties.get(name), &schema.additional) {
                (Some(member), _) => member,
                (None, Some(Additional::Of(member))) => member,
                _ => continue,
            };
            self.value(
                member,
                value,
                old.and_then(|old| old.get(name)),
                &format!("{path}.{name}"),
            );
        }
        for name in &rules.required {
            if !map.contains_key(name) {
                self.errors
                    .push(FieldError::required(&at(&format!("{path}.{name}")), ""));
            }
        }
    }

    fn logic(&mut self, schema: &Schema, value: &Value, path: &str) {
        let rules = &schema.rules;
        let faults = |schema: &Schema| {
            let mut check = Check { errors: Vec::new() };
            check.value(schema, value, None, path);
            check.errors
        };
        let quoted = gofmt::quote(path.trim_start_matches('.'));
        if !rules.any_of.is_empty() {
            let tried: Vec<_> = rules.any_of.iter().map(faults).collect();
            if !tried.iter().any(Vec::is_empty) {
                self.composite(path, format!("{quoted} must validate at least one schema (anyOf)"));
                self.errors
                    .extend(tried.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
        }
        if !rules.one_of.is_empty() {
            let tried: Vec<_> = rules.one_of.iter().map(faults).collect();
            let valid = tried.iter().filter(|errors| errors.is_empty()).count();
            if valid != 1 {
                let found = if valid == 0 {
                    "Found none valid".to_owned()
                } else {
                    format!("Found {valid} valid alternatives")
                };
                self.composite(
                    path,
                    format!("{quoted} must validate one and only one schema (oneOf). {found}"),
                );
                if valid == 0 {
                    self.errors
                        .extend(tried.into_iter().min_by_key(Vec::len).unwrap_or_default());
                }
            }
        }
        if !rules.all_of.is_empty() {
            let tried: Vec<_> = rules.all_of.iter().map(faults).collect();
            let valid = tried.iter().filter(|errors| errors.is_empty()).count();
            let all = tried.len();
            self.errors.extend(tried.into_iter().flatten());
            if valid != all {
                let none = if valid == 0 { ". None validated" } else { "" };
                self.composite(path, format!("{quoted} must validate all the schemas (allOf){none}"));
            }
        }
        if rules.not.as_deref().is_some_and(|schema| faults(schema).is_empty()) {
            self.composite(path, format!("{quoted} must not validate the schema (not)"));
        }
    }

    fn composite(&mut self, path: &str, detail: String) {
        self.errors.push(FieldError::invalid(&at(path), "", detail));
    }
}

fn numeric(schema: &Schema) -> bool {
    schema.int_or_string || matches!(schema.kind, Some(JsonType::Integer | JsonType::Number)) || schema.kind.is_none()
}

/// Equal as JSON schema sees it: 1 is 1.0.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(l), Value::Number(r)) => l == r || l.as_f64() == r.as_f64(),
        _ => left == right,
    }
}

/// The item of the old list that this one continues: the one with the same keys in a list that has keys.
fn counterpart<'v>(schema: &Schema, item: &Value, old: &'v [Value]) -> Option<&'v Value> {
    if schema.list_type.as_deref() != Some("map") {
        return None;
    }
    old.iter()
        .find(|other| schema.list_map_keys.iter().all(|key| other.get(key) == item.get(key)))
}

fn lists(schema: &Schema, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    match value {
        Value::Array(items) => {
            match schema.list_type.as_deref() {
                Some("set") => duplicates(items, path, errors),
                Some("map") => list_map(schema, items, path, errors),
                _ => {}
            }
            if let Some(member) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    lists(member, item, &path.index(index), errors);
                }
            }
        }
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(property) = schema.properties.get(name) {
                    lists(property, inner, &path.child(name), errors);
                } else if let Some(Additional::Of(member)) = &schema.additional {
                    lists(member, inner, &path.key(name), errors);
                }
            }
        }
        _ => {}
    }
}

/// Reports the second appearance of each item that appears more than once.
fn duplicates(items: &[Value], path: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let times = seen.entry(item.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            errors.push(FieldError::duplicate(&path.index(index), item.clone()));
        }
    }
}

fn list_map(schema: &Schema, items: &[Value], path: &FieldPath, errors: &mut Vec<FieldError>) {
    let stranger = items.iter().position(|item| !item.is_object() && !item.is_null());
    if let Some(index) = stranger {
        let detail = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(&path.index(index), items[index].clone(), detail));
        return;
    }
    let key_of = |item: &Value| {
        let keys = schema.list_map_keys.iter();
        let key: Map<_, _> = keys
            .filter_map(|k| item.get(k).map(|v| (k.clone(), v.clone())))
            .collect();
        Value::Object(key)
    };
    let keys: Vec<Value> = items.iter().map(key_of).collect();
    duplicates(&keys, path, errors);
}
