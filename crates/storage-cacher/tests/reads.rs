//! What is served from memory, and from which state.

mod common;

use std::num::NonZeroU64;

use apiserver_storage_api::{GetOptions, ListAt, ListOptions, ReadAt, Revision, Storage, StorageError};
use common::*;

// covers: storage-cacher/LIST-18, storage-cacher/LIST-19, storage-cacher/DLG-25, storage-cacher/FRSH-12
#[tokio::test]
async fn a_consistent_list_shows_every_acknowledged_write() {
    let house = House::new().await;
    for round in 0..50 {
        let written = house.create("ns", &format!("p{round:02}"), "n").await.revision();
        let list = house.cache.list(&all(), ListOptions::default()).await.unwrap();
        assert!(list.revision() >= written);
        assert_eq!(names(list).await.len(), round + 1);
    }
    // The last write may be of another kind; the list is as new as that one.
    let elsewhere = house.elsewhere("c").await;
    let list = house.cache.list(&all(), ListOptions::default()).await.unwrap();
    assert_eq!(list.revision(), elsewhere);
    let list = house.cache.list(&all(), at(ListAt::Any)).await.unwrap();
    assert_eq!(list.revision(), elsewhere, "a consistent read moves the cache forward");
}

// covers: storage-cacher/GET-01, storage-cacher/GET-02, storage-cacher/GET-03, storage-cacher/GET-04, storage-cacher/FRSH-02, storage-cacher/FRSH-04, storage-cacher/ORD-06
#[tokio::test]
async fn gets_wait_for_the_revision_they_name() {
    let house = House::new().await;
    for round in 0..20 {
        let name = format!("p{round}");
        let written = house.create("ns", &name, "n").await;
        let at = ReadAt::NotOlderThan(written.revision());
        let entry = house.cache.get(&key("ns", &name), GetOptions { at }).await.unwrap();
        assert_eq!(entry.json().unwrap(), written.json().unwrap());
    }
    let missing = house
        .cache
        .get(&key("ns", "none"), GetOptions { at: ReadAt::Any })
        .await;
    assert!(matches!(missing, Err(StorageError::KeyNotFound { .. })), "{missing:?}");
    let at = ReadAt::NotOlderThan(Revision::MAX);
    let future = house.cache.get(&key("ns", "p1"), GetOptions { at }).await;
    let Err(StorageError::TooLargeResourceVersion { asked, retry_after, .. }) = future else {
        panic!("{future:?}")
    };
    assert_eq!((asked, retry_after.as_secs()), (Revision::MAX, 1));
}

// covers: storage-cacher/LIST-05, storage-cacher/LIST-15, storage-cacher/LIST-30, storage-cacher/SNAP-02
#[tokio::test]
async fn exact_lists_show_every_state_of_history() {
    let house = House::new().await;
    let cache = &*house.cache;
    let mut states = vec![(house.below.current_revision().await.unwrap(), vec![])];
    let mut state: Vec<String> = Vec::new();
    for round in 0..400 {
        let name = format!("p{:03}", round % 40);
        let revision = if !state.contains(&name) {
            state.push(name.clone());
            state.sort();
            create(cache, "ns", &name, "a").await.revision()
        } else if round % 3 == 0 {
            state.retain(|own| *own != name);
            delete(cache, "ns", &name).await.revision()
        } else {
            update(cache, "ns", &name, &format!("n{round}")).await.revision()
        };
        states.push((revision, state.clone()));
    }
    let last = house.elsewhere("c").await;
    states.push((last, state));
    for (revision, want) in states {
        let list = cache.list(&all(), at(ListAt::Exact(revision))).await.unwrap();
        assert_eq!(list.revision(), revision);
        let own = list.collect().await.unwrap().entries;
        let below = house
            .below
            .list(&all(), at(ListAt::Exact(revision)))
            .await
            .unwrap()
            .collect()
            .await
            .unwrap()
            .entries;
        let bytes = |entries: &[apiserver_storage_api::Entry]| -> Vec<_> {
            entries.iter().map(|entry| entry.json().unwrap().clone()).collect()
        };
        assert_eq!(
            own.iter()
                .map(|e| e.attributes().unwrap().name.to_string())
                .collect::<Vec<_>>(),
            want
        );
        assert_eq!(bytes(&own), bytes(&below), "at {revision}");
    }
}

// covers: storage-cacher/LIST-09, storage-cacher/LIST-10, storage-cacher/LIST-11, storage-cacher/LIST-12, storage-cacher/LIST-33, storage-cacher/LIST-35
#[tokio::test]
async fn pages_are_those_of_the_storage_below() {
    let house = House::new().await;
    for (at, name) in ["a", "b", "c", "d", "e", "f", "g"].into_iter().enumerate() {
        house
            .create(
                if at < 5 { "ns" } else { "ns2" },
                name,
                if at % 2 == 0 { "even" } else { "odd" },
            )
            .await;
    }
    let revision = house.below.current_revision().await.unwrap();
    house.create("ns", "aa", "even").await;
    for scope in [all(), under("ns"), under("ns2"), under("n")] {
        for predicate in [
            "",
            "spec.nodeName=even",
            "spec.nodeName!=even",
            "metadata.name=c",
            "spec.nodeName=none",
        ] {
            for limit in 1..=8 {
                let mut tokens = (ListAt::Exact(revision), ListAt::Exact(revision));
                for page in 0..10 {
                    let options = |at: &ListAt| ListOptions {
                        at: at.clone(),
                        limit: NonZeroU64::new(limit),
                        predicate: fields(predicate),
                        ..ListOptions::default()
                    };
                    let own = house
                        .cache
                        .list(&scope, options(&tokens.0))
                        .await
                        .unwrap()
                        .collect()
                        .await
                        .unwrap();
                    let below = house
                        .below
                        .list(&scope, options(&tokens.1))
                        .await
                        .unwrap()
                        .collect()
                        .await
                        .unwrap();
                    let case = format!("{scope} {predicate:?} limit {limit} page {page}");
                    assert_eq!(own.revision, below.revision, "{case}");
                    assert_eq!(own.next, below.next, "{case}");
                    assert_eq!(own.remaining, below.remaining, "{case}");
                    let keys = |entries: &[apiserver_storage_api::Entry]| -> Vec<_> {
                        entries.iter().map(|entry| entry.key().clone()).collect()
                    };
                    assert_eq!(keys(&own.entries), keys(&below.entries), "{case}");
                    let Some(next) = own.next else { break };
                    // Each serves the other's token.
                    tokens = (ListAt::Continue(next.clone()), ListAt::Continue(next));
                }
            }
        }
    }
}

// covers: storage-cacher/LIST-02, storage-cacher/LIST-03, storage-cacher/LIST-17, storage-cacher/IDX-03, storage-cacher/IDX-05
#[tokio::test]
async fn scopes_and_selectors_select() {
    let house = House::new().await;
    for (namespace, name, node) in [
        ("ns", "foo", "a"),
        ("ns", "foobar", "b"),
        ("ns2", "foo", "a"),
        ("ns2", "x", ""),
        ("ns", "z", "a"),
    ] {
        house.create(namespace, name, node).await;
    }
    let one = |name| apiserver_storage_api::Scope::Key(key("ns", name));
    for (scope, predicate, want) in [
        (all(), fields(""), vec!["foo", "foobar", "z", "foo", "x"]),
        (under("ns"), fields(""), vec!["foo", "foobar", "z"]),
        (under("n"), fields(""), vec![]),
        (one("foo"), fields(""), vec!["foo"]),
        (one("fo"), fields(""), vec![]),
        (one("foo"), fields("spec.nodeName=b"), vec![]),
        (all(), fields("spec.nodeName=a"), vec!["foo", "z", "foo"]),
        (under("ns"), fields("spec.nodeName=a"), vec!["foo", "z"]),
        (under("ns2"), fields("spec.nodeName="), vec!["x"]),
        (under("ns"), fields("spec.nodeName=a,metadata.name=z"), vec!["z"]),
        (under("ns"), fields("metadata.namespace=ns2"), vec![]),
        (all(), labels("app=foo"), vec!["foo", "foo"]),
        (all(), labels("app notin (foo)"), vec!["foobar", "z", "x"]),
    ] {
        for at in [ListAt::MostRecent, ListAt::Any] {
            let options = ListOptions {
                at,
                predicate: predicate.clone(),
                ..ListOptions::default()
            };
            let list = house.cache.list(&scope, options).await.unwrap();
            assert_eq!(names(list).await, want, "{scope} {predicate:?}");
        }
    }
}
