//! What can go wrong in the engine, and what a caller is told of it.

#[cfg(feature = "durable")]
use std::sync::Arc;

use apiserver_storage_api::{BoxError, Revision};
use apiserver_storage_kv::KvError;

/// The causes behind [`KvError::Fault`] and its kin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[cfg(feature = "durable")]
    #[error("data directory is in use by another process: dir={dir}")]
    InUse { dir: String },
    #[cfg(feature = "durable")]
    #[error("data directory cannot be used: dir={dir}")]
    Directory {
        dir: String,
        #[source]
        source: BoxError,
    },
    #[cfg(feature = "durable")]
    #[error("data file cannot be opened: place={place}")]
    DataFile {
        place: String,
        #[source]
        source: BoxError,
    },
    #[cfg(feature = "durable")]
    #[error("data file could not be rewritten: {reason}")]
    Rewrite { reason: &'static str },
    #[cfg(feature = "durable")]
    #[error("writes are refused until there is space again")]
    Full,
    #[cfg(feature = "durable")]
    #[error("data format is not known: found={found} known={known}")]
    Format { found: u64, known: u64 },
    #[cfg(feature = "durable")]
    #[error("data file lacks a field: field={field}")]
    Field { field: &'static str },
    #[error("not called within a tokio runtime")]
    Runtime(#[source] BoxError),
    #[cfg(feature = "durable")]
    #[error("data file has lost records: found={found} noted={noted}")]
    Lost { found: u64, noted: u64 },
    #[error("stored record is damaged: key={key} revision={revision} reason={reason}")]
    Damaged {
        key: String,
        revision: u64,
        reason: &'static str,
    },
    #[cfg(feature = "durable")]
    #[error("engine stopped after a failed write: {reason}")]
    Stopped { reason: Arc<str> },
    #[cfg(feature = "durable")]
    #[error("reader could not run")]
    Reader(#[source] BoxError),
    #[error("history was compacted faster than it could be read")]
    Outrun,
    #[cfg(feature = "durable")]
    #[error("committer thread could not start")]
    Thread(#[source] BoxError),
    #[error("answer does not fit the request")]
    Answer,
    #[cfg(feature = "durable")]
    #[error("committer ended before it answered")]
    Unanswered,
}

impl Trouble {
    pub(crate) fn damaged(key: &str, revision: Revision, reason: &'static str) -> KvError {
        Trouble::Damaged {
            key: key.to_owned(),
            revision: revision.get(),
            reason,
        }
        .into()
    }
}

impl From<Trouble> for KvError {
    fn from(trouble: Trouble) -> Self {
        KvError::Fault(Box::new(trouble))
    }
}
