//! The configuration as data.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::duration::GoDuration;
use super::error::{ConfigError, FieldErrors};
use super::{decode, validate};

/// An encryption configuration, as read from its file and with defaults applied.
///
/// Reading does not validate: see [`validate`](Self::validate), which [`Transformers::new`](crate::Transformers::new)
/// calls in any case.
#[derive(Debug, Clone, Default)]
pub struct EncryptionConfiguration {
    /// The entries, in the order of the file. An earlier wildcard must not hide a later entry.
    pub resources: Vec<ResourceConfiguration>,
}

/// Some resources and the providers they share.
#[derive(Debug, Clone, Default)]
pub struct ResourceConfiguration {
    /// Resource names: `secrets`, `widgets.example.com`, `*.apps`, `*.` (the core group) or `*.*` (everything).
    pub resources: Vec<String>,
    /// The providers. The first one writes, all of them read.
    pub providers: Vec<ProviderConfiguration>,
}

/// One provider; exactly one of the fields is set.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ProviderConfiguration {
    /// AES-GCM with static keys.
    pub aesgcm: Option<KeysConfiguration>,
    /// AES-CBC with static keys.
    pub aescbc: Option<KeysConfiguration>,
    /// XSalsa20 and Poly1305 with static keys.
    pub secretbox: Option<KeysConfiguration>,
    /// Plain values.
    pub identity: bool,
    /// A key service.
    pub kms: Option<KmsConfiguration>,
}

/// The static keys of a provider. The first one writes, all of them read.
#[derive(Debug, Clone, Default)]
pub struct KeysConfiguration {
    /// The keys, in order.
    pub keys: Vec<Key>,
}

/// A named key.
#[derive(Debug, Clone, Default)]
pub struct Key {
    /// The name, stored in clear in front of every value that the key writes.
    pub name: String,
    /// The key itself.
    pub secret: Secret,
}

/// The base64 text of a key. It is wiped from memory when dropped, and never printed.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

/// Go's `base64.StdEncoding`: padding is required, the bits after the last whole byte may be anything.
const SECRET_ENCODING: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

impl Secret {
    /// A secret from its base64 text.
    pub fn new(base64: impl Into<String>) -> Self {
        Self(Zeroizing::new(base64.into()))
    }

    /// Whether the secret has been given at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of the key; `None` when the text is not base64. Line ends anywhere in the text do not count.
    pub fn decode(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut text = Zeroizing::new(Vec::with_capacity(self.0.len()));
        text.extend(self.0.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        // The whole size at once, so that growing leaves no copy of the key behind.
        let mut key = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let len = SECRET_ENCODING.decode_slice(&text, &mut key).ok()?;
        key.truncate(len);
        Some(key)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// A key service, reached over gRPC on a Unix socket.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct KmsConfiguration {
    /// The version of the protocol, `v1` or `v2`. Default `v1`.
    pub api_version: String,
    /// The name of the provider, part of every stored value.
    pub name: String,
    /// How many unwrapped keys a v1 provider keeps; negative keeps none. Default 1000 for v1, not allowed for v2.
    pub cachesize: Option<i32>,
    /// The socket, such as `unix:///run/kms.sock`, or `unix:///@name` for an abstract one.
    pub endpoint: String,
    /// How long one call may take. Default 3 s.
    pub timeout: GoDuration,
}

impl KmsConfiguration {
    pub(crate) const V1: &'static str = "v1";
    pub(crate) const V2: &'static str = "v2";
    pub(crate) const DEFAULT_CACHE_SIZE: i32 = 1000;
    pub(crate) const DEFAULT_TIMEOUT: GoDuration = GoDuration::from_secs(3);
}

impl EncryptionConfiguration {
    /// Decodes the text of a configuration file. `path` is for error messages only.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Empty`] for an empty file; [`ConfigError::Decode`] for one that is neither YAML nor JSON, is of
    /// another kind or version, or has unknown, repeated or wrongly typed fields.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        if text.is_empty() {
            return Err(ConfigError::Empty { path: path.to_owned() });
        }
        decode::decode(text).map_err(|reason| ConfigError::Decode {
            path: path.to_owned(),
            reason,
        })
    }

    /// Checks the rules that can be checked without building anything.
    ///
    /// `reload` is whether the file will be read again while running; key service names must be unique then.
    ///
    /// # Errors
    ///
    /// Every problem of the configuration, in the order of the file.
    pub fn validate(&self, reload: bool) -> Result<(), FieldErrors> {
        validate::validate(self, reload)
    }

    /// How long calls that are under way may still take after the configuration was replaced: twice the timeouts of
    /// all key services, those of v1 counted double because their health check makes two calls. Zero without any.
    pub fn close_grace_period(&self) -> Duration {
        let services = self
            .resources
            .iter()
            .flat_map(|entry| &entry.providers)
            .filter_map(|p| p.kms.as_ref());
        let sum = services.fold(Duration::ZERO, |sum, kms| {
            let calls = if kms.api_version == KmsConfiguration::V1 { 2 } else { 1 };
            sum.saturating_add(kms.timeout.to_std().saturating_mul(calls))
        });
        sum.saturating_mul(2)
    }
}
