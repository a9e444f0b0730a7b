//! The clients of a simulated cache: readers, watchers, writers, and the one who looks at the end whether all is well.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::time::Clock as _;
use apiserver_storage_api::{
    Collected, Entry, FieldSelector, GetOptions, LabelSelector, List, ListAt, ListOptions, OnUnreadable, ReadAt,
    Revision, Scope, SelectionPredicate, Storage, StorageError, WatchItem, WatchOptions, WatchStart,
};
use futures::StreamExt as _;
use parking_lot::Mutex;

use super::check::{Follow, Known, Position, View, is_state, stores_of};
use super::front::{Front, State};
use super::world::{World, pods};

/// What all clients share.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) world: Arc<World>,
    pub(super) fronts: Arc<[Arc<Front>]>,
    /// In this run history is never lost: nobody may be told 410.
    pub(super) lossless: bool,
}

/// A watcher as the last check sees it.
pub(super) struct Watching {
    pub(super) view: View,
    /// The stream as that of each store whose it may be; empty while there is none.
    pub(super) streams: Vec<Follow>,
}

fn predicate(labels: &str, fields: &str) -> SelectionPredicate {
    SelectionPredicate::new(
        LabelSelector::parse(labels).unwrap_or_default(),
        FieldSelector::parse(fields).unwrap_or_default(),
    )
}

impl Client {
    fn any_view(&self) -> View {
        let dice = &self.world.dice;
        let scope = match dice.below(4) {
            0 => pods().list_scope(Some("ns-0")),
            1 => pods().object_key(Some("ns-1"), "o-2").map(Scope::Key),
            _ => pods().list_scope(None),
        };
        let predicate = match dice.below(5) {
            0 => predicate("g=0", ""),
            1 => predicate("", "spec.nodeName=n1"),
            2 => predicate("g=1", "spec.nodeName=n2"),
            _ => SelectionPredicate::default(),
        };
        View {
            scope: scope.unwrap_or_else(|_| Scope::all(pods().prefix())),
            predicate,
        }
    }

    /// A revision that is there, or was, or may come soon.
    fn any_revision(&self) -> Option<Revision> {
        let (_, revision) = self.world.acknowledged();
        let near = (revision + 2).saturating_sub(self.world.dice.below(12) as u64);
        Revision::new(near)
    }

    fn expired(&self, what: &str) {
        if self.lossless {
            self.world.violated(format!("{what}: 410, and nothing was forgotten"));
        }
    }

    pub(super) async fn write(self, count: usize) {
        for _ in 0..count {
            if self.world.dice.percent(25) {
                self.write_through().await;
            } else {
                self.world.write().await;
            }
            self.world.pause().await;
        }
    }

    pub(super) async fn read(self, count: usize) {
        for _ in 0..count {
            self.world.pause().await;
            match self.world.dice.below(8) {
                0 | 1 => self.get().await,
                2 => self.pages().await,
                _ => self.list().await,
            }
        }
    }

    async fn list(&self) {
        let (front, view) = (self.front(), self.any_view());
        let at = match (self.world.dice.below(5), self.any_revision()) {
            (0, _) => ListAt::Any,
            (1, Some(revision)) => ListAt::NotOlderThan(revision),
            (2, Some(revision)) => ListAt::Exact(revision),
            _ => ListAt::MostRecent,
        };
        let (before, floor) = (self.world.acknowledged(), front.floor());
        let unreadable = match self.world.dice.below(3) {
            0 => OnUnreadable::Fail,
            _ => OnUnreadable::Include,
        };
        let options = ListOptions {
            at: at.clone(),
            predicate: view.predicate.clone(),
            unreadable,
            ..ListOptions::default()
        };
        let list = match self.collect(&front, &view.scope, options).await {
            Ok(list) => list,
            Err(StorageError::Unreadable { key, .. }) if unreadable == OnUnreadable::Fail => {
                return self.blames(&view, &key);
            }
            Err(error) => return self.judge(&error, &at, true),
        };
        let revision = list.revision.get();
        let stores = stores_of(&self.world, &view, revision, &list.entries);
        let fresh = |store: &usize| match &at {
            ListAt::MostRecent => *store > before.0 || (*store == before.0 && revision >= before.1),
            ListAt::NotOlderThan(asked) => revision >= asked.get(),
            ListAt::Exact(asked) => revision == asked.get(),
            _ => true,
        };
        if !stores.iter().any(fresh) {
            let names: Vec<_> = list.entries.iter().map(|entry| entry.key().to_string()).collect();
            return self.world.violated(format!(
                "list {at:?} of {view:?} answered {names:?} at {revision}, the state of stores {stores:?}; {before:?} \
                 were acknowledged before"
            ));
        }
        if matches!(at, ListAt::Exact(_)) {
            return;
        }
        self.showed(&front, floor, &stores, revision, &format!("list {at:?} of {view:?}"));
    }

    /// A list may fail for the sake of an object that was unreadable some time.
    fn blames(&self, view: &View, key: &str) {
        let is_bad = |store: usize| {
            self.world.with_truth(store, |truth| {
                let changes = truth.changes.values().flatten();
                let bad = changes.filter(|(_, value)| value.is_some_and(|value| value.garbage));
                bad.map(|(own, _)| own)
                    .any(|own| key.ends_with(own.as_str()) && view.has_inside(own))
            })
        };
        if !(0..=self.world.generation()).any(is_bad) {
            self.world.violated(format!("a list of {view:?} failed for {key}"));
        }
    }

    /// Reads a list to its end, at times slowly.
    async fn collect(&self, front: &Front, scope: &Scope, options: ListOptions) -> Result<Collected, StorageError> {
        let list = front.cache.list(scope, options).await?;
        let (revision, world) = (list.revision(), Arc::clone(&self.world));
        let pages = list.into_pages().then(move |page| {
            let world = Arc::clone(&world);
            async move {
                world.pause().await;
                page
            }
        });
        List::new(revision, pages.boxed()).collect().await
    }

    fn judge(&self, error: &StorageError, at: &ListAt, whole: bool) {
        match error {
            StorageError::Expired { .. } if whole && matches!(at, ListAt::MostRecent | ListAt::Any) => {
                self.world.violated(format!("list {at:?}: {error}"));
            }
            StorageError::Expired { .. } => self.expired("list"),
            StorageError::TooManyRequests { cause, .. } if cause.contains("given up") => self.world.meet("too slow"),
            StorageError::Unreachable { .. }
            | StorageError::TooManyRequests { .. }
            | StorageError::NotReady { .. }
            | StorageError::TooLargeResourceVersion { .. } => {}
            error => self.world.violated(format!("list {at:?}: unexpected error: {error}")),
        }
    }

    /// All pages of a list are of one revision, and together its state.
    async fn pages(&self) {
        let (front, view) = (self.front(), self.any_view());
        let floor = front.floor();
        let limit = NonZeroU64::new(1 + self.world.dice.below(3) as u64);
        let (before, mut at) = (self.world.acknowledged(), ListAt::MostRecent);
        let (mut entries, mut first): (Vec<Entry>, Option<Revision>) = (Vec::new(), None);
        loop {
            let options = ListOptions {
                at: at.clone(),
                limit,
                predicate: view.predicate.clone(),
                unreadable: OnUnreadable::Include,
            };
            let page = match self.collect(&front, &view.scope, options).await {
                Ok(page) => page,
                Err(error) => return self.judge(&error, &at, false),
            };
            if first.is_some_and(|first| first != page.revision) {
                return self.world.violated("pages of different revisions");
            }
            first = Some(page.revision);
            entries.extend(page.entries);
            match page.next {
                Some(next) => at = ListAt::Continue(next),
                None => break,
            }
            self.world.pause().await;
        }
        let Some(revision) = first.map(Revision::get) else {
            return;
        };
        let stores = stores_of(&self.world, &view, revision, &entries);
        // A token knows nothing of stores: pages of two may be mixed when one replaced the other in between.
        let replaced = self.world.generation() != before.0;
        let fresh = |store: &usize| *store > before.0 || revision >= before.1;
        if replaced {
            return;
        }
        if !stores.iter().any(fresh) {
            return self.world.violated(format!(
                "the pages of {view:?} at {revision} are no state; {before:?} were acknowledged before"
            ));
        }
        self.showed(&front, floor, &stores, revision, &format!("pages of {view:?}"));
    }

    async fn get(&self) {
        let (front, name) = (self.front(), format!("o-{}", self.world.dice.below(4)));
        let Ok(key) = pods().object_key(Some("ns-0"), &name) else {
            return;
        };
        let at = match (self.world.dice.below(3), self.any_revision()) {
            (0, _) => ReadAt::Any,
            (1, Some(revision)) => ReadAt::NotOlderThan(revision),
            _ => ReadAt::MostRecent,
        };
        let (acknowledged, floor) = (self.world.acknowledged(), front.floor());
        let result = front.cache.get(&key, GetOptions { at }).await;
        let known = match &result {
            Ok(entry) => Known::As(entry),
            Err(StorageError::KeyNotFound { .. }) => Known::Absent,
            Err(StorageError::Unreadable { .. }) => {
                self.world.meet("unreadable");
                Known::Unreadable
            }
            Err(_) => return,
        };
        // A get does not say at which revision it was: some revision in the allowed range must have this state.
        let least = match at {
            ReadAt::MostRecent => floor.max(acknowledged),
            ReadAt::NotOlderThan(asked) => floor.max((floor.0, asked.get())),
            _ => floor,
        };
        self.learn(&front, &key, known, (floor, least), &format!("get {at:?}"));
    }

    /// Watches for ever, one stream after the other.
    pub(super) async fn watch(self, watching: Arc<Mutex<Option<Watching>>>) {
        let view = self.any_view();
        let mut resume: Option<Revision> = None;
        loop {
            let start = match (resume.take(), self.world.dice.below(6), self.any_revision()) {
                (Some(last), ..) => WatchStart::After(last),
                (None, 0, _) => WatchStart::Now,
                (None, 1, _) => WatchStart::InitialState(ReadAt::Any),
                (None, 2, Some(revision)) => WatchStart::InitialState(ReadAt::NotOlderThan(revision)),
                (None, 3, Some(revision)) => WatchStart::After(revision),
                _ => WatchStart::InitialState(ReadAt::MostRecent),
            };
            resume = self.stream(&view, start, &watching).await;
            *watching.lock() = None;
            self.world.pause().await;
        }
    }

    /// One stream. Returns where to go on.
    async fn stream(&self, view: &View, start: WatchStart, watching: &Mutex<Option<Watching>>) -> Option<Revision> {
        let front = self.front();
        let (before, floor) = (self.world.acknowledged(), front.floor());
        let mut options = WatchOptions::from_start(start);
        options.predicate = view.predicate.clone();
        options.progress = self.world.dice.percent(80);
        let mut last = match start {
            WatchStart::After(revision) => Some(revision),
            _ => None,
        };
        let mut watch = match front.cache.watch(&view.scope, options).await {
            Ok(watch) => watch,
            Err(StorageError::Expired { .. }) => {
                // A revision from the future of another store is no better than one from the past.
                if matches!(start, WatchStart::After(_)) {
                    self.expired("watch");
                } else {
                    self.world.violated(format!("watch from {start:?}: 410"));
                }
                return None;
            }
            // A client that knows of the future of another store has to begin anew.
            Err(StorageError::TooLargeResourceVersion { .. }) => return None,
            Err(_) => {
                self.world.clock.sleep(Duration::from_millis(500)).await;
                return last;
            }
        };
        *watching.lock() = Some(Watching {
            view: view.clone(),
            streams: self.streams(start, before),
        });
        let mut told = Vec::new();
        loop {
            if self.world.dice.percent(3) {
                // A reader that is slow for a while. In a run without loss not for longer than history is kept.
                let most = if self.lossless || self.world.faults().slow == 0 {
                    4
                } else {
                    18
                };
                let time = 1 << self.world.dice.below(most);
                self.world.clock.sleep(Duration::from_millis(time * 4)).await;
            }
            let item = match watch.next().await {
                Some(Ok(item)) => item,
                Some(Err(error)) => {
                    if error.is_expired() {
                        self.expired("watch");
                        return None;
                    }
                    return last;
                }
                None => return last,
            };
            let mut watching = watching.lock();
            let watching = watching.as_mut()?;
            if let Err(fault) = self.take(watching, start, before, &item, &mut told) {
                self.world
                    .violated(format!("watch from {start:?} of {view:?}: {fault}; {item:?}"));
                return None;
            }
            self.told(&front, watching, floor, &item);
            match &item {
                WatchItem::Batch(batch) => last = Some(batch.revision),
                WatchItem::Progress(revision) | WatchItem::InitialEnd(revision) => last = Some(*revision),
                _ => {}
            }
            if self.world.dice.percent(1) && self.world.faults().slow > 0 {
                return last;
            }
        }
    }

    /// The stores whose stream a watch may be.
    fn streams(&self, start: WatchStart, before: State) -> Vec<Follow> {
        let follow = |generation: usize| {
            let latest = self.world.with_truth(generation, |truth| truth.revision);
            let position = match start {
                WatchStart::After(revision) => Position::At(revision.get()),
                WatchStart::InitialState(_) => Position::Initial,
                WatchStart::Now if generation < before.0 => return None,
                WatchStart::Now if generation == before.0 => Position::Between(before.1, latest),
                WatchStart::Now => Position::Between(0, latest),
            };
            Some(Follow { generation, position })
        };
        (0..=self.world.generation()).filter_map(follow).collect()
    }

    /// Holds an item against every store whose stream it may be; fails when it is that of none.
    fn take(
        &self,
        watching: &mut Watching,
        start: WatchStart,
        before: State,
        item: &WatchItem,
        told: &mut Vec<Entry>,
    ) -> Result<(), String> {
        if let WatchItem::Initial(part) = item {
            told.extend(part.iter().cloned());
            return Ok(());
        }
        let Watching { view, streams } = watching;
        let mut faults = Vec::new();
        streams.retain_mut(|stream| {
            let taken = self.world.with_truth(stream.generation, |truth| match item {
                WatchItem::Batch(batch) => stream.batch(view, truth, batch),
                WatchItem::Progress(revision) => stream.progress(view, truth, revision.get()),
                WatchItem::InitialEnd(revision) => {
                    let revision = revision.get();
                    let late = match start {
                        WatchStart::InitialState(ReadAt::MostRecent) => {
                            stream.generation < before.0 || (stream.generation == before.0 && revision < before.1)
                        }
                        WatchStart::InitialState(ReadAt::NotOlderThan(asked)) => revision < asked.get(),
                        _ => false,
                    };
                    if late {
                        return Err(format!("the initial state is that of {revision}, after {before:?}"));
                    }
                    stream.initial_end(view, truth, revision, told)
                }
                _ => Ok(()),
            });
            taken
                .map_err(|fault| faults.push(format!("as of store {}: {fault}", stream.generation)))
                .is_ok()
        });
        if streams.is_empty() {
            Err(faults.join(", "))
        } else {
            Ok(())
        }
    }

    /// When everything is quiet, everybody has seen everything.
    pub(super) async fn last_look(self, watchers: Vec<Arc<Mutex<Option<Watching>>>>) {
        self.world.heal();
        // Longer than the slowest reader sleeps.
        self.world.clock.sleep(Duration::from_secs(1_200)).await;
        let (generation, revision) = self.world.acknowledged();
        let view = View {
            scope: Scope::all(pods().prefix()),
            predicate: SelectionPredicate::default(),
        };
        let (front, options) = (
            &self.fronts[self.fronts.len() - 1],
            ListOptions {
                unreadable: OnUnreadable::Include,
                ..ListOptions::default()
            },
        );
        match self.collect(front, &view.scope, options).await {
            Err(error) => self.world.violated(format!("a list when all is quiet: {error}")),
            Ok(list) => {
                let right = self.world.with_truth(generation, |truth| {
                    list.revision.get() >= revision && is_state(&view, truth, revision, &list.entries)
                });
                if !right {
                    self.world.violated("a list when all is quiet is not the state");
                }
            }
        }
        if let Err(cause) = front.cache.ready() {
            self.world.violated(format!("not ready when all is quiet: {cause:?}"));
        }
        for (at, watching) in watchers.iter().enumerate() {
            let watching = watching.lock();
            let Some(Watching { view, streams }) = watching.as_ref() else {
                self.world
                    .violated(format!("watcher {at} has no stream when all is quiet"));
                continue;
            };
            let complete = streams
                .iter()
                .filter(|stream| stream.generation == generation)
                .any(|stream| {
                    let told_all = |truth: &_| stream.clone().progress(view, truth, revision).is_ok();
                    self.world.with_truth(generation, told_all)
                });
            if !complete {
                self.world.violated(format!(
                    "watcher {at} of {view:?} at {streams:?} has not been told everything up to {revision} of store \
                     {generation}"
                ));
            }
        }
    }
}
