//! Encryption at rest in Kubernetes' own stored format: identity, AES-GCM, prefix dispatch, rotation.
//!
//! Values that a Kubernetes API server has encrypted are read here, and the other way round: the same configuration
//! file, the same stored bytes, the same rules for what must be rewritten. A value is bound to its key in the store, so
//! one that was changed or moved does not open. Nothing that is configured to be encrypted is ever written plain, no
//! message or `Debug` output carries plaintext or key bytes, and keys are wiped from memory when they are dropped.
//!
//! An [`EncryptionConfiguration`] maps resources to providers; [`Transformers`] is what is built from it, one
//! [`Transformer`] per resource. A stored value says by a text prefix which provider and key wrote it. The first
//! provider and its first key write, all of them read, and what any other than the first has read is *stale*: the store
//! writes it anew on the next update. That order is the whole mechanism of key rotation.
//!
//! # Example
//!
//! ```
//! # #[cfg(feature = "aesgcm")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//!
//! use apiserver_storage_transform::{ConfigOptions, DataContext, Outcome, Transformers};
//! use bytes::Bytes;
//!
//! // `Transformers::load` reads the same from a file.
//! let config = br#"
//! apiVersion: apiserver.config.k8s.io/v1
//! kind: EncryptionConfiguration
//! resources:
//!   - resources: [secrets]
//!     providers:
//!       - aesgcm:
//!           keys:
//!             - name: key1
//!               secret: c2VjcmV0IGlzIHNlY3VyZQ==
//!       - identity: {}
//! "#;
//! let transformers = Transformers::parse(Path::new("encryption.yaml"), config, &ConfigOptions::default())?;
//! let secrets = transformers.for_resource("", "secrets");
//! let ctx = DataContext::new("/registry/secrets/default/password");
//!
//! // Static keys answer at once; `.await` works on every outcome.
//! let Outcome::Ready(stored) = secrets.transform_to_storage(Bytes::from("hunter2"), &ctx) else { unreachable!() };
//! let stored = stored?;
//! assert!(stored.starts_with(b"k8s:enc:aesgcm:v1:key1:"));
//!
//! let Outcome::Ready(back) = secrets.transform_from_storage(stored.clone(), &ctx) else { unreachable!() };
//! assert_eq!(back?.bytes, "hunter2");
//!
//! // Moved to another key of the store, it does not open.
//! let elsewhere = DataContext::new("/registry/secrets/default/copy");
//! let Outcome::Ready(moved) = secrets.transform_from_storage(stored, &elsewhere) else { unreachable!() };
//! assert!(moved.is_err());
//!
//! // A value from before encryption was turned on is readable, and due to be rewritten.
//! let Outcome::Ready(plain) = secrets.transform_from_storage(Bytes::from("{}"), &ctx) else { unreachable!() };
//! assert!(plain?.stale);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "aesgcm"))]
//! # fn main() {}
//! ```
//!
//! # What it is not
//!
//! Keys and names in the store, sizes and timestamps stay visible; only values are encrypted. An older value of the same
//! key that is put back opens. The providers `aescbc`, `secretbox` and `kms` are read and validated, but building
//! transformers with them is refused with [`BuildError::Unsupported`].

mod config;
mod error;
mod hash;
mod identity;
mod prefix;
mod random;
mod transformer;
#[cfg_attr(
    not(feature = "aesgcm"),
    allow(dead_code, reason = "only providers with static keys count their writes")
)]
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
