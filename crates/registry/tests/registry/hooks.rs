//! Guards: told to commit once, after the durable write; otherwise dropped.

use apiserver_registry::Resource;
use apiserver_storage_api::{ReadAt, StorageError};
use serde_json::{Value, json};

use crate::common::{Fixture, Rules, Short, refused, widget};

// covers: registry/R-HOOK-01, registry/R-HOOK-02, registry/R-HOOK-03, registry/R-HOOK-04, registry/R-HOOK-07, registry/R-CRE-03, registry/R-CRE-28, registry/R-UPD-11, registry/R-UPD-33, registry/R-COU-15, registry/R-NEW-03
#[tokio::test]
async fn a_guard_is_committed_only_after_the_write() {
    let fixture = Fixture::new().await;
    let rules = Rules::default();
    let (store, ctx) = (fixture.store(rules.clone()), fixture.ctx());
    store.make(&ctx, widget("a")).await.unwrap();
    assert_eq!(rules.log.take(), ["begin create", "commit create"]);
    store.make(&ctx, widget("a")).await.unwrap_err();
    assert_eq!(rules.log.take(), ["begin create", "rollback create"]);
    let mut bad = widget("b");
    bad["spec"]["color"] = json!("bad");
    store.make(&ctx, bad).await.unwrap_err();
    assert_eq!(rules.log.take(), ["begin create", "rollback create"]);
    store
        .edit(&ctx, "a", |object| object["spec"]["color"] = json!("blue"))
        .await
        .unwrap();
    assert_eq!(rules.log.take(), ["begin update", "commit update"]);
    store
        .edit(&ctx, "a", |object| object["spec"]["color"] = json!("bad"))
        .await
        .unwrap_err();
    // An error on a state that was read for this very update stands at once.
    assert_eq!(rules.log.take(), ["begin update", "rollback update"]);
    let late = fixture.store(Rules {
        ttl_fails: true,
        ..rules.clone()
    });
    late.make(&ctx, widget("c")).await.unwrap_err();
    late.edit(&ctx, "a", |object| object["spec"]["color"] = json!("red"))
        .await
        .unwrap_err();
    assert_eq!(
        rules.log.take(),
        ["begin create", "rollback create", "begin update", "rollback update"]
    );
    let refusing = fixture.store(Rules {
        begin_fails: true,
        ..rules.clone()
    });
    refused(
        refusing.make(&ctx, widget("d")).await,
        403,
        "Forbidden",
        "forbidden: begin says no",
    );
    assert_eq!(rules.log.take(), ["begin create"]);
    fixture.storage.fail(Some(|| StorageError::OutcomeUnknown {
        key: "/secret/key".into(),
        source: "cut".into(),
    }));
    let error = store.make(&ctx, widget("e")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason(), error.retry_after_seconds()),
        (504, "Timeout", None)
    );
    assert!(!error.message().contains("/secret"), "{error}");
    assert_eq!(rules.log.take(), ["begin create", "rollback create"]);
}

// covers: registry/R-HOOK-06, registry/R-CRE-29, registry/R-GET-08
#[tokio::test]
async fn begin_changes_what_is_stored_and_decoration_only_the_answer() {
    let fixture = Fixture::new().await;
    let rules = Rules {
        color_from_begin: Some("green"),
        decorates: true,
        ..Rules::default()
    };
    let (store, ctx) = (fixture.store(rules), fixture.ctx());
    let plain = fixture.store(Rules::default());
    let created = store.make(&ctx, widget("a")).await.unwrap();
    assert_eq!(created["spec"]["color"], "green");
    assert_eq!(created["metadata"]["annotations"]["decorated"], "yes");
    assert_eq!(store.see(&ctx, "a").await.unwrap(), created);
    let stored = plain.see(&ctx, "a").await.unwrap();
    assert_eq!(stored["spec"]["color"], "green");
    assert_eq!(stored["metadata"]["annotations"], Value::Null);
    assert_eq!(
        stored["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );
    let list = store
        .list(&ctx, Default::default())
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let shown: Value = list.entries[0].decode().unwrap();
    assert_eq!(shown, created);
    let entry = store.get(&ctx, "a", ReadAt::Any).await.unwrap();
    assert_eq!(entry.meta().unwrap().annotations["decorated"], "yes");
}

// covers: registry/R-DST-01, registry/R-WCH-05
#[tokio::test]
async fn a_store_is_ready_when_its_storage_is() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    assert!(store.ready().is_ok());
    fixture.storage.fail(Some(|| StorageError::NotReady {
        cause: "filling".into(),
        retry_after: std::time::Duration::from_secs(1),
    }));
    assert_eq!(store.ready().unwrap_err().cause, "filling");
    for error in [
        store.see(&ctx, "a").await.unwrap_err(),
        store.list(&ctx, Default::default()).await.unwrap_err(),
        store.watch(&ctx, Default::default()).await.unwrap_err(),
    ] {
        assert_eq!((error.code(), error.retry_after_seconds()), (429, Some(1)));
    }
}
