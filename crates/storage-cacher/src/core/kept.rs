//! What the core keeps of the past: how much, for how long, and how an earlier state is had from it.
//
// concerns: storage-cacher/SNAP-13: roots are kept at checkpoints only, in a queue by revision; what is between them is
//   rebuilt from the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{Batch, Entry, Event, EventKind, Index, Key, Revision};

use super::Core;
use super::log::{Epoch, Record};
use super::root::Root;
use super::scopes::Posted;
use crate::planted::{Bug, planted};

/// Records between two kept roots: how many changes a read of an earlier state takes back at most.
const CHECKPOINT_EVERY: usize = 128;
/// Rebuilt roots that are kept for the next page of the same list.
const REBUILT: usize = 4;

/// States that are kept as they were, before each of so many of the latest changes. Tests take a few, so that both ways
/// to an earlier state are gone.
const RECENT: usize = if cfg!(test) { 4 } else { 1_024 };
/// What such a state costs beside the objects that history keeps anyway: the nodes that the next change has copied.
const RECENT_BYTES: usize = 2_048;

/// What is kept of the past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// Bytes that are kept to know whom the records concern, and what these see of them.
    pub(crate) postings: usize,
    /// When the oldest kept record was made.
    pub(crate) oldest: Option<Duration>,
    /// All changes above this revision are kept.
    pub(crate) base: Revision,
    /// Records that were forgotten before their time, since the cache began.
    pub(crate) shortened: u64,
    /// Whether time alone will change something.
    pub(crate) ages: bool,
}

/// How to get at an earlier state: a kept root, and the changes to take back from it.
#[derive(Debug)]
pub(crate) struct Past {
    nearest: Arc<Root>,
    undo: Vec<Arc<Record>>,
    revision: Revision,
}

impl Past {
    /// Whether nothing has to be taken back.
    pub(crate) fn is_kept(&self) -> bool {
        self.undo.is_empty()
    }

    /// The earlier state.
    pub(crate) fn build(self, indexes: &[Index]) -> Arc<Root> {
        if self.undo.is_empty() || planted(Bug::ForgetsToUndo) {
            return self.nearest;
        }
        let mut root = Root::clone(&self.nearest);
        (root.revision, root.changed) = (self.revision, self.revision);
        for event in self.undo.iter().rev().flat_map(|record| record.events.iter().rev()) {
            match &event.previous {
                Some(previous) => drop(root.put(previous.clone(), indexes)),
                None => drop(root.remove(event.key.as_str(), indexes)),
            }
        }
        Arc::new(root)
    }
}

impl Core {
    /// Forgets what has become too old, or too much: of the log, and of what answers under way keep (`pinned`: the
    /// bytes that were superseded since the oldest of them began).
    pub(crate) fn tick(&mut self, now: Duration, pinned: u64) {
        let beyond = usize::try_from(pinned)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.log_bytes);
        self.share.remove(self.pinned);
        self.share.add(beyond);
        self.pinned = beyond;
        self.groups.sweep(now, self.limits.time);
        self.count_postings();
        self.trim(now);
    }

    /// Whether history and answers under way cost more than they may.
    pub(crate) fn is_over(&self) -> bool {
        self.share.bytes() > self.limits.bytes || self.share.is_over()
    }

    /// Whether this cache holds more than its part of what all caches may, while they hold too much together.
    pub(crate) fn owes(&self) -> bool {
        self.share.is_over()
    }

    pub(super) fn hold(&mut self, bytes: usize) {
        self.log_bytes += bytes;
        self.share.add(bytes);
    }

    /// Holds as many bytes as the groups' postings take by now.
    pub(super) fn count_postings(&mut self) {
        let now = self.groups.weight() + self.posted_bytes;
        if now >= self.postings {
            self.share.add(now - self.postings);
        } else {
            self.share.remove(self.postings - now);
        }
        self.postings = now;
    }

    pub(super) fn checkpoint(&mut self, root: &Arc<Root>) {
        // A sixteenth of the budget at most.
        let most = RECENT.min(self.limits.bytes / 16 / RECENT_BYTES);
        if most > 0 {
            self.forget_recent((self.recent.len() + 1).saturating_sub(most));
            self.recent.push_back(Arc::clone(root));
            self.share.add(RECENT_BYTES);
        }
        self.since_checkpoint += 1;
        if self.since_checkpoint >= CHECKPOINT_EVERY {
            self.since_checkpoint = 0;
            self.checkpoints.push_back(Arc::clone(root));
        }
    }

    /// Forgets so many of the kept states, oldest first.
    pub(super) fn forget_recent(&mut self, states: usize) {
        let states = states.min(self.recent.len());
        self.recent.drain(..states);
        self.share.remove(states * RECENT_BYTES);
    }

    /// Under pressure, states between checkpoints go first, then the log: all of it that must, but for the sake of
    /// answers under way no more than what is above half of the limit.
    pub(super) fn trim(&mut self, now: Duration) {
        // That the log is as long as it may be is no reason; that answers under way or other caches need room is one.
        while !self.recent.is_empty() && self.is_over() && (self.pinned > 0 || self.share.is_over()) {
            self.rebuilt.clear();
            self.forget_recent(1);
        }
        while let Some(front) = self.log.front() {
            let aged = now.saturating_sub(front.at) > self.limits.time && self.log.len() > self.limits.min_records;
            // The latest record stays whatever it costs, or nobody could ever see it.
            let gives = self.pinned == 0 || self.log_bytes + self.postings > self.limits.bytes / 2;
            let over = self.is_over() && gives && self.log.len() > 1;
            if !aged && !over {
                return;
            }
            if !aged {
                self.shortened += 1;
            }
            let (revision, weight) = (front.revision, front.weight);
            let posted = self.posted.pop_front().unwrap_or_default();
            self.groups.forget(&posted, revision);
            self.posted_bytes = self.posted_bytes.saturating_sub(posted.weight());
            self.count_postings();
            self.log.forget(revision);
            self.log_bytes = self.log_bytes.saturating_sub(weight);
            self.share.remove(weight);
            self.base = revision;
            while self.checkpoints.front().is_some_and(|root| root.revision < revision) {
                self.checkpoints.pop_front();
            }
            let old = self.recent.iter().take_while(|root| root.changed < revision);
            self.forget_recent(old.count());
            self.rebuilt.retain(|root| root.revision >= revision);
        }
    }

    /// Puts what happened above `since` in front of the log: `batches` is all of it up to where the log begins. False:
    /// the log is another one by now, or something is missing.
    pub(crate) fn extend(
        &mut self,
        (epoch, base): (&Arc<Epoch>, Revision),
        since: Revision,
        batches: Vec<Batch>,
        now: Duration,
    ) -> bool {
        let Some(root) = self.published.load_full() else {
            return false;
        };
        if !Arc::ptr_eq(epoch, &self.epoch) || base != self.base || since >= base {
            return false;
        }
        let mut latest: HashMap<Key, Entry> = HashMap::new();
        let mut records = Vec::with_capacity(batches.len());
        for batch in batches {
            let mut events = Vec::with_capacity(batch.events.len());
            for event in batch.events.iter() {
                let Some(event) = shared(event, &root, &mut latest) else {
                    return false;
                };
                events.push(event);
            }
            records.push(Arc::new(Record::new(batch.revision, events, now)));
        }
        for record in records.iter().rev() {
            self.posted.push_front(Posted::default());
            self.hold(record.weight);
        }
        self.log.prepend(since, &records);
        self.base = since;
        self.trim(now);
        true
    }

    /// Where the log is, and where it begins.
    pub(crate) fn begins(&self) -> (Arc<Epoch>, Revision) {
        (Arc::clone(&self.epoch), self.base)
    }

    /// How to get at the state of a revision that is not above the published one; none when it is forgotten.
    pub(crate) fn past(&self, revision: Revision) -> Option<Past> {
        let current = self.published.load_full()?;
        if revision < self.base || revision > current.revision {
            return None;
        }
        let recent = self.recent.partition_point(|root| root.changed <= revision);
        let recent = recent.checked_sub(1).and_then(|at| self.recent.get(at));
        let as_it_was = if revision >= current.changed {
            Some(&current)
        } else {
            recent
        };
        if let Some(root) = as_it_was {
            return Some(Past {
                nearest: Arc::clone(root),
                undo: Vec::new(),
                revision,
            });
        }
        let at = self.checkpoints.partition_point(|root| root.revision < revision);
        let kept = self.checkpoints.get(at).into_iter();
        let rebuilt = self.rebuilt.iter().filter(|root| root.revision >= revision);
        let nearest = kept
            .chain(rebuilt)
            .min_by_key(|root| root.revision)
            .map_or(current, Arc::clone);
        let undo = self.log.between(revision, nearest.revision);
        Some(Past {
            nearest,
            undo,
            revision,
        })
    }

    /// Keeps a rebuilt state for the next page.
    pub(crate) fn keep(&mut self, root: Arc<Root>, epoch: &Arc<Epoch>) {
        let known = self.rebuilt.iter().any(|own| own.revision == root.revision);
        if known || root.revision < self.base || !Arc::ptr_eq(epoch, &self.epoch) {
            return;
        }
        if self.rebuilt.len() >= REBUILT {
            self.rebuilt.pop_front();
        }
        self.rebuilt.push_back(root);
    }

    pub(crate) fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    pub(crate) fn history(&self) -> History {
        History {
            records: self.log.len(),
            bytes: self.log_bytes,
            postings: self.postings,
            oldest: self.log.front().map(|record| record.at),
            base: self.base,
            shortened: self.shortened,
            ages: self.log.len() > self.limits.min_records || self.groups.has_deserted() || self.pinned > 0,
        }
    }

    /// Bytes that were superseded since the cache began.
    pub(crate) fn superseded(&self) -> u64 {
        self.superseded
    }
}

/// An event of the backend's history that shares its objects with its neighbours and with the state. None: it cannot be
/// taken back, because what it replaced is not known.
fn shared(event: &Event, root: &Root, latest: &mut HashMap<Key, Entry>) -> Option<Event> {
    let mut event = event.clone();
    if event.previous.is_none() && event.kind != EventKind::Added {
        return None;
    }
    let object = event.object.as_mut()?;
    if let Some(previous) = &mut event.previous
        && let Some(known) = latest
            .get(&event.key)
            .filter(|known| known.revision() == previous.revision())
    {
        *previous = known.clone();
    }
    if event.kind == EventKind::Deleted {
        latest.remove(&event.key);
        return Some(event);
    }
    if let Some(current) = root
        .get(event.key.as_str())
        .filter(|current| current.revision() == object.revision())
    {
        *object = current.clone();
    }
    latest.insert(event.key.clone(), object.clone());
    Some(event)
}
