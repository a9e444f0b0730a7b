//! Groups of equal watchers, and which of them a record concerns.
//!
//! Watchers of one scope with one selector are a group. A record is offered to the groups whose topic it touches, each
//! looks at it once, and a group that sees nothing of it is not woken.
//!
//! A topic is a key, a prefix of keys, one of some values of a field or label, or a label that has to be there. Who says
//! only what is not to be (`!=`, `notin`, `!label`) has none, and looks at every record: once for all of the group, and
//! only as long as somebody belongs to it. What the other groups have seen is kept for a while for those who come back,
//! and costs nothing but a pointer for each record that concerned them, counted with history.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{Event, Index, LabelSelector, Revision, Scope, SelectionPredicate};

use crate::core::log::{Record, Ring, Selection};
use crate::core::root::required_value;
use crate::core::wake::Wakers;

/// Groups that nobody belongs to any more, kept for those who come back.
const DESERTED: usize = 10_000;
/// Groups that are looked at in one sweep.
const SWEPT: usize = 4_096;

/// What a group is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Keys below a prefix, other than the whole kind.
    Under(Arc<str>),
    /// One key.
    Key(Arc<str>),
    /// Objects with one of these values of a field or label, wherever they are.
    Values(Index, Box<[Arc<str>]>),
    /// Objects with this label, whatever its value.
    Label(Arc<str>),
}

impl Topic {
    /// The narrowest topic that surely has everything that such a watcher sees; none: everything.
    pub(crate) fn of(scope: &Scope, prefix: &str, predicate: &SelectionPredicate, indexes: &[Index]) -> Option<Self> {
        if let Scope::Key(key) = scope {
            return Some(Self::Key(key.as_str().into()));
        }
        let value = |index: &Index| {
            let value = required_value(index, predicate)?.into();
            Some(Self::Values(index.clone(), Box::new([value])))
        };
        let field = |label: &str| value(&Index::Field(label.into()));
        // A name narrows more than what the kind is indexed by, and that more than what else may be selected by.
        if let Some(topic) = field("metadata.name").or_else(|| indexes.iter().find_map(value)) {
            return Some(topic);
        }
        if scope.as_str() != prefix {
            return Some(Self::Under(scope.as_str().into()));
        }
        let mut fields = predicate.fields().into_iter().flat_map(|fields| fields.fields());
        let exact = field("metadata.namespace")
            .or_else(|| Self::labels(predicate, |_, key| value(&Index::Label(key.into()))))
            .or_else(|| fields.find_map(field));
        exact
            .or_else(|| {
                Self::labels(predicate, |labels, key| {
                    let values = labels.requires_one_of(key)?.iter().map(|value| value.as_str().into());
                    Some(Self::Values(Index::Label(key.into()), values.collect()))
                })
            })
            .or_else(|| {
                Self::labels(predicate, |labels, key| {
                    labels.requires_some(key).then(|| Self::Label(key.into()))
                })
            })
    }

    /// The first that is found among the labels that are selected by.
    fn labels(predicate: &SelectionPredicate, find: impl Fn(&LabelSelector, &str) -> Option<Self>) -> Option<Self> {
        let labels = predicate.labels()?;
        labels.keys().find_map(|key| find(labels, key))
    }
}

/// Places of groups by the text of their topics.
type Places = HashMap<Arc<str>, Vec<usize>>;

fn file(places: &mut Places, text: &Arc<str>, at: usize) {
    places.entry(Arc::clone(text)).or_default().push(at);
}

fn unfile(places: &mut Places, text: &Arc<str>, at: usize) {
    let Some(groups) = places.get_mut(text) else { return };
    groups.retain(|own| *own != at);
    if groups.is_empty() {
        places.remove(text);
    }
}

/// Groups that are about a label.
#[derive(Debug, Default)]
struct OfLabel {
    values: Places,
    /// Those who take any value.
    any: Vec<usize>,
}

/// The watchers of one scope with one selector.
#[derive(Debug)]
pub(crate) struct Group {
    topic: Option<Topic>,
    pub(crate) selection: Arc<Selection>,
    pub(crate) ring: Ring,
    /// Since when nobody belongs to it.
    deserted: Option<Duration>,
}

/// The groups by topic. That of everything is not among them: it reads the log itself.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: Vec<Option<Group>>,
    free: Vec<usize>,
    by_selection: HashMap<(Scope, SelectionPredicate), usize>,
    /// Groups that every record may concern.
    everywhere: Vec<usize>,
    under: Places,
    keys: Places,
    fields: HashMap<Arc<str>, Places>,
    labels: HashMap<Arc<str>, OfLabel>,
    /// Groups that the record at hand may concern.
    concerned: Vec<usize>,
    deserted: usize,
    /// Where the next sweep begins.
    swept: usize,
    /// Bytes of all rings.
    weight: usize,
    /// How often a group has looked at a record.
    #[cfg(test)]
    pub(crate) looks: usize,
}

/// Where a record was posted.
#[derive(Debug, Default)]
pub(crate) struct Posted {
    groups: Box<[u32]>,
    /// Bytes that are kept for those who see only a part of it.
    pub(crate) parts: usize,
}

impl Posted {
    /// Bytes that are kept for it beside the record and the rings.
    pub(crate) fn weight(&self) -> usize {
        self.parts + size_of_val(&*self.groups)
    }
}

impl Groups {
    fn file(&mut self, topic: Option<&Topic>, at: usize) {
        match topic {
            None => self.everywhere.push(at),
            Some(Topic::Under(text)) => file(&mut self.under, text, at),
            Some(Topic::Key(text)) => file(&mut self.keys, text, at),
            Some(Topic::Label(key)) => self.labels.entry(Arc::clone(key)).or_default().any.push(at),
            Some(Topic::Values(index, values)) => {
                if let Some(places) = self.of_index(index) {
                    values.iter().for_each(|value| file(places, value, at));
                }
            }
        }
    }

    /// Where groups are found by a value of an index; made when there is none.
    fn of_index(&mut self, index: &Index) -> Option<&mut Places> {
        match index {
            Index::Field(field) => Some(self.fields.entry(Arc::clone(field)).or_default()),
            Index::Label(key) => Some(&mut self.labels.entry(Arc::clone(key)).or_default().values),
            _ => None,
        }
    }

    /// The group of a scope and selection; made when there is none, with what happens above `since`.
    pub(crate) fn of(
        &mut self,
        topic: impl FnOnce() -> Option<Topic>,
        scope: &Scope,
        whole: bool,
        predicate: &SelectionPredicate,
        since: Revision,
    ) -> Option<&Group> {
        let selection = (scope.clone(), predicate.clone());
        if let Some(at) = self.by_selection.get(&selection) {
            return self.groups.get(*at)?.as_ref();
        }
        let group = Group {
            topic: topic(),
            selection: Arc::new(Selection {
                scope: scope.clone(),
                whole,
                predicate: predicate.clone(),
                wakers: Arc::default(),
            }),
            ring: Ring::new(since),
            deserted: None,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.groups.push(None);
            self.groups.len() - 1
        });
        self.by_selection.insert(selection, at);
        self.file(group.topic.as_ref(), at);
        *self.groups.get_mut(at)? = Some(group);
        self.groups.get(at)?.as_ref()
    }

    /// Offers a record to every group that it may concern, and gives those that see something of it to `wake`.
    pub(crate) fn post(&mut self, record: &Arc<Record>, prefix: &str, mut wake: impl FnMut(&Arc<Wakers>)) -> Posted {
        if self.groups.len() == self.free.len() {
            return Posted::default();
        }
        self.leave_everywhere();
        let mut concerned = std::mem::take(&mut self.concerned);
        concerned.extend(&self.everywhere);
        for event in record.events.iter() {
            self.concerned_by(event, prefix, &mut concerned);
        }
        concerned.sort_unstable();
        concerned.dedup();
        let mut parts = 0;
        concerned.retain(|at| {
            let Some(group) = self.groups.get_mut(*at).and_then(Option::as_mut) else {
                return false;
            };
            #[cfg(test)]
            {
                self.looks += 1;
            }
            let Some(seen) = group.selection.narrow(record) else {
                return false;
            };
            // Made for this group alone: what is left of an event by itself is shared.
            if record.events.len() > 1 && !Arc::ptr_eq(&seen, record) {
                parts += seen.weight;
            }
            self.weight -= group.ring.weight();
            group.ring.push(&seen);
            self.weight += group.ring.weight();
            wake(&group.selection.wakers);
            true
        });
        let posted = Posted {
            groups: concerned.iter().map(|at| *at as u32).collect(),
            parts: parts + record.shared_bytes(),
        };
        concerned.clear();
        self.concerned = concerned;
        posted
    }

    /// Drops the groups that would have to look at every record and that nobody belongs to: who comes back looks through
    /// the log, which is no more than what they would have done meanwhile.
    fn leave_everywhere(&mut self) {
        let mut gone = Vec::new();
        self.everywhere.retain(|at| {
            let group = self.groups.get(*at).and_then(Option::as_ref);
            let stays = group.is_some_and(|group| group.selection.wakers.taken() > 0);
            if !stays {
                gone.push(*at);
            }
            stays
        });
        gone.into_iter().for_each(|at| self.remove(at));
    }

    fn concerned_by(&self, event: &Event, prefix: &str, concerned: &mut Vec<usize>) {
        let key = event.key.as_str();
        concerned.extend(self.keys.get(key).into_iter().flatten());
        if !self.under.is_empty() {
            let below = key.get(prefix.len()..).unwrap_or_default();
            for (at, _) in below.match_indices('/') {
                let groups = key.get(..=prefix.len() + at).and_then(|prefix| self.under.get(prefix));
                concerned.extend(groups.into_iter().flatten());
            }
        }
        for side in [event.previous.as_ref(), event.object.as_ref()].into_iter().flatten() {
            let Some(attributes) = side.attributes() else {
                // What cannot be read may be anybody's.
                let labels = self.labels.values();
                concerned.extend(labels.flat_map(|own| own.values.values().flatten().chain(&own.any)));
                concerned.extend(self.fields.values().flat_map(HashMap::values).flatten());
                continue;
            };
            for (field, places) in &self.fields {
                // A field that an object does not have reads as empty, as selectors see it.
                let value = attributes.field(field).unwrap_or_default();
                concerned.extend(places.get(value).into_iter().flatten());
            }
            if self.labels.is_empty() {
                continue;
            }
            for (key, value) in attributes.labels.iter() {
                if let Some(own) = self.labels.get(key) {
                    concerned.extend(own.values.get(value).into_iter().flatten().chain(&own.any));
                }
            }
        }
    }

    /// Forgets records up to a revision where they were posted. A place may have another group by now, which began later.
    pub(crate) fn forget(&mut self, posted: &Posted, through: Revision) {
        for at in &posted.groups {
            if let Some(group) = self.groups.get_mut(*at as usize).and_then(Option::as_mut) {
                self.weight -= group.ring.weight();
                group.ring.forget(through);
                self.weight += group.ring.weight();
            }
        }
    }

    /// Drops groups that nobody has belonged to for so long, and whatever is too many of those. Looks at a part of them
    /// each time.
    pub(crate) fn sweep(&mut self, now: Duration, keep: Duration) {
        self.leave_everywhere();
        let (begin, mut gone) = (self.swept, Vec::new());
        for (at, group) in self.groups.iter_mut().enumerate().skip(begin).take(SWEPT) {
            let Some(group) = group else { continue };
            let is_deserted = group.selection.wakers.taken() == 0;
            match (is_deserted, group.deserted) {
                (true, None) => {
                    group.deserted = Some(now);
                    self.deserted += 1;
                }
                (false, Some(_)) => {
                    group.deserted = None;
                    self.deserted = self.deserted.saturating_sub(1);
                }
                _ => {}
            }
            let aged = group.deserted.is_some_and(|since| now.saturating_sub(since) >= keep);
            if is_deserted && (aged || group.ring.len() == 0 || self.deserted > DESERTED + gone.len()) {
                gone.push(at);
            }
        }
        self.swept = if begin + SWEPT < self.groups.len() {
            begin + SWEPT
        } else {
            0
        };
        gone.into_iter().for_each(|at| self.remove(at));
    }

    /// Drops a group; who drops one that every record may concern has taken it from among those.
    fn remove(&mut self, at: usize) {
        let Some(group) = self.groups.get_mut(at).and_then(Option::take) else {
            return;
        };
        self.free.push(at);
        self.weight -= group.ring.weight();
        self.deserted = self.deserted.saturating_sub(usize::from(group.deserted.is_some()));
        let selection = (group.selection.scope.clone(), group.selection.predicate.clone());
        self.by_selection.remove(&selection);
        match &group.topic {
            None => {}
            Some(Topic::Under(text)) => unfile(&mut self.under, text, at),
            Some(Topic::Key(text)) => unfile(&mut self.keys, text, at),
            Some(Topic::Label(key)) => {
                if let Some(own) = self.labels.get_mut(key) {
                    own.any.retain(|own| *own != at);
                }
                self.unfile_label(key);
            }
            Some(Topic::Values(index, values)) => {
                if let Some(places) = self.of_index(index) {
                    values.iter().for_each(|value| unfile(places, value, at));
                }
                match index {
                    Index::Label(key) => self.unfile_label(key),
                    Index::Field(field) if self.fields.get(field).is_some_and(HashMap::is_empty) => {
                        self.fields.remove(field);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Forgets a label that no group is about any more.
    fn unfile_label(&mut self, key: &Arc<str>) {
        let unused = |own: &OfLabel| own.values.is_empty() && own.any.is_empty();
        if self.labels.get(key).is_some_and(unused) {
            self.labels.remove(key);
        }
    }

    /// Whether there are groups that nobody belongs to, as of the last sweep.
    pub(crate) fn has_deserted(&self) -> bool {
        self.deserted > 0
    }

    /// Bytes of all rings.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().flatten()
    }
}
