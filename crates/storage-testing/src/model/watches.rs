//! Watches: several at a time, read now and then; each is told every change of its selection, once and in order.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;

use apiserver_storage_api::{
    Batch, Event, EventKind, Key, ReadAt, Revision, Scope, StorageError, Watch, WatchItem, WatchOptions, WatchStart,
};

use super::state::{Body, Change, Pick};
use super::{Run, WATCHERS};
use crate::fixture::*;
use crate::harness::Harness;

/// What must come comes within milliseconds; this only turns a lost event into a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running watch, and what it has told so far.
pub(super) struct Watcher {
    scope: Scope,
    pick: Pick,
    start: WatchStart,
    progress: bool,
    stream: Watch,
    /// Everything up to here was told. None: in the initial state, which shows at least `at_least`.
    position: Option<Revision>,
    at_least: Revision,
    initial: Vec<(Key, Revision, Body)>,
    /// The backend was started again so often when this watch was opened.
    restarts: u32,
}

impl<H: Harness> Run<'_, H> {
    /// The watch of everything, which is there from the beginning to the end.
    pub(super) async fn open_observer(&mut self) {
        let start = WatchStart::After(self.model.head);
        let observer = self.watch(all(), Pick::All, start, false).await;
        self.watchers.push(observer.expect("a watch from now"));
    }

    pub(super) async fn open_watch(&mut self) {
        let scope = match self.below(3) {
            0 => all(),
            1 => within(&format!("n{}", self.below(3))),
            _ => Scope::Key(self.key()),
        };
        let start = match self.below(6) {
            0 => WatchStart::Now,
            1 => WatchStart::InitialState(ReadAt::MostRecent),
            2 => WatchStart::InitialState(ReadAt::Any),
            3 => WatchStart::InitialState(ReadAt::NotOlderThan(self.revision(self.model.compacted))),
            _ => WatchStart::After(self.revision(if self.once_in(4) {
                self.began()
            } else {
                self.model.compacted
            })),
        };
        let (pick, progress) = (self.pick(), self.once_in(2));
        let Some(watcher) = self.watch(scope, pick, start, progress).await else {
            return;
        };
        if self.watchers.len() < WATCHERS {
            self.watchers.push(watcher);
        } else {
            let at = 1 + self.index(WATCHERS - 1);
            self.watchers[at] = watcher;
        }
    }

    /// Opens a watch; none if its history is gone.
    async fn watch(&self, scope: Scope, pick: Pick, start: WatchStart, progress: bool) -> Option<Watcher> {
        let options = WatchOptions {
            predicate: pick.predicate(),
            progress,
            ..WatchOptions::from_start(start)
        };
        let stream = match self.store.watch(&scope, options).await {
            Ok(stream) => stream,
            Err(error) => {
                let gone = matches!(start, WatchStart::After(after) if self.gone(after));
                assert!(error.is_expired() && gone, "watch {scope} {start:?}: {error:?}");
                return None;
            }
        };
        let (position, at_least) = match start {
            WatchStart::After(after) => (Some(after), after),
            WatchStart::Now => (Some(self.model.head), self.model.head),
            WatchStart::InitialState(ReadAt::MostRecent) => (None, self.model.head),
            WatchStart::InitialState(ReadAt::Any) => (None, self.model.floor),
            WatchStart::InitialState(ReadAt::NotOlderThan(least)) => (None, least.max(self.model.floor)),
        };
        if let (WatchStart::After(after), true) = (start, self.direct()) {
            // One that is just one behind needs nothing that is gone.
            assert!(
                after.next() >= self.model.compacted,
                "watch {scope} {start:?}: history was given up"
            );
        }
        Some(Watcher {
            scope,
            pick,
            start,
            progress,
            stream,
            position,
            at_least,
            initial: Vec::new(),
            restarts: self.restarts,
        })
    }

    pub(super) async fn read_watch(&mut self) {
        self.read_watch_at(self.index(self.watchers.len())).await;
    }

    pub(super) async fn read_all_watches(&mut self) {
        for at in (0..self.watchers.len()).rev() {
            self.read_watch_at(at).await;
        }
    }

    /// Reads a watch until it has told everything that happened. It goes if it must be refused by now.
    pub(super) async fn read_watch_at(&mut self, at: usize) {
        while !self.has_told_all(&self.watchers[at]) {
            let item = tokio::time::timeout(PATIENCE, self.watchers[at].stream.next()).await;
            let item = item.unwrap_or_else(|_| panic!("{}: nothing comes", self.place(at)));
            match item {
                Some(Ok(item)) => self.take(at, item),
                ended => {
                    if !self.resume(at, ended.and_then(|ended| ended.err())).await {
                        return;
                    }
                }
            }
        }
    }

    fn place(&self, at: usize) -> String {
        let Watcher {
            scope,
            pick,
            start,
            position,
            ..
        } = &self.watchers[at];
        let next = position.and_then(|position| self.model.next_group(position, scope, *pick));
        format!("watch of {scope} {pick:?} {start:?}, which is at {position:?}; next: {next:?}")
    }

    fn has_told_all(&self, watcher: &Watcher) -> bool {
        let told = |position| self.model.next_group(position, &watcher.scope, watcher.pick).is_none();
        watcher.position.is_some_and(told)
    }

    /// A watch ended. It may when its backend does, and goes on in the next one; or when its history is gone. False: it
    /// is no more. The observer is always there: without history it begins again with the present.
    async fn resume(&mut self, at: usize, error: Option<StorageError>) -> bool {
        let watcher = &self.watchers[at];
        let expired = error.as_ref().is_some_and(StorageError::is_expired);
        let again = if expired {
            let gone = watcher.position.is_none_or(|position| self.gone(position));
            assert!(gone, "{}: {error:?}", self.place(at));
            None
        } else {
            assert!(watcher.restarts < self.restarts, "{}: ended: {error:?}", self.place(at));
            let start = watcher.position.map_or(watcher.start, WatchStart::After);
            self.watch(watcher.scope.clone(), watcher.pick, start, watcher.progress)
                .await
        };
        let again = match again {
            None if at == 0 => {
                let start = WatchStart::After(self.model.head);
                self.watch(all(), Pick::All, start, false).await
            }
            again => again,
        };
        match again {
            Some(watcher) => self.watchers[at] = watcher,
            None => {
                self.watchers.swap_remove(at);
                return false;
            }
        }
        true
    }

    /// Takes what a watch tells into account.
    fn take(&mut self, at: usize, item: WatchItem) {
        match &item {
            WatchItem::Batch(batch) => self.model.show(batch.revision),
            WatchItem::InitialEnd(revision) | WatchItem::Progress(revision) => self.model.show(*revision),
            _ => {}
        }
        let place = self.place(at);
        let (model, watcher) = (&self.model, &mut self.watchers[at]);
        match item {
            WatchItem::Initial(entries) => {
                assert!(
                    watcher.position.is_none(),
                    "{place}: initial entries behind the initial state"
                );
                let shown = entries
                    .iter()
                    .map(|entry| (entry.key().clone(), entry.revision(), Body::of(entry)));
                watcher.initial.extend(shown);
            }
            WatchItem::InitialEnd(revision) => {
                assert!(watcher.position.is_none(), "{place}: two initial states");
                assert!(
                    revision >= watcher.at_least && revision <= model.head,
                    "{place}: at {revision}"
                );
                let want = model.listed(revision, &watcher.scope, watcher.pick).into_iter();
                let want: Vec<_> = want
                    .map(|(key, stored)| (key, stored.revision, (*stored.body).clone()))
                    .collect();
                assert_eq!(
                    std::mem::take(&mut watcher.initial),
                    want,
                    "{place}: initial state at {revision}"
                );
                watcher.position = Some(revision);
            }
            WatchItem::Batch(batch) => {
                let position = watcher
                    .position
                    .unwrap_or_else(|| panic!("{place}: changes before the initial state"));
                let next = model.next_group(position, &watcher.scope, watcher.pick);
                let Some((revision, changes)) = next else {
                    panic!("{place}: invented {batch:?}")
                };
                assert_eq!(batch.revision, revision, "{place}: {batch:?}");
                same(&place, &batch, &changes, watcher);
                watcher.position = Some(revision);
            }
            WatchItem::Progress(revision) => {
                let position = watcher
                    .position
                    .unwrap_or_else(|| panic!("{place}: progress before the initial state"));
                assert!(watcher.progress, "{place}: nobody asked for progress");
                assert!(
                    revision >= position && revision <= model.head,
                    "{place}: progress to {revision}"
                );
                let next = model.next_group(position, &watcher.scope, watcher.pick);
                assert!(
                    next.is_none_or(|(next, _)| next > revision),
                    "{place}: progress to {revision} skips changes"
                );
                watcher.position = Some(revision);
            }
            other => panic!("{place}: {other:?}"),
        }
    }

    /// What the observer is told next, while things expire: deletions, at revisions that are new.
    pub(super) async fn expired_next(&mut self) -> Vec<(Revision, Key)> {
        let batch = loop {
            let item = tokio::time::timeout(PATIENCE, self.watchers[0].stream.next()).await;
            match item.unwrap_or_else(|_| panic!("{}: nothing expires", self.place(0))) {
                Some(Ok(WatchItem::Batch(batch))) => break batch,
                Some(Ok(other)) => panic!("{}: {other:?}", self.place(0)),
                // Its backend was started again since it was read last.
                ended => drop(self.resume(0, ended.and_then(|ended| ended.err())).await),
            }
        };
        assert!(batch.revision > self.model.head, "{batch:?} behind {}", self.model.head);
        self.watchers[0].position = Some(batch.revision);
        let gone = |event: &Event| {
            assert_eq!(event.kind, EventKind::Deleted, "{event:?}");
            (batch.revision, event.key.clone())
        };
        batch.events.iter().map(gone).collect()
    }
}

/// A batch is exactly the changes of its revision.
fn same(place: &str, batch: &Batch, changes: &[&Change], watcher: &Watcher) {
    let keys = |keys: &mut dyn Iterator<Item = Key>| keys.collect::<BTreeSet<Key>>();
    let told = keys(&mut batch.events.iter().map(|event| event.key.clone()));
    let want = keys(&mut changes.iter().map(|change| change.key.clone()));
    assert_eq!((told, batch.events.len()), (want, changes.len()), "{place}: {batch:?}");
    for (event, change) in batch.events.iter().flat_map(|event| {
        let of = changes.iter().filter(|change| change.key == event.key);
        of.map(move |change| (event, *change))
    }) {
        let (kind, body) = change.seen(&watcher.scope, watcher.pick).expect("selected before");
        assert_eq!(
            (event.kind, event.revision),
            (kind, batch.revision),
            "{place}: {event:?}"
        );
        let object = event
            .object
            .as_ref()
            .unwrap_or_else(|| panic!("{place}: no object: {event:?}"));
        assert_eq!(object.revision(), batch.revision, "{place}: {event:?}");
        assert_eq!(Body::of(object), *body, "{place}: {event:?}");
        let previous = event.previous.as_ref().map(|entry| (entry.revision(), Body::of(entry)));
        let before = change
            .before
            .as_ref()
            .map(|stored| (stored.revision, (*stored.body).clone()));
        assert_eq!(previous, before, "{place}: the state before, {event:?}");
    }
}
