//! The writer's state machine: decides conditional writes, counts revisions, expires leases and plans compaction.
//!
//! It is synchronous and touches no disk. It runs ahead of what is visible by the group that is being committed;
//! nothing of that group is shown, not even that a condition failed, before the commit is through.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{Expected, KvError, KvResult, Lease, LeaseId};

use crate::config::HistoryBounds;
use crate::group::{Coordination, Group, Removal};
use crate::index::KeyIndex;
use crate::record::{Record, Version, size};

/// A change that someone asks for.
#[derive(Debug)]
pub(crate) enum Op {
    Put {
        key: String,
        value: Bytes,
        /// The value as the file is to have it, where that is not as it is.
        packed: Option<Bytes>,
        expected: Expected,
        lease: Lease,
    },
    Delete {
        key: String,
        expected: Revision,
    },
    Compact {
        revision: Revision,
    },
    CoordinationPut {
        key: String,
        value: Bytes,
        version: u64,
    },
    /// Expire what is due and compact what is old.
    Tick,
}

impl Op {
    /// Bytes that this change adds to a group.
    #[cfg(feature = "durable")]
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Op::Put { key, value, .. } | Op::CoordinationPut { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, .. } => key.len(),
            Op::Compact { .. } | Op::Tick => 0,
        }
    }
}

/// What became of a change, to be told once its group is committed.
#[derive(Debug)]
pub(crate) enum Decision {
    Applied(Revision),
    /// The condition failed; what is there instead.
    Mismatch(Option<(Arc<str>, Version)>),
    Compacted,
    Coordinated(bool),
    /// When the next tick is wanted, at the latest.
    Ticked(Duration),
}

/// Wall and running time at the moment of a decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Milliseconds since 1970.
    pub(crate) wall: i64,
    pub(crate) monotonic: Duration,
}

/// A value, and how the file is to have it where that is not as it is.
struct Payload {
    value: Bytes,
    packed: Option<Bytes>,
}

/// A record that may be forgotten once the store is compacted to a revision.
#[derive(Debug)]
struct Garbage {
    from: Revision,
    removal: Removal,
    cost: u64,
    #[cfg(feature = "durable")]
    footprint: u64,
}

pub(crate) struct Writer {
    pub(crate) index: KeyIndex,
    pub(crate) head: Revision,
    /// The lowest revision that can still be read.
    pub(crate) compacted: Revision,
    pub(crate) coordination: BTreeMap<Arc<str>, Coordination>,
    bounds: HistoryBounds,
    /// In the order in which compaction may take them.
    garbage: VecDeque<Garbage>,
    garbage_bytes: u64,
    live_bytes: u64,
    /// Bytes that everything takes in the file, roughly.
    #[cfg(feature = "durable")]
    footprint: u64,
    /// Keys with a lease, by its end.
    leases: BTreeMap<LeaseId, BTreeSet<Arc<str>>>,
    /// Where the store was at earlier times.
    samples: VecDeque<(Duration, Revision)>,
}

/// Keys that one tick expires at most; what remains is the next tick's, so that writers get their turn between.
const EXPIRED_AT_ONCE: usize = 256;
/// Records that one group forgets at most.
const REMOVED_AT_ONCE: usize = 512;

impl Writer {
    /// The state of a store without keys.
    pub(crate) fn new(first: Revision, bounds: HistoryBounds) -> Self {
        Self {
            index: KeyIndex::default(),
            head: first,
            compacted: first,
            coordination: BTreeMap::new(),
            bounds,
            garbage: VecDeque::new(),
            garbage_bytes: 0,
            live_bytes: 0,
            #[cfg(feature = "durable")]
            footprint: 0,
            leases: BTreeMap::new(),
            samples: VecDeque::new(),
        }
    }

    /// Takes the next version in revision order: one that was just decided, or one that was read back at opening.
    pub(crate) fn learn(&mut self, key: &Arc<str>, version: Version) {
        if let Some((_, last)) = self.index.latest(key).filter(|(_, last)| last.live) {
            self.live_bytes = self.live_bytes.saturating_sub(last.cost(key));
            self.discard(version.revision, key, last);
            self.unlease(key, last.lease);
        }
        if version.live {
            self.live_bytes += version.cost(key);
        } else {
            // A deletion stays for those who watch from its revision on.
            self.discard(version.revision.next(), key, version);
        }
        if let Some(lease) = version.lease {
            self.leases.entry(lease).or_default().insert(Arc::clone(key));
        }
        #[cfg(feature = "durable")]
        {
            self.footprint += version.footprint(key);
        }
        self.head = version.revision;
        self.index.push(key, version);
    }

    fn discard(&mut self, from: Revision, key: &Arc<str>, version: Version) {
        let cost = version.cost(key);
        self.garbage_bytes += cost;
        let removal = Removal {
            key: Arc::clone(key),
            revision: version.revision,
        };
        self.garbage.push_back(Garbage {
            from,
            removal,
            cost,
            #[cfg(feature = "durable")]
            footprint: version.footprint(key),
        });
    }

    fn unlease(&mut self, key: &Arc<str>, lease: Option<LeaseId>) {
        let Some(lease) = lease else { return };
        if let Some(keys) = self.leases.get_mut(&lease) {
            keys.remove(key);
            if keys.is_empty() {
                self.leases.remove(&lease);
            }
        }
    }

    /// Takes over what is known of earlier times from a writer that failed.
    #[cfg(feature = "durable")]
    pub(crate) fn inherit(&mut self, failed: &mut Writer) {
        let head = self.head;
        self.samples = std::mem::take(&mut failed.samples);
        // What the failed one noted of its last group never was.
        self.samples.retain(|(_, revision)| *revision <= head);
    }

    /// When the first lease ends.
    pub(crate) fn next_expiry(&self) -> Option<LeaseId> {
        self.leases.keys().next().copied()
    }

    /// Bytes of live and of superseded records.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.live_bytes, self.garbage_bytes)
    }

    /// Bytes that everything takes in the file, roughly.
    #[cfg(feature = "durable")]
    pub(crate) fn footprint(&self) -> u64 {
        self.footprint
    }

    /// Whether compacted records wait to be forgotten.
    pub(crate) fn has_backlog(&self) -> bool {
        self.garbage
            .front()
            .is_some_and(|garbage| garbage.from <= self.compacted)
    }

    /// Begins a group with a share of the backlog. Comes before all decisions of the group: what they compact is
    /// forgotten by a later one only.
    pub(crate) fn begin(&mut self) -> Group {
        let mut group = Group::default();
        while group.removals.len() < REMOVED_AT_ONCE && self.has_backlog() {
            let Some(garbage) = self.garbage.pop_front() else { break };
            self.garbage_bytes = self.garbage_bytes.saturating_sub(garbage.cost);
            #[cfg(feature = "durable")]
            {
                self.footprint = self.footprint.saturating_sub(garbage.footprint);
            }
            self.index.remove(&garbage.removal.key, garbage.removal.revision);
            group.removals.push(garbage.removal);
        }
        group
    }

    /// Decides one change and adds what it writes to the group.
    pub(crate) fn decide(&mut self, op: Op, now: Now, group: &mut Group) -> KvResult<Decision> {
        let decision = match op {
            Op::Put {
                key,
                value,
                packed,
                expected,
                lease,
            } => self.put(&key, Payload { value, packed }, expected, lease, now, group)?,
            Op::Delete { key, expected } => self.delete(&key, expected, group),
            Op::Compact { revision } => self.compact(revision, group)?,
            Op::CoordinationPut { key, value, version } => self.coordinate(key, value, version, group),
            Op::Tick => self.tick(now, group),
        };
        self.bound_bytes(group);
        Ok(decision)
    }

    fn put(
        &mut self,
        key: &str,
        payload: Payload,
        expected: Expected,
        lease: Lease,
        now: Now,
        group: &mut Group,
    ) -> KvResult<Decision> {
        let stored = self.index.latest(key);
        let live = stored
            .as_ref()
            .map(|(_, version)| *version)
            .filter(|version| version.live);
        let fits = match (expected, live) {
            (Expected::Absent, None) => true,
            (Expected::At(revision), Some(version)) => version.revision == revision,
            (Expected::Absent, Some(_)) | (Expected::At(_), None) => false,
        };
        if !fits {
            return Ok(Decision::Mismatch(stored.filter(|(_, version)| version.live)));
        }
        let lease = match lease {
            Lease::Keep => live.and_then(|version| version.lease),
            Lease::None => None,
            Lease::Id(id) if id.0 <= now.wall => return Err(KvError::LeaseNotFound),
            Lease::Id(id) => Some(id),
        };
        let revision = self.head.next();
        let record = Record {
            revision,
            // The key is shared with the index where it has it.
            key: stored.map_or_else(|| Arc::from(key), |(key, _)| key),
            // A value may be a small slice of a large buffer, which must not live as long as the record.
            value: Some(Bytes::copy_from_slice(&payload.value)),
            created: live.map_or(revision, |version| version.created),
            previous: live.map(|version| version.revision),
            lease,
            packed: payload.packed.as_ref().map_or(0, |packed| size(packed)),
        };
        if let Some(packed) = payload.packed {
            group.packed.insert(revision, packed);
        }
        Ok(self.write(record, group))
    }

    fn delete(&mut self, key: &str, expected: Revision, group: &mut Group) -> Decision {
        match self.index.latest(key).filter(|(_, version)| version.live) {
            Some((key, version)) if version.revision == expected => self.remove(key, version, group),
            stored => Decision::Mismatch(stored),
        }
    }

    fn remove(&mut self, key: Arc<str>, live: Version, group: &mut Group) -> Decision {
        let record = Record {
            revision: self.head.next(),
            key,
            value: None,
            created: live.created,
            previous: Some(live.revision),
            lease: None,
            packed: 0,
        };
        self.write(record, group)
    }

    fn write(&mut self, record: Record, group: &mut Group) -> Decision {
        let record = Arc::new(record);
        self.learn(&record.key, record.version());
        let revision = record.revision;
        group.records.push(record);
        Decision::Applied(revision)
    }

    fn compact(&mut self, revision: Revision, group: &mut Group) -> KvResult<Decision> {
        if revision > self.head {
            return Err(KvError::Future { current: self.head });
        }
        if revision < self.compacted {
            return Err(KvError::Compacted {
                compacted: Some(self.compacted),
            });
        }
        self.compact_to(revision, group);
        Ok(Decision::Compacted)
    }

    /// Raises the lowest readable revision; never lowers it.
    fn compact_to(&mut self, revision: Revision, group: &mut Group) {
        if revision > self.compacted {
            self.compacted = revision;
            group.compacted = Some(revision);
        }
    }

    /// Gives up the oldest history when it takes more bytes than it may.
    fn bound_bytes(&mut self, group: &mut Group) {
        let allowed = self.bounds.allowed(self.live_bytes);
        if self.garbage_bytes <= allowed || self.has_backlog() {
            // What is compacted already is counted until it is forgotten.
            return;
        }
        let mut excess = self.garbage_bytes - allowed;
        let mut target = self.compacted;
        for garbage in &self.garbage {
            target = garbage.from;
            excess = excess.saturating_sub(garbage.cost);
            if excess == 0 {
                break;
            }
        }
        // A deletion that is the very latest write may be the last to go; it is not readable past itself yet.
        self.compact_to(target.min(self.head), group);
    }

    fn coordinate(&mut self, key: String, value: Bytes, version: u64, group: &mut Group) -> Decision {
        let written = self.coordination.get(key.as_str()).map_or(0, |state| state.version);
        if written != version {
            return Decision::Coordinated(false);
        }
        let state = Coordination {
            version: version.saturating_add(1),
            value: Bytes::copy_from_slice(&value),
        };
        let key: Arc<str> = Arc::from(key);
        self.coordination.insert(Arc::clone(&key), state.clone());
        group.coordination.push((key, state));
        Decision::Coordinated(true)
    }

    fn tick(&mut self, now: Now, group: &mut Group) -> Decision {
        self.expire(now, group);
        self.age(now, group);
        Decision::Ticked(self.until_next_tick(now))
    }

    fn expire(&mut self, now: Now, group: &mut Group) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some(due) = self.leases.first_entry().filter(|entry| entry.key().0 <= now.wall) else {
                return;
            };
            let lease = *due.key();
            let Some(key) = due.get().first().map(Arc::clone) else {
                return;
            };
            match self.index.latest(&key).filter(|(_, version)| version.live) {
                // Deleting takes the key off its lease.
                Some((key, version)) if version.lease == Some(lease) => {
                    self.remove(key, version, group);
                }
                _ => self.unlease(&key, Some(lease)),
            }
        }
    }

    fn age(&mut self, now: Now, group: &mut Group) {
        let Some(keep) = self.bounds.keep else { return };
        if self
            .samples
            .back()
            .is_none_or(|(at, _)| now.monotonic >= *at + sample_interval(keep))
        {
            self.samples.push_back((now.monotonic, self.head));
        }
        while let Some((_, revision)) = self
            .samples
            .front()
            .filter(|(at, _)| *at + keep <= now.monotonic)
            .copied()
        {
            self.samples.pop_front();
            self.compact_to(revision, group);
        }
    }

    fn until_next_tick(&self, now: Now) -> Duration {
        // A clock that is set forward is noticed within this time.
        const LONGEST: Duration = Duration::from_secs(60);
        let sample = self.bounds.keep.map_or(LONGEST, sample_interval);
        let expiry = self.next_expiry().map_or(LONGEST, |lease| {
            let left = lease.0.saturating_sub(now.wall);
            Duration::from_millis(u64::try_from(left).unwrap_or(0))
        });
        sample.min(expiry).min(LONGEST)
    }
}

/// How often the store notes where it is, for compaction by time.
fn sample_interval(keep: Duration) -> Duration {
    (keep / 16).clamp(Duration::from_millis(100), Duration::from_secs(60))
}
