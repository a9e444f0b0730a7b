//! The log that all watchers read: records, rings of postings, and cursors on them.
//!
//! A ring is a chain of chunks of places, one place for each record that concerns its selection. What its watchers see of
//! the record is found out once, by the writer, for all of them: a place holds the record itself where they see all of it,
//! and else a record of what they see, shared with all other rings that see the same. So a posting costs a pointer.
//!
//! A cursor stands before a place; what comes next is found there, without a lock. The writer fills the next place, and
//! forgets at the front: it empties a place, having said before that it does, so that a cursor that had not come that far
//! notices ([`Next::Lost`]). A cursor keeps its chunk and no record alive. Filling and forgetting happen under the core's
//! lock.
//!
//! What a reader may conclude from an empty place rests on two orders. A place is emptied, and a chain is cut, after
//! `forgotten` was raised: both with release, and read with acquire in the opposite order, so who sees the emptiness that
//! forgetting leaves sees the reason as well. And [`Epoch::through`] is raised, with release, after the places of the
//! record were filled, and read, with acquire, before the place is: so who finds a place empty has seen all of the ring up
//! to there. The pointers are those of arc-swap, whose loads acquire and whose stores are read-modify-writes that release
//! and acquire. No two places have to appear in one order to all threads, so nothing needs more than that.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use apiserver_storage_api::{Entry, Event, EventKind, Revision, Scope, SelectionPredicate};

use crate::core::wake::Wakers;
use crate::planted::{Bug, planted};
use crate::sync::{ArcSwapOption, AtomicU32, AtomicU64, Ordering};

/// Bytes that a record costs beside the objects it keeps alive.
const RECORD_OVERHEAD: usize = 480;
/// Places of a chunk: as many as the ring has records, within these bounds.
const SMALL_CHUNK: usize = 4;
const LARGE_CHUNK: usize = 32;
/// What the allocator takes for each piece.
const ALLOCATION: usize = 16;

/// Everything that happened at one revision, as watchers of the whole kind see it; or what those of a narrower selection
/// see of it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) revision: Revision,
    pub(crate) events: Arc<[Event]>,
    /// What may be made of it for other selections; none where this is that already.
    parts: Option<Box<Parts>>,
    /// When the record was made, by the cache's clock.
    pub(crate) at: Duration,
    /// Bytes that are kept only for this record.
    pub(crate) weight: usize,
}

/// What of a record is made by the first who needs it, and shared.
#[derive(Debug)]
struct Parts {
    /// For each event, what a watcher sees whose selection the object left.
    departed: Box<[OnceLock<Entry>]>,
    /// A record of one event, for those into whose selection the object came, and for those whose selection it left.
    came: OnceLock<Arc<Record>>,
    left: OnceLock<Arc<Record>>,
}

impl Record {
    pub(crate) fn new(revision: Revision, events: Vec<Event>, at: Duration) -> Self {
        let parts = Parts {
            departed: events.iter().map(|_| OnceLock::new()).collect(),
            came: OnceLock::new(),
            left: OnceLock::new(),
        };
        let weight = events.iter().map(weight).sum();
        Self {
            revision,
            events: events.into(),
            parts: Some(Box::new(parts)),
            at,
            weight,
        }
    }

    /// What some see of this record.
    fn narrowed(&self, events: Vec<Event>) -> Arc<Self> {
        let weight = 2 * ALLOCATION + size_of::<Self>() + events.len() * size_of::<Event>();
        Arc::new(Self {
            revision: self.revision,
            events: events.into(),
            parts: None,
            at: self.at,
            weight,
        })
    }

    /// What a watcher of this scope and selection sees: the record itself when it sees all of it as it is.
    fn seen_by(self: &Arc<Self>, scope: &Scope, whole: bool, predicate: &SelectionPredicate) -> Option<Arc<Self>> {
        let in_scope = |event: &Event| whole || scope.contains(&event.key);
        if let [event] = &*self.events {
            let kind = in_scope(event).then(|| kind_for(event, predicate)).flatten()?;
            if kind == event.kind {
                return Some(Arc::clone(self));
            }
            let parts = self.parts.as_ref()?;
            let narrowed = match kind {
                EventKind::Deleted => &parts.left,
                _ => &parts.came,
            };
            let narrowed = narrowed.get_or_init(|| self.narrowed(vec![self.told(0, event, kind)]));
            return Some(Arc::clone(narrowed));
        }
        let mut whole_record = true;
        let mut seen = Vec::new();
        for (at, event) in self.events.iter().enumerate() {
            match in_scope(event).then(|| kind_for(event, predicate)).flatten() {
                Some(kind) => {
                    whole_record &= kind == event.kind;
                    seen.push((at, kind));
                }
                None => whole_record = false,
            }
        }
        if whole_record || seen.is_empty() {
            return (!seen.is_empty()).then(|| Arc::clone(self));
        }
        let told = |(at, kind): (usize, EventKind)| Some(self.told(at, self.events.get(at)?, kind));
        Some(self.narrowed(seen.into_iter().filter_map(told).collect()))
    }

    /// An event as it is told to those for whom it is of this kind. The body of an object that left is made once.
    fn told(&self, at: usize, event: &Event, kind: EventKind) -> Event {
        let mut told = Event { kind, ..event.clone() };
        let departed = self.parts.as_ref().and_then(|parts| parts.departed.get(at));
        if let (EventKind::Deleted, EventKind::Modified, Some(departed)) = (kind, event.kind, departed) {
            let body = |previous: &Entry| departed.get_or_init(|| previous.at_revision(event.revision)).clone();
            told.object = event.previous.as_ref().map(body);
        }
        told
    }

    /// Bytes that are kept for those who see only a part of the record, as far as they were made by now.
    pub(crate) fn shared_bytes(&self) -> usize {
        let Some(parts) = &self.parts else { return 0 };
        let narrowed = [&parts.came, &parts.left].into_iter().filter_map(OnceLock::get);
        let departed = parts.departed.iter().filter_map(OnceLock::get);
        narrowed.map(|own| own.weight).sum::<usize>() + departed.map(Entry::weight).sum::<usize>()
    }
}

/// What an event is to a watcher of a selection, as [`Event::seen_by`] has it; none: it sees nothing of it.
fn kind_for(event: &Event, predicate: &SelectionPredicate) -> Option<EventKind> {
    if predicate.is_empty() {
        return Some(event.kind);
    }
    // None: it cannot be read, so it is in everybody's view, and told as it is.
    let matches = |side: &Option<Entry>| match side.as_ref().map(Entry::attributes) {
        None => Some(false),
        Some(attributes) => attributes.map(|attributes| predicate.matches(attributes)),
    };
    let (before, now) = match event.kind {
        EventKind::Added => (Some(false), matches(&event.object)),
        EventKind::Modified => (matches(&event.previous), matches(&event.object)),
        EventKind::Deleted => {
            let last = if event.previous.is_some() {
                &event.previous
            } else {
                &event.object
            };
            (matches(last), Some(false))
        }
    };
    match (before, now) {
        (Some(false), Some(false)) => None,
        (Some(false), Some(true)) => Some(EventKind::Added),
        (Some(true), Some(false)) if planted(Bug::KeepsDeparted) => Some(event.kind),
        (Some(true), Some(false)) => Some(EventKind::Deleted),
        (Some(true), Some(true)) => Some(EventKind::Modified),
        (None, _) | (_, None) => Some(event.kind),
    }
}

/// What the watchers of a group have in common.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) scope: Scope,
    /// The scope is the whole kind.
    pub(crate) whole: bool,
    pub(crate) predicate: SelectionPredicate,
    pub(crate) wakers: Arc<Wakers>,
}

impl Selection {
    /// What its watchers see of a record, as a record.
    pub(crate) fn narrow(&self, record: &Arc<Record>) -> Option<Arc<Record>> {
        record.seen_by(&self.scope, self.whole, &self.predicate)
    }

    /// What its watchers see of a record.
    pub(crate) fn sees(&self, record: &Arc<Record>) -> Option<Arc<[Event]>> {
        Some(Arc::clone(&self.narrow(record)?.events))
    }
}

fn weight(event: &Event) -> usize {
    let superseded = event.previous.as_ref().map_or(0, Entry::weight);
    let body = match event.kind {
        EventKind::Deleted => event.object.as_ref().map_or(0, Entry::weight),
        _ => 0,
    };
    superseded + body + RECORD_OVERHEAD
}

/// Some places of a ring, and what is behind them.
#[derive(Debug)]
struct Chunk {
    /// Filled in order, and emptied in order.
    places: Box<[ArcSwapOption<Record>]>,
    /// Places before this one are empty because they are forgotten; [`CUT`] where the chain behind is, too.
    forgotten: AtomicU32,
    next: ArcSwapOption<Chunk>,
    /// Where those who come from here begin in the next chunk.
    next_at: u32,
}

/// What lies behind a chunk was forgotten.
const CUT: u32 = u32::MAX;

impl Chunk {
    fn new(places: usize, next_at: usize) -> Arc<Self> {
        Arc::new(Self {
            places: (0..places).map(|_| ArcSwapOption::default()).collect(),
            forgotten: AtomicU32::new(0),
            next: ArcSwapOption::default(),
            next_at: next_at as u32,
        })
    }

    fn get(&self, at: usize) -> Option<Arc<Record>> {
        self.places.get(at)?.load_full()
    }

    fn fill(&self, at: usize, record: &Arc<Record>) {
        if let Some(place) = self.places.get(at) {
            place.store(Some(Arc::clone(record)));
        }
    }

    /// How many places are forgotten. For the writer.
    fn first(&self) -> usize {
        (self.forgotten.load(Ordering::Relaxed) as usize).min(self.places.len())
    }

    /// Forgets places up to this one. Says so before: a reader that finds a place empty then asks why.
    fn forget(&self, end: usize) {
        let first = self.first();
        self.forgotten.store(end as u32, Ordering::Release);
        for place in self.places.iter().take(end).skip(first) {
            place.store(None);
        }
    }

    /// Forgets all of it, and what lies behind.
    fn cut(&self) {
        let first = self.first();
        self.forgotten.store(CUT, Ordering::Release);
        for place in self.places.iter().skip(first) {
            place.store(None);
        }
        self.next.store(None);
    }

    /// The first place whose record is above a revision, of those that are filled and not forgotten.
    fn above(&self, revision: Revision, filled: usize) -> usize {
        let (mut low, mut high) = (self.first(), filled);
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle) {
                Some(record) if record.revision > revision => high = middle,
                _ => low = middle + 1,
            }
        }
        low
    }

    /// Bytes that it takes.
    fn weight(&self) -> usize {
        2 * ALLOCATION + size_of::<Self>() + size_of_val(&*self.places)
    }
}

/// A place in a ring.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    chunk: Arc<Chunk>,
    at: u32,
}

/// What a cursor finds.
#[derive(Debug)]
pub(crate) enum Next {
    /// The next record, and what the ring's watchers see of it.
    Record(Arc<Record>, Arc<[Event]>),
    /// Nothing yet.
    Empty,
    /// The log has moved past this cursor.
    Lost,
}

impl Cursor {
    fn new(chunk: &Arc<Chunk>, at: usize) -> Self {
        Self {
            chunk: Arc::clone(chunk),
            at: at as u32,
        }
    }

    /// Moves on by one record.
    pub(crate) fn advance(&mut self) -> Next {
        loop {
            let is_lost = || self.chunk.forgotten.load(Ordering::Acquire) > self.at;
            match self.chunk.places.get(self.at as usize) {
                Some(place) => match place.load_full() {
                    Some(record) => {
                        self.at += 1;
                        let events = Arc::clone(&record.events);
                        return Next::Record(record, events);
                    }
                    None if is_lost() => return Next::Lost,
                    None => return Next::Empty,
                },
                None => match self.chunk.next.load_full() {
                    Some(next) => (self.at, self.chunk) = (self.chunk.next_at, next),
                    None if is_lost() => return Next::Lost,
                    None => return Next::Empty,
                },
            }
        }
    }
}

/// One unbroken stretch of history: from a list of the backend until the next one.
#[derive(Debug)]
pub(crate) struct Epoch {
    /// Every record up to this revision is in its rings.
    through: AtomicU64,
    end: OnceLock<End>,
}

/// Why an epoch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The cache is closed.
    Closed,
    /// The backend was listed again. Where the new state is the old one, watchers that had seen everything up to this
    /// revision go on; all others have lost events that nobody can tell them.
    Listed(Option<Revision>),
}

impl Epoch {
    pub(crate) fn new(revision: Revision) -> Arc<Self> {
        Arc::new(Self {
            through: AtomicU64::new(revision.get()),
            end: OnceLock::new(),
        })
    }

    /// Whoever reads this and then finds nothing in a ring has seen all of that ring up to this revision.
    pub(crate) fn through(&self) -> Revision {
        Revision::new(self.through.load(Ordering::Acquire)).unwrap_or(Revision::MIN)
    }

    pub(crate) fn raise(&self, revision: Revision) {
        self.through.store(revision.get(), Ordering::Release);
    }

    /// Read before the cursor: whoever sees an end and then finds nothing in a ring has seen all of it.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    pub(crate) fn finish(&self, end: End) {
        // An epoch ends once; the first reason counts.
        let _ = self.end.set(end);
    }
}

/// The records that concern one selection.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Leads to the first chunk that has records. Nobody follows it but cursors that hold it.
    before: Weak<Chunk>,
    /// Chunks that are full, oldest first, each with a record at least.
    full: VecDeque<Arc<Chunk>>,
    tail: Arc<Chunk>,
    /// Places of the tail that are filled.
    filled: usize,
    /// Records that are kept.
    len: usize,
    /// Bytes of the chunks that have records.
    weight: usize,
    /// All records of the selection above this revision are here.
    since: Revision,
}

impl Ring {
    pub(crate) fn new(since: Revision) -> Self {
        Self {
            before: Weak::new(),
            full: VecDeque::new(),
            tail: Chunk::new(0, 0),
            filled: 0,
            len: 0,
            weight: 0,
            since,
        }
    }

    /// Whether the tail has records.
    fn tail_is_used(&self) -> bool {
        self.tail.first() < self.filled
    }

    pub(crate) fn push(&mut self, record: &Arc<Record>) {
        if self.filled == self.tail.places.len() {
            let tail = Chunk::new(self.len.clamp(SMALL_CHUNK, LARGE_CHUNK), 0);
            tail.fill(0, record);
            let used = self.tail_is_used();
            let old = std::mem::replace(&mut self.tail, tail);
            old.next.store(Some(Arc::clone(&self.tail)));
            if used {
                self.full.push_back(old);
            } else if self.full.is_empty() {
                self.before = Arc::downgrade(&old);
            }
            self.filled = 1;
            self.weight += self.tail.weight();
        } else {
            if !self.tail_is_used() {
                self.weight += self.tail.weight();
            }
            self.tail.fill(self.filled, record);
            self.filled += 1;
        }
        self.len += 1;
    }

    /// Puts what happened before the ring began, above `since`, in front of it.
    pub(crate) fn prepend(&mut self, since: Revision, records: &[Arc<Record>]) {
        self.since = since;
        // Those who stand there have seen what is put in front, and are not lost when that is forgotten.
        self.before = Weak::new();
        let front = self.full.front().unwrap_or(&self.tail);
        // Cursors at the end of what is put in front go on where the ring begins.
        let (mut next, mut next_at) = (Arc::clone(front), front.first());
        for records in records.rchunks(LARGE_CHUNK) {
            let chunk = Chunk::new(records.len(), next_at);
            for (at, record) in records.iter().enumerate() {
                chunk.fill(at, record);
            }
            chunk.next.store(Some(next));
            self.len += records.len();
            self.weight += chunk.weight();
            self.full.push_front(Arc::clone(&chunk));
            (next, next_at) = (chunk, 0);
        }
    }

    /// A cursor behind everything.
    pub(crate) fn at_tail(&self) -> Cursor {
        Cursor::new(&self.tail, self.filled)
    }

    /// A cursor whose next record is the first one above `revision`; none when the ring does not reach back to it.
    pub(crate) fn after(&self, revision: Revision) -> Option<Cursor> {
        (revision >= self.since).then(|| self.above(revision))
    }

    /// A cursor whose next record is the first one above a revision, of those that are kept.
    fn above(&self, revision: Revision) -> Cursor {
        let is_below = |chunk: &Arc<Chunk>| {
            let last = chunk.places.len().checked_sub(1).and_then(|last| chunk.get(last));
            last.is_none_or(|last| last.revision <= revision)
        };
        let at = self.full.partition_point(is_below);
        let (chunk, filled) = match self.full.get(at) {
            Some(chunk) => (chunk, chunk.places.len()),
            None => (&self.tail, self.filled),
        };
        Cursor::new(chunk, chunk.above(revision, filled))
    }

    /// Forgets records up to this revision.
    pub(crate) fn forget(&mut self, through: Revision) {
        self.since = self.since.max(through);
        loop {
            let (front, filled, is_full) = match self.full.front() {
                Some(front) => (front, front.places.len(), true),
                None => (&self.tail, self.filled, false),
            };
            let (first, end) = (front.first(), front.above(through, filled));
            if first == end {
                return;
            }
            // Who stands before this chunk has not come that far.
            if let Some(before) = std::mem::take(&mut self.before).upgrade() {
                before.cut();
            }
            front.forget(end);
            self.len -= end - first;
            if end < filled {
                return;
            }
            self.weight -= front.weight();
            if !is_full {
                return;
            }
            self.before = self.full.pop_front().as_ref().map_or_else(Weak::new, Arc::downgrade);
        }
    }

    pub(crate) fn front(&self) -> Option<Arc<Record>> {
        let front = self.full.front().unwrap_or(&self.tail);
        front.get(front.first())
    }

    /// Records above one revision and up to another, oldest first.
    pub(crate) fn between(&self, above: Revision, through: Revision) -> Vec<Arc<Record>> {
        let mut cursor = self.above(above);
        let mut records = Vec::new();
        while let Next::Record(record, _) = cursor.advance() {
            if record.revision > through {
                break;
            }
            records.push(record);
        }
        records
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that it takes to know which records these are.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }
}

impl Drop for Ring {
    /// Cursors that have not seen everything learn that they lost; and a long chain is not freed chunk by chunk on one
    /// stack.
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        if let Some(before) = self.before.upgrade() {
            before.cut();
        }
        for chunk in &self.full {
            chunk.cut();
        }
        self.tail.forget(self.filled);
    }
}
