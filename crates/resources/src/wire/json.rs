//! Writes a document by its type, in the order and with the omissions of Go's structs.

use std::ops::Range;

use apiserver_storage_api::json::{write_number, write_string};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::error::{Segment, ShapeError};
use super::managed_fields;
use super::text::{self, write_integer, write_kept};
use super::time::{self, Instant, Precision};
use super::{bytes_of, quantity};
use crate::types::{Field, Form, Gvk, Shape, Type, TypeRegistry};

type Result<T, E = ShapeError> = std::result::Result<T, E>;

/// What happens to the server's own fields of the root's metadata.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Metadata<'a> {
    /// Written as they are.
    AsIs,
    /// resourceVersion and selfLink are left out.
    Stored,
    /// This is the resourceVersion.
    Revision(&'a str),
}

/// What JSON calls a value, for messages.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn mismatch(expected: &'static str, value: &Value) -> ShapeError {
    ShapeError::new(expected, kind_of(value))
}

/// The writer. Fields are found by walking the object once; the places are kept on a stack that all levels share, so
/// that no object allocates.
pub(crate) struct Writer<'r, 'v, 'o> {
    registry: &'r TypeRegistry,
    out: &'o mut Vec<u8>,
    places: Vec<Option<&'v Value>>,
}

impl<'r, 'v, 'o> Writer<'r, 'v, 'o> {
    pub(crate) fn new(registry: &'r TypeRegistry, out: &'o mut Vec<u8>) -> Self {
        Self {
            registry,
            out,
            places: Vec::with_capacity(64),
        }
    }

    /// Writes a top-level object; answers where the resource version went.
    pub(crate) fn root(
        &mut self,
        ty: &'r Type,
        gvk: Gvk<'_>,
        object: &'v Value,
        metadata: Metadata<'_>,
    ) -> Result<Option<Range<usize>>> {
        let Value::Object(members) = object else {
            return Err(mismatch("an object", object));
        };
        let base = self.place(ty, members);
        let mut at = None;
        self.out.push(b'{');
        let mut first = true;
        for (index, field) in ty.fields.iter().enumerate() {
            let value = self.places[base + index];
            match field.name {
                "kind" if ty.has_type_meta => {
                    self.begin(field, &mut first);
                    write_string(gvk.kind, self.out);
                }
                "apiVersion" if ty.has_type_meta => {
                    self.begin(field, &mut first);
                    write_string(&gvk.api_version(), self.out);
                }
                "metadata" if self.is_object_meta(field) => {
                    self.begin(field, &mut first);
                    at = self
                        .metadata(field, value, metadata)
                        .map_err(|error| error.under(Segment::Field(field.name)))?;
                }
                _ => self.field(field, value, &mut first)?,
            }
        }
        self.out.push(b'}');
        self.places.truncate(base);
        Ok(at)
    }

    fn is_object_meta(&self, field: &Field) -> bool {
        field
            .shape
            .type_id()
            .is_some_and(|id| self.registry[id].name == "meta.v1.ObjectMeta")
    }

    fn metadata(
        &mut self,
        field: &Field,
        value: Option<&'v Value>,
        mode: Metadata<'_>,
    ) -> Result<Option<Range<usize>>> {
        let Some(id) = field.shape.type_id() else {
            return Ok(None);
        };
        let ty = &self.registry[id];
        let base = self.place_any(ty, value)?;
        let mut at = None;
        self.out.push(b'{');
        let mut first = true;
        for (index, field) in ty.fields.iter().enumerate() {
            let value = self.places[base + index];
            match (mode, field.name) {
                (Metadata::Stored, "resourceVersion" | "selfLink") => {}
                (Metadata::Revision(revision), "resourceVersion") => {
                    self.begin(field, &mut first);
                    let start = self.out.len() + 1;
                    write_string(revision, self.out);
                    at = Some(start..self.out.len() - 1);
                }
                _ => self.field(field, value, &mut first)?,
            }
        }
        self.out.push(b'}');
        self.places.truncate(base);
        Ok(at)
    }

    /// Puts the members at the places of their fields; members without a field are pruned.
    fn place(&mut self, ty: &Type, members: &'v Map<String, Value>) -> usize {
        let base = self.places.len();
        self.places.resize(base + ty.fields.len(), None);
        for (name, value) in members {
            if let Some(index) = ty.field_index(name) {
                self.places[base + index] = Some(value);
            }
        }
        base
    }

    fn place_any(&mut self, ty: &Type, value: Option<&'v Value>) -> Result<usize> {
        match value {
            Some(Value::Object(members)) => Ok(self.place(ty, members)),
            None | Some(Value::Null) => {
                let base = self.places.len();
                self.places.resize(base + ty.fields.len(), None);
                Ok(base)
            }
            Some(other) => Err(mismatch("an object", other)),
        }
    }

    fn begin(&mut self, field: &Field, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(field.name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn field(&mut self, field: &'r Field, value: Option<&'v Value>, first: &mut bool) -> Result<()> {
        let value = value.filter(|value| !value.is_null());
        if value.is_none() && field.pointer {
            if !field.omit_empty {
                self.begin(field, first);
                self.out.extend_from_slice(b"null");
            }
            return Ok(());
        }
        if !field.pointer && field.omit_empty && is_empty(&field.shape, value) {
            return Ok(());
        }
        if field.omit_zero && is_zero_time(value) {
            return Ok(());
        }
        self.begin(field, first);
        self.shape(&field.shape, value)
            .map_err(|error| error.under(Segment::Field(field.name)))
    }

    fn shape(&mut self, shape: &'r Shape, value: Option<&'v Value>) -> Result<()> {
        let value = value.filter(|value| !value.is_null());
        match shape {
            Shape::String => match value {
                None => self.out.extend_from_slice(b"\"\""),
                Some(Value::String(text)) => write_string(text, self.out),
                Some(other) => return Err(mismatch("a string", other)),
            },
            Shape::Bool => match value {
                None | Some(Value::Bool(false)) => self.out.extend_from_slice(b"false"),
                Some(Value::Bool(true)) => self.out.extend_from_slice(b"true"),
                Some(other) => return Err(mismatch("a boolean", other)),
            },
            Shape::Int32 | Shape::Int64 => {
                let number = value.map_or(Ok(0), |value| integer(shape, value))?;
                write_integer(self.out, number);
            }
            Shape::Double => match value {
                None => self.out.push(b'0'),
                Some(Value::Number(number)) => write_number(number, self.out),
                Some(other) => return Err(mismatch("a number", other)),
            },
            Shape::Bytes => self.bytes(value)?,
            Shape::Type(id) => {
                let ty = &self.registry[*id];
                self.typed(ty, value)?;
            }
            Shape::List { item, .. } => self.list(item, value)?,
            Shape::Map(item) => self.map(item, value)?,
        }
        Ok(())
    }

    /// Writes a value of a named type.
    pub(crate) fn typed(&mut self, ty: &'r Type, value: Option<&'v Value>) -> Result<()> {
        match ty.form {
            Form::Struct => self.object(ty, value),
            Form::Time => self.time(value, Precision::Seconds),
            Form::MicroTime => self.time(value, Precision::Micros),
            Form::Quantity => self.quantity(value),
            Form::IntOrString => match value {
                None => self.shape(&Shape::Int32, None),
                Some(Value::String(text)) => {
                    write_string(text, self.out);
                    Ok(())
                }
                Some(Value::Number(_)) => self.shape(&Shape::Int32, value),
                Some(other) => Err(mismatch("a number or a string", other)),
            },
            Form::Raw => {
                write_kept(self.out, value.unwrap_or(&Value::Null));
                Ok(())
            }
            Form::FieldsV1 => {
                managed_fields::write(self.out, value.unwrap_or(&Value::Null));
                Ok(())
            }
            Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => self.schema_or(ty.form, value),
        }
    }

    fn object(&mut self, ty: &'r Type, value: Option<&'v Value>) -> Result<()> {
        let base = self.place_any(ty, value)?;
        self.out.push(b'{');
        let mut first = true;
        for (index, field) in ty.fields.iter().enumerate() {
            self.field(field, self.places[base + index], &mut first)?;
        }
        self.out.push(b'}');
        self.places.truncate(base);
        Ok(())
    }

    fn list(&mut self, item: &'r Shape, value: Option<&'v Value>) -> Result<()> {
        let items = match value {
            None => {
                self.out.extend_from_slice(b"null");
                return Ok(());
            }
            Some(Value::Array(items)) => items,
            Some(other) => return Err(mismatch("a list", other)),
        };
        self.out.push(b'[');
        for (index, value) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.shape(item, Some(value))
                .map_err(|error| error.under(Segment::Index(index)))?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, item: &'r Shape, value: Option<&'v Value>) -> Result<()> {
        let members = match value {
            None => {
                self.out.extend_from_slice(b"null");
                return Ok(());
            }
            Some(Value::Object(members)) => members,
            Some(other) => return Err(mismatch("an object", other)),
        };
        self.out.push(b'{');
        let mut first = true;
        let mut result = Ok(());
        text::for_each_sorted(members, |key, member| {
            if result.is_err() {
                return;
            }
            if !std::mem::take(&mut first) {
                self.out.push(b',');
            }
            write_string(key, self.out);
            self.out.push(b':');
            result = self
                .shape(item, Some(member))
                .map_err(|error| error.under(Segment::Key(key.to_owned())));
        });
        self.out.push(b'}');
        result
    }

    fn bytes(&mut self, value: Option<&Value>) -> Result<()> {
        let Some(value) = value else {
            self.out.extend_from_slice(b"null");
            return Ok(());
        };
        let bytes = bytes_of(value)?;
        self.out.push(b'"');
        let start = self.out.len();
        self.out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        let written = STANDARD
            .encode_slice(&bytes, &mut self.out[start..])
            .unwrap_or_default();
        self.out.truncate(start + written);
        self.out.push(b'"');
        Ok(())
    }

    fn time(&mut self, value: Option<&Value>, precision: Precision) -> Result<()> {
        let text = match value {
            None => {
                self.out.extend_from_slice(b"null");
                return Ok(());
            }
            Some(Value::String(text)) => text,
            Some(other) => return Err(mismatch("a time", other)),
        };
        time::write_json(self.out, text, precision).ok_or_else(|| ShapeError::new("a time in RFC 3339", "another text"))
    }

    fn quantity(&mut self, value: Option<&Value>) -> Result<()> {
        match value {
            None => self.out.extend_from_slice(b"\"0\""),
            Some(value) => {
                let text = quantity_text(value)?;
                write_string(&text, self.out);
            }
        }
        Ok(())
    }

    fn schema_or(&mut self, form: Form, value: Option<&'v Value>) -> Result<()> {
        match (form, value) {
            (_, None) if form == Form::SchemaOrBool => self.out.extend_from_slice(b"false"),
            (_, None) => self.out.extend_from_slice(b"null"),
            (Form::SchemaOrBool, Some(Value::Bool(_))) => self.shape(&Shape::Bool, value)?,
            (Form::SchemaOrStrings, Some(Value::Array(_))) => {
                self.list(&Shape::String, value)?;
            }
            (Form::SchemaOrArray, Some(Value::Array(schemas))) => {
                self.out.push(b'[');
                for (index, schema) in schemas.iter().enumerate() {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.schema(Some(schema))
                        .map_err(|error| error.under(Segment::Index(index)))?;
                }
                self.out.push(b']');
            }
            (_, value) => self.schema(value)?,
        }
        Ok(())
    }

    fn schema(&mut self, value: Option<&'v Value>) -> Result<()> {
        match self.registry.by_name("apiextensions.v1.JSONSchemaProps") {
            Some(ty) => self.object(ty, value),
            None => Err(ShapeError::new("a known type", "none")),
        }
    }
}

/// The integer, within the bounds of the type. Go reads no fraction and no exponent here.
pub(crate) fn integer(shape: &Shape, value: &Value) -> Result<i64> {
    let Value::Number(number) = value else {
        return Err(mismatch("an integer", value));
    };
    let number = number
        .as_i64()
        .ok_or_else(|| ShapeError::new("a 64-bit integer", "another number"))?;
    if matches!(shape, Shape::Int32) && i32::try_from(number).is_err() {
        return Err(ShapeError::new("a 32-bit integer", "a larger number"));
    }
    Ok(number)
}

/// The text under which a quantity is written.
pub(crate) fn quantity_text(value: &Value) -> Result<std::borrow::Cow<'_, str>> {
    use std::borrow::Cow;
    let not_a_quantity = |_| ShapeError::new("a quantity", "another text");
    match value {
        Value::String(text) => {
            let text = text.trim();
            Ok(quantity::stored_text(text)
                .map_err(not_a_quantity)?
                .map_or(Cow::Borrowed(text), Cow::Owned))
        }
        Value::Number(number) => {
            let mut bytes = Vec::new();
            write_number(number, &mut bytes);
            let text = String::from_utf8_lossy(&bytes).replace('+', "");
            Ok(Cow::Owned(
                quantity::stored_text(&text).map_err(not_a_quantity)?.unwrap_or(text),
            ))
        }
        other => Err(mismatch("a quantity", other)),
    }
}

/// What Go's `omitempty` calls empty. Structs never are.
fn is_empty(shape: &Shape, value: Option<&Value>) -> bool {
    match (shape, value) {
        (Shape::Type(_), _) => false,
        (_, None) => true,
        (Shape::String | Shape::Bytes, Some(Value::String(text))) => text.is_empty(),
        (Shape::Bool, Some(Value::Bool(flag))) => !flag,
        (Shape::Int32 | Shape::Int64, Some(Value::Number(number))) => number.as_i64() == Some(0),
        (Shape::Double, Some(Value::Number(number))) => number.as_f64() == Some(0.0),
        (Shape::List { .. } | Shape::Bytes, Some(Value::Array(items))) => items.is_empty(),
        (Shape::Map(_), Some(Value::Object(members))) => members.is_empty(),
        // Of another type than it should be: the writer says so.
        _ => false,
    }
}

/// Whether a time is the zero one; `omitzero` is only used on times.
fn is_zero_time(value: Option<&Value>) -> bool {
    match value {
        None => true,
        Some(Value::String(text)) => {
            text.starts_with("0001-01-01") && Instant::parse(text).is_some_and(Instant::is_zero)
        }
        Some(_) => false,
    }
}
