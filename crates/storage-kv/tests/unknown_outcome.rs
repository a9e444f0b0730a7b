//! Writes whose answers get lost.

mod common;

use apiserver_storage_api::{
    Change, CreateOptions, DeleteOptions, Entry, NoCheck, Result, Storage, StorageError, UpdateOptions,
};
use apiserver_storage_testing::fixture::*;
use apiserver_storage_testing::{BindingTransformer, LostAnswer, ReferenceKv};
use serde_json::json;

use common::{Store, full, sealed, store, stored};

#[track_caller]
fn unknown(result: Result<Entry>) {
    match result {
        Err(StorageError::OutcomeUnknown { key, .. }) => assert_eq!(key, "/registry/pods/ns/a"),
        other => panic!("wanted OutcomeUnknown, got {other:?}"),
    }
}

async fn try_create(store: &Store, object: &serde_json::Value) -> Result<Entry> {
    store
        .create(&key("ns", "a"), encoded(object), CreateOptions::default())
        .await
}

/// Labels the pod, counting the runs of the callback.
async fn update(store: &Store, value: &str) -> (Result<Entry>, u32) {
    let mut runs = 0;
    let mut update = |current: Option<Entry>| {
        runs += 1;
        let change = edited(current.as_ref(), label("x", value));
        async move { change }
    };
    let result = store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut update)
        .await;
    (result, runs)
}

// covers: storage-api/ERR-17
#[tokio::test]
async fn a_create_that_was_applied_is_recognised_by_uid_or_encryption() {
    let nameless = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    for (encrypted, object, recognised) in [
        (false, pod("ns", "a"), true),
        // Anybody could have written these bytes.
        (false, nameless.clone(), false),
        (true, nameless, true),
    ] {
        let (kv, store) = if encrypted {
            sealed(BindingTransformer::default())
        } else {
            store()
        };
        kv.lose_answer(LostAnswer::Applied);
        let created = try_create(&store, &object).await;
        if recognised {
            let created = created.expect("recognised");
            assert_eq!(states(&[get(&store, &key("ns", "a")).await]), states(&[created]));
        } else {
            unknown(created);
        }
    }
}

// covers: storage-api/ERR-17
#[tokio::test]
async fn a_create_that_got_lost_is_not_repeated() {
    // The first request may still arrive, after the object was created again and deleted.
    let (kv, store) = store();
    kv.lose_answer(LostAnswer::NotApplied);
    unknown(try_create(&store, &pod("ns", "a")).await);
    assert_eq!(kv.take_calls().writes, 1);
    assert_eq!(kv.raw_get("/registry/pods/ns/a"), None);
}

#[tokio::test]
async fn a_create_that_met_another_object_is_unknown() {
    let (kv, store) = store();
    kv.before_write(|kv| {
        kv.raw_put("/registry/pods/ns/a", "{}");
    });
    kv.lose_answer(LostAnswer::NotApplied);
    unknown(try_create(&store, &pod("ns", "a")).await);
}

// covers: storage-api/ERR-17
#[tokio::test]
async fn an_update_that_was_applied_is_recognised() {
    for (kv, store) in [store(), sealed(BindingTransformer::default())] {
        let created = create_pod(&store, "ns", "a").await;
        kv.lose_answer(LostAnswer::Applied);
        let (updated, runs) = update(&store, "1").await;
        assert_eq!(
            (updated.expect("recognised").revision(), runs),
            (created.revision().next(), 1)
        );
    }
}

#[tokio::test]
async fn an_update_that_got_lost_is_sent_again_without_the_callback() {
    let (kv, store) = store();
    let created = create_pod(&store, "ns", "a").await;
    for _ in 0..2 {
        kv.lose_answer(LostAnswer::NotApplied);
    }
    kv.lose_answer(LostAnswer::Applied);
    let (updated, runs) = update(&store, "1").await;
    assert_eq!(
        (updated.expect("applied in the end").revision(), runs),
        (created.revision().next(), 1)
    );
    // For ever it is not tried.
    for _ in 0..10 {
        kv.lose_answer(LostAnswer::NotApplied);
    }
    kv.take_calls();
    let (updated, runs) = update(&store, "2").await;
    unknown(updated);
    assert_eq!(runs, 1);
    assert!(kv.take_calls().writes < 10);
}

/// What another client does right before our update, whose answer is then lost.
async fn update_after(how: LostAnswer, rival: impl FnOnce(&ReferenceKv) + Send + 'static) -> (Result<Entry>, u32) {
    let (kv, store) = store();
    create_pod(&store, "ns", "a").await;
    kv.before_write(rival);
    kv.lose_answer(how);
    update(&store, "1").await
}

#[tokio::test]
async fn an_update_that_met_another_state_is_unknown_and_runs_once() {
    let key = "/registry/pods/ns/a";
    for (name, (result, runs)) in [
        (
            "changed",
            update_after(LostAnswer::NotApplied, move |kv| {
                let _ = kv.raw_put(key, "{}");
            })
            .await,
        ),
        (
            "refused",
            update_after(LostAnswer::Applied, move |kv| {
                let _ = kv.raw_put(key, "{}");
            })
            .await,
        ),
        (
            "deleted",
            update_after(LostAnswer::NotApplied, move |kv| {
                let _ = kv.raw_delete(key);
            })
            .await,
        ),
    ] {
        unknown(result);
        assert_eq!(runs, 1, "{name}");
    }
}

#[tokio::test]
async fn equal_bytes_that_came_another_way_are_not_taken_for_ours() {
    let (kv, store) = store();
    let created = create_pod(&store, "ns", "a").await;
    let labelled = change(&store, created.key(), label("x", "1")).await;
    let bytes = stored(&kv, &labelled);
    change(&store, created.key(), label("x", "0")).await;
    // Another client changes the object, then writes what we are about to write.
    kv.before_write(move |kv| {
        kv.raw_put("/registry/pods/ns/a", "{}");
        kv.raw_put("/registry/pods/ns/a", bytes);
    });
    kv.lose_answer(LostAnswer::NotApplied);
    unknown(update(&store, "1").await.0);
}

#[tokio::test]
async fn without_history_nothing_is_claimed() {
    let (kv, store) = store();
    create_pod(&store, "ns", "a").await;
    let rival = (*kv).clone();
    kv.lose_answer(LostAnswer::Applied);
    let mut update = |current: Option<Entry>| {
        let change = edited(current.as_ref(), label("x", "1"));
        let rival = rival.clone();
        async move {
            // By the time the answer is lost, the state before is forgotten.
            rival.before_write(|kv| kv.compact_now(revision(1000)));
            change
        }
    };
    unknown(
        store
            .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut update)
            .await,
    );
}

#[tokio::test]
async fn a_delete_that_got_lost_is_sent_again_and_one_that_was_applied_is_unknown() {
    let (kv, store) = store();
    let created = create_pod(&store, "ns", "a").await;
    kv.lose_answer(LostAnswer::NotApplied);
    let deleted = store
        .delete(created.key(), DeleteOptions::default(), &mut NoCheck)
        .await
        .expect("sent again");
    assert_eq!(deleted.revision(), created.revision().next());

    create_pod(&store, "ns", "a").await;
    kv.lose_answer(LostAnswer::Applied);
    unknown(
        store
            .delete(created.key(), DeleteOptions::default(), &mut NoCheck)
            .await,
    );
    assert_eq!(kv.raw_get(&full(created.key())), None);

    create_pod(&store, "ns", "a").await;
    kv.before_write(|kv| {
        let _ = kv.raw_put("/registry/pods/ns/a", "{}");
    });
    kv.lose_answer(LostAnswer::NotApplied);
    let mut remove = |_| async { Ok(Change::Delete) };
    unknown(
        store
            .guaranteed_update(created.key(), UpdateOptions::default(), &mut remove)
            .await,
    );
}

/// What a JSON patch does that adds to a list: run twice, it adds twice.
fn append(object: &mut serde_json::Value) {
    let mut items = object["spec"]["items"].as_array().cloned().unwrap_or_default();
    items.push("x".into());
    object["spec"]["items"] = items.into();
}

/// Appends, counting the runs of the callback.
async fn try_append(store: &Store) -> (Result<Entry>, u32) {
    let mut runs = 0;
    let mut update = |current: Option<Entry>| {
        runs += 1;
        let change = edited(current.as_ref(), append);
        async move { change }
    };
    let result = store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut update)
        .await;
    (result, runs)
}

fn items(entry: &Entry) -> serde_json::Value {
    entry.decode::<serde_json::Value>().expect("readable")["spec"]["items"].clone()
}

// covers: storage-api/ERR-17
#[tokio::test]
async fn what_a_patch_appends_is_there_once_whatever_becomes_of_its_answers() {
    for encrypted in [false, true] {
        for lost in [
            &[LostAnswer::Applied][..],
            &[LostAnswer::NotApplied],
            &[LostAnswer::NotApplied, LostAnswer::Applied],
            &[LostAnswer::NotApplied, LostAnswer::NotApplied],
        ] {
            let (kv, store) = if encrypted {
                sealed(BindingTransformer::default())
            } else {
                store()
            };
            create_pod(&store, "ns", "a").await;
            try_append(&store).await.0.expect("appended");
            for how in lost {
                kv.lose_answer(*how);
            }
            let (appended, runs) = try_append(&store).await;
            let appended = appended.unwrap_or_else(|error| panic!("{lost:?}: {error}"));
            assert_eq!(runs, 1, "{lost:?}");
            assert_eq!(items(&appended), json!(["x", "x"]), "{lost:?}");
            let now = get(&store, appended.key()).await;
            assert_eq!(states(&[now]), states(&[appended]), "{lost:?}");
        }
    }
}

// covers: storage-api/ERR-17
#[tokio::test]
async fn of_two_patches_that_append_alike_no_one_is_told_of_the_others_write() {
    // Another caller appends the same to the same state, and is told so; then it turns out that our answer is lost. Were
    // the other's write taken for ours, one of two items would be missing.
    let (kv, store) = store();
    create_pod(&store, "ns", "a").await;
    let mut runs = 0;
    let mut update = |current: Option<Entry>| {
        runs += 1;
        let (kv, store) = (&kv, &store);
        async move {
            try_append(store).await.0.expect("appended");
            kv.lose_answer(LostAnswer::Applied);
            edited(current.as_ref(), append)
        }
    };
    let result = store
        .guaranteed_update(&key("ns", "a"), UpdateOptions::default(), &mut update)
        .await;
    unknown(result);
    assert_eq!(runs, 1);
    assert_eq!(items(&get(&store, &key("ns", "a")).await), json!(["x"]));
}
