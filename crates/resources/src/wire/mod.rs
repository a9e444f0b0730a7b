//! The wire forms of built-in kinds: the JSON that Go writes, byte for byte, and protobuf.
//!
//! [`encode_stored`] gives the bytes that Kubernetes puts into its store: fields in Go's order, what `omitempty` omits
//! left out, unknown fields pruned, times, quantities and bytes in their own text forms, HTML characters escaped, a
//! newline at the end, and neither `metadata.resourceVersion` nor `metadata.selfLink`. [`encode_served`] gives the same
//! for clients: no newline, all metadata.
//!
//! ```
//! use apiserver_resources::{types::Gvk, wire};
//!
//! let object = serde_json::json!({
//!     "metadata": {"resourceVersion": "7", "name": "a", "labels": {}},
//!     "data": {"greeting": "<hi>"},
//!     "unheardOf": 1,
//! });
//! let stored = wire::encode_stored(Gvk::new("", "v1", "ConfigMap"), &object)?;
//! assert_eq!(
//!     String::from_utf8_lossy(&stored),
//!     concat!(
//!         r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"#,
//!         r#""data":{"greeting":"\u003chi\u003e"}}"#,
//!         "\n"
//!     )
//! );
//! # Ok::<(), wire::WireError>(())
//! ```

mod error;
mod json;
mod managed_fields;
pub mod protobuf;
pub(crate) mod quantity;
mod reader;
pub(crate) mod text;
pub(crate) mod time;

use std::ops::Range;

use apiserver_storage_api::json::{write_string, write_value};
use serde_json::Value;

pub use self::error::{Segment, ShapeError, WireError};
use self::json::Writer;
pub use self::reader::{MAX_DEPTH, read_merged};
use crate::types::{Gvk, Type, TypeRegistry};

/// Finds the type of a kind.
pub(crate) fn type_of(gvk: Gvk<'_>) -> Result<&'static Type, WireError> {
    TypeRegistry::builtin()
        .by_gvk(gvk)
        .ok_or_else(|| WireError::UnknownKind {
            api_version: gvk.api_version(),
            kind: gvk.kind.to_owned(),
        })
}

/// The bytes that Kubernetes stores for this object as JSON. `apiVersion` and `kind` are those of `gvk`, whatever the
/// object says.
///
/// # Errors
///
/// [`WireError`] for a kind that is not built in and for a field that holds something else than its type.
pub fn encode_stored(gvk: Gvk<'_>, object: &Value) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(1024);
    Writer::new(TypeRegistry::builtin(), &mut out).root(type_of(gvk)?, gvk, object, json::Metadata::Stored)?;
    out.push(b'\n');
    Ok(out)
}

/// The JSON that clients get: as [`encode_stored`], with all metadata and without the final newline.
///
/// # Errors
///
/// As [`encode_stored`].
pub fn encode_served(gvk: Gvk<'_>, object: &Value) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(1024);
    Writer::new(TypeRegistry::builtin(), &mut out).root(type_of(gvk)?, gvk, object, json::Metadata::AsIs)?;
    Ok(out)
}

/// As [`encode_served`], with this `metadata.resourceVersion` instead of the object's own. Also says where in the
/// bytes the resource version stands, without its quotes.
///
/// # Errors
///
/// As [`encode_stored`], and for kinds without metadata.
pub fn encode_with_revision(
    gvk: Gvk<'_>,
    object: &Value,
    resource_version: &str,
) -> Result<(Vec<u8>, Range<usize>), WireError> {
    let mut out = Vec::with_capacity(1024);
    let metadata = json::Metadata::Revision(resource_version);
    let at = Writer::new(TypeRegistry::builtin(), &mut out).root(type_of(gvk)?, gvk, object, metadata)?;
    let at = at.ok_or_else(|| WireError::UnknownKind {
        api_version: gvk.api_version(),
        kind: gvk.kind.to_owned(),
    })?;
    Ok((out, at))
}

/// The JSON of a value of any type, such as a table's embedded object or a `Status`, in Go's form.
///
/// # Errors
///
/// [`WireError::Shape`] for a field that holds something else than its type.
pub fn encode_value(ty: &Type, value: &Value) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(256);
    Writer::new(TypeRegistry::builtin(), &mut out).typed(ty, Some(value))?;
    Ok(out)
}

/// The bytes that Kubernetes stores for an object without a Go type: all keys sorted, a newline at the end, neither
/// `metadata.resourceVersion` nor `metadata.selfLink`.
#[must_use]
pub fn encode_untyped(object: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let Some(members) = object.as_object() else {
        write_value(object, &mut out);
        return out;
    };
    out.push(b'{');
    let mut first = true;
    let mut begin = |out: &mut Vec<u8>, key: &str| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write_string(key, out);
        out.push(b':');
    };
    text::for_each_sorted(members, |key, member| {
        begin(&mut out, key);
        match member {
            Value::Object(metadata) if key == "metadata" => {
                let mut stored = metadata.clone();
                stored.remove("resourceVersion");
                stored.remove("selfLink");
                write_value(&Value::Object(stored), &mut out);
            }
            _ => write_value(member, &mut out),
        }
    });
    out.extend_from_slice(b"}\n");
    out
}

/// The bytes behind a value: base64, or a list of numbers, which Go reads as well.
pub(crate) fn bytes_of(value: &Value) -> Result<Vec<u8>, ShapeError> {
    match value {
        Value::String(text) => base64_lenient(text).ok_or_else(|| ShapeError::new("base64", "another text")),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_u64().and_then(|number| u8::try_from(number).ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| ShapeError::new("base64 or a list of bytes", "another list")),
        other => Err(ShapeError::new("base64", json::kind_of(other))),
    }
}

/// Base64 as Go's decoder reads it: the standard alphabet with padding, line ends anywhere, stray bits at the end.
fn base64_lenient(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    use base64::alphabet;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
    );
    if text.contains(['\r', '\n']) {
        let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        return LENIENT.decode(joined).ok();
    }
    LENIENT.decode(text).ok()
}
