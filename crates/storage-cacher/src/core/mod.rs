//! The cache's core: a synchronous state machine with one writer. No tasks, no clocks, no I/O.
//!
//! It is driven by [`take_over`](Core::take_over) (a list of the backend), [`apply`](Core::apply) (everything of one revision),
//! [`progress`](Core::progress) and [`tick`](Core::tick), and answers with whom to wake ([`Effects`]). What it
//! guarantees to readers:
//!
//! - The published root is the state of exactly one revision, indexes included, and only moves forward within an
//!   epoch.
//! - A record enters the rings of those who see something of it after the state that holds it was published, and [`Epoch::through`] is raised after
//!   that: whoever sees an event can read it, and whoever reads `through` and then finds a ring empty has seen all.
//! - The previous value of an event is the core's own, never the backend's.
//! - After a list that does not continue the log, the log is empty and starts at the list's revision.
//
// deviates: storage-cacher/HIST-09: without a list there is no state, and watches are told that the cache is not ready.
// deviates: storage-cacher/EVT-08: attributes are extracted where a value enters; one that cannot be read is told to
//   watchers as such, by key.
// deviates: storage-cacher/STO-06: the values of indexes are attributes of the entry, and looking them up cannot fail
//   (also STO-04).
// concerns: storage-cacher/ENC-03: a record is the bytes that a JSON client is sent; nothing is encoded on the way, so
//   nothing of it can fail, and nothing has to be kept for the slowest (also ENC-04, ENC-07). Other forms are made and
//   kept by the front, once for each record and form (also ENC-09).
// deviates: storage-cacher/ENC-05: a record cannot be edited; who wants to decodes it and has a copy.
// concerns: storage-cacher/MEM-11: one record serves everybody; there is nothing to copy per event.
// deviates: storage-cacher/HIST-03: history is bounded by bytes and age, not by a number of events (also HIST-04,
//   HIST-05, HIST-06, HIST-07, HIST-12, CONST-03).
// deviates: storage-cacher/HIST-01: decode times are not recorded (also WREC-01, MET-10).

pub(crate) mod kept;
pub(crate) mod log;
pub(crate) mod root;
pub(crate) mod scopes;
pub(crate) mod wake;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::kept::History;
use self::log::{Cursor, End, Epoch, Record, Ring, Selection};
use self::root::Root;
use self::scopes::{Groups, Posted, Topic};
use self::wake::{Place, Wakers};
use crate::budget::Share;
use crate::planted::{Bug, planted};
use crate::sync::ArcSwapOption;
use apiserver_storage_api::{Batch, Entry, Event, EventKind, Index, ResourceInfo, Revision, Scope, SelectionPredicate};

/// How much history the core keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
    /// So many records are kept whatever their age.
    pub(crate) min_records: usize,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Core {
    prefix: Arc<str>,
    indexes: Arc<[Index]>,
    limits: Limits,
    share: Share,
    published: Arc<ArcSwapOption<Root>>,
    epoch: Arc<Epoch>,
    /// Every record of the epoch that is kept; the ring of watchers of everything.
    log: Ring,
    everything: Arc<Selection>,
    /// For each record of the log, the groups whose rings hold it.
    posted: VecDeque<Posted>,
    groups: Groups,
    /// Bytes that the log keeps.
    log_bytes: usize,
    /// Bytes of what was posted, beside the rings.
    posted_bytes: usize,
    /// Bytes of all that groups have seen, as far as the share has it.
    postings: usize,
    /// Bytes that answers under way keep beside what the log does, when that was last looked at.
    pinned: usize,
    /// Records that were forgotten before their time.
    shortened: u64,
    /// All changes above this revision are in the log.
    base: Revision,
    superseded: u64,
    checkpoints: VecDeque<Arc<Root>>,
    /// The states before each of the latest changes, without a gap.
    recent: VecDeque<Arc<Root>>,
    since_checkpoint: usize,
    rebuilt: VecDeque<Arc<Root>>,
}

/// What the shell does after a step of the core.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Effects {
    /// Groups that have something new, or have ended.
    pub(crate) wake: Vec<Arc<Wakers>>,
    /// Number of events that were recorded.
    pub(crate) events: usize,
    /// What is left of an epoch that is over.
    gone: Option<Box<Gone>>,
}

/// The state and the log of an epoch that is over: freed where nobody waits for it, for it may be all objects.
#[derive(Debug, Default)]
struct Gone {
    roots: Vec<Arc<Root>>,
    groups: Groups,
    log: Option<Ring>,
    posted: VecDeque<Posted>,
}

impl Gone {
    fn free(self) {
        let Self {
            roots,
            groups,
            log,
            posted,
        } = self;
        drop((roots, groups, log, posted));
    }
}

/// A state as listed, made ready to take over.
#[derive(Debug)]
pub(crate) struct Listed {
    root: Root,
    /// The state at hand, if this is the very same.
    repeats: Option<Arc<Root>>,
}

impl Listed {
    /// Builds the state that a list shows, and compares it with the one at hand.
    pub(crate) fn new(
        revision: Revision,
        store: Option<Arc<str>>,
        entries: Vec<Entry>,
        indexes: &[Index],
        at_hand: Option<Arc<Root>>,
    ) -> Self {
        let mut root = Root::load(revision, 0, entries, indexes);
        root.store = store;
        let repeats =
            at_hand.filter(|old| old.revision == revision && old.store == root.store && old.same_objects(&root));
        Self { root, repeats }
    }
}

impl Effects {
    /// Wakes everybody concerned, and frees what is left of an epoch that is over. Not under the core's lock.
    pub(crate) fn perform(self) {
        for wakers in self.wake {
            wakers.wake();
        }
        if let Some(gone) = self.gone {
            gone.free();
        }
    }
}

/// Why a batch cannot continue the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// A watch yields rising revisions.
    #[error("the backend's watch went from revision {at} to {batch}")]
    OutOfOrder { at: Revision, batch: Revision },
    /// A change without an object.
    #[error("the backend's watch gave a change without its object at revision {0}")]
    NoObject(Revision),
    /// A watch before a list.
    #[error("nothing was listed yet")]
    NotLoaded,
}

/// Where a watcher begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    /// Behind the published state.
    Tail,
    /// Behind this revision.
    After(Revision),
}

/// What a watcher is made of.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// The state that the cursors stand at, if the watcher begins at the tail.
    pub(crate) root: Arc<Root>,
    pub(crate) epoch: Arc<Epoch>,
    pub(crate) selection: Arc<Selection>,
    /// History that the watcher's ring does not have: read from the whole log, up to and with this revision.
    pub(crate) catch_up: Option<(Cursor, Revision)>,
    pub(crate) live: Cursor,
    pub(crate) place: Place,
}

/// The log does not reach back that far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten;

impl Core {
    pub(crate) fn new(info: &ResourceInfo, limits: Limits, share: Share, published: Arc<ArcSwapOption<Root>>) -> Self {
        let everything = Arc::new(Selection {
            scope: Scope::all(info.prefix()),
            whole: true,
            predicate: SelectionPredicate::default(),
            wakers: Arc::default(),
        });
        Self {
            prefix: info.prefix().as_str().into(),
            indexes: info.indexes().into(),
            limits,
            share,
            published,
            epoch: Epoch::new(Revision::MIN),
            log: Ring::new(Revision::MIN),
            everything,
            posted: VecDeque::new(),
            groups: Groups::default(),
            log_bytes: 0,
            posted_bytes: 0,
            postings: 0,
            pinned: 0,
            shortened: 0,
            base: Revision::MIN,
            superseded: 0,
            checkpoints: VecDeque::new(),
            recent: VecDeque::new(),
            since_checkpoint: 0,
            rebuilt: VecDeque::new(),
        }
    }

    /// The state as listed ([`Listed`]). Begins a new epoch: the log is empty and starts at the list's revision. What this
    /// does for each object was done before, and is left to be done by [`Effects::perform`]: others wait meanwhile.
    pub(crate) fn take_over(&mut self, listed: Listed) -> Effects {
        let Listed { mut root, repeats } = listed;
        root.superseded = self.superseded;
        let revision = root.revision;
        let old = self.published.swap(Some(Arc::new(root)));
        // Watchers that had seen everything go on only where the list shows the very state that they have seen.
        let is_at_hand = |state: &&Arc<Root>| old.as_ref().is_some_and(|old| Arc::ptr_eq(old, state));
        let continues = repeats.as_ref().filter(is_at_hand).map(|state| state.revision);
        let effects = self.restart(revision, End::Listed(continues), old);
        self.epoch = Epoch::new(revision);
        effects
    }

    /// Everything of one revision.
    pub(crate) fn apply(&mut self, batch: &Batch, now: Duration) -> Result<Effects, Fault> {
        let root = self.published.load_full().ok_or(Fault::NotLoaded)?;
        if batch.revision <= root.revision {
            return Err(Fault::OutOfOrder {
                at: root.revision,
                batch: batch.revision,
            });
        }
        let mut next = Root::clone(&root);
        next.revision = batch.revision;
        let mut events = Vec::with_capacity(batch.events.len());
        for event in batch.events.iter() {
            events.extend(self.change(&mut next, event)?);
        }
        if events.is_empty() {
            self.publish(next);
            self.epoch.raise(batch.revision);
            return Ok(Effects::default());
        }
        if planted(Bug::SplitsBatch) && events.len() > 1 {
            let first = Record::new(batch.revision, events.drain(..1).collect(), now);
            self.record(&Arc::new(first)).perform();
        }
        let record = Arc::new(Record::new(batch.revision, events, now));
        self.superseded += record.weight as u64;
        (next.superseded, next.changed) = (self.superseded, batch.revision);
        self.checkpoint(&root);
        self.publish(next);
        if planted(Bug::SkipsEvent) && batch.revision.get().is_multiple_of(5) {
            self.epoch.raise(batch.revision);
            return Ok(Effects::default());
        }
        if planted(Bug::DoublesEvent) {
            self.record(&record).perform();
        }
        let effects = self.record(&record);
        self.epoch.raise(batch.revision);
        self.trim(now);
        Ok(effects)
    }

    /// The event as watchers of the whole kind see it; none when nothing changed for them.
    fn change(&self, root: &mut Root, event: &Event) -> Result<Option<Event>, Fault> {
        let (key, revision) = (event.key.clone(), event.revision);
        if event.kind == EventKind::Deleted {
            let Some(previous) = root.remove(key.as_str(), &self.indexes) else {
                return Ok(None);
            };
            let object = Some(previous.at_revision(revision));
            return Ok(Some(Event {
                kind: EventKind::Deleted,
                key,
                revision,
                object,
                previous: Some(previous),
            }));
        }
        let object = event.object.clone().ok_or(Fault::NoObject(revision))?;
        let mut previous = root.put(object.clone(), &self.indexes);
        if planted(Bug::WrongPrevious) && previous.is_some() {
            previous = Some(object.clone());
        }
        let kind = if previous.is_some() {
            EventKind::Modified
        } else {
            EventKind::Added
        };
        Ok(Some(Event {
            kind,
            key,
            revision,
            object: Some(object),
            previous,
        }))
    }

    fn record(&mut self, record: &Arc<Record>) -> Effects {
        let mut wake = vec![Arc::clone(&self.everything.wakers)];
        self.log.push(record);
        let posted = self
            .groups
            .post(record, &self.prefix, |wakers| wake.push(Arc::clone(wakers)));
        self.posted_bytes += posted.weight();
        self.posted.push_back(posted);
        self.hold(record.weight);
        self.count_postings();
        Effects {
            wake,
            events: record.events.len(),
            ..Effects::default()
        }
    }

    /// Nothing happened up to this revision beyond what was applied.
    pub(crate) fn progress(&mut self, revision: Revision) {
        let Some(root) = self.published.load_full().filter(|root| root.revision < revision) else {
            return;
        };
        let mut next = Root::clone(&root);
        next.revision = revision;
        self.publish(next);
        self.epoch.raise(revision);
    }

    /// Ends all watchers once they have read what there is. Nothing is applied any more.
    pub(crate) fn close(&mut self) -> Effects {
        let old = self.published.swap(None);
        self.epoch.finish(End::Closed);
        let roots = old.into_iter().collect();
        Effects {
            gone: Some(Box::new(Gone {
                roots,
                ..Gone::default()
            })),
            ..self.wake_all()
        }
    }

    /// Gives up the state and the log. Watchers that have seen everything end without an error.
    pub(crate) fn unload(&mut self) -> Effects {
        let old = self.published.swap(None);
        let effects = self.restart(self.base, End::Closed, old);
        self.epoch = Epoch::new(self.base);
        effects
    }

    fn wake_all(&self) -> Effects {
        let groups = self.groups.iter().map(|group| &group.selection);
        let wake = groups.chain([&self.everything]).map(|own| Arc::clone(&own.wakers));
        Effects {
            wake: wake.collect(),
            ..Effects::default()
        }
    }

    /// Ends the epoch: cursors are cut first, so that whoever sees the end knows whether it has seen everything.
    fn restart(&mut self, base: Revision, end: End, state: Option<Arc<Root>>) -> Effects {
        let mut effects = self.wake_all();
        let kept = self.checkpoints.drain(..).chain(self.rebuilt.drain(..));
        effects.gone = Some(Box::new(Gone {
            roots: kept.chain(self.recent.iter().cloned()).chain(state).collect(),
            groups: std::mem::take(&mut self.groups),
            log: Some(std::mem::replace(&mut self.log, Ring::new(base))),
            posted: std::mem::take(&mut self.posted),
        }));
        self.posted_bytes = 0;
        self.count_postings();
        self.forget_recent(usize::MAX);
        self.since_checkpoint = 0;
        self.share.remove(self.log_bytes);
        self.log_bytes = 0;
        self.base = base;
        self.epoch.finish(end);
        effects
    }

    fn publish(&self, root: Root) {
        self.published.store(Some(Arc::new(root)));
    }

    /// Where a watcher of this scope and selection begins to read.
    pub(crate) fn subscribe(
        &mut self,
        scope: &Scope,
        predicate: &SelectionPredicate,
        from: From,
    ) -> Option<Result<Subscription, Forgotten>> {
        let root = self.published.load_full()?;
        match from {
            From::After(revision) if revision < self.base => return Some(Err(Forgotten)),
            // The state went back since the watcher was told that it may begin there.
            From::After(revision) if revision > root.revision => return None,
            _ => {}
        }
        let whole = scope.as_str() == &*self.prefix && matches!(scope, Scope::Under(_));
        let (selection, ring) = if whole && predicate.is_empty() {
            (&self.everything, &self.log)
        } else {
            let topic = || Topic::of(scope, &self.prefix, predicate, &self.indexes);
            let group = self.groups.of(topic, scope, whole, predicate, root.revision)?;
            (&group.selection, &group.ring)
        };
        let from = match from {
            From::After(revision) if planted(Bug::ResumesOneLate) && revision < root.revision => {
                From::After(revision.next())
            }
            from => from,
        };
        let (live, catch_up) = match from {
            From::Tail => (ring.at_tail(), None),
            From::After(revision) => match (ring.after(revision), self.log.after(revision)) {
                (Some(cursor), _) => (cursor, None),
                (None, Some(cursor)) => (ring.at_tail(), Some((cursor, root.revision))),
                (None, None) => return Some(Err(Forgotten)),
            },
        };
        let (selection, place) = (Arc::clone(selection), selection.wakers.join());
        Some(Ok(Subscription {
            root,
            epoch: Arc::clone(&self.epoch),
            selection,
            catch_up,
            live,
            place,
        }))
    }
}

#[cfg(test)]
mod tests;
