//! One published state: objects and indexes of one revision, immutable, shared by every reader.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Weak};

use apiserver_storage_api::{Entry, Index, Key, OnUnreadable, Revision, Scope, SelectionPredicate};

use crate::sync::{ArcSwapOption, Mutex};
use crate::tree::{Item, Probe, Tree};

/// What an object costs that is found by an index, in objects that are looked at in order.
const INDEX_COST: usize = 4;

impl Item for Entry {
    type Separator = Key;

    fn separator(&self) -> Key {
        self.key().clone()
    }
}

/// The place of a key.
pub(crate) struct At<'a>(pub(crate) &'a str);

impl Probe<Entry> for At<'_> {
    fn item(&self, item: &Entry) -> Ordering {
        item.key().as_str().cmp(self.0)
    }

    fn separator(&self, separator: &Key) -> Ordering {
        separator.as_str().cmp(self.0)
    }
}

/// The place right behind every key that begins with a text.
struct Behind<'a>(&'a str);

impl Behind<'_> {
    fn compare(&self, key: &str) -> Ordering {
        if key.starts_with(self.0) {
            Ordering::Less
        } else {
            key.cmp(self.0)
        }
    }
}

impl Probe<Entry> for Behind<'_> {
    fn item(&self, item: &Entry) -> Ordering {
        self.compare(item.key().as_str())
    }

    fn separator(&self, separator: &Key) -> Ordering {
        self.compare(separator.as_str())
    }
}

/// An object under a value of an index. Objects of one value are in key order. Names the object and does not hold it:
/// so an update that leaves the value as it was, which is the rule, leaves the index as it was.
#[derive(Debug, Clone)]
pub(crate) struct Posting {
    value: Arc<str>,
    key: Key,
}

impl Item for Posting {
    type Separator = (Arc<str>, Key);

    fn separator(&self) -> (Arc<str>, Key) {
        (Arc::clone(&self.value), self.key.clone())
    }
}

/// A place among the objects of one value.
struct Under<'a, P>(&'a str, P);

impl Probe<Posting> for Under<'_, At<'_>> {
    fn item(&self, item: &Posting) -> Ordering {
        (*item.value).cmp(self.0).then_with(|| item.key.as_str().cmp(self.1.0))
    }

    fn separator(&self, (value, key): &(Arc<str>, Key)) -> Ordering {
        (**value).cmp(self.0).then_with(|| key.as_str().cmp(self.1.0))
    }
}

impl Probe<Posting> for Under<'_, Behind<'_>> {
    fn item(&self, item: &Posting) -> Ordering {
        (*item.value)
            .cmp(self.0)
            .then_with(|| self.1.compare(item.key.as_str()))
    }

    fn separator(&self, (value, key): &(Arc<str>, Key)) -> Ordering {
        (**value).cmp(self.0).then_with(|| self.1.compare(key.as_str()))
    }
}

/// The state of one revision. Cloning is cheap; a clone is how the writer makes the next state.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    /// Everything up to this revision is in the state, nothing above it.
    pub(crate) revision: Revision,
    /// Since when the state is what it is: the revision of the last change.
    pub(crate) changed: Revision,
    /// The identity of the store that the state is of: revisions of two stores are never compared.
    pub(crate) store: Option<Arc<str>>,
    /// Bytes that were superseded before this state, counted since the cache began: what a pinned state costs.
    pub(crate) superseded: u64,
    /// Bytes of the objects.
    pub(crate) live: usize,
    state: Tree<Entry>,
    /// The unreadable part of `state`: what no selector and no index can find.
    unreadable: Tree<Entry>,
    indexes: Vec<Tree<Posting>>,
}

impl Root {
    /// The state that a list shows. Entries may come in any order; of two with one key the later one counts.
    pub(crate) fn load(revision: Revision, superseded: u64, mut entries: Vec<Entry>, indexes: &[Index]) -> Self {
        if !entries.is_sorted_by(|a, b| a.key() < b.key()) {
            entries.reverse();
            entries.sort_by(|a, b| a.key().cmp(b.key()));
            entries.dedup_by(|a, b| a.key() == b.key());
        }
        let unreadable = entries
            .iter()
            .filter(|entry| entry.attributes().is_none())
            .cloned()
            .collect();
        let indexes = indexes.iter().map(|index| build_index(index, &entries)).collect();
        let unreadable = Tree::from_sorted(unreadable);
        Self {
            revision,
            changed: revision,
            store: None,
            superseded,
            live: entries.iter().map(Entry::weight).sum(),
            state: Tree::from_sorted(entries),
            unreadable,
            indexes,
        }
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> usize {
        self.state.len()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.state.get(&At(key))
    }

    /// Stores an object. Returns the one that it supersedes.
    pub(crate) fn put(&mut self, entry: Entry, indexes: &[Index]) -> Option<Entry> {
        let key = entry.key().clone();
        let at = At(key.as_str());
        let previous = self.state.insert(entry.clone(), &at);
        self.live += entry.weight();
        self.live -= previous.as_ref().map_or(0, Entry::weight).min(self.live);
        match (
            entry.attributes().is_none(),
            previous.as_ref().is_some_and(|old| old.attributes().is_none()),
        ) {
            (true, _) => drop(self.unreadable.insert(entry.clone(), &at)),
            (false, true) => drop(self.unreadable.remove(&at)),
            (false, false) => {}
        }
        for (index, tree) in indexes.iter().zip(&mut self.indexes) {
            let (now, before) = (
                value_of(index, &entry),
                previous.as_ref().and_then(|old| value_of(index, old)),
            );
            if now == before {
                continue;
            }
            if let Some(value) = before {
                tree.remove(&Under(value, At(key.as_str())));
            }
            if let Some(value) = now {
                let posting = Posting {
                    value: shared(tree, value),
                    key: key.clone(),
                };
                tree.insert(posting, &Under(value, At(key.as_str())));
            }
        }
        previous
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, key: &str, indexes: &[Index]) -> Option<Entry> {
        let previous = self.state.remove(&At(key))?;
        self.live -= previous.weight().min(self.live);
        if previous.attributes().is_none() {
            self.unreadable.remove(&At(key));
        }
        for (index, tree) in indexes.iter().zip(&mut self.indexes) {
            if let Some(value) = value_of(index, &previous) {
                tree.remove(&Under(value, At(key)));
            }
        }
        Some(previous)
    }

    /// Whether two states hold the same objects at the same revisions.
    pub(crate) fn same_objects(&self, other: &Self) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let mut same = true;
        self.state.visit(0, &mut |entry| {
            same = other
                .get(entry.key().as_str())
                .is_some_and(|own| own.revision() == entry.revision());
            if same {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        same
    }

    fn range(&self, scope: &Scope, start: Option<&str>) -> Range<usize> {
        let from = At(start.unwrap_or(scope.as_str()).max(scope.as_str()));
        let first = self.state.rank(&from);
        let end = match scope {
            Scope::Key(key) => first + usize::from(self.get(key.as_str()).is_some()),
            Scope::Under(prefix) => self.state.rank(&Behind(prefix.as_str())),
        };
        first..end.max(first)
    }

    /// Prepares a walk over a scope: by the index that leaves least to look at, else by the range of keys.
    pub(crate) fn walk(
        self: &Arc<Self>,
        scope: &Scope,
        start: Option<&str>,
        predicate: &SelectionPredicate,
        indexes: &[Index],
    ) -> Walk {
        let range = self.range(scope, start);
        let mut walk = Walk {
            pin: Pin::new(self),
            source: Source::State,
            next: range.start,
            end: range.end,
        };
        let Scope::Under(prefix) = scope else { return walk };
        // What cannot be read is in no index, and must not be passed over.
        if predicate.is_empty()
            || self.unreadable.rank(&Behind(prefix.as_str())) > self.unreadable.rank(&At(prefix.as_str()))
        {
            return walk;
        }
        let from = start.unwrap_or(prefix.as_str()).max(prefix.as_str());
        for (at, (index, tree)) in indexes.iter().zip(&self.indexes).enumerate() {
            let Some(value) = required_value(index, predicate) else {
                continue;
            };
            let first = tree.rank(&Under(value, At(from)));
            let end = tree.rank(&Under(value, Behind(prefix.as_str()))).max(first);
            if (end - first).saturating_mul(INDEX_COST) < walk.end - walk.next {
                (walk.source, walk.next, walk.end) = (Source::Index(at), first, end);
            }
        }
        walk
    }

    /// Number of objects of a scope behind a key.
    pub(crate) fn count_behind(&self, scope: &Scope, key: &str) -> usize {
        let Scope::Under(prefix) = scope else { return 0 };
        let end = self.state.rank(&Behind(prefix.as_str()));
        let before = self.state.rank(&At(key)) + usize::from(self.get(key).is_some());
        end.saturating_sub(before)
    }
}

#[cfg(test)]
impl Root {
    /// Checks that the indexes name exactly the objects that have a value, each under its own.
    pub(crate) fn check(&self, indexes: &[Index]) {
        let state = self.state.to_vec();
        for (index, tree) in indexes.iter().zip(&self.indexes) {
            let postings = tree.to_vec();
            assert_eq!(
                postings.len(),
                state.iter().filter(|entry| value_of(index, entry).is_some()).count()
            );
            for posting in postings {
                let entry = self
                    .get(posting.key.as_str())
                    .expect("an index names objects of the state");
                assert_eq!(value_of(index, entry), Some(&*posting.value));
            }
        }
        let unreadable = state.iter().filter(|entry| entry.attributes().is_none()).count();
        assert_eq!(self.unreadable.len(), unreadable);
    }
}

fn build_index(index: &Index, entries: &[Entry]) -> Tree<Posting> {
    let mut found: Vec<(&str, &Entry)> = entries
        .iter()
        .filter_map(|entry| Some((value_of(index, entry)?, entry)))
        .collect();
    // Stable, and entries are in key order already.
    found.sort_by(|a, b| a.0.cmp(b.0));
    let mut postings: Vec<Posting> = Vec::with_capacity(found.len());
    for (value, entry) in found {
        let value = match postings.last() {
            Some(last) if *last.value == *value => Arc::clone(&last.value),
            _ => value.into(),
        };
        postings.push(Posting {
            value,
            key: entry.key().clone(),
        });
    }
    Tree::from_sorted(postings)
}

/// The text of a value: shared with the objects that have it already.
fn shared(tree: &Tree<Posting>, value: &str) -> Arc<str> {
    let mut known = None;
    tree.visit(tree.rank(&Under(value, At(""))), &mut |posting| {
        known = (*posting.value == *value).then(|| Arc::clone(&posting.value));
        ControlFlow::Break(())
    });
    known.unwrap_or_else(|| value.into())
}

/// The value of an object in an index. A field that an object does not have reads as empty, as selectors see it.
pub(crate) fn value_of<'a>(index: &Index, entry: &'a Entry) -> Option<&'a str> {
    let attributes = entry.attributes()?;
    match index {
        Index::Field(label) => Some(attributes.field(label).unwrap_or_default()),
        Index::Label(key) => attributes.labels.get(key),
        _ => None,
    }
}

/// The one value of an index that can be selected.
pub(crate) fn required_value<'a>(index: &Index, predicate: &'a SelectionPredicate) -> Option<&'a str> {
    match index {
        Index::Field(label) => predicate.exact_field(label),
        Index::Label(key) => predicate.exact_label(key),
        _ => None,
    }
}

/// What a walk goes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    State,
    Index(usize),
}

/// A state that an answer under way keeps alive, until the reader is through or has kept it for too long.
#[derive(Debug)]
pub(crate) struct Pin {
    root: ArcSwapOption<Root>,
    superseded: u64,
}

impl Pin {
    fn new(root: &Arc<Root>) -> Arc<Self> {
        let superseded = root.superseded;
        Arc::new(Self {
            root: ArcSwapOption::from(Some(Arc::clone(root))),
            superseded,
        })
    }

    /// Takes the state away.
    fn release(&self) {
        self.root.store(None);
    }
}

/// Pins that may be over before they are looked through.
const UNSWEPT: usize = 64;

/// The answers that are under way, oldest first. Those that are over are among them for a while, but never more than
/// half of a list of some length.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    pins: VecDeque<Weak<Pin>>,
    /// The list is looked through when it has grown to this length: twice what was left the last time.
    sweep_at: usize,
}

impl Pins {
    pub(crate) fn add(&self, walk: &Walk) {
        let mut known = self.0.lock();
        if known.pins.len() >= known.sweep_at.max(UNSWEPT) {
            known.pins.retain(|pin| pin.strong_count() > 0);
            known.sweep_at = known.pins.len() * 2;
        }
        known.pins.push_back(Arc::downgrade(&walk.pin));
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().pins.len()
    }

    /// Bytes that were superseded since the oldest answer under way began: what all of them keep alive at most.
    pub(crate) fn kept(&self, superseded: u64) -> u64 {
        let known = self.0.lock();
        let oldest = known
            .pins
            .iter()
            .filter_map(Weak::upgrade)
            .find(|pin| pin.root.load().is_some());
        oldest.map_or(0, |pin| superseded.saturating_sub(pin.superseded))
    }

    /// Takes the state away from the oldest answer under way. False: there is none.
    pub(crate) fn release_oldest(&self) -> bool {
        let mut known = self.0.lock();
        while let Some(pin) = known.pins.pop_front() {
            if let Some(pin) = pin.upgrade().filter(|pin| pin.root.load().is_some()) {
                pin.release();
                return true;
            }
        }
        false
    }

    /// Whether no answer is under way.
    pub(crate) fn is_empty(&self) -> bool {
        let mut known = self.0.lock();
        known.pins.retain(|pin| pin.strong_count() > 0);
        known.pins.is_empty()
    }
}

/// A walk over part of one state, which it keeps alive. Goes on where it stopped.
#[derive(Debug)]
pub(crate) struct Walk {
    pin: Arc<Pin>,
    source: Source,
    next: usize,
    end: usize,
}

/// The reader was too slow: keeping its state would have cost too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Released;

/// What a walk does with one object.
pub(crate) enum Step {
    /// Go on.
    Next,
    /// This was the last one.
    Stop,
}

impl Walk {
    /// The index that it goes along; none: the keys.
    pub(crate) fn index(&self) -> Option<usize> {
        match self.source {
            Source::State => None,
            Source::Index(at) => Some(at),
        }
    }

    /// Objects that are left to look at.
    pub(crate) fn left(&self) -> usize {
        self.end - self.next
    }

    /// Looks at no more than `most` objects, in key order.
    pub(crate) fn examine(&mut self, most: usize, mut visitor: impl FnMut(&Entry) -> Step) -> Result<(), Released> {
        let mut left = most.min(self.left());
        if left == 0 {
            return Ok(());
        }
        let root = self.root()?;
        let mut next = self.next;
        // An index names objects that are in the state of the same root; one that is not would be passed over.
        let mut step = |entry: Option<&Entry>| {
            next += 1;
            left -= 1;
            match entry.map_or(Step::Next, &mut visitor) {
                Step::Next if left > 0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        };
        match self.source {
            Source::State => root.state.visit(self.next, &mut |entry| step(Some(entry))),
            Source::Index(at) => {
                if let Some(tree) = root.indexes.get(at) {
                    tree.visit(self.next, &mut |posting| step(root.get(posting.key.as_str())));
                }
            }
        }
        self.next = next;
        Ok(())
    }

    pub(crate) fn root(&self) -> Result<Arc<Root>, Released> {
        self.pin.root.load_full().ok_or(Released)
    }
}

/// Whether a reader sees an entry; an unreadable one is in everybody's view.
pub(crate) fn is_selected(entry: &Entry, predicate: &SelectionPredicate, unreadable: OnUnreadable) -> Selected {
    match (entry.attributes(), unreadable) {
        (Some(attributes), _) if predicate.matches(attributes) => Selected::Yes,
        (Some(_), _) => Selected::No,
        (None, OnUnreadable::Include) => Selected::Yes,
        (None, OnUnreadable::Fail) => Selected::Fault,
    }
}

/// See [`is_selected`].
pub(crate) enum Selected {
    Yes,
    No,
    Fault,
}
