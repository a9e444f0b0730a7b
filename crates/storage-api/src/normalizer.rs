//! From stored bytes to served bytes and back: the one place where a value is parsed on its way in.
//!
//! A [`Normalizer`] belongs to a kind. It reads whatever somebody stored (our own canonical form, pretty-printed JSON,
//! CBOR, for built-in kinds protobuf) and answers with the canonical served JSON and what was learned on the way, or
//! says why the value cannot be read. It never guesses: a value of another kind or without structure is
//! [`Malformed`]. The other way it makes the canonical stored form, Go's bytes.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::codec::{self, MediaType};
use crate::entry::{Attributes, Fields, Labels};
use crate::object::Encoded;
use crate::resource::{GroupVersionKind, SelectableField};
use crate::revision::Revision;

/// Reads and writes the stored values of one kind. Pure and cheap to share; called on every read of the backend.
pub trait Normalizer: fmt::Debug + Send + Sync + 'static {
    /// Turns a decrypted stored value into its served form with `revision` as `metadata.resourceVersion`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when the value cannot be served as this kind.
    fn normalize(&self, stored: &[u8], revision: Revision, fields: &[SelectableField])
    -> Result<Normalized, Malformed>;

    /// Makes the canonical stored form: no resourceVersion, no selfLink, deterministic bytes.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when the value is no object of this kind.
    fn encode(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed>;

    /// Changes whenever the schema behind this normalizer does; entries made under another generation are stale views.
    fn generation(&self) -> u64;
}

/// A stored value in served form, with what the scan learned.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Normalized {
    /// Canonical served JSON: compact, one line, resourceVersion in.
    pub json: Bytes,
    /// Where in `json` the digits of the resourceVersion stand.
    pub resource_version: Range<usize>,
    /// Metadata, labels and selectable fields.
    pub attributes: Attributes,
    /// How the value was stored.
    pub media_type: MediaType,
}

impl Normalized {
    /// Puts the parts together.
    pub fn new(json: Bytes, resource_version: Range<usize>, attributes: Attributes, media_type: MediaType) -> Self {
        debug_assert!(
            json.get(resource_version.clone())
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
        );
        Self {
            json,
            resource_version,
            attributes,
            media_type,
        }
    }
}

// deviates: storage-api/VER-10: an object that no revision can be put into (its metadata is no object) is unreadable for
// every verb; none is served without one.
/// Why a stored value cannot be read, or an object not be stored. Names fields, never shows content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// The normalizer of a kind without a schema: checks, compacts, sorts the keys.
///
/// Custom resources are stored like this by Kubernetes: keys sorted by bytes, a final newline. What was stored in another
/// version of the group is served in the kind's own: without a schema, versions differ in nothing but their name.
#[derive(Debug, Clone)]
pub struct JsonNormalizer {
    gvk: GroupVersionKind,
}

impl JsonNormalizer {
    /// For objects of this kind.
    pub fn new(gvk: GroupVersionKind) -> Self {
        Self { gvk }
    }

    /// Makes sure that this is an object of the kind, in whatever version of its group, and brings it to the kind's own.
    fn in_version(&self, object: &mut Map<String, Value>) -> Result<(), Malformed> {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        if kind != self.gvk.kind || group != self.gvk.group {
            return Err(Malformed(format!(
                "expected kind {:?} of group {:?}, found kind {kind:?} of apiVersion {api_version:?}",
                self.gvk.kind, self.gvk.group
            )));
        }
        if version != self.gvk.version {
            object.insert("apiVersion".into(), self.gvk.api_version().into());
        }
        Ok(())
    }
}

impl Normalizer for JsonNormalizer {
    fn normalize(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<Normalized, Malformed> {
        let media_type = MediaType::detect(stored);
        let mut value = codec::decode_value(stored, media_type)?;
        let object = value
            .as_object_mut()
            .ok_or_else(|| Malformed("expected an object".into()))?;
        self.in_version(object)?;
        finish(value, revision, fields, media_type)
    }

    fn encode(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed> {
        let mut value = codec::decode_value(object.json(), MediaType::Json)?;
        let fields = value
            .as_object_mut()
            .ok_or_else(|| Malformed("expected an object".into()))?;
        self.in_version(fields)?;
        strip_server_fields(fields);
        encode_untyped(&value, media_type)
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// The stored form of an object without a Go type: sorted keys, in JSON with a final newline.
///
/// # Errors
///
/// [`Malformed`] for a media type that cannot be written without a schema.
pub fn encode_untyped(object: &Value, media_type: MediaType) -> Result<Bytes, Malformed> {
    match media_type {
        MediaType::Json => {
            let mut json = codec::json::to_vec(object);
            json.push(b'\n');
            Ok(json.into())
        }
        #[cfg(feature = "cbor")]
        MediaType::Cbor => Ok(codec::cbor::to_vec(object).into()),
        other => Err(Malformed(format!("cannot store as {other} without a schema"))),
    }
}

/// Takes out what is never stored: resourceVersion and selfLink (`storage-api/VER-06`).
pub fn strip_server_fields(object: &mut Map<String, Value>) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("resourceVersion");
        metadata.remove("selfLink");
    }
}

/// Writes a decoded object in sorted order with its resourceVersion, and extracts the attributes.
///
/// # Errors
///
/// [`Malformed`] when `metadata` or a label is not of the shape.
pub fn finish(
    mut value: Value,
    revision: Revision,
    fields: &[SelectableField],
    media_type: MediaType,
) -> Result<Normalized, Malformed> {
    let attributes = attributes_of(&value, fields)?;
    let object = value
        .as_object_mut()
        .ok_or_else(|| Malformed("expected an object".into()))?;
    strip_server_fields(object);
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let metadata = metadata
        .as_object_mut()
        .ok_or_else(|| Malformed("metadata: expected an object".into()))?;
    metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
    let mut json = Vec::new();
    let at = codec::json::write_object_with_revision(&value, &mut json)
        .ok_or_else(|| Malformed("metadata: expected an object".into()))?;
    Ok(Normalized::new(json.into(), at, attributes, media_type))
}

/// Reads name, namespace, uid, labels and the selectable fields of a decoded object.
///
/// # Errors
///
/// [`Malformed`] naming the field when something is not of the shape.
pub fn attributes_of(object: &Value, fields: &[SelectableField]) -> Result<Attributes, Malformed> {
    let metadata = match object.get("metadata") {
        None | Some(Value::Null) => &Value::Null,
        Some(metadata @ Value::Object(_)) => metadata,
        Some(_) => return Err(Malformed("metadata: expected an object".into())),
    };
    let text = |name: &str| match metadata.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(Malformed(format!("metadata.{name}: expected a string"))),
    };
    let labels = match metadata.get("labels") {
        None | Some(Value::Null) => Labels::default(),
        Some(Value::Object(labels)) => labels
            .iter()
            .map(|(key, value)| match value {
                Value::String(value) => Ok((key.as_str(), value.as_str())),
                Value::Null => Ok((key.as_str(), "")),
                _ => Err(Malformed(format!("metadata.labels[{key:?}]: expected a string"))),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(Malformed("metadata.labels: expected an object".into())),
    };
    let fields = fields.iter().map(|field| {
        let found = field
            .path
            .iter()
            .try_fold(object, |value, name| value.get(name.as_str()));
        let text = match found {
            None | Some(Value::Null) => field.default.to_string(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Array(_) | Value::Object(_)) => {
                return Err(Malformed(format!("{}: expected a scalar", field.label)));
            }
        };
        Ok((std::sync::Arc::clone(&field.label), text))
    });
    Ok(Attributes {
        name: text("name")?.into(),
        namespace: text("namespace")?.into(),
        uid: text("uid")?.into(),
        labels,
        fields: fields.collect::<Result<Fields, Malformed>>()?,
        deleting: !matches!(metadata.get("deletionTimestamp"), None | Some(Value::Null)),
    })
}
