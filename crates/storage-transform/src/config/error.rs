//! What is wrong with a configuration.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

/// A configuration could not be put into effect.
///
/// No variant carries the text of a value that may be a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("error while parsing file: error reading encryption provider configuration file {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file has no content.
    #[error("error while parsing file: encryption provider configuration file {path:?} is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is not an encryption configuration.
    #[error("error while parsing file: error decoding encryption provider configuration file {path:?}: {reason}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// The configuration breaks rules.
    #[error("error while parsing file: {0}")]
    Invalid(FieldErrors),
    /// The configuration is valid, but no transformers can be made from it.
    #[error("error while building transformers: {0}")]
    Build(#[from] BuildError),
}

/// How far a configuration came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigStage {
    /// Reading the file.
    Load,
    /// Turning its text into a configuration.
    Decode,
    /// Checking the rules.
    Validate,
    /// Making transformers.
    Build,
}

impl ConfigError {
    /// The stage that failed.
    pub fn stage(&self) -> ConfigStage {
        match self {
            Self::Read { .. } | Self::Empty { .. } => ConfigStage::Load,
            Self::Decode { .. } => ConfigStage::Decode,
            Self::Invalid(_) => ConfigStage::Validate,
            Self::Build(_) => ConfigStage::Build,
        }
    }
}

/// Why no transformers could be made from a valid configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The entry would never be used, because an earlier wildcard covers its resource.
    #[error("resource {resource:?} is masked by earlier rule {rule:?}")]
    Masked {
        /// The resource of the later entry.
        resource: String,
        /// The wildcard of the earlier one.
        rule: String,
    },
    /// The provider speaks version 1 of the key service protocol, which is off by default.
    #[error(
        "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  \
         Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature."
    )]
    KmsV1Disabled,
    /// This build has no code for the provider. Values are neither written nor read by something else instead.
    #[error("{field}: provider {provider:?} is not supported by this build{}", hint(provider))]
    Unsupported {
        /// Where the provider stands, such as `resources[0].providers[1].aescbc`.
        field: String,
        /// The provider.
        provider: &'static str,
    },
    /// The resource has no provider. Validation names such entries first; this is the second check.
    #[error("resource {resource:?} has no provider")]
    NoProvider {
        /// The resource.
        resource: String,
    },
    /// A key cannot be used. Validation names such keys first; this is the second check.
    #[error("{field}: key {key_name:?} is not usable")]
    UnusableKey {
        /// Where the provider stands.
        field: String,
        /// The name of the key.
        key_name: String,
    },
}

fn hint(provider: &str) -> &'static str {
    match provider {
        "aesgcm" => "; build with the feature `aesgcm`",
        _ => "",
    }
}

/// The kind of a [`FieldError`], as in the Kubernetes API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldErrorKind {
    /// A value is missing.
    Required,
    /// A value breaks a rule.
    Invalid,
}

/// One problem of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldError {
    /// The field, such as `resources[0].providers[1].kms.name`.
    pub field: String,
    /// What is wrong with it in general.
    pub kind: FieldErrorKind,
    /// The value as printed, or `REDACTED` for a key. Absent where the value is missing or is a whole object.
    pub value: Option<String>,
    /// What is wrong in words.
    pub detail: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Invalid => "Invalid value",
        };
        write!(f, "{}: {kind}: ", self.field)?;
        if let Some(value) = &self.value {
            write!(f, "{value}: ")?;
        }
        f.write_str(&self.detail)
    }
}

/// Every problem of a configuration, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// `Err` with the problems, unless there are none.
    pub(super) fn check(errors: Vec<FieldError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }

    /// The problems.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "the list is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'a> IntoIterator for &'a FieldErrors {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => only.fmt(f),
            several => {
                let texts: Vec<String> = several.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", texts.join(", "))
            }
        }
    }
}

impl Error for FieldErrors {}
