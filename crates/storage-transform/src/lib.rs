//! Encryption at rest in Kubernetes' own stored format: identity, AES-GCM, prefix dispatch, rotation.
mod config;
mod error;
mod hash;
mod identity;
mod prefix;
mod random;
mod transformer;
mod usage;

#[cfg(feature = "aesgcm")]
mod aesgcm;
#[cfg(feature = "vectors")]
#[doc(hidden)]
pub mod vectors;

pub use self::config::{
    BuildError, ConfigError, ConfigOptions, ConfigStage, EncryptionConfiguration, FieldError, FieldErrorKind,
    FieldErrors, GoDuration, GroupResource, Key, KeysConfiguration, KmsConfiguration, ParseDurationError,
    ProviderConfiguration, ResourceConfiguration, Secret, Transformers,
};
pub use self::error::{ErrorKind, TransformError};
pub use self::hash::{content_hash, metric_label};
pub use self::identity::{Identity, RESERVED_PREFIX};
pub use self::prefix::{Provider, ProviderList};
pub use self::random::{RandomError, RandomSource, SystemRandom};
pub use self::transformer::{BoxFuture, DataContext, Decrypted, Outcome, OutcomeFuture, Transformer};
pub use self::usage::{KeyUsage, MAX_WRITES_PER_KEY, RECOMMENDED_WRITES_PER_KEY};
