//! `guaranteed_update`: read, run the caller's function, write on condition, repeat.
//!
//! The first state may be a suggestion (from a cache, or what the caller read before). A suggestion may lead straight
//! to a conditional write, which proves it; everything else that follows from it (an error, "nothing changed") counts
//! only after the current state has confirmed it.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use apiserver_storage_api::{
    Change, Entry, Key, MediaType, Preconditions, Result, Revision, StorageError, Ttl, Update, UpdateOptions, codec,
};

use crate::convert::{self, Call};
use crate::kv::{Expected, Kv, KvPair, LeaseId};
use crate::retry::Attempts;
use crate::store::Inner;
use crate::trace::Trace;
use crate::write::{Prepared, Written};

/// Lifetimes that end within so long of each other are taken for the same, as backends do that let keys share a lease;
/// of shorter ones a twentieth.
const SHARED_WITHIN: Duration = Duration::from_secs(60);

/// What a write is decided on.
#[derive(Debug)]
pub(crate) struct State {
    /// The object; none when nothing is stored.
    pub(crate) entry: Option<Entry>,
    /// The stored plaintext; known only of what was read and does decrypt.
    plaintext: Option<Bytes>,
    /// What makes the object expire; known only of what was read.
    lease: Option<LeaseId>,
    /// Read from the backend by this call; otherwise suggested.
    pub(crate) fresh: bool,
}

impl State {
    pub(crate) fn revision(&self) -> Option<Revision> {
        self.entry.as_ref().map(Entry::revision)
    }

    // deviates: storage-api/UPD-23: a suggestion is an entry, whose revision is a number above zero; there is none that
    // cannot be parsed.
    /// A suggestion, if it can be used at all.
    pub(crate) fn suggested(key: &Key, suggestion: Option<&Entry>) -> Option<Self> {
        let entry = suggestion.filter(|entry| entry.key() == key && entry.unreadable_reason().is_none())?;
        Some(Self {
            entry: Some(entry.clone()),
            plaintext: None,
            lease: None,
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
    pub(crate) async fn current(&self, key: &Key, full: &str, trace: &mut Trace<'_>) -> Result<State> {
        let read = self.timed("get", self.kv.get(full, None)).await;
        let (pair, _) = read.map_err(|error| convert::storage_error(error, Call::Key(full)))?;
        trace.stage_of("read", pair.as_ref().map_or(0, |pair| pair.value.len()));
        self.state(key, pair).await
    }

    /// The state that a pair is, where there is one.
    pub(crate) async fn state(&self, key: &Key, pair: Option<KvPair>) -> Result<State> {
        let Some(pair) = pair else {
            return Ok(State {
                entry: None,
                plaintext: None,
                lease: None,
                fresh: true,
            });
        };
        let stored = self.read(key.clone(), &pair, pair.revision).await?;
        Ok(State {
            entry: Some(stored.entry),
            plaintext: stored.plaintext,
            lease: pair.lease,
            fresh: true,
        })
    }

    pub(crate) async fn guaranteed_update(
        &self,
        key: &Key,
        full: &str,
        options: UpdateOptions,
        update: &mut dyn Update,
        trace: &mut Trace<'_>,
    ) -> Result<Entry> {
        let (mut attempts, written) = Attempts::begin(self, full, options.deadline).await;
        let mut state = match State::suggested(key, newest(options.suggestion.as_ref(), written.as_ref())) {
            Some(state) => state,
            None => self.current(key, full, trace).await?,
        };
        loop {
            let decision = self.decide(key, full, &options, &state, update, trace).await;
            if !state.fresh && needs_proof(&decision, &state) {
                let current = self.current(key, full, trace).await?;
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
                Decision::Keep => return state.entry.ok_or_else(|| not_found(full)),
                Decision::Remove => {
                    let entry = state.entry.as_ref().ok_or_else(|| not_found(full))?;
                    match self.remove(full, entry.revision()).await? {
                        Written::At(revision) => {
                            attempts.won(None);
                            return Ok(entry.at_revision(revision));
                        }
                        refused => refused,
                    }
                }
                Decision::Write(prepared, ttl) => {
                    if let Some(entry) = self.nothing_to_write(full, &prepared, ttl, &state).await? {
                        return Ok(entry);
                    }
                    let expected = state.revision().map_or(Expected::Absent, Expected::At);
                    match self.write("update", full, &prepared, expected, ttl, trace).await? {
                        Written::At(revision) => {
                            let entry = prepared.entry.into_revision(revision);
                            attempts.won(Some(&entry));
                            return Ok(entry);
                        }
                        refused => refused,
                    }
                }
            };
            let expected = state.revision();
            if let Written::Refused(pair) = written {
                state = self.state(key, pair).await?;
            }
            trace.stage("lost a race");
            let written = attempts.lost(expected, state.revision()).await?;
            if let Some(newer) = State::suggested(key, written.as_ref()) {
                state = newer;
            }
        }
    }

    // deviates: storage-api/UPD-07: the caller's function is not told a lifetime; to keep the one that the object has, it
    // names none.
    /// Preconditions, then the caller's function, then the encoder.
    async fn decide(
        &self,
        key: &Key,
        full: &str,
        options: &UpdateOptions,
        state: &State,
        update: &mut dyn Update,
        trace: &mut Trace<'_>,
    ) -> Result<Decision> {
        match &state.entry {
            Some(entry) => {
                self.readable(entry)?;
                self.check_preconditions(full, &options.preconditions, entry)?;
            }
            None if !options.create_if_missing => return Err(not_found(full)),
            None => check_nothing(full, &options.preconditions)?,
        }
        let change = update.update(state.entry.as_ref()).await?;
        trace.stage("decided");
        match change {
            Change::NoChange => Ok(Decision::Keep),
            Change::Delete => Ok(Decision::Remove),
            Change::Put { value, ttl } => {
                let revision = state.revision().unwrap_or_else(|| self.told.latest());
                let prepared = self.prepare(key, full, &value, revision)?;
                let prepared = prepared.living(ttl, state.entry.as_ref());
                trace.stage_of("encoded", prepared.plaintext.len());
                Ok(Decision::Write(prepared, ttl))
            }
            other => Err(StorageError::NotSupported {
                what: format!("change {other:?}: key={full}"),
            }),
        }
    }

    // deviates: storage-api/UPD-29: an update that says how long an object lives from now on is a write, unless the
    // object lives about as long anyway.
    /// The current object, where a write would change nothing: neither content nor lifetime.
    async fn nothing_to_write(
        &self,
        full: &str,
        prepared: &Prepared,
        ttl: Ttl,
        state: &State,
    ) -> Result<Option<Entry>> {
        let Some(entry) = state.entry.as_ref().filter(|_| same_content(prepared, state)) else {
            return Ok(None);
        };
        if entry.record().is_ok_and(|record| record.origin().stale) {
            return Ok(None);
        }
        let same_lifetime = match (ttl, state.lease) {
            (Ttl::Keep, _) => true,
            (Ttl::Never | Ttl::After(Duration::ZERO), lease) => lease.is_none(),
            (Ttl::After(_), None) => false,
            (Ttl::After(ttl), Some(lease)) => self.lasts(full, lease, ttl).await?,
        };
        Ok(same_lifetime.then(|| entry.clone()))
    }

    /// Whether a lease ends about when one would that was granted now.
    async fn lasts(&self, full: &str, lease: LeaseId, ttl: Duration) -> Result<bool> {
        let left = self.measured(self.kv.time_left(lease)).await;
        let left = left.map_err(|error| convert::storage_error(error, Call::Key(full)))?;
        Ok(left.is_some_and(|left| left.abs_diff(ttl) <= (ttl / 20).min(SHARED_WITHIN)))
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

/// The newer one of two states that were heard of.
pub(crate) fn newest<'a>(one: Option<&'a Entry>, other: Option<&'a Entry>) -> Option<&'a Entry> {
    [one, other].into_iter().flatten().max_by_key(|entry| entry.revision())
}

pub(crate) fn not_found(full: &str) -> StorageError {
    StorageError::KeyNotFound { key: full.to_owned() }
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
        // A suggestion has no bytes; one that was made under another schema is worth a look at the current state.
        None if prepared
            .entry
            .record()
            .is_ok_and(|new| new.origin().generation != record.origin().generation) =>
        {
            return true;
        }
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
