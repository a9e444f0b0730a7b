//! The encryption configuration file: which resource is encrypted by which providers.
//!
//! Kind `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`, YAML or JSON, decoded strictly and validated with
//! every problem of the file reported at once, under Kubernetes' field paths and in its words.

mod build;
mod decode;
mod document;
mod duration;
mod endpoint;
mod error;
mod selection;
mod types;
mod validate;

pub use self::build::{ConfigOptions, Transformers};
pub use self::duration::{GoDuration, ParseDurationError};
pub use self::error::{BuildError, ConfigError, ConfigStage, FieldError, FieldErrorKind, FieldErrors};
pub use self::selection::GroupResource;
pub use self::types::{
    EncryptionConfiguration, Key, KeysConfiguration, KmsConfiguration, ProviderConfiguration, ResourceConfiguration,
    Secret,
};
