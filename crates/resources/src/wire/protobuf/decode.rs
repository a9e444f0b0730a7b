//! From a message to a document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::super::error::{Segment, ShapeError, WireError};
use super::super::reader::MAX_DEPTH;
use super::super::time::{Instant, Precision};
use super::under;
use crate::types::{Field, Form, Shape, Slot, Type, TypeRegistry};

type Result<T> = std::result::Result<T, WireError>;

fn broken(what: &str) -> WireError {
    WireError::Protobuf(what.to_owned())
}

/// What stands behind a tag.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    /// No type has one; they are skipped.
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Payload<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(broken("a number stands where bytes belong")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| broken("a text is not UTF-8"))
    }

    fn varint(self) -> Result<u64> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(broken("something else stands where a number belongs")),
        }
    }
}

/// Walks the fields of one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| broken("a tag is invalid"))?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| broken("a length is too large"))?;
                Payload::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Payload::Fixed32
            }
            // Groups were never used.
            _ => return Err(broken("a tag has an invalid wire type")),
        };
        Ok(Some((number, payload)))
    }

    pub(super) fn varint(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                break;
            }
            number |= bits << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(number);
            }
        }
        Err(broken(if self.rest.len() < 10 {
            "the message ends too early"
        } else {
            "a number has too many bytes"
        }))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| broken("the message ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?
            .try_into()
            .map_err(|_| broken("the message ends too early"))
    }
}

/// Decodes messages by their types.
pub(super) struct Decoder {
    registry: &'static TypeRegistry,
}

impl Decoder {
    pub(super) fn new(registry: &'static TypeRegistry) -> Self {
        Self { registry }
    }

    pub(super) fn root(&self, ty: &Type, message: &[u8]) -> Result<Value> {
        let mut value = Value::Null;
        self.typed(ty, message, &mut value, MAX_DEPTH)?;
        Ok(value)
    }

    /// Decodes a message of a named type into a place, which holds the value so far when the field is repeated.
    fn typed(&self, ty: &Type, message: &[u8], slot: &mut Value, depth: usize) -> Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| broken("nested too deeply"))?;
        match ty.form {
            Form::Struct => {
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                let Value::Object(members) = slot else { return Ok(()) };
                self.fields(ty, message, members, depth)?;
                self.complete(ty, members);
            }
            Form::Time => *slot = time(message, Precision::Seconds)?,
            Form::MicroTime => *slot = time(message, Precision::Micros)?,
            Form::Quantity => *slot = quantity(message)?,
            Form::IntOrString => *slot = int_or_string(message)?,
            Form::Raw | Form::FieldsV1 => *slot = raw(message)?,
            Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => {
                *slot = self.schema_or(ty.form, message, depth)?;
            }
        }
        Ok(())
    }

    fn fields(&self, ty: &Type, message: &[u8], members: &mut Map<String, Value>, depth: usize) -> Result<()> {
        let mut reader = Reader::new(message);
        while let Some((number, payload)) = reader.next()? {
            match ty.tag(number) {
                None => {}
                Some(Slot::Embedded(id)) => {
                    let depth = depth.checked_sub(1).ok_or_else(|| broken("nested too deeply"))?;
                    self.fields(&self.registry[id], payload.bytes()?, members, depth)?;
                }
                Some(Slot::Field(index)) => {
                    let field = &ty.fields[usize::from(index)];
                    if !members.contains_key(field.name) {
                        members.insert(field.name.to_owned(), Value::Null);
                    }
                    if let Some(slot) = members.get_mut(field.name) {
                        self.shape(&field.shape, payload, slot, depth)
                            .map_err(|error| under(error, Segment::Field(field.name)))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes of what was in the message what Go would write: zero values that JSON shows are added, those that it
    /// omits are removed.
    fn complete(&self, ty: &Type, members: &mut Map<String, Value>) {
        for field in &ty.fields {
            let value = members.get(field.name);
            if field.pointer {
                if value.is_none() && !field.omit_empty {
                    members.insert(field.name.to_owned(), Value::Null);
                }
            } else if value.is_none_or(|value| self.is_zero(field, value)) {
                if self.is_omitted(field) {
                    members.remove(field.name);
                } else if value.is_none() {
                    members.insert(field.name.to_owned(), self.zero(&field.shape));
                }
            }
        }
    }

    fn is_omitted(&self, field: &Field) -> bool {
        field.omit_zero || field.omit_empty && field.shape.type_id().is_none()
    }

    fn is_zero(&self, field: &Field, value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::String(text) => text.is_empty() && !matches!(field.shape, Shape::Type(_)),
            Value::Number(number) => number.as_f64() == Some(0.0) && !matches!(field.shape, Shape::Type(_)),
            Value::Bool(flag) => !flag,
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty() && matches!(field.shape, Shape::Map(_)),
        }
    }

    fn zero(&self, shape: &Shape) -> Value {
        match shape {
            Shape::String => Value::String(String::new()),
            Shape::Bool => Value::Bool(false),
            Shape::Int32 | Shape::Int64 | Shape::Double => 0.into(),
            Shape::Bytes | Shape::List { .. } | Shape::Map(_) => Value::Null,
            Shape::Type(id) => match self.registry[*id].form {
                Form::Struct => {
                    let mut members = Map::new();
                    self.complete(&self.registry[*id], &mut members);
                    Value::Object(members)
                }
                Form::Quantity => Value::String("0".to_owned()),
                Form::IntOrString => 0.into(),
                Form::SchemaOrBool => Value::Bool(false),
                _ => Value::Null,
            },
        }
    }

    fn shape(&self, shape: &Shape, payload: Payload<'_>, slot: &mut Value, depth: usize) -> Result<()> {
        match shape {
            Shape::List { item, wrapped: true } => {
                if slot.is_null() {
                    *slot = Value::Array(Vec::new());
                }
                let mut reader = Reader::new(payload.bytes()?);
                while let Some((number, payload)) = reader.next()? {
                    if number == 1 {
                        self.item(item, payload, slot, depth)?;
                    }
                }
            }
            Shape::List { item, .. } => {
                if slot.is_null() {
                    *slot = Value::Array(Vec::new());
                }
                self.item(item, payload, slot, depth)?;
            }
            Shape::Map(item) => self.entry(item, payload.bytes()?, slot, depth)?,
            Shape::Type(id) => self.typed(&self.registry[*id], payload.bytes()?, slot, depth)?,
            scalar => *slot = scalar_value(scalar, payload)?,
        }
        Ok(())
    }

    /// Adds one item, or a packed run of numbers.
    fn item(&self, item: &Shape, payload: Payload<'_>, slot: &mut Value, depth: usize) -> Result<()> {
        let Value::Array(items) = slot else { return Ok(()) };
        let is_number = matches!(item, Shape::Bool | Shape::Int32 | Shape::Int64);
        if let (true, Payload::Bytes(packed)) = (is_number, payload) {
            let mut reader = Reader::new(packed);
            while !reader.is_at_end() {
                items.push(scalar_value(item, Payload::Varint(reader.varint()?))?);
            }
            return Ok(());
        }
        let mut value = Value::Null;
        self.shape(item, payload, &mut value, depth)
            .map_err(|error| under(error, Segment::Index(items.len())))?;
        items.push(value);
        Ok(())
    }

    /// Adds one entry of a map: key 1, value 2.
    fn entry(&self, item: &Shape, message: &[u8], slot: &mut Value, depth: usize) -> Result<()> {
        if slot.is_null() {
            *slot = Value::Object(Map::new());
        }
        let mut key = "";
        let mut value = Value::Null;
        let mut reader = Reader::new(message);
        while let Some((number, payload)) = reader.next()? {
            match number {
                1 => key = payload.text()?,
                2 => self
                    .shape(item, payload, &mut value, depth)
                    .map_err(|error| under(error, Segment::Key(key.to_owned())))?,
                _ => {}
            }
        }
        if value.is_null() && !matches!(item, Shape::List { .. }) {
            value = match item {
                Shape::Bytes => Value::String(String::new()),
                other => self.zero(other),
            };
        }
        if let Value::Object(members) = slot {
            members.insert(key.to_owned(), value);
        }
        Ok(())
    }

    /// A schema or something simpler: the one that is there counts.
    fn schema_or(&self, form: Form, message: &[u8], depth: usize) -> Result<Value> {
        let schema = self
            .registry
            .by_name("apiextensions.v1.JSONSchemaProps")
            .ok_or_else(|| broken("schemas have no known type"))?;
        let mut found = Value::Null;
        let mut others = Vec::new();
        let mut allows = false;
        let mut reader = Reader::new(message);
        while let Some((number, payload)) = reader.next()? {
            match (form, number) {
                (Form::SchemaOrBool, 1) => allows = payload.varint()? != 0,
                (Form::SchemaOrBool, 2) | (_, 1) => self.typed(schema, payload.bytes()?, &mut found, depth)?,
                (Form::SchemaOrStrings, 2) => others.push(Value::String(payload.text()?.to_owned())),
                (Form::SchemaOrArray, 2) => {
                    let mut item = Value::Null;
                    self.typed(schema, payload.bytes()?, &mut item, depth)?;
                    others.push(item);
                }
                _ => {}
            }
        }
        Ok(match form {
            _ if !others.is_empty() => Value::Array(others),
            Form::SchemaOrBool if found.is_null() => Value::Bool(allows),
            _ => found,
        })
    }
}

fn scalar_value(shape: &Shape, payload: Payload<'_>) -> Result<Value> {
    Ok(match shape {
        Shape::String => Value::String(payload.text()?.to_owned()),
        Shape::Bytes => Value::String(STANDARD.encode(payload.bytes()?)),
        Shape::Bool => Value::Bool(payload.varint()? != 0),
        // Protobuf keeps the low 32 bits of a longer number, and numbers below zero have all 64 bits set.
        Shape::Int32 => (payload.varint()? as u32 as i32).into(),
        Shape::Int64 => (payload.varint()? as i64).into(),
        Shape::Double => match payload {
            Payload::Fixed64(bits) => Number::from_f64(f64::from_bits(bits))
                .map(Value::Number)
                .ok_or_else(|| WireError::Shape(ShapeError::new("a finite number", "another one")))?,
            Payload::Fixed32 | Payload::Varint(_) | Payload::Bytes(_) => {
                return Err(broken("something else stands where a number belongs"));
            }
        },
        Shape::Type(_) | Shape::List { .. } | Shape::Map(_) => return Err(broken("no scalar")),
    })
}

/// Seconds and nanoseconds; an empty message is Go's zero time.
fn time(message: &[u8], precision: Precision) -> Result<Value> {
    if message.is_empty() {
        return Ok(Value::Null);
    }
    let mut instant = Instant { seconds: 0, nanos: 0 };
    let mut reader = Reader::new(message);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => instant.seconds = payload.varint()? as i64,
            2 if precision == Precision::Micros => {
                instant.nanos = u32::try_from(payload.varint()?)
                    .ok()
                    .filter(|nanos| *nanos < 1_000_000_000)
                    .ok_or_else(|| broken("a time has too many nanoseconds"))?;
            }
            _ => {}
        }
    }
    if instant.is_zero() {
        return Ok(Value::Null);
    }
    let text = instant
        .text(precision)
        .ok_or_else(|| broken("a time is out of range"))?;
    Ok(Value::String(text))
}

fn quantity(message: &[u8]) -> Result<Value> {
    let mut text = "";
    let mut reader = Reader::new(message);
    while let Some((number, payload)) = reader.next()? {
        if number == 1 {
            text = payload.text()?;
        }
    }
    if text.is_empty() {
        return Ok(Value::String("0".to_owned()));
    }
    let stored = super::super::quantity::stored_text(text)
        .map_err(|_| WireError::Shape(ShapeError::new("a quantity", "another text")))?;
    Ok(Value::String(stored.unwrap_or_else(|| text.to_owned())))
}

fn int_or_string(message: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(message);
    while let Some((tag, payload)) = reader.next()? {
        match tag {
            1 => is_text = payload.varint()? != 0,
            2 => number = payload.varint()? as u32 as i32,
            3 => text = payload.text()?,
            _ => {}
        }
    }
    Ok(if is_text {
        Value::String(text.to_owned())
    } else {
        number.into()
    })
}

fn raw(message: &[u8]) -> Result<Value> {
    let mut document: &[u8] = &[];
    let mut reader = Reader::new(message);
    while let Some((number, payload)) = reader.next()? {
        if number == 1 {
            document = payload.bytes()?;
        }
    }
    if document.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(document)
        .map_err(|_| WireError::Shape(ShapeError::new("an embedded JSON document", "something else")))
}
