//! Codecs: how an object becomes bytes and back. JSON as Go writes it, CBOR in Kubernetes' profile.

use std::fmt;

use serde_json::Value;

use crate::normalizer::Malformed;

#[cfg(feature = "cbor")]
pub mod cbor;
pub mod json;

/// How deep documents may nest, in both codecs. serde_json stops there too.
pub const MAX_DEPTH: usize = 128;

/// How a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum MediaType {
    /// `application/json`.
    #[default]
    Json,
    /// `application/cbor`: begins with d9 d9 f7.
    Cbor,
    /// `application/vnd.kubernetes.protobuf`: begins with `k8s` and NUL. Read for built-in kinds, never written.
    Protobuf,
}

impl MediaType {
    /// What the first bytes say.
    pub fn detect(stored: &[u8]) -> Self {
        match stored {
            [0xd9, 0xd9, 0xf7, ..] => Self::Cbor,
            [0x6b, 0x38, 0x73, 0x00, ..] => Self::Protobuf,
            _ => Self::Json,
        }
    }

    /// The name in headers and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Decodes a document of a media type that needs no schema.
///
/// # Errors
///
/// [`Malformed`] with the position, never with content; for protobuf, which needs a schema; for media types whose
/// codec is switched off.
pub fn decode_value(document: &[u8], media_type: MediaType) -> Result<Value, Malformed> {
    match media_type {
        MediaType::Json => json::from_slice(document),
        #[cfg(feature = "cbor")]
        MediaType::Cbor => cbor::from_slice(document),
        other => Err(Malformed(format!("no decoder for {other} without a schema"))),
    }
}
