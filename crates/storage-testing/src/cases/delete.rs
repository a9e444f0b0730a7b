//! Deleting objects.

use std::sync::Arc;

use apiserver_storage_api::{
    DeleteOptions, Entry, EventKind, GetOptions, NoCheck, Preconditions, StorageError, WatchStart,
};

use crate::fixture::*;
use crate::harness::Harness;

// covers: storage-api/DEL-01, storage-api/WATCH-19
/// The answer of a deletion is the last state at the revision of the deletion, and so is its event.
pub async fn a_deletion_answers_with_the_last_state<H: Harness>(h: H) {
    let store = h.store();
    let created = create(&*store, &key("ns", "a"), &pod_on("ns", "a", "n1")).await;
    let mut watch = Watching::all(&*store, WatchStart::After(created.revision())).await;
    let deleted = delete(&*store, &key("ns", "a")).await;
    assert_eq!(deleted.revision(), created.revision().next());
    assert_eq!(now(&*store).await, deleted.revision());
    carries_own_revision(&deleted);
    assert_eq!(
        states(&[created.at_revision(deleted.revision())]),
        states(std::slice::from_ref(&deleted))
    );
    let event = watch.expect(EventKind::Deleted, &key("ns", "a")).await;
    assert_eq!(states(&[event.object.expect("the last state")]), states(&[deleted]));
    let gone = store.get(&key("ns", "a"), GetOptions::default()).await;
    assert!(matches!(gone, Err(StorageError::KeyNotFound { .. })), "{gone:?}");
}

// covers: storage-api/DEL-02, storage-api/GLOB-02
/// What is not there is not found, and nothing moves.
pub async fn a_missing_object_is_not_deleted<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    match store
        .delete(&key("ns", "b"), DeleteOptions::default(), &mut NoCheck)
        .await
    {
        Err(StorageError::KeyNotFound { key }) => assert!(key.ends_with("/pods/ns/b"), "{key}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(now(&*store).await, created.revision());
}

// covers: storage-api/DEL-03
/// A check that fails keeps the object; its error comes back.
pub async fn a_check_can_keep_the_object<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let mut seen = Vec::new();
    let mut check = |current: Option<Entry>| {
        seen.extend(current);
        async { Err(StorageError::callback("keep it")) }
    };
    let kept = store
        .delete(&key("ns", "a"), DeleteOptions::default(), &mut check)
        .await;
    assert!(matches!(kept, Err(StorageError::Callback(_))), "{kept:?}");
    assert!(
        !seen.is_empty() && seen.iter().all(|entry| entry.revision() == created.revision()),
        "{seen:?}"
    );
    assert_eq!(now(&*store).await, created.revision());
}

// covers: storage-api/DEL-04, storage-api/PRE-02, storage-api/PRE-03
/// Preconditions are checked before the validation.
pub async fn preconditions_of_deletes_are_checked_first<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let revision = created.revision().to_string();
    let with = |uid: Option<&str>, version: Option<&str>| DeleteOptions {
        preconditions: Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: version.map(str::to_owned),
        },
        ..DeleteOptions::default()
    };
    let mut check = |_| async { panic!("must not run") };
    for options in [
        with(Some("other"), None),
        with(None, Some("1")),
        with(Some("other"), Some(&revision)),
    ] {
        let kept = store.delete(&key("ns", "a"), options, &mut check).await;
        assert!(matches!(kept, Err(StorageError::InvalidObject { .. })), "{kept:?}");
    }
    let options = with(Some("uid-ns-a"), Some(&revision));
    store
        .delete(&key("ns", "a"), options, &mut NoCheck)
        .await
        .expect("deleted");
}

// covers: storage-api/DEL-05, storage-api/GLOB-10
/// An update during a delete: the check runs again on the new state, which is then deleted.
pub async fn an_update_during_a_delete_is_checked_too<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    let rival = h.store();
    let mut runs = 0;
    let mut check = |_| {
        runs += 1;
        let (rival, first) = (Arc::clone(&rival), runs == 1);
        async move {
            if first {
                change(&*rival, &key("ns", "a"), label("x", "1")).await;
            }
            Ok(())
        }
    };
    let deleted = store
        .delete(&key("ns", "a"), DeleteOptions::default(), &mut check)
        .await
        .expect("deleted");
    assert_eq!((label_of(&deleted, "x"), runs), (Some("1"), 2));
}

// covers: storage-api/DEL-13
/// Who deletes what another one deletes at the same time finds nothing.
pub async fn of_two_deletes_one_wins<H: Harness>(h: H) {
    let store = h.store();
    create_pod(&*store, "ns", "a").await;
    let rival = h.store();
    let mut check = |_| {
        let rival = Arc::clone(&rival);
        async move {
            delete(&*rival, &key("ns", "a")).await;
            Ok(())
        }
    };
    let lost = store
        .delete(&key("ns", "a"), DeleteOptions::default(), &mut check)
        .await;
    assert!(matches!(lost, Err(StorageError::KeyNotFound { .. })), "{lost:?}");
}
