//! The contract's own types, apart from any backend: what the edge parses, and what stands for what.

use std::sync::Arc;

use apiserver_storage_api::{
    ContinueToken, GetOptions, ListAt, Preconditions, ReadAt, ResourceInfo, ResourceScope, Revision, StorageError,
    StorageExt, WatchStart, path_segment_faults,
};
use apiserver_storage_kv::transform::Identity;
use apiserver_storage_kv::{KvStore, KvStoreConfig};
use apiserver_storage_testing::ReferenceKv;
use apiserver_storage_testing::fixture::*;

fn token() -> String {
    ContinueToken::after(revision(7), &all_prefix(), "/pods/ns/a")
        .expect("a key below the prefix")
        .encode()
}

#[track_caller]
fn check(
    version: &str,
    matching: Option<&str>,
    limited: bool,
    token: Option<&str>,
    recursive: bool,
    want: Result<ListAt, &str>,
) {
    let got = ListAt::parse(version, matching, limited.then(|| limit(1)).flatten(), token, recursive);
    match (got, want) {
        (Ok(got), Ok(want)) => assert_eq!(got, want),
        (Err(StorageError::BadRequest { message }), Err(part)) => assert!(message.contains(part), "{message}"),
        (got, want) => panic!("{version:?} {matching:?}: {got:?}, wanted {want:?}"),
    }
}

// covers: storage-api/CONT-13, storage-api/CONT-14, storage-api/CONT-15, storage-api/CONT-16, storage-api/CONT-17, storage-api/CONT-18, storage-api/LIST-11
#[test]
fn version_and_match_choose_the_state() {
    let n = revision(200);
    for (version, matching, limited, recursive, want) in [
        ("", None, false, true, Ok(ListAt::MostRecent)),
        ("", Some("Exact"), true, true, Ok(ListAt::MostRecent)),
        ("", Some("unknown"), false, true, Ok(ListAt::MostRecent)),
        ("0", None, false, true, Ok(ListAt::Any)),
        ("0", Some("NotOlderThan"), true, true, Ok(ListAt::Any)),
        (
            "0",
            Some("unknown"),
            false,
            true,
            Err("unknown ResourceVersionMatch value: unknown"),
        ),
        ("200", Some("NotOlderThan"), true, true, Ok(ListAt::NotOlderThan(n))),
        ("200", Some("Exact"), false, true, Ok(ListAt::Exact(n))),
        ("200", Some("Exact"), true, false, Ok(ListAt::Exact(n))),
        ("200", None, true, false, Ok(ListAt::NotOlderThan(n))),
        ("200", None, false, true, Ok(ListAt::NotOlderThan(n))),
        ("200", None, true, true, Ok(ListAt::Exact(n))),
        (
            "200",
            Some("unknown"),
            false,
            true,
            Err("unknown ResourceVersionMatch value: unknown"),
        ),
        ("abc", None, false, true, Err("invalid resource version: ")),
        ("-1", None, false, true, Err("invalid resource version: ")),
        ("abc", Some("Exact"), false, false, Err("invalid resource version: ")),
    ] {
        check(version, matching, limited, None, recursive, want);
    }
}

// covers: storage-api/CONT-11, storage-api/CONT-12, storage-api/LIST-36
#[test]
fn a_token_decides_in_recursive_lists() {
    let text = token();
    let at = ListAt::Continue(ContinueToken::decode(&text).expect("our own token"));
    let pinned = "specifying resource version is not allowed when using continue";
    for (version, text, recursive, want) in [
        ("", text.as_str(), true, Ok(at.clone())),
        ("0", &text, true, Ok(at.clone())),
        ("1", &text, true, Err(pinned)),
        ("abc", &text, true, Err(pinned)),
        ("", "no token", true, Err("invalid continue token: ")),
        ("", "", true, Ok(ListAt::MostRecent)),
        ("1", &text, false, Ok(ListAt::NotOlderThan(Revision::MIN))),
        ("", "no token", false, Ok(ListAt::MostRecent)),
    ] {
        check(version, Some("").filter(|_| false), true, Some(text), recursive, want);
    }
    check("", Some("unknown"), true, Some(&text), true, Ok(at));
}

// covers: storage-api/CONT-02
#[test]
fn a_token_is_of_its_own_prefix() {
    let prefix = all_prefix();
    assert_eq!(ContinueToken::after(revision(7), &prefix, "/secrets/ns/a"), None);
    // A key that is the prefix itself is followed by the first one below it.
    let first = ContinueToken::after(revision(7), &prefix, "/pods/").expect("a place to go on");
    assert_eq!(
        ContinueToken::decode(&first.encode()).expect("readable").start(&prefix),
        "/pods/\0"
    );
}

// covers: storage-api/GET-08, storage-api/WATCH-28
#[test]
fn versions_that_are_no_numbers_are_refused() {
    for text in ["abc", "-1", "+1", "1.0", " "] {
        match ReadAt::parse(text) {
            Err(StorageError::BadRequest { message }) => {
                assert!(message.starts_with("invalid resource version"), "{message}")
            }
            other => panic!("{text:?}: {other:?}"),
        }
        let watch = WatchStart::parse(text, None);
        assert!(
            matches!(watch, Err(StorageError::InvalidResourceVersion { .. })),
            "{text:?}: {watch:?}"
        );
    }
    for (text, want) in [
        ("", ReadAt::MostRecent),
        ("0", ReadAt::Any),
        ("7", ReadAt::NotOlderThan(revision(7))),
    ] {
        assert_eq!(ReadAt::parse(text).expect("a version"), want);
    }
}

// covers: storage-api/WATCH-01, storage-api/WATCH-02, storage-api/WATCH-03, storage-api/WATCH-04, storage-api/WATCH-05, storage-api/WATCH-06
#[test]
fn version_and_initial_events_choose_where_a_watch_begins() {
    let after = WatchStart::After(revision(7));
    for (version, initial, want) in [
        ("", None, WatchStart::InitialState(ReadAt::Any)),
        ("0", None, WatchStart::InitialState(ReadAt::Any)),
        ("7", None, after),
        ("", Some(false), WatchStart::Now),
        ("0", Some(false), WatchStart::Now),
        ("7", Some(false), after),
        ("", Some(true), WatchStart::InitialState(ReadAt::MostRecent)),
        ("0", Some(true), WatchStart::InitialState(ReadAt::MostRecent)),
        (
            "7",
            Some(true),
            WatchStart::InitialState(ReadAt::NotOlderThan(revision(7))),
        ),
    ] {
        assert_eq!(
            WatchStart::parse(version, initial).expect("a version"),
            want,
            "{version:?} {initial:?}"
        );
    }
}

// covers: storage-api/PRE-07
#[test]
fn preconditions_have_their_wire_form() {
    let wire = r#"{"uid":"u","resourceVersion":"7"}"#;
    let preconditions: Preconditions = serde_json::from_str(wire).expect("readable");
    assert_eq!(
        (preconditions.uid.as_deref(), preconditions.resource_version.as_deref()),
        (Some("u"), Some("7"))
    );
    assert_eq!(serde_json::to_string(&preconditions).expect("writable"), wire);
    assert_eq!(
        serde_json::to_string(&Preconditions::default()).expect("writable"),
        "{}"
    );
}

// covers: storage-api/KEY-16, storage-api/KEY-17
#[test]
fn keys_are_built_from_names_that_can_stand_in_them() {
    let nodes = ResourceInfo::new("", "v1", "nodes", "Node", ResourceScope::Cluster);
    assert_eq!(nodes.object_key(None, "a").expect("a key").as_str(), "/nodes/a");
    assert_eq!(
        pods().object_key(Some("ns"), "a").expect("a key").as_str(),
        "/pods/ns/a"
    );
    assert_eq!(pods().object_key(Some(""), "a").expect("a key").as_str(), "/pods//a");
    for (name, faults) in [
        (".", vec!["may not be '.'"]),
        ("..", vec!["may not be '..'"]),
        ("a/b", vec!["may not contain '/'"]),
        ("a%b/", vec!["may not contain '/'", "may not contain '%'"]),
        ("a..b", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(path_segment_faults(name), faults, "{name:?}");
        let built = nodes.object_key(None, name);
        match built {
            Ok(key) => assert!(faults.is_empty(), "{key}"),
            Err(error) => assert_eq!(error.to_string(), format!("invalid name: {}", faults.join(";"))),
        }
    }
}

// covers: storage-api/GET-07
#[tokio::test]
async fn a_typed_view_finds_an_object_or_none() {
    let config = KvStoreConfig::new("/registry", Arc::new(Identity));
    let store = Arc::new(KvStore::new(Arc::new(ReferenceKv::new()), pods(), config));
    let typed = store.typed::<serde_json::Value>();
    for name in ["a", "b"] {
        create_pod(&*store, "ns", name).await;
    }
    let found = typed.find(&key("ns", "a"), GetOptions::default()).await;
    assert_eq!(found.expect("a read").expect("an object")["metadata"]["name"], "a");
    let missing = typed.find(&key("ns", "c"), GetOptions::default()).await;
    assert_eq!(missing.expect("a read"), None);
    let future = GetOptions {
        at: ReadAt::NotOlderThan(Revision::MAX),
    };
    assert!(
        typed.find(&key("ns", "c"), future).await.is_err(),
        "what cannot be read is not missing"
    );
    let listed = typed.list(&all(), page(ListAt::MostRecent, 1)).await.expect("a list");
    assert_eq!((listed.items.len(), listed.remaining), (1, Some(1)));
    assert!(listed.next.is_some());
}
