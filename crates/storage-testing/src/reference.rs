//! A backend that is obviously right: a map of histories behind one lock. What the object store is tested on, with the
//! faults that a real network has.
//!
//! Not for production: nothing is ever forgotten but what is compacted, and every call takes the one lock.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{
    Capabilities, Expected, Kv, KvError, KvEvent, KvPair, KvResult, KvWatch, KvWatchItem, Lease, LeaseId, RangePage,
    RangeRequest, StoreId, WatchRequest, WriteOutcome,
};
use parking_lot::Mutex;

/// An answer that gets lost on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostAnswer {
    /// The write was applied.
    Applied,
    /// The write never arrived.
    NotApplied,
}

type Hook = Box<dyn FnOnce(&ReferenceKv) + Send>;

/// The reference backend. Cloning shares it.
#[derive(Clone)]
pub struct ReferenceKv(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// The revision, and a counter of progress requests, for watchers that wait.
    changed: watch::Sender<(Revision, u64)>,
}

struct State {
    revision: Revision,
    compacted: Option<Revision>,
    keys: BTreeMap<Arc<str>, Vec<Version>>,
    leases: HashMap<i64, Duration>,
    now: Duration,
    next_lease: i64,
    /// The latest change of each key that compaction has dropped.
    dropped: BTreeMap<Arc<str>, Revision>,
    coordination: HashMap<String, (Bytes, u64)>,
    closed: bool,
    lose: Vec<LostAnswer>,
    before_write: Vec<Hook>,
    before_range: Vec<Hook>,
    max_value_bytes: usize,
    gets: u64,
    ranges: u64,
    writes: u64,
}

/// One state of a key: its pair, or that it is gone since.
#[derive(Clone)]
struct Version {
    revision: Revision,
    pair: Option<KvPair>,
}

/// How many calls a backend has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Reads of one key.
    pub gets: u64,
    /// Reads of ranges.
    pub ranges: u64,
    /// Conditional writes and deletes.
    pub writes: u64,
}

impl Default for ReferenceKv {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ReferenceKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReferenceKv")
            .field("revision", &self.0.state.lock().revision)
            .finish_non_exhaustive()
    }
}

impl ReferenceKv {
    /// An empty backend at revision 1.
    pub fn new() -> Self {
        let state = State {
            revision: Revision::MIN,
            compacted: None,
            keys: BTreeMap::new(),
            leases: HashMap::new(),
            now: Duration::ZERO,
            next_lease: 1,
            dropped: BTreeMap::new(),
            coordination: HashMap::new(),
            closed: false,
            lose: Vec::new(),
            before_write: Vec::new(),
            before_range: Vec::new(),
            max_value_bytes: 1 << 20,
            gets: 0,
            ranges: 0,
            writes: 0,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::Sender::new((Revision::MIN, 0)),
        }))
    }

    /// The answer of a coming write gets lost; the first call here is for the next write.
    pub fn lose_answer(&self, how: LostAnswer) {
        self.0.state.lock().lose.push(how);
    }

    /// Runs right before a coming write, once: what another client does in that moment.
    pub fn before_write(&self, hook: impl FnOnce(&ReferenceKv) + Send + 'static) {
        self.0.state.lock().before_write.push(Box::new(hook));
    }

    /// Runs right before a coming range read, once.
    pub fn before_range(&self, hook: impl FnOnce(&ReferenceKv) + Send + 'static) {
        self.0.state.lock().before_range.push(Box::new(hook));
    }

    /// Shuts down: running watches end with [`KvError::Closed`] after what they have still to show.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.changed.send_modify(|_| {});
    }

    /// Forgets all leases; keys that hang on them stay for ever.
    pub fn forget_leases(&self) {
        self.0.state.lock().leases.clear();
    }

    /// Takes no larger values from now on.
    pub fn set_max_value_bytes(&self, limit: usize) {
        self.0.state.lock().max_value_bytes = limit;
    }

    /// The calls since the last time.
    pub fn take_calls(&self) -> Calls {
        let mut state = self.0.state.lock();
        let State {
            gets, ranges, writes, ..
        } = &mut *state;
        Calls {
            gets: std::mem::take(gets),
            ranges: std::mem::take(ranges),
            writes: std::mem::take(writes),
        }
    }

    /// Writes whatever is there.
    pub fn raw_put(&self, key: &str, value: impl Into<Bytes>) -> Revision {
        let mut state = self.0.state.lock();
        let revision = state.put(key, value.into(), None);
        self.publish(state);
        revision
    }

    /// Deletes whatever is there.
    pub fn raw_delete(&self, key: &str) -> Revision {
        let mut state = self.0.state.lock();
        let revision = state.next();
        state.delete(key, revision);
        self.publish(state);
        revision
    }

    /// Reads the latest value.
    pub fn raw_get(&self, key: &str) -> Option<KvPair> {
        self.0.state.lock().at(key, None)
    }

    /// Lets time pass for leases. All keys of the leases that end are deleted at one revision, as etcd does.
    pub fn advance(&self, by: Duration) {
        let mut state = self.0.state.lock();
        state.now += by;
        let now = state.now;
        let ended: Vec<i64> = state
            .leases
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(id, _)| *id)
            .collect();
        state.leases.retain(|_, end| *end > now);
        let hangs = |pair: &KvPair| pair.lease.is_some_and(|lease| ended.contains(&lease.0));
        let latest = state
            .keys
            .iter()
            .filter_map(|(key, versions)| Some((key, versions.last()?.pair.as_ref()?)));
        let gone: Vec<Arc<str>> = latest
            .filter(|(_, pair)| hangs(pair))
            .map(|(key, _)| Arc::clone(key))
            .collect();
        if !gone.is_empty() {
            let revision = state.next();
            for key in gone {
                state.delete(&key, revision);
            }
        }
        self.publish(state);
    }

    /// Forgets history, as [`Kv::compact`] does.
    pub fn compact_now(&self, revision: Revision) {
        let mut state = self.0.state.lock();
        state.compacted = state.compacted.max(Some(revision));
        let State { keys, dropped, .. } = &mut *state;
        for (key, versions) in keys {
            let keep = versions
                .iter()
                .rposition(|version| version.revision <= revision)
                .unwrap_or(0);
            if let Some(last) = versions.drain(..keep).next_back() {
                dropped.insert(Arc::clone(key), last.revision);
            }
        }
    }

    fn publish(&self, state: parking_lot::MutexGuard<'_, State>) {
        let revision = state.revision;
        drop(state);
        self.0.changed.send_modify(|(now, _)| *now = (*now).max(revision));
    }

    fn write(&self, apply: impl FnOnce(&mut State) -> KvResult<WriteOutcome>) -> KvResult<WriteOutcome> {
        let hook = {
            let mut state = self.0.state.lock();
            state.writes += 1;
            (!state.before_write.is_empty()).then(|| state.before_write.remove(0))
        };
        if let Some(hook) = hook {
            hook(self);
        }
        let mut state = self.0.state.lock();
        let lost = (!state.lose.is_empty()).then(|| state.lose.remove(0));
        if lost == Some(LostAnswer::NotApplied) {
            return Err(KvError::OutcomeUnknown("the request got lost".into()));
        }
        let outcome = apply(&mut state);
        self.publish(state);
        match lost {
            Some(_) => Err(KvError::OutcomeUnknown("the answer got lost".into())),
            None => outcome,
        }
    }
}

impl State {
    fn next(&mut self) -> Revision {
        self.revision = self.revision.next();
        self.revision
    }

    fn put(&mut self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Revision {
        let created = self.at(key, None).map(|pair| pair.created);
        let revision = self.next();
        let key: Arc<str> = key.into();
        let created = created.unwrap_or(revision);
        let pair = KvPair {
            key: Arc::clone(&key).into(),
            value,
            revision,
            created,
            lease,
        };
        self.keys.entry(key).or_default().push(Version {
            revision,
            pair: Some(pair),
        });
        revision
    }

    fn delete(&mut self, key: &str, revision: Revision) {
        self.keys
            .entry(key.into())
            .or_default()
            .push(Version { revision, pair: None });
    }

    fn at(&self, key: &str, at: Option<Revision>) -> Option<KvPair> {
        let versions = self.keys.get(key)?;
        versions
            .iter()
            .rev()
            .find(|version| at.is_none_or(|at| version.revision <= at))?
            .pair
            .clone()
    }

    fn check(&self, at: Option<Revision>) -> KvResult<()> {
        match at {
            Some(at) if at > self.revision => Err(KvError::Future { current: self.revision }),
            Some(at) if self.compacted.is_some_and(|compacted| at < compacted) => Err(KvError::Compacted {
                compacted: self.compacted,
            }),
            _ => Ok(()),
        }
    }

    fn mismatch(&self, current: Option<KvPair>) -> WriteOutcome {
        WriteOutcome::Mismatch {
            current,
            revision: self.revision,
        }
    }

    /// Whether a watch that is at `from` has missed a change for good.
    fn lost(&self, from: Revision, request: &WatchRequest) -> bool {
        self.dropped
            .iter()
            .any(|(key, revision)| *revision >= from && inside(request, key))
    }

    /// The first revision at or after `from` that changed something in the range, with its changes.
    fn batch(&self, from: Revision, request: &WatchRequest) -> Option<(Revision, Vec<KvEvent>)> {
        let ranged = self.keys.iter().filter(|(key, _)| inside(request, key));
        let changes = ranged
            .clone()
            .flat_map(|(_, versions)| versions.iter().map(|version| version.revision));
        let revision = changes.filter(|revision| *revision >= from).min()?;
        let events = ranged.filter_map(|(key, versions)| {
            let at = versions.iter().position(|version| version.revision == revision)?;
            let before = at.checked_sub(1).and_then(|before| versions.get(before)?.pair.clone());
            let current = versions.get(at)?.pair.clone();
            Some(KvEvent {
                key: Arc::clone(key).into(),
                current,
                previous: before.filter(|_| request.previous),
            })
        });
        Some((revision, events.collect()))
    }
}

fn inside(request: &WatchRequest, key: &str) -> bool {
    if request.prefix {
        key.starts_with(&request.key)
    } else {
        key == request.key
    }
}

impl Kv for ReferenceKv {
    async fn now(&self) -> KvResult<Revision> {
        Ok(self.0.state.lock().revision)
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> KvResult<(Option<KvPair>, Revision)> {
        let mut state = self.0.state.lock();
        state.gets += 1;
        state.check(at)?;
        Ok((state.at(key, at), state.revision))
    }

    async fn range(&self, request: RangeRequest) -> KvResult<RangePage> {
        let hook = {
            let mut state = self.0.state.lock();
            state.ranges += 1;
            (!state.before_range.is_empty()).then(|| state.before_range.remove(0))
        };
        if let Some(hook) = hook {
            hook(self);
        }
        let state = self.0.state.lock();
        state.check(request.at)?;
        let (start, end) = request.bounds();
        let (mut pairs, mut count, mut bytes, mut more) = (Vec::new(), 0, 0, false);
        let bounds: (Bound<&str>, Bound<&str>) = (start, end);
        if request.end.as_deref().is_some_and(|end| end <= request.start.as_str()) {
            return Ok(RangePage {
                pairs,
                more,
                count,
                revision: state.revision,
            });
        }
        for key in state.keys.range::<str, _>(bounds).map(|(key, _)| key) {
            let Some(mut pair) = state.at(key, request.at) else {
                continue;
            };
            count += 1;
            let full = request.limit.is_some_and(|limit| pairs.len() as u64 >= limit.get())
                || (!pairs.is_empty() && request.limit_bytes.is_some_and(|limit| bytes >= limit.get()));
            if full || request.count_only {
                more = !request.count_only;
                continue;
            }
            bytes += pair.value.len() as u64;
            if request.keys_only {
                pair.value = Bytes::new();
            }
            pairs.push(pair);
        }
        Ok(RangePage {
            pairs,
            more,
            count,
            revision: state.revision,
        })
    }

    async fn put_if(&self, key: &str, value: Bytes, expected: Expected, lease: Lease) -> KvResult<WriteOutcome> {
        self.write(|state| {
            let current = state.at(key, None);
            let found = current
                .as_ref()
                .map_or(Expected::Absent, |pair| Expected::At(pair.revision));
            if found != expected {
                return Ok(state.mismatch(current));
            }
            if value.len() > state.max_value_bytes {
                return Err(KvError::TooLarge {
                    size: value.len(),
                    limit: state.max_value_bytes,
                });
            }
            let lease = match lease {
                Lease::Keep => current.and_then(|pair| pair.lease),
                Lease::None => None,
                Lease::Id(id) if state.leases.contains_key(&id.0) => Some(id),
                Lease::Id(_) => return Err(KvError::LeaseNotFound),
            };
            Ok(WriteOutcome::Applied(state.put(key, value, lease)))
        })
    }

    async fn delete_if(&self, key: &str, expected: Revision) -> KvResult<WriteOutcome> {
        self.write(|state| {
            let current = state.at(key, None);
            if current.as_ref().map(|pair| pair.revision) != Some(expected) {
                return Ok(state.mismatch(current));
            }
            let revision = state.next();
            state.delete(key, revision);
            Ok(WriteOutcome::Applied(revision))
        })
    }

    async fn lease(&self, ttl: Duration) -> KvResult<LeaseId> {
        let mut state = self.0.state.lock();
        let id = state.next_lease;
        state.next_lease += 1;
        let end = state.now + ttl;
        state.leases.insert(id, end);
        Ok(LeaseId(id))
    }

    async fn time_left(&self, lease: LeaseId) -> KvResult<Option<Duration>> {
        let state = self.0.state.lock();
        Ok(state.leases.get(&lease.0).map(|end| end.saturating_sub(state.now)))
    }

    async fn watch(&self, request: WatchRequest) -> KvResult<KvWatch> {
        let state = self.0.state.lock();
        let revision = state.revision;
        let from = request.from.unwrap_or(revision.next());
        if state.compacted.is_some_and(|compacted| from <= compacted) {
            return Err(KvError::Compacted {
                compacted: state.compacted,
            });
        }
        let changed = self.0.changed.subscribe();
        let asked = changed.borrow().1;
        let cursor = Cursor {
            kv: self.clone(),
            request,
            from,
            changed,
            asked,
        };
        let items: BoxStream<'static, _> = stream::unfold(Some(cursor), |cursor| async move {
            match cursor?.next().await {
                Ok((item, cursor)) => Some((Ok(item), Some(cursor))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed();
        Ok(KvWatch { revision, items })
    }

    async fn request_progress(&self) -> KvResult<()> {
        self.0.changed.send_modify(|(_, asked)| *asked += 1);
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> KvResult<()> {
        self.0.state.lock().check(Some(revision))?;
        self.compact_now(revision);
        Ok(())
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.0.state.lock().compacted
    }

    async fn coordination_get(&self, key: &str) -> KvResult<Option<(Bytes, u64)>> {
        Ok(self.0.state.lock().coordination.get(key).cloned())
    }

    async fn coordination_put(&self, key: &str, value: Bytes, version: u64) -> KvResult<bool> {
        let mut state = self.0.state.lock();
        let written = state.coordination.get(key).map_or(0, |(_, version)| *version);
        if written != version {
            return Ok(false);
        }
        state.coordination.insert(key.to_owned(), (value, version + 1));
        Ok(true)
    }

    async fn store_id(&self) -> KvResult<StoreId> {
        Ok(StoreId(format!("reference-{:p}", Arc::as_ptr(&self.0))))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(true, true, self.0.state.lock().max_value_bytes)
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A running watch: its place in the history.
struct Cursor {
    kv: ReferenceKv,
    request: WatchRequest,
    from: Revision,
    changed: watch::Receiver<(Revision, u64)>,
    /// Progress requests that were answered.
    asked: u64,
}

impl Cursor {
    async fn next(mut self) -> KvResult<(KvWatchItem, Self)> {
        loop {
            let (_, asked) = *self.changed.borrow_and_update();
            let (batch, current, closed) = {
                let state = self.kv.0.state.lock();
                if state.lost(self.from, &self.request) {
                    return Err(KvError::Compacted {
                        compacted: state.compacted,
                    });
                }
                (state.batch(self.from, &self.request), state.revision, state.closed)
            };
            if let Some((revision, events)) = batch {
                self.from = revision.next();
                return Ok((KvWatchItem::Batch { revision, events }, self));
            }
            self.from = self.from.max(current.next());
            if closed {
                return Err(KvError::Closed);
            }
            if asked > self.asked {
                self.asked = asked;
                return Ok((KvWatchItem::Progress(current), self));
            }
            if self.changed.changed().await.is_err() {
                return Err(KvError::Closed);
            }
        }
    }
}
