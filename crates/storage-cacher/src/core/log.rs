//! The log that all watchers read: records, rings of postings, and cursors on them.
//!
//! A ring is a linked chain of nodes, one per record that concerns its selection, each with what its watchers see of the
//! record: looked at once, by the writer, for all of them. A cursor holds the link behind the node that was read last;
//! what comes next is found there, without a lock. The writer appends at the tail and forgets at the front: forgetting a
//! node cuts the chain before it, so that a cursor that had not come that far notices ([`Next::Lost`]). A cursor keeps
//! no record alive. Appending and forgetting happen under the core's lock.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apiserver_storage_api::{Entry, Event, EventKind, Revision, Scope, SelectionPredicate};

use crate::core::wake::Wakers;
use crate::planted::{Bug, planted};
use crate::sync::{ArcSwapOption, AtomicBool, AtomicU64, Ordering};

/// Bytes that a record costs beside the objects it keeps alive.
const RECORD_OVERHEAD: usize = 480;

/// Everything that happened at one revision, as watchers of the whole kind see it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) revision: Revision,
    pub(crate) events: Arc<[Event]>,
    /// For each event, what a watcher sees whose selection the object left: made by the first one who needs it.
    departed: Box<[OnceLock<Entry>]>,
    /// When the record was made, by the cache's clock.
    pub(crate) at: Duration,
    /// Bytes that are kept only for this record.
    pub(crate) weight: usize,
}

impl Record {
    pub(crate) fn new(revision: Revision, events: Vec<Event>, at: Duration) -> Self {
        let departed = events.iter().map(|_| OnceLock::new()).collect();
        let weight = events.iter().map(weight).sum();
        Self {
            revision,
            events: events.into(),
            departed,
            at,
            weight,
        }
    }

    /// What a watcher of this scope and selection sees. Shares the events when it sees all of them as they are.
    pub(crate) fn seen_by(&self, scope: &Scope, whole: bool, predicate: &SelectionPredicate) -> Option<Arc<[Event]>> {
        if predicate.is_empty() && (whole || self.events.iter().all(|event| scope.contains(&event.key))) {
            return Some(Arc::clone(&self.events));
        }
        let mut shared = true;
        let mut seen = Vec::new();
        for (event, departed) in self.events.iter().zip(&self.departed) {
            if !whole && !scope.contains(&event.key) {
                shared = false;
                continue;
            }
            match self.select(event, departed, predicate) {
                Some(own) => {
                    shared &= own.kind == event.kind;
                    seen.push(own);
                }
                None => shared = false,
            }
        }
        match (seen.is_empty(), shared) {
            (true, _) => None,
            (false, true) => Some(Arc::clone(&self.events)),
            (false, false) => Some(seen.into()),
        }
    }

    /// [`Event::seen_by`], with the body of an object that left the selection made once for all watchers.
    fn select(&self, event: &Event, departed: &OnceLock<Entry>, predicate: &SelectionPredicate) -> Option<Event> {
        let leaves = || {
            let before = event.previous.as_ref()?.attributes()?;
            let now = event.object.as_ref()?.attributes()?;
            (event.kind == EventKind::Modified && predicate.matches(before) && !predicate.matches(now)).then_some(())
        };
        if planted(Bug::KeepsDeparted) && leaves().is_some() {
            return Some(event.clone());
        }
        if predicate.is_empty() || leaves().is_none() {
            return event.seen_by(predicate);
        }
        let previous = event.previous.as_ref()?;
        let object = departed.get_or_init(|| previous.at_revision(event.revision)).clone();
        Some(Event {
            kind: EventKind::Deleted,
            object: Some(object),
            ..event.clone()
        })
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
    /// What its watchers see of a record.
    pub(crate) fn sees(&self, record: &Record) -> Option<Arc<[Event]>> {
        record.seen_by(&self.scope, self.whole, &self.predicate)
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

/// One record in one ring.
#[derive(Debug)]
pub(crate) struct Node {
    revision: Revision,
    /// None where the ring once began, before older records were put in front of it.
    body: Option<Body>,
    link: Arc<Link>,
}

#[derive(Debug)]
struct Body {
    record: Arc<Record>,
    /// What the ring's watchers see of it.
    events: Arc<[Event]>,
}

/// What is behind a node. A cursor holds this and not the node: who waits keeps no record alive.
#[derive(Debug, Default)]
struct Link {
    next: ArcSwapOption<Node>,
    lost: AtomicBool,
}

impl Link {
    /// Cuts the chain here.
    fn cut(&self) {
        // The order matters to a reader that finds no next node and then asks why.
        self.lost.store(true, Ordering::Release);
        self.next.store(None);
    }
}

impl Node {
    fn of(record: &Arc<Record>, events: Arc<[Event]>) -> Arc<Self> {
        let record = Arc::clone(record);
        Arc::new(Self {
            revision: record.revision,
            body: Some(Body { record, events }),
            link: Arc::default(),
        })
    }

    fn record(&self) -> Option<&Arc<Record>> {
        self.body.as_ref().map(|body| &body.record)
    }
}

/// A place in a ring.
#[derive(Debug, Clone)]
pub(crate) struct Cursor(Arc<Link>);

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
    /// Moves on by one record.
    pub(crate) fn advance(&mut self) -> Next {
        loop {
            match self.0.next.load_full() {
                Some(next) => {
                    self.0 = Arc::clone(&next.link);
                    if let Some(Body { record, events }) = &next.body {
                        return Next::Record(Arc::clone(record), Arc::clone(events));
                    }
                }
                None if self.0.lost.load(Ordering::Acquire) => return Next::Lost,
                None => return Next::Empty,
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
    /// Leads to the first kept node.
    before: Arc<Link>,
    nodes: VecDeque<Arc<Node>>,
    /// All records of the selection above this revision are here.
    since: Revision,
}

impl Ring {
    pub(crate) fn new(since: Revision) -> Self {
        Self {
            before: Arc::default(),
            nodes: VecDeque::new(),
            since,
        }
    }

    pub(crate) fn push(&mut self, record: &Arc<Record>, events: Arc<[Event]>) {
        let node = Node::of(record, events);
        self.tail().next.store(Some(Arc::clone(&node)));
        self.nodes.push_back(node);
    }

    /// Puts what happened before the ring began, above `since`, in front of it.
    pub(crate) fn prepend(&mut self, since: Revision, records: &[Arc<Record>]) {
        let before = Arc::new(Link::default());
        let mut last = Arc::clone(&before);
        let mut nodes = VecDeque::with_capacity(records.len() + 1 + self.nodes.len());
        let mut append = |node: Arc<Node>| {
            last.next.store(Some(Arc::clone(&node)));
            last = Arc::clone(&node.link);
            nodes.push_back(node);
        };
        for record in records {
            append(Node::of(record, Arc::clone(&record.events)));
        }
        // Leads to where the ring began, so that cursors that stand there go on as well.
        append(Arc::new(Node {
            revision: self.since,
            body: None,
            link: Arc::clone(&self.before),
        }));
        nodes.append(&mut self.nodes);
        (self.before, self.nodes, self.since) = (before, nodes, since);
    }

    fn tail(&self) -> &Arc<Link> {
        self.nodes.back().map_or(&self.before, |node| &node.link)
    }

    /// A cursor behind everything.
    pub(crate) fn at_tail(&self) -> Cursor {
        Cursor(Arc::clone(self.tail()))
    }

    /// A cursor whose next record is the first one above `revision`; none when the ring does not reach back to it.
    pub(crate) fn after(&self, revision: Revision) -> Option<Cursor> {
        if revision < self.since {
            return None;
        }
        let at = self.nodes.partition_point(|node| node.revision <= revision);
        let node = at.checked_sub(1).and_then(|at| self.nodes.get(at));
        Some(Cursor(Arc::clone(node.map_or(&self.before, |node| &node.link))))
    }

    /// Forgets records up to this revision.
    pub(crate) fn forget(&mut self, through: Revision) {
        while self.nodes.front().is_some_and(|node| node.revision <= through) {
            self.before.cut();
            if let Some(node) = self.nodes.pop_front() {
                self.before = Arc::clone(&node.link);
            }
        }
        self.since = self.since.max(through);
    }

    pub(crate) fn front(&self) -> Option<&Arc<Record>> {
        self.nodes.iter().find_map(|node| node.record())
    }

    /// Records above one revision and up to another, oldest first.
    pub(crate) fn between(&self, above: Revision, through: Revision) -> Vec<Arc<Record>> {
        let first = self.nodes.partition_point(|node| node.revision <= above);
        let end = self.nodes.partition_point(|node| node.revision <= through);
        self.nodes
            .range(first..end.max(first))
            .filter_map(|node| node.record().cloned())
            .collect()
    }

    /// Number of nodes: records, and one for each time that the ring was put in front of.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }
}

impl Drop for Ring {
    /// Cursors behind the tail learn that they lost; and a long chain is not freed node by node on one stack.
    fn drop(&mut self) {
        if self.nodes.is_empty() {
            return;
        }
        self.before.cut();
        let last = self.nodes.len() - 1;
        for node in self.nodes.iter().take(last) {
            node.link.cut();
        }
    }
}
