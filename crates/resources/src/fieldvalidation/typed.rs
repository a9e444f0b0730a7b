//! Go's JSON decoder for a known type, as a walk over a document along the type.
//!
//! What matters is what clients see: the first wrong type is the error (with Go's names for struct, field path and type), unless a
//! value with a text form of its own fails, which ends the decoding at once; unknown and repeated fields are collected; null leaves
//! a plain value as it was and removes a pointer, list or map; a field that comes twice is decoded into what it already holds.

use base64::Engine as _;
use serde_json::{Map, Value};

use crate::document::{MAX_FINDINGS, Node, number};
use crate::gofmt::quote;
use crate::types::{Form, Shape, Slot, Type, TypeRegistry};

use super::Decoded;
use super::scalars::{NO_QUANTITY, base64_text, is_quantity, time};

/// Decodes a document along a struct type. The error is Go's text.
pub(super) fn decode(registry: &TypeRegistry, of: &Type, node: &Node) -> Result<Decoded, String> {
    decode_at(registry, of, node, "")
}

/// The same for a part of a document; `path` is where findings say it stands.
pub(super) fn decode_at(registry: &TypeRegistry, of: &Type, node: &Node, path: &str) -> Result<Decoded, String> {
    let mut decoder = Decoder {
        registry,
        path: path.to_owned(),
        struct_name: "",
        fields: Vec::new(),
        wrong: None,
        findings: Vec::new(),
    };
    let value = decoder.struct_(of, node, None, &|| format!("v1.{}", struct_name(of)))?;
    match decoder.wrong {
        Some(text) => Err(text),
        None => Ok(Decoded {
            value: value.unwrap_or_else(|| Value::Object(Map::new())),
            findings: decoder.findings,
        }),
    }
}

/// The last part of a type's name: what Go calls the struct.
fn struct_name(of: &Type) -> &'static str {
    of.name.rsplit('.').next().unwrap_or(of.name)
}

/// What Go prints for a named type: package and name.
pub(super) fn go_name(of: &Type) -> String {
    match of.form {
        Form::Quantity => "resource.Quantity".to_owned(),
        Form::IntOrString => "intstr.IntOrString".to_owned(),
        Form::Raw if of.name == "runtime.RawExtension" => of.name.to_owned(),
        _ => {
            let mut parts = of.name.rsplit('.');
            let name = parts.next().unwrap_or(of.name);
            format!("{}.{name}", parts.next().unwrap_or("v1"))
        }
    }
}

/// The structs inside which Go has a field that stands in line in JSON: `VolumeSource` for the sources of a volume.
fn embedded_in(registry: &TypeRegistry, of: &Type, name: &str) -> Vec<&'static str> {
    let embedded = of.tags.iter().filter_map(|tag| match tag.slot {
        Slot::Embedded(id) => registry.get(id).filter(|inner| inner.field(name).is_some()),
        Slot::Field(_) => None,
    });
    let mut path = Vec::new();
    for inner in embedded {
        path.push(struct_name(inner));
        path.extend(embedded_in(registry, inner, name));
    }
    path
}

struct Decoder<'r> {
    registry: &'r TypeRegistry,
    /// Where the decoder stands, as findings name it: `spec.containers[0]`.
    path: String,
    /// The struct whose field was entered last.
    struct_name: &'static str,
    /// The fields on the way to it; list positions and map keys are not among them.
    fields: Vec<&'static str>,
    /// The first value of the wrong type.
    wrong: Option<String>,
    findings: Vec<String>,
}

impl Decoder<'_> {
    fn context(&self, value: &str, of: &str) -> String {
        if self.fields.is_empty() {
            return format!("json: cannot unmarshal {value} into Go value of type {of}");
        }
        let field = self.fields.join(".");
        format!(
            "json: cannot unmarshal {value} into Go struct field {}.{field} of type {of}",
            self.struct_name
        )
    }

    fn mismatch(&mut self, value: &str, of: &str) {
        if self.wrong.is_none() {
            self.wrong = Some(self.context(value, of));
        }
    }

    fn finding(&mut self, what: &str, name: &str) {
        if self.findings.len() >= MAX_FINDINGS {
            return;
        }
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        let text = format!("{what} field {}", quote(&path));
        if !self.findings.contains(&text) {
            self.findings.push(text);
        }
    }

    /// What Go calls a shape.
    fn go_type(&self, shape: &Shape) -> String {
        match shape {
            Shape::String => "string".to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Int32 => "int32".to_owned(),
            Shape::Int64 => "int64".to_owned(),
            Shape::Double => "float64".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Type(id) => go_name(&self.registry[*id]),
            Shape::List { item, .. } => format!("[]{}", self.go_type(item)),
            Shape::Map(item)
                if item
                    .type_id()
                    .is_some_and(|id| self.registry[id].form == Form::Quantity) =>
            {
                "v1.ResourceList".to_owned()
            }
            Shape::Map(item) => format!("map[string]{}", self.go_type(item)),
        }
    }

    /// Decodes one value into what is there already. `None`: the value stays or becomes absent.
    ///
    /// The error ends the decoding; a plain mismatch does not, it is remembered.
    fn value(&mut self, shape: &Shape, node: &Node, existing: Option<Value>) -> Result<Option<Value>, String> {
        match shape {
            Shape::Type(id) => {
                let of = &self.registry[*id];
                match of.form {
                    Form::Struct => self.struct_(of, node, existing, &|| go_name(of)),
                    form => self.text_form(form, node),
                }
            }
            Shape::List { item, .. } => self.list(shape, item, node, existing),
            Shape::Map(item) => self.map(shape, item, node, existing),
            scalar => self.scalar(scalar, node, existing),
        }
    }

    fn scalar(&mut self, shape: &Shape, node: &Node, existing: Option<Value>) -> Result<Option<Value>, String> {
        let decoded = match (shape, node) {
            (Shape::Bytes, Node::Null) => return Ok(None),
            (_, Node::Null) => return Ok(existing),
            (Shape::String, Node::String(text)) => Some(Value::String(text.clone())),
            (Shape::Bytes, Node::String(text)) => match base64_text(text) {
                Ok(text) => Some(Value::String(text)),
                Err(error) => {
                    self.wrong.get_or_insert(error);
                    return Ok(existing);
                }
            },
            (Shape::Bytes, Node::Array(items)) => Some(self.bytes(items)),
            (Shape::Bool, Node::Bool(value)) => Some(Value::Bool(*value)),
            (Shape::Int32, Node::Number(text)) => text.parse::<i32>().ok().map(Value::from),
            (Shape::Int64, Node::Number(text)) => text.parse::<i64>().ok().map(Value::from),
            (Shape::Double, Node::Number(text)) => number(text).map(Value::Number),
            _ => None,
        };
        if decoded.is_none() {
            let value = match (node, shape) {
                (Node::Number(text), Shape::Int32 | Shape::Int64 | Shape::Double) => format!("number {text}"),
                _ => node.go_kind().to_owned(),
            };
            let of = self.go_type(shape);
            self.mismatch(&value, &of);
            return Ok(existing);
        }
        Ok(decoded)
    }

    /// Bytes as a list of numbers, which Go takes as well.
    fn bytes(&mut self, items: &[Node]) -> Value {
        let mut bytes = Vec::with_capacity(items.len());
        for item in items {
            let byte = match item {
                Node::Null => Some(0),
                Node::Number(text) => text.parse().ok(),
                _ => None,
            };
            if byte.is_none() {
                let value = match item {
                    Node::Number(text) => format!("number {text}"),
                    other => other.go_kind().to_owned(),
                };
                self.mismatch(&value, "uint8");
            }
            bytes.push(byte.unwrap_or(0));
        }
        Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))
    }

    /// A type that reads its own text.
    fn text_form(&mut self, form: Form, node: &Node) -> Result<Option<Value>, String> {
        let decoded = match (form, node) {
            (Form::Quantity, Node::Null) => Some(Value::String("0".to_owned())),
            (Form::Quantity, Node::String(text) | Node::Number(text)) if is_quantity(text) => {
                Some(Value::String(text.clone()))
            }
            (Form::Quantity, _) => return Err(NO_QUANTITY.to_owned()),
            (Form::IntOrString, Node::Null) => Some(Value::from(0)),
            (Form::IntOrString, Node::String(text)) => Some(Value::String(text.clone())),
            (Form::IntOrString, Node::Number(text)) => match text.parse::<i32>() {
                Ok(number) => Some(Value::from(number)),
                Err(_) => return Err(self.context(&format!("number {text}"), "int32")),
            },
            (Form::IntOrString, other) => return Err(self.context(other.go_kind(), "int32")),
            (_, Node::Null) => None,
            (Form::Time | Form::MicroTime, Node::String(text)) => {
                Some(Value::String(time(text, form == Form::MicroTime)?))
            }
            (Form::Time | Form::MicroTime, other) => return Err(self.context(other.go_kind(), "string")),
            (_, any) => Some(any.to_value()),
        };
        Ok(decoded)
    }

    fn list(
        &mut self,
        shape: &Shape,
        item: &Shape,
        node: &Node,
        existing: Option<Value>,
    ) -> Result<Option<Value>, String> {
        let items = match node {
            Node::Null => return Ok(None),
            Node::Array(items) => items,
            other => {
                let of = self.go_type(shape);
                self.mismatch(other.go_kind(), &of);
                return Ok(existing);
            }
        };
        let mut existing = match existing {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        }
        .into_iter();
        let mut decoded = Vec::with_capacity(items.len());
        let length = self.path.len();
        for (index, node) in items.iter().enumerate() {
            self.path.push_str(&format!("[{index}]"));
            let value = self.value(item, node, existing.next())?;
            decoded.push(value.unwrap_or_else(|| self.zero(item)));
            self.path.truncate(length);
        }
        Ok(Some(Value::Array(decoded)))
    }

    fn map(
        &mut self,
        shape: &Shape,
        item: &Shape,
        node: &Node,
        existing: Option<Value>,
    ) -> Result<Option<Value>, String> {
        let members = match node {
            Node::Null => return Ok(None),
            Node::Object(members) => members,
            other => {
                let of = self.go_type(shape);
                self.mismatch(other.go_kind(), &of);
                return Ok(existing);
            }
        };
        let mut decoded = match existing {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let mut seen = std::collections::HashSet::new();
        let length = self.path.len();
        for (key, node) in members {
            if !seen.insert(key) {
                self.finding("duplicate", key);
            }
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
            let value = self.value(item, node, None)?;
            decoded.insert(key.clone(), value.unwrap_or_else(|| self.zero(item)));
            self.path.truncate(length);
        }
        Ok(Some(Value::Object(decoded)))
    }

    /// The zero value of an item that was null or of the wrong type.
    fn zero(&self, shape: &Shape) -> Value {
        match shape {
            Shape::String => Value::String(String::new()),
            Shape::Bool => Value::Bool(false),
            Shape::Int32 | Shape::Int64 | Shape::Double => Value::from(0),
            Shape::Type(id) if self.registry[*id].form == Form::Struct => Value::Object(Map::new()),
            _ => Value::Null,
        }
    }

    fn struct_(
        &mut self,
        of: &Type,
        node: &Node,
        existing: Option<Value>,
        name: &dyn Fn() -> String,
    ) -> Result<Option<Value>, String> {
        let members = match node {
            Node::Null => return Ok(existing),
            Node::Object(members) => members,
            other => {
                self.mismatch(other.go_kind(), &name());
                return Ok(existing);
            }
        };
        let mut decoded = match existing {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let mut seen = std::collections::HashSet::new();
        let (length, outer) = (self.path.len(), self.struct_name);
        for (key, node) in members {
            let field = of.field(key);
            let type_meta = field.is_none() && of.has_type_meta && matches!(key.as_str(), "apiVersion" | "kind");
            if field.is_none() && !type_meta {
                self.finding("unknown", key);
                continue;
            }
            if !seen.insert(key) {
                self.finding("duplicate", key);
            }
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
            self.struct_name = struct_name(of);
            let depth = self.fields.len();
            self.fields.extend(embedded_in(self.registry, of, key));
            self.fields.push(match field {
                Some(field) => field.name,
                None if key == "kind" => "kind",
                None => "apiVersion",
            });
            let current = decoded.remove(key);
            let value = match field {
                Some(field) if field.pointer && *node == Node::Null => None,
                Some(field) => self.value(&field.shape, node, current)?,
                None => self.value(&Shape::String, node, current)?,
            };
            if let Some(value) = value {
                decoded.insert(key.clone(), value);
            }
            self.fields.truncate(depth);
            self.struct_name = outer;
            self.path.truncate(length);
        }
        Ok(Some(Value::Object(decoded)))
    }
}
