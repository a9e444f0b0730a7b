//! Which rings there are, and which of them a record concerns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use apiserver_storage_api::{Event, Index, Revision, Scope, SelectionPredicate};

use crate::core::log::{Record, Ring};
use crate::core::root::{required_value, value_of};

/// What a ring is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Keys below a prefix, other than the whole kind.
    Under(Arc<str>),
    /// One key.
    Key(Arc<str>),
    /// Objects with this value of a field or label, wherever they are.
    Value(Index, Arc<str>),
}

impl Topic {
    /// The narrowest topic that surely has everything that such a watcher sees; none: the whole kind.
    pub(crate) fn of(scope: &Scope, prefix: &str, predicate: &SelectionPredicate, indexes: &[Index]) -> Option<Self> {
        if let Scope::Key(key) = scope {
            return Some(Self::Key(key.as_str().into()));
        }
        let value = |index: &Index| Some(Self::Value(index.clone(), required_value(index, predicate)?.into()));
        let field = |label: &str| value(&Index::Field(label.into()));
        // A name narrows more than what the kind is indexed by, and that more than what else may be selected by.
        if let Some(topic) = field("metadata.name").or_else(|| indexes.iter().find_map(value)) {
            return Some(topic);
        }
        if scope.as_str() != prefix {
            return Some(Self::Under(scope.as_str().into()));
        }
        let mut labels = predicate.labels().into_iter().flat_map(|labels| labels.keys());
        let mut fields = predicate.fields().into_iter().flat_map(|fields| fields.fields());
        field("metadata.namespace")
            .or_else(|| labels.find_map(|label| value(&Index::Label(label.into()))))
            .or_else(|| fields.find_map(field))
    }
}

/// Ids of rings by the text of their topics.
type Ids = HashMap<Arc<str>, u64>;

/// The rings by topic. The ring of the whole kind is not among them.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    /// In the order in which they were made, which is the order in which they are woken.
    rings: BTreeMap<u64, (Topic, Ring)>,
    next_id: u64,
    under: Ids,
    keys: Ids,
    values: HashMap<Index, Ids>,
}

impl Rings {
    fn ids(&mut self, topic: &Topic) -> (&mut Ids, Arc<str>) {
        match topic {
            Topic::Under(text) => (&mut self.under, Arc::clone(text)),
            Topic::Key(text) => (&mut self.keys, Arc::clone(text)),
            Topic::Value(index, text) => (self.values.entry(index.clone()).or_default(), Arc::clone(text)),
        }
    }

    /// The ring of a topic; made when there is none, with what happens above `since`.
    pub(crate) fn of(&mut self, topic: Topic, since: Revision) -> &Ring {
        let fresh = self.next_id;
        let (ids, text) = self.ids(&topic);
        let id = *ids.entry(text).or_insert(fresh);
        if id == fresh {
            self.next_id += 1;
        }
        &self.rings.entry(id).or_insert_with(|| (topic, Ring::new(since))).1
    }

    /// Adds a record to every ring that it concerns, gives each of them to `touched`, and tells their ids.
    pub(crate) fn post(&mut self, record: &Arc<Record>, prefix: &str, mut touched: impl FnMut(&Ring)) -> Box<[u64]> {
        if self.rings.is_empty() {
            return Box::default();
        }
        let mut ids = Vec::new();
        for event in record.events.iter() {
            self.concerned(event, prefix, &mut ids);
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

    fn concerned(&self, event: &Event, prefix: &str, ids: &mut Vec<u64>) {
        let key = event.key.as_str();
        ids.extend(self.keys.get(key));
        if !self.under.is_empty() {
            let below = key.get(prefix.len()..).unwrap_or_default();
            for (at, _) in below.match_indices('/') {
                ids.extend(key.get(..=prefix.len() + at).and_then(|prefix| self.under.get(prefix)));
            }
        }
        for side in [event.previous.as_ref(), event.object.as_ref()].into_iter().flatten() {
            for (index, of_value) in &self.values {
                match side.attributes() {
                    Some(_) => ids.extend(value_of(index, side).and_then(|value| of_value.get(value))),
                    // What cannot be read may be anybody's.
                    None => ids.extend(of_value.values()),
                }
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
        let idle = self.rings.iter().filter(|(_, (_, ring))| ring.is_idle());
        let idle: Vec<(u64, Topic)> = idle.map(|(id, (topic, _))| (*id, topic.clone())).collect();
        for (id, topic) in idle {
            self.rings.remove(&id);
            let (ids, text) = self.ids(&topic);
            ids.remove(&text);
        }
        self.values.retain(|_, ids| !ids.is_empty());
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Ring> {
        self.rings.values().map(|(_, ring)| ring)
    }
}
