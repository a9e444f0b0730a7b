//! Kinds that somebody must stop before they go.

use std::time::Duration;

use apiserver_registry::{DeleteOptions, Deleted, RequestContext, Resource, Store};
use apiserver_storage_api::{EventKind, WatchItem, WatchOptions, WatchStart};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::common::{Fixture, Rules, Short, Widget, last, newer, widget};

fn seconds(grace: i64) -> DeleteOptions {
    DeleteOptions {
        grace_period_seconds: Some(grace),
        ..DeleteOptions::default()
    }
}

async fn graceful() -> (Fixture, Rules, Store<Widget>, RequestContext, Value) {
    let fixture = Fixture::new().await;
    let rules = Rules {
        default_grace: Some(30),
        returns_deleted: true,
        ..Rules::default()
    };
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    let created = store.make(&ctx, widget("a")).await.unwrap();
    rules.log.take();
    (fixture, rules, store, ctx, created)
}

// covers: registry/R-DEL-02, registry/R-DEL-13, registry/R-GRC-13, registry/R-RTS-04
#[tokio::test]
async fn the_object_stays_for_as_long_as_the_kind_gives_it() {
    let (_fixture, rules, store, ctx, created) = graceful().await;
    let deleted = store.remove(&ctx, "a").await.unwrap();
    assert!(matches!(deleted, Deleted::Marked(_)));
    let marked = last(&deleted);
    newer(&marked, &created);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-11-21T00:00:30Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["generation"], 2);
    assert_eq!(store.see(&ctx, "a").await.unwrap(), marked);
    assert_eq!(rules.log.take(), Vec::<String>::new());
}

// covers: registry/R-GRC-06, registry/R-GRC-07, registry/R-GRC-08, registry/R-DEL-07, registry/R-DEL-14, registry/R-DEL-27, registry/R-GC-16
#[tokio::test]
async fn later_requests_shorten_and_never_extend() {
    let (_fixture, rules, store, ctx, _) = graceful().await;
    let grace = |deleted: &Deleted| last(deleted)["metadata"]["deletionGracePeriodSeconds"].clone();
    assert_eq!(grace(&store.delete(&ctx, "a", seconds(100)).await.unwrap()), 100);
    let shorter = store.delete(&ctx, "a", seconds(20)).await.unwrap();
    assert_eq!(grace(&shorter), 20);
    assert_eq!(last(&shorter)["metadata"]["deletionTimestamp"], "2026-11-21T00:00:20Z");
    assert_eq!(last(&shorter)["metadata"]["generation"], 2);
    for mut options in [seconds(50), seconds(20), DeleteOptions::default()] {
        // A pending deletion takes no new policy either.
        options.propagation_policy = Some("Orphan".into());
        let pending = store.delete(&ctx, "a", options).await.unwrap();
        assert!(matches!(pending, Deleted::AlreadyPending(_)));
        assert_eq!(last(&pending), last(&shorter));
    }
    assert_eq!(rules.log.take(), Vec::<String>::new());
}

// covers: registry/R-DEL-13, registry/R-DEL-15, registry/R-DEL-21, registry/R-HOOK-09, registry/R-GRC-13
#[tokio::test]
async fn without_time_left_watchers_see_the_mark_and_then_the_deletion() {
    let (_fixture, rules, store, ctx, created) = graceful().await;
    let watch = WatchOptions::from_start(WatchStart::Now);
    let mut watch = store.watch(&ctx, watch).await.unwrap();
    let version = created["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut options = seconds(0);
    options.preconditions = Some(apiserver_storage_api::Preconditions {
        uid: None,
        resource_version: Some(version),
    });
    let deleted = store.delete(&ctx, "a", options).await.unwrap();
    assert!(deleted.is_gone());
    assert_eq!(last(&deleted)["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(last(&deleted)["metadata"]["generation"], 2);
    assert_eq!(rules.log.take(), ["after delete"]);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let WatchItem::Batch(batch) = watch.next().await.unwrap().unwrap() {
            seen.extend(
                batch
                    .events
                    .iter()
                    .map(|event| (event.kind, event.object.clone().unwrap())),
            );
        }
    }
    assert_eq!((seen[0].0, seen[1].0), (EventKind::Modified, EventKind::Deleted));
    let gone: Value = seen[1].1.decode().unwrap();
    assert_eq!(gone, last(&deleted));
}

// covers: registry/R-DEL-02, registry/R-DEL-28, registry/R-GRC-05
#[tokio::test]
async fn absent_options_and_a_lost_last_step_mean_at_once() {
    let (fixture, _, store, ctx, _) = graceful().await;
    let absent = DeleteOptions {
        absent: true,
        ..DeleteOptions::default()
    };
    assert!(store.delete(&ctx, "a", absent).await.unwrap().is_gone());
    // A mark whose deletion never came: made through a front without grace, with a finalizer that goes away unseen.
    let mut object = widget("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    store.make(&ctx, object).await.unwrap();
    fixture.store(Rules::default()).remove(&ctx, "a").await.unwrap();
    let held = fixture.store(Rules {
        held_by_spec: true,
        ..Rules::default()
    });
    held.edit(&ctx, "a", |object| {
        object["metadata"]["finalizers"] = json!([]);
        object["spec"]["finalizers"] = json!(["kept"]);
    })
    .await
    .unwrap();
    assert!(store.delete(&ctx, "a", seconds(10)).await.unwrap().is_gone());
}

// covers: registry/R-GRC-09
#[tokio::test]
async fn a_deletion_that_ran_late_ends_now() {
    let (fixture, _, store, ctx, _) = graceful().await;
    store.delete(&ctx, "a", seconds(60)).await.unwrap();
    fixture.clock.advance(Duration::from_secs(120));
    let late = last(&store.delete(&ctx, "a", seconds(50)).await.unwrap());
    assert_eq!(late["metadata"]["deletionTimestamp"], "2026-11-21T00:02:00Z");
    assert_eq!(late["metadata"]["deletionGracePeriodSeconds"], 1);
    assert!(store.delete(&ctx, "a", seconds(0)).await.unwrap().is_gone());
}

// covers: registry/R-DEL-13
#[tokio::test]
async fn finalizers_hold_longer_than_grace() {
    let (_fixture, _, store, ctx, _) = graceful().await;
    store
        .edit(&ctx, "a", |object| {
            object["metadata"]["finalizers"] = json!(["example.com/hold"])
        })
        .await
        .unwrap();
    let deleted = store.delete(&ctx, "a", seconds(0)).await.unwrap();
    assert!(matches!(deleted, Deleted::Marked(_)));
    store
        .edit(&ctx, "a", |object| object["metadata"]["finalizers"] = json!([]))
        .await
        .unwrap();
    assert!(store.see(&ctx, "a").await.unwrap_err().is_not_found());
}
