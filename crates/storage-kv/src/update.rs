//! `guaranteed_update`: read, run the caller's function, write on condition, repeat.
//!
//! The first state may be a suggestion (from a cache, or what the caller read before). A suggestion may lead straight
//! to a conditional write, which proves it; everything else that follows from it (an error, "nothing changed") counts
//! only after the current state has confirmed it.

use bytes::Bytes;
use serde::Deserialize;

use apiserver_storage_api::{
    Change, Entry, Key, MediaType, Preconditions, Result, Revision, StorageError, Ttl, Update, UpdateOptions, codec,
    digest,
};

use crate::convert::{self, Call};
use crate::kv::{Expected, Kv, KvPair};
use crate::retry::Attempts;
use crate::store::Inner;
use crate::write::{Prepared, Written};

/// What a write is decided on.
#[derive(Debug)]
pub(crate) struct State {
    /// The object; none when nothing is stored.
    pub(crate) entry: Option<Entry>,
    /// The stored plaintext; known only of what was read and does decrypt.
    plaintext: Option<Bytes>,
    /// Whether the object is to expire; known only of what was read.
    leased: bool,
    /// Read from the backend by this call; otherwise suggested.
    pub(crate) fresh: bool,
}

impl State {
    pub(crate) fn revision(&self) -> Option<Revision> {
        self.entry.as_ref().map(Entry::revision)
    }

    /// A suggestion, if it can be used at all.
    pub(crate) fn suggested(key: &Key, suggestion: Option<&Entry>) -> Option<Self> {
        let entry = suggestion.filter(|entry| entry.key() == key && entry.unreadable_reason().is_none())?;
        Some(Self {
            entry: Some(entry.clone()),
            plaintext: None,
            leased: false,
            fresh: false,
        })
    }
}

/// What the caller's function came to.
enum Decision {
    Keep,
    Remove,
    Write(Prepared, Ttl),
}

impl<K: Kv> Inner<K> {
    /// Reads the current state of a key.
    pub(crate) async fn current(&self, key: &Key, full: &str) -> Result<State> {
        let read = self.timed("get", self.kv.get(full, None)).await;
        let (pair, _) = read.map_err(|error| convert::storage_error(error, Call::Key(full)))?;
        self.state(key, pair).await
    }

    /// The state that a pair is, where there is one.
    pub(crate) async fn state(&self, key: &Key, pair: Option<KvPair>) -> Result<State> {
        let Some(pair) = pair else {
            return Ok(State {
                entry: None,
                plaintext: None,
                leased: false,
                fresh: true,
            });
        };
        let stored = self.read(key.clone(), &pair, pair.revision).await?;
        Ok(State {
            entry: Some(stored.entry),
            plaintext: stored.plaintext,
            leased: pair.lease.is_some(),
            fresh: true,
        })
    }

    pub(crate) async fn guaranteed_update(
        &self,
        key: &Key,
        options: UpdateOptions,
        update: &mut dyn Update,
    ) -> Result<Entry> {
        let full = self.own_key(key.as_str())?;
        let mut attempts = Attempts::new(&self.config, options.deadline);
        let mut state = match State::suggested(key, options.suggestion.as_ref()) {
            Some(state) => state,
            None => self.current(key, &full).await?,
        };
        loop {
            let decision = self.decide(key, &full, &options, &state, update).await;
            if !state.fresh && needs_proof(&decision, &state) {
                let current = self.current(key, &full).await?;
                if let Some(entry) = &current.entry {
                    self.readable(entry)?;
                }
                // Compare revisions, not content: what came back to the suggested content in a later revision may fail
                // preconditions and the caller's function, which look at the revision.
                let confirmed = current.revision() == state.revision();
                state = current;
                if !confirmed {
                    continue;
                }
            }
            let written = match decision? {
                Decision::Keep => return state.entry.ok_or(StorageError::KeyNotFound { key: full }),
                Decision::Remove => {
                    let Some(entry) = &state.entry else {
                        return Err(StorageError::KeyNotFound { key: full });
                    };
                    match self.remove(&full, entry.revision()).await? {
                        Written::At(revision) => return Ok(entry.at_revision(revision)),
                        refused => refused,
                    }
                }
                Decision::Write(prepared, ttl) => {
                    if let Some(entry) = state
                        .entry
                        .as_ref()
                        .filter(|_| nothing_to_write(&prepared, ttl, &state))
                    {
                        return Ok(entry.clone());
                    }
                    let expected = state.revision().map_or(Expected::Absent, Expected::At);
                    match self.write("update", &full, &prepared, expected, ttl).await? {
                        Written::At(revision) => return Ok(prepared.entry.at_revision(revision)),
                        refused => refused,
                    }
                }
            };
            let expected = state.revision();
            if let Written::Refused(pair) = written {
                state = self.state(key, pair).await?;
            }
            attempts.lost(&full, expected, state.revision()).await?;
        }
    }

    /// Preconditions, then the caller's function, then the encoder.
    async fn decide(
        &self,
        key: &Key,
        full: &str,
        options: &UpdateOptions,
        state: &State,
        update: &mut dyn Update,
    ) -> Result<Decision> {
        match &state.entry {
            Some(entry) => {
                self.readable(entry)?;
                self.check_preconditions(full, &options.preconditions, entry)?;
            }
            None if !options.create_if_missing => return Err(StorageError::KeyNotFound { key: full.to_owned() }),
            None => check_nothing(full, &options.preconditions)?,
        }
        match update.update(state.entry.as_ref()).await? {
            Change::NoChange => Ok(Decision::Keep),
            Change::Delete => Ok(Decision::Remove),
            Change::Put { value, ttl } => {
                let revision = state.revision().unwrap_or(Revision::MIN);
                Ok(Decision::Write(self.prepare(key, full, &value, revision)?, ttl))
            }
            other => Err(StorageError::NotSupported {
                what: format!("change {other:?}: key={full}"),
            }),
        }
    }

    /// Checks preconditions, naming the full key.
    pub(crate) fn check_preconditions(&self, full: &str, asked: &Preconditions, entry: &Entry) -> Result<()> {
        asked.check(entry).map_err(|error| match error {
            StorageError::InvalidObject { message, .. } => StorageError::InvalidObject {
                key: full.to_owned(),
                message,
            },
            other => other,
        })
    }
}

/// Preconditions on an object that is not there: its uid and resourceVersion are empty (`storage-api/UPD-03`).
fn check_nothing(full: &str, asked: &Preconditions) -> Result<()> {
    let (what, asked) = match (&asked.uid, &asked.resource_version) {
        (Some(uid), _) if !uid.is_empty() => ("UID", uid),
        (_, Some(version)) if !version.is_empty() => ("ResourceVersion", version),
        _ => return Ok(()),
    };
    Err(StorageError::InvalidObject {
        key: full.to_owned(),
        message: format!("Precondition failed: {what} in precondition: {asked}, {what} in object meta: "),
    })
}

/// Whether a decision on a suggested state must be confirmed: all but those that lead to a conditional write.
fn needs_proof(decision: &Result<Decision>, suggested: &State) -> bool {
    match decision {
        Err(_) | Ok(Decision::Keep) => true,
        Ok(Decision::Remove) => false,
        Ok(Decision::Write(prepared, _)) => same_content(prepared, suggested),
    }
}

/// Whether a write would change nothing. A lifetime that begins or ends is a change; a new lifetime of an object that
/// has one is not, as upstream has it (`storage-api/UPD-29`).
fn nothing_to_write(prepared: &Prepared, ttl: Ttl, state: &State) -> bool {
    let stale = state
        .entry
        .as_ref()
        .and_then(|entry| entry.record().ok())
        .is_none_or(|record| record.origin().stale);
    let lifetime = match ttl {
        Ttl::Keep => state.leased,
        Ttl::Never => false,
        Ttl::After(ttl) => !ttl.is_zero(),
    };
    !stale && lifetime == state.leased && same_content(prepared, state)
}

/// Whether a write would store what is stored already.
///
/// Equal stored bytes are; so are bytes that are served alike, in the same version of the kind.
// deviates: storage-api/UPD-15: other white space or order of fields alone is no reason to write, so that servers with
// different encoders on one backend do not rewrite each other's objects. A change of the stored version is one.
fn same_content(prepared: &Prepared, state: &State) -> bool {
    let Some(record) = state.entry.as_ref().and_then(|entry| entry.record().ok()) else {
        return false;
    };
    match &state.plaintext {
        Some(plaintext) if *plaintext == prepared.plaintext => return true,
        // A suggestion has no bytes; the same digest is worth a look at the current state.
        None if record.origin().digest == digest(&prepared.plaintext) => return true,
        _ => {}
    }
    let served_alike = match state.revision() {
        Some(revision) if revision == prepared.entry.revision() => {
            prepared.entry.json().is_ok_and(|j| j == record.json())
        }
        Some(revision) => prepared
            .entry
            .at_revision(revision)
            .json()
            .is_ok_and(|j| j == record.json()),
        None => false,
    };
    let same_version = || match &state.plaintext {
        Some(plaintext) => api_version(plaintext).is_none_or(|stored| Some(stored) == api_version(&prepared.plaintext)),
        None => true,
    };
    served_alike && same_version()
}

/// The `apiVersion` of a stored value, where it can be seen without a schema.
fn api_version(plaintext: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        api_version: String,
    }
    match MediaType::detect(plaintext) {
        MediaType::Json => serde_json::from_slice::<Head>(plaintext)
            .ok()
            .map(|head| head.api_version),
        other => {
            let value = codec::decode_value(plaintext, other).ok()?;
            value.get("apiVersion")?.as_str().map(str::to_owned)
        }
    }
}
