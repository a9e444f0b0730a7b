//! What a watch yields: revisions, not events.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::BoxStream;

use crate::entry::Entry;
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;
use crate::selector::SelectionPredicate;

/// What happened to an object, as the watcher's selection saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The object came into view.
    Added,
    /// The object changed.
    Modified,
    /// The object left the view.
    Deleted,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Which object.
    pub key: Key,
    /// The revision of the change.
    pub revision: Revision,
    /// The object after the change; of a deletion the last state, at the revision of the change. A deletion seen by a
    /// watch that asked for no previous values has none.
    pub object: Option<Entry>,
    /// The object before the change, where the watch asked for it and there was one.
    pub previous: Option<Entry>,
}

impl Event {
    /// The event that a watcher with this selection sees (`storage-api/WATCH-18`, `WATCH-19`); `None` when the change
    /// is not in its view. Needs the previous object for changes and deletions. An unreadable object cannot be
    /// selected by, so it is in everybody's view and its event is passed on unchanged.
    pub fn seen_by(&self, predicate: &SelectionPredicate) -> Option<Self> {
        if predicate.is_empty() {
            return Some(self.clone());
        }
        let matches = |entry: &Option<Entry>| match entry.as_ref().map(Entry::attributes) {
            None => Some(false),
            Some(Some(attributes)) => Some(predicate.matches(attributes)),
            Some(None) => None,
        };
        let now = if self.kind == EventKind::Deleted {
            Some(false)
        } else {
            matches(&self.object)
        };
        let before = match self.kind {
            EventKind::Added => Some(false),
            EventKind::Modified => matches(&self.previous),
            EventKind::Deleted => matches(if self.previous.is_some() {
                &self.previous
            } else {
                &self.object
            }),
        };
        let kind = match (before, now) {
            (None, _) | (_, None) => self.kind,
            (Some(false), Some(false)) => return None,
            (Some(false), Some(true)) => EventKind::Added,
            (Some(true), Some(true)) => EventKind::Modified,
            (Some(true), Some(false)) => EventKind::Deleted,
        };
        let object = match (kind, self.kind) {
            (EventKind::Deleted, EventKind::Modified) => self
                .previous
                .as_ref()
                .map(|previous| previous.at_revision(self.revision)),
            _ => self.object.clone(),
        };
        Some(Self {
            kind,
            key: self.key.clone(),
            revision: self.revision,
            object,
            previous: self.previous.clone(),
        })
    }
}

/// Everything that happened at one revision. Never split.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// The changes; usually one, more when a backend's transaction (an expiring lease) touched several keys.
    pub events: Arc<[Event]>,
}

/// One item of a watch.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WatchItem {
    /// A part of the initial state, in key order; each entry at its own revision.
    Initial(Vec<Entry>),
    /// The initial state is complete as of this revision.
    InitialEnd(Revision),
    /// Changes. Revisions rise strictly.
    Batch(Batch),
    /// Everything up to this revision was delivered.
    Progress(Revision),
}

/// A running watch. Ends with an error as its last item, or without one when the store shuts down or the caller drops
/// it. It can then be resumed from the last revision it delivered.
pub struct Watch(BoxStream<'static, Result<WatchItem>>);

impl Watch {
    /// A watch over a stream of items.
    pub fn new(items: impl Stream<Item = Result<WatchItem>> + Send + 'static) -> Self {
        Self(Box::pin(items))
    }
}

impl Stream for Watch {
    type Item = Result<WatchItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
