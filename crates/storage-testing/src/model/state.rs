//! The model itself: a list of changes, and what follows from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use apiserver_storage_api::{Entry, EventKind, Key, Revision, Scope, SelectionPredicate};

use crate::fixture::{by_field, by_label};

/// The label that selectors look at.
pub(crate) const LABEL: &str = "value";
/// Values of the label, and names of nodes.
pub(crate) const VALUES: u64 = 3;

/// What a key holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    /// An object, without its resourceVersion.
    Object(Value),
    /// Bytes that nobody can read.
    Garbage,
}

impl Body {
    pub(crate) fn object(&self) -> Option<&Value> {
        match self {
            Self::Object(object) => Some(object),
            Self::Garbage => None,
        }
    }

    /// What an entry shows. Its JSON must carry the entry's own revision.
    pub(crate) fn of(entry: &Entry) -> Self {
        if entry.unreadable_reason().is_some() {
            return Self::Garbage;
        }
        let mut object: Value = entry.decode().expect("a readable entry");
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        let version = metadata.remove("resourceVersion").expect("a resourceVersion");
        assert_eq!(version, entry.revision().to_string(), "{entry:?}");
        Self::Object(object)
    }
}

/// A key's state: the revision of its write, and what was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) revision: Revision,
    pub(crate) body: Arc<Body>,
    /// It is to expire.
    pub(crate) leased: bool,
}

impl Stored {
    pub(crate) fn is_garbage(&self) -> bool {
        *self.body == Body::Garbage
    }

    /// Whether an entry is this state.
    pub(crate) fn is(&self, entry: &Entry) -> bool {
        self.revision == entry.revision() && *self.body == Body::of(entry)
    }
}

/// One key's change.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) key: Key,
    pub(crate) before: Option<Stored>,
    pub(crate) after: Option<Stored>,
}

impl Change {
    /// What a watcher is told of it: the kind of the event and the object in it.
    pub(crate) fn seen(&self, scope: &Scope, pick: Pick) -> Option<(EventKind, &Body)> {
        if !scope.contains(&self.key) {
            return None;
        }
        // Nobody can tell whether something unreadable is selected; its changes are told as they are.
        let view = |stored: &Option<Stored>| match stored.as_ref().map(|stored| stored.body.object()) {
            None => Some(false),
            Some(object) => object.map(|object| pick.holds(object)),
        };
        let whole = match (&self.before, &self.after) {
            (None, _) => EventKind::Added,
            (Some(_), Some(_)) => EventKind::Modified,
            (Some(_), None) => EventKind::Deleted,
        };
        let kind = match (view(&self.before), view(&self.after)) {
            _ if pick.is_all() => whole,
            (None, _) | (_, None) => whole,
            (Some(false), Some(false)) => return None,
            (Some(false), Some(true)) => EventKind::Added,
            (Some(true), Some(true)) => EventKind::Modified,
            (Some(true), Some(false)) => EventKind::Deleted,
        };
        let shown = match kind {
            EventKind::Deleted => &self.before,
            _ => &self.after,
        };
        shown.as_ref().map(|stored| (kind, &*stored.body))
    }
}

/// A selection, as the model understands it: not by the code that is under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    All,
    Label(u64),
    NotLabel(u64),
    Node(u64),
}

impl Pick {
    pub(crate) fn is_all(self) -> bool {
        self == Self::All
    }

    fn holds(self, object: &Value) -> bool {
        let label = object["metadata"]["labels"][LABEL].as_str();
        match self {
            Self::All => true,
            Self::Label(value) => label == Some(&value.to_string()),
            Self::NotLabel(value) => label != Some(&value.to_string()),
            Self::Node(node) => object["spec"]["nodeName"].as_str() == Some(&node_name(node)),
        }
    }

    /// The same for the store.
    pub(crate) fn predicate(self) -> SelectionPredicate {
        match self {
            Self::All => SelectionPredicate::default(),
            Self::Label(value) => by_label(&format!("{LABEL}={value}")),
            Self::NotLabel(value) => by_label(&format!("{LABEL}!={value}")),
            Self::Node(node) => by_field(&format!("spec.nodeName={}", node_name(node))),
        }
    }
}

pub(crate) fn node_name(node: u64) -> String {
    format!("node-{node}")
}

/// Everything that was written, in order.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) changes: Vec<Change>,
    /// The revision of the latest write of any kind.
    pub(crate) head: Revision,
    /// History below it was given up.
    pub(crate) compacted: Revision,
    /// The highest revision that was shown to anybody, by whatever answer: through one store, nobody is shown a state below.
    pub(crate) floor: Revision,
}

impl Model {
    /// Somebody was shown this revision.
    pub(crate) fn show(&mut self, revision: Revision) {
        self.floor = self.floor.max(revision);
    }

    pub(crate) fn new(start: Revision) -> Self {
        Self {
            changes: Vec::new(),
            head: start,
            // What was before belongs to nobody here.
            compacted: start,
            floor: start,
        }
    }

    /// The state at a revision: the list, folded.
    pub(crate) fn at(&self, revision: Revision) -> BTreeMap<Key, Stored> {
        let mut state = BTreeMap::new();
        for change in self.changes.iter().take_while(|change| change.revision <= revision) {
            match &change.after {
                Some(stored) => drop(state.insert(change.key.clone(), stored.clone())),
                None => drop(state.remove(&change.key)),
            }
        }
        state
    }

    pub(crate) fn current(&self, key: &Key) -> Option<Stored> {
        let last = self.changes.iter().rev().find(|change| change.key == *key);
        last.and_then(|change| change.after.clone())
    }

    /// All states of a key from a revision on.
    pub(crate) fn states(&self, key: &Key, from: Revision) -> Vec<Option<Stored>> {
        let mut states = vec![self.at(from).remove(key)];
        let later = self.changes.iter().filter(|change| change.revision > from);
        states.extend(
            later
                .filter(|change| change.key == *key)
                .map(|change| change.after.clone()),
        );
        states
    }

    /// What a list shows. What cannot be read is in every selection.
    pub(crate) fn listed(&self, revision: Revision, scope: &Scope, pick: Pick) -> Vec<(Key, Stored)> {
        let selected = |stored: &Stored| stored.body.object().is_none_or(|object| pick.holds(object));
        let state = self.at(revision).into_iter();
        state
            .filter(|(key, stored)| scope.contains(key) && selected(stored))
            .collect()
    }

    /// The write that took the next revision.
    pub(crate) fn write(&mut self, revision: Revision, key: &Key, body: Option<Body>, leased: bool) {
        assert_eq!(revision, self.head.next(), "every write takes the next revision: {key}");
        let after = body.map(|body| Stored {
            revision,
            body: Arc::new(body),
            leased,
        });
        self.push(revision, key, after);
    }

    pub(crate) fn push(&mut self, revision: Revision, key: &Key, after: Option<Stored>) {
        let before = self.current(key);
        self.head = revision;
        self.changes.push(Change {
            revision,
            key: key.clone(),
            before,
            after,
        });
    }

    /// The changes that a watcher is to be told next: all of one revision.
    pub(crate) fn next_group(&self, after: Revision, scope: &Scope, pick: Pick) -> Option<(Revision, Vec<&Change>)> {
        let later = self.changes.iter().filter(|change| change.revision > after);
        let mut seen = later.filter(|change| change.seen(scope, pick).is_some()).peekable();
        let revision = seen.peek()?.revision;
        Some((
            revision,
            seen.take_while(|change| change.revision == revision).collect(),
        ))
    }
}
