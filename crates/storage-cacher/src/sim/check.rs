//! Holds what readers and watchers were told against what was written.

use std::collections::BTreeMap;

use apiserver_storage_api::{Batch, Entry, Event, EventKind, Scope, SelectionPredicate};

use super::world::{Truth, Value, World};

/// What a reader or watcher asked to see.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) scope: Scope,
    pub(super) predicate: SelectionPredicate,
}

impl View {
    fn shows(&self, key: &str, value: &Value) -> bool {
        let inside = match &self.scope {
            Scope::Key(own) => own.as_str() == key,
            Scope::Under(prefix) => key.starts_with(prefix.as_str()),
        };
        let attributes = apiserver_storage_api::Attributes {
            labels: [("g", value.group.to_string())]
                .iter()
                .map(|(label, value)| (*label, value.as_str()))
                .collect(),
            fields: [("spec.nodeName".into(), format!("n{}", value.node))]
                .into_iter()
                .collect(),
            ..Default::default()
        };
        inside && self.predicate.matches(&attributes)
    }

    /// What the view shows of a revision's state.
    fn state<'a>(&self, truth: &'a Truth, revision: u64) -> BTreeMap<&'a str, Value> {
        let mut state = truth.at(revision);
        state.retain(|key, value| self.shows(key, value));
        state
    }

    /// What a watcher of the view is told of one revision: key, kind, the new value, the one before.
    fn events(&self, truth: &Truth, revision: u64) -> Vec<(String, EventKind, Value, Option<Value>)> {
        let before = truth.at(revision - 1);
        let change = truth.changes.get(&revision);
        let told = change.into_iter().flatten().filter_map(|(key, value)| {
            let old = before.get(key.as_str()).copied();
            let shows = |value: &Option<Value>| value.as_ref().is_some_and(|value| self.shows(key, value));
            let (kind, shown) = match (shows(&old), shows(value)) {
                (false, false) => return None,
                (false, true) => (EventKind::Added, (*value)?),
                (true, true) => (EventKind::Modified, (*value)?),
                (true, false) => (EventKind::Deleted, old?),
            };
            Some((key.clone(), kind, shown, old))
        });
        let mut told: Vec<_> = told.collect();
        told.sort_by(|a, b| a.0.cmp(&b.0));
        told
    }
}

fn serial(entry: &Entry) -> Option<u64> {
    entry.attributes()?.labels.get("serial")?.parse().ok()
}

fn is(entry: &Entry, key: &str, value: &Value) -> bool {
    entry.key().as_str() == key && serial(entry) == Some(value.serial)
}

/// Whether entries are exactly what the view shows of a revision.
pub(super) fn is_state(view: &View, truth: &Truth, revision: u64, entries: &[Entry]) -> bool {
    let state = view.state(truth, revision);
    state.len() == entries.len()
        && state
            .iter()
            .zip(entries)
            .all(|((key, value), entry)| is(entry, key, value) && entry.revision().get() == value.revision)
}

/// The stores whose state of this revision a list shows.
pub(super) fn stores_of(world: &World, view: &View, revision: u64, entries: &[Entry]) -> Vec<usize> {
    (0..=world.generation())
        .filter(|&at| {
            world.with_truth(at, |truth| {
                revision <= truth.revision && is_state(view, truth, revision, entries)
            })
        })
        .collect()
}

/// A watcher's stream as that of one store.
#[derive(Debug, Clone)]
pub(super) struct Follow {
    pub(super) generation: usize,
    /// Everything up to this revision was told.
    pub(super) position: Position,
}

/// Where a stream is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Position {
    /// The initial state has not ended.
    Initial,
    /// Somewhere between these two, both included: the watcher began with what came after its call.
    Between(u64, u64),
    /// Here.
    At(u64),
}

impl Follow {
    /// The initial state has ended.
    pub(super) fn initial_end(
        &mut self,
        view: &View,
        truth: &Truth,
        revision: u64,
        told: &[Entry],
    ) -> Result<(), String> {
        let Position::Initial = self.position else {
            return Err("the initial state ended twice".into());
        };
        if revision > truth.revision || !is_state(view, truth, revision, told) {
            return Err(format!("the initial state is not that of revision {revision}"));
        }
        self.position = Position::At(revision);
        Ok(())
    }

    /// Everything of one revision.
    pub(super) fn batch(&mut self, view: &View, truth: &Truth, batch: &Batch) -> Result<(), String> {
        let revision = batch.revision.get();
        self.advance(view, truth, revision - 1)?;
        let Position::At(position) = self.position else {
            return Err("events before the end of the initial state".into());
        };
        if revision <= position {
            return Err(format!("events of revision {revision} after {position}"));
        }
        let want = view.events(truth, revision);
        if want.is_empty() || want.len() != batch.events.len() {
            let (got, want) = (batch.events.len(), want.len());
            return Err(format!("{got} events of revision {revision} instead of {want}"));
        }
        let mut events: Vec<&Event> = batch.events.iter().collect();
        events.sort_by(|a, b| a.key.as_str().cmp(b.key.as_str()));
        for ((key, kind, value, previous), event) in want.iter().zip(events) {
            let fault = |what: &str| Err(format!("{what} of {key} at revision {revision}: {event:?}"));
            if event.kind != *kind || event.revision.get() != revision {
                return fault("wrong kind or revision");
            }
            if !event.object.as_ref().is_some_and(|entry| is(entry, key, value)) {
                return fault("wrong object");
            }
            let right = match (previous, &event.previous) {
                (None, None) => true,
                (Some(value), Some(entry)) => is(entry, key, value),
                // A change into view may be told without the state that was not in view.
                (Some(_), None) => *kind == EventKind::Added,
                (None, Some(_)) => false,
            };
            if !right {
                return fault("wrong previous value");
            }
        }
        self.position = Position::At(revision);
        Ok(())
    }

    /// Everything up to a revision was told.
    pub(super) fn progress(&mut self, view: &View, truth: &Truth, revision: u64) -> Result<(), String> {
        if let Position::At(position) = self.position
            && revision < position
        {
            return Err(format!("progress went back from {position} to {revision}"));
        }
        if revision > truth.revision {
            return Err(format!("progress to {revision}, which is not there yet"));
        }
        self.advance(view, truth, revision)
    }

    /// Nothing of the view may lie between the position and this revision.
    fn advance(&mut self, view: &View, truth: &Truth, revision: u64) -> Result<(), String> {
        let after = match self.position {
            Position::Initial => return Err("told of changes before the end of the initial state".into()),
            Position::Between(_, latest) => latest,
            Position::At(position) => position,
        };
        if let Some(missed) = (after + 1..=revision).find(|at| !view.events(truth, *at).is_empty()) {
            return Err(format!("revision {missed} was skipped after {after}"));
        }
        if let Position::Between(earliest, _) = self.position
            && revision < earliest
        {
            // The next batch is from before the call.
            return Err(format!("told of revision {}, and began after {earliest}", revision + 1));
        }
        self.position = Position::At(match self.position {
            Position::At(position) => position.max(revision),
            _ => revision,
        });
        Ok(())
    }
}
