//! Which rings there are, and which of them a record concerns.

use std::collections::HashMap;
use std::sync::Arc;

use apiserver_storage_api::{Entry, Event, Index, Revision, Scope, SelectionPredicate};

use crate::core::log::{Record, Ring};
use crate::core::root::{required_value, value_of};

/// What a ring is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Keys below a prefix, other than the whole kind.
    Under(Arc<str>),
    /// One key.
    Key(Arc<str>),
    /// Objects of this name, wherever they are.
    Name(Arc<str>),
    /// Objects with this value in the index of this number.
    Value(usize, Arc<str>),
}

impl Topic {
    /// The narrowest topic that surely has everything that such a watcher sees; none: the whole kind.
    pub(crate) fn of(scope: &Scope, prefix: &str, predicate: &SelectionPredicate, indexes: &[Index]) -> Option<Self> {
        if let Scope::Key(key) = scope {
            return Some(Self::Key(key.as_str().into()));
        }
        if let Some(name) = predicate.exact_field("metadata.name") {
            return Some(Self::Name(name.into()));
        }
        for (at, index) in indexes.iter().enumerate() {
            if let Some(value) = required_value(index, predicate) {
                return Some(Self::Value(at, value.into()));
            }
        }
        (scope.as_str() != prefix).then(|| Self::Under(scope.as_str().into()))
    }
}

/// Ids of rings by the text of their topics.
type Ids = HashMap<Arc<str>, u64>;

/// The rings by topic. The ring of the whole kind is not among them.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    rings: HashMap<u64, (Topic, Ring)>,
    next_id: u64,
    under: Ids,
    keys: Ids,
    names: Ids,
    values: Vec<Ids>,
}

impl Rings {
    pub(crate) fn new(indexes: usize) -> Self {
        Self {
            values: vec![HashMap::new(); indexes],
            ..Self::default()
        }
    }

    fn ids(&mut self, topic: &Topic) -> Option<(&mut Ids, Arc<str>)> {
        Some(match topic {
            Topic::Under(text) => (&mut self.under, Arc::clone(text)),
            Topic::Key(text) => (&mut self.keys, Arc::clone(text)),
            Topic::Name(text) => (&mut self.names, Arc::clone(text)),
            Topic::Value(at, text) => (self.values.get_mut(*at)?, Arc::clone(text)),
        })
    }

    /// The ring of a topic; made when there is none, with what happens above `since`.
    pub(crate) fn of(&mut self, topic: Topic, since: Revision) -> Option<&Ring> {
        let fresh = self.next_id;
        let (ids, text) = self.ids(&topic)?;
        let id = *ids.entry(text).or_insert(fresh);
        if id == fresh {
            self.next_id += 1;
        }
        Some(&self.rings.entry(id).or_insert_with(|| (topic, Ring::new(since))).1)
    }

    /// Adds a record to every ring that it concerns; tells each one's id and gives each to `touched`.
    pub(crate) fn post(
        &mut self,
        record: &Arc<Record>,
        prefix: &str,
        indexes: &[Index],
        mut touched: impl FnMut(&Ring),
    ) -> Box<[u64]> {
        if self.rings.is_empty() {
            return Box::default();
        }
        let mut ids = Vec::new();
        for event in record.events.iter() {
            self.concerned(event, prefix, indexes, &mut ids);
        }
        ids.sort_unstable();
        ids.dedup();
        for id in &ids {
            if let Some((_, ring)) = self.rings.get_mut(id) {
                ring.push(record);
                touched(ring);
            }
        }
        ids.into()
    }

    fn concerned(&self, event: &Event, prefix: &str, indexes: &[Index], ids: &mut Vec<u64>) {
        let key = event.key.as_str();
        ids.extend(self.keys.get(key));
        if !self.under.is_empty() {
            let below = key.get(prefix.len()..).unwrap_or_default();
            for (at, _) in below.match_indices('/') {
                ids.extend(
                    key.get(..prefix.len() + at + 1)
                        .and_then(|prefix| self.under.get(prefix)),
                );
            }
        }
        let sides = [event.previous.as_ref(), event.object.as_ref()];
        for side in sides.into_iter().flatten() {
            match side.attributes() {
                Some(attributes) => {
                    ids.extend(self.names.get(&*attributes.name));
                    ids.extend(
                        indexes
                            .iter()
                            .zip(&self.values)
                            .filter_map(|(index, ids)| lookup(index, side, ids)),
                    );
                }
                // What cannot be read may be anybody's.
                None => ids.extend(self.names.values().chain(self.values.iter().flat_map(HashMap::values))),
            }
        }
    }

    /// Forgets records of these rings up to a revision.
    pub(crate) fn forget(&mut self, ids: &[u64], through: Revision) {
        for id in ids {
            if let Some((_, ring)) = self.rings.get_mut(id) {
                ring.forget(through);
            }
        }
    }

    /// Drops rings that nobody listens to and that hold nothing.
    pub(crate) fn sweep(&mut self) {
        let idle: Vec<(u64, Topic)> = self
            .rings
            .iter()
            .filter(|(_, (_, ring))| ring.is_idle())
            .map(|(id, (topic, _))| (*id, topic.clone()))
            .collect();
        for (id, topic) in idle {
            self.rings.remove(&id);
            if let Some((ids, text)) = self.ids(&topic) {
                ids.remove(&text);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Ring> {
        self.rings.values().map(|(_, ring)| ring)
    }
}

fn lookup<'a>(index: &Index, entry: &Entry, ids: &'a Ids) -> Option<&'a u64> {
    if ids.is_empty() {
        return None;
    }
    ids.get(value_of(index, entry)?)
}
