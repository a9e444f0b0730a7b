//! A YAML or JSON document as a tree that still knows its repeated fields.
//!
//! Decoding straight into types would stop at the first unknown field and would echo values in its messages. This tree
//! lets the decoder name every unknown and repeated field at once, and keeps texts, which may be key material, out of
//! errors and wiped when dropped.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Options};
use zeroize::Zeroizing;

/// A value of the document.
pub(super) enum Node {
    Null,
    Bool,
    Integer(i128),
    Float,
    Text(Zeroizing<String>),
    List(Vec<Node>),
    /// The fields in their order; a name may stand there more than once.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// What the value is, in the words of an error message.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Integer(_) | Self::Float => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// Reads JSON when the text begins like it, otherwise YAML, which includes JSON's looser relatives.
pub(super) fn parse(text: &[u8]) -> Result<Node, String> {
    if text.trim_ascii_start().starts_with(b"{")
        && let Ok(node) = serde_json::from_slice(text)
    {
        return Ok(node);
    }
    let text = std::str::from_utf8(text).map_err(|error| format!("the file is not valid UTF-8: {error}"))?;
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| match error.location() {
        // Only the place: the parser's own message may quote the text around it.
        Some(place) => format!(
            "the text is not well-formed at line {} column {}",
            place.line(),
            place.column()
        ),
        None => "the text is not well-formed".to_owned(),
    })
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML or JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, _value: bool) -> Result<Node, E> {
        Ok(Node::Bool)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_f64<E: Error>(self, _value: f64) -> Result<Node, E> {
        Ok(Node::Float)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(Zeroizing::new(value.to_owned())))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(Zeroizing::new(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = access.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Object(fields))
    }
}
