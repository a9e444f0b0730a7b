//! Typed values at the edge: anything serde can read and write is an object.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Result, StorageError};
use crate::meta::Meta;

/// A type that a kind's objects can be viewed as: a `k8s-openapi` type, a `#[derive(CustomResource)]` type,
/// `serde_json::Value`. Implemented for all of them; there is nothing to write.
pub trait Object: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Object for T {}

/// An object on its way in: its JSON, in any form that serde or a client makes. The kind's normalizer turns it into
/// the canonical stored form.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded(Bytes);

impl Encoded {
    /// JSON that somebody else made; checked when it is stored.
    pub fn from_json(json: impl Into<Bytes>) -> Self {
        Self(json.into())
    }

    /// The JSON of a typed value.
    ///
    /// # Errors
    ///
    /// [`StorageError::Codec`] when the value does not serialize.
    pub fn of<T: Object>(object: &T) -> Result<Self> {
        let mut json = serde_json::to_vec(object).map_err(encode_error)?;
        // As stored values end. Where nothing else has to be changed either, the same bytes are stored.
        json.push(b'\n');
        Ok(Self(json.into()))
    }

    /// The JSON of a typed value with other metadata.
    ///
    /// # Errors
    ///
    /// [`StorageError::Codec`] when the value does not serialize.
    pub fn with_meta<T: Object>(object: &T, meta: &Meta) -> Result<Self> {
        let mut value: Value = serde_json::to_value(object).map_err(encode_error)?;
        meta.put_into(&mut value);
        Self::of(&value)
    }

    /// The JSON, perhaps with white space behind it.
    pub fn json(&self) -> &Bytes {
        &self.0
    }
}

impl std::fmt::Debug for Encoded {
    /// Content stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoded({} bytes)", self.0.len())
    }
}

fn encode_error(error: serde_json::Error) -> StorageError {
    StorageError::Codec {
        key: String::new(),
        action: "encode",
        source: error.into(),
    }
}
