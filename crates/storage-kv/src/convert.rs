//! Between the two contracts: backend errors to storage errors, stored pairs to entries, objects to stored values.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use apiserver_storage_api::time::random_below;
use apiserver_storage_api::{
    BoxError, ContinueToken, Entry, Key, KeyText, Malformed, Result, Revision, Room, StorageError, UnreadableReason,
};
use apiserver_storage_transform::{DataContext, Decrypted, Outcome, TransformError};

use crate::error::KvError;
use crate::kv::{Kv, KvPair};
use crate::latency::RequestLatency;
use crate::store::Inner;

/// The hint for what is expected to pass quickly.
pub(crate) const RETRY_SOON: Duration = Duration::from_secs(1);

/// Which call failed: decides the text of "history is gone" and the key that is named.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    /// A call about one key.
    Key(&'a str),
    /// A list below a prefix, with the token it came with.
    List {
        prefix: &'a str,
        asked: Option<Revision>,
        token: Option<&'a ContinueToken>,
    },
    /// A watch of a key or prefix.
    Watch(&'a str),
}

/// The one place where a backend's error becomes a storage error.
pub(crate) fn storage_error(error: KvError, call: Call<'_>) -> StorageError {
    let key = match call {
        Call::Key(key) | Call::Watch(key) | Call::List { prefix: key, .. } => key.to_owned(),
    };
    match error {
        KvError::Compacted { .. } => match call {
            Call::Watch(_) => StorageError::expired_watch(),
            // The token goes on where this request began, never where an inner page broke off: what was found before
            // that is thrown away with the error.
            Call::List { token: Some(token), .. } => StorageError::expired_continue(Some(token.at_latest())),
            Call::List { .. } | Call::Key(_) => StorageError::expired_list(),
        },
        KvError::Future { current } => {
            let asked = match call {
                Call::List { asked, .. } => asked,
                Call::Key(_) | Call::Watch(_) => None,
            };
            too_large(asked.unwrap_or(Revision::MAX), current)
        }
        KvError::Reset => match call {
            Call::Watch(_) => StorageError::expired_watch(),
            Call::Key(_) | Call::List { .. } => StorageError::NotReady {
                cause: format!("the backend is another store, or went back: key={key}"),
                retry_after: RETRY_SOON,
            },
        },
        KvError::Unreachable(source) => StorageError::Unreachable {
            source: AtKey::of(key, source),
        },
        KvError::Timeout(_) => StorageError::Timeout { key },
        KvError::OutcomeUnknown(source) => StorageError::OutcomeUnknown { key, source },
        KvError::TooLarge { size, limit } => StorageError::TooLargeObject { key, size, limit },
        KvError::NoSpace(source) => StorageError::NoSpace {
            source: AtKey::of(key, source),
        },
        KvError::TooManyRequests(source) => StorageError::TooManyRequests {
            cause: format!("{source}: key={key}"),
            retry_after: RETRY_SOON,
        },
        KvError::NotSupported(what) => StorageError::NotSupported {
            what: format!("{what}: key={key}"),
        },
        // That is no matter of the key.
        KvError::Closed => StorageError::Closed,
        KvError::LeaseNotFound => StorageError::internal(format!("lease not found: key={key}")),
        KvError::Fault(source) => StorageError::Internal {
            message: format!("backend fault: key={key}"),
            source: Some(source),
        },
    }
}

/// A cause, with the key that was asked for when it was met.
#[derive(Debug)]
struct AtKey {
    key: String,
    cause: BoxError,
}

impl AtKey {
    fn of(key: String, cause: BoxError) -> BoxError {
        Box::new(Self { key, cause })
    }
}

impl fmt::Display for AtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: key={}", self.cause, self.key)
    }
}

impl Error for AtKey {
    /// What is behind the cause; the cause itself is in the text.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

/// A read of a revision that is not there yet; retrying at once is fine (`storage-api/GET-04`).
pub(crate) fn too_large(asked: Revision, current: Revision) -> StorageError {
    StorageError::TooLargeResourceVersion {
        asked,
        current,
        retry_after: Duration::ZERO,
    }
}

/// A stored value as it was read.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) entry: Entry,
    /// The decrypted value; none when it does not decrypt. May share memory with the backend's answer.
    pub(crate) plaintext: Option<Bytes>,
}

impl<K: Kv> Inner<K> {
    /// The key as the backend has it.
    pub(crate) fn full_key(&self, key: &str) -> String {
        let prefix = &self.config.cluster_prefix;
        let mut full = String::with_capacity(prefix.len() + key.len());
        full.push_str(prefix);
        full.push_str(key);
        full
    }

    /// The full key of a key or scope of this resource; those of another are refused (`storage-api/KEY-09`).
    pub(crate) fn own_key(&self, key: &str) -> Result<String> {
        let prefix = self.info.prefix().as_str();
        if key.starts_with(prefix) {
            return Ok(self.full_key(key));
        }
        let message = format!("invalid key: {key:?} lacks resource prefix: {prefix:?}");
        Err(StorageError::InvalidKey { message })
    }

    /// The part of a backend key below the cluster prefix.
    pub(crate) fn relative<'k>(&self, full: &'k str) -> Option<&'k str> {
        full.strip_prefix(self.config.cluster_prefix.as_str())
    }

    /// The key of a backend key. What somebody else put there under a text that is no key of this kind (`/pods/../x`)
    /// can be neither asked for nor named by any request; it is left out, and said so.
    pub(crate) fn object_key(&self, full: &KeyText) -> Option<Key> {
        let key = self.relative(full).and_then(|key| {
            let start = full.len() - key.len();
            Key::within(self.info.prefix(), full, start).ok()
        });
        if key.is_none() {
            tracing::warn!(
                key = &**full,
                resource = self.info.resource(),
                "stored key is no key of this resource"
            );
        }
        key
    }

    /// Reads a stored pair as an object of `revision`: its own, or that of its deletion. What cannot be read for good
    /// becomes an unreadable entry.
    ///
    /// Fails only when the transformer cannot answer at the moment: that says nothing about the value.
    pub(crate) async fn read(&self, key: Key, pair: &KvPair, revision: Revision) -> Result<Stored> {
        let opened = self.unseal(&pair.key, pair.value.clone()).await;
        self.unsealed(key, pair, revision, opened, &mut Room::apart())
    }

    /// The first half of [`read`](Self::read): to plaintext. Answers at once when no key service has to be asked.
    pub(crate) fn unseal<'a>(&'a self, full: &'a str, value: Bytes) -> Outcome<'a, Result<Decrypted, TransformError>> {
        let context = DataContext::new(full);
        self.config.transformer.transform_from_storage(value, &context)
    }

    /// The second half of [`read`](Self::read): to an entry.
    // deviates: storage-etcd3/CORR-02: an unreadable value says in our words which step failed and why; its key and
    // revision are fields of the error.
    pub(crate) fn unsealed(
        &self,
        key: Key,
        pair: &KvPair,
        revision: Revision,
        opened: Result<Decrypted, TransformError>,
        room: &mut Room,
    ) -> Result<Stored> {
        let stored = match opened {
            Ok(opened) => Stored {
                entry: RequestLatency::decoding(
                    || self.meter.now(),
                    || {
                        let (stale, lasting) = (opened.stale, pair.lease.is_none());
                        Entry::read_into(&self.info, key, revision, &opened.bytes, stale, lasting, room)
                    },
                ),
                plaintext: Some(opened.bytes),
            },
            Err(error) if error.is_transient() => return Err(not_now(&pair.key, &error)),
            Err(error) => {
                let reason = UnreadableReason::Transform(error.to_string());
                Stored {
                    entry: Entry::unreadable(key, revision, reason),
                    plaintext: None,
                }
            }
        };
        if stored.entry.unreadable_reason().is_none() {
            return Ok(stored);
        }
        self.meter.count("apiserver_storage_decode_errors_total", 1);
        Ok(Stored {
            // Whoever reports it later, a cache perhaps, does not know the cluster prefix.
            entry: stored.entry.with_full_key(&pair.key),
            ..stored
        })
    }

    /// Refuses an unreadable entry, naming the full key.
    pub(crate) fn readable(&self, entry: &Entry) -> Result<()> {
        match entry.unreadable_reason() {
            None => Ok(()),
            Some(reason) => Err(StorageError::Unreadable {
                key: self.full_key(entry.key().as_str()),
                revision: Some(entry.revision()),
                reason: reason.clone(),
            }),
        }
    }

    /// Plaintext to stored bytes, within the size that the backend takes.
    pub(crate) async fn seal(&self, full: &str, plaintext: Bytes) -> Result<Bytes> {
        // Checked on both sides: before, so that no key service is asked in vain; after, because encryption adds.
        self.check_size(full, plaintext.len())?;
        let sealed = self
            .config
            .transformer
            .transform_to_storage(plaintext, &DataContext::new(full))
            .await;
        let sealed = sealed.map_err(|error| match error.is_transient() {
            true => not_now(full, &error),
            false => StorageError::Internal {
                message: format!("unable to transform to storage: key={full}"),
                source: Some(error.into()),
            },
        })?;
        self.check_size(full, sealed.len())?;
        Ok(sealed)
    }

    fn check_size(&self, full: &str, size: usize) -> Result<()> {
        let limit = self.kv.capabilities().max_value_bytes;
        if size <= limit {
            return Ok(());
        }
        Err(StorageError::TooLargeObject {
            key: full.to_owned(),
            size,
            limit,
        })
    }

    /// Between one and three seconds: what a watcher that came too early is told to wait.
    pub(crate) fn retry_hint(&self) -> Duration {
        Duration::from_secs(1 + random_below(&*self.config.rng, 3))
    }
}

pub(crate) fn encode_error(full: &str, malformed: Malformed) -> StorageError {
    StorageError::Codec {
        key: full.to_owned(),
        action: "encode",
        source: malformed.into(),
    }
}

fn not_now(full: &str, error: &TransformError) -> StorageError {
    StorageError::NotReady {
        cause: format!("unable to transform now: {error}: key={full}"),
        retry_after: RETRY_SOON,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: storage-api/ERR-16, storage-api/GAP-01, storage-etcd3/EERR-01, storage-etcd3/EERR-02, storage-etcd3/PAGE-14, storage-etcd3/PAGE-15, storage-etcd3/PAGE-16
    #[test]
    fn backend_errors_name_the_key_and_say_what_to_do() {
        let cause = || "cause".into();
        let compacted = || KvError::Compacted { compacted: None };
        let current = Revision::MIN;
        let key = Call::Key("/registry/pods/ns/a");
        let list = Call::List {
            prefix: "/pods/",
            asked: Some(Revision::MAX),
            token: None,
        };
        let watch = Call::Watch("/registry/pods/");
        for (error, call, want) in [
            (
                compacted(),
                list,
                "The resourceVersion for the provided list is too old.",
            ),
            (
                compacted(),
                watch,
                "The resourceVersion for the provided watch is too old.",
            ),
            (
                KvError::Future { current },
                list,
                "too large resource version: asked=9223372036854775807 current=1",
            ),
            (
                KvError::Reset,
                watch,
                "The resourceVersion for the provided watch is too old.",
            ),
            (
                KvError::Reset,
                key,
                "storage not ready: the backend is another store, or went back: key=/registry/pods/ns/a",
            ),
            (KvError::Unreachable(cause()), key, "storage unreachable"),
            (
                KvError::Timeout(cause()),
                key,
                "request did not complete within requested timeout: key=/registry/pods/ns/a",
            ),
            (
                KvError::OutcomeUnknown(cause()),
                key,
                "outcome unknown: key=/registry/pods/ns/a",
            ),
            (
                KvError::TooLarge { size: 2, limit: 1 },
                key,
                "object too large: key=/registry/pods/ns/a size=2 limit=1",
            ),
            (KvError::NoSpace(cause()), key, "storage space exceeded"),
            (
                KvError::TooManyRequests(cause()),
                key,
                "too many requests: cause: key=/registry/pods/ns/a",
            ),
            (
                KvError::NotSupported("that"),
                key,
                "not supported: that: key=/registry/pods/ns/a",
            ),
            (KvError::Closed, key, "storage closed"),
            (
                KvError::LeaseNotFound,
                key,
                "internal error: lease not found: key=/registry/pods/ns/a",
            ),
            (
                KvError::Fault(cause()),
                key,
                "internal error: backend fault: key=/registry/pods/ns/a",
            ),
        ] {
            let text = format!("{error:?}");
            assert_eq!(storage_error(error, call).to_string(), want, "{text}");
        }
    }

    // covers: storage-api/GAP-01
    #[test]
    fn the_cause_of_an_error_names_the_key_and_what_is_behind_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("handshake failed")]
        struct Handshake(#[source] std::io::Error);

        let cause = || Handshake(std::io::ErrorKind::ConnectionRefused.into()).into();
        for error in [KvError::Unreachable(cause()), KvError::NoSpace(cause())] {
            let error = storage_error(error, Call::Key("/registry/pods/ns/a"));
            let first = error.source().expect("a cause");
            assert_eq!(first.to_string(), "handshake failed: key=/registry/pods/ns/a");
            let second = first.source().map(ToString::to_string);
            assert_eq!(second.as_deref(), Some("connection refused"));
        }
    }
}
