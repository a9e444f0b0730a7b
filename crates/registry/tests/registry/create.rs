//! Create: system metadata, names, namespaces, validation, and what a client is told.

use apiserver_registry::{CreateOptions, Draft, RequestContext, Resource, Strategy};
use apiserver_storage_api::ReadAt;
use serde_json::{Value, json};

use crate::common::{Fixture, Rules, Short, Widget, machines, refused, value, widget, widgets};

// covers: registry/R-CRE-01, registry/R-CRE-18, registry/R-CRE-31, registry/R-CRE-32, registry/R-META-01, registry/R-META-07, registry/R-NEW-06, registry/R-RTS-01
#[tokio::test]
async fn the_server_owns_system_metadata() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut object = widget("a");
    object["metadata"]["uid"] = json!("bad-uid");
    object["metadata"]["creationTimestamp"] = json!("1999-01-01T00:00:00Z");
    object["metadata"]["deletionTimestamp"] = json!("1999-01-01T00:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(5);
    object["metadata"]["selfLink"] = json!("/x");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    object["status"] = json!({"phase": "Mine"});
    let created = store.make(&ctx, object).await.unwrap();
    let metadata = &created["metadata"];
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert_eq!(metadata["creationTimestamp"], "2026-11-21T00:00:00Z");
    for absent in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        assert_eq!(metadata[absent], Value::Null, "{absent}");
    }
    assert_eq!(metadata["namespace"], "ns");
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["finalizers"], json!(["example.com/hold"]));
    assert_eq!(created["status"]["phase"], "New");
    assert_eq!(
        (&created["apiVersion"], &created["kind"]),
        (&json!("example.com/v1"), &json!("Widget"))
    );
    assert_eq!(store.see(&ctx, "a").await.unwrap(), created);
}

// covers: registry/R-CRE-19, registry/R-CRE-20, registry/R-CRE-26, registry/R-GRC-12, apiserver-http/STAT-04
#[tokio::test]
async fn a_taken_name_is_refused_and_says_whether_it_is_on_its_way_out() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut held = widget("a");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    store.make(&ctx, held).await.unwrap();
    let text = "widgets.example.com \"a\" already exists";
    let error = store.make(&ctx, widget("a")).await.unwrap_err();
    let details = error.details().unwrap();
    assert_eq!(
        (details.name.as_str(), details.group.as_str(), details.kind.as_str()),
        ("a", "example.com", "widgets")
    );
    refused::<()>(Err(error), 409, "AlreadyExists", text);
    // A name and the start of one: the name counts, and the text does not speak of generated names.
    let mut both = widget("a");
    both["metadata"]["generateName"] = json!("a-");
    refused(store.make(&ctx, both).await, 409, "AlreadyExists", text);
    store.remove(&ctx, "a").await.unwrap();
    let text = format!("object is being deleted: {text}");
    refused(store.make(&ctx, widget("a")).await, 409, "AlreadyExists", &text);
    for dry_run in [false, true] {
        let options = CreateOptions {
            dry_run,
            ..CreateOptions::default()
        };
        let result = store.create(&ctx, widget("a"), options).await;
        refused(result, 409, "AlreadyExists", &text);
    }
}

fn generated() -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"generateName": "web-"}, "spec": {}})
}

/// The names that a store with this fixture's seed generates.
async fn upcoming_names(count: usize) -> Vec<String> {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut names = Vec::new();
    // A dry run of a create takes as much randomness as a try that meets a taken name.
    for _ in 0..count {
        let options = CreateOptions {
            dry_run: true,
            ..CreateOptions::default()
        };
        let written = store.create(&ctx, generated(), options).await.unwrap();
        names.push(value(&written.object)["metadata"]["name"].as_str().unwrap().to_owned());
    }
    names
}

// covers: registry/R-CRE-02, registry/R-CRE-21, registry/R-CRE-23, registry/R-CRE-25, registry/R-NEW-15, registry/R-STR-08, registry/R-STR-09
#[tokio::test]
async fn a_generated_name_is_tried_eight_times() {
    let names = upcoming_names(8).await;
    for (name, taken) in [("seven taken", 7), ("eight taken", 8)] {
        let fixture = Fixture::new().await;
        let ctx = fixture.ctx();
        let rules = Rules::default();
        let store = fixture.store(rules.clone());
        for name in names.iter().take(taken) {
            // Other randomness, the same storage.
            fixture.store(Rules::default()).make(&ctx, widget(name)).await.unwrap();
        }
        let result = store.make(&ctx, generated()).await;
        assert_eq!(
            rules.log.take().iter().filter(|entry| *entry == "begin create").count(),
            8,
            "{name}"
        );
        if taken == 7 {
            assert_eq!(result.unwrap()["metadata"]["name"], names[7].as_str());
            continue;
        }
        let error = result.unwrap_err();
        assert_eq!(error.retry_after_seconds(), Some(1));
        assert_eq!(error.details().unwrap().causes[0].field, "metadata.generateName");
        let text = format!(
            "widgets.example.com \"{}\" already exists, the server was not able to generate a unique name for the object",
            names[7]
        );
        refused::<()>(Err(error), 409, "AlreadyExists", &text);
    }
}

// covers: registry/R-CRE-08, registry/R-META-04, registry/R-KEY-04
#[tokio::test]
async fn the_namespace_is_that_of_the_request() {
    let fixture = Fixture::new().await;
    let store = fixture.store(Rules::default());
    let mut elsewhere = widget("a");
    elsewhere["metadata"]["namespace"] = json!("other");
    for dry_run in [false, true] {
        let options = CreateOptions {
            dry_run,
            ..CreateOptions::default()
        };
        refused(
            store.create(&fixture.ctx(), elsewhere.clone(), options).await,
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        );
    }
    let here = store.make(&fixture.ctx_in(Some("other")), elsewhere).await.unwrap();
    assert_eq!(here["metadata"]["namespace"], "other");
    refused(
        store.make(&fixture.ctx_in(None), widget("a")).await,
        422,
        "Invalid",
        "Widget.example.com \"a\" is invalid: metadata.namespace: Required value",
    );
}

// covers: registry/R-CRE-09, registry/R-META-05, registry/R-KEY-07
#[tokio::test]
async fn objects_of_the_cluster_have_no_namespace_whatever_is_sent() {
    let fixture = Fixture::of(machines()).await;
    let store = fixture.store(Rules::default());
    for (at, (requested, own)) in [(None, Some("x")), (Some("y"), None), (Some("y"), Some("x"))]
        .into_iter()
        .enumerate()
    {
        let name = format!("m{at}");
        let mut machine = json!({"apiVersion": "v1", "kind": "Machine", "metadata": {"name": name}, "spec": {}});
        if let Some(own) = own {
            machine["metadata"]["namespace"] = json!(own);
        }
        let created = store.make(&fixture.ctx_in(requested), machine).await.unwrap();
        assert_eq!(created["metadata"]["namespace"], Value::Null);
        assert_eq!(store.see(&fixture.ctx_in(None), &name).await.unwrap(), created);
    }
}

// covers: registry/R-CRE-10, registry/R-CRE-11, registry/R-CRE-13, registry/R-STR-06, apiserver-http/STAT-02
#[tokio::test]
async fn faulty_objects_are_refused_with_all_their_faults() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut object = widget("a");
    object["spec"]["color"] = json!("bad");
    object["metadata"]["labels"] = json!({"bad key": ""});
    // The kind's own rules go first; metadata is looked at when they are content.
    let error = store.make(&ctx, object.clone()).await.unwrap_err();
    let details = error.details().unwrap();
    assert_eq!(
        (details.name.as_str(), details.group.as_str(), details.kind.as_str()),
        ("a", "example.com", "Widget")
    );
    assert_eq!(details.causes[0].reason, "FieldValueInvalid");
    assert_eq!(details.causes[0].field, "spec.color");
    assert_eq!(details.causes[0].message, "Invalid value: \"bad\": is no color");
    let text = "Widget.example.com \"a\" is invalid: spec.color: Invalid value: \"bad\": is no color";
    refused::<()>(Err(error), 422, "Invalid", text);
    object["spec"]["color"] = json!("red");
    let error = store.make(&ctx, object).await.unwrap_err();
    assert_eq!(error.details().unwrap().causes[0].field, "metadata.labels");
    refused(
        store.make(&ctx, json!({"metadata": {}, "spec": {}})).await,
        422,
        "Invalid",
        "Widget.example.com \"\" is invalid: metadata.name: Required value: name or generateName is required",
    );
    for (name, faults) in [
        (".", "may not be '.'"),
        ("..", "may not be '..'"),
        ("a/b", "may not contain '/'"),
    ] {
        for dry_run in [false, true] {
            let options = CreateOptions {
                dry_run,
                ..CreateOptions::default()
            };
            let text =
                format!("Widget.example.com \"{name}\" is invalid: metadata.name: Invalid value: \"{name}\": {faults}");
            refused(store.create(&ctx, widget(name), options).await, 422, "Invalid", &text);
        }
    }
}

// covers: registry/R-CRE-27, registry/R-NEW-07, registry/R-DRY-11
#[tokio::test]
async fn a_new_object_has_no_version() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut object = widget("a");
    object["metadata"]["resourceVersion"] = json!("7");
    for dry_run in [false, true] {
        let options = CreateOptions {
            dry_run,
            ..CreateOptions::default()
        };
        refused(
            store.create(&ctx, object.clone(), options).await,
            422,
            "Invalid",
            "Widget.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: \"7\": resourceVersion should \
             not be set on objects to be created",
        );
    }
}

// covers: registry/R-STR-05, registry/R-STR-07, registry/R-CRE-14
#[tokio::test]
async fn warnings_come_beside_the_answer_and_only_for_valid_objects() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    let mut object = widget("a");
    object["spec"]["color"] = json!("old");
    store.make(&ctx, object.clone()).await.unwrap();
    assert_eq!(ctx.take_warnings(), ["spec.color: old is deprecated"]);
    object["metadata"]["name"] = json!("a/b");
    store.make(&ctx, object).await.unwrap_err();
    assert_eq!(ctx.take_warnings(), Vec::<String>::new());
    // What is stored is the normal form.
    let mut loud = widget("b");
    loud["spec"]["color"] = json!("RED");
    assert_eq!(store.make(&ctx, loud).await.unwrap()["spec"]["color"], "red");
}

// covers: registry/R-CRE-17
#[tokio::test]
async fn the_kind_decides_how_long_an_object_lives() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let hour = std::time::Duration::from_secs(3600);
    let rules = Rules {
        ttl: Some(hour),
        ..Rules::default()
    };
    fixture.store(rules).make(&ctx, widget("a")).await.unwrap();
    assert_eq!(fixture.storage.created_with_ttl(), Some(hour));
    fixture.store(Rules::default()).make(&ctx, widget("b")).await.unwrap();
    assert_eq!(fixture.storage.created_with_ttl(), None);
    let rules = Rules {
        ttl_fails: true,
        ..Rules::default()
    };
    let error = fixture.store(rules).make(&ctx, widget("c")).await.unwrap_err();
    assert_eq!(error.message(), "Internal error occurred: no ttl");
    assert!(
        fixture
            .store(Rules::default())
            .see(&ctx, "c")
            .await
            .unwrap_err()
            .is_not_found()
    );
}

// covers: registry/R-CRE-04, apiserver-http/BODY-04
#[tokio::test]
async fn what_is_no_object_of_the_kind_is_a_bad_request() {
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
    for object in [
        json!({"metadata": "none"}),
        json!({"metadata": {"name": 7}}),
        json!({"metadata": {"name": "a"}, "spec": {"color": {}}}),
        json!({"apiVersion": "example.com/v1", "kind": "Other", "metadata": {"name": "a"}, "spec": {}}),
        json!({"apiVersion": "other.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {}}),
        json!(["no", "object"]),
    ] {
        let error = store.make(&ctx, object.clone()).await.unwrap_err();
        assert_eq!((error.code(), error.reason()), (400, "BadRequest"), "{object}: {error}");
    }
}

// covers: registry/R-STR-07
#[test]
fn warnings_are_bounded() {
    let clock = apiserver_storage_api::time::ManualClock::new(std::time::SystemTime::UNIX_EPOCH);
    let ctx = RequestContext::new(std::sync::Arc::new(clock));
    ctx.warn("x".repeat(10_000));
    ctx.warn("x".repeat(10_000));
    for at in 0..1000 {
        ctx.warn(format!("warning {at}"));
    }
    let warnings = ctx.take_warnings();
    assert_eq!(warnings.len(), 64);
    assert_eq!(warnings[0].len(), 256);
    assert_eq!(ctx.take_warnings(), Vec::<String>::new());
}

// covers: registry/R-CRE-16, registry/R-RES-13, registry/R-CRE-06
#[tokio::test]
async fn a_kind_may_name_its_objects_itself() {
    struct Names;
    impl Strategy<Widget> for Names {
        fn prepare_for_create(&self, _: &RequestContext, new: &mut Draft<Widget>) {
            new.meta.name.get_or_insert_with(|| "chosen".into());
        }
    }
    let fixture = Fixture::new().await;
    let (store, ctx) = (fixture.store(Names), fixture.ctx());
    let created = store.make(&ctx, json!({"metadata": {}, "spec": {}})).await.unwrap();
    assert_eq!(created["metadata"]["name"], "chosen");
    assert_eq!(store.see(&ctx, "chosen").await.unwrap(), created);
}

// covers: registry/R-KEY-09, registry/R-KEY-11, registry/R-KEY-02, registry/R-KEY-12
#[tokio::test]
async fn the_key_follows_from_the_object_alone() {
    for (info, namespace) in [(widgets(), Some("ns")), (machines(), None)] {
        let fixture = Fixture::of(info.clone()).await;
        let (store, ctx) = (fixture.store(Rules::default()), fixture.ctx());
        store
            .make(&ctx, json!({"metadata": {"name": "a"}, "spec": {}}))
            .await
            .unwrap();
        let entry = store.get(&ctx, "a", ReadAt::MostRecent).await.unwrap();
        assert_eq!(entry.key(), &info.object_key(namespace, "a").unwrap());
        let list = store
            .list(&ctx, Default::default())
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
        assert_eq!(list.entries[0].key(), entry.key());
    }
    let fixture = Fixture::new().await;
    let store = fixture.store(Rules::default());
    for namespace in ["..", "a/b", "."] {
        let ctx = fixture.ctx_in(Some(namespace));
        assert_eq!(store.see(&ctx, "a").await.unwrap_err().code(), 400, "{namespace}");
        let list = store.list(&ctx, Default::default()).await;
        assert_eq!(list.unwrap_err().code(), 400, "{namespace}");
    }
}
