//! The currency of the house: one stored object, immutable and shared, bytes first.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::attributes::Attributes;
use crate::codec::MediaType;
use crate::error::{BoxError, Result, StorageError};
use crate::forms::Slots;
use crate::key::Key;
use crate::meta::Meta;
use crate::normalizer::{Malformed, Normalized};
use crate::object::{Encoded, Object};
use crate::resource::ResourceInfo;
use crate::revision::Revision;
use crate::room::Room;

/// One object as stored at one revision: readable, or named as unreadable. Cloning shares it.
///
/// Made once, where a value enters; lists, events, the cache and every reader share the same record. A typed value is
/// a view that someone at the edge asks for ([`decode`](Entry::decode)).
#[derive(Clone)]
pub struct Entry(Arc<Inner>);

struct Inner {
    key: Key,
    revision: Revision,
    state: State,
    forms: Slots,
}

enum State {
    Readable(Record),
    Unreadable {
        reason: UnreadableReason,
        /// The key as the backend has it, where that is known: an operator finds the value by no other name.
        full_key: Option<Box<str>>,
    },
}

/// The readable part of an entry.
#[derive(Debug, Clone)]
pub struct Record {
    json: Bytes,
    resource_version: Range<usize>,
    attributes: Attributes,
    origin: Origin,
}

/// Where a record came from: what the store needs to decide about a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// How the value was stored.
    pub media_type: MediaType,
    /// Written with an old key or provider: rewrite at the next chance. Known only to who read it from the backend.
    pub stale: bool,
    /// The schema generation that the served form was made under.
    pub generation: u64,
    /// Bytes of the stored plaintext.
    pub size: usize,
    /// Known to live until somebody deletes it: no lease ends this state. False where that is not known.
    pub lasting: bool,
}

/// Which step could not read a stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnreadableReason {
    /// Decryption failed. The text is the transformer's.
    Transform(String),
    /// The plaintext is not an object of the kind. The text names fields, never content.
    Decode(String),
}

impl fmt::Display for UnreadableReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transform(text) => write!(f, "unable to transform: {text}"),
            Self::Decode(text) => write!(f, "unable to decode: {text}"),
        }
    }
}

impl Entry {
    /// Reads a decrypted stored value through the kind's normalizer. A value that cannot be read becomes an
    /// unreadable entry, never an error: one bad object must not take its kind down.
    pub fn read(info: &ResourceInfo, key: Key, revision: Revision, stored: &[u8], stale: bool) -> Self {
        Self::read_into(info, key, revision, stored, stale, false, &mut Room::apart())
    }

    /// As [`read`](Self::read), of one of several values that are read together, and of one of which it may be known that
    /// no lease ends it ([`Origin::lasting`]).
    pub fn read_into(
        info: &ResourceInfo,
        key: Key,
        revision: Revision,
        stored: &[u8],
        stale: bool,
        lasting: bool,
        room: &mut Room,
    ) -> Self {
        let fields = info.selectable_fields();
        match info.normalizer().normalize_into(stored, revision, fields, room) {
            Ok(normalized) => Self::of_stored(info, key, revision, normalized, stored, stale, lasting),
            Err(Malformed(reason)) => Self::unreadable(key, revision, UnreadableReason::Decode(reason)),
        }
    }

    /// Makes the stored form of an object through the kind's normalizer, and the entry that it reads back as.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it cannot be stored, or could not be read back.
    pub fn encode(
        info: &ResourceInfo,
        key: Key,
        revision: Revision,
        object: &Encoded,
        media_type: MediaType,
    ) -> std::result::Result<(Bytes, Self), Malformed> {
        let fields = info.selectable_fields();
        let both = info
            .normalizer()
            .encode_and_normalize(object, media_type, revision, fields);
        let (stored, normalized) = both?;
        let entry = Self::of_stored(info, key, revision, normalized, &stored, false, false);
        Ok((stored, entry))
    }

    #[inline]
    fn of_stored(
        info: &ResourceInfo,
        key: Key,
        revision: Revision,
        normalized: Normalized,
        stored: &[u8],
        stale: bool,
        lasting: bool,
    ) -> Self {
        let origin = Origin {
            media_type: normalized.media_type,
            stale,
            generation: info.normalizer().generation(),
            size: stored.len(),
            lasting,
        };
        Self::from_normalized(key, revision, normalized, origin)
    }

    /// An entry from parts that were read already.
    #[inline]
    pub fn from_normalized(key: Key, revision: Revision, normalized: Normalized, origin: Origin) -> Self {
        let record = Record {
            json: normalized.json,
            resource_version: normalized.resource_version,
            attributes: normalized.attributes,
            origin,
        };
        Self(Arc::new(Inner {
            key,
            revision,
            state: State::Readable(record),
            forms: Slots::default(),
        }))
    }

    /// Notes that no lease ends this state ([`Origin::lasting`]). One that somebody else holds already stays as it is.
    #[must_use]
    pub fn into_lasting(mut self) -> Self {
        if let Some(Inner {
            state: State::Readable(record),
            ..
        }) = Arc::get_mut(&mut self.0)
        {
            record.origin.lasting = true;
        }
        self
    }

    /// Whether it is known that no lease ends this state.
    pub fn is_lasting(&self) -> bool {
        self.record().is_ok_and(|record| record.origin.lasting)
    }

    /// An entry that names a value nobody can read.
    pub fn unreadable(key: Key, revision: Revision, reason: UnreadableReason) -> Self {
        let state = State::Unreadable { reason, full_key: None };
        Self(Arc::new(Inner {
            key,
            revision,
            state,
            forms: Slots::default(),
        }))
    }

    /// Names an unreadable value by its key in the backend, wherever the entry travels. A readable one stays as it is.
    #[must_use]
    pub fn with_full_key(self, full: &str) -> Self {
        match &self.0.state {
            State::Readable(_) => self,
            State::Unreadable { reason, .. } => Self(Arc::new(Inner {
                key: self.0.key.clone(),
                revision: self.0.revision,
                state: State::Unreadable {
                    reason: reason.clone(),
                    full_key: Some(full.into()),
                },
                forms: Slots::default(),
            })),
        }
    }

    /// The key by which errors name this entry: that of the backend where it is known, else the one below the cluster
    /// prefix.
    pub fn named_key(&self) -> &str {
        match &self.0.state {
            State::Unreadable {
                full_key: Some(full), ..
            } => full,
            _ => self.0.key.as_str(),
        }
    }

    /// The key, without the cluster prefix.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// The revision of the write that made this state.
    pub fn revision(&self) -> Revision {
        self.0.revision
    }

    /// The record, or why there is none.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unreadable`].
    pub fn record(&self) -> Result<&Record> {
        match &self.0.state {
            State::Readable(record) => Ok(record),
            State::Unreadable { reason, .. } => Err(StorageError::Unreadable {
                key: self.named_key().to_owned(),
                revision: Some(self.0.revision),
                reason: reason.clone(),
            }),
        }
    }

    /// Why the value cannot be read; `None` when it can.
    pub fn unreadable_reason(&self) -> Option<&UnreadableReason> {
        match &self.0.state {
            State::Readable(_) => None,
            State::Unreadable { reason, .. } => Some(reason),
        }
    }

    /// The canonical served JSON, shared.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unreadable`].
    pub fn json(&self) -> Result<&Bytes> {
        self.record().map(|record| &record.json)
    }

    /// What selectors and indexes use; `None` for an unreadable entry.
    pub fn attributes(&self) -> Option<&Attributes> {
        match &self.0.state {
            State::Readable(record) => Some(&record.attributes),
            State::Unreadable { .. } => None,
        }
    }

    /// Decodes the object. Costs a parse of the bytes.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unreadable`], or [`StorageError::Codec`] when the object is not a `T`.
    pub fn decode<T: Object>(&self) -> Result<T> {
        let codec = |source: BoxError| StorageError::Codec {
            key: self.0.key.to_string(),
            action: "decode",
            source,
        };
        // Checked as a whole, each text in it need not be.
        let json = std::str::from_utf8(self.json()?).map_err(|error| codec(error.into()))?;
        serde_json::from_str(json).map_err(|error| codec(error.into()))
    }

    /// Decodes the metadata alone.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    pub fn meta(&self) -> Result<Meta> {
        #[derive(serde::Deserialize)]
        struct Head {
            #[serde(default)]
            metadata: Meta,
        }
        Ok(self.decode::<HeadObject<Head>>()?.0.metadata)
    }

    /// The same object as of another revision: what a DELETED event shows. Copies the bytes.
    #[must_use]
    pub fn at_revision(&self, revision: Revision) -> Self {
        let state = match &self.0.state {
            State::Unreadable { reason, full_key } => State::Unreadable {
                reason: reason.clone(),
                full_key: full_key.clone(),
            },
            State::Readable(record) => State::Readable(record.at_revision(revision)),
        };
        Self(Arc::new(Inner {
            key: self.0.key.clone(),
            revision,
            state,
            forms: Slots::default(),
        }))
    }

    /// As [`at_revision`](Self::at_revision), of an entry that nobody else holds: where the new digits take the place of
    /// the old ones, nothing is copied.
    #[must_use]
    pub fn into_revision(self, revision: Revision) -> Self {
        match Arc::try_unwrap(self.0) {
            Err(shared) => Self(shared).at_revision(revision),
            Ok(Inner { key, state, .. }) => Self(Arc::new(Inner {
                key,
                revision,
                state: match state {
                    State::Readable(record) => State::Readable(record.into_revision(revision)),
                    unreadable @ State::Unreadable { .. } => unreadable,
                },
                forms: Slots::default(),
            })),
        }
    }

    /// Where the other forms of this record are.
    pub(crate) fn slots(&self) -> &Slots {
        &self.0.forms
    }

    /// Whether two handles share one record.
    pub fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Bytes that this entry keeps alive, roughly: what budgets count.
    pub fn weight(&self) -> usize {
        let fixed = size_of::<Inner>() + self.0.key.as_str().len();
        match &self.0.state {
            State::Unreadable { full_key, .. } => fixed + full_key.as_ref().map_or(0, |full| full.len()),
            State::Readable(record) => fixed + record.json.len() + size_of::<Attributes>(),
        }
    }
}

/// Lets a private type pass as an [`Object`], which asks for `Serialize` as well.
struct HeadObject<T>(T);

impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for HeadObject<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

impl<T> serde::Serialize for HeadObject<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl Record {
    /// The canonical served JSON, shared.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// What selectors and indexes use.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Where the record came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    fn into_revision(mut self, revision: Revision) -> Self {
        let mut buffer = [0; 20];
        let digits = revision.digits(&mut buffer);
        let at = self.resource_version.clone();
        if at.len() != digits.len() {
            return self.at_revision(revision);
        }
        match self.json.try_into_mut() {
            Ok(mut json) => {
                if let Some(old) = json.get_mut(at) {
                    old.copy_from_slice(digits);
                }
                self.json = json.freeze();
                self
            }
            Err(json) => {
                self.json = json;
                self.at_revision(revision)
            }
        }
    }

    fn at_revision(&self, revision: Revision) -> Self {
        let mut buffer = [0; 20];
        let digits = revision.digits(&mut buffer);
        let Range { start, end } = self.resource_version;
        let mut json = Vec::with_capacity(self.json.len() - (end - start) + digits.len());
        // Invariant: the range was checked against the bytes when the record was made.
        json.extend_from_slice(self.json.get(..start).unwrap_or_default());
        json.extend_from_slice(digits);
        json.extend_from_slice(self.json.get(end..).unwrap_or_default());
        Self {
            json: json.into(),
            resource_version: start..start + digits.len(),
            attributes: self.attributes.clone(),
            origin: self.origin,
        }
    }
}

impl fmt::Debug for Entry {
    /// Names the entry; content stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entry = f.debug_struct("Entry");
        entry.field("key", &self.0.key).field("revision", &self.0.revision);
        if let State::Unreadable { reason, .. } = &self.0.state {
            entry.field("unreadable", reason);
        }
        entry.finish_non_exhaustive()
    }
}

/// A digest of bytes. Equal bytes have equal digests; never to be used to decide equality.
///
/// The same in every process of one machine architecture and version. Made for speed, not against those who look for
/// collisions.
pub fn digest(stored: &[u8]) -> u64 {
    // Two words at a time through a wide multiplication, in four lanes so that none need wait for another.
    const MIX: [u64; 5] = [
        0x2d35_8dcc_aa6c_78a5,
        0x8bb8_4b93_962e_acc9,
        0x4b33_a62e_d433_d4a3,
        0x4d5a_2da5_1de1_aa47,
        0xa076_1d64_78bd_642f,
    ];
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let absorb = |lanes: &mut [u64; 4], block: &[u8; 64]| {
        let (words, _) = block.as_chunks::<8>();
        for (lane, pair) in lanes.iter_mut().zip(words.as_chunks::<2>().0) {
            let [a, b] = pair.map(u64::from_le_bytes);
            *lane = fold(a ^ MIX[4], b ^ *lane);
        }
    };
    let mut lanes = [MIX[0], MIX[1], MIX[2], MIX[3]];
    let (blocks, tail) = stored.as_chunks::<64>();
    for block in blocks {
        absorb(&mut lanes, block);
    }
    let mut last = [0; 64];
    for (own, byte) in last.iter_mut().zip(tail) {
        *own = *byte;
    }
    absorb(&mut lanes, &last);
    // The length tells a short tail from one that ends in zeroes.
    let [a, b, c, d] = lanes;
    fold(fold(a, b ^ MIX[2]) ^ stored.len() as u64, fold(c, d ^ MIX[3]) ^ MIX[4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::ResourceScope;

    fn pods() -> ResourceInfo {
        ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced)
    }

    #[test]
    fn an_entry_changes_its_revision_in_place_where_it_can() {
        let stored = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"x":"17"},"name":"a"}}"#;
        for (from, to, shared, in_place) in [(17, 42, false, true), (17, 42, true, false), (9, 10, false, false)] {
            let [from, to] = [from, to].map(|n| Revision::new(n).expect("not zero"));
            let key = pods().key("/pods/ns/a").expect("a key");
            let entry = Entry::read(&pods(), key, from, stored, false);
            let json = |entry: &Entry| entry.json().expect("readable").clone();
            let (want, before) = (json(&entry.at_revision(to)), entry.json().expect("readable").as_ptr());
            let reader = shared.then(|| (entry.clone(), json(&entry)));
            let moved = entry.into_revision(to);
            assert_eq!((moved.revision(), json(&moved)), (to, want.clone()));
            assert_eq!(json(&moved.at_revision(from).at_revision(to)), want);
            assert_eq!(moved.json().expect("readable").as_ptr() == before, in_place);
            if let Some((reader, old)) = reader {
                assert_eq!((reader.revision(), json(&reader)), (from, old));
            }
        }
    }

    #[test]
    fn digests_tell_values_apart() {
        let mut seen = std::collections::HashSet::new();
        for size in 0..200 {
            let mut value = vec![0; size];
            assert!(seen.insert(digest(&value)), "{size} zeroes");
            assert_eq!(digest(&value), digest(&value.clone()));
            for at in 0..size {
                value[at] = 1;
                assert!(seen.insert(digest(&value)), "{size} bytes, a one at {at}");
                value[at] = 0;
            }
        }
    }

    // covers: storage-api/VER-04
    #[test]
    fn a_revision_is_put_in_and_nothing_else_changes() {
        let stored = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"1"},"name":"a","resourceVersion":"no number"},"spec":{"x":1}}
"#;
        let key = pods().key("/pods/ns/a").unwrap();
        let at = |n| Revision::new(n).unwrap();
        let entry = Entry::read(&pods(), key, at(7), stored, false);
        for (entry, digits) in [(entry.clone(), "7"), (entry.at_revision(at(12_345)), "12345")] {
            let want = String::from_utf8_lossy(stored).trim_end().replace("no number", digits);
            assert_eq!(String::from_utf8_lossy(entry.json().unwrap()), want);
        }
        assert_eq!(entry.revision(), at(7));
    }

    #[test]
    fn an_unreadable_entry_keeps_its_name() {
        let key = pods().key("/pods/ns/a").unwrap();
        let reason = UnreadableReason::Decode("x".into());
        let entry = Entry::unreadable(key, Revision::MIN, reason);
        assert_eq!(entry.named_key(), "/pods/ns/a");
        let entry = entry.with_full_key("/registry/pods/ns/a").at_revision(Revision::MAX);
        match entry.record() {
            Err(StorageError::Unreadable { key, revision, .. }) => {
                assert_eq!((key.as_str(), revision), ("/registry/pods/ns/a", Some(Revision::MAX)));
            }
            other => panic!("{other:?}"),
        }
    }
}
