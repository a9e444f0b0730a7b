//! Why a storage call failed, with what a caller needs to act.

use std::time::Duration;

use crate::continue_token::ContinueToken;
use crate::revision::Revision;

/// The result of storage calls.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// A cause of any type, kept as the source of an error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a storage call failed. A new variant earns its place when the caller would act differently.
///
/// Keys are full backend keys, prefix included, wherever a backend raised the error. No variant ever carries stored
/// or decrypted content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Nothing is stored under the key. Create it, or stop.
    #[error("key not found: key={key}")]
    KeyNotFound {
        /// The full key.
        key: String,
    },
    /// Something is stored under the key already. Read it, or choose another name.
    #[error("key exists: key={key}")]
    KeyExists {
        /// The full key.
        key: String,
    },
    /// The object changed since it was read. Read again, re-apply, retry.
    #[error("resource version conflict: key={key} stored={stored:?} expected={expected:?}")]
    Conflict {
        /// The full key.
        key: String,
        /// The revision that is stored, if known.
        stored: Option<Revision>,
        /// The revision that the caller expected.
        expected: Option<Revision>,
    },
    /// A precondition (uid or resourceVersion) does not hold, or an unsafe delete met a readable object.
    #[error("invalid object: {message}: key={key}")]
    InvalidObject {
        /// The full key.
        key: String,
        /// Which precondition failed, in upstream's words.
        message: String,
    },
    /// The key is no key of this resource. A programming error of the caller, or a hostile name.
    #[error("{message}")]
    InvalidKey {
        /// What is wrong, with the key quoted.
        message: String,
    },
    /// The text is no resourceVersion.
    #[error("invalid resource version: value={value:?}")]
    InvalidResourceVersion {
        /// The text.
        value: String,
    },
    /// The options contradict each other or make no sense. Becomes 400.
    #[error("{message}")]
    BadRequest {
        /// What is wrong.
        message: String,
    },
    /// An object to be created carries a resourceVersion.
    #[error("resourceVersion should not be set on objects to be created")]
    ResourceVersionSetOnCreate,
    /// The stored value cannot be decrypted or decoded. Nothing is served in its place; see
    /// [`DeleteOptions::unreadable`](crate::DeleteOptions) for the way to get rid of it.
    #[error("unreadable object: {reason}: key={key}")]
    Unreadable {
        /// The full key.
        key: String,
        /// The revision of the value.
        revision: Option<Revision>,
        /// Which step failed and why; never content.
        reason: crate::entry::UnreadableReason,
    },
    /// The asked revision is not reached yet. Retry after the hint.
    #[error("too large resource version: asked={asked} current={current}")]
    TooLargeResourceVersion {
        /// What was asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
        /// When to try again; zero means the server has no opinion.
        retry_after: Duration,
    },
    /// History below the asked revision is gone (410). List again; or go on from `token` at the latest state.
    #[error("{message}")]
    Expired {
        /// Upstream's text for the operation.
        message: String,
        /// For paged lists: a token that continues at the latest state, inconsistent with earlier pages.
        token: Option<ContinueToken>,
    },
    /// The store cannot serve yet. Retry after the hint.
    #[error("storage not ready: {cause}")]
    NotReady {
        /// Why.
        cause: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// More work than the store takes at the moment (429). Retry after the hint.
    #[error("too many requests: {cause}")]
    TooManyRequests {
        /// Which bound was met.
        cause: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The backend cannot be reached; a write was surely not sent. Retry.
    #[error("storage unreachable")]
    Unreachable {
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The request did not finish within its deadline; a write was surely not applied.
    #[error("request did not complete within requested timeout: key={key}")]
    Timeout {
        /// The key that was worked on.
        key: String,
    },
    /// The request may or may not have been committed. Read before retrying.
    #[error("outcome unknown: key={key}")]
    OutcomeUnknown {
        /// The full key.
        key: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The value is larger than the backend takes.
    #[error("object too large: key={key} size={size} limit={limit}")]
    TooLargeObject {
        /// The full key.
        key: String,
        /// Bytes of the stored form.
        size: usize,
        /// Bytes that the backend takes.
        limit: usize,
    },
    /// The backend is out of space; reads and deletes go on.
    #[error("storage space exceeded")]
    NoSpace {
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The object cannot be encoded or decoded as the asked type.
    #[error("cannot {action} object: key={key}")]
    Codec {
        /// The key.
        key: String,
        /// `encode` or `decode`.
        action: &'static str,
        /// The cause, naming the field where known.
        #[source]
        source: BoxError,
    },
    /// This store does not do that.
    #[error("not supported: {what}")]
    NotSupported {
        /// What was asked for.
        what: String,
    },
    /// The caller's own function (update, validation) failed; its error is handed back unchanged.
    #[error("rejected by the caller's function")]
    Callback(#[source] BoxError),
    /// The store is shutting down.
    #[error("storage closed")]
    Closed,
    /// A fault of the store or its transformer. Not the caller's doing.
    #[error("internal error: {message}")]
    Internal {
        /// What failed; names the key, never content.
        message: String,
        /// The cause, if there is one.
        #[source]
        source: Option<BoxError>,
    },
}

impl StorageError {
    /// An internal error without a cause.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal {
            message: message.into(),
            source: None,
        }
    }

    /// An error of the caller's own function, to be handed back unchanged.
    pub fn callback(error: impl Into<BoxError>) -> Self {
        Self::Callback(error.into())
    }

    /// A request that makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::BadRequest {
            message: message.into(),
        }
    }

    /// History is gone; for lists (`storage-api/ERR-07`).
    pub fn expired_list() -> Self {
        Self::Expired {
            message: "The resourceVersion for the provided list is too old.".into(),
            token: None,
        }
    }

    /// History is gone; for watches (`storage-api/ERR-07`).
    pub fn expired_watch() -> Self {
        Self::Expired {
            message: "The resourceVersion for the provided watch is too old.".into(),
            token: None,
        }
    }

    /// History is gone; for a continue token. `token` goes on at the latest state.
    pub fn expired_continue(token: Option<ContinueToken>) -> Self {
        let message = match token {
            Some(_) => {
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter, or use the continue token in this response to retrieve the \
                 remainder of the results. Continuing with the provided token results in an inconsistent list - \
                 objects that were created, modified, or deleted between the time the first chunk was returned and \
                 now may show up in the list."
            }
            None => {
                "The provided continue parameter is too old to display a consistent list result. You must start a \
                 new list without the continue parameter."
            }
        };
        Self::Expired {
            message: message.into(),
            token,
        }
    }

    /// Upstream's number for this kind of error, where it has one (`storage-api/ERR-01`). Conflict and invalid object are
    /// two: a backend that finds another revision raises the first, a failed precondition is the second.
    // deviates: storage-api/ERR-03: errors say their own part in our words and leave the cause to `source()`; who needs
    // the number has it here.
    pub fn code(&self) -> Option<u8> {
        match self {
            Self::KeyNotFound { .. } => Some(1),
            Self::KeyExists { .. } => Some(2),
            Self::Conflict { .. } => Some(3),
            Self::InvalidObject { .. } => Some(4),
            Self::Unreachable { .. } => Some(5),
            Self::Timeout { .. } => Some(6),
            Self::Unreadable { .. } => Some(7),
            _ => None,
        }
    }

    /// The stored value cannot be decrypted or decoded, also where that is only the cause of this error: callers wrap it
    /// on its way up. The other questions look at the error itself (`storage-api/ERR-05`).
    pub fn is_unreadable(&self) -> bool {
        let mut error: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(current) = error {
            if matches!(current.downcast_ref(), Some(Self::Unreadable { .. })) {
                return true;
            }
            error = current.source();
        }
        false
    }

    /// The stored state is not the expected one: conflict or failed precondition.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::InvalidObject { .. })
    }

    /// Nothing is stored under the key.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::KeyNotFound { .. })
    }

    /// Something is stored under the key already.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::KeyExists { .. })
    }

    /// The history that the call needs is gone (410).
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Expired { .. })
    }

    /// The same call may succeed later, and repeating it does no harm.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NotReady { .. }
                | Self::TooManyRequests { .. }
                | Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::TooLargeResourceVersion { .. }
        )
    }
}

/// An error with its causes in one line, for those who report it: errors of this house say only their own part.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

// A `Result` travels through every layer; large payloads belong into boxes.
const _: () = assert!(std::mem::size_of::<StorageError>() <= 88);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::UnreadableReason;

    fn unreadable() -> StorageError {
        StorageError::Unreadable {
            key: "/registry/pods/ns/a".into(),
            revision: None,
            reason: UnreadableReason::Decode("json".into()),
        }
    }

    // covers: storage-api/ERR-01, storage-api/ERR-18
    #[test]
    fn kinds_of_errors_have_upstreams_numbers() {
        let key = || "/registry/pods/ns/a".to_owned();
        let conflict = StorageError::Conflict {
            key: key(),
            stored: None,
            expected: None,
        };
        let invalid = StorageError::InvalidObject {
            key: key(),
            message: String::new(),
        };
        // Both are lost races for who asks whether to try again, and yet two kinds.
        assert!(conflict.is_conflict() && invalid.is_conflict());
        for (error, code) in [
            (StorageError::KeyNotFound { key: key() }, Some(1)),
            (StorageError::KeyExists { key: key() }, Some(2)),
            (conflict, Some(3)),
            (invalid, Some(4)),
            (StorageError::Unreachable { source: "x".into() }, Some(5)),
            (StorageError::Timeout { key: key() }, Some(6)),
            (unreadable(), Some(7)),
            (StorageError::Closed, None),
            (StorageError::expired_list(), None),
        ] {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    // covers: storage-api/ERR-05
    #[test]
    fn only_the_question_for_unreadable_objects_looks_at_causes() {
        let wrapped = StorageError::callback(StorageError::Internal {
            message: "while listing".into(),
            source: Some(unreadable().into()),
        });
        assert!(unreadable().is_unreadable() && wrapped.is_unreadable());
        let not_found = StorageError::callback(StorageError::KeyNotFound { key: String::new() });
        assert!(!not_found.is_not_found() && !not_found.is_unreadable());
        let exists = StorageError::callback(StorageError::KeyExists { key: String::new() });
        assert!(!exists.is_exists());
        let expired = StorageError::callback(StorageError::expired_watch());
        assert!(!expired.is_expired());
    }

    // covers: storage-api/LIST-35
    #[test]
    fn without_a_token_the_text_says_to_start_again() {
        let StorageError::Expired { message, token } = StorageError::expired_continue(None) else {
            panic!("another kind of error");
        };
        assert_eq!(token, None);
        assert_eq!(
            message,
            "The provided continue parameter is too old to display a consistent list result. You must start a new list \
             without the continue parameter."
        );
    }
}
