//! Reading one object.

use apiserver_storage_api::{GetOptions, ReadAt, Revision, StorageError};

use crate::fixture::*;
use crate::harness::Harness;

// covers: storage-api/GET-01, storage-api/GET-11, storage-api/GLOB-02, storage-api/GLOB-04
/// A read shows the latest acknowledged write, and moves nothing.
pub async fn the_latest_write_is_read<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    for round in 0..20 {
        let written = change(&*store, &key("ns", "a"), label("round", &round.to_string())).await;
        let read = get(&*store, &key("ns", "a")).await;
        assert_eq!(states(&[read]), states(std::slice::from_ref(&written)));
        assert_eq!(get(&*store, &key("ns", "a")).await.revision(), written.revision());
        assert_eq!(now(&*store).await, written.revision());
    }
}

// covers: storage-api/GET-02
/// Any state will do: one that was stored, or nothing.
pub async fn any_state_is_one_that_was_stored<H: Harness>(h: H) {
    let store = h.store();
    let first = create_pod(&*store, "ns", "a").await;
    let second = change(&*store, &key("ns", "a"), label("x", "1")).await;
    match store.get(&key("ns", "a"), GetOptions { at: ReadAt::Any }).await {
        Ok(entry) => assert!(
            [first.revision(), second.revision()].contains(&entry.revision()),
            "{entry:?}"
        ),
        Err(error) => assert!(error.is_not_found(), "{error}"),
    }
}

// covers: storage-api/GET-02
/// A backend has nothing older than the latest state at hand.
pub async fn any_state_of_a_backend_is_the_latest<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    let second = change(&*store, &key("ns", "a"), label("x", "1")).await;
    let entry = store
        .get(&key("ns", "a"), GetOptions { at: ReadAt::Any })
        .await
        .expect("stored");
    assert_eq!(entry.revision(), second.revision());
}

// covers: storage-api/GET-03, storage-api/GET-05
/// A minimum is a lower bound: older states are never shown, the latest always may be.
pub async fn a_minimum_revision_is_a_lower_bound<H: Harness>(h: H) {
    let store = h.store();
    let first = create_pod(&*store, "ns", "a").await;
    let second = change(&*store, &key("ns", "a"), label("x", "1")).await;
    let unrelated = create(&*h.other(), &config_map_key("c"), &config_map("c")).await;
    let at = async |revision: Revision| {
        let options = GetOptions {
            at: ReadAt::NotOlderThan(revision),
        };
        store.get(&key("ns", "a"), options).await.expect("stored").revision()
    };
    assert!([first.revision(), second.revision()].contains(&at(first.revision()).await));
    assert_eq!(at(second.revision()).await, second.revision());
    assert_eq!(at(unrelated.revision()).await, second.revision());
}

// covers: storage-api/GET-04, storage-api/ERR-06, storage-api/CONT-24
/// A revision of the future is refused, whether or not there is an object.
pub async fn a_future_revision_is_refused_before_the_key_is_looked_at<H: Harness>(h: H) {
    let store = h.store();
    let current = create_pod(&*store, "ns", "a").await.revision();
    for (name, asked) in [
        ("a", Revision::MAX),
        ("missing", Revision::MAX),
        ("a", revision(u64::MAX)),
    ] {
        let options = GetOptions {
            at: ReadAt::NotOlderThan(asked),
        };
        match store.get(&key("ns", name), options).await {
            Err(StorageError::TooLargeResourceVersion {
                asked: got,
                current: at,
                ..
            }) => {
                assert_eq!((got, at), (asked, current), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

// covers: storage-api/GET-06, storage-api/ERR-01, storage-api/ERR-02
/// A key without an object is not found, by its full name.
pub async fn a_missing_key_is_not_found<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    match store.get(&key("ns", "b"), GetOptions::default()).await {
        Err(StorageError::KeyNotFound { key }) => assert!(key.ends_with("/pods/ns/b"), "{key}"),
        other => panic!("{other:?}"),
    }
}
