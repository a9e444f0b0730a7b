//! Who answers what, as closed tables: the cache or the storage below.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{
    ContinueToken, DeleteOptions, Entry, GetOptions, KeyPrefix, ListAt, ListOptions, NoCheck, ReadAt, ResourcePrefix,
    Revision, Scope, Storage, StorageError, UpdateOptions, WatchStart,
};
use common::script::{Script, Stage, listed, revision};
use common::*;

const MS: fn(u64) -> Duration = Duration::from_millis;
const OLD: u64 = 180;
const CACHED: u64 = 200;
const FUTURE: u64 = 220;

/// A storage at 200, and a cache over it that knows the states from `since` on.
fn stage(since: u64) -> Stage {
    let script = Script::new();
    let write_until = |end: u64| {
        while script.put("ns", "a", "n").get() < end {}
    };
    write_until(since);
    let mut stage = Stage::new(Arc::clone(&script), |config| config);
    if since < CACHED {
        write_until(CACHED);
    }
    stage.settle();
    script.asked();
    stage
}

fn prefix() -> KeyPrefix {
    match all() {
        Scope::Under(prefix) => prefix,
        Scope::Key(_) => unreachable!("everything is a prefix"),
    }
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Cache,
    Backend,
    /// The cache, in vain: the revision is not reached within three seconds.
    Nobody,
}

/// One request: version, match, the revision of the token (zero: none, negative: at the latest), limit.
#[derive(Debug, Clone, Copy)]
struct Row {
    version: &'static str,
    matching: Option<&'static str>,
    token: i64,
    limit: Option<u64>,
    recursive: bool,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for version in ["", "0", "180", "200", "220"] {
        for matching in [None, Some("Exact"), Some("NotOlderThan")] {
            for token in [0, 180, 200, 220, -1] {
                for limit in [None, Some(100)] {
                    for recursive in [true, false] {
                        rows.push(Row {
                            version,
                            matching,
                            token,
                            limit,
                            recursive,
                        });
                    }
                }
            }
        }
    }
    rows
}

impl Row {
    /// What the front of a server refuses before any storage is asked.
    fn is_refused_before(&self) -> bool {
        let exact_any = self.matching == Some("Exact") && self.version == "0";
        self.matching.is_some() && (self.version.is_empty() || self.token != 0) || exact_any
    }

    fn parse(&self) -> Result<ListAt, StorageError> {
        let latest = ContinueToken::after(revision(CACHED), &prefix(), "/pods/ns/0")
            .unwrap()
            .at_latest();
        let token = match u64::try_from(self.token) {
            Ok(0) => None,
            Ok(at) => Some(
                ContinueToken::after(revision(at), &prefix(), "/pods/ns/0")
                    .unwrap()
                    .encode(),
            ),
            Err(_) => Some(latest.encode()),
        };
        let limit = self.limit.and_then(NonZeroU64::new);
        ListAt::parse(self.version, self.matching, limit, token.as_deref(), self.recursive)
    }

    /// The catalogue's answer; `old`: history reaches back to the old revision; `progress`: the storage reports it.
    fn wanted(&self, old: bool, progress: bool) -> Answers {
        let consistent = if progress { Answers::Cache } else { Answers::Backend };
        let exact = |at: u64| match at {
            OLD if !old => Answers::Backend,
            FUTURE if progress => Answers::Nobody,
            FUTURE => Answers::Backend,
            _ => Answers::Cache,
        };
        // Without progress a quiet kind does not show what the storage has reached; the storage is asked, and knows.
        let not_older = |at: u64| match at {
            FUTURE if progress => Answers::Nobody,
            FUTURE => Answers::Backend,
            _ => Answers::Cache,
        };
        let token = if self.recursive { self.token } else { 0 };
        if token < 0 {
            return consistent;
        }
        if token > 0 {
            return exact(token as u64);
        }
        let version: u64 = match self.version {
            "" => return consistent,
            "0" => return Answers::Cache,
            version => version.parse().unwrap(),
        };
        match (self.matching, self.limit) {
            (Some("Exact"), _) => exact(version),
            (None, Some(_)) if self.recursive => exact(version),
            _ => not_older(version),
        }
    }
}

// deviates: storage-cacher/DLG-30: what asks for one key is served from memory too, and a token means nothing there
//   (also DLG-31, DLG-43, DLG-47).
// covers: storage-cacher/DLG-49, storage-cacher/DLG-20, storage-cacher/DLG-21, storage-cacher/DLG-23, storage-cacher/DLG-24, storage-cacher/DLG-25, storage-cacher/DLG-26, storage-cacher/DLG-40, storage-cacher/DLG-41, storage-cacher/DLG-42, storage-cacher/DLG-43, storage-cacher/DLG-44, storage-cacher/DLG-45, storage-cacher/DLG-46, storage-cacher/DLG-48, storage-cacher/DLG-13, storage-cacher/DLG-60, storage-cacher/DLG-63, storage-cacher/DLG-64, storage-cacher/GATE-02
#[test]
fn every_combination_of_a_list_has_one_answer() {
    let mut seen = 0;
    for (old, progress) in [(true, true), (false, true), (true, false), (false, false)] {
        for row in rows().into_iter().filter(|row| !row.is_refused_before()) {
            let contradicts = row.recursive && row.token != 0 && !matches!(row.version, "" | "0");
            let at = match row.parse() {
                Ok(at) => at,
                Err(StorageError::BadRequest { message }) => {
                    assert!(contradicts, "{row:?}: {message}");
                    assert_eq!(
                        message,
                        "specifying resource version is not allowed when using continue"
                    );
                    continue;
                }
                Err(other) => panic!("{row:?}: {other}"),
            };
            assert!(!contradicts, "{row:?}");
            let mut stage = stage(if old { 120 } else { CACHED });
            stage.script.know_progress(progress);
            if !progress {
                // It is found out once.
                stage.script.elsewhere();
                stage.list(ListOptions::default()).unwrap();
                stage.script.asked();
            }
            let scope = if row.recursive {
                all()
            } else {
                Scope::Key(key("ns", "a"))
            };
            let options = ListOptions {
                at,
                limit: row.limit.and_then(NonZeroU64::new),
                ..ListOptions::default()
            };
            let cache = Arc::clone(&stage.cache);
            let mut list = stage.spawn(async move { cache.list(&scope, options).await?.collect().await });
            let mut outcome = list.outcome();
            if outcome.is_none() {
                stage.pass(MS(3_010));
                outcome = list.outcome();
            }
            let asked = stage.script.asked();
            let below = asked.iter().filter(|asked| asked.starts_with("list")).count();
            let got = match (outcome.unwrap(), below) {
                (Ok(_), 0) => Answers::Cache,
                (_, 1) => Answers::Backend,
                (Err(StorageError::TooLargeResourceVersion { .. }), 0) => Answers::Nobody,
                (other, below) => panic!("{row:?}: {other:?} with {below} lists"),
            };
            assert_eq!(got, row.wanted(old, progress), "{row:?} old {old} progress {progress}");
            let nows = asked.iter().filter(|asked| *asked == "now").count();
            assert!(nows <= 1, "{row:?}: {asked:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 4 * 104, "the table is closed");
}

// covers: storage-cacher/DLG-10, storage-cacher/DLG-11, storage-cacher/DLG-12, storage-cacher/DLG-07, storage-cacher/DLG-22, storage-cacher/LIST-14
#[test]
fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    let refused = |version, matching, token| match ListAt::parse(version, matching, None, token, true) {
        Err(StorageError::BadRequest { message }) => message,
        other => panic!("{version:?} {matching:?} {token:?}: {other:?}"),
    };
    for version in ["abc", "-1"] {
        assert!(refused(version, None, None).starts_with("invalid resource version"));
        assert!(matches!(ReadAt::parse(version), Err(StorageError::BadRequest { .. })));
        assert!(WatchStart::parse(version, None).is_err());
    }
    assert!(refused("5", Some("Newest"), None).contains("Newest"));
    // Without a version the match is not looked at.
    assert_eq!(
        ListAt::parse("", Some("Newest"), None, None, true).unwrap(),
        ListAt::MostRecent
    );
    // No base64; no JSON; an empty start; revision zero; another version of the format.
    for broken in [
        "%%%",
        "ew",
        "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiIifQ",
        "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJucy9hIn0",
        "eyJ2IjoibWV0YS5rOHMuaW8vdjIiLCJydiI6NSwic3RhcnQiOiJucy9hIn0",
    ] {
        assert!(
            refused("", None, Some(broken)).starts_with("invalid continue token"),
            "{broken}"
        );
    }
    // What neither side has any more is the storage's 410.
    let mut stage = stage(CACHED);
    stage.script.compact(revision(190));
    let old = ContinueToken::after(revision(OLD), &prefix(), "/pods/ns/0").unwrap();
    let gone = stage.list(at(ListAt::Continue(old)));
    assert!(gone.is_err_and(|error| error.is_expired()));
    assert_eq!(stage.script.count("list"), 1);
}

// covers: storage-cacher/DLG-05, storage-cacher/DLG-06, storage-cacher/GET-05, storage-cacher/GET-08
#[test]
fn gets_are_answered_by_the_cache_unless_they_are_to_be_the_most_recent() {
    let mut stage = stage(CACHED);
    stage.script.hold(true);
    let gone = stage.script.remove("ns", "a");
    let get = |stage: &mut Stage, at| {
        let cache = Arc::clone(&stage.cache);
        let got = stage.run(async move { cache.get(&key("ns", "a"), GetOptions { at }).await });
        (got.map(|entry| entry.revision()), stage.script.asked())
    };
    for at in [
        ReadAt::Any,
        ReadAt::NotOlderThan(revision(OLD)),
        ReadAt::NotOlderThan(revision(CACHED)),
    ] {
        let (got, asked) = get(&mut stage, at);
        assert_eq!(got.unwrap(), revision(CACHED), "a past state is one");
        assert!(asked.is_empty(), "and is not checked: {asked:?}");
    }
    let (got, asked) = get(&mut stage, ReadAt::MostRecent);
    assert!(got.is_err_and(|error| error.is_not_found()));
    // Nobody said since when it is gone, and the cache has it still: so the storage is asked where it is.
    assert_eq!(asked, ["get /pods/ns/a", "now"]);
    stage.script.hold(false);
    stage.settle();
    let (got, asked) = get(&mut stage, ReadAt::NotOlderThan(gone));
    assert!(got.is_err_and(|error| error.is_not_found()));
    assert!(asked.is_empty());
}

// covers: storage-cacher/NRDY-03, storage-cacher/NRDY-04, storage-cacher/NRDY-06, storage-cacher/DLG-32
#[test]
fn a_cache_that_was_never_ready_sends_below_what_is_cheap() {
    let script = Script::new();
    script.put("ns", "a", "n");
    script.fail_lists(vec![StorageError::internal("down")]);
    let mut stage = Stage::new(script, |config| config.with_retry_pause(Duration::from_secs(1_000)));
    let limit = NonZeroU64::new(10);
    let token = ContinueToken::after(revision(101), &prefix(), "/pods/ns/0").unwrap();
    for (row, at, limit, predicate, below) in [
        ("exact", ListAt::Exact(revision(101)), None, fields(""), true),
        ("continue", ListAt::Continue(token), limit, fields(""), true),
        ("a page", ListAt::Any, limit, fields(""), true),
        (
            "a page of what is new",
            ListAt::NotOlderThan(revision(101)),
            limit,
            fields(""),
            true,
        ),
        ("everything", ListAt::Any, None, fields(""), false),
        ("a selected page", ListAt::Any, limit, fields("spec.nodeName=n"), false),
        (
            "a labelled page",
            ListAt::NotOlderThan(revision(1)),
            limit,
            labels("app=a"),
            false,
        ),
    ] {
        stage.script.asked();
        let options = ListOptions {
            at,
            limit,
            predicate,
            ..ListOptions::default()
        };
        let mut list = stage.begin_list(options);
        stage.pass(MS(510));
        match (list.outcome().unwrap(), below) {
            (Ok(list), true) => assert_eq!(listed(&list), ["a"], "{row}"),
            (Err(StorageError::TooManyRequests { cause, .. }), false) => {
                assert_eq!(cause, "storage is (re)initializing: internal error: down", "{row}");
            }
            (other, _) => panic!("{row}: {other:?}"),
        }
        assert_eq!(stage.script.count("list"), usize::from(below), "{row}");
    }
    // The longer it takes, the later clients are to come back.
    stage.clock.advance(Duration::from_secs(30));
    assert_eq!(stage.cache.ready().unwrap_err().retry_after, Duration::from_secs(7));
}

// covers: storage-cacher/DLG-01, storage-cacher/DLG-02, storage-cacher/WR-04, storage-cacher/WR-05, storage-cacher/NRDY-08
#[test]
fn writes_go_below_with_the_cached_object_as_a_hint() {
    let mut stage = stage(CACHED);
    let cache = Arc::clone(&stage.cache);
    stage.run(async move {
        let update = || |_: Option<Entry>| async { Ok(apiserver_storage_api::Change::NoChange) };
        let one = key("ns", "a");
        let _ = cache.create(&one, pod("ns", "a", "n"), Default::default()).await;
        let _ = cache
            .guaranteed_update(&one, UpdateOptions::default(), &mut update())
            .await;
        let _ = cache
            .guaranteed_update(&key("ns", "none"), UpdateOptions::default(), &mut update())
            .await;
        let _ = cache.delete(&one, DeleteOptions::default(), &mut NoCheck).await;
        let unreadable = DeleteOptions {
            unreadable: true,
            ..DeleteOptions::default()
        };
        let _ = cache.delete(&one, unreadable, &mut NoCheck).await;
        assert_eq!(cache.current_revision().await.unwrap(), revision(CACHED));
        assert_eq!(cache.stats().await.unwrap().count, 0);
        cache.request_progress().await.unwrap();
    });
    let want = [
        "create /pods/ns/a",
        "update /pods/ns/a hint Some(200)",
        "update /pods/ns/none hint None",
        "delete /pods/ns/a hint Some(200)",
        "delete /pods/ns/a hint None",
        "now",
        "stats",
        "progress",
    ];
    assert_eq!(stage.script.asked(), want);
}

// covers: storage-cacher/LIST-01, storage-cacher/LIST-04, storage-cacher/STO-05, storage-cacher/IDX-04
#[test]
fn lists_are_in_key_order_whatever_finds_them() {
    let script = Script::new();
    for (namespace, name) in [
        ("z", "a"),
        ("ns-1", "b"),
        ("ns", "z"),
        ("ns", "a"),
        ("ns", "a-b"),
        ("ns-1", "a"),
    ] {
        script.put(namespace, name, if name == "z" { "m" } else { "n" });
    }
    let mut stage = Stage::new(script, |config| config);
    for predicate in [
        "",
        "spec.nodeName=n",
        "spec.nodeName!=n",
        "metadata.namespace=ns",
        "metadata.name=a",
        "spec.nodeName=none",
    ] {
        let options = ListOptions {
            predicate: fields(predicate),
            ..at(ListAt::Any)
        };
        let list = stage.list(options).unwrap();
        let keys: Vec<&str> = list.entries.iter().map(|entry| entry.key().as_str()).collect();
        assert!(keys.is_sorted(), "{predicate:?}: {keys:?}");
        assert_eq!(keys.is_empty(), predicate == "spec.nodeName=none", "{predicate:?}");
    }
    let all = stage.list(at(ListAt::Any)).unwrap();
    let keys: Vec<&str> = all.entries.iter().map(|entry| entry.key().as_str()).collect();
    let want = [
        "/pods/ns-1/a",
        "/pods/ns-1/b",
        "/pods/ns/a",
        "/pods/ns/a-b",
        "/pods/ns/z",
        "/pods/z/a",
    ];
    assert_eq!(keys, want, "by the bytes of the keys");
}

// covers: storage-cacher/CFG-01, storage-cacher/KEY-03
#[test]
fn prefixes_end_with_a_slash() {
    let mut messages: Vec<String> = ["", "/", "pods"]
        .map(|prefix| ResourcePrefix::new(prefix).unwrap_err().to_string())
        .into();
    messages.dedup();
    assert_eq!(messages.len(), 3, "each fault has its own message: {messages:?}");
    let pods = ResourcePrefix::new("/pods").unwrap();
    for (prefix, key, inside) in [
        ("/pods/ns", "/pods/ns/a", true),
        ("/pods/ns/", "/pods/ns/a", true),
        ("/pods/ns", "/pods/ns2/a", false),
        ("/pods/ns", "/pods/ns/a/b", true),
        ("/pods/n", "/pods/ns/a", false),
        ("/pods/\u{e9}", "/pods/\u{e9}/a", true),
        ("/pods/\u{e9}", "/pods/e\u{301}/a", false),
    ] {
        let scope = Scope::Under(KeyPrefix::new(&pods, prefix).unwrap());
        let key = apiserver_storage_api::Key::new(&pods, key).unwrap();
        assert_eq!(scope.contains(&key), inside, "{key} in {prefix}");
    }
    let one = common::key("ns", "a");
    assert!(Scope::Key(one.clone()).contains(&one));
    assert!(!Scope::Key(one).contains(&common::key("ns", "ab")));
    assert!(Revision::new(0).is_none());
}
