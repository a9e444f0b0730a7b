//! Suggestions: a state that the caller has at hand. A wrong one costs time and never changes the outcome.

use apiserver_storage_api::{
    Change, DeleteOptions, Entry, NoCheck, Preconditions, Result, Storage, StorageError, UpdateOptions,
};

use crate::fixture::*;
use crate::harness::Harness;
use crate::transformer::Faults;

/// An object in two states: the suggestion, and the current one with another label and another uid.
async fn outdated(store: &dyn Storage) -> (Entry, Entry) {
    let old = create_pod(store, "ns", "a").await;
    let current = change(store, &key("ns", "a"), |object| {
        object["metadata"]["labels"]["state"] = "new".into();
        object["metadata"]["uid"] = "new".into();
    })
    .await;
    (old, current)
}

fn is_new(entry: &Entry) -> bool {
    label_of(entry, "state") == Some("new")
}

/// Updates with a suggestion; the callback accepts some states and counts its runs.
async fn update(
    store: &dyn Storage,
    options: UpdateOptions,
    accepts: impl Fn(&Entry) -> bool + Send + Sync,
) -> (Result<Entry>, u32) {
    let mut runs = 0;
    let mut update = |current: Option<Entry>| {
        runs += 1;
        let change = match current {
            Some(entry) if accepts(&entry) => edited(Some(&entry), node("n1")),
            _ => Err(StorageError::callback("refused")),
        };
        async move { change }
    };
    let result = store.guaranteed_update(&key("ns", "a"), options, &mut update).await;
    (result, runs)
}

fn suggest(suggestion: &Entry) -> UpdateOptions {
    UpdateOptions {
        suggestion: Some(suggestion.clone()),
        ..UpdateOptions::default()
    }
}

fn suggest_delete(suggestion: &Entry) -> DeleteOptions {
    DeleteOptions {
        suggestion: Some(suggestion.clone()),
        ..DeleteOptions::default()
    }
}

// covers: storage-api/UPD-17
/// The callback's error on a suggestion counts only if the suggestion is current.
pub async fn an_error_on_an_outdated_suggestion_does_not_count<H: Harness>(h: H) {
    let store = h.store();
    let (old, current) = outdated(&*store).await;
    let (result, runs) = update(&*store, suggest(&current), |_| false).await;
    assert!(matches!(result, Err(StorageError::Callback(_))), "{result:?}");
    assert_eq!(runs, 1, "the suggestion was current");
    let (result, runs) = update(&*store, suggest(&old), is_new).await;
    assert!(is_new(&result.expect("updated on the current state")));
    assert!(runs <= 2, "{runs} runs");
}

// covers: storage-api/UPD-08, storage-api/UPD-17
/// An outdated suggestion that the callback accepts loses the race like any other writer.
pub async fn an_outdated_suggestion_loses_the_race<H: Harness>(h: H) {
    let store = h.store();
    let (old, current) = outdated(&*store).await;
    let (result, runs) = update(&*store, suggest(&old), |_| true).await;
    let updated = result.expect("updated");
    assert!(is_new(&updated) && runs <= 2, "{updated:?} after {runs} runs");
    assert_eq!(updated.revision(), current.revision().next());
}

// covers: storage-api/UPD-22
/// A suggestion of a state that never was, as upstream's without a version, costs time and nothing else.
pub async fn a_suggestion_of_a_state_that_never_was_loses_the_race<H: Harness>(h: H) {
    let store = h.store();
    let (_, mut current) = outdated(&*store).await;
    for never in [revision(1), revision(u64::MAX >> 1)] {
        let (result, runs) = update(&*store, suggest(&current.at_revision(never)), |_| true).await;
        let updated = result.expect("updated");
        assert!(is_new(&updated) && runs <= 2, "{updated:?} after {runs} runs");
        // The same content again is no change of the object, whatever was suggested.
        let same = try_change(&*store, &key("ns", "a"), suggest(&updated.at_revision(never)), nothing).await;
        assert_eq!(same.expect("kept").revision(), updated.revision());
        current = change(&*store, &key("ns", "a"), |object| {
            object["spec"] = serde_json::json!({});
        })
        .await;
    }
}

// covers: storage-api/UPD-18
/// Preconditions that fail on a suggestion are checked again on the current state.
pub async fn preconditions_are_checked_on_the_current_state<H: Harness>(h: H) {
    let store = h.store();
    let (old, _) = outdated(&*store).await;
    let with_uid = |uid: &str| UpdateOptions {
        preconditions: Preconditions {
            uid: Some(uid.into()),
            resource_version: None,
        },
        ..suggest(&old)
    };
    let (result, _) = update(&*store, with_uid("uid-ns-a"), |_| true).await;
    assert!(matches!(result, Err(StorageError::InvalidObject { .. })), "{result:?}");
    let (result, _) = update(&*store, with_uid("new"), |_| true).await;
    assert!(is_new(&result.expect("updated")));
}

// covers: storage-api/UPD-19, storage-api/UPD-20
/// That nothing changes on a suggestion is not believed before the current state says so too.
pub async fn nothing_changed_on_a_suggestion_is_not_believed<H: Harness>(h: H) {
    let store = h.store();
    let (old, current) = outdated(&*store).await;
    let result = try_change(&*store, &key("ns", "a"), suggest(&old), nothing)
        .await
        .expect("kept");
    assert_eq!(states(&[result]), states(std::slice::from_ref(&current)));
    let mut keep = |_| async { Ok(Change::NoChange) };
    let kept = store
        .guaranteed_update(&key("ns", "a"), suggest(&old), &mut keep)
        .await
        .expect("kept");
    assert_eq!(kept.revision(), current.revision());
    assert_eq!(now(&*store).await, current.revision());
    // A change back to the suggested content is a change of the current one.
    let mut back = |_| {
        let value = encoded(&pod("ns", "a"));
        async { Ok(Change::put(value)) }
    };
    let back = store
        .guaranteed_update(&key("ns", "a"), suggest(&old), &mut back)
        .await
        .expect("written");
    assert!(back.revision() > current.revision() && !is_new(&back));
}

// covers: storage-api/UPD-18, storage-api/UPD-19
/// An object that came back to the suggested content is at another revision, and callers see that one.
pub async fn a_suggestion_whose_content_came_back_is_still_outdated<H: Harness>(h: H) {
    let store = h.store();
    let old = create(&*store, &key("ns", "a"), &pod_on("ns", "a", "n1")).await;
    change(&*store, &key("ns", "a"), node("n2")).await;
    let current = change(&*store, &key("ns", "a"), node("n1")).await;
    let preconditions = Preconditions {
        uid: None,
        resource_version: Some(old.revision().to_string()),
    };
    let options = UpdateOptions {
        preconditions,
        ..suggest(&old)
    };
    let refused = try_change(&*store, &key("ns", "a"), options, nothing).await;
    assert!(
        matches!(refused, Err(StorageError::InvalidObject { .. })),
        "{refused:?}"
    );
    let mut last = None;
    let mut update = |entry: Option<Entry>| {
        last = entry.as_ref().map(Entry::revision);
        let change = edited(entry.as_ref(), nothing);
        async move { change }
    };
    let kept = store
        .guaranteed_update(&key("ns", "a"), suggest(&old), &mut update)
        .await
        .expect("kept");
    assert_eq!((kept.revision(), last), (current.revision(), Some(current.revision())));
}

// covers: storage-api/UPD-19, storage-api/UPD-14
/// A suggestion knows nothing of stale bytes; the current state does, and is written again.
pub async fn a_stale_value_is_written_again_despite_a_suggestion<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    h.transformer().set(Faults {
        stale: true,
        ..Faults::default()
    });
    let updated = try_change(&*store, &key("ns", "a"), suggest(&created), nothing)
        .await
        .expect("written");
    assert!(updated.revision() > created.revision());
}

// covers: storage-api/UPD-21, storage-api/DEL-12
/// A suggestion of an object that is gone: not found, whatever the callback said.
pub async fn a_suggestion_of_a_deleted_object_is_not_found<H: Harness>(h: H) {
    let store = h.store();
    let (old, _) = outdated(&*store).await;
    delete(&*store, &key("ns", "a")).await;
    for accepts in [true, false] {
        let (result, _) = update(&*store, suggest(&old), |_| accepts).await;
        assert!(
            matches!(result, Err(StorageError::KeyNotFound { .. })),
            "{accepts}: {result:?}"
        );
    }
    let deleted = store.delete(&key("ns", "a"), suggest_delete(&old), &mut NoCheck).await;
    assert!(matches!(deleted, Err(StorageError::KeyNotFound { .. })), "{deleted:?}");
}

// covers: storage-api/UPD-24, storage-api/UPD-25
/// The suggestion that was handed in is as it was, and another object's suggestion is of no use.
pub async fn a_suggestion_is_left_as_it_was<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let other = create_pod(&*store, "ns", "b").await;
    let before = states(std::slice::from_ref(&created));
    let (result, runs) = update(&*store, suggest(&created), |_| true).await;
    assert_eq!(runs, 1, "a current suggestion needs no second run: {result:?}");
    assert_eq!(states(&[created]), before);
    let (result, _) = update(&*store, suggest(&other), |entry| *entry.key() == key("ns", "a")).await;
    assert_eq!(result.expect("updated").key(), &key("ns", "a"));
}

// covers: storage-api/UPD-31, storage-api/UPD-32
/// A value that became unreadable: nothing is claimed about it, but a change of the current revision goes through.
pub async fn a_suggestion_of_an_unreadable_value_may_replace_it<H: Harness>(h: H) {
    let store = h.store();
    let (old, current) = outdated(&*store).await;
    h.transformer().set(Faults {
        unreadable: true,
        ..Faults::default()
    });
    let same = try_change(&*store, &key("ns", "a"), suggest(&current), nothing).await;
    assert!(matches!(same, Err(StorageError::Unreadable { .. })), "{same:?}");
    let outdated = try_change(&*store, &key("ns", "a"), suggest(&old), node("n1")).await;
    assert!(matches!(outdated, Err(StorageError::Unreadable { .. })), "{outdated:?}");
    let replaced = try_change(&*store, &key("ns", "a"), suggest(&current), node("n1")).await;
    assert_eq!(replaced.expect("written").revision(), current.revision().next());
}

// covers: storage-api/DEL-06
/// A current suggestion is as good as a read.
pub async fn a_current_suggestion_deletes<H: Harness>(h: H) {
    let store = h.store();
    let created = create_pod(&*store, "ns", "a").await;
    let deleted = store
        .delete(&key("ns", "a"), suggest_delete(&created), &mut NoCheck)
        .await
        .expect("deleted");
    assert_eq!(deleted.revision(), created.revision().next());
}

/// Deletes with a suggestion; the check accepts some states and counts its runs.
async fn try_delete_if(
    store: &dyn Storage,
    options: DeleteOptions,
    accepts: impl Fn(&Entry) -> bool + Send + Sync,
) -> (Result<Entry>, u32) {
    let mut runs = 0;
    let mut check = |current: Option<Entry>| {
        runs += 1;
        let accepted = current.is_some_and(|entry| accepts(&entry));
        async move {
            if accepted {
                Ok(())
            } else {
                Err(StorageError::callback("refused"))
            }
        }
    };
    let result = store.delete(&key("ns", "a"), options, &mut check).await;
    (result, runs)
}

// covers: storage-api/DEL-07, storage-api/DEL-08
/// An outdated suggestion decides nothing: the checks run again on the current state, which is what is returned.
pub async fn an_outdated_suggestion_does_not_decide_a_delete<H: Harness>(h: H) {
    let store = h.store();
    for accepts in [(|_: &Entry| true) as fn(&Entry) -> bool, is_new] {
        let (old, current) = outdated(&*store).await;
        let (result, runs) = try_delete_if(&*store, suggest_delete(&old), accepts).await;
        let deleted = result.expect("deleted");
        assert!(
            is_new(&deleted) && deleted.revision() > current.revision(),
            "{deleted:?}"
        );
        assert!(runs <= 2, "{runs} runs");
    }
}

// covers: storage-api/DEL-03, storage-api/DEL-08, storage-api/DEL-09
/// A check that the current state does not pass keeps the object.
pub async fn a_check_on_the_current_state_keeps_the_object<H: Harness>(h: H) {
    let store = h.store();
    let (old, current) = outdated(&*store).await;
    for (suggestion, accepts, most) in [
        (&old, (|entry: &Entry| !is_new(entry)) as fn(&Entry) -> bool, 2),
        (&current, |_: &Entry| false, 1),
    ] {
        let (result, runs) = try_delete_if(&*store, suggest_delete(suggestion), accepts).await;
        assert!(matches!(result, Err(StorageError::Callback(_))), "{result:?}");
        assert!(runs <= most, "{runs} runs, {most} expected at most");
    }
    assert_eq!(get(&*store, &key("ns", "a")).await.revision(), current.revision());
}

// covers: storage-api/DEL-10, storage-api/DEL-11
/// Preconditions of a delete hold of the current state, not of the suggestion.
pub async fn preconditions_of_a_delete_are_checked_on_the_current_state<H: Harness>(h: H) {
    let store = h.store();
    let (old, current) = outdated(&*store).await;
    let with_uid = |uid: &str| DeleteOptions {
        preconditions: Preconditions {
            uid: Some(uid.into()),
            resource_version: None,
        },
        ..suggest_delete(&old)
    };
    let kept = store.delete(&key("ns", "a"), with_uid("uid-ns-a"), &mut NoCheck).await;
    assert!(matches!(kept, Err(StorageError::InvalidObject { .. })), "{kept:?}");
    assert_eq!(get(&*store, &key("ns", "a")).await.revision(), current.revision());
    store
        .delete(&key("ns", "a"), with_uid("new"), &mut NoCheck)
        .await
        .expect("deleted");
}
