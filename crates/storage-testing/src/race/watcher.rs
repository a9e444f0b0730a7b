//! A watcher: begins anywhere, goes on from its last revision when its stream ends, and keeps what it was told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;

use apiserver_storage_api::time::{SeededRng, random_below};
use apiserver_storage_api::{Batch, Key, ReadAt, Revision, Scope, Storage, WatchItem, WatchOptions, WatchStart};

use super::{Faults, PATIENCE, Shared};
use crate::fixture::*;
use crate::model::{Body, Model, Pick, VALUES};

/// Before a store that did not take the watch is asked again.
const AGAIN: Duration = Duration::from_millis(5);

/// What a watcher was told.
#[derive(Debug)]
pub(super) struct Told {
    scope: Scope,
    pick: Pick,
    /// The initial state, where it asked for one, and its revision; otherwise the revision it began behind.
    initial: Option<Vec<(Key, Revision, Body)>>,
    start: Option<Revision>,
    batches: Vec<Batch>,
    /// Progress, and how many batches had come before.
    progress: Vec<(Revision, usize)>,
    position: Option<Revision>,
    resumed: u64,
}

pub(super) async fn run(shared: Arc<Shared>, store: Arc<dyn Storage>, number: u64, start: Revision) -> Told {
    let rng = SeededRng::new(shared.load.seed.wrapping_mul(1_000) + 500 + number);
    let below = |bound| random_below(&rng, bound);
    let scope = if number == 0 || below(2) == 0 {
        all()
    } else {
        within("n0")
    };
    let pick = match below(3) {
        0 if number > 0 => Pick::Label(below(VALUES)),
        1 if number > 0 => Pick::NotLabel(below(VALUES)),
        _ => Pick::All,
    };
    let from = match number % 3 {
        0 => WatchStart::After(start),
        1 => WatchStart::InitialState(ReadAt::MostRecent),
        _ => WatchStart::InitialState(ReadAt::Any),
    };
    let mut told = Told {
        scope,
        pick,
        initial: None,
        start: None,
        batches: Vec::new(),
        progress: Vec::new(),
        position: None,
        resumed: 0,
    };
    if let WatchStart::After(start) = from {
        (told.start, told.position) = (Some(start), Some(start));
    }
    told.follow(&shared, &*store, from, number.is_multiple_of(2)).await;
    told
}

impl Told {
    async fn follow(&mut self, shared: &Shared, store: &dyn Storage, from: WatchStart, progress: bool) {
        let mut stopped = None;
        while !self.is_through(shared) {
            let start = self.position.map_or(from, WatchStart::After);
            self.initial = if self.position.is_none() {
                Some(Vec::new())
            } else {
                self.initial.take()
            };
            let options = WatchOptions {
                predicate: self.pick.predicate(),
                progress,
                ..WatchOptions::from_start(start)
            };
            let mut watch = match store.watch(&self.scope, options).await {
                Ok(watch) => watch,
                Err(error) => {
                    let waits = shared.load.faults == Faults::Network && !error.is_expired();
                    assert!(waits, "watch from {start:?}: {error:?}");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            loop {
                let next = tokio::time::timeout(Duration::from_millis(200), watch.next()).await;
                match next {
                    Ok(Some(Ok(item))) => self.take(item),
                    Ok(Some(Err(error))) => {
                        let breaks = shared.load.faults == Faults::Network && !error.is_expired();
                        assert!(breaks, "watch at {:?}: {error:?}", self.position);
                        break;
                    }
                    Ok(None) => break,
                    Err(_) if shared.stopped() => {
                        let since = stopped.get_or_insert_with(Instant::now);
                        assert!(since.elapsed() < PATIENCE, "watch at {:?} is stuck", self.position);
                    }
                    Err(_) => {}
                }
                if self.is_through(shared) {
                    return;
                }
            }
            self.resumed += 1;
        }
    }

    /// The last write of all that it selects was told, or reported as reached.
    fn is_through(&self, shared: &Shared) -> bool {
        let ends = shared.ends.lock();
        let selects = |value: &u64| match self.pick {
            Pick::Label(wanted) => *value == wanted,
            Pick::NotLabel(refused) => *value != refused,
            _ => true,
        };
        let mut last = ends.iter().rev().filter(|(value, _)| selects(value));
        last.next().is_some_and(|(_, end)| self.position >= Some(*end))
    }

    fn take(&mut self, item: WatchItem) {
        match item {
            WatchItem::Initial(entries) => {
                assert!(self.position.is_none(), "initial entries behind the initial state");
                let entries = entries
                    .iter()
                    .map(|entry| (entry.key().clone(), entry.revision(), Body::of(entry)));
                self.initial.get_or_insert_default().extend(entries);
            }
            WatchItem::InitialEnd(revision) => {
                assert!(self.position.is_none(), "two initial states");
                (self.start, self.position) = (Some(revision), Some(revision));
            }
            WatchItem::Batch(batch) => {
                assert!(
                    self.position < Some(batch.revision),
                    "{batch:?} behind {:?}",
                    self.position
                );
                self.position = Some(batch.revision);
                self.batches.push(batch);
            }
            WatchItem::Progress(revision) => {
                assert!(
                    self.position <= Some(revision),
                    "progress to {revision} behind {:?}",
                    self.position
                );
                self.position = Some(revision);
                self.progress.push((revision, self.batches.len()));
            }
            other => panic!("{other:?}"),
        }
    }

    /// Holds what was told against the history. Returns how many events it was, and how often the watch began again.
    pub(super) fn check(&self, history: &Model) -> (u64, u64) {
        let (Self { scope, pick, .. }, start) = (self, self.start.expect("it began"));
        let place = format!("watch of {scope} {pick:?} from {start}");
        if let Some(initial) = &self.initial {
            let want = history.listed(start, scope, *pick).into_iter();
            let want: Vec<_> = want
                .map(|(key, stored)| (key, stored.revision, (*stored.body).clone()))
                .collect();
            assert_eq!(*initial, want, "{place}: initial state");
        }
        let later = history.changes.iter().filter(|change| change.revision > start);
        let wanted: Vec<_> = later
            .filter_map(|change| change.seen(scope, *pick).map(|seen| (change, seen)))
            .collect();
        for (number, (change, (kind, body))) in wanted.iter().enumerate() {
            let Some(batch) = self.batches.get(number) else {
                panic!("{place}: never told of {change:?}, at {:?}", self.position)
            };
            assert_eq!(batch.events.len(), 1, "{place}: {batch:?}");
            let event = &batch.events[0];
            assert_eq!(
                (batch.revision, event.kind, &event.key),
                (change.revision, *kind, &change.key),
                "{place}: event {number}"
            );
            let shown = event.object.as_ref().map(Body::of);
            assert_eq!(shown.as_ref(), Some(*body), "{place}: {event:?}");
        }
        assert_eq!(self.batches.len(), wanted.len(), "{place}: more was told than happened");
        for (revision, batches) in &self.progress {
            let before = wanted.iter().filter(|(change, _)| change.revision <= *revision).count();
            assert!(*batches >= before, "{place}: progress to {revision} ahead of events");
        }
        (self.batches.len() as u64, self.resumed)
    }
}
