//! Which state a list shows, of which keys.

use apiserver_storage_api::{ListAt, ListOptions, ReadAt, Revision, Scope, StorageError, WatchStart};

use crate::fixture::*;
use crate::harness::Harness;

// covers: storage-api/LIST-01, storage-api/LIST-19, storage-api/GLOB-03, storage-api/GLOB-04
/// A consistent list is at the counter, also when the range is empty or the counter moved elsewhere.
pub async fn a_consistent_list_is_at_the_counter<H: Harness>(h: H) {
    let store = h.store();
    let empty = list_at(&*store, ListAt::MostRecent).await;
    assert_eq!((empty.revision, empty.entries.len()), (now(&*store).await, 0));
    let created = create_pod(&*store, "ns", "a").await;
    assert_eq!(list_at(&*store, ListAt::MostRecent).await.revision, created.revision());
    let unrelated = create(&*h.other(), &config_map_key("c"), &config_map("c")).await;
    let listed = list_at(&*store, ListAt::MostRecent).await;
    assert_eq!(listed.revision, unrelated.revision());
    assert_eq!(states(&listed.entries), states(&[created]));
}

// covers: storage-api/LIST-02, storage-api/LIST-37
/// When any state will do, a backend shows the latest, and honours the limit.
pub async fn any_state_of_a_backend_is_the_latest<H: Harness>(h: H) {
    let store = h.store();
    let entries = create_pods(&*store, &["a", "b"]).await;
    let listed = list_at(&*store, ListAt::Any).await;
    assert_eq!(
        (listed.revision, states(&listed.entries)),
        (entries[1].revision(), states(&entries))
    );
    let first = list(&*store, &all(), page(ListAt::Any, 1)).await;
    assert_eq!((names(&first.entries), first.remaining), (vec!["ns/a"], Some(1)));
}

// covers: storage-api/LIST-03
/// A minimum is a lower bound for the list and what it shows.
pub async fn a_minimum_revision_is_a_lower_bound<H: Harness>(h: H) {
    let store = h.store();
    for name in ["a", "b", "c"] {
        let created = create_pod(&*store, "ns", name).await;
        let listed = list_at(&*store, ListAt::NotOlderThan(created.revision())).await;
        assert!(listed.revision >= created.revision());
        assert!(names(&listed.entries).contains(&format!("ns/{name}").as_str()));
    }
}

// covers: storage-api/LIST-05, storage-api/LIST-06, storage-api/LIST-07, storage-api/GLOB-06
/// A list of an exact revision shows that state, at every step of a history.
pub async fn every_state_of_a_history_can_be_listed<H: Harness>(h: H) {
    let store = h.store();
    let mut history = vec![(now(&*store).await, Vec::new())];
    let mut note = async |revision: Revision| {
        let listed = list_at(&*store, ListAt::MostRecent).await;
        assert_eq!(listed.revision, revision);
        history.push((revision, states(&listed.entries)));
    };
    for name in ["d", "a", "c"] {
        note(create_pod(&*store, "ns", name).await.revision()).await;
    }
    note(change(&*store, &key("ns", "a"), label("x", "1")).await.revision()).await;
    note(
        create(&*h.other(), &config_map_key("c"), &config_map("c"))
            .await
            .revision(),
    )
    .await;
    note(delete(&*store, &key("ns", "c")).await.revision()).await;
    note(create_pod(&*store, "ns", "b").await.revision()).await;
    for (revision, want) in history {
        let listed = list_at(&*store, ListAt::Exact(revision)).await;
        assert_eq!((listed.revision, states(&listed.entries)), (revision, want));
    }
}

// covers: storage-api/LIST-08, storage-api/LIST-18, storage-api/CONT-24
/// A revision of the future is refused.
pub async fn a_future_revision_is_refused<H: Harness>(h: H) {
    let store = h.store();
    let current = create_pod(&*store, "ns", "a").await.revision();
    let scopes = [all(), Scope::Key(key("ns", "a")), Scope::Key(key("ns", "missing"))];
    for (scope, at) in [
        (&scopes[0], ListAt::Exact(Revision::MAX)),
        (&scopes[0], ListAt::Exact(current.next())),
        (&scopes[0], ListAt::Exact(revision(u64::MAX))),
        (&scopes[0], ListAt::NotOlderThan(Revision::MAX)),
        (&scopes[1], ListAt::Exact(Revision::MAX)),
        (&scopes[2], ListAt::NotOlderThan(Revision::MAX)),
    ] {
        match try_list(
            &*store,
            scope,
            ListOptions {
                at: at.clone(),
                ..ListOptions::default()
            },
        )
        .await
        {
            Err(StorageError::TooLargeResourceVersion { current: at, .. }) => assert_eq!(at, current),
            other => panic!("{scope} {at:?}: {other:?}"),
        }
    }
}

// covers: storage-api/LIST-09, storage-api/LIST-10, storage-api/STAT-07, storage-api/STAT-08, storage-api/ERR-07
/// Below the compaction point there is no exact list; at it and above there is, and minimums are not concerned.
pub async fn compacted_states_are_gone<H: Harness>(h: H) {
    let store = h.store();
    let entries = create_pods(&*store, &["a", "b", "c"]).await;
    h.compact(entries[1].revision()).await;
    assert!(
        store.compacted_revision() >= Some(entries[1].revision()),
        "{:?}",
        store.compacted_revision()
    );
    let exact = |at: &apiserver_storage_api::Entry| page(ListAt::Exact(at.revision()), 10);
    match try_list(&*store, &all(), exact(&entries[0])).await {
        Err(StorageError::Expired { message, token: None }) => {
            assert_eq!(message, "The resourceVersion for the provided list is too old.");
        }
        other => panic!("{other:?}"),
    }
    let at_compaction = list(&*store, &all(), exact(&entries[1])).await;
    assert_eq!(names(&at_compaction.entries), ["ns/a", "ns/b"]);
    let minimum = list_at(&*store, ListAt::NotOlderThan(entries[0].revision())).await;
    assert_eq!(minimum.entries.len(), 3);
}

// covers: storage-api/LIST-12
/// A list at the revision of an earlier list shows the same.
pub async fn a_list_can_be_repeated_at_its_revision<H: Harness>(h: H) {
    let store = h.store();
    create_pods(&*store, &["a", "b"]).await;
    let first = list_at(&*store, ListAt::MostRecent).await;
    create_pods(&*store, &["c"]).await;
    change(&*store, &key("ns", "a"), label("x", "1")).await;
    delete(&*store, &key("ns", "b")).await;
    let again = list_at(&*store, ListAt::Exact(first.revision)).await;
    assert_eq!(again.revision, first.revision);
    assert_eq!(states(&again.entries), states(&first.entries));
}

// covers: storage-api/LIST-13, storage-api/LIST-12
/// Writes during a list do not show in it.
pub async fn writes_during_a_list_do_not_show_in_it<H: Harness>(h: H) {
    let store = h.store();
    let names: Vec<String> = (0..1200).map(|n| format!("p{n:04}")).collect();
    for name in &names {
        create_pod(&*store, "ns", name).await;
    }
    let listing = store.list(&all(), ListOptions::default()).await.expect("a list");
    change(&*store, &key("ns", "p1199"), label("x", "1")).await;
    delete(&*store, &key("ns", "p1198")).await;
    create_pod(&*store, "ns", "p9999").await;
    let listed = listing.collect().await.expect("all pages");
    assert_eq!(listed.entries.len(), names.len());
    let last = listed.entries.last().expect("entries");
    assert_eq!((last.key(), label_of(last, "x")), (&key("ns", "p1199"), None));
}

// covers: storage-api/LIST-14
/// Entries come in the order of their keys' bytes, whatever the depth.
pub async fn entries_come_in_key_order<H: Harness>(h: H) {
    let store = h.store();
    let keys = [
        "/pods/b/x",
        "/pods/a/x",
        "/pods/a-b/x",
        "/pods/a/x/deep/er",
        "/pods/a/B",
        "/pods/é/x",
    ];
    for key in keys {
        create(&*store, &raw_key(key), &pod("ns", "x")).await;
    }
    let listed = list_at(&*store, ListAt::MostRecent).await;
    assert_eq!(
        names(&listed.entries),
        ["a-b/x", "a/B", "a/x", "a/x/deep/er", "b/x", "é/x"]
    );
}

// covers: storage-api/LIST-15, storage-api/LIST-16, storage-api/LIST-17, storage-api/LIST-18, storage-api/LIST-19
/// A list of one key has one entry or none, in every mode; a list below an object has none.
pub async fn a_list_of_one_key_has_one_entry_or_none<H: Harness>(h: H) {
    let store = h.store();
    let first = create_pod(&*store, "ns", "a").await;
    let second = change(&*store, &key("ns", "a"), label("x", "1")).await;
    let below = Scope::Under(apiserver_storage_api::KeyPrefix::new(pods().prefix(), "/pods/ns/a").expect("a prefix"));
    let one = Scope::Key(key("ns", "a"));
    for (at, want) in [
        (ListAt::MostRecent, &second),
        (ListAt::Exact(second.revision()), &second),
        (ListAt::Exact(first.revision()), &first),
        (ListAt::NotOlderThan(second.revision()), &second),
    ] {
        let options = ListOptions {
            at: at.clone(),
            limit: limit(1),
            ..ListOptions::default()
        };
        let listed = list(&*store, &one, options.clone()).await;
        assert_eq!(states(&listed.entries), states(std::slice::from_ref(want)), "{at:?}");
        assert_eq!((&listed.next, listed.remaining), (&None, None), "{at:?}");
        if let ListAt::Exact(revision) = at {
            assert_eq!(listed.revision, revision);
        }
        for empty in [
            Scope::Key(key("ns", "b")),
            Scope::Key(raw_key("/pods/ns")),
            below.clone(),
        ] {
            let listed = list(&*store, &empty, options.clone()).await;
            assert!(listed.entries.is_empty(), "{empty} {at:?}");
            assert!(listed.revision >= first.revision());
        }
    }
}

// covers: storage-api/LIST-21, storage-api/LIST-22, storage-api/SEL-02, storage-api/SEL-04, storage-api/SEL-12, storage-api/SEL-13
/// Selectors leave out what does not match; the revision stays that of the whole state.
pub async fn selectors_leave_out_what_does_not_match<H: Harness>(h: H) {
    let store = h.store();
    for (namespace, name, on) in [
        ("ns", "a", "n1"),
        ("ns", "b", "n2"),
        ("other", "a", "n2"),
        ("other", "c", ""),
    ] {
        create(&*store, &key(namespace, name), &pod_on(namespace, name, on)).await;
    }
    change(&*store, &key("ns", "b"), label("app", "web")).await;
    let revision = now(&*store).await;
    for (predicate, want) in [
        (by_field("metadata.name=a"), vec!["ns/a", "other/a"]),
        (by_field("metadata.name!=a"), vec!["ns/b", "other/c"]),
        (by_field("metadata.namespace=ns"), vec!["ns/a", "ns/b"]),
        (by_field("spec.nodeName=n2"), vec!["ns/b", "other/a"]),
        (by_field("spec.nodeName!=n2"), vec!["ns/a", "other/c"]),
        (by_field("spec.nodeName="), vec!["other/c"]),
        (by_field("spec.nodeName=n2,metadata.name=b"), vec!["ns/b"]),
        (by_label("app=web"), vec!["ns/b"]),
        (by_label("app"), vec!["ns/b"]),
        (by_label("!app,app notin (db)"), vec!["ns/a", "other/a", "other/c"]),
        (by_label("app in (db)"), vec![]),
    ] {
        let options = ListOptions {
            predicate: predicate.clone(),
            ..ListOptions::default()
        };
        let listed = list(&*store, &all(), options.clone()).await;
        assert_eq!(
            (names(&listed.entries), listed.revision),
            (want, revision),
            "{predicate:?}"
        );
        assert_eq!(listed.next, None);
    }
    let options = ListOptions {
        predicate: by_field("metadata.namespace=other"),
        ..ListOptions::default()
    };
    assert!(list(&*store, &within("ns"), options).await.entries.is_empty());
}

// covers: storage-api/LIST-23
/// Selection looks at objects as of the state that is listed.
pub async fn selection_is_made_in_the_listed_state<H: Harness>(h: H) {
    let store = h.store();
    let created = create(&*store, &key("ns", "a"), &pod_on("ns", "a", "n1")).await;
    let moved = change(&*store, &key("ns", "a"), node("n2")).await;
    delete(&*store, &key("ns", "a")).await;
    for (at, on, want) in [
        (ListAt::Exact(created.revision()), "n1", 1),
        (ListAt::Exact(created.revision()), "n2", 0),
        (ListAt::Exact(moved.revision()), "n1", 0),
        (ListAt::Exact(moved.revision()), "n2", 1),
        (ListAt::MostRecent, "n2", 0),
    ] {
        let predicate = by_field(&format!("spec.nodeName={on}"));
        let listed = list(
            &*store,
            &all(),
            ListOptions {
                at: at.clone(),
                predicate,
                ..ListOptions::default()
            },
        )
        .await;
        assert_eq!(listed.entries.len(), want, "{at:?} {on}");
    }
}

// covers: storage-api/VER-14
/// Objects come in the version of the kind, whatever version they were stored in; a consistent list and a watch agree.
pub async fn what_was_stored_in_another_version_is_listed_in_that_of_the_kind<H: Harness>(h: H) {
    let store = h.store();
    let old: &[u8] = br#"{"apiVersion":"v1beta1","kind":"Pod","metadata":{"name":"a","namespace":"ns"},"spec":{}}"#;
    h.raw_put(&key("ns", "a"), bytes::Bytes::from_static(old)).await;
    create_pod(&*store, "ns", "b").await;
    let listed = list_at(&*store, ListAt::MostRecent).await.entries;
    let start = WatchStart::InitialState(ReadAt::MostRecent);
    let (initial, _) = Watching::all(&*store, start).await.initial().await;
    assert_eq!(
        (names(&listed), names(&initial)),
        (vec!["ns/a", "ns/b"], vec!["ns/a", "ns/b"])
    );
    for entry in listed.iter().chain(&initial) {
        let object: serde_json::Value = entry.decode().expect("readable");
        assert_eq!(
            (&object["apiVersion"], &object["kind"]),
            (&"v1".into(), &"Pod".into()),
            "{entry:?}"
        );
    }
}
