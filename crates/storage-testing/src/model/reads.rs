//! Reads: of the latest state, of any, of a lower bound, of exactly one, in one piece and in pages.

use std::num::NonZeroU64;

use apiserver_storage_api::{
    Collected, ContinueToken, Entry, GetOptions, Key, ListAt, ListOptions, OnUnreadable, ReadAt, Result, Revision,
    Scope, StorageError,
};

use super::state::{Body, Pick, Stored};
use super::{Run, TOKENS};
use crate::fixture::*;
use crate::harness::Harness;

/// A page's token, kept to go on with later.
#[derive(Debug, Clone)]
pub(super) struct Held {
    token: ContinueToken,
    scope: Scope,
    pick: Pick,
    /// The last key of the page.
    after: Key,
}

impl<H: Harness> Run<'_, H> {
    pub(super) async fn get(&mut self) {
        let key = self.key();
        if self.direct() && self.once_in(10) {
            return self.look_ahead(&key).await;
        }
        let (at, oldest) = match self.below(4) {
            0 => (ReadAt::Any, self.floor()),
            1 => {
                let least = self.revision(self.model.compacted);
                (ReadAt::NotOlderThan(least), self.floor().max(least))
            }
            _ => (ReadAt::MostRecent, self.model.head),
        };
        let answer = self.store.get(&key, GetOptions { at }).await;
        // Several states will do only where the reader said so, and only from a cache.
        let states = self.model.states(&key, oldest);
        let right = |stored: &Option<Stored>| match (stored, &answer) {
            (None, Err(error)) => error.is_not_found(),
            (Some(stored), Err(StorageError::Unreadable { .. })) => stored.is_garbage(),
            (Some(stored), Ok(entry)) => stored.is(entry),
            _ => false,
        };
        assert!(
            states.iter().any(right),
            "get {key} at {at:?}: {answer:?}, one of {states:?}"
        );
        if let Ok(entry) = &answer {
            self.remember(entry);
        }
    }

    /// A state that is not reached is refused, whatever is stored. (A cache waits for it first.)
    async fn look_ahead(&self, key: &Key) {
        let asked = revision(self.model.head.get() + 1 + self.below(3));
        let at = ReadAt::NotOlderThan(asked);
        let got = self.store.get(key, GetOptions { at }).await.err();
        let at = if self.once_in(2) {
            ListAt::NotOlderThan(asked)
        } else {
            ListAt::Exact(asked)
        };
        let options = ListOptions {
            at,
            ..ListOptions::default()
        };
        let listed = try_list(&*self.store, &self.scope(), options).await.err();
        for error in [got, listed] {
            let refused = matches!(
                error,
                Some(StorageError::TooLargeResourceVersion { asked: a, current, .. })
                    if a == asked && current == self.model.head
            );
            assert!(refused, "{asked} at {}: {error:?}", self.model.head);
        }
    }

    /// The oldest state that a reader may be shown who does not ask for an earlier one.
    fn floor(&self) -> Revision {
        if self.direct() {
            self.model.head
        } else {
            self.model.floor
        }
    }

    fn scope(&self) -> Scope {
        match self.below(4) {
            0 | 1 => all(),
            2 => within(&format!("n{}", self.below(3))),
            _ => Scope::Key(self.key()),
        }
    }

    fn limit(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.below(6))
    }

    pub(super) async fn list(&mut self) {
        let (at, oldest, newest) = match self.below(6) {
            0 => (ListAt::Any, self.floor(), self.model.head),
            1 => {
                let least = self.revision(self.model.compacted);
                (ListAt::NotOlderThan(least), self.floor().max(least), self.model.head)
            }
            2 | 3 => {
                let exactly = self.revision(self.model.compacted);
                let exactly = if self.once_in(4) {
                    self.revision(self.began())
                } else {
                    exactly
                };
                (ListAt::Exact(exactly), exactly, exactly)
            }
            _ => (ListAt::MostRecent, self.model.head, self.model.head),
        };
        let (scope, pick, limit) = (self.scope(), self.pick(), self.limit());
        let options = ListOptions {
            at,
            limit,
            predicate: pick.predicate(),
            unreadable: if self.once_in(3) {
                OnUnreadable::Fail
            } else {
                OnUnreadable::Include
            },
        };
        let said = format!("list {scope} {pick:?}: {options:?}");
        let answer = try_list(&*self.store, &scope, options.clone()).await;
        let listed = match answer {
            Ok(listed) => listed,
            Err(error) => return self.list_failed(&said, &scope, &options, (oldest, newest), &error),
        };
        assert!(
            listed.revision >= oldest && listed.revision <= newest,
            "{said}: at {}, which is not within {oldest}..={newest}",
            listed.revision
        );
        if !matches!(options.at, ListAt::Exact(_)) {
            self.model.show(listed.revision);
        }
        self.listed(&said, &listed, &scope, pick, &options, None);
        self.hold(&listed, &scope, pick);
    }

    /// The first revision of the history.
    pub(super) fn began(&self) -> Revision {
        let first = self.model.changes.first().map(|change| change.revision);
        first.unwrap_or(self.model.head)
    }

    /// A list fails for two reasons only: its state is gone, or it must not skip what it cannot read.
    fn list_failed(
        &self,
        said: &str,
        scope: &Scope,
        options: &ListOptions,
        (oldest, newest): (Revision, Revision),
        error: &StorageError,
    ) {
        let right = match error {
            StorageError::Expired { .. } => matches!(options.at, ListAt::Exact(asked) if self.gone(asked)),
            StorageError::Unreadable { key, .. } => {
                let changes = self.model.changes.iter().map(|change| change.revision);
                let mut revisions = changes.filter(|at| *at > oldest && *at <= newest).chain([oldest]);
                options.unreadable == OnUnreadable::Fail
                    && revisions.any(|at| {
                        let listed = self.model.listed(at, scope, Pick::All);
                        listed
                            .iter()
                            .any(|(at, stored)| stored.is_garbage() && key.ends_with(at.as_str()))
                    })
            }
            _ => false,
        };
        assert!(right, "{said}: {error:?}");
    }

    /// Checks what a list shows of its state, behind a key when it goes on.
    fn listed(
        &self,
        said: &str,
        listed: &Collected,
        scope: &Scope,
        pick: Pick,
        options: &ListOptions,
        after: Option<&Key>,
    ) {
        // A cache may have what the backend has forgotten; that is as good.
        if let (ListAt::Exact(asked), true) = (&options.at, self.direct()) {
            assert!(*asked >= self.model.compacted, "{said}: this state was given up");
        }
        let mut want = self.model.listed(listed.revision, scope, pick);
        if let Some(after) = after {
            want.retain(|(key, _)| key > after);
        }
        if options.unreadable == OnUnreadable::Fail {
            assert!(
                listed.entries.iter().all(|entry| entry.unreadable_reason().is_none()),
                "{said}: something unreadable was served"
            );
        }
        let shown: Vec<(Key, Revision, Body)> = listed.entries.iter().map(shown).collect();
        let wanted: Vec<(Key, Revision, Body)> = want
            .iter()
            .take(shown.len())
            .map(|(key, stored)| (key.clone(), stored.revision, (*stored.body).clone()))
            .collect();
        assert_eq!(shown, wanted, "{said}: at {}", listed.revision);
        let left = want.len() - shown.len();
        match &listed.next {
            // With a selector the rest may turn out to have no match.
            Some(_) => assert!(left > 0 || !pick.is_all(), "{said}: a token that leads nowhere"),
            None => assert_eq!(left, 0, "{said}: cut off without a token"),
        }
        let counted = listed.next.as_ref().filter(|_| pick.is_all()).map(|_| left as u64);
        assert_eq!(listed.remaining, counted, "{said}");
        // Of a cache, those who take any state are given all of it.
        let bounded = matches!(scope, Scope::Under(_)) && (self.direct() || options.at != ListAt::Any);
        if let Some(limit) = options.limit.filter(|_| bounded) {
            assert!(shown.len() as u64 <= limit.get(), "{said}: more than asked for");
        }
    }

    fn hold(&mut self, listed: &Collected, scope: &Scope, pick: Pick) {
        let (Some(token), Some(last)) = (listed.next.clone(), listed.entries.last()) else {
            return;
        };
        let held = Held {
            token,
            scope: scope.clone(),
            pick,
            after: last.key().clone(),
        };
        if self.tokens.len() < TOKENS {
            self.tokens.push(held);
        } else {
            let at = self.index(TOKENS);
            self.tokens[at] = held;
        }
    }

    /// Goes on with a token that may be old by now.
    pub(super) async fn go_on(&mut self) {
        if self.tokens.is_empty() {
            return;
        }
        let held = self.tokens[self.index(self.tokens.len())].clone();
        let revision = held.token.revision().expect("a token of a state");
        let (answer, options) = self.page_after(&held, held.token.clone()).await;
        let said = format!("page of {revision} after {}: {options:?}", held.after);
        match answer {
            Ok(listed) => {
                assert!(
                    !self.direct() || revision >= self.model.compacted,
                    "{said}: this state was given up"
                );
                assert_eq!(listed.revision, revision, "{said}");
                self.listed(&said, &listed, &held.scope, held.pick, &options, Some(&held.after));
                self.hold(&listed, &held.scope, held.pick);
            }
            Err(StorageError::Expired { token: Some(token), .. }) if self.gone(revision) => {
                let said = format!("{said}, at the latest state");
                let (answer, options) = self.page_after(&held, token).await;
                let listed = answer.unwrap_or_else(|error| panic!("{said}: {error:?}"));
                assert_eq!(listed.revision, self.model.head, "{said}");
                self.listed(&said, &listed, &held.scope, held.pick, &options, Some(&held.after));
            }
            Err(error) => panic!("{said}: {error:?}"),
        }
    }

    async fn page_after(&self, held: &Held, token: ContinueToken) -> (Result<Collected>, ListOptions) {
        let options = ListOptions {
            at: ListAt::Continue(token),
            limit: self.limit(),
            predicate: held.pick.predicate(),
            unreadable: OnUnreadable::Include,
        };
        (try_list(&*self.store, &held.scope, options.clone()).await, options)
    }
}

fn shown(entry: &Entry) -> (Key, Revision, Body) {
    (entry.key().clone(), entry.revision(), Body::of(entry))
}
