//! Dry runs: everything is checked, the answer is that of the real call, nothing is written.

use std::sync::atomic::Ordering;

use apiserver_registry::{Answer, CreateOptions, DeleteOptions, Deleted, Replace, Resource, UpdateOptions};
use serde_json::{Value, json};

use crate::common::{Edit, Fixture, Rules, Short, last, value, widget};

fn create() -> CreateOptions {
    CreateOptions {
        dry_run: true,
        ..CreateOptions::default()
    }
}

fn update() -> UpdateOptions {
    UpdateOptions {
        dry_run: true,
        ..UpdateOptions::default()
    }
}

fn delete() -> DeleteOptions {
    DeleteOptions {
        dry_run: vec!["All".into()],
        ..DeleteOptions::default()
    }
}

// covers: registry/R-DRY-01, registry/R-DRY-02, registry/R-DRY-03, apiserver-http/RCRE-04
#[tokio::test]
async fn a_create_answers_the_object_without_a_version() {
    let fixture = Fixture::new().await;
    let rules = Rules::default();
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    let written = store.create(&ctx, widget("a"), create()).await.unwrap();
    assert!(written.created);
    assert!(matches!(written.object, Answer::DryRun(_)));
    assert_eq!(rules.log.take(), ["begin create dry", "rollback create"]);
    assert_eq!(fixture.storage.writes.load(Ordering::Relaxed), 0);
    assert!(store.see(&ctx, "a").await.unwrap_err().is_not_found());
    let mut shown = value(&written.object);
    assert_eq!(shown["metadata"]["resourceVersion"], Value::Null);
    let mut real = store.make(&ctx, widget("a")).await.unwrap();
    for object in [&mut shown, &mut real] {
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.retain(|name, _| !matches!(name.as_str(), "resourceVersion" | "uid"));
    }
    assert_eq!(shown, real);
    assert!(
        store
            .create(&ctx, widget("a"), create())
            .await
            .unwrap_err()
            .is_already_exists()
    );
}

// covers: registry/R-DRY-05, registry/R-DRY-10
#[tokio::test]
async fn an_update_answers_the_object_at_the_stored_version() {
    let fixture = Fixture::new().await;
    let rules = Rules {
        create_on_update: true,
        ..Rules::default()
    };
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    let created = store.make(&ctx, widget("a")).await.unwrap();
    let mut blue = Edit(|object: &mut Value| object["spec"]["color"] = json!("blue"));
    let shown = value(&store.update(&ctx, "a", &mut blue, update()).await.unwrap().object);
    assert_eq!(shown["spec"]["color"], "blue");
    assert_eq!(
        shown["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );
    assert_eq!(store.see(&ctx, "a").await.unwrap(), created);
    let written = store
        .update(&ctx, "b", &mut Replace(widget("b")), update())
        .await
        .unwrap();
    assert!(written.created);
    assert_eq!(value(&written.object)["metadata"]["resourceVersion"], Value::Null);
    assert!(store.see(&ctx, "b").await.unwrap_err().is_not_found());
    let strict = fixture.store(Rules::default());
    let missing = strict.update(&ctx, "b", &mut Replace(widget("b")), update()).await;
    assert!(missing.unwrap_err().is_not_found());
}

// covers: registry/R-DRY-06, registry/R-DRY-07, registry/R-HOOK-08, registry/R-NEW-04, apiserver-http/RDEL-09
#[tokio::test]
async fn a_delete_answers_what_would_become_of_the_object() {
    let fixture = Fixture::new().await;
    let rules = Rules::default();
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    assert!(store.delete(&ctx, "a", delete()).await.unwrap_err().is_not_found());
    let mut object = widget("a");
    let created = store.make(&ctx, object.clone()).await.unwrap();
    let deleted = store.delete(&ctx, "a", delete()).await.unwrap();
    assert!(deleted.is_gone());
    assert_eq!(last(&deleted), created);
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    object["metadata"]["name"] = json!("b");
    let held = store.make(&ctx, object).await.unwrap();
    let deleted = store.delete(&ctx, "b", delete()).await.unwrap();
    assert!(matches!(deleted, Deleted::Marked(_)));
    assert_eq!(last(&deleted)["metadata"]["deletionTimestamp"], "2026-11-21T00:00:00Z");
    assert_eq!(
        last(&deleted)["metadata"]["resourceVersion"],
        held["metadata"]["resourceVersion"]
    );
    rules.log.take();
    let graceful = fixture.store(Rules {
        default_grace: Some(30),
        ..rules.clone()
    });
    let deleted = graceful.delete(&ctx, "a", delete()).await.unwrap();
    assert_eq!(last(&deleted)["metadata"]["deletionGracePeriodSeconds"], 30);
    let at_once = DeleteOptions {
        grace_period_seconds: Some(0),
        ..delete()
    };
    let deleted = graceful.delete(&ctx, "a", at_once).await.unwrap();
    assert!(deleted.is_gone());
    assert_eq!(last(&deleted)["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(rules.log.take(), Vec::<String>::new());
    assert_eq!(store.see(&ctx, "a").await.unwrap(), created);
    assert_eq!(store.see(&ctx, "b").await.unwrap(), held);
}

// covers: registry/R-DDU-04, registry/R-DRY-05
#[tokio::test]
async fn an_update_that_would_complete_a_deletion_leaves_the_object() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut object = widget("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    store.make(&ctx, object).await.unwrap();
    store.remove(&ctx, "a").await.unwrap();
    let mut freed = Edit(|object: &mut Value| object["metadata"]["finalizers"] = json!([]));
    let shown = value(&store.update(&ctx, "a", &mut freed, update()).await.unwrap().object);
    assert_eq!(shown["metadata"]["finalizers"], Value::Null);
    let stored = store.see(&ctx, "a").await.unwrap();
    assert_eq!(stored["metadata"]["finalizers"], json!(["example.com/hold"]));
    assert_eq!(
        shown["metadata"]["resourceVersion"],
        stored["metadata"]["resourceVersion"]
    );
}
