//! Holds answers against the history: is there one order that explains them all, in which nothing that ended before
//! something else began comes after it?
//!
//! The order is that of the revisions. A write stands at its revision; a read may stand anywhere between what was known
//! to anybody when it began and what was written by calls that began after it had ended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use apiserver_storage_api::{Key, ListAt, Revision, Storage};

use super::client::id_of;
use super::{Faults, Outcome, Record, Verdict};
use crate::fixture::list_at;
use crate::model::{Body, Model, Stored, VALUES};

/// States that are read again at their revision in the end.
const STATES: usize = 8;

/// The history is also what lists at its revisions show.
pub(super) async fn states(direct: &dyn Storage, history: &Model) {
    let step = (history.changes.len() / STATES).max(1);
    for change in history.changes.iter().rev().step_by(step) {
        let listed = list_at(direct, ListAt::Exact(change.revision)).await;
        let state = history.at(change.revision);
        assert_eq!(listed.entries.len(), state.len(), "the state at {}", change.revision);
        for entry in &listed.entries {
            let stored = state.get(entry.key());
            assert!(
                stored.is_some_and(|stored| stored.is(entry)),
                "at {}: {entry:?}, {stored:?}",
                change.revision
            );
        }
    }
}

/// What is known about the history beside itself.
struct Known<'a> {
    history: &'a Model,
    /// The changes of each key.
    of_key: HashMap<&'a Key, Vec<usize>>,
    /// The write with an id, and where it stands.
    ids: HashMap<&'a str, usize>,
    /// Ends of operations with the highest revision that was known to anybody then; both rise.
    before: Vec<(u64, Revision)>,
    /// Begins of writes with the lowest revision of a write that began then or later; both rise.
    after: Vec<(u64, Revision)>,
}

/// Checks every answer.
pub(super) fn answers(history: &Model, records: &[Record], faults: Faults) -> Verdict {
    let known = Known::new(history, records);
    known.changes_are_what_their_ids_say();
    let mut verdict = Verdict {
        acknowledged: 0,
        unknown: 0,
        unknown_applied: 0,
        failed: 0,
        reads: 0,
        events: 0,
        resumed: 0,
    };
    let mut claimed = HashSet::new();
    for record in records {
        match &record.outcome {
            Outcome::Wrote(revision, id) => {
                verdict.acknowledged += 1;
                assert!(claimed.insert(*revision), "two writes were told {revision}: {record:?}");
                known.wrote(record, *revision, id.as_deref());
            }
            Outcome::Unknown(id) => {
                assert_eq!(faults, Faults::Network, "{record:?}");
                verdict.unknown += 1;
                verdict.unknown_applied += u64::from(id.as_deref().is_some_and(|id| known.ids.contains_key(id)));
            }
            Outcome::Failed => {
                verdict.failed += 1;
                known.did_nothing(record);
            }
            Outcome::NotFound | Outcome::Exists => {
                known.did_nothing(record);
                known.refused(record);
            }
            Outcome::Read(revision, object) => {
                verdict.reads += 1;
                known.read(record, *revision, object);
            }
            Outcome::Listed(..) | Outcome::Now(_) => verdict.reads += 1,
        }
    }
    known.lists(records);
    known.every_change_has_a_writer(records, &claimed);
    verdict
}

impl<'a> Known<'a> {
    fn new(history: &'a Model, records: &[Record]) -> Self {
        let mut of_key: HashMap<&Key, Vec<usize>> = HashMap::new();
        let mut ids = HashMap::new();
        for (at, change) in history.changes.iter().enumerate() {
            of_key.entry(&change.key).or_default().push(at);
            if let Some(id) = object_of(&change.after).and_then(id_of) {
                let again = ids.insert(id, at);
                assert!(
                    again.is_none(),
                    "{id} was applied twice: {again:?} and {at} of {}",
                    change.key
                );
            }
        }
        let mut ends: Vec<(u64, Revision)> = records.iter().filter_map(|r| Some((r.ended, told(r)?))).collect();
        ends.sort_unstable();
        let mut highest = history.compacted;
        let before = ends.into_iter().map(|(ended, revision)| {
            highest = highest.max(revision);
            (ended, highest)
        });
        let before = before.collect();
        let writes = records.iter().filter_map(|record| match record.outcome {
            Outcome::Wrote(revision, _) => Some((record.began, revision)),
            _ => None,
        });
        let mut after: Vec<(u64, Revision)> = writes.collect();
        after.sort_unstable();
        let mut lowest = Revision::MAX;
        for (_, revision) in after.iter_mut().rev() {
            lowest = lowest.min(*revision);
            *revision = lowest;
        }
        Self {
            history,
            of_key,
            ids,
            before,
            after,
        }
    }

    /// The highest revision that was known to anybody when an operation began.
    fn from(&self, record: &Record) -> Revision {
        let at = self.before.partition_point(|(ended, _)| *ended < record.began);
        let last = at.checked_sub(1).and_then(|at| self.before.get(at));
        last.map_or(self.history.compacted, |(_, revision)| *revision)
    }

    /// The lowest revision of a write that began after an operation had ended: it cannot have seen that.
    fn to(&self, record: &Record) -> Revision {
        let at = self.after.partition_point(|(began, _)| *began <= record.ended);
        self.after.get(at).map_or(Revision::MAX, |(_, revision)| *revision)
    }

    /// Every write made of what it found what it says: it appended its id, or made a new object.
    fn changes_are_what_their_ids_say(&self) {
        for change in &self.history.changes {
            let (Some(after), before) = (object_of(&change.after), object_of(&change.before)) else {
                continue;
            };
            let Some(items) = after["spec"]["items"].as_array() else {
                continue;
            };
            let kept = items.len().saturating_sub(1);
            let found = before.and_then(|before| before["spec"]["items"].as_array());
            assert_eq!(
                items.get(..kept),
                Some(found.map_or(&[][..], |found| found)),
                "{change:?}"
            );
        }
    }

    /// An acknowledged write is in the history, at its revision, and stands behind all that was known before.
    fn wrote(&self, record: &Record, revision: Revision, id: Option<&str>) {
        let at = self
            .history
            .changes
            .binary_search_by_key(&revision, |change| change.revision);
        let Ok(at) = at else {
            panic!("acknowledged, but lost: {record:?}")
        };
        let change = &self.history.changes[at];
        assert_eq!(Some(&change.key), record.key.as_ref(), "{record:?}: {change:?}");
        assert_eq!(object_of(&change.after).and_then(id_of), id, "{record:?}: {change:?}");
        assert!(revision > self.from(record), "{record:?} behind {}", self.from(record));
    }

    /// What was told to have done nothing is not in the history.
    fn did_nothing(&self, record: &Record) {
        let applied = record.id.as_deref().and_then(|id| self.ids.get(id));
        assert!(applied.is_none(), "told that it did nothing, but applied: {record:?}");
    }

    /// The states of a key that an operation may have seen.
    fn states(&self, record: &Record) -> Vec<Option<&'a Stored>> {
        let (from, to) = match record.any {
            true => (self.history.compacted, Revision::MAX),
            false => (self.from(record), self.to(record)),
        };
        let key = record.key.as_ref().expect("it has a key");
        let none = Vec::new();
        let changes = self.of_key.get(key).unwrap_or(&none);
        let at = changes.partition_point(|&at| self.history.changes[at].revision <= from);
        let state = |at: usize| self.history.changes[changes[at]].after.as_ref();
        let mut states = vec![at.checked_sub(1).and_then(state)];
        states.extend(
            (at..changes.len())
                .filter(|&at| self.history.changes[changes[at]].revision < to)
                .map(state),
        );
        states
    }

    fn refused(&self, record: &Record) {
        let (states, exists) = (self.states(record), matches!(record.outcome, Outcome::Exists));
        assert!(
            states.iter().any(|state| state.is_some() == exists),
            "{record:?}: {states:?}"
        );
    }

    fn read(&self, record: &Record, revision: Revision, object: &Value) {
        let states = self.states(record);
        let is = |state: &Option<&Stored>| {
            state.is_some_and(|state| state.revision == revision && state.body.object() == Some(object))
        };
        assert!(states.iter().any(is), "{record:?}: {states:?}");
    }

    /// Every list is the state of its revision, and no client that takes any state goes back.
    fn lists(&self, records: &[Record]) {
        let mut lists: Vec<(Revision, &Record)> = Vec::new();
        for record in records {
            match &record.outcome {
                Outcome::Listed(revision, _) | Outcome::Now(revision) => {
                    let fresh = record.any || *revision >= self.from(record);
                    assert!(
                        fresh && *revision < self.to(record),
                        "{record:?}: {}..{}",
                        self.from(record),
                        self.to(record)
                    );
                    lists.push((*revision, record));
                }
                _ => {}
            }
        }
        lists.sort_unstable_by_key(|(revision, record)| (*revision, record.began));
        let mut state: BTreeMap<&Key, &Stored> = BTreeMap::new();
        let mut changes = self.history.changes.iter().peekable();
        for (revision, record) in &lists {
            while let Some(change) = changes.next_if(|change| change.revision <= *revision) {
                match &change.after {
                    Some(stored) => drop(state.insert(&change.key, stored)),
                    None => drop(state.remove(&change.key)),
                }
            }
            let Outcome::Listed(_, entries) = &record.outcome else {
                continue;
            };
            let shown = entries
                .iter()
                .map(|(key, revision, object)| (key, *revision, Some(object)));
            let want = state
                .iter()
                .map(|(key, stored)| (*key, stored.revision, stored.body.object()));
            assert!(
                shown.clone().eq(want.clone()),
                "{record:?}: {:?}",
                want.collect::<Vec<_>>()
            );
        }
        let mut last: HashMap<u64, (Revision, u64)> = HashMap::new();
        lists.sort_unstable_by_key(|(_, record)| record.began);
        for (revision, record) in lists {
            // Consistent reads may be answered by the backend, while a cache is behind it.
            if !record.any {
                continue;
            }
            let before = last.insert(record.client, (revision, record.began));
            assert!(
                before.is_none_or(|(before, _)| before <= revision),
                "{record:?} goes back from {before:?}"
            );
        }
    }

    /// Nobody's change is in the history: each was acknowledged, or its writer does not know.
    fn every_change_has_a_writer(&self, records: &[Record], claimed: &HashSet<Revision>) {
        let unknown = records
            .iter()
            .filter(|record| matches!(record.outcome, Outcome::Unknown(_)));
        let ids: HashSet<&str> = unknown.clone().filter_map(|record| record.id.as_deref()).collect();
        let mut deletions: HashMap<&Key, u64> = HashMap::new();
        for record in unknown.filter(|record| record.id.is_none()) {
            *deletions.entry(record.key.as_ref().expect("it has a key")).or_default() += 1;
        }
        // The last ones are those of the end.
        let ours = self
            .history
            .changes
            .len()
            .saturating_sub(usize::try_from(VALUES).unwrap_or_default());
        for change in self.history.changes.iter().take(ours) {
            if claimed.contains(&change.revision) {
                continue;
            }
            match object_of(&change.after) {
                Some(object) => {
                    let known = id_of(object).is_some_and(|id| ids.contains(id));
                    assert!(known, "nobody wrote this: {change:?}");
                }
                None => {
                    let left = deletions.get_mut(&change.key).filter(|left| **left > 0);
                    let left = left.unwrap_or_else(|| panic!("nobody deleted this: {change:?}"));
                    *left -= 1;
                }
            }
        }
    }
}

/// The highest revision that an answer tells. One that any state would do for tells nothing new.
fn told(record: &Record) -> Option<Revision> {
    match &record.outcome {
        Outcome::Wrote(revision, _)
        | Outcome::Read(revision, _)
        | Outcome::Listed(revision, _)
        | Outcome::Now(revision) => Some(*revision),
        _ => None,
    }
}

fn object_of(stored: &Option<Stored>) -> Option<&Value> {
    let body: &Arc<Body> = &stored.as_ref()?.body;
    body.object()
}
