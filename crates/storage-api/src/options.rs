//! What a caller asks of each verb, parsed once at the edge: past it nobody compares strings with `"0"`.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::continue_token::ContinueToken;
use crate::entry::Entry;
use crate::error::{Result, StorageError};
use crate::preconditions::Preconditions;
use crate::revision::Revision;
use crate::selector::SelectionPredicate;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadAt {
    /// Reflects every write that was acknowledged before the call.
    #[default]
    MostRecent,
    /// Whatever is at hand (`resourceVersion=0`).
    Any,
    /// At least as new as this revision.
    NotOlderThan(Revision),
}

/// Which state a list shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListAt {
    /// Reflects every write that was acknowledged before the call.
    #[default]
    MostRecent,
    /// Whatever is at hand (`resourceVersion=0`).
    Any,
    /// At least as new as this revision.
    NotOlderThan(Revision),
    /// Exactly as of this revision.
    Exact(Revision),
    /// Where an earlier page ended.
    Continue(ContinueToken),
}

impl ListAt {
    /// Reads `resourceVersion`, `resourceVersionMatch`, `limit` and `continue` of a list
    /// (`storage-api/CONT-11` to `CONT-18`). `recursive` is false for a list of one key, where tokens are ignored.
    ///
    /// # Errors
    ///
    /// [`StorageError::BadRequest`] with upstream's text.
    pub fn parse(
        resource_version: &str,
        version_match: Option<&str>,
        limit: Option<NonZeroU64>,
        token: Option<&str>,
        recursive: bool,
    ) -> Result<Self> {
        if let (Some(token), true) = (token.filter(|token| !token.is_empty()), recursive) {
            let token = ContinueToken::decode(token)
                .map_err(|error| StorageError::bad_request(format!("invalid continue token: {error}")))?;
            if !matches!(resource_version, "" | "0") {
                let message = "specifying resource version is not allowed when using continue";
                return Err(StorageError::bad_request(message));
            }
            return Ok(Self::Continue(token));
        }
        if resource_version.is_empty() {
            return Ok(Self::MostRecent);
        }
        let revision = Revision::parse(resource_version).map_err(|_| {
            StorageError::bad_request(format!(
                "invalid resource version: {resource_version:?} is not a number"
            ))
        })?;
        Ok(match (version_match.unwrap_or_default(), revision) {
            ("NotOlderThan" | "", None) => Self::Any,
            ("NotOlderThan", Some(revision)) => Self::NotOlderThan(revision),
            ("Exact", Some(revision)) => Self::Exact(revision),
            // Upstream reads the latest state here; the request validation above storage refuses the combination.
            ("Exact", None) => Self::MostRecent,
            ("", Some(revision)) if recursive && limit.is_some() => Self::Exact(revision),
            ("", Some(revision)) => Self::NotOlderThan(revision),
            (other, _) => {
                return Err(StorageError::bad_request(format!(
                    "unknown ResourceVersionMatch value: {other}"
                )));
            }
        })
    }
}

impl ReadAt {
    /// Reads the `resourceVersion` of a get.
    ///
    /// # Errors
    ///
    /// [`StorageError::BadRequest`] with upstream's text.
    pub fn parse(resource_version: &str) -> Result<Self> {
        if resource_version.is_empty() {
            return Ok(Self::MostRecent);
        }
        match Revision::parse(resource_version) {
            Ok(None) => Ok(Self::Any),
            Ok(Some(revision)) => Ok(Self::NotOlderThan(revision)),
            Err(_) => Err(StorageError::bad_request(format!(
                "invalid resource version: {resource_version:?} is not a number"
            ))),
        }
    }
}

/// Options of [`Storage::get`](crate::Storage::get).
// deviates: storage-api/GET-07: there is no empty object for one that is missing; callers ask
// `StorageError::is_not_found`, or `Typed::find`, which answers with an option.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// How fresh the answer must be.
    pub at: ReadAt,
}

/// Options of [`Storage::list`](crate::Storage::list).
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Which state to show.
    pub at: ListAt,
    /// At most so many entries, then a token. None: everything.
    pub limit: Option<NonZeroU64>,
    /// Only what it selects.
    pub predicate: SelectionPredicate,
    /// What to do with values that cannot be read.
    pub unreadable: OnUnreadable,
}

/// What a list does with values that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnreadable {
    /// Fails, naming the first key.
    #[default]
    Fail,
    /// Hands them out as unreadable entries in their place, whatever the predicate says.
    Include,
}

/// Options of [`Storage::create`](crate::Storage::create).
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// The object is deleted this long after the write, rounded up to seconds. None: never.
    pub ttl: Option<Duration>,
}

/// Options of [`Storage::guaranteed_update`](crate::Storage::guaranteed_update).
#[derive(Debug, Clone, Default)]
pub struct UpdateOptions {
    /// Checked on every attempt, before the function runs.
    pub preconditions: Preconditions,
    /// A state that may save the first read. Wrong ones cost time, never correctness.
    pub suggestion: Option<Entry>,
    /// Run the function with `None` when nothing is stored, and create what it returns.
    pub create_if_missing: bool,
    /// Give up retrying on conflicts after this long. None: the store's default.
    pub deadline: Option<Duration>,
}

/// Options of [`Storage::delete`](crate::Storage::delete).
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Checked on every attempt, before the validation.
    pub preconditions: Preconditions,
    /// A state that may save the first read.
    pub suggestion: Option<Entry>,
    /// Delete a value that cannot be read, and only such a one: a readable object is refused.
    pub unreadable: bool,
    /// Give up retrying on conflicts after this long. None: the store's default.
    pub deadline: Option<Duration>,
}

/// Where a watch begins.
///
/// Asking for initial events always means this: there is no switch under which a watch replays history instead.
// deviates: storage-api/WATCH-13: that switch is upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStart {
    /// With the current state as initial entries, at least as fresh as asked, then live.
    InitialState(ReadAt),
    /// With what happens after the call.
    Now,
    /// With what happened after this revision.
    After(Revision),
}

impl WatchStart {
    /// Reads `resourceVersion` and `sendInitialEvents` of a watch (`storage-api/WATCH-01` to `WATCH-06`).
    ///
    /// # Errors
    ///
    /// [`StorageError::InvalidResourceVersion`].
    pub fn parse(resource_version: &str, send_initial_events: Option<bool>) -> Result<Self> {
        let revision = Revision::parse(resource_version)?;
        Ok(match (send_initial_events, revision) {
            (None | Some(false), Some(revision)) => Self::After(revision),
            (Some(false), None) => Self::Now,
            // The legacy start may show any state; the explicit one is consistent when no version is given.
            (None, None) => Self::InitialState(ReadAt::Any),
            (Some(true), None) => Self::InitialState(ReadAt::MostRecent),
            (Some(true), Some(revision)) => Self::InitialState(ReadAt::NotOlderThan(revision)),
        })
    }
}

/// Options of [`Storage::watch`](crate::Storage::watch).
///
/// Progress needs no object to be told in, so every store can report it; when an event was read is not told with it, a
/// cache takes the time when it gets it.
// deviates: storage-api/WATCH-43: nothing has to be built to report progress.
// deviates: storage-api/WATCH-46: events are not wrapped with a time for the cache.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// Where to begin.
    pub start: WatchStart,
    /// Only what it selects; a change that moves an object in or out of the selection becomes ADDED or DELETED.
    pub predicate: SelectionPredicate,
    /// Send [`WatchItem::Progress`](crate::WatchItem) when the backend reports progress.
    pub progress: bool,
    /// Ask the backend for previous values. Without them a deletion has no object and nothing can be filtered: for a
    /// cache, which knows the previous state by itself, and then the predicate must be empty.
    pub previous: bool,
    /// The caller will end the watch after this long; one that sends progress does so shortly before, as far as it can.
    pub deadline: Option<Duration>,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            start: WatchStart::Now,
            predicate: SelectionPredicate::default(),
            progress: false,
            previous: true,
            deadline: None,
        }
    }
}

impl WatchOptions {
    /// A watch of everything from a start.
    pub fn from_start(start: WatchStart) -> Self {
        Self {
            start,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: storage-api/WATCH-47
    #[test]
    fn a_watch_is_told_its_start_its_selection_and_what_to_report() {
        // Without `..`: what is added here is looked at by watches, and this list has to say so.
        let WatchOptions {
            start,
            predicate,
            progress,
            previous,
            deadline,
        } = WatchOptions::default();
        assert_eq!(start, WatchStart::Now);
        assert!(predicate.is_empty() && !progress && previous && deadline.is_none());
        // The scope says whether it is recursive; version and initial events say where to begin, and nothing else does.
        let start = WatchStart::parse("7", Some(true)).unwrap();
        let asked = Revision::parse("7").unwrap().unwrap();
        assert_eq!(start, WatchStart::InitialState(ReadAt::NotOlderThan(asked)));
    }
}
