//! Protobuf of built-in kinds, driven by the type tables.
//!
//! Objects travel and are stored in an envelope: `k8s` and a NUL, then a `runtime.Unknown` message with apiVersion and
//! kind (field 1) and the object's own message (field 2), which has neither. What a message does not carry reads as
//! Go's zero value, so a decoded object has the fields that Go would write as JSON; an empty list that JSON shows
//! cannot be told from none and reads as null.
//!
//! Decoding takes bytes from anywhere: nesting is bounded, lengths are checked, unknown fields are skipped, and
//! whatever is wrong is a [`WireError`] that names the field.
//!
//! ```
//! use apiserver_resources::{types::Gvk, wire::protobuf};
//!
//! let object = serde_json::json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"}});
//! let bytes = protobuf::encode(Gvk::new("", "v1", "ConfigMap"), &object)?;
//! assert!(bytes.starts_with(b"k8s\0"));
//! assert_eq!(protobuf::decode(&bytes)?, object);
//! # Ok::<(), apiserver_resources::wire::WireError>(())
//! ```

mod decode;
mod encode;
mod pieces;

use serde_json::Value;

use self::decode::Reader;
pub use self::pieces::{ListFrame, encode_metadata, envelope_head, item_prefix, write_envelope, write_watch_frame};
use super::error::{Segment, WireError};
use super::type_of;
use crate::types::{Gvk, TypeRegistry};

/// What every stored or sent object begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// An envelope taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The version of the object.
    pub api_version: &'a str,
    /// The kind of the object.
    pub kind: &'a str,
    /// The object's message, or whatever `content_type` says.
    pub raw: &'a [u8],
    /// An encoding of `raw`, such as gzip; empty for none.
    pub content_encoding: &'a str,
    /// The media type of `raw`; empty for protobuf.
    pub content_type: &'a str,
}

impl<'a> Envelope<'a> {
    /// Takes an envelope apart.
    ///
    /// # Errors
    ///
    /// [`WireError::Protobuf`] when the bytes are none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let message = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| WireError::Protobuf("the envelope's prefix is missing".into()))?;
        let mut envelope = Self::default();
        let mut reader = Reader::new(message);
        while let Some((number, payload)) = reader.next()? {
            match number {
                1 => {
                    let mut inner = Reader::new(payload.bytes()?);
                    while let Some((number, payload)) = inner.next()? {
                        match number {
                            1 => envelope.api_version = payload.text()?,
                            2 => envelope.kind = payload.text()?,
                            _ => {}
                        }
                    }
                }
                2 => envelope.raw = payload.bytes()?,
                3 => envelope.content_encoding = payload.text()?,
                4 => envelope.content_type = payload.text()?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// Group, version and kind.
    #[must_use]
    pub fn gvk(&self) -> Gvk<'a> {
        Gvk::of(self.api_version, self.kind)
    }

    /// Puts an envelope together, as Go does.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw.len() + 64);
        out.extend_from_slice(MAGIC);
        encode::message(&mut out, 1, |out| {
            encode::bytes(out, 1, self.api_version.as_bytes());
            encode::bytes(out, 2, self.kind.as_bytes());
        });
        encode::bytes(&mut out, 2, self.raw);
        encode::bytes(&mut out, 3, self.content_encoding.as_bytes());
        encode::bytes(&mut out, 4, self.content_type.as_bytes());
        out
    }
}

/// Decodes an object in its envelope, with `apiVersion` and `kind` as the envelope says.
///
/// # Errors
///
/// [`WireError::UnknownKind`] for a kind that is not built in, [`WireError::Protobuf`] and [`WireError::Shape`] for
/// bytes that are no such object.
pub fn decode(bytes: &[u8]) -> Result<Value, WireError> {
    let envelope = Envelope::parse(bytes)?;
    if !envelope.content_encoding.is_empty()
        || !matches!(envelope.content_type, "" | "application/vnd.kubernetes.protobuf")
    {
        return Err(WireError::Protobuf(
            "the envelope holds something else than protobuf".into(),
        ));
    }
    if envelope.kind.is_empty() || envelope.api_version.is_empty() {
        return Err(WireError::Protobuf("the envelope names no kind".into()));
    }
    decode_as(envelope.gvk(), envelope.raw)
}

/// Decodes an object's own message.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_as(gvk: Gvk<'_>, message: &[u8]) -> Result<Value, WireError> {
    let ty = type_of(gvk)?;
    let mut object = decode::Decoder::new(TypeRegistry::builtin()).root(ty, message)?;
    if let (true, Value::Object(members)) = (ty.has_type_meta, &mut object) {
        members.insert("kind".into(), gvk.kind.into());
        members.insert("apiVersion".into(), gvk.api_version().into());
    }
    Ok(object)
}

/// Encodes an object in its envelope.
///
/// # Errors
///
/// [`WireError`] for a kind that is not built in and for a field that holds something else than its type.
pub fn encode(gvk: Gvk<'_>, object: &Value) -> Result<Vec<u8>, WireError> {
    let raw = encode_message(gvk, object)?;
    let api_version = gvk.api_version();
    Ok(Envelope {
        api_version: &api_version,
        kind: gvk.kind,
        raw: &raw,
        ..Envelope::default()
    }
    .to_bytes())
}

/// Encodes an object's own message, without the envelope.
///
/// # Errors
///
/// As [`encode`].
pub fn encode_message(gvk: Gvk<'_>, object: &Value) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(512);
    encode::Encoder::new(TypeRegistry::builtin(), &mut out).typed(type_of(gvk)?, Some(object))?;
    Ok(out)
}

/// The bytes that Kubernetes stores for this object: without `metadata.resourceVersion` and `metadata.selfLink`.
///
/// # Errors
///
/// As [`encode`].
pub fn encode_stored(gvk: Gvk<'_>, object: &Value) -> Result<Vec<u8>, WireError> {
    let mut stored = object.clone();
    if let Some(Value::Object(metadata)) = stored.get_mut("metadata") {
        metadata.remove("resourceVersion");
        metadata.remove("selfLink");
    }
    encode(gvk, &stored)
}

/// One frame of a watch in protobuf: a `WatchEvent` whose object is `envelope`. Frames are preceded on the wire by their
/// length as four bytes, big end first, which is not part of this.
#[must_use]
pub fn encode_watch_event(event_type: &str, envelope: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(envelope.len() + 32);
    encode::bytes(&mut out, 1, event_type.as_bytes());
    encode::message(&mut out, 2, |out| encode::bytes(out, 1, envelope));
    out
}

/// Wraps an error of one level into the name of the field above it.
fn under(error: WireError, segment: Segment) -> WireError {
    match error {
        WireError::Shape(error) => WireError::Shape(error.under(segment)),
        WireError::Protobuf(text) => match segment {
            Segment::Field(name) => WireError::Protobuf(format!("{name}: {text}")),
            _ => WireError::Protobuf(text),
        },
        other => other,
    }
}
