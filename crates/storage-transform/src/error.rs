//! Why a value could not be transformed.
//!
//! An error names the provider and the key it is about, never plaintext or key bytes. The messages start with the text
//! that Kubernetes prints, so that what people search for is found.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The reason of a [`TransformError`]. A new one earns its place when a caller would act differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The resource is not configured for encryption, and the value is encrypted: the configuration has lost its entry.
    EncryptedDataInIdentity,
    /// No configured provider writes values that start like this one: a provider has been removed too early, or the
    /// value is plain and `identity` is not listed.
    NoMatchingPrefix,
    /// The provider fits, but none of its keys has the value's key name.
    NoMatchingKey,
    /// The value is shorter than its fixed part: truncated.
    TooShort,
    /// The authentication tag is wrong: changed bytes, a wrong key, or a value moved here from another storage key.
    AuthFailed,
    /// The system gave no random bytes; nothing was written. Try again.
    RandomSource,
    /// The key has written as many values as it safely can; nothing was written. Rotate the key.
    KeyExhausted,
    /// A transformer from outside this crate failed for good. See [`source`](Error::source).
    External,
    /// A transformer from outside this crate could not answer now. Try again.
    Unavailable,
    /// Several candidates failed, for different reasons. See [`TransformError::causes`].
    Aggregate,
}

impl ErrorKind {
    /// The stable name of the kind, as used in test vectors and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EncryptedDataInIdentity => "encrypted_data_in_identity",
            Self::NoMatchingPrefix => "no_matching_prefix",
            Self::NoMatchingKey => "no_matching_key",
            Self::TooShort => "too_short",
            Self::AuthFailed => "auth_failed",
            Self::RandomSource => "random_source",
            Self::KeyExhausted => "key_exhausted",
            Self::External => "external",
            Self::Unavailable => "unavailable",
            Self::Aggregate => "aggregate",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::EncryptedDataInIdentity => "identity transformer tried to read encrypted data",
            Self::NoMatchingPrefix => "no matching prefix found",
            Self::NoMatchingKey => "no matching key was found for the provided transformer",
            Self::TooShort => "the stored data was shorter than the required size",
            Self::AuthFailed => "cipher: message authentication failed",
            Self::RandomSource => "failed to write nonce",
            Self::KeyExhausted => "the key has reached its limit of writes",
            Self::External => "the transformer failed",
            Self::Unavailable => "the transformer is not available",
            Self::Aggregate => "several transformers failed",
        }
    }
}

/// A value could not be transformed.
///
/// The error does not know the object's key in the store; whoever called with it adds it.
#[derive(Clone)]
pub struct TransformError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    provider: Option<Arc<str>>,
    key_name: Option<Arc<str>>,
    source: Option<Arc<dyn Error + Send + Sync>>,
    /// The single failures of an aggregate, in the order they were met. Never holds another aggregate.
    causes: Vec<TransformError>,
}

impl TransformError {
    /// An error of this kind with the kind's own message.
    pub fn new(kind: ErrorKind) -> Self {
        Self::with_message(kind, kind.message())
    }

    /// An error of this kind with another message. The message must not contain plaintext or key bytes.
    pub fn with_message(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let inner = Inner {
            kind,
            message: message.into(),
            provider: None,
            key_name: None,
            source: None,
            causes: Vec::new(),
        };
        Self(Box::new(inner))
    }

    /// Adds what caused the error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Names the provider that failed, and its key where one was chosen.
    #[must_use]
    pub fn at(mut self, provider: &Arc<str>, key_name: Option<&Arc<str>>) -> Self {
        self.0.provider = Some(Arc::clone(provider));
        self.0.key_name = key_name.map(Arc::clone);
        self
    }

    /// One error for all candidates that failed: `None` without any, the error itself when there is one.
    pub(crate) fn combine(errors: Vec<Self>) -> Option<Self> {
        let mut causes = Vec::with_capacity(errors.len());
        for error in errors {
            if error.0.causes.is_empty() {
                causes.push(error);
            } else {
                causes.extend(error.0.causes);
            }
        }
        if causes.len() < 2 {
            return causes.pop();
        }
        let first = causes[0].0.kind;
        let kind = if causes.iter().all(|cause| cause.0.kind == first) {
            first
        } else {
            ErrorKind::Aggregate
        };
        let mut combined = Self::new(kind);
        combined.0.causes = causes;
        Some(combined)
    }

    /// The reason; [`ErrorKind::Aggregate`] when candidates failed for different ones.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The provider that failed, such as `aesgcm`.
    pub fn provider(&self) -> Option<&str> {
        self.0.provider.as_deref()
    }

    /// The name of the key that failed.
    pub fn key_name(&self) -> Option<&str> {
        self.0.key_name.as_deref()
    }

    /// Every failed candidate, in the order of the configuration; the error itself when there was only one.
    pub fn causes(&self) -> &[TransformError] {
        if self.0.causes.is_empty() {
            std::slice::from_ref(self)
        } else {
            &self.0.causes
        }
    }

    /// Whether the same call may succeed later with the same configuration and the same stored value. What is not
    /// transient is corruption or a missing key.
    pub fn is_transient(&self) -> bool {
        self.causes()
            .iter()
            .any(|cause| matches!(cause.0.kind, ErrorKind::RandomSource | ErrorKind::Unavailable))
    }

    fn text(&self) -> String {
        let mut text = self.0.message.to_string();
        let mut separator = ": ";
        for (name, value) in [("provider", &self.0.provider), ("key", &self.0.key_name)] {
            if let Some(value) = value {
                text.push_str(&format!("{separator}{name}={value}"));
                separator = " ";
            }
        }
        text
    }
}

impl fmt::Display for TransformError {
    /// One failure as it is; several as `[a, b]`, equal ones once, without brackets when all are equal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut texts: Vec<String> = Vec::new();
        for cause in self.causes() {
            let text = cause.text();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        match texts.as_slice() {
            [only] => f.write_str(only),
            several => write!(f, "[{}]", several.join(", ")),
        }
    }
}

impl fmt::Debug for TransformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("TransformError");
        out.field("kind", &self.0.kind).field("message", &self.to_string());
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl Error for TransformError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth_failed(key: &str) -> TransformError {
        TransformError::new(ErrorKind::AuthFailed).at(&"aesgcm".into(), Some(&key.into()))
    }

    // covers: storage-transform/PFX-09, storage-transform/PFX-12
    #[test]
    fn failed_candidates_are_flattened_and_equal_ones_are_printed_once() {
        let no_key = || TransformError::new(ErrorKind::NoMatchingKey);
        let nested = TransformError::combine(vec![auth_failed("a"), no_key()]);
        for (name, errors, want) in [
            (
                "one",
                vec![auth_failed("a")],
                "cipher: message authentication failed: provider=aesgcm key=a",
            ),
            (
                "equal",
                vec![no_key(), no_key()],
                "no matching key was found for the provided transformer",
            ),
            (
                "nested and different",
                vec![nested.expect("two errors"), no_key(), auth_failed("b")],
                "[cipher: message authentication failed: provider=aesgcm key=a, \
                 no matching key was found for the provided transformer, \
                 cipher: message authentication failed: provider=aesgcm key=b]",
            ),
        ] {
            let count = errors.len();
            let error = TransformError::combine(errors).expect("at least one error");
            assert_eq!(error.to_string(), want, "{name}");
            assert!(error.causes().len() >= count, "{name}: nothing is lost");
        }
        assert!(TransformError::combine(Vec::new()).is_none());
    }

    #[test]
    fn one_kind_stays_that_kind_and_several_are_an_aggregate() {
        let same = TransformError::combine(vec![auth_failed("a"), auth_failed("b")]).expect("two errors");
        assert_eq!(same.kind(), ErrorKind::AuthFailed);
        let mixed = TransformError::combine(vec![auth_failed("a"), TransformError::new(ErrorKind::Unavailable)]);
        let mixed = mixed.expect("two errors");
        assert_eq!(mixed.kind(), ErrorKind::Aggregate);
        assert!(mixed.is_transient(), "one of the candidates may answer later");
        assert!(!same.is_transient());
    }
}
