//! Stored values of custom kinds: read through the structural schema, written with sorted keys.
//!
//! What a server stored is nearly always canonical, pruned and complete. A scan along the schema finds that out without
//! decoding; everything else is decoded, pruned and completed.
//!
//! Upstream: kubernetes/apiextensions-apiserver pkg/apiserver (customresource_handler.go, schema/).

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use apiserver_storage_api::codec::{self, MediaType};
use apiserver_storage_api::{
    Encoded, GroupVersionKind, JsonNormalizer, Malformed, Normalized, Normalizer, ResourceInfo, ResourcePrefix,
    ResourceScope, Revision, SelectableField, encode_untyped, finish, strip_server_fields,
};

use crate::crd::guide::Part;
use crate::crd::{CustomKind, CustomVersion};
use crate::document;
use crate::fieldvalidation::decode_custom_value;
use crate::types::TypeRegistry;

/// What storage must know of a custom kind: keys, fields, normalizer. Entries are in the storage version; `None` for a
/// definition without one. `generation` tells schemas of the kind apart.
///
/// ```
/// use std::sync::Arc;
///
/// use apiserver_resources::crd::{CustomKind, resource_info};
/// use serde_json::json;
///
/// let kind = CustomKind::parse(&json!({
///     "metadata": { "name": "widgets.example.com" },
///     "spec": {
///         "group": "example.com",
///         "scope": "Namespaced",
///         "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList" },
///         "versions": [{
///             "name": "v1", "served": true, "storage": true,
///             "schema": { "openAPIV3Schema": { "type": "object" } },
///         }],
///     },
/// }))
/// .expect("a sound definition");
/// let info = resource_info(&Arc::new(kind), 1).expect("one version is stored");
/// assert_eq!(info.prefix().as_str(), "/example.com/widgets/");
/// ```
#[must_use]
pub fn resource_info(kind: &Arc<CustomKind>, generation: u64) -> Option<ResourceInfo> {
    let stored = kind.storage_version()?;
    let scope = if kind.namespaced {
        ResourceScope::Namespaced
    } else {
        ResourceScope::Cluster
    };
    let fields = stored
        .selectable_fields
        .iter()
        .map(|field| SelectableField::new(field))
        .collect();
    let normalizer = CustomNormalizer::new(Arc::clone(kind), stored.clone(), generation);
    let info = ResourceInfo::new(&kind.group, &stored.name, &kind.names.plural, &kind.names.kind, scope)
        .with_selectable_fields(fields)
        .with_normalizer(Arc::new(normalizer));
    // Group and plural were checked with the definition.
    Some(
        match ResourcePrefix::new(&format!("/{}/{}/", kind.group, kind.names.plural)) {
            Ok(prefix) => info.with_prefix(prefix),
            Err(_) => info,
        },
    )
}

/// The normalizer of a custom kind. Entries are in the storage version: pruned, with the schema's defaults.
#[derive(Debug)]
pub struct CustomNormalizer {
    kind: Arc<CustomKind>,
    version: CustomVersion,
    api_version: String,
    generation: u64,
    /// Of canonical values in the storage version.
    canonical: JsonNormalizer,
}

impl CustomNormalizer {
    /// For objects of this kind in its storage version. `generation` tells schemas of the kind apart.
    #[must_use]
    pub fn new(kind: Arc<CustomKind>, version: CustomVersion, generation: u64) -> Self {
        let api_version = format!("{}/{}", kind.group, version.name);
        let gvk = GroupVersionKind::new(&kind.group, &version.name, &kind.names.kind);
        Self {
            kind,
            version,
            api_version,
            generation,
            canonical: JsonNormalizer::new(gvk),
        }
    }

    /// The served form of any value, by decoding it.
    fn rewrite(&self, stored: &[u8], revision: Revision, fields: &[SelectableField]) -> Result<Normalized, Malformed> {
        let media_type = MediaType::detect(stored);
        let mut object = decode(stored, media_type)?;
        self.check(&mut object)?;
        self.settle_metadata(&mut object);
        self.version.schema.prune(&mut object);
        self.version.schema.apply_defaults(&mut object);
        finish(object, revision, fields, media_type)
    }

    /// The stored form of any object, by decoding it.
    fn encode_value(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed> {
        let mut object = codec::decode_value(object.json(), MediaType::Json)?;
        self.check(&mut object)?;
        if let Some(fields) = object.as_object_mut() {
            strip_server_fields(fields);
        }
        encode_untyped(&object, media_type)
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
        let verified = Part::of(&self.version.schema)
            .and_then(|whole| self.canonical.verify_guided(stored, revision, fields, whole));
        match verified {
            Some(normalized) => Ok(normalized),
            None => self.rewrite(stored, revision, fields),
        }
    }

    fn encode(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed> {
        let kept = (media_type == MediaType::Json).then(|| self.canonical.keep(object));
        match kept.flatten() {
            Some(stored) => Ok(stored),
            None => self.encode_value(object, media_type),
        }
    }

    fn encode_and_normalize(
        &self,
        object: &Encoded,
        media_type: MediaType,
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<(Bytes, Normalized), Malformed> {
        if media_type == MediaType::Json
            && let Some(whole) = Part::of(&self.version.schema)
            && let Some(both) = self.canonical.keep_guided(object, revision, fields, whole)
        {
            return Ok(both);
        }
        let stored = self.encode(object, media_type)?;
        let normalized = self.normalize(&stored, revision, fields)?;
        Ok((stored, normalized))
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

#[cfg(test)]
mod tests;
