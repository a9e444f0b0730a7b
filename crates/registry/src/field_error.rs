//! One fault of one field, with the texts that clients of a Kubernetes API see.

use std::fmt;

use serde_json::Value;

use crate::gofmt;

/// What is wrong with a field. The names of the reasons are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    /// Something that the field refers to is not there.
    NotFound,
    /// The field must be set.
    Required,
    /// The value must be unique and is there twice.
    Duplicate,
    /// The value is not allowed.
    Invalid,
    /// The value is none of those that are known.
    NotSupported,
    /// The field must not be set, or not by this request.
    Forbidden,
    /// The value has too many bytes.
    TooLong,
    /// The list or map has too many entries.
    TooMany,
    /// The value is of the wrong type.
    TypeInvalid,
    /// The server could not tell.
    Internal,
}

impl FieldErrorKind {
    /// The `reason` of the cause in a Status.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    /// Whether the message names the value.
    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One fault of one field. Displays as `spec.x: Invalid value: "a": must be b`.
///
/// Upstream: k8s.io/apimachinery pkg/util/validation/field (errors.go).
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Where: `spec.containers[0].name`, `data[bad key]`.
    pub field: String,
    /// What kind of fault.
    pub kind: FieldErrorKind,
    /// The value, where the message names it.
    pub bad_value: Option<Value>,
    /// What exactly is wrong; may be empty.
    pub detail: String,
    /// The value as the message prints it, where the order of its fields is not the alphabet's.
    pub shown: Option<String>,
}

impl FieldError {
    fn new(field: &FieldPath, kind: FieldErrorKind, bad_value: Option<Value>, detail: impl Into<String>) -> Self {
        Self {
            field: field.to_string(),
            kind,
            bad_value,
            detail: detail.into(),
            shown: None,
        }
    }

    /// The value is not allowed.
    pub fn invalid(field: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(field, FieldErrorKind::Invalid, Some(value.into()), detail)
    }

    /// The value is of the wrong type.
    pub fn type_invalid(field: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(field, FieldErrorKind::TypeInvalid, Some(value.into()), detail)
    }

    /// The field must be set.
    pub fn required(field: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(field, FieldErrorKind::Required, None, detail)
    }

    /// The value is there twice.
    pub fn duplicate(field: &FieldPath, value: impl Into<Value>) -> Self {
        Self::new(field, FieldErrorKind::Duplicate, Some(value.into()), "")
    }

    /// The field must not be set or changed.
    pub fn forbidden(field: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(field, FieldErrorKind::Forbidden, None, detail)
    }

    /// The value refers to something that is not there.
    pub fn not_found(field: &FieldPath, value: impl Into<Value>) -> Self {
        Self::new(field, FieldErrorKind::NotFound, Some(value.into()), "")
    }

    /// The value is none of `supported`.
    pub fn not_supported<T: AsRef<str>>(field: &FieldPath, value: impl Into<Value>, supported: &[T]) -> Self {
        let names: Vec<_> = supported.iter().map(|name| gofmt::quote(name.as_ref())).collect();
        let detail = if names.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", names.join(", "))
        };
        Self::new(field, FieldErrorKind::NotSupported, Some(value.into()), detail)
    }

    /// The value has more than `limit` bytes.
    pub fn too_long(field: &FieldPath, limit: usize) -> Self {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        Self::new(
            field,
            FieldErrorKind::TooLong,
            None,
            format!("may not be more than {limit} {unit}"),
        )
    }

    /// There are `actual` entries and may be `limit`.
    pub fn too_many(field: &FieldPath, actual: usize, limit: usize) -> Self {
        let unit = if limit == 1 { "item" } else { "items" };
        let detail = format!("must have at most {limit} {unit}");
        Self::new(field, FieldErrorKind::TooMany, Some(Value::from(actual)), detail)
    }

    /// The server could not tell.
    pub fn internal(field: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(field, FieldErrorKind::Internal, None, detail)
    }

    /// Prints the value with this text.
    #[must_use]
    pub fn shown_as(mut self, text: impl Into<String>) -> Self {
        self.shown = Some(text.into());
        self
    }

    /// The message without the field: the `message` of a cause in a Status.
    #[must_use]
    pub fn message(&self) -> String {
        let mut text = self.kind.title().to_owned();
        if self.kind.shows_value() {
            if let Some(shown) = &self.shown {
                text.push_str(": ");
                text.push_str(shown);
            } else if let Some(value) = &self.bad_value {
                text.push_str(": ");
                text.push_str(&printed(value));
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() { "<nil>" } else { &self.field };
        write!(f, "{field}: {}", self.message())
    }
}

fn printed(value: &Value) -> String {
    match value {
        // A missing value is printed as a string by Go.
        Value::Null => "\"null\"".to_owned(),
        Value::String(text) => gofmt::quote(text),
        Value::Number(n) => match n.as_f64() {
            Some(float) if n.is_f64() => gofmt::float(float),
            _ => n.to_string(),
        },
        other => other.to_string(),
    }
}

/// Errors as the message of an Invalid lists them: one alone, several in brackets, equal ones once.
#[must_use]
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in errors.iter().map(FieldError::to_string) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        texts => format!("[{}]", texts.join(", ")),
    }
}

/// A path to a field, as messages print it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldPath(String);

impl FieldPath {
    /// The path of a top-level field, or of several levels joined by dots.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The object itself.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// A field of what stands here.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(if self.0.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.0)
        })
    }

    /// An item of the list here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of the map here.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // covers: apiserver-http/STAT-07
    #[test]
    fn messages_are_those_of_the_api() {
        let path = FieldPath::new("spec").child("parts").index(1);
        for (error, want) in [
            (FieldError::required(&path, ""), "spec.parts[1]: Required value"),
            (
                FieldError::duplicate(&path, json!({"name": "x"})),
                "spec.parts[1]: Duplicate value: {\"name\":\"x\"}",
            ),
            (
                FieldError::invalid(&path, -1, "must be at least 0"),
                "spec.parts[1]: Invalid value: -1: must be at least 0",
            ),
            (
                FieldError::invalid(&path, Value::Null, "x"),
                "spec.parts[1]: Invalid value: \"null\": x",
            ),
            (
                FieldError::not_supported(&path, "pink", &["red", "green"]),
                "spec.parts[1]: Unsupported value: \"pink\": supported values: \"red\", \"green\"",
            ),
            (
                FieldError::too_long(&path, 20),
                "spec.parts[1]: Too long: may not be more than 20 bytes",
            ),
            (
                FieldError::too_many(&path, 5, 4),
                "spec.parts[1]: Too many: 5: must have at most 4 items",
            ),
            (
                FieldError::forbidden(&FieldPath::new("data").key("a b"), "no"),
                "data[a b]: Forbidden: no",
            ),
            (
                FieldError::invalid(&FieldPath::root(), 1e30, "x"),
                "<nil>: Invalid value: 1e+30: x",
            ),
        ] {
            assert_eq!(error.to_string(), want);
        }
        let one = FieldError::required(&path, "");
        assert_eq!(aggregate(&[one.clone(), one.clone()]), "spec.parts[1]: Required value");
        let other = FieldError::required(&FieldPath::new("x"), "");
        assert_eq!(
            aggregate(&[one, other]),
            "[spec.parts[1]: Required value, x: Required value]"
        );
    }
}
