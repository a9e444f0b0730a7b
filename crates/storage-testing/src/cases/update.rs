//! Guaranteed updates: what is written, and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use apiserver_storage_api::{
    Change, CreateOptions, Entry, EventKind, ListOptions, Preconditions, Storage, StorageError, Ttl, UpdateOptions,
    WatchStart,
};
use bytes::Bytes;
use serde_json::Value;

use crate::fixture::*;
use crate::harness::Harness;
use crate::transformer::Faults;

// covers: storage-api/UPD-01, storage-api/VER-09, storage-api/GLOB-01
/// The callback gets the current state; what it returns is stored at the next revision.
pub async fn an_update_stores_what_its_callback_returns<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let mut seen = Vec::new();
    let mut update = |current: Option<Entry>| {
        seen.extend(current.clone());
        async move { edited(current.as_ref(), node("n1")) }
    };
    let updated = store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut update)
        .await;
    let updated = updated.expect("updated");
    assert_eq!(states(&seen), states(std::slice::from_ref(&created)));
    assert_eq!(updated.revision(), created.revision().next());
    carries_own_revision(&updated);
    assert_eq!(
        updated.attributes().and_then(|fields| fields.field("spec.nodeName")),
        Some("n1")
    );
    assert_eq!(states(&[get(&*store, &key("ns", "a")).await]), states(&[updated]));
}

// covers: storage-api/UPD-02
/// Without an object there is nothing to update, and the callback does not run.
pub async fn a_missing_object_is_not_updated<H: Harness>(h: H) {
    let store = h.store();
    let before = now(&*store).await;
    let updated = try_change(&*store, &key("ns", "a"), UpdateOptions::default(), |_| {
        panic!("must not run")
    })
    .await;
    match updated {
        Err(StorageError::KeyNotFound { key }) => assert!(key.ends_with("/pods/ns/a"), "{key}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(now(&*store).await, before);
}

// covers: storage-api/UPD-03, storage-api/WATCH-17
/// Asked to, an update creates: its callback sees nothing first.
pub async fn a_missing_object_is_created_when_asked_for<H: Harness>(h: H) {
    let store = h.store();
    let mut watch = Watching::all(&*store, WatchStart::After(now(&*store).await)).await;
    let mut saw_nothing = false;
    let mut update = |current: Option<Entry>| {
        saw_nothing |= current.is_none();
        async move { edited(current.as_ref(), node("n1")) }
    };
    let options = UpdateOptions {
        create_if_missing: true,
        ..UpdateOptions::default()
    };
    let made = store
        .guaranteed_update(&key("ns", "a"), options, &mut update)
        .await
        .expect("created");
    assert!(saw_nothing);
    assert_eq!(
        watch.expect(EventKind::Added, &key("ns", "a")).await.revision,
        made.revision()
    );
}

// covers: storage-api/UPD-04, storage-api/VER-08, storage-api/UPD-12, storage-api/UPD-13, storage-api/WATCH-22, storage-api/GLOB-02
/// An update that changes nothing but what the store sets writes nothing.
pub async fn an_update_that_changes_nothing_writes_nothing<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let mut watch = Watching::all(&*store, WatchStart::After(created.revision())).await;
    let edits: [fn(&mut Value); 4] = [
        |_| {},
        |object| object["metadata"]["selfLink"] = "/x".into(),
        |object| object["metadata"]["resourceVersion"] = "1".into(),
        |object| {
            object["metadata"]
                .as_object_mut()
                .and_then(|metadata| metadata.remove("resourceVersion"));
        },
    ];
    for (at, edit) in edits.into_iter().enumerate() {
        let updated = change(&*store, &key("ns", "a"), edit).await;
        assert_eq!(states(&[updated]), states(std::slice::from_ref(&created)), "edit {at}");
    }
    assert_eq!(now(&*store).await, created.revision());
    let changed = change(&*store, &key("ns", "a"), label("x", "1")).await;
    assert_eq!(
        watch.expect(EventKind::Modified, &key("ns", "a")).await.revision,
        changed.revision()
    );
}

// covers: storage-api/UPD-12
/// A callback that wants no change gets the current state back.
pub async fn no_change_is_an_answer<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let mut keep = |_| async { Ok(Change::NoChange) };
    let kept = store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut keep)
        .await
        .expect("kept");
    assert_eq!(states(&[kept]), states(std::slice::from_ref(&created)));
    let options = UpdateOptions {
        suggestion: Some(created.clone()),
        ..UpdateOptions::default()
    };
    let kept = store
        .guaranteed_update(&key("ns", "a"), options, &mut keep)
        .await
        .expect("kept");
    assert_eq!(kept.revision(), created.revision());
    let options = UpdateOptions {
        create_if_missing: true,
        ..UpdateOptions::default()
    };
    let missing = store.guaranteed_update(&key("ns", "b"), options, &mut keep).await;
    assert!(matches!(missing, Err(StorageError::KeyNotFound { .. })), "{missing:?}");
    assert_eq!(now(&*store).await, created.revision());
}

// covers: storage-api/DEL-01, storage-api/WATCH-19
/// A callback may remove the object; the answer is its last state at the revision of the removal.
pub async fn an_update_may_remove_the_object<H: Harness>(h: H) {
    let store = h.store();
    let created = create(&*store, &key("ns", "a"), &pod_on("ns", "a", "n1")).await;
    let mut watch = Watching::all(&*store, WatchStart::After(created.revision())).await;
    let mut remove = |_| async { Ok(Change::Delete) };
    let removed = store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut remove)
        .await;
    let removed = removed.expect("removed");
    assert_eq!(removed.revision(), created.revision().next());
    carries_own_revision(&removed);
    let event = watch.expect(EventKind::Deleted, &key("ns", "a")).await;
    assert_eq!(states(&[event.object.expect("the last state")]), states(&[removed]));
    let again = store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut remove)
        .await;
    assert!(matches!(again, Err(StorageError::KeyNotFound { .. })), "{again:?}");
}

// covers: storage-api/UPD-05
/// An error of the callback comes back as it is; nothing is written.
pub async fn an_error_of_the_callback_comes_back<H: Harness>(h: H) {
    #[derive(Debug, thiserror::Error)]
    #[error("mine")]
    struct Mine;
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let mut update = |_| async { Err(StorageError::callback(Mine)) };
    match store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut update)
        .await
    {
        Err(StorageError::Callback(error)) => assert!(error.is::<Mine>(), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(now(&*store).await, created.revision());
}

/// Lets another writer change the object once, while the callback of an update runs.
async fn race(h: &impl Harness, edit: impl Fn(&mut Value) + Send + Sync + Copy) -> (Entry, u32) {
    let (store, runs) = (h.store(), AtomicU32::new(0));
    let rival = h.store();
    let mut update = |current: Option<Entry>| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        let rival = Arc::clone(&rival);
        async move {
            if run == 0 {
                change(&*rival, &key("ns", "a"), label("rival", "1")).await;
            }
            edited(current.as_ref(), edit)
        }
    };
    let updated = store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut update)
        .await;
    (updated.expect("updated"), runs.load(Ordering::Relaxed))
}

// covers: storage-api/UPD-06, storage-api/UPD-08, storage-api/GLOB-10
/// After a lost race the callback runs again on the winner's state; both changes are in the result.
pub async fn a_lost_race_runs_the_callback_again<H: Harness>(h: H) {
    let created = create_pod(&*h.store(), "ns", "a").await;
    let (updated, runs) = race(&h, |object| object["spec"]["nodeName"] = "n1".into()).await;
    assert_eq!(runs, 2);
    assert_eq!(label_of(&updated, "rival"), Some("1"));
    assert_eq!(
        updated.attributes().and_then(|fields| fields.field("spec.nodeName")),
        Some("n1")
    );
    assert_eq!(updated.revision().get(), created.revision().get() + 2);
}

// covers: storage-api/UPD-09
/// An object that is deleted during an update is not found, or made again when asked for.
pub async fn an_object_deleted_during_an_update_is_not_found_or_made_again<H: Harness>(h: H) {
    let store = h.store();
    for create_if_missing in [false, true] {
        create_pod(&*store, "ns", "a").await;
        let rival = h.store();
        let mut update = |current: Option<Entry>| {
            let rival = Arc::clone(&rival);
            async move {
                if current.is_some() {
                    delete(&*rival, &key("ns", "a")).await;
                }
                edited(current.as_ref(), node("n1"))
            }
        };
        let options = UpdateOptions {
            create_if_missing,
            ..UpdateOptions::default()
        };
        let updated = store.guaranteed_update(&key("ns", "a"), options, &mut update).await;
        match updated {
            Ok(entry) if create_if_missing => assert_eq!(entry.attributes().map(|fields| &*fields.uid), Some("")),
            Err(StorageError::KeyNotFound { .. }) if !create_if_missing => {}
            other => panic!("create_if_missing={create_if_missing}: {other:?}"),
        }
    }
}

// covers: storage-api/UPD-08, storage-api/UPD-10, storage-api/GLOB-01, storage-api/GAP-05
/// Many writers of one object all win in the end, each on the state of the one before.
pub async fn many_writers_of_one_object_all_win_once<H: Harness>(h: H) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 5;
    let created = create_pod(&*h.store(), "ns", "a").await;
    let writers = (0..WRITERS).map(|_| {
        let store = h.store();
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                change(&*store, &key("ns", "a"), |object| {
                    let count = object["spec"]["count"].as_u64().unwrap_or(0);
                    object["spec"]["count"] = (count + 1).into();
                })
                .await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer ends well");
    }
    let last = get(&*h.store(), &key("ns", "a")).await;
    assert_eq!(
        last.decode::<Value>().expect("readable")["spec"]["count"],
        WRITERS * ROUNDS
    );
    assert_eq!(last.revision().get(), created.revision().get() + WRITERS * ROUNDS);
}

// covers: storage-api/UPD-10
/// An update that loses every race gives up at its deadline.
pub async fn an_update_gives_up_at_its_deadline<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    let rival = h.store();
    let count = AtomicU32::new(0);
    let mut update = |current: Option<Entry>| {
        let rival = Arc::clone(&rival);
        let count = count.fetch_add(1, Ordering::Relaxed);
        async move {
            change(&*rival, &key("ns", "a"), label("rival", &count.to_string())).await;
            edited(current.as_ref(), node("n1"))
        }
    };
    let options = UpdateOptions {
        deadline: Some(Duration::from_millis(20)),
        ..UpdateOptions::default()
    };
    let updated = store.guaranteed_update(&key("ns", "a"), options, &mut update).await;
    match updated {
        Err(StorageError::Conflict { key, .. }) => assert!(key.ends_with("/pods/ns/a"), "{key}"),
        other => panic!("{other:?}"),
    }
}

// covers: storage-api/UPD-14, storage-api/WATCH-22, storage-api/XFM-03
/// A stale value is written again by an update that changes nothing.
pub async fn a_stale_value_is_written_again<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let mut watch = Watching::all(&*store, WatchStart::After(created.revision())).await;
    h.transformer().set(Faults {
        stale: true,
        ..Faults::default()
    });
    assert_eq!(get(&*store, &key("ns", "a")).await.revision(), created.revision());
    let updated = change(&*store, &key("ns", "a"), nothing).await;
    assert_eq!(updated.revision(), created.revision().next());
    h.transformer().set(Faults::default());
    let event = watch.expect(EventKind::Modified, &key("ns", "a")).await;
    assert_eq!(event.revision, updated.revision());
    let again = change(&*store, &key("ns", "a"), nothing).await;
    assert_eq!(again.revision(), updated.revision());
}

// covers: storage-api/UPD-15
/// Another order of fields or white space alone is no reason to write; it goes with the next change.
pub async fn another_encoding_alone_is_no_change<H: Harness>(h: H) {
    let store = h.store();
    let text: &[u8] =
        b" {\"spec\": {},\n\"metadata\": {\"name\": \"a\"},\n\"kind\": \"Pod\", \"apiVersion\": \"v1\"}\n";
    let written = h.raw_put(&key("ns", "a"), Bytes::from_static(text)).await;
    let kept = change(&*store, &key("ns", "a"), nothing).await;
    assert_eq!((kept.revision(), now(&*store).await), (written, written));
    let changed = change(&*store, &key("ns", "a"), label("x", "1")).await;
    assert!(changed.revision() > written);
    let stored = h.raw_get(&key("ns", "a")).await.expect("stored");
    assert!(stored.starts_with(b"{\"apiVersion\":\"v1\""), "{stored:?}");
}

// covers: storage-api/UPD-15, storage-api/GLOB-01
/// A value of another version of the kind is written again.
pub async fn another_stored_version_is_a_change<H: Harness>(h: H) {
    let store = h.store();
    let text: &[u8] = br#"{"apiVersion":"v1beta1","kind":"Pod","metadata":{"name":"a"}}"#;
    let written = h.raw_put(&key("ns", "a"), Bytes::from_static(text)).await;
    let changed = change(&*store, &key("ns", "a"), |object| object["apiVersion"] = "v1".into()).await;
    assert!(changed.revision() > written, "{changed:?}");
}

// covers: storage-api/PRE-01, storage-api/PRE-02, storage-api/PRE-03, storage-api/PRE-04, storage-api/PRE-08, storage-api/UPD-26
/// Preconditions are checked first; when one fails, nothing runs and nothing is written.
pub async fn preconditions_of_updates_are_checked_first<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let revision = created.revision().to_string();
    for (uid, resource_version, want) in [
        (None, None, None),
        (Some("uid-ns-a"), None, None),
        (Some("uid-ns-a"), Some(revision.as_str()), None),
        (
            Some("other"),
            None,
            Some("UID in precondition: other, UID in object meta: uid-ns-a"),
        ),
        (
            Some(""),
            None,
            Some("UID in precondition: , UID in object meta: uid-ns-a"),
        ),
        (
            None,
            Some("1"),
            Some("ResourceVersion in precondition: 1, ResourceVersion in object meta: "),
        ),
        (Some("other"), Some("1"), Some("UID in precondition: other")),
    ] {
        let preconditions = Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: resource_version.map(str::to_owned),
        };
        let options = UpdateOptions {
            preconditions: preconditions.clone(),
            ..UpdateOptions::default()
        };
        let updated = try_change(&*store, &key("ns", "a"), options, |_| {
            assert!(want.is_none(), "the callback must not run");
        })
        .await;
        match (updated, want) {
            (Ok(entry), None) => assert_eq!(entry.revision(), created.revision(), "{preconditions:?}"),
            (Err(StorageError::InvalidObject { key, message }), Some(want)) => {
                assert!(key.ends_with("/pods/ns/a"), "{key}");
                assert!(
                    message.starts_with("Precondition failed: ") && message.contains(want),
                    "{message}"
                );
            }
            (other, _) => panic!("{preconditions:?}: {other:?}"),
        }
    }
    assert_eq!(now(&*store).await, created.revision());
}

/// Creates an object that lives for two seconds.
async fn create_short(store: &dyn Storage) -> Entry {
    let options = CreateOptions {
        ttl: Some(Duration::from_secs(2)),
    };
    store
        .create(&key("ns", "a"), encoded(&pod("ns", "a")), options)
        .await
        .expect("created")
}

async fn put_with(store: &dyn Storage, ttl: Ttl, edit: impl Fn(&mut Value) + Send + Sync + Copy) -> Entry {
    let mut update = |current: Option<Entry>| async move {
        match edited(current.as_ref(), edit)? {
            Change::Put { value, .. } => Ok(Change::Put { value, ttl }),
            other => Ok(other),
        }
    };
    store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut update)
        .await
        .expect("updated")
}

// covers: storage-api/UPD-28, storage-api/GAP-04
/// An update that does not speak of the lifetime leaves it.
pub async fn an_update_keeps_the_lifetime<H: Harness>(h: H) {
    let store = h.store();
    create_short(&*store).await;
    let updated = put_with(&*store, Ttl::Keep, |object| object["spec"]["x"] = 1.into()).await;
    let mut watch = Watching::all(&*store, WatchStart::After(updated.revision())).await;
    h.advance(Duration::from_secs(2)).await;
    watch.expect(EventKind::Deleted, &key("ns", "a")).await;
}

// covers: storage-api/UPD-28
/// Nor does one that is decided on what somebody knows already, wherever he knows it from.
pub async fn an_update_of_a_suggestion_keeps_the_lifetime<H: Harness>(h: H) {
    let store = h.store();
    let mut last = create_short(&*store).await;
    let mut events = Watching::all(
        &*store,
        WatchStart::After(last.revision().previous().expect("not the first")),
    )
    .await;
    for source in ["write", "event", "get", "list"] {
        let event = events.event().await;
        let suggestion = match source {
            "write" => last,
            "event" => event.object.expect("the object"),
            "get" => get(&*store, &key("ns", "a")).await,
            _ => list(&*store, &all(), ListOptions::default()).await.entries.remove(0),
        };
        let options = UpdateOptions {
            suggestion: Some(suggestion),
            ..UpdateOptions::default()
        };
        let mut update = |current: Option<Entry>| async move {
            edited(current.as_ref(), |object| object["spec"]["from"] = source.into())
        };
        let updated = store.guaranteed_update(&key("ns", "a"), options, &mut update).await;
        last = updated.expect("updated");
    }
    h.advance(Duration::from_secs(2)).await;
    events.event().await;
    events.expect(EventKind::Deleted, &key("ns", "a")).await;
}

// covers: storage-api/UPD-27
/// An update may give a lifetime to an object that had none.
pub async fn an_update_may_give_a_lifetime<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    // The content stays the same: the lifetime alone is a change.
    let updated = put_with(&*store, Ttl::After(Duration::from_secs(2)), |_| {}).await;
    assert!(updated.revision() > created.revision());
    let mut watch = Watching::all(&*store, WatchStart::After(updated.revision())).await;
    h.advance(Duration::from_secs(2)).await;
    watch.expect(EventKind::Deleted, &key("ns", "a")).await;
}

// covers: storage-api/UPD-28, storage-api/UPD-29
/// An update may end a lifetime, even when it changes nothing else.
pub async fn an_update_may_end_a_lifetime<H: Harness>(h: H) {
    let store = h.store();
    create_short(&*store).await;
    let options = CreateOptions {
        ttl: Some(Duration::from_secs(2)),
    };
    store
        .create(&key("ns", "mark"), encoded(&pod("ns", "mark")), options)
        .await
        .expect("created");
    let updated = put_with(&*store, Ttl::Never, |_| {}).await;
    let mut watch = Watching::all(&*store, WatchStart::After(updated.revision())).await;
    h.advance(Duration::from_secs(2)).await;
    watch.expect(EventKind::Deleted, &key("ns", "mark")).await;
    assert_eq!(get(&*store, &key("ns", "a")).await.revision(), updated.revision());
}

// covers: storage-api/UPD-29, storage-api/GAP-04
/// A new lifetime is a change, even when nothing else is: the object lives as long as was said last.
pub async fn a_new_lifetime_alone_is_a_change<H: Harness>(h: H) {
    let store = h.store();
    let created = create_short(&*store).await;
    let options = CreateOptions {
        ttl: Some(Duration::from_secs(2)),
    };
    store
        .create(&key("ns", "mark"), encoded(&pod("ns", "mark")), options)
        .await
        .expect("created");
    let updated = put_with(&*store, Ttl::After(Duration::from_secs(3600)), |_| {}).await;
    assert!(updated.revision() > created.revision());
    let mut watch = Watching::all(&*store, WatchStart::After(updated.revision())).await;
    h.advance(Duration::from_secs(2)).await;
    watch.expect(EventKind::Deleted, &key("ns", "mark")).await;
    assert_eq!(get(&*store, &key("ns", "a")).await.revision(), updated.revision());
}

// covers: storage-api/UPD-12, storage-api/UPD-29
/// To name the lifetime that the object has anyway changes nothing; to name a shorter one does.
pub async fn the_same_lifetime_again_is_no_change<H: Harness>(h: H) {
    let store = h.store();
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let options = CreateOptions { ttl: Some(hours(2)) };
    let created = store
        .create(&key("ns", "a"), encoded(&pod("ns", "a")), options)
        .await
        .expect("created");
    for _ in 0..2 {
        let same = put_with(&*store, Ttl::After(hours(2)), |_| {}).await;
        assert_eq!(same.revision(), created.revision());
    }
    let shorter = put_with(&*store, Ttl::After(hours(1)), |_| {}).await;
    assert!(shorter.revision() > created.revision());
    let same = put_with(&*store, Ttl::After(hours(1)), |_| {}).await;
    assert_eq!(same.revision(), shorter.revision());
}

// covers: storage-api/UPD-27
/// An object that an update creates may have a lifetime from the start; without one it lives on.
pub async fn an_object_made_by_an_update_may_have_a_lifetime<H: Harness>(h: H) {
    let store = h.store();
    let start = now(&*store).await;
    for (name, ttl) in [("short", Ttl::After(Duration::from_secs(2))), ("long", Ttl::Keep)] {
        let mut make = |_| {
            let value = encoded(&pod("ns", name));
            async move { Ok(Change::Put { value, ttl }) }
        };
        let options = UpdateOptions {
            create_if_missing: true,
            ..UpdateOptions::default()
        };
        store
            .guaranteed_update(&key("ns", name), options, &mut make)
            .await
            .expect("created");
    }
    let mut watch = Watching::all(&*store, WatchStart::After(start)).await;
    watch.expect(EventKind::Added, &key("ns", "short")).await;
    watch.expect(EventKind::Added, &key("ns", "long")).await;
    h.advance(Duration::from_secs(2)).await;
    watch.expect(EventKind::Deleted, &key("ns", "short")).await;
    get(&*store, &key("ns", "long")).await;
}

// covers: storage-api/UPD-03, storage-api/PRE-02, storage-api/PRE-05
/// Preconditions on what is not there compare with an object that has neither uid nor version.
pub async fn preconditions_on_a_missing_object_compare_with_nothing<H: Harness>(h: H) {
    let store = h.store();
    let before = now(&*store).await;
    for (uid, version, created) in [
        (Some("u"), None, false),
        (None, Some("1"), false),
        (Some(""), Some(""), true),
    ] {
        let preconditions = Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: version.map(str::to_owned),
        };
        let options = UpdateOptions {
            preconditions,
            create_if_missing: true,
            ..UpdateOptions::default()
        };
        let made = try_change(&*store, &key("ns", "a"), options, nothing).await;
        match made {
            Ok(entry) => assert!(created && entry.revision() == before.next(), "{entry:?}"),
            Err(StorageError::InvalidObject { message, .. }) => {
                assert!(!created && message.ends_with("in object meta: "), "{message}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
