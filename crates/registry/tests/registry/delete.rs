//! Delete: at once, held by finalizers, preconditions, propagation, races, unreadable objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver_registry::{
    Admission, ApiError, DeleteBody, DeleteOptions, Deleted, GarbageCollection, RequestContext, Resource, Review,
};
use apiserver_storage_api::{
    Key, KeyPrefix, Preconditions, ReadAt, ResourcePrefix, Revision, Storage, StorageError, UnreadableReason,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::common::{Fixture, Rules, Short, last, newer, refused, widget};

fn held(name: &str) -> Value {
    let mut object = widget(name);
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    object
}

// covers: registry/R-DEL-01, registry/R-DEL-08, registry/R-DEL-18, registry/R-DEL-19, registry/R-DEL-21, registry/R-DEL-22, registry/R-DEL-33, registry/R-NEW-05, apiserver-http/STAT-21
#[tokio::test]
async fn a_plain_object_goes_at_once() {
    let fixture = Fixture::new().await;
    let rules = Rules::default();
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    refused(
        store.remove(&ctx, "a").await,
        404,
        "NotFound",
        "widgets.example.com \"a\" not found",
    );
    let text = "Name parameter invalid: \"..\": may not be '..'";
    refused(store.remove(&ctx, "..").await, 400, "BadRequest", text);
    let created = store.make(&ctx, widget("a")).await.unwrap();
    rules.log.take();
    // A grace period means nothing to a kind that needs none.
    let options = DeleteOptions {
        grace_period_seconds: Some(10),
        ..DeleteOptions::default()
    };
    let before = fixture.storage.writes.load(Ordering::Relaxed);
    let deleted = store.delete(&ctx, "a", options).await.unwrap();
    assert_eq!(fixture.storage.writes.load(Ordering::Relaxed), before + 1);
    assert!(deleted.is_gone());
    newer(&last(&deleted), &created);
    assert_eq!(rules.log.take(), ["after delete"]);
    let DeleteBody::Status(status) = deleted.body(&store, "a").unwrap() else {
        panic!("expected a status")
    };
    let want = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details":
        {"name": "a", "group": "example.com", "kind": "widgets", "uid": created["metadata"]["uid"]}});
    assert_eq!(serde_json::to_value(status).unwrap(), want);
    let shows = fixture.store(Rules {
        returns_deleted: true,
        ..Rules::default()
    });
    shows.make(&ctx, widget("a")).await.unwrap();
    let deleted = shows.remove(&ctx, "a").await.unwrap();
    assert!(matches!(deleted.body(&shows, "a").unwrap(), DeleteBody::Object(_)));
}

// covers: registry/R-DEL-09, registry/R-DEL-11, registry/R-DEL-20, registry/R-DEL-26, registry/R-GC-14, apiserver-http/RDEL-06
#[tokio::test]
async fn finalizers_hold_an_object_and_the_mark_is_set_once() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let created = store.make(&ctx, held("a")).await.unwrap();
    fixture.clock.advance(std::time::Duration::from_secs(60));
    let deleted = store.remove(&ctx, "a").await.unwrap();
    assert!(matches!(deleted, Deleted::Marked(_)));
    assert!(matches!(deleted.body(&store, "a").unwrap(), DeleteBody::Object(_)));
    let marked = last(&deleted);
    newer(&marked, &created);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-11-21T00:01:00Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(marked["metadata"]["generation"], 2);
    assert_eq!(store.see(&ctx, "a").await.unwrap(), marked);
    fixture.clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(last(&store.remove(&ctx, "a").await.unwrap()), marked);
    assert_eq!(store.see(&ctx, "a").await.unwrap(), marked);
}

// covers: registry/R-DEL-04, registry/R-DEL-05, registry/R-DEL-06, registry/R-NEW-08
#[tokio::test]
async fn preconditions_are_checked_on_the_stored_object() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    for object in [widget("a"), held("a")] {
        let created = store.make(&ctx, object).await.unwrap();
        let (uid, version) = (&created["metadata"]["uid"], &created["metadata"]["resourceVersion"]);
        let (uid, version) = (uid.as_str().unwrap(), version.as_str().unwrap());
        for dry_run in [vec![], vec!["All".to_owned()]] {
            let with = |preconditions| DeleteOptions {
                preconditions: Some(preconditions),
                dry_run: dry_run.clone(),
                ..DeleteOptions::default()
            };
            let other = Preconditions {
                uid: Some("u".into()),
                resource_version: None,
            };
            let error = store.delete(&ctx, "a", with(other)).await.unwrap_err();
            assert_eq!(error.mismatch().unwrap().stored.as_deref(), Some(uid));
            assert_eq!(error.details().unwrap().kind, "Widget");
            let text = format!(
                "Operation cannot be fulfilled on Widget.example.com \"a\": the UID in the precondition (u) does not \
                 match the UID in record ({uid}). The object might have been deleted and then recreated"
            );
            refused::<()>(Err(error), 409, "Conflict", &text);
            let old = Preconditions {
                uid: Some(uid.into()),
                resource_version: Some("1".into()),
            };
            let text = format!(
                "Operation cannot be fulfilled on Widget.example.com \"a\": the ResourceVersion in the precondition (1) \
                 does not match the ResourceVersion in record ({version}). The object might have been modified"
            );
            refused(store.delete(&ctx, "a", with(old)).await, 409, "Conflict", &text);
        }
        let right = Preconditions {
            uid: Some(uid.into()),
            resource_version: Some(version.into()),
        };
        let options = DeleteOptions {
            preconditions: Some(right),
            ..DeleteOptions::default()
        };
        store.delete(&ctx, "a", options).await.unwrap();
    }
}

// covers: registry/R-DEL-03, apiserver-http/RDEL-05, apiserver-http/RDEL-10
#[tokio::test]
async fn options_that_contradict_each_other_are_refused() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    for (options, text) in [
        (
            json!({"propagationPolicy": "Sideways"}),
            "propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \
             \"Orphan\", \"nil\"",
        ),
        (
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
        ),
        (
            json!({"dryRun": ["Some"]}),
            "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (
            json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true, "gracePeriodSeconds": 0}),
            "ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: cannot be set together with \
             .gracePeriodSeconds",
        ),
    ] {
        let options: DeleteOptions = serde_json::from_value(options).unwrap();
        let text = format!("DeleteOptions.meta.k8s.io \"\" is invalid: {text}");
        refused(store.delete(&ctx, "a", options.clone()).await, 422, "Invalid", &text);
        refused(
            store.delete_collection(&ctx, options, Default::default()).await,
            422,
            "Invalid",
            &text,
        );
    }
    let wire =
        json!({"gracePeriodSeconds": 5, "preconditions": {"uid": "u"}, "orphanDependents": false, "dryRun": ["All"]});
    let options: DeleteOptions = serde_json::from_value(wire.clone()).unwrap();
    assert!(options.is_dry_run());
    assert_eq!(serde_json::to_value(options).unwrap(), wire);
}

// covers: registry/R-GC-01, registry/R-GC-07, registry/R-GC-10, registry/R-GC-11, registry/R-GC-12, registry/R-DEL-12, registry/R-DEL-16, registry/R-NEW-14
#[tokio::test]
async fn the_propagation_policy_sets_and_clears_its_finalizers() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let with = |policy: &str| DeleteOptions {
        propagation_policy: Some(policy.into()),
        ..DeleteOptions::default()
    };
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        let created = store.make(&ctx, widget("a")).await.unwrap();
        let marked = last(&store.delete(&ctx, "a", with(policy)).await.unwrap());
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        // The policy of a later request takes it away, and its version is still that of the client.
        let version = Some(marked["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
        let mut background = with("Background");
        background.preconditions = Some(Preconditions {
            uid: None,
            resource_version: version,
        });
        let mut dry = background.clone();
        dry.dry_run = vec!["All".into()];
        let shown = store.delete(&ctx, "a", dry).await.unwrap();
        assert!(shown.is_gone());
        assert_eq!(last(&shown)["metadata"]["uid"], created["metadata"]["uid"]);
        assert!(store.delete(&ctx, "a", background).await.unwrap().is_gone());
    }
    let never = fixture.store(Rules {
        garbage_collection: GarbageCollection::Unsupported,
        ..Rules::default()
    });
    never.make(&ctx, widget("a")).await.unwrap();
    assert!(never.delete(&ctx, "a", with("Orphan")).await.unwrap().is_gone());
    let mut options = apiserver_registry::StoreOptions::default();
    options.garbage_collection = false;
    let storage: Arc<dyn Storage> = Arc::clone(&fixture.storage) as _;
    let off = apiserver_registry::Store::builder(storage, Rules::default())
        .options(options)
        .build();
    off.make(&ctx, widget("a")).await.unwrap();
    assert!(off.delete(&ctx, "a", with("Orphan")).await.unwrap().is_gone());
}

/// Counts what it is asked, and refuses deletes of blue objects.
struct NotBlue(AtomicUsize);

#[async_trait]
impl Admission for NotBlue {
    async fn validate(&self, _: &RequestContext, review: Review<'_>) -> Result<(), ApiError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let old: Value = review.old.unwrap().decode().map_err(ApiError::internal)?;
        match old["spec"]["color"] == "blue" {
            true => Err(ApiError::forbidden("example.com", "widgets", "a", "blue stays")),
            false => Ok(()),
        }
    }
}

// covers: registry/R-DEL-10, registry/R-DEL-23, registry/R-DEL-24, registry/R-DEL-25
#[tokio::test]
async fn a_stale_state_never_decides_a_deletion() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    store.make(&ctx, widget("a")).await.unwrap();
    let free = store.get(&ctx, "a", ReadAt::MostRecent).await.unwrap();
    let hold = |object: &mut Value| object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    store.edit(&ctx, "a", hold).await.unwrap();
    fixture.storage.suggest(Some(free.clone()));
    assert!(!store.remove(&ctx, "a").await.unwrap().is_gone());
    // Admission is asked again about the newer object: once for each state.
    let asked = Arc::new(NotBlue(AtomicUsize::new(0)));
    let admitted = fixture.ctx().with_admission(Arc::clone(&asked) as _);
    store.make(&ctx, widget("b")).await.unwrap();
    let red = store.get(&ctx, "b", ReadAt::MostRecent).await.unwrap();
    store
        .edit(&ctx, "b", |object| object["spec"]["color"] = json!("blue"))
        .await
        .unwrap();
    fixture.storage.suggest(Some(red));
    let text = "widgets.example.com \"a\" is forbidden: blue stays";
    refused(store.remove(&admitted, "b").await, 403, "Forbidden", text);
    assert_eq!(asked.0.load(Ordering::Relaxed), 2);
    store.see(&ctx, "b").await.unwrap();
}

// covers: registry/R-UNS-01, registry/R-UNS-02, registry/R-UNS-03, registry/R-UNS-04, registry/R-UNS-05, registry/R-DRY-04
#[tokio::test]
async fn only_an_unreadable_object_can_be_deleted_unread() {
    use apiserver_storage_embedded::kv::{Expected, Kv, Lease};
    let fixture = Fixture::new().await;
    let rules = Rules::default();
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    store.make(&ctx, held("good")).await.unwrap();
    let full = "/registry/example.com/widgets/ns/bad";
    fixture
        .kv
        .put_if(full, "no json".into(), Expected::Absent, Lease::None)
        .await
        .unwrap();
    assert_eq!(store.see(&ctx, "bad").await.unwrap_err().code(), 500);
    assert_eq!(store.remove(&ctx, "bad").await.unwrap_err().code(), 500);
    let dry = apiserver_registry::CreateOptions {
        dry_run: true,
        ..Default::default()
    };
    assert!(
        store
            .create(&ctx, widget("bad"), dry)
            .await
            .unwrap_err()
            .is_already_exists()
    );
    rules.log.take();
    for dry_run in [vec!["All".to_owned()], vec![]] {
        let unread = DeleteOptions {
            ignore_store_read_error: Some(true),
            dry_run: dry_run.clone(),
            ..Default::default()
        };
        assert!(
            store
                .delete(&ctx, "none", unread.clone())
                .await
                .unwrap_err()
                .is_not_found()
        );
        let text = "Widget.example.com \"good\" is invalid: ignoreStoreReadErrorWithClusterBreakingPotential: Invalid \
                    value: true: is exclusively used to delete corrupt object(s), try again by removing this option";
        refused(store.delete(&ctx, "good", unread.clone()).await, 422, "Invalid", text);
        let deleted = store.delete(&ctx, "bad", unread).await.unwrap();
        assert!(matches!(deleted, Deleted::GoneUnreadable));
        let DeleteBody::Status(status) = deleted.body(&store, "bad").unwrap() else {
            panic!("expected a status")
        };
        assert_eq!(status.details.unwrap().kind, "Widget");
    }
    assert!(store.see(&ctx, "bad").await.unwrap_err().is_not_found());
    assert_eq!(rules.log.take(), Vec::<String>::new());
}

// covers: registry/R-LST-15, storage-api/LIST-45, storage-api/LIST-48, registry/R-NEW-12
#[test]
fn a_list_names_each_object_that_nobody_can_read() {
    let info = crate::common::widgets();
    let prefix = ResourcePrefix::new("/example.com/widgets").unwrap();
    KeyPrefix::new(&prefix, "/example.com/widgets/ns/").unwrap();
    let entry = |at: usize| {
        let key = Key::new(&prefix, &format!("/example.com/widgets/ns/w{at}")).unwrap();
        let reason = UnreadableReason::Decode("syntax error".into());
        apiserver_storage_api::Entry::unreadable(key, Revision::MIN, reason)
    };
    let entries: Vec<_> = (0..150).map(entry).collect();
    let error = apiserver_registry::unreadable_entries(&entries, &info).unwrap();
    assert_eq!(
        error.message(),
        "failed to read one or more widgets.example.com from the storage"
    );
    let details = error.details().unwrap();
    assert_eq!((details.name.as_str(), details.causes.len()), ("list", 101));
    assert_eq!(details.causes[0].field, "/example.com/widgets/ns/w0");
    assert_eq!(details.causes[100].reason, "FieldValueTooMany");
    assert!(apiserver_registry::unreadable_entries(&entries[..1], &info).is_some());
    assert!(apiserver_registry::unreadable_entries(&[], &info).is_none());
}

// covers: registry/R-DEL-30, registry/R-ERR-02
#[tokio::test]
async fn an_unreachable_store_is_a_server_timeout() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    fixture
        .storage
        .fail(Some(|| StorageError::Unreachable { source: "down".into() }));
    let text =
        "The delete operation against widgets.example.com could not be completed at this time, please try again.";
    refused(store.remove(&ctx, "a").await, 500, "ServerTimeout", text);
    let dry = apiserver_registry::CreateOptions {
        dry_run: true,
        ..Default::default()
    };
    let error = store.create(&ctx, widget("a"), dry).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.retry_after_seconds()),
        ("ServerTimeout", Some(2))
    );
}
