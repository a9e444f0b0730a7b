//! Seeded random histories against a model: the core is driven step by step, watchers read whenever the seed says so.
//!
//! What is checked of every watcher, after upstream's robustness tests: events are ordered, unique, reliable (none
//! missing), resumable, atomic (one revision at once), carry the right previous value and kind, are filtered rightly,
//! and progress never runs ahead.

mod groups;
mod histories;
mod log;
mod threads;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use apiserver_storage_api::time::{Rng, SeededRng, random_below};
use apiserver_storage_api::{
    Batch, Entry, Event, EventKind, FieldSelector, Index, Key, LabelSelector, ResourceInfo, ResourceScope, Revision,
    Scope, SelectionPredicate,
};

use super::log::{End, Next};
use super::root::{Pins, Root, Step};
use super::{Core, Effects, Fault, From, Limits, Listed, Subscription};
use crate::budget::HistoryBudget;
use crate::sync::ArcSwapOption;

type State = BTreeMap<String, Entry>;

fn info() -> ResourceInfo {
    ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced)
        .with_selectable_field("spec.nodeName")
        .with_indexes(vec![Index::Field("spec.nodeName".into()), Index::Label("app".into())])
}

fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

/// A pod, or now and then something that nobody can read.
fn pod(rng: &SeededRng, key: &Key, at: Revision) -> Entry {
    let (_, name) = key.as_str().rsplit_once('/').unwrap();
    let json = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": format!("a{}", random_below(rng, 3))}},
        "spec": {"nodeName": format!("n{}", random_below(rng, 3))},
    });
    let stored = if random_below(rng, 40) == 0 {
        b"garbage".to_vec()
    } else {
        serde_json::to_vec(&json).unwrap()
    };
    Entry::read(&info(), key.clone(), at, &stored, false)
}

fn predicate(labels: &str, fields: &str) -> SelectionPredicate {
    SelectionPredicate::new(
        LabelSelector::parse(labels).unwrap(),
        FieldSelector::parse(fields).unwrap(),
    )
}

impl Core {
    fn load(&mut self, at: Revision, store: Option<Arc<str>>, entries: Vec<Entry>) -> Effects {
        let listed = Listed::new(at, store, entries, &self.indexes, self.published.load_full());
        self.take_over(listed)
    }
}

/// What the backend did: the model that the core is compared with.
struct World {
    rng: SeededRng,
    core: Core,
    published: Arc<ArcSwapOption<Root>>,
    now: Duration,
    /// Every state since the last list, by revision.
    states: BTreeMap<Revision, State>,
    /// Every event since the last list, as a watcher of everything sees it.
    history: Vec<Event>,
    at: Revision,
    epochs: usize,
}

/// One watcher with what it was told.
struct Reader {
    scope: Scope,
    predicate: SelectionPredicate,
    subscription: Subscription,
    start: Revision,
    position: Revision,
    seen: Vec<Event>,
    epoch: usize,
}

enum Read {
    More,
    Nothing,
    Over,
}

impl World {
    fn new(seed: u64, limits: Limits) -> Self {
        let published = Arc::new(ArcSwapOption::default());
        let share = HistoryBudget::default().share();
        let core = Core::new(&info(), limits, share, Arc::clone(&published));
        let mut world = Self {
            rng: SeededRng::new(seed),
            core,
            published,
            now: Duration::ZERO,
            states: BTreeMap::new(),
            history: Vec::new(),
            at: revision(10),
            epochs: 0,
        };
        world.list(State::new());
        world
    }

    fn below(&self, bound: u64) -> u64 {
        random_below(&self.rng, bound)
    }

    fn state(&self) -> State {
        self.states
            .last_key_value()
            .map(|(_, state)| state.clone())
            .unwrap_or_default()
    }

    fn key(&self) -> Key {
        info()
            .object_key(Some(&format!("ns{}", self.below(3))), &format!("p{}", self.below(12)))
            .unwrap()
    }

    fn list(&mut self, state: State) {
        let mut entries: Vec<Entry> = state.values().cloned().collect();
        if self.below(2) == 0 {
            entries.reverse();
        }
        self.core.load(self.at, None, entries).perform();
        self.states = BTreeMap::from([(self.at, state)]);
        self.history.clear();
        self.epochs += 1;
    }

    /// One revision: usually one change, sometimes the many deletions of a lease.
    fn write(&mut self) {
        self.at = revision(self.at.get() + 1 + self.below(3));
        let mut state = self.state();
        let (mut sent, mut told) = (Vec::new(), Vec::new());
        let changes = if self.below(10) == 0 { 1 + self.below(4) } else { 1 };
        for _ in 0..changes {
            let key = self.key();
            if sent.iter().any(|event: &Event| event.key == key) {
                continue;
            }
            let delete = changes > 1 || self.below(3) == 0;
            let object = (!delete).then(|| pod(&self.rng, &key, self.at));
            let previous = match &object {
                Some(object) => state.insert(key.to_string(), object.clone()),
                None => state.remove(key.as_str()),
            };
            // What the backend calls the change is not always what it was for the cache.
            let kind = if delete { EventKind::Deleted } else { EventKind::Added };
            let revision = self.at;
            sent.push(Event {
                kind,
                key: key.clone(),
                revision,
                object: object.clone(),
                previous: None,
            });
            let (kind, object) = match (&previous, object) {
                (Some(_), Some(object)) => (EventKind::Modified, object),
                (None, Some(object)) => (EventKind::Added, object),
                (Some(previous), None) => (EventKind::Deleted, previous.at_revision(revision)),
                (None, None) => continue,
            };
            told.push(Event {
                kind,
                key,
                revision,
                object: Some(object),
                previous,
            });
        }
        let batch = Batch {
            revision: self.at,
            events: sent.into(),
        };
        self.core.apply(&batch, self.now).unwrap().perform();
        self.history.extend(told);
        self.states.insert(self.at, state);
    }

    fn progress(&mut self) {
        let state = self.state();
        self.at = revision(self.at.get() + self.below(3));
        self.core.progress(self.at);
        self.states.insert(self.at, state);
    }

    fn subscribe(&mut self) -> Option<Reader> {
        let namespace = format!("ns{}", self.below(3));
        let scope = match self.below(3) {
            0 => Scope::Key(self.key()),
            1 => info().list_scope(Some(&namespace)).unwrap(),
            _ => info().list_scope(None).unwrap(),
        };
        let predicate = match self.below(7) {
            0 => predicate("", "spec.nodeName=n1"),
            1 => predicate("", "spec.nodeName!=n1"),
            2 => predicate("app=a1", ""),
            3 => predicate("app in (a0,a2)", ""),
            4 => predicate("", "metadata.name=p3"),
            5 => predicate("app=a1", "spec.nodeName=n2"),
            _ => SelectionPredicate::default(),
        };
        let after = revision(self.at.get().saturating_sub(self.below(60)).max(1));
        let from = if self.below(2) == 0 {
            From::Tail
        } else {
            From::After(after)
        };
        let oldest = *self.states.first_key_value().unwrap().0;
        let subscription = match self.core.subscribe(&scope, &predicate, from).unwrap() {
            Ok(subscription) => subscription,
            Err(_) => {
                let trimmed = self.core.base > oldest;
                assert!(
                    after < oldest || trimmed && after < self.core.base,
                    "refused {after} without a reason"
                );
                return None;
            }
        };
        let start = match from {
            From::Tail => subscription.root.revision,
            From::After(revision) => revision,
        };
        let epoch = self.epochs;
        Some(Reader {
            scope,
            predicate,
            subscription,
            start,
            position: start,
            seen: Vec::new(),
            epoch,
        })
    }

    /// What a watcher has to have seen between two revisions.
    fn expected(&self, reader: &Reader, through: Revision) -> Vec<Event> {
        self.history
            .iter()
            .filter(|event| event.revision > reader.start && event.revision <= through)
            .filter(|event| reader.scope.contains(&event.key))
            .filter_map(|event| event.seen_by(&reader.predicate))
            .collect()
    }

    /// Reads one record as a watcher does.
    fn read(&self, reader: &mut Reader) -> Read {
        let subscription = &mut reader.subscription;
        let (end, through) = (subscription.epoch.end(), subscription.epoch.through());
        let selection = &subscription.selection;
        let next = match &mut subscription.catch_up {
            Some((cursor, until)) => match cursor.advance() {
                Next::Record(record, _) if record.revision <= *until => {
                    let events = selection.sees(&record).unwrap_or_default();
                    Next::Record(record, events)
                }
                Next::Lost => Next::Lost,
                _ => {
                    subscription.catch_up = None;
                    subscription.live.advance()
                }
            },
            None => subscription.live.advance(),
        };
        match next {
            Next::Record(record, events) => {
                if record.revision <= reader.position {
                    return Read::More;
                }
                assert_eq!(reader.epoch, self.epochs, "an old epoch has nothing more to read");
                reader.position = record.revision;
                assert!(events.iter().all(|event| event.revision == record.revision));
                reader.seen.extend(events.iter().cloned());
                Read::More
            }
            Next::Empty => {
                reader.position = reader.position.max(through);
                match end {
                    None => {
                        let published = self.published.load_full().unwrap().revision;
                        assert_eq!(
                            through, published,
                            "a watcher that has read everything is where the state is"
                        );
                        check(reader, &self.expected(reader, reader.position));
                        Read::Nothing
                    }
                    Some(_) => Read::Over,
                }
            }
            Next::Lost => {
                assert!(end.is_some() || self.core.base > reader.start, "lost without a reason");
                Read::Over
            }
        }
    }
}

#[track_caller]
fn check(reader: &Reader, want: &[Event]) {
    let text = |events: &[Event]| -> Vec<String> {
        let object = |entry: &Option<Entry>| {
            entry
                .as_ref()
                .map(|entry| (entry.revision(), entry.json().cloned().ok()))
        };
        let one = |event: &Event| {
            let (now, before) = (object(&event.object), object(&event.previous));
            format!("{:?} {} {} {now:?} {before:?}", event.kind, event.key, event.revision)
        };
        events.iter().map(one).collect()
    };
    assert_eq!(
        text(&reader.seen),
        text(want),
        "{} {:?} after {}",
        reader.scope,
        reader.predicate,
        reader.start
    );
}

fn roomy() -> Limits {
    Limits {
        bytes: 1 << 30,
        time: Duration::from_secs(1 << 20),
        min_records: 10,
    }
}

fn tight(rng: &SeededRng) -> Limits {
    Limits {
        bytes: 2_000 + random_below(rng, 40_000) as usize,
        time: Duration::from_secs(1 + random_below(rng, 50)),
        min_records: random_below(rng, 20) as usize,
    }
}
