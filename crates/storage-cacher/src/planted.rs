//! Faults that the simulation plants, one at a time, to see whether it finds them. In any other build there are none: the
//! question is answered when the crate is compiled.

/// A fault that a cache might have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// An event reaches the state and no watcher.
    SkipsEvent,
    /// An event is told twice.
    DoublesEvent,
    /// The events of one revision are told apart.
    SplitsBatch,
    /// A bookmark overtakes an event.
    BookmarksEarly,
    /// Progress is taken for more than it says.
    ProgressAhead,
    /// A consistent read joins a question that was asked before it began.
    JoinsOlderQuestion,
    /// Watchers go on over a list that does not continue the log.
    BridgesRelist,
    /// The previous value of an event is the new one, so that a move between selections is none.
    WrongPrevious,
    /// An object that leaves a selection is told of as changed.
    KeepsDeparted,
    /// A watcher that resumes misses the first event.
    ResumesOneLate,
    /// An earlier state shows what came later.
    ForgetsToUndo,
    /// A consistent initial state does not wait for the cache.
    DoesNotWait,
    /// What was shown from below is forgotten, and an earlier state shown after it.
    ForgetsShown,
    /// Who asks for a revision is shown it, although somebody was shown a later one.
    TakesAskedForShown,
    /// What a write answered is forgotten.
    ForgetsWritten,
    /// What a watch told that reads from below is forgotten.
    ForgetsToldBelow,
    /// That an object is not there, or is, is forgotten when it was said without a revision.
    ForgetsUndated,
    /// The state of an earlier store is trusted again before that of the new one has come.
    TrustsTooEarly,
    /// Revisions of another store pass for the cache's own.
    TrustsAnyStore,
}

#[cfg(test)]
impl Bug {
    pub(crate) const ALL: [Self; 19] = [
        Self::SkipsEvent,
        Self::DoublesEvent,
        Self::SplitsBatch,
        Self::BookmarksEarly,
        Self::ProgressAhead,
        Self::JoinsOlderQuestion,
        Self::BridgesRelist,
        Self::WrongPrevious,
        Self::KeepsDeparted,
        Self::ResumesOneLate,
        Self::ForgetsToUndo,
        Self::DoesNotWait,
        Self::ForgetsShown,
        Self::TakesAskedForShown,
        Self::ForgetsWritten,
        Self::ForgetsToldBelow,
        Self::ForgetsUndated,
        Self::TrustsTooEarly,
        Self::TrustsAnyStore,
    ];
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a fault for what runs on this thread, or takes it out again.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this fault is planted.
#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this fault is planted: never.
#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
