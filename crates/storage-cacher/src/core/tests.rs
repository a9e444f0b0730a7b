//! Seeded random histories against a model: the core is driven step by step, watchers read whenever the seed says so.
//!
//! What is checked of every watcher, after upstream's robustness tests: events are ordered, unique, reliable (none
//! missing), resumable, atomic (one revision at once), carry the right previous value and kind, are filtered rightly,
//! and progress never runs ahead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use apiserver_storage_api::time::{Rng, SeededRng, random_below};
use apiserver_storage_api::{
    Batch, Entry, Event, EventKind, FieldSelector, Index, Key, LabelSelector, ResourceInfo, ResourceScope, Revision,
    Scope, SelectionPredicate,
};
use arc_swap::ArcSwapOption;

use super::log::{End, Next};
use super::root::{Root, Step};
use super::{Core, Fault, From, Limits, Subscription};
use crate::budget::HistoryBudget;

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
        let published = Arc::new(ArcSwapOption::empty());
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
        self.core.load(self.at, entries).perform();
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

// covers: storage-cacher/ORD-01, storage-cacher/ORD-03, storage-cacher/ORD-04, storage-cacher/EVT-01, storage-cacher/EVT-03, storage-cacher/EVT-06, storage-cacher/HIST-02, storage-cacher/HIST-08, storage-cacher/HIST-11, storage-cacher/SCOPE-06, storage-cacher/SCOPE-08, storage-cacher/WATCH-12, storage-cacher/WATCH-20, storage-cacher/BKM-09
#[test]
fn watchers_see_what_happened_in_random_histories() {
    let mut complete = 0;
    for seed in 0..80 {
        let rng = SeededRng::new(seed);
        let limits = if seed % 2 == 0 { roomy() } else { tight(&rng) };
        let mut world = World::new(seed, limits);
        let mut readers: Vec<Reader> = Vec::new();
        for _ in 0..400 {
            world.now += Duration::from_secs(world.below(2));
            match world.below(40) {
                0..20 => world.write(),
                20..22 => world.progress(),
                22..26 => readers.extend(world.subscribe()),
                26 => world.core.tick(world.now, 0),
                27 if world.below(8) == 0 => {
                    world.at = revision(world.at.get() + world.below(4));
                    let state = world.state();
                    world.list(state);
                }
                _ => {
                    let over: Vec<bool> = readers
                        .iter_mut()
                        .map(|reader| rng.next_u64().is_multiple_of(2) && matches!(world.read(reader), Read::Over))
                        .collect();
                    let mut over = over.into_iter();
                    readers.retain(|_| !over.next().unwrap());
                }
            }
        }
        for reader in &mut readers {
            complete += loop {
                match world.read(reader) {
                    Read::More => {}
                    Read::Nothing => break usize::from(!reader.seen.is_empty()),
                    Read::Over => break 0,
                }
            };
        }
    }
    assert!(complete > 500, "only {complete} watchers saw something to its end");
}

// covers: storage-cacher/SNAP-01, storage-cacher/SNAP-02, storage-cacher/SNAP-04, storage-cacher/LIST-07, storage-cacher/IDX-01, storage-cacher/IDX-03, storage-cacher/STO-03
#[test]
fn every_state_that_history_reaches_back_to_can_be_read() {
    for seed in 0..40 {
        let rng = SeededRng::new(seed);
        let limits = if seed % 2 == 0 { roomy() } else { tight(&rng) };
        let mut world = World::new(seed, limits);
        for _ in 0..600 {
            world.now += Duration::from_secs(world.below(2));
            if world.below(10) == 0 {
                world.progress()
            } else {
                world.write()
            }
        }
        let current = world.published.load_full().unwrap();
        assert_eq!(current.revision, world.at);
        for (&at, state) in &world.states {
            let Some(past) = world.core.past(at) else {
                assert!(at < world.core.base, "{at} is forgotten without a reason");
                continue;
            };
            let root = past.build(info().indexes());
            root.check(info().indexes());
            let epoch = Arc::clone(world.core.epoch());
            if at.get() % 5 == 0 {
                world.core.keep(Arc::clone(&root), &epoch);
            }
            for predicate in [
                predicate("", ""),
                predicate("app=a1", ""),
                predicate("", "spec.nodeName=n2"),
            ] {
                for scope in [
                    info().list_scope(None).unwrap(),
                    info().list_scope(Some("ns1")).unwrap(),
                ] {
                    let mut got = Vec::new();
                    let mut walk = root.walk(&scope, None, &predicate, info().indexes());
                    while walk.left() > 0 {
                        walk.examine(7, |entry| {
                            if entry
                                .attributes()
                                .is_none_or(|attributes| predicate.matches(attributes))
                            {
                                got.push((entry.key().to_string(), entry.revision()));
                            }
                            Step::Next
                        })
                        .unwrap();
                    }
                    let want: Vec<_> = state
                        .values()
                        .filter(|entry| scope.contains(entry.key()))
                        .filter(|entry| {
                            entry
                                .attributes()
                                .is_none_or(|attributes| predicate.matches(attributes))
                        })
                        .map(|entry| (entry.key().to_string(), entry.revision()))
                        .collect();
                    assert_eq!(got, want, "seed {seed} at {at} in {scope} by {predicate:?}");
                }
            }
        }
        assert!(world.core.past(world.at.next()).is_none());
    }
}

// covers: storage-cacher/INIT-10, storage-cacher/ORD-07
#[test]
fn what_cannot_continue_the_log_is_a_fault() {
    let mut world = World::new(1, roomy());
    world.write();
    let at = world.at;
    for again in [at, at.previous().unwrap()] {
        let batch = Batch {
            revision: again,
            events: Arc::from([]),
        };
        let fault = world.core.apply(&batch, world.now).unwrap_err();
        assert_eq!(fault, Fault::OutOfOrder { at, batch: again });
    }
    world.core.close().perform();
    let batch = Batch {
        revision: at.next(),
        events: Arc::from([]),
    };
    assert_eq!(world.core.apply(&batch, world.now).unwrap_err(), Fault::NotLoaded);
}

#[test]
fn a_list_of_the_very_same_state_lets_caught_up_watchers_go_on() {
    let mut world = World::new(3, roomy());
    for _ in 0..20 {
        world.write();
    }
    let all = info().list_scope(None).unwrap();
    let none = SelectionPredicate::default();
    let mut behind = world
        .core
        .subscribe(&all, &none, From::After(revision(10)))
        .unwrap()
        .unwrap();
    let mut there = world.core.subscribe(&all, &none, From::Tail).unwrap().unwrap();
    let (at, state) = (world.at, world.state());
    world.list(state.clone());
    assert_eq!(there.epoch.end(), Some(End::Listed(Some(at))));
    assert!(matches!(there.live.advance(), Next::Empty), "it has seen everything");
    assert!(matches!(behind.live.advance(), Next::Lost));
    let next = world.core.subscribe(&all, &none, From::After(at)).unwrap().unwrap();
    // The same revision with another state is another store.
    let mut other = state;
    let key = info().object_key(Some("ns0"), "stranger").unwrap();
    other.insert(key.to_string(), pod(&SeededRng::new(9), &key, at));
    world.list(other);
    assert_eq!(next.epoch.end(), Some(End::Listed(None)));
}

#[test]
fn groups_that_nobody_belongs_to_go() {
    let limits = Limits {
        bytes: 1 << 20,
        time: Duration::from_secs(10),
        min_records: 1_000,
    };
    let mut world = World::new(5, limits);
    let readers: Vec<Reader> = (0..50).filter_map(|_| world.subscribe()).collect();
    let groups = world.core.groups.iter().count();
    assert!(groups > 5);
    for _ in 0..50 {
        world.write();
    }
    world.core.tick(world.now, 0);
    assert_eq!(
        world.core.groups.iter().count(),
        groups,
        "somebody belongs to all of them"
    );
    drop(readers);
    world.core.tick(world.now, 0);
    let kept = world.core.groups.iter().count();
    assert!(kept > 0, "who comes back finds what the group has seen");
    world.now += Duration::from_secs(20);
    world.core.tick(world.now, 0);
    assert_eq!(world.core.groups.iter().count(), 0);
    assert!(!world.core.groups.has_deserted());
    // The places are taken again, and what was posted to those who had them does no harm.
    let again = world.subscribe();
    world.write();
    world.now += Duration::from_secs(1_000);
    world.core.tick(world.now, 0);
    drop(again);
}

// covers: storage-cacher/OPP-04
#[test]
fn equal_watchers_are_one_group() {
    let mut world = World::new(6, roomy());
    let all = info().list_scope(None).unwrap();
    let mut watch = |fields: &str| {
        let from = world.core.subscribe(&all, &predicate("", fields), From::Tail);
        from.unwrap().unwrap()
    };
    let mut equal: Vec<Subscription> = (0..100).map(|_| watch("spec.nodeName!=n1")).collect();
    let mut other = watch("spec.nodeName!=n2");
    for _ in 0..50 {
        world.write();
    }
    assert_eq!(world.core.groups.iter().count(), 2);
    let mut seen = 0;
    loop {
        let found: Vec<Next> = equal.iter_mut().map(|one| one.live.advance()).collect();
        let Some(Next::Record(_, first)) = found.first() else {
            break;
        };
        seen += 1;
        for next in &found {
            let Next::Record(_, events) = next else {
                panic!("{next:?}")
            };
            assert!(Arc::ptr_eq(first, events), "looked at once, for all of them");
        }
    }
    assert!(seen > 5 && seen < 50, "{seen}");
    assert!(matches!(other.live.advance(), Next::Record(..)));
}

// covers: storage-cacher/IVAL-01
#[test]
fn a_long_chain_that_nobody_reads_is_freed_without_a_deep_stack() {
    let mut world = World::new(7, roomy());
    let all = info().list_scope(None).unwrap();
    let mut reader = world
        .core
        .subscribe(&all, &SelectionPredicate::default(), From::Tail)
        .unwrap()
        .unwrap();
    for _ in 0..60_000 {
        let key = world.key();
        world.at = world.at.next();
        let gone = Event {
            kind: EventKind::Deleted,
            key: key.clone(),
            revision: world.at,
            object: None,
            previous: None,
        };
        let object = Entry::unreadable(
            key,
            world.at,
            apiserver_storage_api::UnreadableReason::Decode("x".into()),
        );
        let event = match world.published.load_full().unwrap().get(gone.key.as_str()) {
            Some(_) => gone,
            None => Event {
                kind: EventKind::Added,
                object: Some(object),
                ..gone
            },
        };
        let batch = Batch {
            revision: world.at,
            events: Arc::from([event]),
        };
        world.core.apply(&batch, Duration::ZERO).unwrap().perform();
    }
    assert_eq!(world.core.history().records, 60_000);
    drop(world);
    assert!(matches!(reader.live.advance(), Next::Lost));
}

// covers: storage-cacher/SCOPE-12, storage-cacher/SCOPE-13, storage-cacher/BUF-03
#[test]
fn a_change_wakes_those_whose_selection_it_touches() {
    let mut world = World::new(11, roomy());
    let all = info().list_scope(None).unwrap();
    let mut watch = |scope: &Scope, labels: &str, fields: &str| {
        world
            .core
            .subscribe(scope, &predicate(labels, fields), From::Tail)
            .unwrap()
            .unwrap()
    };
    let mut watchers = Vec::new();
    for node in 0..100 {
        watchers.push((
            format!("node {node}"),
            watch(&all, "", &format!("spec.nodeName=n{node}")),
        ));
        watchers.push((format!("tier {node}"), watch(&all, &format!("tier=t{node},!app"), "")));
        let namespace = info().list_scope(Some(&format!("ns{node}"))).unwrap();
        watchers.push((format!("namespace {node}"), watch(&namespace, "", "")));
        watchers.push((
            format!("name {node}"),
            watch(&all, "", &format!("metadata.name=p{node}")),
        ));
    }
    watchers.push(("all".into(), watch(&all, "", "")));
    watchers.push(("tier 3 with an app".into(), watch(&all, "tier=t3,app", "")));
    watchers.push(("many".into(), watch(&all, "tier in (t1,t2)", "")));
    let mut expect = |node: u32, kind: EventKind, want: &[&str]| {
        for (_, watcher) in &watchers {
            watcher.place.wait(&Context::from_waker(Waker::noop()));
        }
        let key = info().object_key(Some("ns7"), "p5").unwrap();
        world.at = world.at.next();
        let json = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p5", "namespace": "ns7", "labels": {"tier": "t3"}},
            "spec": {"nodeName": format!("n{node}")},
        });
        let object = Entry::read(
            &info(),
            key.clone(),
            world.at,
            &serde_json::to_vec(&json).unwrap(),
            false,
        );
        let event = Event {
            kind,
            key,
            revision: world.at,
            object: Some(object),
            previous: None,
        };
        let batch = Batch {
            revision: world.at,
            events: Arc::from([event]),
        };
        world.core.apply(&batch, world.now).unwrap().perform();
        let mut woken = Vec::new();
        for (name, watcher) in &watchers {
            if !watcher.place.is_waiting() {
                woken.push(name.as_str());
            }
        }
        woken.sort_unstable();
        assert_eq!(woken, want);
    };
    expect(
        1,
        EventKind::Added,
        &["all", "name 5", "namespace 7", "node 1", "tier 3"],
    );
    expect(
        2,
        EventKind::Modified,
        &["all", "name 5", "namespace 7", "node 1", "node 2", "tier 3"],
    );
    expect(
        2,
        EventKind::Deleted,
        &["all", "name 5", "namespace 7", "node 2", "tier 3"],
    );
}
