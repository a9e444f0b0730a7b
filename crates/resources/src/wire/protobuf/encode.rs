//! From a document to a message, as Go's generated code writes it: fields by ascending number, zero values included,
//! the entries of maps sorted.

use serde_json::{Map, Value};

use super::super::error::{Segment, ShapeError, WireError};
use super::super::json::{integer, kind_of, quantity_text};
use super::super::text::{self, write_kept};
use super::super::time::{Instant, Precision};
use super::super::{bytes_of, encode_value};
use super::under;
use crate::types::{Field, Form, Shape, Slot, Type, TypeRegistry};

type Result<T> = std::result::Result<T, WireError>;

fn mismatch(expected: &'static str, value: &Value) -> WireError {
    ShapeError::new(expected, kind_of(value)).into()
}

pub(super) fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        // The low seven bits and the mark for more.
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    varint(out, u64::from(number << 3 | wire_type));
}

pub(super) fn bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    field_head(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

/// Writes what stands before `length` bytes that are a field.
pub(super) fn field_head(out: &mut Vec<u8>, number: u32, length: usize) {
    tag(out, number, 2);
    varint(out, length as u64);
}

/// How many bytes a field of so many bytes takes, where its number is below 16.
pub(super) fn field_length(length: usize) -> usize {
    let bits = usize::BITS - (length | 1).leading_zeros();
    1 + bits.div_ceil(7) as usize + length
}

/// Writes a field whose content is written by `content`; its length comes before it.
pub(super) fn message(out: &mut Vec<u8>, number: u32, content: impl FnOnce(&mut Vec<u8>)) {
    tag(out, number, 2);
    let start = out.len();
    content(out);
    prefix_length(out, start);
}

/// Moves what was written since `start` to make room for its length. Most messages are shorter than 128 bytes or hold
/// few others, so the moves are short.
fn prefix_length(out: &mut Vec<u8>, start: usize) {
    let end = out.len();
    varint(out, (end - start) as u64);
    let digits = out.len() - end;
    out[start..].rotate_right(digits);
}

fn number(out: &mut Vec<u8>, tag_number: u32, value: u64) {
    tag(out, tag_number, 0);
    varint(out, value);
}

/// Encodes documents by their types.
pub(super) struct Encoder<'o> {
    registry: &'static TypeRegistry,
    out: &'o mut Vec<u8>,
}

impl<'o> Encoder<'o> {
    pub(super) fn new(registry: &'static TypeRegistry, out: &'o mut Vec<u8>) -> Self {
        Self { registry, out }
    }

    /// Writes the content of a message of a named type.
    pub(super) fn typed(&mut self, ty: &Type, value: Option<&Value>) -> Result<()> {
        let value = value.filter(|value| !value.is_null());
        match ty.form {
            Form::Struct => match value {
                None => self.fields(ty, &Map::new())?,
                Some(Value::Object(members)) => self.fields(ty, members)?,
                Some(other) => return Err(mismatch("an object", other)),
            },
            Form::Time => self.time(value, Precision::Seconds)?,
            Form::MicroTime => self.time(value, Precision::Micros)?,
            Form::Quantity => {
                let text = value.map(quantity_text).transpose()?;
                bytes(self.out, 1, text.as_deref().unwrap_or("0").as_bytes());
            }
            Form::IntOrString => self.int_or_string(value)?,
            Form::Raw | Form::FieldsV1 => {
                // No document is no bytes, which is not the document `null`.
                if let Some(value) = value {
                    let json = if ty.form == Form::FieldsV1 {
                        encode_value(ty, value)?
                    } else {
                        kept(value)
                    };
                    bytes(self.out, 1, &json);
                }
            }
            Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => self.schema_or(ty.form, value)?,
        }
        Ok(())
    }

    fn fields(&mut self, ty: &Type, members: &Map<String, Value>) -> Result<()> {
        for tag in &ty.tags {
            match tag.slot {
                Slot::Embedded(id) => {
                    let inner = &self.registry[id];
                    self.nested(tag.number, |encoder| encoder.fields(inner, members))?;
                }
                Slot::Field(index) => {
                    let field = &ty.fields[usize::from(index)];
                    self.field(tag.number, field, members.get(field.name))
                        .map_err(|error| under(error, Segment::Field(field.name)))?;
                }
            }
        }
        Ok(())
    }

    fn nested(&mut self, number: u32, content: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        tag(self.out, number, 2);
        let start = self.out.len();
        content(self)?;
        prefix_length(self.out, start);
        Ok(())
    }

    fn field(&mut self, number: u32, field: &Field, value: Option<&Value>) -> Result<()> {
        let value = value.filter(|value| !value.is_null());
        if field.pointer && value.is_none() {
            return Ok(());
        }
        self.shape(number, &field.shape, value)
    }

    fn shape(&mut self, tag_number: u32, shape: &Shape, value: Option<&Value>) -> Result<()> {
        let value = value.filter(|value| !value.is_null());
        match shape {
            Shape::String => match value {
                None => bytes(self.out, tag_number, b""),
                Some(Value::String(text)) => bytes(self.out, tag_number, text.as_bytes()),
                Some(other) => return Err(mismatch("a string", other)),
            },
            Shape::Bool => match value {
                None => number(self.out, tag_number, 0),
                Some(Value::Bool(flag)) => number(self.out, tag_number, u64::from(*flag)),
                Some(other) => return Err(mismatch("a boolean", other)),
            },
            Shape::Int32 | Shape::Int64 => {
                let value = value.map_or(Ok(0), |value| integer(shape, value))?;
                // Numbers below zero are written with all 64 bits.
                number(self.out, tag_number, value as u64);
            }
            Shape::Double => {
                let value = match value {
                    None => 0.0,
                    Some(Value::Number(number)) => number.as_f64().unwrap_or_default(),
                    Some(other) => return Err(mismatch("a number", other)),
                };
                tag(self.out, tag_number, 1);
                self.out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            Shape::Bytes => {
                if let Some(value) = value {
                    bytes(self.out, tag_number, &bytes_of(value)?);
                }
            }
            Shape::Type(id) => {
                let ty = &self.registry[*id];
                self.nested(tag_number, |encoder| encoder.typed(ty, value))?;
            }
            Shape::List { item, wrapped } => {
                let items = match value {
                    None => return Ok(()),
                    Some(Value::Array(items)) => items,
                    Some(other) => return Err(mismatch("a list", other)),
                };
                if *wrapped {
                    self.nested(tag_number, |encoder| encoder.items(1, item, items))?;
                } else {
                    self.items(tag_number, item, items)?;
                }
            }
            Shape::Map(item) => self.map(tag_number, item, value)?,
        }
        Ok(())
    }

    fn items(&mut self, number: u32, item: &Shape, items: &[Value]) -> Result<()> {
        for (index, value) in items.iter().enumerate() {
            self.item(number, item, value)
                .map_err(|error| under(error, Segment::Index(index)))?;
        }
        Ok(())
    }

    /// Writes an item of a list or the value of a map. Other than a field, it is there even when it is nothing.
    fn item(&mut self, number: u32, item: &Shape, value: &Value) -> Result<()> {
        match (item, value) {
            (Shape::Bytes, Value::Null) => bytes(self.out, number, b""),
            (Shape::List { wrapped: true, .. }, Value::Null) => bytes(self.out, number, b""),
            _ => self.shape(number, item, Some(value))?,
        }
        Ok(())
    }

    fn map(&mut self, number: u32, item: &Shape, value: Option<&Value>) -> Result<()> {
        let members = match value {
            None => return Ok(()),
            Some(Value::Object(members)) => members,
            Some(other) => return Err(mismatch("an object", other)),
        };
        let mut result = Ok(());
        text::for_each_sorted(members, |key, member| {
            if result.is_ok() {
                result = self
                    .nested(number, |encoder| {
                        bytes(encoder.out, 1, key.as_bytes());
                        encoder.item(2, item, member)
                    })
                    .map_err(|error| under(error, Segment::Key(key.to_owned())));
            }
        });
        result
    }

    fn time(&mut self, value: Option<&Value>, precision: Precision) -> Result<()> {
        let text = match value {
            None => return Ok(()),
            Some(Value::String(text)) => text,
            Some(other) => return Err(mismatch("a time", other)),
        };
        let instant = Instant::parse(text).ok_or_else(|| ShapeError::new("a time in RFC 3339", "another text"))?;
        if !instant.is_zero() {
            let nanos = if precision == Precision::Micros {
                instant.nanos / 1000 * 1000
            } else {
                0
            };
            number(self.out, 1, instant.seconds as u64);
            number(self.out, 2, u64::from(nanos));
        }
        Ok(())
    }

    fn int_or_string(&mut self, value: Option<&Value>) -> Result<()> {
        let (kind, integer, text) = match value {
            None => (0, 0, ""),
            Some(Value::String(text)) => (1, 0, text.as_str()),
            Some(value @ Value::Number(_)) => (0, integer(&Shape::Int32, value)?, ""),
            Some(other) => return Err(mismatch("a number or a string", other)),
        };
        number(self.out, 1, kind);
        number(self.out, 2, integer as u64);
        bytes(self.out, 3, text.as_bytes());
        Ok(())
    }

    fn schema_or(&mut self, form: Form, value: Option<&Value>) -> Result<()> {
        let schema = self
            .registry
            .by_name("apiextensions.v1.JSONSchemaProps")
            .ok_or_else(|| WireError::Protobuf("schemas have no known type".into()))?;
        match (form, value) {
            (Form::SchemaOrBool, value) => {
                let is_schema = value.is_some_and(Value::is_object);
                number(self.out, 1, u64::from(is_schema || value == Some(&Value::Bool(true))));
                if is_schema {
                    self.nested(2, |encoder| encoder.typed(schema, value))?;
                }
            }
            (Form::SchemaOrStrings, Some(Value::Array(items))) => self.items(2, &Shape::String, items)?,
            (_, Some(Value::Array(items))) => self.items(2, &Shape::Type(schema.id), items)?,
            (_, Some(value)) => self.nested(1, |encoder| encoder.typed(schema, Some(value)))?,
            (_, None) => {}
        }
        Ok(())
    }
}

fn kept(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_kept(&mut out, value);
    out
}
