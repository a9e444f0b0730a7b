//! Update: optimistic locks, immutable metadata, no-ops, contention, create on update, completed deletions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver_registry::{
    Admission, Answer, ApiError, DeleteOptions, ObjectUpdate, Operation, Replace, RequestContext, Resource, Review,
    UpdateOptions,
};
use apiserver_storage_api::{Entry, EventKind, ReadAt, WatchItem, WatchOptions};
use async_trait::async_trait;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::common::{Edit, Fixture, Rules, Short, newer, refused, value, widget};

const MODIFIED: &str = "Operation cannot be fulfilled on widgets.example.com \"a\": the object has been modified; please \
                        apply your changes to the latest version and try again";

// covers: registry/R-UPD-05, registry/R-UPD-06, registry/R-UPD-07, registry/R-UPD-27, registry/R-RTS-02
#[tokio::test]
async fn an_update_stores_what_the_recipe_makes_of_the_stored_object() {
    struct Recipe(Vec<Value>);
    #[async_trait]
    impl ObjectUpdate for Recipe {
        async fn update(&mut self, current: Option<&Entry>) -> Result<Value, ApiError> {
            let mut value: Value = current.unwrap().decode().unwrap();
            self.0.push(value.clone());
            value["spec"]["color"] = json!("blue");
            value["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            Ok(value)
        }
    }
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let created = store.make(&ctx, widget("a")).await.unwrap();
    let mut recipe = Recipe(Vec::new());
    let written = store
        .update(&ctx, "a", &mut recipe, UpdateOptions::default())
        .await
        .unwrap();
    assert!(!written.created);
    assert_eq!(recipe.0, std::slice::from_ref(&created));
    let updated = value(&written.object);
    assert_eq!(updated["spec"]["color"], "blue");
    assert_eq!(updated["metadata"]["generation"], 2);
    newer(&updated, &created);
    assert_eq!(store.see(&ctx, "a").await.unwrap(), updated);
}

// covers: registry/R-UPD-08, registry/R-UPD-10, registry/R-NEW-07, registry/R-NEW-08, apiserver-http/STAT-05
#[tokio::test]
async fn an_old_version_is_a_conflict_and_nonsense_a_bad_request() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let created = store.make(&ctx, widget("a")).await.unwrap();
    store
        .edit(&ctx, "a", |object| object["spec"]["color"] = json!("blue"))
        .await
        .unwrap();
    let error = store.put(&ctx, "a", created.clone()).await.unwrap_err();
    let mismatch = error.mismatch().unwrap();
    assert_eq!(
        mismatch.expected.as_deref(),
        created["metadata"]["resourceVersion"].as_str()
    );
    assert_ne!(mismatch.stored, mismatch.expected);
    refused::<()>(Err(error), 409, "Conflict", MODIFIED);
    let mut nonsense = created;
    nonsense["metadata"]["resourceVersion"] = json!("abc");
    let error = store.put(&ctx, "a", nonsense).await.unwrap_err();
    assert_eq!(error.code(), 400);
}

// covers: registry/R-UPD-09
#[tokio::test]
async fn kinds_may_insist_on_a_version() {
    let fixture = Fixture::new().await;
    let store = fixture.store(Rules {
        version_required: true,
        ..Rules::default()
    });
    let ctx = fixture.ctx();
    store.make(&ctx, widget("a")).await.unwrap();
    refused(
        store.put(&ctx, "a", widget("a")).await,
        422,
        "Invalid",
        "widgets.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update",
    );
}

// covers: registry/R-UPD-02, registry/R-UPD-03
#[tokio::test]
async fn another_uid_is_another_object() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let created = store.make(&ctx, widget("a")).await.unwrap();
    let mut other = created.clone();
    other["metadata"]["uid"] = json!("33333333-3333-4333-8333-333333333333");
    for dry_run in [false, true] {
        let options = UpdateOptions {
            dry_run,
            ..UpdateOptions::default()
        };
        let uid = created["metadata"]["uid"].as_str().unwrap();
        let text = format!(
            "Operation cannot be fulfilled on widgets.example.com \"a\": Precondition failed: UID in precondition: \
             33333333-3333-4333-8333-333333333333, UID in object meta: {uid}"
        );
        let result = store.update(&ctx, "a", &mut Replace(other.clone()), options).await;
        refused(result, 409, "Conflict", &text);
    }
    // A uid that only the recipe brings in is a field that cannot be changed.
    let error = store
        .edit(&ctx, "a", |object| object["metadata"]["uid"] = json!("x"))
        .await
        .unwrap_err();
    assert_eq!(
        error.message(),
        "Widget.example.com \"a\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable"
    );
}

// covers: registry/R-UPD-01, registry/R-UPD-04, registry/R-UPD-05
#[tokio::test]
async fn missing_objects_and_failing_recipes() {
    struct Fails;
    #[async_trait]
    impl ObjectUpdate for Fails {
        async fn update(&mut self, _: Option<&Entry>) -> Result<Value, ApiError> {
            Err(ApiError::generic(418, "Teapot", "no coffee"))
        }
    }
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut known = widget("a");
    known["metadata"]["uid"] = json!("u");
    known["metadata"]["resourceVersion"] = json!("1");
    refused(
        store.put(&ctx, "a", known).await,
        404,
        "NotFound",
        "widgets.example.com \"a\" not found",
    );
    store.make(&ctx, widget("a")).await.unwrap();
    for dry_run in [false, true] {
        let options = UpdateOptions {
            dry_run,
            ..UpdateOptions::default()
        };
        refused(
            store.update(&ctx, "a", &mut Fails, options.clone()).await,
            418,
            "Teapot",
            "no coffee",
        );
        let text = "Name parameter invalid: \"a%b\": may not contain '%'";
        refused(
            store.update(&ctx, "a%b", &mut Fails, options).await,
            400,
            "BadRequest",
            text,
        );
    }
    refused(
        store.put(&ctx, "", widget("a")).await,
        400,
        "BadRequest",
        "Name parameter required.",
    );
    let nowhere = fixture.ctx_in(None);
    refused(
        store.put(&nowhere, "", widget("a")).await,
        400,
        "BadRequest",
        "Namespace parameter required.",
    );
}

// covers: registry/R-UPD-12, registry/R-UPD-13, registry/R-UPD-14, registry/R-UPD-15, registry/R-UPD-16, registry/R-UPD-19, registry/R-UPD-20
#[tokio::test]
async fn what_the_server_owns_survives_an_update() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let created = store.make(&ctx, widget("a")).await.unwrap();
    // A bare body: uid and creation time come back, a sent generation is ignored.
    let mut bare = widget("a");
    bare["metadata"]["generation"] = json!(9);
    bare["metadata"]["creationTimestamp"] = json!("2030-01-01T00:00:00Z");
    bare["metadata"]["labels"] = json!({"x": "y"});
    let updated = value(&store.put(&ctx, "a", bare).await.unwrap().object);
    for field in ["uid", "creationTimestamp", "generation"] {
        assert_eq!(updated["metadata"][field], created["metadata"][field], "{field}");
    }
    // Faults of metadata and of the kind come together.
    let error = store
        .edit(&ctx, "a", |object| {
            object["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
            object["metadata"]["labels"] = json!({"x": "not ok!"});
            object["spec"]["color"] = json!("bad");
        })
        .await
        .unwrap_err();
    let fields: Vec<_> = error
        .details()
        .unwrap()
        .causes
        .iter()
        .map(|cause| cause.field.as_str())
        .collect();
    let want = [
        "metadata.labels",
        "metadata.deletionTimestamp",
        "metadata.labels",
        "spec.color",
    ];
    assert_eq!(fields, want);
    let said = error.message().matches("metadata.labels").count();
    assert_eq!(said, 1, "the message says it once: {error}");
    let mut elsewhere = widget("a");
    elsewhere["metadata"]["namespace"] = json!("other");
    assert_eq!(store.put(&ctx, "a", elsewhere).await.unwrap_err().code(), 400);
    let error = store.put(&ctx, "a", widget("b")).await.unwrap_err();
    assert!(
        error
            .message()
            .ends_with("metadata.name: Invalid value: \"b\": field is immutable"),
        "{error}"
    );
}

// covers: registry/R-UPD-26, registry/R-UPD-22, registry/R-UPD-23
#[tokio::test]
async fn an_update_that_changes_nothing_is_no_write() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut object = widget("a");
    let entry = |time: &str| json!([{"manager": "m", "operation": "Update", "time": time, "fieldsV1": {"f:spec": {}}}]);
    object["metadata"]["managedFields"] = entry("2026-01-01T00:00:00Z");
    let created = store.make(&ctx, object).await.unwrap();
    assert_eq!(store.edit(&ctx, "a", |_| {}).await.unwrap(), created);
    // Only the time of a manager: put back. With another change, the new time stands.
    let later = entry("2026-02-02T00:00:00Z");
    let same = store
        .edit(&ctx, "a", |object| object["metadata"]["managedFields"] = later.clone())
        .await
        .unwrap();
    assert_eq!(same, created);
    let changed = store
        .edit(&ctx, "a", |object| {
            object["metadata"]["managedFields"] = later.clone();
            object["spec"]["color"] = json!("blue");
        })
        .await
        .unwrap();
    assert_eq!(changed["metadata"]["managedFields"], later);
    newer(&changed, &created);
}

// covers: registry/R-UPD-21, registry/R-UPD-32, registry/R-STR-06
#[tokio::test]
async fn warnings_normal_form_and_decoration_are_those_of_a_create() {
    let fixture = Fixture::new().await;
    let rules = Rules {
        decorates: true,
        ..Rules::default()
    };
    let (store, ctx) = (fixture.store(rules), fixture.ctx());
    let created = store.make(&ctx, widget("a")).await.unwrap();
    let loud = |color: &'static str| {
        move |object: &mut Value| {
            object["metadata"]["annotations"] = Value::Null;
            object["spec"]["color"] = json!(color);
        }
    };
    // Nothing changes, and the answer is decorated all the same.
    assert_eq!(store.edit(&ctx, "a", loud("red")).await.unwrap(), created);
    let blue = store.edit(&ctx, "a", loud("BLUE")).await.unwrap();
    assert_eq!(blue["spec"]["color"], "blue");
    store.edit(&ctx, "a", loud("old")).await.unwrap();
    assert_eq!(ctx.take_warnings(), ["spec.color: old is deprecated"]);
    store.edit(&ctx, "a", loud("bad")).await.unwrap_err();
    assert_eq!(ctx.take_warnings(), Vec::<String>::new());
}

// covers: registry/R-RTS-06, registry/R-META-03
#[tokio::test]
async fn objects_that_nobody_gave_a_uid_can_be_changed_and_deleted() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    for name in ["a", "b"] {
        let key = store.storage().resource().object_key(Some("ns"), name).unwrap();
        let mut bare = widget(name);
        bare["metadata"]["namespace"] = json!("ns");
        let bare = apiserver_storage_api::Encoded::of(&bare).unwrap();
        store.storage().create(&key, bare, Default::default()).await.unwrap();
    }
    let changed = store
        .edit(&ctx, "a", |object| object["spec"]["color"] = json!("blue"))
        .await
        .unwrap();
    assert_eq!(changed["metadata"]["uid"], Value::Null);
    assert!(store.remove(&ctx, "a").await.unwrap().is_gone());
    let rest = store
        .delete_collection(&ctx, DeleteOptions::default(), Default::default())
        .await
        .unwrap();
    assert_eq!(rest.entries.len(), 1);
    assert!(store.see(&ctx, "b").await.unwrap_err().is_not_found());
}

// covers: registry/R-STO-14
#[tokio::test]
async fn messages_name_the_resource_that_was_asked_for() {
    let fixture = Fixture::new().await;
    let store = fixture.store(Rules::default());
    let ctx = fixture.ctx().with_resource("other.example.com", "v1", "gadgets", None);
    let text = "gadgets.other.example.com \"a\" not found";
    refused(store.see(&ctx, "a").await, 404, "NotFound", text);
    refused(store.remove(&ctx, "a").await, 404, "NotFound", text);
    refused(store.put(&ctx, "a", widget("a")).await, 404, "NotFound", text);
    store.make(&ctx, widget("a")).await.unwrap();
    let text = "gadgets.other.example.com \"a\" already exists";
    refused(store.make(&ctx, widget("a")).await, 409, "AlreadyExists", text);
}

// covers: registry/R-UPD-28, registry/R-HOOK-05, registry/R-NEW-03
#[tokio::test]
async fn an_update_that_was_overtaken_runs_again_on_the_new_state() {
    let fixture = Fixture::new().await;
    let rules = Rules::default();
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    store.make(&ctx, widget("a")).await.unwrap();
    let (other, other_ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let other = Arc::new((other, other_ctx));
    rules.log.take();
    rules.interfere(move || {
        let other = Arc::clone(&other);
        async move {
            let label = |object: &mut Value| object["metadata"]["labels"] = json!({"by": "other"});
            other.0.edit(&other.1, "a", label).await.unwrap();
        }
    });
    let attempts = AtomicUsize::new(0);
    let updated = store
        .edit(&ctx, "a", |object| {
            attempts.fetch_add(1, Ordering::Relaxed);
            object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            object["spec"]["color"] = json!("blue");
        })
        .await
        .unwrap();
    assert_eq!(attempts.into_inner(), 2);
    assert_eq!(updated["metadata"]["labels"]["by"], "other");
    assert_eq!(updated["spec"]["color"], "blue");
    assert_eq!(
        rules.log.take(),
        ["begin update", "rollback update", "begin update", "commit update"]
    );
}

// covers: registry/R-UPD-28, registry/R-RTS-07
#[tokio::test]
async fn concurrent_updates_lose_nothing() {
    struct Count;
    #[async_trait]
    impl ObjectUpdate for Count {
        async fn update(&mut self, current: Option<&Entry>) -> Result<Value, ApiError> {
            let mut value: Value = current.unwrap().decode().map_err(ApiError::internal)?;
            // Everybody reads before anybody writes.
            tokio::task::yield_now().await;
            let count: u64 = value["spec"]["color"].as_str().unwrap().parse().unwrap();
            value["spec"]["color"] = json!((count + 1).to_string());
            Ok(value)
        }
    }
    let fixture = Fixture::in_real_time().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut object = widget("a");
    object["spec"]["color"] = json!("0");
    store.make(&ctx, object).await.unwrap();
    let added = futures::future::join_all(
        (0..8).map(|_| async { store.update(&ctx, "a", &mut Count, UpdateOptions::default()).await }),
    );
    let added = added.await;
    assert_eq!(added.into_iter().filter(Result::is_ok).count(), 8);
    let counted = store.see(&ctx, "a").await.unwrap();
    assert_eq!(
        (&counted["spec"]["color"], &counted["metadata"]["generation"]),
        (&json!("8"), &json!(9))
    );
}

// covers: registry/R-UPD-34, registry/R-NEW-09, registry/R-RES-12
#[tokio::test]
async fn an_object_that_is_to_expire_still_does_after_an_update() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let mortal = Rules {
        ttl: Some(std::time::Duration::from_secs(60)),
        ..Rules::default()
    };
    fixture.store(mortal).make(&ctx, widget("a")).await.unwrap();
    // Through a front that knows nothing of lifetimes, and through a mark for deletion.
    let store = fixture.store(Rules::default());
    let hold = |object: &mut Value| object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    store.edit(&ctx, "a", hold).await.unwrap();
    store.remove(&ctx, "a").await.unwrap();
    let mut watch = store.watch(&ctx, WatchOptions::default()).await.unwrap();
    fixture.clock.advance(std::time::Duration::from_secs(61));
    loop {
        let WatchItem::Batch(batch) = watch.next().await.unwrap().unwrap() else {
            continue;
        };
        assert_eq!(batch.events[0].kind, EventKind::Deleted);
        break;
    }
    assert!(store.see(&ctx, "a").await.unwrap_err().is_not_found());
}

// covers: registry/R-UPD-29, registry/R-UPD-30, registry/R-UPD-08
#[tokio::test]
async fn a_stale_cache_never_makes_a_wrong_refusal() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    store.make(&ctx, widget("a")).await.unwrap();
    let stale = store.get(&ctx, "a", ReadAt::MostRecent).await.unwrap();
    store.remove(&ctx, "a").await.unwrap();
    let recreated = store.make(&ctx, widget("a")).await.unwrap();
    fixture.storage.suggest(Some(stale));
    let mut changed = recreated;
    changed["spec"]["color"] = json!("blue");
    let updated = value(&store.put(&ctx, "a", changed).await.unwrap().object);
    assert_eq!(updated["spec"]["color"], "blue");
}

// covers: registry/R-UPD-24, registry/R-CRE-15, registry/R-COU-12
#[tokio::test]
async fn admission_has_the_last_word() {
    struct Only(&'static str);
    #[async_trait]
    impl Admission for Only {
        async fn validate(&self, _: &RequestContext, review: Review<'_>) -> Result<(), ApiError> {
            let color = review.object.map(|object| object["spec"]["color"].clone());
            let old = review.old.is_some();
            assert_eq!(old, review.operation != Operation::Create);
            match color {
                Some(color) if color != self.0 => Err(ApiError::forbidden("", "", "", "only one color")),
                _ => Ok(()),
            }
        }
    }
    let fixture = Fixture::new().await;
    let store = fixture.store(Rules::default());
    let ctx = fixture.ctx().with_admission(Arc::new(Only("red")));
    store.make(&ctx, widget("a")).await.unwrap();
    // What admission sees is the normal form.
    let shout = store
        .edit(&ctx, "a", |object| object["spec"]["color"] = json!("RED"))
        .await
        .unwrap();
    assert_eq!(shout["spec"]["color"], "red");
    let blue = |object: &mut Value| object["spec"]["color"] = json!("blue");
    refused(
        store.edit(&ctx, "a", blue).await,
        403,
        "Forbidden",
        "forbidden: only one color",
    );
    let mut other = widget("b");
    blue(&mut other);
    refused(
        store.make(&ctx, other).await,
        403,
        "Forbidden",
        "forbidden: only one color",
    );
    let mut other = widget("b");
    blue(&mut other);
    let forced = UpdateOptions {
        force_create: true,
        ..UpdateOptions::default()
    };
    let made = store.update(&ctx, "b", &mut Replace(other), forced).await;
    refused(made, 403, "Forbidden", "forbidden: only one color");
    assert!(store.see(&ctx, "b").await.unwrap_err().is_not_found());
}

// covers: registry/R-COU-01, registry/R-COU-02, registry/R-COU-03, registry/R-COU-04, registry/R-COU-05, registry/R-COU-06, registry/R-COU-07, registry/R-COU-09, registry/R-COU-14
#[tokio::test]
async fn an_update_creates_what_is_missing_where_that_is_allowed() {
    let fixture = Fixture::new().await;
    let rules = Rules {
        create_on_update: true,
        ..Rules::default()
    };
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    let mut object = widget("a");
    object["metadata"]["resourceVersion"] = json!("77");
    let written = store.put(&ctx, "a", object.clone()).await.unwrap();
    assert!(written.created);
    assert_eq!(rules.log.take(), ["begin create", "commit create"]);
    let created = value(&written.object);
    assert_eq!(created["status"]["phase"], "New");
    object["metadata"]["uid"] = json!("u");
    let error = store.put(&ctx, "b", object.clone()).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (409, "Conflict"));
    // A recipe that brings the uid along: the new object gets one of its own.
    object["metadata"]["name"] = json!("b");
    let mut recipe = Edit(|value: &mut Value| *value = object.clone());
    let written = store
        .update(&ctx, "b", &mut recipe, UpdateOptions::default())
        .await
        .unwrap();
    assert_ne!(value(&written.object)["metadata"]["uid"], "u");
    let strict = fixture.store(Rules::default());
    assert!(strict.put(&ctx, "c", widget("c")).await.unwrap_err().is_not_found());
    let forced = UpdateOptions {
        force_create: true,
        ..UpdateOptions::default()
    };
    assert!(
        strict
            .update(&ctx, "c", &mut Replace(widget("c")), forced.clone())
            .await
            .unwrap()
            .created
    );
    let misnamed = strict
        .update(&ctx, "d", &mut Replace(widget("e")), forced.clone())
        .await;
    let text = "the name of the object (e) does not match the name on the URL (d)";
    refused(misnamed, 400, "BadRequest", text);
    let unnamed = json!({"metadata": {"generateName": "x-"}, "spec": {}});
    let unnamed = strict.update(&ctx, "d", &mut Replace(unnamed), forced).await;
    refused(
        unnamed,
        500,
        "InternalError",
        "Internal error occurred: metadata.name was not generated",
    );
}

// covers: registry/R-COU-11
#[tokio::test]
async fn a_lost_race_to_create_becomes_an_update() {
    let fixture = Fixture::new().await;
    let rules = Rules {
        create_on_update: true,
        ..Rules::default()
    };
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    let other = Arc::new((fixture.store(Rules::default()), fixture.ctx()));
    rules.interfere(move || {
        let other = Arc::clone(&other);
        async move {
            other.0.make(&other.1, widget("a")).await.unwrap();
        }
    });
    let mut blue = widget("a");
    blue["spec"]["color"] = json!("blue");
    let written = store.put(&ctx, "a", blue).await.unwrap();
    assert!(!written.created);
    assert_eq!(value(&written.object)["metadata"]["generation"], 2);
    assert_eq!(
        rules.log.take(),
        ["begin create", "rollback create", "begin update", "commit update"]
    );
}

async fn held(fixture: &Fixture, rules: &Rules) -> (apiserver_registry::Store<crate::common::Widget>, RequestContext) {
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    let mut object = widget("a");
    object["metadata"]["finalizers"] = json!(["example.com/one", "example.com/two"]);
    store.make(&ctx, object).await.unwrap();
    (store, ctx)
}

// covers: registry/R-DDU-01, registry/R-DDU-04, registry/R-DDU-05, registry/R-DDU-06, registry/R-DDU-08, registry/R-DDU-10, registry/R-DDU-12
#[tokio::test]
async fn the_update_that_takes_the_last_finalizer_completes_the_deletion() {
    let fixture = Fixture::new().await;
    let rules = Rules::default();
    let (store, ctx) = held(&fixture, &rules).await;
    // Nobody asked for its deletion: without finalizers it is an ordinary object.
    let finalizers =
        |left: &'static [&'static str]| move |object: &mut Value| object["metadata"]["finalizers"] = json!(left);
    let free = store.edit(&ctx, "a", finalizers(&[])).await.unwrap();
    assert_eq!(store.see(&ctx, "a").await.unwrap(), free);
    store
        .edit(&ctx, "a", finalizers(&["example.com/one", "example.com/two"]))
        .await
        .unwrap();
    store.remove(&ctx, "a").await.unwrap();
    let one = store.edit(&ctx, "a", finalizers(&["example.com/two"])).await.unwrap();
    rules.log.take();
    let mut watch = store.watch(&ctx, WatchOptions::default()).await.unwrap();
    let freed = |object: &mut Value| {
        object["metadata"]["finalizers"] = json!([]);
        object["spec"]["color"] = json!("never");
    };
    let last = store.edit(&ctx, "a", freed).await.unwrap();
    // The answer is the object as it would have been stored, at the version that was.
    assert_eq!(last["metadata"]["finalizers"], Value::Null);
    assert_eq!(last["metadata"]["resourceVersion"], one["metadata"]["resourceVersion"]);
    assert!(store.see(&ctx, "a").await.unwrap_err().is_not_found());
    assert_eq!(rules.log.take(), ["begin update", "rollback update", "after delete"]);
    // Watchers see the state that was stored: the other changes of that update never were.
    let WatchItem::Batch(batch) = watch.next().await.unwrap().unwrap() else {
        panic!("expected a batch");
    };
    assert_eq!(batch.events[0].kind, EventKind::Deleted);
    let seen: Value = batch.events[0].object.as_ref().unwrap().decode().unwrap();
    assert_eq!(
        (&seen["spec"], &seen["metadata"]["finalizers"]),
        (&one["spec"], &one["metadata"]["finalizers"])
    );
}

// covers: registry/R-DDU-02, registry/R-DDU-03
#[tokio::test]
async fn an_invalid_update_completes_nothing() {
    let fixture = Fixture::new().await;
    let (store, ctx) = held(&fixture, &Rules::default()).await;
    store.remove(&ctx, "a").await.unwrap();
    let invalid = |object: &mut Value| {
        object["metadata"]["finalizers"] = json!([]);
        object["spec"]["color"] = json!("bad");
    };
    assert!(store.edit(&ctx, "a", invalid).await.unwrap_err().is_invalid());
    let added = |object: &mut Value| object["metadata"]["finalizers"] = json!(["example.com/three"]);
    let error = store.edit(&ctx, "a", added).await.unwrap_err();
    assert_eq!(
        error.message(),
        "Widget.example.com \"a\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the \
         object is being deleted, found new finalizers []string{\"example.com/three\"}"
    );
    store.see(&ctx, "a").await.unwrap();
}

// covers: registry/R-DDU-07
#[tokio::test]
async fn whoever_takes_the_last_finalizer_second_finds_it_done() {
    let fixture = Fixture::new().await;
    let rules = Rules::default();
    let (store, ctx) = held(&fixture, &rules).await;
    store.remove(&ctx, "a").await.unwrap();
    let other = Arc::new((fixture.store(Rules::default()), fixture.ctx()));
    rules.interfere(move || {
        let other = Arc::clone(&other);
        async move {
            other
                .0
                .edit(&other.1, "a", |object| object["metadata"]["finalizers"] = json!([]))
                .await
                .unwrap();
        }
    });
    store
        .edit(&ctx, "a", |object| object["metadata"]["finalizers"] = json!([]))
        .await
        .unwrap();
}

// covers: registry/R-DDU-09
#[tokio::test]
async fn an_update_does_not_cut_a_grace_period_short() {
    let fixture = Fixture::new().await;
    let (store, ctx) = held(
        &fixture,
        &Rules {
            default_grace: Some(30),
            ..Rules::default()
        },
    )
    .await;
    store.remove(&ctx, "a").await.unwrap();
    store
        .edit(&ctx, "a", |object| object["metadata"]["finalizers"] = json!([]))
        .await
        .unwrap();
    assert_eq!(
        store.see(&ctx, "a").await.unwrap()["metadata"]["deletionGracePeriodSeconds"],
        30
    );
    let deleted = store.delete(&ctx, "a", DeleteOptions::immediate()).await.unwrap();
    assert!(deleted.is_gone());
    assert!(matches!(deleted.answer(), Some(Answer::Stored(_))));
}
