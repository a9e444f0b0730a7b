//! What a failed call means: etcd's and the transport's errors to [`KvError`].
//!
//! A code alone says too little (`storage-etcd3/EERR-10`): a range that is compacted, one from the future and an answer
//! that is larger than the client reads all come as `OutOfRange`. Code and message together decide.

use std::error::Error as _;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use apiserver_storage_api::{BoxError, Revision};
use apiserver_storage_kv::KvError;

use crate::transport::NotSent;

// deviates: storage-etcd3/EERR-11: there is no deadline within a list. A call that gets no answer is `KvError::Timeout`
// whatever it is; a caller whose time is over drops it.
// concerns: storage-etcd3/SIZE-04: nothing is limited on this side; lists are asked for in parts of some megabytes, so
// that no answer comes near the limit of a message.
// concerns: storage-etcd3/SIZE-06: a transaction has one operation in each branch.
// concerns: storage-etcd3/ETCD-06: a lease that was revoked too early is replaced; a store that went back is another
// one; watches have connections of their own; the only read in a transaction is of the latest state.
/// What a failed attempt means for the call.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request surely did nothing: try another member.
    NotSent(BoxError),
    /// The answer was lost, or the member cannot give one: a read tries another member, a write may have been applied.
    Lost(BoxError),
    /// This is the answer.
    Answer(KvError),
}

/// What the server or the transport said. Has no values in it.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({code:?})")]
struct Said {
    code: Code,
    message: String,
}

/// A fault of this client or of what it was told.
pub(crate) fn fault(message: impl Into<String>) -> KvError {
    KvError::Fault(message.into().into())
}

pub(crate) fn classify(error: Error) -> Failure {
    match error {
        Error::GRpcStatus(status) => classify_status(&status),
        // Raised while a request is put together; nothing was sent.
        Error::TransportError(error) => Failure::NotSent(error.into()),
        Error::IoError(error) => Failure::Lost(error.into()),
        // The stream of requests of a watch is gone with its connection.
        Error::WatchError(message) => Failure::Lost(message.into()),
        other => Failure::Answer(KvError::Fault(other.into())),
    }
}

pub(crate) fn classify_status(status: &Status) -> Failure {
    let said: BoxError = Box::new(Said {
        code: status.code(),
        message: explain(status),
    });
    let message = status.message();
    let is = |text: &str| message.contains(text);
    match status.code() {
        Code::OutOfRange if is("required revision has been compacted") => {
            Failure::Answer(KvError::Compacted { compacted: None })
        }
        // Where the store is is not in the answer: whoever pinned the revision asks for it.
        Code::OutOfRange if is("required revision is a future revision") => {
            Failure::Answer(KvError::Future { current: Revision::MIN })
        }
        // Whoever sent the value knows its size.
        Code::InvalidArgument if is("request is too large") => Failure::Answer(KvError::TooLarge { size: 0, limit: 0 }),
        Code::ResourceExhausted if is("received message larger than max") || is("send message larger than max") => {
            Failure::Answer(KvError::TooLarge { size: 0, limit: 0 })
        }
        Code::ResourceExhausted if is("database space exceeded") => Failure::Answer(KvError::NoSpace(said)),
        Code::ResourceExhausted if is("too many requests") => Failure::Answer(KvError::TooManyRequests(said)),
        Code::NotFound if is("requested lease not found") => Failure::Answer(KvError::LeaseNotFound),
        // Checked before the request is looked at, because every call here asks for a leader.
        Code::Unavailable if is("etcdserver: no leader") => Failure::NotSent(said),
        Code::Unavailable if is_not_sent(status) => Failure::NotSent(said),
        // The same of a watch: a server on its way down says so of what it will not look at.
        Code::Unavailable if is("refused stream before processing") => Failure::NotSent(said),
        Code::Unknown if is("Service was not ready") => Failure::NotSent(said),
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted => Failure::Lost(said),
        _ => Failure::Answer(KvError::Fault(said)),
    }
}

/// Whether there was no connection to send anything on, or nobody to look at it.
fn is_not_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<NotSent>() || error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The message with its deepest cause, which names what a person can act on ("connection refused").
fn explain(status: &Status) -> String {
    let mut deepest = None;
    let mut cause = status.source();
    while let Some(error) = cause {
        deepest = Some(error.to_string());
        cause = error.source();
    }
    match deepest {
        Some(deepest) if !status.message().contains(&deepest) => format!("{}: {deepest}", status.message()),
        _ => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::Error;
    use tonic::{Code, Status};

    use super::{Failure, classify};

    fn kind(code: Code, message: &str) -> String {
        match classify(Error::GRpcStatus(Status::new(code, message))) {
            Failure::NotSent(_) => "not sent".to_owned(),
            Failure::Lost(_) => "lost".to_owned(),
            Failure::Answer(error) => {
                let text = format!("{error:?}");
                text.split([' ', '(']).next().unwrap_or_default().to_owned()
            }
        }
    }

    // covers: storage-etcd3/EERR-01, storage-etcd3/EERR-02, storage-etcd3/EERR-04, storage-etcd3/EERR-05, storage-etcd3/EERR-06, storage-etcd3/EERR-07, storage-etcd3/EERR-08, storage-etcd3/EERR-09, storage-etcd3/EERR-10, storage-etcd3/RCLI-02, storage-etcd3/RCLI-12
    #[test]
    fn code_and_message_decide_together() {
        for (code, message, want) in [
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                "Compacted",
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                "Future",
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes, the limit is: 4",
                "Fault",
            ),
            (Code::OutOfRange, "etcdserver: too large lease TTL", "Fault"),
            (Code::InvalidArgument, "etcdserver: request is too large", "TooLarge"),
            (Code::InvalidArgument, "etcdserver: key is not provided", "Fault"),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (9 vs. 4)",
                "TooLarge",
            ),
            (
                Code::ResourceExhausted,
                "trying to send message larger than max (9 vs. 4)",
                "TooLarge",
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                "NoSpace",
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                "TooManyRequests",
            ),
            (Code::NotFound, "etcdserver: requested lease not found", "LeaseNotFound"),
            (Code::Unavailable, "etcdserver: no leader", "not sent"),
            (
                Code::Unavailable,
                "h2 protocol error: stream error received: refused stream before processing any application logic",
                "not sent",
            ),
            (Code::Unavailable, "etcdserver: leader changed", "lost"),
            (Code::Unavailable, "etcdserver: request timed out", "lost"),
            (Code::Unavailable, "etcdserver: server stopped", "lost"),
            (Code::Unknown, "Service was not ready: closed", "not sent"),
            (Code::Unknown, "transport error", "lost"),
            (Code::DataLoss, "etcdserver: corrupt cluster", "Fault"),
            (Code::PermissionDenied, "etcdserver: permission denied", "Fault"),
            (Code::Unauthenticated, "etcdserver: invalid auth token", "Fault"),
        ] {
            assert_eq!(kind(code, message), want, "{code:?} {message}");
        }
    }
}
