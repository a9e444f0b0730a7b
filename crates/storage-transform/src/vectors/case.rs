//! Typed access to the fields of a case, with errors that say where in the file something is amiss.

use serde_json::{Map, Value};

use super::file::FormatError;

/// An object of the file and where it stands.
pub(super) struct Case<'v> {
    place: String,
    name: &'v str,
    fields: &'v Map<String, Value>,
}

impl<'v> Case<'v> {
    pub(super) fn new(list: &str, index: usize, value: &'v Value) -> Result<Self, FormatError> {
        let place = format!("{list}[{index}]");
        let Value::Object(fields) = value else {
            return Err(FormatError::new(place, "expected an object"));
        };
        match fields.get("name").and_then(Value::as_str) {
            Some(name) => Ok(Self {
                place: format!("{place} ({name})"),
                name,
                fields,
            }),
            None => Err(FormatError::new(place, "expected a name")),
        }
    }

    pub(super) fn name(&self) -> &'v str {
        self.name
    }

    pub(super) fn error(&self, field: &str, problem: impl std::fmt::Display) -> FormatError {
        FormatError::new(&self.place, format!("{field}: {problem}"))
    }

    /// A field that may be absent or null.
    pub(super) fn get(&self, field: &str) -> Option<&'v Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn require(&self, field: &str) -> Result<&'v Value, FormatError> {
        self.get(field).ok_or_else(|| self.error(field, "is missing"))
    }

    pub(super) fn text(&self, field: &str) -> Result<&'v str, FormatError> {
        self.require(field)?
            .as_str()
            .ok_or_else(|| self.error(field, "expected a string"))
    }

    pub(super) fn optional_text(&self, field: &str) -> Result<Option<&'v str>, FormatError> {
        self.get(field).map(|_| self.text(field)).transpose()
    }

    pub(super) fn flag(&self, field: &str) -> Result<bool, FormatError> {
        match self.get(field) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.error(field, "expected true or false")),
        }
    }

    pub(super) fn seconds(&self, field: &str) -> Result<u64, FormatError> {
        self.require(field)?
            .as_u64()
            .ok_or_else(|| self.error(field, "expected a number of seconds"))
    }

    pub(super) fn list(&self, field: &str) -> Result<&'v [Value], FormatError> {
        self.require(field)?
            .as_array()
            .map(Vec::as_slice)
            .ok_or_else(|| self.error(field, "expected a list"))
    }

    /// The object in a field, as a case of its own whose errors name this one.
    pub(super) fn object(&self, field: &str) -> Result<Self, FormatError> {
        let fields = self
            .require(field)?
            .as_object()
            .ok_or_else(|| self.error(field, "expected an object"))?;
        Ok(Self {
            place: format!("{} {field}", self.place),
            name: self.name,
            fields,
        })
    }

    /// The objects in a list, likewise.
    pub(super) fn objects(&self, field: &str) -> Result<Vec<Self>, FormatError> {
        let object = |(index, value): (usize, &'v Value)| {
            let fields = value
                .as_object()
                .ok_or_else(|| self.error(field, "expected a list of objects"))?;
            Ok(Self {
                place: format!("{} {field}[{index}]", self.place),
                name: self.name,
                fields,
            })
        };
        self.list(field)?.iter().enumerate().map(object).collect()
    }

    pub(super) fn bytes(&self, field: &str) -> Result<Vec<u8>, FormatError> {
        let text = self.text(field)?;
        decode_hex(text).ok_or_else(|| self.error(field, "expected lower-case hex"))
    }

    pub(super) fn optional_bytes(&self, field: &str) -> Result<Option<Vec<u8>>, FormatError> {
        self.get(field).map(|_| self.bytes(field)).transpose()
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}
