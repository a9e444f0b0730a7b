//! Why a backend failed, in the terms that the object store acts on.

use apiserver_storage_api::{BoxError, Revision};

/// Why a call to a backend failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// The revision is compacted.
    #[error("required revision has been compacted: compacted={compacted:?}")]
    Compacted {
        /// The lowest revision that can still be read, if known.
        compacted: Option<Revision>,
    },
    /// The revision is not reached yet.
    #[error("required revision is a future revision: current={current}")]
    Future {
        /// Where the store is.
        current: Revision,
    },
    /// The backend cannot be reached; a write was surely not sent.
    #[error("backend unreachable")]
    Unreachable(#[source] BoxError),
    /// The call did not finish in time; a write was surely not applied.
    #[error("backend timed out")]
    Timeout(#[source] BoxError),
    /// A write was sent and its answer lost: it may have been applied.
    #[error("outcome unknown")]
    OutcomeUnknown(#[source] BoxError),
    /// The backend has less memory of itself than the caller: another store, or one restored from a backup.
    #[error("the store is another one, or went back")]
    Reset,
    /// The value is larger than the backend takes.
    #[error("value too large: size={size} limit={limit}")]
    TooLarge {
        /// Bytes of the value.
        size: usize,
        /// Bytes that are taken.
        limit: usize,
    },
    /// The backend is out of space.
    #[error("backend out of space")]
    NoSpace(#[source] BoxError),
    /// The lease is not known (any more).
    #[error("lease not found")]
    LeaseNotFound,
    /// The backend takes no more requests at the moment.
    #[error("too many requests")]
    TooManyRequests(#[source] BoxError),
    /// The backend does not do that.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// The backend is shutting down.
    #[error("backend closed")]
    Closed,
    /// A fault of the backend, or an answer that makes no sense.
    #[error("backend fault")]
    Fault(#[source] BoxError),
}
