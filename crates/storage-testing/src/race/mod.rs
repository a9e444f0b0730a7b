//! Several clients and watchers at once, while anything may happen to what is between them and the store, and what must
//! be true afterwards.
//!
//! Every write carries an id of its own, and an update appends its id to what it finds. Everything is recorded with its
//! begin, its end and its answer. In the end the history of the store is read, a change for each revision, and all
//! answers are held against it (`check`): that there is an order of all operations, that of the revisions, which agrees with
//! every answer and with real time. Where answers may get lost, a write may say that its outcome is unknown; then it
//! was applied once or not at all, and nothing else.

mod check;
mod client;
mod watcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinHandle;

use apiserver_storage_api::{EventKind, Key, Revision, Storage, WatchStart};

use self::watcher::Told;
use crate::fixture::*;
use crate::harness::Harness;
use crate::model::{Body, LABEL, Model, Name, Stored, VALUES, with_seeds};

/// How long anything may take that the end waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What may happen on the way between clients and store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// Nothing: every call has its answer.
    None,
    /// Answers get lost: writes may be of unknown outcome, and calls may fail that surely did nothing.
    Network,
}

/// What the clients do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// What their operations are chosen by. The order in which they meet is not.
    pub seed: u64,
    /// How many clients.
    pub clients: u64,
    /// How many watchers.
    pub watchers: u64,
    /// Each client ends after so many operations. None: when the race is finished.
    pub operations: Option<u64>,
    /// What may happen.
    pub faults: Faults,
}

impl Load {
    /// A load of eight clients and four watchers until the race is finished.
    pub fn until_finished(seed: u64, faults: Faults) -> Self {
        Self {
            seed,
            clients: 8,
            watchers: 4,
            operations: None,
            faults,
        }
    }
}

/// What came of an operation.
#[derive(Debug, Clone)]
enum Outcome {
    /// A write that was applied at this revision, with the id of what it wrote; a deletion has none.
    Wrote(Revision, Option<String>),
    /// An object was read.
    Read(Revision, Value),
    /// A list was read.
    Listed(Revision, Vec<(Key, Revision, Value)>),
    /// The counter was read.
    Now(Revision),
    /// Nothing is stored under the key.
    NotFound,
    /// Something is.
    Exists,
    /// It surely did nothing, for a reason that says nothing about what is stored.
    Failed,
    /// A write that was applied or was not.
    Unknown(Option<String>),
}

/// One operation of a client.
#[derive(Debug, Clone)]
struct Record {
    client: u64,
    key: Option<Key>,
    /// The id of what it would write; none of reads and deletions.
    id: Option<String>,
    /// Reads may show any state; then only the same client's order counts.
    any: bool,
    began: u64,
    ended: u64,
    outcome: Outcome,
}

/// What all that take part share.
#[derive(Debug)]
struct Shared {
    load: Load,
    ticks: AtomicU64,
    /// Writes that were acknowledged to each client.
    acknowledged: Vec<AtomicU64>,
    unknown: AtomicU64,
    stop: AtomicBool,
    /// The last writes of all: the value of the label that each carries, and its revision.
    ends: Mutex<Vec<(u64, Revision)>>,
    records: Mutex<Vec<Record>>,
}

impl Shared {
    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn record(&self, record: Record) {
        match &record.outcome {
            Outcome::Wrote(..) => {
                let client = usize::try_from(record.client)
                    .ok()
                    .and_then(|at| self.acknowledged.get(at));
                client.map(|count| count.fetch_add(1, Ordering::SeqCst));
            }
            Outcome::Unknown(_) => drop(self.unknown.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
        self.records.lock().push(record);
    }
}

/// A running race.
#[derive(Debug)]
pub struct Race {
    shared: Arc<Shared>,
    start: Revision,
    clients: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<Told>>,
}

/// What a race came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// Writes that were acknowledged, each found once in the history.
    pub acknowledged: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// Those of them that were applied, as far as their id tells.
    pub unknown_applied: u64,
    /// Operations that surely did nothing.
    pub failed: u64,
    /// Reads that were held against the history.
    pub reads: u64,
    /// Events that watchers were told.
    pub events: u64,
    /// How often watchers began again after their stream had ended.
    pub resumed: u64,
}

impl Race {
    /// Starts clients and watchers, which share these stores evenly: several are several servers on one backend.
    /// Nobody else writes objects of this kind; `direct` reads where nothing goes wrong.
    pub async fn start(load: Load, stores: &[Arc<dyn Storage>], direct: &dyn Storage) -> Self {
        let start = now(direct).await;
        let shared = Arc::new(Shared {
            load,
            ticks: AtomicU64::new(0),
            acknowledged: (0..load.clients).map(|_| AtomicU64::new(0)).collect(),
            unknown: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            ends: Mutex::default(),
            records: Mutex::default(),
        });
        let store = |number: u64| {
            let at = usize::try_from(number).unwrap_or_default() % stores.len();
            Arc::clone(&stores[at])
        };
        let watchers = (0..load.watchers).map(|number| {
            let watcher = watcher::run(Arc::clone(&shared), store(number), number, start);
            tokio::spawn(watcher)
        });
        let watchers = watchers.collect();
        let clients = (0..load.clients).map(|number| {
            let client = client::run(Arc::clone(&shared), store(number), number);
            tokio::spawn(client)
        });
        Self {
            clients: clients.collect(),
            shared,
            start,
            watchers,
        }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.each().sum()
    }

    fn each(&self) -> impl Iterator<Item = u64> {
        self.shared
            .acknowledged
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
    }

    /// How many writes are of unknown outcome so far.
    pub fn unknown(&self) -> u64 {
        self.shared.unknown.load(Ordering::SeqCst)
    }

    /// Waits until each client had so many more writes acknowledged: what went wrong is over for all of them.
    pub async fn goes_on(&self, writes: u64) {
        let before: Vec<u64> = self.each().collect();
        let reached = async {
            while self.each().zip(&before).any(|(now, before)| now < before + writes)
                && !self.clients.iter().any(JoinHandle::is_finished)
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(
            reached.is_ok(),
            "writes are acknowledged no more: {:?}, before {before:?}",
            self.shared.acknowledged
        );
    }

    /// Ends the race, reads the history and checks everything. The way must be free again by now.
    pub async fn finish(self, direct: &dyn Storage) -> Verdict {
        if self.shared.load.operations.is_none() {
            self.shared.stop.store(true, Ordering::SeqCst);
        }
        for client in self.clients {
            joined(client, "a client").await;
        }
        // The last writes of all: one that every watcher is to see, whatever it selects.
        let mut end = self.start;
        let mut ends = Vec::new();
        for value in 0..VALUES {
            let name = format!("end-{value}");
            let mut object = pod("n0", &name);
            object["metadata"]["labels"][LABEL] = value.to_string().into();
            end = create(direct, &key("n0", &name), &object).await.revision();
            ends.push((value, end));
        }
        *self.shared.ends.lock() = ends;
        self.shared.stop.store(true, Ordering::SeqCst);
        let history = history(direct, self.start, end).await;
        let mut told = Vec::new();
        for watcher in self.watchers {
            told.push(joined(watcher, "a watcher").await);
        }
        let records = std::mem::take(&mut *self.shared.records.lock());
        check::states(direct, &history).await;
        let mut verdict = check::answers(&history, &records, self.shared.load.faults);
        for told in &told {
            let (events, resumed) = told.check(&history);
            verdict.events += events;
            verdict.resumed += resumed;
        }
        verdict
    }
}

async fn joined<T>(task: JoinHandle<T>, who: &str) -> T {
    let ended = tokio::time::timeout(PATIENCE, task).await;
    let ended = ended.unwrap_or_else(|_| panic!("{who} does not come to an end"));
    ended.unwrap_or_else(|error| panic!("{who}: {error}"))
}

/// All changes after a revision up to another one.
async fn history(direct: &dyn Storage, start: Revision, end: Revision) -> Model {
    let mut model = Model::new(start);
    let mut watch = Watching::all(direct, WatchStart::After(start)).await;
    while model.head < end {
        let event = tokio::time::timeout(PATIENCE, watch.event()).await;
        let event = event.expect("the history goes on");
        assert!(event.revision > model.head, "two changes at one revision: {event:?}");
        let after = event.object.as_ref().filter(|_| event.kind != EventKind::Deleted);
        let after = after.map(|entry| Stored {
            revision: event.revision,
            body: Arc::new(Body::of(entry)),
            leased: false,
        });
        model.push(event.revision, &event.key, after);
    }
    model
}

/// Runs races without faults, each on a fresh backend, through two stores on it.
pub fn races<H: Harness>(name: Name, seeds: u64) {
    with_seeds::<H>(name, seeds, |seed| async move {
        let h = H::start().await;
        let load = Load {
            operations: Some(60),
            ..Load::until_finished(seed, Faults::None)
        };
        let race = Race::start(load, &[h.store(), h.store()], &*h.store()).await;
        race.finish(&*h.store()).await;
    });
}
