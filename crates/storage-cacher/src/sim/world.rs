//! The storage below a simulated cache: a real one in memory, what was written to it, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::{Clock as _, ManualClock};
use apiserver_storage_api::{Entry, Index, Key, ResourceInfo, ResourceScope, Result, Revision, Storage, StorageError};
use apiserver_storage_kv::{Expected, Kv as _, KvStore, KvStoreConfig, Lease, LeaseId, WriteOutcome};
use apiserver_storage_testing::ReferenceKv;
use apiserver_storage_transform::Identity;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::executor::Dice;

/// How long a lease lasts, on the backend's own clock.
const LEASE: Duration = Duration::from_secs(10);

/// What may go wrong, in percent of the occasions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// A call that is not answered.
    pub(super) errors: usize,
    /// A watch that breaks before an item.
    pub(super) breaks: usize,
    /// A pause of up to some seconds instead of some steps.
    pub(super) slow: usize,
    /// A question for progress that nobody hears.
    pub(super) deaf: usize,
    /// Compaction, of the writer's steps.
    pub(super) compactions: usize,
    /// Another store under the same name, of the writer's steps.
    pub(super) resets: usize,
    /// Values that nobody can read, of those that are written.
    pub(super) garbage: usize,
}

/// What a value says, as far as readers can tell it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) serial: u64,
    /// Nobody can read it.
    pub(super) garbage: bool,
    pub(super) group: u8,
    pub(super) node: u8,
    /// When it was written.
    pub(super) revision: u64,
}

/// Everything of one revision: the keys with what they hold since.
pub(super) type Change = Vec<(String, Option<Value>)>;

/// What was written to one store.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) changes: BTreeMap<u64, Change>,
    /// The latest revision, writes of other kinds included. All are acknowledged.
    pub(super) revision: u64,
}

impl Truth {
    /// The state of a revision.
    pub(super) fn at(&self, revision: u64) -> BTreeMap<&str, Value> {
        let mut state = BTreeMap::new();
        for (key, value) in self.changes.range(..=revision).flat_map(|(_, change)| change) {
            match value {
                Some(value) => state.insert(key.as_str(), *value),
                None => state.remove(key.as_str()),
            };
        }
        state
    }

    /// What was stored under a key from each of these revisions on.
    pub(super) fn of_key(&self, key: &str) -> Vec<(u64, Option<Value>)> {
        let mut found = vec![(0, None)];
        for (revision, change) in &self.changes {
            found.extend(
                change
                    .iter()
                    .filter(|(own, _)| own == key)
                    .map(|(_, value)| (*revision, *value)),
            );
        }
        found
    }
}

struct Store {
    kv: ReferenceKv,
    storage: Arc<dyn Storage>,
    truth: Truth,
    /// Leases whose end the writer may bring about, and the keys that hang on them.
    leased: Vec<(LeaseId, Vec<String>)>,
}

/// The stores that there were under the name, the last one being the one that is there.
pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) clock: ManualClock,
    faults: Mutex<Faults>,
    stores: Mutex<Vec<Store>>,
    serial: Mutex<u64>,
    /// The number of the present store.
    pub(super) replaced: watch::Sender<usize>,
    violation: Mutex<Option<String>>,
    /// What clients met with.
    met: Mutex<BTreeSet<&'static str>>,
}

pub(super) fn pods() -> ResourceInfo {
    ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced)
        .with_selectable_field("spec.nodeName")
        .with_indexes(vec![Index::Field("spec.nodeName".into())])
}

impl World {
    pub(super) fn new(dice: Dice, faults: Faults) -> Arc<Self> {
        let world = Self {
            clock: ManualClock::new(SystemTime::UNIX_EPOCH),
            dice,
            faults: Mutex::new(faults),
            stores: Mutex::default(),
            serial: Mutex::default(),
            replaced: watch::Sender::new(0),
            violation: Mutex::default(),
            met: Mutex::default(),
        };
        world.replace();
        Arc::new(world)
    }

    pub(super) fn faults(&self) -> Faults {
        *self.faults.lock()
    }

    /// From now on nothing goes wrong.
    pub(super) fn heal(&self) {
        *self.faults.lock() = Faults::default();
    }

    /// The first thing that was not as promised.
    pub(super) fn violation(&self) -> Option<String> {
        self.violation.lock().clone()
    }

    pub(super) fn violated(&self, what: impl Into<String>) {
        self.violation.lock().get_or_insert(what.into());
    }

    /// Something that does not happen in every run.
    pub(super) fn meet(&self, what: &'static str) {
        self.met.lock().insert(what);
    }

    pub(super) fn met(&self) -> BTreeSet<&'static str> {
        std::mem::take(&mut *self.met.lock())
    }

    /// Another store under the same name; its revisions begin anywhere.
    pub(super) fn replace(&self) {
        let kv = ReferenceKv::new();
        let before = self.stores.lock().last().map_or(1, |store| store.truth.revision);
        let start = self.dice.below(usize::try_from(before).unwrap_or(1) + 20);
        for _ in 0..start {
            kv.raw_put("/registry/other/filler", "x");
        }
        let config = KvStoreConfig::new("/registry", Arc::new(Identity))
            .with_clock(Arc::new(self.clock.clone()))
            .with_rng(self.dice.rng());
        let storage: Arc<dyn Storage> = Arc::new(KvStore::new(Arc::new(kv.clone()), pods(), config));
        let truth = Truth {
            revision: 1 + start as u64,
            ..Truth::default()
        };
        let mut stores = self.stores.lock();
        stores.push(Store {
            kv,
            storage,
            truth,
            leased: Vec::new(),
        });
        self.replaced.send_replace(stores.len() - 1);
    }

    /// The number of the present store.
    pub(super) fn generation(&self) -> usize {
        self.stores.lock().len() - 1
    }

    /// The latest acknowledged revision of the present store, with its number.
    pub(super) fn acknowledged(&self) -> (usize, u64) {
        let stores = self.stores.lock();
        (stores.len() - 1, stores.last().map_or(0, |store| store.truth.revision))
    }

    pub(super) fn with_truth<T>(&self, generation: usize, look: impl FnOnce(&Truth) -> T) -> T {
        look(&self.stores.lock()[generation].truth)
    }

    pub(super) fn present(&self) -> (usize, Arc<dyn Storage>) {
        let stores = self.stores.lock();
        let generation = stores.len() - 1;
        (generation, Arc::clone(&stores[generation].storage))
    }

    /// Some steps or some time in which others get their turn.
    pub(super) async fn pause(&self) {
        if self.dice.percent(self.faults().slow) {
            let time = 1 << self.dice.below(13);
            self.clock.sleep(Duration::from_millis(time)).await;
        }
        for _ in 0..self.dice.below(3) {
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn may_fail(&self) -> Result<()> {
        self.pause().await;
        if self.dice.percent(self.faults().errors) {
            return Err(unreachable());
        }
        Ok(())
    }

    /// A step of a writer. What it does and that it is known to be done are one: writes go past the cache.
    pub(super) async fn write(&self) {
        let faults = self.faults();
        if self.dice.percent(faults.resets) {
            self.replace();
            return;
        }
        if self.dice.percent(faults.compactions) {
            let stores = self.stores.lock();
            let Some(store) = stores.last() else { return };
            let below = self.dice.below(10) as u64;
            if let Some(revision) = Revision::new(store.truth.revision.saturating_sub(below)) {
                store.kv.compact_now(revision);
            }
            return;
        }
        match self.dice.below(10) {
            0 => self.other_kind(),
            1 => self.write_leased(2 + self.dice.below(2)).await,
            2 => self.end_lease(),
            3 | 4 => self.delete(),
            _ => self.put(),
        }
    }

    fn other_kind(&self) {
        let mut stores = self.stores.lock();
        if let Some(store) = stores.last_mut() {
            store.truth.revision = store.kv.raw_put("/registry/other/x", "x").get();
        }
    }

    pub(super) fn any_key(&self) -> String {
        format!("/pods/ns-{}/o-{}", self.dice.below(2), self.dice.below(4))
    }

    /// A value that is unlike any other, and its bytes.
    pub(super) fn readable(&self, key: &str) -> (Value, String) {
        let mut serial = self.serial.lock();
        *serial += 1;
        let (group, node) = (self.dice.below(2) as u8, self.dice.below(3) as u8);
        let (namespace, name) = key["/pods/".len()..].split_once('/').unwrap_or_default();
        let json = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"{namespace}\",\
             \"labels\":{{\"g\":\"{group}\",\"serial\":\"{serial}\"}}}},\"spec\":{{\"nodeName\":\"n{node}\"}}}}"
        );
        let value = Value {
            serial: *serial,
            garbage: false,
            group,
            node,
            revision: 0,
        };
        (value, json)
    }

    fn value(&self, key: &str) -> (Value, String) {
        let (value, json) = self.readable(key);
        if !self.dice.percent(self.faults().garbage) {
            return (value, json);
        }
        let garbage = Value { garbage: true, ..value };
        (garbage, format!("}}garbage {}", value.serial))
    }

    /// A write through a cache has come through: recorded before anybody hears of it.
    pub(super) fn wrote(&self, generation: usize, key: &Key, revision: Revision, value: Option<&Entry>) {
        let value = value.and_then(Entry::attributes).map(|attributes| {
            let label = |name: &str| attributes.labels.get(name).and_then(|value| value.parse().ok());
            let node = attributes
                .field("spec.nodeName")
                .and_then(|node| node[1..].parse().ok());
            Value {
                serial: label("serial").unwrap_or_default(),
                garbage: false,
                group: label("g")
                    .and_then(|group| u8::try_from(group).ok())
                    .unwrap_or_default(),
                node: node.unwrap_or_default(),
                revision: revision.get(),
            }
        });
        self.stores.lock()[generation].record(revision.get(), vec![(key.to_string(), value)]);
    }

    fn put(&self) {
        let key = self.any_key();
        let (value, json) = self.value(&key);
        let mut stores = self.stores.lock();
        let Some(store) = stores.last_mut() else { return };
        let revision = store.kv.raw_put(&format!("/registry{key}"), json).get();
        store.record(revision, vec![(key, Some(Value { revision, ..value }))]);
    }

    fn delete(&self) {
        let key = self.any_key();
        let mut stores = self.stores.lock();
        let Some(store) = stores.last_mut() else { return };
        if store.kv.raw_get(&format!("/registry{key}")).is_some() {
            let revision = store.kv.raw_delete(&format!("/registry{key}")).get();
            store.record(revision, vec![(key, None)]);
        }
    }

    /// Makes keys that will go together.
    async fn write_leased(&self, count: usize) {
        let (generation, kv) = {
            let stores = self.stores.lock();
            (stores.len() - 1, stores[stores.len() - 1].kv.clone())
        };
        // The reference backend answers at once: nothing comes between a write and its record.
        let Ok(lease) = kv.lease(LEASE).await else { return };
        let mut keys = Vec::new();
        for _ in 0..count {
            let key = self.any_key();
            let (value, json) = self.value(&key);
            let full = format!("/registry{key}");
            let expected = kv
                .raw_get(&full)
                .map_or(Expected::Absent, |pair| Expected::At(pair.revision));
            let put = kv.put_if(&full, json.into(), expected, Lease::Id(lease)).await;
            if let Ok(WriteOutcome::Applied(revision)) = put {
                let revision = revision.get();
                let mut stores = self.stores.lock();
                stores[generation].record(revision, vec![(key.clone(), Some(Value { revision, ..value }))]);
                keys.push(key);
            }
        }
        self.stores.lock()[generation].leased.push((lease, keys));
    }

    /// Lets all leases end: what hangs on them goes at one revision.
    fn end_lease(&self) {
        let mut stores = self.stores.lock();
        let Some(store) = stores.last_mut() else { return };
        let hangs = |(lease, keys): &(LeaseId, Vec<String>)| {
            let kv = &store.kv;
            let of_it = |key: &&String| {
                let pair = kv.raw_get(&format!("/registry{key}"));
                pair.is_some_and(|pair| pair.lease == Some(*lease))
            };
            keys.iter().filter(of_it).cloned().collect::<Vec<_>>()
        };
        let mut gone: Vec<String> = store.leased.iter().flat_map(hangs).collect();
        store.leased.clear();
        store.kv.advance(LEASE);
        gone.sort();
        gone.dedup();
        if !gone.is_empty() {
            let revision = store.truth.revision + 1;
            store.record(revision, gone.into_iter().map(|key| (key, None)).collect());
        }
    }
}

impl Store {
    fn record(&mut self, revision: u64, change: Change) {
        self.truth.revision = revision;
        self.truth.changes.insert(revision, change);
    }
}

pub(super) fn unreachable() -> StorageError {
    StorageError::Unreachable {
        source: "simulated".into(),
    }
}
