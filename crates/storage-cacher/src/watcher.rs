//! One watch: a cursor on the log and a way to be woken.
//!
//! A watcher is its own stream. It has no buffer, no task, no timer and no channel; what it shares with its equals is
//! kept once for all of them.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use apiserver_storage_api::{Batch, Entry, Event, OnUnreadable, Result, Revision, StorageError, WatchItem};
use futures::Stream;

use crate::cacher::{Open, Shared};
use crate::core::log::{Cursor, End, Epoch, Next, Record, Selection};
use crate::core::root::{Released, Selected, Step, Walk, is_selected};
use crate::core::wake::Place;
use crate::core::{From, Subscription};
use crate::planted::{Bug, planted};
use crate::reminders::{Due, Reminder};

/// Entries of one part of the initial state, and objects that are looked at for it in one go.
const INITIAL_PART: usize = if cfg!(test) { 2 } else { 512 };
const INITIAL_CHUNK: usize = if cfg!(test) { 3 } else { 4_096 };
/// Records that are passed over before other tasks get their turn.
const PASS_OVER: usize = 256;

/// One watch.
pub(crate) struct Watcher {
    /// Does not keep the cache open.
    shared: Weak<Shared>,
    selection: Arc<Selection>,
    epoch: Arc<Epoch>,
    /// History that the group's ring does not have: read from the whole log.
    catch_up: Option<Box<(Cursor, Revision)>>,
    live: Cursor,
    place: Place,
    /// Set when the client wants to hear of progress.
    reminder: Option<Reminder>,
    /// What is left of the initial state.
    initial: Option<Box<Walk>>,
    initial_end: Option<Revision>,
    /// Everything of the selection up to this revision was delivered.
    position: Revision,
    /// The last revision that the client knows of.
    told: Revision,
    /// The second, by the cache's clock, in which the delay of a delivery was last measured.
    measured: u32,
    over: bool,
    _open: Open,
}

impl Watcher {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        subscription: Subscription,
        position: Revision,
        initial: Option<Walk>,
        reminder: Option<Reminder>,
    ) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            selection: subscription.selection,
            epoch: subscription.epoch,
            catch_up: subscription.catch_up.map(Box::new),
            live: subscription.live,
            place: subscription.place,
            reminder,
            initial: initial.map(Box::new),
            initial_end: None,
            position,
            told: position,
            measured: 0,
            over: false,
            _open: Open::new(&shared.watchers),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<WatchItem>>> {
        while let Some(walk) = &mut self.initial {
            let Ok(part) = initial_part(walk, &self.selection) else {
                return Poll::Ready(Some(Err(self.expired())));
            };
            if walk.left() == 0 {
                self.initial = None;
                self.initial_end = Some(self.position);
            }
            if !part.is_empty() {
                if let Some(shared) = self.shared.upgrade() {
                    shared.metrics.init_events.increment(part.len() as u64);
                }
                return Poll::Ready(Some(Ok(WatchItem::Initial(part))));
            }
            if self.initial.is_some() {
                return give_way(context);
            }
        }
        if let Some(revision) = self.initial_end.take() {
            return Poll::Ready(Some(Ok(WatchItem::InitialEnd(revision))));
        }
        self.poll_change(context)
    }

    fn poll_change(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<WatchItem>>> {
        let (mut passed, mut waits) = (0, false);
        loop {
            // Both are read before the cursor: only then does an empty ring mean what they say.
            let (end, through) = (self.epoch.end(), self.epoch.through());
            if planted(Bug::BookmarksEarly)
                && let Some(bookmark) = self.bookmark(through)
            {
                return Poll::Ready(Some(Ok(bookmark)));
            }
            match self.advance() {
                Found::Seen(record, Some(events)) => {
                    self.position = record.revision;
                    self.told = record.revision;
                    self.measure(&record, through);
                    let revision = record.revision;
                    return Poll::Ready(Some(Ok(WatchItem::Batch(Batch { revision, events }))));
                }
                Found::Seen(record, None) => self.position = self.position.max(record.revision),
                Found::Lost if end == Some(End::Closed) => return Poll::Ready(None),
                Found::Lost => return Poll::Ready(Some(Err(self.expired()))),
                Found::Empty => {
                    self.position = self.position.max(through);
                    if let Some(end) = end {
                        match self.over(end, through) {
                            Over::Ends(last) => return Poll::Ready(last),
                            Over::GoesOn => {
                                waits = false;
                                continue;
                            }
                        }
                    }
                    if let Some(bookmark) = self.bookmark(through) {
                        return Poll::Ready(Some(Ok(bookmark)));
                    }
                    if waits {
                        return Poll::Pending;
                    }
                    self.place.wait(context);
                    if let Some(reminder) = &self.reminder {
                        reminder.wait(context);
                    }
                    // Something may have come before the wakers were there.
                    waits = true;
                    continue;
                }
            }
            passed += 1;
            if passed % PASS_OVER == 0 {
                return give_way(context);
            }
        }
    }

    /// The next record: first of the whole log, as far as the own ring does not reach back, then of the own ring.
    fn advance(&mut self) -> Found {
        if let Some(catch_up) = &mut self.catch_up {
            let (cursor, until) = &mut **catch_up;
            match cursor.advance() {
                Next::Record(record, _) if record.revision <= *until => {
                    let events = self.selection.sees(&record).filter(|_| record.revision > self.position);
                    return Found::Seen(record, events);
                }
                Next::Lost => return Found::Lost,
                Next::Record(..) | Next::Empty => self.catch_up = None,
            }
        }
        match self.live.advance() {
            Next::Record(record, _) if record.revision <= self.position && !planted(Bug::DoublesEvent) => {
                Found::Seen(record, None)
            }
            Next::Record(record, events) => Found::Seen(record, Some(events)),
            Next::Empty => Found::Empty,
            Next::Lost => Found::Lost,
        }
    }

    /// The epoch has ended, and this watcher has seen all of it.
    fn over(&mut self, end: End, through: Revision) -> Over {
        match end {
            // Who comes back to another server shall not have to look through what it knows already.
            End::Closed if self.reminder.is_some() && through > self.told => {
                self.told = through;
                Over::Ends(Some(Ok(WatchItem::Progress(through))))
            }
            End::Closed => Over::Ends(None),
            End::Listed(continues) => match self.carry_on(continues) {
                Ok(true) => Over::GoesOn,
                Ok(false) => Over::Ends(None),
                Err(error) => Over::Ends(Some(Err(error))),
            },
        }
    }

    /// Goes on in the next epoch, if that begins exactly where this watcher is. False: the cache is gone.
    fn carry_on(&mut self, continues: Option<Revision>) -> Result<bool> {
        let Some(shared) = self.shared.upgrade() else {
            return Ok(false);
        };
        let continues = match shared.loaded() {
            Some(root) if planted(Bug::BridgesRelist) => Some(root.revision),
            _ => continues.filter(|at| *at <= self.position),
        };
        let Some(at) = continues else {
            return Err(self.expired());
        };
        let selection = Arc::clone(&self.selection);
        let next = shared.subscribe(&selection.scope, &selection.predicate, From::After(at))?;
        self.selection = next.selection;
        (self.epoch, self.live, self.place) = (next.epoch, next.live, next.place);
        self.catch_up = next.catch_up.map(Box::new);
        Ok(true)
    }

    fn expired(&self) -> StorageError {
        if let Some(shared) = self.shared.upgrade() {
            shared.metrics.lost_watchers.increment(1);
        }
        StorageError::expired_watch()
    }

    /// What the client is told when nothing else is to be said, once in a period.
    fn bookmark(&mut self, through: Revision) -> Option<WatchItem> {
        let due = self.reminder.as_mut()?.due()?;
        let is_new = through > self.told;
        if !is_new && (due == Due::Time || through < self.told) {
            return None;
        }
        self.told = through;
        Some(WatchItem::Progress(through))
    }

    /// How long the record took to get here, and how far this watcher is behind: once in a second, so that measuring
    /// costs a busy watch nothing.
    fn measure(&mut self, record: &Record, through: Revision) {
        let second = u32::try_from(record.at.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        if second == self.measured {
            return;
        }
        self.measured = second;
        if let Some(shared) = self.shared.upgrade() {
            let delay = shared.config.clock.monotonic().saturating_sub(record.at);
            let lag = through.get().saturating_sub(record.revision.get());
            shared.metrics.delivered(delay, lag);
        }
    }
}

/// What a watcher finds.
enum Found {
    /// A record, and what the client is told of it.
    Seen(Arc<Record>, Option<Arc<[Event]>>),
    Empty,
    Lost,
}

/// What becomes of a watcher whose epoch has ended.
enum Over {
    Ends(Option<Result<WatchItem>>),
    GoesOn,
}

impl Stream for Watcher {
    type Item = Result<WatchItem>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let watcher = self.get_mut();
        if watcher.over {
            return Poll::Ready(None);
        }
        let item = ready!(watcher.poll(context));
        watcher.over = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

/// Lets others run.
fn give_way<T>(context: &Context<'_>) -> Poll<T> {
    context.waker().wake_by_ref();
    Poll::Pending
}

fn initial_part(walk: &mut Walk, selection: &Selection) -> Result<Vec<Entry>, Released> {
    let mut part = Vec::with_capacity(walk.left().min(INITIAL_PART));
    walk.examine(INITIAL_CHUNK, |entry| {
        if let Selected::Yes = is_selected(entry, &selection.predicate, OnUnreadable::Include) {
            part.push(entry.clone());
        }
        if part.len() >= INITIAL_PART {
            Step::Stop
        } else {
            Step::Next
        }
    })?;
    Ok(part)
}
