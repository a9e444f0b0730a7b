//! One conditional write: leases, the call, and what to do when its answer is lost. Also `create`, which is that and
//! little more.

use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;

use apiserver_storage_api::{BoxError, CreateOptions, Encoded, Entry, Key, Result, Revision, StorageError, Ttl};

use crate::convert::{self, Call};
use crate::error::KvError;
use crate::kv::{Expected, Kv, KvPair, KvResult, Lease, WriteOutcome};
use crate::store::Inner;
use crate::trace::Trace;

/// How often a write whose answer was lost is looked at and repeated.
const SETTLE_ROUNDS: u32 = 3;
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// An object on its way into the store.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The canonical stored form.
    pub(crate) plaintext: Bytes,
    /// The entry that will be handed out, at a revision that is not its own yet. Read from the very bytes that are
    /// sent, and before they are: what could not be read back is not written.
    pub(crate) entry: Entry,
}

impl Prepared {
    /// Notes whether the object will live until somebody deletes it: it was asked for, or the state that it replaces
    /// does and nothing was asked for.
    pub(crate) fn living(mut self, ttl: Ttl, replaced: Option<&Entry>) -> Self {
        let lasting = match ttl {
            Ttl::Never => true,
            Ttl::After(ttl) => ttl.is_zero(),
            Ttl::Keep => replaced.is_none_or(Entry::is_lasting),
        };
        if lasting {
            self.entry = self.entry.into_lasting();
        }
        self
    }
}

/// What became of a write.
#[derive(Debug)]
pub(crate) enum Written {
    /// It was applied at this revision.
    At(Revision),
    /// It was refused: this is there instead.
    Refused(Option<KvPair>),
}

impl From<WriteOutcome> for Written {
    fn from(outcome: WriteOutcome) -> Self {
        match outcome {
            WriteOutcome::Applied(revision) => Self::At(revision),
            WriteOutcome::Mismatch { current, .. } => Self::Refused(current),
        }
    }
}

impl<K: Kv> Inner<K> {
    /// Encodes an object and reads the result back, as of `revision` until the real one is known.
    // deviates: storage-api/UPD-34: what cannot be decoded again is refused before the write instead of after it.
    // deviates: storage-api/CREATE-09: a create that cannot be decoded again is refused before the write too.
    pub(crate) fn prepare(&self, key: &Key, full: &str, value: &Encoded, revision: Revision) -> Result<Prepared> {
        let encoded = Entry::encode(&self.info, key.clone(), revision, value, self.config.media_type);
        let (plaintext, entry) = encoded.map_err(|malformed| convert::encode_error(full, malformed))?;
        Ok(Prepared { plaintext, entry })
    }

    pub(crate) async fn create(
        &self,
        key: &Key,
        full: &str,
        value: &Encoded,
        options: CreateOptions,
        trace: &mut Trace<'_>,
    ) -> Result<Entry> {
        if carries_revision(value.json()) {
            return Err(StorageError::ResourceVersionSetOnCreate);
        }
        let ttl = options.ttl.map_or(Ttl::Never, Ttl::After);
        let prepared = self.prepare(key, full, value, self.told.latest())?.living(ttl, None);
        trace.stage_of("encoded", prepared.plaintext.len());
        match self
            .write("create", full, &prepared, Expected::Absent, ttl, trace)
            .await?
        {
            Written::At(revision) => Ok(prepared.entry.into_revision(revision)),
            Written::Refused(_) => Err(StorageError::KeyExists { key: full.to_owned() }),
        }
    }

    /// Transforms a prepared object and stores it on condition.
    pub(crate) async fn write(
        &self,
        operation: &'static str,
        full: &str,
        prepared: &Prepared,
        expected: Expected,
        ttl: Ttl,
        trace: &mut Trace<'_>,
    ) -> Result<Written> {
        let sealed = self.seal(full, prepared.plaintext.clone()).await?;
        trace.stage_of("transformed", sealed.len());
        let mut lease = self.lease(full, prepared, ttl).await?;
        let put = |lease| self.timed(operation, self.kv.put_if(full, sealed.clone(), expected, lease));
        let mut outcome = put(lease).await;
        if let (Err(KvError::LeaseNotFound), Lease::Id(_)) = (&outcome, lease) {
            // The backend shares leases between keys; this one went away in between. A new one does not.
            lease = self.lease(full, prepared, ttl).await?;
            outcome = put(lease).await;
        }
        trace.stage("called");
        match outcome {
            Ok(WriteOutcome::Applied(revision)) => {
                self.told.tell(revision);
                Ok(Written::At(revision))
            }
            Ok(refused) => Ok(refused.into()),
            Err(KvError::OutcomeUnknown(cause)) => {
                // An encrypted value has a random part, so equal bytes are the same write. Plain bytes are told apart
                // by the uid; without one anybody may have written them.
                let own = sealed != prepared.plaintext
                    || prepared
                        .entry
                        .attributes()
                        .is_some_and(|attributes| !attributes.uid.is_empty());
                self.settle_write(full, sealed.clone(), expected, lease, own, cause)
                    .await
            }
            Err(error) => Err(convert::storage_error(error, Call::Key(full))),
        }
    }

    // deviates: storage-api/UPD-28: an update that does not speak of the lifetime leaves it, as the contract says.
    /// The lease for what is known of a lifetime.
    async fn lease(&self, full: &str, prepared: &Prepared, ttl: Ttl) -> Result<Lease> {
        match ttl {
            // Said outright, so that the backend need not look which lease there is to be kept: the state that the write
            // expects has none, and another one refuses it.
            _ if prepared.entry.is_lasting() => Ok(Lease::None),
            Ttl::Never => Ok(Lease::None),
            Ttl::Keep => Ok(Lease::Keep),
            Ttl::After(ttl) => {
                let lease = self.measured(self.kv.lease(whole_seconds(ttl))).await;
                lease
                    .map(Lease::Id)
                    .map_err(|error| convert::storage_error(error, Call::Key(full)))
            }
        }
    }

    /// Finds out what became of a write whose answer was lost.
    ///
    /// Our very bytes, written as the next state after the expected one, and nobody else was told of that write: it was
    /// applied. (Two servers that in this moment turn one plain state into the same plain bytes cannot be told apart; of
    /// encrypted values they can.) Still the expected revision: the same write is sent again, which is safe because a
    /// revision is current only once, so that of the two at most one can be applied. Anything else stays unknown; the
    /// caller's function is not run a second time.
    async fn settle_write(
        &self,
        full: &str,
        sealed: Bytes,
        expected: Expected,
        lease: Lease,
        own: bool,
        cause: BoxError,
    ) -> Result<Written> {
        for round in 0..SETTLE_ROUNDS {
            if round > 0 {
                self.config.clock.sleep(SETTLE_PAUSE).await;
            }
            let Ok((Some(pair), _)) = self.timed("get", self.kv.get(full, None)).await else {
                break;
            };
            if expected == Expected::At(pair.revision) {
                match self
                    .timed("update", self.kv.put_if(full, sealed.clone(), expected, lease))
                    .await
                {
                    Ok(WriteOutcome::Applied(revision)) => {
                        self.told.tell(revision);
                        return Ok(Written::At(revision));
                    }
                    Ok(WriteOutcome::Mismatch { .. }) | Err(KvError::OutcomeUnknown(_)) => continue,
                    Err(_) => break,
                }
            }
            let ours = own && pair.value == sealed && self.follows(full, &pair, expected).await?;
            if ours && self.told.tell(pair.revision) {
                return Ok(Written::At(pair.revision));
            }
            break;
        }
        Err(StorageError::OutcomeUnknown {
            key: full.to_owned(),
            source: cause,
        })
    }

    /// Whether a pair is the state right after the expected one.
    async fn follows(&self, full: &str, pair: &KvPair, expected: Expected) -> Result<bool> {
        let (Expected::At(expected), Some(before)) = (expected, pair.revision.previous()) else {
            return Ok(pair.created == pair.revision);
        };
        match self.timed("get", self.kv.get(full, Some(before))).await {
            Ok((previous, _)) => Ok(previous.is_some_and(|previous| previous.revision == expected)),
            // Without history there is no proof.
            Err(_) => Ok(false),
        }
    }

    /// Deletes a key at a revision.
    pub(crate) async fn remove(&self, full: &str, expected: Revision) -> Result<Written> {
        match self.timed("delete", self.kv.delete_if(full, expected)).await {
            Ok(outcome) => Ok(outcome.into()),
            Err(KvError::OutcomeUnknown(cause)) => self.settle_removal(full, expected, cause).await,
            Err(error) => Err(convert::storage_error(error, Call::Key(full))),
        }
    }

    /// As [`settle_write`](Self::settle_write). A key that is gone proves nothing: somebody else may have deleted it.
    async fn settle_removal(&self, full: &str, expected: Revision, cause: BoxError) -> Result<Written> {
        for round in 0..SETTLE_ROUNDS {
            if round > 0 {
                self.config.clock.sleep(SETTLE_PAUSE).await;
            }
            let read: KvResult<_> = self.timed("get", self.kv.get(full, None)).await;
            match read {
                Ok((Some(pair), _)) if pair.revision == expected => {}
                _ => break,
            }
            match self.timed("delete", self.kv.delete_if(full, expected)).await {
                Ok(WriteOutcome::Applied(revision)) => return Ok(Written::At(revision)),
                Ok(WriteOutcome::Mismatch { .. }) | Err(KvError::OutcomeUnknown(_)) => {}
                Err(_) => break,
            }
        }
        Err(StorageError::OutcomeUnknown {
            key: full.to_owned(),
            source: cause,
        })
    }
}

/// Rounds up: an object lives at least as long as asked for.
fn whole_seconds(ttl: Duration) -> Duration {
    Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0))
}

/// Whether an object carries a resourceVersion other than zero. One that is no number is dropped like any other
/// (`storage-api/CREATE-02`); a document that is no object is the encoder's business.
fn carries_revision(json: &[u8]) -> bool {
    // Looking for the text is much cheaper than reading all of it. Where something is written as an escape, it may be that.
    if memmem::find(json, b"resourceVersion").is_none() && memmem::find(json, b"\\u").is_none() {
        return false;
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Metadata {
        resource_version: Option<String>,
    }
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        metadata: Option<Metadata>,
    }
    let Ok(Head {
        metadata: Some(Metadata {
            resource_version: Some(version),
        }),
    }) = serde_json::from_slice(json)
    else {
        return false;
    };
    matches!(Revision::parse(&version), Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: storage-api/CREATE-02
    #[test]
    fn a_resource_version_is_found_where_there_is_one() {
        for (json, want) in [
            (r#"{"metadata":{"resourceVersion":"7","name":"a"}}"#, true),
            (r#"{"metadata":{"resourceVersion":"0"}}"#, false),
            (r#"{"metadata":{"resourceVersion":""}}"#, false),
            (r#"{"metadata":{"resourceVersion":"abc"}}"#, false),
            (r#"{"metadata":{"resourceVersion":null}}"#, false),
            (r#"{"metadata":null}"#, false),
            (r#"{"resourceVersion":"7"}"#, false),
            (r#"{"metadata":{"\u0072esourceVersion":"7"}}"#, true),
            ("[]", false),
        ] {
            assert_eq!(carries_revision(json.as_bytes()), want, "{json}");
        }
    }

    #[test]
    fn lifetimes_are_rounded_up() {
        for (millis, want) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(
                whole_seconds(Duration::from_millis(millis)),
                Duration::from_secs(want),
                "{millis} ms"
            );
        }
    }
}
