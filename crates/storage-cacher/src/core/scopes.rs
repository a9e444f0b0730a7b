//! Groups of equal watchers, and which of them a record concerns.
//!
//! Watchers of one scope with one selector are a group. A record is offered to the groups whose topic it touches, each
//! looks at it once, and a group that sees nothing of it is not woken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{Event, Index, Revision, Scope, SelectionPredicate};

use crate::core::log::{Record, Ring, Selection};
use crate::core::root::{required_value, value_of};
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
    /// Objects with this value of a field or label, wherever they are.
    Value(Index, Arc<str>),
}

impl Topic {
    /// The narrowest topic that surely has everything that such a watcher sees; none: everything.
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

/// Places of groups by the text of their topics.
type Places = HashMap<Arc<str>, Vec<usize>>;

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
    /// Groups that every record may concern.
    everywhere: Vec<usize>,
    under: Places,
    keys: Places,
    values: Vec<(Index, Places)>,
    /// Groups that the record at hand may concern.
    concerned: Vec<usize>,
    deserted: usize,
    /// Where the next sweep begins.
    swept: usize,
}

impl Groups {
    /// The groups of a topic.
    fn known(&self, topic: Option<&Topic>) -> &[usize] {
        let known = match topic {
            None => Some(&self.everywhere),
            Some(Topic::Under(text)) => self.under.get(text),
            Some(Topic::Key(text)) => self.keys.get(text),
            Some(Topic::Value(index, text)) => {
                let of_value = self.values.iter().find(|(own, _)| own == index);
                of_value.and_then(|(_, places)| places.get(text))
            }
        };
        known.map_or(&[], Vec::as_slice)
    }

    fn file(&mut self, topic: Option<&Topic>, at: usize) {
        let (places, text) = match topic {
            None => return self.everywhere.push(at),
            Some(Topic::Under(text)) => (&mut self.under, text),
            Some(Topic::Key(text)) => (&mut self.keys, text),
            Some(Topic::Value(index, text)) => {
                if !self.values.iter().any(|(own, _)| own == index) {
                    self.values.push((index.clone(), Places::default()));
                }
                let of_value = self.values.iter_mut().find(|(own, _)| own == index);
                let Some((_, places)) = of_value else { return };
                (places, text)
            }
        };
        places.entry(Arc::clone(text)).or_default().push(at);
    }

    /// The group of a scope and selection; made when there is none, with what happens above `since`.
    pub(crate) fn of(
        &mut self,
        topic: Option<Topic>,
        scope: &Scope,
        whole: bool,
        predicate: &SelectionPredicate,
        since: Revision,
    ) -> Option<&Group> {
        let is_it = |at: &usize| {
            let own = self.groups.get(*at).and_then(Option::as_ref);
            own.is_some_and(|own| own.selection.scope == *scope && own.selection.predicate == *predicate)
        };
        if let Some(at) = self.known(topic.as_ref()).iter().copied().find(is_it) {
            return self.groups.get(at)?.as_ref();
        }
        let group = Group {
            topic,
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
        self.file(group.topic.as_ref(), at);
        *self.groups.get_mut(at)? = Some(group);
        self.groups.get(at)?.as_ref()
    }

    /// Offers a record to every group that it may concern, and gives those that see something of it to `wake`. Returns
    /// their places.
    pub(crate) fn post(
        &mut self,
        record: &Arc<Record>,
        prefix: &str,
        mut wake: impl FnMut(&Arc<Wakers>),
    ) -> Box<[usize]> {
        if self.groups.len() == self.free.len() {
            return Box::default();
        }
        let mut concerned = std::mem::take(&mut self.concerned);
        concerned.extend(&self.everywhere);
        for event in record.events.iter() {
            self.concerned_by(event, prefix, &mut concerned);
        }
        concerned.sort_unstable();
        concerned.dedup();
        concerned.retain(|at| {
            let Some(group) = self.groups.get_mut(*at).and_then(Option::as_mut) else {
                return false;
            };
            let Some(events) = group.selection.sees(record) else {
                return false;
            };
            group.ring.push(record, events);
            wake(&group.selection.wakers);
            true
        });
        let posted = concerned.as_slice().into();
        concerned.clear();
        self.concerned = concerned;
        posted
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
            for (index, of_value) in &self.values {
                match side.attributes() {
                    Some(_) => {
                        let groups = value_of(index, side).and_then(|value| of_value.get(value));
                        concerned.extend(groups.into_iter().flatten());
                    }
                    // What cannot be read may be anybody's.
                    None => concerned.extend(of_value.values().flatten()),
                }
            }
        }
    }

    /// Forgets records of these groups up to a revision. A place may have another group by now, which began later.
    pub(crate) fn forget(&mut self, places: &[usize], through: Revision) {
        for at in places {
            if let Some(group) = self.groups.get_mut(*at).and_then(Option::as_mut) {
                group.ring.forget(through);
            }
        }
    }

    /// Drops groups that nobody has belonged to for so long, and whatever is too many of those. Looks at a part of them
    /// each time.
    pub(crate) fn sweep(&mut self, now: Duration, keep: Duration) {
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
            if is_deserted && (aged || group.ring.len() == 0 || self.deserted > DESERTED) {
                gone.push(at);
                self.deserted = self.deserted.saturating_sub(1);
            }
        }
        self.swept = if begin + SWEPT < self.groups.len() {
            begin + SWEPT
        } else {
            0
        };
        for at in gone {
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) {
        let Some(group) = self.groups.get_mut(at).and_then(Option::take) else {
            return;
        };
        self.free.push(at);
        let unfile = |places: &mut Places, text: &Arc<str>| {
            let Some(groups) = places.get_mut(text) else { return };
            groups.retain(|own| *own != at);
            if groups.is_empty() {
                places.remove(text);
            }
        };
        match &group.topic {
            None => self.everywhere.retain(|own| *own != at),
            Some(Topic::Under(text)) => unfile(&mut self.under, text),
            Some(Topic::Key(text)) => unfile(&mut self.keys, text),
            Some(Topic::Value(index, text)) => {
                for (own, places) in &mut self.values {
                    if own == index {
                        unfile(places, text);
                    }
                }
                self.values.retain(|(_, places)| !places.is_empty());
            }
        }
    }

    /// Whether there are groups that nobody belongs to, as of the last sweep.
    pub(crate) fn has_deserted(&self) -> bool {
        self.deserted > 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().flatten()
    }
}
