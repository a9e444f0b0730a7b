//! A cache as the clients of a simulation use it, with what was shown through it: nobody is shown an earlier state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver_storage_api::time::Clock as _;
use apiserver_storage_api::{
    Change, CreateOptions, DeleteOptions, Encoded, Key, NoCheck, Storage, StorageError, UpdateOptions, WatchItem,
};
use parking_lot::Mutex;

use super::check::Known;
use super::clients::{Client, Watching};
use super::world::pods;
use crate::Cacher;

/// A store and a revision.
pub(super) type State = (usize, u64);

/// One cache, and the latest state that somebody was certainly shown through it.
pub(super) struct Front {
    pub(super) cache: Arc<Cacher>,
    floor: Mutex<State>,
    is_closed: AtomicBool,
}

impl Front {
    pub(super) fn new(cache: Cacher) -> Arc<Self> {
        Arc::new(Self {
            cache: Arc::new(cache),
            floor: Mutex::default(),
            is_closed: AtomicBool::new(false),
        })
    }

    pub(super) fn floor(&self) -> State {
        *self.floor.lock()
    }

    /// Somebody was shown this state, or a later one.
    pub(super) fn shown(&self, state: State) {
        let mut floor = self.floor.lock();
        *floor = (*floor).max(state);
    }

    /// Somebody was shown something that says nothing of its store: a cache knows of another store only from lists.
    pub(super) fn shown_of_this_store(&self, state: State) {
        if state.0 == self.floor().0 {
            self.shown(state);
        }
    }
}

impl Client {
    /// One of the caches; mostly the first one, until it is closed.
    pub(super) fn front(&self) -> Arc<Front> {
        let first = &self.fronts[0];
        let at = match first.is_closed.load(Ordering::Relaxed) {
            false if self.world.dice.percent(75) => 0,
            _ => self.fronts.len() - 1,
        };
        Arc::clone(&self.fronts[at])
    }

    /// Closes the first cache some time.
    pub(super) async fn close(self) {
        self.world
            .clock
            .sleep(Duration::from_millis(1 << self.world.dice.below(16)))
            .await;
        for _ in 0..self.world.dice.below(400) {
            tokio::task::yield_now().await;
        }
        self.fronts[0].is_closed.store(true, Ordering::Relaxed);
        self.fronts[0].cache.close().await;
        self.world.meet("closed");
    }

    pub(super) async fn write_through(&self) {
        let (front, key) = (self.front(), self.world.any_key());
        let (_, json) = self.world.readable(&key);
        let value = Encoded::from_json(json);
        let Some((namespace, name)) = key["/pods/".len()..].split_once('/') else {
            return;
        };
        let Ok(key) = pods().object_key(Some(namespace), name) else {
            return;
        };
        let before = front.floor();
        let written = match self.world.dice.below(4) {
            0 => front.cache.create(&key, value, CreateOptions::default()).await,
            1 => {
                let options = DeleteOptions::default();
                match front.cache.delete(&key, options, &mut NoCheck).await {
                    Ok(gone) => {
                        let later = before.max((before.0, gone.revision().get()));
                        return self.learn(&front, &key, Known::Absent, (later, later), "delete");
                    }
                    error => error,
                }
            }
            _ => {
                let mut update = |_| {
                    let value = value.clone();
                    async move { Ok(Change::put(value)) }
                };
                let options = UpdateOptions::default();
                front.cache.guaranteed_update(&key, options, &mut update).await
            }
        };
        match &written {
            Ok(entry) => self.learn(&front, &key, Known::As(entry), (before, before), "write"),
            Err(StorageError::KeyNotFound { .. }) => self.learn(&front, &key, Known::Absent, (before, before), "write"),
            Err(StorageError::KeyExists { .. }) => self.learn(&front, &key, Known::Present, (before, before), "write"),
            Err(StorageError::Unreadable { .. }) => {
                self.learn(&front, &key, Known::Unreadable, (before, before), "write")
            }
            Err(_) => {}
        }
    }

    /// Somebody was told of an object, after `floor` was shown. That must be so in a state that is not before `least`; the
    /// earliest such state that is not before the floor is what was certainly shown.
    pub(super) fn learn(&self, front: &Front, key: &Key, known: Known<'_>, (floor, least): (State, State), what: &str) {
        let earliest = |before: State| {
            let states = (before.0..=self.world.generation()).filter_map(|store| {
                let not_before = if store == before.0 { before.1 } else { 0 };
                let earliest = |truth: &_| known.earliest(truth, key.as_str(), not_before);
                Some((store, self.world.with_truth(store, earliest)?))
            });
            states.min()
        };
        match (earliest(least), earliest(floor)) {
            (Some(_), Some(state)) => front.shown_of_this_store(state),
            _ => self.world.violated(format!(
                "{what} of {key}: {known:?}, wanted not before {least:?}, and {floor:?} was shown before"
            )),
        }
    }

    /// A state of one of these stores was shown, after `floor` was: it must not be an earlier one.
    pub(super) fn showed(&self, front: &Front, floor: State, stores: &[usize], revision: u64, what: &str) {
        let states = stores.iter().map(|store| (*store, revision));
        match states.clone().filter(|state| *state >= floor).min() {
            Some(state) => front.shown(state),
            None => self.world.violated(format!(
                "{what}: the state of {:?}, and {floor:?} was shown before",
                states.collect::<Vec<_>>()
            )),
        }
    }

    /// What an item shows, now that it was found to be right.
    pub(super) fn told(&self, front: &Front, watching: &Watching, floor: State, item: &WatchItem) {
        let stores: Vec<usize> = watching.streams.iter().map(|stream| stream.generation).collect();
        let revision = match item {
            WatchItem::InitialEnd(revision) => {
                let what = format!("the initial state of {:?}", watching.view);
                return self.showed(front, floor, &stores, revision.get(), &what);
            }
            WatchItem::Batch(batch) => batch.revision,
            WatchItem::Progress(revision) => *revision,
            _ => return,
        };
        if let Some(store) = stores.first() {
            front.shown_of_this_store((*store, revision.get()));
        }
    }
}
