//! `metadata` of an object, in our own type: what every layer may look at without knowing the kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::StorageError;
use crate::revision::Revision;
use crate::time::Time;

/// The annotation of the bookmark that ends the initial events of a watch.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// `ObjectMeta` with Kubernetes' field names and order.
///
/// Upstream: k8s.io/apimachinery pkg/apis/meta/v1 (types.go, ObjectMeta).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Meta {
    /// Unique within a namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The start of a name that the server completes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate_name: Option<String>,
    /// Absent for cluster-scoped objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// A relic; read, never stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_link: Option<String>,
    /// Unique in time and space; set by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The revision of the last write, as text; never stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Counts changes of the desired state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When the object was created; set by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
    /// When the object is to be gone; set once deletion was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Time>,
    /// Seconds that were granted before the deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
    /// Selected by.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Not selected by.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Objects that this one depends on.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
    /// Who must act before the object may go.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Who set which field; carried, not interpreted here.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub managed_fields: Vec<Value>,
}

/// An object that another one depends on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct OwnerReference {
    /// Group and version of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Uid of the owner.
    pub uid: String,
    /// The owner that manages this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// The owner cannot go before this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl Meta {
    /// The metadata of an object of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::default()
        }
    }

    /// The name, or the empty string.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// The namespace, or the empty string.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The uid, or the empty string.
    pub fn uid(&self) -> &str {
        self.uid.as_deref().unwrap_or_default()
    }

    /// Whether deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The revision that the object says it is of; `None` when it says nothing.
    ///
    /// # Errors
    ///
    /// [`StorageError::InvalidResourceVersion`](crate::StorageError::InvalidResourceVersion) for a text that is no
    /// number.
    pub fn revision(&self) -> Result<Option<Revision>, StorageError> {
        Revision::parse(self.resource_version.as_deref().unwrap_or_default())
    }

    /// Says which revision the object is of, whatever it said before; nothing else changes.
    pub fn set_revision(&mut self, revision: Option<Revision>) {
        self.resource_version = revision.map(|revision| revision.to_string());
    }

    /// Marks a bookmark as the end of the initial events of a watch.
    pub fn mark_initial_events_end(&mut self) {
        self.annotations.insert(INITIAL_EVENTS_END.into(), "true".into());
    }

    /// Whether this is the metadata of the bookmark that ends the initial events of a watch.
    pub fn is_initial_events_end(&self) -> bool {
        self.annotations
            .get(INITIAL_EVENTS_END)
            .is_some_and(|value| value == "true")
    }

    /// Reads the metadata of a decoded object; absent metadata is empty metadata.
    ///
    /// # Errors
    ///
    /// When `metadata` is there and is not of the shape.
    pub fn of(object: &Value) -> Result<Self, serde_json::Error> {
        match object.get("metadata") {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(value) => Self::deserialize(value),
        }
    }

    /// Puts this metadata into a decoded object, replacing what is there.
    pub fn put_into(&self, object: &mut Value) {
        if let (Value::Object(fields), Ok(value)) = (object, serde_json::to_value(self)) {
            fields.insert("metadata".into(), value);
        }
    }
}

/// Go reads `null` as "nothing there"; serde would refuse it.
fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // covers: storage-api/VER-03, storage-api/VER-04
    #[test]
    fn an_object_says_which_revision_it_is_of() {
        for (text, want) in [
            (json!({}), Ok(None)),
            (json!({"resourceVersion": ""}), Ok(None)),
            (json!({"resourceVersion": "12"}), Ok(Revision::new(12))),
            (json!({"resourceVersion": "x"}), Err(())),
        ] {
            let object = json!({"metadata": text});
            let mut meta = Meta::of(&object).unwrap();
            assert_eq!(meta.revision().map_err(drop), want, "{object}");
            meta.set_revision(Revision::new(7));
            assert_eq!(
                serde_json::to_value(&meta).unwrap(),
                json!({"resourceVersion": "7"}),
                "{object}"
            );
            meta.set_revision(None);
            assert_eq!(serde_json::to_value(&meta).unwrap(), json!({}), "{object}");
        }
    }

    // covers: storage-api/VER-15
    #[test]
    fn the_end_of_initial_events_is_an_annotation() {
        let mut meta = Meta::default();
        assert!(!meta.is_initial_events_end());
        meta.mark_initial_events_end();
        assert!(meta.is_initial_events_end());
        let wire = json!({"annotations": {"k8s.io/initial-events-end": "true"}});
        assert_eq!(serde_json::to_value(&meta).unwrap(), wire);
        for other in ["false", "", "True", "1"] {
            meta.annotations.insert(INITIAL_EVENTS_END.into(), other.into());
            assert!(!meta.is_initial_events_end(), "{other:?}");
        }
    }
}
