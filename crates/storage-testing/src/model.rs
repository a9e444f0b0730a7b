//! A model of a store, and random histories that are run through both.
//!
//! The model is a map per revision. Steps are chosen by a seeded generator, so a failed history can be repeated.

use std::collections::BTreeMap;

use apiserver_storage_api::time::{SeededRng, random_below};
use apiserver_storage_api::{
    CreateOptions, DeleteOptions, Entry, EventKind, GetOptions, Key, ListAt, ListOptions, NoCheck, Revision, Storage,
    UpdateOptions, WatchStart,
};

use crate::fixture::*;
use crate::harness::Harness;

/// A history to be run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What the steps are chosen by.
    pub seed: u64,
    /// How many steps.
    pub steps: u32,
    /// Whether history is compacted on the way.
    pub compact: bool,
}

/// An object of the model: the revision of its last write, and the label it carries.
type Object = (Revision, u64);

/// One state, with what led to it.
#[derive(Debug, Clone)]
struct State {
    revision: Revision,
    objects: BTreeMap<Key, Object>,
    /// The change that made this state; none when another kind was written.
    change: Option<(EventKind, Key)>,
}

struct Model {
    rng: SeededRng,
    states: Vec<State>,
    /// States before this one cannot be read any more.
    oldest: usize,
}

const LABEL: &str = "value";
const VALUES: u64 = 3;

impl Model {
    fn below(&self, bound: u64) -> u64 {
        random_below(&self.rng, bound)
    }

    fn latest(&self) -> &State {
        self.states.last().expect("there is a first state")
    }

    /// Some state that can still be read.
    fn any(&self) -> &State {
        let kept = self.states.get(self.oldest..).expect("the oldest state is one of them");
        kept.get(self.below(kept.len() as u64) as usize)
            .expect("within the kept states")
    }

    fn key(&self) -> Key {
        let (namespace, name) = (self.below(3), self.below(5));
        key(&format!("n{namespace}"), &format!("p{name}"))
    }

    fn push(&mut self, revision: Revision, change: Option<(EventKind, Key)>, value: u64) {
        assert_eq!(
            revision,
            self.latest().revision.next(),
            "every write takes the next revision: {change:?}"
        );
        let mut objects = self.latest().objects.clone();
        match &change {
            Some((EventKind::Deleted, key)) => drop(objects.remove(key)),
            Some((_, key)) => drop(objects.insert(key.clone(), (revision, value))),
            None => {}
        }
        self.states.push(State {
            revision,
            objects,
            change,
        });
    }
}

/// Runs a history through a store and its model.
pub async fn run<H: Harness>(h: &H, plan: Plan) {
    let store = h.store();
    let first = State {
        revision: now(&*store).await,
        objects: BTreeMap::new(),
        change: None,
    };
    let mut model = Model {
        rng: SeededRng::new(plan.seed),
        states: vec![first],
        oldest: 0,
    };
    let mut watch = Watching::all(&*store, WatchStart::After(model.latest().revision)).await;
    let mut watched = 1;
    for step in 0..plan.steps {
        match model.below(12) {
            0..=2 => create_step(&*store, &mut model).await,
            3..=5 => update_step(&*store, &mut model).await,
            6 => delete_step(&*store, &mut model).await,
            7 => {
                let name = format!("c{step}");
                let written = create(&*h.other(), &config_map_key(&name), &config_map(&name)).await;
                model.push(written.revision(), None, 0);
            }
            8 => get_step(&*store, &model).await,
            9 => list_step(&*store, &model).await,
            10 => page_step(&*store, &model).await,
            _ if plan.compact && model.below(6) == 0 => {
                watched = follow(&mut watch, &model, watched).await;
                // Not beyond what the watch has shown: one that lags behind the compaction may end.
                let shown = model
                    .states
                    .iter()
                    .rposition(|state| state.change.is_some())
                    .unwrap_or(0);
                if let Some(kept) = shown.checked_sub(model.oldest) {
                    model.oldest += model.below(kept as u64 + 1) as usize;
                    h.compact(model.states.get(model.oldest).expect("a state").revision)
                        .await;
                }
            }
            _ => watched = follow(&mut watch, &model, watched).await,
        }
    }
    follow(&mut watch, &model, watched).await;
    replay_step(&*store, &model).await;
}

async fn create_step(store: &dyn Storage, model: &mut Model) {
    let (key, value) = (model.key(), model.below(VALUES));
    let mut object = pod("ns", "x");
    object["metadata"]["labels"][LABEL] = value.to_string().into();
    match store.create(&key, encoded(&object), CreateOptions::default()).await {
        Ok(created) => {
            assert!(!model.latest().objects.contains_key(&key), "{key} was there");
            model.push(created.revision(), Some((EventKind::Added, key)), value);
        }
        Err(error) => assert!(
            error.is_exists() && model.latest().objects.contains_key(&key),
            "{key}: {error}"
        ),
    }
}

async fn update_step(store: &dyn Storage, model: &mut Model) {
    let (key, value) = (model.key(), model.below(VALUES));
    // Now and then with a suggestion, which may be old.
    let suggestion = match model.below(3) {
        0 => {
            let at = ListOptions {
                at: ListAt::Exact(model.any().revision),
                ..ListOptions::default()
            };
            list(store, &all(), at)
                .await
                .entries
                .into_iter()
                .find(|entry| *entry.key() == key)
        }
        _ => None,
    };
    let options = UpdateOptions {
        suggestion,
        ..UpdateOptions::default()
    };
    let text = value.to_string();
    let updated = try_change(store, &key, options, |object| {
        object["metadata"]["labels"][LABEL] = text.as_str().into()
    });
    match (updated.await, model.latest().objects.get(&key).copied()) {
        (Ok(kept), Some((revision, old))) if old == value => assert_eq!(kept.revision(), revision, "{key}: no change"),
        (Ok(updated), Some(_)) => model.push(updated.revision(), Some((EventKind::Modified, key)), value),
        (Err(error), None) if error.is_not_found() => {}
        (other, known) => panic!("update {key}: {other:?}, model has {known:?}"),
    }
}

async fn delete_step(store: &dyn Storage, model: &mut Model) {
    let key = model.key();
    match store.delete(&key, DeleteOptions::default(), &mut NoCheck).await {
        Ok(deleted) => {
            assert!(model.latest().objects.contains_key(&key), "{key} was not there");
            model.push(deleted.revision(), Some((EventKind::Deleted, key)), 0);
        }
        Err(error) => assert!(
            error.is_not_found() && !model.latest().objects.contains_key(&key),
            "{key}: {error}"
        ),
    }
}

fn object(entry: &Entry) -> Object {
    let value = label_of(entry, LABEL).and_then(|value| value.parse().ok());
    (entry.revision(), value.expect("every object of the model has a label"))
}

fn objects(entries: &[Entry]) -> Vec<(Key, Object)> {
    entries
        .iter()
        .map(|entry| (entry.key().clone(), object(entry)))
        .collect()
}

async fn get_step(store: &dyn Storage, model: &Model) {
    let key = model.key();
    let got = store.get(&key, GetOptions::default()).await;
    match got {
        Ok(entry) => assert_eq!(Some(&object(&entry)), model.latest().objects.get(&key), "{key}"),
        Err(error) => assert!(
            error.is_not_found() && !model.latest().objects.contains_key(&key),
            "{key}: {error}"
        ),
    }
}

async fn list_step(store: &dyn Storage, model: &Model) {
    let (state, at) = match model.below(2) {
        0 => (model.latest(), ListAt::MostRecent),
        _ => (model.any(), ListAt::Exact(model.any().revision)),
    };
    let state = match &at {
        ListAt::Exact(revision) => model
            .states
            .iter()
            .find(|state| state.revision == *revision)
            .unwrap_or(state),
        _ => state,
    };
    let namespace = format!("n{}", model.below(3));
    let scope = within(&namespace);
    let listed = list(
        store,
        &scope,
        ListOptions {
            at: at.clone(),
            ..ListOptions::default()
        },
    )
    .await;
    let want: Vec<_> = state
        .objects
        .iter()
        .filter(|(key, _)| scope.contains(key))
        .map(pair)
        .collect();
    assert_eq!(
        (listed.revision, objects(&listed.entries)),
        (state.revision, want),
        "{at:?} {namespace}"
    );
}

fn pair((key, object): (&Key, &Object)) -> (Key, Object) {
    (key.clone(), *object)
}

/// Pages through the latest state, with or without a selector.
async fn page_step(store: &dyn Storage, model: &Model) {
    let (state, size, value) = (model.latest(), 1 + model.below(4), model.below(VALUES));
    let selected = model.below(2) == 0;
    let mut options = page(ListAt::MostRecent, size);
    if selected {
        options.predicate = by_label(&format!("{LABEL}={value}"));
    }
    let mut seen = Vec::new();
    loop {
        let listed = list(store, &all(), options.clone()).await;
        assert_eq!(listed.revision, state.revision);
        assert!(listed.entries.len() as u64 <= size);
        seen.extend(objects(&listed.entries));
        if !selected {
            let left = (state.objects.len() - seen.len()) as u64;
            assert_eq!(listed.remaining, (left > 0).then_some(left));
        }
        match listed.next {
            Some(token) => options.at = ListAt::Continue(token),
            None => break,
        }
    }
    let want = state
        .objects
        .iter()
        .filter(|(_, object)| !selected || object.1 == value)
        .map(pair);
    assert_eq!(seen, want.collect::<Vec<_>>(), "pages of {size}, selected={selected}");
}

/// Reads the changes since state `from` of the model; returns where it stands then.
async fn follow(watch: &mut Watching, model: &Model, from: usize) -> usize {
    for state in model.states.get(from..).unwrap_or_default() {
        let Some((kind, key)) = &state.change else { continue };
        let event = watch.expect(*kind, key).await;
        assert_eq!(event.revision, state.revision);
        let object_of = event.object.as_ref().map(object).expect("a readable object");
        match state.objects.get(key) {
            Some(object) => assert_eq!(object_of, *object),
            None => assert_eq!(object_of.0, state.revision, "a deletion is at its own revision"),
        }
    }
    model.states.len()
}

/// A new watch from any state shows how the latest came about.
async fn replay_step(store: &dyn Storage, model: &Model) {
    let start = model.any().revision;
    let from = model
        .states
        .iter()
        .position(|state| state.revision == start)
        .unwrap_or(0)
        + 1;
    let mut watch = Watching::all(store, WatchStart::After(start)).await;
    follow(&mut watch, model, from).await;
}
