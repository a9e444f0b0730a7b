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
    pub(super) fn has_inside(&self, key: &str) -> bool {
        match &self.scope {
            Scope::Key(own) => own.as_str() == key,
            Scope::Under(prefix) => key.starts_with(prefix.as_str()),
        }
    }

    /// Whether the value is selected; none: nobody can tell.
    fn selects(&self, value: &Value) -> Option<bool> {
        if self.predicate.is_empty() || value.garbage {
            return self.predicate.is_empty().then_some(true);
        }
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
        Some(self.predicate.matches(&attributes))
    }

    /// What cannot be read is in everybody's view.
    fn shows(&self, key: &str, value: &Value) -> bool {
        self.has_inside(key) && self.selects(value) != Some(false)
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
            if !self.has_inside(key) {
                return None;
            }
            let view = |value: &Option<Value>| value.as_ref().map_or(Some(false), |value| self.selects(value));
            let kind = match (view(&old), view(value)) {
                (Some(false), Some(false)) => return None,
                (Some(false), Some(true)) => EventKind::Added,
                (Some(true), Some(true)) => EventKind::Modified,
                (Some(true), Some(false)) => EventKind::Deleted,
                // Nobody can tell whether it is selected: told as it is.
                (None, _) | (_, None) => match (&old, value) {
                    (None, _) => EventKind::Added,
                    (Some(_), Some(_)) => EventKind::Modified,
                    (Some(_), None) => EventKind::Deleted,
                },
            };
            let shown = if kind == EventKind::Deleted { old? } else { (*value)? };
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
    entry.key().as_str() == key
        && match value.garbage {
            true => entry.unreadable_reason().is_some(),
            false => serial(entry) == Some(value.serial),
        }
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

/// What is known of one object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known<'a> {
    Absent,
    /// There, in whatever state.
    Present,
    /// There, and nobody can read it.
    Unreadable,
    As(&'a Entry),
}

impl Known<'_> {
    fn is(self, key: &str, value: Option<Value>) -> bool {
        match (self, value) {
            (Self::Absent, value) => value.is_none(),
            (Self::Present, value) => value.is_some(),
            (Self::Unreadable, value) => value.is_some_and(|value| value.garbage),
            (Self::As(entry), Some(value)) => is(entry, key, &value) && entry.revision().get() == value.revision,
            (Self::As(_), None) => false,
        }
    }

    /// The earliest revision, not before another one, at which this is so.
    pub(super) fn earliest(self, truth: &Truth, key: &str, not_before: u64) -> Option<u64> {
        let states = truth.of_key(key);
        let mut ends = states
            .iter()
            .skip(1)
            .map(|(revision, _)| revision - 1)
            .chain([truth.revision]);
        states.iter().find_map(|(from, value)| {
            let end = ends.next()?;
            let at = (*from).max(not_before);
            (self.is(key, *value) && at <= end).then_some(at)
        })
    }
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
