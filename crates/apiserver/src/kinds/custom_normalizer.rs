//! Stored values of custom kinds: read through the structural schema, written with sorted keys.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use apiserver_resources::crd::{CustomKind, CustomVersion};
use apiserver_resources::document;
use apiserver_resources::fieldvalidation::decode_custom_value;
use apiserver_resources::types::TypeRegistry;
use apiserver_storage_api::codec::{self, MediaType};
use apiserver_storage_api::{
    Encoded, Malformed, Normalized, Normalizer, Revision, SelectableField, encode_untyped, finish, strip_server_fields,
};

/// The normalizer of a custom kind. Entries are in the storage version: pruned, with the schema's defaults.
#[derive(Debug)]
pub(crate) struct CustomNormalizer {
    kind: Arc<CustomKind>,
    version: CustomVersion,
    api_version: String,
    generation: u64,
}

impl CustomNormalizer {
    /// For objects of this kind in its storage version. `generation` tells schemas of the kind apart.
    pub(crate) fn new(kind: Arc<CustomKind>, version: CustomVersion, generation: u64) -> Self {
        let api_version = format!("{}/{}", kind.group, version.name);
        Self {
            kind,
            version,
            api_version,
            generation,
        }
    }

    /// Makes sure that this is an object of the group in one of the kind's versions, and brings it to the storage
    /// version. A kind of another name is none of its business: validation refuses it when it is written.
    fn check(&self, object: &mut Value) -> Result<(), Malformed> {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let known = api_version.split_once('/').is_some_and(|(group, version)| {
            group == self.kind.group && self.kind.versions.iter().any(|own| own.name == version)
        });
        if !known || kind.is_empty() {
            let expected = format!("{} {}", self.api_version, self.kind.names.kind);
            return Err(Malformed(format!(
                "expected {expected}, found kind {kind:?} of apiVersion {api_version:?}"
            )));
        }
        if api_version != self.api_version
            && let Some(fields) = object.as_object_mut()
        {
            fields.insert("apiVersion".into(), self.api_version.clone().into());
        }
        Ok(())
    }

    /// Brings metadata into its shape, as a real server reads custom objects: fields that are unknown or of another type
    /// are dropped, and the count of generations begins.
    fn settle_metadata(&self, object: &mut Value) {
        let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
            return;
        };
        let read = |metadata: &Map<String, Value>| {
            let probe = json!({ "metadata": metadata });
            let decoded = decode_custom_value(TypeRegistry::builtin(), &self.version, &probe).ok()?;
            match decoded.value {
                Value::Object(mut fields) => fields.remove("metadata"),
                _ => None,
            }
        };
        let settled = read(metadata).or_else(|| {
            metadata.retain(|name, value| read(&Map::from_iter([(name.clone(), value.clone())])).is_some());
            read(metadata)
        });
        if let Some(Value::Object(settled)) = settled {
            *metadata = settled;
        }
        let generation = metadata.entry("generation").or_insert(Value::Null);
        if generation.is_null() || generation == 0 {
            *generation = 1.into();
        }
    }
}

/// Reads a stored document. JSON is read as Go reads it: a key that is there twice counts by its last value, a byte
/// that is no UTF-8 becomes a mark, `-0` is zero.
fn decode(stored: &[u8], media_type: MediaType) -> Result<Value, Malformed> {
    match media_type {
        MediaType::Json => {
            let document = document::parse(stored).map_err(|error| Malformed(error.to_string()))?;
            Ok(document.to_value())
        }
        other => codec::decode_value(stored, other),
    }
}

impl Normalizer for CustomNormalizer {
    fn normalize(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<Normalized, Malformed> {
        let media_type = MediaType::detect(stored);
        let mut object = decode(stored, media_type)?;
        self.check(&mut object)?;
        self.settle_metadata(&mut object);
        self.version.schema.prune(&mut object);
        self.version.schema.apply_defaults(&mut object);
        finish(object, revision, fields, media_type)
    }

    fn encode(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed> {
        let mut object = codec::decode_value(object.json(), MediaType::Json)?;
        self.check(&mut object)?;
        if let Some(fields) = object.as_object_mut() {
            strip_server_fields(fields);
        }
        encode_untyped(&object, media_type)
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}
