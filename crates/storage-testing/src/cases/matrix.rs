//! Every combination of what a list can be asked for: resourceVersion, resourceVersionMatch, limit, continue token, and
//! whether it is about a scope or one key.

use apiserver_storage_api::{
    Collected, ContinueToken, Entry, ListAt, ListOptions, Result, Revision, Scope, Storage, StorageError,
};
use futures::StreamExt;

use crate::fixture::*;
use crate::harness::{Ability, Harness};

/// The states that a backend has gone through, and the places in them that the table speaks of.
struct History {
    /// What was there at each revision from the first on.
    states: Vec<(Revision, Vec<Entry>)>,
    /// A state whose history is gone, where the backend can forget.
    compacted: Option<Revision>,
    past: Revision,
    current: Revision,
    /// Any state of a backend is the latest; that of a cache is one that there was.
    direct: bool,
}

impl History {
    async fn of<H: Harness>(h: &H) -> Self {
        let store = h.store();
        let mut states = Vec::new();
        let first = create_pod(&*store, "ns", "a").await.revision();
        note(&*store, &mut states, first).await;
        for name in ["b", "c", "d"] {
            let revision = create_pod(&*store, "ns", name).await.revision();
            note(&*store, &mut states, revision).await;
        }
        let past = change(&*store, &key("ns", "b"), label("x", "1")).await.revision();
        note(&*store, &mut states, past).await;
        let deleted = delete(&*store, &key("ns", "c")).await.revision();
        note(&*store, &mut states, deleted).await;
        // The counter moves on elsewhere.
        let current = create(&*h.other(), &config_map_key("c"), &config_map("c"))
            .await
            .revision();
        note(&*store, &mut states, current).await;
        let forgets = [Ability::Direct, Ability::Compact]
            .iter()
            .all(|a| H::ABILITIES.contains(a));
        if forgets {
            h.compact(past).await;
        }
        Self {
            states,
            compacted: forgets.then_some(first),
            past,
            current,
            direct: H::ABILITIES.contains(&Ability::Direct),
        }
    }

    fn state(&self, at: Revision) -> &[Entry] {
        let state = self.states.iter().rev().find(|(revision, _)| *revision <= at);
        state.map_or(&[], |(_, entries)| entries)
    }
}

async fn note(store: &dyn Storage, states: &mut Vec<(Revision, Vec<Entry>)>, revision: Revision) {
    let listed = list_at(store, ListAt::MostRecent).await;
    assert_eq!(listed.revision, revision);
    states.push((revision, listed.entries));
}

/// What a combination must lead to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Want {
    /// The latest state.
    Latest,
    /// Whatever state is at hand.
    Any,
    /// A state that is not older.
    From(Revision),
    /// This state.
    At(Revision),
    /// The request makes no sense.
    Refused,
    /// The revision is not reached.
    TooLarge,
    /// The state is forgotten. With a token there comes another.
    Gone,
}

/// One combination.
#[derive(Debug, Clone)]
struct Row {
    version: String,
    rule: Option<&'static str>,
    limit: bool,
    token: Option<ContinueToken>,
    garbage: bool,
    scope: Scope,
    want: Want,
}

/// What a resourceVersion and a resourceVersionMatch lead to where no token decides.
fn decided(history: &History, version: &str, rule: Option<&str>, limited: bool, recursive: bool) -> Want {
    use Want::{Any, At, From, Gone, Latest, Refused, TooLarge};
    let number = version.parse().ok().and_then(Revision::new);
    let (past, current) = (number == Some(history.past), number == Some(history.current));
    let gone = number.is_some() && number == history.compacted;
    let exactly = rule == Some("Exact") || (rule.is_none() && limited && recursive);
    match (version, rule) {
        ("", _) => Latest,
        ("abc" | "-1", _) => Refused,
        (_, Some("Unknown")) => Refused,
        ("0", Some("Exact")) => Latest,
        ("0", _) => Any,
        _ if gone && exactly => Gone,
        _ if gone || past || current => match (number, exactly) {
            (Some(revision), true) => At(revision),
            (Some(revision), false) => From(revision),
            (None, _) => Refused,
        },
        _ => TooLarge,
    }
}

fn rows(history: &History) -> Vec<Row> {
    let text = |revision: Revision| revision.to_string();
    let mut versions = vec![String::new(), "0".into(), "abc".into(), "-1".into()];
    versions.extend([history.past, history.current, history.current.next(), Revision::MAX].map(text));
    versions.extend(history.compacted.map(text));
    let mut tokens = vec![None, behind(history.past), behind(history.current)];
    tokens.push(behind(history.past).map(|token| token.at_latest()));
    tokens.extend(history.compacted.map(behind));
    let scopes = [
        all(),
        within("ns"),
        Scope::Key(key("ns", "b")),
        Scope::Key(key("ns", "c")),
    ];
    let mut rows = Vec::new();
    for scope in scopes {
        let recursive = matches!(scope, Scope::Under(_));
        for version in &versions {
            for rule in [None, Some("Exact"), Some("NotOlderThan"), Some("Unknown")] {
                for limit in [false, true] {
                    let without_token = decided(history, version, rule, limit, recursive);
                    let row = |token: Option<ContinueToken>, garbage, want| Row {
                        version: version.clone(),
                        rule,
                        limit,
                        token,
                        garbage,
                        scope: scope.clone(),
                        want,
                    };
                    if !recursive {
                        // One key has no pages: whatever is said of them is not looked at.
                        rows.push(row(behind(history.past), false, without_token));
                        rows.push(row(None, true, without_token));
                        rows.push(row(None, false, without_token));
                        continue;
                    }
                    for token in &tokens {
                        let want = match token.as_ref().map(ContinueToken::revision) {
                            None => without_token,
                            Some(_) if !matches!(version.as_str(), "" | "0") => Want::Refused,
                            Some(None) => Want::Latest,
                            Some(revision) if revision == history.compacted => Want::Gone,
                            Some(Some(revision)) => Want::At(revision),
                        };
                        rows.push(row(token.clone(), false, want));
                    }
                    rows.push(row(None, true, Want::Refused));
                }
            }
        }
    }
    rows
}

/// A token of a list in namespace `ns` that ended with its first pod. In the list of all, it is the same place.
fn behind(revision: Revision) -> Option<ContinueToken> {
    ContinueToken::after(revision, &all_prefix(), "/pods/ns/a")
}

/// The token as it is for a scope: relative to it.
fn relative(token: &ContinueToken, scope: &Scope) -> ContinueToken {
    let Scope::Under(prefix) = scope else {
        return token.clone();
    };
    let made = ContinueToken::after(token.revision().unwrap_or(Revision::MIN), prefix, "/pods/ns/a");
    let made = made.expect("the scope has the pod");
    if token.revision().is_some() {
        made
    } else {
        made.at_latest()
    }
}

const PAGE: u64 = 2;

impl Row {
    async fn ask(&self, store: &dyn Storage) -> Result<Collected> {
        let limit = limit(PAGE).filter(|_| self.limit);
        let token = match &self.token {
            Some(token) => Some(relative(token, &self.scope).encode()),
            None => self.garbage.then(|| "no token".to_owned()),
        };
        let recursive = matches!(self.scope, Scope::Under(_));
        let at = ListAt::parse(&self.version, self.rule, limit, token.as_deref(), recursive)?;
        let options = ListOptions {
            at,
            limit,
            ..ListOptions::default()
        };
        try_list(store, &self.scope, options).await
    }

    fn check(&self, history: &History, got: &Result<Collected>) {
        let got = match (self.want, got) {
            (Want::Refused, Err(StorageError::BadRequest { .. })) => return,
            (Want::TooLarge, Err(StorageError::TooLargeResourceVersion { asked, current, .. })) => {
                assert_eq!(
                    (asked.to_string(), *current),
                    (self.version.clone(), history.current),
                    "{self:?}"
                );
                return;
            }
            (Want::Gone, Err(StorageError::Expired { token, .. })) => {
                // One key has no pages, so there is nothing to go on with.
                let own = self.token.as_ref().filter(|_| matches!(self.scope, Scope::Under(_)));
                let want = own.map(|own| relative(own, &self.scope).at_latest());
                assert_eq!(*token, want, "{self:?}");
                return;
            }
            (Want::Latest | Want::Any | Want::From(_) | Want::At(_), Ok(got)) => got,
            (_, got) => panic!("{self:?}: {got:?}"),
        };
        let any = self.want == Want::Any && !history.direct;
        match self.want {
            Want::At(revision) => assert_eq!(got.revision, revision, "{self:?}"),
            Want::From(revision) => assert!(got.revision >= revision, "{self:?}: {}", got.revision),
            Want::Any if any => assert!(got.revision <= history.current, "{self:?}: {}", got.revision),
            _ => assert_eq!(got.revision, history.current, "{self:?}"),
        }
        self.check_entries(history.state(got.revision), got, any);
    }

    /// Whether a list shows what it must of the state of its revision. `whole`: it may be longer than its limit.
    fn check_entries(&self, state: &[Entry], got: &Collected, whole: bool) {
        let start = self.token.as_ref().map(|token| token.start(&all_prefix()));
        let recursive = matches!(self.scope, Scope::Under(_));
        let in_scope = state.iter().filter(|entry| self.scope.contains(entry.key()));
        let wanted: Vec<Entry> = in_scope
            .filter(|entry| !recursive || start.as_deref().is_none_or(|start| entry.key().as_str() >= start))
            .cloned()
            .collect();
        let limited = self.limit && recursive && !(whole && got.entries.len() > PAGE as usize);
        let size = if limited {
            wanted.len().min(PAGE as usize)
        } else {
            wanted.len()
        };
        let (shown, rest) = wanted.split_at(size);
        assert_eq!(states(&got.entries), states(shown), "{self:?}");
        let remaining = (!rest.is_empty()).then_some(rest.len() as u64);
        assert_eq!(
            (got.next.is_some(), got.remaining),
            (remaining.is_some(), remaining),
            "{self:?}"
        );
        if let Some(next) = &got.next {
            assert_eq!(next.revision(), Some(got.revision), "{self:?}");
        }
    }
}

// covers: storage-api/LIST-01, storage-api/LIST-02, storage-api/LIST-03, storage-api/LIST-04, storage-api/LIST-05, storage-api/LIST-08, storage-api/LIST-09, storage-api/LIST-10, storage-api/LIST-11, storage-api/LIST-15, storage-api/LIST-17, storage-api/LIST-18, storage-api/LIST-33, storage-api/LIST-34, storage-api/LIST-36, storage-api/CONT-11, storage-api/CONT-12, storage-api/CONT-13, storage-api/CONT-14, storage-api/CONT-15, storage-api/CONT-16, storage-api/CONT-17, storage-api/CONT-18
/// Version, match, limit, token and scope in every combination lead to the state and the part of it that they must, or to
/// the refusal.
pub async fn every_way_to_ask_for_a_list_is_answered<H: Harness>(h: H) {
    let history = History::of(&h).await;
    let store = h.store();
    let rows = rows(&history);
    for (what, want) in [
        ("states of the past", Want::At(history.past)),
        ("minimums", Want::From(history.past)),
        ("refusals", Want::Refused),
        ("the future", Want::TooLarge),
    ] {
        assert!(rows.iter().any(|row| row.want == want), "no row asks for {what}");
    }
    // Side by side: a cache takes its time before it says that a revision is not reached.
    let store = &*store;
    let asked = futures::stream::iter(&rows).map(|row| async move { (row, row.ask(store).await) });
    let answers: Vec<_> = asked.buffer_unordered(256).collect().await;
    assert!(answers.len() == rows.len() && rows.len() > 700, "{} rows", rows.len());
    for (row, got) in &answers {
        row.check(&history, got);
    }
}
