//! Get, list and watch.

use apiserver_registry::{Resource, Verbs};
use apiserver_storage_api::{
    EventKind, FieldSelector, LabelSelector, ListAt, ListOptions, ReadAt, Revision, SelectionPredicate, WatchItem,
    WatchOptions, WatchStart,
};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::common::{Fixture, Rules, Short, machines, refused, widget};

fn fields(selector: &str) -> SelectionPredicate {
    SelectionPredicate::new(LabelSelector::default(), FieldSelector::parse(selector).unwrap())
}

fn select(selector: &str) -> ListOptions {
    ListOptions {
        predicate: fields(selector),
        ..ListOptions::default()
    }
}

// covers: registry/R-GET-01, registry/R-GET-02, registry/R-GET-03, registry/R-GET-04, registry/R-GET-05, registry/R-KEY-03, registry/R-KEY-05, registry/R-KEY-06, registry/R-KEY-08
#[tokio::test]
async fn an_object_is_found_where_it_is_and_nowhere_else() {
    let fixture = Fixture::new().await;
    let store = fixture.store(Rules::default());
    let (here, there) = (fixture.ctx(), fixture.ctx_in(Some("other")));
    let created = store.make(&here, widget("a")).await.unwrap();
    assert_eq!(store.see(&here, "a").await.unwrap(), created);
    refused(
        store.see(&there, "a").await,
        404,
        "NotFound",
        "widgets.example.com \"a\" not found",
    );
    let twin = store.make(&there, widget("a")).await.unwrap();
    assert_ne!(twin["metadata"]["uid"], created["metadata"]["uid"]);
    refused(
        store.see(&here, "").await,
        400,
        "BadRequest",
        "Name parameter required.",
    );
    refused(
        store.see(&here, ".").await,
        400,
        "BadRequest",
        "Name parameter invalid: \".\": may not be '.'",
    );
    let text = "Name parameter invalid: \"/%\": may not contain '/';may not contain '%'";
    refused(store.see(&here, "/%").await, 400, "BadRequest", text);
    refused(
        store.see(&fixture.ctx_in(None), "").await,
        400,
        "BadRequest",
        "Namespace parameter required.",
    );
    let cluster = Fixture::of(machines()).await;
    let store = cluster.store(Rules::default());
    let machine = json!({"apiVersion": "v1", "kind": "Machine", "metadata": {"name": "m"}, "spec": {}});
    let created = store.make(&cluster.ctx_in(None), machine).await.unwrap();
    assert_eq!(store.see(&cluster.ctx(), "m").await.unwrap(), created);
}

// covers: registry/R-GET-06
#[tokio::test]
async fn a_version_of_the_future_is_said_to_be_too_large() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    store.make(&ctx, widget("a")).await.unwrap();
    let error = store
        .get(&ctx, "a", ReadAt::NotOlderThan(Revision::MAX))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.reason()), (504, "Timeout"));
    assert!(
        error
            .message()
            .starts_with("Timeout: Too large resource version: 9223372036854775807, current: ")
    );
    assert_eq!(error.details().unwrap().causes[0].reason, "ResourceVersionTooLarge");
}

// covers: registry/R-LST-01, registry/R-LST-02, registry/R-LST-04, registry/R-LST-05, registry/R-LST-06, registry/R-LST-07, registry/R-LST-09, registry/R-LST-10, registry/R-KEY-01, registry/R-KEY-13
#[tokio::test]
async fn lists_read_only_the_keys_that_can_match() {
    let fixture = Fixture::new().await;
    let store = fixture.store(Rules::default());
    let (here, there, all) = (fixture.ctx(), fixture.ctx_in(Some("other")), fixture.ctx_in(None));
    for (ctx, name) in [(&here, "a"), (&here, "b"), (&there, "a")] {
        let mut object = widget(name);
        object["metadata"]["labels"] = json!({"name": name});
        store.make(ctx, object).await.unwrap();
    }
    let (root, ns, key) = (
        "/example.com/widgets/",
        "/example.com/widgets/ns/",
        "/example.com/widgets/ns/a",
    );
    for (ctx, selector, scope, count) in [
        (&all, "", root, 3),
        (&here, "", ns, 2),
        (&all, "metadata.namespace=ns", ns, 2),
        (&all, "metadata.namespace=none", "/example.com/widgets/none/", 0),
        (&all, "metadata.namespace!=ns", root, 1),
        (&all, "metadata.namespace=a/b", root, 0),
        (&all, "metadata.name=a", root, 2),
        (&all, "metadata.name=a,metadata.namespace=ns", key, 1),
        (&here, "metadata.name=a", key, 1),
        (&here, "metadata.name=a,spec.color=blue", key, 0),
        (&here, "metadata.name=none", "/example.com/widgets/ns/none", 0),
        (&here, "metadata.name!=a", ns, 1),
        (&here, "metadata.name=a/b", ns, 0),
        (&here, "metadata.namespace=other", ns, 0),
        (&here, "spec.color=red", ns, 2),
    ] {
        fixture.storage.scopes.lock().unwrap().clear();
        let list = store
            .list(ctx, select(selector))
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
        assert_eq!(*fixture.storage.scopes.lock().unwrap(), [scope], "{selector}");
        assert_eq!(list.entries.len(), count, "{selector}");
    }
    let labels = LabelSelector::parse("name in (a,none)").unwrap();
    let predicate = SelectionPredicate::new(labels, FieldSelector::default());
    let options = ListOptions {
        predicate,
        ..ListOptions::default()
    };
    assert_eq!(
        store
            .list(&here, options)
            .await
            .unwrap()
            .collect()
            .await
            .unwrap()
            .entries
            .len(),
        1
    );
}

// covers: registry/R-LST-03, registry/R-LST-08
#[tokio::test]
async fn every_page_of_a_list_has_the_same_range() {
    let fixture = Fixture::new().await;
    let store = fixture.store(Rules::default());
    let all = fixture.ctx_in(None);
    for namespace in ["aa", "ns", "zz"] {
        for name in ["a", "b", "c"] {
            store
                .make(&fixture.ctx_in(Some(namespace)), widget(name))
                .await
                .unwrap();
        }
    }
    let mut options = ListOptions {
        limit: std::num::NonZeroU64::new(2),
        ..select("metadata.namespace=ns")
    };
    let first = store
        .list(&all, options.clone())
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    options.at = ListAt::Continue(first.next.unwrap());
    let second = store.list(&all, options).await.unwrap().collect().await.unwrap();
    let names: Vec<_> = first
        .entries
        .iter()
        .chain(&second.entries)
        .map(|entry| entry.key().to_string())
        .collect();
    assert_eq!(
        names,
        ["a", "b", "c"].map(|name| format!("/example.com/widgets/ns/{name}"))
    );
    assert_eq!(second.next, None);
}

// covers: registry/R-WCH-01, registry/R-WCH-02, registry/R-WCH-03, registry/R-WCH-06, registry/R-WCH-09
#[tokio::test]
async fn a_watch_sees_what_it_selects_decorated() {
    let fixture = Fixture::new().await;
    let rules = Rules {
        decorates: true,
        ..Rules::default()
    };
    let (store, ctx) = (fixture.store(rules), fixture.ctx());
    let first = store.make(&ctx, widget("first")).await.unwrap();
    let after: u64 = first["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let start = WatchStart::After(Revision::new(after).unwrap());
    for (selector, scope, seen) in [
        ("metadata.name=a", "/example.com/widgets/ns/a", true),
        ("spec.color=red", "/example.com/widgets/ns/", true),
        ("metadata.name=b", "/example.com/widgets/ns/b", false),
    ] {
        fixture.storage.scopes.lock().unwrap().clear();
        let options = WatchOptions {
            predicate: fields(selector),
            ..WatchOptions::from_start(start)
        };
        let mut watch = store.watch(&ctx, options).await.unwrap();
        assert_eq!(*fixture.storage.scopes.lock().unwrap(), [scope]);
        let name = if seen { "a" } else { "b" };
        if store.see(&ctx, name).await.is_err() {
            store.make(&ctx, widget(name)).await.unwrap();
        }
        let WatchItem::Batch(batch) = watch.next().await.unwrap().unwrap() else {
            panic!("expected a batch")
        };
        assert_eq!(batch.events[0].kind, EventKind::Added);
        let object: Value = batch.events[0].object.as_ref().unwrap().decode().unwrap();
        assert_eq!(
            (
                &object["metadata"]["name"],
                &object["metadata"]["annotations"]["decorated"]
            ),
            (&json!(name), &json!("yes"))
        );
    }
    let options = WatchOptions {
        predicate: fields("metadata.name=a"),
        ..WatchOptions::from_start(start)
    };
    fixture.storage.scopes.lock().unwrap().clear();
    store.watch(&fixture.ctx_in(None), options).await.unwrap();
    assert_eq!(*fixture.storage.scopes.lock().unwrap(), ["/example.com/widgets/"]);
}

// covers: registry/R-MAP-03, registry/R-MAP-05, registry/R-MAP-09, apiserver-http/STAT-14
#[tokio::test]
async fn a_front_offers_only_its_verbs() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let store = fixture.store(Rules::default());
    let narrow = store.with_verbs(Verbs {
        get: true,
        list: true,
        ..Verbs::NONE
    });
    assert_eq!(narrow.verbs().names(), ["get", "list"]);
    assert_eq!(
        Verbs::ALL.names(),
        [
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch"
        ]
    );
    for (result, verb) in [
        (narrow.make(&ctx, widget("a")).await.map(drop), "create"),
        (narrow.put(&ctx, "a", widget("a")).await.map(drop), "update"),
        (narrow.remove(&ctx, "a").await.map(drop), "delete"),
        (narrow.watch(&ctx, WatchOptions::default()).await.map(drop), "watch"),
        (
            narrow
                .delete_collection(&ctx, Default::default(), Default::default())
                .await
                .map(drop),
            "deletecollection",
        ),
    ] {
        let text = format!("{verb} is not supported on resources of kind \"widgets.example.com\"");
        refused(result, 405, "MethodNotAllowed", &text);
    }
    store.make(&ctx, widget("a")).await.unwrap();
    narrow.see(&ctx, "a").await.unwrap();
    assert!(narrow.ready().is_ok());
}
