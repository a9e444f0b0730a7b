//! Fronts on the same objects: status, finalize, and the two-phase deletion of namespaces.

use apiserver_registry::{Deleted, Draft, RequestContext, Resource, Strategy, UpdateOptions, Verbs};
use serde_json::{Value, json};

use crate::common::last;
use crate::common::{Edit, Fixture, Rules, Short, Widget, newer, widget};

/// Only the status may change, and `spec` is said to be reset.
struct StatusRules(Vec<String>);

impl Strategy<Widget> for StatusRules {
    fn prepare_for_update(&self, _: &RequestContext, new: &mut Draft<Widget>, old: &Draft<Widget>) {
        new.object.spec.clone_from(&old.object.spec);
    }

    fn reset_fields(&self) -> &[String] {
        &self.0
    }
}

/// Only `spec.finalizers` may change.
struct FinalizeRules;

impl Strategy<Widget> for FinalizeRules {
    fn prepare_for_update(&self, _: &RequestContext, new: &mut Draft<Widget>, old: &Draft<Widget>) {
        let finalizers = std::mem::take(&mut new.object.spec.finalizers);
        new.object = old.object.clone();
        new.object.spec.finalizers = finalizers;
    }
}

// covers: registry/R-SUB-01, registry/R-SUB-02, registry/R-SUB-03, registry/R-SUB-04, registry/R-COU-13, registry/R-RST-01, registry/R-RST-05, registry/R-STR-12, registry/R-NEW-02, registry/R-NEW-13
#[tokio::test]
async fn status_and_main_front_each_keep_the_share_of_the_other() {
    let fixture = Fixture::new().await;
    let rules = Rules {
        create_on_update: true,
        decorates: true,
        ..Rules::default()
    };
    let (store, ctx) = (fixture.store(rules), fixture.ctx());
    let status = store.status(StatusRules(vec!["spec".into()]));
    assert_eq!(status.subresource_name(), Some("status"));
    assert_eq!(status.verbs().names(), ["get", "patch", "update"]);
    assert_eq!(
        (status.reset_fields(), store.reset_fields()),
        (&["spec".to_owned()][..], &[][..])
    );
    let created = store.make(&ctx, widget("a")).await.unwrap();
    let both = |object: &mut Value| {
        object["spec"]["color"] = json!("blue");
        object["status"]["phase"] = json!("Ready");
    };
    let updated = status.edit(&ctx, "a", both).await.unwrap();
    assert_eq!(
        (&updated["spec"]["color"], &updated["status"]["phase"]),
        (&json!("red"), &json!("Ready"))
    );
    // Decoration belongs to the main front.
    assert_eq!(updated["metadata"]["annotations"], Value::Null);
    newer(&updated, &created);
    let stale = status.put(&ctx, "a", created).await.unwrap_err();
    assert!(stale.is_conflict());
    let main = store
        .edit(&ctx, "a", |object| {
            object["spec"]["color"] = json!("green");
            object["status"]["phase"] = json!("Lost");
        })
        .await
        .unwrap();
    assert_eq!(
        (&main["spec"]["color"], &main["status"]["phase"]),
        (&json!("green"), &json!("Ready"))
    );
    let forced = UpdateOptions {
        force_create: true,
        ..UpdateOptions::default()
    };
    let mut recipe = Edit(|_: &mut Value| {});
    assert!(
        status
            .update(&ctx, "none", &mut recipe, forced)
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(status.remove(&ctx, "a").await.unwrap_err().code(), 405);
    assert_eq!(status.make(&ctx, widget("b")).await.unwrap_err().code(), 405);
}

// covers: registry/R-RES-15, registry/R-DDU-02, registry/R-SUB-08
#[tokio::test]
async fn a_namespace_is_marked_held_and_completed_through_finalize() {
    let fixture = Fixture::new().await;
    let rules = Rules {
        held_by_spec: true,
        ..Rules::default()
    };
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    let finalize = store.subresource("finalize", FinalizeRules).with_verbs(Verbs {
        update: true,
        ..Verbs::NONE
    });
    let mut object = widget("a");
    object["spec"]["finalizers"] = json!(["kubernetes"]);
    let created = store.make(&ctx, object).await.unwrap();
    let deleted = store.remove(&ctx, "a").await.unwrap();
    assert!(matches!(deleted, Deleted::Marked(_)));
    let marked = last(&deleted);
    assert_eq!(marked["status"]["phase"], "Terminating");
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-11-21T00:00:00Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], Value::Null);
    assert_eq!(marked["metadata"]["generation"], created["metadata"]["generation"]);
    // Again: nothing changes, and the answer is the object.
    fixture.clock.advance(std::time::Duration::from_secs(9));
    let again = store.remove(&ctx, "a").await.unwrap();
    assert!(!again.is_gone());
    assert_eq!(last(&again), marked);
    assert_eq!(finalize.see(&ctx, "a").await.unwrap_err().code(), 405);
    // Other updates do not complete it.
    store
        .edit(&ctx, "a", |object| object["metadata"]["labels"] = json!({"x": "y"}))
        .await
        .unwrap();
    rules.log.take();
    finalize
        .edit(&ctx, "a", |object| object["spec"]["finalizers"] = json!([]))
        .await
        .unwrap();
    assert!(store.see(&ctx, "a").await.unwrap_err().is_not_found());
    assert_eq!(rules.log.take(), ["after delete"]);
}
